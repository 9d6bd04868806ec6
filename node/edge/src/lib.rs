//! The client edge of Henge: everything between a client's connection and [`henge_api::Backend`].
//!
//! [`door`] is the client's way in and out, `edge` chooses who answers, [`etcd`] speaks etcd's gRPC,
//! [`plain`] what etcd answers over plain HTTP on the same port: health, version, metrics; [`counters`] count
//! it all. Promises: a client of etcd cannot tell the difference, but for what decision 24 names.
//! Must never know: engines, shards, raft; it sees `Backend` and nothing else, and no protobuf type leaves
//! it.

// A stream that nobody reads would end the process.
#![deny(clippy::print_stdout, clippy::print_stderr)]

pub mod config;
pub mod counters;
pub mod door;
mod edge;
pub mod etcd;
pub mod plain;

pub use config::EdgeConfig;
pub use counters::GrpcCounters;
pub use edge::Edge;

/// The etcd API version that is served: clients choose features by it (kube-apiserver asks for watch
/// progress only from 3.5.13 on), so it names what is implemented.
pub const API_VERSION: &str = "3.6.6";

/// Lines of the process's log that nobody will read, since it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogLinesLost {
    /// The operating system refused to write them.
    pub unwritten: u64,
    /// They were not taken: the reader of the log is too far behind.
    pub unread: u64,
}
