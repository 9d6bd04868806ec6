//! Runs transcripts: files of commands and the exact output they must give, log lines included.
//!
//! Sources: `../shared/raft-transcripts` beside the project (etcd's own, where present), every directory
//! in `HENGE_TRANSCRIPTS` (colon-separated), and this project's own in `tests/transcripts/own`, which
//! are written to be read as lectures. What a file is about (a cluster, a quorum, a configuration) is
//! told from its first command. `HENGE_TRANSCRIPTS_SHOW=1` prints what was got, for writing new ones.

mod confchange;
mod datadriven;
mod interaction;
mod nodes;
mod output;
mod quorum;

use std::fs;
use std::path::{Path, PathBuf};

use datadriven::Case;

const SHARED: &str = "../../shared/raft-transcripts";
const OWN: &str = "tests/transcripts/own";

#[test]
fn transcripts() {
    let mut failures = Vec::new();
    let mut passed = 0;
    for file in files() {
        match run(&file) {
            Ok(()) => {
                println!("passed {}", file.display());
                passed += 1;
            }
            Err(report) => failures.push(report),
        }
    }
    println!("{passed} transcripts passed, {} failed", failures.len());
    assert!(
        passed + failures.len() > 0,
        "no transcript was found, not even our own in {OWN}"
    );
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// All transcripts of all sources, in order of their names within each.
fn files() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let shared = root.join(SHARED);
    let further = std::env::var("HENGE_TRANSCRIPTS").unwrap_or_default();
    let mut directories: Vec<PathBuf> = further
        .split(':')
        .filter(|path| !path.is_empty())
        .map(PathBuf::from)
        .collect();
    for directory in &directories {
        assert!(
            directory.is_dir(),
            "HENGE_TRANSCRIPTS names no directory: {}",
            directory.display()
        );
    }
    if shared.is_dir() {
        directories.push(shared);
    }
    if directories.is_empty() {
        println!(
            "neither {SHARED} nor HENGE_TRANSCRIPTS is there: running only our own transcripts"
        );
    }
    directories.push(root.join(OWN));
    let mut files = Vec::new();
    for directory in directories {
        collect(&directory, &mut files);
    }
    files
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) {
    let entries = fs::read_dir(directory)
        .unwrap_or_else(|error| panic!("cannot list {}: {error}", directory.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "txt") {
            files.push(path);
        }
    }
}

/// Runs one file to its end. The report names each line whose output differs.
fn run(file: &Path) -> Result<(), String> {
    let text = fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
    let cases = datadriven::parse(&text).map_err(|error| format!("{}: {error}", file.display()))?;
    let mut handle = handler(&cases);
    let mut report = String::new();
    for case in &cases {
        let mut got = handle(case);
        if !got.is_empty() && !got.ends_with('\n') {
            got.push('\n');
        }
        if std::env::var_os("HENGE_TRANSCRIPTS_SHOW").is_some() {
            println!("{}\n----\n{got}", case.command);
        }
        if got != case.expected {
            report += &format!(
                "{}:{}: {}\nexpected:\n{}got:\n{got}\n",
                file.display(),
                case.line,
                case.command,
                case.expected
            );
        }
    }
    match report.is_empty() {
        true => Ok(()),
        false => Err(report),
    }
}

fn handler(cases: &[Case]) -> Box<dyn FnMut(&Case) -> String> {
    match cases.first().map(|case| case.command.as_str()) {
        Some("committed" | "vote") => Box::new(quorum::handle),
        Some("simple" | "enter-joint" | "leave-joint") => {
            let mut environment = confchange::Environment::new();
            Box::new(move |case| environment.handle(case))
        }
        _ => {
            let mut environment = interaction::Environment::new();
            Box::new(move |case| environment.handle(case))
        }
    }
}
