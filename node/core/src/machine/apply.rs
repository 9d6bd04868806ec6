//! Applies decoded commands to the store and answers reads from it.
//!
//! A command either changes the store and answers, or answers the caller's error; both are outcomes
//! that every replica agrees on. Bytes that cannot be decoded are neither: they mean that this build
//! does not understand the log, and the shard stops (see [`Machine::apply`]).
//! Must never know: raft messages, callers, the log.

use bytes::Bytes;
use henge_api::{AlarmMember, Error, HashKv, LeaseGranted, LeaseTtl, Status};
use henge_mvcc as mvcc;

use super::alarms::Alarms;
use super::command::{self, Command, CommandError, Stamp};
use super::decoded::{Decoded, LongTxn};
use super::lease_id;

/// The store and how far the log has been applied to it.
pub struct Machine {
    /// The revisioned store.
    pub store: mvcc::Store,
    /// What is raised.
    pub alarms: Alarms,
    /// Index of the last applied entry.
    pub applied_index: u64,
    /// Its term.
    pub applied_term: u64,
    /// Leases that ended as they had run out, since the machine was made.
    pub leases_expired: u64,
}

/// The answer of any operation, before its header is put on.
#[derive(Clone, Debug, PartialEq)]
pub enum Response {
    /// To a range.
    Range(mvcc::RangeResponse),
    /// To a put.
    Put(mvcc::PutResponse),
    /// To a delete.
    Delete(mvcc::DeleteRangeResponse),
    /// To a transaction.
    Txn(mvcc::TxnResponse),
    /// To a cursor that was asked to read on.
    Slice(mvcc::RangeSlice),
    /// To a request that has nothing to say but "done".
    Done,
    /// To a lease grant.
    Granted(LeaseGranted),
    /// To a lease renewal: its time to live in seconds, 0 if there is no such lease.
    Renewed(i64),
    /// To several at once, in their order.
    RenewedMany(Vec<i64>),
    /// To a question about a lease.
    Ttl(LeaseTtl),
    /// All leases.
    Leases(Vec<i64>),
    /// Hash of the content.
    Hash(HashKv),
    /// Alarms: those that are raised, or those that a command was about.
    Alarms(Vec<AlarmMember>),
    /// The member's view of itself.
    Status(Box<Status>),
}

/// What reading came to.
#[derive(Debug)]
pub enum ReadBegun {
    /// The answer.
    Done(Response),
    /// A range that takes more than a slice.
    Long(Box<mvcc::RangeCursor>),
    /// A transaction that takes more than a slice.
    LongTxn(LongTxn),
}

/// What beginning to apply an entry came to.
#[derive(Debug)]
pub enum ApplyBegun {
    /// It is applied.
    Done(Applied),
    /// It may take more than a slice, and nothing of it is done yet: see [`Machine::apply_on`].
    Long(Box<LongApply>),
}

impl ApplyBegun {
    fn long(request: Decoded, write: mvcc::LongWrite) -> Self {
        ApplyBegun::Long(Box::new(LongApply {
            request,
            write,
            leases: 0,
        }))
    }
}

/// A command under way. Of leases that run out together each ends in a revision of its own, so what is done
/// of them may be seen; a command that is replayed passes over those that are gone.
#[derive(Debug)]
pub struct LongApply {
    request: Decoded,
    write: mvcc::LongWrite,
    /// Leases that were seen to.
    leases: usize,
}

/// Whose command was applied and what it answers; nothing for an entry that nobody asked for.
pub type Applied = Option<(Stamp, Result<Response, Error>)>;

impl Machine {
    /// An empty machine.
    pub fn new() -> Self {
        Machine {
            store: mvcc::Store::new(),
            alarms: Alarms::default(),
            applied_index: 0,
            applied_term: 0,
            leases_expired: 0,
        }
    }

    /// Applies one entry's payload. An empty payload is a new leader's empty entry: it has no stamp and
    /// no answer. `now_ms` sets lease deadlines.
    pub fn apply(
        &mut self,
        index: u64,
        term: u64,
        payload: &[u8],
        now_ms: u64,
    ) -> Result<Applied, CommandError> {
        let answer = if payload.is_empty() {
            None
        } else {
            let (stamp, command) = command::decode(payload)?;
            Some((
                stamp,
                has_room(self.execute(&command, stamp, index, now_ms))?,
            ))
        };
        self.applied_index = index;
        self.applied_term = term;
        Ok(answer)
    }

    /// Applies an entry unless that may take longer than a slice: then it is only begun. `is_heard` says
    /// whether somebody waits here for the answer of a command.
    pub fn apply_begin(
        &mut self,
        (index, term): (u64, u64),
        payload: &Bytes,
        now_ms: u64,
        is_heard: impl FnOnce(Stamp) -> bool,
    ) -> Result<ApplyBegun, CommandError> {
        let begin = |request: &(Stamp, Command<'_>)| {
            if let Some(write) = self.begin(request, is_heard) {
                return Ok(Err(write));
            }
            let (stamp, command) = request;
            let outcome = has_room(self.execute(command, *stamp, index, now_ms))?;
            Ok(Ok(Some((*stamp, outcome))))
        };
        let answer = if payload.is_empty() {
            None
        } else if command::is_dear(payload) {
            let request = Decoded::new(payload.clone())?;
            match begin(request.get())? {
                Ok(answer) => answer,
                Err(write) => return Ok(ApplyBegun::long(request, write)),
            }
        } else {
            match begin(&command::decode(payload)?)? {
                Ok(answer) => answer,
                Err(write) => {
                    let request = Decoded::new(payload.clone())?;
                    return Ok(ApplyBegun::long(request, write));
                }
            }
        };
        (self.applied_index, self.applied_term) = (index, term);
        Ok(ApplyBegun::Done(answer))
    }

    /// A write to go on with, if it may take longer than a slice.
    fn begin(
        &self,
        (stamp, command): &(Stamp, Command<'_>),
        is_heard: impl FnOnce(Stamp) -> bool,
    ) -> Option<mvcc::LongWrite> {
        let expires = |id, seen| self.store.lease_expires(id, seen);
        let is_long = match command {
            Command::LeaseExpireMany { ids, .. } => self.store.leases_are_long(ids),
            command => {
                as_long(command, expires).is_some_and(|request| self.store.write_is_long(request))
            }
        };
        // What an alarm refuses is not begun: it gets its refusal where it is carried out.
        if !is_long || self.alarms.refuse(command).is_err() {
            return None;
        }
        Some(match is_heard(*stamp) {
            true => mvcc::LongWrite::default(),
            false => mvcc::LongWrite::unheard(),
        })
    }

    /// Goes on with an entry for about so many nanoseconds' work; its outcome once it is applied. Until then
    /// everybody sees the state before it, and it counts as not applied.
    pub fn apply_on(
        &mut self,
        long: &mut LongApply,
        (index, term): (u64, u64),
        nanos: u64,
    ) -> Result<Option<Applied>, CommandError> {
        let LongApply {
            request,
            write,
            leases,
        } = long;
        let (stamp, command) = request.get();
        let stamp = *stamp;
        let revoked = self.store.leases_revoked();
        if let Command::LeaseExpireMany { seen, ids } = command {
            let is_through = self.expire_on(write, leases, (*seen, ids), nanos);
            self.leases_expired += self.store.leases_revoked() - revoked;
            if !is_through {
                return Ok(None);
            }
            (self.applied_index, self.applied_term) = (index, term);
            return Ok(Some(Some((stamp, Ok(Response::Done)))));
        }
        // Whether a lease expires was decided when this began.
        let outcome = match as_long(command, |_, _| true) {
            Some(request) => self.store.write_next(write, request, nanos),
            None => Some(Err(mvcc::Error::KeyNotFound)),
        };
        if matches!(command, Command::LeaseExpire { .. }) {
            self.leases_expired += self.store.leases_revoked() - revoked;
        }
        let Some(outcome) = outcome else {
            return Ok(None);
        };
        let outcome = has_room(outcome.map_err(Error::from))?;
        (self.applied_index, self.applied_term) = (index, term);
        let response = outcome.map(|answer| match answer {
            mvcc::LongAnswer::Put(response) => Response::Put(response),
            mvcc::LongAnswer::DeleteRange(response) => Response::Delete(response),
            mvcc::LongAnswer::Txn(response) => Response::Txn(response),
            mvcc::LongAnswer::LeaseRevoke(_) => Response::Done,
        });
        Ok(Some(Some((stamp, response))))
    }

    /// Goes on with leases that ran out together; returns whether all were seen to.
    fn expire_on(
        &mut self,
        write: &mut mvcc::LongWrite,
        leases: &mut usize,
        (seen, ids): (u64, &[i64]),
        nanos: u64,
    ) -> bool {
        let until = self.store.work().nanos().saturating_add(nanos);
        while let Some(id) = ids.get(*leases) {
            if self.store.lease_expires(*id, seen) {
                let left = until.saturating_sub(self.store.work().nanos());
                let request = mvcc::LongRequest::LeaseRevoke(*id);
                // One that is gone already has ended as it should.
                if self.store.write_next(write, request, left).is_none() {
                    return false;
                }
                *write = mvcc::LongWrite::unheard();
            }
            *leases += 1;
            if self.store.work().nanos() >= until && *leases < ids.len() {
                return false;
            }
        }
        true
    }

    /// Goes on with a transaction's read, which [`Machine::read`] began.
    pub fn read_txn_on(&self, long: &mut LongTxn, nanos: u64) -> Option<Result<Response, Error>> {
        let (txn, read) = match long.parts() {
            Ok((Command::Txn(txn), read)) => (txn, read),
            _ => return Some(Err(Error::Corrupt)),
        };
        let found = self.store.txn_read_next(read, txn, nanos)?;
        Some(found.map(Response::Txn).map_err(Error::from))
    }

    /// Answers an encoded read (a range, or a transaction that only reads) from the store as it is now.
    /// One that may take longer than a slice is only begun.
    pub fn read(&self, encoded: Vec<u8>) -> Result<ReadBegun, Error> {
        if command::is_dear(&encoded) {
            return self.read_dear(encoded.into());
        }
        let (_, command) = command::decode(&encoded).map_err(|_| Error::Corrupt)?;
        let response = match &command {
            Command::Range(range) if self.store.range_is_long(range) => {
                return Ok(ReadBegun::Long(Box::new(self.store.range_begin(range)?)));
            }
            Command::Range(range) => Response::Range(self.store.range(range)?),
            Command::Txn(txn) if self.store.txn_is_long(txn) => {
                drop(command);
                return self.read_dear(encoded.into());
            }
            Command::Txn(txn) => Response::Txn(self.store.txn_read(txn)?),
            _ => return Err(Error::Corrupt),
        };
        Ok(ReadBegun::Done(response))
    }

    /// A transaction's read, decoded once.
    fn read_dear(&self, encoded: Bytes) -> Result<ReadBegun, Error> {
        let request = Decoded::new(encoded.clone()).map_err(|_| Error::Corrupt)?;
        let read = match &request.get().1 {
            Command::Txn(txn) if self.store.txn_is_long(txn) => self.store.txn_read_begin(txn),
            Command::Txn(txn) => {
                let response = Response::Txn(self.store.txn_read(txn)?);
                return Ok(ReadBegun::Done(response));
            }
            _ => return Err(Error::Corrupt),
        };
        Ok(ReadBegun::LongTxn(LongTxn::new(encoded, request, read)))
    }

    fn execute(
        &mut self,
        command: &Command<'_>,
        stamp: Stamp,
        index: u64,
        now_ms: u64,
    ) -> Result<Response, Error> {
        // The same on every replica: what is raised is said by the log. (Whatever applies a command
        // otherwise, in slices say, must ask this first.)
        self.alarms.refuse(command)?;
        let store = &mut self.store;
        let revoked = store.leases_revoked();
        Ok(match command {
            Command::Alarm { action, alarm } => {
                Response::Alarms(self.alarms.apply(*action, *alarm))
            }
            Command::Put(put) => Response::Put(store.put(put)?),
            Command::DeleteRange(delete) => Response::Delete(store.delete_range(delete)?),
            Command::Txn(txn) => Response::Txn(store.txn(txn)?),
            Command::Range(range) => Response::Range(store.range(range)?),
            Command::Compact { revision, .. } => {
                store.compact(*revision)?;
                Response::Done
            }
            Command::LeaseGrant { id, ttl_s } => {
                let id = if *id == 0 {
                    lease_id::of_stamp(stamp)
                } else {
                    *id
                };
                let ttl_s = store.lease_grant_at(id, *ttl_s, index, now_ms)?;
                Response::Granted(LeaseGranted { id, ttl_s })
            }
            Command::LeaseRevoke { id } => {
                store.lease_revoke(*id)?;
                Response::Done
            }
            Command::LeaseRenew { id } => {
                Response::Renewed(store.lease_renew(*id, index, now_ms).unwrap_or(0))
            }
            Command::LeaseExpire { id, seen } => {
                let ended = store.lease_expire(*id, *seen);
                self.leases_expired += store.leases_revoked() - revoked;
                ended?;
                Response::Done
            }
            Command::LeaseRenewMany { ids } => {
                let renew = |id: &i64| store.lease_renew(*id, index, now_ms).unwrap_or(0);
                Response::RenewedMany(ids.iter().map(renew).collect())
            }
            Command::LeaseExpireMany { seen, ids } => {
                for id in ids {
                    match store.lease_expire(*id, *seen) {
                        // One that is gone already has ended as it should.
                        Ok(_) | Err(mvcc::Error::LeaseNotFound) => {}
                        Err(error) => return Err(error.into()),
                    }
                }
                self.leases_expired += store.leases_revoked() - revoked;
                Response::Done
            }
        })
    }

    /// Remaining time of a lease, as this replica's clock sees it.
    pub fn lease_time_to_live(&self, id: i64, keys: bool, now_ms: u64) -> LeaseTtl {
        match self.store.lease_time_to_live(id, now_ms, keys) {
            Some(found) => LeaseTtl {
                id,
                ttl_s: found.remaining_ttl_s,
                granted_ttl_s: found.granted_ttl_s,
                keys: found.keys,
            },
            None => LeaseTtl {
                id,
                ttl_s: -1,
                granted_ttl_s: 0,
                keys: Vec::new(),
            },
        }
    }
}

impl Default for Machine {
    fn default() -> Self {
        Machine::new()
    }
}

/// Others may have had room for what was agreed on: a replica that has none does not go on without it.
fn has_room<T>(outcome: Result<T, Error>) -> Result<Result<T, Error>, CommandError> {
    match outcome {
        Err(Error::Invalid(mvcc::Error::NoSpace)) => Err(CommandError::NoRoom),
        outcome => Ok(outcome),
    }
}

/// A command that is carried out in slices where it is long; `expires`: whether a lease that ran out at this
/// position of the log still is.
fn as_long<'r, 'a>(
    command: &'r Command<'a>,
    expires: impl FnOnce(i64, u64) -> bool,
) -> Option<mvcc::LongRequest<'r, 'a>> {
    // No wildcard: a new kind of command has to say here whether it can be long.
    match command {
        Command::Put(put) => Some(mvcc::LongRequest::Put(put)),
        Command::DeleteRange(delete) => Some(mvcc::LongRequest::DeleteRange(delete)),
        Command::Txn(txn) => Some(mvcc::LongRequest::Txn(txn)),
        Command::LeaseRevoke { id } => Some(mvcc::LongRequest::LeaseRevoke(*id)),
        Command::LeaseExpire { id, seen } => {
            expires(*id, *seen).then_some(mvcc::LongRequest::LeaseRevoke(*id))
        }
        // A bounded number of leases, or a number; a range never enters the log.
        Command::Range(_)
        | Command::Compact { .. }
        | Command::LeaseGrant { .. }
        | Command::LeaseRenew { .. }
        | Command::LeaseRenewMany { .. }
        | Command::Alarm { .. } => None,
        // A write for each: see `expire_on`.
        Command::LeaseExpireMany { .. } => None,
    }
}
