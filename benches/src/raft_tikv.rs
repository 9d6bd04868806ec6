//! tikv's `raft` crate on the course of `raft_race`.
//!
//! Promises: driven as its documentation says (`ready`, `advance`, the light ready, `advance_apply`),
//! in the form that is fastest for it: a batch is one proposal message with many entries, and appends
//! are batched.
//! Must never know: how it is measured.
//! Tested by `--bin raft`, which refuses to print a figure for work that was not done.

use bytes::Bytes;
use tikv_raft::eraftpb::{Entry, Message, MessageType};
use tikv_raft::storage::MemStorage;
use tikv_raft::{Config, RawNode, StateRole};

use crate::raft_race::{Applied, MEMBERS, Member, Settings};

/// A member.
pub struct Tikv {
    node: RawNode<MemStorage>,
    /// The same storage: a handle.
    storage: MemStorage,
    applied: Applied,
}

impl Member for Tikv {
    type Message = Message;
    const NAME: &'static str = "tikv raft 0.7";

    fn start(id: u64, settings: Settings) -> Tikv {
        let voters: Vec<u64> = (1..=MEMBERS).collect();
        let storage = MemStorage::new_with_conf_state((voters, vec![]));
        let config = Config {
            id,
            heartbeat_tick: settings.heartbeat_tick as usize,
            election_tick: settings.election_tick as usize,
            max_inflight_msgs: settings.inflight,
            max_size_per_msg: 1 << 20,
            check_quorum: true,
            pre_vote: true,
            batch_append: true,
            ..Config::default()
        };
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        Tikv {
            node: RawNode::new(&config, storage.clone(), &logger).expect("a valid configuration"),
            storage,
            applied: Applied::default(),
        }
    }

    fn campaign(&mut self) {
        self.node.campaign().expect("a healthy group");
    }

    fn tick(&mut self) -> bool {
        self.node.tick() && self.node.has_ready()
    }

    fn propose(&mut self, payloads: &[Bytes]) {
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgPropose);
        message.from = self.node.raft.id;
        let entries = payloads.iter().map(|payload| Entry {
            data: payload.clone(),
            ..Entry::default()
        });
        message.entries = entries.collect::<Vec<_>>().into();
        self.node.step(message).expect("a leader takes proposals");
    }

    fn step(&mut self, message: Message) {
        self.node.step(message).expect("members in good faith");
    }

    fn work(&mut self, out: &mut Vec<(u64, Message)>) {
        while self.node.has_ready() {
            let mut ready = self.node.ready();
            out.extend(ready.take_messages().into_iter().map(|it| (it.to, it)));
            self.apply(&ready.take_committed_entries());
            if !ready.entries().is_empty() {
                self.storage.wl().append(ready.entries()).expect("no gaps");
            }
            if let Some(state) = ready.hs() {
                self.storage.wl().set_hardstate(state.clone());
            }
            let waited = ready.take_persisted_messages();
            out.extend(waited.into_iter().map(|it| (it.to, it)));
            let mut light = self.node.advance(ready);
            if let Some(commit) = light.commit_index() {
                self.storage.wl().mut_hard_state().set_commit(commit);
            }
            out.extend(light.take_messages().into_iter().map(|it| (it.to, it)));
            self.apply(&light.take_committed_entries());
            self.node.advance_apply();
        }
    }

    fn leads(&self) -> bool {
        self.node.raft.state == StateRole::Leader
    }

    fn applied(&self) -> Applied {
        self.applied
    }

    fn compact(&mut self, index: u64) {
        self.storage
            .wl()
            .compact(index)
            .expect("applied everywhere");
    }
}

impl Tikv {
    fn apply(&mut self, entries: &[Entry]) {
        for entry in entries {
            self.applied.add(entry.index, &entry.data);
        }
    }
}
