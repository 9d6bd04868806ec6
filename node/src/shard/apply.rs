//! Committed entries change the store, answer their callers and feed the watchers.

use henge_raft::{EntryKind, Message};

use super::Shard;
use super::log::TAIL_BYTES_MAX;
use super::waiters::Callers;
use crate::api::Error;
use crate::machine::{Command, Response, Stamp, command};

/// Entries whose keys are announced to the store together.
const TOUCH_ENTRIES: usize = 16;

impl Shard {
    pub(crate) fn apply(&mut self, message: Message, now_ms: u64) {
        for (at, entry) in message.entries.iter().enumerate() {
            if at % TOUCH_ENTRIES == 0 {
                self.touch_ahead(&message.entries[at..]);
            }
            if entry.kind != EntryKind::Normal {
                self.apply_conf_change(entry);
                continue;
            }
            match self
                .machine
                .apply(entry.index, entry.term, &entry.data, now_ms)
            {
                Ok(None) => {}
                Ok(Some((stamp, response))) => self.answer_applied(stamp, &entry.data, response),
                Err(error) => {
                    // Every replica of this build stops at the same entry; guessing would diverge.
                    tracing::error!(
                        group = self.config.group,
                        index = entry.index,
                        %error,
                        "a committed entry cannot be understood; this group stops serving; \
                         start the version that wrote it"
                    );
                    return self.poison();
                }
            }
        }
        let header = self.header();
        self.show_revision();
        self.watches.drain(&mut self.machine.store, header);
        let keep = if self.is_alone() { 0 } else { TAIL_BYTES_MAX };
        let applied = self.machine.applied_index;
        for response in message.responses {
            let _ = self.raft.step(response);
        }
        self.raft.storage_mut().trim(applied, keep);
        self.give_up_revisions(now_ms);
    }

    /// Serves watchers that are behind; returns whether more is left.
    pub fn watch_slice(&mut self) -> bool {
        let header = self.header();
        self.watches.drain(&mut self.machine.store, header)
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

    fn answer_applied(&mut self, stamp: Stamp, payload: &[u8], response: Result<Response, Error>) {
        if stamp.origin != self.config.member_id {
            return;
        }
        let Some(waiter) = self.waiters.take(stamp.id) else {
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
