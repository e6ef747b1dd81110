//! The house rules a machine can hold: layers, sizes, and words that do not belong.

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
    (
        "tasks",
        &["limits", "metric", "wire", "schema", "wal", "whisper", "shard", "sys", "stats", "fatal"],
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
            "tasks", "fatal", "logging",
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
    ("libc::", &["sys", "tasks"]),
    (".await", &["sys", "tasks"]),
    ("async fn", &["sys", "tasks"]),
    ("Mutex", &["logging"]),
    ("RwLock", &[]),
    ("process::exit", &["fatal", "node"]),
];

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
    let text = text.split("#[cfg(test)]\nmod tests {").next().expect("readable sources");
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
