//! The watch streams of a shard: etcd's Watch RPC, above the store's watchers.
//!
//! The store matches events to watchers and bounds what each may hold; this room gives watchers the
//! ids, words and refusals that etcd clients know, and moves batches to streams that have room.
//! Promises: a watcher's `created` comes before its events; a progress answer or note comes after every
//! event up to its revision, and never names one before where its watchers begin, so that whoever resumes
//! after it gets what it would have got; a full stream stalls only itself. A `created` header says where
//! the store is: a position only for a watcher of what comes next (docs/decisions/0026).
//! Must never know: protobuf, or how a client is reached.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use henge_mvcc::{self as mvcc, OwnedRange, WatchBatch, WatchFilters, WatchSpec, WatcherId};

pub use super::session::{SessionHandle, SessionId};
use henge_api::{Error, Header, Refusal, WatchCommand, WatchCreate, WatchResponse, Watched};

/// Bytes of events in one response, as far as whole revisions allow.
const BATCH_BYTES_MAX: usize = 1 << 20;
/// Batches that a watcher is given at a time.
const BATCHES_MAX: usize = 1;
/// Watchers served in one call: one that reads old history must not hold up the shard.
const DRAIN_MAX: usize = 1_000;
/// Watchers looked at for progress notes, or for an answer, in one call.
const NOTES_MAX: usize = 2_000;

/// All streams of one shard.
#[derive(Default)]
pub struct Watches {
    sessions: BTreeMap<SessionId, Session>,
    owners: BTreeMap<WatcherId, Owner>,
    /// Watchers that want progress notes: while there are none, a turn must not pay for looking.
    noted: usize,
    /// When they get the next one.
    next_progress_ms: u64,
    /// Where this time's notes go on: there may be more watchers than a turn has time for.
    note_next: Option<WatcherId>,
    /// Streams that have room again, and maybe watchers that wait for it.
    touched: BTreeSet<SessionId>,
    /// Streams whose question how far they are may have an answer.
    asking: BTreeSet<SessionId>,
    /// The one of those that was looked at last.
    answered: SessionId,
    /// The look at a stream that asks, if it takes more than one call.
    look: Option<Look>,
    /// Watchers of streams that have gone.
    leaving: Vec<BTreeMap<i64, WatcherId>>,
    /// Why nobody is let in any more.
    closed: Option<Error>,
    /// Events on their way to clients.
    watched: Arc<Watched>,
}

struct Session {
    handle: SessionHandle,
    watchers: BTreeMap<i64, WatcherId>,
    next_id: i64,
    /// Watchers with something to deliver that found the stream full.
    parked: BTreeSet<WatcherId>,
    /// The client asked how far the stream is and not every watcher had caught up.
    progress_asked: bool,
}

/// A look at all watchers of a stream that asks how far it is. Until its end nothing goes out on the
/// stream, so that the answer, which is of its beginning, comes before whatever happens meanwhile.
struct Look {
    session: SessionId,
    /// What the answer will name.
    revision: i64,
    /// The watcher looked at last.
    after: Bound<i64>,
}

struct Owner {
    session: SessionId,
    watch_id: i64,
    fragment: bool,
    progress_notify: bool,
    /// Something was delivered since the last progress note.
    active: bool,
}

impl Watches {
    /// Watchers over all streams.
    pub fn count(&self) -> usize {
        self.owners.len()
    }

    /// Streams.
    pub fn streams(&self) -> usize {
        self.sessions.len()
    }

    /// Events on their way to clients.
    pub fn watched(&self) -> &Arc<Watched> {
        &self.watched
    }

    /// Adds a stream.
    pub fn open(&mut self, handle: SessionHandle) {
        if let Some(why) = &self.closed {
            handle.note_end(why);
            handle.push(WatchResponse::refused(why.clone().into()));
            return handle.end(why);
        }
        handle.count_in(self.watched.clone());
        let session = Session {
            handle: handle.clone(),
            watchers: BTreeMap::new(),
            next_id: 0,
            parked: BTreeSet::new(),
            progress_asked: false,
        };
        self.sessions.insert(handle.id, session);
    }

    /// A stream has room again, or its client has gone: what that means for its watchers,
    /// [`Watches::drain`] does.
    pub fn touch(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get(&id) else {
            return;
        };
        if !session.handle.is_dropped() {
            self.touched.insert(id);
        } else if let Some(session) = self.sessions.remove(&id) {
            self.leaving.push(session.watchers);
        }
    }

    /// Executes a client's word.
    pub fn command(
        &mut self,
        store: &mut mvcc::Store,
        id: SessionId,
        command: WatchCommand,
        header: Header,
    ) {
        match command {
            WatchCommand::Create(create) => self.create(store, id, create, header),
            WatchCommand::Cancel { watch_id } => self.cancel(store, id, watch_id, header),
            // However many ask, the next drain answers each stream once.
            WatchCommand::Progress => {
                if let Some(session) = self.sessions.get_mut(&id) {
                    session.progress_asked = true;
                    self.asking.insert(id);
                }
            }
        }
    }

    /// Lets go of watchers whose streams have gone, moves what the store has ready to the streams, and
    /// answers those that ask how far they are, up to a bound of its work; returns whether more may be
    /// left. Once per turn.
    pub fn drain(&mut self, store: &mut mvcc::Store, header: Header, nanos: u64) -> bool {
        let begun = store.work().nanos();
        let until = begun.saturating_add(nanos);
        // Half for questions: those whose watchers are not there yet come up again as these go on.
        let half = begun.saturating_add(nanos / 2);
        while store.work().nanos() < half
            && let Some(look) = self.look.take().or_else(|| self.next_look(store))
        {
            self.look_on(store, look, header);
        }
        for _ in 0..DRAIN_MAX {
            if store.work().nanos() >= until {
                return true;
            }
            if let Some(watcher) = self.left() {
                store.unwatch(watcher);
                self.disown(watcher);
            } else if let Some(watcher) = self.returned().or_else(|| store.watch_ready()) {
                self.deliver(store, watcher, header);
            } else {
                return self.look.is_some() || !self.asking.is_empty();
            }
        }
        true
    }

    /// Begins the look at a stream that asks how far it is: they take turns.
    fn next_look(&mut self, store: &mvcc::Store) -> Option<Look> {
        let above = (Bound::Excluded(self.answered), Bound::Unbounded);
        let next = self.asking.range(above).next();
        let session = *next.or_else(|| self.asking.first())?;
        self.asking.remove(&session);
        self.answered = session;
        Some(Look {
            session,
            revision: store.revision(),
            after: Bound::Unbounded,
        })
    }

    /// etcd answers a progress request only when all watchers of the stream have caught up (#15220), and
    /// the store with all of them (#19287): the answer is for each.
    fn look_on(&mut self, store: &mvcc::Store, mut look: Look, header: Header) {
        let Some(session) = self.sessions.get_mut(&look.session) else {
            return;
        };
        let begins = look.after == Bound::Unbounded;
        let mut watchers = session.watchers.range((look.after, Bound::Unbounded));
        let mut last = None;
        let some = watchers.by_ref().take(NOTES_MAX);
        let ids = some.map(|(watch_id, watcher)| {
            last = Some(*watch_id);
            *watcher
        });
        // A snapshot may have taken the store back.
        let true_of_all = store.watch_may_note_all(ids, look.revision)
            && look.revision <= store.revision()
            && !(begins && (session.watchers.is_empty() || !session.parked.is_empty()));
        if true_of_all
            && watchers.next().is_some()
            && let Some(last) = last
        {
            look.after = Bound::Excluded(last);
            self.look = Some(look);
            return;
        }
        // What was held back meanwhile goes out after the answer.
        if !begins {
            self.touched.insert(look.session);
        }
        if !true_of_all || !session.progress_asked {
            return;
        }
        // One who asked meanwhile asked of a later state.
        session.progress_asked = self.asking.contains(&look.session);
        session.handle.push(WatchResponse {
            header: Header {
                revision: look.revision,
                ..header
            },
            watch_id: -1,
            ..WatchResponse::default()
        });
    }

    fn looks_at(&self, id: SessionId) -> bool {
        self.look.as_ref().is_some_and(|look| look.session == id)
    }

    /// Has the question of a stream, if it asks, looked into: from its beginning.
    fn look_again(&mut self, id: SessionId) {
        if self.looks_at(id) {
            self.look = None;
            self.touched.insert(id);
        }
        let session = self.sessions.get(&id);
        if session.is_some_and(|session| session.progress_asked) {
            self.asking.insert(id);
        }
    }

    /// A watcher whose stream has gone.
    fn left(&mut self) -> Option<WatcherId> {
        while let Some(watchers) = self.leaving.last_mut() {
            if let Some((_, watcher)) = watchers.pop_first() {
                return Some(watcher);
            }
            self.leaving.pop();
        }
        None
    }

    /// A watcher that waited for room in its stream, which has some again.
    fn returned(&mut self) -> Option<WatcherId> {
        while let Some(id) = self.touched.first().copied() {
            let looked_at = self.looks_at(id);
            if let Some(session) = self.sessions.get_mut(&id)
                && !looked_at
                && session.handle.has_room()
                && let Some(watcher) = session.parked.pop_first()
            {
                return Some(watcher);
            }
            self.touched.remove(&id);
        }
        None
    }

    /// Sends the progress notes that are due; returns when the next are.
    pub fn notify_progress(
        &mut self,
        store: &mvcc::Store,
        now_ms: u64,
        interval_ms: u64,
        header: Header,
    ) -> Option<u64> {
        if self.noted == 0 {
            self.next_progress_ms = now_ms.saturating_add(interval_ms);
            return None;
        }
        let from = match self.note_next.take() {
            Some(next) => Bound::Included(next),
            None if now_ms < self.next_progress_ms => return Some(self.next_progress_ms),
            None => {
                self.next_progress_ms = now_ms.saturating_add(interval_ms);
                Bound::Unbounded
            }
        };
        let mut owners = self.owners.range_mut((from, Bound::Unbounded));
        for (watcher, owner) in owners.by_ref().take(NOTES_MAX) {
            // etcd skips the note when events were sent since the last one.
            let active = std::mem::take(&mut owner.active);
            let look = self.look.as_ref().map(|look| look.session);
            if !owner.progress_notify
                || active
                || look == Some(owner.session)
                || !store.watch_may_note(*watcher)
            {
                continue;
            }
            // Whoever does not read gets no more of them: the stream's queue is bounded.
            let session = self.sessions.get(&owner.session);
            if let Some(session) = session.filter(|session| session.handle.has_room()) {
                session.handle.push(WatchResponse {
                    header,
                    watch_id: owner.watch_id,
                    ..WatchResponse::default()
                });
            }
        }
        self.note_next = owners.next().map(|(watcher, _)| *watcher);
        match self.note_next {
            Some(_) => Some(now_ms),
            None => Some(self.next_progress_ms),
        }
    }

    /// Ends every stream.
    pub fn end(&mut self, why: &Error) {
        for session in std::mem::take(&mut self.sessions).into_values() {
            session.handle.end(why);
        }
        self.owners.clear();
        self.leaving.clear();
        self.touched.clear();
        self.asking.clear();
        (self.noted, self.note_next, self.look) = (0, None, None);
    }

    /// Ends every stream, its watchers told why; whoever comes later is told the same.
    pub fn close(&mut self, why: Error) {
        for session in self.sessions.values() {
            session.handle.note_end(&why);
            for watch_id in session.watchers.keys() {
                session.handle.push(WatchResponse {
                    watch_id: *watch_id,
                    canceled: true,
                    refusal: Some(why.clone().into()),
                    ..WatchResponse::default()
                });
            }
        }
        self.end(&why);
        self.closed = Some(why);
    }

    fn create(
        &mut self,
        store: &mut mvcc::Store,
        id: SessionId,
        create: WatchCreate,
        header: Header,
    ) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        let refuse = |watch_id: i64, refusal: Refusal| {
            session.handle.push(WatchResponse {
                header,
                watch_id,
                created: true,
                canceled: true,
                refusal: Some(refusal),
                ..WatchResponse::default()
            });
        };
        // etcd: an empty key is the least key, "\0".
        let key = if create.key.is_empty() {
            Bytes::from_static(b"\0")
        } else {
            create.key
        };
        let end = create.range_end;
        if !end.is_empty() && end[..] != b"\0"[..] && key >= end {
            return refuse(-1, Refusal::EmptyRange);
        }
        if create.start_revision < 0 {
            return refuse(-1, Refusal::BeforeHistory);
        }
        let watch_id = if create.watch_id == 0 {
            while session.watchers.contains_key(&session.next_id) {
                session.next_id += 1;
            }
            session.next_id += 1;
            session.next_id - 1
        } else if session.watchers.contains_key(&create.watch_id) {
            return refuse(-1, Refusal::DuplicateId);
        } else {
            create.watch_id
        };
        let watcher = store.watch(WatchSpec {
            range: OwnedRange { key, end },
            start_revision: create.start_revision,
            filters: WatchFilters {
                no_put: create.no_put,
                no_delete: create.no_delete,
            },
            prev_kv: create.prev_kv,
        });
        session.watchers.insert(watch_id, watcher);
        session.handle.push(WatchResponse {
            header,
            watch_id,
            created: true,
            ..WatchResponse::default()
        });
        self.noted += usize::from(create.progress_notify);
        self.owners.insert(
            watcher,
            Owner {
                session: id,
                watch_id,
                fragment: create.fragment,
                progress_notify: create.progress_notify,
                active: false,
            },
        );
        // The new one may be behind where the look is, or begin after what it will name.
        if self.looks_at(id) {
            self.look_again(id);
        }
    }

    fn cancel(&mut self, store: &mut mvcc::Store, id: SessionId, watch_id: i64, header: Header) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        let Some(watcher) = session.watchers.remove(&watch_id) else {
            return;
        };
        store.unwatch(watcher);
        session.parked.remove(&watcher);
        session.handle.push(WatchResponse {
            header,
            watch_id,
            canceled: true,
            ..WatchResponse::default()
        });
        self.disown(watcher);
        // It may have been what kept the answer back.
        if !self.looks_at(id) {
            self.look_again(id);
        }
    }

    fn disown(&mut self, watcher: WatcherId) {
        if let Some(owner) = self.owners.remove(&watcher) {
            self.noted -= usize::from(owner.progress_notify);
        }
    }

    fn deliver(&mut self, store: &mut mvcc::Store, watcher: WatcherId, header: Header) {
        let Some(owner) = self.owners.get_mut(&watcher) else {
            return;
        };
        let Some(session) = self.sessions.get_mut(&owner.session) else {
            return;
        };
        if let Some(look) = self.look.as_ref()
            && look.session == owner.session
        {
            if !store.watch_owes(watcher, look.revision) {
                session.parked.insert(watcher);
                return;
            }
            // The answer would be no: this goes out first.
            self.look = None;
            self.touched.insert(owner.session);
        }
        // What is left after that is named again by the store, and waits for its turn.
        for _ in 0..BATCHES_MAX {
            if !session.handle.has_room() {
                session.parked.insert(watcher);
                return;
            }
            match store.watch_next(watcher, BATCH_BYTES_MAX) {
                None => break,
                Some(WatchBatch::Events { revision, events }) => {
                    owner.active = true;
                    // As in etcd, a watcher that has caught up learns how far the store is; one that has
                    // more to come may not be told of revisions it has not seen.
                    let synced = store.watch_synced(watcher);
                    let revision = if synced { store.revision() } else { revision };
                    session.handle.push(WatchResponse {
                        header: Header { revision, ..header },
                        watch_id: owner.watch_id,
                        fragment: owner.fragment,
                        events,
                        ..WatchResponse::default()
                    });
                }
                Some(WatchBatch::Compacted { compact_revision }) => {
                    // etcd leaves the revision of this header 0.
                    session.handle.push(WatchResponse {
                        header: Header {
                            revision: 0,
                            ..header
                        },
                        watch_id: owner.watch_id,
                        canceled: true,
                        compact_revision,
                        ..WatchResponse::default()
                    });
                    let (session_id, watch_id) = (owner.session, owner.watch_id);
                    session.watchers.remove(&watch_id);
                    self.disown(watcher);
                    self.look_again(session_id);
                    return;
                }
            }
        }
        if session.progress_asked {
            self.asking.insert(owner.session);
        }
    }
}
