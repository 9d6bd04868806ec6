//! Where entries lie, in little memory: a *run* is what one group has in one segment, and its *spans* say
//! near where. A span names a stretch of the segment, not a batch; a read walks the batches in it.
//!
//! Promises: a segment never costs more than [`SPANS_MAX`] spans (640 KiB), however small its batches and
//! however many groups share it, and beside that 96 bytes per group that has entries in it. Spans are
//! [`SPAN_BYTES`] long at first and twice as long after each [`SPANS_PER_DOUBLING`] of a segment: a log
//! that is hard to index is read back in longer stretches, it does not cost more memory.
//! Must never know: disks, bytes. Tested by the parent's tests and, against what the batches hold, by
//! those of `reads`.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use super::Place;
use crate::{BLOCK_BYTES, Lsn};

/// Log that a span covers before the next one begins, in bytes: about one read of the device.
pub(crate) const SPAN_BYTES: u64 = 64 * 1024;
/// Spans of a segment after which they become twice as long, again and again.
pub(crate) const SPANS_PER_DOUBLING: u32 = 4_096;
/// Most spans of a segment, over all groups, beside the first of each run: 16 bytes each, 640 KiB.
pub(crate) const SPANS_MAX: u32 = 40_960;

const BLOCK: u64 = BLOCK_BYTES as u64;

/// A stretch of a segment that holds entries of a group, from one index on. Numbers count from the run's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Span {
    index: u32,
    lsn: u32,
    block: u32,
    blocks: u32,
}

const _: () = assert!(size_of::<Span>() == 16 && size_of::<Run>() == 96);
const _: () = assert!(SPANS_MAX as usize * size_of::<Span>() == 640 * 1024);

/// Consecutive entries of one group in one segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) first: u64,
    pub(crate) last: u64,
    /// Bytes of their payloads, and of those that were replaced in the same segment.
    pub(crate) bytes: u64,
    pub(crate) seq: u64,
    /// The first batch of its first span, and the first index there.
    pub(crate) lsn: Lsn,
    base: u64,
    head: Span,
    more: Vec<Span>,
    /// They were acknowledged and cannot be read: the group is damaged until they are compacted or
    /// replaced.
    pub(crate) lost: bool,
    /// The last entries went, others may take their place: where these lie must be told apart.
    cut: bool,
    /// Some span holds entries that others in it replace (only where there may be no more spans).
    mixed: bool,
}

/// Where to look for an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stretch {
    pub(crate) seq: u64,
    /// Begin of its first batch, end of its last.
    pub(crate) from: u64,
    pub(crate) to: u64,
    /// Its first batch.
    pub(crate) lsn: Lsn,
    /// Last entry of the group that is to be looked for here.
    pub(crate) last: u64,
    /// Later entries in it replace earlier ones: all of it must be read.
    pub(crate) mixed: bool,
}

impl Run {
    pub(super) fn new(first: u64, last: u64, bytes: u64, place: Place, lost: bool) -> Self {
        Self {
            first,
            last,
            bytes,
            seq: place.seq,
            lsn: place.lsn,
            base: first,
            head: Span {
                index: 0,
                lsn: 0,
                ..Span::at(place)
            },
            more: Vec::new(),
            lost,
            cut: false,
            mixed: false,
        }
    }

    /// Byte offset of its first batch.
    pub(crate) fn offset(&self) -> u64 {
        u64::from(self.head.block) * BLOCK
    }

    /// Whether entries from `first` on, in a batch at `place`, can be said by this run.
    pub(super) fn takes(&self, first: u64, place: Place) -> bool {
        let near = |from: u64, to: u64| to.checked_sub(from).is_some_and(|n| n <= u32::MAX.into());
        !self.lost
            && self.seq == place.seq
            && self.last.checked_add(1) == Some(first)
            && near(self.base, first)
            && near(self.lsn, place.lsn)
    }

    /// Entries `last + 1..=last` lie in the batch at `place`, behind all that the run holds.
    pub(super) fn extend(&mut self, last: u64, bytes: u64, place: Place, account: &mut Account) {
        let next = Span {
            index: (self.last + 1 - self.base) as u32,
            lsn: (place.lsn - self.lsn) as u32,
            ..Span::at(place)
        };
        let rewrites = std::mem::take(&mut self.cut);
        let bounds = account.bounds(place.seq);
        let span = self.more.last_mut().unwrap_or(&mut self.head);
        let near = next.block < span.block.saturating_add(bounds.blocks);
        let begins = rewrites || !near || span.block < bounds.not_before;
        if begins && !bounds.full {
            self.more.push(next);
            account.spans(place.seq, 1);
        } else {
            self.mixed |= rewrites;
            span.blocks = span.blocks.max(next.block + next.blocks - span.block);
        }
        self.last = last;
        self.bytes += bytes;
    }

    /// Nothing is added to it any more.
    pub(super) fn finish(&mut self) {
        self.more.shrink_to_fit();
    }

    /// Forget entries after `index`, which is one of the run's.
    pub(super) fn keep_until(&mut self, index: u64, account: &mut Account) {
        if self.last <= index {
            return;
        }
        self.last = index;
        self.cut = true;
        let before = self.more.len();
        while self
            .more
            .pop_if(|span| self.base + u64::from(span.index) > index)
            .is_some()
        {}
        account.unspan(self.seq, (before - self.more.len()) as u32);
    }

    /// Where to look for an entry of the run.
    pub(crate) fn stretch(&self, index: u64) -> Stretch {
        let index_of = |span: &Span| self.base + u64::from(span.index);
        let at = self.more.partition_point(|span| index_of(span) <= index);
        let span = match at {
            0 => &self.head,
            at => &self.more[at - 1],
        };
        let next = self.more.get(at);
        Stretch {
            seq: self.seq,
            from: u64::from(span.block) * BLOCK,
            to: (u64::from(span.block) + u64::from(span.blocks)) * BLOCK,
            lsn: self.lsn + u64::from(span.lsn),
            last: next.map_or(self.last, |next| index_of(next) - 1),
            mixed: self.mixed,
        }
    }
}

impl Span {
    fn at(place: Place) -> Self {
        Self {
            // Segments are 1 GiB at most.
            block: (place.offset / BLOCK) as u32,
            blocks: place.len.div_ceil(BLOCK_BYTES as u32),
            ..Self::default()
        }
    }
}

/// What a segment's index may still do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// A span is this long.
    blocks: u32,
    /// Spans that begin before it must not be made longer.
    not_before: u32,
    /// There may be no more spans.
    full: bool,
}

/// Runs and spans per segment.
#[derive(Debug, Default)]
pub(crate) struct Account {
    live: BTreeMap<u64, Live>,
    runs: usize,
    spans: usize,
    /// Segment and block before which spans end.
    barrier: (u64, u32),
    /// Of the segment asked for last.
    newest: Option<(u64, Bounds)>,
    #[cfg(test)]
    pub(crate) limits: Option<(u64, u32, u32)>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Live {
    runs: u32,
    spans: u32,
}

impl Account {
    /// The oldest segment with runs in it.
    pub(super) fn oldest(&self) -> Option<u64> {
        self.live.first_key_value().map(|(seq, _)| *seq)
    }

    /// Bytes that runs and spans take.
    pub(super) fn bytes(&self) -> usize {
        self.runs * size_of::<Run>() + self.spans * size_of::<Span>()
    }

    /// Most spans that any segment has now.
    #[cfg(test)]
    pub(crate) fn spans_max(&self) -> u32 {
        self.live.values().map(|live| live.spans).max().unwrap_or(0)
    }

    /// What lies before `offset` in a segment cannot be walked: no span reaches across.
    pub(super) fn bar(&mut self, seq: u64, offset: u64) {
        self.barrier = (seq, (offset / BLOCK) as u32);
        self.newest = None;
    }

    pub(super) fn add(&mut self, seq: u64) {
        let live = self.live.entry(seq).or_default();
        live.runs += 1;
        self.runs += 1;
    }

    pub(super) fn release(&mut self, run: &Run) {
        self.unspan(run.seq, run.more.len() as u32);
        if let Entry::Occupied(mut live) = self.live.entry(run.seq) {
            live.get_mut().runs -= 1;
            self.runs -= 1;
            if live.get().runs == 0 {
                live.remove();
            }
        }
    }

    fn spans(&mut self, seq: u64, more: u32) {
        self.live.entry(seq).or_default().spans += more;
        self.spans += more as usize;
        self.newest = None;
    }

    fn unspan(&mut self, seq: u64, fewer: u32) {
        if let Some(live) = self.live.get_mut(&seq) {
            live.spans -= fewer;
            self.spans -= fewer as usize;
            self.newest = None;
        }
    }

    fn bounds(&mut self, seq: u64) -> Bounds {
        if let Some((of, bounds)) = self.newest
            && of == seq
        {
            return bounds;
        }
        let (span_bytes, per_doubling, spans_max) = self.limits();
        let spans = self.live.get(&seq).map_or(0, |live| live.spans);
        let doublings = (spans / per_doubling).min(20);
        let bounds = Bounds {
            blocks: ((span_bytes / BLOCK) as u32) << doublings,
            not_before: if self.barrier.0 == seq {
                self.barrier.1
            } else {
                0
            },
            full: spans >= spans_max,
        };
        self.newest = Some((seq, bounds));
        bounds
    }

    #[cfg(not(test))]
    fn limits(&self) -> (u64, u32, u32) {
        (SPAN_BYTES, SPANS_PER_DOUBLING, SPANS_MAX)
    }

    #[cfg(test)]
    fn limits(&self) -> (u64, u32, u32) {
        let usual = (SPAN_BYTES, SPANS_PER_DOUBLING, SPANS_MAX);
        self.limits.unwrap_or(usual)
    }
}
