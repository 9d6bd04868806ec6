//! Ranges too long for one turn: read in slices, between turns, at the revision where they began.
//!
//! An unlimited range over a million keys takes hundreds of milliseconds, in which a shard that read it in
//! one go would commit nothing and answer nobody. So a read that may take longer than a slice gets a
//! cursor: whatever is written meanwhile, it answers the revision at which it began, and its header says
//! that one, so that a client that watches on from there misses nothing.
//!
//! Promises: a slice of one read per look; reads take turns, unless their answers together hold more than
//! [`ASSEMBLED_BYTES_MAX`]: then only the oldest goes on, so that no more than one passes that bound. Each
//! ends at its deadline at the latest, as its cursor holds up physical compaction.
//! Must never know: how reads become linearizable; they come here when they may be answered.

use std::collections::VecDeque;
use std::mem;

use henge_mvcc::{KeyValue, RangeCursor, RangeEnd, RangeResponse, SliceLimits};

use super::Shard;
use super::answer::Answer;
use crate::api::{Error, Header, Outcome};
use crate::machine::{ReadBegun, Response};

/// Reads under way; more are refused, as each may become a large answer.
const RUNNING_MAX: usize = 256;
/// Bytes of answers that are not complete, above which only one is gone on with.
const ASSEMBLED_BYTES_MAX: usize = 64 << 20;
/// Most pairs that room is made for ahead: to grow into 100 MB would be a stall of its own.
const PAIRS_AHEAD_MAX: usize = 4 << 20;

/// Reads of one shard that are under way.
#[derive(Debug, Default)]
pub struct LongReads {
    running: VecDeque<LongRead>,
    /// Bytes of all their pairs so far.
    bytes: usize,
}

#[derive(Debug)]
struct LongRead {
    cursor: RangeCursor,
    /// Of the moment it began.
    header: Header,
    response: RangeResponse,
    /// Of its pairs so far.
    bytes: usize,
    /// Of those and of what its cursor holds, as they count among all.
    held_bytes: usize,
    answer: Answer,
    expires_ms: u64,
}

impl LongReads {
    /// Whether none is under way.
    pub fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    /// Bytes that answers under way hold.
    #[cfg(test)]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Answers *not done* to reads whose time is over.
    pub fn expire(&mut self, now_ms: u64) {
        let late = Error::Timeout {
            outcome: Outcome::NotDone,
        };
        for at in (0..self.running.len()).rev() {
            if self.running[at].expires_ms <= now_ms
                && let Some(read) = self.running.remove(at)
            {
                self.bytes -= read.held_bytes;
                read.answer.send(Err(late.clone()));
            }
        }
    }

    /// Answers everyone with the same error.
    pub fn fail_all(&mut self, error: &Error) {
        self.bytes = 0;
        for read in mem::take(&mut self.running) {
            read.answer.send(Err(error.clone()));
        }
    }
}

impl Shard {
    /// Answers an encoded read that may be answered now: at once if that is short.
    pub(crate) fn read_now(&mut self, encoded: &[u8], answer: Answer, expires_ms: u64) {
        match self.machine.read(encoded) {
            Ok(ReadBegun::Done(response)) => self.answer(answer, Ok(response)),
            Ok(ReadBegun::Long(cursor)) => self.read_long(*cursor, answer, expires_ms),
            Err(error) => self.answer(answer, Err(error)),
        }
    }

    /// Goes on with one read for a slice; returns whether more is left.
    pub fn read_slice(&mut self) -> bool {
        if let Some(read) = self.long_reads.running.pop_front()
            && let Some(read) = self.read_on(read)
        {
            if self.long_reads.bytes > ASSEMBLED_BYTES_MAX {
                self.long_reads.running.push_front(read);
            } else {
                self.long_reads.running.push_back(read);
            }
        }
        !self.long_reads.is_empty()
    }

    /// Begins with the first slice, which is often all.
    fn read_long(&mut self, cursor: RangeCursor, answer: Answer, expires_ms: u64) {
        if self.long_reads.running.len() >= RUNNING_MAX {
            return self.answer(answer, Err(Error::TooManyRequests));
        }
        let begun = LongRead {
            cursor,
            header: self.header(),
            response: RangeResponse::default(),
            bytes: 0,
            held_bytes: 0,
            answer,
            expires_ms,
        };
        if let Some(mut read) = self.read_on(begun) {
            let left = self.machine.store.range_left(&read.cursor);
            read.response.kvs.reserve_exact(left.min(PAIRS_AHEAD_MAX));
            self.long_reads.running.push_back(read);
        }
    }

    /// Reads a slice; gives the read back if there is more.
    fn read_on(&mut self, mut read: LongRead) -> Option<LongRead> {
        let store = &self.machine.store;
        let mut slice = store.range_next(&mut read.cursor, SliceLimits::default());
        if let Some(RangeEnd { more, count }) = slice.end {
            self.long_reads.bytes -= read.held_bytes;
            read.take(&mut slice.kvs);
            (read.response.more, read.response.count) = (more, count);
            let response = Response::Range(read.response);
            self.answer_as_of(read.header, read.answer, Ok(response));
            return None;
        }
        let values = slice.kvs.iter().map(|kv| kv.key.len() + kv.value.len());
        read.bytes += values.sum::<usize>() + mem::size_of_val(slice.kvs.as_slice());
        read.take(&mut slice.kvs);
        let held_bytes = read.bytes + read.cursor.held_bytes();
        self.long_reads.bytes -= mem::replace(&mut read.held_bytes, held_bytes);
        self.long_reads.bytes += held_bytes;
        Some(read)
    }
}

impl LongRead {
    fn take(&mut self, kvs: &mut Vec<KeyValue>) {
        if self.response.kvs.is_empty() {
            self.response.kvs = mem::take(kvs);
        } else {
            self.response.kvs.append(kvs);
        }
    }
}
