//! Reading a segment's batches one after the other, and judging what does not read.
//!
//! Pure judgement over bytes that a [`Source`] brings: used by recovery (through the disk seam) and by
//! the offline tools (through plain files). Memory: two chunks, or one batch where that is larger.

use std::io;

use crate::batch::{BatchHeader, HEADER_BYTES, Mark};
use crate::disk::AlignedBuf;
use crate::record::Records;
use crate::{BLOCK_BYTES, GroupId, Lsn, Record};

/// Bytes read at once: large enough for the device's sequential rate, small enough to stay in the
/// processor's cache between the read and the checksum.
pub(crate) const CHUNK_BYTES: usize = 1024 * 1024;

/// Where bytes come from. Offsets and lengths are multiples of 4,096.
pub(crate) trait Source {
    /// Up to `bytes` bytes from `offset`; none only at the end of the file.
    fn read(&mut self, offset: u64, bytes: usize) -> io::Result<AlignedBuf>;

    /// A buffer that came from `read` and is not needed any more.
    fn give_back(&mut self, buf: AlignedBuf) {
        drop(buf);
    }
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

/// What lies at the place of a batch.
#[derive(Debug)]
pub(crate) enum Judged<'a> {
    /// All records of the batch. `note`: what of it is damaged, and is there twice.
    Good {
        header: BatchHeader,
        /// Checksum of its header.
        crc: u32,
        bytes: &'a [u8],
        note: Option<&'static str>,
        /// The marks are right.
        marked: bool,
    },
    /// The records are lost; the marks say whose they were.
    Lost {
        header: BatchHeader,
        crc: u32,
        bytes: &'a [u8],
        marks: Vec<Mark>,
        what: &'static str,
    },
    /// A repair put it over batches that could not be read.
    Bridge(BatchHeader),
    /// Nothing that can be built on.
    Bad(Bad),
}

/// A batch that is not as it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bad {
    pub(crate) what: &'static str,
    /// The header of the batch that belongs here, if one of its copies is readable.
    pub(crate) known: Option<BatchHeader>,
}

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
    /// The chunk read last.
    buf: AlignedBuf,
    joined_base: u64,
    /// What was asked for and lies in more than one chunk.
    joined: AlignedBuf,
}

/// The part `offset..offset + bytes` of a buffer that begins at `base`, if it is in it.
fn within(base: u64, buf: &[u8], offset: u64, bytes: usize) -> Option<std::ops::Range<usize>> {
    let from = usize::try_from(offset.checked_sub(base)?).ok()?;
    let to = from.checked_add(bytes)?;
    (to <= buf.len()).then_some(from..to)
}

impl<'s> Window<'s> {
    pub(crate) fn new(source: &'s mut dyn Source) -> Self {
        Self {
            source,
            base: 0,
            buf: AlignedBuf::default(),
            joined_base: 0,
            joined: AlignedBuf::default(),
        }
    }

    /// The bytes at `offset`, fewer at the end of the file.
    pub(crate) fn view(&mut self, offset: u64, bytes: usize) -> io::Result<&[u8]> {
        if let Some(range) = within(self.base, &self.buf, offset, bytes) {
            return Ok(&self.buf[range]);
        }
        if within(self.joined_base, &self.joined, offset, bytes).is_none() {
            self.bring(offset, bytes)?;
        }
        if let Some(range) = within(self.base, &self.buf, offset, bytes) {
            return Ok(&self.buf[range]);
        }
        let from = ((offset - self.joined_base) as usize).min(self.joined.len());
        let to = (from + bytes).min(self.joined.len());
        Ok(&self.joined[from..to])
    }

    /// Read on, until the bytes at `offset` are in one of the two buffers.
    fn bring(&mut self, offset: u64, bytes: usize) -> io::Result<()> {
        let begin =
            within(self.base, &self.buf, offset, 0).map_or(0..0, |r| r.start..self.buf.len());
        self.joined.clear();
        self.joined.extend(&self.buf[begin]);
        self.joined_base = offset;
        while self.joined.len() < bytes && self.joined.len().is_multiple_of(BLOCK_BYTES) {
            let at = offset + self.joined.len() as u64;
            let chunk = self.source.read(at, CHUNK_BYTES)?;
            let old = std::mem::replace(&mut self.buf, chunk);
            self.source.give_back(old);
            self.base = at;
            if self.buf.is_empty() || (self.joined.is_empty() && self.buf.len() >= bytes) {
                break;
            }
            let more = (bytes - self.joined.len()).min(self.buf.len());
            self.joined.extend(&self.buf[..more]);
        }
        Ok(())
    }

    /// Judge the batch that belongs at a place. Where its header is unreadable its trailer is looked for
    /// up to `search`.
    pub(crate) fn batch(&mut self, expect: &Expect, search: u64) -> io::Result<Judged<'_>> {
        let offset = expect.offset;
        let head = self.view(offset, BLOCK_BYTES)?;
        let decoded = BatchHeader::decode(head);
        let here = decoded.filter(|(header, _)| header.is_at(expect.uuid, expect.seq, offset));
        let nothing = match (&decoded, &here) {
            (Some(_), None) => "a block from elsewhere",
            _ if head.is_empty() => "the end of the file",
            _ if head.iter().all(|b| *b == 0) => "zeros",
            _ => "no batch header",
        };
        let found = match here {
            // Header and trailer differ in a flag: the chain is built on the header.
            None => self.trailer_for(expect, search)?.map(|h| (h, h.crc())),
            here => here,
        };
        let Some((header, crc)) = found else {
            return Ok(Judged::Bad(Bad {
                what: nothing,
                known: None,
            }));
        };
        if let Some(what) = expect.misfit(&header) {
            let known = Some(header);
            return Ok(Judged::Bad(Bad { what, known }));
        }
        if header.is_bridge() {
            return Ok(Judged::Bridge(header));
        }
        let note = here.is_none().then_some("header");
        let bytes = self.view(offset, header.len as usize)?;
        Ok(judge(header, crc, bytes, note))
    }

    /// The header of the batch at a place, whatever it says, from either copy.
    pub(crate) fn header_at(&mut self, expect: &Expect) -> io::Result<Option<BatchHeader>> {
        let head = BatchHeader::decode(self.view(expect.offset, BLOCK_BYTES)?);
        match head.filter(|(h, _)| h.is_at(expect.uuid, expect.seq, expect.offset)) {
            Some((header, _)) => Ok(Some(header)),
            None => self.trailer_for(expect, expect.limit),
        }
    }

    /// The footer somewhere from a place on.
    pub(crate) fn footer_after(&mut self, expect: &Expect) -> io::Result<Option<BatchHeader>> {
        let mut at = expect.offset;
        while at < expect.limit {
            let block = self.view(at, BLOCK_BYTES)?;
            if block.len() < BLOCK_BYTES {
                break;
            }
            let found = BatchHeader::decode(block).map(|(header, _)| header);
            let here = |h: &BatchHeader| h.is_footer() && h.is_at(expect.uuid, expect.seq, at);
            if let Some(footer) = found.filter(here) {
                return Ok(Some(footer));
            }
            at += BLOCK_BYTES as u64;
        }
        Ok(None)
    }

    /// The header of the batch at a place, from its other copy, which ends at `search` at the latest.
    fn trailer_for(&mut self, expect: &Expect, search: u64) -> io::Result<Option<BatchHeader>> {
        let mut at = expect.offset;
        while at < expect.limit.min(search) {
            let block = self.view(at, BLOCK_BYTES)?;
            if block.len() < BLOCK_BYTES {
                break;
            }
            let next =
                BatchHeader::decode(block).filter(|(h, _)| h.is_at(expect.uuid, expect.seq, at));
            if at > expect.offset && next.is_some() {
                break; // the next batch begins here: no trailer of ours can follow
            }
            at += BLOCK_BYTES as u64;
            if let Some(known) = BatchHeader::decode_trailer(block)
                && known.is_at(expect.uuid, expect.seq, expect.offset)
                && known.offset + u64::from(known.len) == at
            {
                return Ok(Some(known));
            }
        }
        Ok(None)
    }

    /// The first batch of this segment behind a bad place whose header is readable: a later one than
    /// the one that is bad.
    pub(crate) fn next_header(&mut self, expect: &Expect) -> io::Result<Option<BatchHeader>> {
        let mut at = expect.offset + BLOCK_BYTES as u64;
        while at < expect.limit {
            let block = self.view(at, BLOCK_BYTES)?;
            if block.len() < BLOCK_BYTES {
                break;
            }
            let found = BatchHeader::decode(block)
                .map(|(header, _)| header)
                .filter(|h| {
                    let fits = at + u64::from(h.len) <= expect.limit && h.lsn > expect.lsn;
                    h.is_at(expect.uuid, expect.seq, at) && fits && !h.is_footer()
                });
            if found.is_some() {
                return Ok(found);
            }
            at += BLOCK_BYTES as u64;
        }
        Ok(None)
    }

    /// The footer at a place, by either copy of its header. Never longer than `bytes_max`: a footer that
    /// marks the groups known has a known size, so a place without one costs no search.
    pub(crate) fn footer(&mut self, expect: &Expect, bytes_max: usize) -> io::Result<Footer> {
        let end = expect.offset + bytes_max as u64;
        let head = BatchHeader::decode(self.view(expect.offset, BLOCK_BYTES)?);
        let head = head.map(|(header, _)| header);
        let known = match head.filter(|h| h.is_at(expect.uuid, expect.seq, expect.offset)) {
            Some(head) => Some(head),
            None => self.trailer_for(expect, end)?,
        };
        let Some(known) = known.filter(BatchHeader::is_footer) else {
            return Ok(Footer::default());
        };
        let bytes = self.view(known.offset, known.len as usize)?;
        let marks: Option<Vec<Mark>> = known.marks(bytes).map(Iterator::collect);
        let fits = known.lsn == expect.lsn && known.prev == expect.prev;
        Ok(Footer {
            is_there: true,
            is_whole: head == Some(known) && marks.is_some() && whole(&known, bytes).is_ok(),
            marks: marks.filter(|_| fits),
        })
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
            for (found, in_place) in expect.found_in(block, at).into_iter().flatten() {
                // Even a misplaced block was written by this log for this segment: its word counts.
                seen.durable_lsn = seen.durable_lsn.max(found.durable_lsn);
                if in_place {
                    let end = found.offset + u64::from(found.len);
                    seen.end = seen.end.max(end).min(expect.limit);
                }
            }
            at += BLOCK_BYTES as u64;
        }
        Ok(seen)
    }

    /// Every batch at or after `expect.lsn` of which a header copy lies in `expect.offset..end`, with its
    /// bytes, whatever their state.
    pub(crate) fn batches_between(
        &mut self,
        expect: &Expect,
        end: u64,
        mut each: impl FnMut(&BatchHeader, &[u8]),
    ) -> io::Result<()> {
        let (mut at, mut last) = (expect.offset, 0);
        while at < end {
            let block = self.view(at, BLOCK_BYTES)?;
            if block.len() < BLOCK_BYTES {
                break;
            }
            for (found, in_place) in expect.found_in(block, at).into_iter().flatten() {
                if in_place && found.lsn != last {
                    last = found.lsn;
                    let bytes = self.view(found.offset, found.len as usize)?;
                    if bytes.len() == found.len as usize {
                        each(&found, bytes);
                    }
                }
            }
            at += BLOCK_BYTES as u64;
        }
        Ok(())
    }
}

impl Expect {
    /// The headers in a block, at its begin and at its end, that this log wrote for this segment at or
    /// after this batch; and whether they lie where they should.
    fn found_in(&self, block: &[u8], at: u64) -> [Option<(BatchHeader, bool)>; 2] {
        let ours = |h: &BatchHeader| h.uuid == self.uuid && h.seq == self.seq && h.lsn >= self.lsn;
        let head = BatchHeader::decode(block).map(|(header, _)| header);
        let tail = BatchHeader::decode_trailer(block);
        let end = at + BLOCK_BYTES as u64;
        [
            head.filter(ours).map(|h| (h, h.offset == at)),
            tail.filter(ours)
                .map(|h| (h, h.offset + u64::from(h.len) == end)),
        ]
    }

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
        } else if header.is_bridge() && header.until < header.lsn {
            Some("a bridge to nowhere")
        } else {
            None
        }
    }
}

/// What lies where a footer may lie.
#[derive(Debug, Default)]
pub(crate) struct Footer {
    pub(crate) is_there: bool,
    pub(crate) is_whole: bool,
    /// Its marks, if they have their checksum and it is the footer of what was read before it.
    pub(crate) marks: Option<Vec<Mark>>,
}

/// Everything behind a header that is right. `note`: what is already known to be damaged.
pub(crate) fn judge<'a>(
    header: BatchHeader,
    crc: u32,
    bytes: &'a [u8],
    note: Option<&'static str>,
) -> Judged<'a> {
    let known = Some(header);
    if bytes.len() < header.len as usize {
        let what = "cut short by the end of the file";
        return Judged::Bad(Bad { what, known });
    }
    let trailer = BatchHeader::decode_trailer(bytes) == Some(header);
    let note = note.or((!trailer).then_some("trailer"));
    let marks = header.marks(bytes);
    match header.records(bytes) {
        Some(records) => match sound(&header, records) {
            Ok(()) => Judged::Good {
                header,
                crc,
                bytes,
                note: note.or(marks.is_none().then_some("marks")),
                marked: marks.is_some(),
            },
            Err(what) => Judged::Bad(Bad { what, known }),
        },
        None => {
            let what = "checksum of the records";
            match marks {
                Some(marks) => Judged::Lost {
                    header,
                    crc,
                    bytes,
                    marks: marks.collect(),
                    what,
                },
                None => Judged::Bad(Bad { what, known }),
            }
        }
    }
}

/// Records with the right checksum can be read, all of them.
fn sound(header: &BatchHeader, records: &[u8]) -> Result<(), &'static str> {
    let used = header.record_bytes as usize;
    let records = records.get(..used).ok_or("length of the records")?;
    Records::new(records, header.records)
        .find_map(Result::err)
        .map_or(Ok(()), Err)
}

/// Check everything behind a batch's header.
pub(crate) fn whole(header: &BatchHeader, bytes: &[u8]) -> Result<(), &'static str> {
    match judge(*header, 0, bytes, None) {
        Judged::Good { note: None, .. } => Ok(()),
        Judged::Good {
            note: Some(what), ..
        }
        | Judged::Lost { what, .. }
        | Judged::Bad(Bad { what, .. }) => Err(what),
        Judged::Bridge(_) => Ok(()),
    }
}

const _: () = assert!(HEADER_BYTES < BLOCK_BYTES);
