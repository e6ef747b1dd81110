//! JSON with two blanks a level, as `json.dumps(value, indent=2)` of Python writes it, or on one
//! line where there is one object for each of many files.
//!
//! Ours because scripts compare it: numbers are spelled as Python's `repr` spells them, `1e+16`,
//! and keys keep their order, which the JSON libraries would need as much code to be told.
//! What JSON cannot spell, NaN and the infinities, becomes null; Python writes names that only
//! Python reads.

use std::fmt::Write as _;
use std::path::Path;

use crate::toolbox::output::python;

/// A value to write.
#[derive(Debug)]
pub(crate) enum Json {
    Null,
    Bool(bool),
    Integer(u64),
    Signed(i64),
    Float(f64),
    Text(String),
    List(Vec<Json>),
    Object(Vec<(&'static str, Json)>),
}

impl Json {
    /// A value that may be missing.
    pub(crate) fn maybe(value: Option<f64>) -> Json {
        value.map_or(Json::Null, Json::Float)
    }

    /// A count.
    pub(crate) fn count(count: usize) -> Json {
        Json::Integer(u64::try_from(count).expect("memory is smaller than 2^64 bytes"))
    }

    /// A path; what is not UTF-8 in it is replaced.
    pub(crate) fn path(path: &Path) -> Json {
        Json::Text(path.to_string_lossy().into_owned())
    }

    /// The value as text with a line end; `colon` stands between a key and its value.
    pub(crate) fn to_text(&self, colon: &str) -> String {
        let mut out = String::new();
        self.write(&mut out, colon, Some(0));
        out.push('\n');
        out
    }

    /// The value on one line, with a line end.
    pub(crate) fn to_line(&self) -> String {
        let mut out = String::new();
        self.write(&mut out, ":", None);
        out.push('\n');
        out
    }

    /// `depth` is the level that lines are indented by; `None` = all on one line.
    fn write(&self, out: &mut String, colon: &str, depth: Option<usize>) {
        let inside = depth.map(|depth| depth + 1);
        match self {
            Json::Null => out.push_str("null"),
            Json::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
            Json::Integer(number) => out.push_str(&number.to_string()),
            Json::Signed(number) => out.push_str(&number.to_string()),
            Json::Float(value) => out.push_str(&number(*value)),
            Json::Text(text) => quote(out, text),
            Json::List(items) if items.is_empty() => out.push_str("[]"),
            Json::List(items) => {
                for (at, item) in items.iter().enumerate() {
                    out.push(if at == 0 { '[' } else { ',' });
                    new_line(out, inside);
                    item.write(out, colon, inside);
                }
                new_line(out, depth);
                out.push(']');
            }
            Json::Object(fields) => {
                for (at, (key, value)) in fields.iter().enumerate() {
                    out.push(if at == 0 { '{' } else { ',' });
                    new_line(out, inside);
                    quote(out, key);
                    out.push_str(colon);
                    value.write(out, colon, inside);
                }
                new_line(out, depth);
                out.push('}');
            }
        }
    }
}

/// A number in JSON.
pub(crate) fn number(value: f64) -> String {
    if value.is_finite() { python::repr(value) } else { "null".to_owned() }
}

fn new_line(out: &mut String, depth: Option<usize>) {
    let Some(depth) = depth else { return };
    out.push('\n');
    out.extend(std::iter::repeat_n("  ", depth));
}

/// A text in quotes, ASCII only.
fn quote(out: &mut String, text: &str) {
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            ' '..='~' => out.push(character),
            _ => {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    write!(out, "\\u{unit:04x}").expect("a string takes all");
                }
            }
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_pythons() {
        let value = Json::Object(vec![
            ("a", Json::List(vec![Json::Signed(-1), Json::Float(1e16), Json::Float(f64::NAN)])),
            ("b", Json::List(Vec::new())),
            ("c", Json::Text("\"ü\u{1f600}\n\u{7f}".to_owned())),
            ("d", Json::Object(vec![("e", Json::maybe(None))])),
        ]);
        let want = "{\n  \"a\" : [\n    -1,\n    1e+16,\n    null\n  ],\n  \"b\" : [],\n  \
                    \"c\" : \"\\\"\\u00fc\\ud83d\\ude00\\n\\u007f\",\n  \
                    \"d\" : {\n    \"e\" : null\n  }\n}\n";
        assert_eq!(value.to_text(" : "), want);
        let want = "{\"a\":[-1,1e+16,null],\"b\":[],\"c\":\"\\\"\\u00fc\\ud83d\\ude00\\n\\u007f\",\
                    \"d\":{\"e\":null}}\n";
        assert_eq!(value.to_line(), want);
    }
}
