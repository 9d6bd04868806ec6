//! The nine guarantees of watching, on random histories with slow, resuming, cancelled and overtaken
//! watchers.

mod support;

use std::collections::{BTreeMap, BTreeSet};

use henge_mvcc::{
    Config, Event, EventKind, KeyRange, Restorer, Store, WatchBatch, WatchFilters, WatchSpec,
    WatcherId,
};
use support::commands::{Pair, some_key_range};
use support::model::contains;
use support::watch::spec_of;
use support::*;

/// A watcher of the random test, and what it has been told.
struct Reader {
    range: KeyRange<'static>,
    filters: WatchFilters,
    prev_kv: bool,
    /// The first revision that it is owed.
    from: i64,
    last: i64,
    got: Vec<Event>,
    /// Reads only every so many rounds, a little at a time.
    slow: bool,
}

impl Reader {
    fn spec(&self) -> WatchSpec {
        WatchSpec {
            start_revision: self.from,
            filters: self.filters,
            prev_kv: self.prev_kv,
            ..spec_of(self.range)
        }
    }

    fn wants(&self, event: &Event) -> bool {
        let filtered = match event.kind {
            EventKind::Put => self.filters.no_put,
            EventKind::Delete => self.filters.no_delete,
        };
        !filtered && contains(&self.range, &event.kv.key) && event.kv.mod_revision >= self.from
    }

    /// Ordered, unique, atomic, as far as one batch can tell.
    fn take(&mut self, revision: i64, events: Vec<Event>) {
        assert!(!events.is_empty());
        let first = events[0].kv.mod_revision;
        assert!(first > self.last, "atomic: {first} after {}", self.last);
        let revisions = events.iter().map(|event| event.kv.mod_revision);
        assert!(revisions.clone().is_sorted(), "ordered");
        assert_eq!(revisions.last(), Some(revision));
        self.last = revision;
        self.got.extend(events);
    }

    /// Filter, resumable, reliable, prev_kv, is-create: what was got is exactly what the model has
    /// up to the last revision seen (or the progress told).
    fn check(&self, all: &[Event], upto: i64) {
        let expected: Vec<_> = all
            .iter()
            .filter(|event| self.wants(event) && event.kv.mod_revision <= upto)
            .collect();
        assert_eq!(self.got.len(), expected.len(), "reliable");
        let mut seen = BTreeSet::new();
        for (got, expected) in self.got.iter().zip(expected) {
            assert_eq!((got.kind, &got.kv), (expected.kind, &expected.kv));
            assert!(
                seen.insert((got.kv.mod_revision, got.kv.key.clone())),
                "unique"
            );
            // Absent is allowed: it may have been compacted.
            if let Some(before) = &got.prev_kv {
                assert!(self.prev_kv);
                assert_eq!(Some(before), expected.prev_kv.as_ref(), "prev_kv");
            }
            let creates =
                got.kind == EventKind::Put && got.kv.create_revision == got.kv.mod_revision;
            assert_eq!(
                creates,
                got.kind == EventKind::Put && expected.prev_kv.is_none(),
                "is-create"
            );
        }
    }
}

fn some_reader(pair: &mut Pair) -> Reader {
    let revision = pair.model.revision();
    let from = match pair.dice.below(4) {
        0 => revision + 1 + pair.dice.below(10) as i64,
        1 => revision + 1,
        _ => (revision - pair.dice.below(60) as i64).max(1),
    };
    Reader {
        range: some_key_range(&mut pair.dice),
        filters: WatchFilters {
            no_put: pair.dice.one_in(6),
            no_delete: pair.dice.one_in(6),
        },
        prev_kv: pair.dice.one_in(2),
        from,
        last: 0,
        got: Vec::new(),
        slow: pair.dice.one_in(2),
    }
}

/// One delivery; false when the watcher is gone.
fn deliver(pair: &mut Pair, id: WatcherId, reader: &mut Reader, counts: &mut Counts) -> bool {
    let max_bytes = if reader.slow { 300 } else { 5_000 };
    match pair.store.watch_next(id, max_bytes) {
        Some(WatchBatch::Events { revision, events }) => {
            counts.events += events.len();
            reader.take(revision, events);
            true
        }
        Some(WatchBatch::Compacted { compact_revision }) => {
            counts.compacted += 1;
            assert_eq!(compact_revision, pair.model.compacted);
            let next = reader.last.max(reader.from - 1) + 1;
            assert!(next < compact_revision, "only who needs what is gone");
            reader.check(&pair.model.events, reader.last);
            false
        }
        None => true,
    }
}

#[derive(Debug, Default)]
struct Counts {
    events: usize,
    compacted: usize,
    behind: u64,
    synced: usize,
}

#[test]
fn nine_guarantees_on_random_histories() {
    let mut counts = Counts::default();
    for_seeds("watch", 60, |seed| nine_guarantees(seed, &mut counts));
    println!("{counts:?}");
    if std::env::var("HENGE_SEED").is_err() {
        // The histories reach what they are meant to reach.
        assert!(
            counts.events > 10_000 && counts.compacted > 20,
            "{counts:?}"
        );
        assert!(counts.behind > 100 && counts.synced > 100, "{counts:?}");
    }
}

fn nine_guarantees(seed: u64, counts: &mut Counts) {
    let config = Config {
        watch_buffer_bytes_max: 1_500,
        ..Config::default()
    };
    let mut pair = Pair::new(Store::with_config(config), seed);
    let mut readers: BTreeMap<WatcherId, Reader> = BTreeMap::new();
    for round in 0..400 {
        pair.write();
        if pair.dice.one_in(10) {
            let reader = some_reader(&mut pair);
            let id = pair.store.watch(reader.spec());
            assert!(readers.insert(id, reader).is_none(), "ids are not reused");
        }
        if pair.dice.one_in(40) {
            pair.compact();
        }
        if pair.dice.one_in(60) {
            reinstall(&mut pair, config);
        }
        // Whoever is ready may read; slow ones mostly do not.
        for _ in 0..pair.dice.below(8) {
            let Some(id) = pair.store.watch_ready() else {
                break;
            };
            let mut reader = readers.remove(&id).expect("ready means known");
            let waits = reader.slow && round % 16 != 0;
            if waits || deliver(&mut pair, id, &mut reader, counts) {
                readers.insert(id, reader);
            }
        }
        // Some cancel; some cancel and resume after the last revision they saw.
        if pair.dice.one_in(25)
            && let Some((&id, _)) = readers.iter().nth(pair.dice.below(5) as usize)
        {
            let mut reader = readers.remove(&id).expect("chosen");
            assert!(pair.store.unwatch(id));
            reader.check(&pair.model.events, reader.last);
            if pair.dice.one_in(2) && reader.last > 0 {
                reader.from = reader.last + 1;
                reader.got.clear();
                let id = pair.store.watch(reader.spec());
                readers.insert(id, reader);
            }
        }
        counts.behind += pair.store.stats().watchers_behind;
        counts.synced += check_progress(&pair, &readers);
    }
    // At the end everybody reads to the end.
    for (id, mut reader) in readers {
        let mut there = true;
        while there && !pair.store.watch_synced(id) {
            there = deliver(&mut pair, id, &mut reader, counts);
        }
        if there {
            reader.check(&pair.model.events, pair.model.revision());
        }
    }
}

/// Bookmarkable: a watcher that is synced has all events up to the current revision, and one that may be
/// told of that revision would resume neither before what it asked for nor before what it was given.
fn check_progress(pair: &Pair, readers: &BTreeMap<WatcherId, Reader>) -> usize {
    let synced = readers
        .iter()
        .filter(|(id, _)| pair.store.watch_synced(**id));
    let mut count = 0;
    for (id, reader) in synced {
        let revision = pair.store.revision();
        reader.check(&pair.model.events, revision);
        let reached = revision >= reader.from && revision >= reader.last;
        assert_eq!(pair.store.watch_may_note(*id), reached, "bookmarkable");
        count += 1;
    }
    count
}

/// A snapshot is installed: a new store takes the place of the old one and its watchers.
fn reinstall(pair: &mut Pair, config: Config) {
    let mut stream = Vec::new();
    let mut cursor = pair.store.snapshot_begin();
    while pair.store.snapshot_next(&mut cursor, 1_000, &mut stream) {}
    let mut restorer = Restorer::with_config(config);
    restorer.push(&stream).expect("sound");
    let mut store = restorer.finish().expect("complete");
    store.adopt_watchers(&mut pair.store);
    pair.store = store;
}
