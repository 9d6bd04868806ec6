//! The size of the log: groups that pin old segments with few entries are rewritten forward; those with
//! many are named, so that they are given a checkpoint.
//!
//! A rewrite reads a group's entries back and stages all of them again, in order and in one batch: an
//! entry that repeats an index replaces it and everything after it, so half of them would be less than
//! the group has. One group at a time, begun at the end of a turn. It is given up where the group has
//! changed meanwhile, or something of it is staged: a
//! group that moves does not lag. Nothing is rewritten of a damaged group.

use crate::log::Phase;
use crate::segment::DATA_AT;
use crate::stage::Stage;
use crate::{GroupId, Lsn, ReadEntry, ReadError, ReadId, Wal};

/// A group's entries are rewritten if their payloads are at most so many bytes.
const REWRITE_BYTES_MAX: u64 = 256 * 1024;
/// Segments that a log may have before anything is rewritten.
const SEGMENTS_MIN: usize = 4;

/// A rewrite in progress.
#[derive(Debug)]
pub(crate) struct Rewriting {
    group: GroupId,
    read: ReadId,
    /// The segment that is to go.
    seq: u64,
    /// The group's last entry as it was read.
    last: (u64, u64),
    count: u64,
}

/// A group that holds old segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pin {
    /// The group.
    pub group: GroupId,
    /// Compacting it up to here lets the oldest segment go, as far as this group is concerned.
    pub index: u64,
    /// Payload bytes of all its entries in the log.
    pub bytes: u64,
}

impl Wal {
    /// Bytes of the segments that hold log, and how many of them are allowed.
    pub fn size(&self) -> (u64, u64) {
        let bytes = self.segments.values().map(|segment| segment.bytes).sum();
        (bytes, self.options.log_bytes_max)
    }

    /// The groups with entries in the oldest segment, while the log is larger than its budget: compact
    /// them, or it goes on growing and the next open takes longer than it should.
    pub fn pins(&self) -> Vec<Pin> {
        let (bytes, bytes_max) = self.size();
        match self.groups.oldest() {
            Some(oldest) if bytes > bytes_max => self.groups.pins(oldest),
            _ => Vec::new(),
        }
    }

    /// The groups with entries in the oldest segment: once they are compacted, it can be used again; if it is
    /// the one being written, after [`Wal::let_go`].
    pub fn pinning(&self, even_the_newest: bool) -> Vec<Pin> {
        match self.groups.oldest() {
            Some(oldest) if even_the_newest || oldest < self.end.seq => self.groups.pins(oldest),
            _ => Vec::new(),
        }
    }

    /// Where all entries are compacted, go on in the next segment, so that the one being written can be used
    /// again: a log that can get no other has no more than these two. Whether it did.
    pub fn let_go(&mut self) -> bool {
        let idle = self.flights.is_empty() && !self.stage.has_any() && self.rewriting.is_none();
        let useful = self.groups.oldest().is_none() && self.end.offset > DATA_AT;
        let may = self.poison.is_none() && self.phase == Phase::Running;
        if !(idle && useful && may) || self.pipeline.ready_count() == 0 || !self.begin_segment(0) {
            return false;
        }
        // Nothing but the marks of all groups, which are in no other segment then.
        let batch = self.stage.take();
        self.write(batch);
        true
    }

    /// Begin to rewrite a group that pins the oldest segment, if one does with little.
    pub(crate) fn begin_rewrite(&mut self) {
        let busy = self.rewriting.is_some() || self.poison.is_some();
        if busy || self.phase != Phase::Running || self.segments.len() <= SEGMENTS_MIN {
            return;
        }
        let bytes_max = REWRITE_BYTES_MAX.min(self.stage.fit_bytes_max() as u64 / 4);
        let sealed = |oldest: &u64| *oldest < self.end.seq && *oldest != self.not_rewritten;
        let Some(oldest) = self.groups.oldest().filter(sealed) else {
            return;
        };
        // All or none: one that stays keeps the segment anyway.
        let pins = self.groups.pins(oldest);
        if pins.is_empty()
            || pins
                .iter()
                .any(|pin| pin.bytes > bytes_max || self.is_held(pin.group))
        {
            return;
        }
        let group = pins[0].group;
        let Some(state) = self.groups.get(group) else {
            return;
        };
        let first = state.compacted.saturating_add(1);
        let last = (state.last, state.last_term);
        let read = self.reads.add(group, first, last.0, usize::MAX);
        self.rewriting = Some(Rewriting {
            group,
            read,
            seq: oldest,
            last,
            count: state.last.saturating_sub(state.compacted),
        });
        self.go_on_reading();
    }

    /// Something of the group is staged, in flight or lost: not now.
    fn is_held(&self, group: GroupId) -> bool {
        let durable: Lsn = self.stats.durable_lsn;
        self.stage.touches(group) || self.groups.is_unfit(group, durable)
    }

    /// A read ended. `true`: it was the rewrite's.
    pub(crate) fn rewrite_read(
        &mut self,
        id: ReadId,
        result: &Result<Vec<ReadEntry>, ReadError>,
    ) -> bool {
        let Some(rewriting) = self.rewriting.take_if(|rewriting| rewriting.read == id) else {
            return false;
        };
        let group = rewriting.group;
        let now = self
            .groups
            .get(group)
            .map(|state| (state.last, state.last_term));
        let Ok(entries) = result else {
            // Whoever needs these entries will hear of it.
            self.not_rewritten = rewriting.seq;
            return true;
        };
        let all = entries.len() as u64 == rewriting.count;
        let still = now == Some(rewriting.last) && !self.is_held(group);
        if still && !all {
            // It has not what the groups say it has: reading it again brings nothing.
            self.not_rewritten = rewriting.seq;
        } else if still && self.poison.is_none() && self.phase == Phase::Running {
            // (Once the log closes nothing may be staged: no segment would be made for it.)
            self.stage_together(group, entries);
            self.stats.rewritten += entries.len() as u64;
        }
        true
    }

    fn stage_together(&mut self, group: GroupId, entries: &[ReadEntry]) {
        let Self { stage, .. } = self;
        let turn_ended = stage.is_turn_ended();
        stage.room_for(entries);
        for entry in entries {
            // They fitted when they were staged first.
            let _ = stage.entry(group, entry.term, entry.index, entry.kind, &entry.payload);
        }
        if turn_ended {
            Stage::end_turn(stage);
            self.owed = true;
        }
    }
}
