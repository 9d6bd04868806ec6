//! A sealed log of a few segments, and ways to look at it: for tests that damage it.

use std::collections::BTreeMap;

use henge_wal::disk::sim::SimHandle;
use henge_wal::{Collect, Healed, OpenError, Wal, inspect};

use super::model::{Rec, Twin};
use super::{Opened, TempDir, small};

/// A log of a few segments, stopped cleanly; its state.
pub fn sealed() -> (SimHandle, Collect) {
    let mut twin = Twin::new(SimHandle::new(5, 2), small());
    twin.open().expect("a new log");
    for index in 1..=28u64 {
        let bytes = 300 + (index as usize * 1_997) % 11_000;
        twin.stage(Rec::Entry(1, 1, index, vec![index as u8; bytes]));
        twin.stage(Rec::Entry(2, 1, index, vec![!index as u8; 100]));
        twin.stage(Rec::Hard(1, 1, 2, index));
        twin.submit();
        twin.settle();
    }
    let state = twin.newest();
    twin.close();
    (twin.machine, state)
}

/// The segments of the log (not the ready ones), with the bytes of them that are log.
pub fn live(machine: &SimHandle) -> Vec<(String, usize)> {
    let dir = TempDir::new("live");
    write_out(machine, &dir);
    let mut ends = BTreeMap::new();
    let mut see = Ends(&mut ends);
    inspect::read(dir.path(), &mut see).expect("a good log");
    ends.into_iter()
        .map(|(seq, end)| (format!("{seq:016x}.seg"), end as usize))
        .collect()
}

struct Ends<'a>(&'a mut BTreeMap<u64, u64>);

impl henge_wal::Replay for Ends<'_> {
    fn record(&mut self, _: henge_wal::Record<'_>) {}

    fn batch(&mut self, batch: &henge_wal::BatchInfo) {
        self.0
            .insert(batch.seq, batch.offset + u64::from(batch.bytes));
    }
}

/// The simulated directory as a real one, for the tools.
pub fn write_out(machine: &SimHandle, dir: &TempDir) {
    std::fs::create_dir_all(dir.path().join("cut")).expect("a directory");
    for name in machine.names() {
        let bytes = machine.file(&name).expect("it was listed");
        std::fs::write(dir.path().join(name), bytes).expect("written");
    }
}

/// Open a machine's log; its state, and what was noted.
pub fn reopened(machine: &SimHandle) -> Result<(Collect, Vec<Healed>, bool), OpenError> {
    let opened = open_again(machine)?;
    assert_eq!(opened.report.damaged, [], "no group is damaged");
    let (found, report) = (opened.found, opened.report);
    Ok((found, report.healed, report.cut.is_some()))
}

pub fn open_again(machine: &SimHandle) -> Result<Opened, OpenError> {
    super::open("sim".as_ref(), &small(), Box::new(machine.disk()))
}

/// The batches of a log: file, offset, bytes.
pub fn batches(machine: &SimHandle) -> Vec<(String, usize, usize)> {
    struct Batches(Vec<(String, usize, usize)>);
    impl henge_wal::Replay for Batches {
        fn record(&mut self, _: henge_wal::Record<'_>) {}

        fn batch(&mut self, b: &henge_wal::BatchInfo) {
            let name = format!("{:016x}.seg", b.seq);
            self.0.push((name, b.offset as usize, b.bytes as usize));
        }
    }
    let mut all = Batches(Vec::new());
    let disk = Box::new(machine.fork(0).disk());
    Wal::open("sim".as_ref(), &small(), &super::US, disk, &mut all).expect("a good log");
    all.0
}
