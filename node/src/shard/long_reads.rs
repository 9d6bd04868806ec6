//! Ranges too long for one turn: read in slices, between turns, at the revision where they began.
//!
//! An unlimited range over a million keys takes hundreds of milliseconds, in which a shard that read it in
//! one go would commit nothing and answer nobody. So a read that may take longer than a slice gets a
//! cursor: whatever is written meanwhile, it answers the revision at which it began, and its header says
//! that one, so that a client that watches on from there misses nothing.
//!
//! Promises: every read that is under way gets a slice in its turn, and none has a deadline here: it is being
//! worked on until it is answered or its caller has gone (etcd has no deadline for a read either). Memory is
//! bounded: while the answers under way hold more than [`ASSEMBLED_BYTES_MAX`] together, of those that hold more
//! than their share of it only the oldest goes on; it comes to its end, as what it reads does not grow, and then
//! the next one is the oldest. The others take their turns with it: a read that stays within its share waits
//! for nobody's end. So all together hold no more than twice that bound, and one answer.
//! Must never know: how reads become linearizable; they come here when they may be answered.

use std::collections::VecDeque;
use std::mem;

use henge_mvcc::{KeyValue, RangeCursor, RangeEnd, RangeResponse, SliceLimits};

use super::Shard;
use super::answer::Answer;
use crate::api::{Error, Header};
use crate::machine::{ReadBegun, Response};

/// Reads under way; more are refused, as each may become a large answer.
const RUNNING_MAX: usize = 256;
/// Bytes of answers that are not complete, above which only one of those with more than their share goes on.
const ASSEMBLED_BYTES_MAX: usize = 64 << 20;
/// Most pairs that room is made for ahead: to grow into 100 MB would be a stall of its own.
const PAIRS_AHEAD_MAX: usize = 4 << 20;

/// Reads of one shard that are under way.
#[derive(Debug)]
pub struct LongReads {
    /// In the order of their turns.
    running: VecDeque<LongRead>,
    /// Reads begun so far.
    begun: u64,
    /// Bytes of all their pairs so far.
    bytes: usize,
    /// [`ASSEMBLED_BYTES_MAX`], but for tests.
    bytes_max: usize,
}

#[derive(Debug)]
struct LongRead {
    cursor: RangeCursor,
    /// Its place in the order of beginning.
    number: u64,
    /// Of the moment it began.
    header: Header,
    response: RangeResponse,
    /// Of its pairs so far.
    bytes: usize,
    /// Of those and of what its cursor holds, as they count among all.
    held_bytes: usize,
    answer: Answer,
}

impl Default for LongReads {
    fn default() -> Self {
        LongReads {
            running: VecDeque::new(),
            begun: 0,
            bytes: 0,
            bytes_max: ASSEMBLED_BYTES_MAX,
        }
    }
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

    /// Ends reads whose callers have gone: a read that nobody waits for would hold history back.
    pub fn drop_abandoned(&mut self) {
        self.running.retain(|read| {
            let is_abandoned = read.answer.is_abandoned();
            if is_abandoned {
                self.bytes -= read.held_bytes;
            }
            !is_abandoned
        });
    }

    /// The read whose turn it is.
    fn next(&mut self) -> Option<LongRead> {
        if self.bytes <= self.bytes_max {
            return self.running.pop_front();
        }
        let share = self.bytes_max / self.running.len().max(1);
        let is_large = |read: &&LongRead| read.held_bytes > share;
        let large = self.running.iter().filter(is_large);
        let oldest = large.map(|read| read.number).min();
        let may_go_on = |read: &LongRead| !is_large(&read) || Some(read.number) == oldest;
        let at = self.running.iter().position(may_go_on)?;
        self.running.remove(at)
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
    pub(crate) fn read_now(&mut self, encoded: &[u8], answer: Answer) {
        match self.machine.read(encoded) {
            Ok(ReadBegun::Done(response)) => self.answer(answer, Ok(response)),
            Ok(ReadBegun::Long(cursor)) => self.read_long(*cursor, answer),
            Err(error) => self.answer(answer, Err(error)),
        }
    }

    /// Goes on with one read for a slice; returns whether more is left.
    pub fn read_slice(&mut self) -> bool {
        if let Some(read) = self.long_reads.next() {
            if read.answer.is_abandoned() {
                self.long_reads.bytes -= read.held_bytes;
            } else if let Some(read) = self.read_on(read) {
                self.long_reads.running.push_back(read);
            }
        }
        !self.long_reads.is_empty()
    }

    /// Begins with the first slice, which is often all.
    fn read_long(&mut self, cursor: RangeCursor, answer: Answer) {
        if self.long_reads.running.len() >= RUNNING_MAX {
            return self.answer(answer, Err(Error::TooManyRequests));
        }
        self.long_reads.begun += 1;
        let begun = LongRead {
            cursor,
            number: self.long_reads.begun,
            header: self.header(),
            response: RangeResponse::default(),
            bytes: 0,
            held_bytes: 0,
            answer,
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

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use super::*;
    use crate::machine::Command;
    use crate::shard::answer::AnswerReceiver;
    use crate::shard::tests::start;
    use henge_mvcc::{KeyRange, PutRequest, RangeRequest};

    const VALUE_BYTES: usize = 1_000;

    /// A shard of 12,000 keys of 1 kB, and 3,000 behind them that are small.
    fn filled() -> Shard {
        let mut shard = start(&[1], 1);
        for n in 0..15_000u32 {
            let size = if n < 12_000 { VALUE_BYTES } else { 1 };
            let request = PutRequest {
                key: &n.to_be_bytes(),
                value: &[7; VALUE_BYTES][..size],
                ..PutRequest::default()
            };
            shard.machine.store.put(&request).expect("valid");
        }
        shard
    }

    /// Asks for some keys.
    fn ask(shard: &mut Shard, keys: Range<u32>) -> Option<AnswerReceiver> {
        let range = RangeRequest {
            range: KeyRange {
                key: &keys.start.to_be_bytes(),
                end: &keys.end.to_be_bytes(),
            },
            ..RangeRequest::default()
        };
        let (answer, receiver) = Answer::channel();
        shard.read_now(&Command::Range(range).encode(), answer);
        Some(receiver)
    }

    /// Is the answer there, for the first time?
    fn answered(shard: &mut Shard, receiver: &mut Option<AnswerReceiver>) -> bool {
        if let Some(chain) = shard.flush_answers() {
            chain.release();
        }
        let answer = receiver.as_mut().and_then(AnswerReceiver::try_recv);
        let is_there = answer.map(|answer| answer.expect("valid")).is_some();
        if is_there {
            *receiver = None;
        }
        is_there
    }

    /// They were served one after another once they held much together; the last of twelve waited for all
    /// the others, and a short one for the end of whatever was the first.
    #[test]
    fn regression_twelve_ranges_of_everything_end_and_a_short_one_passes_them() {
        let mut shard = filled();
        let bytes_max = 8 << 20;
        shard.long_reads.bytes_max = bytes_max;
        let mut large: Vec<_> = (0..12).map(|_| ask(&mut shard, 0..15_000)).collect();
        let (mut short, mut since) = (None, 0);
        let (mut slices, mut bytes_most, mut short_took) = (0, 0, 0);
        while shard.read_slice() {
            slices += 1;
            bytes_most = bytes_most.max(shard.long_reads.bytes());
            if since == 0 && shard.long_reads.bytes() > bytes_max {
                (short, since) = (ask(&mut shard, 12_000..15_000), slices);
            }
            if answered(&mut shard, &mut short) {
                short_took = slices - since;
            }
        }
        assert!(
            large
                .iter_mut()
                .all(|receiver| answered(&mut shard, receiver))
        );
        // A few slices of its own, between those of one large one.
        assert!((1..20).contains(&short_took), "{short_took} of {slices}");
        let one = 15_000 * (VALUE_BYTES + 100);
        assert!(bytes_most <= 2 * bytes_max + one, "{bytes_most}");
        assert_eq!(shard.long_reads.bytes(), 0);
    }

    #[test]
    fn ranges_that_hold_little_take_turns() {
        let mut shard = filled();
        let mut receivers: Vec<_> = (0..5).map(|_| ask(&mut shard, 0..3_000)).collect();
        let (mut ended, mut slices) = (Vec::new(), 0);
        let mut more = true;
        while more {
            more = shard.read_slice();
            slices += 1;
            for (at, receiver) in receivers.iter_mut().enumerate() {
                if answered(&mut shard, receiver) {
                    ended.push((at, slices));
                }
            }
        }
        let order: Vec<_> = ended.iter().map(|(at, _)| *at).collect();
        assert_eq!(order, [0, 1, 2, 3, 4]);
        assert_eq!(ended[4].1 - ended[0].1, 4, "in one round: {ended:?}");
    }
}
