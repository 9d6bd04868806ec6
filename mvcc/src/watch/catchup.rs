//! Catching up: events from the past, in slices.
//!
//! A watcher of one key reads that key's versions; a watcher of an interval walks the revision log
//! and picks what matches. Both deliver whole revisions; one that takes more than a slice is gathered until
//! it is whole. Neither sees what an open write has done so far. Tested by `tests/watch.rs`.

use std::ops::ControlFlow;

use super::{Event, Phase, Store, Watcher, batch_of, event_bytes, previous, to_event};
use crate::names::KeyId;
use crate::revlog::LogOp;
use crate::types::{EventKind, WatchBatch, WatcherId};
use crate::version::Version;

/// Most changes that one slice looks at. About 100 µs when little matches.
const SLICE_CHANGES_MAX: usize = 1_000;
/// Bytes of events after which a slice ends within a revision.
const SLICE_BYTES_MAX: usize = 256 << 10;
/// A revision that has so many events in its first slice gets room for all it may have.
const DENSE_EVENTS: usize = SLICE_CHANGES_MAX / 4;

/// A revision that takes more than a slice, so far.
#[derive(Debug)]
pub(super) struct Partial {
    events: Vec<Event>,
    /// Changes looked at.
    seen: usize,
}

/// Where a slice ended.
enum Stop {
    /// Before this revision.
    Before(i64),
    /// Within the revision at which it began.
    Within,
}

/// Collects whole revisions within bounds, or a part of the first.
struct Slice<'w> {
    watcher: &'w Watcher,
    events: Vec<Event>,
    bytes: usize,
    bytes_max: usize,
    looked_at: usize,
    /// The revision at which it began, and how many of its changes were looked at, in earlier slices too.
    first: i64,
    seen: usize,
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
        self.meter.look(1);
        if next < self.compacted {
            self.watchers.take(id);
            return Some(WatchBatch::Compacted {
                compact_revision: self.compacted,
            });
        }
        let partial = self.watchers.by_id.get_mut(&id)?.partial.take();
        let watcher = self.watchers.by_id.get(&id)?;
        let mut slice = Slice::new(watcher, next, max_bytes, partial);
        let stopped = if watcher.spec.range.as_range().is_one() {
            self.slice_of_key(&mut slice, next)
        } else {
            self.slice_of_log(&mut slice, next)
        };
        self.meter.look(slice.looked_at);
        self.meter.bytes(slice.bytes);
        let (mut events, seen) = (slice.events, slice.seen);
        if let Some(Stop::Within) = stopped
            && events.len() >= DENSE_EVENTS
            && events.capacity() < events.len() * 2
        {
            // To grow into a million events would be a stall of its own.
            events.reserve_exact(self.log.of_revision(next, seen).count());
        }
        let open = self.open;
        let watcher = self.watchers.by_id.get_mut(&id)?;
        match stopped {
            Some(Stop::Within) => {
                watcher.partial = Some(Box::new(Partial { events, seen }));
                return None;
            }
            Some(Stop::Before(next)) => watcher.phase = Phase::Behind { next },
            // Watchers in sync may have been told already of some of what the open write does.
            None if open => {
                let next = self.revision + 1;
                watcher.phase = Phase::Behind { next };
            }
            None => {
                watcher.phase = Phase::Synced;
                self.watchers.matcher.insert(&watcher.spec.range, id);
            }
        }
        batch_of(events)
    }

    /// Returns where to go on, `None` when all is seen.
    fn slice_of_key(&self, slice: &mut Slice<'_>, next: i64) -> Option<Stop> {
        let key = self.index.find(&self.keys, &slice.watcher.spec.range.key)?;
        let versions = self.keys.since(key, next);
        let all = versions
            .take_while(|version| version.main <= self.revision)
            .try_for_each(|version| {
                slice.enter(version.main)?;
                self.take(slice, key, version)
            });
        all.break_value()
    }

    fn slice_of_log(&self, slice: &mut Slice<'_>, next: i64) -> Option<Stop> {
        if slice.seen > 0 {
            for id in self.log.of_revision(next, slice.seen) {
                if slice.is_long() {
                    return Some(Stop::Within);
                }
                let (main, sub) = (next, slice.seen as u32);
                slice.looked_at += 1;
                slice.seen += 1;
                if let Some(stop) = self
                    .take_change(slice, LogOp { main, sub, id })
                    .break_value()
                {
                    return Some(stop);
                }
            }
            // One such revision is enough for a slice.
            return (next < self.revision).then_some(Stop::Before(next + 1));
        }
        let changes = self.log.since(next);
        let all = changes
            .take_while(|op| op.main <= self.revision)
            .try_for_each(|op| {
                slice.enter(op.main)?;
                slice.go_on()?;
                self.take_change(slice, op)
            });
        all.break_value()
    }

    fn take_change(&self, slice: &mut Slice<'_>, op: LogOp) -> ControlFlow<Stop> {
        let range = slice.watcher.spec.range.as_range();
        if !range.contains(self.keys.key(op.id)) {
            return ControlFlow::Continue(());
        }
        match self.keys.change(op.id, op.main, op.sub) {
            Some(version) => self.take(slice, op.id, version),
            None => ControlFlow::Continue(()),
        }
    }

    fn take(&self, slice: &mut Slice<'_>, key: KeyId, version: Version<'_>) -> ControlFlow<Stop> {
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
    fn new(
        watcher: &'w Watcher,
        next: i64,
        bytes_max: usize,
        partial: Option<Box<Partial>>,
    ) -> Self {
        let (events, seen) = partial.map_or_else(Default::default, |partial| {
            let Partial { events, seen } = *partial;
            (events, seen)
        });
        Slice {
            watcher,
            events,
            bytes: 0,
            bytes_max,
            looked_at: 0,
            first: next,
            seen,
            main: next,
            main_start: 0,
            main_bytes: 0,
        }
    }

    /// Before each change: at a revision's beginning the slice may end.
    fn enter(&mut self, main: i64) -> ControlFlow<Stop> {
        if main != self.main {
            if self.is_full() {
                return ControlFlow::Break(Stop::Before(main));
            }
            (self.main, self.main_start, self.main_bytes) = (main, self.events.len(), 0);
        }
        self.looked_at += 1;
        ControlFlow::Continue(())
    }

    fn is_full(&self) -> bool {
        self.looked_at >= SLICE_CHANGES_MAX || self.bytes >= self.bytes_max
    }

    /// Within a revision only the work counts, not what the stream takes.
    fn is_long(&self) -> bool {
        self.looked_at > SLICE_CHANGES_MAX || self.bytes >= SLICE_BYTES_MAX
    }

    /// Within a revision: the slice may end before this change if it began with this revision; else it ends
    /// before the revision, and the next begins with it.
    fn go_on(&mut self) -> ControlFlow<Stop> {
        if self.is_long() {
            if self.main == self.first {
                return ControlFlow::Break(Stop::Within);
            }
            self.give_back();
            return ControlFlow::Break(Stop::Before(self.main));
        }
        self.seen += usize::from(self.main == self.first);
        ControlFlow::Continue(())
    }

    /// Gives the events of this revision back.
    fn give_back(&mut self) {
        self.events.truncate(self.main_start);
        self.bytes -= self.main_bytes;
    }

    /// Adds an event. If the bound is passed and there are whole revisions before this one, this
    /// one is given back.
    fn push(&mut self, event: Event) -> ControlFlow<Stop> {
        let size = event_bytes(&event);
        self.bytes += size;
        self.main_bytes += size;
        if self.bytes > self.bytes_max && self.main_start > 0 {
            self.give_back();
            return ControlFlow::Break(Stop::Before(self.main));
        }
        self.events.push(event);
        ControlFlow::Continue(())
    }
}
