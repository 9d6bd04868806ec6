//! `hosts`: the commit path on every host this machine allows, side by side: on a core that has nothing
//! else to do, and on a core that serves gRPC at the same time.
//!
//! Each figure is `henge bench`'s own, of a process of its own. *Idle*: an engine inside the load
//! generator, first one caller (its latency is the commit's), then many. *Busy*: `henge serve` on that
//! host, whose core answers a stream of gRPC reads all the while; into that, one gRPC writer, then many.
//! Rounds are interleaved, so drift of the machine hits all hosts alike; the table shows medians. The last
//! line is `HOST_idle_p99_us= HOST_idle_per_sec= HOST_busy_p99_us= HOST_busy_per_sec=` for each host.
//! Must never know: how a host works. Tested by running it.
#![allow(
    clippy::disallowed_methods,
    reason = "a benchmark lives in real time and waits for real processes"
)]

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};

use clap::Parser;

use henge_benches::server::{Program, Server, tool_output};
use henge_benches::stats::median;
use henge_benches::workspace::{built_henge, target_dir};

/// Callers of a crowd: what one shard serves best (docs/performance.md).
const IDLE_CROWD: u32 = 1_024;
const BUSY_CROWD: (u32, u32) = (256, 8);
/// Readers that keep the core busy.
const READERS: (u32, u32) = (32, 2);

/// Measures every host and prints a table.
#[derive(Parser, Debug)]
struct Options {
    /// Measure longer: 5 rounds of 5 seconds a load instead of 3 of 1.
    #[arg(long)]
    full: bool,
    /// Rounds of each host.
    #[arg(long)]
    rounds: Option<usize>,
    /// Seconds of one load.
    #[arg(long)]
    seconds: Option<f64>,
    /// The hosts to measure, comma-separated [default: all that this build and machine have]
    #[arg(long, value_delimiter = ',')]
    hosts: Vec<String>,
    /// The Henge to measure; without it the release build of this workspace, built if need be.
    #[arg(long)]
    binary: Option<PathBuf>,
    /// Where the data directories go; decides which disk is measured. Default: cargo's target.
    #[arg(long)]
    dir: Option<PathBuf>,
}

/// What one load measured.
#[derive(Clone, Copy, Debug)]
struct Load {
    per_second: f64,
    p50_us: f64,
    p99_us: f64,
    p999_us: f64,
}

/// The four loads of a round.
const LOADS: [&str; 4] = ["idle, one", "idle, many", "busy, one", "busy, many"];

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
    let binary = match &options.binary {
        Some(path) => path.clone(),
        // In a folder of its own: the build that the other benchmarks measure has only the default hosts.
        None => built_henge(&target_dir()?.join("all-hosts"), &["glommio"])?,
    };
    let dir = match &options.dir {
        Some(dir) => dir.clone(),
        None => target_dir()?.join("hosts"),
    };
    fs::create_dir_all(&dir).map_err(|e| format!("cannot create {}: {e}", dir.display()))?;
    let (rounds, seconds) = if options.full { (5, 5.0) } else { (3, 1.0) };
    let rounds = options.rounds.unwrap_or(rounds);
    let seconds = options.seconds.unwrap_or(seconds);
    if rounds == 0 || !(0.1..=600.0).contains(&seconds) {
        return Err("--rounds has to be above 0, and --seconds in 0.1 to 600".to_owned());
    }
    let bench = Bench {
        binary,
        dir,
        seconds,
    };
    let hosts = bench.hosts(&options.hosts)?;
    println!(
        "{} rounds of {seconds} s a load, medians; client and core share the machine",
        rounds
    );
    let mut samples: Vec<[Vec<Load>; 4]> = hosts.iter().map(|_| Default::default()).collect();
    for round in 0..rounds {
        for turn in 0..hosts.len() {
            // Another one goes first in each round.
            let at = (turn + round) % hosts.len();
            let loads = bench
                .round(&hosts[at])
                .map_err(|why| format!("{} in round {}: {why}", hosts[at], round + 1))?;
            for (load, sample) in loads.into_iter().zip(&mut samples[at]) {
                sample.push(load);
            }
        }
    }
    report(&hosts, &samples)
}

struct Bench {
    binary: PathBuf,
    dir: PathBuf,
    seconds: f64,
}

impl Bench {
    /// The hosts asked for, or those that can serve here.
    fn hosts(&self, asked: &[String]) -> Result<Vec<String>, String> {
        if !asked.is_empty() {
            return Ok(asked.to_vec());
        }
        let all = ["ring", "tokio-uring", "glommio", "thread"];
        let usable = all.into_iter().filter(|host| {
            let tried = self.embedded(host, 1, 0.05);
            if let Err(why) = &tried {
                let last = why.lines().last().unwrap_or_default();
                println!("left out {host}: {last}");
            }
            tried.is_ok()
        });
        let usable: Vec<_> = usable.map(str::to_owned).collect();
        if usable.is_empty() {
            return Err("no host works here; `henge doctor` says more".to_owned());
        }
        Ok(usable)
    }

    fn round(&self, host: &str) -> Result<[Load; 4], String> {
        let idle = [
            self.embedded(host, 1, self.seconds)?,
            self.embedded(host, IDLE_CROWD, self.seconds)?,
        ];
        let program = Program::henge(self.binary.clone());
        let server = Server::start_with(&program, &self.dir, &["--host", host])?;
        let url = format!("http://{}", server.endpoint());
        // Something to read: a read load writes its keys first, and the readers beside the measured load
        // shall not.
        self.remote(&url, "get", (64, 4), 0.1)?;
        let busy = [
            self.beside_readers(&url, (1, 1))?,
            self.beside_readers(&url, BUSY_CROWD)?,
        ];
        Ok([idle[0], idle[1], busy[0], busy[1]])
    }

    fn embedded(&self, host: &str, clients: u32, seconds: f64) -> Result<Load, String> {
        let data = self.dir.join(format!("embedded-{}", std::process::id()));
        let _ = fs::remove_dir_all(&data);
        let mut command = Command::new(&self.binary);
        command
            .args(["bench", "put", "--json", "--keyspace", "100000"])
            .args(["--host", host, "--clients", &clients.to_string()])
            .args(["--duration", &seconds.to_string()])
            .arg("--data-dir")
            .arg(&data);
        let load = figures(&mut command);
        let _ = fs::remove_dir_all(&data);
        load
    }

    /// Writers measured while readers keep the core busy.
    fn beside_readers(&self, url: &str, crowd: (u32, u32)) -> Result<Load, String> {
        let mut readers = self.command(url, "get", READERS, self.seconds + 1.0);
        readers.arg("--no-prefill");
        let _readers = Background::start(readers)?;
        // Their connections are made by then.
        std::thread::sleep(std::time::Duration::from_millis(300));
        self.remote(url, "put", crowd, self.seconds)
    }

    fn remote(
        &self,
        url: &str,
        work: &str,
        crowd: (u32, u32),
        seconds: f64,
    ) -> Result<Load, String> {
        figures(&mut self.command(url, work, crowd, seconds))
    }

    fn command(&self, url: &str, work: &str, crowd: (u32, u32), seconds: f64) -> Command {
        let mut command = Command::new(&self.binary);
        command
            .args(["bench", work, "--json", "--keyspace", "10000"])
            .args(["--endpoints", url, "--duration", &seconds.to_string()])
            .args(["--clients", &crowd.0.to_string()])
            .args(["--conns", &crowd.1.to_string()]);
        command
    }
}

/// A load that nobody measures; ends when dropped.
struct Background(Child);

impl Background {
    fn start(mut command: Command) -> Result<Self, String> {
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        child
            .map(Background)
            .map_err(|e| format!("cannot start the readers: {e}"))
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // Both fail only if it has ended already, which is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The figures of a `henge bench --json`; an error if an operation failed.
fn figures(command: &mut Command) -> Result<Load, String> {
    let text = tool_output(command)?;
    let object: serde_json::Value =
        serde_json::from_str(&text).map_err(|e| format!("henge bench said `{text}`: {e}"))?;
    if object["failures"].as_u64() != Some(0) {
        return Err(format!("operations failed: {}", object["first_error"]));
    }
    let figure = |name: &str| {
        object[name]
            .as_f64()
            .ok_or_else(|| format!("henge bench printed no {name}: {text}"))
    };
    Ok(Load {
        per_second: figure("ops_per_sec")?,
        p50_us: figure("p50_us")?,
        p99_us: figure("p99_us")?,
        p999_us: figure("p999_us")?,
    })
}

fn report(hosts: &[String], samples: &[[Vec<Load>; 4]]) -> Result<(), String> {
    println!(
        "{:<14}{:<13}{:>12}{:>10}{:>10}{:>11}",
        "load", "host", "puts/s", "p50 us", "p99 us", "p99.9 us"
    );
    let mut medians = Vec::new();
    for (load, name) in LOADS.iter().enumerate() {
        for (host, of_host) in hosts.iter().zip(samples) {
            let middle = middle(&of_host[load]).ok_or("no rounds were measured")?;
            println!(
                "{name:<14}{host:<13}{:>12.0}{:>10.0}{:>10.0}{:>11.0}",
                middle.per_second, middle.p50_us, middle.p99_us, middle.p999_us
            );
            medians.push((load, host, middle));
        }
    }
    let mut last = Vec::new();
    for host in hosts {
        let of = |wanted: usize| {
            let mut found = medians
                .iter()
                .filter(|(load, of, _)| *load == wanted && *of == host);
            found.next().map(|(_, _, middle)| *middle)
        };
        let key = host.replace('-', "_");
        for (name, one, many) in [("idle", of(0), of(1)), ("busy", of(2), of(3))] {
            if let (Some(one), Some(many)) = (one, many) {
                last.push(format!("{key}_{name}_p99_us={:.0}", one.p99_us));
                last.push(format!("{key}_{name}_per_sec={:.0}", many.per_second));
            }
        }
    }
    println!("{}", last.join(" "));
    Ok(())
}

fn middle(loads: &[Load]) -> Option<Load> {
    let of = |pick: fn(&Load) -> f64| {
        let values: Vec<f64> = loads.iter().map(pick).collect();
        median(&values)
    };
    Some(Load {
        per_second: of(|l| l.per_second)?,
        p50_us: of(|l| l.p50_us)?,
        p99_us: of(|l| l.p99_us)?,
        p999_us: of(|l| l.p999_us)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_each_figure_is_taken_by_itself() {
        let load = |per_second, p50_us| Load {
            per_second,
            p50_us,
            p99_us: 1.0,
            p999_us: 2.0,
        };
        let middle = middle(&[load(1.0, 30.0), load(3.0, 10.0), load(2.0, 20.0)]);
        let middle = middle.map(|load| (load.per_second, load.p50_us));
        assert_eq!(middle, Some((2.0, 20.0)));
    }
}
