//! The command line of `henge bench`.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, ValueEnum};

/// What each client does again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Work {
    /// Write a random key.
    Put,
    /// Read a random key, linearizably.
    Get,
    /// Read up to 100 keys from a random key on.
    Range,
    /// Compare a key's revision and write it.
    Txn,
    /// Half reads, half writes.
    Mixed,
    /// Write a key of its own, and measure until its watcher (one per client, kept open) has seen it.
    Watch,
    /// Open a watcher on a random key, on a stream of its own, and cancel it.
    WatchOpen,
}

impl Work {
    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Work::Put => "put",
            Work::Get => "get",
            Work::Range => "range",
            Work::Txn => "txn",
            Work::Mixed => "mixed",
            Work::Watch => "watch",
            Work::WatchOpen => "watch-open",
        }
    }

    /// Whether it reads keys, which have to be there.
    pub fn reads(self) -> bool {
        matches!(self, Work::Get | Work::Range | Work::Mixed)
    }
}

/// Loads an engine and measures it.
#[derive(Args, Clone, Debug)]
#[command(allow_negative_numbers = true)]
pub struct BenchArgs {
    /// What each client does
    #[arg(value_enum, default_value = "put")]
    pub work: Work,
    /// Load an engine inside this process (the default without --endpoints)
    #[arg(long, conflicts_with = "endpoints")]
    pub embedded: bool,
    /// Load servers at these client URLs instead, comma-separated
    #[arg(long, value_delimiter = ',', value_name = "URL")]
    pub endpoints: Vec<String>,
    /// Operations in flight at once; fewer for lower latency, more to ride out the disk's pauses
    #[arg(long, default_value_t = 2048, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub clients: u32,
    /// Connections they share (with --endpoints), or client threads (embedded)
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub conns: Option<u32>,
    /// Bytes per key
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(8..=65_536))]
    pub key_size: u32,
    /// Bytes per value
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(0..=1_500_000))]
    pub val_size: u32,
    /// Different keys
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub keyspace: u64,
    /// Shards of the embedded engine, each with its own raft group
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=4_096))]
    pub shards: u16,
    /// Cores of the embedded engine, each with its own thread and log
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub cores: u16,
    /// Seconds to run
    #[arg(long, default_value = "10", value_parser = seconds, value_name = "SECONDS")]
    pub duration: Duration,
    /// End after this many operations, if that comes first
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub total: Option<u64>,
    /// Take keys in order instead of at random
    #[arg(long)]
    pub sequential: bool,
    /// Operations per second to start, on a fixed schedule [default: as fast as answers come]
    #[arg(long, value_parser = rate, allow_negative_numbers = true)]
    pub rate: Option<u64>,
    /// Do not write the keys that get, range and mixed read; what is missing then shows as misses
    #[arg(long)]
    pub no_prefill: bool,
    /// Seconds to wait for a server to answer at the start, and for a watcher to be opened
    #[arg(long, default_value = "5", value_parser = seconds, value_name = "SECONDS")]
    pub dial_timeout: Duration,
    /// Data directory of the embedded engine; default: a new one under the current directory, removed after
    #[arg(long)]
    pub data_dir: Option<PathBuf>,
    /// What drives the embedded engine's cores: auto, ring, tokio-uring, thread, or glommio in a build with
    /// it
    #[arg(long, default_value = "auto", value_parser = henge::HostKind::from_str)]
    pub host: henge::HostKind,
    /// Seed of the key sequence
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Print one JSON object instead of a table
    #[arg(long)]
    pub json: bool,
}

impl BenchArgs {
    /// What single flags cannot say about each other.
    pub fn check(&self) -> Result<(), String> {
        if self.cores > self.shards {
            return Err(format!(
                "--cores {} is more than --shards {}: a core without a shard has nothing to do",
                self.cores, self.shards
            ));
        }
        let digits = (self.keyspace - 1).max(1).ilog10() + 1;
        if digits >= self.key_size {
            return Err(format!(
                "--keyspace {} does not fit into keys of --key-size {}: they are a letter and a number",
                self.keyspace, self.key_size
            ));
        }
        if self.endpoints.is_empty() {
            return Ok(());
        }
        for url in &self.endpoints {
            let address = url.strip_prefix("http://").unwrap_or(url);
            let port = address
                .rsplit_once(':')
                .map(|(_, port)| port.trim_end_matches('/'));
            if url.starts_with("https://") || port.is_none_or(|port| port.parse::<u16>().is_err()) {
                return Err(format!(
                    "--endpoints {url}: give http://HOST:PORT or HOST:PORT (no TLS in this version)"
                ));
            }
        }
        let embedded = [
            ("--shards", self.shards != 1),
            ("--cores", self.cores != 1),
            ("--data-dir", self.data_dir.is_some()),
            ("--host", self.host != henge::HostKind::Auto),
        ];
        match embedded.iter().find(|(_, given)| *given) {
            Some((flag, _)) => Err(format!(
                "{flag} is for the embedded engine; servers at --endpoints have their own"
            )),
            None => Ok(()),
        }
    }
}

fn rate(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(0) => {
            Err("nothing would ever start; leave it out to run as fast as answers come".to_owned())
        }
        Ok(rate @ 1..=1_000_000_000) => Ok(rate),
        _ => Err("must be a whole number of operations per second, at most 1000000000".to_owned()),
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let number: f64 = text
        .trim_end_matches('s')
        .parse()
        .map_err(|_| "not a number of seconds")?;
    if (0.001..=86_400.0).contains(&number) {
        Ok(Duration::from_secs_f64(number))
    } else {
        Err("must be between 0.001 and 86400 seconds".to_owned())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The arguments of a line that is right.
    pub fn args(line: &str) -> BenchArgs {
        let words = std::iter::once("bench").chain(line.split_whitespace());
        let line = <Line as clap::Parser>::try_parse_from(words).expect("it is right");
        line.bench.check().expect("it fits together");
        line.bench
    }

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        bench: BenchArgs,
    }

    fn told(line: &str) -> String {
        let words = std::iter::once("bench").chain(line.split_whitespace());
        match <Line as clap::Parser>::try_parse_from(words) {
            Ok(line) => line.bench.check().err().unwrap_or_default(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn wrong_arguments_name_their_flag() {
        assert_eq!(told("--shards 4 --cores 2"), "");
        assert_eq!(told("--endpoints http://127.0.0.1:2379,localhost:2379"), "");
        assert_eq!(told("watch-open --keyspace 10000000 --key-size 8"), "");
        let wrong = [
            ("--shards 2 --cores 4", "--cores"),
            ("--endpoints foo", "--endpoints"),
            ("--endpoints https://127.0.0.1:2379", "--endpoints"),
            ("--endpoints localhost:1 --shards 2", "--shards"),
            ("--endpoints localhost:1 --data-dir x", "--data-dir"),
            ("--endpoints localhost:1 --host thread", "--host"),
            ("--endpoints localhost:1,", "--endpoints"),
            ("--duration -1", "--duration"),
            ("--duration 0", "--duration"),
            ("--duration NaN", "--duration"),
            ("--dial-timeout 0", "--dial-timeout"),
            ("--rate 0", "as fast as answers come"),
            ("--rate -1", "--rate"),
            ("--rate 0.5", "--rate"),
            ("--clients 0", "--clients"),
            ("--conns 0", "--conns"),
            ("--total 0", "--total"),
            ("--keyspace 0", "--keyspace"),
            ("--keyspace 10000001 --key-size 8", "--keyspace"),
            ("sleep", "watch-open"),
        ];
        for (line, flag) in wrong {
            assert!(told(line).contains(flag), "{line}: {:?}", told(line));
        }
    }
}
