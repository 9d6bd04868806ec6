//! Recovery: a log is written, stopped, and opened again; and its files are read plainly, in the same
//! minutes, with the same flags.
//!
//! Promises: every open replays every record. Memory is measured in a process of its own that only opens
//! the log and does nothing with what it replays: the growth of its peak (`VmHWM`).
#![allow(clippy::disallowed_methods, reason = "a benchmark lives in real time")]

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Instant;

use henge_wal::disk::AlignedBuf;
use henge_wal::{Event, Options, Record};

use crate::wal_commit::{Backend, close, event};

/// What opening a log took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Recovery {
    /// Bytes of log replayed.
    pub bytes: u64,
    /// Seconds of the open, everything included.
    pub seconds: f64,
    /// Seconds of a plain read of the same bytes.
    pub read_seconds: f64,
    /// Records replayed.
    pub records: u64,
}

/// Names the log that a child opens.
const CHILD: &str = "HENGE_BENCH_RECOVER";

/// What a process that only opens a log needs for it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    /// Growth of its peak of resident memory, in bytes.
    pub peak_bytes: u64,
    /// What the log says its index takes, in bytes.
    pub index_bytes: u64,
    /// Batches replayed.
    pub batches: u64,
}

/// Writes a log of about `bytes`: entries of 256 B of 64 groups, so many of each group in a turn.
pub fn write(dir: &Path, bytes: u64, per_turn: u64) -> Result<(), String> {
    let _ = std::fs::remove_dir_all(dir);
    let backend = Backend::TokioUring;
    backend.run(async {
        let (mut wal, _) = backend.open(dir, &Options::default(), &mut ())?;
        let payload = [9u8; 256];
        let mut index = 0;
        // Turns share a batch as soon as one has to wait: those of one entry must not.
        let staged_max = if per_turn == 1 { 0 } else { 1 << 20 };
        while wal.stats().bytes < bytes {
            for _ in 0..per_turn {
                index += 1;
                for group in 0..64 {
                    wal.entry(group, 1, index, 0, &payload)
                        .map_err(|e| e.to_string())?;
                }
            }
            wal.submit().map_err(|e| e.to_string())?;
            while wal.staged_bytes() > staged_max {
                if let Event::Poisoned(error) = event(&mut wal).await {
                    return Err(error.to_string());
                }
            }
            tokio_uring::no_op().await.map_err(|e| e.to_string())?;
        }
        close(wal).await;
        Ok(())
    })
}

/// Opens the log and reads its files plainly.
pub fn measure(backend: Backend, dir: &Path) -> Result<Recovery, String> {
    let mut found = Recovery::default();
    backend.run(async {
        let began = Instant::now();
        let mut count = |record: Record<'_>| {
            if let Record::Entry { .. } = record {
                found.records += 1;
            }
        };
        let (wal, report) = backend.open(dir, &Options::default(), &mut count)?;
        found.seconds = began.elapsed().as_secs_f64();
        found.bytes = report.bytes;
        close(wal).await;
        Ok::<(), String>(())
    })?;
    found.read_seconds = plain_read(dir, found.bytes).map_err(|e| e.to_string())?;
    Ok(found)
}

/// Opens the log in a process of its own.
pub fn memory(dir: &Path) -> Result<Memory, String> {
    let bench = std::env::current_exe().map_err(|e| e.to_string())?;
    let child = Command::new(bench).env(CHILD, dir).output();
    let said = child.map_err(|e| e.to_string())?.stdout;
    let said = String::from_utf8_lossy(&said).into_owned();
    let mut numbers = said.split_whitespace().map(str::parse::<u64>);
    let mut next = || match numbers.next() {
        Some(Ok(number)) => Ok(number),
        _ => Err(format!("the child that opens a log said {said:?}")),
    };
    Ok(Memory {
        peak_bytes: next()?,
        index_bytes: next()?,
        batches: next()?,
    })
}

/// In a child: opens the log that it was given and says what that took. `None`: this is no child.
pub fn child() -> Option<ExitCode> {
    let dir = std::env::var_os(CHILD)?;
    let backend = Backend::Ring;
    let before = peak_bytes();
    let opened = backend.run(async {
        let (wal, report) = backend.open(Path::new(&dir), &Options::default(), &mut ())?;
        let (peak, index) = (peak_bytes(), wal.stats().index_bytes);
        println!("{} {index} {}", peak.saturating_sub(before), report.batches);
        close(wal).await;
        Ok::<(), String>(())
    });
    Some(match opened {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    })
}

/// Reads as many bytes of the segments as the log has, one 4 MiB read after the other.
fn plain_read(dir: &Path, bytes: u64) -> std::io::Result<f64> {
    let mut names: Vec<_> = std::fs::read_dir(dir)?
        .flatten()
        .map(|e| e.path())
        .collect();
    names.retain(|path| path.extension().is_some_and(|end| end == "seg"));
    names.sort();
    let mut buf = AlignedBuf::zeroed(4 << 20);
    let began = Instant::now();
    let mut left = bytes;
    for name in names {
        let file: File = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_DIRECT)
            .open(name)?;
        let mut at = 0;
        while left > 0 {
            let n = file.read_at(&mut buf, at)? as u64;
            if n == 0 {
                break;
            }
            at += n;
            left = left.saturating_sub(n);
        }
    }
    Ok(began.elapsed().as_secs_f64())
}

/// The process's peak of resident memory; the kernel is asked to begin anew each time.
fn peak_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    let _ = std::fs::write("/proc/self/clear_refs", "5");
    kib.unwrap_or(0) * 1024
}

/// Seconds to open a log after so many kills, each after a few commits.
pub fn after_kills(dir: &Path, kills: u64) -> Result<f64, String> {
    let _ = std::fs::remove_dir_all(dir);
    let backend = Backend::Thread;
    for kill in 0..kills {
        backend.run(async {
            let (mut wal, _) = backend.open(dir, &Options::default(), &mut ())?;
            wal.entry(1, 1, kill + 1, 0, b"x")
                .map_err(|e| e.to_string())?;
            let lsn = wal.staged_lsn();
            wal.submit().map_err(|e| e.to_string())?;
            while event(&mut wal).await != Event::Durable(lsn) {}
            // Dropped without a close: what a kill leaves, but for what the kernel still finishes.
            Ok::<(), String>(())
        })?;
    }
    let began = Instant::now();
    let opened = backend.run(async { backend.open(dir, &Options::default(), &mut ()) });
    let seconds = began.elapsed().as_secs_f64();
    drop(opened?);
    let _ = std::fs::remove_dir_all(dir);
    Ok(seconds)
}
