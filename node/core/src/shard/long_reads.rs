//! Reads too long for one turn: done in slices, between turns, at the revision where they began.
//!
//! An unlimited range over a million keys takes hundreds of milliseconds, in which a shard that read it in
//! one go would commit nothing and answer nobody; a transaction of ten such ranges, or of comparisons over
//! all of them, took seconds. So a read that may take longer than a slice gets a cursor: whatever is written
//! meanwhile, it answers the revision at which it began, and its header says that one, so that a client that
//! watches on from there misses nothing.
//!
//! Promises: every read that is under way gets a slice in its turn, and none has a deadline here: it is being
//! worked on until it is answered or its caller has gone (etcd has no deadline for a read either). Memory is
//! bounded: while the answers under way hold more than [`ASSEMBLED_BYTES_MAX`] together, of those that hold
//! more than their share of it only the oldest goes on; it comes to its end, as what it reads does not grow,
//! and then the next one is the oldest. The others take their turns with it: a read that stays within its
//! share waits for nobody's end. So all together hold no more than twice that bound, and one answer.
//! Must never know: how reads become linearizable; they come here when they may be answered.

use std::collections::VecDeque;
use std::mem;

use henge_api::{Error, Header, LeaseTtl};
use henge_mvcc::{
    LongLeaseKeys, LongLeases, RangeCursor, RangeEnd, RangeResponse, ResponseOp, SliceLimits,
    let_go,
};

use super::Shard;
use super::answer::Answer;
use crate::machine::{LongTxn, Machine, ReadBegun, Response};
use crate::work::SLICE_NANOS;

/// Reads under way; more are refused, as each may become a large answer.
const RUNNING_MAX: usize = 256;
/// Bytes of answers that are not complete, above which only one of those with more than their share goes on.
const ASSEMBLED_BYTES_MAX: usize = 64 << 20;
/// Pairs of an answer that nobody waits for which are let go at a time: a million take as long as reading
/// them did.
const LET_GO_PAIRS: usize = 4_000;
/// What it takes for one of them.
const LET_GO_NANOS: u64 = 100;
/// Most pairs that room is made for ahead: to grow into 100 MB would be a stall of its own.
const PAIRS_AHEAD_MAX: usize = 4 << 20;

/// Reads of one shard that are under way.
#[derive(Debug)]
pub struct LongReads {
    /// In the order of their turns.
    running: VecDeque<LongRead>,
    /// What nobody waits for and is too much to be let go in one go, with what it counts among all.
    gone: Vec<(Gone, usize)>,
    /// Reads begun so far.
    begun: u64,
    /// Bytes of all their pairs so far, and of those that are being let go.
    bytes: usize,
    /// [`ASSEMBLED_BYTES_MAX`], but for tests.
    bytes_max: usize,
}

#[derive(Debug)]
struct LongRead {
    reading: Reading,
    /// Its place in the order of beginning.
    number: u64,
    /// Of the moment it began.
    header: Header,
    /// What it holds, as it counts among all.
    held_bytes: usize,
    answer: Answer,
}

impl Default for LongReads {
    fn default() -> Self {
        LongReads {
            running: VecDeque::new(),
            gone: Vec::new(),
            begun: 0,
            bytes: 0,
            bytes_max: ASSEMBLED_BYTES_MAX,
        }
    }
}

/// What nobody waits for any more.
#[derive(Debug)]
enum Gone {
    Answers(Vec<ResponseOp>),
    Txn(LongTxn),
    LeaseKeys(LongLeaseKeys),
}

impl Gone {
    fn of_read(reading: Reading) -> Option<Gone> {
        match reading {
            Reading::Range {
                cursor, response, ..
            } => {
                let kvs = cursor.into_pairs();
                let held = RangeResponse {
                    kvs,
                    ..RangeResponse::default()
                };
                Some(Gone::Answers(vec![
                    ResponseOp::Range(response),
                    ResponseOp::Range(held),
                ]))
            }
            Reading::Txn(read) => Some(Gone::Txn(read)),
            Reading::LeaseKeys { gathered, .. } => Some(Gone::LeaseKeys(gathered)),
            // Numbers.
            Reading::Leases(_) => None,
        }
    }

    fn of_answer(response: Response) -> Option<Gone> {
        let answers = match response {
            Response::Range(range) => vec![ResponseOp::Range(range)],
            Response::Delete(delete) => vec![ResponseOp::DeleteRange(delete)],
            Response::Txn(txn) => txn.responses,
            _ => return None,
        };
        Some(Gone::Answers(answers))
    }

    /// Lets some go; returns how many pairs.
    fn on(&mut self) -> usize {
        match self {
            Gone::Answers(answers) => let_go(answers, LET_GO_PAIRS),
            Gone::Txn(read) => read.let_go(LET_GO_PAIRS),
            Gone::LeaseKeys(gathered) => gathered.let_go(LET_GO_PAIRS),
        }
    }
}

/// What is read.
#[derive(Debug)]
enum Reading {
    Range {
        cursor: RangeCursor,
        response: RangeResponse,
        /// Of its pairs so far.
        bytes: usize,
    },
    Txn(LongTxn),
    LeaseKeys {
        /// All but the keys.
        ttl: LeaseTtl,
        gathered: LongLeaseKeys,
    },
    Leases(LongLeases),
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

    /// Whether a read that is going on had better hold less: but for the oldest, which has to come to its
    /// end.
    fn holds_too_much_with(&self, read: &LongRead) -> bool {
        let is_oldest = self.running.iter().all(|other| other.number > read.number);
        self.bytes + read.held_bytes > self.bytes_max && !is_oldest
    }

    /// Answers everyone with the same error. What they hold is let go in slices, like that of callers who
    /// have gone: the other shards of the core go on.
    pub fn fail_all(&mut self, error: &Error) {
        for read in mem::take(&mut self.running) {
            read.answer.send(Err(error.clone()));
            match Gone::of_read(read.reading) {
                Some(gone) => self.gone.push((gone, read.held_bytes)),
                None => self.bytes -= read.held_bytes,
            }
        }
    }
}

impl Shard {
    /// Ends reads whose callers have gone: a read that nobody waits for would hold history back.
    pub(super) fn drop_abandoned_reads(&mut self) {
        let running = &mut self.long_reads.running;
        if !running.iter().any(|read| read.answer.is_abandoned()) {
            return;
        }
        for read in mem::take(running) {
            if read.answer.is_abandoned() {
                self.abandon(read);
            } else {
                self.long_reads.running.push_back(read);
            }
        }
    }

    fn abandon(&mut self, read: LongRead) {
        self.let_go(Gone::of_read(read.reading), read.held_bytes);
    }

    /// Lets go of what nobody waits for.
    pub(super) fn let_answer_go(&mut self, response: Response) {
        self.let_go(Gone::of_answer(response), 0);
    }

    /// Lets go of all that nobody waits for, where nobody else waits either.
    pub(crate) fn let_all_go(&mut self) {
        let reads = &mut self.long_reads;
        let gone = reads.gone.drain(..).map(|(_, bytes)| bytes);
        reads.bytes -= gone.sum::<usize>();
    }

    /// Some of it now, and what is more between turns. It counts among the answers under way until all of
    /// it is gone: it is there.
    fn let_go(&mut self, gone: Option<Gone>, bytes: usize) {
        let Some(gone) = gone else {
            self.long_reads.bytes -= bytes;
            return;
        };
        // Many may go together.
        match self.turn.has_time() {
            true => self.let_some_go(gone, bytes),
            false => self.long_reads.gone.push((gone, bytes)),
        }
    }

    fn let_some_go(&mut self, mut gone: Gone, bytes: usize) {
        let pairs = gone.on();
        self.turn.spend(pairs as u64 * LET_GO_NANOS);
        match pairs >= LET_GO_PAIRS {
            true => self.long_reads.gone.push((gone, bytes)),
            false => self.long_reads.bytes -= bytes,
        }
    }

    /// Answers an encoded read that may be answered now: at once if that is short.
    pub(super) fn read_now(&mut self, encoded: Vec<u8>, answer: Answer) {
        let reading = match self.machine.read(encoded) {
            Ok(ReadBegun::Done(response)) => return self.answer(answer, Ok(response)),
            Err(error) => return self.answer(answer, Err(error)),
            Ok(ReadBegun::Long(cursor)) => Reading::Range {
                cursor: *cursor,
                response: RangeResponse::default(),
                bytes: 0,
            },
            Ok(ReadBegun::LongTxn(read)) => Reading::Txn(read),
        };
        self.read_long(reading, answer);
    }

    /// Answers what is left of a lease with many keys.
    pub(super) fn read_lease_keys(
        &mut self,
        id: i64,
        left: Option<i64>,
        answer: Answer,
        now_ms: u64,
    ) {
        let reading = Reading::LeaseKeys {
            ttl: self.time_to_live(id, false, left, now_ms),
            gathered: self.machine.store.lease_keys_begin(id),
        };
        self.read_long(reading, answer);
    }

    /// Answers which leases there are, in the order in which they run out.
    pub(super) fn read_leases(&mut self, answer: Answer) {
        let store = &self.machine.store;
        if store.leases_are_many() {
            let reading = Reading::Leases(store.leases_begin());
            return self.read_long(reading, answer);
        }
        let leases = store.leases();
        self.answer(answer, Ok(Response::Leases(leases)));
    }

    /// Goes on with one read for a slice; returns whether more is left.
    pub(super) fn read_slice(&mut self) -> bool {
        // A slice of its own, whatever callers took of the turn: they may do so in every turn.
        if let Some((gone, bytes)) = self.long_reads.gone.pop() {
            self.let_some_go(gone, bytes);
        }
        if let Some(read) = self.long_reads.next() {
            if read.answer.is_abandoned() {
                self.abandon(read);
            } else if let Some(read) = self.read_on(read) {
                self.long_reads.running.push_back(read);
            }
        }
        !(self.long_reads.is_empty() && self.long_reads.gone.is_empty())
    }

    /// Begins with the first slice, which is often all.
    fn read_long(&mut self, reading: Reading, answer: Answer) {
        self.long_reads.begun += 1;
        let begun = LongRead {
            reading,
            number: self.long_reads.begun,
            header: self.header(),
            held_bytes: 0,
            answer,
        };
        let Some(mut read) = self.read_on(begun) else {
            return;
        };
        if self.long_reads.running.len() >= RUNNING_MAX {
            self.long_reads.bytes -= read.held_bytes;
            return self.answer(read.answer, Err(Error::TooManyRequests));
        }
        if let Reading::Range {
            cursor, response, ..
        } = &mut read.reading
        {
            let left = self.machine.store.range_left(cursor);
            response.kvs.reserve_exact(left.min(PAIRS_AHEAD_MAX));
        }
        self.long_reads.running.push_back(read);
    }

    /// Reads a slice; gives the read back if there is more.
    fn read_on(&mut self, mut read: LongRead) -> Option<LongRead> {
        let found = read.reading.on(&self.machine);
        self.charge();
        if read.answer.is_abandoned()
            && let Some(Ok(response)) = found
        {
            self.let_go(Gone::of_answer(response), read.held_bytes);
            return None;
        }
        self.long_reads.bytes -= read.held_bytes;
        if let Some(found) = found {
            self.answer_as_of(read.header, read.answer, found);
            return None;
        }
        read.held_bytes = read.reading.held_bytes();
        if self.long_reads.holds_too_much_with(&read)
            && let Reading::Txn(txn) = &mut read.reading
        {
            txn.forget_request();
            read.held_bytes = txn.held_bytes();
        }
        self.long_reads.bytes += read.held_bytes;
        Some(read)
    }
}

impl Reading {
    /// Reads a slice; the answer if that was the last.
    fn on(&mut self, machine: &Machine) -> Option<Result<Response, Error>> {
        match self {
            Reading::Range {
                cursor,
                response,
                bytes,
            } => {
                let mut slice = machine.store.range_next(cursor, SliceLimits::default());
                *bytes += slice.bytes;
                if response.kvs.is_empty() {
                    response.kvs = slice.kvs;
                } else {
                    response.kvs.append(&mut slice.kvs);
                }
                let RangeEnd { more, count } = slice.end?;
                (response.more, response.count) = (more, count);
                Some(Ok(Response::Range(mem::take(response))))
            }
            Reading::Txn(read) => machine.read_txn_on(read, SLICE_NANOS),
            Reading::LeaseKeys { ttl, gathered } => {
                ttl.keys = machine.store.lease_keys_next(gathered, SLICE_NANOS)?;
                Some(Ok(Response::Ttl(mem::take(ttl))))
            }
            Reading::Leases(list) => {
                let leases = machine.store.leases_next(list, SLICE_NANOS)?;
                Some(Ok(Response::Leases(leases)))
            }
        }
    }

    fn held_bytes(&self) -> usize {
        match self {
            Reading::Range { cursor, bytes, .. } => *bytes + cursor.held_bytes(),
            Reading::Txn(read) => read.held_bytes(),
            Reading::LeaseKeys { gathered, .. } => gathered.held_bytes(),
            Reading::Leases(list) => list.held_bytes(),
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
        shard.read_now(Command::Range(range).encode(), answer);
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

    /// What was read for somebody who has gone was let go in one go, as was what a delete had to say: a tenth
    /// of a second for millions of pairs.
    #[test]
    fn regression_what_nobody_waits_for_any_more_is_let_go_in_slices() {
        let keys = 15_000;
        let mut shard = filled();
        let plain = RangeRequest {
            range: KeyRange::all(),
            ..RangeRequest::default()
        };
        let sorted = RangeRequest {
            sort_target: henge_mvcc::SortTarget::Mod,
            ..plain.clone()
        };
        let txn = |range: &RangeRequest<'static>| {
            Command::Txn(henge_mvcc::TxnRequest {
                success: vec![henge_mvcc::RequestOp::Range(range.clone()); 2],
                ..Default::default()
            })
        };
        let commands = [
            txn(&plain).encode(),
            txn(&sorted).encode(),
            Command::Range(plain).encode(),
            Command::Range(sorted).encode(),
        ];
        for encoded in commands {
            let (answer, receiver) = Answer::channel();
            shard.read_now(encoded, answer);
            // Most of it is read.
            while shard.long_reads.bytes() < 9_000 * VALUE_BYTES {
                assert!(shard.read_slice());
            }
            drop(receiver);
            shard.advance_time(1);
            assert!(shard.long_reads.is_empty());
            let mut slices = 1;
            loop {
                // It counts until it is gone: it counted nothing, so that others took its room twice.
                assert!(shard.long_reads.bytes() >= 9_000 * VALUE_BYTES);
                if !shard.read_slice() {
                    break;
                }
                slices += 1;
            }
            assert!(slices >= 2, "{slices}");
            assert_eq!(shard.long_reads.bytes(), 0);
        }
        // An answer that is complete and comes too late.
        let found = shard.machine.store.range(&RangeRequest {
            range: KeyRange::all(),
            ..RangeRequest::default()
        });
        let (answer, receiver) = Answer::channel();
        drop(receiver);
        shard.answer(answer, Ok(Response::Range(found.expect("valid"))));
        assert!(shard.answers.is_empty());
        let mut slices = 1;
        while shard.read_slice() {
            slices += 1;
        }
        assert_eq!(slices, keys / LET_GO_PAIRS);
    }

    /// All of it was let go in one go, while the core's other shards waited.
    #[test]
    fn regression_what_a_shard_that_is_over_had_read_is_let_go_in_slices() {
        let mut shard = filled();
        let mut receivers: Vec<_> = (0..2).map(|_| ask(&mut shard, 0..15_000)).collect();
        while shard.long_reads.bytes() < 18_000 * VALUE_BYTES {
            assert!(shard.read_slice());
        }
        shard.poison();
        for receiver in receivers.iter_mut().flatten() {
            assert!(receiver.try_recv().is_some_and(|answer| answer.is_err()));
        }
        assert!(shard.long_reads.bytes() >= 18_000 * VALUE_BYTES);
        let mut slices = 1;
        while shard.read_slice() {
            slices += 1;
        }
        assert!(slices >= 18_000 / LET_GO_PAIRS, "{slices}");
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
