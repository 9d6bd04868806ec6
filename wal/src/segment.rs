//! A segment file: its name, its two header blocks, and where batches may lie in it.
//!
//! ```text
//! offset 0      header, 4,096 bytes      the same content twice, so that one bad sector
//!        4096   header, second copy      does not cost a segment
//!        8192   batches, one after the other
//!        …      footer: a batch without records that marks every group, written when sealed
//! ```
//!
//! The header says where the log was when the segment was begun: which segment came before, where
//! that one ends, and the checksum chain there. A segment is begun only when everything before it is
//! durable, so a readable header proves the segment before it complete up to that end. What lies
//! behind the end (a torn tail that was cut, stale bytes of an earlier life) does not exist.
//! Sequence numbers are never reused. Must never know: disks.

use crate::batch::{FORMAT, NUMBER_MAX};
use crate::disk::AlignedBuf;
use crate::le::{Fields, u16_at, u32_at, u64_at, u128_at};
use crate::{BLOCK_BYTES, Lsn};

/// First bytes of a segment header.
const MAGIC: [u8; 4] = *b"HngS";
/// Bytes before the first batch.
pub(crate) const DATA_AT: u64 = 2 * BLOCK_BYTES as u64;
/// Name of a segment while it is being made.
pub(crate) const PREPARE_NAME: &str = "prepare.tmp";

/// No segment of the log yet: a file made ready, that testifies how far the log was when it was made.
/// So a lost newest segment is noticed, which no later segment could name.
pub(crate) const FLAG_READY: u16 = 1;

const FIELD_BYTES: usize = 96;
const _: () = assert!(FIELD_BYTES <= BLOCK_BYTES - 4);

/// The file name of a segment.
pub(crate) fn name(seq: u64) -> String {
    format!("{seq:016x}.seg")
}

/// The sequence number in a file name.
pub(crate) fn seq_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".seg")?;
    let lower = digits
        .bytes()
        .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let seq = (digits.len() == 16 && lower).then(|| u64::from_str_radix(digits, 16).ok())?;
    seq.filter(|seq| *seq <= NUMBER_MAX)
}

/// What a segment says about itself and about the log before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) uuid: u128,
    pub(crate) seq: u64,
    /// The segment before; 0 for the first.
    pub(crate) prev_seq: u64,
    /// Where the log ends in it.
    pub(crate) prev_end: u64,
    /// The first batch of this segment; all before it are durable.
    pub(crate) first_lsn: Lsn,
    /// Oldest segment still needed when this one was begun.
    pub(crate) low_seq: u64,
    /// Size of this file.
    pub(crate) bytes: u64,
    pub(crate) cluster_id: u64,
    pub(crate) member_id: u64,
    /// Checksum of the header of the last batch before this segment.
    pub(crate) prev: u32,
    /// Batches that may be in flight at once while this segment is written.
    pub(crate) depth: u16,
    /// [`FLAG_READY`] or nothing.
    pub(crate) flags: u16,
}

/// What lies in a segment's first two blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// At least one good copy; `copies` of them.
    Header { header: SegmentHeader, copies: u8 },
    /// A header of a newer format.
    Newer(u16),
    /// Nothing readable.
    Nothing,
}

impl SegmentHeader {
    /// Both blocks, ready to be written.
    pub(crate) fn blocks(&self) -> AlignedBuf {
        let mut out = AlignedBuf::zeroed(DATA_AT as usize);
        for (copy, block) in out.chunks_exact_mut(BLOCK_BYTES).enumerate() {
            Fields::new(block)
                .put(MAGIC)
                .u16(FORMAT)
                .u16(copy as u16)
                .u128(self.uuid)
                .u64(self.seq)
                .u64(self.prev_seq)
                .u64(self.prev_end)
                .u64(self.first_lsn)
                .u64(self.low_seq)
                .u64(self.bytes)
                .u64(self.cluster_id)
                .u64(self.member_id)
                .u32(self.prev)
                .u16(self.depth)
                .u16(self.flags);
            let crc = crc32c::crc32c(&block[..BLOCK_BYTES - 4]);
            block[BLOCK_BYTES - 4..].copy_from_slice(&crc.to_le_bytes());
        }
        out
    }

    /// Read the first two blocks of file `seq`. Either copy will do. Where they differ, one is of an
    /// earlier life or was torn: what this life's segment says goes before what the file testified when
    /// it was made ready, and that before what it was under another number.
    pub(crate) fn find(blocks: &[u8], seq: u64) -> Found {
        let copies: Vec<_> = blocks
            .chunks_exact(BLOCK_BYTES)
            .take(2)
            .enumerate()
            .filter_map(|(copy, block)| Self::decode(block, copy as u16))
            .collect();
        if let Some(newer) = copies.iter().find_map(|copy| copy.err()) {
            return Found::Newer(newer);
        }
        let rank = |h: &Self| (h.seq == seq, h.flags & FLAG_READY == 0);
        match copies.iter().flatten().copied().max_by_key(rank) {
            None => Found::Nothing,
            Some(header) => Found::Header {
                header,
                copies: copies.iter().filter(|copy| **copy == Ok(header)).count() as u8,
            },
        }
    }

    fn decode(block: &[u8], copy: u16) -> Option<Result<Self, u16>> {
        let crc = crc32c::crc32c(&block[..BLOCK_BYTES - 4]);
        if block[..4] != MAGIC || crc != u32_at(block, BLOCK_BYTES - 4) {
            return None;
        }
        let format = u16_at(block, 4);
        if format > FORMAT {
            return Some(Err(format));
        }
        let header = Self {
            uuid: u128_at(block, 8),
            seq: u64_at(block, 24),
            prev_seq: u64_at(block, 32),
            prev_end: u64_at(block, 40),
            first_lsn: u64_at(block, 48),
            low_seq: u64_at(block, 56),
            bytes: u64_at(block, 64),
            cluster_id: u64_at(block, 72),
            member_id: u64_at(block, 80),
            prev: u32_at(block, 88),
            depth: u16_at(block, 92),
            flags: u16_at(block, 94),
        };
        (u16_at(block, 6) == copy && header.numbers_fit()).then_some(Ok(header))
    }

    /// As [`crate::batch::BatchHeader`] believes no number that no log reaches.
    fn numbers_fit(&self) -> bool {
        let numbers = [self.seq, self.prev_seq, self.prev_end, self.first_lsn];
        numbers.iter().all(|number| *number <= NUMBER_MAX) && self.bytes <= NUMBER_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_sequence_numbers() {
        assert_eq!(name(0x2a), "000000000000002a.seg");
        assert_eq!(seq_of(&name(NUMBER_MAX)), Some(NUMBER_MAX));
        assert_eq!(seq_of(&name(u64::MAX)), None);
        for odd in [
            "2a.seg",
            "000000000000002A.seg",
            "+00000000000002a.seg",
            "x",
            "prepare.tmp",
        ] {
            assert_eq!(seq_of(odd), None, "{odd}");
        }
    }

    #[test]
    fn one_copy_is_enough_and_no_flip_goes_unseen() {
        let header = SegmentHeader {
            uuid: 9,
            seq: 4,
            first_lsn: 7,
            ..SegmentHeader::default()
        };
        let blocks = header.blocks().to_vec();
        assert_eq!(
            SegmentHeader::find(&blocks, 4),
            Found::Header { header, copies: 2 }
        );
        for at in 0..blocks.len() {
            let mut bad = blocks.clone();
            bad[at] ^= 1;
            assert_eq!(
                SegmentHeader::find(&bad, 4),
                Found::Header { header, copies: 1 },
                "{at}"
            );
            bad[(at + BLOCK_BYTES) % blocks.len()] ^= 1;
            assert_eq!(SegmentHeader::find(&bad, 4), Found::Nothing);
        }
        let mut swapped = blocks[BLOCK_BYTES..].to_vec();
        swapped.extend(&blocks[..BLOCK_BYTES]);
        assert_eq!(SegmentHeader::find(&swapped, 4), Found::Nothing);
    }

    #[test]
    fn a_copy_of_an_earlier_life_is_not_believed() {
        let now = SegmentHeader {
            seq: 4,
            first_lsn: 7,
            ..SegmentHeader::default()
        };
        let before = SegmentHeader { seq: 2, ..now };
        let ready = SegmentHeader {
            flags: FLAG_READY,
            ..now
        };
        for other in [before, ready] {
            for stale in [0, 1] {
                let mut blocks = now.blocks().to_vec();
                let range = stale * BLOCK_BYTES..(stale + 1) * BLOCK_BYTES;
                blocks[range.clone()].copy_from_slice(&other.blocks()[range]);
                let header = now;
                assert_eq!(
                    SegmentHeader::find(&blocks, 4),
                    Found::Header { header, copies: 1 }
                );
            }
        }
    }
}
