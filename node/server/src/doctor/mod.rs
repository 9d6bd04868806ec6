//! `henge doctor [DIR]`: what this machine offers to an engine whose data would live in DIR, one
//! verdict per line with advice, and how long a durable write takes there.
//!
//! It writes into a folder of its own below DIR and removes it; it changes nothing else and needs no
//! privileges. Exit codes: 0 nothing to fix (notes are allowed); 1 it could not run (DIR is missing or
//! not writable); 2 wrong usage; 3 at least one problem. The checks are functions of a root folder, and
//! are tested on made-up ones.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use serde_json::{Map, Value};

use super::output::{self, out, tell};

mod kernel;
mod latency;
mod limits;
mod storage;

const EXIT_PROBLEM: u8 = 3;

/// Looks at the machine that an engine would run on.
#[derive(Args, Debug)]
pub struct DoctorArgs {
    /// Where the data would live: an existing, writable directory
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What a check found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verdict {
    /// As it should be.
    Ok,
    /// Works; could be better, or is worth knowing.
    Note,
    /// Data or service is at risk.
    Problem,
}

/// One line of the report.
#[derive(Clone, Debug)]
pub(crate) struct Check {
    name: &'static str,
    verdict: Verdict,
    found: String,
    advice: Option<String>,
    figures: Map<String, Value>,
}

impl Check {
    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Check {
            name,
            verdict: Verdict::Ok,
            found: found.into(),
            advice: None,
            figures: Map::new(),
        }
    }

    /// Makes it a note, unless it is worse already; all advice is kept.
    fn note(self, advice: impl Into<String>) -> Self {
        self.worse(Verdict::Note, advice.into())
    }

    fn problem(self, advice: impl Into<String>) -> Self {
        self.worse(Verdict::Problem, advice.into())
    }

    fn worse(mut self, verdict: Verdict, advice: String) -> Self {
        self.verdict = self.verdict.max(verdict);
        self.advice = Some(match self.advice.take() {
            Some(before) => format!("{before}; {advice}"),
            None => advice,
        });
        self
    }

    /// A value for `--json`.
    fn figure(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.figures.insert(name.to_owned(), value.into());
        self
    }
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Verdict::Ok => "ok",
            Verdict::Note => "note",
            Verdict::Problem => "problem",
        }
    }
}

/// Runs all checks and prints them.
pub fn run(args: &DoctorArgs) -> ExitCode {
    let checks = match examine(Path::new("/"), &args.dir) {
        Ok(checks) => checks,
        Err(why) => {
            tell!("henge doctor: {why}");
            return ExitCode::FAILURE;
        }
    };
    let worst = worst(&checks);
    if args.json {
        out!("{}", json(&args.dir, &checks));
    } else {
        output::text(&table(&checks));
    }
    if worst == Verdict::Problem {
        ExitCode::from(EXIT_PROBLEM)
    } else {
        ExitCode::SUCCESS
    }
}

/// All checks, or why they cannot be made.
fn examine(root: &Path, dir: &Path) -> Result<Vec<Check>, String> {
    let scratch = latency::Scratch::new(dir)?;
    let mut checks = vec![
        kernel::kernel(root),
        kernel::io_uring(root),
        kernel::memlock(root),
        limits::processors(),
        limits::cgroup(root),
        storage::file_system(root, dir),
        storage::space(dir),
        storage::file_size(),
        storage::device(root, dir),
    ];
    match latency::checks(&scratch) {
        Ok(measured) => checks.extend(measured),
        // That is the problem, and it is among the checks.
        Err(why) if storage::file_size().verdict == Verdict::Problem => {
            checks.push(Check::ok("commit latency", "not measured").note(why));
        }
        Err(why) => return Err(why),
    }
    Ok(checks)
}

fn worst(checks: &[Check]) -> Verdict {
    let verdicts = checks.iter().map(|check| check.verdict);
    verdicts.max().unwrap_or(Verdict::Ok)
}

fn table(checks: &[Check]) -> String {
    let mut out = String::new();
    for check in checks {
        let (name, word) = (check.name, check.verdict.word());
        out += &format!("{word:<9}{name:<16}{}\n", check.found);
        if let Some(advice) = &check.advice {
            out += &format!("{:<25}-> {advice}\n", "");
        }
    }
    let count = |verdict| checks.iter().filter(|c| c.verdict == verdict).count();
    out + &format!(
        "{} ok, {} notes, {} problems\n",
        count(Verdict::Ok),
        count(Verdict::Note),
        count(Verdict::Problem)
    )
}

fn json(dir: &Path, checks: &[Check]) -> Value {
    let checks_json = checks.iter().map(|check| {
        serde_json::json!({
            "name": check.name, "verdict": check.verdict.word(), "found": check.found,
            "advice": check.advice, "figures": check.figures,
        })
    });
    serde_json::json!({
        "dir": dir.display().to_string(),
        "verdict": worst(checks).word(),
        "checks": checks_json.collect::<Vec<_>>(),
    })
}

/// A one-line file, without its end of line.
fn line(path: &Path) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    Some(text.trim().to_owned())
}

/// Bytes for people.
fn size(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1_024.0 && unit + 1 < units.len() {
        value /= 1_024.0;
        unit += 1;
    }
    let digits = usize::from(unit > 0 && value < 100.0);
    format!("{value:.digits$} {}", units[unit])
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A made-up root folder.
    pub(crate) struct Root(pub PathBuf);

    impl Root {
        pub(crate) fn new(name: &str) -> Self {
            let unique = format!("henge-doctor-{}-{name}", std::process::id());
            let path = std::env::temp_dir().join(unique);
            let _ = std::fs::remove_dir_all(&path);
            std::fs::create_dir_all(&path).expect("can be made");
            Root(path)
        }

        pub(crate) fn file(&self, path: &str, text: &str) {
            let path = self.0.join(path);
            std::fs::create_dir_all(path.parent().expect("has one")).expect("can be made");
            std::fs::write(path, text).expect("can be written");
        }
    }

    impl Drop for Root {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn the_real_machine_gets_a_whole_report_and_keeps_no_trace() {
        let root = Root::new("real");
        let checks = examine(Path::new("/"), &root.0).expect("a directory of our own");
        let names: Vec<_> = checks.iter().map(|check| check.name).collect();
        assert_eq!(
            names,
            [
                "kernel",
                "io_uring",
                "memlock",
                "processors",
                "cgroup",
                "file system",
                "space",
                "file size",
                "device",
                "direct I/O",
                "commit latency"
            ]
        );
        for check in &checks {
            assert!(!check.found.is_empty(), "{}", check.name);
            assert_eq!(check.advice.is_some(), check.verdict != Verdict::Ok);
        }
        let latency = checks.last().expect("eleven");
        assert!(latency.figures["pwrite_p50_us"].as_f64() > Some(0.0));
        assert_eq!(
            table(&checks).lines().last().map(|l| l.contains(" ok, ")),
            Some(true)
        );
        let object = json(&root.0, &checks);
        assert_eq!(object["checks"].as_array().map(Vec::len), Some(11));
        assert_eq!(object["verdict"], worst(&checks).word());
        let left = std::fs::read_dir(&root.0).expect("readable").count();
        assert_eq!(left, 0, "its folder is gone");
    }

    #[test]
    fn a_missing_directory_and_a_file_are_named() {
        let root = Root::new("missing");
        let missing = root.0.join("nowhere");
        let why = examine(Path::new("/"), &missing).expect_err("not there");
        assert!(why.contains("nowhere") && why.contains("mkdir"), "{why}");
        root.file("plain", "text");
        let why = examine(Path::new("/"), &root.0.join("plain")).expect_err("a file");
        assert!(why.contains("not a directory"), "{why}");
    }

    #[test]
    fn verdicts_only_get_worse_and_keep_all_advice() {
        let check = Check::ok("x", "y").problem("first").note("second");
        assert_eq!(check.verdict, Verdict::Problem);
        assert_eq!(check.advice.as_deref(), Some("first; second"));
        assert_eq!(worst(&[Check::ok("a", "b"), check]), Verdict::Problem);
    }

    #[test]
    fn sizes_are_readable() {
        assert_eq!(size(512), "512 B");
        assert_eq!(size(8 << 20), "8.0 MiB");
        assert_eq!(size(200 << 30), "200 GiB");
    }
}
