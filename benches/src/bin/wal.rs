//! `wal`: what Henge's log reaches, against the disk itself and against other logs, in one run on one
//! file system.
//!
//! Promises: the two sides of a ratio are measured in turn within seconds, with the same flags, sizes
//! and durability; a ratio is a median of rounds; the last line holds the ratios, `nan` where something
//! could not be measured. The fio ratios are the worst of the three sizes.
//! Must never know: how the log works inside.
#![allow(clippy::disallowed_methods, reason = "a benchmark lives in real time")]

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

use henge_benches::stats::median;
use henge_benches::wal_bed::Bed;
use henge_benches::wal_checkpoint::{self, Beside};
use henge_benches::wal_commit::{BACKENDS, Backend, Run, Turn, append_cpu_ns};
use henge_benches::wal_plot::{Series, bars, lines};
use henge_benches::{wal_fio, wal_peer, wal_recovery};

/// What runs in every round: the host that the goal is about, and the default. The others are shown beside
/// them, from one round.
const EVERY_ROUND: [Backend; 2] = [Backend::TokioUring, Backend::Ring];
const DEPTHS: [usize; 2] = [1, 4];
const GROUPS: u64 = 64;
/// Turns in flight beside the peers, which can have one; the last is what the ratios are about: the
/// least that doubles their rate.
const PEER_DEPTHS: [usize; 2] = [1, 2];

/// What a turn of 64 groups with 256 B each is on disk: fio writes as much, beside the peers.
const PEER_BATCH_BYTES: usize = 24 << 10;

/// Measures the write-ahead log.
#[derive(Parser, Debug)]
struct Options {
    /// Measure longer: four times the time of each load, and five rounds instead of two.
    #[arg(long)]
    full: bool,
    /// Only these parts: `commits`, `peers`, `cpu`, `recovery`, `checkpoint`.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Bytes of a batch of `commits`, in KiB.
    #[arg(long, value_delimiter = ',', default_values_t = [4, 64, 256])]
    sizes: Vec<usize>,
    /// Only these disks in `commits`: `tokio-uring`, `ring`, `thread`, `glommio` (a feature).
    #[arg(long, value_delimiter = ',')]
    disks: Vec<String>,
    /// Where the logs go; decides which disk is measured. Default: cargo's target.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Write plots (PNG) into this directory.
    #[arg(long)]
    plots: Option<PathBuf>,
    /// GiB of log for the recovery.
    #[arg(long, default_value_t = 2)]
    recovery_gib: u64,
}

/// The last line.
struct Ratios {
    fio: [f64; 2],
    peer_throughput: f64,
    peer_p99: f64,
    append_cpu_ns: f64,
    recovery_seq: f64,
    recovery_gbps: f64,
    checkpoint_p99: f64,
}

struct Bench {
    dir: PathBuf,
    plots: Option<PathBuf>,
    time: Duration,
    rounds: usize,
    gib: u64,
    sizes: Vec<usize>,
    backends: Vec<Backend>,
}

fn main() -> ExitCode {
    if let Some(code) = wal_recovery::child() {
        return code;
    }
    let options = Options::parse();
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or("target".into(), PathBuf::from);
    let dir = options.dir.unwrap_or(target).join("henge-bench-wal");
    let among = |backend: &Backend| {
        options.disks.is_empty() || options.disks.iter().any(|d| d == backend.name())
    };
    let bench = Bench {
        sizes: options.sizes,
        backends: BACKENDS.iter().copied().filter(among).collect(),
        dir: dir.clone(),
        plots: options.plots,
        time: Duration::from_millis(if options.full { 1_200 } else { 300 }),
        rounds: if options.full { 5 } else { 2 },
        gib: options.recovery_gib,
    };
    let wanted = |part: &str| options.only.is_empty() || options.only.iter().any(|o| o == part);
    if let Err(error) = std::fs::create_dir_all(&dir) {
        eprintln!("wal: {}: {error}", dir.display());
        return ExitCode::FAILURE;
    }
    let measured = bench.all(wanted);
    let _ = std::fs::remove_dir_all(&dir);
    match measured {
        Ok(r) => {
            println!(
                "fio_ratio_depth1={:.2} fio_ratio_depth4={:.2} peer_throughput_ratio={:.2} \
                 peer_p99_ratio={:.2} append_cpu_ns={:.0} recovery_seq_ratio={:.2} \
                 recovery_gbps={:.2} checkpoint_p99_ratio={:.2}",
                r.fio[0],
                r.fio[1],
                r.peer_throughput,
                r.peer_p99,
                r.append_cpu_ns,
                r.recovery_seq,
                r.recovery_gbps,
                r.checkpoint_p99
            );
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("wal: {error}");
            ExitCode::FAILURE
        }
    }
}

impl Bench {
    fn all(&self, wanted: impl Fn(&str) -> bool) -> Result<Ratios, String> {
        let nan = f64::NAN;
        let mut r = Ratios {
            fio: [nan; 2],
            peer_throughput: nan,
            peer_p99: nan,
            append_cpu_ns: nan,
            recovery_seq: nan,
            recovery_gbps: nan,
            checkpoint_p99: nan,
        };
        if wanted("commits") {
            r.fio = self.commits()?;
        }
        if wanted("peers") {
            (r.peer_throughput, r.peer_p99) = self.peers()?;
        }
        if wanted("cpu") {
            r.append_cpu_ns = append_cpu_ns(GROUPS, self.time)?;
            println!(
                "\nprocessor per 256 B entry, {GROUPS} groups: {:.0} ns",
                r.append_cpu_ns
            );
        }
        if wanted("recovery") {
            (r.recovery_seq, r.recovery_gbps) = self.recovery()?;
        }
        if wanted("checkpoint") {
            r.checkpoint_p99 = self.checkpoint()?;
        }
        Ok(r)
    }

    fn log(&self) -> PathBuf {
        self.dir.join("log")
    }

    fn plot(
        &self,
        name: &str,
        draw: impl FnOnce(&Path) -> std::io::Result<()>,
    ) -> Result<(), String> {
        match &self.plots {
            None => Ok(()),
            Some(dir) => draw(&dir.join(name)).map_err(|e| format!("{name}: {e}")),
        }
    }

    /// Commit rate against fio: the worst ratio at each depth, on tokio-uring.
    fn commits(&self) -> Result<[f64; 2], String> {
        println!(
            "commits per second, batch size by depth, and of fio's writes (medians of rounds)"
        );
        print!("{:>8} {:>5} {:>9} {:>7}", "batch", "depth", "fio", "spread");
        for backend in &self.backends {
            print!(" {:>12} {:>6}", backend.name(), "of fio");
        }
        println!();
        let beds = self.backends.iter().map(|backend| {
            let name = format!("log-{}", backend.name());
            Bed::new(*backend, self.dir.join(name))
        });
        let beds = beds.collect::<Result<Vec<_>, _>>()?;
        let mut worst = vec![[f64::INFINITY; 2]; self.backends.len()];
        let mut labels = vec![];
        let mut columns = vec![Vec::new(); self.backends.len() + 1];
        for (at, depth) in DEPTHS.into_iter().enumerate() {
            for bytes in self.sizes.iter().map(|kib| kib << 10) {
                labels.push(format!("{}K x{depth}", bytes >> 10));
                let rates = self.cell(&beds, bytes, depth, &mut columns)?;
                for (worst, ratio) in worst.iter_mut().zip(rates) {
                    worst[at] = worst[at].min(ratio);
                }
            }
        }
        for (backend, worst) in self.backends.iter().zip(&worst) {
            let (name, [one, four]) = (backend.name(), worst);
            println!(
                "worst of the sizes on {name}: {one:.2} with one in flight, {four:.2} with four"
            );
        }
        let Some(first) = self.backends.first() else {
            return Err("no such disk in this build".into());
        };
        println!("the fio ratios of the last line: {}", first.name());
        let names = self.backends.iter().map(|backend| backend.name());
        let series: Vec<_> = std::iter::once("fio")
            .chain(names)
            .zip(columns)
            .map(|(name, points)| Series {
                name: name.into(),
                points,
            })
            .collect();
        self.plot("wal-commits.png", |path| {
            bars(
                path,
                "durable commits per second, batch size x depth",
                "per s",
                &labels,
                &series,
            )
        })?;
        Ok(worst[0])
    }

    /// One line of the table: the ratio to fio of each backend. Each round measures fio and then every
    /// backend; a ratio is a median of the rounds' ratios, so that a slow second counts on both sides.
    fn cell(
        &self,
        beds: &[Bed],
        bytes: usize,
        depth: usize,
        columns: &mut [Vec<(f64, f64)>],
    ) -> Result<Vec<f64>, String> {
        let turn = Turn::of_batch(bytes);
        let mut fio = Vec::new();
        let mut rates = vec![Vec::new(); self.backends.len()];
        let mut ratios = vec![Vec::new(); self.backends.len()];
        for round in 0..self.rounds {
            let theirs = wal_fio::writes(&self.dir, bytes, depth, self.time.as_secs_f64())?;
            fio.push(theirs.rate);
            for (at, bed) in beds.iter().enumerate() {
                if round > 0 && !EVERY_ROUND.contains(&bed.backend) {
                    continue;
                }
                let run = bed.run(turn, depth, self.time)?;
                rates[at].push(run.rate());
                ratios[at].push(run.rate() / theirs.rate);
            }
        }
        let middle = |values: &[f64]| median(values).unwrap_or(f64::NAN);
        let (low, high) = (
            fio.iter().copied().fold(f64::INFINITY, f64::min),
            fio.iter().copied().fold(0.0, f64::max),
        );
        let theirs = middle(&fio);
        columns[0].push((0.0, theirs));
        print!(
            "{:>5}KiB {depth:>5} {theirs:>9.0} {:>6.0}%",
            bytes >> 10,
            (high - low) / theirs * 100.0
        );
        let mut found = Vec::new();
        for (at, (rates, ratios)) in rates.iter().zip(&ratios).enumerate() {
            let (rate, ratio) = (middle(rates), middle(ratios));
            print!(" {rate:>12.0} {ratio:>6.2}");
            columns[at + 1].push((0.0, rate));
            found.push(ratio);
        }
        println!();
        Ok(found)
    }

    /// 64 groups, 256 B entries, one core.
    fn peers(&self) -> Result<(f64, f64), String> {
        println!("\n{GROUPS} groups x 256 B, one core, every turn durable");
        let turn = Turn {
            groups: GROUPS,
            payload_bytes: 256,
        };
        let mut rows: Vec<(String, Vec<Run>)> = Vec::new();
        let mut keep = |name: String, run: Run| match rows.iter_mut().find(|r| r.0 == name) {
            Some(row) => row.1.push(run),
            None => rows.push((name, vec![run])),
        };
        let bed = Bed::new(Backend::Ring, self.log())?;
        let mut device: Vec<Vec<wal_fio::Fio>> = vec![Vec::new(); PEER_DEPTHS.len()];
        for _ in 0..self.rounds {
            for (at, depth) in PEER_DEPTHS.into_iter().enumerate() {
                // The device's own share of the latency: its tail in the same seconds.
                let seconds = self.time.as_secs_f64();
                device[at].push(wal_fio::writes(
                    &self.dir,
                    PEER_BATCH_BYTES,
                    depth,
                    seconds,
                )?);
                let run = bed.run(turn, depth, self.time)?;
                keep(format!("henge x{depth}"), run);
            }
            keep(
                "buffered".into(),
                wal_peer::buffered(&self.dir, turn, self.time)?,
            );
            if let Some(run) =
                wal_peer::raft_engine(&self.dir.join("raft-engine"), turn, self.time)?
            {
                keep("raft-engine".into(), run);
            }
        }
        println!(
            "{:>12} {:>10} {:>10} {:>8} {:>8} {:>8} {:>6}",
            "log", "turns/s", "entries/s", "p50 us", "p99 us", "p99.9", "W/B"
        );
        let of = |runs: &[Run], f: &dyn Fn(&Run) -> f64| {
            median(&runs.iter().map(f).collect::<Vec<_>>()).unwrap_or(f64::NAN)
        };
        for (name, runs) in &rows {
            let rate = of(runs, &Run::rate);
            println!(
                "{name:>12} {rate:>10.0} {:>10.0} {:>8.0} {:>8.0} {:>8.0} {:>6}",
                rate * GROUPS as f64,
                of(runs, &|r| r.percentile(50.0)),
                of(runs, &|r| r.percentile(99.0)),
                of(runs, &|r| r.percentile(99.9)),
                match of(runs, &|r| r.amplification) {
                    unknown if unknown <= 0.0 => "-".to_owned(),
                    known => format!("{known:.2}"),
                },
            );
        }
        for (depth, runs) in PEER_DEPTHS.into_iter().zip(&device) {
            let of = |f: fn(&wal_fio::Fio) -> f64| {
                median(&runs.iter().map(f).collect::<Vec<_>>()).unwrap_or(f64::NAN)
            };
            println!(
                "{:>12} {:>10.0} {:>10} {:>8.0} {:>8.0} {:>8.0}",
                format!("fio x{depth}"),
                of(|fio| fio.rate),
                "",
                of(|fio| fio.p50),
                of(|fio| fio.p99),
                of(|fio| fio.p999),
            );
        }
        let percents = [0.0, 50.0, 75.0, 90.0, 95.0, 99.0];
        let series: Vec<Series> = rows
            .iter()
            .map(|(name, runs)| Series {
                name: name.clone(),
                points: (0..=99)
                    .map(|p| (f64::from(p), of(runs, &|r| r.percentile(f64::from(p)))))
                    .collect(),
            })
            .collect();
        let ticks: Vec<_> = percents.iter().map(|p| (*p, format!("P{p}"))).collect();
        self.plot("wal-latency.png", |path| {
            lines(
                path,
                "commit latency by percentile, 64 groups x 256 B",
                "us",
                &ticks,
                &series,
            )
        })?;
        let (ours, others) = rows.split_at(PEER_DEPTHS.len());
        let best = others
            .iter()
            .max_by(|a, b| of(&a.1, &Run::rate).total_cmp(&of(&b.1, &Run::rate)));
        let (Some((us, ours)), Some((name, theirs))) = (ours.last(), best) else {
            return Err("no peer was measured".into());
        };
        println!("the ratios: {us} to the better of them, {name}");
        let p99 = |r: &Run| r.percentile(99.0);
        let throughput = of(ours, &Run::rate) / of(theirs, &Run::rate);
        Ok((throughput, of(ours, &p99) / of(theirs, &p99)))
    }

    /// What a process needs that only opens the log.
    fn memory(&self, what: &str) -> Result<(), String> {
        let found = wal_recovery::memory(&self.log())?;
        println!(
            "memory of a recovery, {what}: {:.1} MB at its peak, the index {:.2} MB, {} batches",
            found.peak_bytes as f64 / 1e6,
            found.index_bytes as f64 / 1e6,
            found.batches
        );
        Ok(())
    }

    fn recovery(&self) -> Result<(f64, f64), String> {
        let log = self.log();
        let kills = wal_recovery::after_kills(&log, 20)?;
        println!("\nopen after 20 kills: {:.0} ms", kills * 1e3);
        wal_recovery::write(&log, self.gib << 30, 1)?;
        self.memory("one entry per group and turn")?;
        wal_recovery::write(&log, self.gib << 30, 16)?;
        self.memory("sixteen")?;
        let (mut ratios, mut rates) = (Vec::new(), Vec::new());
        for backend in [Backend::Ring, Backend::Thread] {
            for _ in 0..self.rounds {
                let found = wal_recovery::measure(backend, &log)?;
                let rate = found.bytes as f64 / found.seconds;
                let plain = found.bytes as f64 / found.read_seconds;
                println!(
                    "recovery on {}: {:.2} GB, {} entries in {:.2} s: {:.2} GB/s; plain read {:.2} GB/s",
                    backend.name(),
                    found.bytes as f64 / 1e9,
                    found.records,
                    found.seconds,
                    rate / 1e9,
                    plain / 1e9
                );
                ratios.push(rate / plain);
                rates.push(rate / 1e9);
            }
        }
        let _ = std::fs::remove_dir_all(&log);
        let nan = f64::NAN;
        Ok((
            median(&ratios).unwrap_or(nan),
            median(&rates).unwrap_or(nan),
        ))
    }

    fn checkpoint(&self) -> Result<f64, String> {
        println!("\ncommit latency beside a checkpoint (4 KiB batches)");
        let turn = Turn::of_batch(4 << 10);
        let (rounds, time) = (self.rounds, self.time * 2);
        let runs =
            wal_checkpoint::measure(Backend::Ring, &self.log(), turn, &DEPTHS, rounds, time)?;
        for found in &runs {
            let (alone, beside) = (&found.alone, &found.beside);
            println!(
                "depth {}: p50 {:.0} -> {:.0} us, p99 {:.0} -> {:.0} us, {:.0} -> {:.0} commits/s, \
                 checkpoint {:.0} MB/s",
                found.depth,
                alone.percentile(50.0),
                beside.percentile(50.0),
                alone.percentile(99.0),
                beside.percentile(99.0),
                alone.rate(),
                beside.rate(),
                found.checkpoint_rate / 1e6
            );
        }
        let ratio = |found: &Beside| found.beside.percentile(99.0) / found.alone.percentile(99.0);
        let worst = DEPTHS.iter().map(|depth| {
            let of_depth = runs.iter().filter(|found| found.depth == *depth);
            median(&of_depth.map(ratio).collect::<Vec<_>>()).unwrap_or(f64::NAN)
        });
        Ok(worst.fold(0.0, f64::max))
    }
}
