//! What the stand-in does to keys: histories in a map, and the answers of etcd.

use bytes::Bytes;
use henge::api::*;
use henge_mvcc as mvcc;

use super::State;

impl State {
    pub(super) fn range(&self, r: &mvcc::RangeRequest<'_>) -> Result<mvcc::RangeResponse, Error> {
        let at = if r.revision <= 0 {
            self.revision
        } else {
            r.revision
        };
        if at > self.revision {
            let e = mvcc::Error::FutureRevision {
                requested: at,
                current: self.revision,
            };
            return Err(e.into());
        }
        if at < self.compacted {
            let e = mvcc::Error::Compacted {
                requested: at,
                compacted: self.compacted,
            };
            return Err(e.into());
        }
        let mut kvs: Vec<mvcc::KeyValue> = self
            .history
            .keys()
            .filter(|k| r.range.contains(k))
            .filter_map(|k| self.at(k, at))
            .collect();
        let count = kvs.len() as i64;
        let more = r.limit > 0 && count > r.limit;
        if more {
            kvs.truncate(r.limit as usize);
        }
        if r.keys_only {
            kvs.iter_mut().for_each(|kv| kv.value = Bytes::new());
        }
        if r.count_only {
            return Ok(mvcc::RangeResponse {
                kvs: Vec::new(),
                more: false,
                count,
            });
        }
        Ok(mvcc::RangeResponse { kvs, more, count })
    }

    pub(super) fn put(
        &mut self,
        r: &mvcc::PutRequest<'_>,
        at: i64,
        events: &mut Vec<mvcc::Event>,
    ) -> Result<mvcc::PutResponse, Error> {
        if r.lease != 0 && !self.leases.contains_key(&r.lease) {
            return Err(mvcc::Error::LeaseNotFound.into());
        }
        let old = self.at(r.key, i64::MAX);
        let kv = mvcc::KeyValue {
            key: Bytes::copy_from_slice(r.key),
            value: Bytes::copy_from_slice(r.value),
            create_revision: old.as_ref().map_or(at, |kv| kv.create_revision),
            mod_revision: at,
            version: old.as_ref().map_or(1, |kv| kv.version + 1),
            lease: r.lease,
        };
        self.history
            .entry(kv.key.clone())
            .or_default()
            .push((at, Some(kv.clone())));
        events.push(mvcc::Event {
            kind: mvcc::EventKind::Put,
            kv,
            prev_kv: old.clone(),
        });
        Ok(mvcc::PutResponse {
            prev_kv: old.filter(|_| r.prev_kv),
        })
    }

    pub(super) fn delete(
        &mut self,
        r: &mvcc::DeleteRangeRequest<'_>,
        at: i64,
        events: &mut Vec<mvcc::Event>,
    ) -> mvcc::DeleteRangeResponse {
        let keys: Vec<Bytes> = self
            .history
            .keys()
            .filter(|k| r.range.contains(k))
            .cloned()
            .collect();
        let mut out = mvcc::DeleteRangeResponse::default();
        for key in keys {
            let Some(old) = self.at(&key, i64::MAX) else {
                continue;
            };
            self.history
                .get_mut(&key)
                .expect("just listed")
                .push((at, None));
            let kv = mvcc::KeyValue {
                key,
                mod_revision: at,
                ..Default::default()
            };
            let prev_kv = Some(old.clone());
            events.push(mvcc::Event {
                kind: mvcc::EventKind::Delete,
                kv,
                prev_kv,
            });
            out.deleted += 1;
            if r.prev_kv {
                out.prev_kvs.push(old);
            }
        }
        out
    }

    pub(super) fn holds(&self, c: &mvcc::Compare<'_>) -> bool {
        let kv = self.at(c.range.key, i64::MAX);
        let of = |f: fn(&mvcc::KeyValue) -> i64| kv.as_ref().map_or(0, f);
        let order = match c.target {
            mvcc::CompareTarget::Version(v) => of(|kv| kv.version).cmp(&v),
            mvcc::CompareTarget::CreateRevision(v) => of(|kv| kv.create_revision).cmp(&v),
            mvcc::CompareTarget::ModRevision(v) => of(|kv| kv.mod_revision).cmp(&v),
            mvcc::CompareTarget::Lease(v) => of(|kv| kv.lease).cmp(&v),
            mvcc::CompareTarget::Value(v) => match &kv {
                Some(kv) => kv.value.as_ref().cmp(v),
                None => return false,
            },
        };
        match c.result {
            mvcc::CompareResult::Equal => order.is_eq(),
            mvcc::CompareResult::NotEqual => order.is_ne(),
            mvcc::CompareResult::Greater => order.is_gt(),
            mvcc::CompareResult::Less => order.is_lt(),
        }
    }

    pub(super) fn txn(
        &mut self,
        t: &mvcc::TxnRequest<'_>,
        at: i64,
        events: &mut Vec<mvcc::Event>,
    ) -> Result<mvcc::TxnResponse, Error> {
        let succeeded = t.compare.iter().all(|c| self.holds(c));
        let ops = if succeeded { &t.success } else { &t.failure };
        let mut responses = Vec::new();
        for op in ops {
            responses.push(match op {
                mvcc::RequestOp::Range(r) => mvcc::ResponseOp::Range(self.range(r)?),
                mvcc::RequestOp::Put(r) => mvcc::ResponseOp::Put(self.put(r, at, events)?),
                mvcc::RequestOp::DeleteRange(r) => {
                    mvcc::ResponseOp::DeleteRange(self.delete(r, at, events))
                }
                mvcc::RequestOp::Txn(r) => {
                    mvcc::ResponseOp::Txn(Box::new(self.txn(r, at, events)?))
                }
            });
        }
        Ok(mvcc::TxnResponse {
            succeeded,
            responses,
        })
    }

    /// Runs a write at the next revision, which is used up only if something changed.
    pub(super) fn write<T>(
        &mut self,
        f: impl FnOnce(&mut State, i64, &mut Vec<mvcc::Event>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut events = Vec::new();
        let result = f(self, self.revision + 1, &mut events);
        if !events.is_empty() {
            self.revision += 1;
            self.feed(&events);
        }
        result
    }
}
