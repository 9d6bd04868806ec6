//! What a caller of the engine sees: replies, headers, errors, and the [`Backend`] seam.
//!
//! Promises: every reply carries a [`Header`]; every failure says who is at fault and, through
//! [`Error::outcome`], whether the operation was done. Requests are `henge_mvcc`'s borrowing types:
//! they are encoded before the first await, so no future borrows from its caller.
//! Must never know: sockets, protobuf, raft messages.

mod caller;
mod histogram;
mod metrics;
mod stage;
mod vitals;

use bytes::Bytes;
use henge_mvcc as mvcc;

pub use caller::Caller;
pub use histogram::{Histogram, Scale};
pub use metrics::{
    AppliedTimes, Buckets, COMPACTION_SCALE, CoreMemory, CoreMetrics, FOLLOWERS_MAX, Metrics,
    PeerStats, PeerView, RTT_SCALE, Watched,
};
pub use stage::{STAGE_NAMES, STAGES, Stage};
pub use vitals::{SharedVitals, Vitals};

/// This version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// How it was built: what `HENGE_BUILD` said at compile time (a commit, a package), else the profile.
pub const BUILD: &str = match option_env!("HENGE_BUILD") {
    Some(build) => build,
    None if cfg!(debug_assertions) => "dev",
    None => "release",
};

/// What stands in every response, as in etcd's `ResponseHeader`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// Id of the cluster, fixed when it was created.
    pub cluster_id: u64,
    /// Id of the member that answered.
    pub member_id: u64,
    /// The store's revision when the answer was built; for a write, the revision it made.
    pub revision: i64,
    /// The member's raft term at that moment.
    pub raft_term: u64,
}

/// An answer and its header.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply<T> {
    /// Where and at which revision it was answered.
    pub header: Header,
    /// The answer itself.
    pub body: T,
}

impl<T> Reply<T> {
    /// Keeps the header and converts the answer.
    pub fn map<U>(self, convert: impl FnOnce(T) -> U) -> Reply<U> {
        Reply {
            header: self.header,
            body: convert(self.body),
        }
    }
}

/// What became of an operation that did not succeed. There is no third value for "probably not".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It had no effect and never will.
    NotDone,
    /// It may have happened, or may still happen.
    Unknown,
}

/// Why any operation did not succeed: the flat list that shards and the etcd edge speak. The texts are
/// etcd's (after its "etcdserver: "), because clients match on them. The engine's own operations sort it
/// by what to do about it (`henge::failure`); each of those becomes this one by `?`.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Error {
    /// The caller's mistake: nothing was done.
    #[error("{0}")]
    Invalid(#[from] mvcc::Error),
    /// The caller's request, encoded, is over the limit (default 1.5 MiB).
    #[error("request is too large")]
    RequestTooLarge {
        /// Encoded size.
        bytes: usize,
        /// The limit it met.
        max: usize,
    },
    /// Us: the shard has more unapplied work than it may hold. Retry with backoff.
    #[error("too many requests")]
    TooManyRequests,
    /// The cluster has no leader, and none appeared before the deadline; the request was never proposed.
    #[error("no leader")]
    NoLeader,
    /// Only the leader can answer this, and this member is not it.
    #[error("not leader")]
    NotLeader,
    /// Leadership moved while the request waited to be proposed.
    #[error("leader changed")]
    LeaderChanged,
    /// The deadline passed.
    #[error("request timed out")]
    Timeout {
        /// Unknown once the request was proposed.
        outcome: Outcome,
    },
    /// The engine is stopping.
    #[error("server stopped")]
    Stopped {
        /// Unknown once the request was proposed.
        outcome: Outcome,
    },
    /// The quota is spent, or the disk has no room for another log segment. Reads go on; delete,
    /// compact, or give room.
    #[error("mvcc: database space exceeded")]
    NoSpace,
    /// Every file descriptor of the process is taken, and the log needs one for its next segment. Reads go
    /// on; raise the limit (`ulimit -n`), or close what holds them.
    #[error("no file descriptor is left for the log; raise the limit (ulimit -n)")]
    NoDescriptors,
    /// The disk failed a log write; this process acknowledges nothing any more. Restart after looking
    /// at the disk.
    #[error("the log is poisoned: {0}")]
    Poisoned(String),
    /// Replicated data cannot be read by this build: this group serves nothing until it is repaired.
    #[error("corrupt cluster")]
    Corrupt,
    /// A transaction's keys live in different shards.
    #[error("keys {first:?} and {other:?} live in different shards; a transaction stays in one")]
    CrossShard {
        /// A key of the transaction.
        first: Bytes,
        /// Another one, which another shard holds.
        other: Bytes,
    },
    /// A lease lives in one shard, and the key in another: take a lease granted for the key.
    #[error("lease {lease} does not live in the shard of key {key:?}; grant one for the key")]
    LeaseElsewhere {
        /// The key.
        key: Bytes,
        /// The lease.
        lease: i64,
    },
    /// Revisions of an engine with another number of shards.
    #[error("revisions of {given} shards, but the engine has {shards}")]
    OtherShards {
        /// Shards of the revisions.
        given: usize,
        /// Shards of the engine.
        shards: usize,
    },
    /// A blocking call on the thread that drives the engine: it would wait for itself.
    #[error("this thread drives the engine: a blocking call here would wait for itself")]
    OwnThread {
        /// Unknown for what had been begun before: it goes on.
        outcome: Outcome,
    },
    /// The request is not possible on an engine with several shards.
    #[error("{0} needs an engine with one shard")]
    OneShardOnly(&'static str),
}

impl Error {
    /// Whether the operation was certainly not done, or may have been.
    pub fn outcome(&self) -> Outcome {
        match self {
            Error::Timeout { outcome }
            | Error::Stopped { outcome }
            | Error::OwnThread { outcome } => *outcome,
            Error::Poisoned(_) => Outcome::Unknown,
            // By name, so that a new one is decided on.
            Error::Invalid(_)
            | Error::RequestTooLarge { .. }
            | Error::TooManyRequests
            | Error::NoLeader
            | Error::NotLeader
            | Error::LeaderChanged
            | Error::NoSpace
            | Error::NoDescriptors
            | Error::Corrupt
            | Error::CrossShard { .. }
            | Error::LeaseElsewhere { .. }
            | Error::OtherShards { .. }
            | Error::OneShardOnly(_) => Outcome::NotDone,
        }
    }
}

/// A lease that was just created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseGranted {
    /// Its id: the one asked for, or one the server picked.
    pub id: i64,
    /// Granted time to live in seconds (the minimum may raise what was asked for).
    pub ttl_s: i64,
}

/// How long a lease still lives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaseTtl {
    /// The lease asked about.
    pub id: i64,
    /// Seconds left; -1 for a lease that does not exist.
    pub ttl_s: i64,
    /// Seconds it was granted.
    pub granted_ttl_s: i64,
    /// Keys attached to it, if asked for.
    pub keys: Vec<Bytes>,
}

/// The hash of the store's logical content at a revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashKv {
    /// The hash; equal on all members at equal revisions.
    pub hash: u32,
    /// First revision that is still readable, minus what compaction keeps.
    pub compact_revision: i64,
    /// The revision that was hashed.
    pub hash_revision: i64,
}

/// A member's own view; not linearizable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Bytes held by the store.
    pub db_size: i64,
    /// Bytes held by what is live.
    pub db_size_in_use: i64,
    /// Leader's member id, 0 if none is known.
    pub leader: u64,
    /// Commit index.
    pub raft_index: u64,
    /// Term.
    pub raft_term: u64,
    /// Applied index.
    pub raft_applied_index: u64,
    /// The log lacks file descriptors.
    pub lacks_descriptors: bool,
    /// The alarms that are raised, and that of this member's own disk.
    pub alarms: Vec<AlarmMember>,
    /// Whether this member is a learner.
    pub is_learner: bool,
}

/// A kind of alarm, with etcd's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Alarm {
    /// The quota is spent: nothing is taken in that adds data.
    NoSpace = 1,
    /// The members' data differ: nothing of it is served.
    Corrupt = 2,
}

impl Alarm {
    /// By its number.
    pub fn from_u8(number: u8) -> Option<Self> {
        match number {
            1 => Some(Alarm::NoSpace),
            2 => Some(Alarm::Corrupt),
            _ => None,
        }
    }

    /// etcd's name for it.
    pub fn name(self) -> &'static str {
        match self {
            Alarm::NoSpace => "NOSPACE",
            Alarm::Corrupt => "CORRUPT",
        }
    }
}

/// An alarm and the member that it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AlarmMember {
    /// Which.
    pub alarm: Alarm,
    /// Whose.
    pub member_id: u64,
}

/// As etcd shows it in the errors of a status.
impl std::fmt::Display for AlarmMember {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "memberID:{} alarm:{}", self.member_id, self.alarm.name())
    }
}

/// What becomes of an alarm, with etcd's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum AlarmAction {
    /// It is raised.
    Activate = 1,
    /// It is lowered.
    Deactivate = 2,
}

impl AlarmAction {
    /// By its number.
    pub fn from_u8(number: u8) -> Option<Self> {
        match number {
            1 => Some(AlarmAction::Activate),
            2 => Some(AlarmAction::Deactivate),
            _ => None,
        }
    }
}

/// One member of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Member {
    /// Derived from its peer URLs and the cluster token, as etcd does.
    pub id: u64,
    /// Its `--name`.
    pub name: String,
    /// Where its peers reach it.
    pub peer_urls: Vec<String>,
    /// Where its clients reach it.
    pub client_urls: Vec<String>,
    /// Whether it has no vote.
    pub is_learner: bool,
}

/// Why a watcher was not let in, or has ended without being asked to.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// Its range ends where it begins, or before.
    #[error("watcher range is empty")]
    EmptyRange,
    /// Its stream has a watcher of this id.
    #[error("duplicate watch ID provided on the WatchStream")]
    DuplicateId,
    /// It begins before any history.
    #[error("required revision has been compacted")]
    BeforeHistory,
    /// What it watches cannot be served, or not now.
    #[error(transparent)]
    Error(#[from] Error),
}

/// What a client says on its watch stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchCommand {
    /// Start a watcher.
    Create(WatchCreate),
    /// Stop one; an unknown id is ignored.
    Cancel {
        /// The watcher's id.
        watch_id: i64,
    },
    /// Ask how far the stream is; answered (with id -1) only when every watcher has caught up.
    Progress,
}

impl WatchCommand {
    /// Bytes it occupies while it waits.
    pub fn bytes(&self) -> usize {
        match self {
            WatchCommand::Create(create) => create.key.len() + create.range_end.len(),
            WatchCommand::Cancel { .. } | WatchCommand::Progress => 0,
        }
    }
}

/// A watcher to start. Meanings as in etcd's `WatchCreateRequest`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WatchCreate {
    /// First key; empty means from the start.
    pub key: Bytes,
    /// etcd's `range_end`.
    pub range_end: Bytes,
    /// First revision to deliver; 0 means what comes next.
    pub start_revision: i64,
    /// Empty responses now and then, so that an idle watcher knows how far it is.
    pub progress_notify: bool,
    /// Leave out puts.
    pub no_put: bool,
    /// Leave out deletes.
    pub no_delete: bool,
    /// Add the value before each event.
    pub prev_kv: bool,
    /// Chosen by the client, or 0: the stream picks.
    pub watch_id: i64,
    /// The edge may split a large response.
    pub fragment: bool,
}

/// What the stream answers, with etcd's meanings.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WatchResponse {
    /// Revision of the batch, the creation or the progress.
    pub header: Header,
    /// Which watcher; -1 for the whole stream or a refused creation.
    pub watch_id: i64,
    /// First response of a watcher.
    pub created: bool,
    /// Last response of a watcher.
    pub canceled: bool,
    /// Not 0 when history the watcher needs was compacted.
    pub compact_revision: i64,
    /// Why it was cancelled, unless its client asked for that.
    pub refusal: Option<Refusal>,
    /// The watcher allows the edge to split this response.
    pub fragment: bool,
    /// Changes in revision order; a revision is never split over two responses.
    pub events: Vec<mvcc::Event>,
}

impl WatchResponse {
    /// The first and last answer of a watcher that was not let in.
    pub fn refused(refusal: Refusal) -> Self {
        WatchResponse {
            watch_id: -1,
            created: true,
            canceled: true,
            refusal: Some(refusal),
            ..WatchResponse::default()
        }
    }
}

/// What the etcd edge calls. An engine's keyspace implements it; the edge's tests use a double.
///
/// The futures are `'static`: a request is encoded before the first await. Dropping one abandons the
/// answer, never the operation.
pub trait Backend: Clone + Send + Sync + 'static {
    /// One client stream of watchers.
    type Watch: WatchSession;

    /// The same for one caller: what is asked through it is asked by him. Without it nobody asks.
    #[must_use]
    fn by(&self, caller: Caller) -> Self;

    /// Reads keys; linearizable unless `serializable`.
    fn range(
        &self,
        request: &mvcc::RangeRequest<'_>,
        serializable: bool,
    ) -> impl Future<Output = Result<Reply<mvcc::RangeResponse>, Error>> + Send + 'static;

    /// Writes one key.
    fn put(
        &self,
        request: &mvcc::PutRequest<'_>,
    ) -> impl Future<Output = Result<Reply<mvcc::PutResponse>, Error>> + Send + 'static;

    /// Deletes a range.
    fn delete_range(
        &self,
        request: &mvcc::DeleteRangeRequest<'_>,
    ) -> impl Future<Output = Result<Reply<mvcc::DeleteRangeResponse>, Error>> + Send + 'static;

    /// Compares and executes one branch; `serializable` if it only reads and may be stale.
    fn txn(
        &self,
        request: &mvcc::TxnRequest<'_>,
        serializable: bool,
    ) -> impl Future<Output = Result<Reply<mvcc::TxnResponse>, Error>> + Send + 'static;

    /// Forgets history below `revision`; `physical` waits until it is gone.
    fn compact(
        &self,
        revision: i64,
        physical: bool,
    ) -> impl Future<Output = Result<Reply<()>, Error>> + Send + 'static;

    /// Creates a lease; id 0 lets the server pick.
    fn lease_grant(
        &self,
        id: i64,
        ttl_s: i64,
    ) -> impl Future<Output = Result<Reply<LeaseGranted>, Error>> + Send + 'static;

    /// Deletes a lease and its keys.
    fn lease_revoke(
        &self,
        id: i64,
    ) -> impl Future<Output = Result<Reply<()>, Error>> + Send + 'static;

    /// Renews a lease; answers its time to live, 0 if it does not exist.
    fn lease_keep_alive(
        &self,
        id: i64,
    ) -> impl Future<Output = Result<Reply<i64>, Error>> + Send + 'static;

    /// Remaining time of a lease.
    fn lease_time_to_live(
        &self,
        id: i64,
        keys: bool,
    ) -> impl Future<Output = Result<Reply<LeaseTtl>, Error>> + Send + 'static;

    /// All lease ids.
    fn leases(&self) -> impl Future<Output = Result<Reply<Vec<i64>>, Error>> + Send + 'static;

    /// Hash of the content at `revision` (0: now).
    fn hash_kv(
        &self,
        revision: i64,
    ) -> impl Future<Output = Result<Reply<HashKv>, Error>> + Send + 'static;

    /// This member's view of itself.
    fn status(&self) -> impl Future<Output = Result<Reply<Status>, Error>> + Send + 'static;

    /// The alarms that are raised, and NOSPACE of this member while its own disk has no room.
    fn alarms(
        &self,
    ) -> impl Future<Output = Result<Reply<Vec<AlarmMember>>, Error>> + Send + 'static;

    /// Raises or lowers an alarm; which one that was, if there was one to be lowered.
    fn alarm(
        &self,
        action: AlarmAction,
        alarm: AlarmMember,
    ) -> impl Future<Output = Result<Reply<Vec<AlarmMember>>, Error>> + Send + 'static;

    /// The members; header revision is 0, as etcd's.
    fn members(
        &self,
        linearizable: bool,
    ) -> impl Future<Output = Result<Reply<Vec<Member>>, Error>> + Send + 'static;

    /// Opens a stream of watchers.
    fn watch_session(&self) -> Self::Watch;

    /// A copy of the counters.
    fn metrics(&self) -> Metrics;

    /// How it is: cheap enough to ask with every call.
    fn vitals(&self) -> Vitals {
        self.metrics().vitals()
    }

    /// The other members, as the transport sees them; none where there is no transport.
    fn peers(&self) -> Vec<PeerView> {
        Vec::new()
    }

    /// Which core serves it, and that core's counters; nothing where there is no core.
    fn core_metrics(&self) -> Option<(usize, CoreMetrics)> {
        None
    }
}

/// One client's watchers. Dropping it cancels them.
pub trait WatchSession: Send + 'static {
    /// Hands a command to the shard; the answer comes through [`WatchSession::next`].
    fn command(&mut self, command: WatchCommand);

    /// The next response; `None` when the engine has stopped. Cancel-safe.
    fn next(&mut self) -> impl Future<Output = Option<WatchResponse>> + Send;
}
