//! Any bytes as lines, and as the names in them.

use carbyne::metric::name::{canonical, file_path, name_of_path};
use carbyne::wire::line::{Lines, parse, parse_unterminated};

fn check_name(name: &[u8]) {
    let (mut scratch, mut path) = (Vec::new(), Vec::new());
    let Ok(name) = canonical(name, &mut scratch) else { return };
    let mut again = Vec::new();
    assert_eq!(canonical(name, &mut again).as_deref(), Ok(name), "a canonical name is canonical");
    for hash_tagged in [true, false] {
        if file_path(name, hash_tagged, &mut path).is_err() {
            continue;
        }
        assert!(!path.starts_with(b"/") && !path.contains(&0));
        let mut parts = path.split(|byte| *byte == b'/');
        assert!(parts.all(|part| !matches!(part, b"" | b"." | b"..")), "a path leads nowhere else");
        if let Some(found) = name_of_path(&path) {
            assert_eq!(found, name, "path and name lead to each other");
        }
    }
}

/// One input.
pub(crate) fn run(data: &[u8]) {
    let mut lines = Lines::new(data);
    for raw in lines.by_ref().flatten() {
        check_name(raw.name);
    }
    let _ = parse(data);
    assert!(lines.consumed_bytes() <= data.len());
    if let Ok(rest) = lines.rest() {
        let _ = parse_unterminated(rest, data.len().is_multiple_of(2));
    }
    check_name(data);
    let _ = name_of_path(data);
}
