//! A node's host: what it does with a Ready, and its two local threads.

use std::collections::VecDeque;

use bytes::Bytes;
use henge_raft::membership::ConfChangeV2;
use henge_raft::{
    Entry, EntryKind, HardState, LOCAL_APPEND_THREAD, MemoryStorage, Message, RawNode, Snapshot,
    Storage, is_local_target,
};

use crate::sim::Sim;

/// A node, or what is left of it while it is down.
pub struct Host {
    /// `None` while it is down.
    pub node: Option<RawNode<MemoryStorage>>,
    /// What a restart finds. The log is in the node's storage, which only has what is durable.
    pub disk: Disk,
    pub append_work: VecDeque<Message>,
    pub apply_work: VecDeque<Message>,
    /// What the two threads told the node that it has not heard yet. Their answers to others do not wait
    /// for that: they go straight to the wire.
    pub inbox: VecDeque<Message>,
    pub applied: u64,
    /// A snapshot can overtake entries that wait for the apply thread.
    pub applied_by_snapshot: u64,
}

#[derive(Default)]
pub struct Disk {
    pub log: Option<MemoryStorage>,
    /// May lag behind what storage was told: a commit index that nobody waits for is not synced.
    pub hard_state: HardState,
    pub hard_state_unsynced: HardState,
}

impl Sim {
    pub fn handle_ready(&mut self, id: u64) {
        let Some(node) = self.node(id).filter(|node| node.has_ready()) else {
            return;
        };
        let ready = node.ready();
        for state in &ready.read_states {
            let read = state.context.as_ref().try_into().map(u64::from_le_bytes);
            self.rules
                .check_read(read.expect("we only ask with numbers"), state.index);
        }
        if !self.options.is_async {
            let is_lazy = !ready.must_sync && self.chance(500);
            self.store(
                id,
                &ready.entries,
                ready.hard_state,
                ready.snapshot.as_ref(),
                is_lazy,
            );
            self.apply(id, &ready.committed_entries);
            if let Some(node) = self.node(id) {
                node.advance();
            }
        }
        for message in ready.messages {
            match message.to {
                to if !is_local_target(to) => self.put_on_wire(message),
                LOCAL_APPEND_THREAD => self.host(id).append_work.push_back(message),
                _ => self.host(id).apply_work.push_back(message),
            }
        }
        if let Some(node) = self.hosts.get(&id).and_then(|host| host.node.as_ref()) {
            self.rules.check_node(node);
        }
    }

    /// Lets the next node from `id` on work that has something to do.
    pub fn work_somewhere(
        &mut self,
        id: u64,
        work: fn(&Host) -> &VecDeque<Message>,
        handle: fn(&mut Self, u64),
    ) {
        let paused = self.paused;
        let busy = |(id, host): &(&u64, &Host)| **id != paused && !work(host).is_empty();
        let next = self
            .hosts
            .range(id..)
            .chain(self.hosts.range(..id))
            .find(busy);
        if let Some((&next, _)) = next {
            handle(self, next);
        }
    }

    pub fn work_append(&mut self, id: u64) {
        let is_slow = id == self.options.slow_disk && !self.chance(self.options.slow_chance);
        if is_slow || id == self.paused {
            return;
        }
        let Some(work) = self.host(id).append_work.pop_front() else {
            return;
        };
        let is_lazy = work.responses.is_empty() && self.chance(500);
        self.store(
            id,
            &work.entries,
            work.hard_state(),
            work.snapshot.as_deref(),
            is_lazy,
        );
        self.respond(id, work.responses);
    }

    pub fn work_apply(&mut self, id: u64) {
        if id == self.paused {
            return;
        }
        let Some(work) = self.host(id).apply_work.pop_front() else {
            return;
        };
        self.apply(id, &work.entries);
        self.respond(id, work.responses);
    }

    pub fn respond(&mut self, id: u64, responses: Vec<Message>) {
        for response in responses {
            match response.to == id {
                true => self.host(id).inbox.push_back(response),
                false => self.put_on_wire(response),
            }
        }
        if id != self.options.slow_inbox {
            self.work_inbox(id);
        }
    }

    /// The node hears what its threads have to say, in order.
    pub fn work_inbox(&mut self, id: u64) {
        if id == self.paused {
            return;
        }
        let told = std::mem::take(&mut self.host(id).inbox);
        if let Some(node) = self.node(id) {
            for response in told {
                let _ = node.step(response);
            }
        }
        self.handle_ready(id);
    }

    pub fn store(
        &mut self,
        id: u64,
        entries: &[Entry],
        state: HardState,
        snapshot: Option<&Snapshot>,
        is_lazy: bool,
    ) {
        let host = self.host(id);
        let Some(node) = host.node.as_mut() else {
            return;
        };
        let storage = node.storage_mut();
        if let Some(snapshot) = snapshot {
            storage
                .apply_snapshot(snapshot.clone())
                .expect("raft only goes forward");
            host.applied = snapshot.meta.index;
            host.applied_by_snapshot = snapshot.meta.index;
        }
        storage.append(entries).expect("raft leaves no gaps");
        if !state.is_empty() {
            host.disk.hard_state_unsynced = state;
        }
        if !is_lazy {
            // Whoever is answered now relies on all that came before, too.
            host.disk.hard_state = host.disk.hard_state_unsynced;
        }
        if let Some(first) = entries.first() {
            let before = storage.term(first.index - 1).unwrap_or(0);
            self.rules.check_stored(entries, before);
        }
    }

    pub fn apply(&mut self, id: u64, entries: &[Entry]) {
        for entry in entries {
            let host = self.host(id);
            if entry.index <= host.applied_by_snapshot {
                continue;
            }
            let before = std::mem::replace(&mut host.applied, entry.index);
            self.rules.check_applied(id, entry, before);
            if entry.kind == EntryKind::Normal {
                continue;
            }
            let change = ConfChangeV2::from_entry(entry.kind, &entry.data).expect("we encoded it");
            let Some(node) = self.node(id) else { continue };
            let _ = node.apply_conf_change(&change);
            let state = node.conf_state();
            // So that a new member's snapshot names it.
            let _ =
                node.storage_mut()
                    .create_snapshot(entry.index, Some(state.clone()), Bytes::new());
            self.rules.check_configuration(entry.index, &state);
            self.changes += 1;
            // The moment in which members disagree on who decides.
            let leads = self.leader().is_some_and(|leader| leader.id() == id);
            if leads && self.chance(400) {
                self.cut_around_leader();
            }
        }
    }
}
