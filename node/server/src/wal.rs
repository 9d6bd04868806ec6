//! `henge wal dump|verify|stat|repair DIR` (`salvage` has a folder of its own): the offline log tools. They
//! read and never write (`repair` only with `--yes`), take no lock to read, and may be pointed at a data
//! directory (all its cores) or at one core's log.
//!
//! Exit codes: 0 whole (copies that are damaged and cost nothing are listed); 1 the tool could not run;
//! 2 wrong usage; 3 a torn tail (the next start cuts it; nothing acknowledged is lost); 4 damage, a missing
//! or foreign segment, or a directory that a start would refuse; 5 damaged groups (a start serves the
//! others). `repair` without `--yes` answers as `verify` would. With it: 0 when the log is whole
//! afterwards; 5 when a log that did not open opens now, with groups that may have lost something damaged
//! (a second `repair --yes` ends these before what they lost); 4 when nothing can be done.

mod repair;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use henge::machine::{Command, command};
use henge_wal::inspect::{self, Verdict};
use henge_wal::{Damage, Healed, OpenError, OpenReport, Record};
use repair::mend;

use super::output::{self, out, tell};

/// What `dump` prints at a time.
const PAGE_BYTES: usize = 64 << 10;

const EXIT_FAILED: u8 = 1;
const EXIT_TORN: u8 = 3;
const EXIT_DAMAGED: u8 = 4;
const EXIT_GROUPS: u8 = 5;

/// Looks at a log without changing it.
#[derive(Args, Debug)]
pub struct WalArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// Print every record in log order
    Dump(Target),
    /// Say whether the log is whole, or where it first is not and what that means
    Verify(Target),
    /// Count segments, batches, bytes and groups
    Stat(Target),
    /// Make a log open that does not, make damaged copies good, end damaged groups before their first
    /// lost entry; without --yes, say what that would give up
    Repair {
        #[command(flatten)]
        target: Target,
        /// Do it. Where groups are ended, entries that were acknowledged are given up: only where no other
        /// member has them
        #[arg(long)]
        yes: bool,
    },
    /// Bring every key that can be read out of a damaged log, as JSON lines that say which may be wrong
    Salvage(super::salvage::SalvageArgs),
}

#[derive(Args, Debug)]
struct Target {
    /// A data directory, or one core's log in it
    dir: PathBuf,
    /// Print JSON: one object per record (dump) or per log
    #[arg(long)]
    json: bool,
}

/// Runs the tool; the worst verdict over all logs is the exit code.
pub fn run(args: &WalArgs) -> ExitCode {
    let target = match &args.action {
        Action::Dump(target)
        | Action::Verify(target)
        | Action::Stat(target)
        | Action::Repair { target, .. } => target,
        Action::Salvage(args) => return super::salvage::run(args),
    };
    let logs = match logs(&target.dir) {
        Ok(logs) => logs,
        Err(why) => {
            tell!("henge wal: {why}");
            return ExitCode::FAILURE;
        }
    };
    let mut worst = 0;
    for log in logs {
        let code = match &args.action {
            Action::Dump(target) => dump(&log, target.json),
            Action::Verify(target) => verify(&log, target.json),
            Action::Stat(target) => stat(&log, target.json),
            Action::Repair { target, yes } => mend(&log, target.json, *yes),
            Action::Salvage(_) => 0,
        };
        worst = worst.max(code);
    }
    ExitCode::from(worst)
}

/// The logs below a directory: itself, or its `core-N`.
fn logs(dir: &Path) -> Result<Vec<PathBuf>, String> {
    if dir.join("IDENTITY").exists() {
        return Ok(vec![dir.to_owned()]);
    }
    let entries = std::fs::read_dir(dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    let mut logs: Vec<_> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.join("IDENTITY").exists())
        .collect();
    logs.sort();
    if logs.is_empty() {
        return Err(format!(
            "{}: no log here (no IDENTITY file, no core-N with one)",
            dir.display()
        ));
    }
    Ok(logs)
}

fn verify(log: &Path, json: bool) -> u8 {
    let mut report = OpenReport::default();
    let (code, word, text, offset) = match inspect::verify(log) {
        Verdict::Good(found) => {
            report = found.report;
            (0, "whole", good(&report), None)
        }
        Verdict::TornTail(found, cut) => {
            report = found.report;
            let text = format!(
                "torn tail: {} from offset {} on ({} bytes) was never acknowledged; the next start cuts it",
                cut.file.display(),
                cut.offset,
                cut.bytes
            );
            (EXIT_TORN, "torn tail", text, Some(cut.offset))
        }
        Verdict::Damaged(found) => {
            report = found.report;
            let damaged = &report.damaged;
            let mut holes: Vec<String> = damaged.iter().map(ToString::to_string).collect();
            holes.extend(report.nameless.as_ref().map(nameless));
            let text = format!("damaged groups: {}; the others are whole", holes.join("; "));
            let offset = damaged.first().map(|damage| damage.offset);
            (EXIT_GROUPS, "damaged groups", text, offset)
        }
        Verdict::Refused(error) => {
            let (word, offset) = classify(&error);
            let text = format!("{word}: {}", with_advice(&error, NEXT));
            (EXIT_DAMAGED, word, text, offset)
        }
    };
    if json {
        let offset = offset.map_or(serde_json::Value::Null, Into::into);
        let object = serde_json::json!({
            "log": log.display().to_string(), "verdict": word, "offset": offset, "text": text,
            "healed": healed_json(&report.healed),
        });
        out!("{object}");
    } else {
        out!("{}: {text}", log.display());
        tell_healed(log, &report.healed);
    }
    code
}

/// Copies that are damaged and cost nothing yet.
fn tell_healed(log: &Path, healed: &[Healed]) {
    for one in healed {
        let hint = if one.mendable {
            "`henge wal repair --yes` makes it good again"
        } else {
            "it goes when its segment is purged"
        };
        out!(
            "{}: damaged, and read from elsewhere: {one}; {hint}",
            log.display()
        );
    }
}

fn healed_json(healed: &[Healed]) -> Vec<serde_json::Value> {
    let one = |one: &Healed| {
        serde_json::json!({
            "file": one.file.display().to_string(), "offset": one.offset, "what": one.what,
            "mendable": one.mendable,
        })
    };
    healed.iter().map(one).collect()
}

fn nameless(place: &Damage) -> String {
    format!(
        "groups of which nothing else is in the log may have been in {} from offset {} on, batch {}",
        place.file.display(),
        place.offset,
        place.lsn
    )
}

/// What to do about a log that does not open.
const NEXT: &str = "`henge wal repair` says what making it open again would cost, `henge wal salvage` \
brings out \
                    what can be read";

/// An error with the advice of a tool, which must not be to use that very tool.
fn with_advice(error: &OpenError, advice: &str) -> String {
    match error {
        OpenError::Corrupt(_) | OpenError::MissingSegment { .. } => {
            format!("{}; {advice}", error.facts())
        }
        other => other.to_string(),
    }
}

fn classify(error: &OpenError) -> (&'static str, Option<u64>) {
    match error {
        OpenError::Corrupt(corruption) => ("corruption", Some(corruption.offset)),
        OpenError::MissingSegment { .. } => ("missing segment", None),
        OpenError::WrongIdentity { .. } | OpenError::NotOurs { .. } => ("foreign", None),
        OpenError::NewerFormat { .. } => ("newer format", None),
        _ => ("unreadable", None),
    }
}

fn good(report: &OpenReport) -> String {
    let holes = !report.damaged.is_empty() || report.nameless.is_some();
    let word = match (!holes, &report.cut) {
        (false, _) => "damaged groups",
        (true, Some(_)) => "torn tail",
        (true, None) => "whole",
    };
    format!(
        "{word}: {} segments, {} batches, {} records, {} bytes, last batch {}",
        report.segments, report.batches, report.records, report.bytes, report.last_lsn
    )
}

/// What a group has in the log.
#[derive(Default)]
struct GroupStat {
    entries: u64,
    payload_bytes: u64,
    first_index: u64,
    last_index: u64,
    last_term: u64,
    commit: u64,
    compacted: u64,
}

fn stat(log: &Path, json: bool) -> u8 {
    let mut groups: BTreeMap<u64, GroupStat> = BTreeMap::new();
    let mut count = |record: Record<'_>| match record {
        Record::Entry {
            group,
            term,
            index,
            payload,
            ..
        } => {
            let stat = groups.entry(group).or_default();
            stat.entries += 1;
            stat.payload_bytes += payload.len() as u64;
            if stat.first_index == 0 {
                stat.first_index = index;
            }
            (stat.last_index, stat.last_term) = (index, term);
        }
        Record::HardState { group, commit, .. } => groups.entry(group).or_default().commit = commit,
        Record::Compacted { group, index, .. } => {
            groups.entry(group).or_default().compacted = index
        }
        _ => {}
    };
    let found = match inspect::read(log, &mut count) {
        Ok(found) => found,
        Err(error) => return refused(log, &error),
    };
    if json {
        let groups: Vec<_> = groups
            .iter()
            .map(|(group, stat)| {
                serde_json::json!({
                    "group": group, "entries": stat.entries, "payload_bytes": stat.payload_bytes,
                    "first_index": stat.first_index, "last_index": stat.last_index,
                    "last_term": stat.last_term, "commit": stat.commit, "compacted": stat.compacted,
                })
            })
            .collect();
        let report = &found.report;
        let object = serde_json::json!({
            "log": log.display().to_string(),
            "cluster_id": format!("{:x}", found.identity.cluster_id),
            "member_id": format!("{:x}", found.identity.member_id),
            "segments": report.segments, "batches": report.batches, "records": report.records,
            "bytes": report.bytes, "last_lsn": report.last_lsn, "torn": report.cut.is_some(),
            "healed": healed_json(&report.healed), "groups": groups,
        });
        out!("{object}");
        return tell_holes(log, &found.report);
    }
    out!(
        "{}: cluster {:x}, member {:x}; {}",
        log.display(),
        found.identity.cluster_id,
        found.identity.member_id,
        good(&found.report)
    );
    tell_healed(log, &found.report.healed);
    for (group, stat) in groups {
        out!(
            "  group {group}: {} entries ({} payload bytes), indexes {}..={}, term {}, commit {}, \
            checkpoint {}",
            stat.entries,
            stat.payload_bytes,
            stat.first_index,
            stat.last_index,
            stat.last_term,
            stat.commit,
            stat.compacted
        );
    }
    tell_holes(log, &found.report)
}

/// Says on standard error what could not be shown, so that nobody takes the rest for all; the exit code.
fn tell_holes(log: &Path, report: &OpenReport) -> u8 {
    for damage in &report.damaged {
        tell!("henge wal: {}: not shown: {damage}", log.display());
    }
    if let Some(place) = &report.nameless {
        tell!(
            "henge wal: {}: not shown: {}",
            log.display(),
            nameless(place)
        );
    }
    if !report.damaged.is_empty() || report.nameless.is_some() {
        EXIT_GROUPS
    } else if report.cut.is_some() {
        EXIT_TORN
    } else {
        0
    }
}

fn dump(log: &Path, json: bool) -> u8 {
    let mut page = String::with_capacity(PAGE_BYTES + 4_096);
    let mut read = true;
    let mut print = |record: Record<'_>| {
        // A reader that went away (`| head`) ends the output, not the reading.
        if !read {
            return;
        }
        match json {
            true => page.push_str(&json_line(&record).to_string()),
            false => page.push_str(&text_line(&record)),
        }
        page.push('\n');
        if page.len() >= PAGE_BYTES {
            read = output::text(&page);
            page.clear();
        }
    };
    let done = inspect::read(log, &mut print);
    output::text(&page);
    match done {
        Ok(found) => tell_holes(log, &found.report),
        Err(error) => refused(log, &error),
    }
}

fn refused(log: &Path, error: &OpenError) -> u8 {
    tell!(
        "henge wal: {}: {}: {}",
        log.display(),
        classify(error).0,
        with_advice(error, NEXT)
    );
    EXIT_DAMAGED
}

fn text_line(record: &Record<'_>) -> String {
    match record {
        Record::Entry {
            group,
            term,
            index,
            kind,
            payload,
        } => {
            format!(
                "group {group} entry {index} term {term} kind {kind} {} B: {}",
                payload.len(),
                what(payload)
            )
        }
        Record::HardState {
            group,
            term,
            vote,
            commit,
        } => {
            format!("group {group} hard state term {term} vote {vote:x} commit {commit}")
        }
        Record::Compacted { group, index, term } => {
            format!("group {group} in a checkpoint up to entry {index} term {term}")
        }
        other => format!("{other:?}"),
    }
}

fn json_line(record: &Record<'_>) -> serde_json::Value {
    match record {
        Record::Entry {
            group,
            term,
            index,
            kind,
            payload,
        } => serde_json::json!({
            "record": "entry", "group": group, "term": term, "index": index, "kind": kind,
            "bytes": payload.len(), "command": what(payload),
        }),
        Record::HardState {
            group,
            term,
            vote,
            commit,
        } => serde_json::json!({
            "record": "hard state", "group": group, "term": term, "vote": format!("{vote:x}"),
            "commit": commit,
        }),
        Record::Compacted { group, index, term } => serde_json::json!({
            "record": "compacted", "group": group, "index": index, "term": term,
        }),
        other => serde_json::json!({ "record": format!("{other:?}") }),
    }
}

/// What a payload asks for, keys escaped; values only by their size.
fn what(payload: &[u8]) -> String {
    if payload.is_empty() {
        return "empty (a new leader's first entry)".to_owned();
    }
    match command::decode(payload) {
        Err(error) => format!("not a command: {error}"),
        Ok((stamp, command)) => {
            let text = match command {
                Command::Put(put) => format!(
                    "put {} ({} B{})",
                    put.key.escape_ascii(),
                    put.value.len(),
                    if put.lease == 0 {
                        String::new()
                    } else {
                        format!(", lease {:x}", put.lease)
                    }
                ),
                Command::DeleteRange(delete) => format!(
                    "delete {}..{}",
                    delete.range.key.escape_ascii(),
                    delete.range.end.escape_ascii()
                ),
                Command::Txn(txn) => format!(
                    "txn with {} compares, {} and {} operations",
                    txn.compare.len(),
                    txn.success.len(),
                    txn.failure.len()
                ),
                other => format!("{other:?}"),
            };
            format!("{text} [from {:x}, request {:x}]", stamp.origin, stamp.id)
        }
    }
}
