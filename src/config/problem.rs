//! What a configuration file has to be told: errors that stop the start and notices that do not.

use std::fmt;

/// Where in the configuration something was found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Place {
    /// The file, as it was named.
    pub file: String,
    /// The line, counted from 1.
    pub line: Option<usize>,
    /// The section, empty outside of any.
    pub section: String,
    /// The key, empty when the section as a whole is meant.
    pub key: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        f.write_str(":")?;
        if !self.section.is_empty() {
            write!(f, " [{}]", self.section)?;
        }
        if !self.key.is_empty() {
            write!(f, " {}", self.key)?;
        }
        if !self.section.is_empty() || !self.key.is_empty() {
            f.write_str(":")?;
        }
        Ok(())
    }
}

/// Something in the file that cannot be honoured; the node does not start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// Where it stands.
    pub place: Place,
    /// What is wrong.
    pub problem: String,
    /// What was probably meant.
    pub suggestion: Option<String>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ConfigError { place, problem, suggestion } = self;
        f.write_str(&printable(format!("{place} {problem}")))?;
        match suggestion {
            Some(suggestion) => write!(f, "; did you mean `{suggestion}`?"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for ConfigError {}

/// Something in the file that is accepted and has less effect than its author may think.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// Where it stands.
    pub place: Place,
    /// What happens instead.
    pub text: String,
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&printable(format!("{} {}", self.place, self.text)))
    }
}

/// The text as one line that a terminal only shows: a name in quotes may hold any character.
fn printable(text: String) -> String {
    text.replace(char::is_control, " ")
}

/// Similarity from which a name is offered as what was meant. "wisper" scores 0.96 against
/// "whisper" and "max-creates" 0.90 against "max-creates-per-second"; unrelated keys of one
/// section stay below 0.8.
const SIMILARITY_MIN: f64 = 0.82;

/// The known name most like this one, if one is like it at all. Case, and "_" for "-", are
/// slips like any other.
pub(crate) fn nearest<'a>(
    wrong: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    // Longer than any key we have: comparing costs the product of the lengths.
    if wrong.len() > 64 {
        return None;
    }
    let wrong = wrong.to_ascii_lowercase().replace('_', "-");
    let score = |name: &str| strsim::jaro_winkler(&wrong, &name.to_ascii_lowercase());
    known
        .into_iter()
        .map(|name| (score(name), name))
        .filter(|(score, _)| *score >= SIMILARITY_MIN)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name)
}
