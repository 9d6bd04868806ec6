//! What the `mvcc` measurement does with the store and its rival.
//!
//! Promises: both sides do each batch of the same keys in turn, first one first, then the other, and
//! both put every second batch in another manner: keys announced by [`TOUCH`], or looked up so many ahead.
//! What a read returns is compared once per batch, outside of the clock; nothing is cached between phases
//! but what the processor caches. Must never know: the goals. Tested by running it.

use std::hint::black_box;
use std::time::{Duration, Instant};

use bytes::Bytes;
use henge_mvcc::{
    KeyRange, OwnedRange, PutRequest, RangeRequest, Restorer, SliceLimits, SortOrder, SortTarget,
    Store, WatchBatch, WatchSpec,
};

use crate::mvcc_load::{
    Batch, Dice, Duel, PutDuel, Rate, Shape, VALUE_BYTES, cpu_ns, page_faults, quantile_us,
    resident_bytes, shuffled,
};
use crate::mvcc_rival::Rival;

/// Keys per turn of one side.
const BATCH: u64 = 20_000;
/// What the server applies at a time, and therefore announces to the store together.
const TOUCH: usize = 16;
/// Budget of one compaction slice, as the shard gives it.
const COMPACT_SLICE: usize = 500;
/// How often the shard gives memory back, and how much of it.
const TICK: Duration = Duration::from_millis(100);
const TRIM_BYTES: usize = 1 << 20;
/// Bytes of a snapshot slice, as the shard takes them.
const SNAPSHOT_SLICE_BYTES: usize = 64 << 10;
const VALUE: [u8; VALUE_BYTES] = [7; VALUE_BYTES];

/// A store and its rival with the same content.
pub struct Arena {
    /// What keys look like.
    pub shape: Shape,
    /// How many there are.
    pub keys: u64,
    /// The store.
    pub store: Store,
    /// The map; gone once only the store is of interest.
    pub rival: Rival,
    dice: Dice,
}

/// A range of everything.
pub struct Scan {
    /// For the table.
    pub name: &'static str,
    order: SortOrder,
    target: SortTarget,
    limit: i64,
}

/// Ranges of everything, sorted and not.
pub const SCANS: [Scan; 6] = [
    Scan::new("range of everything", SortOrder::None, SortTarget::Key, 0),
    Scan::new(
        "  by key descending",
        SortOrder::Descend,
        SortTarget::Key,
        0,
    ),
    Scan::new("  by value", SortOrder::Ascend, SortTarget::Value, 0),
    Scan::new("  by version", SortOrder::Ascend, SortTarget::Version, 0),
    Scan::new("  by mod revision", SortOrder::Descend, SortTarget::Mod, 0),
    Scan::new(
        "  by mod revision, limit 1",
        SortOrder::Descend,
        SortTarget::Mod,
        1,
    ),
];

impl Scan {
    const fn new(name: &'static str, order: SortOrder, target: SortTarget, limit: i64) -> Self {
        Scan {
            name,
            order,
            target,
            limit,
        }
    }
}

/// What the store takes beside the bytes of keys and values.
#[derive(Clone, Copy, Debug)]
pub struct Overhead {
    /// By the store's own account, per key or version.
    pub accounted: f64,
    /// By the kernel's.
    pub resident: f64,
}

impl Arena {
    /// Loads `keys` keys in random order into both sides, and measures it and the store's memory.
    pub fn load(shape: Shape, keys: u64) -> (Self, PutDuel, Overhead) {
        let mut arena = Arena {
            shape,
            keys,
            store: Store::new(),
            rival: Rival::default(),
            dice: Dice(keys),
        };
        let mut duel = PutDuel::default();
        let (mut bytes, mut resident) = (0, 0);
        let mut order = shuffled(keys);
        for turn in 0.. {
            let batch = Batch::new(shape, order.by_ref().take(BATCH as usize));
            if batch.is_empty() {
                break;
            }
            bytes += batch.iter().map(<[u8]>::len).sum::<usize>() + batch.len() * VALUE_BYTES;
            resident += arena.put_both(&mut duel, turn, &batch, Rival::insert);
        }
        let per_key = |total: u64| (total as f64 - bytes as f64) / keys as f64;
        let overhead = Overhead {
            accounted: per_key(arena.store.memory().total()),
            resident: per_key(resident),
        };
        (arena, duel, overhead)
    }

    /// Puts a batch into both sides, each in the manner whose turn it is; returns by how many resident
    /// bytes the store grew.
    fn put_both(
        &mut self,
        duel: &mut PutDuel,
        turn: usize,
        batch: &Batch,
        rival_put: fn(&mut Rival, &[u8], &[u8]),
    ) -> u64 {
        let keys: Vec<&[u8]> = batch.iter().collect();
        let before = resident_bytes();
        let store = &mut self.store;
        if turn.is_multiple_of(2) {
            duel.announced.time(keys.len(), || {
                for group in keys.chunks(TOUCH) {
                    store.touch(group);
                    group.iter().for_each(|key| put(store, key));
                }
            });
        } else {
            duel.plain
                .time(keys.len(), || keys.iter().for_each(|key| put(store, key)));
        }
        let grown = resident_bytes().saturating_sub(before);
        let rival = &mut self.rival;
        // Both manners of the rival meet both of the store's.
        if (turn / 2).is_multiple_of(2) {
            duel.rival_plain.time(keys.len(), || {
                keys.iter().for_each(|key| rival_put(rival, key, &VALUE))
            });
        } else {
            duel.rival_announced.time(keys.len(), || {
                for group in keys.chunks(TOUCH) {
                    black_box(rival.look_up(group));
                    group.iter().for_each(|key| rival_put(rival, key, &VALUE));
                }
            });
        }
        grown
    }

    fn some_keys(&mut self, count: u64) -> Batch {
        let (dice, keys) = (&mut self.dice, self.keys);
        Batch::new(self.shape, (0..count).map(|_| dice.below(keys)))
    }

    /// Overwrites random keys, as many as there are; also the store's memory per old version.
    pub fn overwrite(&mut self) -> (PutDuel, Overhead) {
        let mut duel = PutDuel::default();
        let (accounted, mut resident) = (self.store.memory().total(), 0);
        let turns = (self.keys / BATCH) as usize;
        for turn in 0..turns {
            let batch = self.some_keys(BATCH);
            resident += self.put_both(&mut duel, turn, &batch, Rival::overwrite);
        }
        let versions = (turns as u64 * BATCH).max(1);
        let per_version = |bytes: u64| bytes as f64 / versions as f64 - VALUE_BYTES as f64;
        let overhead = Overhead {
            accounted: per_version(self.store.memory().total() - accounted),
            resident: per_version(resident),
        };
        (duel, overhead)
    }

    /// Reads random keys one at a time.
    pub fn get(&mut self) -> Duel {
        let mut duel = Duel::default();
        for _ in 0..(self.keys / BATCH).clamp(1, 50) {
            let batch = self.some_keys(BATCH);
            duel.ours.time(batch.len(), || {
                for key in batch.iter() {
                    black_box(self.store.range(&get_request(key)).is_ok());
                }
            });
            duel.rival.time(batch.len(), || {
                batch.iter().for_each(|key| {
                    black_box(self.rival.get(key));
                });
            });
            let key = batch.iter().next().unwrap_or_default();
            let ours = self.store.range(&get_request(key)).ok().and_then(|found| {
                let kv = found.kvs.first()?;
                Some((kv.key.to_vec(), kv.mod_revision as u64, kv.value.to_vec()))
            });
            assert_eq!(ours, self.rival.get(key), "both sides read the same");
        }
        duel
    }

    /// Reads 500 pairs from random keys on.
    pub fn range(&mut self) -> Duel {
        const LIMIT: usize = 500;
        let mut duel = Duel::default();
        for _ in 0..20 {
            let batch = self.some_keys(100);
            duel.ours.time(batch.len(), || {
                for key in batch.iter() {
                    black_box(self.store.range(&range_request(key, LIMIT)).is_ok());
                }
            });
            duel.rival.time(batch.len(), || {
                batch.iter().for_each(|key| {
                    black_box(self.rival.range(key, None, LIMIT).len());
                });
            });
            let key = batch.iter().next().unwrap_or_default();
            let ours = self.store.range(&range_request(key, LIMIT));
            let ours = ours.map(|found| found.kvs).unwrap_or_default();
            let theirs = self.rival.range(key, None, LIMIT);
            let same = ours.iter().zip(&theirs).all(|(kv, pair)| {
                kv.key == pair.0 && kv.mod_revision as u64 == pair.1 && kv.value == pair.2
            });
            assert!(
                same && ours.len() == theirs.len(),
                "both sides read the same"
            );
        }
        duel
    }

    /// Lets the map go.
    pub fn drop_rival(&mut self) {
        self.rival = Rival::default();
        settle();
    }

    /// Counts between random keys; the median in microseconds.
    pub fn count(&mut self) -> f64 {
        let mut times = Vec::new();
        for _ in 0..2_000 {
            let batch = self.some_keys(2);
            let mut ends: Vec<&[u8]> = batch.iter().collect();
            ends.sort_unstable();
            let request = RangeRequest {
                range: KeyRange {
                    key: ends[0],
                    end: ends[1],
                },
                count_only: true,
                ..RangeRequest::default()
            };
            let begun = Instant::now();
            black_box(self.store.range(&request).is_ok());
            times.push(begun.elapsed().as_nanos() as u64);
        }
        times.sort_unstable();
        quantile_us(&times, 0.5)
    }

    /// Overwrites random keys once more, as many as there are, on the store alone.
    pub fn age(&mut self) {
        for _ in 0..self.keys / BATCH {
            let batch = self.some_keys(BATCH);
            batch.iter().for_each(|key| put(&mut self.store, key));
        }
    }

    /// Compacts all old versions in the shard's slices, and gives memory back as it does.
    pub fn compact(&mut self) -> Vec<CompactSlice> {
        let compacted = self.store.compact(self.store.revision());
        assert!(compacted.is_ok(), "the present can be compacted");
        let (mut slices, mut tick) = (Vec::new(), Instant::now());
        loop {
            let gives_back = tick.elapsed() >= TICK;
            if gives_back {
                tick = Instant::now();
            }
            let (versions, faults) = (self.store.stats().versions, page_faults());
            let (begun, cpu) = (Instant::now(), cpu_ns());
            let more = self.store.compact_step(COMPACT_SLICE);
            if gives_back {
                self.store.trim(TRIM_BYTES);
            }
            let cpu = cpu_ns() - cpu;
            slices.push(CompactSlice {
                cpu_ns: cpu,
                wall_ns: begun.elapsed().as_nanos() as u64,
                removed: versions - self.store.stats().versions,
                faults: page_faults() - faults,
            });
            if !more {
                return slices;
            }
        }
    }

    /// Puts while a snapshot is taken in slices, one slice every `puts_per_slice`: the 99th
    /// percentile of a put before and during, and of the longest slices, in microseconds.
    pub fn snapshot(&mut self, puts_per_slice: u64) -> SnapshotEffect {
        let mut alone = self.put_times(200_000);
        let mut cursor = self.store.snapshot_begin();
        let (mut slices, mut during, mut bytes) = (Vec::new(), Vec::new(), 0);
        let mut out = Vec::new();
        loop {
            out.clear();
            let begun = Instant::now();
            let more = self
                .store
                .snapshot_next(&mut cursor, SNAPSHOT_SLICE_BYTES, &mut out);
            slices.push(begun.elapsed().as_nanos() as u64);
            bytes += out.len() as u64;
            during.extend(self.put_times(puts_per_slice));
            if !more {
                break;
            }
        }
        for times in [&mut alone, &mut slices, &mut during] {
            times.sort_unstable();
        }
        SnapshotEffect {
            bytes,
            put_alone_p99_us: quantile_us(&alone, 0.99),
            put_during_p99_us: quantile_us(&during, 0.99),
            slice_p99_us: quantile_us(&slices, 0.99),
            slice_max_us: quantile_us(&slices, 1.0),
        }
    }

    fn put_times(&mut self, count: u64) -> Vec<u64> {
        let batch = self.some_keys(count);
        let time = |key| {
            let begun = Instant::now();
            put(&mut self.store, key);
            begun.elapsed().as_nanos() as u64
        };
        batch.iter().map(time).collect()
    }

    /// Reads a range of everything in one answer, then in slices: milliseconds of the one, and the slices'
    /// times in nanoseconds of processor time, sorted.
    pub fn scan(&mut self, scan: &Scan) -> (f64, Vec<u64>) {
        let request = RangeRequest {
            range: KeyRange::all(),
            sort_order: scan.order,
            sort_target: scan.target,
            limit: scan.limit,
            ..RangeRequest::default()
        };
        let mut whole = Rate::default();
        let found = whole.time(1, || self.store.range(&request));
        let found = found.map(|found| found.kvs).unwrap_or_default();
        // What the one answer needed on the way goes back, and so does the answer before.
        settle();
        let (mut times, mut given) = (Vec::new(), Vec::new());
        if let Ok(mut cursor) = self.store.range_begin(&request) {
            given.reserve_exact(found.len());
            loop {
                let begun = cpu_ns();
                let mut slice = self.store.range_next(&mut cursor, SliceLimits::default());
                times.push(cpu_ns() - begun);
                given.append(&mut slice.kvs);
                if slice.end.is_some() {
                    break;
                }
            }
        }
        assert!(given == found, "the slices make up the whole");
        times.sort_unstable();
        (whole.ns() / 1e6, times)
    }

    /// Takes a snapshot and restores it: millions of keys per second, the restore alone.
    pub fn restore(&self) -> f64 {
        let mut cursor = self.store.snapshot_begin();
        let mut stream = Vec::new();
        while self.store.snapshot_next(&mut cursor, 16 << 20, &mut stream) {}
        drop(cursor);
        let mut rate = Rate::default();
        let restored = rate.time(self.keys as usize, || {
            let mut restorer = Restorer::new();
            let pushed = stream
                .chunks(1 << 20)
                .try_for_each(|piece| restorer.push(piece));
            pushed.and_then(|()| restorer.finish())
        });
        let same = restored.is_ok_and(|restored| restored.hash_kv(0) == self.store.hash_kv(0));
        assert!(same, "the restored store has the same content");
        1_000.0 / rate.ns()
    }

    /// What watchers cost a put, in nanoseconds.
    pub fn watch(&mut self, watchers: u64) -> WatchCost {
        let puts = 20_000;
        let mut cost = WatchCost {
            none: self.puts_ns(puts),
            ..WatchCost::default()
        };
        // Distinct prefixes that match nothing, then the same with one that matches everything.
        let spec = |key: Vec<u8>| {
            let end = henge_mvcc::prefix_end(&key);
            let range = OwnedRange {
                key: key.into(),
                end: end.into(),
            };
            WatchSpec {
                range,
                ..WatchSpec::default()
            }
        };
        let mut ids: Vec<_> = (0..watchers)
            .map(|n| self.store.watch(spec(format!("zz/{n:08}/").into())))
            .collect();
        cost.unmatched = self.puts_ns(puts);
        let mut rate = Rate::default();
        let keys: Vec<_> = (0..1_000)
            .map(|n| format!("zz/{:08}/x", n * 7 % watchers))
            .collect();
        rate.time(keys.len(), || {
            for key in &keys {
                put(&mut self.store, key.as_bytes());
                black_box(drain(&mut self.store));
            }
        });
        cost.one_of_many = rate.ns();
        ids.drain(..).for_each(|id| {
            self.store.unwatch(id);
        });
        let one = OwnedRange {
            key: Bytes::from_static(b"hot"),
            end: Bytes::new(),
        };
        for _ in 0..watchers {
            self.store.watch(WatchSpec {
                range: one.clone(),
                ..WatchSpec::default()
            });
        }
        let mut rate = Rate::default();
        for _ in 0..20 {
            let events = rate.time(watchers as usize, || {
                put(&mut self.store, b"hot");
                drain(&mut self.store)
            });
            assert_eq!(events, watchers, "every watcher is told");
        }
        cost.fan_out = rate.ns();
        cost
    }

    fn puts_ns(&mut self, count: u64) -> f64 {
        let batch = self.some_keys(count);
        let mut rate = Rate::default();
        rate.time(batch.len(), || {
            batch.iter().for_each(|key| put(&mut self.store, key))
        });
        rate.ns()
    }
}

/// One slice of a compaction: its time, and what it did in it.
#[derive(Clone, Copy, Debug)]
pub struct CompactSlice {
    /// Processor time.
    pub cpu_ns: u64,
    /// Time on the wall, waits for a processor included.
    pub wall_ns: u64,
    /// Versions removed. The slices after the last of them move what is left of segments.
    pub removed: u64,
    /// Pages that the kernel had to find.
    pub faults: u64,
}

/// What a snapshot does to puts, in microseconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct SnapshotEffect {
    /// Bytes of the snapshot.
    pub bytes: u64,
    /// Put, 99th percentile, before.
    pub put_alone_p99_us: f64,
    /// Put, 99th percentile, while slices run between puts.
    pub put_during_p99_us: f64,
    /// Slice, 99th percentile.
    pub slice_p99_us: f64,
    /// The longest slice.
    pub slice_max_us: f64,
}

/// What watchers cost, in nanoseconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct WatchCost {
    /// A put without watchers.
    pub none: f64,
    /// A put with many watchers that do not match.
    pub unmatched: f64,
    /// A put that one of many prefix watchers matches, delivered.
    pub one_of_many: f64,
    /// One event to one of many watchers of the same key, delivered.
    pub fan_out: f64,
}

fn put(store: &mut Store, key: &[u8]) {
    let request = PutRequest {
        key,
        value: &VALUE,
        ..PutRequest::default()
    };
    black_box(store.put(&request).is_ok());
}

/// Waits until the allocator has given back the memory of what was dropped: it does so a second later, in
/// someone else's call (seen: 50 ms in a compaction slice).
fn settle() {
    for round in 1..20 {
        std::thread::sleep(Duration::from_millis(60));
        black_box(
            (0..100)
                .map(|n| vec![0u8; n * round * 50])
                .collect::<Vec<_>>(),
        );
    }
}

fn get_request(key: &[u8]) -> RangeRequest<'_> {
    RangeRequest {
        range: KeyRange::one(key),
        ..RangeRequest::default()
    }
}

fn range_request(key: &[u8], limit: usize) -> RangeRequest<'_> {
    RangeRequest {
        range: KeyRange { key, end: b"\0" },
        limit: limit as i64,
        ..RangeRequest::default()
    }
}

/// Takes what watchers have; returns the number of events.
fn drain(store: &mut Store) -> u64 {
    let mut events = 0;
    while let Some(id) = store.watch_ready() {
        if let Some(WatchBatch::Events { events: batch, .. }) = store.watch_next(id, 1 << 20) {
            events += batch.len() as u64;
        }
    }
    events
}
