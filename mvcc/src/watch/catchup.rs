//! Catching up: events from the past, in slices.
//!
//! A watcher of one key reads that key's versions; a watcher of an interval walks the revision log
//! and picks what matches. Both stop at a revision's end. Tested by `tests/watch.rs`.

use std::ops::ControlFlow;

use super::{Event, Phase, Store, Watcher, batch_of, event_bytes, previous, to_event};
use crate::keys::KeyId;
use crate::types::{EventKind, WatchBatch, WatcherId};
use crate::version::Version;

/// Most changes that one slice looks at, but for the rest of the revision at its end. About 100 µs
/// when little matches.
const SLICE_CHANGES_MAX: usize = 1_000;

/// Collects whole revisions within bounds.
struct Slice<'w> {
    watcher: &'w Watcher,
    events: Vec<Event>,
    bytes: usize,
    bytes_max: usize,
    looked_at: usize,
    /// The revision going on, and where its events begin.
    main: i64,
    main_start: usize,
    main_bytes: usize,
}

impl Store {
    /// One slice of a watcher that is behind, from revision `next` on.
    pub(super) fn catch_up(
        &mut self,
        id: WatcherId,
        next: i64,
        max_bytes: usize,
    ) -> Option<WatchBatch> {
        if next < self.compacted {
            self.watchers.take(id);
            return Some(WatchBatch::Compacted {
                compact_revision: self.compacted,
            });
        }
        let watcher = self.watchers.by_id.get(&id)?;
        let mut slice = Slice::new(watcher, next, max_bytes);
        let stopped = if watcher.spec.range.as_range().is_one() {
            self.slice_of_key(&mut slice, next)
        } else {
            self.slice_of_log(&mut slice, next)
        };
        let events = slice.events;
        let watcher = self.watchers.by_id.get_mut(&id)?;
        match stopped {
            Some(next) => watcher.phase = Phase::Behind { next },
            None => {
                watcher.phase = Phase::Synced;
                self.watchers.matcher.insert(&watcher.spec.range, id);
            }
        }
        batch_of(events)
    }

    /// Returns the revision to go on from, `None` when all is seen.
    fn slice_of_key(&self, slice: &mut Slice<'_>, next: i64) -> Option<i64> {
        let key = self.index.find(&self.keys, &slice.watcher.spec.range.key)?;
        let mut versions = self.keys.since(key, next);
        let all = versions.try_for_each(|version| {
            slice.enter(version.main)?;
            self.take(slice, key, version)
        });
        all.break_value()
    }

    fn slice_of_log(&self, slice: &mut Slice<'_>, next: i64) -> Option<i64> {
        let mut changes = self.log.since(next);
        let all = changes.try_for_each(|op| {
            slice.enter(op.main)?;
            if !slice
                .watcher
                .spec
                .range
                .as_range()
                .contains(self.keys.key(op.id))
            {
                return ControlFlow::Continue(());
            }
            match self.keys.change(op.id, op.main, op.sub) {
                Some(version) => self.take(slice, op.id, version),
                None => ControlFlow::Continue(()),
            }
        });
        all.break_value()
    }

    fn take(&self, slice: &mut Slice<'_>, key: KeyId, version: Version<'_>) -> ControlFlow<i64> {
        let kind = if version.tombstone {
            EventKind::Delete
        } else {
            EventKind::Put
        };
        if !slice.watcher.wants(kind, version.main) {
            return ControlFlow::Continue(());
        }
        let mut event = to_event(self.keys.key(key), version);
        // What was before a revision at or below the compact revision can no longer be read.
        if slice.watcher.spec.prev_kv && version.main > self.compacted {
            event.prev_kv = previous(&self.keys, key, version.main);
        }
        slice.push(event)
    }
}

impl<'w> Slice<'w> {
    fn new(watcher: &'w Watcher, next: i64, bytes_max: usize) -> Self {
        Slice {
            watcher,
            events: Vec::new(),
            bytes: 0,
            bytes_max,
            looked_at: 0,
            main: next,
            main_start: 0,
            main_bytes: 0,
        }
    }

    /// Before each change: at a revision's beginning the slice may end.
    fn enter(&mut self, main: i64) -> ControlFlow<i64> {
        if main != self.main {
            if self.looked_at >= SLICE_CHANGES_MAX || self.bytes >= self.bytes_max {
                return ControlFlow::Break(main);
            }
            (self.main, self.main_start, self.main_bytes) = (main, self.events.len(), 0);
        }
        self.looked_at += 1;
        ControlFlow::Continue(())
    }

    /// Adds an event. If the bound is passed and there are whole revisions before this one, this
    /// one is given back.
    fn push(&mut self, event: Event) -> ControlFlow<i64> {
        let size = event_bytes(&event);
        self.bytes += size;
        self.main_bytes += size;
        if self.bytes > self.bytes_max && self.main_start > 0 {
            self.events.truncate(self.main_start);
            self.bytes -= self.main_bytes;
            return ControlFlow::Break(self.main);
        }
        self.events.push(event);
        ControlFlow::Continue(())
    }
}
