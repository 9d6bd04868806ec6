//! The bytes of a checkpoint file.
//!
//! ```text
//! header   4,096 bytes: magic, format, cluster, member, group, index, term, zeros, CRC32C
//! chunk    40-byte head (magic, length, number, group, index, CRC32C of the bytes, CRC32C of the
//!          head), then the bytes, zero-padded to 8
//! …
//! footer   40 bytes: magic, number of chunks, total bytes, CRC32C over all chunks' checksums in
//!          order, CRC32C of the footer
//! ```
//!
//! A chunk says whose it is and which one, so that a misplaced one is noticed; the footer says that
//! none is missing.

use super::Meta;
use crate::BLOCK_BYTES;
use crate::GroupId;
use crate::le::{Fields, u16_at, u32_at, u64_at};

/// Format version written and known.
pub(super) const FORMAT: u16 = 1;
pub(super) const HEADER_BYTES: usize = BLOCK_BYTES;
pub(super) const HEAD_BYTES: usize = 40;
pub(super) const FOOTER_BYTES: usize = 40;
const HEADER_MAGIC: [u8; 4] = *b"HngC";
const CHUNK_MAGIC: [u8; 4] = *b"HngK";
const FOOTER_MAGIC: [u8; 4] = *b"HngE";

// A reader takes either from the same place: both begin with a magic and have one length.
const _: () = assert!(HEAD_BYTES == FOOTER_BYTES);

pub(super) fn name(meta: &Meta) -> String {
    format!("{:016x}-{:016x}.ckpt", meta.group, meta.index)
}

/// The name of one that is not finished.
pub(super) fn tmp_name(meta: &Meta) -> String {
    format!("{:016x}-{:016x}.tmp", meta.group, meta.index)
}

/// Group and index in a file name.
pub(super) fn parse_name(name: &str) -> Option<(GroupId, u64)> {
    parse_stem(name.strip_suffix(".ckpt")?)
}

/// The same of one that is not finished.
pub(super) fn parse_tmp_name(name: &str) -> Option<(GroupId, u64)> {
    parse_stem(name.strip_suffix(".tmp")?)
}

fn parse_stem(stem: &str) -> Option<(GroupId, u64)> {
    let (group, index) = stem.split_once('-')?;
    let hex = |s: &str| (s.len() == 16).then(|| u64::from_str_radix(s, 16).ok())?;
    Some((hex(group)?, hex(index)?))
}

pub(super) fn header(meta: &Meta) -> Vec<u8> {
    let mut out = vec![0; HEADER_BYTES];
    Fields::new(&mut out)
        .put(HEADER_MAGIC)
        .u16(FORMAT)
        .u16(0)
        .u64(meta.cluster_id)
        .u64(meta.member_id)
        .u64(meta.group)
        .u64(meta.index)
        .u64(meta.term);
    seal(&mut out);
    out
}

/// What a header says, or what is wrong with it; a newer format is `Err(Ok(format))`.
pub(super) fn read_header(bytes: &[u8]) -> Result<Meta, Result<u16, &'static str>> {
    if bytes.len() < HEADER_BYTES || bytes[..4] != HEADER_MAGIC {
        return Err(Err("not a checkpoint file"));
    }
    if !is_sealed(bytes) {
        return Err(Err("checksum of the header"));
    }
    match u16_at(bytes, 4) {
        FORMAT => {}
        newer => return Err(Ok(newer)),
    }
    let field = |n: usize| u64_at(bytes, 8 + 8 * n);
    Ok(Meta {
        cluster_id: field(0),
        member_id: field(1),
        group: field(2),
        index: field(3),
        term: field(4),
    })
}

/// What follows in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    Chunk {
        bytes: u32,
        number: u64,
        group: u64,
        index: u64,
        crc: u32,
    },
    Footer {
        chunks: u64,
        bytes: u64,
        chain: u32,
    },
}

impl Next {
    pub(super) fn encode(&self) -> [u8; HEAD_BYTES] {
        let mut out = [0; HEAD_BYTES];
        let fields = Fields::new(&mut out);
        match *self {
            Self::Chunk {
                bytes,
                number,
                group,
                index,
                crc,
            } => fields
                .put(CHUNK_MAGIC)
                .u32(bytes)
                .u64(number)
                .u64(group)
                .u64(index)
                .u32(crc),
            Self::Footer {
                chunks,
                bytes,
                chain,
            } => fields
                .put(FOOTER_MAGIC)
                .u32(0)
                .u64(chunks)
                .u64(bytes)
                .u64(0)
                .u32(chain),
        };
        seal(&mut out);
        out
    }

    pub(super) fn decode(bytes: &[u8; HEAD_BYTES]) -> Option<Self> {
        if !is_sealed(bytes) {
            return None;
        }
        match bytes.first_chunk::<4>() {
            Some(&CHUNK_MAGIC) => Some(Self::Chunk {
                bytes: u32_at(bytes, 4),
                number: u64_at(bytes, 8),
                group: u64_at(bytes, 16),
                index: u64_at(bytes, 24),
                crc: u32_at(bytes, 32),
            }),
            Some(&FOOTER_MAGIC) => Some(Self::Footer {
                chunks: u64_at(bytes, 8),
                bytes: u64_at(bytes, 16),
                chain: u32_at(bytes, 32),
            }),
            _ => None,
        }
    }
}

/// The checksum over all chunks' checksums, one further.
pub(super) fn chain(chain: u32, crc: u32) -> u32 {
    crc32c::crc32c_append(chain, &crc.to_le_bytes())
}

/// Put the checksum of all but the last 4 bytes into these.
fn seal(out: &mut [u8]) {
    let at = out.len() - 4;
    let crc = crc32c::crc32c(&out[..at]);
    out[at..].copy_from_slice(&crc.to_le_bytes());
}

fn is_sealed(bytes: &[u8]) -> bool {
    let at = bytes.len() - 4;
    crc32c::crc32c(&bytes[..at]) == u32_at(bytes, at)
}
