//! The open log: stage, submit, poll, read back, close.
//!
//! One write per batch, up to `depth` in flight, acknowledged in log order. Beginning a segment waits
//! until everything before it is durable (one write's latency per 64 MiB): that is what makes the
//! header of a segment a proof that the one before it is complete, see `recover`.
//! Promises: after the first failed write nothing is acknowledged any more and nothing is retried.
//! Must never know: raft, time.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::task::{Context, Poll};

use crate::checkpoint::{CheckpointId, Checkpoints};
use crate::disk::{AlignedBuf, Disk, Token};
use crate::groups::{Change, Groups};
use crate::pipeline::{Pipeline, SegmentFile};
use crate::pulse::Histograms;
use crate::reads::Reads;
use crate::record::HardState;
use crate::recover::{End, Recovered};
use crate::rewrite::Rewriting;
use crate::scrub::Scrub;
use crate::sizes::{self, Sizes};
use crate::stage::Stage;
use crate::{
    Damage, GroupId, Healed, Identity, Lsn, OpenError, OpenReport, Options, ReadEntry, ReadError,
    ReadId, Replay, Shortage, Stats, WalError, identity, recover,
};

/// What [`Wal::poll`] has to say.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// This batch and all before it are durable.
    Durable(Lsn),
    /// A read ended.
    Read {
        /// As given by [`Wal::read`].
        id: ReadId,
        /// Entries from `lo` on, at least one, or why there are none.
        result: Result<Vec<ReadEntry>, ReadError>,
    },
    /// No new segment can be made, for lack of this: refuse writes, compact, free space. The log
    /// goes on while ready segments last, and retries by itself. Said again when it comes to lack
    /// something else.
    SpaceLow(Shortage),
    /// There is space again.
    SpaceOk,
    /// The scrubber found sealed log that does not read. Everything acknowledged is still in memory of
    /// whoever needs it, or at peers and in checkpoints: compact these groups soon.
    Rot {
        /// The segment file.
        file: PathBuf,
        /// Byte offset of the batch.
        offset: u64,
        /// What is wrong.
        what: String,
        /// Whose entries it held, as far as that can be read.
        groups: Vec<Damage>,
    },
    /// The scrubber found sealed log of which one of two copies is damaged: nothing is lost yet.
    Healed(Healed),
    /// A write failed. Said once; nothing is acknowledged after it.
    Poisoned(WalError),
    /// A checkpoint takes chunks again, has its room, or has ended.
    Checkpoint(CheckpointId),
    /// [`Wal::close`] is done: everything submitted is durable (or the log is poisoned) and the
    /// log can be dropped.
    Closed,
}

/// A write on the commit path, in log order.
#[derive(Debug)]
pub(crate) struct Flight {
    pub(crate) token: Token,
    pub(crate) what: FlightOf,
    pub(crate) done: bool,
    /// For the message if it fails.
    pub(crate) seq: u64,
    pub(crate) offset: u64,
    /// By the owner's clock.
    pub(crate) since_micros: u64,
}

#[derive(Debug)]
pub(crate) enum FlightOf {
    /// Of this segment.
    Header(u64),
    Batch {
        lsn: Lsn,
        bytes: u64,
        payload_bytes: u64,
        entries: u64,
        low_seq: u64,
    },
}

/// What an operation off the commit path was for.
#[derive(Debug)]
pub(crate) enum Errand {
    Pipeline,
    Close,
    Footer {
        seq: u64,
        offset: u64,
    },
    Read(ReadId),
    /// Of this segment.
    Scrub(u64),
    Checkpoint {
        id: CheckpointId,
        is_write: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Running,
    Closing,
    Closed,
}

/// One core's write-ahead log. Owned by the core's thread.
pub struct Wal {
    pub(crate) disk: Box<dyn Disk>,
    pub(crate) options: Options,
    pub(crate) identity: Identity,
    pub(crate) uuid: u128,
    pub(crate) stage: Stage,
    pub(crate) groups: Groups,
    /// Where the next batch goes; its segment may be one that is written no more.
    pub(crate) end: End,
    /// The newest segment whose header is durable.
    pub(crate) durable_seq: u64,
    /// The segment being written, if one was begun since the log was opened.
    pub(crate) tail: Option<SegmentFile>,
    /// The segment of an earlier life that can be gone on with, while none was begun in this one.
    pub(crate) resumable: Option<SegmentFile>,
    pub(crate) segments: BTreeMap<u64, SegmentFile>,
    pub(crate) pipeline: Pipeline,
    pub(crate) reads: Reads,
    pub(crate) flights: VecDeque<Flight>,
    pub(crate) errands: BTreeMap<Token, Errand>,
    /// The footer of the segment before `tail`, until the header of `tail` is durable.
    pub(crate) footer: Option<(SegmentFile, u64, AlignedBuf)>,
    pub(crate) events: VecDeque<Event>,
    pub(crate) next_token: Token,
    /// A submit found no way: do it when there is one.
    pub(crate) owed: bool,
    pub(crate) phase: Phase,
    /// The closing mark was written, or there was no room for it.
    pub(crate) marked: bool,
    pub(crate) poison: Option<WalError>,
    pub(crate) stats: Stats,
    pub(crate) now_micros: u64,
    pub(crate) histograms: Histograms,
    pub(crate) scrub: Scrub,
    pub(crate) rewriting: Option<Rewriting>,
    pub(crate) checkpoints: Checkpoints,
    /// A segment that could not be rewritten: not tried again.
    pub(crate) not_rewritten: u64,
}

impl Wal {
    /// Open or create the log in `dir`, replaying what it holds. Blocks; called before the core's
    /// loop starts.
    pub fn open(
        dir: &Path,
        options: &Options,
        identity: &Identity,
        mut disk: Box<dyn Disk>,
        replay: &mut dyn Replay,
    ) -> Result<(Self, OpenReport), OpenError> {
        options.check().map_err(OpenError::BadOptions)?;
        disk.attach(dir);
        let born = identity::enter(disk.as_mut(), identity)?;
        let sizes = identity::sizes(disk.as_mut(), options, born.is_none())?;
        let birth = match born {
            Some(birth) => birth,
            None => identity::give_birth(disk.as_mut(), identity, sizes.first)?,
        };
        let found = recover::recover(disk.as_mut(), &birth, &sizes, replay)?;
        let info = disk.info();
        let report = OpenReport {
            created: birth.created,
            log_uuid: birth.uuid,
            birth_id: birth.birth_id,
            backend: info.backend,
            direct_io: info.direct_io,
            segment_bytes: (sizes.first, sizes.max),
            ..found.report.clone()
        };
        let mut wal = Self::build(disk, options, (identity, birth.uuid), found, sizes);
        wal.advance();
        Ok((wal, report))
    }

    fn build(
        disk: Box<dyn Disk>,
        options: &Options,
        (identity, uuid): (&Identity, u128),
        found: Recovered,
        mut sizes: Sizes,
    ) -> Self {
        let fit = sizes::fit_in(sizes.first);
        sizes.grow(found.sealed.values().sum(), None);
        let pipeline = Pipeline::new(found.ready, options.ready_segments, sizes, found.next_seq);
        let stats = Stats {
            submitted_lsn: found.end.lsn,
            durable_lsn: found.end.lsn,
            low_seq: found.end.low_seq,
            healed: found.report.healed.len() as u64,
            ..Stats::default()
        };
        Self {
            disk,
            options: options.clone(),
            identity: *identity,
            uuid,
            stage: Stage::new(found.end.lsn + 1, options.batch_bytes_max, fit),
            groups: found.groups,
            end: found.end,
            durable_seq: found.end.seq,
            tail: None,
            resumable: found.resumable,
            segments: found.segments,
            pipeline,
            reads: Reads::default(),
            flights: VecDeque::new(),
            errands: BTreeMap::new(),
            footer: None,
            events: VecDeque::new(),
            next_token: 0,
            owed: false,
            phase: Phase::Running,
            marked: false,
            poison: None,
            stats,
            now_micros: 0,
            histograms: Histograms::default(),
            scrub: Scrub::new(found.sealed),
            rewriting: None,
            checkpoints: Checkpoints::default(),
            not_rewritten: 0,
        }
    }

    /// Stage a raft entry; no I/O. Returns the batch it will be in. One copy of the payload is made.
    pub fn entry(
        &mut self,
        group: GroupId,
        term: u64,
        index: u64,
        kind: u8,
        payload: &[u8],
    ) -> Result<Lsn, WalError> {
        self.owed = false;
        self.stage.entry(group, term, index, kind, payload)
    }

    /// Stage a group's hard state; no I/O.
    pub fn hard_state(&mut self, group: GroupId, term: u64, vote: u64, commit: u64) -> Lsn {
        self.owed = false;
        self.stage.hard(group, HardState { term, vote, commit })
    }

    /// Stage that the group's entries up to `index` are in a checkpoint; segments that nobody
    /// needs any more are recycled once this is durable.
    pub fn compacted(&mut self, group: GroupId, index: u64, term: u64) -> Lsn {
        self.owed = false;
        self.stage.change(group, Change::Compacted(index, term))
    }

    /// Give the segments that are kept for the log's growth back to the file system, as something else needs
    /// the room: all but [`Options::ready_segments`].
    pub fn release_spare(&mut self) {
        self.pipeline.release_spare();
    }

    /// Stage that a snapshot up to `index` replaced the group's log: all its entries are void, also
    /// later ones. The hard state stays.
    pub fn restored(&mut self, group: GroupId, index: u64, term: u64) -> Lsn {
        self.owed = false;
        self.stage.change(group, Change::Restored(index, term))
    }

    /// Stage that the group leaves this log.
    pub fn remove(&mut self, group: GroupId) -> Lsn {
        self.owed = false;
        self.stage.change(group, Change::Removed)
    }

    /// Bytes staged and not yet submitted.
    pub fn staged_bytes(&self) -> usize {
        self.stage.bytes()
    }

    /// The batch that what was staged last is in: once it is durable, all of it is.
    pub fn staged_lsn(&self) -> Lsn {
        self.stage.lsn()
    }

    /// Bytes of batches that can be written before another segment has to be made.
    pub fn room(&self) -> u64 {
        let tail = self.tail.or(self.resumable);
        let left = tail.map_or(0, |tail| tail.bytes.saturating_sub(self.end.offset));
        left + self.pipeline.ready_bytes()
    }

    /// Whether another segment cannot be made now, and what is staged leaves less room than this.
    pub fn is_short_of(&self, bytes: u64) -> bool {
        self.pipeline.shortage().is_some()
            && self.room() < bytes.saturating_add(self.stage.bytes() as u64)
    }

    /// Whether another segment cannot be made now, and there is none left but the ballast: with the largest
    /// ready one kept, what is staged leaves less room than this. Segments are of many sizes, so no number
    /// says it.
    pub fn is_down_to_ballast(&self, bytes: u64) -> bool {
        match self.pipeline.ballast_bytes() {
            None => self.pipeline.shortage().is_some(),
            Some(ballast) => self.is_short_of(ballast.saturating_add(bytes)),
        }
    }

    /// Largest payload that every segment has room for, in bytes; a larger one gets a segment of its own.
    pub fn payload_max(&self) -> usize {
        Options::payload_bytes_in(self.pipeline.sizes().first)
    }

    /// Write the oldest staged batch. Marks the end of a turn.
    ///
    /// `None`: nothing is staged, or it must wait (`depth` writes in flight, no segment ready); then
    /// it is remembered and [`Wal::poll`] submits it as soon as it can.
    pub fn submit(&mut self) -> Result<Option<Lsn>, WalError> {
        if let Some(poison) = &self.poison {
            return Err(poison.clone());
        }
        if self.phase != Phase::Running {
            return Err(WalError::Closed);
        }
        self.stage.end_turn();
        let submitted = self.write_next();
        self.owed = self.stage.has_any();
        self.begin_rewrite();
        Ok(submitted)
    }

    /// Take the next event. Does no I/O itself that could block.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Poll::Ready(event);
            }
            match self.disk.poll(cx) {
                Poll::Ready(completion) => self.complete(completion),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Read the group's entries `lo..=hi` back, up to about `max_bytes` of payload but at least one
    /// entry. Ends in [`Event::Read`]. Only durable entries are found.
    pub fn read(&mut self, group: GroupId, lo: u64, hi: u64, max_bytes: usize) -> ReadId {
        let id = self.reads.add(group, lo, hi, max_bytes);
        self.advance();
        id
    }

    /// Whether batches wait because as many writes as may be are in flight: what is staged now cannot be
    /// written before one of them completes, so there is no hurry to stage more.
    pub fn is_saturated(&self) -> bool {
        self.flights.len() >= self.options.depth && self.stage.has_any()
    }

    /// The holes in the groups' logs: those that [`OpenReport::damaged`] named and that were not compacted,
    /// restored or replaced since.
    pub fn damaged(&self) -> Vec<Damage> {
        recover::damaged(&self.groups, self.disk.as_ref())
    }

    /// Whether the log has ever said anything of the group: where [`OpenReport::nameless`] is set, a group of
    /// which it has not may have lost all it had.
    pub fn knows(&self, group: GroupId) -> bool {
        self.groups.get(group).is_some()
    }

    /// Running figures.
    pub fn stats(&self) -> Stats {
        let info = self.disk.info();
        Stats {
            in_flight: self.flights.len(),
            staged_bytes: self.stage.bytes(),
            segments: self.segments.len(),
            ready_segments: self.pipeline.ready_count(),
            recycled: self.pipeline.recycled,
            backend: info.backend,
            direct_io: info.direct_io,
            poisoned: self.poison.is_some(),
            space_low: self.pipeline.shortage().is_some(),
            shortage: self.pipeline.shortage(),
            index_bytes: self.groups.index_bytes(),
            ..self.stats.clone()
        }
    }

    /// Submit what is staged and finish: poll until [`Event::Closed`], then drop the log.
    ///
    /// A last, empty batch says that all before it is durable, so that after a clean stop damage to
    /// any of it is told from a torn tail. A log dropped without this may keep its files locked until
    /// its writes are done, which on io_uring takes turns of the same executor.
    pub fn close(&mut self) {
        if self.phase == Phase::Running {
            self.phase = Phase::Closing;
            // Nobody asks for their pieces any more, so none may stay due.
            self.give_up_checkpoints();
            self.stage.end_turn();
            self.owed = true;
            self.advance();
        }
    }
}
