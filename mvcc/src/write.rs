//! Puts and deletes.
//!
//! All changes of one command share a main revision; readers of the command itself (a transaction's
//! ranges) see them as they happen, watchers at its end. Tested by `tests/write.rs`.

use std::ops::ControlFlow;

use crate::error::Error;
use crate::names::KeyId;
use crate::revlog::LogOp;
use crate::store::Store;
use crate::types::{
    DeleteRangeRequest, DeleteRangeResponse, KeyRange, KeyValue, PutRequest, PutResponse,
};
use crate::version::Version;

impl Store {
    /// Writes one key. The revision grows even if the value is the same.
    pub fn put(&mut self, request: &PutRequest<'_>) -> Result<PutResponse, Error> {
        self.check_lone_put(request)?;
        self.write_begin();
        let response = self.apply_put(request);
        self.write_end();
        response
    }

    /// Says which keys will be put next, as a hint: what their lookups read is loaded together. Changes
    /// nothing; worth it for a batch of puts on a store that is larger than the processor's caches.
    pub fn touch(&self, keys: &[&[u8]]) {
        self.index.touch(&self.keys, keys, false);
    }

    /// Deletes keys. The revision grows only if there were some.
    pub fn delete_range(
        &mut self,
        request: &DeleteRangeRequest<'_>,
    ) -> Result<DeleteRangeResponse, Error> {
        if request.range.key.is_empty() {
            return Err(Error::EmptyKey);
        }
        self.write_begin();
        let response = self.apply_delete(request);
        self.write_end();
        Ok(response)
    }

    /// The same of a put that is a command of its own.
    pub(crate) fn check_lone_put(&self, request: &PutRequest<'_>) -> Result<(), Error> {
        // etcd asks for the lease before the key here, and after it in a transaction.
        if !request.key.is_empty() {
            self.check_lease(request)?;
        }
        self.check_put(request)
    }

    /// What a put can be refused for, on the state before its command.
    pub(crate) fn check_put(&self, request: &PutRequest<'_>) -> Result<(), Error> {
        if request.key.is_empty() {
            return Err(Error::EmptyKey);
        }
        self.check_lease(request)?;
        let keeps = request.ignore_value || request.ignore_lease;
        if keeps && !self.is_live(request.key) {
            return Err(Error::KeyNotFound);
        }
        Ok(())
    }

    fn check_lease(&self, request: &PutRequest<'_>) -> Result<(), Error> {
        if request.lease != 0 && !request.ignore_lease && !self.leases.contains(request.lease) {
            return Err(Error::LeaseNotFound);
        }
        Ok(())
    }

    pub(crate) fn write_begin(&mut self) {
        debug_assert!(!self.open, "a write is under way in slices");
        self.changes = 0;
        self.counted.begin();
    }

    /// Begins the changes of a write in slices, or goes on with them.
    pub(crate) fn open_write(&mut self) {
        if !self.open {
            self.write_begin();
            self.open = true;
        }
    }

    /// Makes the changes of a write in slices current, once watchers were told of all.
    pub(crate) fn close_write(&mut self) {
        self.revision = self.revision_seen();
        self.changes = 0;
        self.open = false;
        self.counted.end();
        self.release_watchers();
    }

    /// Makes the changes current and tells watchers.
    pub(crate) fn write_end(&mut self) {
        self.counted.end();
        if self.changes > 0 {
            self.revision += 1;
            let changes = std::mem::take(&mut self.changes);
            self.notify_watchers(changes);
        }
    }

    /// The revision that the command going on sees: its own, once it changed something.
    pub(crate) fn revision_seen(&self) -> i64 {
        self.revision + i64::from(self.changes > 0)
    }

    pub(crate) fn apply_put(&mut self, request: &PutRequest<'_>) -> Result<PutResponse, Error> {
        self.meter.change(1);
        self.counted.version();
        self.meter.store(request.value.len());
        let (main, sub) = (self.revision + 1, self.changes);
        let place = self.index.locate(&self.keys, request.key);
        let before = place
            .id
            .map(|id| self.keys.newest(id))
            .filter(|newest| !newest.tombstone);
        let live = place.id.filter(|_| before.is_some());
        let prev_kv = live
            .filter(|_| request.prev_kv)
            .map(|id| self.latest_pair(id));
        let lease_before = before.map_or(0, |version| version.lease);
        let lease = if request.ignore_lease {
            lease_before
        } else {
            request.lease
        };
        // The kept value lies in the slot that is about to change: the one case that copies twice.
        let kept = live
            .filter(|_| request.ignore_value)
            .map(|id| self.keys.latest(id).value.to_vec());
        self.meter.bytes(kept.as_ref().map_or(0, Vec::len));
        let version = Version {
            main,
            sub,
            tombstone: false,
            create: before.map_or(main, |version| version.create),
            version: before.map_or(0, |version| version.version) + 1,
            lease,
            value: kept.as_deref().unwrap_or(request.value),
        };
        self.counted.put(request, version.value.len());
        let was_live = before.is_some();
        let id = match place.id {
            Some(id) => {
                self.keys.push(id, &version);
                if !was_live {
                    self.index.set_live_at(&place, request.key, true);
                }
                id
            }
            None => {
                let id = self
                    .keys
                    .insert(request.key, &version)
                    .ok_or(Error::NoSpace)?;
                self.index.insert(&self.keys, &place, id);
                id
            }
        };
        if lease_before != lease {
            self.leases.detach(lease_before, id);
            self.leases.attach(lease, id);
        }
        self.log_change(id);
        Ok(PutResponse { prev_kv })
    }

    pub(crate) fn apply_delete(&mut self, request: &DeleteRangeRequest<'_>) -> DeleteRangeResponse {
        self.counted.delete(request);
        let ids = self.live_in(request.range);
        let mut response = DeleteRangeResponse {
            deleted: ids.len() as i64,
            ..DeleteRangeResponse::default()
        };
        if request.prev_kv {
            response.prev_kvs = ids.iter().map(|&id| self.latest_pair(id)).collect();
        }
        ids.iter().for_each(|&id| self.delete_live(id));
        response
    }

    /// Deletes a key that is live.
    pub(crate) fn delete_live(&mut self, id: KeyId) {
        self.meter.change(1);
        self.counted.version();
        let lease = self.keys.newest(id).lease;
        if lease != 0 {
            self.leases.detach(lease, id);
        }
        self.keys
            .push(id, &Version::tombstone(self.revision + 1, self.changes));
        self.index.set_live(&self.keys, self.keys.key(id), false);
        self.log_change(id);
    }

    fn log_change(&mut self, id: KeyId) {
        self.log.push(LogOp {
            main: self.revision + 1,
            sub: self.changes,
            id,
        });
        self.changes += 1;
    }

    /// Does the key exist?
    fn is_live(&self, key: &[u8]) -> bool {
        let found = self.index.find(&self.keys, key);
        found.is_some_and(|id| !self.keys.newest(id).tombstone)
    }

    pub(crate) fn latest_pair(&self, id: KeyId) -> KeyValue {
        let (key, version) = (self.keys.key(id), self.keys.latest(id));
        self.meter.bytes(key.len() + version.value.len());
        version.to_pair(key)
    }

    fn live_in(&self, range: KeyRange<'_>) -> Vec<KeyId> {
        let mut ids = Vec::new();
        let mut looked_at = 0;
        self.scan_range(range, |id| {
            looked_at += 1;
            if !self.keys.newest(id).tombstone {
                ids.push(id);
            }
            ControlFlow::Continue(())
        });
        self.meter.look(looked_at);
        ids
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(store: &mut Store, key: &[u8]) -> Result<(), Error> {
        let request = PutRequest {
            key,
            ..PutRequest::default()
        };
        store.put(&request).map(drop)
    }

    /// A put was refused where the numbers of keys were nearly used up, which depends on how far physical
    /// compaction is: one replica would have written what another refused.
    #[test]
    fn regression_a_put_is_not_refused_by_how_far_physical_compaction_is() {
        let (mut eager, mut lazy) = (Store::new(), Store::new());
        for store in [&mut eager, &mut lazy] {
            // 8 MiB of keys instead of 32 GiB.
            store.keys.limit_blocks(32);
        }
        let mut key = vec![7; 60_000];
        for n in 0..128u32 {
            key[..4].copy_from_slice(&n.to_be_bytes());
            for store in [&mut eager, &mut lazy] {
                assert_eq!(put(store, &key), Ok(()), "{n}");
                let range = KeyRange::one(&key);
                let delete = DeleteRangeRequest {
                    range,
                    prev_kv: false,
                };
                store.delete_range(&delete).expect("valid");
                store.compact(store.revision()).expect("possible");
            }
            while eager.compact_step(100) {}
        }
        assert_eq!((eager.is_full(), lazy.is_full()), (false, true));
        assert_eq!(put(&mut eager, b"another"), Ok(()));
        assert_eq!(put(&mut lazy, b"another"), Ok(()), "as the other one");
        assert_eq!(eager.hash_kv(0), lazy.hash_kv(0));
    }
}
