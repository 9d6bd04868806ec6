//! Segments made ready ahead of use, one step at a time and never on the commit path.
//!
//! A new segment is a file of zeros, written and synced, then named and the name synced: a write into
//! it later changes no metadata, so `O_DSYNC` costs one device write and not a journal commit
//! (fallocate alone halves the commit rate: design §7). A recycled one is an old file under a new
//! name. It is *not* zeroed again: every block says which segment and offset it was written for, and
//! numbers are never reused, so stale blocks cannot be taken for new ones, and zeroing would double
//! the bytes written.
//!
//! What a log used up between two checkpoints it will use up again: that many old segments are kept when a
//! checkpoint sets them free, instead of being removed and made anew. (Seen: fourteen files of 64 MiB removed
//! in a row, 12 ms each, held commits up for 70 to 300 ms after every checkpoint, and as many bytes of zeros
//! were written as of log.) The most that a log ever takes of the disk is the same. They stay as they are
//! until they are needed, so that what was rewritten from them is there twice. What is too much is removed
//! one at a time, with rests.
//!
//! How large they are is for `sizes` to say. A batch that fits into none of those that are ready gets one of
//! its own: the ready ones go among the spare, as a later number must not be used before an earlier one.
//!
//! A full disk is no failure: the log goes on with what is ready, and the making is tried again,
//! a second apart (the disk has the clock) or as soon as a segment comes back.

use std::collections::VecDeque;
use std::io;

use crate::disk::{FileId, Op, Output};
use crate::segment::{self, DATA_AT, PREPARE_NAME, SegmentHeader};
use crate::sizes::{Sizes, segment_for};
use crate::{IoFault, Shortage};

/// Old segments kept for reuse, however few the log uses; see [`Pipeline::give_back`] for how many more.
const SPARE_MIN: usize = 4;
/// The same while the log is small.
const SPARE_MIN_SMALL: usize = 1;
/// Time between two removals: each is a commit of the file system's journal, and may tell the device.
const REMOVE_EVERY_MICROS: u64 = 100_000;
/// A log that took no new segment for so long gives back what it keeps beyond [`SPARE_MIN`].
const REST_MICROS: u64 = 60_000_000;
/// Wait between attempts to make a segment on a full disk.
const RETRY_MS: u32 = 1_000;
/// Longest time over which the making of a segment is spread.
const SPREAD_MS_MAX: u32 = 400;
/// The same while nobody knows how fast the log is: one that is new and busy must not wait for its second
/// segment. (Seen: 120 to 220 ms, until the 400 were over.)
const SPREAD_MS_UNKNOWN: u32 = 150;

/// A segment file and its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentFile {
    pub(crate) seq: u64,
    pub(crate) file: FileId,
    pub(crate) bytes: u64,
}

/// What the operation in flight does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Idle,
    /// Next: begin a new file.
    Zero,
    /// Next: name it.
    Name,
    /// Next: sync the name, of a new file or of a recycled one.
    Sync(Option<SegmentFile>),
    /// Next: open it.
    Open,
    /// Next: rename this old one.
    Recycle(SegmentFile),
    /// Next: write the testimony into a named and opened file; it was recycled.
    Stamp(SegmentFile, bool),
    /// Next: remove a closed file that is not needed.
    Remove(u64),
}

/// What changed for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Notice {
    Nothing,
    SpaceLow(Shortage),
    SpaceOk,
    /// The disk is broken, not full: which file, doing what.
    Broken {
        name: String,
        doing: &'static str,
        fault: IoFault,
    },
}

#[derive(Debug)]
pub(crate) struct Pipeline {
    ready: VecDeque<SegmentFile>,
    ready_min: usize,
    free: Vec<SegmentFile>,
    step: Step,
    in_flight: bool,
    stopped: bool,
    /// Why no segment could be made when it was last tried.
    shortage: Option<Shortage>,
    sizes: Sizes,
    /// Least bytes of the next segment, for a batch that waits for it; else 0.
    needed: u64,
    /// Number of the next segment.
    next_seq: u64,
    /// When the newest segment in use was taken, and how long the one before it lasted.
    taken_micros: u64,
    used_up_micros: Option<u64>,
    /// Segments taken since old ones came back last.
    used: usize,
    /// None was taken since then.
    gave_back: bool,
    /// Spare ones worth keeping.
    spare: usize,
    /// Spare ones are wanted back at once: the disk is full.
    releasing: bool,
    removed_micros: u64,
    pub(crate) recycled: u64,
}

impl Pipeline {
    pub(crate) fn new(
        ready: Vec<SegmentFile>,
        ready_min: usize,
        sizes: Sizes,
        next_seq: u64,
    ) -> Self {
        let mut pipeline = Self {
            ready: ready.into(),
            ready_min,
            free: Vec::new(),
            step: Step::Idle,
            in_flight: false,
            stopped: false,
            shortage: None,
            sizes,
            needed: 0,
            next_seq,
            taken_micros: 0,
            used_up_micros: None,
            used: 0,
            gave_back: false,
            spare: SPARE_MIN_SMALL,
            releasing: false,
            removed_micros: 0,
            recycled: 0,
        };
        pipeline.spare = pipeline.spare_min();
        pipeline
    }

    pub(crate) fn ready_count(&self) -> usize {
        self.ready.len()
    }

    /// What can be written to those that are ready, their headers left out.
    pub(crate) fn ready_bytes(&self) -> u64 {
        let bytes = self.ready.iter().map(|s| s.bytes.saturating_sub(DATA_AT));
        bytes.sum()
    }

    /// The same of the largest of them.
    pub(crate) fn ballast_bytes(&self) -> Option<u64> {
        let bytes = self.ready.iter().map(|s| s.bytes.saturating_sub(DATA_AT));
        bytes.max()
    }

    pub(crate) fn shortage(&self) -> Option<Shortage> {
        self.shortage
    }

    /// The next segment to write to, from now on: of at least `needed` bytes, for a log of `log_bytes`.
    pub(crate) fn take(
        &mut self,
        now_micros: u64,
        needed: u64,
        log_bytes: u64,
    ) -> Option<SegmentFile> {
        while let Some(small) = self.ready.pop_front_if(|ready| ready.bytes < needed) {
            self.free.push(small);
        }
        let Some(next) = self.ready.pop_front() else {
            self.needed = needed;
            return None;
        };
        self.needed = 0;
        self.used += 1;
        self.gave_back = false;
        let since = std::mem::replace(&mut self.taken_micros, now_micros);
        self.used_up_micros = (since > 0).then(|| now_micros.saturating_sub(since));
        self.sizes.grow(log_bytes, self.used_up_micros);
        Some(next)
    }

    pub(crate) fn sizes(&self) -> &Sizes {
        &self.sizes
    }

    /// Bytes of a segment that is made now.
    fn next_bytes(&self) -> u64 {
        if self.needed <= self.sizes.next() {
            return self.sizes.next();
        }
        // As much room beside the batch as beside any payload.
        segment_for(self.needed as usize)
    }

    /// A spare one that the next segment can be.
    fn usable(&self) -> Option<usize> {
        let fits = |segment: &&SegmentFile| {
            self.sizes.is_usable(segment.bytes) && segment.bytes >= self.needed
        };
        self.free
            .iter()
            .filter(fits)
            .map(|segment| segment.bytes)
            .max()
            .and_then(|bytes| self.free.iter().position(|s| s.bytes == bytes))
    }

    fn spare_min(&self) -> usize {
        match self.sizes.is_grown() {
            true => SPARE_MIN,
            false => SPARE_MIN_SMALL,
        }
    }

    /// How long the next file may take: half of what the log took to fill a segment, so that no commit
    /// ever waits for one; and not for ever, as the log may be about to write more.
    fn spread_ms(&self) -> u32 {
        if self.ready.is_empty() {
            return 0;
        }
        let half = self.used_up_micros.map(|micros| micros / 2_000);
        half.and_then(|ms| u32::try_from(ms).ok())
            .map_or(SPREAD_MS_UNKNOWN, |ms| ms.min(SPREAD_MS_MAX))
    }

    /// A segment nobody needs. They come back in bursts, after a checkpoint; the log is expected to use as
    /// many until the next burst as it did until this one (or nearly as many as before earlier ones: groups
    /// write their checkpoints at different times).
    pub(crate) fn give_back(&mut self, segment: SegmentFile) {
        if !std::mem::replace(&mut self.gave_back, true) {
            let before = self.spare - self.spare / 8;
            self.spare = std::mem::take(&mut self.used)
                .max(before)
                .max(self.spare_min());
        }
        self.free.push(segment);
    }

    /// Gives all spare segments back to the file system, for something that needs the room more.
    pub(crate) fn release_spare(&mut self) {
        (self.spare, self.releasing) = (self.spare_min(), true);
    }

    /// Begin nothing more; what is half made is put in order at the next open.
    pub(crate) fn stop(&mut self) {
        self.stopped = true;
    }

    /// The next operation, if there is something to do and none is in flight.
    /// `stamp`: what a file made ready now testifies, but for its number and size.
    pub(crate) fn next(&mut self, stamp: &SegmentHeader) -> Option<Op> {
        if self.in_flight || self.stopped {
            return None;
        }
        if self.step == Step::Idle || (self.step == Step::Zero && !self.free.is_empty()) {
            self.choose();
        }
        let op = match self.step {
            Step::Idle => return None,
            Step::Zero => Op::Zero {
                name: PREPARE_NAME.into(),
                bytes: self.next_bytes(),
                pause_ms: self.shortage.map_or(0, |_| RETRY_MS),
                spread_ms: self.spread_ms(),
            },
            Step::Name => Op::Rename {
                from: PREPARE_NAME.into(),
                to: segment::name(self.next_seq),
            },
            Step::Sync(_) => Op::SyncDir,
            Step::Open => Op::Open {
                name: segment::name(self.next_seq),
            },
            Step::Recycle(old) => Op::Rename {
                from: segment::name(old.seq),
                to: segment::name(self.next_seq),
            },
            Step::Stamp(made, _) => {
                let (seq, bytes, file) = (self.next_seq, made.bytes, made.file);
                let buf = SegmentHeader {
                    seq,
                    bytes,
                    ..*stamp
                }
                .blocks();
                Op::Write {
                    file,
                    offset: 0,
                    buf,
                }
            }
            Step::Remove(seq) => Op::Remove {
                name: segment::name(seq),
            },
        };
        self.in_flight = true;
        Some(op)
    }

    /// A file that must be closed before [`Pipeline::next`] is asked again, as it is to be removed.
    pub(crate) fn close(&mut self, now_micros: u64) -> Option<FileId> {
        if self.in_flight || self.stopped || self.step != Step::Idle {
            return None;
        }
        if now_micros.saturating_sub(self.taken_micros) > REST_MICROS {
            self.spare = self.spare_min();
        }
        let rested = now_micros.saturating_sub(self.removed_micros) >= REMOVE_EVERY_MICROS;
        if !rested && now_micros > 0 && !self.releasing {
            return None;
        }
        let Some(segment) = self.take_needless() else {
            self.releasing = false;
            return None;
        };
        self.removed_micros = now_micros;
        self.step = Step::Remove(segment.seq);
        Some(segment.file)
    }

    /// A segment of a size that is not used any more, or one too many.
    fn take_needless(&mut self) -> Option<SegmentFile> {
        let odd = |s: &SegmentFile| !self.sizes.is_usable(s.bytes);
        let odd = self.free.iter().position(odd);
        let spare = if self.releasing { 0 } else { self.spare };
        let extra = (self.free.len() > spare).then_some(0);
        Some(self.free.swap_remove(odd.or(extra)?))
    }

    fn choose(&mut self) {
        self.step = Step::Idle;
        if self.ready.len() < self.ready_min {
            let usable = self.usable();
            self.step = usable.map_or(Step::Zero, |at| Step::Recycle(self.free.swap_remove(at)));
        }
    }

    /// The operation in flight ended.
    pub(crate) fn done(&mut self, result: io::Result<Output>) -> Notice {
        self.in_flight = false;
        let output = match result {
            Ok(output) => output,
            Err(e) => return self.failed(e.into()),
        };
        let next = match (self.step, output) {
            (Step::Zero, _) => Step::Name,
            (Step::Name, _) => Step::Sync(None),
            (Step::Sync(None), _) => Step::Open,
            (Step::Recycle(old), _) => Step::Sync(Some(old)),
            (Step::Sync(Some(old)), _) => Step::Stamp(old, true),
            (Step::Open, Output::Opened { file, bytes }) => Step::Stamp(
                SegmentFile {
                    seq: self.next_seq,
                    file,
                    bytes,
                },
                false,
            ),
            (Step::Stamp(made, recycled), _) => {
                self.recycled += u64::from(recycled);
                return self.made(made.file, made.bytes);
            }
            (Step::Idle | Step::Remove(_) | Step::Open, _) => Step::Idle,
        };
        self.step = next;
        Notice::Nothing
    }

    fn made(&mut self, file: FileId, bytes: u64) -> Notice {
        self.ready.push_back(SegmentFile {
            seq: self.next_seq,
            file,
            bytes,
        });
        self.next_seq += 1;
        self.step = Step::Idle;
        match self.shortage.take() {
            Some(_) => Notice::SpaceOk,
            None => Notice::Nothing,
        }
    }

    /// Full, or short of descriptors: try this step again later. Anything else is a broken disk.
    fn failed(&mut self, fault: IoFault) -> Notice {
        let (name, doing) = match self.step {
            Step::Zero => (PREPARE_NAME.into(), "prepare"),
            Step::Name | Step::Recycle(_) => (segment::name(self.next_seq), "rename"),
            Step::Open => (segment::name(self.next_seq), "open"),
            Step::Sync(_) | Step::Idle => (".".into(), "sync the directory of"),
            Step::Stamp(..) => (segment::name(self.next_seq), "write"),
            Step::Remove(seq) => (segment::name(seq), "remove"),
        };
        let Some(lacks) = fault.shortage() else {
            return Notice::Broken { name, doing, fault };
        };
        self.step = match self.step {
            // Whatever of the making failed, it begins again at the step that waits first.
            Step::Zero | Step::Name | Step::Open | Step::Sync(None) => Step::Zero,
            // Found again, and removed, when the log is next opened.
            Step::Remove(_) => Step::Idle,
            _ => return Notice::Broken { name, doing, fault },
        };
        match self.shortage.replace(lacks) {
            Some(before) if before == lacks => Notice::Nothing,
            _ => Notice::SpaceLow(lacks),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const READY: SegmentFile = SegmentFile {
        seq: 1,
        file: 1,
        bytes: 1 << 20,
    };

    fn spread_of_next(pipeline: &mut Pipeline) -> u32 {
        match pipeline.next(&SegmentHeader::default()) {
            Some(Op::Zero { spread_ms, .. }) => spread_ms,
            other => panic!("not a new file: {other:?}"),
        }
    }

    #[test]
    fn regression_a_segment_is_ready_before_a_fast_log_needs_it() {
        // The making was spread over 400 ms whatever the log did: one that fills a segment in 360 ms ran
        // out of them, and its commits waited for a file of zeros (60 to 100 ms, a put in a thousand).
        let begun = |times: &[u64]| {
            let ready = times.iter().map(|_| READY).chain([READY]).collect();
            let mut pipeline = Pipeline::new(ready, 9, Sizes::fixed(1 << 20), 5);
            for at in times {
                assert!(pipeline.take(*at, 0, 0).is_some());
            }
            spread_of_next(&mut pipeline)
        };
        assert_eq!(begun(&[1_000_000, 1_360_000]), 180);
        assert_eq!(begun(&[1_000_000, 1_360_000, 61_000_000]), SPREAD_MS_MAX);
        // Nothing known yet; and a log that is never told the time.
        assert_eq!(begun(&[1_000_000]), SPREAD_MS_UNKNOWN);
        assert_eq!(begun(&[0, 0, 0]), SPREAD_MS_UNKNOWN);
    }

    fn segment(seq: u64) -> SegmentFile {
        SegmentFile {
            seq,
            file: seq as FileId,
            ..READY
        }
    }

    /// Does all that the pipeline wants at a time; how many files it recycled, made and removed.
    fn settle(pipeline: &mut Pipeline, now_micros: u64) -> [usize; 3] {
        let mut counts = [0; 3];
        loop {
            pipeline.close(now_micros);
            let Some(op) = pipeline.next(&SegmentHeader::default()) else {
                return counts;
            };
            let output = match op {
                Op::Open { .. } => Output::Opened {
                    file: 99,
                    bytes: READY.bytes,
                },
                _ => Output::Done,
            };
            match op {
                Op::Rename { from, .. } if from != PREPARE_NAME => counts[0] += 1,
                Op::Zero { .. } => counts[1] += 1,
                Op::Remove { .. } => counts[2] += 1,
                _ => {}
            }
            assert_eq!(pipeline.done(Ok(output)), Notice::Nothing);
        }
    }

    #[test]
    fn regression_what_a_checkpoint_sets_free_is_kept_for_the_next() {
        // All but four were removed, in a row, and made anew.
        let mut pipeline = Pipeline::new(vec![], 2, Sizes::fixed(READY.bytes), 1);
        let second = 1_000_000;
        assert_eq!(settle(&mut pipeline, second), [0, 2, 0]);
        let mut in_use = Vec::new();
        let mut made = 0;
        for _ in 0..16 {
            in_use.push(pipeline.take(2 * second, 0, 0).expect("ready"));
            made += settle(&mut pipeline, 2 * second)[1];
        }
        assert_eq!(made, 16);
        for checkpoint in 1..5 {
            in_use.drain(..14).for_each(|s| pipeline.give_back(s));
            let now = (2 + checkpoint) * second;
            assert_eq!(settle(&mut pipeline, now), [0, 0, 0]);
            for _ in 0..14 {
                in_use.push(pipeline.take(now, 0, 0).expect("ready"));
                assert_eq!(settle(&mut pipeline, now), [1, 0, 0]);
            }
        }
    }

    /// A pipeline with two ready and twenty spare segments, which were used before.
    fn with_twenty(now_micros: u64) -> Pipeline {
        let mut pipeline = Pipeline::new(
            vec![segment(1), segment(2)],
            2,
            Sizes::fixed(READY.bytes),
            3,
        );
        for seq in 100..120 {
            pipeline.take(now_micros, 0, 0).expect("ready");
            pipeline.ready.push_back(segment(seq));
        }
        (200..220).for_each(|seq| pipeline.give_back(segment(seq)));
        pipeline
    }

    #[test]
    fn what_is_too_much_is_removed_one_at_a_time() {
        let mut now = 1_000_000;
        let mut pipeline = with_twenty(now);
        now += REST_MICROS;
        assert_eq!(settle(&mut pipeline, now), [0, 0, 0]);
        for _ in SPARE_MIN..20 {
            now += REMOVE_EVERY_MICROS;
            assert_eq!(settle(&mut pipeline, now), [0, 0, 1]);
            assert_eq!(settle(&mut pipeline, now + 1), [0, 0, 0]);
        }
        now += REMOVE_EVERY_MICROS;
        assert_eq!(settle(&mut pipeline, now), [0, 0, 0]);
        assert_eq!(pipeline.free.len(), SPARE_MIN);
    }

    #[test]
    fn a_full_disk_gets_all_spare_segments_at_once() {
        let mut pipeline = with_twenty(1_000_000);
        pipeline.release_spare();
        assert_eq!(settle(&mut pipeline, 1_000_001), [0, 0, 20]);
        assert_eq!(pipeline.ready_count(), 2);
        // Later ones are kept again.
        pipeline.give_back(segment(500));
        assert_eq!(settle(&mut pipeline, 1_000_002), [0, 0, 0]);
    }

    #[test]
    fn a_batch_that_fits_into_no_ready_segment_gets_one_of_its_own() {
        let mut pipeline = with_twenty(1_000_000);
        pipeline.free.clear();
        let needed = READY.bytes + 4096;
        assert_eq!(pipeline.take(1_000_001, needed, 0), None);
        let Some(Op::Zero { bytes, .. }) = pipeline.next(&SegmentHeader::default()) else {
            panic!("none is made");
        };
        assert!(bytes > needed, "{bytes}");
        // The small ones are not lost.
        assert_eq!((pipeline.ready_count(), pipeline.free.len()), (0, 2));
        for output in [Output::Done, Output::Done, Output::Done] {
            assert_eq!(pipeline.done(Ok(output)), Notice::Nothing);
            pipeline.next(&SegmentHeader::default());
        }
        let opened = Output::Opened { file: 9, bytes };
        assert_eq!(pipeline.done(Ok(opened)), Notice::Nothing);
        pipeline.next(&SegmentHeader::default());
        assert_eq!(pipeline.done(Ok(Output::Done)), Notice::Nothing);
        let taken = pipeline.take(1_000_002, needed, 0).expect("it was made");
        assert_eq!((taken.bytes, pipeline.next_bytes()), (bytes, READY.bytes));
        assert_eq!(settle(&mut pipeline, 1_000_003), [2, 0, 0]);
        // It is not kept when it comes back.
        pipeline.give_back(taken);
        assert_eq!(settle(&mut pipeline, 9_000_000), [0, 0, 1]);
    }

    #[test]
    fn nobody_rests_while_the_log_waits_for_a_segment() {
        let mut pipeline = Pipeline::new(vec![READY], 2, Sizes::fixed(1 << 20), 5);
        assert!(pipeline.take(1_000_000, 0, 0).is_some());
        assert_eq!(spread_of_next(&mut pipeline), 0);
    }
}
