//! The engine as a service embeds it: on a real directory, on every host this machine allows. One file per
//! concern; what they share is here.

#[path = "../common/mod.rs"]
mod common;

mod callers;
mod host;
mod kv;
mod restart;
mod shards;
mod simulated;
mod watch;

use henge::Engine;
use henge::mvcc::{KeyRange, RangeRequest};

use host::Host;

fn open(dir: &std::path::Path, host: Host) -> Engine {
    let wal = henge::wal::Options {
        segment_bytes: 1 << 20,
        ..Default::default()
    };
    host.engine(dir).wal(wal).open().expect("opens")
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
