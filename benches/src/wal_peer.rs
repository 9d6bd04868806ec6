//! What the log is compared with: tikv's `raft-engine` with sync on, and the log that most programs
//! write: buffered, fallocated, one fdatasync per commit. The same turns: an entry of 256 B for each
//! of 64 groups, from one core, durable before the next.
#![allow(clippy::disallowed_methods, reason = "a benchmark lives in real time")]

use std::fs::OpenOptions;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::wal_commit::{Run, Turn};

/// Runs `commit` for a while, after a third of that to warm up.
fn measure(
    time: Duration,
    mut commit: impl FnMut(u64) -> Result<(), String>,
) -> Result<Run, String> {
    let begin = Instant::now() + time / 3;
    let end = begin + time;
    let mut run = Run {
        seconds: time.as_secs_f64(),
        ..Run::default()
    };
    for index in 1.. {
        let began = Instant::now();
        if began >= end {
            break;
        }
        commit(index)?;
        if began >= begin {
            run.commits += 1;
            run.micros.push(began.elapsed().as_secs_f64() * 1e6);
        }
    }
    run.micros.sort_by(f64::total_cmp);
    Ok(run)
}

/// A buffered log: pwrite and fdatasync into a fallocated file that is used round and round.
pub fn buffered(dir: &Path, turn: Turn, time: Duration) -> Result<Run, String> {
    const BYTES: i64 = 64 << 20;
    let failed = |e: std::io::Error| format!("{}: {e}", dir.display());
    std::fs::create_dir_all(dir).map_err(failed)?;
    let path = dir.join("buffered.log");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(&path)
        .map_err(failed)?;
    // A new file every 64 MiB, as such logs rotate.
    let fresh = |file: &std::fs::File| {
        file.set_len(0).map_err(failed)?;
        fallocate(file, BYTES).map_err(failed)
    };
    fresh(&file)?;
    // Per entry: a head with group, term, index, length and checksum.
    let head = 32;
    let mut batch = vec![7u8; (turn.payload_bytes + head) * turn.groups as usize];
    let mut at = 0u64;
    let run = measure(time, |index| {
        batch[..8].copy_from_slice(&index.to_le_bytes());
        if at + batch.len() as u64 > BYTES as u64 {
            fresh(&file)?;
            at = 0;
        }
        file.write_all_at(&batch, at).map_err(failed)?;
        file.sync_data().map_err(failed)?;
        at += batch.len() as u64;
        Ok(())
    });
    let _ = std::fs::remove_file(&path);
    run
}

fn fallocate(file: &std::fs::File, bytes: i64) -> std::io::Result<()> {
    // Through the tool: the benchmark has no unsafe code of its own.
    let fd = format!("/proc/self/fd/{}", file.as_raw_fd());
    let path = std::fs::read_link(fd)?;
    let status = std::process::Command::new("fallocate")
        .arg("-l")
        .arg(bytes.to_string())
        .arg(path)
        .status()?;
    match status.success() {
        true => Ok(()),
        false => Err(std::io::Error::other("fallocate failed")),
    }
}

/// tikv's raft-engine. `None`: built without it.
#[cfg(not(feature = "raft-engine"))]
pub fn raft_engine(_: &Path, _: Turn, _: Duration) -> Result<Option<Run>, String> {
    Ok(None)
}

/// tikv's raft-engine, at its own defaults but for compression (batches above 8 KiB would be
/// compressed; the payload here is noise-free and would shrink to nothing).
#[cfg(feature = "raft-engine")]
pub fn raft_engine(dir: &Path, turn: Turn, time: Duration) -> Result<Option<Run>, String> {
    use protobuf::well_known_types::BytesValue;
    use raft_engine::{Config, Engine, LogBatch, MessageExt, ReadableSize};

    #[derive(Clone)]
    struct Entry;
    impl MessageExt for Entry {
        type Entry = BytesValue;

        fn index(entry: &BytesValue) -> u64 {
            let head = entry.value.first_chunk().copied();
            u64::from_le_bytes(head.unwrap_or_default())
        }
    }

    let _ = std::fs::remove_dir_all(dir);
    let config = Config {
        dir: dir.to_string_lossy().into_owned(),
        batch_compression_threshold: ReadableSize(0),
        ..Config::default()
    };
    let engine = Engine::open(config).map_err(|e| e.to_string())?;
    let mut batch = LogBatch::default();
    let run = measure(time, |index| {
        let mut value = vec![7; turn.payload_bytes];
        value[..8].copy_from_slice(&index.to_le_bytes());
        let entry = BytesValue {
            value,
            ..BytesValue::default()
        };
        for group in 1..=turn.groups {
            let added = batch.add_entries::<Entry>(group, std::slice::from_ref(&entry));
            added.map_err(|e| e.to_string())?;
        }
        engine.write(&mut batch, true).map_err(|e| e.to_string())?;
        Ok(())
    })?;
    drop(engine);
    let _ = std::fs::remove_dir_all(dir);
    Ok(Some(run))
}
