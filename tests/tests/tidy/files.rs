//! What every file has to say of itself, and how long it may be.

use super::source::{Source, root};

/// Longer files have outgrown their name.
const LINES_MAX: usize = 600;
/// Two of them beside each other on a screen.
const COLUMNS_MAX: usize = 110;

/// Rooms whose files say what they must never know: what is replayed from a seed.
const NEVER_KNOW: &[&str] = &["node/core/src/"];

pub fn says_what_it_is(source: &Source) -> Vec<String> {
    let mut found = Vec::new();
    if !source.path.contains("src/")
        || source.path.ends_with("/main.rs") && source.document().count() > 0
    {
        return found;
    }
    if source.document().next().is_none() {
        found.push(format!(
            "{}: opens without saying what it is (`//!`)",
            source.path
        ));
    }
    let must = NEVER_KNOW.iter().any(|room| source.path.starts_with(room)) && !source.is_test;
    let said: String = source.document().flat_map(|line| [line, " "]).collect();
    if must && !said.to_lowercase().contains("must never know") {
        found.push(format!(
            "{}: does not say what it must never know",
            source.path
        ));
    }
    found
}

/// A name in backticks that looks like a path of this project.
pub fn names_what_exists(source: &Source) -> Vec<String> {
    let names = source
        .document()
        .flat_map(|line| line.split('`').skip(1).step_by(2));
    let gone = names.filter(|name| looks_like_a_file(name) && !exists(&source.path, name));
    gone.map(|name| format!("{}: names `{name}`, which is not there", source.path))
        .collect()
}

fn looks_like_a_file(name: &str) -> bool {
    let ending = [".rs", ".md", ".py", ".proto", ".toml", ".sh"];
    let plain = name
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || "._-/".contains(c));
    let rooms = [
        "node/", "wal/", "raft/", "mvcc/", "tests/", "benches/", "docs/", "src/",
    ];
    plain
        && (ending.iter().any(|end| name.ends_with(end))
            || rooms.iter().any(|room| name.starts_with(room)))
}

/// Looked for from the root, and from each folder above the file, with and without `src` and `tests`.
fn exists(path: &str, name: &str) -> bool {
    let name = name.trim_end_matches('/');
    let mut folder = std::path::Path::new(path).parent();
    while let Some(here) = folder {
        let at = root().join(here);
        let places = [
            at.join(name),
            at.join("src").join(name),
            at.join("tests").join(name),
        ];
        if places
            .iter()
            .any(|p| p.exists() || p.with_extension("rs").exists())
        {
            return true;
        }
        folder = here.parent();
    }
    false
}

pub fn too_long(source: &Source) -> Vec<String> {
    let mut found = Vec::new();
    let lines = source.text.lines().count();
    if lines > LINES_MAX {
        found.push(format!(
            "{}: {lines} lines, at most {LINES_MAX}: split it by what it does",
            source.path
        ));
    }
    for (at, line) in (1..).zip(source.text.lines()) {
        let columns = line.chars().count();
        // A row of a table cannot be broken.
        let is_row = line
            .trim_start()
            .trim_start_matches(['/', '!'])
            .starts_with(" |");
        if columns > COLUMNS_MAX && !is_row {
            found.push(format!(
                "{}:{at}: {columns} columns, at most {COLUMNS_MAX}",
                source.path
            ));
        }
    }
    found
}

pub fn break_each() {
    let source = |text: &str| Source::new("node/core/src/new.rs", text);
    let good = "//! New, beside `turn.rs`. Must never know: what it is for.\n\nfn new() {}\n";
    for rule in [says_what_it_is, names_what_exists, too_long] {
        assert_eq!(rule(&source(good)), [""; 0]);
    }
    let silent = says_what_it_is(&source("fn new() {}\n"));
    assert_eq!(silent.len(), 2, "{silent:?}");
    assert_eq!(
        says_what_it_is(&source("//! New.\n")).len(),
        1,
        "nothing about what it must not know"
    );
    assert_eq!(
        names_what_exists(&source("//! See `gone.rs` and `docs/gone.md`.\n")).len(),
        2
    );
    assert_eq!(too_long(&source(&"\n".repeat(LINES_MAX + 1))).len(), 1);
    assert_eq!(too_long(&source(&"x".repeat(COLUMNS_MAX + 1))).len(), 1);
}
