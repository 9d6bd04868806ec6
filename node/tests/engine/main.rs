//! The engine as a service embeds it: on a real directory, on every host this machine allows. One file per
//! concern; what they share is here.

#[path = "../common/mod.rs"]
mod common;

mod alarms;
mod batch;
mod bounds;
mod callers;
mod embedding;
mod failing;
mod host;
mod kv;
mod panics;
mod positions;
mod regressions;
mod restart;
mod sharded;
mod shards;
mod simulated;
mod snapshot;
mod twin;
mod watch;
mod watch_ends;

use std::path::Path;

use henge::mvcc::{KeyRange, RangeRequest};
use henge::{Engine, EngineBuilder};

use host::Host;

/// An engine with small segments of log.
fn small(dir: &Path, host: Host) -> EngineBuilder {
    let wal = henge::wal::Options {
        segment_bytes: 1 << 20,
        ..Default::default()
    };
    host.engine(dir).wal(wal)
}

fn open(dir: &Path, host: Host) -> Engine {
    small(dir, host).open().expect("opens")
}

fn all() -> RangeRequest<'static> {
    RangeRequest {
        range: KeyRange {
            key: b"\0",
            end: b"\0",
        },
        ..Default::default()
    }
}
