//! A transaction that only reads, in slices, all of it at the revision at which it began.
//!
//! What it may read stays until it is dropped or done, as for a range (see `cursor`). The request comes with
//! every slice, so that nothing is copied of it. Tested by `tests/long.rs`.

use super::decide::Decided;
use crate::cursor::{RangeCursor, RangeEnd};
use crate::error::Error;
use crate::pins::Pin;
use crate::store::{Moment, Store};
use crate::txn::branch_of;
use crate::types::{RangeResponse, RequestOp, ResponseOp, TxnRequest, TxnResponse};

/// A transaction that is being read. Drop it when done: physical compaction waits for it.
#[derive(Debug)]
pub struct LongTxnRead {
    moment: Moment,
    pin: Pin,
    decided: Decided,
    is_decided: bool,
    /// Operations that were found sound, once it is known which will be read.
    checked: usize,
    range: Option<(RangeCursor, RangeResponse)>,
    answers: Vec<ResponseOp>,
    bytes: usize,
}

impl LongTxnRead {
    /// The revision that is read.
    pub fn revision(&self) -> i64 {
        self.moment.revision
    }

    /// Transactions, operations and comparisons of the request, as far as they were counted.
    pub fn parts(&self) -> usize {
        self.decided.parts()
    }

    /// The request was read again: that is counted again.
    pub fn request_again(&mut self) {
        self.decided.count_again();
    }

    /// Bytes that it holds of answers.
    pub fn held_bytes(&self) -> usize {
        let cursor = self
            .range
            .as_ref()
            .map_or(0, |(cursor, _)| cursor.held_bytes());
        self.bytes + cursor
    }

    /// Lets up to `max` pairs of a read that nobody wants any more go; returns how many, or 0 at the end.
    pub fn let_go(&mut self, max: usize) -> usize {
        if let Some((cursor, response)) = self.range.take() {
            let left = match cursor.into_pairs() {
                pairs if pairs.is_empty() => None,
                kvs => Some(RangeResponse {
                    kvs,
                    ..RangeResponse::default()
                }),
            };
            let both = [Some(response), left].into_iter().flatten();
            self.answers.extend(both.map(ResponseOp::Range));
        }
        let_go(&mut self.answers, max)
    }
}

/// Lets up to `max` pairs and answers go, from the end; returns how many, or 0 at the end. Millions of them
/// take as long as reading them did.
pub fn let_go(answers: &mut Vec<ResponseOp>, max: usize) -> usize {
    let mut gone = 0;
    while gone < max {
        let left = max - gone;
        gone += match answers.last_mut() {
            Some(ResponseOp::Range(range)) if !range.kvs.is_empty() => {
                shorten(&mut range.kvs, left)
            }
            Some(ResponseOp::DeleteRange(delete)) if !delete.prev_kvs.is_empty() => {
                shorten(&mut delete.prev_kvs, left)
            }
            Some(ResponseOp::Txn(txn)) if !txn.responses.is_empty() => {
                let_go(&mut txn.responses, left)
            }
            Some(_) => {
                answers.pop();
                1
            }
            None => break,
        };
    }
    gone
}

/// Takes up to `max` off the end; returns how many.
pub(super) fn shorten<T>(list: &mut Vec<T>, max: usize) -> usize {
    let before = list.len();
    list.truncate(before.saturating_sub(max));
    before - list.len()
}

impl Store {
    /// Begins to read a transaction at the current revision.
    pub fn txn_read_begin(&self, request: &TxnRequest<'_>) -> LongTxnRead {
        let both = request.success.iter().chain(&request.failure);
        // It is not known yet which of them will be read.
        let oldest = both.filter_map(|op| match op {
            RequestOp::Range(range) if range.revision > 0 => Some(range.revision),
            _ => None,
        });
        let oldest = oldest.fold(self.revision, i64::min);
        LongTxnRead {
            moment: self.moment(),
            pin: self.pin(oldest.max(self.compacted), self.revision),
            decided: Decided::default(),
            is_decided: false,
            checked: 0,
            range: None,
            answers: Vec::new(),
            bytes: 0,
        }
    }

    /// Reads on for about so many nanoseconds' work; the answer is what [`Store::txn_read`] would have given
    /// at the beginning. `request` is the one it began with.
    pub fn txn_read_next(
        &self,
        read: &mut LongTxnRead,
        request: &TxnRequest<'_>,
        nanos: u64,
    ) -> Option<Result<TxnResponse, Error>> {
        self.read_once(&mut read.decided, request);
        let until = self.meter.nanos().saturating_add(nanos);
        self.txn_read_until(read, request, until).transpose()
    }

    fn txn_read_until(
        &self,
        read: &mut LongTxnRead,
        request: &TxnRequest<'_>,
        until: u64,
    ) -> Result<Option<TxnResponse>, Error> {
        let at = read.moment.revision;
        self.meter.look(1);
        if !read.is_decided {
            if !self.decide_on(&mut read.decided, request, at, until)? {
                return Ok(None);
            }
            read.is_decided = true;
        }
        let succeeded = read.decided.outcomes().first().copied().unwrap_or_default();
        let ops = branch_of(request, succeeded);
        while let Some(op) = ops.get(read.checked) {
            self.check_op(op, read.moment)?;
            self.meter.look(1);
            read.checked += 1;
            if self.is_late(until) {
                return Ok(None);
            }
        }
        if read.answers.capacity() == 0 {
            read.answers.reserve_exact(ops.len());
        }
        while let Some(op) = ops.get(read.answers.len()) {
            let RequestOp::Range(range) = op else {
                return Err(Error::KeyNotFound);
            };
            let (cursor, response) = match &mut read.range {
                Some(range) => range,
                none => {
                    let cursor = self.range_begin_at(range, read.moment, read.pin.clone())?;
                    let mut response = RangeResponse::default();
                    response.kvs.reserve_exact(self.room_for(&cursor));
                    none.insert((cursor, response))
                }
            };
            let mut slice = self.range_next(cursor, self.limits_until(until));
            read.bytes += slice.bytes;
            if response.kvs.is_empty() {
                response.kvs = slice.kvs;
            } else {
                response.kvs.append(&mut slice.kvs);
            }
            if let Some(RangeEnd { more, count }) = slice.end {
                (response.more, response.count) = (more, count);
                let response = read.range.take().map(|(_, response)| response);
                let response = response.unwrap_or_default();
                read.answers.push(ResponseOp::Range(response));
            }
            if self.is_late(until) && read.answers.len() < ops.len() {
                return Ok(None);
            }
        }
        self.counted.read(ops.len());
        self.let_request_go(&read.decided);
        Ok(Some(TxnResponse {
            succeeded,
            responses: std::mem::take(&mut read.answers),
        }))
    }
}
