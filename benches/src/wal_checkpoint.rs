//! Commit latency beside a checkpoint: the same load with and without a snapshot being written.
#![allow(clippy::disallowed_methods, reason = "a benchmark lives in real time")]

use std::path::Path;
use std::time::{Duration, Instant};

use henge_wal::checkpoint::{CHUNK_BYTES_MAX, Meta, Plan, PushError};
use henge_wal::{Options, Wal};

use crate::wal_commit::{Backend, Load, Run, Turn, close, warm};

/// Both runs, and how fast the checkpoint went, in bytes per second.
#[derive(Clone, Debug, Default)]
pub struct Beside {
    /// Turns in flight.
    pub depth: usize,
    /// Without a checkpoint.
    pub alone: Run,
    /// While one is written.
    pub beside: Run,
    /// Bytes per second of the checkpoint.
    pub checkpoint_rate: f64,
}

/// Measures both, one after the other, on one open log: each depth so many times.
pub fn measure(
    backend: Backend,
    dir: &Path,
    turn: Turn,
    depths: &[usize],
    rounds: usize,
    time: Duration,
) -> Result<Vec<Beside>, String> {
    let _ = std::fs::remove_dir_all(dir);
    let out = backend.run(async {
        let (mut wal, _) = backend.open(&dir.join("log"), &Options::default(), &mut ())?;
        let mut first = 0;
        // By the log's clock, which only goes on.
        let born = Instant::now();
        // Segments are made and filled before anything is measured.
        warm(&mut wal).await?;
        let mut found = Vec::new();
        for depth in depths.iter().flat_map(|depth| vec![*depth; rounds]) {
            let alone = run(&mut wal, turn, depth, time, &mut first, born, None).await?;
            let mut pushed = 0;
            let beside = run(
                &mut wal,
                turn,
                depth,
                time,
                &mut first,
                born,
                Some(&mut pushed),
            )
            .await?;
            found.push(Beside {
                depth,
                alone,
                beside,
                checkpoint_rate: pushed as f64 / (time.as_secs_f64() * 4.0 / 3.0),
            });
        }
        close(wal).await;
        Ok(found)
    });
    let _ = std::fs::remove_dir_all(dir);
    out
}

async fn run(
    wal: &mut Wal,
    turn: Turn,
    depth: usize,
    time: Duration,
    first: &mut u64,
    born: Instant,
    mut pushed: Option<&mut u64>,
) -> Result<Run, String> {
    let meta = Meta {
        group: 1,
        index: 1,
        ..Meta::default()
    };
    let id = pushed
        .is_some()
        .then(|| wal.begin_checkpoint("../checkpoints", meta, Plan::default()));
    let chunk: bytes::Bytes = vec![3u8; CHUNK_BYTES_MAX].into();
    let mut load = Load::new(turn, time);
    load.go_on_after(*first);
    loop {
        while load.in_flight() < depth && Instant::now() < load.end {
            load.submit(wal)?;
        }
        if load.in_flight() == 0 {
            break;
        }
        if let (Some(id), Some(pushed)) = (id, &mut pushed) {
            wal.set_time(u64::try_from(born.elapsed().as_micros()).unwrap_or(u64::MAX));
            wal.go_on_with_checkpoints();
            // As much as it takes: it has its own share of the disk.
            loop {
                match wal.push_chunk(id, chunk.clone()) {
                    Ok(()) => **pushed += chunk.len() as u64,
                    Err(PushError::Full) => break,
                    Err(other) => return Err(other.to_string()),
                }
            }
        }
        load.take(wal).await?;
    }
    *first = load.index();
    if let Some(id) = id {
        wal.give_up_checkpoint(id);
    }
    Ok(load.finish())
}
