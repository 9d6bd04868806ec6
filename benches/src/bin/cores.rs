//! What many shards and too many requests cost a core.
//!
//! `idle`: 10,000 shards that were used once and rest: processor time and memory. `active`: the same load
//! over 1 to 1,000 shards: log batches must not grow with them. `overload`: five times what the core can
//! do: memory, refusals, what still gets done, and how soon it is over. Without a name: all three.
//! The last line is `key=value` pairs.

#![allow(clippy::disallowed_methods, reason = "a benchmark lives in real time")]

use std::collections::VecDeque;
use std::future::Future as _;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use clap::Parser;
use henge::api::Reply;
use henge::engine::Operation;
use henge::mvcc::PutResponse;
use henge::{Engine, HostKind, PutError, Unavailable};

#[derive(Parser)]
#[command(about = "Measures many shards and overload on one core")]
struct Args {
    /// idle, active or overload; all without it.
    only: Option<String>,
    /// A minute of overload instead of ten seconds.
    #[arg(long)]
    full: bool,
    /// Where the data goes; a directory of its own is made there and removed.
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// Shards of `idle`.
    #[arg(long, default_value_t = 10_000)]
    shards: usize,
    /// What drives the core.
    #[arg(long, default_value = "auto")]
    host: HostKind,
}

struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args = Args::parse();
    let wanted = |name: &str| args.only.as_deref().is_none_or(|only| only == name);
    let mut last = Vec::new();
    if wanted("idle") {
        last.push(idle(&args)?);
    }
    if wanted("active") {
        last.push(active(&args)?);
    }
    if wanted("overload") {
        last.push(overload(&args)?);
    }
    println!("{}", last.join(" "));
    Ok(())
}

fn open(args: &Args, shards: usize) -> Result<(Scratch, Engine), Box<dyn std::error::Error>> {
    let dir = args
        .dir
        .join(format!("cores-{}-{shards}", std::process::id()));
    let engine = Engine::builder(&dir)
        .host(args.host)
        .shards(shards)
        .open()?;
    Ok((Scratch(dir), engine))
}

fn idle(args: &Args) -> Result<String, Box<dyn std::error::Error>> {
    let mut resident = Vec::new();
    let mut share = 0.0;
    for shards in [1, args.shards] {
        let (_scratch, engine) = open(args, shards)?;
        // Keys enough that hashing leaves next to no shard unused.
        let mut load = Load::new(&engine, 16);
        while load.done < 10 * shards as u64 {
            load.fill(1_024);
            load.collect();
        }
        load.drain();
        drop(load);
        std::thread::sleep(Duration::from_secs(3));
        let turns = |engine: &Engine| engine.core_metrics(0).map_or(0, |m| m.turn_micros.total());
        let (cpu, began, before) = (cpu_seconds(), Instant::now(), turns(&engine));
        std::thread::sleep(Duration::from_secs(10));
        share = (cpu_seconds() - cpu) / began.elapsed().as_secs_f64();
        resident.push(status_bytes("VmRSS:"));
        println!(
            "idle: {shards} shards: {:.3} % of a processor, {} turns in 10 s, {} MiB resident",
            100.0 * share,
            turns(&engine) - before,
            resident.last().unwrap_or(&0) >> 20,
        );
        engine.blocking().stop();
    }
    let each = resident[1].saturating_sub(resident[0]) / args.shards as u64;
    println!("idle: {each} bytes a shard");
    Ok(format!(
        "idle_cpu_share={share:.5} idle_bytes_per_shard={each}"
    ))
}

fn active(args: &Args) -> Result<String, Box<dyn std::error::Error>> {
    let mut rates = Vec::new();
    for shards in [1, 10, 100, 1_000] {
        let (_scratch, engine) = open(args, shards)?;
        let batches = || engine.core_metrics(0).map_or(0, |m| m.wal_batches);
        closed_loop(&engine, 2_048, Duration::from_secs(1));
        let before = batches();
        let puts = closed_loop(&engine, 2_048, Duration::from_secs(3));
        let commits = (batches() - before) as f64 / 3.0;
        println!("active: {shards} shards: {puts:.0} puts/s, {commits:.0} commits/s");
        rates.push(commits);
        engine.blocking().stop();
    }
    let growth = rates[3] / rates[0].max(1.0);
    Ok(format!("active_commits_growth={growth:.2}"))
}

fn overload(args: &Args) -> Result<String, Box<dyn std::error::Error>> {
    let (_scratch, engine) = open(args, 1)?;
    closed_loop(&engine, 2_048, Duration::from_secs(2));
    let peak = closed_loop(&engine, 2_048, Duration::from_secs(5));
    let calm = status_bytes("VmRSS:");
    let seconds = if args.full { 60 } else { 10 };
    let began = Instant::now();
    let mut load = Load::new(&engine, 256);
    let mut attempts = 0_u64;
    let mut most = 0;
    // At most one in 64 looks is for memory: reading /proc is not free.
    for round in 0_u64.. {
        let elapsed = began.elapsed().as_secs_f64();
        if elapsed >= f64::from(seconds) {
            break;
        }
        let due = (5.0 * peak * elapsed) as u64;
        let batch = due.saturating_sub(attempts).min(4_096);
        load.start(batch as usize);
        attempts += batch;
        load.collect();
        if round % 64 == 0 {
            most = most.max(status_bytes("VmRSS:"));
        }
    }
    let (good, refused, other) = (load.done, load.refused, load.failed);
    let goodput = good as f64 / began.elapsed().as_secs_f64();
    let held = engine.core_metrics(0).map(|m| m.memory).unwrap_or_default();
    // The answers of what was accepted still come; what is asked now must be served as before.
    let over = Instant::now();
    load.drain();
    let drained = over.elapsed();
    let after = closed_loop(&engine, 2_048, Duration::from_secs(1));
    let stored = engine.metrics(0).map_or(0, |m| m.db_bytes);
    println!(
        "overload: peak {peak:.0}/s; asked {:.0}/s for {seconds} s: {goodput:.0}/s done, {refused} refused, \
         {other} failed otherwise",
        attempts as f64 / f64::from(seconds)
    );
    println!(
        "overload: resident {} MiB before, {} MiB at most, of which the store grew to {} MiB; at its end {} \
         bytes of requests",
        calm >> 20,
        most >> 20,
        stored >> 20,
        held.pending + held.inbox
    );
    println!("overload: drained after {drained:?}, then {after:.0}/s");
    engine.blocking().stop();
    Ok(format!(
        "overload_goodput_ratio={:.2} overload_attempts_ratio={:.1} overload_failed={other} \
         overload_drain_ms={} overload_after_ratio={:.2} overload_extra_mib={}",
        goodput / peak,
        attempts as f64 / f64::from(seconds) / peak,
        drained.as_millis(),
        after / peak,
        most.saturating_sub(calm) >> 20,
    ))
}

/// Keeps so many puts in flight for a while; puts per second.
fn closed_loop(engine: &Engine, in_flight: usize, time: Duration) -> f64 {
    let mut load = Load::new(engine, 256);
    let began = Instant::now();
    while began.elapsed() < time {
        load.fill(in_flight);
        load.collect();
    }
    let rate = load.done as f64 / began.elapsed().as_secs_f64();
    load.drain();
    rate
}

/// Puts that were started and are not answered yet, looked at from time to time by one thread.
struct Load<'a> {
    engine: &'a Engine,
    value: Vec<u8>,
    open: VecDeque<Operation<Reply<PutResponse>, PutError>>,
    number: u64,
    done: u64,
    refused: u64,
    failed: u64,
}

impl<'a> Load<'a> {
    fn new(engine: &'a Engine, value_bytes: usize) -> Self {
        Load {
            engine,
            value: vec![b'v'; value_bytes],
            open: VecDeque::new(),
            number: 0,
            done: 0,
            refused: 0,
            failed: 0,
        }
    }

    fn start(&mut self, count: usize) {
        for _ in 0..count {
            self.number += 1;
            // A fixed set of keys, in an order without pattern (Knuth's multiplier).
            let key = self.number.wrapping_mul(0x9e37_79b9_7f4a_7c15) % 200_000;
            let put = self.engine.put(format!("key-{key:012}"), &self.value);
            self.open.push_back(put);
        }
    }

    fn fill(&mut self, in_flight: usize) {
        self.start(in_flight.saturating_sub(self.open.len()));
    }

    /// Takes answers, in the order of asking as far as they are there: one that is late hides at most what
    /// the core holds.
    fn collect(&mut self) {
        let mut cx = Context::from_waker(Waker::noop());
        let mut any = false;
        for _ in 0..self.open.len() {
            let Some(mut put) = self.open.pop_front() else {
                break;
            };
            match Pin::new(&mut put).poll(&mut cx) {
                Poll::Pending => {
                    // Refusals overtake; what waits is looked at again once the front moves.
                    self.open.push_front(put);
                    break;
                }
                Poll::Ready(Ok(_)) => self.done += 1,
                Poll::Ready(Err(PutError::Unavailable(Unavailable::TooManyRequests))) => {
                    self.refused += 1
                }
                Poll::Ready(Err(_)) => self.failed += 1,
            }
            any = true;
        }
        if !any {
            std::thread::sleep(Duration::from_micros(50));
        }
    }

    fn drain(&mut self) {
        while !self.open.is_empty() {
            self.collect();
        }
    }
}

/// Processor time of this process, user and system.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks = fields.split_ascii_whitespace().skip(11).take(2);
    ticks
        .filter_map(|field| field.parse::<f64>().ok())
        .sum::<f64>()
        / 100.0
}

/// A figure of `/proc/self/status`, in bytes.
fn status_bytes(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let kib = line.and_then(|rest| rest.split_ascii_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1_024
}
