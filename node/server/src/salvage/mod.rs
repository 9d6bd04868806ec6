//! `henge wal salvage DIR`: everything that can be read of a damaged log and of its checkpoints, key by key
//! as JSON lines, each key with whether it may be wrong.
//!
//! For a member that is alone: where others have the data, they are asked. It reads and never writes into
//! DIR, takes no lock, and never says that what it brings out is whole unless nothing at all was found
//! damaged. Why JSON and not a directory to start from: decision 22.
//!
//! Exit codes: 0 nothing is damaged and no key is doubtful; 1 it could not run; 2 wrong usage; 4 the log
//! cannot be read even so; 5 something is damaged, cut, missing or doubtful: the lines say what.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use clap::Args;
use henge::machine::Machine;
use henge::mvcc::{KeyRange, RangeRequest, Store};
use henge_wal::inspect;
use henge_wal::repair::{self, Plan};
use henge_wal::{Healed, OpenReport};
use serde_json::{Value, json};

use super::output::tell;

mod collect;

pub use collect::{Collector, Doubt, Hole, Salvaged};

const EXIT_REFUSED: u8 = 4;
const EXIT_DOUBTFUL: u8 = 5;

/// Brings out what can be read.
#[derive(Args, Debug)]
pub struct SalvageArgs {
    /// A data directory, or one core's log in it
    dir: PathBuf,
    /// Write the lines to this new file instead of to standard output
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// What was brought out of one log and the checkpoints beside it.
pub struct Found {
    /// By group.
    pub groups: BTreeMap<u64, Salvaged>,
    /// What of the log or the checkpoints is damaged, in words.
    pub damage: Vec<String>,
}

impl Found {
    /// Nothing is damaged, and no key is doubtful.
    pub fn is_whole(&self) -> bool {
        let sure = |group: &Salvaged| group.doubtful.is_empty() && !group.may_miss_keys;
        self.damage.is_empty() && self.groups.values().all(sure)
    }
}

/// Runs the tool over all logs below the directory.
pub fn run(args: &SalvageArgs) -> ExitCode {
    match salvage(args) {
        Ok(code) => ExitCode::from(code),
        Err(why) => {
            tell!("henge wal salvage: {why}");
            ExitCode::FAILURE
        }
    }
}

fn salvage(args: &SalvageArgs) -> Result<u8, String> {
    let logs = logs(&args.dir)?;
    let mut out: Box<dyn Write> = match &args.out {
        None => Box::new(BufWriter::new(io::stdout().lock())),
        Some(path) => Box::new(BufWriter::new(create(path, &args.dir)?)),
    };
    let mut worst = 0;
    for log in logs {
        let found = match read(&log) {
            Ok(found) => found,
            Err(why) => {
                tell!("henge wal salvage: {}: {why}", log.display());
                worst = worst.max(EXIT_REFUSED);
                continue;
            }
        };
        for line in told(&log, &found) {
            tell!("henge wal salvage: {line}");
        }
        if !found.is_whole() {
            worst = worst.max(EXIT_DOUBTFUL);
        }
        if let Err(error) = write(&mut out, &log, &found) {
            return match error.kind() {
                // A reader that went away (`| head`) has what it wanted.
                io::ErrorKind::BrokenPipe => Ok(worst),
                _ => Err(format!("writing the lines: {error}")),
            };
        }
    }
    out.flush()
        .map_err(|error| format!("writing the lines: {error}"))?;
    Ok(worst)
}

/// The file for the lines: a new one, and not among what is to be salvaged.
fn create(path: &Path, source: &Path) -> Result<File, String> {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    let inside = match (folder.canonicalize(), source.canonicalize()) {
        (Ok(folder), Ok(source)) => folder.starts_with(source),
        _ => false,
    };
    if inside {
        return Err(format!(
            "--out {}: lies in the directory that is to be salvaged, which is not written to",
            path.display()
        ));
    }
    let opened = OpenOptions::new().write(true).create_new(true).open(path);
    opened.map_err(|error| format!("--out {}: {error}", path.display()))
}

/// The logs below a directory, also those whose IDENTITY is gone.
fn logs(dir: &Path) -> Result<Vec<PathBuf>, String> {
    let is_log = |path: &Path| {
        let files = std::fs::read_dir(path).into_iter().flatten().flatten();
        let mut names = files.filter_map(|file| file.file_name().into_string().ok());
        names.any(|name| name == "IDENTITY" || name.ends_with(".seg"))
    };
    if is_log(dir) {
        return Ok(vec![dir.to_owned()]);
    }
    let entries = std::fs::read_dir(dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    let mut logs: Vec<_> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| is_log(path))
        .collect();
    logs.sort();
    match logs.is_empty() {
        true => Err(format!(
            "{}: no log here (no segment files, no core-N with some)",
            dir.display()
        )),
        false => Ok(logs),
    }
}

/// Everything that can be read of a log, and of the checkpoints beside it.
pub fn read(log: &Path) -> Result<Found, String> {
    let mut collector = Collector::default();
    let mut damage = Vec::new();
    for (group, index, path) in checkpoints(log) {
        match restore(&path) {
            Ok(machine) => collector.restored(group, machine),
            Err(why) => {
                damage.push(format!("{}: {why}", path.display()));
                collector.without_checkpoint(group, index);
            }
        }
    }
    let (plan, found) = repair::read(log, &mut collector).map_err(|error| match error {
        repair::RepairError::Open(error) => error.facts(),
        error => error.to_string(),
    })?;
    damage.extend(damages(&plan, &found.report));
    Ok(Found {
        groups: collector.finish(),
        damage,
    })
}

/// Each group's newest checkpoint: group, last entry in it, file.
fn checkpoints(log: &Path) -> Vec<(u64, u64, PathBuf)> {
    let beside = log.parent().map(|dir| dir.join("checkpoints"));
    let folders = [Some(log.join("checkpoints")), beside];
    let mut newest: BTreeMap<u64, (u64, PathBuf)> = BTreeMap::new();
    for folder in folders.into_iter().flatten() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let Some((group, index)) = named(&path) else {
                continue;
            };
            let known = newest.get(&group).map_or(0, |(index, _)| *index);
            if index >= known {
                newest.insert(group, (index, path));
            }
        }
    }
    let newest = newest.into_iter();
    newest
        .map(|(group, (index, path))| (group, index, path))
        .collect()
}

fn named(path: &Path) -> Option<(u64, u64)> {
    let name = path.file_name()?.to_str()?.strip_suffix(".ckpt")?;
    let (group, index) = name.split_once('-')?;
    let number = |text| u64::from_str_radix(text, 16).ok();
    Some((number(group)?, number(index)?))
}

fn restore(path: &Path) -> Result<Machine, String> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let mut disk = inspect::disk(folder);
    let read = henge::restore::read(&mut disk, &name);
    read.map(|(.., machine)| machine)
        .map_err(|error| error.to_string())
}

/// What is damaged of the log.
fn damages(plan: &Plan, report: &OpenReport) -> Vec<String> {
    let bridges = plan.bridges.iter().map(|bridge| {
        let (first, last) = bridge.batches;
        format!(
            "{} offset {}, {} bytes: batches {first}..={last} cannot be read",
            bridge.file.display(),
            bridge.offset,
            bridge.bytes
        )
    });
    let headers = plan.headers.iter();
    let headers = headers.map(|file| format!("{}: no copy of the header", file.display()));
    let cut = report.cut.iter().map(|cut| {
        format!(
            "{} offset {}, {} bytes: written, and nothing shows that it was acknowledged",
            cut.file.display(),
            cut.offset,
            cut.bytes
        )
    });
    let mut all: Vec<String> = bridges.chain(headers).chain(cut).collect();
    all.extend(report.damaged.iter().map(ToString::to_string));
    all.extend(report.healed.iter().map(Healed::to_string));
    all
}

/// A few words for people.
fn told(log: &Path, found: &Found) -> Vec<String> {
    let log = log.display();
    let mut lines: Vec<String> = found
        .damage
        .iter()
        .map(|what| format!("{log}: damaged: {what}"))
        .collect();
    for (group, salvaged) in &found.groups {
        let store = &salvaged.machine.store;
        let mut text = format!(
            "{log}: group {group}: {} keys at revision {}, {} doubtful",
            keys(store).len(),
            store.revision(),
            salvaged.doubtful.len()
        );
        for hole in &salvaged.holes {
            text += &match hole.last {
                Some(last) => format!("; entries {}..={last} are missing", hole.first),
                None => format!("; entries from {} on are missing", hole.first),
            };
        }
        if salvaged.may_miss_keys {
            text += "; keys may be missing that nobody can name";
        }
        if salvaged.corrected > 0 {
            text += &format!("; {} entries put right by a checksum", salvaged.corrected);
        }
        if salvaged.uncommitted > 0 {
            text += &format!(
                "; {} entries perhaps never acknowledged",
                salvaged.uncommitted
            );
        }
        lines.push(text);
    }
    if !found.is_whole() {
        lines.push(format!(
            "{log}: this is not whole; what may be wrong is marked"
        ));
    }
    lines
}

fn keys(store: &Store) -> Vec<henge::mvcc::KeyValue> {
    let all = RangeRequest {
        range: KeyRange::all(),
        ..RangeRequest::default()
    };
    store.range(&all).unwrap_or_default().kvs
}

/// The lines: of each group first what may be wrong at all, then its keys, then those that are doubtful and
/// not there.
fn write(out: &mut dyn Write, log: &Path, found: &Found) -> io::Result<()> {
    let head = json!({
        "salvaged": log.display().to_string(), "whole": found.is_whole(), "damage": found.damage,
    });
    writeln!(out, "{head}")?;
    for (group, salvaged) in &found.groups {
        writeln!(out, "{}", summary(*group, salvaged))?;
        let kvs = keys(&salvaged.machine.store);
        for kv in &kvs {
            let doubt = salvaged.doubtful.get(&kv.key[..]).copied();
            let line = json!({
                "group": group, "key": BASE64_STANDARD.encode(&kv.key),
                "value": BASE64_STANDARD.encode(&kv.value), "create_revision": kv.create_revision,
                "mod_revision": kv.mod_revision, "version": kv.version, "lease": kv.lease,
                "doubt": doubt.map(Doubt::text),
            });
            writeln!(out, "{line}")?;
        }
        for (key, doubt) in &salvaged.doubtful {
            let there = kvs.binary_search_by(|kv| kv.key[..].cmp(&key[..])).is_ok();
            if !there {
                let line = json!({
                    "group": group, "key": BASE64_STANDARD.encode(key), "value": null,
                    "doubt": doubt.text(),
                });
                writeln!(out, "{line}")?;
            }
        }
    }
    Ok(())
}

fn summary(group: u64, salvaged: &Salvaged) -> Value {
    let holes: Vec<Value> = salvaged
        .holes
        .iter()
        .map(|hole| json!({ "first": hole.first, "last": hole.last, "revision": hole.revision }))
        .collect();
    json!({
        "group": group, "revision": salvaged.machine.store.revision(),
        "doubtful_keys": salvaged.doubtful.len(), "missing_entries": holes,
        "keys_may_be_missing": salvaged.may_miss_keys,
        // Each entry that is missing may have taken a revision.
        "revisions_sure_to": salvaged.holes.first().map(|hole| hole.revision),
        "corrected_entries": salvaged.corrected, "unacknowledged_entries": salvaged.uncommitted,
    })
}
