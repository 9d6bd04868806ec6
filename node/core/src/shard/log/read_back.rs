//! Old entries on their way from the disk to followers that lag: what raft asked for in vain, what is
//! being read, and what came back. A few spans at once, so that two laggards do not evict each other.
//! Must never know: who lags, what entries say.

use std::collections::VecDeque;

use henge_raft::Entry;

/// Spans wanted, being read or held at a time. With 4 MiB for each read: 16 MiB of a shard's memory,
/// and only while somebody lags.
pub const SPANS_MAX: usize = 4;

/// A span of entries that raft asked for and memory does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// First index.
    pub low: u64,
    /// One past the last index.
    pub high: u64,
}

/// The spans of one group.
#[derive(Debug, Default)]
pub struct ReadBack {
    wanted: VecDeque<Wanted>,
    /// First indexes of what is being read.
    reading: Vec<u64>,
    /// Contiguous each, oldest first, always a copy of what is on disk.
    held: VecDeque<Vec<Entry>>,
}

impl ReadBack {
    /// Notes that a span is needed. One that is on its way already, or one too many, is not noted:
    /// whoever needs it asks again.
    pub fn want(&mut self, wanted: Wanted) {
        let known = self.wanted.iter().any(|other| other.low == wanted.low)
            || self.reading.contains(&wanted.low);
        if !known && self.wanted.len() + self.reading.len() < SPANS_MAX {
            self.wanted.push_back(wanted);
        }
    }

    /// The next span to read; ends in [`ReadBack::put`], with what was found.
    pub fn take(&mut self) -> Option<Wanted> {
        let wanted = self.wanted.pop_front()?;
        self.reading.push(wanted.low);
        Some(wanted)
    }

    /// The read that began at `low` has ended, with nothing if it failed.
    pub fn put(&mut self, low: u64, entries: Vec<Entry>) {
        self.reading.retain(|reading| *reading != low);
        if entries.is_empty() {
            return;
        }
        if self.held.len() == SPANS_MAX {
            self.held.pop_front();
        }
        self.held.push_back(entries);
    }

    /// What is held from `index` on.
    pub fn from(&self, index: u64) -> Option<&[Entry]> {
        self.held.iter().find_map(|span| {
            let at = index.checked_sub(span.first()?.index)?;
            span.get(usize::try_from(at).ok()?..)
                .filter(|rest| !rest.is_empty())
        })
    }

    /// Entries from `index` on were replaced.
    pub fn cut_from(&mut self, index: u64) {
        self.retain(|entry| entry.index < index);
    }

    /// Entries up to `index` are in a checkpoint.
    pub fn cut_through(&mut self, index: u64) {
        self.retain(|entry| entry.index > index);
    }

    fn retain(&mut self, keep: impl Fn(&Entry) -> bool) {
        for span in &mut self.held {
            span.retain(&keep);
        }
        self.held.retain(|span| !span.is_empty());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(low: u64, high: u64) -> Vec<Entry> {
        let entry = |index| Entry {
            index,
            ..Entry::default()
        };
        (low..high).map(entry).collect()
    }

    #[test]
    fn a_span_is_read_once_however_often_it_is_asked_for() {
        let mut back = ReadBack::default();
        let wanted = Wanted { low: 3, high: 9 };
        back.want(wanted);
        back.want(wanted);
        assert_eq!(back.take(), Some(wanted));
        back.want(wanted);
        assert_eq!(back.take(), None, "it is being read");
        back.put(3, Vec::new());
        back.want(wanted);
        assert_eq!(back.take(), Some(wanted), "a failed read is tried again");
    }

    #[test]
    fn two_laggards_do_not_evict_each_other() {
        let mut back = ReadBack::default();
        back.put(3, span(3, 9));
        back.put(100, span(100, 110));
        assert_eq!(back.from(5).map(<[_]>::len), Some(4));
        assert_eq!(back.from(100).map(<[_]>::len), Some(10));
        assert!(back.from(9).is_none() && back.from(2).is_none());
    }

    #[test]
    fn what_is_held_is_bounded_and_what_is_gone_is_not_served() {
        let mut back = ReadBack::default();
        for low in (0..10).map(|at| at * 10) {
            back.put(low, span(low, low + 10));
            back.want(Wanted {
                low,
                high: low + 10,
            });
        }
        assert!(back.from(59).is_none(), "the oldest went");
        assert_eq!(back.wanted.len(), SPANS_MAX);
        back.cut_from(95);
        back.cut_through(72);
        assert_eq!(back.from(73).map(<[_]>::len), Some(7));
        assert_eq!(back.from(90).map(<[_]>::len), Some(5));
        assert!(back.from(95).is_none() && back.from(72).is_none());
    }
}
