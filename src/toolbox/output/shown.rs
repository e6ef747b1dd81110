//! Paths in messages: control characters are escaped.

use std::path::Path;

/// A path for a line of output. Control characters are escaped, so that a hostile file name cannot
/// start a new line or control the terminal.
pub(crate) fn shown(path: &Path) -> String {
    let mut text = String::new();
    for character in path.to_string_lossy().chars() {
        match character.is_control() {
            true => text.extend(character.escape_default()),
            false => text.push(character),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_on_their_line() {
        assert_eq!(shown(Path::new("a/\u{e4} b.wsp")), "a/\u{e4} b.wsp");
        assert_eq!(shown(Path::new("x\n\u{1b}[2J\u{9b}.wsp")), "x\\n\\u{1b}[2J\\u{9b}.wsp");
    }
}
