//! What an operator can set about the edge, with etcd's defaults (etcd `server/embed/config.go`).

use std::time::Duration;

use crate::LogLinesLost;
use crate::etcd::asked::{self, Who};

/// The cluster and storage version of an etcd `version`: etcd keeps the patch level 0 there.
pub(crate) fn cluster_version(version: &str) -> String {
    let mut parts = version.split('.');
    match (parts.next(), parts.next()) {
        (Some(major), Some(minor)) => format!("{major}.{minor}.0"),
        _ => version.to_owned(),
    }
}

/// etcd's slack between the largest request and the largest gRPC message, in bytes
/// (`grpcOverheadBytes` in etcd's `server/etcdserver/api/v3rpc/grpc.go`).
pub const GRPC_OVERHEAD_BYTES: usize = 512 * 1024;

/// Settings of one edge.
#[derive(Clone, Debug)]
pub struct EdgeConfig {
    /// Largest request that may be proposed, in bytes (`--max-request-bytes`).
    pub max_request_bytes: usize,
    /// Most operations in one list of a transaction (`--max-txn-ops`).
    pub max_txn_ops: usize,
    /// Most concurrent HTTP/2 streams of one connection (`--max-concurrent-streams`).
    pub max_concurrent_streams: u32,
    /// How long a connection may be silent before the server pings (`--grpc-keepalive-interval`).
    pub keepalive_interval: Duration,
    /// How long the answer to that ping may take (`--grpc-keepalive-timeout`).
    pub keepalive_timeout: Duration,
    /// The least time between two pings of a client with a call under way (`--grpc-keepalive-min-time`);
    /// none is five minutes, as in etcd.
    pub ping_least: Duration,
    /// A stream that asked for a leader ends after three of these without one.
    pub election_timeout: Duration,
    /// Storage quota shown in `Status`, in bytes (`--quota-backend-bytes`).
    pub quota_bytes: i64,
    /// Longest time a draining connection may take to finish what is in flight.
    pub drain_limit: Duration,
    /// Most client connections at a time; more are closed as soon as they are accepted. See
    /// [`crate::door::connections::connections_max`].
    pub max_connections: usize,
    /// How long a connection may say nothing that begins a conversation before it is closed.
    pub silence_limit: Duration,
    /// Serve `KV.{Range,Put,DeleteRange,Txn}` by the thin layer of [`crate::etcd::unary`]; off, they go
    /// through tonic like the rest (same behaviour, more CPU per call).
    pub thin_unary: bool,
    /// Says from a call's metadata who makes it: whatever is asked of the backend is asked in his name.
    pub who: Who,
    /// Says how many lines of the process's log nobody will read, for `/metrics`.
    pub log_lines_lost: fn() -> LogLinesLost,
}

impl EdgeConfig {
    /// Largest gRPC message accepted or sent in one piece, in bytes.
    pub fn max_message_bytes(&self) -> usize {
        self.max_request_bytes.saturating_add(GRPC_OVERHEAD_BYTES)
    }
}

impl Default for EdgeConfig {
    fn default() -> EdgeConfig {
        EdgeConfig {
            max_request_bytes: 1_572_864,
            max_txn_ops: 128,
            max_concurrent_streams: u32::MAX,
            keepalive_interval: Duration::from_secs(2 * 3_600),
            keepalive_timeout: Duration::from_secs(20),
            ping_least: Duration::from_secs(5),
            election_timeout: Duration::from_secs(1),
            quota_bytes: 2 * 1024 * 1024 * 1024,
            drain_limit: Duration::from_secs(5),
            max_connections: usize::MAX,
            silence_limit: Duration::from_secs(30),
            thin_unary: true,
            who: asked::nobody,
            log_lines_lost: LogLinesLost::default,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cluster_version_has_no_patch_level() {
        assert_eq!(cluster_version("3.5.13"), "3.5.0");
        assert_eq!(cluster_version("3"), "3");
    }
}
