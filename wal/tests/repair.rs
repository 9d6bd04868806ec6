//! Repair: the plan says what it costs and changes nothing; applied, the damaged groups end before their
//! holes, and everything else is as it was.

mod common;

use common::{TempDir, block_on, close, commit, open, small};
use henge_wal::disk::thread::ThreadDisk;
use henge_wal::inspect::{self, Verdict};
use henge_wal::repair::{Plan, Step, apply, plan};

fn write(dir: &TempDir) {
    let opened = open(dir.path(), &small(), Box::new(ThreadDisk::new(1))).expect("new");
    let mut wal = opened.wal;
    block_on(async {
        for index in 1..=20 {
            for group in 1..=3u64 {
                let payload = vec![(group * 16 + index) as u8; 2_000];
                wal.entry(group, 1, index, 0, &payload).expect("fits");
                wal.hard_state(group, 1, 2, index - 1);
                commit(&mut wal).await;
            }
        }
        wal.compacted(3, 4, 1);
        commit(&mut wal).await;
        close(wal).await;
    });
}

/// Flip a byte in the payload of an entry.
fn hit(dir: &TempDir, group: u64, index: u64) {
    let needle = [group, 1, index].map(u64::to_le_bytes).concat();
    for entry in std::fs::read_dir(dir.path()).expect("list").flatten() {
        if entry.path().extension().is_none_or(|end| end != "seg") {
            continue;
        }
        let mut bytes = std::fs::read(entry.path()).expect("read");
        if let Some(at) = bytes.windows(24).position(|w| w == needle) {
            bytes[at + 500] ^= 1;
            std::fs::write(entry.path(), bytes).expect("write");
            return;
        }
    }
    panic!("entry {index} of group {group} is nowhere");
}

#[test]
fn a_damaged_group_ends_before_its_hole() {
    let dir = TempDir::new("repair");
    write(&dir);
    assert_eq!(plan(dir.path()), Ok(Plan::default()));
    hit(&dir, 1, 12);
    hit(&dir, 1, 15);
    hit(&dir, 3, 5);
    let due = Plan {
        steps: vec![
            Step {
                group: 1,
                keep: 11,
                last: 20,
            },
            Step {
                group: 3,
                keep: 4,
                last: 20,
            },
        ],
        ..Plan::default()
    };
    assert_eq!(plan(dir.path()).as_ref(), Ok(&due));
    assert_eq!(
        plan(dir.path()).as_ref(),
        Ok(&due),
        "a plan changes nothing"
    );
    assert_eq!(apply(dir.path()), Ok(due));
    assert!(matches!(inspect::verify(dir.path()), Verdict::Good(_)));
    let opened = open(dir.path(), &small(), Box::new(ThreadDisk::new(1))).expect("whole");
    assert_eq!(opened.report.damaged, []);
    let groups = &opened.found.groups;
    assert_eq!((groups[&1].last(), groups[&1].entries.len()), (11, 11));
    assert_eq!((groups[&2].last(), groups[&2].entries.len()), (20, 20));
    assert_eq!((groups[&3].last(), groups[&3].compacted), (4, 4));
    assert_eq!(
        (groups[&1].term, groups[&1].vote, groups[&1].commit),
        (1, 2, 11)
    );
    block_on(close(opened.wal));
    let again = apply(dir.path());
    assert_eq!(again, Ok(Plan::default()), "nothing is left to repair");
}
