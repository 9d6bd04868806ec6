//! Watching: every change of a set of keys from a revision on, in order, once, whole.
//!
//! A watcher is *in sync* when it was given everything up to the current revision: then changes are
//! pushed into its buffer as they happen. Otherwise it is *behind* and reads the revision log (one
//! key: that key's history) in slices, asked for by [`Store::watch_next`]. A watcher whose buffer
//! would grow past its bound falls behind from the revision that did not fit; so a slow reader
//! costs a bounded buffer and no event is lost.
//!
//! The nine guarantees (filter, ordered, unique, atomic, bookmarkable, resumable, reliable,
//! prev_kv, is-create) are checked on random histories by `tests/watch_guarantees.rs`. Never knows streams,
//! clients or fragments; those are the edge's.

mod catchup;
mod matcher;

use std::collections::{BTreeMap, VecDeque};
use std::mem;

use bytes::Bytes;

use crate::names::KeyId;
use crate::store::Store;
use crate::types::{Event, EventKind, KeyValue, WatchBatch, WatchSpec, WatcherId};
use crate::version::Version;
use catchup::Partial;
use matcher::{Matcher, Place, WATCHER_BYTES};

/// Watchers that may be told of a write in one go: more of them are told in slices (see `long`). A put to a
/// key with so many takes a quarter of a millisecond.
pub(crate) const TOLD_MAX: usize = 1_000;
/// Watchers told of a change between two looks at how late it is.
const TOLD_AT_A_TIME: usize = 250;
/// Watchers that are gone and looked for in one call.
const GONE_MAX: usize = 1_000;

#[derive(Debug)]
struct Watcher {
    spec: WatchSpec,
    phase: Phase,
    /// The least revision that a progress note may name: an earlier one would have its client resume
    /// before what it asked for, or before what it was given.
    notes_from: i64,
    /// Events to deliver, of whole revisions.
    buffer: VecDeque<Event>,
    buffer_bytes: usize,
    /// In the queue of the ready, or of those that will be once the open write is through.
    queued: bool,
    /// Of a revision that takes more than a slice, what was found so far.
    partial: Option<Box<Partial>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Everything up to the current revision is delivered or in the buffer.
    Synced,
    /// Revisions from `next` on have still to be looked at (after the buffer).
    Behind { next: i64 },
}

/// All watchers.
#[derive(Debug, Default)]
pub(crate) struct Watchers {
    by_id: BTreeMap<WatcherId, Watcher>,
    /// Those in sync.
    matcher: Matcher,
    ready: VecDeque<WatcherId>,
    /// Those that have nothing but what an open write has brought so far.
    held: Vec<WatcherId>,
    id_last: u64,
    buffered_bytes: usize,
    /// Scratch of `notify_watchers`.
    matched: Vec<WatcherId>,
    /// The change of the open write that some of its watchers were told of.
    telling: Option<Box<Telling>>,
}

/// A change that very many watchers are told of, so far.
#[derive(Debug, Default)]
struct Telling {
    place: Place,
    /// Once there is somebody to tell; its value is shared by all that are told.
    event: Option<Event>,
    /// The pair before it, once somebody wants that.
    before: Option<Option<KeyValue>>,
}

impl Watchers {
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Watchers that are behind: all but those that are told of changes.
    pub fn behind(&self) -> usize {
        self.by_id.len() - self.matcher.len()
    }

    /// Bytes of buffered events, and about what the watchers themselves take.
    pub fn heap_bytes(&self) -> usize {
        let each = mem::size_of::<(WatcherId, Watcher)>() + WATCHER_BYTES;
        self.buffered_bytes + self.by_id.len() * each
    }

    /// See [`Matcher::count`].
    pub fn told_of(&self, key: &[u8], most: usize) -> (usize, usize) {
        self.matcher.count(key, most)
    }

    /// Might so many changes come to more of them than are told in one go?
    pub fn may_be_many(&self, changes: usize) -> bool {
        changes.saturating_mul(self.matcher.len()) > TOLD_MAX
    }

    /// Queues a watcher that has something to deliver, or to look for; behind an open write, if that is of no
    /// revision up to `shown`.
    fn queue(&mut self, id: WatcherId, shown: i64) {
        if let Some(watcher) = self.by_id.get_mut(&id)
            && !mem::replace(&mut watcher.queued, true)
        {
            if watcher.next_revision() > Some(shown) {
                self.held.push(id);
            } else {
                self.ready.push_back(id);
            }
        }
    }

    fn take(&mut self, id: WatcherId) -> Option<Watcher> {
        let watcher = self.by_id.remove(&id)?;
        if watcher.phase == Phase::Synced {
            self.matcher.remove(&watcher.spec.range, id);
        }
        self.buffered_bytes -= watcher.buffer_bytes;
        Some(watcher)
    }
}

impl Watcher {
    fn is_synced(&self) -> bool {
        self.phase == Phase::Synced && self.buffer.is_empty()
    }

    fn wants(&self, kind: EventKind, main: i64) -> bool {
        let filtered = match kind {
            EventKind::Put => self.spec.filters.no_put,
            EventKind::Delete => self.spec.filters.no_delete,
        };
        !filtered && main >= self.spec.start_revision
    }

    /// The revision that it has to deliver, or to look at, next.
    fn next_revision(&self) -> Option<i64> {
        let buffered = self.buffer.front().map(|event| event.kv.mod_revision);
        buffered.or(match self.phase {
            Phase::Synced => None,
            Phase::Behind { next } => Some(next),
        })
    }

    /// Takes whole revisions up to `shown` off the buffer, at least one, up to `max_bytes`.
    fn take_batch(&mut self, max_bytes: usize, shown: i64) -> Option<WatchBatch> {
        let mut events = Vec::new();
        let mut bytes = 0;
        let next = |buffer: &VecDeque<Event>| {
            let main = buffer.front().map(|event| event.kv.mod_revision);
            main.filter(|&main| main <= shown)
        };
        while let Some(main) = next(&self.buffer) {
            let revision = self
                .buffer
                .iter()
                .take_while(|event| event.kv.mod_revision == main);
            let (count, size) =
                revision.fold((0, 0), |(n, size), e| (n + 1, size + event_bytes(e)));
            if !events.is_empty() && bytes + size > max_bytes {
                break;
            }
            bytes += size;
            events.extend(self.buffer.drain(..count));
        }
        self.buffer_bytes -= bytes;
        batch_of(events)
    }
}

impl Store {
    /// Starts a watcher. It is ready at once if it asks for revisions that have happened. A start
    /// revision that is compacted is accepted here and answered by [`WatchBatch::Compacted`].
    pub fn watch(&mut self, mut spec: WatchSpec) -> WatcherId {
        self.meter.change(1);
        if spec.range.key.is_empty() {
            spec.range.key = Bytes::from_static(b"\0");
        }
        // As in etcd, one that asks for what comes next may be told at once how far that is; one that asks
        // for a revision, only once the store is there.
        let mut notes_from = spec.start_revision;
        if spec.start_revision <= 0 {
            notes_from = self.revision;
            spec.start_revision = self.revision + 1;
        }
        let next = spec.start_revision;
        self.watchers.id_last += 1;
        let id = WatcherId(self.watchers.id_last);
        let phase = if next > self.revision_told() {
            Phase::Synced
        } else {
            Phase::Behind { next }
        };
        if phase == Phase::Synced {
            self.watchers.matcher.insert(&spec.range, id);
        }
        let watcher = Watcher {
            spec,
            phase,
            notes_from,
            buffer: VecDeque::new(),
            buffer_bytes: 0,
            queued: false,
            partial: None,
        };
        self.watchers.by_id.insert(id, watcher);
        if phase != Phase::Synced {
            self.watchers.queue(id, self.revision_shown());
        }
        id
    }

    /// Ends a watcher; what it had not delivered is dropped. False if there is no such watcher.
    pub fn unwatch(&mut self, id: WatcherId) -> bool {
        self.meter.change(1);
        self.watchers.take(id).is_some()
    }

    /// A watcher that may have something to deliver; each is named once until the next change or
    /// the next [`Store::watch_next`] that leaves something. Who cannot deliver now calls
    /// `watch_next` later of its own accord. Where very many have gone that had something, some of those are
    /// named, too: a call does a bounded amount of work.
    pub fn watch_ready(&mut self) -> Option<WatcherId> {
        for gone in 1.. {
            let id = self.watchers.ready.pop_front()?;
            if let Some(watcher) = self.watchers.by_id.get_mut(&id) {
                watcher.queued = false;
                return Some(id);
            }
            self.meter.look(1);
            if gone == GONE_MAX {
                return Some(id);
            }
        }
        None
    }

    /// The next events of a watcher: whole revisions, at least one, up to `max_bytes` where more
    /// than one. `None`: nothing now (a watcher that is behind may have been looking through a
    /// slice of the log without a match, or through a part of a large revision; it is queued again).
    /// One call does a bounded amount of work; whoever loops over [`Store::watch_ready`] bounds
    /// the number of calls per turn.
    pub fn watch_next(&mut self, id: WatcherId, max_bytes: usize) -> Option<WatchBatch> {
        let shown = self.revision_shown();
        let watcher = self.watchers.by_id.get_mut(&id)?;
        let before = watcher.buffer_bytes;
        let held = watcher.buffer.len();
        let mut batch = watcher.take_batch(max_bytes, shown);
        self.meter.look(1 + (held - watcher.buffer.len()) / 16);
        self.watchers.buffered_bytes -= before - watcher.buffer_bytes;
        if batch.is_none()
            && watcher.buffer.is_empty()
            && let Phase::Behind { next } = watcher.phase
            && next <= shown
        {
            batch = self.catch_up(id, next, max_bytes);
        }
        let more =
            self.watchers.by_id.get(&id).is_some_and(|watcher| {
                !watcher.buffer.is_empty() || watcher.phase != Phase::Synced
            });
        if more {
            self.watchers.queue(id, self.revision_shown());
        }
        batch
    }

    /// Watchers that are catching up.
    pub fn watchers_behind(&self) -> usize {
        self.watchers.behind()
    }

    /// Has the watcher been given everything up to [`Store::revision`]? Also true of one that begins in
    /// the future and has nothing to come yet.
    pub fn watch_synced(&self, id: WatcherId) -> bool {
        self.watchers.by_id.get(&id).is_some_and(Watcher::is_synced)
    }

    /// May a progress note to the watcher name [`Store::revision`]? Whoever resumes after that revision
    /// must miss nothing and be given nothing that it did not ask for, or had already: so the watcher is
    /// synced, and the store has come to where it begins (etcd's `progressIfSync`).
    pub fn watch_may_note(&self, id: WatcherId) -> bool {
        self.meter.look(1);
        self.may_note(id, self.revision)
    }

    /// May a progress note to each of these name `revision`, one that has been? They are looked at in one go.
    pub fn watch_may_note_all(
        &self,
        ids: impl IntoIterator<Item = WatcherId>,
        revision: i64,
    ) -> bool {
        let mut looked_at = 0;
        let all = ids.into_iter().all(|id| {
            looked_at += 1;
            self.may_note(id, revision)
        });
        self.meter.look(1 + looked_at / 4);
        all
    }

    /// Has the watcher something to be given of a revision up to this?
    pub fn watch_owes(&self, id: WatcherId, revision: i64) -> bool {
        let watcher = self.watchers.by_id.get(&id);
        watcher
            .and_then(Watcher::next_revision)
            .is_some_and(|next| next <= revision)
    }

    fn may_note(&self, id: WatcherId, revision: i64) -> bool {
        let watcher = self.watchers.by_id.get(&id);
        watcher.is_some_and(|watcher| revision >= watcher.notes_from)
            && !self.watch_owes(id, revision)
    }

    /// Takes over the watchers of a store that this one replaces (a snapshot was installed). They
    /// go on exactly where they were: from the first revision they have not been given, even if
    /// this store is behind the old one (etcd #15271: never a second time).
    pub fn adopt_watchers(&mut self, old: &mut Store) {
        let watchers = mem::take(&mut old.watchers);
        self.watchers.id_last = self.watchers.id_last.max(watchers.id_last);
        self.watchers.buffered_bytes += watchers.buffered_bytes;
        for (id, mut watcher) in watchers.by_id {
            let next = match watcher.phase {
                Phase::Synced => watcher.spec.start_revision.max(old.revision + 1),
                Phase::Behind { next } => next,
            };
            // Of an open write's revision nobody was told all.
            while let Some(event) = watcher
                .buffer
                .pop_back_if(|event| event.kv.mod_revision > old.revision)
            {
                let size = event_bytes(&event);
                watcher.buffer_bytes -= size;
                self.watchers.buffered_bytes -= size;
            }
            // What happens below `next` was delivered or is in the buffer.
            watcher.spec.start_revision = next;
            watcher.notes_from = watcher.notes_from.max(next - 1);
            watcher.phase = if next > self.revision {
                Phase::Synced
            } else {
                Phase::Behind { next }
            };
            if watcher.phase == Phase::Synced {
                self.watchers.matcher.insert(&watcher.spec.range, id);
            }
            watcher.queued = false;
            watcher.partial = None;
            self.watchers.by_id.insert(id, watcher);
            self.watchers.queue(id, self.revision_shown());
        }
    }

    /// The newest revision of which watchers in sync hear no more: during an open write that is the one it
    /// makes, as it may be past what a watcher that comes now wants to hear.
    pub(super) fn revision_told(&self) -> i64 {
        self.revision + i64::from(self.open)
    }

    /// Up to which revision watchers deliver what they have.
    pub(super) fn revision_shown(&self) -> i64 {
        if self.open { self.revision } else { i64::MAX }
    }

    /// The open write is through: what was held back may go.
    pub(crate) fn release_watchers(&mut self) {
        self.watchers.ready.extend(self.watchers.held.drain(..));
    }

    /// Pushes the changes of the revision that was just made to the watchers in sync.
    pub(crate) fn notify_watchers(&mut self, changes: u32) {
        if !self.watchers.matcher.is_empty() {
            self.tell_watchers(0, changes as usize, u64::MAX);
        }
    }

    /// Pushes the changes of the revision that is being made, or was just made, to the watchers in sync:
    /// those from `first` on, of `changes`, until it is late; returns the first that not all of its
    /// watchers were told of. What they are told of an open write they deliver once it is through.
    pub(crate) fn tell_watchers(&mut self, first: usize, changes: usize, until: u64) -> usize {
        let (main, shown) = (self.revision_told(), self.revision_shown());
        let Store {
            keys,
            log,
            watchers,
            config,
            meter,
            ..
        } = self;
        if watchers.matcher.is_empty() {
            watchers.telling = None;
            return changes;
        }
        let mut matched = mem::take(&mut watchers.matched);
        let mut told = first;
        let mut done = 0;
        'changes: for key in log.last(changes - first) {
            let sub = told as u32;
            let mut telling = match watchers.telling.take() {
                Some(telling) => *telling,
                None => Telling::default(),
            };
            while !matches!(telling.place, Place::End) {
                if done > 0 && until < u64::MAX && meter.nanos() >= until {
                    watchers.telling = Some(Box::new(telling));
                    break 'changes;
                }
                done += 1;
                matched.clear();
                let name = keys.key(key);
                let matcher = &watchers.matcher;
                let looked_at = if matcher.len() <= TOLD_AT_A_TIME && telling.place.is_start() {
                    telling.place = Place::End;
                    matcher.matches(name, &mut matched);
                    matched.len()
                } else {
                    matcher.matches_from(name, &mut telling.place, TOLD_AT_A_TIME, &mut matched)
                };
                meter.look(1 + looked_at);
                if matched.is_empty() {
                    continue;
                }
                let event = match &telling.event {
                    Some(event) => event,
                    None => {
                        let Some(version) = keys.change(key, main, sub) else {
                            break;
                        };
                        let event = to_event(name, version);
                        meter.bytes(event_bytes(&event));
                        telling.event.insert(event)
                    }
                };
                for &id in &matched {
                    let Some(watcher) = watchers.by_id.get(&id) else {
                        continue;
                    };
                    if !watcher.wants(event.kind, main) {
                        continue;
                    }
                    let mut event = event.clone();
                    if watcher.spec.prev_kv {
                        let before = &mut telling.before;
                        let before = before.get_or_insert_with(|| previous(keys, key, main));
                        event.prev_kv = before.clone();
                    }
                    watchers.deliver(id, event, config.watch_buffer_bytes_max, shown);
                }
            }
            told += 1;
        }
        watchers.matched = matched;
        told
    }
}

/// What all watchers may hold that is not delivered, in bytes: beyond it they fall behind and read on from
/// history. A change of thousands of keys under ten thousand watchers would take gigabytes before anybody
/// could deliver any of it.
pub(crate) const BUFFERED_BYTES_MAX: usize = 256 << 20;

impl Watchers {
    /// Buffers an event of a watcher in sync, or lets it fall behind.
    fn deliver(&mut self, id: WatcherId, event: Event, buffer_bytes_max: usize, shown: i64) {
        let Some(watcher) = self.by_id.get_mut(&id) else {
            return;
        };
        let bytes = event_bytes(&event);
        let in_all = self.buffered_bytes + bytes;
        if watcher.buffer_bytes + bytes > buffer_bytes_max || in_all > BUFFERED_BYTES_MAX {
            // The whole revision will come from the log: a revision is never split.
            let main = event.kv.mod_revision;
            while watcher
                .buffer
                .back()
                .is_some_and(|event| event.kv.mod_revision == main)
            {
                let size = watcher.buffer.pop_back().as_ref().map_or(0, event_bytes);
                watcher.buffer_bytes -= size;
                self.buffered_bytes -= size;
            }
            watcher.phase = Phase::Behind { next: main };
            self.matcher.remove(&watcher.spec.range, id);
        } else {
            watcher.buffer.push_back(event);
            watcher.buffer_bytes += bytes;
            self.buffered_bytes += bytes;
        }
        self.queue(id, shown);
    }
}

fn to_event(key: &[u8], version: Version<'_>) -> Event {
    let kind = if version.tombstone {
        EventKind::Delete
    } else {
        EventKind::Put
    };
    Event {
        kind,
        kv: version.to_pair(key),
        prev_kv: None,
    }
}

/// The pair just before revision `main`.
fn previous(keys: &crate::keys::Keys, key: KeyId, main: i64) -> Option<KeyValue> {
    let before = keys
        .at(key, main - 1)
        .filter(|version| !version.tombstone)?;
    Some(before.to_pair(keys.key(key)))
}

fn event_bytes(event: &Event) -> usize {
    let pair = |kv: &KeyValue| kv.key.len() + kv.value.len();
    mem::size_of::<Event>() + pair(&event.kv) + event.prev_kv.as_ref().map_or(0, pair)
}

fn batch_of(events: Vec<Event>) -> Option<WatchBatch> {
    let revision = events.last()?.kv.mod_revision;
    Some(WatchBatch::Events { revision, events })
}
