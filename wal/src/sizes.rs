//! How large segments are made: by what was asked for, by the room there is, and by how fast the log grows.
//!
//! A new log begins with small segments, so that a log that is hardly used takes little of the disk. They
//! become larger with the log (a quarter of it), or at once where one was filled in no time. They never
//! become smaller while a log is open: what is there is used again. A log may hold segments of any sizes,
//! as each says its own (decision 21).
//! Must never know: disks, beyond the room they say they have.

use crate::batch::batch_bytes;
use crate::disk::Room;
use crate::segment::DATA_AT;
use crate::{BLOCK_BYTES, Options, record};

/// Parts of the room there is that a segment may take one of: with what is kept ready and in reserve,
/// half of the room is left for the rest of the log and for checkpoints.
const PARTS: u64 = 16;
/// Parts of the log that the next segment is as large as one of.
const LOG_PARTS: u64 = 4;
/// A segment that was filled within so long was too small.
const FAST_MICROS: u64 = 2_000_000;
/// How much larger the next one is.
const FAST_FACTOR: u64 = 4;

/// Smallest segment for a payload: a quarter is left for what is not the caller's, marks of all groups at
/// its begin and a footer at its end.
pub(crate) fn segment_for(payload_bytes: usize) -> u64 {
    let batch = batch_bytes(record::entry_bytes(payload_bytes), 1) as u64;
    (DATA_AT + batch + batch.div_ceil(3)).next_multiple_of(BLOCK_BYTES as u64)
}

/// Most bytes of a batch in a segment.
pub(crate) fn fit_in(segment_bytes: u64) -> usize {
    segment_bytes.saturating_sub(DATA_AT) as usize / 4 * 3
}

/// Largest payload in a segment.
pub(crate) fn payload_in(segment_bytes: u64) -> usize {
    let overhead = batch_bytes(record::entry_bytes(0), 1);
    fit_in(segment_bytes).saturating_sub(overhead)
}

/// The largest power of two up to a number.
fn power_below(number: u64) -> u64 {
    match number {
        0 => 0,
        number => 1 << number.ilog2(),
    }
}

/// How large the segments of a log are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sizes {
    /// Of the first ones, and the smallest that are used.
    pub(crate) first: u64,
    /// Of the largest that are made, but for a single entry that needs more.
    pub(crate) max: u64,
    /// Of the next one.
    next: u64,
}

/// Why a log cannot have segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TooSmall {
    /// The process may not write such files: how large they must be.
    File(u64),
    /// All that a new log begins with takes so much.
    Room(u64),
}

impl Sizes {
    /// For a log whose files take `held` bytes, in a place with so much room (if that is known).
    /// `born`: it is about to be begun.
    pub(crate) fn choose(
        options: &Options,
        room: Option<Room>,
        held: u64,
        born: bool,
    ) -> Result<Self, TooSmall> {
        let unknown = Room {
            free_bytes: u64::MAX,
            file_bytes_max: u64::MAX,
        };
        let room = room.unwrap_or(unknown);
        let mut max = options.segment_bytes;
        let first = options.segment_bytes_first;
        let mut first = first.max(segment_for(options.payload_bytes)).min(max);
        let least = match options.fit_room {
            true => segment_for(options.payload_bytes).next_power_of_two(),
            false => max,
        };
        let least = least.clamp(Options::SEGMENT_BYTES_MIN, max);
        if room.file_bytes_max < least {
            return Err(TooSmall::File(least));
        }
        if options.fit_room {
            let block = BLOCK_BYTES as u64;
            let part = power_below(room.free_bytes.saturating_add(held) / PARTS);
            let file = room.file_bytes_max / block * block;
            max = max.min(part.max(least)).min(file);
            first = first.min(max);
        }
        // One to write to, and those that are kept ready.
        let begin = options.ready_segments as u64 + 1;
        if born && options.fit_room && room.free_bytes < begin * first {
            first = first.min(least);
        }
        if born && room.free_bytes < begin * first {
            return Err(TooSmall::Room(begin * first));
        }
        Ok(Self {
            first,
            max,
            next: first,
        })
    }

    /// All alike.
    #[cfg(test)]
    pub(crate) fn fixed(bytes: u64) -> Self {
        Self {
            first: bytes,
            max: bytes,
            next: bytes,
        }
    }

    /// Size of the next segment.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// The log is so large, and filled a segment in so long.
    pub(crate) fn grow(&mut self, log_bytes: u64, filled_micros: Option<u64>) {
        let mut next = self.next.max(power_below(log_bytes / LOG_PARTS));
        if filled_micros.is_some_and(|micros| micros < FAST_MICROS) {
            next = next.max(self.next.saturating_mul(FAST_FACTOR));
        }
        self.next = next.clamp(self.first, self.max);
    }

    /// The segments are as large as they get.
    pub(crate) fn is_grown(&self) -> bool {
        self.next >= self.max
    }

    /// A file of such a size may become a segment: none that was cut, none that is much too small by now.
    pub(crate) fn is_usable(&self, bytes: u64) -> bool {
        let least = self.first.max(self.next / 4);
        bytes.is_multiple_of(BLOCK_BYTES as u64) && (least..=self.max).contains(&bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn choose(change: impl FnOnce(&mut Options), free: u64, held: u64) -> Result<Sizes, TooSmall> {
        let mut options = Options::default();
        change(&mut options);
        let room = Room {
            free_bytes: free,
            file_bytes_max: u64::MAX,
        };
        Sizes::choose(&options, Some(room), held, held == 0)
    }

    #[test]
    fn what_fits_is_what_is_said_to_fit() {
        for payload in [0, 1, 4_000, 3 << 19, 16 << 20] {
            let bytes = segment_for(payload);
            assert!(payload_in(bytes) >= payload, "{payload}");
            assert!(payload_in(bytes - 3 * 4096) < payload.max(1), "{payload}");
        }
    }

    #[test]
    fn the_room_there_is_chooses_the_size() {
        let sizes = |free, held| choose(|_| {}, free, held).map(|s| (s.first / MIB, s.max / MIB));
        assert_eq!(sizes(100 << 30, 0), Ok((8, 64)));
        assert_eq!(sizes(400 * MIB, 0), Ok((8, 16)));
        assert_eq!(sizes(100 * MIB, 0), Ok((4, 4)));
        // What the log itself takes of it is room of its own; and an old log opens wherever it is.
        assert_eq!(sizes(0, 1 << 30), Ok((8, 64)));
        assert_eq!(sizes(0, MIB), Ok((4, 4)));
        // Too little for what a log begins with, and how much that is.
        assert_eq!(sizes(12 * MIB, 0), Ok((4, 4)));
        assert_eq!(sizes(11 * MIB, 0), Err(TooSmall::Room(12 * MIB)));
        // As asked for, or not at all.
        let asked = |options: &mut Options| {
            options.segment_bytes = 16 * MIB;
            options.segment_bytes_first = 16 * MIB;
            options.fit_room = false;
        };
        assert_eq!(choose(asked, 48 * MIB, 0).map(|s| s.first), Ok(16 * MIB));
        assert_eq!(choose(asked, 47 * MIB, 0), Err(TooSmall::Room(48 * MIB)));
    }

    #[test]
    fn a_file_size_limit_is_kept_to_or_named() {
        let sizes = |fit_room, file_bytes_max| {
            let options = Options {
                fit_room,
                ..Options::default()
            };
            let room = Room {
                free_bytes: u64::MAX,
                file_bytes_max,
            };
            Sizes::choose(&options, Some(room), 0, true).map(|s| (s.first, s.max))
        };
        assert_eq!(sizes(true, 10 * MIB + 7), Ok((8 * MIB, 10 * MIB)));
        assert_eq!(sizes(true, MIB), Err(TooSmall::File(4 * MIB)));
        assert_eq!(sizes(false, 10 * MIB), Err(TooSmall::File(64 * MIB)));
    }

    #[test]
    fn segments_grow_with_the_log_and_faster_where_it_is_fast() {
        let mut sizes = choose(|_| {}, 1 << 40, 0).expect("room");
        sizes.grow(3 * MIB, None);
        assert_eq!(sizes.next(), 8 * MIB, "nothing to grow for");
        sizes.grow(70 * MIB, Some(60_000_000));
        assert_eq!((sizes.next(), sizes.is_grown()), (16 * MIB, false));
        sizes.grow(70 * MIB, Some(30_000));
        assert_eq!((sizes.next(), sizes.is_grown()), (64 * MIB, true));
        // What is there is used again, but not what is much too small by now, or was cut.
        sizes.grow(MIB, None);
        assert_eq!(sizes.next(), 64 * MIB);
        assert!(sizes.is_usable(16 * MIB) && !sizes.is_usable(8 * MIB));
        assert!(!sizes.is_usable(64 * MIB - 1) && !sizes.is_usable(65 * MIB));
    }
}
