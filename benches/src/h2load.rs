//! The load generator of the peer comparison: h2load with one canned gRPC Put.
//!
//! Promises: exactly the asked number of requests, all answered with HTTP 200, or an error.
//! h2load ignores grpc-status, so a 200 says nothing about the put itself: callers check that the
//! server's revision grew by the number of puts.
//! Must never know: which server it loads. Tested below on h2load's own output.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::server::tool_output;
use crate::stats::median;

/// The key of the canned Put.
const KEY: &[u8] = b"bench/peers/0001";
/// Bytes of the canned value; etcd's own benchmark quotes 256 B.
const VALUE_LEN: usize = 256;

/// A canned Put on disk, ready to be sent.
#[derive(Debug)]
pub struct Generator {
    frame: PathBuf,
    log: PathBuf,
}

/// What one load measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Load {
    /// Requests per second, as h2load counts from first to last.
    pub per_second: f64,
    /// Median of the single requests' times, in microseconds.
    pub latency_us: f64,
}

impl Generator {
    /// Writes the canned request into `dir` and makes sure h2load is there.
    pub fn new(dir: &Path) -> Result<Self, String> {
        tool_output(Command::new("h2load").arg("--version")).map_err(|why| {
            format!(
                "cannot run h2load: {why}\n  \
                 install it with: apt-get install nghttp2-client"
            )
        })?;
        let frame = dir.join("put.frame");
        fs::write(&frame, put_frame(KEY, &[b'v'; VALUE_LEN]))
            .map_err(|e| format!("cannot write {}: {e}", frame.display()))?;
        Ok(Self {
            frame,
            log: dir.join("h2load.log"),
        })
    }

    /// Sends `puts` Puts to `endpoint` over `connections` with `streams` in flight on each.
    pub fn run(
        &self,
        endpoint: &str,
        puts: u64,
        connections: u32,
        streams: u32,
    ) -> Result<Load, String> {
        // h2load appends to its log.
        let _ = fs::remove_file(&self.log);
        let output = tool_output(
            Command::new("h2load")
                .args(["-n", &puts.to_string()])
                .args(["-c", &connections.to_string(), "-m", &streams.to_string()])
                .args(["-H", "content-type: application/grpc", "-H", "te: trailers"])
                .arg("-d")
                .arg(&self.frame)
                .arg("--log-file")
                .arg(&self.log)
                .arg(format!("http://{endpoint}/etcdserverpb.KV/Put")),
        )
        .map_err(|why| format!("h2load failed: {why}"))?;
        let (per_second, succeeded) = summary(&output)
            .ok_or_else(|| format!("h2load's summary has an unknown form:\n{output}"))?;
        if succeeded != puts {
            return Err(format!(
                "{succeeded} of {puts} requests succeeded:\n{output}"
            ));
        }
        let log = fs::read_to_string(&self.log)
            .map_err(|e| format!("cannot read {}: {e}", self.log.display()))?;
        let latency_us = median_latency(&log).ok_or("h2load's log has an unknown form")?;
        Ok(Load {
            per_second,
            latency_us,
        })
    }
}

/// A gRPC message frame around an `etcdserverpb.PutRequest` (key = field 1, value = field 2).
fn put_frame(key: &[u8], value: &[u8]) -> Vec<u8> {
    let mut message = Vec::new();
    for (tag, bytes) in [(0x0A, key), (0x12, value)] {
        message.push(tag);
        varint(&mut message, bytes.len());
        message.extend_from_slice(bytes);
    }
    let mut frame = vec![0]; // not compressed
    frame.extend_from_slice(&(message.len() as u32).to_be_bytes());
    frame.extend_from_slice(&message);
    frame
}

fn varint(out: &mut Vec<u8>, mut value: usize) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// `(requests per second, succeeded)` out of the lines
/// `finished in 1.02s, 9784.92 req/s, 1.2MB/s` and `requests: 10 total, … 10 succeeded, …`.
fn summary(output: &str) -> Option<(f64, u64)> {
    let rate = output
        .lines()
        .find_map(|line| line.strip_prefix("finished in "))?
        .split(", ")
        .find_map(|part| part.strip_suffix(" req/s"))?;
    let succeeded = output
        .lines()
        .find_map(|line| line.strip_prefix("requests: "))?
        .split(", ")
        .find_map(|part| part.strip_suffix(" succeeded"))?;
    Some((rate.parse().ok()?, succeeded.parse().ok()?))
}

/// The median of the third column (microseconds until the end of the response).
fn median_latency(log: &str) -> Option<f64> {
    let latencies: Option<Vec<f64>> = log
        .lines()
        .map(|line| line.split('\t').nth(2)?.parse().ok())
        .collect();
    median(&latencies?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frame_has_length_key_and_value() {
        let frame = put_frame(b"k", &[b'v'; 200]);
        assert_eq!(frame[..5], [0, 0, 0, 0, 206]);
        assert_eq!(frame[5..11], [0x0A, 1, b'k', 0x12, 0xC8, 0x01]);
        assert_eq!(frame.len(), 5 + 206);
    }

    #[test]
    fn summary_reads_what_h2load_prints() {
        let output = "finished in 1.02s, 9784.92 req/s, 1.24MB/s\n\
            requests: 10000 total, 10000 started, 10000 done, 9999 succeeded, 1 failed, 0 errored";
        assert_eq!(summary(output), Some((9784.92, 9_999)));
        assert_eq!(summary("finished in 1.02s"), None);
    }

    #[test]
    fn latency_is_the_median_of_the_log() {
        assert_eq!(
            median_latency("1\t200\t30\n2\t200\t10\n3\t200\t20\n"),
            Some(20.0)
        );
        assert_eq!(median_latency("1\t200\tx\n"), None);
        assert_eq!(median_latency(""), None);
    }
}
