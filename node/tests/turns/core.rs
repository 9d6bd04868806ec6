//! A core on a simulated disk, turned by hand: no thread, no clock, the same from the same seed.

use std::sync::Arc;
use std::task::{Context, Waker};

use henge::api::{Error, Reply};
use henge::wal::disk::sim::SimHandle;
use henge::wal::{Identity, Options};
use henge_core::door::ShardDoor;
use henge_core::inbox::{Inbox, Input};
use henge_core::machine::Response;
use henge_core::open::{self, GroupOpening, Opening};
use henge_core::pack;
use henge_core::shard::request::{AnswerReceiver, RequestKind};
use henge_core::shard::{Shard, ShardConfig};
use henge_core::{Core, Now};
use henge_raft::{Message, MessageKind};

const MEMBER: u64 = 0x11;
/// A member that is only ever heard of.
const OTHER: u64 = 0x22;
/// The shard that is asked for anything.
pub const BUSY: u64 = 1;
/// The one whose heartbeat has to go on.
pub const QUIET: u64 = 2;
/// World time of a turn.
const TURN_MICROS: u64 = 200;
/// Turns after which something that is awaited counts as lost.
const TURNS_MAX: usize = 200_000;

pub struct Bench {
    pub core: Core,
    pub inbox: Arc<Inbox>,
    doors: [ShardDoor; 2],
    micros: u64,
    /// Work of the costliest turn since it was last asked.
    pub most_nanos: u64,
    /// Work of all turns.
    pub nanos: u64,
    pub turns: usize,
}

impl Bench {
    pub fn new(seed: u64, request_bytes_max: usize) -> Self {
        let config = |group| ShardConfig {
            group,
            cluster_id: 7,
            member_id: MEMBER,
            voters: vec![MEMBER],
            members: Default::default(),
            election_ticks: 10,
            tick_ms: 100,
            request_timeout_ms: 60_000,
            request_bytes_max,
            pending_bytes_max: 64 << 20,
            auto_compaction: Default::default(),
            apply_gap_max: 5_000,
            quota_bytes: 0,
            progress_notify_ms: 500,
            checkpoint_bytes: u64::MAX,
            log_bytes_replayed: 0,
            seed,
            first_request_id: 1,
        };
        let group = |group| GroupOpening {
            config: config(group),
            door: ShardDoor::new(64 << 20),
        };
        let groups = [BUSY, QUIET].map(group);
        let doors = groups.each_ref().map(|group| group.door.clone());
        let inbox = Arc::new(Inbox::new());
        let opening = Opening {
            dir: "core-0".into(),
            wal: Options {
                segment_bytes: 16 << 20,
                ..Options::default()
            },
            identity: Identity {
                cluster_id: 7,
                member_id: MEMBER,
            },
            cores: 1,
            holds_all: false,
            checkpoint_bytes: u64::MAX,
            groups: groups.into(),
            inbox: inbox.clone(),
            metrics: Arc::default(),
            vitals: Arc::default(),
            stopwatch: Default::default(),
        };
        let disk = Box::new(SimHandle::new(seed, 2).disk());
        Bench {
            core: open::open(opening, disk, 0, &mut ()).expect("an empty disk"),
            inbox,
            doors,
            micros: 0,
            most_nanos: 0,
            nanos: 0,
            turns: 0,
        }
    }

    pub fn turn(&mut self) {
        self.micros += TURN_MICROS;
        self.turns += 1;
        let micros = self.micros;
        let mut cx = Context::from_waker(Waker::noop());
        self.core.turn(Now { micros }, &mut cx, &mut ());
        let nanos = self.core.work_nanos();
        self.most_nanos = self.most_nanos.max(nanos);
        self.nanos += nanos;
    }

    /// Another leader of a later term is heard of once, and never again: the busy shard leads no more, and
    /// again in a second or two.
    pub fn depose(&mut self) {
        let term = self.done(RequestKind::Status).expect("answered");
        let message = Message {
            kind: MessageKind::Heartbeat,
            from: OTHER,
            to: MEMBER,
            term: term.header.raft_term + 1,
            ..Message::default()
        };
        let inbox = &self.inbox;
        pack::pack([(BUSY, message)].iter(), |frame| {
            inbox.push(Input::Peer { from: OTHER, frame });
        });
    }

    pub fn ask(&mut self, group: u64, kind: RequestKind) -> AnswerReceiver {
        let door = &self.doors[usize::from(group == QUIET)];
        door.ask(&self.inbox, group, kind).expect("room")
    }

    pub fn shard(&self, group: u64) -> &Shard {
        let mut shards = self.core.shards();
        shards
            .find(|shard| shard.group() == group)
            .expect("it has one")
    }

    /// Turns until there is an answer.
    pub fn wait(&mut self, mut receiver: AnswerReceiver) -> Result<Reply<Response>, Error> {
        for _ in 0..TURNS_MAX {
            self.turn();
            if let Some(answer) = receiver.try_recv() {
                return answer;
            }
        }
        panic!("no answer in {TURNS_MAX} turns");
    }

    pub fn done(&mut self, kind: RequestKind) -> Result<Reply<Response>, Error> {
        let receiver = self.ask(BUSY, kind);
        self.wait(receiver)
    }
}
