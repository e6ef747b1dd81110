//! Any bytes as storage-schemas.conf and storage-aggregation.conf, and as the names that are looked
//! up in them.
//!
//! ```text
//! input  the first file, NUL, the second file, NUL, names with a NUL between each
//! ```

use carbyne::metric::series::check_archives;
use carbyne::schema::{Place, Rules, Source};
use carbyne::whisper::Header;

/// Names that are always looked up.
const NAMES: [&str; 3] = ["carbon.agents.host.x", "a.b.count", ""];

/// One input.
pub(crate) fn run(data: &[u8]) {
    let parts: Vec<String> =
        data.split(|byte| *byte == 0).map(|part| String::from_utf8_lossy(part).into()).collect();
    let (schemas, aggregation) = (parts[0].as_str(), parts.get(1).map_or("", String::as_str));
    let parse = |schemas, aggregation| {
        let aggregation = Source { file: "a.conf", text: aggregation };
        Rules::parse(&Source { file: "s.conf", text: schemas }, Some(&aggregation))
    };
    let check_place = |place: &Place, shown: String| {
        let text = if place.file == "s.conf" { schemas } else { aggregation };
        // A line may end in CR, LF or both.
        let line_count = text.bytes().filter(|byte| matches!(byte, b'\n' | b'\r')).count() + 1;
        assert!((1..=line_count).contains(&place.line), "{shown} of {line_count} lines");
        assert!(shown.starts_with(&format!("{}:{}:", place.file, place.line)), "{shown}");
        assert!(!shown.chars().any(char::is_control), "one line: {shown:?}");
    };
    let (rules, notices) = match parse(schemas, aggregation) {
        Ok(read) => read,
        Err(error) => {
            assert!(!error.reason.is_empty(), "an error says what is wrong");
            return check_place(&error.place, error.to_string());
        }
    };
    assert!(notices.len() <= 1_000, "{} notices", notices.len());
    notices.iter().for_each(|notice| check_place(&notice.place, notice.to_string()));
    let (again, _) = parse(schemas, aggregation).expect("the same text is good again");
    let names = parts.iter().skip(2).map(String::as_str).chain(NAMES);
    for name in names.take(8) {
        let found = rules.resolve(name);
        assert_eq!(found, again.resolve(name), "the same rules decide the same: {name:?}");
        check_archives(&found.spec.retentions).expect("archives that a file can have");
        assert!((0.0..=1.0).contains(&found.spec.x_files_factor));
        let header = Header::new(&found.spec).expect("a file of them");
        let mut bytes = Vec::new();
        header.encode(&mut bytes);
        assert_eq!(Header::parse(&bytes, header.file_bytes()).as_ref(), Ok(&header));
    }
}
