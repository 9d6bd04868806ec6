//! Committed entries change the store, answer their callers and feed the watchers.
//!
//! Promises: entries are applied in their order, as far as a turn has time for them; an entry that takes more
//! than a slice (a delete of a million keys, a transaction over as many, a put with as many watchers) is
//! worked off in slices while only this shard's apply waits, and is seen by nobody until it is through. Raft
//! hears that a message is applied once all of it is.
//! Must never know: who proposed an entry, or that there are other shards.

use std::collections::VecDeque;

use henge_raft::{EntryKind, Message};

use super::Shard;
use super::log::TAIL_BYTES_MAX;
use super::waiters::Callers;
use crate::machine::apply::Applied;
use crate::machine::{ApplyBegun, Command, CommandError, LongApply, Stamp, command};
use crate::work::{ENTRY_NANOS, SLICE_NANOS};

/// Entries whose keys are announced to the store together.
const TOUCH_ENTRIES: usize = 16;

/// What raft has committed and is not applied yet.
#[derive(Debug, Default)]
pub(crate) struct Applying {
    messages: VecDeque<Message>,
    /// The entry of the first message to go on with.
    at: usize,
    /// That entry, if it takes more than a slice, decoded. The state before it is what everybody sees until
    /// its end, and a checkpoint holds; a stop in between has the log replay it whole. It is committed, so
    /// nothing puts another one in its place.
    long: Option<Box<LongApply>>,
}

impl Applying {
    /// Whether all is applied.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Gives up: nothing of this shard is used any more.
    pub fn clear(&mut self) {
        *self = Applying::default();
    }
}

impl Shard {
    /// Takes what raft has committed; [`Shard::apply_on`] applies it.
    pub(super) fn apply(&mut self, message: Message) {
        self.applying.messages.push_back(message);
    }

    /// Applies what was taken, in its order, until the turn's account is at `until`; returns how many
    /// entries.
    pub(super) fn apply_on(&mut self, until: u64, now_ms: u64) -> usize {
        let mut applied = 0;
        while let Some(message) = self.applying.messages.pop_front() {
            if !self.apply_entries(&message, until, now_ms, &mut applied) {
                // A shard that was poisoned has nothing to go on with.
                if !self.corrupt {
                    self.applying.messages.push_front(message);
                }
                break;
            }
            self.applying.at = 0;
            self.applied(message, now_ms);
        }
        self.show_revision();
        applied
    }

    /// Serves watchers that are behind; returns whether more is left.
    pub(super) fn watch_slice(&mut self) -> bool {
        let header = self.header();
        let more = self
            .watches
            .drain(&mut self.machine.store, header, SLICE_NANOS);
        self.charge();
        more
    }

    /// Puts the store's work to the turn's account.
    pub(crate) fn charge(&mut self) {
        let done = self.machine.store.work().nanos();
        let before = std::mem::replace(&mut self.charged, done);
        self.turn.spend(done.saturating_sub(before));
    }

    /// Goes on with a message's entries; returns whether all are applied.
    fn apply_entries(
        &mut self,
        message: &Message,
        until: u64,
        now_ms: u64,
        applied: &mut usize,
    ) -> bool {
        while let Some(entry) = message.entries.get(self.applying.at) {
            if !self.turn.is_before(until) {
                return false;
            }
            let at = self.applying.at;
            if at.is_multiple_of(TOUCH_ENTRIES) {
                self.touch_ahead(&message.entries[at..]);
            }
            self.turn.spend(ENTRY_NANOS);
            match self.apply_entry(entry, now_ms) {
                Ok(true) => {
                    if self.counts.replays(entry.index) {
                        self.counts.forget(&self.machine);
                    }
                    self.applying.at += 1;
                    *applied += 1;
                }
                Ok(false) => {}
                Err(error) => {
                    // Every replica of this build stops at the same entry; guessing would diverge.
                    tracing::error!(
                        group = self.config.group,
                        index = entry.index,
                        %error,
                        "a committed entry cannot be understood; this group stops serving; \
                         start the version that wrote it"
                    );
                    self.poison();
                    return false;
                }
            }
            self.charge();
        }
        true
    }

    /// Applies an entry, or a slice of one that takes more; returns whether it is applied.
    fn apply_entry(
        &mut self,
        entry: &henge_raft::Entry,
        now_ms: u64,
    ) -> Result<bool, CommandError> {
        if entry.kind != EntryKind::Normal {
            self.apply_conf_change(entry);
            return Ok(true);
        }
        let position = (entry.index, entry.term);
        let mut long = match self.applying.long.take() {
            Some(long) => long,
            None => {
                let (own, waiters) = (self.config.member_id, &self.waiters);
                let is_heard =
                    |stamp: Stamp| stamp.origin == own && waiters.get(stamp.id).is_some();
                let machine = &mut self.machine;
                match machine.apply_begin(position, &entry.data, now_ms, is_heard)? {
                    ApplyBegun::Long(long) => long,
                    ApplyBegun::Done(answer) => {
                        self.answer_applied(answer, &entry.data);
                        return Ok(true);
                    }
                }
            }
        };
        let machine = &mut self.machine;
        match machine.apply_on(&mut long, position, SLICE_NANOS)? {
            None => self.applying.long = Some(long),
            Some(answer) => self.answer_applied(answer, &entry.data),
        }
        Ok(self.applying.long.is_none())
    }

    /// All of a message is applied.
    fn applied(&mut self, message: Message, now_ms: u64) {
        self.show_revision();
        // What there is no time for is served behind, in this turn or the next.
        if self.turn.has_time() {
            let header = self.header();
            self.watches
                .drain(&mut self.machine.store, header, SLICE_NANOS);
            self.charge();
        }
        let keep = if self.is_alone() { 0 } else { TAIL_BYTES_MAX };
        let applied = self.machine.applied_index;
        for response in message.responses {
            let _ = self.raft.step(response);
        }
        self.raft.storage_mut().trim(applied, keep);
        self.give_up_revisions(now_ms);
    }

    /// Lets the store load what the next few puts will read.
    fn touch_ahead(&self, entries: &[henge_raft::Entry]) {
        let mut keys = [&[][..]; TOUCH_ENTRIES];
        let mut count = 0;
        for key in entries
            .iter()
            .take(TOUCH_ENTRIES)
            .filter_map(|entry| command::put_key(&entry.data))
        {
            keys[count] = key;
            count += 1;
        }
        // One put gains nothing from looking its key up twice.
        if count > 1 {
            self.machine.store.touch(&keys[..count]);
        }
    }

    fn answer_applied(&mut self, answer: Applied, payload: &[u8]) {
        let Some((stamp, response)) = answer else {
            return;
        };
        self.counts.applied(payload, &response);
        if stamp.origin != self.config.member_id {
            return;
        }
        let Some(waiter) = self.waiters.take(stamp.id) else {
            if let Ok(response) = response {
                self.let_answer_go(response);
            }
            return;
        };
        self.pending_bytes -= waiter.bytes;
        let answer = match waiter.callers {
            Callers::One(answer) => answer,
            Callers::Renewals(renewals) => return self.answer_renewals(renewals, response),
            Callers::Nobody => return,
        };
        if response.is_ok()
            && let Some(revision) = waits_for_removal(payload)
        {
            return self.removals.push(revision, answer);
        }
        self.answer(answer, response);
    }

    fn apply_conf_change(&mut self, entry: &henge_raft::Entry) {
        // Membership is static in this version: nothing proposes a change. One that comes from a newer
        // peer is acknowledged as "no change", as etcd's library requires of a refused change.
        let _ = self
            .raft
            .apply_conf_change(&henge_raft::ConfChangeV2::default());
        self.machine.applied_index = entry.index;
        self.machine.applied_term = entry.term;
    }
}

/// The revision of a compaction whose caller waits until it is done physically.
fn waits_for_removal(payload: &[u8]) -> Option<i64> {
    if !command::is_compact(payload) {
        return None;
    }
    match command::decode(payload) {
        Ok((_, Command::Compact { revision, physical })) => physical.then_some(revision),
        _ => None,
    }
}
