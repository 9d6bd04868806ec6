//! What the caller decides: sizes and depths, and whose log this is.

use crate::disk::Room;
use crate::{BLOCK_BYTES, ENTRY_BYTES_MAX, sizes};

/// Sizes and depths of a log. The defaults are those measured on the reference machine (design §7).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Bytes per segment file, once the log has grown; a multiple of 4,096, at least 64 KiB. Default
    /// 64 MiB: large enough that the pause of a rotation (one write latency) is below 1 %, small enough
    /// that a recycled segment is soon free. Existing segments keep the size they were made with, and
    /// an entry that fits into none gets a larger one.
    pub segment_bytes: u64,
    /// Bytes of a new log's first segments, if that is less than [`Options::segment_bytes`]; a multiple
    /// of 4,096, at least 64 KiB. Default 8 MiB: a log that is hardly used takes little of the disk, and
    /// one that is used has large ones within a few.
    pub segment_bytes_first: u64,
    /// Whether the segments are kept to a sixteenth of the room that the file system has, and to the size
    /// of file that the process may write. Default: yes. If not, a log that does not find the room for
    /// segments as they are asked for is not begun.
    pub fit_room: bool,
    /// Largest payload that the caller means to log, in bytes: segments are not made smaller than it
    /// needs for want of room. Default 1.5 MiB, etcd's request limit.
    pub payload_bytes: usize,
    /// Batch writes in flight at once, 1..=64. Default 4: hides the device's latency (17,500
    /// commits/s instead of 7,300 on the reference machine) while an acknowledgement waits for few.
    pub depth: usize,
    /// Once a batch is this large, the next turn's records open a new one. Default 1 MiB. One turn's
    /// records stay in one batch even beyond it, unless they do not fit into a segment.
    pub batch_bytes_max: usize,
    /// Segments kept ready ahead of use, 1..=8. Default 2: one for the next rotation, one as
    /// ballast for when the disk is full.
    pub ready_segments: usize,
    /// Bytes of segments the log should stay below; default 8 GiB, which opens in under 10 s at 1 GB/s.
    /// Above it [`crate::Wal::pins`] names the groups to compact; nothing is refused.
    pub log_bytes_max: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            segment_bytes: 64 * 1024 * 1024,
            segment_bytes_first: 8 * 1024 * 1024,
            fit_room: true,
            payload_bytes: 3 << 19,
            depth: 4,
            batch_bytes_max: 1024 * 1024,
            ready_segments: 2,
            log_bytes_max: 8 * 1024 * 1024 * 1024,
        }
    }
}

impl Options {
    /// Smallest legal segment, in bytes: two header blocks, one batch, one footer, with room.
    pub const SEGMENT_BYTES_MIN: u64 = 64 * 1024;
    /// Largest legal segment, in bytes (1 GiB): offsets and lengths inside a batch are 32-bit.
    pub const SEGMENT_BYTES_MAX: u64 = 1024 * 1024 * 1024;
    /// Most writes in flight.
    pub const DEPTH_MAX: usize = 64;
    /// Most segments kept ready.
    pub const READY_MAX: usize = 8;

    /// Smallest segment in which a payload of so many bytes has room beside what the log adds.
    pub fn segment_bytes_for(payload_bytes: usize) -> u64 {
        sizes::segment_for(payload_bytes).max(Self::SEGMENT_BYTES_MIN)
    }

    /// Largest payload that has room in a segment of so many bytes.
    pub fn payload_bytes_in(segment_bytes: u64) -> usize {
        sizes::payload_in(segment_bytes).min(ENTRY_BYTES_MAX)
    }

    /// Bytes of the first and of the largest segments of a new log in a place with so much room. `None`:
    /// there is too little for one.
    pub fn fitted(&self, room: Room) -> Option<(u64, u64)> {
        let sizes = sizes::Sizes::choose(self, Some(room), 0, true).ok()?;
        Some((sizes.first, sizes.max))
    }

    /// Says which option is out of range, if one is.
    pub fn check(&self) -> Result<(), &'static str> {
        let legal = |bytes: u64| {
            let range = Self::SEGMENT_BYTES_MIN..=Self::SEGMENT_BYTES_MAX;
            range.contains(&bytes) && bytes.is_multiple_of(BLOCK_BYTES as u64)
        };
        if !legal(self.segment_bytes) {
            return Err("segment_bytes must be a multiple of 4096 in 64 KiB..=1 GiB");
        }
        if !legal(self.segment_bytes_first) {
            return Err("segment_bytes_first must be a multiple of 4096 in 64 KiB..=1 GiB");
        }
        if !(1..=Self::DEPTH_MAX).contains(&self.depth) {
            return Err("depth must be in 1..=64");
        }
        if self.log_bytes_max < 4 * self.segment_bytes {
            return Err("log_bytes_max must be at least 4 segments");
        }
        if !(1..=Self::READY_MAX).contains(&self.ready_segments) {
            return Err("ready_segments must be in 1..=8");
        }
        if !(BLOCK_BYTES..=64 * 1024 * 1024).contains(&self.batch_bytes_max) {
            return Err("batch_bytes_max must be in 4 KiB..=64 MiB");
        }
        Ok(())
    }
}

/// Whose log this is, as the caller asks for it; compared with what the directory says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster the log belongs to.
    pub cluster_id: u64,
    /// The member (node) of that cluster.
    pub member_id: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_legal_and_odd_values_are_named() {
        assert_eq!(Options::default().check(), Ok(()));
        let odd = |f: fn(&mut Options)| {
            let mut o = Options::default();
            f(&mut o);
            o.check().unwrap_err()
        };
        assert!(odd(|o| o.segment_bytes = 65_537).contains("segment_bytes"));
        assert!(odd(|o| o.segment_bytes = 4096).contains("segment_bytes"));
        assert!(odd(|o| o.segment_bytes_first = 1).contains("segment_bytes_first"));
        assert!(odd(|o| o.depth = 0).contains("depth"));
        assert!(odd(|o| o.ready_segments = 9).contains("ready_segments"));
        assert!(odd(|o| o.batch_bytes_max = 1).contains("batch_bytes_max"));
    }
}
