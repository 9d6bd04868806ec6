//! `peers -- embedded`: durable puts on embedded stores, each as its users call it.
//!
//! Promises: equal durability (a put counts once the store says it survives a power cut), the same
//! keys and values, a fresh directory for each measurement, and the number of writers that suits each
//! store best, searched first. Then interleaved rounds at those numbers; medians. After each
//! measurement every writer's last acknowledged pair is read back, or there is no figure.
//! Must never know: how a store works; only [`Store`] knows how it is called.
//! Tested by running it; the last line is `best_peer= peer_ratio=`.

mod fjall;
mod henge;
mod load;
mod redb;
#[cfg(feature = "rocksdb")]
mod rocksdb;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::stats::median;
use load::{Load, Rate};

/// Puts of one explicit batch.
const BATCH: usize = 1_000;
/// A measurement of the search: warm-up and window.
const SEARCH: (Duration, Duration) = (Duration::from_millis(300), Duration::from_millis(700));
const WARM: Duration = Duration::from_millis(500);

/// A store that can be measured.
trait Store {
    fn name(&self) -> &'static str;

    /// Numbers of writers worth trying with single puts.
    fn writers(&self) -> &'static [usize];

    /// Puts pairs in a new store under `dir` from so many writers at once, each of which waits until
    /// its last put (or batch) is durable before the next.
    fn load(&self, dir: &Path, load: &Arc<Load>) -> Result<Rate, String>;
}

/// What one store did.
struct Entry {
    store: Box<dyn Store>,
    writers: [usize; 2],
    rates: [Vec<f64>; 2],
}

impl Entry {
    /// The median rate: 0 single puts, 1 batches.
    fn rate(&self, kind: usize) -> f64 {
        median(&self.rates[kind]).unwrap_or(0.0)
    }
}

/// Runs the comparison with directories under `dir`.
pub fn run(dir: &Path, rounds: usize, seconds: f64) -> Result<(), String> {
    let mut entries = Vec::new();
    for store in stores() {
        let single = search(store.as_ref(), dir, store.writers(), 1)?;
        let batch = search(store.as_ref(), dir, &[1, 2, 4], BATCH)?;
        entries.push(Entry {
            store,
            writers: [single, batch],
            rates: [Vec::new(), Vec::new()],
        });
    }
    let window = Duration::from_secs_f64(seconds);
    for round in 0..rounds {
        let order: Vec<usize> = if round % 2 == 0 {
            (0..entries.len()).collect()
        } else {
            (0..entries.len()).rev().collect()
        };
        for at in order {
            for (kind, batch) in [(0, 1), (1, BATCH)] {
                let entry = &mut entries[at];
                let load = Load::new(entry.writers[kind], batch, (WARM, window));
                let rate = measure(entry.store.as_ref(), dir, load)?;
                entry.rates[kind].push(rate.per_second);
            }
        }
    }
    report(&entries)
}

fn stores() -> Vec<Box<dyn Store>> {
    vec![
        Box::new(henge::Henge),
        Box::new(redb::Redb),
        Box::new(fjall::Fjall),
        #[cfg(feature = "rocksdb")]
        Box::new(rocksdb::RocksDb),
    ]
}

/// The number of writers with which the store is fastest.
fn search(
    store: &dyn Store,
    dir: &Path,
    candidates: &[usize],
    batch: usize,
) -> Result<usize, String> {
    let mut best = (0, 0.0);
    let mut tried = Vec::new();
    for &writers in candidates {
        let rate = measure(store, dir, Load::new(writers, batch, SEARCH))?;
        tried.push(format!("{writers}: {:.0}", rate.per_second));
        if rate.per_second > best.1 {
            best = (writers, rate.per_second);
        }
    }
    let what = if batch == 1 {
        "puts/s"
    } else {
        "puts/s in batches"
    };
    println!(
        "{:<8} {what} by writers: {}",
        store.name(),
        tried.join(", ")
    );
    if best.0 == 0 {
        return Err(format!("{} acknowledged nothing", store.name()));
    }
    Ok(best.0)
}

/// One measurement in a directory of its own.
fn measure(store: &dyn Store, dir: &Path, load: Load) -> Result<Rate, String> {
    let dir = dir.join(format!("embedded-{}", store.name()));
    // One that was cut short may have left something.
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).map_err(|e| format!("cannot create {}: {e}", dir.display()))?;
    // What the one before wrote must not be written back during our turn. Best effort.
    let _ = std::process::Command::new("sync").status();
    let rate = store
        .load(&dir, &Arc::new(load))
        .map_err(|why| format!("{}: {why}", store.name()));
    let _ = std::fs::remove_dir_all(&dir);
    rate
}

fn report(entries: &[Entry]) -> Result<(), String> {
    println!(
        "{:<8}{:>9}{:>12}{:>9}{:>20}",
        "store", "writers", "puts/s", "writers", "puts/s in batches"
    );
    for entry in entries {
        println!(
            "{:<8}{:>9}{:>12.0}{:>9}{:>20.0}",
            entry.store.name(),
            entry.writers[0],
            entry.rate(0),
            entry.writers[1],
            entry.rate(1)
        );
    }
    if cfg!(not(feature = "rocksdb")) {
        println!(
            "rocksdb was not measured: it needs --features rocksdb, a C++ compiler and libclang"
        );
    }
    let (ours, peers) = entries.split_first().ok_or("nothing was measured")?;
    let best = |kind: usize| {
        peers
            .iter()
            .max_by(|a, b| a.rate(kind).total_cmp(&b.rate(kind)))
            .ok_or("no peer was measured")
    };
    let (single, batch) = (best(0)?, best(1)?);
    println!(
        "batch_best_peer={} batch_ratio={:.2}",
        batch.store.name(),
        ours.rate(1) / batch.rate(1)
    );
    println!(
        "best_peer={} peer_ratio={:.2}",
        single.store.name(),
        ours.rate(0) / single.rate(0)
    );
    Ok(())
}
