//! Checkpoints on a disk that fails, and on a machine that stops, at every operation: there is always a whole
//! snapshot, the older one or the newer.

mod common;

use std::path::Path;
use std::task::Poll;

use bytes::Bytes;
use common::{block_on, event, open, small};
use henge_wal::checkpoint::{CheckpointError, Finished, Meta, Plan, PushError, Reader, latest};
use henge_wal::disk::Disk;
use henge_wal::disk::sim::{Fault, Keep, SimHandle};
use henge_wal::{Event, Wal};

const FOLDER: &str = "../checkpoints";
const CHUNKS: u8 = 4;
const EIO: i32 = 5;

fn log(machine: &SimHandle) -> Wal {
    let opened = open(Path::new("core-0"), &small(), Box::new(machine.disk()));
    opened.expect("opens").wal
}

/// Write the group's snapshot up to `index`; `None`: the machine stopped first.
async fn write(
    wal: &mut Wal,
    machine: &SimHandle,
    index: u64,
) -> Option<Result<Finished, CheckpointError>> {
    let meta = Meta {
        cluster_id: 1,
        member_id: 2,
        group: 7,
        index,
        term: 3,
    };
    let plan = Plan {
        bytes_per_second: 0,
        bytes_min: 0,
    };
    let id = wal.begin_checkpoint(FOLDER, meta, plan);
    let mut pushed = 0;
    loop {
        while pushed < CHUNKS {
            let chunk = Bytes::from(vec![index as u8 + pushed; 30_000]);
            match wal.push_chunk(id, chunk) {
                Err(PushError::Full) => break,
                _ => pushed += 1,
            }
        }
        if pushed == CHUNKS {
            wal.end_checkpoint(id);
        }
        if let Poll::Ready(outcome) = wal.poll_checkpoint(id) {
            return Some(outcome);
        }
        let mut alive = std::pin::pin!(event(wal));
        let heard = std::future::poll_fn(|cx| match alive.as_mut().poll(cx) {
            Poll::Pending if machine.is_crashed() => Poll::Ready(None),
            polled => polled.map(Some),
        });
        match heard.await? {
            Event::Checkpoint(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

/// The index of the newest checkpoint, which is whole.
fn whole(disk: &mut dyn Disk) -> u64 {
    let name = latest(disk, FOLDER, 7).expect("readable");
    let mut reader = Reader::open(disk, &name.expect("there is one")).expect("whole");
    let (index, mut chunks) = (reader.meta().index, 0);
    while let Some(chunk) = reader.next_chunk().expect("whole") {
        assert!(chunk.iter().all(|b| *b == index as u8 + chunks));
        chunks += 1;
    }
    assert_eq!(chunks, CHUNKS);
    index
}

fn ready(machine: &SimHandle) -> Wal {
    let mut wal = log(machine);
    // The log is at rest: only checkpoints have operations.
    block_on(async {
        let older = write(&mut wal, machine, 5).await.expect("it runs");
        older.expect("the older one");
    });
    wal
}

/// Checkpoint files that are there.
fn files(machine: &SimHandle) -> Vec<String> {
    let names = machine.names().into_iter();
    let here = names.filter(|name| name.starts_with(FOLDER));
    here.filter(|name| !name.ends_with("reserve")).collect()
}

/// Fault D6 to D8 for checkpoints: the n-th operation fails, for all n, once or from then on.
#[test]
fn the_nth_operation_of_a_checkpoint_fails_for_all_n() {
    let mut cases = 0;
    for for_ever in [false, true] {
        for at in 0.. {
            let machine = SimHandle::new(at, 3);
            let mut wal = ready(&machine);
            let before = machine.ops();
            machine.fail(
                at,
                match for_ever {
                    true => Fault::ErrorForEver(EIO),
                    false => Fault::Error(EIO),
                },
            );
            let done = block_on(write(&mut wal, &machine, 9)).expect("it runs");
            let reached = machine.ops() > before + at;
            machine.heal();
            if let Err(error) = &done {
                assert!(
                    reached && matches!(error, CheckpointError::Io { .. }),
                    "{error}"
                );
            }
            let index = whole(&mut machine.disk());
            assert!(
                index == 9 || done.is_err(),
                "at {at}: it said that it was there"
            );
            if !reached {
                assert!(done.is_ok());
                break;
            }
            cases += 1;
            let next = block_on(write(&mut wal, &machine, 9)).expect("it runs");
            next.expect("the next attempt");
            assert_eq!(files(&machine).len(), 1, "at {at}: nothing is left over");
        }
    }
    assert!(cases >= 2 * 13, "{cases}");
}

/// Fault P1 for checkpoints: the power fails at the n-th operation, for all n, and tears what was in flight
/// and what was not synced.
#[test]
fn the_power_fails_at_the_nth_operation_of_a_checkpoint_for_all_n() {
    let (mut cases, mut newer) = (0, 0);
    for keep in 0..12u64 {
        for at in 0.. {
            let machine = SimHandle::new(at, 3);
            let mut wal = ready(&machine);
            machine.fail(at, Fault::Crash);
            let done = block_on(write(&mut wal, &machine, 9));
            let reached = machine.is_crashed();
            assert_eq!(reached, done.is_none(), "at {at}");
            machine.crash(&match keep {
                0 => Keep::Nothing,
                1 => Keep::Everything,
                seed => Keep::Seeded(seed * 1_000 + at),
            });
            drop(wal);
            let index = whole(&mut machine.disk());
            assert!(index == 9 || reached, "at {at}: it said that it was there");
            newer += u64::from(index == 9);
            let mut wal = log(&machine);
            wal.prepare_checkpoints(FOLDER, 7, index).expect("in order");
            assert_eq!(
                files(&machine).len(),
                1,
                "at {at}: what was unfinished is gone"
            );
            assert_eq!(whole(&mut machine.disk()), index, "at {at}");
            if !reached {
                break;
            }
            cases += 1;
        }
    }
    assert!(cases >= 12 * 13 && newer > 12, "{cases} {newer}");
}

/// A full disk: what was taken first is enough, and what was not is met before a byte is written.
#[test]
fn a_full_disk_is_met_before_anything_is_written_and_the_reserve_is_spent_once() {
    let machine = SimHandle::new(1, 3);
    let mut wal = ready(&machine);
    let is_there = |name: &str| machine.names().iter().any(|there| there.ends_with(name));
    assert!(is_there("reserve"));
    machine.set_capacity(Some(0));
    // It becomes the file of one that fits in it; there is no room for another.
    let done = block_on(write(&mut wal, &machine, 9)).expect("it runs");
    done.expect("the reserve's room is enough");
    assert!(!is_there("reserve"));
    let error = block_on(write(&mut wal, &machine, 12)).expect("it runs");
    let error = error.expect_err("no room");
    assert!(error.was_cheap() && error.shortage().is_some(), "{error}");
    assert_eq!(whole(&mut machine.disk()), 9);
    machine.set_capacity(None);
    let done = block_on(write(&mut wal, &machine, 12)).expect("it runs");
    done.expect("there is room again");
    assert!(is_there("reserve"), "it is made again");
}
