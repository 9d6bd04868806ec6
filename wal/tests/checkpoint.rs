//! Checkpoint files: what is written comes back; anything less than all of it is noticed.

mod common;

use std::path::{Path, PathBuf};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use common::{TempDir, block_on, close, event, open, small};
use henge_wal::checkpoint::{
    CHUNK_BYTES_MAX, CheckpointError, CheckpointId, Finished, Meta, Plan, PushError, Reader, latest,
};
use henge_wal::disk::thread::ThreadDisk;
use henge_wal::{Event, Wal, inspect};

/// Beside the log's directory, as an engine has it.
const FOLDER: &str = "../checkpoints";
const NO_PACE: Plan = Plan {
    bytes_per_second: 0,
    bytes_min: 0,
};

fn meta(index: u64) -> Meta {
    Meta {
        cluster_id: 1,
        member_id: 2,
        group: 7,
        index,
        term: 3,
    }
}

fn chunk(n: usize, bytes: usize) -> Bytes {
    (0..bytes).map(|i| (i * 31 + n) as u8).collect()
}

/// A data directory with a log.
struct Place {
    dir: TempDir,
}

impl Place {
    fn new(name: &str) -> Self {
        let dir = TempDir::new(name);
        std::fs::create_dir_all(dir.path()).expect("a directory");
        Place { dir }
    }

    fn log(&self) -> Wal {
        let log = self.dir.path().join("log");
        let opened = open(&log, &small(), Box::new(ThreadDisk::new(2)));
        opened.expect("opens").wal
    }

    fn folder(&self) -> PathBuf {
        self.dir.path().join("checkpoints")
    }

    fn names(&self) -> Vec<String> {
        let files = std::fs::read_dir(self.folder()).expect("a directory");
        let names = files.filter_map(|file| file.ok()?.file_name().into_string().ok());
        names.filter(|name| name != "reserve").collect()
    }

    fn latest(&self, group: u64) -> Option<String> {
        let mut disk = inspect::disk(&self.dir.path().join("log"));
        latest(&mut disk, FOLDER, group).expect("readable")
    }

    fn read(&self, name: &str) -> Result<(Meta, Vec<Bytes>), CheckpointError> {
        let mut disk = inspect::disk(&self.dir.path().join("log"));
        let mut reader = Reader::open(&mut disk, name)?;
        let mut chunks = Vec::new();
        while let Some(chunk) = reader.next_chunk()? {
            chunks.push(chunk);
        }
        Ok((*reader.meta(), chunks))
    }
}

fn name_of(path: &Path) -> String {
    let name = path.file_name().expect("a file").to_string_lossy();
    format!("{FOLDER}/{name}")
}

async fn ended(wal: &mut Wal, id: CheckpointId) -> Result<Finished, CheckpointError> {
    loop {
        if let Poll::Ready(outcome) = wal.poll_checkpoint(id) {
            return outcome;
        }
        assert_eq!(event(wal).await, Event::Checkpoint(id));
    }
}

async fn write(wal: &mut Wal, meta: Meta, sizes: &[usize]) -> Result<Finished, CheckpointError> {
    let id = wal.begin_checkpoint(FOLDER, meta, NO_PACE);
    for (n, bytes) in sizes.iter().enumerate() {
        loop {
            match wal.push_chunk(id, chunk(n, *bytes)) {
                Ok(()) | Err(PushError::Ended) => break,
                Err(PushError::Full) => assert_eq!(event(wal).await, Event::Checkpoint(id)),
                Err(other) => panic!("{other}"),
            }
        }
    }
    wal.end_checkpoint(id);
    ended(wal, id).await
}

const SIZES: [usize; 9] = [
    0,
    1,
    7,
    8,
    1_000,
    CHUNK_BYTES_MAX,
    CHUNK_BYTES_MAX,
    5,
    4_096,
];

#[test]
fn chunks_come_back_and_older_files_go() {
    let place = Place::new("checkpoint");
    let mut wal = place.log();
    assert_eq!(place.latest(7), None);
    for index in [5, 9] {
        let done = block_on(write(&mut wal, meta(index), &SIZES)).expect("written");
        assert_eq!(done.path.parent(), Some(&*place.folder()));
        let name = name_of(&done.path);
        assert_eq!(place.latest(7), Some(name.clone()));
        let (found, chunks) = place.read(&name).expect("whole");
        assert_eq!(found, meta(index));
        assert!(
            chunks
                .iter()
                .zip(0..)
                .all(|(c, n)| *c == chunk(n, SIZES[n]))
        );
        assert_eq!(chunks.len(), SIZES.len());
    }
    assert_eq!(place.latest(8), None);
    assert_eq!(place.names().len(), 1, "the older one is gone");
    block_on(close(wal));
}

#[test]
fn an_unfinished_one_leaves_nothing() {
    for ending in ["given up", "closed", "dropped"] {
        let place = Place::new("unfinished");
        let mut wal = place.log();
        let id = wal.begin_checkpoint(FOLDER, meta(1), NO_PACE);
        wal.push_chunk(id, chunk(0, 100_000)).expect("room");
        let too_large = Bytes::from(vec![0; CHUNK_BYTES_MAX + 1]);
        assert_eq!(
            wal.push_chunk(id, too_large),
            Err(PushError::TooLarge(CHUNK_BYTES_MAX + 1))
        );
        while !wal.checkpoint_has_room(id) {
            block_on(event(&mut wal));
        }
        assert_eq!(place.names().len(), 1, "it is being written");
        match ending {
            "given up" => {
                wal.give_up_checkpoint(id);
                assert_eq!(wal.push_chunk(id, chunk(0, 1)), Err(PushError::Ended));
                block_on(close(wal));
            }
            "closed" => block_on(close(wal)),
            _ => drop(wal),
        }
        assert_eq!(place.names(), Vec::<String>::new(), "{ending}");
        // A half-written file under its temporary name is not a checkpoint either.
        let tmp = place.folder().join("0000000000000007-0000000000000001.tmp");
        std::fs::write(tmp, b"x").expect("ok");
        assert_eq!(place.latest(7), None);
    }
}

/// What an attempt of a killed process left kept the room for good: the next one has another name.
#[test]
fn regression_what_a_killed_attempt_left_goes_with_the_next() {
    let place = Place::new("left");
    std::fs::create_dir_all(place.folder()).expect("a directory");
    let left = |group: u64| {
        place
            .folder()
            .join(format!("{group:016x}-0000000000000003.tmp"))
    };
    for group in [7, 8] {
        std::fs::write(left(group), vec![1; 100_000]).expect("written");
    }
    let mut wal = place.log();
    block_on(write(&mut wal, meta(5), &SIZES)).expect("written");
    assert!(
        !left(7).exists() && left(8).exists(),
        "only its own group's"
    );
    wal.prepare_checkpoints(FOLDER, 8, 0).expect("prepared");
    assert!(!left(8).exists());
    block_on(close(wal));
}

/// A core that ended left its writer's thread going, and an engine opened on the same directory wrote the
/// same checkpoint beside it: both into one file.
#[test]
fn regression_a_writer_that_was_dropped_is_gone() {
    let place = Place::new("outlive");
    let mut wal = place.log();
    wal.set_time(1);
    let plan = Plan {
        bytes_per_second: 1 << 20,
        bytes_min: 0,
    };
    let first = wal.begin_checkpoint(FOLDER, meta(5), plan);
    for _ in 0..4 {
        let chunk = Bytes::from(vec![1; CHUNK_BYTES_MAX]);
        wal.push_chunk(first, chunk).expect("room");
    }
    // All is handed over: without its owner it would go on for most of a second.
    wal.end_checkpoint(first);
    while !wal.checkpoint_has_room(first) {
        block_on(event(&mut wal));
    }
    drop(wal);
    let mut wal = place.log();
    let done = block_on(write(&mut wal, meta(5), &SIZES)).expect("written");
    for _ in 0..30 {
        let (_, chunks) = place.read(&name_of(&done.path)).expect("whole");
        assert_eq!(chunks.len(), SIZES.len(), "it is the second one's");
        std::thread::park_timeout(Duration::from_millis(50));
    }
    block_on(close(wal));
}

/// Nobody asks for pieces once the log closes: one that stayed due kept its core turning, and never let a
/// runtime that it shared get at the writes that the log waited for.
#[test]
fn regression_a_closing_log_has_no_piece_due() {
    let place = Place::new("closing");
    let mut wal = place.log();
    wal.set_time(1);
    let plan = Plan {
        bytes_per_second: 1 << 20,
        bytes_min: 0,
    };
    let id = wal.begin_checkpoint(FOLDER, meta(5), plan);
    for _ in 0..4 {
        let chunk = Bytes::from(vec![1; CHUNK_BYTES_MAX]);
        wal.push_chunk(id, chunk).expect("room");
    }
    // Until a piece waits for its time: what the disk does meanwhile is no event.
    let mut cx = Context::from_waker(Waker::noop());
    while wal.checkpoint_due_micros() == u64::MAX {
        let _ = wal.poll(&mut cx);
        std::thread::yield_now();
    }
    // More than may be in flight: the rest waits for writes that nobody takes back yet.
    for index in 1..=8 {
        wal.entry(1, 1, index, 0, &[7; 4_000]).expect("fits");
        wal.submit().expect("healthy");
    }
    wal.close();
    assert_eq!(wal.checkpoint_due_micros(), u64::MAX);
    block_on(close(wal));
    assert!(place.names().is_empty(), "and nothing is left of it");
}

/// One that was given up still removes its file, which the next one of its group may be called, too.
#[test]
fn the_next_one_waits_until_the_one_before_is_gone() {
    let place = Place::new("again");
    let mut wal = place.log();
    for _ in 0..20 {
        let first = wal.begin_checkpoint(FOLDER, meta(5), NO_PACE);
        wal.push_chunk(first, chunk(0, 100_000)).expect("room");
        wal.give_up_checkpoint(first);
        let done = block_on(write(&mut wal, meta(5), &[10])).expect("written");
        let (_, chunks) = place.read(&name_of(&done.path)).expect("whole");
        assert_eq!(chunks, [chunk(0, 10)]);
    }
    block_on(close(wal));
}

/// A checkpoint that cannot fit was written until the file system was full, again and again.
#[test]
fn one_without_room_fails_before_it_writes() {
    let place = Place::new("noroom");
    let mut wal = place.log();
    let plan = Plan {
        bytes_min: 1 << 60,
        ..Plan::default()
    };
    let id = wal.begin_checkpoint(FOLDER, meta(5), plan);
    wal.end_checkpoint(id);
    let error = block_on(ended(&mut wal, id)).expect_err("no disk is so large");
    assert!(error.was_cheap() && error.shortage().is_some(), "{error}");
    assert!(!wal.checkpoint_has_room(id));
    assert_eq!(place.names(), Vec::<String>::new(), "nothing is left");
    block_on(close(wal));
}

#[test]
fn a_directory_that_cannot_be_made_is_named() {
    let place = Place::new("nodir");
    std::fs::write(place.folder(), b"a file where a directory should be").expect("written");
    let mut wal = place.log();
    let error = block_on(write(&mut wal, meta(1), &[1])).expect_err("refused");
    let named = matches!(&error, CheckpointError::Io { path, .. } if *path == place.folder());
    assert!(named, "{error}");
    block_on(close(wal));
}

#[test]
fn every_flipped_byte_and_every_cut_is_noticed() {
    let place = Place::new("flip");
    let mut wal = place.log();
    let done = block_on(write(&mut wal, meta(1), &[100, 0, 200, 13])).expect("written");
    block_on(close(wal));
    let good = std::fs::read(&done.path).expect("read");
    let path: PathBuf = place.folder().join("damaged.ckpt");
    let name = name_of(&path);
    for at in (0..4096).step_by(61).chain(4096..good.len()) {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        std::fs::write(&path, &bad).expect("written");
        assert!(place.read(&name).is_err(), "byte {at}");
        std::fs::write(&path, &good[..at]).expect("written");
        assert!(place.read(&name).is_err(), "cut at {at}");
    }
}
