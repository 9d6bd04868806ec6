//! `henge-raft` on the course of `raft_race`, in its synchronous and its asynchronous form.
//!
//! Promises: does what the documentation of `Ready` says, and no more.
//! Must never know: how it is measured.
//! Tested by `--bin raft`, which refuses to print a figure for work that was not done.

use std::collections::VecDeque;

use bytes::Bytes;

use henge_raft::{
    Config, LOCAL_APPEND_THREAD, LOCAL_APPLY_THREAD, MemoryStorage, Message, RawNode, RoleKind,
};

use crate::raft_race::{Applied, MEMBERS, Member, Settings};

/// A member in synchronous mode.
pub type Synchronous = Henge<false>;
/// A member in asynchronous mode, whose two local threads answer within the same turn.
pub type Asynchronous = Henge<true>;

/// A member, with asynchronous storage writes or without.
pub struct Henge<const ASYNC: bool> {
    node: RawNode<MemoryStorage>,
    applied: Applied,
    /// Messages to and from the local threads. Reused.
    local: VecDeque<Message>,
}

impl<const ASYNC: bool> Member for Henge<ASYNC> {
    type Message = Message;
    const NAME: &'static str = if ASYNC {
        "henge-raft, asynchronous writes"
    } else {
        "henge-raft"
    };

    fn start(id: u64, settings: Settings) -> Self {
        let voters: Vec<u64> = (1..=MEMBERS).collect();
        let config = Config {
            heartbeat_tick: settings.heartbeat_tick,
            election_tick: settings.election_tick,
            max_inflight_msgs: settings.inflight,
            async_storage_writes: ASYNC,
            ..Config::new(id)
        };
        let storage = MemoryStorage::with_voters(&voters);
        Henge {
            node: RawNode::new(config, storage).expect("a valid configuration"),
            applied: Applied::default(),
            local: VecDeque::new(),
        }
    }

    fn campaign(&mut self) {
        self.node.campaign().expect("a healthy group");
    }

    fn tick(&mut self) -> bool {
        self.node.tick();
        self.node.has_ready()
    }

    fn propose(&mut self, payloads: &[Bytes]) {
        self.node
            .propose_batch(payloads.iter().cloned())
            .expect("a leader takes proposals");
    }

    fn step(&mut self, message: Message) {
        self.node.step(message).expect("members in good faith");
    }

    fn work(&mut self, out: &mut Vec<(u64, Message)>) {
        while self.node.has_ready() {
            if ASYNC {
                self.local.extend(self.node.ready().messages);
                while let Some(message) = self.local.pop_front() {
                    self.handle(message, out);
                }
            } else {
                self.persist_and_apply(out);
            }
        }
    }

    fn leads(&self) -> bool {
        self.node.role() == RoleKind::Leader
    }

    fn applied(&self) -> Applied {
        self.applied
    }

    fn compact(&mut self, index: u64) {
        let storage = self.node.storage_mut();
        storage.compact(index).expect("applied everywhere");
    }
}

impl<const ASYNC: bool> Henge<ASYNC> {
    fn persist_and_apply(&mut self, out: &mut Vec<(u64, Message)>) {
        let ready = self.node.ready();
        let storage = self.node.storage_mut();
        storage.append(&ready.entries).expect("no gaps");
        storage.set_hard_state(ready.hard_state);
        for entry in &ready.committed_entries {
            self.applied.add(entry.index, &entry.data);
        }
        self.node.advance();
        out.extend(ready.messages.into_iter().map(|it| (it.to, it)));
    }

    fn handle(&mut self, message: Message, out: &mut Vec<(u64, Message)>) {
        match message.to {
            LOCAL_APPEND_THREAD => {
                let storage = self.node.storage_mut();
                storage.append(&message.entries).expect("no gaps");
                storage.set_hard_state(message.hard_state());
            }
            LOCAL_APPLY_THREAD => {
                for entry in &message.entries {
                    self.applied.add(entry.index, &entry.data);
                }
            }
            to if to == self.node.id() => {
                self.node.step(message).expect("our own answers");
                return;
            }
            to => return out.push((to, message)),
        }
        self.local.extend(message.responses);
    }
}
