//! The known RPCs: how often each was started and ended with which code, its messages, and how long calls
//! took: the numbers behind `grpc_server_*`, `etcd_network_client_grpc_*` and
//! `etcd_server_request_duration_seconds` of /metrics.
//!
//! Promises: counting takes no lock. Must never know: sockets, how a call is answered.

mod calls;
mod clients;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use clients::Clients;
use henge_api::{Histogram, Scale};
use tokio::time::Instant;
use tonic::Code;

use crate::plain::counters::PlainCounters;

pub(crate) use calls::Call;
pub use calls::Calls;

/// Buckets of calls' lengths, in microseconds: etcd's, 1 ms to 8 s.
pub const REQUEST_SCALE: Scale = Scale::new(1_000, 14);
/// The same of hashes: 10 ms to 164 s.
pub const HASH_SCALE: Scale = Scale::new(10_000, 15);

/// Number of gRPC codes (0 Ok to 16 Unauthenticated).
const CODES: usize = 17;

/// One RPC this server knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Method {
    /// Request path, `/package.Service/Method`.
    pub path: &'static str,
    /// `unary`, `server_stream` or `bidi_stream`, as grpc-go-prometheus names them.
    pub kind: &'static str,
    /// Who answers it.
    pub of: Service,
}

/// The services that are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are etcd's")]
pub enum Service {
    Kv,
    Watch,
    Lease,
    Cluster,
    Maintenance,
    Auth,
    Health,
}

impl Method {
    /// `package.Service`.
    pub fn service(&self) -> &'static str {
        self.path[1..]
            .split_once('/')
            .map_or("", |(service, _)| service)
    }

    /// The method's name.
    pub fn name(&self) -> &'static str {
        self.path.rsplit('/').next().unwrap_or("")
    }
}

macro_rules! methods {
    ($($of:ident $service:literal { $($name:ident $kind:ident),* $(,)? })*) => {
        &[$($(Method {
            path: concat!("/", $service, "/", stringify!($name)),
            kind: stringify!($kind),
            of: Service::$of,
        }),*),*]
    };
}

/// Every RPC served, the hot ones first (they are looked up linearly).
pub const METHODS: &[Method] = methods! {
    Kv "etcdserverpb.KV" {
        Put unary, Range unary, Txn unary, DeleteRange unary, Compact unary,
        RangeStream server_stream,
    }
    Watch "etcdserverpb.Watch" { Watch bidi_stream }
    Lease "etcdserverpb.Lease" {
        LeaseGrant unary, LeaseRevoke unary, LeaseKeepAlive bidi_stream, LeaseTimeToLive unary,
        LeaseLeases unary,
    }
    Cluster "etcdserverpb.Cluster" {
        MemberAdd unary, MemberRemove unary, MemberUpdate unary, MemberList unary,
        MemberPromote unary,
    }
    Maintenance "etcdserverpb.Maintenance" {
        Alarm unary, Status unary, Defragment unary, Hash unary, HashKV unary,
        Snapshot server_stream, MoveLeader unary, Downgrade unary,
    }
    Auth "etcdserverpb.Auth" {
        AuthEnable unary, AuthDisable unary, AuthStatus unary, Authenticate unary,
        UserAdd unary, UserGet unary, UserList unary, UserDelete unary, UserChangePassword unary,
        UserGrantRole unary, UserRevokeRole unary, RoleAdd unary, RoleGet unary, RoleList unary,
        RoleDelete unary, RoleGrantPermission unary, RoleRevokePermission unary,
    }
    Health "grpc.health.v1.Health" { Check unary, Watch server_stream }
};

/// Counters of all known RPCs. Shared by the connections of a core; adding up is one relaxed
/// increment at the start and one at the end of a call.
#[derive(Debug)]
pub struct GrpcCounters {
    started: Vec<AtomicU64>,
    handled: Vec<[AtomicU64; CODES]>,
    /// Per method, received and sent.
    messages: Vec<[AtomicU64; 2]>,
    /// Of all messages as they are before they are packed, received and sent.
    bytes: [AtomicU64; 2],
    /// Lengths of calls per method, in microseconds: those that failed, those that did not.
    times: Vec<[Histogram; 2]>,
    /// The same of transactions that only read.
    readonly_times: [Histogram; 2],
    /// Calls by who calls.
    pub(crate) clients: Clients,
    /// Of plain HTTP.
    pub(crate) plain: PlainCounters,
}

impl GrpcCounters {
    /// All zero.
    pub fn new() -> GrpcCounters {
        GrpcCounters {
            started: METHODS.iter().map(|_| AtomicU64::new(0)).collect(),
            handled: METHODS
                .iter()
                .map(|_| [const { AtomicU64::new(0) }; CODES])
                .collect(),
            messages: METHODS
                .iter()
                .map(|_| <[AtomicU64; 2]>::default())
                .collect(),
            bytes: <[AtomicU64; 2]>::default(),
            times: METHODS
                .iter()
                .map(|_| <[Histogram; 2]>::default())
                .collect(),
            readonly_times: <[Histogram; 2]>::default(),
            clients: Clients::default(),
            plain: PlainCounters::default(),
        }
    }

    /// Calls of method number `method` (its place in [`METHODS`]) that began.
    pub fn started(&self, method: usize) -> u64 {
        self.started
            .get(method)
            .map_or(0, |n| n.load(Ordering::Relaxed))
    }

    /// Messages of method number `method`: received, or sent.
    pub fn messages(&self, method: usize, sent: bool) -> u64 {
        let both = self.messages.get(method);
        both.map_or(0, |both| both[usize::from(sent)].load(Ordering::Relaxed))
    }

    /// Bytes of all messages, received and sent.
    pub fn bytes(&self) -> (u64, u64) {
        let [received, sent] = &self.bytes;
        (
            received.load(Ordering::Relaxed),
            sent.load(Ordering::Relaxed),
        )
    }

    /// Lengths of calls of method number `method`: of those that failed, and of those that did not.
    pub fn times(&self, method: usize) -> Option<&[Histogram; 2]> {
        self.times.get(method)
    }

    /// The same of transactions that only read.
    pub fn readonly_times(&self) -> &[Histogram; 2] {
        &self.readonly_times
    }

    /// Calls that began and have not ended.
    pub(crate) fn under_way(&self) -> u64 {
        let sum = |counts: &[AtomicU64]| counts.iter().map(|n| n.load(Ordering::Relaxed)).sum();
        let handled: u64 = self.handled.iter().map(|row| sum(row)).sum();
        let started: u64 = sum(&self.started);
        // Calls begin and end while this counts.
        started.saturating_sub(handled)
    }

    /// Calls of method number `method` that ended with `code`.
    pub fn handled(&self, method: usize, code: Code) -> u64 {
        let row = self.handled.get(method);
        row.and_then(|row| row.get(code as usize))
            .map_or(0, |n| n.load(Ordering::Relaxed))
    }
}

impl Default for GrpcCounters {
    fn default() -> GrpcCounters {
        GrpcCounters::new()
    }
}

/// Place of `path` in [`METHODS`].
pub(crate) fn find(path: &str) -> Option<usize> {
    METHODS.iter().position(|m| m.path == path)
}

/// Counts the messages of one call.
#[derive(Clone, Debug)]
pub(crate) struct Messages {
    counters: Arc<GrpcCounters>,
    method: usize,
}

impl Messages {
    /// One came in.
    pub(crate) fn received(&self, bytes: usize) {
        self.count(0, 1, bytes);
    }

    /// So many went out.
    pub(crate) fn sent(&self, messages: usize, bytes: usize) {
        self.count(1, messages, bytes);
    }

    fn count(&self, way: usize, messages: usize, bytes: usize) {
        if let Some(both) = self.counters.messages.get(self.method) {
            both[way].fetch_add(messages as u64, Ordering::Relaxed);
        }
        self.counters.bytes[way].fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

/// Counts one call. A call that goes away without an end was canceled.
#[derive(Debug)]
pub(crate) struct Meter {
    messages: Messages,
    began: Instant,
    finished: bool,
    /// A transaction that only reads.
    readonly: bool,
    /// Its connection's count of calls under way.
    call: Option<Call>,
}

impl Meter {
    /// A call of method number `method` begins.
    pub(crate) fn start(counters: Arc<GrpcCounters>, method: usize) -> Meter {
        if let Some(n) = counters.started.get(method) {
            n.fetch_add(1, Ordering::Relaxed);
        }
        Meter {
            messages: Messages { counters, method },
            began: Instant::now(),
            finished: false,
            readonly: false,
            call: None,
        }
    }

    /// The same, counted among those of its connection for as long as it lives, or [`Meter::take_call`] says.
    pub(crate) fn under(mut self, call: Call) -> Meter {
        self.call = Some(call);
        self
    }

    /// What counts it among those of its connection, for the answer to keep: that leaves after the call
    /// ended.
    pub(crate) fn take_call(&mut self) -> Option<Call> {
        self.call.take()
    }

    /// Counts the call's messages.
    pub(crate) fn messages(&self) -> &Messages {
        &self.messages
    }

    /// The call turned out to be a transaction that only reads.
    pub(crate) fn only_reads(&mut self) {
        self.readonly = true;
    }

    /// The call ended with `code`; only the first end counts.
    pub(crate) fn finish(&mut self, code: Code) {
        if std::mem::replace(&mut self.finished, true) {
            return;
        }
        let Messages { counters, method } = &self.messages;
        let row = counters.handled.get(*method);
        if let Some(n) = row.and_then(|row| row.get(code as usize)) {
            n.fetch_add(1, Ordering::Relaxed);
        }
        let kind = METHODS.get(*method);
        let times = match self.readonly {
            true => Some(&counters.readonly_times),
            // How long a stream lives is its client's business.
            false if kind.is_none_or(|kind| kind.kind != "unary") => None,
            false => counters.times.get(*method),
        };
        if let Some(times) = times {
            let is_hash = kind.is_some_and(|kind| kind.name().starts_with("Hash"));
            let scale = if is_hash { HASH_SCALE } else { REQUEST_SCALE };
            let micros = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX);
            times[usize::from(code == Code::Ok)].record(scale, micros, 1);
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.finish(Code::Cancelled);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_unique_and_split_into_service_and_name() {
        for (i, m) in METHODS.iter().enumerate() {
            assert_eq!(find(m.path), Some(i));
            assert_eq!(m.path, format!("/{}/{}", m.service(), m.name()));
        }
        assert_eq!(METHODS[0].service(), "etcdserverpb.KV");
        assert_eq!(find("/etcdserverpb.KV/Nope"), None);
    }

    #[test]
    fn a_dropped_call_was_canceled_and_an_ended_one_counts_once() {
        let counters = Arc::new(GrpcCounters::new());
        drop(Meter::start(counters.clone(), 0));
        let mut ended = Meter::start(counters.clone(), 0);
        assert_eq!(counters.under_way(), 1);
        ended.finish(Code::Ok);
        ended.finish(Code::Internal);
        drop(ended);
        assert_eq!(counters.under_way(), 0);
        assert_eq!(counters.started(0), 2);
        assert_eq!(counters.handled(0, Code::Cancelled), 1);
        assert_eq!(counters.handled(0, Code::Ok), 1);
        assert_eq!(counters.handled(0, Code::Internal), 0);
    }
}
