//! Ingest over many shards: each shard has its own order of revisions, and together they use as many
//! cores as there are.
//! `cargo run --release --example sharded_ingest`
//!
//! Each producer keeps a bounded window of writes in flight, and goes slower when it is told to: a full
//! shard refuses, it never queues without end.

use std::collections::VecDeque;
use std::time::Duration;

use henge::mvcc::{KeyRange, RangeRequest};
use henge::{Blocking, Engine, PutError, Unavailable};

const EVENTS: u32 = 100_000;
const PRODUCERS: u32 = 2;
const WINDOW: usize = 1_024;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let cores = std::thread::available_parallelism()?.get().min(4);
    let engine = Engine::builder("ingest.henge")
        .cores(cores)
        .shards(8)
        .open()?;
    std::thread::scope(|scope| {
        let producers = (0..PRODUCERS).map(|producer| {
            let engine = engine.clone();
            scope.spawn(move || produce(&engine, producer))
        });
        let producers: Vec<_> = producers.collect();
        producers
            .into_iter()
            .try_for_each(|producer| producer.join().expect("no producer panics"))
    })?;
    let stats = engine.stats();
    for (shard, metrics) in stats.shards.iter().enumerate() {
        println!("shard {shard}: revision {}", metrics.revision);
    }
    println!(
        "{} log batches, {} bytes in memory",
        stats.wal_batches,
        stats.memory_bytes()
    );
    let db = engine.blocking();
    let everything = RangeRequest {
        range: KeyRange {
            key: b"events/",
            end: b"events0",
        },
        count_only: true,
        ..RangeRequest::default()
    };
    let count = db.range(&everything)?.body.count;
    println!("{count} events over all shards");
    assert_eq!(count, i64::from(EVENTS));
    db.stop();
    Ok(())
}

fn produce(engine: &Engine, producer: u32) -> Result<(), PutError> {
    let db = engine.blocking();
    let mut window = VecDeque::new();
    for number in 0..EVENTS / PRODUCERS {
        let event = (
            format!("events/{producer}/{number:08}"),
            format!("measurement {number}"),
        );
        // The operation starts here; its answer is awaited when the window is full.
        window.push_back((engine.put(&event.0, &event.1), event));
        if window.len() < WINDOW {
            continue;
        }
        if let Some((put, event)) = window.pop_front() {
            settle(engine, &db, db.wait(put).map(drop), event)?;
        }
    }
    for (put, event) in window {
        settle(engine, &db, db.wait(put).map(drop), event)?;
    }
    Ok(())
}

/// Takes an answer. A write that was refused for lack of room was not done, and is tried again later.
fn settle(
    engine: &Engine,
    db: &Blocking,
    mut answer: Result<(), PutError>,
    event: (String, String),
) -> Result<(), PutError> {
    while let Err(PutError::Unavailable(Unavailable::TooManyRequests)) = answer {
        #[expect(clippy::disallowed_methods, reason = "a producer may wait")]
        std::thread::sleep(Duration::from_millis(5));
        answer = db.wait(engine.put(&event.0, &event.1)).map(drop);
    }
    answer
}
