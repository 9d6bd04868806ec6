//! A small sealed log and what lies where in it: three groups that share batches in pairs, two segments with
//! a footer and one without, one stop. What damage must come to is computed from this, never taken from
//! recovery.

use std::collections::{BTreeMap, BTreeSet};

use henge_wal::disk::sim::SimHandle;
use henge_wal::{BatchInfo, Collect, OpenError, Record, Replay, Wal};

use super::model::{Rec, Twin};
use super::{Opened, holes_are_all_that_differs, small};

/// A batch as it was written.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    pub offset: usize,
    pub end: usize,
    pub marks_at: usize,
    /// Groups with entries in it.
    pub groups: BTreeSet<u64>,
}

/// A sealed log and what lies where.
pub struct Sealed {
    pub machine: SimHandle,
    pub state: Collect,
    /// File -> its batches.
    pub files: BTreeMap<String, Vec<Batch>>,
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

pub fn sealed() -> Sealed {
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
    let files = locate(&twin.machine);
    assert!(files.len() >= 2, "{files:?}");
    Sealed {
        machine: twin.machine,
        state,
        files,
    }
}

/// Where the batches of a good log lie.
pub fn locate(machine: &SimHandle) -> BTreeMap<String, Vec<Batch>> {
    let mut layout = Layout::default();
    let disk = Box::new(machine.fork(0).disk());
    Wal::open("sim".as_ref(), &small(), &super::US, disk, &mut layout).expect("a good log");
    let mut files = layout.0;
    for (name, batches) in &mut files {
        let bytes = machine.file(name).expect("a segment");
        for batch in batches {
            let at = batch.offset + 68;
            let field = [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
            batch.marks_at = batch.offset + u32::from_le_bytes(field) as usize;
        }
    }
    files
}

pub fn open(machine: &SimHandle) -> Result<Opened, OpenError> {
    super::open("sim".as_ref(), &small(), Box::new(machine.disk()))
}

/// What damage must come to.
#[derive(Clone, Debug, PartialEq)]
pub enum Due {
    /// Nothing of the log is hit.
    Nothing,
    /// It is there twice.
    Noted,
    /// The entries of these groups in that batch are lost.
    Damaged(BTreeSet<u64>),
    /// The closing mark, which nothing says was durable.
    Cut,
    /// The log does not open.
    Refused,
}

#[derive(Debug, Default)]
pub struct Tally(BTreeMap<&'static str, u64>);

impl Tally {
    pub fn count(&mut self, what: &'static str) {
        *self.0.entry(what).or_default() += 1;
    }

    pub fn of(&self, what: &str) -> u64 {
        self.0.get(what).copied().unwrap_or(0)
    }
}

impl Sealed {
    pub fn with(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) -> SimHandle {
        let copy = self.machine.fork(1);
        let mut bytes = copy.file(name).expect("a segment");
        change(&mut bytes);
        copy.set_file(name, Some(bytes));
        copy
    }

    pub fn check(&self, machine: &SimHandle, due: &Due, what: &str, tally: &mut Tally) {
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
                assert!(!report.healed.is_empty(), "{what}: went unseen");
                tally.count("noted");
            }
            Due::Damaged(groups) => {
                assert_eq!(&hit, groups, "{what}");
                tally.count("damaged");
            }
            Due::Refused => panic!("{what}: it opened"),
            Due::Cut => {
                assert!(hit.is_empty() && report.cut.is_some(), "{what}: {report:?}");
                tally.count("cut");
            }
        }
        holes_are_all_that_differs(&opened, &self.state);
    }
}
