//! Watchers and what they must be shown: every matching event once, in order, whole revisions, from
//! where they asked, with the pair before if they asked for it, and no event behind a progress note.
//!
//! A watcher takes every header at its word, as clients that keep bookmarks do: after events and after a
//! note it is where the header says, and resumes from there, on whichever node. So a note that names a
//! revision before what it asked for, or before what it has seen, is a violation, and so is one that names a
//! revision whose events it was not shown. Only `created` is no position, but for a watcher of what comes
//! next: there it is the only one.
//!
//! A watcher of all keys on every node is also how the run's revisions become known at all.

use bytes::Bytes;
use henge::api::{WatchCreate, WatchResponse};
use henge_mvcc::{Event, EventKind, KeyRange};

use super::history::{History, same};
use super::{Violation, violated};

/// One watcher, over all streams that it was resumed on.
#[derive(Debug)]
pub struct Watcher {
    key: Bytes,
    end: Bytes,
    no_put: bool,
    no_delete: bool,
    prev_kv: bool,
    /// It sees everything, so that it may show new revisions.
    all: bool,
    /// Everything up to here was delivered, or not asked for.
    cursor: i64,
    /// It wants what comes next, from whatever revision its stream begins at.
    from_now: bool,
    /// Its current stream has said that it exists.
    created: bool,
}

/// What a response means for the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Goes on.
    On,
    /// Was cancelled because its history is compacted: open it again.
    Reopen,
}

impl Watcher {
    /// A watcher of all keys from the first revision on.
    pub fn of_all() -> Self {
        Watcher {
            key: Bytes::from_static(b"\0"),
            end: Bytes::from_static(b"\0"),
            no_put: false,
            no_delete: false,
            prev_kv: true,
            all: true,
            cursor: 1,
            from_now: false,
            created: false,
        }
    }

    /// A watcher of some keys, from after `cursor` on, which may be a revision that nobody has made yet;
    /// without one, of what comes next.
    pub fn of_range(key: Bytes, end: Bytes, cursor: Option<i64>, bits: u64) -> Self {
        let (no_put, no_delete) = (bits & 7 == 1, bits & 7 == 2);
        let prev_kv = bits & 8 != 0;
        Watcher {
            key,
            end,
            no_put,
            no_delete,
            prev_kv,
            all: false,
            cursor: cursor.unwrap_or(0),
            from_now: cursor.is_none(),
            created: false,
        }
    }

    /// The request that resumes it on a new stream, as number `watch_id`.
    pub fn create(&mut self, watch_id: i64) -> WatchCreate {
        self.created = false;
        WatchCreate {
            key: self.key.clone(),
            range_end: self.end.clone(),
            start_revision: if self.from_now { 0 } else { self.cursor + 1 },
            progress_notify: true,
            watch_id,
            no_put: self.no_put,
            no_delete: self.no_delete,
            prev_kv: self.prev_kv,
            ..WatchCreate::default()
        }
    }

    /// Everything up to here was delivered, or not asked for.
    pub fn cursor(&self) -> i64 {
        self.cursor
    }

    /// Its stream has said that it exists.
    pub fn is_created(&self) -> bool {
        self.created
    }

    /// Takes one response of its stream.
    pub fn take(
        &mut self,
        history: &mut History,
        node: usize,
        response: &WatchResponse,
    ) -> Result<Step, Violation> {
        if response.created {
            if self.created || response.canceled {
                return violated!("node {node}: watcher created twice or refused: {response:?}");
            }
            self.created = true;
            if std::mem::take(&mut self.from_now) {
                self.cursor = response.header.revision;
            }
            return Ok(Step::On);
        }
        if !self.created {
            return violated!("node {node}: a response before \"created\": {response:?}");
        }
        if response.canceled {
            return self.cancelled(history, node, response);
        }
        for events in response
            .events
            .chunk_by(|a, b| a.kv.mod_revision == b.kv.mod_revision)
        {
            let revision = events[0].kv.mod_revision;
            if self.all {
                history.observe(node, revision, events)?;
            }
            self.reach(history, node, revision, events)?;
            self.pairs_before(history, node, revision, events)?;
            self.cursor = revision;
        }
        // Whoever resumes after this header must get neither more nor less.
        let named = response.header.revision;
        if named < self.cursor {
            return violated!(
                "node {node}: a watcher that is owed what comes after revision {} is told {named}: \
                {response:?}",
                self.cursor
            );
        }
        self.reach(history, node, named, &[])?;
        self.cursor = named;
        Ok(Step::On)
    }

    fn cancelled(
        &mut self,
        history: &History,
        node: usize,
        response: &WatchResponse,
    ) -> Result<Step, Violation> {
        let compacted = response.compact_revision;
        if compacted <= self.cursor + 1 || !history.may_be_compacted(compacted) {
            return violated!(
                "node {node}: watcher at {} was cancelled without reason: {response:?}",
                self.cursor
            );
        }
        self.cursor = compacted - 1;
        Ok(Step::Reopen)
    }

    /// Nothing between the cursor and `revision` was left out, and at `revision` it is exactly `events`.
    fn reach(
        &self,
        history: &History,
        node: usize,
        revision: i64,
        events: &[Event],
    ) -> Result<(), Violation> {
        if !events.is_empty() && revision <= self.cursor {
            return violated!(
                "node {node}: revision {revision} after {}: {events:?}",
                self.cursor
            );
        }
        for at in self.cursor + 1..=revision {
            let known = history.model.events(at).unwrap_or_default();
            let wanted: Vec<Event> = known
                .iter()
                .filter(|event| self.wants(event))
                .cloned()
                .collect();
            let shown = if at == revision { events } else { &[] };
            if !same(&wanted, shown) {
                return violated!(
                    "node {node}: a watcher of {:?}..{:?} at {} was shown {shown:?} of revision {at} \
                     instead of {wanted:?}",
                    self.key,
                    self.end,
                    self.cursor
                );
            }
        }
        Ok(())
    }

    fn pairs_before(
        &self,
        history: &History,
        node: usize,
        revision: i64,
        events: &[Event],
    ) -> Result<(), Violation> {
        for event in events {
            let expected = history
                .model
                .pair(&event.kv.key, revision - 1)
                .filter(|_| self.prev_kv);
            let excused = event.prev_kv.is_none() && history.may_be_compacted(revision);
            if event.prev_kv != expected && !excused {
                return violated!("node {node}: {event:?} has not {expected:?} before it");
            }
        }
        Ok(())
    }

    fn wants(&self, event: &Event) -> bool {
        let filtered = match event.kind {
            EventKind::Put => self.no_put,
            EventKind::Delete => self.no_delete,
        };
        !filtered
            && KeyRange {
                key: &self.key,
                end: &self.end,
            }
            .contains(&event.kv.key)
    }
}
