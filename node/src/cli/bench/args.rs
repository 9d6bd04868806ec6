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
    /// Write, and measure until a watcher has seen it.
    Watch,
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
    /// Operations per second to start, on a fixed schedule; 0 runs as fast as answers come
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    pub rate: u64,
    /// Data directory of the embedded engine; default: a new one under the current directory, removed after
    #[arg(long)]
    pub data_dir: Option<PathBuf>,
    /// What drives the embedded engine's cores: auto, ring, tokio-uring, thread, or glommio in a build with it
    #[arg(long, default_value = "auto", value_parser = crate::HostKind::from_str)]
    pub host: crate::HostKind,
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
        ];
        match embedded.iter().find(|(_, given)| *given) {
            Some((flag, _)) => Err(format!(
                "{flag} is for the embedded engine; servers at --endpoints have their own"
            )),
            None => Ok(()),
        }
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
mod tests {
    use super::*;

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
        let wrong = [
            ("--shards 2 --cores 4", "--cores"),
            ("--endpoints foo", "--endpoints"),
            ("--endpoints https://127.0.0.1:2379", "--endpoints"),
            ("--endpoints localhost:1 --shards 2", "--shards"),
            ("--endpoints localhost:1 --data-dir x", "--data-dir"),
            ("--duration -1", "--duration"),
        ];
        for (line, flag) in wrong {
            assert!(told(line).contains(flag), "{line}: {:?}", told(line));
        }
    }
}
