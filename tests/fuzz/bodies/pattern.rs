//! Any bytes as the pattern of a rule, and as a name: the first line and the rest. How long a
//! search takes is for libFuzzer's -timeout to say.

use carbyne::metric::name::canonical;
use carbyne::schema::{Rules, Source};

/// The rules of a file with one section, whose pattern this is.
fn rules(pattern: &str) -> Option<Rules> {
    // The file's own grammar has a meaning for the percent sign.
    let pattern = pattern.replace('%', "%%");
    let text = format!("[it]\npattern = {pattern}\nretentions = 1:1\n");
    let source = Source { file: "s.conf", text: &text };
    match Rules::parse(&source, None) {
        Ok((rules, _)) => Some(rules),
        Err(error) => {
            let error = error.to_string();
            assert!(error.starts_with("s.conf:"), "{error}");
            assert!(!error.chars().any(char::is_control), "one line: {error:?}");
            None
        }
    }
}

/// The pattern that finds this name and no other, as Python's `re.escape` makes it.
fn of_itself(name: &str) -> String {
    let mut pattern = "^".to_owned();
    for c in name.chars() {
        if c.is_ascii() && !c.is_ascii_alphanumeric() {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    pattern + "$"
}

/// One input.
pub(crate) fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (pattern, name) = text.split_once('\n').unwrap_or((&text, "servers.web1.cpu"));
    let mut scratch = Vec::new();
    let Ok(name) = canonical(name.as_bytes(), &mut scratch) else { return };
    let Ok(name) = std::str::from_utf8(name) else { return };
    if let Some(rules) = rules(&pattern.replace('\r', "")) {
        let found = rules.resolve(name);
        assert_eq!(found.schema == "it", found.is_listed);
        assert!(found.gave_up.is_none() || !found.is_listed, "giving up is no match");
        assert_eq!(found, rules.resolve(name), "a search comes to the same again");
    }
    if !name.chars().any(char::is_control) {
        let rules = rules(&of_itself(name)).expect("an escaped name is a pattern");
        assert!(rules.resolve(name).is_listed, "{name:?} is found by itself");
        assert!(!rules.resolve(&format!("{name}x")).is_listed, "and by nothing else");
    }
}
