//! What can be done about one obstacle: a place where recovery refuses to go on.
//!
//! | obstacle                                     | what is done                                          |
//! |----------------------------------------------|-------------------------------------------------------|
//! | a batch that nothing tells of                | a bridge from it to the next readable batch, or to    |
//! |                                              | the end of its segment                                |
//! | no copy of a segment header                  | it is made again from the segments beside it, and     |
//! |                                              | from its own first batch                              |
//! | no copy of it, and nothing shows that the    | the same, and a bridge over what cannot be read at    |
//! | segment before is complete                   | its begin: it stands for the end of that one, too     |
//! | no segment file, or nothing left of it       | a segment that is nothing but a bridge                |
//! | anything else (a successor that denies its   | nothing                                               |
//! | predecessor, a foreign file, a newer format) |                                                       |
//!
//! Each fix brings the recovery further, so that it is asked again. None believes more than recovery does.

use super::Work;
use super::overlay::Overlay;
use crate::batch::{self, BatchHeader, NUMBER_MAX};
use crate::chain::{DiskSource, FoundFile, open_files};
use crate::disk::{Disk, FileId};
use crate::error::Obstacle;
use crate::identity::{Birth, fault};
use crate::pipeline::SegmentFile;
use crate::scan::{Expect, Judged, Window};
use crate::segment::{self, DATA_AT, SegmentHeader};
use crate::{BLOCK_BYTES, Lsn, OpenError};

const BLOCK: u64 = BLOCK_BYTES as u64;

/// What is made against an error; empty: nothing can be.
pub(super) fn fix(
    overlay: &mut Overlay<'_>,
    birth: &Birth,
    error: &OpenError,
) -> Result<Vec<Work>, OpenError> {
    let mut fixing = Fixing { overlay, birth };
    match error {
        OpenError::Corrupt(corruption) => match &corruption.obstacle {
            Obstacle::Batch(expect, after) => fixing.bridge(expect, *after, corruption.durable_lsn),
            Obstacle::Header(seq) => fixing.header(*seq),
            Obstacle::Emptied(seq) => fixing.anew(*seq),
            Obstacle::Other => Ok(vec![]),
        },
        OpenError::MissingSegment { path } => {
            let name = path.file_name().map(|name| name.to_string_lossy());
            match name.and_then(|name| segment::seq_of(&name)) {
                Some(seq) => fixing.segment(seq),
                None => Ok(vec![]),
            }
        }
        _ => Ok(vec![]),
    }
}

/// A batch that stands for others.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bridge {
    pub(super) header: BatchHeader,
    pub(super) bytes: u64,
}

impl Bridge {
    /// Lay it over its place. `known`: the last batch of the log.
    pub(super) fn lay(&self, overlay: &mut Overlay<'_>, known: Lsn) {
        let header = BatchHeader {
            durable_lsn: known,
            ..self.header
        };
        let bytes = batch::bridge(header, self.bytes as usize);
        overlay.patch(header.seq, header.offset, bytes);
    }
}

/// Where a segment's log ends.
struct Tail {
    end: u64,
    lsn: Lsn,
    crc: u32,
    /// Nothing of it can be missing at its end: a footer says so, or there is no room.
    complete: bool,
}

/// What can be read of a segment that has no header.
struct Headless {
    file: SegmentFile,
    /// Its first batch.
    first: Option<BatchHeader>,
    /// Where it can be read again: offset, first batch and chain there. Its own next batch, or else the begin
    /// of the segment after it.
    goes_on: Option<(u64, Lsn, u32)>,
}

struct Fixing<'o, 'd> {
    overlay: &'o mut Overlay<'d>,
    birth: &'o Birth,
}

type Files = std::collections::BTreeMap<u64, FoundFile>;

impl Fixing<'_, '_> {
    fn files(&mut self) -> Result<Files, OpenError> {
        open_files(self.overlay, self.birth.uuid)
    }

    fn look<T>(
        &mut self,
        seq: u64,
        file: FileId,
        f: impl FnOnce(&mut Window<'_>) -> std::io::Result<T>,
    ) -> Result<T, OpenError> {
        let mut unreadable = std::collections::BTreeSet::new();
        let mut source = crate::chain::LogSource {
            disk: DiskSource {
                disk: self.overlay,
                file,
            },
            ahead: None,
            unreadable: &mut unreadable,
        };
        let found = f(&mut Window::new(&mut source));
        found.map_err(|e| fault(self.overlay, &segment::name(seq), "read", e))
    }

    /// From the batch that is bad to the next that can be read, or to where the segment's log ends.
    fn bridge(
        &mut self,
        expect: &Expect,
        after: Option<(Lsn, u32)>,
        durable: Lsn,
    ) -> Result<Vec<Work>, OpenError> {
        let files = self.files()?;
        let Some(found) = files.get(&expect.seq) else {
            return Ok(vec![]);
        };
        let file = found.file.file;
        let next = self.look(expect.seq, file, |w| w.next_header(expect))?;
        let seen = self.look(expect.seq, file, |w| w.evidence(expect))?;
        let (to, until, chain) = match (next, after) {
            (Some(next), _) => (next.offset, next.lsn - 1, next.prev),
            (None, Some((lsn, prev))) => (expect.limit, lsn.saturating_sub(1), prev),
            (None, None) => {
                let end = seen.end.max(expect.offset + BLOCK).min(expect.limit);
                (end, durable.max(expect.lsn), 0)
            }
        };
        if to < expect.offset + BLOCK || until < expect.lsn {
            return Ok(vec![]);
        }
        if to > found.file.bytes {
            // It was cut: as long as it was, so that there is room for the bridge.
            self.overlay.grow(expect.seq, expect.limit.max(found.said));
        }
        let there = to.min(found.file.bytes).saturating_sub(expect.offset);
        let there = there.next_multiple_of(BLOCK);
        if there > 0 {
            self.overlay.keep(expect.seq, expect.offset, there);
        }
        Ok(vec![self.lay(expect, to, until, chain)])
    }

    fn lay(&mut self, expect: &Expect, to: u64, until: Lsn, chain: u32) -> Work {
        let bridge = Bridge {
            header: BatchHeader {
                uuid: expect.uuid,
                seq: expect.seq,
                offset: expect.offset,
                lsn: expect.lsn,
                prev: expect.prev,
                until,
                chain,
                ..BatchHeader::default()
            },
            bytes: to - expect.offset,
        };
        bridge.lay(self.overlay, 0);
        Work::Bridge {
            file: self.overlay.path().join(segment::name(expect.seq)),
            bridge,
        }
    }

    /// The segment before one: the nearest with a header.
    fn before(files: &Files, seq: u64) -> Option<(SegmentHeader, FileId)> {
        let mut lower = files.range(..seq).rev();
        lower.find_map(|(_, found)| Some((found.header?, found.file.file)))
    }

    /// The first segment from `from` to `seq` without a header. A file of which nothing shows that it was
    /// one, but for what lies around it, counts only as `seq` itself.
    fn bare(&mut self, files: &Files, from: u64, seq: u64) -> Result<Option<u64>, OpenError> {
        for (at, found) in files.range(from..=seq) {
            if found.header.is_some() || found.ready.is_some() {
                continue;
            }
            // (A header of zeros looks like a file that was never used, and its batches do not.)
            let begin = self.begin(&found.file);
            let seen = self.look(*at, found.file.file, |w| w.evidence(&begin))?;
            if found.touched || *at == seq || seen.end > 0 {
                return Ok(Some(*at));
            }
        }
        Ok(None)
    }

    /// Anything from the first place for a batch on.
    fn begin(&self, file: &SegmentFile) -> Expect {
        Expect {
            uuid: self.birth.uuid,
            seq: file.seq,
            offset: DATA_AT,
            lsn: 0,
            prev: 0,
            limit: file.bytes,
        }
    }

    /// A segment that was written to and has no header, its neighbours before it first.
    fn header(&mut self, seq: u64) -> Result<Vec<Work>, OpenError> {
        let files = self.files()?;
        let from = Self::before(&files, seq).map_or(0, |(header, _)| header.seq + 1);
        match self.bare(&files, from, seq)? {
            Some(seq) => self.make_header(&files, seq),
            None => Ok(vec![]),
        }
    }

    fn headless(&mut self, files: &Files, file: SegmentFile) -> Result<Headless, OpenError> {
        let begin = self.begin(&file);
        let first = self.look(file.seq, file.file, |w| w.header_at(&begin))?;
        let later = self.look(file.seq, file.file, |w| w.next_header(&begin))?;
        let mut headers = files.values().filter_map(|found| found.header);
        let after = headers.find(|header| header.prev_seq == file.seq);
        let after = after.map(|after| (after.prev_end, after.first_lsn, after.prev));
        let later = later.map(|later| (later.offset, later.lsn, later.prev));
        Ok(Headless {
            file,
            first,
            goes_on: later.or(after),
        })
    }

    fn make_header(&mut self, files: &Files, seq: u64) -> Result<Vec<Work>, OpenError> {
        let Some(found) = files.get(&seq) else {
            return Ok(vec![]);
        };
        let found = self.headless(files, found.file)?;
        let lsn = found.first.map(|first| first.lsn);
        let until = lsn.or(found.goes_on.map(|(_, lsn, _)| lsn));
        let mut bridge = None;
        let mut header = match Self::before(files, seq) {
            Some((before, file)) => {
                let bytes = files[&before.seq].file.bytes;
                let tail = self.tail(&before, file, bytes, until)?;
                let header = after(&before, &tail);
                match found.first {
                    Some(first) if header.first_lsn < first.lsn => {
                        match with_hole(header, files, seq, tail.end + BLOCK <= bytes) {
                            Some(header) => header,
                            None => return Ok(vec![]),
                        }
                    }
                    Some(_) => header,
                    None => {
                        let proven = tail.complete && before.seq + 1 == seq;
                        bridge = (!proven).then(|| self.unproven(&found, &tail)).flatten();
                        header
                    }
                }
            }
            None => SegmentHeader {
                // Others were before it, unless it is the first of all.
                prev_seq: seq - 1,
                first_lsn: until.map_or(1, |lsn| lsn.saturating_sub(1).max(1)),
                depth: 1,
                ..SegmentHeader::default()
            },
        };
        if let Some(first) = found.first {
            (header.first_lsn, header.prev) = (first.lsn, first.prev);
        }
        header.seq = seq;
        self.head(&header, found.file.bytes);
        let file = self.overlay.path().join(segment::name(seq));
        Ok([Work::Header { file }].into_iter().chain(bridge).collect())
    }

    /// Neither the first batch can be read nor what says that the segment before it is complete, and that
    /// none was between them: what is missing may have been there. A footer here would count only what was
    /// missing here, so that a bridge must stand for both. Not where one batch is missing, which was here.
    fn unproven(&mut self, found: &Headless, tail: &Tail) -> Option<Work> {
        let (to, next, chain) = found.goes_on?;
        if next <= tail.lsn + 2 || to < DATA_AT + BLOCK || to > found.file.bytes {
            return None;
        }
        let expect = Expect {
            lsn: tail.lsn + 1,
            prev: tail.crc,
            ..self.begin(&found.file)
        };
        self.overlay.keep(expect.seq, DATA_AT, to - DATA_AT);
        Some(self.lay(&expect, to, next - 1, chain))
    }

    fn head(&mut self, header: &SegmentHeader, bytes: u64) {
        let header = SegmentHeader {
            uuid: self.birth.uuid,
            cluster_id: self.birth.identity.cluster_id,
            member_id: self.birth.identity.member_id,
            bytes,
            flags: 0,
            ..*header
        };
        let blocks = header.blocks().to_vec();
        self.overlay.patch(header.seq, 0, blocks);
    }

    /// Where the log ends in a segment of which no successor says it: behind everything readable. `until`:
    /// the first batch of the next one, as far as it is known: from there on it is a tail that was cut.
    fn tail(
        &mut self,
        header: &SegmentHeader,
        file: FileId,
        bytes: u64,
        until: Option<Lsn>,
    ) -> Result<Tail, OpenError> {
        let until = until.unwrap_or(Lsn::MAX);
        let mut expect = Expect {
            uuid: self.birth.uuid,
            seq: header.seq,
            offset: DATA_AT,
            lsn: header.first_lsn,
            prev: header.prev,
            limit: bytes,
        };
        self.look(header.seq, file, |window| {
            loop {
                if expect.lsn >= until {
                    break;
                }
                let (len, lsn, crc) = match window.batch(&expect, expect.limit)? {
                    Judged::Good { header, crc, .. } | Judged::Lost { header, crc, .. } => {
                        (header.len, header.lsn, crc)
                    }
                    Judged::Bridge(header) => (header.len, header.until, header.chain),
                    Judged::Bad(_) => match window.next_header(&expect)? {
                        Some(next) if next.lsn < until => {
                            (expect.offset, expect.lsn) = (next.offset, next.lsn);
                            expect.prev = next.prev;
                            continue;
                        }
                        _ => break,
                    },
                };
                expect.offset += u64::from(len);
                (expect.lsn, expect.prev) = (lsn + 1, crc);
            }
            let footer = window.footer_after(&expect)?;
            let footer = footer.filter(|footer| (expect.lsn..=until).contains(&footer.lsn));
            Ok(match footer {
                Some(footer) => Tail {
                    end: footer.offset,
                    lsn: footer.lsn - 1,
                    crc: footer.prev,
                    complete: true,
                },
                None => Tail {
                    end: expect.offset,
                    lsn: expect.lsn - 1,
                    crc: expect.prev,
                    complete: expect.offset + BLOCK > bytes,
                },
            })
        })
    }

    /// A segment that is not there: one that is nothing but a bridge.
    fn segment(&mut self, seq: u64) -> Result<Vec<Work>, OpenError> {
        let files = self.files()?;
        let from = Self::before(&files, seq).map_or(0, |(header, _)| header.seq + 1);
        if let Some(bare) = self.bare(&files, from, seq)? {
            return self.make_header(&files, bare);
        }
        match files.contains_key(&seq) {
            true => Ok(vec![]),
            false => self.anew(seq),
        }
    }

    /// A segment of which nothing is left.
    fn anew(&mut self, seq: u64) -> Result<Vec<Work>, OpenError> {
        let files = self.files()?;
        let mut later = files.values().filter_map(|found| found.header);
        let next = later.find(|header| header.prev_seq == seq);
        let before = Self::before(&files, seq);
        let ready = files.values().filter_map(|found| found.ready);
        let testified = ready.map(|ready| ready.first_lsn.saturating_sub(1)).max();
        let Some(bytes) = next.or(before.map(|b| b.0)).map(|header| header.bytes) else {
            return Ok(vec![]);
        };
        if !(1..=NUMBER_MAX).contains(&seq) {
            return Ok(vec![]);
        }
        let mut header = match before {
            Some((before, file)) => {
                let until = next.map(|next| next.first_lsn);
                let bytes = files[&before.seq].file.bytes;
                after(&before, &self.tail(&before, file, bytes, until)?)
            }
            None => SegmentHeader {
                first_lsn: next.map_or(1, |next| next.first_lsn.saturating_sub(1).max(1)),
                depth: 1,
                ..SegmentHeader::default()
            },
        };
        header.seq = seq;
        let (to, until, chain) = match next {
            Some(next) => (next.prev_end, next.first_lsn.saturating_sub(1), next.prev),
            None => (
                DATA_AT + BLOCK,
                testified.unwrap_or(0).max(header.first_lsn),
                0,
            ),
        };
        if to < DATA_AT + BLOCK || to > bytes || until < header.first_lsn {
            return Ok(vec![]);
        }
        self.overlay.create(seq, bytes);
        self.head(&header, bytes);
        let expect = Expect {
            uuid: self.birth.uuid,
            seq,
            offset: DATA_AT,
            lsn: header.first_lsn,
            prev: header.prev,
            limit: bytes,
        };
        Ok(vec![self.lay(&expect, to, until, chain)])
    }
}

/// The header of a segment that follows another one.
fn after(before: &SegmentHeader, tail: &Tail) -> SegmentHeader {
    SegmentHeader {
        prev_seq: before.seq,
        prev_end: tail.end,
        first_lsn: tail.lsn + 1,
        prev: tail.crc,
        low_seq: before.low_seq,
        depth: before.depth,
        ..SegmentHeader::default()
    }
}

/// Batches are missing before the first one of a segment: at the end of the segment before it, if there is
/// `room`, or else a whole segment is, which has no header either or is not there.
fn with_hole(header: SegmentHeader, files: &Files, seq: u64, room: bool) -> Option<SegmentHeader> {
    if room {
        let prev_end = header.prev_end + BLOCK;
        return Some(SegmentHeader { prev_end, ..header });
    }
    let mut between = files.range(header.prev_seq + 1..seq);
    let between = between.next_back().map_or(seq - 1, |(at, _)| *at);
    (between > header.prev_seq).then_some(SegmentHeader {
        prev_seq: between,
        prev_end: DATA_AT + BLOCK,
        ..header
    })
}
