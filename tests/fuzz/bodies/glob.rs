//! Any bytes as a pattern of names, and as a name: the first line and the rest.

use carbyne::metric::glob::Glob;

/// One input.
pub(crate) fn run(data: &[u8]) {
    let (pattern, name) = match data.iter().position(|byte| *byte == b'\n') {
        Some(end) => (&data[..end], &data[end + 1..]),
        None => (data, data),
    };
    if let Ok(itself) = Glob::literal(name) {
        assert!(itself.matches(name), "a name matches itself");
    }
    let Ok(glob) = Glob::parse(pattern) else { return };
    let mut state = glob.start();
    for part in name.split(|byte| *byte == b'.') {
        let next = glob.step(state, part);
        let is_alive = glob.is_whole(next) || glob.goes_on(next);
        if let Some(literals) = glob.literals(state) {
            assert!(literals.is_sorted(), "literals are in order");
            assert_eq!(literals.iter().any(|text| **text == *part), is_alive, "they are all");
        }
        state = next;
    }
    assert_eq!(glob.is_whole(state), glob.matches(name), "a walk comes to the same");
}
