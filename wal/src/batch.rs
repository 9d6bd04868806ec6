//! The batch, byte by byte: what one turn of a core persists, in one aligned write.
//!
//! ```text
//! offset 0        header    128 bytes, own checksum
//!        128      records   zero-padded to the next 512-byte sector, one checksum
//!        …        marks     80 bytes per group, zero-padded up to the trailer, one checksum
//!        len-128  trailer   the header again, flagged, own checksum
//! ```
//!
//! Why twice: a bad sector hits the header or the trailer, the records or the marks, never both, so
//! a damaged batch still says which groups and indexes it held (Protocol-Aware Recovery, FAST'18:
//! keep the identity of an entry physically apart from it). Why uuid, segment and offset are in
//! what is checked: a misdirected block, or a stale one in a recycled segment, is then recognised.
//! Drawn in `docs/format.md`. Must never know: files, disks.

use crate::disk::AlignedBuf;
use crate::le::{Fields, u16_at, u32_at, u64_at, u128_at};
use crate::record::{HardState, Records};
use crate::{BLOCK_BYTES, GroupId, Lsn};

/// Format version written and known.
pub(crate) const FORMAT: u16 = 1;
/// Bytes of a header and of a trailer.
pub(crate) const HEADER_BYTES: usize = 128;
/// Bytes of a mark.
pub(crate) const MARK_BYTES: usize = 80;
/// Smallest unit a disk tears.
pub(crate) const SECTOR_BYTES: usize = 512;
/// First bytes of a batch.
pub(crate) const MAGIC: [u8; 4] = *b"HngB";

/// Largest batch number, segment number and offset that is believed: at a million batches a second the
/// log gets there in 146,000 years.
pub(crate) const NUMBER_MAX: u64 = 1 << 62;

/// This is the copy at the end of the batch.
const FLAG_TRAILER: u16 = 1;
/// This is no batch but the footer of a sealed segment: it has no number of its own.
pub(crate) const FLAG_FOOTER: u16 = 2;
/// The first batch of its segment: it marks every group of the log.
pub(crate) const FLAG_FIRST: u16 = 4;
/// No batch but a bridge over those that cannot be read and of which nobody knows whose they were.
pub(crate) const FLAG_BRIDGE: u16 = 8;

const _: () =
    assert!(HEADER_BYTES * 2 <= SECTOR_BYTES * 2 && BLOCK_BYTES.is_multiple_of(SECTOR_BYTES));
const _: () = assert!(MARK_BYTES == 10 * 8);

/// What a batch says about itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct BatchHeader {
    pub(crate) flags: u16,
    pub(crate) uuid: u128,
    pub(crate) seq: u64,
    pub(crate) offset: u64,
    pub(crate) lsn: Lsn,
    /// Highest batch known durable when this one was written: damage at or below it is rot.
    pub(crate) durable_lsn: Lsn,
    /// Oldest segment that is still needed once this batch is durable.
    pub(crate) low_seq: u64,
    /// Bytes of the whole batch, a multiple of 4,096.
    pub(crate) len: u32,
    /// Where the marks begin, from the start of the batch.
    pub(crate) marks_at: u32,
    pub(crate) marks: u32,
    pub(crate) records: u32,
    /// Bytes of records before padding.
    pub(crate) record_bytes: u32,
    /// Checksum of the header before this one: the chain.
    pub(crate) prev: u32,
    pub(crate) records_crc: u32,
    pub(crate) marks_crc: u32,
    /// Of a bridge: the last batch it stands for, and the checksum of that one's header. Else 0.
    pub(crate) until: Lsn,
    pub(crate) chain: u32,
}

impl BatchHeader {
    /// The bytes, and the checksum in them.
    fn encode(&self, flag: u16) -> ([u8; HEADER_BYTES], u32) {
        let mut out = [0; HEADER_BYTES];
        Fields::new(&mut out)
            .put(MAGIC)
            .u16(FORMAT)
            .u16(self.flags | flag)
            .u128(self.uuid)
            .u64(self.seq)
            .u64(self.offset)
            .u64(self.lsn)
            .u64(self.durable_lsn)
            .u64(self.low_seq)
            .u32(self.len)
            .u32(self.marks_at)
            .u32(self.marks)
            .u32(self.records)
            .u32(self.record_bytes)
            .u32(self.prev)
            .u32(self.records_crc)
            .u32(self.marks_crc)
            .u64(self.until)
            .u32(self.chain);
        let crc = crc32c::crc32c(&out[..HEADER_BYTES - 4]);
        out[HEADER_BYTES - 4..].copy_from_slice(&crc.to_le_bytes());
        (out, crc)
    }

    /// The header in the first 128 bytes, if its checksum and its sizes are right, and its checksum.
    pub(crate) fn decode(bytes: &[u8]) -> Option<(Self, u32)> {
        Self::decode_copy(bytes, 0)
    }

    /// The trailer in the last 128 bytes.
    pub(crate) fn decode_trailer(bytes: &[u8]) -> Option<Self> {
        let at = bytes.len().checked_sub(HEADER_BYTES)?;
        Self::decode_copy(&bytes[at..], FLAG_TRAILER).map(|(header, _)| header)
    }

    fn decode_copy(bytes: &[u8], flag: u16) -> Option<(Self, u32)> {
        let bytes = bytes.get(..HEADER_BYTES)?;
        let crc = u32_at(bytes, HEADER_BYTES - 4);
        if bytes[..4] != MAGIC || crc32c::crc32c(&bytes[..HEADER_BYTES - 4]) != crc {
            return None;
        }
        let header = Self {
            flags: u16_at(bytes, 6) & !FLAG_TRAILER,
            uuid: u128_at(bytes, 8),
            seq: u64_at(bytes, 24),
            offset: u64_at(bytes, 32),
            lsn: u64_at(bytes, 40),
            durable_lsn: u64_at(bytes, 48),
            low_seq: u64_at(bytes, 56),
            len: u32_at(bytes, 64),
            marks_at: u32_at(bytes, 68),
            marks: u32_at(bytes, 72),
            records: u32_at(bytes, 76),
            record_bytes: u32_at(bytes, 80),
            prev: u32_at(bytes, 84),
            records_crc: u32_at(bytes, 88),
            marks_crc: u32_at(bytes, 92),
            until: u64_at(bytes, 96),
            chain: u32_at(bytes, 104),
        };
        let known = u16_at(bytes, 4) == FORMAT && u16_at(bytes, 6) & FLAG_TRAILER == flag;
        (known && header.numbers_fit() && header.sizes_fit()).then_some((header, crc))
    }

    /// No number is one that no log ever reaches: one more than any of them is a number, too.
    fn numbers_fit(&self) -> bool {
        let numbers = [
            self.seq,
            self.offset,
            self.lsn,
            self.durable_lsn,
            self.until,
        ];
        numbers.iter().all(|number| *number <= NUMBER_MAX)
    }

    /// Nothing a checksummed header says leads outside its batch.
    fn sizes_fit(&self) -> bool {
        let (len, marks_at) = (self.len as usize, self.marks_at as usize);
        let records_end = HEADER_BYTES.checked_add(self.record_bytes as usize);
        let marks_end = (self.marks as usize)
            .checked_mul(MARK_BYTES)
            .map(|b| b + marks_at);
        len.is_multiple_of(BLOCK_BYTES)
            && len > 0
            && records_end.is_some_and(|end| end <= marks_at)
            && marks_end.is_some_and(|end| end + HEADER_BYTES <= len)
    }

    /// It is what should lie at this place of this log.
    pub(crate) fn is_at(&self, uuid: u128, seq: u64, offset: u64) -> bool {
        self.uuid == uuid && self.seq == seq && self.offset == offset
    }

    /// The first batch of its segment, which marks every group.
    pub(crate) fn is_first(&self) -> bool {
        self.flags & FLAG_FIRST != 0
    }

    pub(crate) fn is_footer(&self) -> bool {
        self.flags & FLAG_FOOTER != 0
    }

    pub(crate) fn is_bridge(&self) -> bool {
        self.flags & FLAG_BRIDGE != 0
    }

    /// The header and the trailer, as they lie on the disk.
    pub(crate) fn copies(&self) -> [[u8; HEADER_BYTES]; 2] {
        [self.encode(0).0, self.encode(FLAG_TRAILER).0]
    }

    /// The checksum of the header: what the next batch's chain says.
    pub(crate) fn crc(&self) -> u32 {
        self.encode(0).1
    }

    /// The records of a batch whose checksums were found right.
    pub(crate) fn records_of<'a>(&self, batch: &'a [u8]) -> Records<'a> {
        let area = batch.get(HEADER_BYTES..self.marks_at as usize);
        Records::new(area.unwrap_or_default(), self.records)
    }

    /// The record area of the batch, if its checksum is right. `batch` is the whole batch.
    pub(crate) fn records<'a>(&self, batch: &'a [u8]) -> Option<&'a [u8]> {
        let area = batch.get(HEADER_BYTES..self.marks_at as usize)?;
        (crc32c::crc32c(area) == self.records_crc).then_some(area)
    }

    /// The marks of the batch, if their checksum is right and none contradicts itself.
    pub(crate) fn marks<'a>(&self, batch: &'a [u8]) -> Option<impl Iterator<Item = Mark> + 'a> {
        let end = (self.len as usize).checked_sub(HEADER_BYTES)?;
        let area = batch.get(self.marks_at as usize..end)?;
        let marks = self.marks as usize;
        let sound = |area: &[u8]| {
            let mut all = area.chunks_exact(MARK_BYTES).take(marks);
            all.all(|mark| Mark::decode(mark).is_sound())
        };
        (crc32c::crc32c(area) == self.marks_crc && sound(area))
            .then(|| area.chunks_exact(MARK_BYTES).take(marks).map(Mark::decode))
    }
}

/// In the place of a first index, where no entries are counted: the group left the log in this batch.
const GONE: u64 = u64::MAX;

/// A group's state after a batch, and what the batch holds of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) group: GroupId,
    pub(crate) hard: HardState,
    /// First entry index in this batch (in a footer: in this segment); 0 if none, [`GONE`] if the group is.
    pub(crate) first: u64,
    /// Last entry of the group so far.
    pub(crate) last: u64,
    pub(crate) last_term: u64,
    /// Last compacted entry.
    pub(crate) compacted: u64,
    pub(crate) compacted_term: u64,
    /// Entries of the group in this batch (in a footer: in this segment).
    pub(crate) count: u64,
}

impl Mark {
    /// Of a group that left the log. It is marked, too: where only the marks of a batch can be read, the
    /// group would otherwise be back, and as it was some time before it left.
    pub(crate) fn gone(group: GroupId) -> Self {
        Self {
            group,
            first: GONE,
            ..Self::default()
        }
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.count == 0 && self.first == GONE
    }

    pub(crate) fn encode(&self) -> [u8; MARK_BYTES] {
        let mut out = [0; MARK_BYTES];
        Fields::new(&mut out)
            .u64(self.group)
            .u64(self.hard.term)
            .u64(self.hard.vote)
            .u64(self.hard.commit)
            .u64(self.first)
            .u64(self.last)
            .u64(self.last_term)
            .u64(self.compacted)
            .u64(self.compacted_term)
            .u64(self.count);
        out
    }

    /// A group never ends below its own compaction: what says so was not written by this log, whatever
    /// its checksum.
    pub(crate) fn is_sound(&self) -> bool {
        self.last >= self.compacted
    }

    pub(crate) fn decode(bytes: &[u8]) -> Self {
        let field = |n: usize| u64_at(bytes, 8 * n);
        Self {
            group: field(0),
            hard: HardState {
                term: field(1),
                vote: field(2),
                commit: field(3),
            },
            first: field(4),
            last: field(5),
            last_term: field(6),
            compacted: field(7),
            compacted_term: field(8),
            count: field(9),
        }
    }
}

/// Bytes a batch takes on disk with so many bytes of records and so many marks.
pub(crate) fn batch_bytes(record_bytes: usize, marks: usize) -> usize {
    let marks_at = (HEADER_BYTES + record_bytes).next_multiple_of(SECTOR_BYTES);
    (marks_at + marks * MARK_BYTES + HEADER_BYTES).next_multiple_of(BLOCK_BYTES)
}

/// A bridge of `len` bytes, which lies where unreadable batches lay. `header` says what it says of itself.
pub(crate) fn bridge(mut header: BatchHeader, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    let marks_at = SECTOR_BYTES;
    header.flags = FLAG_BRIDGE;
    (header.len, header.marks_at) = (len as u32, marks_at as u32);
    header.records_crc = crc32c::crc32c(&out[HEADER_BYTES..marks_at]);
    header.marks_crc = crc32c::crc32c(&out[marks_at..len - HEADER_BYTES]);
    let [head, tail] = header.copies();
    out[..HEADER_BYTES].copy_from_slice(&head);
    out[len - HEADER_BYTES..].copy_from_slice(&tail);
    out
}

/// Turn a buffer that holds 128 bytes of room and then records into a finished batch.
///
/// `header` says everything but sizes and checksums; returns the complete header and its checksum,
/// the next link of the chain.
pub(crate) fn seal(
    buf: &mut AlignedBuf,
    mut header: BatchHeader,
    marks: impl Iterator<Item = Mark>,
) -> (BatchHeader, u32) {
    header.record_bytes = (buf.len() - HEADER_BYTES) as u32;
    let marks_at = buf.len().next_multiple_of(SECTOR_BYTES);
    buf.resize(marks_at);
    for mark in marks {
        buf.extend(&mark.encode());
        header.marks += 1;
    }
    let len = (buf.len() + HEADER_BYTES).next_multiple_of(BLOCK_BYTES);
    buf.resize(len);
    header.len = len as u32;
    header.marks_at = marks_at as u32;
    header.records_crc = crc32c::crc32c(&buf[HEADER_BYTES..marks_at]);
    header.marks_crc = crc32c::crc32c(&buf[marks_at..len - HEADER_BYTES]);
    let (head, crc) = header.encode(0);
    buf[..HEADER_BYTES].copy_from_slice(&head);
    buf[len - HEADER_BYTES..].copy_from_slice(&header.encode(FLAG_TRAILER).0);
    (header, crc)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::put_entry;

    fn sample(payload: usize) -> (AlignedBuf, BatchHeader) {
        let mut buf = AlignedBuf::zeroed(HEADER_BYTES);
        put_entry(&mut buf, 5, 1, 10, 0, &vec![0xab; payload]);
        let header = BatchHeader {
            uuid: 77,
            seq: 3,
            offset: 8192,
            lsn: 4,
            durable_lsn: 2,
            low_seq: 1,
            records: 1,
            ..BatchHeader::default()
        };
        let mark = Mark {
            group: 5,
            first: 10,
            last: 10,
            last_term: 1,
            count: 1,
            ..Mark::default()
        };
        let (header, _) = seal(&mut buf, header, std::iter::once(mark));
        (buf, header)
    }

    #[test]
    fn a_sealed_batch_reads_back_from_both_ends() {
        for payload in [0, 1, 256, 3_000, 3_700, 4_096, 100_000] {
            let (buf, header) = sample(payload);
            assert_eq!(buf.len(), batch_bytes(header.record_bytes as usize, 1));
            assert_eq!(BatchHeader::decode(&buf).map(|(h, _)| h), Some(header));
            assert_eq!(BatchHeader::decode_trailer(&buf), Some(header));
            let records = header.records(&buf).expect("checksum");
            assert_eq!(Records::new(records, header.records).count(), 1);
            assert_eq!(
                header
                    .marks(&buf)
                    .expect("checksum")
                    .next()
                    .map(|m| m.group),
                Some(5)
            );
        }
    }

    #[test]
    fn what_contradicts_itself_is_not_believed_whatever_its_checksum() {
        let (_, header) = sample(10);
        let mut buf = AlignedBuf::zeroed(HEADER_BYTES);
        let mark = Mark {
            group: 5,
            last: 3,
            compacted: 4,
            ..Mark::default()
        };
        let (sealed, _) = seal(&mut buf, header, std::iter::once(mark));
        assert!(BatchHeader::decode(&buf).is_some() && sealed.marks(&buf).is_none());
        for odd in [
            BatchHeader {
                lsn: u64::MAX,
                ..header
            },
            BatchHeader {
                durable_lsn: NUMBER_MAX + 1,
                ..header
            },
        ] {
            assert!(BatchHeader::decode(&odd.encode(0).0).is_none());
        }
    }

    #[test]
    fn every_flipped_byte_is_seen_and_leaves_a_name() {
        let (buf, header) = sample(1_000);
        for at in 0..buf.len() {
            let mut bad = buf.to_vec();
            bad[at] ^= 0x40;
            let head = BatchHeader::decode(&bad).map(|(h, _)| h);
            let tail = BatchHeader::decode_trailer(&bad);
            let known = head
                .or(tail)
                .expect("one of the two copies survives one bad byte");
            assert_eq!(known, header);
            let whole = head.is_some()
                && tail.is_some()
                && known.records(&bad).is_some()
                && known.marks(&bad).is_some();
            assert!(!whole, "byte {at} flipped unseen");
            assert!(known.records(&bad).is_some() || known.marks(&bad).is_some());
        }
    }
}
