//! Leases as they were when a snapshot began, while they change.
//!
//! Leases are not versioned, and a copy of a million of them takes a hundred milliseconds. So a snapshot goes
//! through them in slices, in the order of their ids, and whatever changes of a lease ahead of it is kept
//! for it as it was. What that costs is a look at a list that is mostly empty, for each change.
//! Tested by `tests/snapshot.rs`.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::lease::LeaseEntry;

/// One snapshot's way through the leases.
#[derive(Debug)]
pub(crate) struct LeasesThen {
    /// The ids that are ahead of it begin here.
    ahead: Bound<i64>,
    /// Of those, what changed since it began: as it was, if it was there.
    before: BTreeMap<i64, Option<LeaseEntry>>,
}

/// Held by the snapshot.
pub(crate) type Shared = Arc<Mutex<LeasesThen>>;

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The snapshots that are under way. Locked only so that one can begin where the store is read.
#[derive(Debug, Default)]
pub(crate) struct Readers(Mutex<Vec<Weak<Mutex<LeasesThen>>>>);

impl Readers {
    /// A snapshot begins.
    pub fn begin(&self) -> Shared {
        let shared = Arc::new(Mutex::new(LeasesThen {
            ahead: Bound::Unbounded,
            before: BTreeMap::new(),
        }));
        let mut readers = lock(&self.0);
        // Those that ended while no lease changed.
        readers.retain(|reader| reader.strong_count() > 0);
        readers.push(Arc::downgrade(&shared));
        drop(readers);
        shared
    }

    /// A lease is about to change; `entry` says what it is until then.
    pub fn changes(&mut self, id: i64, entry: impl Fn() -> Option<LeaseEntry>) {
        let readers = self.0.get_mut().unwrap_or_else(PoisonError::into_inner);
        if readers.is_empty() {
            return;
        }
        readers.retain(|reader| {
            let Some(reader) = reader.upgrade() else {
                return false;
            };
            let mut then = lock(&reader);
            let is_ahead = match then.ahead {
                Bound::Excluded(last) => id > last,
                _ => true,
            };
            if is_ahead {
                then.before.entry(id).or_insert_with(&entry);
            }
            true
        });
    }
}

/// Gives the next leases to `take`, which says whether there may be another; whether there are more. It hears
/// of those, too, that were not there then: there may be any number of them. `now` are those that there are,
/// from any id on.
pub(super) fn next<I: Iterator<Item = LeaseEntry>>(
    shared: &Shared,
    now: impl FnOnce(Bound<i64>) -> I,
    mut take: impl FnMut(Option<LeaseEntry>) -> bool,
) -> bool {
    let mut then = lock(shared);
    let mut now = now(then.ahead).peekable();
    let mut goes_on = true;
    while goes_on {
        let kept = then.before.first_key_value().map(|(&id, _)| id);
        let live = now.peek().map(|entry| entry.id);
        let (id, entry) = match (kept, live) {
            (None, None) => return false,
            (Some(kept), live) if live.is_none_or(|live| kept <= live) => {
                if live == Some(kept) {
                    now.next();
                }
                (kept, then.before.remove(&kept).flatten())
            }
            (_, _) => match now.next() {
                Some(entry) => (entry.id, Some(entry)),
                None => return false,
            },
        };
        then.ahead = Bound::Excluded(id);
        goes_on = take(entry);
    }
    !then.before.is_empty() || now.peek().is_some()
}
