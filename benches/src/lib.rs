//! henge-benches: measurements of Henge, and paired runs against peers.
//!
//! Promises: a figure printed here was checked against what the server says it did, and the two
//! sides of a comparison got the same generator, the same disk and the same durability.
//! Must never know: anything of a server that is not on its command line, its ports, or in `/proc`.
//! Tested by running it: `cargo run --release -p henge-benches --bin peers -- etcd`.
#![allow(
    clippy::disallowed_methods,
    reason = "a benchmark lives in real time and waits for real processes"
)]

pub mod embedded;
pub mod h2load;
#[cfg(feature = "alternatives")]
pub mod mvcc_index;
pub mod mvcc_load;
pub mod mvcc_phases;
pub mod mvcc_rival;
pub mod mvcc_weights;
pub mod puts;
pub mod raft_henge;
pub mod raft_race;
pub mod raft_tikv;
pub mod server;
pub mod stats;
pub mod tail;
pub mod wal_bed;
pub mod wal_checkpoint;
pub mod wal_commit;
pub mod wal_fio;
pub mod wal_peer;
pub mod wal_plot;
pub mod wal_recovery;
pub mod workspace;
