//! Records of which one byte is wrong, as their checksum tells: for a salvage, never for a recovery.
//!
//! CRC32C is linear: what a wrong byte adds to the checksum depends only on the difference and on how many
//! bytes follow. So the checksum of damaged records says which single bytes could have made it. A change that
//! is the only one, makes every record readable and agrees with the marks is very likely what was written:
//! among so many places, one damage of another kind in some thousands (4 KiB) to twenty (1 MiB) has a
//! candidate at all, and hardly one of those leaves readable records. It stays a guess, and is said to be
//! one.
//! Must never know: what becomes of the guess.

use crate::batch::{BatchHeader, HEADER_BYTES, Mark};
use crate::record::Records;
use crate::{GroupId, Record};

/// CRC32C, reflected.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// What a byte adds to the checksum, and which byte adds what begins so.
struct Tables {
    adds: [u32; 256],
    by_top: [u8; 256],
}

static TABLES: Tables = tables();

const fn tables() -> Tables {
    let (mut adds, mut by_top) = ([0; 256], [0; 256]);
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 {
                (crc >> 1) ^ POLYNOMIAL
            } else {
                crc >> 1
            };
            bit += 1;
        }
        adds[byte] = crc;
        by_top[(crc >> 24) as usize] = byte as u8;
        byte += 1;
    }
    Tables { adds, by_top }
}

/// Every place and difference of one byte among `len` that changes a checksum by `difference`.
fn candidates(len: usize, difference: u32) -> Vec<(usize, u8)> {
    let mut found = Vec::new();
    let mut crc = difference;
    for at in (0..len).rev() {
        let byte = TABLES.by_top[(crc >> 24) as usize];
        let adds = TABLES.adds[byte as usize];
        if crc == adds && byte != 0 {
            found.push((at, byte));
        }
        // One byte back: as the checksum was before the zeros behind the wrong byte were added.
        crc = ((crc ^ adds) << 8) | u32::from(byte);
    }
    found
}

/// The record area of a damaged batch as it was, if one wrong byte explains it.
pub(crate) fn mend(header: &BatchHeader, batch: &[u8], marks: &[Mark]) -> Option<Vec<u8>> {
    let area = batch.get(HEADER_BYTES..header.marks_at as usize)?;
    let difference = crc32c::crc32c(area) ^ header.records_crc;
    let mut sound = candidates(area.len(), difference)
        .into_iter()
        .filter_map(|(at, byte)| {
            let mut mended = area.to_vec();
            mended[at] ^= byte;
            agrees(header, &mended, marks).then_some(mended)
        });
    let first = sound.next()?;
    sound.next().is_none().then_some(first)
}

/// The records can all be read, and are those that the marks count.
fn agrees(header: &BatchHeader, area: &[u8], marks: &[Mark]) -> bool {
    let Some(used) = area.get(..header.record_bytes as usize) else {
        return false;
    };
    let padded = area[used.len()..].iter().all(|byte| *byte == 0);
    if !padded || Records::new(used, header.records).any(|record| record.is_err()) {
        return false;
    }
    let last_of = |group: GroupId| {
        let records = Records::new(used, header.records).flatten();
        let entries = records.filter_map(|record| match record {
            Record::Entry {
                group: of, index, ..
            } if of == group => Some(index),
            _ => None,
        });
        entries.last()
    };
    let mut counted = marks.iter().filter(|mark| mark.count > 0);
    counted.all(|mark| last_of(mark.group) == Some(mark.last))
}

/// Gives the records of an area to `each`.
pub(crate) fn each(header: &BatchHeader, area: &[u8], mut each: impl FnMut(Record<'_>)) {
    for record in Records::new(area, header.records) {
        let Ok(record) = record else { break };
        each(record);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_wrong_byte_is_found_by_the_checksum_alone() {
        for len in [1, 7, 512, 4096] {
            let bytes: Vec<u8> = (0..len).map(|n| (n * 31 % 251) as u8).collect();
            let due = crc32c::crc32c(&bytes);
            for at in (0..len).step_by(13) {
                for change in [1, 0x80, 0xff, 0x3c] {
                    let mut bad = bytes.clone();
                    bad[at] ^= change;
                    let found = candidates(len, crc32c::crc32c(&bad) ^ due);
                    assert!(found.contains(&(at, change)), "{len} {at} {change}");
                    assert!(found.len() < 3, "{found:?}");
                }
            }
        }
        assert_eq!(candidates(4096, 0), []);
    }
}
