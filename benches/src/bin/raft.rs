//! `raft`: Henge's consensus core and tikv's, on the same work in the same process.
//!
//! Promises: three nodes in one thread, storage in memory, 256-byte payloads in batches of 64, at most
//! 256 appends in flight. Rounds are interleaved and the order alternates; a round counts only if all
//! three nodes applied everything. CPU is this thread's own, as the kernel accounts it. The last line
//! is `tikv_ratio= allocs_per_proposal= idle_tick_ns=`: the median ratio of proposals per CPU-second,
//! allocations per proposal in all three nodes together, and the cost of one tick of one idle group
//! among 10,000.
//! Must never know: how either library works.
//! Tested by `.ci/run`.
#![allow(
    clippy::disallowed_methods,
    reason = "a benchmark measures real processor time"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use bytes::Bytes;
use clap::Parser;

use henge_benches::raft_henge::{Asynchronous, Synchronous};
use henge_benches::raft_race::{Group, MEMBERS, Member, Settings};
use henge_benches::raft_tikv::Tikv;
use henge_benches::stats::median;

const PAYLOAD_BYTES: usize = 256;
const BATCH: usize = 64;
const INFLIGHT: usize = 256;
const GROUPS: usize = 10_000;
/// Ticks between heartbeats of the idle groups: all but the last one find nothing to do.
const IDLE_TICKS: u32 = 50;

/// Compares henge-raft with tikv's raft crate.
#[derive(Parser, Debug)]
struct Options {
    /// Measure longer: 15 rounds instead of 7.
    #[arg(long)]
    full: bool,
    /// Rounds of each library.
    #[arg(long)]
    rounds: Option<usize>,
    /// Batches in a round.
    #[arg(long, default_value_t = 8_000)]
    batches: usize,
    /// Run only henge-raft, for this many rounds: for a profiler.
    #[arg(long)]
    only: Option<usize>,
}

/// The system's allocator, counting while it is told to.
struct Counting;

static IS_COUNTING: AtomicBool = AtomicBool::new(false);
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

fn count() {
    if IS_COUNTING.load(Ordering::Relaxed) {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
    }
}

// SAFETY: every call is passed on to the system's allocator as it came; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are the ones `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as above; `at` came from `System`.
        unsafe { System.realloc(at, layout, size) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as above; `at` came from `System`.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn main() -> ExitCode {
    let options = Options::parse();
    let payloads = payloads();
    if let Some(rounds) = options.only {
        let mut lane: Lane<Synchronous> = Lane::new();
        (0..rounds).for_each(|_| lane.run(options.batches, &payloads));
        return ExitCode::SUCCESS;
    }
    let rounds = options.rounds.unwrap_or(if options.full { 15 } else { 7 });
    let ratio = race(rounds, options.batches, &payloads);
    println!();
    println!(
        "{:<34} {:>18} {:>24}",
        format!("{GROUPS} idle groups"),
        "tick of one, ns",
        "heartbeat round, ns"
    );
    let idle = idle::<Synchronous>();
    idle_row::<Synchronous>(idle);
    idle_row::<Tikv>(self::idle::<Tikv>());
    let all_us = idle.0 * GROUPS as f64 / 1_000.0;
    println!(
        "at 10 ticks a second, {GROUPS} idle groups take {:.2} % of a core",
        all_us * 10.0 / 10_000.0
    );
    let Some((ratio, allocations)) = ratio else {
        eprintln!("nothing was measured: --rounds must be at least 1");
        return ExitCode::FAILURE;
    };
    println!(
        "tikv_ratio={ratio:.2} allocs_per_proposal={allocations:.3} idle_tick_ns={:.1}",
        idle.0
    );
    ExitCode::SUCCESS
}

/// Prints a table; returns the median ratio to tikv's, and our allocations per proposal.
fn race(rounds: usize, batches: usize, payloads: &[Bytes]) -> Option<(f64, f64)> {
    let mut ours: Lane<Synchronous> = Lane::new();
    let mut ours_async: Lane<Asynchronous> = Lane::new();
    let mut theirs: Lane<Tikv> = Lane::new();
    // The first one warms up, and says how much is allocated.
    ours.warm_up(batches, payloads);
    ours_async.warm_up(batches, payloads);
    theirs.warm_up(batches, payloads);
    for round in 0..rounds {
        if round % 2 == 0 {
            ours.run(batches, payloads);
            ours_async.run(batches, payloads);
            theirs.run(batches, payloads);
        } else {
            theirs.run(batches, payloads);
            ours_async.run(batches, payloads);
            ours.run(batches, payloads);
        }
    }
    println!(
        "{:<34} {:>18} {:>24}",
        format!("{MEMBERS} nodes, {PAYLOAD_BYTES} B, batches of {BATCH}"),
        "proposals/CPU-s",
        "allocations/proposal"
    );
    ours.row();
    ours_async.row();
    theirs.row();
    let ratios: Vec<f64> = ours
        .rates
        .iter()
        .zip(&theirs.rates)
        .map(|(our, their)| our / their)
        .collect();
    Some((median(&ratios)?, ours.allocations))
}

/// One library's group and its figures so far.
struct Lane<M: Member> {
    group: Group<M>,
    rates: Vec<f64>,
    allocations: f64,
}

impl<M: Member> Lane<M> {
    fn new() -> Lane<M> {
        let settings = Settings {
            heartbeat_tick: 1,
            election_tick: 10,
            inflight: INFLIGHT,
        };
        Lane {
            group: Group::elected(settings, 1),
            rates: Vec::new(),
            allocations: 0.0,
        }
    }

    fn warm_up(&mut self, batches: usize, payloads: &[Bytes]) {
        self.group.replicate(batches, payloads);
        ALLOCATIONS.store(0, Ordering::Relaxed);
        IS_COUNTING.store(true, Ordering::Relaxed);
        let proposals = self.group.replicate(batches, payloads);
        IS_COUNTING.store(false, Ordering::Relaxed);
        self.allocations = ALLOCATIONS.load(Ordering::Relaxed) as f64 / proposals as f64;
    }

    fn run(&mut self, batches: usize, payloads: &[Bytes]) {
        let before = cpu_seconds();
        let proposals = self.group.replicate(batches, payloads);
        self.rates.push(proposals as f64 / (cpu_seconds() - before));
    }

    fn row(&self) {
        println!(
            "{:<34} {:>18.0} {:>24.3}",
            M::NAME,
            median(&self.rates).unwrap_or(0.0),
            self.allocations
        );
    }
}

/// (ns per tick of one idle group on a node that has [`GROUPS`] of them, every third led by it;
/// ns per heartbeat round of one group, on all three members: tick, heartbeats, responses).
fn idle<M: Member>() -> (f64, f64) {
    let settings = Settings {
        heartbeat_tick: IDLE_TICKS,
        election_tick: 1_000 * IDLE_TICKS,
        inflight: INFLIGHT,
    };
    let mut groups: Vec<Group<M>> = (0..GROUPS)
        .map(|number| Group::elected(settings, number as u64 % MEMBERS + 1))
        .collect();
    let (mut ticks, mut rounds) = (Vec::new(), Vec::new());
    for _ in 0..5 {
        // The node whose groups these are is member 1 of each.
        let begun = Instant::now();
        for _ in 1..IDLE_TICKS {
            let busy = groups.iter_mut().filter_map(|it| it.tick(0).then_some(()));
            assert_eq!(busy.count(), 0, "an idle group has nothing to do");
        }
        let count = (IDLE_TICKS - 1) as usize * GROUPS;
        ticks.push(begun.elapsed().as_nanos() as f64 / count as f64);
        let begun = Instant::now();
        let led = groups.iter_mut().step_by(MEMBERS as usize);
        for group in led {
            assert!(group.tick(0), "a leader's heartbeat is due");
            group.settle();
        }
        let led = GROUPS.div_ceil(MEMBERS as usize);
        rounds.push(begun.elapsed().as_nanos() as f64 / led as f64);
        // The others' timers go on as well.
        groups.iter_mut().enumerate().for_each(|(number, group)| {
            if number % MEMBERS as usize != 0 {
                group.tick(0);
            }
        });
    }
    (
        median(&ticks).unwrap_or(0.0),
        median(&rounds).unwrap_or(0.0),
    )
}

fn idle_row<M: Member>((tick, round): (f64, f64)) {
    println!("{:<34} {tick:>18.1} {round:>24.0}", M::NAME);
}

/// A batch of different payloads: their bytes are made once, for both libraries take shared bytes.
fn payloads() -> Vec<Bytes> {
    (0..BATCH)
        .map(|number| Bytes::from(vec![number as u8; PAYLOAD_BYTES]))
        .collect()
}

/// Processor time of this thread: the first number of the kernel's schedstat, in nanoseconds. (It is
/// brought up to date every few milliseconds; a round takes hundreds.)
fn cpu_seconds() -> f64 {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let first = text.split_whitespace().next();
    first.and_then(|it| it.parse::<f64>().ok()).unwrap_or(0.0) / 1e9
}
