//! One node: the real core over its disk, started, driven, crashed and started again.
//!
//! Everything above the disk seam and behind the inbox is the product's own code: `Wal::open` with
//! `Recovery`, `Shard::start`, `Core::turn`. This file is to the simulator what `henge::host` is to a
//! real thread.

use std::sync::{Arc, PoisonError};
use std::task::{Context, Waker};

use bytes::Bytes;
use henge::api::{Error, Metrics, WatchResponse};
use henge_core::door::ShardDoor;
use henge_core::inbox::{Inbox, Input};
use henge_core::open::{self, GroupOpening, Meddle, OpenCoreError, Opening};
use henge_core::shard::log::{Position, TailLog};
use henge_core::shard::recover::{RecoveredGroup, Recovery};
use henge_core::shard::request::{AnswerReceiver, RequestKind};
use henge_core::shard::{Shard, ShardConfig};
use henge_core::stream::WatchStream;
use henge_core::{Core, Lane, Next, Now, Peers};
use henge_raft::Storage as _;
use henge_wal::checkpoint::CheckpointError;
use henge_wal::{Identity, OpenError, Options, Record, Replay as _};

use super::drive::Drive;
use super::flag::Flag;
use super::planted::Planted;

/// The one group of the simulated engine.
pub const GROUP: u64 = 1;
/// Heartbeat interval; ten of them without a leader start an election.
pub const TICK_MS: u64 = 10;
/// How long a request may wait in a node.
pub const REQUEST_TIMEOUT_MS: u64 = 1_000;
/// Request ids start from a wall clock, as in the real host; the world began then.
const WALL_CLOCK_MS: u64 = 1_700_000_000_000;

/// A node, running or not.
pub struct Host {
    /// Its place among the nodes.
    pub at: usize,
    nodes: usize,
    /// Its disk.
    pub drive: Drive,
    /// Its process, if it runs.
    pub process: Option<Process>,
    segment_bytes: u64,
    checkpoint_bytes: u64,
    /// Between two progress notes of a watcher.
    progress_ms: u64,
    planted: Option<Planted>,
}

/// A running process of a node.
pub struct Process {
    core: Core,
    inbox: Arc<Inbox>,
    door: ShardDoor,
    woken: Arc<Flag>,
    /// World time minus this process's time.
    offset_us: u64,
    next_session: u64,
}

/// What a turn left behind.
pub struct Turned {
    /// When the node wants its next turn, in world time; `None`: it has ended.
    pub next_us: Option<u64>,
    /// Frames for other nodes.
    pub frames: Vec<(usize, Bytes)>,
}

/// Why a process did not start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StartError {
    /// The disk refused an operation.
    Disk(String),
    /// What is on the disk was refused.
    Refused(String),
}

impl From<OpenCoreError> for StartError {
    fn from(error: OpenCoreError) -> Self {
        match error {
            OpenCoreError::Wal(OpenError::Io { .. })
            | OpenCoreError::CheckpointFile(CheckpointError::Io { .. }) => {
                StartError::Disk(error.to_string())
            }
            _ => StartError::Refused(error.to_string()),
        }
    }
}

/// Member ids are not node numbers, so that a mix-up shows.
fn member(at: usize) -> u64 {
    at as u64 + 0x11
}

impl Host {
    /// A node that has never run.
    pub fn new(
        at: usize,
        nodes: usize,
        drive: Drive,
        (segment_bytes, checkpoint_bytes): (u64, u64),
        progress_ms: u64,
        planted: Option<Planted>,
    ) -> Self {
        Host {
            at,
            nodes,
            drive,
            process: None,
            segment_bytes,
            checkpoint_bytes,
            progress_ms,
            planted,
        }
    }

    /// Starts a process: recovers the log and builds the core.
    pub fn start(&mut self, now_us: u64, seed: u64) -> Result<(), StartError> {
        let voters: Vec<u64> = (0..self.nodes).map(member).collect();
        let mut config = shard_config(GROUP, member(self.at), voters, now_us, seed);
        config.progress_notify_ms = self.progress_ms;
        let door = ShardDoor::new(config.pending_bytes_max);
        let inbox = Arc::new(Inbox::new());
        let opening = Opening {
            dir: "core-0".into(),
            wal: Options {
                segment_bytes: self.segment_bytes,
                ..Options::default()
            },
            identity: Identity {
                cluster_id: 7,
                member_id: member(self.at),
            },
            cores: 1,
            holds_all: false,
            checkpoint_bytes: self.checkpoint_bytes,
            groups: vec![GroupOpening {
                config,
                door: door.clone(),
            }],
            inbox: inbox.clone(),
            metrics: Arc::default(),
            vitals: Arc::default(),
            // Time stands still within a turn.
            stopwatch: Default::default(),
        };
        let mut spoiled = Spoiled {
            planted: self.planted,
            seed,
            seen: 0,
        };
        let core = open::open(opening, self.drive.disk(), 0, &mut spoiled)?;
        self.process = Some(Process {
            core,
            inbox,
            door,
            woken: Flag::raised(),
            offset_us: now_us,
            next_session: 1,
        });
        Ok(())
    }

    /// Kills the process and tears what it was writing.
    pub fn crash(&mut self) {
        // The machine stops before the process's memory goes: nothing is written on the way out.
        self.drive.crash();
        self.process = None;
    }
}

/// A group of a member, with this world's times.
pub(super) fn shard_config(
    group: u64,
    member_id: u64,
    voters: Vec<u64>,
    now_us: u64,
    seed: u64,
) -> ShardConfig {
    ShardConfig {
        group,
        cluster_id: 7,
        member_id,
        voters,
        members: Default::default(),
        election_ticks: 10,
        tick_ms: TICK_MS,
        request_timeout_ms: REQUEST_TIMEOUT_MS,
        request_bytes_max: 3 << 19,
        pending_bytes_max: 64 << 20,
        auto_compaction: Default::default(),
        apply_gap_max: 5_000,
        quota_bytes: 0,
        progress_notify_ms: 100,
        checkpoint_bytes: u64::MAX,
        log_bytes_replayed: 0,
        seed,
        first_request_id: (WALL_CLOCK_MS + now_us / 1_000) << 20,
    }
}

impl Process {
    /// One turn of the core at a world time.
    pub fn turn(&mut self, now_us: u64) -> Turned {
        let waker = self.woken.lower();
        let mut cx = Context::from_waker(&waker);
        let mut outbox = Outbox(Vec::new());
        let now = Now {
            micros: now_us.saturating_sub(self.offset_us),
        };
        let next = self.core.turn(now, &mut cx, &mut outbox);
        let next_us = match next {
            Next::Ended => None,
            Next::Again => Some(now_us),
            Next::At(millis) => Some(
                millis
                    .saturating_mul(1_000)
                    .saturating_add(self.offset_us)
                    .max(now_us),
            ),
        };
        Turned {
            next_us,
            frames: outbox.0,
        }
    }

    /// Whether something arrived since its last turn.
    pub fn is_woken(&self) -> bool {
        self.woken.is_raised()
    }

    /// Its clock goes ahead.
    pub fn jump(&mut self, by_us: u64) {
        self.offset_us = self.offset_us.saturating_sub(by_us);
    }

    /// Hands a request in.
    pub fn ask(&self, kind: RequestKind) -> Result<AnswerReceiver, Error> {
        self.door.ask(&self.inbox, GROUP, kind)
    }

    /// Hands a frame in.
    pub fn deliver(&self, from: usize, frame: Bytes) {
        self.inbox.push(Input::Peer {
            from: member(from),
            frame,
        });
    }

    /// Tells it that a peer's connection broke.
    pub fn lose(&self, peer: usize) {
        self.inbox.push(Input::PeerLost { peer: member(peer) });
    }

    /// Asks it to let another node lead.
    pub fn hand_over(&self) {
        self.inbox.push(Input::HandOver);
    }

    /// Asks it to stop in good order.
    pub fn stop(&self) {
        self.inbox.push(Input::Stop);
    }

    /// Opens a stream for watchers.
    pub fn stream(&mut self) -> WatchStream {
        let stream = WatchStream::open(self.next_session, GROUP, self.inbox.clone());
        self.next_session += 1;
        stream
    }

    /// Its counters as of its last turn.
    pub fn metrics(&self) -> Metrics {
        self.door
            .metrics
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Its term, if it thinks it leads.
    pub fn leads(&self) -> Option<u64> {
        let shard = self.core.shards().next()?;
        shard.is_leader().then(|| shard.header().raft_term)
    }

    /// Whether its group stopped serving.
    pub fn is_corrupt(&self) -> bool {
        self.core.shards().any(Shard::is_corrupt)
    }

    /// The revision it has applied.
    pub fn revision(&self) -> i64 {
        self.core
            .shards()
            .next()
            .map_or(0, |shard| shard.header().revision)
    }
}

/// The next response of a stream, if there is one.
pub fn next_response(stream: &mut WatchStream) -> Option<WatchResponse> {
    let mut cx = Context::from_waker(Waker::noop());
    match stream.poll_next(&mut cx) {
        std::task::Poll::Ready(response) => response,
        std::task::Poll::Pending => None,
    }
}

struct Outbox(Vec<(usize, Bytes)>);

impl Peers for Outbox {
    fn send(&mut self, to: u64, frame: Bytes, _: Lane) -> bool {
        if let Ok(at) = usize::try_from(to - member(0)) {
            self.0.push((at, frame));
        }
        true
    }
}

/// What recovery reads, with the planted bugs that a recovery can have.
struct Spoiled {
    planted: Option<Planted>,
    seed: u64,
    seen: u64,
}

impl Meddle for Spoiled {
    fn record(&mut self, record: Record<'_>, to: &mut Recovery) {
        self.seen += 1;
        match record {
            Record::HardState {
                group,
                term,
                commit,
                ..
            } if self.planted == Some(Planted::LostVote) => {
                to.record(Record::HardState {
                    group,
                    term,
                    vote: 0,
                    commit,
                });
            }
            Record::Entry {
                group,
                term,
                index,
                kind,
                payload,
            } if self.planted == Some(Planted::RottenReplica)
                && self.seed.is_multiple_of(3)
                && self.seen.is_multiple_of(16)
                && payload.ends_with(b".") =>
            {
                let mut payload = payload.to_vec();
                if let Some(last) = payload.last_mut() {
                    *last ^= 1;
                }
                to.record(Record::Entry {
                    group,
                    term,
                    index,
                    kind,
                    payload: &payload,
                });
            }
            record => to.record(record),
        }
    }

    fn recovered(&mut self, _: u64, found: &mut RecoveredGroup) {
        if let (Some(Planted::LostTail), Some(log)) = (self.planted, &found.log) {
            let Ok((_, conf_state)) = log.initial_state() else {
                return;
            };
            let machine = &found.machine;
            let applied = Position {
                index: machine.applied_index,
                term: machine.applied_term,
            };
            found.log = Some(TailLog::new(conf_state, applied));
        }
    }
}
