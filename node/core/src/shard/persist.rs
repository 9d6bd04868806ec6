//! What raft has ready: to the log, to the peers, to the store.
//!
//! Raft runs with async storage writes (etcd-v3 facts §6.6): an append message names the entries and
//! hard state to persist and carries the responses that may be delivered only once they are durable.
//! The shard stages the first into the core's next log batch and parks the second behind that batch's
//! LSN. A message outside an append may leave at once: that is how the leader replicates in parallel
//! with its own disk write.
//! Must never know: other shards of the batch, how a disk writes it.

use henge_raft::{EntryKind, LOCAL_APPEND_THREAD, LOCAL_APPLY_THREAD, Message, MessageKind};
use henge_wal::{Lsn, Wal};

use super::Shard;
use crate::machine::command;
use crate::seats::Slot;
use crate::work::SHARE_NANOS;

/// Rounds of Ready one shard may take before the other shards of its core have theirs.
const READY_ROUNDS_MAX: usize = 8;
/// Bytes staged for the log, by all shards of a core, beyond which nothing more is proposed: what the log
/// makes one batch of. More would only lie there, and come back as one turn that applies all of it (with 64
/// MiB of requests waiting, turns of a hundred thousand entries were seen).
const STAGED_BYTES_MAX: usize = 1 << 20;

/// Responses that wait for a log batch.
#[derive(Debug)]
pub struct Parked {
    /// The batch that must be durable first.
    pub lsn: Lsn,
    /// The shard's place.
    pub shard: Slot,
    /// What to deliver then: to this shard's raft, or to peers.
    pub responses: Vec<Message>,
}

/// Where a shard's outputs of a turn go.
pub struct Outputs<'a> {
    /// The core's log.
    pub wal: &'a mut Wal,
    /// Responses that wait for durability, in LSN order.
    pub parked: &'a mut std::collections::VecDeque<Parked>,
    /// Messages to peers, with the shard's group.
    pub messages: &'a mut Vec<(u64, Message)>,
    /// The last LSN that was handed to the log.
    pub last_lsn: &'a mut Lsn,
    /// The last LSN that is durable.
    pub durable_lsn: Lsn,
    /// Bytes of the last segment that are kept for votes and checkpoints.
    pub log_reserve: u64,
    /// Milliseconds of this turn's clock.
    pub now_ms: u64,
    /// Measures how long applying takes.
    pub stopwatch: &'a crate::gauges::Stopwatch,
    /// Microseconds that it took in this turn.
    pub apply_micros: u64,
    /// Entries applied in this turn.
    pub applied: usize,
    /// Shards that have more to propose than the log takes now: to be looked at when it has written
    /// something.
    pub held_back: &'a mut Vec<Slot>,
}

/// What a message brings that the log could never take: staged, it would end the group. (A peer's own log
/// could not have taken it either.)
fn too_large(message: &Message) -> Option<&henge_raft::Entry> {
    let mut entries = message.entries.iter();
    entries.find(|entry| entry.data.len() > henge_wal::ENTRY_BYTES_MAX)
}

impl Outputs<'_> {
    /// What is staged leaves no more than the ballast.
    fn is_low(&self) -> bool {
        self.wal.is_down_to_ballast(self.log_reserve)
    }

    /// What is staged leaves no more of the last segment than votes and checkpoints need.
    fn is_pressed(&self) -> bool {
        self.wal.is_short_of(self.log_reserve)
    }

    fn is_log_full(&self) -> bool {
        self.wal.staged_bytes() >= STAGED_BYTES_MAX
    }
}

impl Shard {
    /// Proposes and takes Ready after Ready until there is nothing more, or the turn's bound is met.
    /// Returns whether work is left.
    pub(super) fn process_ready(&mut self, at: Slot, out: &mut Outputs<'_>) -> bool {
        let group = self.config.group;
        let own = self.outbox.drain(..).map(|message| (group, message));
        out.messages.extend(own);
        // What there was no time for before. Reads first, and half: an entry may take a thousand turns.
        let until = self.turn.until(SHARE_NANOS);
        self.answer_due(self.turn.until(SHARE_NANOS / 2), out.now_ms);
        // What leases live by, a quarter: of one that is alone, and of others.
        self.renew_alone(self.turn.until(SHARE_NANOS / 4), out.now_ms);
        self.tell_times(self.turn.until(SHARE_NANOS / 4), out);
        self.apply_timed(until, out);
        self.renew_alone(until, out.now_ms);
        self.tell_times(until, out);
        for _ in 0..READY_ROUNDS_MAX {
            self.note_fault();
            self.shed(out.is_low(), out.is_pressed());
            if !out.is_log_full() {
                self.propose(out.now_ms);
            }
            if self.corrupt || !self.raft.has_ready() {
                self.hold_back(at, out);
                return self.is_behind() && self.turn.has_time();
            }
            let ready = self.raft.ready();
            for state in ready.read_states {
                self.confirm_read(&state.context, state.index);
            }
            let mut campaign = Vec::new();
            for message in ready.messages {
                match message.to {
                    LOCAL_APPEND_THREAD => self.persist(at, message, out),
                    LOCAL_APPLY_THREAD => {
                        self.apply(message);
                        self.apply_timed(until, out);
                    }
                    _ if message.kind == MessageKind::Vote => campaign.push(message),
                    _ => {
                        let message = self.times_asked(message);
                        out.messages.extend(message.map(|message| (group, message)));
                    }
                }
            }
            self.renew_alone(until, out.now_ms);
            self.tell_times(until, out);
            self.release(at, campaign, out);
            self.answer_reads(out.now_ms);
        }
        let can_propose = self.may_propose(out.now_ms) && !self.hold_back(at, out);
        let goes_on = self.is_behind() && self.turn.has_time();
        !self.corrupt && (self.raft.has_ready() || can_propose || goes_on)
    }

    fn tell_times(&mut self, until: u64, out: &mut Outputs<'_>) {
        let group = self.config.group;
        let send = |message| out.messages.push((group, message));
        self.times_told(until, out.now_ms, send);
    }

    fn apply_timed(&mut self, until: u64, out: &mut Outputs<'_>) {
        if !self.applying.is_empty() {
            let began = out.stopwatch.micros();
            out.applied += self.apply_on(until, out.now_ms);
            let micros = out.stopwatch.micros().saturating_sub(began);
            out.apply_micros += micros;
            self.counts.took(micros);
        }
    }

    /// Has the rest of the queue wait for the log, if that is full: whatever is staged is written at some
    /// time, or the log fails, which answers everyone. Returns whether it has.
    fn hold_back(&self, at: Slot, out: &mut Outputs<'_>) -> bool {
        let wait = out.is_log_full() && self.may_propose(out.now_ms);
        if wait {
            out.held_back.push(at);
        }
        wait
    }

    /// Raft stops by itself when it finds that it or its storage is broken; callers must not wait for it.
    fn note_fault(&mut self) {
        if !self.corrupt
            && let Some(fault) = self.raft.fault()
        {
            tracing::error!(group = self.config.group, %fault, "raft stopped; this group serves nothing");
            self.poison();
        }
    }

    /// Delivers responses whose batch is durable.
    pub(crate) fn deliver(&mut self, responses: Vec<Message>, messages: &mut Vec<(u64, Message)>) {
        if self.is_over() {
            return;
        }
        for message in responses {
            if message.to == self.config.member_id {
                // A refusal here is raft protecting itself from a stale response; there is nobody to tell.
                let _ = self.raft.step(message);
            } else {
                messages.push((self.config.group, message));
            }
        }
    }

    /// Steps a message from a peer. Whatever it says, the shard goes on.
    pub(super) fn step_peer(&mut self, message: Message, now_ms: u64) {
        match message.kind {
            MessageKind::Prop => self.step_proposals(message, now_ms),
            // Snapshots between members are not built yet, and none of our versions sends one.
            MessageKind::Snap => {}
            _ if self.is_over() || self.is_too_large(&message) => {}
            _ => {
                let _ = self.raft.step(message);
            }
        }
    }

    /// A peer with other limits may send an entry that no log here can hold: staged, it would end its group.
    pub(super) fn is_too_large(&self, message: &Message) -> bool {
        let Some(entry) = too_large(message) else {
            return false;
        };
        let (group, from) = (self.config.group, message.from);
        tracing::warn!(group, from = %format_args!("{from:x}"), index = entry.index,
            bytes = entry.data.len(), "a peer sent an entry that no log can hold; it was not taken");
        true
    }

    /// What a peer forwards would be this member's own proposal: it takes none that cannot be applied.
    pub(super) fn is_proposable(&self, message: &Message) -> bool {
        let entries = message.entries.iter();
        let mut commands = entries.filter(|entry| entry.kind == EntryKind::Normal);
        let refused = commands.find_map(|entry| command::proposable(&entry.data).err());
        if let Some(error) = &refused {
            let (group, from) = (self.config.group, message.from);
            tracing::warn!(group, from = %format_args!("{from:x}"), %error,
                "a peer forwarded a command that nobody could apply; it was not proposed");
        }
        refused.is_none()
    }

    /// A peer's connection is gone, and maybe what was sent last.
    pub(super) fn peer_lost(&mut self, peer: u64) {
        if !self.is_over() {
            self.raft.report_unreachable(peer);
        }
    }

    /// Sends messages once everything handed to the log so far is durable.
    ///
    /// Requests for votes are among them, though raft's library would let them go at once: the others'
    /// votes alone can make a leader whose own term is not on its disk yet. If it crashed then, it could
    /// win the same term again with another log, and two entries would share a term and an index.
    fn release(&mut self, at: Slot, responses: Vec<Message>, out: &mut Outputs<'_>) {
        if *out.last_lsn <= out.durable_lsn {
            self.deliver(responses, out.messages);
        } else if !responses.is_empty() {
            let (lsn, shard) = (*out.last_lsn, at);
            out.parked.push_back(Parked {
                lsn,
                shard,
                responses,
            });
        }
    }

    /// Writes what raft has to be made durable.
    fn persist(&mut self, at: Slot, message: Message, out: &mut Outputs<'_>) {
        let group = self.config.group;
        for entry in &message.entries {
            let kind = entry.kind as u8;
            if let Err(error) = out
                .wal
                .entry(group, entry.term, entry.index, kind, &entry.data)
            {
                // A poisoned log says so itself; an entry that no log can hold should never have been
                // admitted. Either way the entry is not durable and must not be treated as if it were.
                tracing::error!(group, index = entry.index, %error, "an entry cannot be logged");
                return self.poison();
            }
        }
        // A commit index alone needs no write of its own: it rides on the next batch that has entries.
        let votes = message.term != 0 && (message.term, message.vote) != self.persisted_vote;
        if votes || !message.entries.is_empty() {
            if message.term != 0 {
                self.persisted_vote = (message.term, message.vote);
            }
            let (term, vote) = self.persisted_vote;
            out.wal
                .hard_state(group, term, vote, self.raft.commit_index());
            *out.last_lsn = out.wal.staged_lsn();
        }
        self.raft.storage_mut().append(&message.entries);
        self.release(at, message.responses, out);
    }
}
