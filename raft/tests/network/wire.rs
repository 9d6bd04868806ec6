//! The network: what is on it arrives late, twice, in any order, or never.

use henge_raft::{MemoryStorage, Message, MessageKind, NONE, RawNode, SnapshotStatus};

use crate::sim::Sim;

/// Messages on the wire; more are lost, as they would be.
const WIRE_MAX: usize = 200;

impl Sim {
    pub fn deliver_any(&mut self) {
        if self.wire.is_empty() {
            return;
        }
        let at = self.below(self.wire.len() as u64) as usize;
        let (from, to) = (self.wire[at].from, self.wire[at].to);
        if to == self.paused {
            return;
        }
        let is_cut = self.is_cut(from, to);
        // Most of what is on the wire across a cut arrives when it is healed; meanwhile, time passes.
        if is_cut && !self.chance(50) {
            if self.chance(30) {
                self.tick_most();
            }
            return;
        }
        let message = match self.chance(self.options.double) {
            true => self.wire[at].clone(),
            false => self.wire.swap_remove(at),
        };
        if is_cut || self.chance(self.options.loss) {
            return self.lose(&message);
        }
        self.deliver(message);
    }

    /// Delivers a message that does not cross the cut, if there is one.
    pub fn deliver_within(&mut self) {
        let near: Vec<usize> = (0..self.wire.len())
            .filter(|&at| {
                let (from, to) = (self.wire[at].from, self.wire[at].to);
                !self.is_cut(from, to) && to != self.paused
            })
            .collect();
        if !near.is_empty() {
            let at = near[self.below(near.len() as u64) as usize];
            let message = self.wire.swap_remove(at);
            self.deliver(message);
        }
    }

    pub fn deliver(&mut self, message: Message) {
        let (to, from, kind) = (message.to, message.from, message.kind);
        self.note(message.kind as u64 + message.to * 31 + message.index);
        if let Some(node) = self.node(to) {
            // Old members, forgotten by the rest, may say things that are refused.
            let _ = node.step(message);
        } else {
            return self.lose(&message);
        }
        if kind == MessageKind::Snap
            && let Some(sender) = self.transport_of(from)
        {
            sender.report_snapshot(to, SnapshotStatus::Finish);
        }
        self.handle_ready(to);
    }

    /// Everything that is under way is lost.
    pub fn lose_wire(&mut self) {
        let lost = std::mem::take(&mut self.wire);
        lost.iter().for_each(|message| self.lose(message));
    }

    /// The transport reports what it could not bring.
    pub fn lose(&mut self, message: &Message) {
        let (kind, to) = (message.kind, message.to);
        let report = self.chance(500);
        if let Some(node) = self.transport_of(message.from) {
            if kind == MessageKind::Snap {
                node.report_snapshot(to, SnapshotStatus::Failure);
            } else if report {
                node.report_unreachable(to);
            }
        }
    }

    /// Whom a transport reports to: also a paused node, which finds the report when it goes on. (Without
    /// it, a follower whose snapshot got lost gets nothing more.)
    fn transport_of(&mut self, id: u64) -> Option<&mut RawNode<MemoryStorage>> {
        self.hosts.get_mut(&id)?.node.as_mut()
    }

    pub fn put_on_wire(&mut self, message: Message) {
        if message.to == NONE || self.wire.len() >= WIRE_MAX {
            return self.lose(&message);
        }
        self.wire.push(message);
    }
}
