//! The engine as a service embeds it: on a real directory, on every host this machine allows. One file per
//! concern; what they share is here.

#[path = "../common/mod.rs"]
mod common;

mod callers;
mod kv;
mod restart;
mod shards;
mod watch;

use henge::mvcc::{KeyRange, RangeRequest};
use henge::{Engine, HostKind};

fn open(dir: &std::path::Path, host: HostKind) -> Engine {
    let wal = henge::wal::Options {
        segment_bytes: 1 << 20,
        ..Default::default()
    };
    Engine::builder(dir)
        .host(host)
        .wal(wal)
        .open()
        .expect("opens")
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
