//! What many shards and too many requests cost a core.
//!
//! `idle`: 10,000 shards that were used once and rest: processor time and memory. `active`: the same load
//! over 1 to 1,000 shards: log batches must not grow with them. `overload`: five times what the core can
//! do: memory, refusals, what still gets done, and how soon it is over. Without a name: all three.
//! `tail`: what the slowest puts at the peak waited for.
//! The last line is `key=value` pairs.

#![allow(clippy::disallowed_methods, reason = "a benchmark lives in real time")]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Parser;
use henge::api::{CoreMemory, CoreMetrics};
use henge::host::place;
use henge::{AutoCompaction, Engine, HostKind};
use henge_api::STAGE_NAMES;
use henge_benches::puts::{Load, closed_loop, closed_loop_of, cpu_seconds, status_bytes};
use henge_benches::tail;

#[derive(Parser)]
#[command(about = "Measures many shards and overload on one core")]
struct Args {
    /// idle, active, overload or tail; the first three without it.
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
    /// Log segments kept ready ahead of use.
    #[arg(long, default_value_t = 2)]
    ready_segments: usize,
    /// MiB of requests that may wait in `overload`, instead of the engine's default.
    #[arg(long)]
    pending_mib: Option<usize>,
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
    if args.only.as_deref() == Some("tail") {
        let (_scratch, engine) = open(&args, 1)?;
        last.push(tail::trace(&engine, Duration::from_secs(10)));
        engine.blocking().stop();
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
        .wal(henge_wal::Options {
            ready_segments: args.ready_segments,
            ..henge_wal::Options::default()
        })
        .open()?;
    Ok((Scratch(dir), engine))
}

fn idle(args: &Args) -> Result<String, Box<dyn std::error::Error>> {
    let mut resident = Vec::new();
    let mut share = 0.0;
    let seconds = if args.full { 10 } else { 5 };
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
        std::thread::sleep(Duration::from_secs(2));
        let turns = |engine: &Engine| engine.core_metrics(0).map_or(0, |m| m.turn_micros.total());
        let (cpu, began, before) = (cpu_seconds(), Instant::now(), turns(&engine));
        std::thread::sleep(Duration::from_secs(seconds));
        share = (cpu_seconds() - cpu) / began.elapsed().as_secs_f64();
        resident.push(status_bytes("VmRSS:"));
        println!(
            "idle: {shards} shards: {:.3} % of a processor, {} turns in {seconds} s, {} MiB resident",
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
        let puts = closed_loop(&engine, 2_048, Duration::from_secs(2));
        let commits = (batches() - before) as f64 / 2.0;
        println!("active: {shards} shards: {puts:.0} puts/s, {commits:.0} commits/s");
        rates.push(commits);
        engine.blocking().stop();
    }
    let growth = rates[3] / rates[0].max(1.0);
    Ok(format!("active_commits_growth={growth:.2}"))
}

/// What an overload came to.
#[derive(Default)]
struct Overload {
    peak: f64,
    asked: u64,
    done: u64,
    seconds: f64,
    /// Resident bytes, once per second.
    resident: Vec<u64>,
    /// What the core says it holds, at the end.
    memory: CoreMemory,
    versions: u64,
    /// Puts per second in the first and the second second after it.
    after: [f64; 2],
    /// The peak once more, since the machine may have changed meanwhile.
    peak_after: f64,
}

fn overload(args: &Args) -> Result<String, Box<dyn std::error::Error>> {
    let dir = args.dir.join(format!("cores-{}-over", std::process::id()));
    // Overwritten values have to go, or the store grows by everything that is done.
    let mut builder = Engine::builder(&dir)
        .host(args.host)
        .auto_compaction(AutoCompaction::Revisions(50_000));
    if let Some(mib) = args.pending_mib {
        builder = builder.pending_bytes_max(mib << 20);
    }
    let engine = builder.open()?;
    let _scratch = Scratch(dir.clone());
    // The callers leave the core the processor that hears from its disk, as the core prefers it.
    let processors = std::thread::available_parallelism()?.get();
    if let Some(core) = place::disk_cpu(&dir) {
        let other = (0..processors).find(|cpu| *cpu != core);
        place::pin(other.unwrap_or(core));
    }
    let small = || Load::new(&engine, 256).on_keys(50_000);
    closed_loop_of(small(), 2_048, Duration::from_secs(3));
    let mut spent = Spent::begin(&engine);
    let mut over = Overload {
        peak: closed_loop_of(
            small(),
            2_048,
            Duration::from_secs(if args.full { 10 } else { 5 }),
        ),
        ..Overload::default()
    };
    spent.report("at the peak");
    let mut load = small();
    let time = Duration::from_secs(if args.full { 60 } else { 10 });
    ask_too_much(&mut load, time, &mut over);
    spent.report("overloaded");
    let stats = engine.stats();
    (over.memory, over.versions) = (stats.memory, stats.versions);
    // What was taken in still gets its answers; what is asked now must be served as before.
    for after in &mut over.after {
        let (began, before) = (Instant::now(), load.done);
        while began.elapsed() < Duration::from_secs(1) {
            load.fill(2_048);
            load.collect();
        }
        *after = (load.done - before) as f64 / began.elapsed().as_secs_f64();
        spent.report("after it");
    }
    load.drain();
    let (refused, failed) = (load.refused, load.failed);
    drop(load);
    over.peak_after = closed_loop_of(small(), 2_048, Duration::from_secs(5));
    engine.blocking().stop();
    Ok(over.report(refused, failed))
}

/// What the core did since the last look.
struct Spent<'a> {
    engine: &'a Engine,
    before: CoreMetrics,
    applied: u64,
    began: Instant,
    cpu: f64,
}

impl<'a> Spent<'a> {
    fn begin(engine: &'a Engine) -> Self {
        Spent {
            engine,
            before: engine.core_metrics(0).unwrap_or_default(),
            applied: engine.stats().applied,
            began: Instant::now(),
            cpu: cpu_seconds(),
        }
    }

    /// Microseconds per put in each stage of the core's turns, and how large turns and batches were.
    fn report(&mut self, when: &str) {
        let now = Spent::begin(self.engine);
        let puts = (now.applied - self.applied).max(1) as f64;
        let stages = STAGE_NAMES.iter().zip(now.before.stage_micros);
        let stages: Vec<_> = stages
            .zip(self.before.stage_micros)
            .map(|((name, after), before)| (name, (after - before) as f64 / puts))
            .filter(|(_, micros)| *micros > 0.004)
            .map(|(name, micros)| format!("{name} {micros:.2}"))
            .collect();
        let turns = now.before.turn_micros.total() - self.before.turn_micros.total();
        let batches = now.before.wal_batches - self.before.wal_batches;
        let elapsed = (now.began - self.began).as_secs_f64();
        println!(
            "overload: {when}: {:.0} puts a turn, {:.0} a batch, {:.2} processors; µs per put: {}",
            puts / turns.max(1) as f64,
            puts / batches.max(1) as f64,
            (now.cpu - self.cpu) / elapsed,
            stages.join(", "),
        );
        *self = now;
    }
}

/// Offers five times the peak: every put is really called, and done or refused.
fn ask_too_much(load: &mut Load<'_>, time: Duration, over: &mut Overload) {
    let began = Instant::now();
    loop {
        let elapsed = began.elapsed();
        if elapsed >= time {
            break;
        }
        let due = (5.0 * over.peak * elapsed.as_secs_f64()) as u64;
        let count = due.saturating_sub(over.asked).min(4_096);
        load.start(count as usize);
        over.asked += count;
        load.collect();
        if elapsed.as_secs() as usize >= over.resident.len() {
            over.resident.push(status_bytes("VmRSS:"));
        }
    }
    over.done = load.done;
    over.seconds = began.elapsed().as_secs_f64();
    over.resident.push(status_bytes("VmRSS:"));
}

impl Overload {
    /// Prints it; the last line's share of it.
    fn report(&self, refused: u64, failed: u64) -> String {
        let (goodput, asked) = (
            self.done as f64 / self.seconds,
            self.asked as f64 / self.seconds,
        );
        println!(
            "overload: peak {:.0}/s; asked {asked:.0}/s for {:.0} s: {goodput:.0}/s done, {refused} refused, \
             {failed} failed otherwise",
            self.peak, self.seconds
        );
        let mib = |bytes: Option<&u64>| bytes.map_or(0, |bytes| bytes >> 20);
        let (start, end) = (mib(self.resident.first()), mib(self.resident.last()));
        let middle = mib(self.resident.get(self.resident.len() / 2));
        let most = mib(self.resident.iter().max());
        println!(
            "overload: resident {start} MiB at its start, {middle} in its middle, {end} at its end, {most} \
            at \
             most"
        );
        let memory = &self.memory;
        println!(
            "overload: at its end {} MiB of stores ({} versions), {} MiB of requests, {} MiB of log",
            memory.stores >> 20,
            self.versions,
            (memory.pending + memory.inbox) >> 20,
            (memory.log_tails + memory.log_staged) >> 20,
        );
        let [first, second] = self.after;
        println!(
            "overload: {first:.0}/s in the first second after it, {second:.0}/s in the second; then at the \
             peak {:.0}/s",
            self.peak_after
        );
        format!(
            "overload_goodput_ratio={:.2} overload_attempts_ratio={:.1} overload_failed={failed} \
             overload_first_second_ratio={:.2} overload_second_second_ratio={:.2} overload_start_mib={start} \
             overload_end_mib={end} overload_most_mib={most}",
            goodput / self.peak,
            asked / self.peak,
            first / self.peak,
            second / self.peak,
        )
    }
}
