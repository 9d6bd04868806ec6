//! What can be done about one obstacle: a place where recovery refuses to go on.
//!
//! | obstacle                                     | what is done                                          |
//! |----------------------------------------------|-------------------------------------------------------|
//! | a batch that nothing tells of                | a bridge from it to the next readable batch, or to    |
//! |                                              | the end of its segment                                |
//! | no copy of a segment header                  | it is made again from the segments beside it, and     |
//! |                                              | from its own first batch                              |
//! | no segment file                              | a segment that is nothing but a bridge                |
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
use crate::scan::{Expect, Judged, Window};
use crate::segment::{self, DATA_AT, SegmentHeader};
use crate::{BLOCK_BYTES, Lsn, OpenError};

const BLOCK: u64 = BLOCK_BYTES as u64;

/// What is made against an error; `None`: nothing can be.
pub(super) fn fix(
    overlay: &mut Overlay<'_>,
    birth: &Birth,
    error: &OpenError,
) -> Result<Option<Work>, OpenError> {
    let mut fixing = Fixing { overlay, birth };
    match error {
        OpenError::Corrupt(corruption) => match &corruption.obstacle {
            Obstacle::Batch(expect, after) => fixing.bridge(expect, *after, corruption.durable_lsn),
            Obstacle::Header(seq) => fixing.header(*seq),
            Obstacle::Other => Ok(None),
        },
        OpenError::MissingSegment { path } => {
            let name = path.file_name().map(|name| name.to_string_lossy());
            match name.and_then(|name| segment::seq_of(&name)) {
                Some(seq) => fixing.segment(seq),
                None => Ok(None),
            }
        }
        _ => Ok(None),
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
    ) -> Result<Option<Work>, OpenError> {
        let files = self.files()?;
        let Some(found) = files.get(&expect.seq) else {
            return Ok(None);
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
            return Ok(None);
        }
        self.overlay
            .keep(expect.seq, expect.offset, to - expect.offset);
        Ok(Some(self.lay(expect, to, until, chain)))
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

    /// A segment that was written to and has no header, its neighbours before it first.
    fn header(&mut self, seq: u64) -> Result<Option<Work>, OpenError> {
        let files = self.files()?;
        let from = Self::before(&files, seq).map_or(0, |(header, _)| header.seq + 1);
        let bare = |found: &FoundFile| found.header.is_none() && found.ready.is_none();
        let wanted = |(at, f): &(&u64, &FoundFile)| bare(f) && (f.touched || **at == seq);
        let mut bare = files.range(from..=seq).filter(wanted);
        let Some((&seq, found)) = bare.next() else {
            return Ok(None);
        };
        let file = found.file;
        let begin = Expect {
            uuid: self.birth.uuid,
            seq,
            offset: DATA_AT,
            lsn: 0,
            prev: 0,
            limit: file.bytes,
        };
        let first = self.look(seq, file.file, |w| w.header_at(&begin))?;
        let later = match first {
            Some(_) => first,
            None => self.look(seq, file.file, |w| w.next_header(&begin))?,
        };
        let before = Self::before(&files, seq);
        let mut header = match before {
            Some((before, file)) => self.after(&before, file, files[&before.seq].file.bytes)?,
            None => SegmentHeader {
                // Others were before it, unless it is the first of all.
                prev_seq: seq - 1,
                first_lsn: later.map_or(1, |later| later.lsn.saturating_sub(1).max(1)),
                depth: 1,
                ..SegmentHeader::default()
            },
        };
        if let Some(first) = first {
            // What is missing before it was at the end of the segment before.
            if before.is_some() && header.first_lsn < first.lsn {
                header.prev_end += BLOCK;
            }
            (header.first_lsn, header.prev) = (first.lsn, first.prev);
        }
        header.seq = seq;
        self.head(&header, file.bytes);
        Ok(Some(Work::Header {
            file: self.overlay.path().join(segment::name(seq)),
        }))
    }

    /// The header of a segment that follows another one.
    fn after(
        &mut self,
        before: &SegmentHeader,
        file: FileId,
        bytes: u64,
    ) -> Result<SegmentHeader, OpenError> {
        let tail = self.tail(before, file, bytes)?;
        Ok(SegmentHeader {
            prev_seq: before.seq,
            prev_end: tail.end,
            first_lsn: tail.lsn + 1,
            prev: tail.crc,
            low_seq: before.low_seq,
            depth: before.depth,
            ..SegmentHeader::default()
        })
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

    /// Where the log ends in a segment of which no successor says it: behind everything readable.
    fn tail(
        &mut self,
        header: &SegmentHeader,
        file: FileId,
        bytes: u64,
    ) -> Result<Tail, OpenError> {
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
                let (len, lsn, crc) = match window.batch(&expect, expect.limit)? {
                    Judged::Good { header, crc, .. } | Judged::Lost { header, crc, .. } => {
                        (header.len, header.lsn, crc)
                    }
                    Judged::Bridge(header) => (header.len, header.until, header.chain),
                    Judged::Bad(_) => match window.next_header(&expect)? {
                        Some(next) => {
                            (expect.offset, expect.lsn) = (next.offset, next.lsn);
                            expect.prev = next.prev;
                            continue;
                        }
                        None => break,
                    },
                };
                expect.offset += u64::from(len);
                (expect.lsn, expect.prev) = (lsn + 1, crc);
            }
            let (end, lsn, crc) = match window.footer_after(&expect)? {
                Some(footer) => (footer.offset, footer.lsn - 1, footer.prev),
                None => (expect.offset, expect.lsn - 1, expect.prev),
            };
            Ok(Tail { end, lsn, crc })
        })
    }

    /// A segment that is not there: one that is nothing but a bridge.
    fn segment(&mut self, seq: u64) -> Result<Option<Work>, OpenError> {
        let files = self.files()?;
        let mut later = files.values().filter_map(|found| found.header);
        let next = later.find(|header| header.prev_seq == seq);
        let before = Self::before(&files, seq);
        let ready = files.values().filter_map(|found| found.ready);
        let testified = ready.map(|ready| ready.first_lsn.saturating_sub(1)).max();
        let Some(bytes) = next.or(before.map(|b| b.0)).map(|header| header.bytes) else {
            return Ok(None);
        };
        if files.contains_key(&seq) || !(1..=NUMBER_MAX).contains(&seq) {
            return Ok(None);
        }
        let mut header = match before {
            Some((before, file)) => self.after(&before, file, files[&before.seq].file.bytes)?,
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
            return Ok(None);
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
        Ok(Some(self.lay(&expect, to, until, chain)))
    }
}
