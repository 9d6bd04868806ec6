//! Commit latency beside a checkpoint: the same load with and without a snapshot being written.
#![allow(clippy::disallowed_methods, reason = "a benchmark lives in real time")]

use std::path::Path;
use std::task::Poll;
use std::time::{Duration, Instant};

use henge_wal::checkpoint::{CHUNK_BYTES_MAX, Meta, PushError, Writer};
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
        // Segments are made and filled before anything is measured.
        warm(&mut wal).await?;
        let files = dir.join("checkpoints");
        let mut found = Vec::new();
        for depth in depths.iter().flat_map(|depth| vec![*depth; rounds]) {
            let alone = run(&mut wal, turn, depth, time, &mut first, None).await?;
            let mut pushed = 0;
            let checkpoint = Some((files.as_path(), &mut pushed));
            let beside = run(&mut wal, turn, depth, time, &mut first, checkpoint).await?;
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
    mut checkpoint: Option<(&Path, &mut u64)>,
) -> Result<Run, String> {
    let meta = Meta {
        group: 1,
        index: 1,
        ..Meta::default()
    };
    let mut writer = match &checkpoint {
        Some((dir, _)) => Some(Writer::create(dir, meta).map_err(|e| e.to_string())?),
        None => None,
    };
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
        if let (Some(writer), Some((_, pushed))) = (&mut writer, &mut checkpoint) {
            // As much as the writer takes: it has its own share of the disk.
            loop {
                match writer.try_push(chunk.clone()) {
                    Ok(()) => **pushed += chunk.len() as u64,
                    Err(PushError::Full) => break,
                    Err(other) => return Err(other.to_string()),
                }
            }
            std::future::poll_fn(|cx| {
                let _ = writer.poll(cx);
                Poll::Ready(())
            })
            .await;
        }
        load.take(wal).await?;
    }
    *first = load.index();
    drop(writer);
    Ok(load.finish())
}
