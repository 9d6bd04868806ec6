//! Segments of other sizes: entries larger than any of them, logs that were written with others, the room
//! there is, and the limit on files.

mod common;

use common::model::{Rec, Twin};
use common::{Dice, TempDir, block_on, close, commit, open, seed, small};
use henge_wal::disk::sim::{Keep, SimHandle};
use henge_wal::disk::thread::ThreadDisk;
use henge_wal::{ENTRY_BYTES_MAX, OpenError, Options, WalError};

const MIB: u64 = 1 << 20;

fn sized(segment_bytes: u64) -> Options {
    Options {
        segment_bytes,
        ..small()
    }
}

#[test]
fn regression_an_entry_larger_than_a_segment_is_logged_like_any_other() {
    // It was refused when it was staged, which poisoned its group.
    let mut twin = Twin::new(SimHandle::new(3, 2), small());
    twin.open().expect("a new log");
    let mut index = 0;
    for bytes in [100, 60_000, 200, 300_000, 49_000, 10, ENTRY_BYTES_MAX, 5] {
        index += 1;
        twin.stage(Rec::Entry(1, 1, index, vec![index as u8; bytes]));
        twin.stage(Rec::Hard(1, 1, 2, index));
        twin.stage(Rec::Entry(2, 1, index, vec![!index as u8; 50]));
        twin.submit();
        twin.settle();
    }
    let state = twin.newest();
    assert!(twin.state(twin.acked) == state, "all of it is durable");
    twin.crash(&Keep::Everything);
    twin.open().expect("opens");
    assert!(twin.newest() == state);
    let wal = twin.wal.as_mut().expect("open");
    let (bytes, max) = (ENTRY_BYTES_MAX + 1, ENTRY_BYTES_MAX);
    let refused = wal.entry(1, 1, 99, 0, &vec![0; bytes]);
    assert_eq!(refused, Err(WalError::EntryTooLarge { bytes, max }));
}

/// Opened again and again with segments of other sizes, killed at any moment: nothing is lost, and what is
/// kept ready is of a size that is used now.
#[test]
fn a_log_opens_with_segments_of_any_sizes() {
    let seed = seed(1);
    for life in 0..30 {
        let mut dice = Dice(seed.wrapping_mul(977).wrapping_add(life));
        let mut twin = Twin::new(SimHandle::new(dice.roll(), 2), small());
        let mut index = 0;
        for _ in 0..6 {
            let bytes = (64 * 1024) << dice.below(4);
            twin.options = Options {
                segment_bytes_first: (64 * 1024) << dice.below(4),
                fit_room: dice.below(2) == 0,
                ..sized(bytes)
            };
            twin.open().unwrap_or_else(|e| panic!("life {life}: {e}"));
            for _ in 0..dice.below(20) {
                index += 1;
                let bytes = match dice.below(6) {
                    0 => dice.below(300_000),
                    _ => dice.below(12_000),
                };
                twin.stage(Rec::Entry(1, 1, index, vec![index as u8; bytes as usize]));
                if index > 9 && dice.below(4) == 0 {
                    twin.stage(Rec::Compacted(1, index - 8, 1));
                }
                twin.submit();
                match dice.below(3) {
                    0 => twin.run(5),
                    _ => twin.settle(),
                }
            }
            match dice.below(2) {
                0 => twin.settle(),
                _ => twin.run(3),
            }
            match dice.below(3) {
                0 => {
                    twin.events.clear();
                    twin.close();
                }
                // What was not acknowledged may be there or not: the twin knows.
                _ => twin.crash(&Keep::Everything),
            }
            index = twin_last(&mut twin, life);
        }
    }
}

/// Opens once more as it is; the last index that is there.
fn twin_last(twin: &mut Twin, life: u64) -> u64 {
    twin.open().unwrap_or_else(|e| panic!("life {life}: {e}"));
    let last = twin.newest().groups.get(&1).map_or(0, |log| log.last());
    twin.events.clear();
    twin.close();
    last
}

fn files(dir: &TempDir) -> (usize, u64) {
    let entries = std::fs::read_dir(dir.path()).expect("a directory");
    let sizes = entries.map(|entry| entry.expect("a file").metadata().expect("its size").len());
    let sizes: Vec<u64> = sizes.filter(|bytes| *bytes >= 64 * 1024).collect();
    (sizes.len(), sizes.iter().sum())
}

/// On a real file system, with the default options.
#[test]
fn regression_a_log_that_is_hardly_used_stays_small() {
    let dir = TempDir::new("small");
    let mut index = 0;
    for _ in 0..9 {
        block_on(async {
            let disk = Box::new(ThreadDisk::new(1));
            let mut wal = open(dir.path(), &Options::default(), disk)
                .expect("opens")
                .wal;
            for _ in 0..12 {
                index += 1;
                wal.entry(1, 1, index, 0, b"a small one").expect("fits");
                commit(&mut wal).await;
            }
            close(wal).await;
        });
        let (count, bytes) = files(&dir);
        assert!(bytes <= 96 * MIB, "{count} files, {bytes} bytes");
    }
}

#[test]
fn segments_grow_while_the_log_does() {
    let dir = TempDir::new("grow");
    let options = Options {
        segment_bytes: 16 * MIB,
        segment_bytes_first: MIB,
        payload_bytes: 1_000,
        ..Options::default()
    };
    block_on(async {
        let mut wal = open(dir.path(), &options, Box::new(ThreadDisk::new(1)))
            .expect("opens")
            .wal;
        for index in 1..=360 {
            wal.entry(1, 1, index, 0, &vec![7; MIB as usize / 8])
                .expect("fits");
            commit(&mut wal).await;
        }
        // 45 MiB in segments of 1 MiB would be more than 50 of them.
        let segments = wal.stats().segments;
        assert!(segments < 30, "{segments}");
        close(wal).await;
    });
    let found = open(dir.path(), &options, Box::new(ThreadDisk::new(1))).expect("opens");
    assert_eq!(found.found.groups[&1].entries.len(), 360);
}

#[test]
fn a_directory_with_too_little_room_says_so_before_a_log_is_begun() {
    let dir = TempDir::new("room");
    let options = Options {
        segment_bytes: 1 << 30,
        segment_bytes_first: 1 << 30,
        fit_room: false,
        ready_segments: 8,
        log_bytes_max: 1 << 33,
        ..Options::default()
    };
    let machine = SimHandle::new(1, 1);
    machine.set_room(Some((3 << 30, u64::MAX)));
    let path = dir.path();
    let refused = |options: &Options| open(path, options, Box::new(machine.disk())).map(drop);
    let Err(OpenError::NoRoom { free, bytes, .. }) = refused(&options) else {
        panic!("it was begun");
    };
    assert_eq!((free, bytes), (3 << 30, 9 << 30));
    assert!(machine.names().iter().all(|name| !name.ends_with(".seg")));
    machine.set_room(Some((u64::MAX, 1 << 29)));
    let error = refused(&options).expect_err("beyond the limit on files");
    assert!(
        matches!(
            error,
            OpenError::FileLimit {
                limit: 0x2000_0000,
                ..
            }
        ),
        "{error}"
    );
    assert!(error.to_string().contains("ulimit -f"), "{error}");
}
