//! The same life of a log on every disk: real files through threads, real files through io_uring, and
//! the simulated disk. Write, rotate, recycle, read back, close, open again.

mod common;

use std::future::poll_fn;
use std::io::ErrorKind;
use std::path::Path;
use std::task::{Context, Poll};

use common::{TempDir, block_on, close, commit, durable, event, open, small};
use henge_wal::disk::ring::{self, Bell, RingDisk};
use henge_wal::disk::sim::{Fault, SimHandle};
use henge_wal::disk::thread::ThreadDisk;
use henge_wal::disk::tokio_uring::{UringDisk, probe};
use henge_wal::disk::{AlignedBuf, Disk, Op, Output, conformance};
use henge_wal::{Event, OpenError, ReadError};

fn payload(group: u64, index: u64) -> Vec<u8> {
    (0..index * 37 % 900)
        .map(|i| (group + index + i) as u8)
        .collect()
}

async fn life(dir: &Path, disk: impl Fn() -> Box<dyn Disk>) {
    let first = open(dir, &small(), disk()).expect("a new log");
    assert!(first.report.created && first.found.groups.is_empty());
    let mut wal = first.wal;

    // One commit at a time, three groups, until several segments are full.
    for index in 1..=120 {
        for group in 1..=3 {
            wal.entry(group, 1, index, 0, &payload(group, index))
                .expect("small");
        }
        wal.hard_state(1, 1, 2, index - 1);
        commit(&mut wal).await;
    }
    assert!(wal.stats().segments > 2, "{:?}", wal.stats());

    // Many in flight, acknowledged in order.
    let mut last = 0;
    for index in 121..=240 {
        for group in 1..=3 {
            wal.entry(group, 1, index, 0, &payload(group, index))
                .expect("small");
        }
        wal.submit().expect("healthy");
        last = wal.staged_lsn();
    }
    let mut seen = wal.stats().durable_lsn;
    while seen + 1 < last {
        match event(&mut wal).await {
            Event::Durable(lsn) => {
                assert_eq!(lsn, seen + 1);
                seen = lsn;
            }
            other => panic!("{other:?}"),
        }
    }

    // A suffix is replaced; old entries come back, and the replaced ones do not.
    wal.entry(2, 2, 200, 9, b"new").expect("small");
    commit(&mut wal).await;
    let id = wal.read(2, 100, 240, usize::MAX);
    let Event::Read { id: got, result } = event(&mut wal).await else {
        panic!("a read")
    };
    let entries = result.expect("entries");
    assert_eq!((got, entries.len()), (id, 101));
    for (entry, index) in entries.iter().zip(100..) {
        let expected = if index == 200 {
            b"new".to_vec()
        } else {
            payload(2, index)
        };
        assert_eq!((entry.index, &entry.payload[..]), (index, &expected[..]));
    }
    wal.read(2, 150, 151, 1);
    let Event::Read {
        result: Ok(one), ..
    } = event(&mut wal).await
    else {
        panic!("a read")
    };
    assert_eq!(one.len(), 1);

    // Compaction lets segments go, and they are used again.
    for group in 1..=3 {
        wal.compacted(group, 199, 1);
    }
    commit(&mut wal).await;
    wal.read(1, 5, 6, 100);
    let gone = loop {
        if let Event::Read { result, .. } = event(&mut wal).await {
            break result;
        }
    };
    assert_eq!(
        gone,
        Err(ReadError::Compacted {
            group: 1,
            compacted: 199
        })
    );
    for index in 241..=400 {
        wal.entry(1, 2, index, 0, &payload(1, index))
            .expect("small");
        commit(&mut wal).await;
    }
    assert!(wal.stats().recycled > 0, "{:?}", wal.stats());

    // A second opener is refused while this one lives.
    let second = open(dir, &small(), disk());
    assert!(
        matches!(second, Err(OpenError::Locked { .. })),
        "{second:?}"
    );
    close(wal).await;

    let again = open(dir, &small(), disk()).expect("the same log");
    assert_eq!(again.report.cut, None);
    let logs = &again.found.groups;
    assert_eq!(logs[&1].entries.len(), 201);
    assert_eq!(
        logs[&2].entries.back().map(|e| (e.index, e.term, e.kind)),
        Some((200, 2, 9))
    );
    assert_eq!(logs[&3].last(), 240);
    assert_eq!((logs[&1].term, logs[&1].vote, logs[&1].commit), (1, 2, 119));
    for entry in &logs[&1].entries {
        assert_eq!(entry.payload, payload(1, entry.index));
    }

    // And it goes on.
    let mut wal = again.wal;
    let lsn = wal.entry(1, 3, 401, 0, b"on").expect("small");
    wal.submit().expect("healthy");
    durable(&mut wal, lsn).await;
    close(wal).await;
    let last = open(dir, &small(), disk()).expect("the same log");
    assert_eq!(last.found.groups[&1].last(), 401);
}

#[test]
fn a_life_on_threads() {
    let dir = TempDir::new("thread");
    block_on(life(dir.path(), || Box::new(ThreadDisk::new(4))));
}

#[test]
fn a_life_on_io_uring() {
    if let Err(reason) = probe() {
        println!("skipped: {reason}");
        return;
    }
    let dir = TempDir::new("uring");
    tokio_uring::start(life(dir.path(), || Box::new(UringDisk::new())));
}

/// Watches the ring's eventfd from a thread, as a host without a reactor might.
struct ThreadBell(std::sync::Arc<std::sync::Mutex<(bool, Option<std::task::Waker>)>>);

impl Bell for ThreadBell {
    fn poll_rung(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.0.lock().expect("not poisoned");
        if std::mem::take(&mut state.0) {
            return Poll::Ready(());
        }
        state.1 = Some(cx.waker().clone());
        Poll::Pending
    }
}

fn watch(event: std::os::fd::OwnedFd) -> std::io::Result<Box<dyn Bell>> {
    let state = std::sync::Arc::new(std::sync::Mutex::new((false, None)));
    let (weak, mut file) = (
        std::sync::Arc::downgrade(&state),
        std::fs::File::from(event),
    );
    std::thread::spawn(move || {
        // The eventfd does not block: a poor man's poll, for a test only.
        let mut count = [0; 8];
        while let Some(state) = weak.upgrade() {
            if std::io::Read::read(&mut file, &mut count).is_err() {
                drop(state);
                std::thread::yield_now();
                continue;
            }
            let mut state = state.lock().expect("not poisoned");
            state.0 = true;
            if let Some(waker) = state.1.take() {
                std::task::Waker::wake(waker);
            }
        }
    });
    Ok(Box::new(ThreadBell(state)))
}

#[test]
fn a_life_on_a_ring_of_our_own() {
    if let Err(reason) = ring::probe() {
        println!("skipped: {reason}");
        return;
    }
    let dir = TempDir::new("ring");
    block_on(life(dir.path(), || {
        Box::new(RingDisk::new(watch).expect("the probe made one"))
    }));
}

/// A disk that is dropped with writes in flight waits for them: the kernel still reads their memory,
/// and a write that landed after its owner is gone could land on top of its successor's.
#[test]
fn a_ring_dropped_with_writes_in_flight_has_written_them() {
    if let Err(reason) = ring::probe() {
        println!("skipped: {reason}");
        return;
    }
    let dir = TempDir::new("ring-drop");
    let mut disk = RingDisk::new(watch).expect("the probe made one");
    disk.attach(dir.path());
    disk.make().expect("can be made");
    std::fs::write(dir.path().join("a"), vec![0; 64 * 4096]).expect("can be written");
    let Ok(Output::Opened { file, .. }) = disk.run(Op::Open { name: "a".into() }) else {
        panic!("it can be opened");
    };
    for at in 0..64 {
        let mut buf = AlignedBuf::zeroed(4096);
        buf.fill(at as u8 + 1);
        let offset = at * 4096;
        disk.submit(at, Op::Write { file, offset, buf });
    }
    drop(disk);
    let bytes = std::fs::read(dir.path().join("a")).expect("can be read");
    for (at, block) in bytes.chunks(4096).enumerate() {
        assert!(block.iter().all(|b| *b == at as u8 + 1), "block {at}");
    }
}

/// More operations than the ring has entries, a read past the end, and a file that is not open.
#[test]
fn a_ring_takes_more_than_its_entries_and_names_what_is_wrong() {
    if let Err(reason) = ring::probe() {
        println!("skipped: {reason}");
        return;
    }
    let dir = TempDir::new("ring-many");
    let mut disk = RingDisk::new(watch).expect("the probe made one");
    disk.attach(dir.path());
    disk.make().expect("can be made");
    std::fs::write(dir.path().join("a"), vec![7; 3 * 4096]).expect("can be written");
    let Ok(Output::Opened { file, .. }) = disk.run(Op::Open { name: "a".into() }) else {
        panic!("it can be opened");
    };
    let bytes = 4 * 4096;
    for token in 0..300 {
        let offset = 4096;
        disk.submit(
            token,
            Op::Read {
                file,
                offset,
                bytes,
            },
        );
    }
    disk.submit(
        300,
        Op::Read {
            file: file + 9,
            offset: 0,
            bytes,
        },
    );
    let mut seen = std::collections::BTreeSet::new();
    block_on(async {
        while seen.len() < 301 {
            let done = poll_fn(|cx| disk.poll(cx)).await;
            assert!(seen.insert(done.token), "twice: {}", done.token);
            match done.result {
                Ok(Output::Buf(buf)) => assert_eq!(buf[..], [7; 2 * 4096], "cut at the end"),
                Err(e) => assert_eq!((done.token, e.kind()), (300, ErrorKind::NotFound)),
                other => panic!("{other:?}"),
            }
        }
    });
}

#[test]
fn a_life_in_simulation() {
    for seed in 0..20 {
        let machine = SimHandle::new(seed, 1 + seed);
        block_on(life(Path::new("sim"), || Box::new(machine.disk())));
    }
}

#[test]
fn conformance_of_threads() {
    let dir = TempDir::new("conform-thread");
    let mut make = || Box::new(ThreadDisk::new(4)) as Box<dyn Disk>;
    let ran = block_on(conformance::run(dir.path(), &mut make, None)).expect("conforms");
    assert!(ran.len() >= 11, "{ran:?}");
}

#[test]
fn conformance_of_io_uring() {
    if let Err(reason) = probe() {
        println!("skipped: {reason}");
        return;
    }
    let dir = TempDir::new("conform-uring");
    let mut make = || Box::new(UringDisk::new()) as Box<dyn Disk>;
    let ran = tokio_uring::start(conformance::run(dir.path(), &mut make, None));
    assert!(ran.expect("conforms").len() >= 11);
}

#[test]
fn conformance_of_a_ring_of_our_own() {
    if let Err(reason) = ring::probe() {
        println!("skipped: {reason}");
        return;
    }
    let dir = TempDir::new("conform-ring");
    let mut make = || Box::new(RingDisk::new(watch).expect("the probe made one")) as Box<dyn Disk>;
    let ran = block_on(conformance::run(dir.path(), &mut make, None)).expect("conforms");
    assert!(ran.len() >= 11, "{ran:?}");
}

#[test]
fn conformance_of_the_simulated_disk() {
    for seed in 0..10 {
        let machine = SimHandle::new(seed, 1 + seed);
        let (disks, faults) = (machine.clone(), machine.clone());
        let mut make = || Box::new(disks.disk()) as Box<dyn Disk>;
        let mut inject = |code| faults.fail(0, Fault::Error(code));
        let suite = conformance::run(Path::new("sim"), &mut make, Some(&mut inject));
        let ran = block_on(suite).expect("conforms");
        assert!(ran.contains(&"injected errors"), "{ran:?}");
    }
}
