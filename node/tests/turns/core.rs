//! A core on a simulated disk, turned by hand: no thread, no clock, the same from the same seed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::task::{Context, Waker};

use henge::api::{Error, Reply};
use henge::wal::disk::sim::SimHandle;
use henge::wal::{Identity, Options, Wal};
use henge_core::inbox::{Inbox, Input};
use henge_core::machine::Response;
use henge_core::pack;
use henge_core::recover::Recovery;
use henge_core::shard::request::{Answer, AnswerReceiver, Request, RequestKind};
use henge_core::shard::{Shard, ShardConfig};
use henge_core::{Core, CoreConfig, Now};
use henge_raft::{ConfState, Message, MessageKind};

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
    micros: u64,
    /// Work of the costliest turn since it was last asked.
    pub most_nanos: u64,
    /// Work of all turns.
    pub nanos: u64,
    pub turns: usize,
}

impl Bench {
    pub fn new(seed: u64, request_bytes_max: usize) -> Self {
        let identity = Identity {
            cluster_id: 7,
            member_id: MEMBER,
        };
        let voters = vec![MEMBER];
        let conf_state = ConfState {
            voters: voters.clone(),
            ..ConfState::default()
        };
        let mut recovery = Recovery::new(conf_state, 0);
        let disk = Box::new(SimHandle::new(seed, 2).disk());
        let options = Options {
            segment_bytes: 16 << 20,
            ..Options::default()
        };
        let (wal, _) = Wal::open(
            Path::new("core-0"),
            &options,
            &identity,
            disk,
            &mut recovery,
        )
        .expect("an empty disk");
        let mut found: BTreeMap<_, _> = recovery.finish().expect("nothing");
        let shards = [BUSY, QUIET].map(|group| {
            let config = ShardConfig {
                group,
                cluster_id: 7,
                member_id: MEMBER,
                voters: voters.clone(),
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
            let recovered = found.remove(&group).unwrap_or_default();
            Shard::start(config, recovered, 0).expect("valid")
        });
        let inbox = Arc::new(Inbox::new());
        let config = CoreConfig {
            inbox: inbox.clone(),
            budgets: Vec::new(),
            checkpoint_dir: PathBuf::new(),
            checkpoint_bytes: u64::MAX,
            metrics: vec![Arc::default(), Arc::default()],
            core_metrics: Arc::default(),
            stopwatch: Default::default(),
        };
        Bench {
            core: Core::new(config, shards.into(), wal),
            inbox,
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
        let (answer, receiver) = Answer::channel();
        let bytes = kind.bytes();
        let taken = self.inbox.request(group, Request { kind, answer }, bytes);
        taken.map_err(|(error, _)| error).expect("room");
        receiver
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
