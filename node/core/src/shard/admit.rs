//! Takes requests in, or refuses them with a typed error before they cost anything.
//!
//! Promises: what is refused here had no effect; what is queued is either proposed (`propose`) or, at its
//! deadline, answered *not done*. Limits follow etcd's: request size, and committed entries ahead of applied.
//! Must never know: other shards, or what becomes of a request later.

use std::sync::Arc;

use henge_api::{Alarm, AlarmAction, AlarmMember, Error, Header, Reply};
use henge_mvcc as mvcc;
use henge_wal::Shortage;

use super::answer::{Chain, deliver};
use super::request::{Answer, Request, RequestKind};
use super::role::who;
use super::{Shard, reads::Read};
use crate::machine::Response;
use crate::machine::command::{self, Command, CommandError};

/// An alarm that was asked for and is not raised yet is asked for again after this.
const ALARM_AGAIN_MS: u64 = 1_000;

impl Shard {
    /// Takes one request.
    pub(super) fn admit(&mut self, request: Request, now_ms: u64) {
        let Request { kind, answer } = request;
        if self.corrupt {
            return answer.send(Err(Error::Corrupt));
        }
        if self.withholds(&kind) {
            self.failed += 1;
            return answer.send(Err(Error::Corrupt));
        }
        match kind {
            RequestKind::Write(encoded) => self.admit_write(encoded, answer, now_ms),
            RequestKind::Read {
                encoded,
                serializable: true,
            } => self.read_at_once(Read::Encoded(encoded), answer, now_ms),
            RequestKind::Read { encoded, .. } => {
                self.read_later(Read::Encoded(encoded), answer, now_ms)
            }
            RequestKind::CursorBegin { encoded, cursor } => {
                self.read_later(Read::Cursor { encoded, cursor }, answer, now_ms);
            }
            RequestKind::CursorNext(cursor) => {
                self.read_at_once(Read::CursorNext(cursor), answer, now_ms);
            }
            RequestKind::LeaseKeepAlive(id) => self.keep_alive(id, answer, now_ms),
            RequestKind::LeaseTimeToLive { id, keys } => {
                let left = None;
                self.read_later(Read::TimeToLive { id, keys, left }, answer, now_ms);
            }
            RequestKind::Barrier => self.read_later(Read::Barrier, answer, now_ms),
            RequestKind::Alarms => self.read_later(Read::Alarms, answer, now_ms),
            RequestKind::Leases => self.read_at_once(Read::Leases, answer, now_ms),
            RequestKind::HashKv(revision) => self.hash_later(revision, answer),
            RequestKind::Status => {
                let response = Response::Status(Box::new(self.status()));
                self.answer(answer, Ok(response));
            }
        }
    }

    /// Refuses what waits and finds no room any more: it was taken in before that was known. What is left
    /// of the log is for what makes room; `pressed`: for votes, compaction and checkpoints alone.
    pub(super) fn shed(&mut self, low: bool, pressed: bool) {
        let full = low || self.lacks().is_some();
        if !full && !pressed {
            return;
        }
        let refused = |encoded: &[u8]| {
            full && command::adds(encoded) || pressed && !command::is_compact(encoded)
        };
        let mut out = Vec::new();
        for returned in std::mem::take(&mut self.returned) {
            match refused(&returned.pending.encoded) {
                true => out.push(returned.pending),
                false => self.returned.push_back(returned),
            }
        }
        for pending in std::mem::take(&mut self.queue) {
            match refused(&pending.encoded) {
                true => out.push(pending),
                false => self.queue.push_back(pending),
            }
        }
        for pending in out {
            self.pending_bytes -= pending.encoded.len();
            self.answer(pending.answer, Err(self.no_room()));
        }
    }

    /// Answers the turn's callers, all at once and after its log batch is on the way: a caller's thread
    /// that is woken once finds everything there, instead of being woken for every answer (in a virtual
    /// machine one wake-up of an idle processor costs as much as applying several writes).
    pub(super) fn flush_answers(&mut self) -> Option<Arc<Chain>> {
        deliver(self.answers.drain(..))
    }

    /// Puts the header on; the caller hears at the end of the turn (see [`Shard::flush_answers`]).
    pub(super) fn answer(&mut self, answer: Answer, response: Result<Response, Error>) {
        self.answer_as_of(self.header(), answer, response);
    }

    /// As [`Shard::answer`], with the header of an earlier moment.
    pub(super) fn answer_as_of(
        &mut self,
        header: Header,
        answer: Answer,
        response: Result<Response, Error>,
    ) {
        if response.is_err() {
            self.failed += 1;
        }
        match response {
            // A large answer is not let go in one go.
            Ok(body) if answer.is_abandoned() => self.let_answer_go(body),
            response => {
                let reply = response.map(|body| Reply { header, body });
                self.answers.push((answer, reply));
            }
        }
    }

    fn admit_write(&mut self, encoded: Vec<u8>, answer: Answer, now_ms: u64) {
        let max = self
            .config
            .request_bytes_max
            .min(henge_wal::ENTRY_BYTES_MAX);
        let refusal = if encoded.len() > max {
            Some(Error::RequestTooLarge {
                bytes: encoded.len(),
                max,
            })
        } else if self.apply_gap() > self.config.apply_gap_max
            // One that is alone gets through, however large: as callers' budgets have it.
            || self.pending_bytes != 0
                && self.pending_bytes + encoded.len() > self.config.pending_bytes_max
        {
            Some(Error::TooManyRequests)
        } else if self.is_full_for(&encoded, now_ms)
            || self.log_full && !command::is_compact(&encoded)
        {
            // The rest of the last segment is for votes and checkpoints: a delete that might not fit must be
            // refused, not left waiting for its deadline.
            Some(self.no_room())
        } else {
            not_understood(&encoded)
        };
        match refusal {
            Some(error) => {
                self.failed += 1;
                answer.send(Err(error));
            }
            None => self.queue_write(encoded, answer, now_ms),
        }
    }

    fn apply_gap(&self) -> u64 {
        self.raft
            .commit_index()
            .saturating_sub(self.machine.applied_index)
    }

    /// What is told to whoever finds no room.
    fn no_room(&self) -> Error {
        match self.shortage {
            Some(Shortage::Descriptors) => Error::NoDescriptors,
            _ => Error::NoSpace,
        }
    }

    /// What it lacks to keep more data: for another segment of the log, or for a checkpoint.
    pub(super) fn lacks(&self) -> Option<Shortage> {
        let checkpoint = self.checkpoint_lacks.filter(|_| self.checkpoint_presses);
        self.shortage.or(checkpoint)
    }

    /// Whether what it lacks is room on the disk.
    fn lacks_space(&self) -> bool {
        self.lacks()
            .is_some_and(|lacks| lacks != Shortage::Descriptors)
    }

    /// Whether there is no room for what this adds: on the disk, while an alarm is raised, or by quota. The
    /// quota is held against what is there now and the request itself, as by etcd; who finds it spent raises
    /// the alarm. Whether the store's numbers are used up is this replica's own matter, so it must not be
    /// asked when a command is applied.
    fn is_full_for(&mut self, encoded: &[u8], now_ms: u64) -> bool {
        let is_full = self.lacks().is_some()
            || self.machine.alarms.is_raised(Alarm::NoSpace)
            || self.machine.store.is_full();
        if is_full {
            return command::adds(encoded);
        }
        let quota = self.config.quota_bytes;
        if quota == 0 {
            return false;
        }
        let cost = command::cost(encoded);
        if cost == 0 || self.machine.store.memory().in_use().saturating_add(cost) < quota {
            return false;
        }
        self.raise_no_space(now_ms);
        true
    }

    /// Asks for the alarm, unless it is raised or just was asked for.
    fn raise_no_space(&mut self, now_ms: u64) {
        let alarm = AlarmMember {
            alarm: Alarm::NoSpace,
            member_id: self.config.member_id,
        };
        if self.machine.alarms.has(alarm) || now_ms < self.alarm_again_ms {
            return;
        }
        self.alarm_again_ms = now_ms + ALARM_AGAIN_MS;
        let action = AlarmAction::Activate;
        // Nobody waits for it; if it is lost, the next one that is refused asks again.
        let (answer, _) = Answer::channel();
        self.queue_write(Command::Alarm { action, alarm }.encode(), answer, now_ms);
    }

    /// Whether a request is about data that an alarm for corruption keeps back.
    fn withholds(&self, kind: &RequestKind) -> bool {
        let of_data = match kind {
            RequestKind::Write(encoded) => !command::is_alarm(encoded),
            RequestKind::Read { .. }
            | RequestKind::CursorBegin { .. }
            | RequestKind::CursorNext(_) => true,
            _ => false,
        };
        of_data && self.machine.alarms.is_raised(Alarm::Corrupt)
    }

    /// The alarms that are raised, and that of this member's own disk. (For want of descriptors etcd has
    /// none.)
    pub(super) fn alarms(&self) -> Vec<AlarmMember> {
        let mut alarms = self.machine.alarms.list().to_vec();
        let own = AlarmMember {
            alarm: Alarm::NoSpace,
            member_id: self.config.member_id,
        };
        if self.lacks_space() && !alarms.contains(&own) {
            alarms.push(own);
        }
        alarms
    }

    /// Says what was raised or lowered since the last look.
    pub(super) fn note_alarms(&mut self) {
        let now = self.machine.alarms.list();
        if now == self.alarms_seen {
            return;
        }
        let group = self.config.group;
        for alarm in now.iter().filter(|alarm| !self.alarms_seen.contains(alarm)) {
            let (name, member) = (alarm.alarm.name(), alarm.member_id);
            let (member_name, _) = who(&self.config.members, member);
            let member_id = format_args!("{member:x}");
            tracing::warn!(group, alarm = name, %member_id, member_name, "alarm raised");
        }
        for alarm in self.alarms_seen.iter().filter(|alarm| !now.contains(alarm)) {
            let (name, member) = (alarm.alarm.name(), alarm.member_id);
            let (member_name, _) = who(&self.config.members, member);
            let member_id = format_args!("{member:x}");
            tracing::info!(group, alarm = name, %member_id, member_name, "alarm lowered");
        }
        self.alarms_seen = now.to_vec();
        // Raised and lowered, it may be asked for again at once.
        self.alarm_again_ms = 0;
    }
}

/// Why a write must not enter the log: nobody could apply it.
fn not_understood(encoded: &[u8]) -> Option<Error> {
    match command::proposable(encoded) {
        Ok(()) => None,
        Err(CommandError::Depth) => Some(mvcc::Error::TooManyOps.into()),
        // Only a length that its field cannot say makes a command of ours unreadable.
        Err(_) => Some(Error::RequestTooLarge {
            bytes: encoded.len(),
            max: u32::MAX as usize,
        }),
    }
}
