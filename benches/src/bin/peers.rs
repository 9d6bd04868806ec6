//! `peers -- etcd`: the same load on a real etcd and on Henge, in turn, on the same disk.
//! `peers -- embedded`: durable puts on embedded stores (`henge_benches::embedded`).
//!
//! Promises: a ratio is printed only when each server's revision grew by exactly the number of puts
//! sent. Rounds are interleaved and the order alternates, so drift of the machine hits both alike;
//! each round has a fresh server and a fresh directory. The last line holds the medians' ratios,
//! Henge over etcd: `throughput_ratio= cpu_ratio= latency_ratio=`.
//! Must never know: how either server works.
//! Tested by `.ci/run`, and by `--binary` pointing at a second etcd (`--plain`), where every ratio
//! has to come out near 1.
#![allow(
    clippy::disallowed_methods,
    reason = "a benchmark lives in real time and waits for real processes"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use clap::{Parser, ValueEnum};

use henge_benches::embedded;
use henge_benches::h2load::{Generator, Load};
use henge_benches::server::{Program, Server, tool_output};
use henge_benches::stats::median;
use henge_benches::workspace::{built_henge, opponent, target_dir};

/// Puts sent before measuring: they warm the server up and tell its rate.
const CROWD_WARM_PUTS: u64 = 10_000;
const SINGLE_WARM_PUTS: u64 = 300;
/// Connections and streams on each, as the goal is stated.
const CROWD: (u32, u32) = (10, 100);
const SINGLE: (u32, u32) = (1, 1);

/// Loads a peer and Henge in turn with the same generator and prints the ratios.
#[derive(Parser, Debug)]
struct Options {
    /// The peer to compare with.
    peer: Peer,
    /// Measure longer: 5 rounds of 10 seconds instead of 3 of 3.
    #[arg(long)]
    full: bool,
    /// Rounds of each server.
    #[arg(long)]
    rounds: Option<usize>,
    /// Seconds that one load should take.
    #[arg(long)]
    seconds: Option<f64>,
    /// The etcd to measure; without it 3.7.3, built from `benches/etcd` where there is Go, or `etcd` on the
    /// PATH. The first line says which ran.
    #[arg(long, env = "ETCD")]
    etcd: Option<PathBuf>,
    /// The Henge to measure; without it the release build of this workspace, built if need be.
    #[arg(long)]
    binary: Option<PathBuf>,
    /// `--binary` takes etcd's flags without a subcommand (to compare etcd with itself).
    #[arg(long, requires = "binary")]
    plain: bool,
    /// Where the data directories go; decides which disk is measured. Default: cargo's target.
    #[arg(long)]
    dir: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Peer {
    /// etcd: 3.7.3 built with Go from `benches/etcd`, or `--etcd`.
    Etcd,
    /// Embedded stores: redb, fjall, and RocksDB with `--features rocksdb`.
    Embedded,
}

/// One round of one server.
#[derive(Clone, Copy, Debug)]
struct Sample {
    crowd: Load,
    single: Load,
    cpu_us_per_put: f64,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("error: {why}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<(), String> {
    let dir = options
        .dir
        .clone()
        .map_or_else(|| target_dir().map(|t| t.join("peers")), Ok)?;
    fs::create_dir_all(&dir).map_err(|e| format!("cannot create {}: {e}", dir.display()))?;
    let (rounds, seconds) = if options.full { (5, 10.0) } else { (3, 3.0) };
    let (rounds, seconds) = (
        options.rounds.unwrap_or(rounds),
        options.seconds.unwrap_or(seconds),
    );
    if rounds == 0 || !seconds.is_finite() || seconds <= 0.0 {
        return Err("--rounds and --seconds have to be above 0".to_owned());
    }
    println!("{}", surroundings(&dir));
    match options.peer {
        Peer::Etcd => against_etcd(options, &dir, rounds, seconds),
        // Several stores: half as long each.
        Peer::Embedded => embedded::run(&dir, rounds, seconds / 2.0),
    }
}

fn against_etcd(options: &Options, dir: &Path, rounds: usize, seconds: f64) -> Result<(), String> {
    let path = match &options.etcd {
        Some(path) => path.clone(),
        None => opponent(&target_dir()?)?,
    };
    let (peer, version) = Program::etcd(path)?;
    println!("against {version} ({})", peer.path.display());
    let generator = Generator::new(dir)?;
    let mut henge = Program::henge(match &options.binary {
        Some(path) => path.clone(),
        None => built_henge(&target_dir()?, &[])?,
    });
    if options.plain {
        henge.subcommand = None;
    }
    // One client for both sides.
    henge.ctl.clone_from(&peer.ctl);
    println!(
        "{:<8}{:>6}{:>12}{:>14}{:>14}{:>14}",
        "server", "round", "puts/s", "cpu us/put", "p50 us 10x100", "p50 us 1x1"
    );
    let mut samples: [Vec<Sample>; 2] = [Vec::new(), Vec::new()];
    for round in 0..rounds {
        // Alternating who goes first: the second one always finds a warmer disk and CPU.
        for side in if round % 2 == 0 { [0, 1] } else { [1, 0] } {
            let program = [&peer, &henge][side];
            let sample = measure(program, dir, &generator, seconds)
                .map_err(|why| format!("{} in round {}: {why}", program.name, round + 1))?;
            print_row(program.name, &(round + 1).to_string(), &sample);
            samples[side].push(sample);
        }
    }
    report(&peer, &henge, &samples)
}

/// A fresh server, a warm-up, the crowd, then a single client.
fn measure(
    program: &Program,
    dir: &Path,
    generator: &Generator,
    seconds: f64,
) -> Result<Sample, String> {
    // What the one before wrote must not be written back during our turn. Best effort.
    let _ = Command::new("sync").status();
    let server = Server::start(program, dir)?;
    let warm = checked(&server, generator, CROWD_WARM_PUTS, CROWD)?;
    let puts = count_for(warm.per_second, seconds, CROWD.0 * CROWD.1);
    let before = server.cpu_seconds()?;
    let crowd = checked(&server, generator, puts, CROWD)?;
    let cpu_us_per_put = (server.cpu_seconds()? - before) * 1e6 / puts as f64;

    let warm = checked(&server, generator, SINGLE_WARM_PUTS, SINGLE)?;
    let puts = count_for(warm.per_second, seconds / 2.0, 100);
    let single = checked(&server, generator, puts, SINGLE)?;
    Ok(Sample {
        crowd,
        single,
        cpu_us_per_put,
    })
}

/// Sends `puts` and holds the server to them: its revision has to grow by exactly that.
fn checked(
    server: &Server,
    generator: &Generator,
    puts: u64,
    (connections, streams): (u32, u32),
) -> Result<Load, String> {
    let before = server.revision()?;
    let load = generator.run(&server.endpoint(), puts, connections, streams)?;
    let grown = server.revision()? - before;
    if u64::try_from(grown) != Ok(puts) {
        return Err(format!(
            "{puts} puts were answered but the revision grew by {grown}: the server refused or \
             lost some, so there is no figure"
        ));
    }
    Ok(load)
}

/// How many puts fill `seconds` at this rate, in whole batches of `step`.
fn count_for(per_second: f64, seconds: f64, step: u32) -> u64 {
    let steps = (per_second * seconds / f64::from(step)).ceil().max(1.0);
    steps as u64 * u64::from(step)
}

fn report(peer: &Program, henge: &Program, samples: &[Vec<Sample>; 2]) -> Result<(), String> {
    let of = |side: usize, pick: fn(&Sample) -> f64| {
        let values: Vec<f64> = samples[side].iter().map(pick).collect();
        median(&values).ok_or("no rounds were measured")
    };
    let middle = |side: usize| -> Result<Sample, String> {
        Ok(Sample {
            crowd: Load {
                per_second: of(side, |s| s.crowd.per_second)?,
                latency_us: of(side, |s| s.crowd.latency_us)?,
            },
            single: Load {
                per_second: of(side, |s| s.single.per_second)?,
                latency_us: of(side, |s| s.single.latency_us)?,
            },
            cpu_us_per_put: of(side, |s| s.cpu_us_per_put)?,
        })
    };
    let (theirs, ours) = (middle(0)?, middle(1)?);
    print_row(peer.name, "median", &theirs);
    print_row(henge.name, "median", &ours);
    println!(
        "throughput_ratio={:.2} cpu_ratio={:.3} latency_ratio={:.3}",
        ours.crowd.per_second / theirs.crowd.per_second,
        ours.cpu_us_per_put / theirs.cpu_us_per_put,
        ours.single.latency_us / theirs.single.latency_us,
    );
    Ok(())
}

fn print_row(name: &str, round: &str, sample: &Sample) {
    println!(
        "{name:<8}{round:>6}{:>12.0}{:>14.1}{:>14.0}{:>14.0}",
        sample.crowd.per_second,
        sample.cpu_us_per_put,
        sample.crowd.latency_us,
        sample.single.latency_us,
    );
}

/// What a reader needs to place the figures: kernel, cores, and the file system under the data.
fn surroundings(dir: &Path) -> String {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let fs_type = tool_output(Command::new("df").arg("--output=fstype").arg(dir));
    format!(
        "Linux {}, {cores} cores, {} under {}; client and server share the cores",
        kernel.trim(),
        fs_type
            .iter()
            .flat_map(|table| table.lines())
            .last()
            .unwrap_or("unknown file system"),
        dir.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_whole_steps_and_never_none() {
        assert_eq!(count_for(10_000.0, 3.0, 1_000), 30_000);
        assert_eq!(count_for(10_001.0, 3.0, 1_000), 31_000);
        assert_eq!(count_for(0.1, 1.0, 100), 100);
    }
}
