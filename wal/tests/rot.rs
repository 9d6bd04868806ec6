//! Every byte flipped, every sector zeroed, every two blocks swapped, every stale block put back: each
//! case over a small sealed log is detected and called what it is, and costs no more than what it hit.
//!
//! The log: three groups that share batches in pairs, two segments with a footer and one without, one
//! stop. The expectation is not taken from recovery: it is computed from the batches that were written.

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::model::{Rec, Twin};
use common::{Dice, Opened, holes_are_all_that_differs, seed, small};
use henge_wal::disk::sim::{Keep, SimHandle};
use henge_wal::{BatchInfo, Collect, OpenError, Record, Replay, Wal};

/// A batch as it was written.
#[derive(Clone, Debug, Default)]
struct Batch {
    offset: usize,
    end: usize,
    marks_at: usize,
    /// Groups with entries in it.
    groups: BTreeSet<u64>,
}

/// A sealed log and what lies where.
struct Sealed {
    machine: SimHandle,
    state: Collect,
    /// File -> its batches.
    files: BTreeMap<String, Vec<Batch>>,
}

#[derive(Default)]
struct Layout(BTreeMap<String, Vec<Batch>>, String);

impl Replay for Layout {
    fn record(&mut self, record: Record<'_>) {
        if let Record::Entry { group, .. } = record
            && let Some(batch) = self.0.get_mut(&self.1).and_then(|all| all.last_mut())
        {
            batch.groups.insert(group);
        }
    }

    fn batch(&mut self, info: &BatchInfo) {
        self.1 = format!("{:016x}.seg", info.seq);
        let (offset, bytes) = (info.offset as usize, info.bytes as usize);
        self.0.entry(self.1.clone()).or_default().push(Batch {
            offset,
            end: offset + bytes,
            ..Batch::default()
        });
    }
}

fn sealed() -> Sealed {
    let mut twin = Twin::new(SimHandle::new(5, 2), small());
    twin.open().expect("a new log");
    let turn = |twin: &mut Twin, index: u64, bytes: usize| {
        let (one, two) = (1 + index % 3, 1 + (index + 1) % 3);
        for group in [one, two] {
            let next = twin.newest().groups.get(&group).map_or(0, |log| log.last()) + 1;
            twin.stage(Rec::Entry(group, 1, next, vec![index as u8 | 1; bytes]));
            if next == 3 {
                twin.stage(Rec::Hard(group, 1, 2, next - 1));
            }
        }
        twin.submit();
        twin.settle();
    };
    for index in 1..=16 {
        turn(&mut twin, index, if index % 4 == 0 { 12_000 } else { 300 });
    }
    let state = twin.newest();
    twin.close();
    let mut layout = Layout::default();
    let disk = Box::new(twin.machine.fork(0).disk());
    Wal::open("sim".as_ref(), &small(), &common::US, disk, &mut layout).expect("a good log");
    let mut files = layout.0;
    for (name, batches) in &mut files {
        let bytes = twin.machine.file(name).expect("a segment");
        for batch in batches {
            let at = batch.offset + 68;
            let field = [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
            batch.marks_at = batch.offset + u32::from_le_bytes(field) as usize;
        }
    }
    assert!(files.len() >= 2, "{files:?}");
    Sealed {
        machine: twin.machine,
        state,
        files,
    }
}

fn open(machine: &SimHandle) -> Result<Opened, OpenError> {
    common::open("sim".as_ref(), &small(), Box::new(machine.disk()))
}

/// What damage must come to.
#[derive(Clone, Debug, PartialEq)]
enum Due {
    /// Nothing of the log is hit.
    Nothing,
    /// It is there twice.
    Noted,
    /// The entries of these groups in that batch are lost.
    Damaged(BTreeSet<u64>),
    /// The closing mark, which nothing says was durable.
    Cut,
}

#[derive(Debug, Default)]
struct Tally(BTreeMap<&'static str, u64>);

impl Tally {
    fn count(&mut self, what: &'static str) {
        *self.0.entry(what).or_default() += 1;
    }

    fn of(&self, what: &str) -> u64 {
        self.0.get(what).copied().unwrap_or(0)
    }
}

impl Sealed {
    fn is_last(&self, name: &str, batch: &Batch) -> bool {
        let (last_name, last) = self.files.last_key_value().expect("segments");
        name == last_name && batch.offset == last.last().expect("batches").offset
    }

    /// What one damaged place of a file must come to.
    fn due(&self, name: &str, at: usize) -> Due {
        let batches = &self.files[name];
        if at < 8192 {
            return Due::Noted;
        }
        let Some(batch) = batches.iter().find(|b| (b.offset..b.end).contains(&at)) else {
            return Due::Nothing; // or in a footer, which repeats
        };
        let in_records = (batch.offset + 128..batch.marks_at).contains(&at);
        match (in_records, self.is_last(name, batch)) {
            (false, _) => Due::Noted,
            (true, true) => Due::Cut,
            (true, false) => Due::Damaged(batch.groups.clone()),
        }
    }

    fn with(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) -> SimHandle {
        let copy = self.machine.fork(1);
        let mut bytes = copy.file(name).expect("a segment");
        change(&mut bytes);
        copy.set_file(name, Some(bytes));
        copy
    }

    fn check(&self, machine: &SimHandle, due: &Due, what: &str, tally: &mut Tally) {
        let opened = open(machine).unwrap_or_else(|e| panic!("{what}: {e}"));
        let report = &opened.report;
        let hit: BTreeSet<u64> = report.damaged.iter().map(|d| d.group).collect();
        match due {
            Due::Nothing => {
                assert!(hit.is_empty() && report.cut.is_none(), "{what}: {report:?}");
                tally.count("nothing");
            }
            Due::Noted => {
                assert!(hit.is_empty() && report.cut.is_none(), "{what}: {report:?}");
                assert!(!report.notes.is_empty(), "{what}: went unseen");
                tally.count("noted");
            }
            Due::Damaged(groups) => {
                assert_eq!(&hit, groups, "{what}");
                tally.count("damaged");
            }
            Due::Cut => {
                assert!(hit.is_empty() && report.cut.is_some(), "{what}: {report:?}");
                tally.count("cut");
            }
        }
        holes_are_all_that_differs(&opened, &self.state);
    }

    /// Damage of any extent: detected, or without effect; never another state.
    fn check_any(&self, machine: &SimHandle, what: &str, tally: &mut Tally) {
        match open(machine) {
            Ok(opened) => {
                holes_are_all_that_differs(&opened, &self.state);
                let report = &opened.report;
                let quiet =
                    report.notes.is_empty() && report.damaged.is_empty() && report.cut.is_none();
                assert!(!quiet, "{what}: went unseen");
                let harm = if report.damaged.is_empty() {
                    "noted"
                } else {
                    "damaged"
                };
                tally.count(harm);
            }
            Err(OpenError::Corrupt(_) | OpenError::MissingSegment { .. }) => tally.count("refused"),
            Err(other) => panic!("{what}: {other}"),
        }
    }
}

#[test]
fn every_flipped_byte() {
    let log = sealed();
    let mut tally = Tally::default();
    for (name, batches) in &log.files {
        let end = batches.last().expect("batches").end;
        // Every byte of what has a meaning; of the many equal bytes of payload and padding some.
        let dense = |at: usize| {
            at.is_multiple_of(4096)
                || at % 4096 < 130
                || batches.iter().any(|b| {
                    at >= b.offset
                        && at < b.end
                        && (at + 300 >= b.end || at.abs_diff(b.marks_at) < 300)
                })
        };
        for at in (0..end + 4096).filter(|at| dense(*at) || at.is_multiple_of(31)) {
            let damaged = log.with(name, |bytes| bytes[at] ^= 1 << (at % 8));
            log.check(
                &damaged,
                &log.due(name, at),
                &format!("{name} byte {at}"),
                &mut tally,
            );
        }
    }
    println!("{tally:?}");
    let enough = tally.of("noted") > 2_000 && tally.of("damaged") > 1_000 && tally.of("cut") > 0;
    assert!(enough, "{tally:?}");
}

#[test]
fn every_zeroed_sector() {
    let log = sealed();
    let mut tally = Tally::default();
    for (name, batches) in &log.files {
        let end = batches.last().expect("batches").end;
        for at in (0..end).step_by(512) {
            let good = log.machine.file(name).expect("a segment");
            if good[at..at + 512].iter().all(|b| *b == 0) {
                continue;
            }
            let damaged = log.with(name, |bytes| bytes[at..at + 512].fill(0));
            // A sector holds one part, or the header and the first records, or marks and the trailer.
            let parts: Vec<Due> = [at, at + 128, at + 511].map(|at| log.due(name, at)).into();
            let due = parts
                .iter()
                .find(|d| !matches!(d, Due::Noted))
                .unwrap_or(&parts[0]);
            let what = format!("{name} sector at {at}");
            match due {
                // An empty record area is the same after it was zeroed.
                Due::Cut => log.check_any(&damaged, &what, &mut tally),
                due => log.check(&damaged, due, &what, &mut tally),
            }
        }
    }
    println!("{tally:?}");
    assert!(
        tally.of("noted") > 20 && tally.of("damaged") > 50,
        "{tally:?}"
    );
}

#[test]
fn every_zeroed_block_run() {
    let log = sealed();
    let mut tally = Tally::default();
    for (name, batches) in &log.files {
        let blocks = batches.last().expect("batches").end / 4096;
        let good = log.machine.file(name).expect("a segment");
        for from in 0..blocks {
            for to in from + 1..=blocks {
                if good[from * 4096..to * 4096].iter().all(|b| *b == 0) {
                    continue;
                }
                let damaged = log.with(name, |bytes| bytes[from * 4096..to * 4096].fill(0));
                let closing = name == log.files.last_key_value().expect("files").0
                    && (from + 1, to) == (blocks, blocks);
                match closing {
                    // The closing mark as if it had never been written: the same state.
                    true => log.check(&damaged, &Due::Nothing, "closing mark", &mut tally),
                    false => {
                        let what = format!("{name} blocks {from}..{to}");
                        log.check_any(&damaged, &what, &mut tally);
                    }
                }
            }
        }
    }
    println!("{tally:?}");
    assert!(
        tally.of("damaged") > 20 && tally.of("refused") > 20,
        "{tally:?}"
    );
}

#[test]
fn every_two_blocks_swapped() {
    let log = sealed();
    let mut tally = Tally::default();
    let places: Vec<(String, usize)> = log
        .files
        .iter()
        .flat_map(|(name, batches)| {
            let blocks = batches.last().expect("batches").end / 4096;
            (0..blocks).map(move |block| (name.clone(), block * 4096))
        })
        .collect();
    let block = |(name, at): &(String, usize)| {
        log.machine.file(name).expect("a segment")[*at..at + 4096].to_vec()
    };
    for (n, one) in places.iter().enumerate() {
        for two in &places[n + 1..] {
            let (first, second) = (block(one), block(two));
            if first == second {
                continue;
            }
            let copy = log.with(&one.0, |bytes| {
                bytes[one.1..one.1 + 4096].copy_from_slice(&second);
            });
            let mut bytes = copy.file(&two.0).expect("a segment");
            bytes[two.1..two.1 + 4096].copy_from_slice(&first);
            copy.set_file(&two.0, Some(bytes));
            log.check_any(&copy, &format!("{one:?} and {two:?}"), &mut tally);
        }
    }
    println!("{tally:?}");
    assert!(
        tally.of("refused") > 20 && tally.of("damaged") > 500,
        "{tally:?}"
    );
}

/// Segments are recycled without being zeroed: blocks of an earlier life that come back (a lost write)
/// are never taken for what should lie there.
#[test]
fn stale_blocks_of_an_earlier_life_are_recognised() {
    let mut twin = Twin::new(SimHandle::new(6, 1), small());
    twin.open().expect("a new log");
    let mut old: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut index = 0;
    // Until a file is used for the second time, remember what every file looked like before.
    while twin
        .wal
        .as_ref()
        .is_some_and(|wal| wal.stats().recycled < 3)
    {
        index += 1;
        twin.stage(Rec::Entry(1, 1, index, vec![index as u8; 9_000]));
        twin.stage(Rec::Entry(2, 1, index, vec![index as u8; 50]));
        if index > 3 {
            twin.stage(Rec::Compacted(1, index - 3, 1));
            twin.stage(Rec::Compacted(2, index - 3, 1));
        }
        twin.submit();
        twin.settle();
    }
    let begun = index;
    for name in twin.machine.names().iter().filter(|n| n.ends_with(".seg")) {
        old.insert(name.clone(), twin.machine.file(name).expect("a file"));
    }
    while index < begun + 9 {
        index += 1;
        twin.stage(Rec::Entry(1, 1, index, vec![index as u8; 9_000]));
        twin.submit();
        twin.settle();
    }
    let state = twin.newest();
    twin.close();
    let mut layout = Layout::default();
    let disk = Box::new(twin.machine.fork(0).disk());
    Wal::open("sim".as_ref(), &small(), &common::US, disk, &mut layout).expect("a good log");
    let log = Sealed {
        machine: twin.machine,
        state,
        files: layout.0,
    };
    let mut tally = Tally::default();
    let stale = old.iter().filter(|(name, _)| log.files.contains_key(*name));
    for (name, before) in stale {
        let now = log.machine.file(name).expect("a file");
        let end = log.files[name].last().expect("batches").end;
        for from in (0..end).step_by(4096) {
            // A whole end replaced by what was there before is a lost tail, which nothing in the log can
            // testify: the closing mark stays.
            for to in [from + 4096, (end - 4096).max(from + 4096)] {
                if now[from..to] == before[from..to] {
                    continue;
                }
                let what = format!("{name} {from}..{to} of {end}");
                let copy = log.with(name, |bytes| {
                    bytes[from..to].copy_from_slice(&before[from..to])
                });
                let last = name == log.files.last_key_value().expect("files").0;
                match last && from + 4096 == end {
                    true => log.check(&copy, &Due::Nothing, "closing mark", &mut tally),
                    false => log.check_any(&copy, &what, &mut tally),
                }
            }
        }
    }
    println!("{tally:?}");
    assert!(tally.of("refused") + tally.of("damaged") > 5, "{tally:?}");
}

/// One group of many is hit: the others go on, also through writing, rotation, a stop and another open;
/// the hole is named as long as it is there, and is gone when it is compacted.
#[test]
fn one_damaged_group_leaves_the_others_serving() {
    let mut twin = Twin::new(SimHandle::new(4, 2), small());
    twin.open().expect("a new log");
    for index in 1..=6 {
        for group in 1..=5 {
            twin.stage(Rec::Entry(group, 1, index, vec![group as u8; 2_000]));
            twin.submit();
            twin.settle();
        }
    }
    twin.stage(Rec::Hard(3, 7, 2, 4));
    twin.submit();
    twin.settle();
    let due = twin.newest();
    twin.close();
    // Entry 4 of group 3 is alone in its batch.
    let needle = {
        let mut head = 3u64.to_le_bytes().to_vec();
        head.extend(1u64.to_le_bytes());
        head.extend(4u64.to_le_bytes());
        head
    };
    let mut lies = None;
    for file in twin.machine.names().iter().filter(|n| n.ends_with(".seg")) {
        let found = twin.machine.file(file).expect("a file");
        if let Some(n) = found.windows(24).position(|w| w == needle) {
            lies = Some((file.clone(), n, found));
        }
    }
    let (name, at, mut bytes) = lies.expect("the entry lies somewhere");
    bytes[at + 100] ^= 1;
    twin.machine.set_file(&name, Some(bytes));

    let opened = open(&twin.machine).expect("the others serve");
    let hit: Vec<_> = opened
        .report
        .damaged
        .iter()
        .map(|d| (d.group, d.first, d.last))
        .collect();
    assert_eq!(hit, [(3, 4, 4)]);
    holes_are_all_that_differs(&opened, &due);
    let mut wal = opened.wal;
    common::block_on(async {
        for index in 7..=20 {
            for group in [1, 2, 4, 5] {
                wal.entry(group, 1, index, 0, &[9; 3_000]).expect("fits");
            }
            common::commit(&mut wal).await;
        }
        wal.read(1, 1, 20, usize::MAX);
        let all = loop {
            if let henge_wal::Event::Read { result, .. } = common::event(&mut wal).await {
                break result.expect("whole");
            }
        };
        assert_eq!(all.len(), 20);
        wal.read(3, 4, 4, 100);
        let lost = loop {
            if let henge_wal::Event::Read { result, .. } = common::event(&mut wal).await {
                break result;
            }
        };
        assert!(
            matches!(lost, Err(henge_wal::ReadError::Damaged { .. })),
            "{lost:?}"
        );
        common::close(wal).await;
    });
    let again = open(&twin.machine).expect("opens");
    assert_eq!(again.report.damaged.len(), 1);
    assert_eq!(again.found.groups[&1].entries.len(), 20);
    let mut wal = again.wal;
    common::block_on(async {
        wal.compacted(3, 5, 1);
        common::commit(&mut wal).await;
        common::close(wal).await;
    });
    let healed = open(&twin.machine).expect("opens");
    assert_eq!(healed.report.damaged, []);
    assert_eq!(healed.found.groups[&3].last(), 6);
}

/// A vote in the last batch, acknowledged and then hit by one bad sector, looks like a torn tail. The
/// entries go, the vote stays: over a crash before the next segment has a batch, too.
#[test]
fn a_vote_in_a_torn_batch_is_kept() {
    for sector in 0..8 {
        let mut twin = Twin::new(SimHandle::new(sector, 1), small());
        twin.open().expect("a new log");
        twin.stage(Rec::Entry(1, 1, 1, vec![1; 100]));
        twin.stage(Rec::Hard(1, 1, 1, 0));
        twin.submit();
        twin.settle();
        twin.stage(Rec::Hard(1, 9, 3, 1));
        twin.submit();
        twin.settle();
        let name = twin
            .machine
            .names()
            .into_iter()
            .find(|n| n.ends_with(".seg"));
        let name = name.expect("a segment");
        twin.crash(&Keep::Everything);
        let mut bytes = twin.machine.file(&name).expect("it");
        let from = 8192 + 4096 + 512 * sector as usize;
        bytes[from..from + 512].iter_mut().for_each(|b| *b ^= 0x55);
        twin.machine.set_file(&name, Some(bytes));
        for round in 0..4u64 {
            let opened = open(&twin.machine).expect("a torn tail");
            let log = &opened.found.groups[&1];
            assert_eq!(
                (log.term, log.vote),
                (9, 3),
                "sector {sector} round {round}"
            );
            let mut wal = opened.wal;
            // The next batch's header arrives, the batch does not; then both; then a stop.
            twin.machine.set_manual(true);
            wal.entry(1, 9, 2, 0, &[2; 100]).expect("fits");
            wal.submit().expect("healthy");
            match round {
                0 => twin.machine.crash(&Keep::Nothing),
                1 => twin.machine.crash(&Keep::Sectors(&|sector| sector < 16)),
                _ => twin.machine.crash(&Keep::Everything),
            }
            twin.machine.set_manual(false);
        }
    }
}

/// Two damaged places at a time, anywhere: never another state, never a panic.
#[test]
fn two_damaged_places() {
    let seed = seed(1);
    let log = sealed();
    let names: Vec<&String> = log.files.keys().collect();
    let mut tally = Tally::default();
    let mut dice = Dice(seed);
    for case in 0..4_000 {
        let copy = log.machine.fork(1);
        for _ in 0..2 {
            let name = names[dice.below(names.len() as u64) as usize];
            let end = log.files[name].last().expect("batches").end as u64;
            // Not the last batch: damage there may pass for a tear.
            let sector = dice.below((end - 4096) / 512) as usize * 512;
            let mut bytes = copy.file(name).expect("a segment");
            bytes[sector..sector + 512]
                .iter_mut()
                .for_each(|b| *b ^= 0xa5);
            copy.set_file(name, Some(bytes));
        }
        match open(&copy) {
            Ok(opened) => {
                holes_are_all_that_differs(&opened, &log.state);
                tally.count(if opened.report.damaged.is_empty() {
                    "whole"
                } else {
                    "damaged"
                });
            }
            Err(OpenError::Corrupt(_)) => tally.count("refused"),
            Err(other) => panic!("case {case}: {other}"),
        }
    }
    println!("{tally:?}");
    assert!(
        tally.of("damaged") > 500 && tally.of("whole") > 20,
        "{tally:?}"
    );
}

/// What purged segments held is repeated in the first batch of the oldest one that is left, and nowhere
/// before: damage to it is never passed over, unless later segments say the same (row 1b).
#[test]
fn the_only_copy_of_what_was_purged() {
    let mut twin = Twin::new(SimHandle::new(12, 1), small());
    twin.open().expect("a new log");
    // A group that said something long ago, and nothing since.
    twin.stage(Rec::Hard(7, 5, 3, 0));
    for index in 1..=60 {
        twin.stage(Rec::Entry(1, 1, index, vec![index as u8; 8_000]));
        if index > 2 {
            twin.stage(Rec::Compacted(1, index - 2, 1));
        }
        twin.submit();
        twin.settle();
    }
    let state = twin.newest();
    twin.close();
    let mut layout = Layout::default();
    let disk = Box::new(twin.machine.fork(0).disk());
    Wal::open("sim".as_ref(), &small(), &common::US, disk, &mut layout).expect("a good log");
    let (oldest, batches) = layout.0.first_key_value().expect("segments");
    let at = batches[0].offset;
    let mut bytes = twin.machine.file(oldest).expect("it");
    let marks_at = u32::from_le_bytes([
        bytes[at + 68],
        bytes[at + 69],
        bytes[at + 70],
        bytes[at + 71],
    ]);
    bytes[at + marks_at as usize + 3] ^= 1;
    twin.machine.set_file(oldest, Some(bytes));
    match open(&twin.machine) {
        Err(OpenError::Corrupt(c)) => assert!(c.what.contains("marks"), "{c}"),
        Err(other) => panic!("{other}"),
        // The segments behind it repeat it, each in its own first batch: then nothing is lost.
        Ok(opened) => {
            assert!(!opened.report.notes.is_empty(), "it went unseen");
            holes_are_all_that_differs(&opened, &state);
            assert_eq!(opened.report.damaged, []);
        }
    }
}
