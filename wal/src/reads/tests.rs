//! Reading back against the naive twin: every group's entries, however they were written and replaced,
//! come back as replay has them, from any index, in any number of bytes, whatever the index may hold.

use std::collections::BTreeMap;

use super::*;
use crate::batch::{self, BatchHeader, HEADER_BYTES};
use crate::disk::AlignedBuf;
use crate::groups::{Change, Place, Touches};
use crate::record;
use crate::segment::DATA_AT;
use crate::{Collect, Record, Replay};

const UUID: u128 = 77;
const SEGMENT: usize = 256 * 1024;

/// A log in memory, indexed with narrow limits.
struct Log {
    groups: Groups,
    twin: Collect,
    segments: BTreeMap<u64, Vec<u8>>,
    seq: u64,
    at: usize,
    lsn: Lsn,
    dice: u64,
}

impl Log {
    fn new(seed: u64, groups: Groups) -> Self {
        Self {
            groups,
            twin: Collect::default(),
            segments: BTreeMap::from([(1, vec![0; SEGMENT])]),
            seq: 1,
            at: DATA_AT as usize,
            lsn: 0,
            dice: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
        }
    }

    fn roll(&mut self, sides: u64) -> u64 {
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 7;
        self.dice ^= self.dice << 17;
        self.dice % sides
    }

    fn last(&self, group: u64) -> u64 {
        self.twin.groups.get(&group).map_or(0, |log| log.last())
    }

    fn compacted(&self, group: u64) -> u64 {
        self.twin.groups.get(&group).map_or(0, |log| log.compacted)
    }

    /// One batch of what a few groups might do.
    fn batch(&mut self) {
        let mut buf = AlignedBuf::zeroed(HEADER_BYTES);
        let (mut touches, mut records) = (Touches::default(), 0);
        for _ in 0..1 + self.roll(4) {
            let group = 1 + self.roll(3);
            let (last, compacted) = (self.last(group), self.compacted(group));
            match self.roll(16) {
                0 if last > compacted => {
                    let index = compacted + 1 + self.roll(last - compacted);
                    record::put_compacted(&mut buf, group, index, 1);
                    touches.change(group, Change::Compacted(index, 1));
                    let term = 1;
                    self.twin.record(Record::Compacted { group, index, term });
                }
                1 if self.roll(4) == 0 => {
                    let index = last + self.roll(5);
                    record::put_restored(&mut buf, group, index, 1);
                    touches.change(group, Change::Restored(index, 1));
                    let term = 1;
                    self.twin.record(Record::Restored { group, index, term });
                }
                kind => {
                    let back = if kind < 6 { self.roll(12) } else { 0 };
                    let first = last.saturating_sub(back).max(compacted) + 1;
                    for index in first..first + 1 + self.roll(4) {
                        let payload = vec![self.roll(256) as u8; self.roll(900) as usize];
                        self.put(&mut buf, &mut touches, (group, index), &payload);
                        records += 1;
                    }
                    records -= 1;
                }
            }
            records += 1;
        }
        self.seal(buf, &touches, records);
    }

    fn put(
        &mut self,
        buf: &mut AlignedBuf,
        touches: &mut Touches,
        (group, index): (u64, u64),
        payload: &[u8],
    ) {
        let (term, kind) = (self.lsn + 1, 0);
        record::put_entry(buf, group, term, index, kind, payload);
        touches.entry(group, term, index, payload.len());
        self.twin.record(Record::Entry {
            group,
            term,
            index,
            kind,
            payload,
        });
    }

    fn seal(&mut self, mut buf: AlignedBuf, touches: &Touches, records: u32) {
        let len = batch::batch_bytes(buf.len() - HEADER_BYTES, touches.len());
        if self.at + len > SEGMENT {
            self.seq += 1;
            self.at = DATA_AT as usize;
            self.segments.insert(self.seq, vec![0; SEGMENT]);
        }
        self.lsn += 1;
        let place = Place {
            lsn: self.lsn,
            seq: self.seq,
            offset: self.at as u64,
            len: len as u32,
        };
        self.groups.apply(touches, place);
        let header = BatchHeader {
            uuid: UUID,
            seq: self.seq,
            offset: self.at as u64,
            lsn: self.lsn,
            records,
            ..BatchHeader::default()
        };
        batch::seal(&mut buf, header, self.groups.marks());
        let segment = self.segments.get_mut(&self.seq).expect("made above");
        segment[self.at..self.at + buf.len()].copy_from_slice(&buf);
        self.at += buf.len();
    }

    /// What a read brings, and how many operations it took.
    fn read(
        &self,
        group: u64,
        lo: u64,
        hi: u64,
        bytes: usize,
    ) -> Result<Vec<ReadEntry>, ReadError> {
        self.read_with(&mut Reads::default(), group, lo, hi, bytes)
            .0
    }

    /// The same with what other reads left; and how many disk operations it took.
    fn read_with(
        &self,
        reads: &mut Reads,
        group: u64,
        lo: u64,
        hi: u64,
        bytes: usize,
    ) -> (Result<Vec<ReadEntry>, ReadError>, usize) {
        let id = reads.add(group, lo, hi, bytes);
        let mut operations = 0;
        loop {
            let log = (UUID, self.seq);
            let step = reads.step(&self.groups, self.lsn, log, |seq| Some(seq as FileId));
            match step.expect("one read is under way") {
                Err((done, result)) => {
                    assert!(done == id && reads.pins.is_empty());
                    return (result, operations);
                }
                Ok((
                    _,
                    Op::Read {
                        file,
                        offset,
                        bytes,
                    },
                )) => {
                    operations += 1;
                    let segment = &self.segments[&u64::from(file)];
                    assert!(reads.is_pinned(file.into()));
                    let end = (offset as usize + bytes).min(segment.len());
                    let mut buf = AlignedBuf::zeroed(end - offset as usize);
                    buf[..end - offset as usize].copy_from_slice(&segment[offset as usize..end]);
                    let done = reads.done(id, Ok(Output::Buf(buf)), UUID, &self.groups);
                    if let Some((_, result)) = done {
                        assert!(reads.pins.is_empty());
                        return (result, operations);
                    }
                }
                Ok((_, op)) => panic!("{op:?}"),
            }
        }
    }

    /// All entries of all groups, read from some index on and in small parts.
    fn compare(&mut self, seed: u64) {
        // All but the first group meet what the reads before them left.
        let mut reads = Reads::default();
        for group in 1..=3 {
            let due = self.twin.groups.get(&group).cloned().unwrap_or_default();
            let mut next = due.compacted + 1;
            let mut found = Vec::new();
            while next <= due.last() {
                let hi = next + self.roll(40);
                let bytes = self.roll(5_000) as usize;
                let (part, _) = self.read_with(&mut reads, group, next, hi, bytes);
                let part = part.unwrap_or_else(|e| panic!("seed {seed}: {e}"));
                let payload: usize = part.iter().map(|e| e.payload.len()).sum();
                assert!(part.len() == 1 || payload <= bytes, "seed {seed}");
                assert!(part.last().is_some_and(|e| e.index <= hi), "seed {seed}");
                next += part.len() as u64;
                found.extend(part);
            }
            assert!(found.iter().eq(&due.entries), "seed {seed} group {group}");
            let beyond = self.read(group, due.last() + 1, u64::MAX, 1);
            assert!(matches!(beyond, Err(ReadError::Unavailable { .. })));
            if due.compacted > 0 {
                let gone = self.read(group, due.compacted, u64::MAX, 1);
                assert!(matches!(gone, Err(ReadError::Compacted { .. })));
            }
        }
    }
}

#[test]
fn what_was_written_comes_back_whatever_the_index_may_hold() {
    let mut replaced = 0;
    for seed in 1..=400_u64 {
        let groups = match seed % 4 {
            0 => Groups::default(),
            1 => Groups::limited(4_096, 1_000, 1_000),
            2 => Groups::limited(8_192, 4, 12),
            // No spans at all but one per run.
            _ => Groups::limited(4_096, 1, 0),
        };
        let mut log = Log::new(seed, groups);
        for n in 0..120 {
            log.batch();
            if n % 40 == 39 {
                log.compare(seed);
            }
        }
        let spans = log.groups.spans_max();
        match seed % 4 {
            2 => assert!(spans <= 12, "seed {seed}: {spans}"),
            3 => assert_eq!(spans, 0, "seed {seed}"),
            _ => replaced += u64::from(spans > 0),
        }
    }
    assert!(replaced > 100, "{replaced}");
}

#[test]
fn a_log_of_many_small_batches_costs_what_is_said_and_no_more() {
    // 64 groups with one entry each in every batch of six blocks: a segment of 64 MiB of them.
    let mut groups = Groups::default();
    let batches = 64 * 1024 * 1024 / (6 * 4_096) - 1;
    for lsn in 1..=batches {
        let mut touches = Touches::default();
        (1..=64).for_each(|group| touches.entry(group, 1, lsn, 256));
        let place = Place {
            lsn,
            seq: 1,
            offset: DATA_AT + (lsn - 1) * 6 * 4_096,
            len: 6 * 4_096,
        };
        groups.apply(&touches, place);
    }
    let bytes = groups.index_bytes();
    // A run per batch and group took 64 bytes: 11 MB.
    assert!(bytes < 300_000, "{bytes}");
    // However the entries replace each other: every one of them, from the third on.
    let mut groups = Groups::limited(4_096, 64, 256);
    for lsn in 1..=10_000 {
        let mut touches = Touches::default();
        touches.entry(1, 1, lsn, 1);
        touches.entry(1, 2, lsn + 1, 1);
        let offset = DATA_AT + lsn * 4_096;
        let (seq, len) = (1, 4_096);
        groups.apply(
            &touches,
            Place {
                lsn,
                seq,
                offset,
                len,
            },
        );
    }
    assert_eq!(groups.spans_max(), 256);
    assert_eq!(groups.index_bytes(), 96 + 256 * 16);
}

#[test]
fn what_cannot_be_read_costs_only_what_lies_there() {
    for damage in 0..3 {
        let mut log = Log::new(9, Groups::default());
        let mut places = Vec::new();
        for index in 1..=9_u64 {
            let mut buf = AlignedBuf::zeroed(HEADER_BYTES);
            let mut touches = Touches::default();
            let group = 1 + index % 2;
            let index = index.div_ceil(2);
            log.put(&mut buf, &mut touches, (group, index), &[7; 5_000]);
            places.push(log.at);
            log.seal(buf, &touches, 1);
        }
        // The fourth batch holds entry 2 of group 1.
        let segment = log.segments.get_mut(&1).expect("it");
        match damage {
            0 => segment[places[3]] ^= 1,
            1 => segment[places[3] + 200] ^= 1,
            _ => segment[places[3]..places[4]].fill(0),
        }
        let whole = log.read(2, 1, 5, usize::MAX).expect("not hit");
        assert_eq!(whole.len(), 5, "damage {damage}");
        let hit = log.read(1, 1, 4, usize::MAX).expect("what is before it");
        // A header is there twice.
        assert_eq!(hit.len(), if damage == 0 { 4 } else { 1 });
        let lost = log.read(1, 2, 4, usize::MAX);
        match damage {
            0 => assert_eq!(lost.map(|all| all.len()), Ok(3)),
            _ => assert!(
                matches!(&lost, Err(ReadError::Damaged { offset, .. }) if *offset == places[3] as u64),
                "{lost:?}"
            ),
        }
        assert_eq!(log.read(1, 3, 4, usize::MAX).map(|all| all.len()), Ok(2));
    }
}

#[test]
fn what_one_group_read_of_sealed_segments_is_not_read_again_for_the_others() {
    let mut log = Log::new(3, Groups::default());
    while log.seq < 3 {
        let mut buf = AlignedBuf::zeroed(HEADER_BYTES);
        let mut touches = Touches::default();
        for group in 1..=3 {
            let index = log.last(group) + 1;
            log.put(&mut buf, &mut touches, (group, index), &[7; 900]);
        }
        log.seal(buf, &touches, 3);
    }
    let mut reads = Reads::default();
    let mut all = |group, hi| {
        let (found, operations) = log.read_with(&mut reads, group, 1, hi, usize::MAX);
        let found = found.expect("all of it");
        assert!(
            found
                .iter()
                .eq(log.twin.groups[&group].entries.iter().take(hi as usize))
        );
        operations
    };
    // Two segments, each shorter than a window; what is being written is read each time.
    let last = log.last(1);
    assert_eq!(
        (all(1, last - 1), all(2, last - 1), all(3, last - 1)),
        (2, 0, 0)
    );
    assert_eq!((all(1, last), all(1, last)), (1, 1));
}
