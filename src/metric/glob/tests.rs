//! Patterns one by one, with graphite-web's answers; and made-up ones beside a matcher that tries
//! everything. `tests/interop/test_whisper_find.py` asks graphite-web itself.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::limits::GLOB_ALTERNATIVES_MAX;

fn glob(pattern: &str) -> Glob {
    Glob::parse(pattern.as_bytes()).unwrap_or_else(|error| panic!("{pattern:.80}: {error}"))
}

/// The names behind `yes` match, those behind `no` do not.
fn check(pattern: &str, yes: &[&str], no: &[&str]) {
    for (names, want) in [(yes, true), (no, false)] {
        for name in names {
            assert_eq!(glob(pattern).matches(name.as_bytes()), want, "{pattern} and {name}");
        }
    }
}

#[test]
fn segments() {
    check("a.b", &["a.b"], &["a", "a.b.c", "a.bb", "A.b", "b.b", "a."]);
    check("a.*", &["a.b", "a.bc"], &["a", "a.b.c", "b.b", "a."]);
    check("*.b*.c", &["a.b.c", "x.bx.c"], &["a.c", "a.xb.c", "a.b.c.d"]);
    check("a/b", &["a.b"], &["a/b"]);
    check("a..b", &["a.b"], &["a..b"]);
    check(".a", &["a"], &["b"]);
    check("a.\\.b", &["a.b"], &[]);
    check("a.", &["a."], &["a", "a.b"]);
    check("a.{,b}", &["a.", "a.b"], &["a"]);
    check("*", &["a", "*"], &["", "a.b"]);
    check("a\\b", &["ab"], &["a\\b"]);
    check("a\\*b", &["a*b", "aab"], &["a"]);
}

#[test]
fn any_depth() {
    check("**", &["a", "a.b", "a.b.c"], &["", "a."]);
    check("a.**", &["a.b", "a.b.c"], &["a", "b.a"]);
    check("**.a", &["a", "b.a", "b.c.a"], &["b", "a.b", "ba"]);
    check("a.**.b", &["a.b", "a.x.b", "a.x.y.b", "a.b.b"], &["a", "b", "a.b.x", "x.a.b"]);
    check("a.**.**.b.**", &["a.b.c", "a.b.b", "a.x.b.y.z"], &["a.b", "b.b.c", "a.c.c"]);
    check("**.a.**.b", &["a.b", "x.a.y.b", "a.a.b.b"], &["b.a", "a.x"]);
    check("a.**b", &["a.xb"], &["a.x.b"]);
    check("{x,**}.a", &["a", "x.a", "y.z.a"], &["x"]);
    check("***.a", &["x.a"], &["a", "x.y.a"]);
    check("{a*,**}", &["b", "b.c"], &[]);
    check("**.", &["a.", "a.b."], &["a", "a.b"]);
}

#[test]
fn braces() {
    check("{a,b}", &["a", "b"], &["c", "ab", "{a,b}", "{a", "b}"]);
    check("x{a,b}y{c,d}z", &["xaycz", "xaydz", "xbycz", "xbydz"], &["xayz", "xacz"]);
    check("{a,b{c,d}e}f", &["af", "bcef", "bdef"], &["bf", "bcdef", "ace"]);
    check("{a,{b,{c,d}}}", &["a", "b", "c", "d"], &["", "{b"]);
    check("{ab}", &["ab"], &["{ab}"]);
    check("{,a}b", &["b", "ab"], &["aab"]);
    check("{}a", &["a"], &["{}a"]);
    check("{a*,*b}", &["ax", "xb", "a"], &["c", "xa"]);
    // A segment that may be empty may be missing.
    check("a.{,b}.c", &["a.c", "a.b.c"], &["a.x.c", "a.b.b.c", "a.c.c"]);
    check("{,a}.{,b*}.c", &["c", "a.c", "bx.c", "a.b.c"], &["b.a.c", "a.b"]);
    check("a.{}.{,}.c", &["a.c"], &["a.b.c"]);
    // What has no partner stands for itself.
    check("{a", &["{a"], &["a"]);
    check("a}", &["a}"], &["a"]);
    check("{a,{b,c}", &["{a,b", "{a,c"], &["a", "b"]);
    check("{a,b}}", &["a}", "b}"], &["a"]);
    check("}{a,b}{", &["}a{", "}b{"], &[]);
    check("a,b", &["a,b"], &["a", "b"]);
    // Dots come first, braces before classes.
    check("{a.b,c}", &["{a.b,c}"], &["a.b", "c"]);
    check("[{a,b}]", &["a", "b"], &["{", ","]);
    check("{[,a]}", &["[", "a]"], &["a"]);
    check("{a\\,b}", &["a", "b"], &["a,b"]);
}

#[test]
fn characters() {
    check("a?c", &["abc", "a\u{e9}c", "a\u{1f600}c"], &["ac", "abbc"]);
    check("?", &["a", "\u{fc}"], &["", "ab"]);
    check("*?*", &["a", "ab"], &[""]);
    check("[ab]", &["a", "b"], &["c", "[ab]", ""]);
    check("[a-a]", &["a"], &["b", "-"]);
    check("[a-cx]", &["a", "b", "c", "x"], &["d", "-"]);
    check("[!a-c]", &["d", "!", "\u{e9}"], &["a", "b"]);
    check("[^a]", &["^", "a"], &["b"]);
    check("[\u{e0}-\u{ef}a]", &["\u{e9}", "a"], &["\u{f0}", "e"]);
    check("[!\u{e9}]", &["e"], &["\u{e9}"]);
    check("[y-\u{1f600}]", &["y", "z", "~", "\u{e9}", "\u{1f600}"], &["x", "\u{1f601}"]);
    check("[a", &["[a"], &["a"]);
    check("a[", &["a["], &["a"]);
    check("[]a]", &["]", "a"], &["[]a]"]);
    check("[!]a]", &["b"], &["]", "a"]);
    check("[]", &["[]"], &["", "]"]);
    check("[!]", &["[!]"], &["a"]);
    check("[]-a]", &["]", "^", "a"], &["b", "-"]);
    check("[a-]", &["a", "-"], &["b"]);
    check("[-a]", &["a", "-"], &["b"]);
    check("[!-a]", &["b", "!"], &["a", "-"]);
    check("[a-c-e]", &["b", "-", "e"], &["d"]);
    check("[--0]", &["-", "0"], &["1"]);
    check("[c-a]", &[], &["a", "b", "c", "-", ""]);
    check("[!c-a]", &["a", "b", "c"], &["", "ab"]);
    check("[c-ax]", &["x"], &["a", "c"]);
    check("[z-a!b]", &["a", "z"], &["b"]);
    check("[z-a!-c]", &["!", "d"], &["-", "c"]);
    check("[z-a^b]", &["^", "b"], &["a"]);
    check("[*]", &["*"], &["a"]);
    check("a[*]b*", &["a*b", "a*bc"], &["aab"]);
    check("[[]", &["["], &["[[]"]);
    check("[&&][~~][||]", &["&~|"], &["&&|"]);
    check("[a.b]", &["[a.b]"], &["a", "b"]);
    // A byte of no character is one.
    for (pattern, name, want) in [
        ("a?c", &b"a\xe9c"[..], true),
        ("a?c", b"a\xe2\x82c", false),
        ("a??c", b"a\xe2\x82c", true),
        ("a[!b]c", b"a\xffc", true),
        ("a[x-\u{ffff}]c", b"a\xffc", true),
        ("a[x-\u{d000}]c", b"a\xffc", false),
    ] {
        assert_eq!(glob(pattern).matches(name), want, "{pattern}");
    }
}

#[test]
fn stars() {
    check("a*c", &["ac", "abc", "acc"], &["a", "c", "abd", "bac"]);
    check("aa*aa", &["aaaa", "aaxaa"], &["aaa", "aa"]);
    check("*b*", &["b", "abc"], &["", "ac"]);
    check("a**c", &["ac", "abc"], &["a"]);
    check("*ab*ba*", &["abba", "xabxbax", "ababba"], &["aba", "baab"]);
    check("a*b*c", &["abc", "axbxc", "abcc"], &["acb", "abcx"]);
    check("*a?b", &["axb", "aaxb", "axaxb"], &["ab", "axbx"]);
    check("*[ab][cd]*e", &["ace", "xbdxe", "aacee"], &["ae", "acd"]);
    check("*\u{e9}?", &["\u{e9}x", "a\u{e9}\u{e9}"], &["\u{e9}", "x\u{e8}x"]);
}

#[test]
fn a_name_is_a_pattern_of_itself() {
    let glob = Glob::literal(b"_tagged.a[b].{c,d}*;x=?\\").unwrap();
    assert!(glob.matches(b"_tagged.a[b].{c,d}*;x=?\\"));
    assert!(!glob.matches(b"_tagged.ab.c;x=?"));
    assert_eq!(Glob::literal(b"").unwrap_err(), GlobError::Empty);
}

#[test]
fn what_is_refused_is_said() {
    let check = |pattern: &[u8], want: GlobError, text: &str| {
        let error = Glob::parse(pattern).unwrap_err();
        assert_eq!(error, want);
        assert_eq!(error.to_string(), text);
    };
    for empty in ["", ".", "..", "\\", "{}", "{,}", "{}."] {
        check(empty.as_bytes(), GlobError::Empty, "the pattern is empty");
    }
    assert!(Glob::parse(b"{,a}").is_ok());
    let long = vec![b'a'; GLOB_BYTES_MAX + 1];
    assert!(Glob::parse(&long[1..]).is_ok());
    let text = "the pattern has 32769 bytes, more than 32768";
    check(&long, GlobError::TooLong(long.len()), text);
    check(b"a.b\xffc", GlobError::InvalidUtf8 { at: 3 }, "not UTF-8 at byte 3");
    let deep = "a.".repeat(GLOB_SEGMENTS_MAX);
    assert!(Glob::parse(&deep.as_bytes()[..deep.len() - 1]).is_ok());
    let at = deep.len();
    check(deep.as_bytes(), GlobError::TooDeep { at }, "more than 127 segments at byte 254");
    check(
        (deep.clone() + "**").as_bytes(),
        GlobError::TooDeep { at },
        "more than 127 segments at byte 254",
    );
    let many = |count: usize| "{a,b}".repeat(count);
    assert!(Glob::parse(many(12).as_bytes()).is_ok());
    let text = "braces of more than 4096 alternatives at byte 64";
    check(many(13).as_bytes(), GlobError::TooManyAlternatives { at: 64 }, text);
    let both = many(11) + "." + &many(11);
    assert!(Glob::parse(both.as_bytes()).is_ok());
    let text = "braces of more than 4096 alternatives at byte 112";
    check((both + ".c").as_bytes(), GlobError::TooManyAlternatives { at: 112 }, text);
    let list = format!("{{{}}}", ",".repeat(GLOB_ALTERNATIVES_MAX));
    let at = list.len() - 1;
    let text = format!("braces of more than 4096 alternatives at byte {at}");
    check(list.as_bytes(), GlobError::TooManyAlternatives { at }, &text);
    let wide = format!("{}{}", "{a,b}".repeat(10), "x".repeat(1_000));
    assert!(matches!(Glob::parse(wide.as_bytes()), Err(GlobError::TooMuchText { .. })));
    let hosts: Vec<String> =
        (0..1_000).map(|n| format!("web-{n:04}-eu-west-1-rack-{n:06}")).collect();
    let glob = glob(&format!("servers.{{{}}}.cpu", hosts.join(",")));
    assert!(glob.matches(format!("servers.{}.cpu", hosts[777]).as_bytes()));
}

/// Empty texts take room too: 85 MB, and 67 million steps, without it.
#[test]
fn braces_around_nothing_have_a_bound() {
    let nested = format!("{}{}", format!("{{{}", "{,}".repeat(12)).repeat(862), "}".repeat(862));
    for pattern in [nested, "{,}".repeat(12) + &"{}".repeat(16_000)] {
        assert!(matches!(Glob::parse(pattern.as_bytes()), Err(GlobError::TooMuchText { .. })));
    }
    assert!(glob(&("{,}".repeat(12) + "a")).matches(b"a"));
}

/// Patterns made to be slow, and names made for them.
#[test]
fn hostile_patterns_end_soon() {
    let begun = Instant::now();
    let name = format!("{}.{}", "a".repeat(2_000), "a".repeat(1_999));
    let depth = ["a"; 64].join(".");
    let nested = format!("{}a{}", "{a,".repeat(1_000), "}".repeat(1_000));
    let levels = format!("{}{}", "{x".repeat(5_000), "}".repeat(5_000));
    for pattern in [
        "*a".repeat(10_000) + "b",
        "*a?".repeat(5_000) + "b",
        "*[a-b]a".repeat(2_000) + "b",
        format!("*[{}]*b", "xy-z".repeat(5_000)),
        "**.a.".repeat(60) + "b",
        "{**,a}.{,a}.".repeat(40) + "b",
        "{*a*a*a*a*b,*a*a*a*c}".repeat(5) + "b.*",
        "{,a}".repeat(12) + "*b",
        format!("{{{}}}", "*a*b,".repeat(4_000)),
        "{".repeat(GLOB_BYTES_MAX),
        "{a,b,c,d,e,f,g}".to_owned() + &"[".repeat(GLOB_BYTES_MAX - 15),
        "{,".repeat(GLOB_BYTES_MAX / 2),
        "{}".repeat(GLOB_BYTES_MAX / 2),
        "{[".repeat(GLOB_BYTES_MAX / 2),
        "[".repeat(GLOB_BYTES_MAX),
        "[!-".repeat(GLOB_BYTES_MAX / 3),
        nested,
        levels,
    ] {
        if let Ok(glob) = Glob::parse(pattern.as_bytes()) {
            assert!(!glob.matches(name.as_bytes()) && !glob.matches(depth.as_bytes()));
        }
    }
    // A hundred times what it takes; what is exponential would not end.
    assert!(begun.elapsed() < Duration::from_secs(60));
}

#[test]
fn a_walk_is_told_what_to_look_at() {
    let check = |pattern: &str, path: &[&str], want: Option<&[&str]>, whole: bool, on: bool| {
        let glob = glob(pattern);
        let step = |state, part: &&str| glob.step(state, part.as_bytes());
        let state = path.iter().fold(glob.start(), step);
        let want = want.map(|texts| texts.iter().map(|text| (*text).into()).collect());
        let got = glob.literals(state).map(|texts| {
            texts.iter().map(|text| String::from_utf8(text.to_vec()).unwrap()).collect::<Vec<_>>()
        });
        assert_eq!(got, want, "{pattern} at {path:?}");
        let ends = (glob.is_whole(state), glob.goes_on(state));
        assert_eq!(ends, (whole, on), "{pattern} at {path:?}");
    };
    check("a.{c,b,c}.d*", &[], Some(&["a"]), false, true);
    check("a.{c,b,c}.d*", &["a"], Some(&["b", "c"]), false, true);
    check("a.{c,b,c}.d*", &["a", "b"], None, false, true);
    check("a.{c,b,c}.d*", &["a", "x"], Some(&[]), false, false);
    check("a.{c,b,c}.d*", &["a", "b", "dd"], Some(&[]), true, false);
    check("{a,b*}.c", &[], None, false, true);
    check("**.c", &["x"], None, false, true);
    check("**.c", &["c"], None, true, true);
    check("a.**", &["a"], None, false, true);
    check("a.**", &["a", "b"], None, true, true);
    check("{,a}.b", &[], None, false, true);
    check("{,a}.b", &["a"], Some(&["b"]), false, true);
    check("{,a}.b", &["b"], Some(&[]), true, false);
    check("[a][[]*", &[], None, false, true);
    check("[a][[].[x", &["a["], Some(&["[x"]), false, true);
}

/// The texts of a segment as graphite-web makes them: the innermost braces first.
fn expand(text: &str) -> Vec<String> {
    let Some(close) = text.find('}') else { return expand_behind(text) };
    let Some(open) = text[..close].rfind('{') else { return expand_behind(text) };
    let parts = text[open + 1..close].split(',');
    parts
        .flat_map(|part| expand(&format!("{}{part}{}", &text[..open], &text[close + 1..])))
        .collect()
}

/// The same where the first closing brace has no partner.
fn expand_behind(text: &str) -> Vec<String> {
    let Some(close) = text.find('}') else { return vec![text.to_owned()] };
    let behind = expand(&text[close + 1..]);
    behind.iter().map(|rest| format!("{}{rest}", &text[..=close])).collect()
}

/// `fnmatch`, trying every length of every star. Classes hold no hyphens and no brackets here.
fn is_match(pattern: &[char], text: &[char]) -> bool {
    let Some((first, rest)) = pattern.split_first() else { return text.is_empty() };
    let end = rest.iter().position(|c| *c == ']').filter(|end| *end > usize::from(rest[0] == '!'));
    match (first, end) {
        ('*', _) => (0..=text.len()).any(|skip| is_match(rest, &text[skip..])),
        ('[', Some(end)) => text.split_first().is_some_and(|(c, left)| {
            let (is_negated, members) = match rest[0] {
                '!' => (true, &rest[1..end]),
                _ => (false, &rest[..end]),
            };
            members.contains(c) != is_negated && is_match(&rest[end + 1..], left)
        }),
        (one, _) => text
            .split_first()
            .is_some_and(|(c, left)| (*one == '?' || one == c) && is_match(rest, left)),
    }
}

/// Names below segments of a pattern, trying every depth of every `**`.
fn is_name(pattern: &[Vec<String>], name: &[&str]) -> bool {
    let Some((first, rest)) = pattern.split_first() else { return name.is_empty() };
    first.iter().any(|text| match text.as_str() {
        "**" if rest.is_empty() => !name.is_empty(),
        "**" => (0..=name.len()).any(|skip| is_name(rest, &name[skip..])),
        "" if !rest.is_empty() => is_name(rest, name),
        text => name.split_first().is_some_and(|(part, left)| {
            let (text, part): (Vec<char>, Vec<char>) =
                (text.chars().collect(), part.chars().collect());
            is_match(&text, &part) && is_name(rest, left)
        }),
    })
}

/// Segments of all that means something, and a last one without classes.
const PATTERNS: &str = concat!(
    r"((\*\*|([ab\u{e9}*?{},]|\[!?[ab\u{e9}]{1,2}\]|[\[{}]){1,7})\.){0,3}",
    r"[ab\u{e9}*?{},]{1,4}",
);
const NAMES: &str = r"[ab\u{e9}{,]{1,4}(\.[ab\u{e9}]{1,3}){0,3}";

fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases(4_000))]

    #[test]
    fn made_up_patterns_match_what_they_should(
        pattern in PATTERNS,
        names in prop::collection::vec(NAMES, 1..20),
    ) {
        let Ok(glob) = Glob::parse(pattern.as_bytes()) else {
            prop_assert!(expand(pattern.rsplit('.').next().unwrap()).iter().all(String::is_empty));
            return Ok(());
        };
        let segments: Vec<Vec<String>> = pattern.split('.').map(expand).collect();
        for name in names {
            let parts: Vec<&str> = name.split('.').collect();
            let want = is_name(&segments, &parts);
            prop_assert_eq!(glob.matches(name.as_bytes()), want, "{} and {}", pattern, name);
            // A walk comes to the same, and is not told to leave out what matches.
            let mut state = glob.start();
            for part in &parts {
                prop_assert!(!want || glob.goes_on(state));
                let next = glob.step(state, part.as_bytes());
                if let Some(literals) = glob.literals(state) {
                    let is_listed = literals.iter().any(|text| **text == *part.as_bytes());
                    prop_assert_eq!(is_listed, next != DEAD);
                }
                state = next;
            }
            prop_assert_eq!(glob.is_whole(state), want);
        }
    }

    #[test]
    fn any_bytes_are_a_pattern_or_not(pattern: Vec<u8>, name: Vec<u8>) {
        if let Ok(glob) = Glob::parse(&pattern) {
            glob.matches(&name);
        }
    }
}
