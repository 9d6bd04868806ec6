//! The clients: what they do, how they are paced, what they count.
#![allow(
    clippy::disallowed_methods,
    reason = "a load generator measures real time, on threads of its own"
)]

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressStyle};

use super::args::{BenchArgs, Work};

/// Keys of one `range` operation.
pub const RANGE_KEYS: i64 = 100;

/// One operation of one client.
#[derive(Clone, Debug)]
pub enum Op {
    /// Write.
    Put { key: Vec<u8>, value: Vec<u8> },
    /// Read one key.
    Get { key: Vec<u8> },
    /// Read from a key on.
    Range { key: Vec<u8> },
    /// Write if the key is as last seen (create if missing).
    Txn { key: Vec<u8>, value: Vec<u8> },
}

/// What a load runs against. One per client thread; not shared.
pub trait Target: Clone + 'static {
    /// Executes one operation.
    fn execute(&self, client: u32, op: Op) -> impl Future<Output = Result<(), String>>;
}

/// What all threads of a load share.
#[derive(Debug)]
pub struct Shared {
    /// Operations done.
    pub done: AtomicU64,
    /// Operations that failed.
    pub failed: AtomicU64,
    /// Operations started, for `--total` and for the schedule.
    started: AtomicU64,
    /// Time is over.
    stop: AtomicBool,
    start: Instant,
}

/// What a run measured.
pub struct Measured {
    /// Microseconds per operation.
    pub latency: Histogram<u64>,
    /// Operations done.
    pub ops: u64,
    /// Operations that failed.
    pub failures: u64,
    /// How long it ran.
    pub elapsed: Duration,
    /// First error text, if any failed.
    pub first_error: Option<String>,
}

impl Shared {
    /// Starts the clock.
    pub fn new() -> Arc<Self> {
        Arc::new(Shared {
            done: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            started: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            start: Instant::now(),
        })
    }
}

/// Runs one thread's share of the clients to the end of the load.
pub async fn run_clients<T: Target>(
    args: &BenchArgs,
    shared: Arc<Shared>,
    target: T,
    clients: std::ops::Range<u32>,
) -> (Histogram<u64>, Option<String>) {
    let latency = Rc::new(RefCell::new(new_histogram()));
    let first_error = Rc::new(RefCell::new(None));
    let mut tasks = Vec::new();
    for client in clients {
        let (args, shared, target) = (args.clone(), shared.clone(), target.clone());
        let (latency, first_error) = (latency.clone(), first_error.clone());
        tasks.push(tokio::task::spawn_local(async move {
            let mut dice = Dice(args.seed ^ (u64::from(client) << 32) ^ 0x9e37_79b9_7f4a_7c15);
            while let Some((number, intended)) = next_start(&args, &shared).await {
                let op = make(&args, &mut dice, number);
                match target.execute(client, op).await {
                    Ok(()) => {
                        let micros = intended.elapsed().as_micros();
                        latency
                            .borrow_mut()
                            .saturating_record(u64::try_from(micros).unwrap_or(u64::MAX));
                        shared.done.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(error) => {
                        shared.failed.fetch_add(1, Ordering::Relaxed);
                        first_error.borrow_mut().get_or_insert(error);
                        // A refusing server must not be hammered by a spinning client.
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                }
            }
        }));
    }
    for task in tasks {
        if let Err(error) = task.await {
            first_error
                .borrow_mut()
                .get_or_insert(format!("a client died: {error}"));
        }
    }
    let latency = latency.borrow().clone();
    let first_error = first_error.borrow_mut().take();
    (latency, first_error)
}

/// Shows progress until the time is over, then tells the clients to finish.
pub fn supervise(args: &BenchArgs, shared: &Shared, finished: &dyn Fn() -> bool) {
    let bar = if args.json {
        ProgressBar::hidden()
    } else {
        ProgressBar::new(args.duration.as_secs().max(1))
    };
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {elapsed}/{len}s {msg}") {
        bar.set_style(style);
    }
    let mut before = 0;
    let mut at = Instant::now();
    while shared.start.elapsed() < args.duration && !finished() {
        std::thread::sleep(Duration::from_millis(50));
        if at.elapsed() >= Duration::from_millis(500) {
            let done = shared.done.load(Ordering::Relaxed);
            let rate = (done - before) as f64 / at.elapsed().as_secs_f64();
            bar.set_position(shared.start.elapsed().as_secs());
            bar.set_message(format!(
                "{rate:.0} ops/s, {} failed",
                shared.failed.load(Ordering::Relaxed)
            ));
            (before, at) = (done, Instant::now());
        }
    }
    shared.stop.store(true, Ordering::Relaxed);
    bar.finish_and_clear();
}

/// Adds up what the threads measured.
pub fn collect(
    shared: &Shared,
    parts: impl Iterator<Item = (Histogram<u64>, Option<String>)>,
) -> Measured {
    let elapsed = shared.start.elapsed();
    let mut latency = new_histogram();
    let mut first_error = None;
    for (part, error) in parts {
        // Histograms of equal bounds always add up.
        let _ = latency.add(&part);
        first_error = first_error.or(error);
    }
    Measured {
        latency,
        ops: shared.done.load(Ordering::Relaxed),
        failures: shared.failed.load(Ordering::Relaxed),
        elapsed,
        first_error,
    }
}

/// The key of a number: a letter and the number, filled with zeros to the key size.
pub fn key(args: &BenchArgs, number: u64) -> Vec<u8> {
    let width = args.key_size as usize - 1;
    format!("k{number:0width$}").into_bytes()
}

/// Waits for the next operation's turn; `None` when the load is over.
async fn next_start(args: &BenchArgs, shared: &Shared) -> Option<(u64, Instant)> {
    if shared.stop.load(Ordering::Relaxed) {
        return None;
    }
    let number = shared.started.fetch_add(1, Ordering::Relaxed);
    if args.total.is_some_and(|total| number >= total) {
        return None;
    }
    if args.rate == 0 {
        return Some((number, Instant::now()));
    }
    let intended = shared.start + Duration::from_secs_f64(number as f64 / args.rate as f64);
    if intended > shared.start + args.duration {
        return None;
    }
    tokio::time::sleep_until(intended.into()).await;
    Some((number, intended))
}

fn make(args: &BenchArgs, dice: &mut Dice, number: u64) -> Op {
    let pick = if args.sequential { number } else { dice.roll() } % args.keyspace;
    let key = key(args, pick);
    let value = |dice: &mut Dice| {
        let mut value = vec![b'v'; args.val_size as usize];
        for chunk in value.chunks_mut(8) {
            let random = dice.roll().to_le_bytes();
            chunk.copy_from_slice(&random[..chunk.len()]);
        }
        value
    };
    match args.work {
        Work::Put | Work::Watch => Op::Put {
            value: value(dice),
            key,
        },
        Work::Get => Op::Get { key },
        Work::Range => Op::Range { key },
        Work::Txn => Op::Txn {
            value: value(dice),
            key,
        },
        Work::Mixed if dice.roll().is_multiple_of(2) => Op::Get { key },
        Work::Mixed => Op::Put {
            value: value(dice),
            key,
        },
    }
}

fn new_histogram() -> Histogram<u64> {
    // 1 µs to 10 minutes with 3 digits: the bounds are constants that the library accepts.
    Histogram::new_with_bounds(1, 600_000_000, 3).expect("constant bounds are valid")
}

/// xorshift64*: a repeatable key sequence, nothing more.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.max(1);
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}
