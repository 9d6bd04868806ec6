//! The moving part of the open log: batches onto the disk, completions back, in order.
//!
//! Everything here runs when something is submitted or has completed, and never waits. The rules:
//! acknowledge in log order; begin a segment only when everything before it is durable; write the
//! footer of the segment left only when the header of the next is durable; let go of segments only
//! below a low mark that a durable batch has published; after a failed write, acknowledge nothing.

use std::io;

use crate::batch::{self, BatchHeader, FLAG_FIRST, FLAG_FOOTER, HEADER_BYTES};
use crate::disk::{AlignedBuf, Completion, Op, Output, Token};
use crate::groups::Place;
use crate::log::{Errand, Flight, FlightOf, Phase};
use crate::pipeline::{Notice, SegmentFile};
use crate::reads::Finished;
use crate::segment::{self, DATA_AT, FLAG_READY, SegmentHeader};
use crate::stage::Batch;
use crate::{Event, IoFault, Lsn, ReadError, Wal, WalError};

impl Wal {
    /// Everything that can go on goes on.
    pub(crate) fn advance(&mut self) {
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
    pub(crate) fn write_next(&mut self) -> Option<Lsn> {
        if !self.stage.has_any() || self.flights.len() >= self.options.depth {
            return None;
        }
        let (records, touches) = self.stage.next_size();
        let bytes = batch::batch_bytes(records, touches);
        let fits = self.fits(bytes);
        if !fits && (!self.flights.is_empty() || !(self.begin_segment(bytes) || self.resume(bytes)))
        {
            return None;
        }
        let batch = self.stage.take();
        Some(self.write(batch))
    }

    /// The segment being written has room for so many bytes.
    fn fits(&self, bytes: usize) -> bool {
        self.tail
            .is_some_and(|tail| self.end.offset + bytes as u64 <= tail.bytes)
    }

    pub(crate) fn write(&mut self, batch: Batch) -> Lsn {
        let Batch {
            lsn,
            mut buf,
            records,
            entries,
            payload_bytes,
            touches,
        } = batch;
        let first = self.end.offset == DATA_AT;
        let record_bytes = buf.len() - HEADER_BYTES;
        let marks_max = touches.len() + if first { self.groups.len() } else { 0 };
        let len = batch::batch_bytes(record_bytes, marks_max) as u32;
        let place = Place {
            lsn,
            seq: self.end.seq,
            offset: self.end.offset,
            len,
        };
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

    /// Begin the next ready segment, for a batch of so many bytes. Everything before is durable.
    pub(crate) fn begin_segment(&mut self, bytes: usize) -> bool {
        let sealed: u64 = self.scrub.sealed.values().sum();
        let (needed, log_bytes) = (DATA_AT + bytes as u64, sealed + self.end.offset);
        let Some(next) = self.pipeline.take(self.now_micros, needed, log_bytes) else {
            // It may have been at rest: those that were ready were too small.
            self.prepare();
            return false;
        };
        let header = self.header(next);
        self.footer = self.make_footer();
        if self.end.seq != 0 {
            self.scrub.sealed.insert(self.end.seq, self.end.offset);
        }
        self.tail = Some(next);
        self.resumable = None;
        self.segments.insert(next.seq, next);
        self.end.seq = next.seq;
        self.end.offset = DATA_AT;
        self.end.low_seq = header.low_seq;
        self.fly(0, header.blocks(), FlightOf::Header(header.seq));
        self.prepare();
        true
    }

    /// Go on in the segment of the life before, as there is no other: a file system that is full would
    /// otherwise lose a segment to every restart, and then the log could not even say who leads.
    ///
    /// That segment ends cleanly and is locked and synced: to whoever reads it, this is the process that
    /// wrote it and goes on. No acknowledged block is written again.
    fn resume(&mut self, bytes: usize) -> bool {
        if self.tail.is_some() || self.pipeline.shortage().is_none() {
            return false;
        }
        let fits = |last: &SegmentFile| self.end.offset + bytes as u64 <= last.bytes;
        let Some(last) = self.resumable.filter(fits) else {
            return false;
        };
        self.scrub.sealed.remove(&last.seq);
        self.tail = Some(last);
        true
    }

    /// What a segment begun now says.
    fn header(&self, segment: SegmentFile) -> SegmentHeader {
        SegmentHeader {
            uuid: self.uuid,
            seq: segment.seq,
            prev_seq: self.end.seq,
            prev_end: self.end.offset,
            first_lsn: self.end.lsn + 1,
            low_seq: self.end.low_seq.max(1),
            bytes: segment.bytes,
            cluster_id: self.identity.cluster_id,
            member_id: self.identity.member_id,
            prev: self.end.crc,
            depth: self.options.depth as u16,
            flags: 0,
        }
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
            since_micros: self.now_micros,
        });
        self.histograms.in_flight.note(self.flights.len() as u64);
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

    pub(crate) fn errand(&mut self, errand: Errand, op: Op) {
        let token = self.token();
        self.errands.insert(token, errand);
        self.disk.submit(token, op);
    }

    pub(crate) fn complete(&mut self, completion: Completion) {
        let Completion { token, result } = completion;
        match self.errands.remove(&token) {
            None => self.landed(token, result),
            Some(Errand::Pipeline) => match self.pipeline.done(result) {
                Notice::Nothing => {}
                Notice::SpaceLow(lacks) => self.events.push_back(Event::SpaceLow(lacks)),
                Notice::SpaceOk => self.events.push_back(Event::SpaceOk),
                Notice::Broken { name, doing, fault } => self.poison(name, 0, doing, fault),
            },
            Some(Errand::Close) => {}
            Some(Errand::Checkpoint { id, is_write }) => {
                self.checkpoint_went_on(id, is_write, result);
            }
            Some(Errand::Footer { seq, offset }) => {
                match result {
                    Ok(Output::Buf(buf)) => self.stage.give_back(buf),
                    Ok(_) => {}
                    Err(e) => self.poison(segment::name(seq), offset, "write", e.into()),
                }
                // It may have been the last that held its segment, and nothing more may come.
                self.purge();
            }
            Some(Errand::Scrub(seq)) => {
                match result {
                    Ok(Output::Buf(buf)) => self.scrubbed_slice(seq, Ok(&buf)),
                    Ok(_) => self.scrubbed_slice(seq, Err("no bytes came back".into())),
                    Err(e) => self.scrubbed_slice(seq, Err(e.to_string())),
                }
                self.purge();
            }
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
        let micros = self.now_micros.saturating_sub(flight.since_micros);
        self.histograms.write_micros.note(micros);
        let (seq, offset) = (flight.seq, flight.offset);
        match result {
            Ok(Output::Buf(buf)) => self.stage.give_back(buf),
            Ok(_) => {}
            Err(e) => self.poison(segment::name(seq), offset, "write", e.into()),
        }
        let poisoned = self.poison.is_some();
        while self.flights.front().is_some_and(|flight| flight.done) {
            let landed = self.flights.pop_front();
            if let Some(flight) = landed.filter(|_| !poisoned) {
                self.acknowledge(flight.what);
            }
        }
        self.purge();
        if self.flights.is_empty() {
            self.begin_rewrite();
        }
    }

    fn acknowledge(&mut self, what: FlightOf) {
        match what {
            FlightOf::Header(seq) => {
                self.durable_seq = seq;
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
                self.histograms.batch_bytes.note(bytes);
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
            self.give_up_checkpoints();
            self.events.push_back(Event::Poisoned(error));
        }
    }

    /// Let go of segments below the low mark that a durable batch has published.
    fn purge(&mut self) {
        if self.poison.is_some() {
            return;
        }
        while let Some((&seq, _)) = self.segments.first_key_value() {
            let footer_flies = self.errands.values().any(
                |e| matches!(e, Errand::Footer { seq: s, .. } | Errand::Scrub(s) if *s == seq),
            );
            if seq >= self.stats.low_seq.min(self.end.seq)
                || self.reads.is_pinned(seq)
                || footer_flies
            {
                return;
            }
            self.scrub.sealed.remove(&seq);
            self.reads.forget(seq);
            if let Some(segment) = self.segments.remove(&seq) {
                self.pipeline.give_back(segment);
            }
        }
    }

    /// Keep the pipeline of ready segments going.
    fn prepare(&mut self) {
        if let Some(file) = self.pipeline.close(self.now_micros) {
            self.errand(Errand::Close, Op::Close { file });
        }
        let nowhere = SegmentFile {
            seq: 0,
            file: 0,
            bytes: 0,
        };
        let stamp = SegmentHeader {
            flags: FLAG_READY,
            prev_seq: self.durable_seq,
            first_lsn: self.stats.durable_lsn + 1,
            ..self.header(nowhere)
        };
        if let Some(op) = self.pipeline.next(&stamp) {
            self.errand(Errand::Pipeline, op);
        }
    }

    pub(crate) fn go_on_reading(&mut self) {
        loop {
            let segments = &self.segments;
            let file_of = |seq| segments.get(&seq).map(|s| s.file);
            let log = (self.uuid, self.end.seq);
            match self
                .reads
                .step(&self.groups, self.stats.durable_lsn, log, file_of)
            {
                None => return,
                Some(Ok((id, op))) => self.errand(Errand::Read(id), op),
                Some(Err(finished)) => self.tell(Some(finished)),
            }
        }
    }

    fn tell(&mut self, finished: Option<Finished>) {
        if let Some((id, result)) = finished
            && !self.rewrite_read(id, &result)
        {
            self.events.push_back(Event::Read { id, result });
        }
    }

    /// Closing: when nothing is left to write, a last mark; when that is durable, the end.
    fn finish(&mut self) {
        let waits = self.poison.is_none() && self.stage.has_any();
        if waits && self.pipeline.shortage().is_none() {
            // It may wait for a segment: the pipeline must go on until there is one.
            return;
        }
        self.pipeline.stop();
        self.give_up_checkpoints();
        if !self.flights.is_empty() {
            return;
        }
        // On a full disk what still waits was never acknowledged; closing must not wait for room.
        let unmarked = !std::mem::replace(&mut self.marked, true) && self.stats.batches > 0;
        if self.poison.is_none() && !waits && unmarked && self.fits(batch::batch_bytes(0, 0)) {
            let batch = self.stage.take();
            self.write(batch);
            return;
        }
        // Whatever else is in flight (a footer, a segment being made, reads) holds its file open, and
        // with it the file's lock: wait, so that the log can be opened again at once.
        if !self.errands.is_empty() || !self.checkpoints.is_empty() {
            return;
        }
        for id in self.reads.cancel() {
            self.tell(Some((id, Err(ReadError::Closed))));
        }
        self.phase = Phase::Closed;
        self.events.push_back(Event::Closed);
    }
}
