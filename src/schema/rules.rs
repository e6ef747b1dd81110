//! The rules of both files, and the rule that applies to a name.
//!
//! Sections become rules in file order, whatever their `priority`; the first whose pattern is
//! found in the name decides. A section is skipped with a notice, or the file is refused, exactly
//! where carbon does one or the other; two things are stricter: a step or a count of zero skips
//! the section, and a pattern may be refused that Python would take (see `pattern`).

use super::ini::{self, Entry, Section};
use super::pattern::{Pattern, Room, Search};
use super::retention::{read_as_carbon, read_as_go_carbon};
use super::{Notice, Place, SchemaError, Source};
use crate::metric::series::{Aggregation, Retention, SeriesSpec, check_archives};

/// What new files look like, by name of their metric. Without rules everything gets the default.
#[derive(Debug, Default)]
pub struct Rules {
    schemas: Vec<SchemaRule>,
    aggregations: Vec<AggregationRule>,
}

const _: () = {
    const fn is_shared_between_threads<T: Send + Sync>() {}
    is_shared_between_threads::<Rules>();
};

/// What the rules make of a name.
#[derive(Debug, Clone, PartialEq)]
pub struct Resolved<'a> {
    /// What the new file looks like.
    pub spec: SeriesSpec,
    /// A section of storage-schemas.conf matched; otherwise the archives are carbon's default.
    pub is_listed: bool,
    /// Section of storage-schemas.conf that decided; `default` if none did.
    pub schema: &'a str,
    /// Section of storage-aggregation.conf that decided; `default` if none did.
    pub aggregation: &'a str,
    /// Section whose pattern ran into the backtracking limit on this name, and so counted as no
    /// match: the file may look other than its author meant. To be counted and named.
    pub gave_up: Option<&'a str>,
}

/// Name of the rule that applies when no section does.
const IMPLICIT_RULE: &str = "default";

/// carbon's archive for names that no section matches: a week of minutes.
const IMPLICIT_RETENTION: Retention = Retention { step_s: 60, slot_count: 7 * 24 * 60 };

/// whisper's xFilesFactor where none is set.
const X_FILES_FACTOR_DEFAULT: f32 = 0.5;

/// Most notices about both files; the last one says that there are more. A file of odd lines would
/// otherwise take twenty times its length, in memory and then in the log.
const NOTICES_MAX: usize = 1_000;

#[derive(Debug)]
struct SchemaRule {
    section: String,
    pattern: Pattern,
    /// In ascending step order, valid for a file.
    retentions: Vec<Retention>,
}

#[derive(Debug)]
struct AggregationRule {
    section: String,
    pattern: Pattern,
    x_files_factor: Option<f32>,
    method: Option<Aggregation>,
}

impl Rules {
    /// Reads storage-schemas.conf and, if there is one, storage-aggregation.conf.
    ///
    /// # Errors
    /// The first thing on which carbon would exit or keep its former rules.
    pub fn parse(
        schemas: &Source<'_>,
        aggregation: Option<&Source<'_>>,
    ) -> Result<(Rules, Vec<Notice>), SchemaError> {
        let mut notices = Vec::new();
        let schemas = read_schemas(&mut File::new(schemas, &mut notices))?;
        let aggregations = match aggregation {
            Some(source) => read_aggregations(&mut File::new(source, &mut notices))?,
            None => Vec::new(),
        };
        Ok((Rules { schemas, aggregations }, notices))
    }

    /// What a new file of this metric looks like; the name is in canonical form.
    pub fn resolve(&self, name: &str) -> Resolved<'_> {
        let mut gave_up = None;
        let schema = self
            .schemas
            .iter()
            .find(|rule| is_found(&rule.pattern, name, &rule.section, &mut gave_up));
        let aggregation = self
            .aggregations
            .iter()
            .find(|rule| is_found(&rule.pattern, name, &rule.section, &mut gave_up));
        Resolved {
            spec: SeriesSpec {
                retentions: schema
                    .map_or_else(|| vec![IMPLICIT_RETENTION], |rule| rule.retentions.clone()),
                x_files_factor: aggregation
                    .and_then(|rule| rule.x_files_factor)
                    .unwrap_or(X_FILES_FACTOR_DEFAULT),
                aggregation: aggregation
                    .and_then(|rule| rule.method)
                    .unwrap_or(Aggregation::Average),
            },
            is_listed: schema.is_some(),
            schema: schema.map_or(IMPLICIT_RULE, |rule| &rule.section),
            aggregation: aggregation.map_or(IMPLICIT_RULE, |rule| &rule.section),
            gave_up,
        }
    }
}

fn is_found<'a>(
    pattern: &Pattern,
    name: &str,
    section: &'a str,
    gave_up: &mut Option<&'a str>,
) -> bool {
    let search = pattern.search(name);
    if search == Search::GaveUp {
        gave_up.get_or_insert(section);
    }
    search == Search::Found
}

/// A file being parsed, and the notices about it.
struct File<'a> {
    source: &'a Source<'a>,
    notices: &'a mut Vec<Notice>,
    room: Room,
}

impl<'a> File<'a> {
    fn new(source: &'a Source<'a>, notices: &'a mut Vec<Notice>) -> File<'a> {
        File { source, notices, room: Room::default() }
    }

    fn place(&self, section: &Section, entry: Option<&Entry>) -> Place {
        Place {
            file: self.source.file.to_string(),
            line: entry.map_or(section.line, |entry| entry.line),
            section: section.name.clone(),
            key: entry.map_or_else(String::new, |entry| entry.key.clone()),
        }
    }

    fn notice(&mut self, section: &Section, entry: Option<&Entry>, reason: impl Into<String>) {
        let reason = match self.notices.len() {
            NOTICES_MAX.. => return,
            count if count + 1 == NOTICES_MAX => "further notices are left out".to_owned(),
            _ => reason.into(),
        };
        let notice = Notice { place: self.place(section, entry), reason };
        self.notices.push(notice);
    }

    fn error(&self, section: &Section, entry: &Entry, reason: impl Into<String>) -> SchemaError {
        SchemaError { place: self.place(section, Some(entry)), reason: reason.into() }
    }

    /// The sections that carbon looks at.
    fn sections(&mut self) -> Result<Vec<Section>, SchemaError> {
        let (listed, unlisted): (Vec<Section>, Vec<Section>) =
            ini::parse(self.source)?.into_iter().partition(|section| section.is_listed);
        for section in unlisted {
            self.notice(&section, None, "skipped: text follows the ] of the section");
        }
        Ok(listed)
    }

    /// Tells of keys that have no effect here.
    fn notice_keys(&mut self, section: &Section, known: &[&str], of_go_carbon: &[&str]) {
        for entry in section.entries.iter().filter(|entry| !entry.is_inherited) {
            let key = entry.key.as_str();
            if of_go_carbon.contains(&key) {
                self.notice(section, Some(entry), "a key of go-carbon that has no effect here");
            } else if !known.contains(&key) && !section.is_default() {
                let reason = format!("unknown key, no effect; known are {}", known.join(", "));
                self.notice(section, Some(entry), reason);
            }
        }
    }

    /// The compiled pattern of a section; nothing, with a notice, if it has none.
    fn pattern(&mut self, section: &Section) -> Result<Option<Pattern>, SchemaError> {
        let Some(entry) = section.get("pattern").filter(|entry| !entry.value.is_empty()) else {
            // [DEFAULT] is there to give others its keys.
            if !section.is_default() {
                self.notice(section, section.get("pattern"), "skipped: no pattern");
            }
            return Ok(None);
        };
        if entry.value.starts_with(['"', '\'']) && entry.value.ends_with(['"', '\'']) {
            let reason = "the quotes are part of the pattern; go-carbon strips them";
            self.notice(section, Some(entry), reason);
        }
        let pattern = Pattern::compile(&entry.value, &mut self.room).map_err(|reason| {
            self.error(section, entry, format!("bad regular expression: {reason}"))
        })?;
        Ok(Some(pattern))
    }
}

fn read_schemas(file: &mut File<'_>) -> Result<Vec<SchemaRule>, SchemaError> {
    let mut rules = Vec::new();
    let mut priorities = Vec::new();
    for section in file.sections()? {
        file.notice_keys(
            &section,
            &["pattern", "retentions", "priority"],
            &["compressed", "migration"],
        );
        let Some(entry) = section.get("retentions") else {
            if !section.is_default() {
                file.notice(&section, None, "skipped: no retentions");
            }
            continue;
        };
        let mut retentions = read_retentions(file, &section, entry)?;
        let Some(pattern) = file.pattern(&section)? else {
            continue;
        };
        retentions.sort_by_key(|retention| retention.step_s);
        if let Err(error) = check_archives(&retentions) {
            let reason = format!("skipped: {}", error);
            file.notice(&section, Some(entry), reason);
            continue;
        }
        priorities.push(read_priority(file, &section));
        rules.push((SchemaRule { section: section.name.clone(), pattern, retentions }, section));
    }
    notice_order(file, &rules, &priorities);
    Ok(rules.into_iter().map(|(rule, _)| rule).collect())
}

/// carbon's reading of a list of retentions, with a notice where go-carbon's is another.
fn read_retentions(
    file: &mut File<'_>,
    section: &Section,
    entry: &Entry,
) -> Result<Vec<Retention>, SchemaError> {
    let mut retentions = Vec::new();
    for text in entry.value.split(',') {
        let text = text.trim();
        let other = read_as_go_carbon(text);
        let retention = read_as_carbon(text).map_err(|error| {
            let mut reason = format!("bad retention \"{text}\": {error}");
            if let Some((step_s, slot_count)) = other {
                reason += &format!("; go-carbon reads {slot_count} points of {step_s} s");
            }
            file.error(section, entry, reason)
        })?;
        let Retention { step_s, slot_count } = retention;
        match other {
            Some(other) if other == (i64::from(step_s), i64::from(slot_count)) => {}
            Some((go_step_s, go_slot_count)) => file.notice(
                section,
                Some(entry),
                format!(
                    "\"{text}\" is {slot_count} points of {step_s} s, as carbon reads it; \
                     go-carbon reads {go_slot_count} points of {go_step_s} s"
                ),
            ),
            None => file.notice(
                section,
                Some(entry),
                format!("\"{text}\" is understood as carbon does; go-carbon refuses it"),
            ),
        }
        retentions.push(retention);
    }
    Ok(retentions)
}

/// go-carbon's priority of a section.
fn read_priority(file: &mut File<'_>, section: &Section) -> i64 {
    let Some(entry) = section.get("priority") else {
        return 0;
    };
    entry.value.parse().unwrap_or_else(|_| {
        file.notice(section, Some(entry), "not a number, ignored; go-carbon refuses it");
        0
    })
}

/// Tells, once, if go-carbon would try the sections in another order.
fn notice_order(file: &mut File<'_>, rules: &[(SchemaRule, Section)], priorities: &[i64]) {
    let mut order: Vec<usize> = (0..rules.len()).collect();
    order.sort_by_key(|&index| std::cmp::Reverse(priorities[index]));
    let Some((place, &index)) = order.iter().enumerate().find(|(place, index)| place != *index)
    else {
        return;
    };
    let (section, before) = (&rules[index].1, &rules[place].1.name);
    let reason = format!(
        "ignored: sections are tried in the order of the file, as carbon does; go-carbon would \
         try [{}] before [{before}]",
        section.name
    );
    file.notice(section, section.get("priority"), reason);
}

fn read_aggregations(file: &mut File<'_>) -> Result<Vec<AggregationRule>, SchemaError> {
    let mut rules = Vec::new();
    for section in file.sections()? {
        file.notice_keys(
            &section,
            &["pattern", "xfilesfactor", "aggregationmethod", "priority"],
            &["xffmigration", "aggregationmethodmigration"],
        );
        let x_files_factor = match section.get("xfilesfactor") {
            None => None,
            Some(entry) => match entry.value.parse::<f64>() {
                Ok(factor) => Some(checked_factor(file, &section, entry, factor)?),
                Err(_) => {
                    file.notice(&section, Some(entry), "skipped: not a number");
                    continue;
                }
            },
        };
        let method = match section.get("aggregationmethod") {
            None => None,
            Some(entry) => Some(read_method(file, &section, entry)?),
        };
        if let Some(pattern) = file.pattern(&section)? {
            let section = section.name;
            rules.push(AggregationRule { section, pattern, x_files_factor, method });
        }
    }
    Ok(rules)
}

/// The factor as a file stores it.
#[expect(
    clippy::cast_possible_truncation,
    reason = "rounding to the nearest f32 is what a file does to the factor"
)]
fn checked_factor(
    file: &File<'_>,
    section: &Section,
    entry: &Entry,
    factor: f64,
) -> Result<f32, SchemaError> {
    if (0.0..=1.0).contains(&factor) {
        Ok(factor as f32)
    } else {
        Err(file.error(section, entry, format!("{factor} is not between 0 and 1")))
    }
}

fn read_method(
    file: &File<'_>,
    section: &Section,
    entry: &Entry,
) -> Result<Aggregation, SchemaError> {
    let text = entry.value.as_str();
    Aggregation::from_name(text).ok_or_else(|| {
        let mut reason = format!("unknown aggregation method \"{text}\"");
        if let Some(method) = similar_method(text) {
            reason += &format!("; did you mean {}?", method.name());
        }
        let names: Vec<&str> = Aggregation::ALL.into_iter().map(Aggregation::name).collect();
        reason += &format!(" known are {}", names.join(", "));
        file.error(section, entry, reason)
    })
}

/// The method that a wrong name most likely means: go-carbon's `avg`, another case, a slip.
fn similar_method(text: &str) -> Option<Aggregation> {
    /// Agreement from which a name counts as mistyped: `averge` has 0.97, and `first`, which
    /// whisper does not know, stays below with all methods.
    const SIMILARITY_MIN: f64 = 0.85;
    let text = text.to_lowercase();
    if text == "avg" {
        return Some(Aggregation::Average);
    }
    Aggregation::ALL
        .into_iter()
        .map(|method| (strsim::jaro_winkler(method.name(), &text), method))
        .filter(|(similarity, _)| *similarity >= SIMILARITY_MIN)
        .max_by(|(left, _), (right, _)| left.total_cmp(right))
        .map(|(_, method)| method)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(schemas: &str, aggregation: &str) -> Result<(Rules, Vec<String>), String> {
        let schemas = Source { file: "s.conf", text: schemas };
        let aggregation = Source { file: "a.conf", text: aggregation };
        let (rules, notices) =
            Rules::parse(&schemas, Some(&aggregation)).map_err(|error| error.to_string())?;
        Ok((rules, notices.iter().map(ToString::to_string).collect()))
    }

    fn check_notices(schemas: &str, aggregation: &str, want: &[&str]) {
        assert_eq!(parse(schemas, aggregation).unwrap().1, want, "{schemas}{aggregation}");
    }

    fn check_error(schemas: &str, aggregation: &str, want: &str) {
        let got = parse(schemas, aggregation).map(|(_, notices)| notices);
        assert_eq!(got, Err(want.to_string()), "{schemas}{aggregation}");
    }

    #[test]
    fn both_files_decide() {
        let (rules, notices) = parse(
            "[web]\npattern = ^web\\.\nretentions = 1h:1y, 10s:1d\n\
             [rest]\npattern=\\.\nretentions=1:2",
            "[count]\npattern = \\.count$\nxFilesFactor = 0.1\naggregationMethod = sum\n",
        )
        .unwrap();
        assert_eq!(notices, [""; 0]);
        let retention = |step_s, slot_count| Retention { step_s, slot_count };
        let got = rules.resolve("web.a.count");
        let retentions = vec![retention(10, 8640), retention(3600, 8760)];
        let aggregation = Aggregation::Sum;
        let spec = SeriesSpec { retentions, x_files_factor: 0.1, aggregation };
        let want =
            Resolved { spec, is_listed: true, schema: "web", aggregation: "count", gave_up: None };
        assert_eq!(got, want);
        let got = rules.resolve("db");
        let retentions = vec![retention(60, 10_080)];
        let aggregation = Aggregation::Average;
        let spec = SeriesSpec { retentions, x_files_factor: 0.5, aggregation };
        let want = Resolved {
            spec,
            is_listed: false,
            schema: "default",
            aggregation: "default",
            gave_up: None,
        };
        assert_eq!(got, want);
        assert_eq!(rules.resolve("db.a").schema, "rest");
        assert_eq!(Rules::default().resolve("db"), want);
    }

    #[test]
    fn a_pattern_that_gives_up_is_named() {
        let (rules, _) = parse(
            "[x]\npattern=^(?=(a|aa)+\\1$)\nretentions=1:1\n[y]\npattern=a\nretentions=1:2",
            "",
        )
        .unwrap();
        let name = "a".repeat(60) + "b";
        let got = rules.resolve(&name);
        assert_eq!((got.schema, got.gave_up), ("y", Some("x")));
        assert_eq!(rules.resolve("aaa").gave_up, None);
    }

    #[test]
    fn notices() {
        let rest = "pattern=.\nretentions=1:2\n";
        check_notices(
            "[a]\nretentions=60s:1440\npattern=x\n",
            "",
            &["s.conf:2: [a] retentions: \"60s:1440\" is 1440 points of 60 s, as carbon reads \
                 it; go-carbon reads 24 points of 60 s"],
        );
        check_notices("[a]\npattern=x\n", "", &["s.conf:1: [a] skipped: no retentions"]);
        check_notices("[a]\nretentions=1:1\n", "", &["s.conf:1: [a] skipped: no pattern"]);
        check_notices(
            "[a] b\npattern=x\n",
            "",
            &["s.conf:1: [a] skipped: text follows the ] of the section"],
        );
        check_notices(
            "[a]\npattern=\nretentions=1:1\n",
            "",
            &["s.conf:2: [a] pattern: skipped: no pattern"],
        );
        check_notices(
            "[a]\npattern=x\nretentions=60:10,90:20\n",
            "",
            &["s.conf:3: [a] retentions: skipped: the step of an archive is no multiple of the \
                 step of the finer one"],
        );
        check_notices(
            &format!("[a]\ncompressed=true\nMigration=x\n{rest}"),
            "",
            &[
                "s.conf:2: [a] compressed: a key of go-carbon that has no effect here",
                "s.conf:3: [a] migration: a key of go-carbon that has no effect here",
            ],
        );
        check_notices(
            &format!("[a]\nretension=1:1\n{rest}"),
            "",
            &["s.conf:2: [a] retension: unknown key, no effect; known are pattern, retentions, \
             priority"],
        );
        check_notices(
            "[a]\npattern=\"x\"\nretentions=1:1\n",
            "",
            &["s.conf:2: [a] pattern: the quotes are part of the pattern; go-carbon strips them"],
        );
        check_notices(
            "",
            "[a]\npattern=x\nxFilesFactor=half\n[b]\naggregationMethod=sum\n",
            &[
                "a.conf:3: [a] xfilesfactor: skipped: not a number",
                "a.conf:4: [b] skipped: no pattern",
            ],
        );
        check_notices("[DEFAULT]\nd=1d\n[a]\npattern=x\nretentions=1s:%(d)s\n", "", &[]);
    }

    #[test]
    fn notices_are_counted_out() {
        let text = "[a]\nretentions=60s:1440,".to_owned() + &"60s:1440,".repeat(2_000) + "1:1\n";
        let (_, notices) = parse(&text, &text).unwrap();
        assert_eq!(notices.len(), NOTICES_MAX);
        let last = "s.conf:2: [a] retentions: further notices are left out";
        assert_eq!(notices[NOTICES_MAX - 1], last);
    }

    #[test]
    fn priorities() {
        let section = |name: &str, priority: &str| {
            format!("[{name}]\n{priority}\npattern=x\nretentions=1:1\n")
        };
        let check = |first: &str, second: &str, want: &[&str]| {
            let third = section("c", "priority=-1");
            check_notices(&(section("a", first) + &section("b", second) + &third), "", want);
        };
        check("", "", &[]);
        check("priority=2", "priority=1", &[]);
        check("priority=1", "priority=1", &[]);
        let ignored = "ignored: sections are tried in the order of the file, as carbon does; \
             go-carbon would try [b] before [a]";
        check("", "priority=1", &[&format!("s.conf:6: [b] priority: {ignored}")]);
        check("priority=-1", "", &[&format!("s.conf:5: [b] {ignored}")]);
        check(
            "priority=x",
            "",
            &["s.conf:2: [a] priority: not a number, ignored; go-carbon refuses it"],
        );
    }

    #[test]
    fn errors() {
        check_error(
            "[a]\npattern=x\nretentions=10sm:1d\n",
            "",
            "s.conf:3: [a] retentions: bad retention \"10sm:1d\": the unit must be one letter of \
             s, m, h, d, w, y; go-carbon reads 8640 points of 10 s",
        );
        check_error(
            "[a]\npattern=(\nretentions=1:1,\n",
            "",
            "s.conf:3: [a] retentions: bad retention \"\": must be two parts with one colon \
             between",
        );
        check_error(
            "[a]\npattern=*\nretentions=1:1\n",
            "",
            "s.conf:2: [a] pattern: bad regular expression: nothing to repeat before *",
        );
        // A value over several lines, and what a terminal would obey.
        check_error(
            "[\u{1b}]\npattern=x\nretentions=1:1\n 1:2\n",
            "",
            "s.conf:3: [ ] retentions: bad retention \"1:1 1:2\": must be two parts with one colon \
             between",
        );
        check_error("k=v\n", "", "s.conf:1: stands before the first [section]");
        let names = "known are average, sum, last, max, min, avg_zero, absmax, absmin";
        let method = |wrong: &str, hint: &str| {
            check_error(
                "",
                &format!("[a]\naggregationMethod={wrong}\n"),
                &format!(
                    "a.conf:2: [a] aggregationmethod: unknown aggregation method \"{wrong}\"{hint} \
                 {names}"
                ),
            );
        };
        method("avg", "; did you mean average?");
        method("Sum", "; did you mean sum?");
        method("averge", "; did you mean average?");
        method("avgzero", "; did you mean avg_zero?");
        method("percentile(95)", "");
        method("first", "");
        for wrong in ["1.1", "-0.1", "nan", "inf"] {
            let wrong_number: f64 = wrong.parse().unwrap();
            check_error(
                "",
                &format!("[a]\nxFilesFactor={wrong}\n"),
                &format!("a.conf:2: [a] xfilesfactor: {wrong_number} is not between 0 and 1"),
            );
        }
    }
}
