//! The house rules a machine can hold: layers, import circles, sizes, and words that do not belong.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

const FILE_LINES_MAX: usize = 800;
const FUNCTION_LINES_MAX: usize = 70;
const LINE_CHARACTERS_MAX: usize = 100;

/// Who may import whom: a module, and the modules of the crate it may name.
const LAYERS: &[(&str, &[&str])] = &[
    ("limits", &[]),
    ("metric", &["limits"]),
    ("wire", &["limits", "metric"]),
    ("schema", &["limits", "metric"]),
    ("wal", &["limits", "metric"]),
    // Of sys only the hint that memory will be read, which needs unsafe and decides nothing.
    ("cache", &["limits", "metric", "sys"]),
    ("whisper", &["limits", "metric"]),
    ("stats", &["limits"]),
    ("shard", &["limits", "metric", "schema", "cache", "wal", "whisper", "stats"]),
    ("sys", &["limits", "metric"]),
    ("disk", &["limits", "metric", "wal", "whisper", "shard", "sys", "fatal"]),
    (
        "tasks",
        &["limits", "metric", "wire", "schema", "wal", "shard", "sys", "disk", "stats", "fatal"],
    ),
    ("config", &["limits", "schema"]),
    ("query", &["limits", "metric", "wire"]),
    ("admin", &["wire", "sys", "query"]),
    ("toolbox", &["limits", "metric", "schema", "whisper", "sys", "query"]),
    ("loadgen", &["limits", "metric", "wire", "whisper", "query", "sys"]),
    ("cli", &["limits", "wire", "config", "query", "admin", "toolbox", "loadgen"]),
    ("logging", &["config"]),
    ("fatal", &[]),
    (
        "node",
        &[
            "limits", "config", "schema", "metric", "cache", "wal", "shard", "stats", "sys",
            "disk", "tasks", "fatal", "logging",
        ],
    ),
    ("main", &["cli", "node", "toolbox"]),
    ("lib", &[]),
];

/// Words that only some modules may use: the word, and where.
const CONFINED: &[(&str, &[&str])] = &[
    ("glommio::", &["sys"]),
    ("io_uring::", &["sys"]),
    ("unsafe {", &["sys"]),
    ("libc::", &["sys", "disk"]),
    (".await", &["sys", "tasks"]),
    ("async fn", &["sys", "tasks"]),
    ("Mutex", &["logging"]),
    ("RwLock", &[]),
    ("process::exit", &["fatal", "node"]),
];

/// Files of one module that import each other, directly or through others. A circle that appears,
/// grows, shrinks or goes fails the test, so that this list stays exact. Paths are below `src`.
const CIRCLES: &[&[&str]] = &[&[
    "shard/flush.rs",
    "shard/journal.rs",
    "shard/memory.rs",
    "shard/mod.rs",
    "shard/new_names.rs",
]];

fn sources(below: &str) -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(below);
    let mut files = Vec::new();
    let mut directories = vec![root];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).expect("readable sources") {
            let path = entry.expect("readable sources").path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("readable sources");
                files.push((path, text));
            }
        }
    }
    files
}

/// The module below `src` that a file belongs to.
fn module_of(path: &Path) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let first = path
        .strip_prefix(root)
        .expect("readable sources")
        .components()
        .next()
        .expect("a file below src");
    first.as_os_str().to_str().expect("readable sources").trim_end_matches(".rs").to_owned()
}

/// The code of a file without comments and without its tests.
fn code_of(text: &str) -> String {
    let text = text.split("mod tests {").next().expect("readable sources");
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    code.collect::<Vec<_>>().join("\n")
}

fn is_test(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name == "tests.rs")
}

/// Crate modules that a piece of code names.
fn imports(code: &str) -> Vec<String> {
    let mut names = Vec::new();
    for part in code.split("crate::").skip(1) {
        let name: String = part.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        names.push(name);
    }
    names
}

fn check_layers(path: &Path, text: &str) -> Vec<String> {
    let module = module_of(path);
    let layer = LAYERS.iter().find(|(name, _)| *name == module);
    let Some((_, allowed)) = layer else { return vec![format!("{module} has no layer")] };
    imports(&code_of(text))
        .into_iter()
        .filter(|name| *name != module && !allowed.contains(&name.as_str()))
        .map(|name| format!("{}: {module} must not import {name}", path.display()))
        .collect()
}

fn check_confined(path: &Path, text: &str) -> Vec<String> {
    let module = module_of(path);
    let code = code_of(text);
    CONFINED
        .iter()
        .filter(|(word, places)| code.contains(word) && !places.contains(&module.as_str()))
        .map(|(word, _)| format!("{}: {word:?} does not belong in {module}", path.display()))
        .collect()
}

fn check_shape(path: &Path, text: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    let label = path.display();
    let count = text.lines().count();
    if count > FILE_LINES_MAX {
        complaints.push(format!("{label}: {count} lines"));
    }
    if !text.starts_with("//!") {
        complaints.push(format!("{label}: does not open with a module comment"));
    }
    for (number, line) in text.lines().enumerate() {
        if line.chars().count() > LINE_CHARACTERS_MAX {
            complaints.push(format!("{label}:{}: longer than 100 characters", number + 1));
        }
        for word in ["todo!", "unimplemented!", "dbg!", "TODO", "FIXME", "#[ignore"] {
            if line.contains(word) && !label.to_string().ends_with("tidy.rs") {
                complaints.push(format!("{label}:{}: {word}", number + 1));
            }
        }
    }
    complaints.extend(check_functions(path, text));
    complaints
}

/// Functions by indentation: rustfmt closes a function where its `fn` line begins.
fn check_functions(path: &Path, text: &str) -> Vec<String> {
    let lines: Vec<&str> = text.lines().collect();
    let mut complaints = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let indent = line.len() - line.trim_start().len();
        let is_function = ["fn ", "pub fn ", "pub(crate) fn ", "pub(super) fn ", "async fn "]
            .iter()
            .any(|word| line.trim_start().starts_with(word))
            || line.trim_start().starts_with("pub async fn ");
        if !is_function {
            continue;
        }
        let close = format!("{}}}", " ".repeat(indent));
        let length = lines[start..].iter().position(|line| *line == close).unwrap_or(0);
        if length > FUNCTION_LINES_MAX {
            complaints.push(format!("{}:{}: {length} lines", path.display(), start + 1));
        }
    }
    complaints
}

/// The `path::segments` of every path in the code that begins in this crate, groups spelled out.
/// The first segment is `crate`, `super` or `self`, or in a `mod.rs` one of its own modules.
fn paths_in(code: &str, own: &[String]) -> Vec<Vec<String>> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut paths = Vec::new();
    for (start, _) in code.match_indices("::") {
        let head = code[..start].rsplit(|c| !is_word(c)).next().unwrap_or_default();
        let before = &code[..start - head.len()];
        let begins = ["crate", "super", "self"].contains(&head) || own.iter().any(|o| o == head);
        if begins && !before.ends_with("::") {
            spell_out(&code[start + 2..], vec![head.to_owned()], &mut paths);
        }
    }
    paths
}

/// Adds the paths that continue `prefix` at the start of `text`; returns what follows them.
fn spell_out<'a>(text: &'a str, prefix: Vec<String>, paths: &mut Vec<Vec<String>>) -> &'a str {
    let mut text = text.trim_start();
    if let Some(group) = text.strip_prefix('{') {
        text = group;
        while !text.trim_start().starts_with('}') {
            text = spell_out(text, prefix.clone(), paths).trim_start();
            text = text.strip_prefix(',').unwrap_or(text);
            assert!(!text.is_empty(), "a group of imports is not closed: {prefix:?}");
        }
        return &text.trim_start()[1..];
    }
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    let (word, rest) = text.split_at(end);
    let path = [prefix, vec![word.to_owned()]].concat();
    match rest.strip_prefix("::") {
        Some(rest) => spell_out(rest, path, paths),
        None => {
            paths.push(path);
            let alias = rest
                .strip_prefix(" as ")
                .map(|alias| alias.trim_start_matches(|c: char| c.is_alphanumeric() || c == '_'));
            // A glob, or the name that an import gets here.
            alias.unwrap_or_else(|| rest.strip_prefix('*').unwrap_or(rest))
        }
    }
}

/// The module path of a file below `src`: `[sys, ring]` of `sys/ring.rs`, `[sys]` of `sys/mod.rs`.
fn module_path(file: &str) -> Vec<String> {
    let stem = file.trim_end_matches(".rs").trim_end_matches("/mod");
    stem.split('/').map(str::to_owned).collect()
}

/// The files that each file imports from its own top-level module. What a `mod.rs` re-exports
/// belongs to the file that it comes from.
fn imports_between(files: &BTreeMap<String, String>) -> BTreeMap<String, BTreeSet<String>> {
    let by_path: BTreeMap<Vec<String>, &String> =
        files.keys().map(|file| (module_path(file), file)).collect();
    let mut exported: BTreeMap<Vec<String>, Vec<String>> = BTreeMap::new();
    let mut named: BTreeMap<&String, Vec<Vec<String>>> = BTreeMap::new();
    for (file, code) in files {
        let here = module_path(file);
        let own: Vec<String> = by_path
            .keys()
            .filter(|path| path.len() == here.len() + 1 && path.starts_with(&here))
            .map(|path| path[here.len()].clone())
            .collect();
        let absolute = |path: Vec<String>| {
            let mut from = match path[0].as_str() {
                "crate" => Vec::new(),
                "super" => here[..here.len() - 1].to_vec(),
                _ => here.clone(),
            };
            let skip = usize::from(["crate", "super", "self"].contains(&path[0].as_str()));
            from.extend_from_slice(&path[skip..]);
            from
        };
        for statement in code.split_inclusive(';') {
            let paths = paths_in(statement, &own).into_iter().map(absolute);
            let is_export =
                statement.trim_start().starts_with("pub") && statement.contains(" use ");
            if is_export && file.ends_with("mod.rs") {
                for path in paths {
                    let name = path.last().expect("a path has a last word").clone();
                    exported.insert([here.clone(), vec![name]].concat(), path);
                }
            } else {
                named.entry(file).or_default().extend(paths);
            }
        }
    }
    let resolve = |path: &Vec<String>| {
        let path = exported.get(path).unwrap_or(path);
        (1..=path.len()).rev().find_map(|length| by_path.get(&path[..length])).copied()
    };
    let mut edges: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (file, paths) in named {
        let found = paths.iter().filter(|path| path[0] == module_path(file)[0]).filter_map(resolve);
        let found = found.filter(|other| *other != file).cloned();
        edges.insert(file.clone(), found.collect());
    }
    edges
}

/// The files that can be reached from one over imports.
fn reach<'a>(
    edges: &'a BTreeMap<String, BTreeSet<String>>,
    from: &'a String,
) -> BTreeSet<&'a String> {
    let (mut seen, mut next) = (BTreeSet::new(), vec![from]);
    while let Some(file) = next.pop() {
        next.extend(edges.get(file).into_iter().flatten().filter(|&to| seen.insert(to)));
    }
    seen
}

/// The largest sets of files of which each reaches each other.
fn circles(edges: &BTreeMap<String, BTreeSet<String>>) -> BTreeSet<Vec<String>> {
    let reached: BTreeMap<&String, BTreeSet<&String>> =
        edges.keys().map(|file| (file, reach(edges, file))).collect();
    let circle_of = |file: &String| -> Vec<String> {
        let both = |other: &&&String| reached.get(**other).is_some_and(|back| back.contains(file));
        reached[file].iter().filter(both).map(|&other| other.clone()).collect()
    };
    edges.keys().map(circle_of).filter(|circle| circle.len() > 1).collect()
}

fn report(complaints: &[String]) {
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

#[test]
fn imports_point_down() {
    let files = sources("src");
    assert!(files.len() > 40, "found only {} files", files.len());
    let kept = files.iter().filter(|(path, _)| !is_test(path));
    report(&kept.flat_map(|(path, text)| check_layers(path, text)).collect::<Vec<_>>());
}

#[test]
fn files_of_a_module_import_each_other_in_no_circle_but_the_known() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let files: BTreeMap<String, String> = sources("src")
        .into_iter()
        .filter(|(path, _)| !is_test(path) && !path.to_string_lossy().ends_with("_tests.rs"))
        .map(|(path, text)| {
            let file = path.strip_prefix(&root).expect("a file below src");
            (file.to_str().expect("readable sources").to_owned(), code_of(&text))
        })
        .collect();
    let found = circles(&imports_between(&files));
    let known: BTreeSet<Vec<String>> =
        CIRCLES.iter().map(|circle| circle.iter().map(|&file| file.to_owned()).collect()).collect();
    let new = found.difference(&known).map(|circle| format!("new circle: {circle:?}"));
    let gone = known
        .difference(&found)
        .map(|circle| format!("not a circle now, remove it from CIRCLES: {circle:?}"));
    report(&new.chain(gone).collect::<Vec<_>>());
}

#[test]
fn words_stay_where_they_belong() {
    let files = sources("src");
    let kept = files.iter().filter(|(path, _)| !is_test(path));
    report(&kept.flat_map(|(path, text)| check_confined(path, text)).collect::<Vec<_>>());
}

#[test]
fn files_functions_and_lines_stay_small() {
    let mut complaints = Vec::new();
    for (path, text) in sources("src").iter().chain(&sources("tests")) {
        complaints.extend(check_shape(path, text));
    }
    report(&complaints);
}

#[test]
fn the_map_names_every_module() {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs"));
    let text = text.expect("readable sources");
    for line in text.lines().filter_map(|line| line.strip_prefix("pub mod ")) {
        let module = line.trim_end_matches(';');
        assert!(text.contains(&format!("[`{module}`]")), "the map in lib.rs lacks {module}");
        assert!(LAYERS.iter().any(|(name, _)| *name == module), "{module} has no layer");
    }
}

#[test]
fn the_rules_find_what_breaks_them() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cache/planted.rs");
    assert_eq!(check_layers(&path, "use crate::tasks::core;\n").len(), 1);
    assert_eq!(check_layers(&path, "use crate::metric::name;\n// crate::sys\n").len(), 0);
    assert_eq!(check_confined(&path, "fn f() { unsafe { x() } }\n").len(), 1);
    let long = format!("//! x\nfn f() {{\n{}}}\n", "    x();\n".repeat(71));
    assert_eq!(check_shape(&path, &long).len(), 1);
    assert_eq!(check_shape(&path, "fn f() {}\n").len(), 1);
    assert_eq!(check_shape(&path, &format!("//! {}\n", "x".repeat(100))).len(), 1);
}

#[test]
fn circles_are_found_through_groups_and_exports() {
    let check = |files: &[(&str, &str)], want: &[&str]| {
        let files = files.iter().map(|&(file, code)| (file.to_owned(), code.to_owned())).collect();
        let found: Vec<String> = circles(&imports_between(&files)).into_iter().flatten().collect();
        assert_eq!(found, want, "{files:?}");
    };
    let (a, b, c) = ("x/a.rs", "x/b.rs", "x/c.rs");
    check(&[(a, "use crate::x::b::T;"), (b, "use crate::x::c;"), (c, "")], &[]);
    check(&[(a, "use crate::x::b::T;"), (b, "use super::a;")], &[a, b]);
    check(&[(a, "use super::{c, b::{T, U as V}};"), (b, "crate::x::c::f()"), (c, "")], &[]);
    check(&[(a, "use super::{b::{T, U as V}, c};"), (b, ""), (c, "super::a::f()")], &[a, c]);
    let top = "x/mod.rs";
    check(&[(top, "mod a; pub use a::T; mod b;"), (a, ""), (b, "use crate::x::T;")], &[]);
    check(&[(top, "mod a; fn f() { a::g() }"), (a, "use super::Own;")], &[a, top]);
    check(&[(a, "use crate::x::b::T;"), ("y/b.rs", "use crate::x::a;"), (b, "")], &[]);
}
