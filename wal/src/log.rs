//! The open log: stage, submit, poll, read back, close.
//!
//! One write per batch, up to `depth` in flight, acknowledged in log order. Beginning a segment waits
//! until everything before it is durable (one write's latency per 64 MiB): that is what makes the
//! header of a segment a proof that the one before it is complete, see `recover.rs`.
//! Promises: after the first failed write nothing is acknowledged any more and nothing is retried.
//! Must never know: raft, time.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::Path;
use std::task::{Context, Poll};

use crate::batch::{self, BatchHeader, FLAG_FIRST, FLAG_FOOTER, HEADER_BYTES};
use crate::disk::{AlignedBuf, Completion, Disk, Op, Output, Token};
use crate::groups::{Change, Groups, Place};
use crate::pipeline::{Notice, Pipeline, SegmentFile};
use crate::reads::{Finished, Reads};
use crate::record::HardState;
use crate::recover::{End, Recovered};
use crate::segment::{self, DATA_AT, SegmentHeader};
use crate::stage::{Batch, Stage};
use crate::{
    GroupId, Identity, IoFault, Lsn, OpenError, OpenReport, Options, ReadEntry, ReadError, ReadId,
    Replay, Stats, WalError, identity, recover,
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
    /// No new segment can be made for lack of space: refuse writes, compact, free space. The log
    /// goes on while ready segments last, and retries by itself.
    SpaceLow,
    /// There is space again.
    SpaceOk,
    /// A write failed. Said once; nothing is acknowledged after it.
    Poisoned(WalError),
    /// [`Wal::close`] is done: everything submitted is durable (or the log is poisoned) and the
    /// log can be dropped.
    Closed,
}

/// A write on the commit path, in log order.
#[derive(Debug)]
struct Flight {
    token: Token,
    what: FlightOf,
    done: bool,
    /// For the message if it fails.
    seq: u64,
    offset: u64,
}

#[derive(Debug)]
enum FlightOf {
    Header,
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
enum Errand {
    Pipeline,
    Close,
    Footer { seq: u64, offset: u64 },
    Read(ReadId),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Running,
    Closing,
    Closed,
}

/// One core's write-ahead log. Owned by the core's thread.
pub struct Wal {
    disk: Box<dyn Disk>,
    options: Options,
    identity: Identity,
    uuid: u128,
    stage: Stage,
    groups: Groups,
    /// Where the next batch goes; its segment may be one that is written no more.
    end: End,
    /// The segment being written, if one was begun since the log was opened.
    tail: Option<SegmentFile>,
    segments: BTreeMap<u64, SegmentFile>,
    pipeline: Pipeline,
    reads: Reads,
    flights: VecDeque<Flight>,
    errands: BTreeMap<Token, Errand>,
    /// The footer of the segment before `tail`, until the header of `tail` is durable.
    footer: Option<(SegmentFile, u64, AlignedBuf)>,
    events: VecDeque<Event>,
    next_token: Token,
    /// A submit found no way: do it when there is one.
    owed: bool,
    phase: Phase,
    /// The closing mark was written, or there was no room for it.
    marked: bool,
    poison: Option<WalError>,
    stats: Stats,
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
        let birth = identity::enter(disk.as_mut(), identity, options.segment_bytes)?;
        let found = recover::recover(disk.as_mut(), &birth, options.segment_bytes, replay)?;
        let info = disk.info();
        let report = OpenReport {
            created: birth.created,
            log_uuid: birth.uuid,
            birth_id: birth.birth_id,
            backend: info.backend,
            direct_io: info.direct_io,
            ..found.report.clone()
        };
        let mut wal = Self::build(disk, options, identity, birth.uuid, found);
        wal.advance();
        Ok((wal, report))
    }

    fn build(
        disk: Box<dyn Disk>,
        options: &Options,
        identity: &Identity,
        uuid: u128,
        found: Recovered,
    ) -> Self {
        // A quarter of a segment is left for what is not the caller's: marks of all groups at its
        // start, the footer at its end.
        let fit = (options.segment_bytes - DATA_AT) as usize / 4 * 3;
        let bytes = options.segment_bytes;
        let pipeline = Pipeline::new(found.ready, options.ready_segments, bytes, found.next_seq);
        let stats = Stats {
            submitted_lsn: found.end.lsn,
            durable_lsn: found.end.lsn,
            low_seq: found.end.low_seq,
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
            tail: None,
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

    /// Largest payload [`Wal::entry`] takes, in bytes.
    pub fn payload_max(&self) -> usize {
        self.stage.payload_max()
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
            space_low: self.pipeline.is_space_low(),
            ..self.stats.clone()
        }
    }

    /// Submit what is staged and finish: poll until [`Event::Closed`], then drop the log.
    ///
    /// A last, empty batch says that all before it is durable, so that after a clean stop damage to
    /// any of it is told from a torn tail.
    pub fn close(&mut self) {
        if self.phase == Phase::Running {
            self.phase = Phase::Closing;
            self.stage.end_turn();
            self.owed = true;
            self.advance();
        }
    }

    /// Everything that can go on goes on.
    fn advance(&mut self) {
        let owed = self.owed || self.phase == Phase::Closing;
        if owed && self.poison.is_none() && self.stage.is_turn_ended() {
            while self.stage.has_any() && self.write_next().is_some() {}
            self.owed = self.stage.has_any();
        }
        if self.phase == Phase::Closing {
            self.finish();
        }
        self.prepare();
        self.go_on_reading();
    }

    /// The next batch goes to the disk, if it may.
    fn write_next(&mut self) -> Option<Lsn> {
        if !self.stage.has_any() || self.flights.len() >= self.options.depth {
            return None;
        }
        let (records, touches) = self.stage.next_size();
        if !self.fits(batch::batch_bytes(records, touches)) {
            if !self.flights.is_empty() || !self.begin_segment() {
                return None;
            }
        }
        let batch = self.stage.take();
        Some(self.write(batch))
    }

    /// The segment being written has room for so many bytes.
    fn fits(&self, bytes: usize) -> bool {
        self.tail
            .is_some_and(|tail| self.end.offset + bytes as u64 <= tail.bytes)
    }

    fn write(&mut self, batch: Batch) -> Lsn {
        let Batch {
            lsn,
            mut buf,
            records,
            entries,
            payload_bytes,
            touches,
        } = batch;
        let place = Place {
            lsn,
            seq: self.end.seq,
            offset: self.end.offset,
            len: 0,
        };
        let first = self.end.offset == DATA_AT;
        let record_bytes = buf.len() - HEADER_BYTES;
        self.groups.apply(&touches, place);
        let mark_all = first && self.fits(batch::batch_bytes(record_bytes, self.groups.len()));
        let marks: Vec<_> = match mark_all {
            true => self.groups.all_marks().collect(),
            false => self.groups.marks().collect(),
        };
        if mark_all {
            self.end.marked_seq = self.end.seq;
        }
        self.end.low_seq = self.end.low_seq.max(self.low_seq());
        let header = BatchHeader {
            flags: if mark_all { FLAG_FIRST } else { 0 },
            uuid: self.uuid,
            seq: place.seq,
            offset: place.offset,
            lsn,
            durable_lsn: self.stats.durable_lsn,
            low_seq: self.end.low_seq,
            records,
            prev: self.end.crc,
            ..BatchHeader::default()
        };
        let (header, crc) = batch::seal(&mut buf, header, marks.into_iter());
        self.groups.set_len(lsn, header.len);
        let bytes = u64::from(header.len);
        let low_seq = self.end.low_seq;
        let what = FlightOf::Batch {
            lsn,
            bytes,
            payload_bytes,
            entries,
            low_seq,
        };
        self.fly(place.offset, buf, what);
        self.end.offset += bytes;
        self.end.lsn = lsn;
        self.end.crc = crc;
        self.stats.submitted_lsn = lsn;
        self.stage.give_back_touches(touches);
        lsn
    }

    /// Oldest segment that holds entries somebody needs, or the newest full set of marks.
    fn low_seq(&self) -> u64 {
        let marked = self.end.marked_seq;
        self.groups
            .oldest()
            .map_or(marked, |oldest| oldest.min(marked))
    }

    /// Begin the next ready segment. Everything before is durable.
    fn begin_segment(&mut self) -> bool {
        let Some(next) = self.pipeline.take() else {
            return false;
        };
        let header = SegmentHeader {
            uuid: self.uuid,
            seq: next.seq,
            prev_seq: self.end.seq,
            prev_end: self.end.offset,
            first_lsn: self.end.lsn + 1,
            low_seq: self.end.low_seq.max(1),
            bytes: next.bytes,
            cluster_id: self.identity.cluster_id,
            member_id: self.identity.member_id,
            prev: self.end.crc,
            depth: self.options.depth as u16,
        };
        self.footer = self.make_footer();
        self.tail = Some(next);
        self.segments.insert(next.seq, next);
        self.end.seq = next.seq;
        self.end.offset = DATA_AT;
        self.end.low_seq = header.low_seq;
        let mut buf = AlignedBuf::with_capacity(DATA_AT as usize);
        buf.extend(&header.encode());
        self.fly(0, buf, FlightOf::Header);
        self.prepare();
        true
    }

    /// The footer of the segment being left, if one was written since the log was opened and the
    /// footer fits. It may be missing from any segment: it only repeats what batches say.
    fn make_footer(&mut self) -> Option<(SegmentFile, u64, AlignedBuf)> {
        let marks = self.groups.footer_marks();
        let tail = self
            .tail
            .filter(|_| self.fits(batch::batch_bytes(0, marks.len())))?;
        let mut buf = AlignedBuf::zeroed(HEADER_BYTES);
        let header = BatchHeader {
            flags: FLAG_FOOTER,
            uuid: self.uuid,
            seq: tail.seq,
            offset: self.end.offset,
            lsn: self.end.lsn + 1,
            durable_lsn: self.stats.durable_lsn,
            low_seq: self.end.low_seq,
            prev: self.end.crc,
            ..BatchHeader::default()
        };
        batch::seal(&mut buf, header, marks.into_iter());
        Some((tail, self.end.offset, buf))
    }

    /// Send a write of the commit path off.
    fn fly(&mut self, offset: u64, buf: AlignedBuf, what: FlightOf) {
        let Some(tail) = self.tail else { return };
        let token = self.token();
        self.flights.push_back(Flight {
            token,
            what,
            done: false,
            seq: tail.seq,
            offset,
        });
        self.disk.submit(
            token,
            Op::Write {
                file: tail.file,
                offset,
                buf,
            },
        );
    }

    fn token(&mut self) -> Token {
        self.next_token += 1;
        self.next_token
    }

    fn errand(&mut self, errand: Errand, op: Op) {
        let token = self.token();
        self.errands.insert(token, errand);
        self.disk.submit(token, op);
    }

    fn complete(&mut self, completion: Completion) {
        let Completion { token, result } = completion;
        match self.errands.remove(&token) {
            None => self.landed(token, result),
            Some(Errand::Pipeline) => match self.pipeline.done(result) {
                Notice::Nothing => {}
                Notice::SpaceLow => self.events.push_back(Event::SpaceLow),
                Notice::SpaceOk => self.events.push_back(Event::SpaceOk),
                Notice::Broken { name, doing, fault } => self.poison(name, 0, doing, fault),
            },
            Some(Errand::Close) => {}
            Some(Errand::Footer { seq, offset }) => match result {
                Ok(Output::Buf(buf)) => self.stage.give_back(buf),
                Ok(_) => {}
                Err(e) => self.poison(segment::name(seq), offset, "write", e.into()),
            },
            Some(Errand::Read(id)) => {
                let finished = self.reads.done(id, result, self.uuid, &self.groups);
                self.tell(finished);
                self.purge();
            }
        }
        self.advance();
    }

    /// A write of the commit path ended: acknowledge what is durable without a gap.
    fn landed(&mut self, token: Token, result: io::Result<Output>) {
        let Some(flight) = self.flights.iter_mut().find(|f| f.token == token) else {
            return;
        };
        flight.done = true;
        let (seq, offset) = (flight.seq, flight.offset);
        match result {
            Ok(Output::Buf(buf)) => self.stage.give_back(buf),
            Ok(_) => {}
            Err(e) => self.poison(segment::name(seq), offset, "write", e.into()),
        }
        let poisoned = self.poison.is_some();
        while let Some(flight) = self.flights.pop_front_if(|f| f.done) {
            if !poisoned {
                self.acknowledge(flight.what);
            }
        }
        self.purge();
    }

    fn acknowledge(&mut self, what: FlightOf) {
        match what {
            FlightOf::Header => {
                if let Some((segment, offset, buf)) = self.footer.take() {
                    let errand = Errand::Footer {
                        seq: segment.seq,
                        offset,
                    };
                    self.errand(
                        errand,
                        Op::Write {
                            file: segment.file,
                            offset,
                            buf,
                        },
                    );
                }
            }
            FlightOf::Batch {
                lsn,
                bytes,
                payload_bytes,
                entries,
                low_seq,
            } => {
                self.stats.batches += 1;
                self.stats.bytes += bytes;
                self.stats.payload_bytes += payload_bytes;
                self.stats.entries += entries;
                self.stats.durable_lsn = lsn;
                self.stats.low_seq = low_seq;
                self.events.push_back(Event::Durable(lsn));
            }
        }
    }

    fn poison(&mut self, file: String, offset: u64, doing: &'static str, fault: IoFault) {
        if self.poison.is_none() {
            let error = WalError::Poisoned {
                file,
                offset,
                doing,
                fault,
            };
            self.poison = Some(error.clone());
            self.pipeline.stop();
            self.events.push_back(Event::Poisoned(error));
        }
    }

    /// Let go of segments below the low mark that a durable batch has published.
    fn purge(&mut self) {
        if self.poison.is_some() {
            return;
        }
        while let Some((&seq, _)) = self.segments.first_key_value() {
            let footer_flies = self
                .errands
                .values()
                .any(|e| matches!(e, Errand::Footer { seq: s, .. } if *s == seq));
            if seq >= self.stats.low_seq || self.reads.is_pinned(seq) || footer_flies {
                return;
            }
            if let Some(segment) = self.segments.remove(&seq) {
                self.pipeline.give_back(segment);
            }
        }
    }

    /// Keep the pipeline of ready segments going.
    fn prepare(&mut self) {
        if let Some(file) = self.pipeline.close() {
            self.errand(Errand::Close, Op::Close { file });
        }
        if let Some(op) = self.pipeline.next() {
            self.errand(Errand::Pipeline, op);
        }
    }

    fn go_on_reading(&mut self) {
        loop {
            let segments = &self.segments;
            let file_of = |seq| segments.get(&seq).map(|s| s.file);
            match self
                .reads
                .step(&self.groups, self.stats.durable_lsn, file_of)
            {
                None => return,
                Some(Ok((id, op))) => self.errand(Errand::Read(id), op),
                Some(Err(finished)) => self.tell(Some(finished)),
            }
        }
    }

    fn tell(&mut self, finished: Option<Finished>) {
        if let Some((id, result)) = finished {
            self.events.push_back(Event::Read { id, result });
        }
    }

    /// Closing: when nothing is left to write, a last mark; when that is durable, the end.
    fn finish(&mut self) {
        self.pipeline.stop();
        if !self.flights.is_empty() || (self.poison.is_none() && self.stage.has_any()) {
            return;
        }
        let unmarked = !std::mem::replace(&mut self.marked, true) && self.stats.batches > 0;
        if self.poison.is_none() && unmarked && self.fits(batch::batch_bytes(0, 0)) {
            let batch = self.stage.take();
            self.write(batch);
            return;
        }
        for id in self.reads.cancel() {
            self.events.push_back(Event::Read {
                id,
                result: Err(ReadError::Closed),
            });
        }
        self.phase = Phase::Closed;
        self.events.push_back(Event::Closed);
    }
}
