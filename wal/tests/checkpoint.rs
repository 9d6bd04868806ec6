//! Checkpoint files: what is written comes back; anything less than all of it is noticed.

mod common;

use std::future::poll_fn;
use std::path::{Path, PathBuf};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use common::{TempDir, block_on};
use henge_wal::checkpoint::{
    CHUNK_BYTES_MAX, CheckpointError, Finished, Meta, Plan, PushError, Reader, Writer, latest,
    prepare,
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

async fn write(dir: &Path, meta: Meta, sizes: &[usize]) -> Result<Finished, CheckpointError> {
    let mut writer = Writer::create(dir, meta)?;
    for (n, bytes) in sizes.iter().enumerate() {
        poll_fn(|cx| match writer.try_push(chunk(n, *bytes)) {
            Ok(()) | Err(PushError::Ended) => Poll::Ready(()),
            Err(PushError::Full) => {
                // Woken when there is room; asked once more in case that was just now.
                let _ = writer.poll(cx);
                match writer.try_push(chunk(n, *bytes)) {
                    Err(PushError::Full) => Poll::Pending,
                    _ => Poll::Ready(()),
                }
            }
            Err(other) => panic!("{other}"),
        })
        .await;
    }
    writer.finish();
    poll_fn(|cx| writer.poll(cx)).await
}

fn read(path: &Path) -> Result<Vec<Bytes>, CheckpointError> {
    let mut reader = Reader::open(path)?;
    let mut chunks = Vec::new();
    while let Some(chunk) = reader.next_chunk()? {
        chunks.push(chunk);
    }
    Ok(chunks)
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
    let dir = TempDir::new("checkpoint");
    assert_eq!(latest(dir.path(), 7), Ok(None));
    for index in [5, 9] {
        let done = block_on(write(dir.path(), meta(index), &SIZES)).expect("written");
        assert_eq!(latest(dir.path(), 7), Ok(Some(done.path.clone())));
        assert_eq!(Reader::open(&done.path).map(|r| *r.meta()), Ok(meta(index)));
        let chunks = read(&done.path).expect("whole");
        assert!(
            chunks
                .iter()
                .zip(0..)
                .all(|(c, n)| *c == chunk(n, SIZES[n]))
        );
        assert_eq!(chunks.len(), SIZES.len());
    }
    assert_eq!(latest(dir.path(), 8), Ok(None));
    let files = std::fs::read_dir(dir.path()).expect("a directory");
    let names = files.filter_map(|file| Some(file.ok()?.file_name()));
    let count = names.filter(|name| name != "reserve").count();
    assert_eq!(count, 1, "the older one is gone");
}

#[test]
fn an_unfinished_one_leaves_nothing() {
    let dir = TempDir::new("unfinished");
    let mut writer = Writer::create(dir.path(), meta(1)).expect("begun");
    writer.try_push(chunk(0, 100)).expect("room");
    let too_large = Bytes::from(vec![0; CHUNK_BYTES_MAX + 1]);
    assert_eq!(
        writer.try_push(too_large),
        Err(PushError::TooLarge(CHUNK_BYTES_MAX + 1))
    );
    drop(writer);
    assert_eq!(latest(dir.path(), 7), Ok(None));
    // A half-written file under its temporary name is not a checkpoint either.
    std::fs::create_dir_all(dir.path()).expect("a directory");
    std::fs::write(
        dir.path().join("0000000000000007-0000000000000001.tmp"),
        b"x",
    )
    .expect("ok");
    assert_eq!(latest(dir.path(), 7), Ok(None));
}

/// What an attempt of a killed process left kept the room for good: the next one has another name.
#[test]
fn regression_what_a_killed_attempt_left_goes_with_the_next() {
    let dir = TempDir::new("left");
    std::fs::create_dir_all(dir.path()).expect("a directory");
    let left = |group: u64| {
        dir.path()
            .join(format!("{group:016x}-0000000000000003.tmp"))
    };
    for group in [7, 8] {
        std::fs::write(left(group), vec![1; 100_000]).expect("written");
    }
    block_on(write(dir.path(), meta(5), &SIZES)).expect("written");
    assert!(
        !left(7).exists() && left(8).exists(),
        "only its own group's"
    );
    prepare(dir.path(), 8, 0).expect("prepared");
    assert!(!left(8).exists());
}

/// A core that ended left its writer's thread going, and an engine opened on the same directory wrote the
/// same checkpoint beside it: both into one file.
#[test]
fn regression_a_writer_that_was_dropped_is_gone() {
    let dir = TempDir::new("outlive");
    let plan = Plan {
        bytes_per_second: 1 << 20,
        bytes_min: 0,
    };
    let mut first = Writer::begin(dir.path(), meta(5), plan).expect("begun");
    for _ in 0..4 {
        let chunk = Bytes::from(vec![1; CHUNK_BYTES_MAX]);
        first.try_push(chunk).expect("room");
    }
    // All is handed over: without its owner it would go on for most of a second.
    first.finish();
    drop(first);
    let done = block_on(write(dir.path(), meta(5), &SIZES)).expect("written");
    for _ in 0..30 {
        let chunks = read(&done.path).expect("whole");
        assert_eq!(chunks.len(), SIZES.len(), "it is the second one's");
        std::thread::park_timeout(Duration::from_millis(50));
    }
}

/// A checkpoint that cannot fit was written until the file system was full, again and again.
#[test]
fn one_without_room_fails_before_it_writes() {
    let dir = TempDir::new("noroom");
    let plan = Plan {
        bytes_min: 1 << 60,
        ..Plan::default()
    };
    let mut writer = Writer::begin(dir.path(), meta(5), plan).expect("begun");
    writer.finish();
    let error = block_on(poll_fn(|cx| writer.poll(cx))).expect_err("no disk is so large");
    assert!(error.was_cheap() && error.shortage().is_some(), "{error}");
    let files = std::fs::read_dir(dir.path()).expect("a directory");
    assert_eq!(files.count(), 0, "nothing is left");
}

#[test]
fn a_directory_that_cannot_be_made_is_named() {
    let dir = TempDir::new("nodir");
    std::fs::write(dir.path(), b"a file where a directory should be").expect("written");
    let error = block_on(write(&dir.path().join("x"), meta(1), &[1])).expect_err("refused");
    assert!(matches!(error, CheckpointError::Io { .. }), "{error}");
    std::fs::remove_file(dir.path()).expect("removed");
}

#[test]
fn every_flipped_byte_and_every_cut_is_noticed() {
    let dir = TempDir::new("flip");
    let done = block_on(write(dir.path(), meta(1), &[100, 0, 200, 13])).expect("written");
    let good = std::fs::read(&done.path).expect("read");
    let path: PathBuf = dir.path().join("damaged.ckpt");
    for at in (0..4096).step_by(61).chain(4096..good.len()) {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        std::fs::write(&path, &bad).expect("written");
        assert!(read(&path).is_err(), "byte {at}");
        std::fs::write(&path, &good[..at]).expect("written");
        assert!(read(&path).is_err(), "cut at {at}");
    }
}
