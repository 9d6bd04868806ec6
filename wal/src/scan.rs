//! Reading a segment's batches one after the other, and judging what does not read.
//!
//! Pure judgement over bytes that a [`Source`] brings: used by recovery (through the disk seam) and by
//! the offline tools (through plain files). Memory: one chunk, or one batch where that is larger.

use std::io;

use crate::batch::{BatchHeader, HEADER_BYTES};
use crate::disk::AlignedBuf;
use crate::record::Records;
use crate::{BLOCK_BYTES, GroupId, Lsn, Record};

/// Bytes read at once: large enough for the device's sequential rate.
const CHUNK_BYTES: usize = 4 * 1024 * 1024;

/// Where bytes come from. Offsets and lengths are multiples of 4,096.
pub(crate) trait Source {
    /// Up to `bytes` bytes from `offset`; fewer only at the end of the file.
    fn read(&mut self, offset: u64, bytes: usize) -> io::Result<AlignedBuf>;
}

/// What must lie at a place of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Expect {
    pub(crate) uuid: u128,
    pub(crate) seq: u64,
    pub(crate) offset: u64,
    pub(crate) lsn: Lsn,
    /// Checksum of the header before.
    pub(crate) prev: u32,
    /// No batch of this segment reaches beyond.
    pub(crate) limit: u64,
}

/// A batch that is not as it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bad {
    pub(crate) what: &'static str,
    /// The header of the batch that belongs here, if one of its copies is readable.
    pub(crate) known: Option<BatchHeader>,
}

/// A good batch (its header, its header's checksum, its bytes), or what is wrong.
pub(crate) type Judged<'a> = Result<(BatchHeader, u32, &'a [u8]), Bad>;

/// Signs, behind a bad place, that writes beyond it were made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Evidence {
    /// Highest `durable_lsn` seen there.
    pub(crate) durable_lsn: Lsn,
    /// End of the last batch seen there; 0 if none was.
    pub(crate) end: u64,
}

/// A sliding view of a source.
pub(crate) struct Window<'s> {
    source: &'s mut dyn Source,
    base: u64,
    buf: AlignedBuf,
}

impl<'s> Window<'s> {
    pub(crate) fn new(source: &'s mut dyn Source) -> Self {
        Self {
            source,
            base: 0,
            buf: AlignedBuf::default(),
        }
    }

    /// The bytes at `offset`, fewer at the end of the file.
    pub(crate) fn view(&mut self, offset: u64, bytes: usize) -> io::Result<&[u8]> {
        let end = offset + bytes as u64;
        if offset < self.base || end > self.base + self.buf.len() as u64 {
            self.buf = self.source.read(offset, bytes.max(CHUNK_BYTES))?;
            self.base = offset;
        }
        let from = (offset - self.base) as usize;
        let to = (from + bytes).min(self.buf.len());
        Ok(&self.buf[from.min(to)..to])
    }

    /// The batch that belongs at a place: its header, its header's checksum, its bytes.
    pub(crate) fn batch(&mut self, expect: &Expect) -> io::Result<Judged<'_>> {
        let offset = expect.offset;
        let head = self.view(offset, BLOCK_BYTES)?;
        let Some((header, crc)) = BatchHeader::decode(head) else {
            let what = if head.iter().all(|b| *b == 0) {
                "zeros"
            } else {
                "no batch header"
            };
            let known = self.trailer_for(expect)?;
            return Ok(Err(Bad { what, known }));
        };
        if !header.is_at(expect.uuid, expect.seq, offset) {
            return Ok(Err(Bad {
                what: "a block from elsewhere",
                known: None,
            }));
        }
        if let Some(what) = expect.misfit(&header) {
            return Ok(Err(Bad {
                what,
                known: Some(header),
            }));
        }
        let bytes = self.view(offset, header.len as usize)?;
        match whole(&header, bytes) {
            Ok(()) => Ok(Ok((header, crc, bytes))),
            Err(what) => Ok(Err(Bad {
                what,
                known: Some(header),
            })),
        }
    }

    /// The header of the batch at a place, from its other copy.
    fn trailer_for(&mut self, expect: &Expect) -> io::Result<Option<BatchHeader>> {
        let mut at = expect.offset;
        while at < expect.limit {
            let block = self.view(at, BLOCK_BYTES)?;
            at += BLOCK_BYTES as u64;
            if let Some(known) = BatchHeader::decode_trailer(block)
                && known.is_at(expect.uuid, expect.seq, expect.offset)
                && known.offset + u64::from(known.len) == at
            {
                return Ok(Some(known));
            }
            if BatchHeader::decode(block).is_some_and(|(h, _)| h.offset + BLOCK_BYTES as u64 == at)
            {
                break; // the next batch begins here: no trailer of ours can follow
            }
        }
        Ok(None)
    }

    /// There is a footer at a place, by either copy of its header, and it is whole. `None`: there is
    /// none.
    pub(crate) fn footer_is_whole(&mut self, expect: &Expect) -> io::Result<Option<bool>> {
        let head = BatchHeader::decode(self.view(expect.offset, BLOCK_BYTES)?);
        let head = head.map(|(header, _)| header);
        let known = match head.filter(|h| h.is_at(expect.uuid, expect.seq, expect.offset)) {
            Some(head) => Some(head),
            None => self.trailer_for(expect)?,
        };
        let Some(known) = known.filter(BatchHeader::is_footer) else {
            return Ok(None);
        };
        let bytes = self.view(known.offset, known.len as usize)?;
        Ok(Some(head == Some(known) && whole(&known, bytes).is_ok()))
    }

    /// Which groups and indexes a damaged batch held: from its marks, or from its records.
    pub(crate) fn held_by(&mut self, known: &BatchHeader) -> io::Result<Vec<(GroupId, u64, u64)>> {
        let bytes = self.view(known.offset, known.len as usize)?;
        if let Some(marks) = known.marks(bytes) {
            let held = marks.filter(|m| m.count > 0 || known.records > 0);
            return Ok(held
                .map(|m| {
                    if m.count > 0 {
                        (m.group, m.first, m.last)
                    } else {
                        (m.group, 0, 0)
                    }
                })
                .collect());
        }
        let mut held: Vec<(GroupId, u64, u64)> = Vec::new();
        for record in known
            .records(bytes)
            .into_iter()
            .flat_map(|r| Records::new(r, known.records))
        {
            if let Ok(Record::Entry { group, index, .. }) = record {
                match held.iter_mut().find(|h| h.0 == group) {
                    Some((_, first, last)) => {
                        (*first, *last) = ((*first).min(index), (*last).max(index))
                    }
                    None => held.push((group, index, index)),
                }
            }
        }
        Ok(held)
    }

    /// Look behind a bad place for anything that was written to this segment at or after batch
    /// `expect.lsn`, by either copy of its header.
    pub(crate) fn evidence(&mut self, expect: &Expect) -> io::Result<Evidence> {
        let mut seen = Evidence::default();
        let mut at = expect.offset;
        while at < expect.limit {
            let block = self.view(at, BLOCK_BYTES)?;
            if block.len() < BLOCK_BYTES {
                break;
            }
            let ours = |h: &BatchHeader| {
                h.uuid == expect.uuid && h.seq == expect.seq && h.lsn >= expect.lsn
            };
            let head = BatchHeader::decode(block)
                .map(|(header, _)| header)
                .filter(ours);
            let tail = BatchHeader::decode_trailer(block).filter(ours);
            let head_in_place = head.is_some_and(|h| h.offset == at);
            at += BLOCK_BYTES as u64;
            let tail_in_place = tail.is_some_and(|h| h.offset + u64::from(h.len) == at);
            for (found, in_place) in [(head, head_in_place), (tail, tail_in_place)] {
                let Some(found) = found else { continue };
                // Even a misplaced block was written by this log for this segment: its word counts.
                seen.durable_lsn = seen.durable_lsn.max(found.durable_lsn);
                if in_place {
                    let end = found.offset + u64::from(found.len);
                    seen.end = seen.end.max(end).min(expect.limit);
                }
            }
        }
        Ok(seen)
    }
}

impl Expect {
    /// Why a readable header of this place is not the next batch.
    fn misfit(&self, header: &BatchHeader) -> Option<&'static str> {
        if header.is_footer() {
            Some("a footer")
        } else if header.lsn != self.lsn {
            Some("another batch number")
        } else if header.prev != self.prev {
            Some("broken chain to the batch before")
        } else if self.offset + u64::from(header.len) > self.limit {
            Some("longer than its segment")
        } else {
            None
        }
    }
}

/// Check everything behind a batch's header.
pub(crate) fn whole(header: &BatchHeader, bytes: &[u8]) -> Result<(), &'static str> {
    if bytes.len() < header.len as usize {
        return Err("cut short by the end of the file");
    }
    if BatchHeader::decode_trailer(bytes) != Some(*header) {
        return Err("trailer");
    }
    let records = header.records(bytes).ok_or("checksum of the records")?;
    if header.marks(bytes).is_none() {
        return Err("checksum of the marks");
    }
    let used = header.record_bytes as usize;
    let records = records.get(..used).ok_or("length of the records")?;
    Records::new(records, header.records)
        .find_map(Result::err)
        .map_or(Ok(()), Err)
}

const _: () = assert!(HEADER_BYTES < BLOCK_BYTES);
