//! What keeps leases alive, and what ends them: in a cluster both are commands, many in one (decision 2).
//!
//! Renewals that arrive between two turns become one entry of the log, however many clients and streams they
//! come from. They wait apart from writes and are proposed before them, and before expiries: a lease must not
//! run out because its renewal stood behind a queue of writes, or found it full.
//!
//! Promises: a renewal is answered once, with its time to live; none is refused while expiries go on: a
//! member that has refused one for lack of room ends no lease until its next tick, and one whose log takes no
//! renewals ends none at all. (That is: the member that leads. A follower has no room only for what it cannot
//! pass on, and its leader does not hear of that.) A member that is alone ends none while one waits. None is
//! answered by a store that lacks what was acknowledged before a start.
//! Must never know: clocks, sockets. Tested in `shard/shares`, `shard/tests`, `shard/handover` and by
//! `node/tests/engine`.

use std::collections::VecDeque;

use henge_api::{Error, Outcome};

use super::Shard;
use super::request::Answer;
use super::waiters::Callers;
use crate::machine::{Command, Response};
use crate::work::{ENTRY_NANOS, SHARE_NANOS, TURN_NANOS};

/// Renewals that one shard lets wait, proposed or not; more are refused, as without a leader they would pile
/// up.
pub const WAITING_MAX: usize = 65_536;

/// Expired leases revoked per tick (etcd: 500 per half second).
const REVOKES_PER_TICK_MAX: usize = 100;

/// Renewals in one entry, which is applied in one go: a slice's work. (A command may have
/// `command::LEASES_MAX`, and earlier versions proposed so many.)
const RENEWED_MAX: usize = 512;

/// Keys that the leases of one command may have together, unless one lease alone has more: what one entry
/// does stays short.
const KEYS_PER_EXPIRY_MAX: usize = 256;

/// Leases that a new leader gives their time again in one slice between other work.
const EXTEND_SLICE: usize = 500;

/// A caller who wants a lease to live on.
#[derive(Debug)]
pub struct Renewal {
    /// Which lease.
    pub id: i64,
    /// Whom to tell how long it lives.
    pub answer: Answer,
    /// Until when it may wait to be proposed.
    pub expires_ms: u64,
}

/// What one shard has to say of its leases and has not proposed yet.
#[derive(Debug, Default)]
pub struct Renewals {
    waiting: VecDeque<Renewal>,
    /// Those of a member that is alone, which need no entry.
    alone: VecDeque<Renewal>,
    /// One was refused for lack of room since the last tick.
    refused: bool,
    /// Commands that end leases, and the term in which this member led and decided them.
    expired: VecDeque<Vec<u8>>,
    expired_term: u64,
}

impl Renewals {
    /// Callers that wait.
    pub fn waiting(&self) -> usize {
        self.waiting.len() + self.alone.len()
    }

    /// Whether there is nothing to propose.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.expired.is_empty()
    }

    /// Answers *not done* to those whose time is over.
    pub fn expire(&mut self, now_ms: u64, error: &Error) -> u64 {
        let mut failed = 0;
        for waiting in [&mut self.waiting, &mut self.alone] {
            while let Some(renewal) = waiting.pop_front_if(|renewal| renewal.expires_ms <= now_ms) {
                renewal.answer.send(Err(error.clone()));
                failed += 1;
            }
        }
        failed
    }

    /// Answers everyone with the same error.
    pub fn fail_all(&mut self, error: &Error) {
        self.expired.clear();
        self.expire(u64::MAX, error);
    }

    /// Renewals that came back unproposed: they go before those that came after them.
    pub fn put_back(&mut self, renewals: Vec<Renewal>) {
        for renewal in renewals.into_iter().rev() {
            self.waiting.push_front(renewal);
        }
    }

    /// The next command and its callers. What a leader of an earlier term decided to end is forgotten: it
    /// counted by what had been applied then, and the leader of now counts anew.
    pub fn next(&mut self, led_term: Option<u64>) -> Option<(Vec<u8>, Callers)> {
        if !self.waiting.is_empty() {
            let count = self.waiting.len().min(RENEWED_MAX);
            let renewals: Vec<_> = self.waiting.drain(..count).collect();
            let ids = renewals.iter().map(|renewal| renewal.id).collect();
            let encoded = Command::LeaseRenewMany { ids }.encode();
            return Some((encoded, Callers::Renewals(renewals)));
        }
        if led_term != Some(self.expired_term) {
            self.expired.clear();
        }
        let encoded = self.expired.pop_front()?;
        Some((encoded, Callers::Nobody))
    }
}

impl Shard {
    /// Alone, the renewal is local as in etcd. With peers it goes through the log, so that every
    /// replica that may become leader has the same deadline.
    pub(super) fn keep_alive(&mut self, id: i64, answer: Answer, now_ms: u64) {
        let is_alone = self.is_alone();
        // Who only passes it on needs no log for that.
        if self.log_full && !is_alone && self.is_leader() {
            return self.answer(answer, Err(Error::NoSpace));
        }
        if self.renewals.waiting() + self.waiters.renewals() >= WAITING_MAX {
            self.renewal_refused();
            return self.answer(answer, Err(Error::TooManyRequests));
        }
        let expires_ms = now_ms + self.config.request_timeout_ms;
        let renewal = Renewal {
            id,
            answer,
            expires_ms,
        };
        if !is_alone {
            return self.renewals.waiting.push_back(renewal);
        }
        self.renewals.alone.push_back(renewal);
        // Before anything is applied, for which half of the turn has to be left.
        let until = self.turn.until(SHARE_NANOS).min(TURN_NANOS / 2);
        self.renew_alone(until, now_ms);
    }

    /// Whether a member that is alone has renewals to do. Not before it has applied what it acknowledged
    /// before it was started: a lease of that is not there yet.
    pub(super) fn may_renew_alone(&self) -> bool {
        !self.renewals.alone.is_empty() && !self.counts.replays(self.machine.applied_index + 1)
    }

    /// Does them, until the turn's account is at `until`.
    pub(super) fn renew_alone(&mut self, until: u64, now_ms: u64) {
        while self.may_renew_alone()
            && self.turn.is_before(until)
            && let Some(renewal) = self.renewals.alone.pop_front()
        {
            // No lease ends while one waits.
            let asked_ms = renewal.expires_ms - self.config.request_timeout_ms;
            let store = &mut self.machine.store;
            let ttl = store.lease_keep_alive_since(renewal.id, asked_ms, now_ms);
            self.answer(renewal.answer, Ok(Response::Renewed(ttl.unwrap_or(0))));
            self.turn.spend(ENTRY_NANOS);
            self.charge();
        }
    }

    /// There was no room for a renewal, here or on the way here: until the next tick no lease ends.
    pub(super) fn renewal_refused(&mut self) {
        self.renewals.refused = true;
    }

    /// Goes on with giving leases their time again; returns whether more is left.
    pub(super) fn lease_slice(&mut self) -> bool {
        self.machine.store.leases_extend_next(EXTEND_SLICE)
    }

    /// The leader revokes what has expired, through the log so that every replica deletes the same keys.
    pub(super) fn expire_leases(&mut self, now_ms: u64) {
        let refused = std::mem::take(&mut self.renewals.refused);
        let waits = !self.renewals.alone.is_empty();
        if refused || waits || self.log_full || !self.is_leader() {
            return;
        }
        let (term, renewals) = (self.raft.term(), &mut self.renewals);
        if renewals.expired_term != term {
            renewals.expired.clear();
            renewals.expired_term = term;
        }
        // What is lost, or decided and not proposed, has still expired at a later tick.
        if self.renewals.expired.is_empty() {
            self.renewals.expired = self.expiries(now_ms).into();
        }
    }

    /// Commands for leases that ran out, by this member's clock. They say how much was applied when it
    /// looked: a renewal that is in the log by now counts for more (see decision 2).
    pub(super) fn expiries(&mut self, now_ms: u64) -> Vec<Vec<u8>> {
        let seen = self.machine.applied_index;
        let store = &mut self.machine.store;
        let mut commands = Vec::new();
        let (mut ids, mut keys) = (Vec::new(), 0);
        for id in store.leases_expired(now_ms, REVOKES_PER_TICK_MAX) {
            let more = store.lease_key_count(id);
            if !ids.is_empty() && keys + more > KEYS_PER_EXPIRY_MAX {
                let ids = std::mem::take(&mut ids);
                commands.push(Command::LeaseExpireMany { seen, ids }.encode());
                keys = 0;
            }
            ids.push(id);
            keys += more;
        }
        if !ids.is_empty() {
            commands.push(Command::LeaseExpireMany { seen, ids }.encode());
        }
        commands
    }

    /// Tells each caller its own.
    pub(super) fn answer_renewals(
        &mut self,
        renewals: Vec<Renewal>,
        response: Result<Response, Error>,
    ) {
        let times = match response {
            Ok(Response::RenewedMany(times)) => Ok(times),
            Ok(_) => Err(Error::Corrupt),
            Err(error) => Err(error),
        };
        for (at, renewal) in renewals.into_iter().enumerate() {
            let answer = match &times {
                // One answer for each id: fewer would be a mistake of ours.
                Ok(times) => times
                    .get(at)
                    .map_or(Err(Error::Corrupt), |ttl_s| Ok(Response::Renewed(*ttl_s))),
                Err(error) => Err(error.clone()),
            };
            self.answer(renewal.answer, answer);
        }
    }

    /// What is told to those whose time to be proposed is over.
    pub(super) fn late(&self) -> Error {
        match self.raft.leader() {
            henge_raft::NONE => Error::NoLeader,
            _ => Error::Timeout {
                outcome: Outcome::NotDone,
            },
        }
    }
}
