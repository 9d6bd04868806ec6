//! What was read of sealed segments, kept for the next reader: all groups of a core share their batches, so
//! the followers of many groups, and many followers of one, want the same bytes within moments.
//!
//! Promises: at most [`CACHE_BYTES_MAX`] bytes; only of segments that nothing is written to any more, whose
//! numbers are never used again, so that nothing kept can grow old.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::disk::AlignedBuf;

/// Bytes of a window, the unit that is read and kept; it begins at a multiple of that in its segment. Small
/// enough that a single entry is not long in coming, large enough that few batches lie across an end.
pub(super) const WINDOW_BYTES: u64 = 256 * 1024;
/// Most bytes kept, per log.
pub(super) const CACHE_BYTES_MAX: usize = 16 * 1024 * 1024;

#[derive(Debug)]
struct Kept {
    bytes: Arc<AlignedBuf>,
    /// When it was last asked for or brought; the clock counts both.
    used: u64,
}

/// Windows by segment and offset.
#[derive(Debug, Default)]
pub(super) struct Cache {
    windows: BTreeMap<(u64, u64), Kept>,
    bytes: usize,
    asked: u64,
}

impl Cache {
    pub(super) fn get(&mut self, seq: u64, window: u64) -> Option<Arc<AlignedBuf>> {
        self.asked += 1;
        let kept = self.windows.get_mut(&(seq, window))?;
        kept.used = self.asked;
        Some(kept.bytes.clone())
    }

    /// Keeps a window; what was asked for longest ago makes room.
    pub(super) fn keep(&mut self, seq: u64, window: u64, bytes: AlignedBuf) {
        self.asked += 1;
        self.bytes += bytes.len();
        let kept = Kept {
            bytes: Arc::new(bytes),
            used: self.asked,
        };
        if let Some(before) = self.windows.insert((seq, window), kept) {
            self.bytes -= before.bytes.len();
        }
        while self.bytes > CACHE_BYTES_MAX {
            let oldest = self.windows.iter().min_by_key(|(_, kept)| kept.used);
            let Some(oldest) = oldest.map(|(place, _)| *place) else {
                return;
            };
            self.remove(oldest);
        }
    }

    /// The segment is let go.
    pub(super) fn forget(&mut self, seq: u64) {
        let places: Vec<_> = self
            .windows
            .range((seq, 0)..=(seq, u64::MAX))
            .map(|(place, _)| *place)
            .collect();
        places.into_iter().for_each(|place| self.remove(place));
    }

    fn remove(&mut self, place: (u64, u64)) {
        if let Some(kept) = self.windows.remove(&place) {
            self.bytes -= kept.bytes.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_asked_for_longest_ago_makes_room_and_a_segment_is_forgotten_as_a_whole() {
        let mut cache = Cache::default();
        let windows = (CACHE_BYTES_MAX as u64 / WINDOW_BYTES) as usize;
        for n in 0..windows as u64 {
            cache.keep(
                1 + n % 2,
                n * WINDOW_BYTES,
                AlignedBuf::zeroed(WINDOW_BYTES as usize),
            );
        }
        assert!(cache.get(1, 0).is_some() && cache.bytes == CACHE_BYTES_MAX);
        cache.keep(3, 0, AlignedBuf::zeroed(4_096));
        // The first one had just been asked for.
        assert!(cache.get(1, 0).is_some() && cache.get(2, WINDOW_BYTES).is_none());
        assert!(cache.bytes <= CACHE_BYTES_MAX && cache.windows.len() == windows);
        cache.keep(3, 0, AlignedBuf::zeroed(8_192));
        cache.forget(1);
        cache.forget(2);
        assert_eq!((cache.windows.len(), cache.bytes), (1, 8_192));
        cache.forget(3);
        assert_eq!((cache.windows.len(), cache.bytes), (0, 0));
    }
}
