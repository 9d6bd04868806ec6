//! What waits becomes proposals, a few large batches per turn; and what nobody took comes back.
//!
//! While raft takes no proposals (no leader, a leader that hands over, too much uncommitted) everything waits
//! in its queue, within its budget and until its deadline. A follower's proposals are a message to the
//! leader. Whoever finds that it may not append them (a leader that hands over, one that leads no more and
//! knows no other) sends the message back whole, marked `reject`, to the member in whose name it was
//! proposed; a message that the transport did not take comes back the same way. There it waits again, before
//! everything that came later, and is proposed under another id (docs/decisions/0018).
//!
//! Promises: a command runs at most once. Only who has not appended a message, and not passed it on, sends it
//! back, and never both; what comes back is taken only while somebody waits for exactly that command. What
//! was lost on its way stays *unknown*.
//! Must never know: what a command asks. Tested by `shard/handover.rs`, the simulator, and `crash --rolling`.

use bytes::Bytes;
use henge_api::Error;
use henge_raft::{Entries, Entry, Message, MessageKind, NONE};

use super::Shard;
use super::request::Answer;
use super::role::who;
use super::waiters::Callers;
use crate::machine::command::{self, Stamp};

/// Payload bytes proposed in one step, unless one request alone has more: a forwarded proposal must fit a
/// peer frame, and the vectors on the way stay small enough to be recycled by the allocator.
const PROPOSE_BYTES_MAX: usize = 128 << 10;

/// After something came back, the next try is at the next leader, or after so long: a leader that hands over
/// needs a few milliseconds, one that is unreachable longer, and each try costs a message both ways.
const HOLD_MS: u64 = 20;

/// A write that waits to be proposed.
#[derive(Debug)]
pub struct Pending {
    pub(crate) encoded: Vec<u8>,
    pub(crate) answer: Answer,
    pub(super) expires_ms: u64,
}

/// A write that was proposed and came back.
#[derive(Debug)]
pub struct Returned {
    /// The id it had: they are proposed again in the order in which they were proposed first.
    id: u64,
    pub(crate) pending: Pending,
}

impl Shard {
    /// Whether something waits that could be proposed now.
    pub(super) fn may_propose(&self, now_ms: u64) -> bool {
        if self.is_over() || !self.has_proposals() || now_ms < self.hold_until_ms {
            return false;
        }
        let next = self.returned.front().map(|returned| &returned.pending);
        let next = next.or(self.queue.front());
        let most = next.map_or(0, |pending| pending.encoded.len());
        let most = most.max(PROPOSE_BYTES_MAX) as u64;
        self.raft.may_propose(most).is_ok()
    }

    pub(super) fn has_proposals(&self) -> bool {
        !(self.queue.is_empty() && self.returned.is_empty() && self.renewals.is_empty())
    }

    /// Proposes the next part of what is queued, as one batch.
    pub(super) fn propose(&mut self, now_ms: u64) {
        if !self.may_propose(now_ms) {
            return;
        }
        let expires_ms = now_ms + self.config.request_timeout_ms;
        let origin = self.config.member_id;
        let led_term = self.is_leader().then(|| self.raft.term());
        let first = self.waiters.next_id();
        let (mut batch, mut waiting, mut bytes) = (Vec::new(), Vec::new(), 0);
        while let Some(next) = self.next_proposal(bytes, led_term) {
            let (mut encoded, callers, held, queued_until_ms) = next;
            let id = first + batch.len() as u64;
            let caller = callers.caller();
            command::stamp(&mut encoded, Stamp { origin, id, caller });
            bytes += encoded.len();
            waiting.push((callers, held, queued_until_ms));
            batch.push(Bytes::from(encoded));
        }
        if batch.is_empty() {
            return;
        }
        if self.raft.propose_batch(batch).is_ok() {
            for (callers, held, queued_until_ms) in waiting {
                self.waiters
                    .push(callers, held, queued_until_ms, expires_ms);
            }
            return;
        }
        // Raft was asked whether it would take them: it has stopped. It says why in this turn.
        for (callers, held, _) in waiting {
            self.pending_bytes -= held;
            callers.fail(&Error::NoLeader);
        }
    }

    /// The next command of a batch that has so many bytes: what it is, who waits for it, what it holds of the
    /// shard's bytes, and until when it may be proposed.
    fn next_proposal(
        &mut self,
        bytes: usize,
        led_term: Option<u64>,
    ) -> Option<(Vec<u8>, Callers, usize, u64)> {
        if bytes >= PROPOSE_BYTES_MAX {
            return None;
        }
        if let Some((encoded, callers)) = self.renewals.next(led_term) {
            return Some((encoded, callers, 0, 0));
        }
        let fits =
            |pending: &Pending| bytes == 0 || bytes + pending.encoded.len() <= PROPOSE_BYTES_MAX;
        let pending = if self.returned.is_empty() {
            self.queue.pop_front_if(|pending| fits(pending))
        } else {
            let fits = |returned: &mut Returned| fits(&returned.pending);
            self.returned.pop_front_if(fits).map(|it| it.pending)
        };
        let Pending {
            encoded,
            answer,
            expires_ms,
        } = pending?;
        let held = encoded.len();
        Some((encoded, Callers::One(answer), held, expires_ms))
    }

    pub(super) fn queue_write(&mut self, encoded: Vec<u8>, answer: Answer, now_ms: u64) {
        self.pending_bytes += encoded.len();
        let expires_ms = now_ms + self.config.request_timeout_ms;
        self.queue.push_back(Pending {
            encoded,
            answer,
            expires_ms,
        });
    }

    /// Queues a command of the shard's own before all that waits: behind a full queue, what it does would
    /// come tens of thousands of writes late.
    pub(super) fn queue_first(&mut self, encoded: Vec<u8>, answer: Answer, now_ms: u64) {
        self.pending_bytes += encoded.len();
        // The queue ends from its front, in the order of time.
        let expires_ms = self.queue.front().map_or_else(
            || now_ms + self.config.request_timeout_ms,
            |next| next.expires_ms,
        );
        self.queue.push_front(Pending {
            encoded,
            answer,
            expires_ms,
        });
    }

    /// Answers *not done* to what waited to be proposed until its time was over.
    pub(super) fn expire_queue(&mut self, now_ms: u64) {
        let late = self.late();
        self.failed += self.renewals.expire(now_ms, &late);
        let is_late = |returned: &mut Returned| returned.pending.expires_ms <= now_ms;
        while let Some(returned) = self.returned.pop_front_if(is_late) {
            self.give_up(returned.pending, &late);
        }
        let is_late = |pending: &mut Pending| pending.expires_ms <= now_ms;
        while let Some(pending) = self.queue.pop_front_if(is_late) {
            self.give_up(pending, &late);
        }
    }

    fn give_up(&mut self, pending: Pending, error: &Error) {
        self.pending_bytes -= pending.encoded.len();
        self.failed += 1;
        pending.answer.send(Err(error.clone()));
    }

    /// Proposals of a peer: its own, or passed on by one that led before. Appended or passed on here, or sent
    /// back to whom they are from: one of the three, for all of them.
    pub(super) fn step_proposals(&mut self, message: Message, now_ms: u64) {
        let me = self.config.member_id;
        if message.reject || message.from == me {
            // Nobody appended these. (They come from ourselves when they went round by a former leader.)
            return self.take_back(&message.entries, now_ms);
        }
        let bytes: usize = message.entries.iter().map(|entry| entry.data.len()).sum();
        if self.is_over() || self.raft.may_propose(bytes as u64).is_err() {
            return self.send_back(&message.entries, now_ms);
        }
        // It cannot be refused for want of a leader now; what is wrong with it otherwise its sender cannot
        // mend.
        if self.is_proposable(&message) && !self.is_too_large(&message) {
            let _ = self.raft.step(message);
        }
    }

    /// Returns proposals that this member did not append and did not pass on.
    pub(super) fn send_back(&mut self, entries: &Entries, now_ms: u64) {
        let mut at = 0;
        while let Some(entry) = entries.get(at) {
            let origin = origin(entry);
            let rest = &entries[at..];
            let same = rest
                .iter()
                .take_while(|entry| self::origin(entry) == origin);
            let end = at + same.count();
            let part = entries.slice(at..end);
            at = end;
            if origin == self.config.member_id {
                self.take_back(&part, now_ms);
            } else if self.config.voters.contains(&origin) {
                self.outbox.push(Message {
                    kind: MessageKind::Prop,
                    reject: true,
                    to: origin,
                    from: self.config.member_id,
                    entries: part,
                    ..Message::default()
                });
            }
        }
    }

    /// Queues this member's own proposals again, which nobody appended.
    fn take_back(&mut self, entries: &Entries, now_ms: u64) {
        for entry in entries {
            let Some(Stamp { origin, id, .. }) = command::stamp_of(&entry.data) else {
                continue;
            };
            let is_whole = |bytes| bytes == 0 || bytes == entry.data.len();
            let waits = self.waiters.get(id).is_some_and(|it| is_whole(it.bytes));
            let is_ours =
                origin == self.config.member_id && command::proposable(&entry.data).is_ok();
            if !is_ours || !waits {
                continue;
            }
            let Some(waiter) = self.waiters.take(id) else {
                continue;
            };
            self.hold_until_ms = now_ms + HOLD_MS;
            match waiter.callers {
                Callers::One(answer) => {
                    let pending = Pending {
                        encoded: entry.data.to_vec(),
                        answer,
                        expires_ms: waiter.queued_until_ms,
                    };
                    let at = self.returned.partition_point(|other| other.id < id);
                    self.returned.insert(at, Returned { id, pending });
                }
                Callers::Renewals(renewals) => self.renewals.put_back(renewals),
                // It was this leader's to decide; now it is another's.
                Callers::Nobody => {}
            }
        }
    }

    /// Makes another member lead, if this one does: the one that has most of the log, not the one that was
    /// asked last and did not get there. Asked again, it tries again, unless a try is under way.
    pub(super) fn hand_over(&mut self) {
        if self.is_alone() || !self.is_leader() {
            return;
        }
        let status = self.raft.status();
        if status.transferee != NONE {
            return;
        }
        let others = status.progress.iter().filter(|(id, progress)| {
            *id != self.config.member_id && progress.recent_active && !progress.is_learner
        });
        let best = others
            .max_by_key(|(id, progress)| (*id != self.handed_to, progress.matched, u64::MAX - id));
        let Some((id, _)) = best else {
            return;
        };
        self.handed_to = id;
        let (to_name, to_url) = who(&self.config.members, id);
        tracing::info!(
            group = self.config.group,
            term = self.raft.term(),
            to = %format_args!("{id:x}"),
            to_name,
            to_url,
            "handing leadership over"
        );
        self.raft.transfer_leader(id);
    }
}

/// The member in whose name a command was proposed; 0, which no member is, for what is no command.
fn origin(entry: &Entry) -> u64 {
    command::stamp_of(&entry.data).map_or(0, |stamp| stamp.origin)
}
