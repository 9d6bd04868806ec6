//! The keys of a lease, in their order, gathered in slices.
//!
//! A lease knows its keys by number and as of now. Of many, and while a write is under way, they are found
//! by going through all keys of the store as of one revision, in which they need no sorting. Tested by
//! `tests/long.rs`.

use std::ops::ControlFlow;

use bytes::Bytes;

use crate::pins::Pin;
use crate::store::Store;

/// The most keys that are sorted in one go: some fifty thousand comparisons.
const SHORT_LEASE_KEYS_MAX: usize = 4_000;

/// A lease whose keys are being gathered. Drop it when done: physical compaction waits for it.
#[derive(Debug)]
pub struct LongLeaseKeys {
    lease: i64,
    revision: i64,
    after: Option<Vec<u8>>,
    keys: Vec<Bytes>,
    bytes: usize,
    _pin: Pin,
}

impl LongLeaseKeys {
    /// Bytes that it holds.
    pub fn held_bytes(&self) -> usize {
        self.bytes + size_of_val(self.keys.as_slice())
    }

    /// Lets up to `max` keys of a list that nobody wants any more go; returns how many, or 0 at the end.
    pub fn let_go(&mut self, max: usize) -> usize {
        super::read::shorten(&mut self.keys, max)
    }
}

impl Store {
    /// Should a lease's keys be gathered in slices, as [`Store::lease_time_to_live`] might take longer than
    /// one?
    pub fn lease_keys_are_long(&self, lease: i64) -> bool {
        self.open || self.leases.keys_of(lease).len() > SHORT_LEASE_KEYS_MAX
    }

    /// Begins to gather the keys that are attached to a lease now.
    pub fn lease_keys_begin(&self, lease: i64) -> LongLeaseKeys {
        LongLeaseKeys {
            lease,
            revision: self.revision,
            after: None,
            keys: Vec::with_capacity(self.leases.keys_of(lease).len()),
            bytes: 0,
            _pin: self.pin(self.revision, self.revision),
        }
    }

    /// Goes on for about so many nanoseconds' work; the keys once it has all.
    pub fn lease_keys_next(&self, gathered: &mut LongLeaseKeys, nanos: u64) -> Option<Vec<Bytes>> {
        let until = self.meter.nanos().saturating_add(nanos);
        let after = gathered.after.take();
        self.meter.look(1);
        let stopped = self
            .index
            .scan(&self.keys, after.as_deref().unwrap_or_default(), |id| {
                let key = self.keys.key(id);
                if after.as_deref() == Some(key) {
                    return ControlFlow::Continue(());
                }
                self.meter.look(1);
                let version = self.keys.at(id, gathered.revision);
                if version.is_some_and(|version| version.lease == gathered.lease) {
                    self.meter.bytes(key.len());
                    gathered.bytes += key.len();
                    gathered.keys.push(Bytes::copy_from_slice(key));
                }
                if self.is_late(until) {
                    gathered.after = Some(key.to_vec());
                    return ControlFlow::Break(());
                }
                ControlFlow::Continue(())
            });
        match stopped {
            Some(()) => None,
            None => Some(std::mem::take(&mut gathered.keys)),
        }
    }
}
