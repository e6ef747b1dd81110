//! Metric names: canonical form, file path and hash.
//!
//! What holds for a canonical name, and what the rest of the node relies on:
//! - two spellings of one file are one name: `a..b`, `.a.b` and `a/b` all become `a.b`;
//! - a canonical name is its own canonical form, so a query may be canonicalised like a line;
//! - it is valid UTF-8 without control characters, at most [`NAME_BYTES_MAX`] bytes long;
//! - its file lies below the data directory: the path is relative and has no `.` or `..` component.
//!
//! Names arrive from every receiver and from queries; they leave to the cache, the log, the index
//! and, as paths, to the Whisper files. Files are carbon's, byte for byte of their paths, except
//! for two kinds of names whose canonical form would not be stable otherwise: `~` behind a leading
//! separator (`.~a`), and tags that carbon sorts only when it reads its own result again
//! (`m;x=y{a="b"}`).

use sha2::{Digest, Sha256};
use wide::u8x16;

use crate::limits::{COMPONENT_BYTES_MAX, NAME_BYTES_MAX, NAME_DEPTH_MAX};
use crate::metric::name_error::NameError;
use crate::metric::tag::{self, Form};

/// The xxh3-64 hash of a canonical name, with seed zero: it chooses the owner shard, the same on
/// every machine and in every release. The cache's table uses a keyed hash of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NameHash(pub u64);

impl NameHash {
    /// The hash of a name in canonical form.
    pub fn of(canonical: &[u8]) -> NameHash {
        NameHash(xxhash_rust::xxh3::xxh3_64(canonical))
    }
}

/// The canonical form of a received name.
///
/// A name that is canonical already, which is nearly every one, is returned as it came. Otherwise
/// the form is written into `scratch`, whose former content is lost and whose memory is reused.
///
/// - Untagged: `/` is a separator like `.`; leading separators and `~` go; runs of separators
///   become one dot. One trailing dot stays: carbon's file of `a.b.` is `a/b/.wsp`.
/// - Tagged (`m;a=b`, `m{a="b"}`): carbon's normal form. A name with a `;` whose tags cannot be
///   parsed is kept as received, as carbon does.
///
/// # Errors
/// The first limit of [`NameError`] that the name breaks.
pub fn canonical<'a>(raw: &'a [u8], scratch: &'a mut Vec<u8>) -> Result<&'a [u8], NameError> {
    if is_plain(raw) {
        return Ok(raw);
    }
    canonical_slow(raw, scratch)
}

/// Writes the path of a name's file, relative to the data directory and with `.wsp`, to `out`,
/// whose former content is lost. `hash_tagged` is carbon's `TAG_HASH_FILENAMES`.
///
/// Whatever the bytes, a path that is returned is relative, holds no NUL and no `.` or `..`
/// component, and each of its components fits into a file name.
///
/// # Errors
/// A name that is not canonical may break any limit. A canonical one fails only as a tagged name
/// with `hash_tagged` off, when what carbon makes of it is too long or too deep for a path.
pub fn file_path(canonical: &[u8], hash_tagged: bool, out: &mut Vec<u8>) -> Result<(), NameError> {
    out.clear();
    if canonical.iter().any(|&byte| is_control(byte)) {
        return Err(NameError::ControlCharacter);
    }
    if memchr::memchr(b';', canonical).is_none() {
        push_components(canonical, |byte| matches!(byte, b'.' | b'/'), out)?;
    } else {
        let digest = hex(&Sha256::digest(canonical));
        for part in [TAGGED_DIRECTORY, b"/", &digest[..3], b"/", &digest[3..6], b"/"] {
            out.extend_from_slice(part);
        }
        if hash_tagged {
            out.extend_from_slice(&digest);
            out.extend_from_slice(FILE_SUFFIX);
        } else {
            push_components(canonical, |byte| byte == b'/', out)?;
        }
    }
    if out.len() > PATH_BYTES_MAX { Err(NameError::TooLong) } else { Ok(()) }
}

/// The canonical name whose file has this path below the data directory, if an untagged name has:
/// `a/b.wsp` is `a.b`. Files of other programs, of tagged names and of names that carbon and this
/// node would store elsewhere have none.
pub fn name_of_path(path: &[u8]) -> Option<Vec<u8>> {
    let stem = path.strip_suffix(FILE_SUFFIX)?;
    if stem.iter().any(|byte| matches!(byte, b'.' | b';')) {
        return None;
    }
    let name: Vec<u8> = stem.iter().map(|&byte| if byte == b'/' { b'.' } else { byte }).collect();
    let mut scratch = Vec::new();
    let unchanged = canonical(&name, &mut scratch).is_ok_and(|form| form == name);
    unchanged.then_some(name)
}

/// Extension of a Whisper file.
const FILE_SUFFIX: &[u8] = b".wsp";

/// Directory of all tagged series.
const TAGGED_DIRECTORY: &[u8] = b"_tagged";

/// Longest file name of Linux file systems.
const FILE_NAME_BYTES_MAX: usize = 255;

/// Longest path a system call takes, without its NUL.
const PATH_BYTES_MAX: usize = 4_095;

const _: () = assert!(COMPONENT_BYTES_MAX + FILE_SUFFIX.len() <= FILE_NAME_BYTES_MAX);
const _: () = assert!(NAME_BYTES_MAX + FILE_SUFFIX.len() <= PATH_BYTES_MAX);

/// Bytes that are looked at together: the SSE2 register that every x86-64 has.
const CHUNK_BYTES: usize = 16;

/// A name of at most this many bytes without empty components cannot be deeper than
/// [`NAME_DEPTH_MAX`]: a component takes a byte, the dots between take one fewer.
const SHALLOW_BYTES_MAX: usize = 2 * NAME_DEPTH_MAX - 1;

/// Whether the name is canonical without a closer look: short, printable ASCII, no tags, and none
/// of the bytes that the canonical form moves. Everything else takes the slow path.
fn is_plain(raw: &[u8]) -> bool {
    let (Some(&first), Some(&last)) = (raw.first(), raw.last()) else {
        return false;
    };
    // "}" may end OpenMetrics tags, "_" may begin the directory of tagged series.
    if raw.len() > COMPONENT_BYTES_MAX
        || matches!(first, b'.' | b'~' | b'_')
        || last == b'}'
        || is_odd_byte(last)
    {
        return false;
    }
    if raw.len() > SHALLOW_BYTES_MAX {
        let dot_count = raw.iter().filter(|&&byte| byte == b'.').count();
        if dot_count >= NAME_DEPTH_MAX {
            return false;
        }
    }
    let (pairs, next) = (&raw[..raw.len() - 1], &raw[1..]);
    let (chunks, rest) = pairs.as_chunks::<CHUNK_BYTES>();
    let (next_chunks, next_rest) = next.as_chunks::<CHUNK_BYTES>();
    if chunks.iter().zip(next_chunks).any(|(bytes, next)| is_odd_chunk(bytes, next)) {
        return false;
    }
    if rest.is_empty() {
        return true;
    }
    // The rest is looked at again as the last whole chunk, which is cheaper than byte by byte.
    match (pairs.last_chunk::<CHUNK_BYTES>(), next.last_chunk::<CHUNK_BYTES>()) {
        (Some(bytes), Some(next)) => !is_odd_chunk(bytes, next),
        _ => !rest
            .iter()
            .zip(next_rest)
            .any(|(&byte, &next)| is_odd_byte(byte) || (byte == b'.' && next == b'.')),
    }
}

/// Whether a byte of the chunk needs the slow path; `next` are the bytes one further on.
fn is_odd_chunk(bytes: &[u8; CHUNK_BYTES], next: &[u8; CHUNK_BYTES]) -> bool {
    let all = |byte: u8| u8x16::splat(byte);
    let (bytes, next) = (u8x16::new(*bytes), u8x16::new(*next));
    let is_printable = bytes.max(all(b' ')).min(all(b'~')).simd_eq(bytes);
    let is_double_dot = bytes.simd_eq(all(b'.')) & next.simd_eq(all(b'.'));
    let is_moved = bytes.simd_eq(all(b'/')) | bytes.simd_eq(all(b';'));
    (is_moved | is_double_dot | !is_printable).to_bitmask() != 0
}

/// Whether the byte alone sends a name to the slow path: not printable ASCII, `/` or `;`.
fn is_odd_byte(byte: u8) -> bool {
    (byte.wrapping_sub(b' ') > b'~' - b' ') | (byte == b'/') | (byte == b';')
}

/// Whether the byte is refused in every name.
fn is_control(byte: u8) -> bool {
    byte < b' ' || byte == 0x7f
}

fn canonical_slow<'a>(raw: &'a [u8], scratch: &'a mut Vec<u8>) -> Result<&'a [u8], NameError> {
    check_bytes(raw)?;
    match tag::form(raw)? {
        Form::Untagged => write_untagged(raw, scratch),
        Form::Settled => return Ok(raw),
        Form::Rewritable => {
            tag::rewrite(raw, scratch);
            settle(scratch)?;
        }
    }
    if memchr::memchr(b';', scratch).is_none() {
        check_untagged(scratch)?;
    }
    Ok(scratch)
}

/// Rewrites a name until it is its own canonical form.
///
/// Once is enough but for names made to confuse: carbon's normal form of `m;c={x="y"};a=b` ends
/// in `"}` and so is OpenMetrics at the next reading. That reading removes the only `{`, after
/// which at most sorting the tags and the untagged form remain: four rounds at most.
fn settle(name: &mut Vec<u8>) -> Result<(), NameError> {
    loop {
        match tag::form(name)? {
            Form::Settled => return Ok(()),
            Form::Rewritable => tag::rewrite(&name.clone(), name),
            Form::Untagged => {
                write_untagged(&name.clone(), name);
                return Ok(());
            }
        }
    }
}

/// The checks that every name passes, whatever its form.
fn check_bytes(raw: &[u8]) -> Result<(), NameError> {
    if raw.is_empty() {
        return Err(NameError::Empty);
    }
    if raw.len() > NAME_BYTES_MAX {
        return Err(NameError::TooLong);
    }
    // Without a way out of the loop, which lets the compiler look at many bytes at once.
    if raw.iter().fold(false, |found, &byte| found | is_control(byte)) {
        return Err(NameError::ControlCharacter);
    }
    if std::str::from_utf8(raw).is_err() {
        return Err(NameError::InvalidUtf8);
    }
    Ok(())
}

/// Writes the untagged canonical form; it may be empty.
///
/// carbon strips `~` only in front of the separators. Here they go in any order, or `.~a` would
/// be stored as `~a` and asked for as `a`.
fn write_untagged(raw: &[u8], out: &mut Vec<u8>) {
    out.clear();
    let leading = raw.iter().take_while(|&byte| matches!(byte, b'~' | b'.' | b'/')).count();
    for &byte in &raw[leading..] {
        let byte = if byte == b'/' { b'.' } else { byte };
        if byte != b'.' || out.last() != Some(&b'.') {
            out.push(byte);
        }
    }
}

/// The limits of an untagged name in canonical form.
fn check_untagged(name: &[u8]) -> Result<(), NameError> {
    if name.is_empty() {
        return Err(NameError::Empty);
    }
    let mut component_count = 0;
    for component in name.split(|&byte| byte == b'.') {
        component_count += 1;
        if component.len() > COMPONENT_BYTES_MAX {
            return Err(NameError::ComponentTooLong);
        }
    }
    if component_count > NAME_DEPTH_MAX {
        return Err(NameError::TooDeep);
    }
    if is_hashed_path(name) {
        return Err(NameError::Reserved);
    }
    Ok(())
}

/// Whether the name is `_tagged.eff.aae.effaae...` with 64 hex digits: its file would be that of
/// the tagged series with this hash, which another shard may own.
fn is_hashed_path(name: &[u8]) -> bool {
    let mut components = name.split(|&byte| byte == b'.');
    if components.next() != Some(TAGGED_DIRECTORY) {
        return false;
    }
    let (Some(first), Some(second), Some(hash), None) =
        (components.next(), components.next(), components.next(), components.next())
    else {
        return false;
    };
    hash.len() == 64
        && first == &hash[..3]
        && second == &hash[3..6]
        && hash.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Appends the components of a name with `/` between them and the suffix after the last. Empty
/// components go, as the kernel would read them; an empty last one leaves the bare suffix. A dot
/// that does not separate becomes `_DOT_`.
fn push_components(
    name: &[u8],
    is_separator: impl Fn(u8) -> bool,
    out: &mut Vec<u8>,
) -> Result<(), NameError> {
    let before = out.len();
    let mut component_start = out.len();
    let mut component_count = 1;
    for &byte in name {
        if is_separator(byte) {
            if out.len() == component_start {
                continue;
            }
            if out.len() - component_start > FILE_NAME_BYTES_MAX {
                return Err(NameError::ComponentTooLong);
            }
            out.push(b'/');
            component_start = out.len();
            component_count += 1;
        } else if byte == b'.' {
            out.extend_from_slice(b"_DOT_");
        } else {
            out.push(byte);
        }
    }
    if out.len() == before {
        return Err(NameError::Empty);
    }
    out.extend_from_slice(FILE_SUFFIX);
    if out.len() - component_start > FILE_NAME_BYTES_MAX {
        return Err(NameError::ComponentTooLong);
    }
    if component_count > NAME_DEPTH_MAX { Err(NameError::TooDeep) } else { Ok(()) }
}

/// Lower-case hexadecimal digits of a SHA-256 digest.
fn hex(digest: &[u8]) -> [u8; 64] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut out = [0; 64];
    for (pair, &byte) in out.chunks_exact_mut(2).zip(digest) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(raw: impl AsRef<[u8]>, want: Result<&str, NameError>) {
        let raw = raw.as_ref();
        let mut scratch = Vec::new();
        let got = canonical(raw, &mut scratch);
        assert_eq!(got, want.map(str::as_bytes), "canonical form of {:?}", raw.escape_ascii());
    }

    fn check_path(name: &str, hash_tagged: bool, want: Result<&str, NameError>) {
        let mut out = b"former content".to_vec();
        let got = file_path(name.as_bytes(), hash_tagged, &mut out).map(|()| out.as_slice());
        assert_eq!(got, want.map(str::as_bytes), "path of {name}");
    }

    #[test]
    fn untagged_names() {
        check("a", Ok("a"));
        check("servers.web-1.cpu_load", Ok("servers.web-1.cpu_load"));
        check(".a.b", Ok("a.b"));
        check("..a..b", Ok("a.b"));
        check("a...b", Ok("a.b"));
        check("a.b.", Ok("a.b."));
        check("a.b..", Ok("a.b."));
        check("a.b/", Ok("a.b."));
        check("a/b.c", Ok("a.b.c"));
        check("a/../../b", Ok("a.b"));
        check("~a", Ok("a"));
        check("~~.~/a", Ok("a"));
        check("a.~b", Ok("a.~b"));
        check("a b", Ok("a b"));
        check("café.über", Ok("café.über"));
        check("_tagged.aa.bb.x", Ok("_tagged.aa.bb.x"));
        for empty in ["", ".", "...", "/", "~", "~/.~"] {
            check(empty, Err(NameError::Empty));
        }
    }

    #[test]
    fn a_double_dot_is_found_at_every_offset() {
        for length in 4..80 {
            for at in 1..length - 2 {
                let mut raw = vec![b'x'; length];
                raw[at] = b'.';
                check(&raw, Ok(std::str::from_utf8(&raw).unwrap()));
                raw[at + 1] = b'.';
                let want = format!("{}.{}", "x".repeat(at), "x".repeat(length - at - 2));
                check(&raw, Ok(&want));
            }
        }
    }

    #[test]
    fn characters() {
        for at in [0, 1, 15, 16, 17, 31, 39] {
            for byte in 0..=255_u8 {
                let mut raw = vec![b'x'; 40];
                raw[at] = byte;
                let mut scratch = Vec::new();
                let got = canonical(&raw, &mut scratch);
                match byte {
                    0..=0x1f | 0x7f => assert_eq!(got, Err(NameError::ControlCharacter)),
                    0x80.. => assert_eq!(got, Err(NameError::InvalidUtf8)),
                    b'/' | b'.' | b'~' => assert!(got.is_ok()),
                    _ => assert_eq!(got, Ok(raw.as_slice())),
                }
            }
        }
        check("a\u{7f}é", Err(NameError::ControlCharacter));
        check("m;a=b\n", Err(NameError::ControlCharacter));
        check(b"m;a=\xc3", Err(NameError::InvalidUtf8));
    }

    #[test]
    fn limits() {
        let part = |length: usize| "x".repeat(length);
        let deep = |depth: usize| vec!["x"; depth].join(".");
        let wide = |length: usize| part(200) + "." + &part(length - 201);
        check(part(251), Ok(&part(251)));
        check(part(252), Err(NameError::ComponentTooLong));
        check(wide(452), Ok(&wide(452)));
        check(wide(453), Err(NameError::ComponentTooLong));
        check(deep(64), Ok(&deep(64)));
        check(deep(65), Err(NameError::TooDeep));
        check(deep(63) + "." + &part(30), Ok(&(deep(63) + "." + &part(30))));
        check(deep(64) + "." + &part(30), Err(NameError::TooDeep));
        check(deep(64) + ".", Err(NameError::TooDeep));
        let tagged = |length: usize| format!("m;a={}", part(length - 4));
        check(tagged(4_000), Ok(&tagged(4_000)));
        check(tagged(4_001), Err(NameError::TooLong));
        check(part(4_001), Err(NameError::TooLong));
        let tags = |count: usize| (0..count).map(|i| format!(";t{i:02}=v")).collect::<String>();
        check(format!("m{}", tags(64)), Ok(&format!("m{}", tags(64))));
        check(format!("m{}", tags(65)), Err(NameError::TooDeep));
    }

    #[test]
    fn an_untagged_name_cannot_take_the_file_of_a_tagged_one() {
        let mut path = Vec::new();
        file_path(b"a;b=c", true, &mut path).unwrap();
        let path = String::from_utf8(path).unwrap();
        let alias = path.strip_suffix(".wsp").unwrap().replace('/', ".");
        check(&alias, Err(NameError::Reserved));
        check(alias.replacen("_tagged.", "/_tagged//", 1), Err(NameError::Reserved));
        check(alias.clone() + ".x", Ok(&(alias.clone() + ".x")));
        let other = alias.replacen("_tagged.81e", "_tagged.81f", 1);
        check(&other, Ok(&other));
        assert_eq!(name_of_path(path.as_bytes()), None);
    }

    #[test]
    fn names_that_change_form_when_read_again_settle() {
        check(r#"m;c={x="y"};a=b"#, Ok("m;a=b;c=;x=y"));
        check(r#"a{b="c"};name=x"#, Ok("a;b=c"));
        check(r#"/a..b{name="x"}"#, Ok("a.b"));
        check("m;name=x", Ok("m"));
        check("..;name=x", Err(NameError::Empty));
        check(r#"m;x=y{a="b"}"#, Ok("m;a=b;x=y"));
        check(r#"~{a="b"}"#, Ok(r#"{a="b"}"#));
    }

    #[test]
    fn paths() {
        check_path("a", true, Ok("a.wsp"));
        check_path("a.b.", true, Ok("a/b/.wsp"));
        check_path("../../etc/passwd", true, Ok("etc/passwd.wsp"));
        check_path("/", true, Err(NameError::Empty));
        check_path("a\0", true, Err(NameError::ControlCharacter));
        check_path("m;a=../../x", false, Ok("_tagged/749/d7d/m;a=_DOT__DOT_/_DOT__DOT_/x.wsp"));
        let tag = |length: usize| format!("m;a={}", "x".repeat(length - 4));
        check_path(&tag(252), false, Err(NameError::ComponentTooLong));
        check_path(&format!("m;a={}", "x/".repeat(64)), false, Err(NameError::TooDeep));
        let dots = format!("m;a={}", format!("{}/", ".".repeat(50)).repeat(60));
        check_path(&dots, false, Err(NameError::TooLong));
        let mut out = Vec::new();
        assert_eq!(file_path(tag(251).as_bytes(), false, &mut out), Ok(()));
        assert_eq!(file_path(tag(4_000).as_bytes(), true, &mut out), Ok(()));
    }

    #[test]
    fn names_of_paths() {
        let check = |path: &str, want: Option<&str>| {
            let want = want.map(|name| name.as_bytes().to_vec());
            assert_eq!(name_of_path(path.as_bytes()), want, "name of {path}");
        };
        check("a.wsp", Some("a"));
        check("a/b.wsp", Some("a.b"));
        check("a/b/.wsp", Some("a.b."));
        check("_tagged/x.wsp", Some("_tagged.x"));
        check(".wsp", None);
        check("a", None);
        check("a/b.wsp.tmp", None);
        check("a.b/c.wsp", None);
        check("/a.wsp", None);
        check("a//b.wsp", None);
        check("a/../b.wsp", None);
        check("~a.wsp", None);
        check("_tagged/81e/2f5/a;b=c.wsp", None);
        check("a\n.wsp", None);
    }

    #[test]
    fn the_hash_is_fixed() {
        // The first is xxHash's own published value of the empty input.
        assert_eq!(NameHash::of(b""), NameHash(0x2d06_8005_38d3_94c2));
        assert_eq!(NameHash::of(b"servers.web-1.cpu_load"), NameHash(4_702_117_501_372_176_680));
    }
}
