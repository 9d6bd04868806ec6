//! A write in slices.
//!
//! In the order of the command in one go: comparisons, then checks of all operations, then the
//! changes, then the watchers; see `txn`. Nothing is changed before the checks are through, and nobody sees a
//! change before the last slice. The request comes with every slice, so that nothing is copied of it.
//! Tested by `tests/long.rs`.

use std::mem;
use std::ops::{Bound, ControlFlow};

use super::decide::Decided;
use super::order::KeyOrder;
use super::walk::{Step, Walk};
use super::{SHORT_KEYS_MAX, SHORT_OPS_MAX};
use crate::cursor::{RangeCursor, RangeEnd};
use crate::error::Error;
use crate::names::KeyId;
use crate::store::Store;
use crate::types::{
    DeleteRangeRequest, DeleteRangeResponse, KeyRange, PutRequest, PutResponse, RangeResponse,
    RequestOp, ResponseOp, TxnRequest, TxnResponse,
};
use crate::watch::TOLD_MAX;
use crate::work::LOOK_NANOS;

/// Keys that a delete looks at before it deletes those that are there.
const DELETE_KEYS: usize = 256;
/// Most pairs that room is made for ahead.
const PAIRS_AHEAD_MAX: usize = 4 << 20;

/// What is written.
#[derive(Clone, Copy, Debug)]
pub enum LongRequest<'r, 'a> {
    /// [`Store::put`].
    Put(&'r PutRequest<'a>),
    /// [`Store::delete_range`].
    DeleteRange(&'r DeleteRangeRequest<'a>),
    /// [`Store::txn`].
    Txn(&'r TxnRequest<'a>),
    /// [`Store::lease_revoke`].
    LeaseRevoke(i64),
}

/// What it came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LongAnswer {
    /// Of a put.
    Put(PutResponse),
    /// Of a delete.
    DeleteRange(DeleteRangeResponse),
    /// Of a transaction.
    Txn(TxnResponse),
    /// Keys that went with a lease.
    LeaseRevoke(i64),
}

/// A write under way. Once begun it has to be brought to its end: a store that is half through one is of no
/// use.
#[derive(Debug, Default)]
pub struct LongWrite {
    stage: Stage,
    decided: Decided,
    /// How far this stage is.
    walk: Walk,
    op: Option<Op>,
    /// Of the transactions around, the outermost first.
    answers: Vec<TxnResponse>,
    answer: Option<LongAnswer>,
    /// Found while the changes were made: those stay.
    error: Option<Error>,
    /// Keys of a lease, in order once they are.
    attached: Vec<KeyId>,
    order: Option<KeyOrder>,
    /// Of these keys so many are deleted.
    deleted: usize,
    /// Changes that watchers were told of.
    told: usize,
    /// Nobody waits for the answer: pairs are left out of it.
    is_unheard: bool,
    /// The end of a lease that was counted.
    is_counted: bool,
}

impl LongWrite {
    /// A write whose answer nobody waits for, as on every replica but one: it is made without pairs.
    pub fn unheard() -> Self {
        LongWrite {
            is_unheard: true,
            ..LongWrite::default()
        }
    }

    /// The answer of an operation of the innermost transaction.
    fn add(&mut self, answer: ResponseOp) {
        if let Some(around) = self.answers.last_mut() {
            around.responses.push(answer);
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Decide,
    Check,
    Gather,
    Order,
    Change,
    Tell,
}

/// An operation that takes more than a slice.
#[derive(Debug)]
enum Op {
    Range(Box<(RangeCursor, RangeResponse)>),
    Delete {
        after: Option<Vec<u8>>,
        response: DeleteRangeResponse,
    },
}

impl Store {
    /// Might a write take longer than a slice?
    pub fn write_is_long(&self, request: LongRequest<'_, '_>) -> bool {
        match request {
            LongRequest::Put(put) => self.tells_many(put.key),
            LongRequest::DeleteRange(delete) if delete.range.is_one() => {
                self.tells_many(delete.range.key)
            }
            LongRequest::DeleteRange(delete) => {
                let gone = self.keys.len() - self.index.live();
                delete.prev_kv || gone > SHORT_KEYS_MAX || {
                    let count = self.count(delete.range, self.revision);
                    self.keys_are_long(usize::try_from(count).unwrap_or(usize::MAX))
                }
            }
            LongRequest::Txn(txn) => self.txn_is_long(txn) || self.txn_tells_many(txn),
            LongRequest::LeaseRevoke(id) => self.keys_are_long(self.leases.keys_of(id).len()),
        }
    }

    /// Might changes of so many keys take longer than a slice?
    fn keys_are_long(&self, count: usize) -> bool {
        count > SHORT_KEYS_MAX || self.watchers.may_be_many(count)
    }

    /// Has a key more watchers than are told in one go?
    fn tells_many(&self, key: &[u8]) -> bool {
        self.watchers.may_be_many(1) && self.told_with(key, 0) > TOLD_MAX
    }

    /// Have the keys of a short transaction, either way it goes?
    fn txn_tells_many(&self, request: &TxnRequest<'_>) -> bool {
        self.watchers.may_be_many(SHORT_OPS_MAX) && self.txn_told_with(request, 0) > TOLD_MAX
    }

    fn txn_told_with(&self, request: &TxnRequest<'_>, told: usize) -> usize {
        let both = request.success.iter().chain(&request.failure);
        both.fold(told, |told, op| match op {
            RequestOp::Range(_) => told,
            RequestOp::Put(put) => self.told_with(put.key, told),
            RequestOp::DeleteRange(delete) => self.told_with(delete.range.key, told),
            RequestOp::Txn(nested) => self.txn_told_with(nested, told),
        })
    }

    /// So many watchers, with those that a change of `key` is told to; once there are too many, no more are
    /// looked for.
    fn told_with(&self, key: &[u8], told: usize) -> usize {
        if told > TOLD_MAX {
            return told;
        }
        let (of_key, looked_at) = self.watchers.told_of(key, TOLD_MAX - told);
        self.meter.look(looked_at);
        told + of_key
    }

    /// Might the end of all these leases, one by one, take longer than a slice?
    pub fn leases_are_long(&self, ids: &[i64]) -> bool {
        let keys = ids.iter().map(|&id| self.leases.keys_of(id).len());
        self.keys_are_long(keys.sum())
    }

    /// Goes on with a write for about so many nanoseconds' work; its outcome once it is through. `request` is
    /// the same every time, and no other write comes in between.
    pub fn write_next(
        &mut self,
        write: &mut LongWrite,
        request: LongRequest<'_, '_>,
        nanos: u64,
    ) -> Option<Result<LongAnswer, Error>> {
        let until = self.meter.nanos().saturating_add(nanos);
        self.meter.look(1);
        let through = match request {
            LongRequest::Txn(txn) => self.txn_on(write, txn, nanos),
            LongRequest::Put(put) => self.put_on(write, put, until),
            LongRequest::DeleteRange(delete) => self.delete_range_on(write, delete, until),
            LongRequest::LeaseRevoke(id) => self.revoke_on(write, id, until),
        };
        through.transpose()
    }

    fn txn_on(
        &mut self,
        write: &mut LongWrite,
        request: &TxnRequest<'_>,
        nanos: u64,
    ) -> Result<Option<LongAnswer>, Error> {
        self.read_once(&mut write.decided, request);
        let until = self.meter.nanos().saturating_add(nanos);
        if write.stage == Stage::Decide {
            if !self.decide_on(&mut write.decided, request, self.revision, until)? {
                return Ok(None);
            }
            write.stage = Stage::Check;
        }
        if !self.check_on(write, request, until)? || !self.change_on(write, request, until)? {
            return Ok(None);
        }
        if !self.tell_on(write, until) {
            return Ok(None);
        }
        self.let_request_go(&write.decided);
        match write.error.take() {
            Some(error) => Err(error),
            None => Ok(write.answer.take()),
        }
    }

    fn put_on(
        &mut self,
        write: &mut LongWrite,
        request: &PutRequest<'_>,
        until: u64,
    ) -> Result<Option<LongAnswer>, Error> {
        if write.stage == Stage::Decide {
            self.check_lone_put(request)?;
            write.stage = Stage::Change;
        }
        if write.stage == Stage::Change {
            self.open_write();
            let op = RequestOp::Put(request.clone());
            match self.op_until(write, &op, until) {
                Ok(Some(ResponseOp::Put(response))) => {
                    write.answer = Some(LongAnswer::Put(response))
                }
                Ok(_) => return Ok(None),
                Err(error) => write.error = Some(error),
            }
            write.stage = Stage::Tell;
        }
        if !self.tell_on(write, until) {
            return Ok(None);
        }
        match write.error.take() {
            Some(error) => Err(error),
            None => Ok(write.answer.take()),
        }
    }

    fn delete_range_on(
        &mut self,
        write: &mut LongWrite,
        request: &DeleteRangeRequest<'_>,
        until: u64,
    ) -> Result<Option<LongAnswer>, Error> {
        if write.stage == Stage::Decide {
            if request.range.key.is_empty() {
                return Err(Error::EmptyKey);
            }
            write.stage = Stage::Change;
        }
        if write.stage == Stage::Change {
            self.open_write();
            let op = RequestOp::DeleteRange(request.clone());
            let Some(ResponseOp::DeleteRange(response)) = self.op_until(write, &op, until)? else {
                return Ok(None);
            };
            write.answer = Some(LongAnswer::DeleteRange(response));
            write.stage = Stage::Tell;
        }
        if !self.tell_on(write, until) {
            return Ok(None);
        }
        Ok(write.answer.take())
    }

    /// See `Store::check_path_at`. Returns whether all were checked.
    fn check_on(
        &self,
        write: &mut LongWrite,
        request: &TxnRequest<'_>,
        until: u64,
    ) -> Result<bool, Error> {
        if write.stage != Stage::Check {
            return Ok(true);
        }
        let mut way = write.walk.way(request)?;
        while let Some(step) = write.walk.step(request, &mut way, write.decided.outcomes()) {
            if let Step::Op(op) = step {
                self.check_op(op, self.moment())?;
            }
            self.meter.look(1);
            if self.is_late(until) {
                return Ok(false);
            }
        }
        (write.walk, write.stage) = (Walk::default(), Stage::Change);
        Ok(true)
    }

    /// Makes the changes; returns whether all are made.
    fn change_on(
        &mut self,
        write: &mut LongWrite,
        request: &TxnRequest<'_>,
        until: u64,
    ) -> Result<bool, Error> {
        if write.stage != Stage::Change {
            return Ok(true);
        }
        self.open_write();
        let mut way = write.walk.way(request)?;
        let under_way = write.op.as_ref().and_then(|_| write.walk.passed(&way));
        let mut next = under_way.map(Step::Op);
        loop {
            let step = next.take().or_else(|| {
                let outcomes = write.decided.outcomes();
                write.walk.step(request, &mut way, outcomes)
            });
            match step {
                None => break,
                Some(Step::Enter { succeeded, ops }) => {
                    self.meter.look(1);
                    write.answers.push(TxnResponse {
                        succeeded,
                        responses: Vec::with_capacity(ops),
                    });
                }
                Some(Step::Op(op)) => match self.op_until(write, op, until) {
                    Ok(Some(answer)) => write.add(answer),
                    Ok(None) => return Ok(false),
                    Err(error) => {
                        write.error = Some(error);
                        break;
                    }
                },
                Some(Step::Leave) => {
                    let answer = write.answers.pop().unwrap_or_default();
                    match write.answers.is_empty() {
                        true => write.answer = Some(LongAnswer::Txn(answer)),
                        false => write.add(ResponseOp::Txn(Box::new(answer))),
                    }
                }
            }
            if self.is_late(until) {
                return Ok(false);
            }
        }
        write.stage = Stage::Tell;
        Ok(true)
    }

    /// Goes on with an operation until it is late; its answer once it is done.
    fn op_until(
        &mut self,
        write: &mut LongWrite,
        op: &RequestOp<'_>,
        until: u64,
    ) -> Result<Option<ResponseOp>, Error> {
        loop {
            match self.op_on(write.op.take(), op, write.is_unheard, until)? {
                Ok(answer) => return Ok(Some(answer)),
                Err(under_way) => write.op = Some(under_way),
            }
            if self.is_late(until) {
                return Ok(None);
            }
        }
    }

    /// Goes on with one operation: its answer, or what is to be gone on with.
    fn op_on(
        &mut self,
        under_way: Option<Op>,
        op: &RequestOp<'_>,
        is_unheard: bool,
        until: u64,
    ) -> Result<Result<ResponseOp, Op>, Error> {
        match (&under_way, op) {
            (None, RequestOp::Range(_)) => self.counted.range(),
            // That of one key counts itself.
            (None, RequestOp::DeleteRange(delete)) if !delete.range.is_one() => {
                self.counted.delete(delete);
            }
            _ => {}
        }
        let answer = match (under_way, op) {
            // It was checked before, and changes nothing.
            (None, RequestOp::Range(_)) if is_unheard => {
                ResponseOp::Range(RangeResponse::default())
            }
            (None, RequestOp::Put(put)) => ResponseOp::Put(self.apply_put(put)?),
            (None, RequestOp::Range(range)) if range.range.is_one() => {
                ResponseOp::Range(self.range_seen(range)?)
            }
            (None, RequestOp::Range(range)) => {
                let cursor = self.range_begin_seen(range)?;
                let mut response = RangeResponse::default();
                response.kvs.reserve_exact(self.room_for(&cursor));
                return Ok(self.range_on(Box::new((cursor, response)), until));
            }
            (Some(Op::Range(reading)), _) => return Ok(self.range_on(reading, until)),
            (None, RequestOp::DeleteRange(delete)) if delete.range.is_one() => {
                ResponseOp::DeleteRange(self.apply_delete(delete))
            }
            (None, RequestOp::DeleteRange(delete)) => {
                let mut response = DeleteRangeResponse::default();
                if delete.prev_kv && !is_unheard {
                    let count = self.count(delete.range, self.revision_seen());
                    let count = usize::try_from(count).unwrap_or(0);
                    response.prev_kvs.reserve_exact(count.min(PAIRS_AHEAD_MAX));
                }
                return Ok(self.delete_on(delete, None, response, is_unheard, until));
            }
            (Some(Op::Delete { after, response }), RequestOp::DeleteRange(delete)) => {
                return Ok(self.delete_on(delete, after, response, is_unheard, until));
            }
            // Nested transactions were taken apart.
            (_, _) => return Err(Error::KeyNotFound),
        };
        Ok(Ok(answer))
    }

    fn range_on(
        &self,
        mut reading: Box<(RangeCursor, RangeResponse)>,
        until: u64,
    ) -> Result<ResponseOp, Op> {
        let (cursor, response) = &mut *reading;
        let mut slice = self.range_next(cursor, self.limits_until(until));
        if response.kvs.is_empty() {
            response.kvs = slice.kvs;
        } else {
            response.kvs.append(&mut slice.kvs);
        }
        match slice.end {
            Some(RangeEnd { more, count }) => {
                (response.more, response.count) = (more, count);
                Ok(ResponseOp::Range(mem::take(response)))
            }
            None => Err(Op::Range(reading)),
        }
    }

    /// Deletes some of the keys of a range, of those after the one looked at last.
    fn delete_on(
        &mut self,
        request: &DeleteRangeRequest<'_>,
        after: Option<Vec<u8>>,
        mut response: DeleteRangeResponse,
        is_unheard: bool,
        until: u64,
    ) -> Result<ResponseOp, Op> {
        let range = after.as_ref().map_or(request.range, |after| KeyRange {
            key: after,
            end: request.range.end,
        });
        let (mut ids, mut last, mut looked_at) = (Vec::new(), None, 0);
        self.scan_range(range, |id| {
            let key = self.keys.key(id);
            if after.as_deref() == Some(key) {
                return ControlFlow::Continue(());
            }
            looked_at += 1;
            if !self.keys.newest(id).tombstone {
                ids.push(id);
            }
            if looked_at == DELETE_KEYS {
                last = Some(id);
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        });
        self.meter.look(looked_at);
        for (at, &id) in ids.iter().enumerate() {
            if request.prev_kv && !is_unheard {
                response.prev_kvs.push(self.latest_pair(id));
            }
            self.delete_live(id);
            response.deleted += 1;
            if self.is_late(until) && at + 1 < ids.len() {
                last = Some(id);
                break;
            }
        }
        match last {
            Some(id) => Err(Op::Delete {
                after: Some(self.keys.key(id).to_vec()),
                response,
            }),
            None => Ok(ResponseOp::DeleteRange(response)),
        }
    }

    fn revoke_on(
        &mut self,
        write: &mut LongWrite,
        id: i64,
        until: u64,
    ) -> Result<Option<LongAnswer>, Error> {
        if write.stage == Stage::Decide {
            if !self.leases.contains(id) {
                return Err(Error::LeaseNotFound);
            }
            write.attached.reserve_exact(self.leases.keys_of(id).len());
            write.stage = Stage::Gather;
        }
        if write.stage == Stage::Gather && !self.gather_on(write, id, until) {
            return Ok(None);
        }
        while let Some(order) = &mut write.order {
            let left = until.saturating_sub(self.meter.nanos()) / LOOK_NANOS;
            let (sorted, looks) = order.step(&self.keys, left as usize);
            self.meter.look(looks);
            if let Some(sorted) = sorted {
                (write.attached, write.order, write.stage) = (sorted, None, Stage::Change);
            }
            if self.is_late(until) {
                return Ok(None);
            }
        }
        if write.stage == Stage::Change {
            self.open_write();
            while let Some(&key) = write.attached.get(write.deleted) {
                self.delete_live(key);
                write.deleted += 1;
                if self.is_late(until) {
                    return Ok(None);
                }
            }
            write.stage = Stage::Tell;
        }
        if !write.is_counted {
            write.is_counted = true;
            self.counted.revoked(write.attached.len());
        }
        if !self.tell_on(write, until) {
            return Ok(None);
        }
        self.meter.change(1);
        self.leases.remove(id);
        Ok(Some(LongAnswer::LeaseRevoke(write.attached.len() as i64)))
    }

    /// Collects a lease's keys; returns whether it has all.
    fn gather_on(&self, write: &mut LongWrite, id: i64, until: u64) -> bool {
        let keys = self.leases.keys_of(id);
        while write.attached.len() < keys.len() {
            let from = write
                .attached
                .last()
                .map_or(Bound::Unbounded, |&last| Bound::Excluded(last));
            let next = keys.range((from, Bound::Unbounded)).take(DELETE_KEYS);
            write.attached.extend(next);
            self.meter.look(DELETE_KEYS / 8);
            if self.is_late(until) {
                return false;
            }
        }
        write.order = Some(KeyOrder::new(mem::take(&mut write.attached)));
        write.stage = Stage::Order;
        true
    }

    /// Tells the watchers, then makes the changes current; returns whether it is done.
    fn tell_on(&mut self, write: &mut LongWrite, until: u64) -> bool {
        let changes = self.changes as usize;
        while write.told < changes {
            write.told = self.tell_watchers(write.told, changes, until);
            if self.is_late(until) && write.told < changes {
                return false;
            }
        }
        self.close_write();
        true
    }
}
