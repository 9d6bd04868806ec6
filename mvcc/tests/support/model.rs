//! The naive twin of the store: a whole map per revision, and the list of all events.
//!
//! Written from the API's documentation, in the plainest way, so that the two share no cleverness.

use std::collections::BTreeMap;

use bytes::Bytes;
use henge_mvcc::{
    Compare, CompareResult, CompareTarget, DeleteRangeRequest, DeleteRangeResponse, Error, Event,
    EventKind, KeyRange, KeyValue, PutRequest, PutResponse, RangeRequest, RangeResponse, RequestOp,
    ResponseOp, SortOrder, SortTarget, TxnRequest, TxnResponse,
};

type State = BTreeMap<Vec<u8>, KeyValue>;

#[derive(Clone)]
pub struct Model {
    /// By revision; revision 0 and 1 are empty.
    pub states: Vec<State>,
    /// All events since the beginning, with what was before.
    pub events: Vec<Event>,
    pub compacted: i64,
    pub leases: BTreeMap<i64, i64>,
    /// The state that the command going on sees.
    work: State,
    changed: bool,
}

impl Model {
    pub fn new() -> Self {
        Model {
            states: vec![State::new(), State::new()],
            events: Vec::new(),
            compacted: -1,
            leases: BTreeMap::new(),
            work: State::new(),
            changed: false,
        }
    }

    pub fn revision(&self) -> i64 {
        self.states.len() as i64 - 1
    }

    fn commit(&mut self) {
        if self.changed {
            self.states.push(self.work.clone());
            self.changed = false;
        }
    }

    pub fn put(&mut self, request: &PutRequest<'_>) -> Result<PutResponse, Error> {
        self.check_put(request)?;
        let response = self.do_put(request);
        self.commit();
        Ok(response)
    }

    fn check_put(&self, request: &PutRequest<'_>) -> Result<(), Error> {
        if request.lease != 0 && !self.leases.contains_key(&request.lease) {
            return Err(Error::LeaseNotFound);
        }
        let missing = !self.states[self.states.len() - 1].contains_key(request.key);
        if (request.ignore_value || request.ignore_lease) && missing {
            return Err(Error::KeyNotFound);
        }
        Ok(())
    }

    fn do_put(&mut self, request: &PutRequest<'_>) -> PutResponse {
        let main = self.revision() + 1;
        let before = self.work.get(request.key).cloned();
        let mut now = before.clone().unwrap_or(KeyValue {
            key: Bytes::copy_from_slice(request.key),
            create_revision: main,
            ..KeyValue::default()
        });
        now.mod_revision = main;
        now.version += 1;
        if !request.ignore_value {
            now.value = Bytes::copy_from_slice(request.value);
        }
        if !request.ignore_lease {
            now.lease = request.lease;
        }
        self.work.insert(request.key.to_vec(), now.clone());
        self.changed = true;
        self.events.push(Event {
            kind: EventKind::Put,
            kv: now,
            prev_kv: before.clone(),
        });
        PutResponse {
            prev_kv: before.filter(|_| request.prev_kv),
        }
    }

    pub fn delete_range(&mut self, request: &DeleteRangeRequest<'_>) -> DeleteRangeResponse {
        let response = self.do_delete(request);
        self.commit();
        response
    }

    fn do_delete(&mut self, request: &DeleteRangeRequest<'_>) -> DeleteRangeResponse {
        let gone: Vec<_> = self
            .work
            .values()
            .filter(|kv| contains(&request.range, &kv.key))
            .cloned()
            .collect();
        for kv in &gone {
            self.do_delete_one(kv);
        }
        DeleteRangeResponse {
            deleted: gone.len() as i64,
            prev_kvs: if request.prev_kv { gone } else { Vec::new() },
        }
    }

    fn do_delete_one(&mut self, kv: &KeyValue) {
        let now = KeyValue {
            key: kv.key.clone(),
            mod_revision: self.revision() + 1,
            ..KeyValue::default()
        };
        self.work.remove(&kv.key[..]);
        self.changed = true;
        self.events.push(Event {
            kind: EventKind::Delete,
            kv: now,
            prev_kv: Some(kv.clone()),
        });
    }

    pub fn range(&self, request: &RangeRequest<'_>) -> Result<RangeResponse, Error> {
        let current = self.revision() + i64::from(self.changed);
        let at = if request.revision <= 0 {
            current
        } else {
            request.revision
        };
        if at > current {
            return Err(Error::FutureRevision {
                requested: at,
                current,
            });
        }
        if at < self.compacted {
            return Err(Error::Compacted {
                requested: at,
                compacted: self.compacted,
            });
        }
        let state = self.states.get(at as usize).unwrap_or(&self.work);
        let mut kvs: Vec<_> = state
            .values()
            .filter(|kv| contains(&request.range, &kv.key))
            .cloned()
            .collect();
        let count = kvs.len() as i64;
        if request.count_only {
            return Ok(RangeResponse {
                count,
                ..RangeResponse::default()
            });
        }
        let filters = [
            request.max_mod_revision,
            request.min_mod_revision,
            request.max_create_revision,
            request.min_create_revision,
        ];
        let limit = request.limit.max(0) as usize;
        if limit > 0 && request.sort_order == SortOrder::None && filters == [0; 4] {
            kvs.truncate(limit + 1);
        }
        if filters[0] != 0 {
            kvs.retain(|kv| kv.mod_revision <= filters[0]);
        }
        if filters[1] != 0 {
            kvs.retain(|kv| kv.mod_revision >= filters[1]);
        }
        if filters[2] != 0 {
            kvs.retain(|kv| kv.create_revision <= filters[2]);
        }
        if filters[3] != 0 {
            kvs.retain(|kv| kv.create_revision >= filters[3]);
        }
        let by = |a: &KeyValue, b: &KeyValue| match request.sort_target {
            SortTarget::Key => a.key.cmp(&b.key),
            SortTarget::Version => a.version.cmp(&b.version),
            SortTarget::Create => a.create_revision.cmp(&b.create_revision),
            SortTarget::Mod => a.mod_revision.cmp(&b.mod_revision),
            SortTarget::Value => a.value.cmp(&b.value),
        };
        match request.sort_order {
            SortOrder::Descend => kvs.sort_by(|a, b| by(b, a)),
            _ => kvs.sort_by(by),
        }
        let more = limit > 0 && kvs.len() > limit;
        if more {
            kvs.truncate(limit);
        }
        if request.keys_only {
            kvs.iter_mut().for_each(|kv| kv.value = Bytes::new());
        }
        Ok(RangeResponse { kvs, more, count })
    }

    pub fn txn(&mut self, request: &TxnRequest<'_>) -> Result<TxnResponse, Error> {
        let before = self.work.clone();
        self.check_ops(request, &before)?;
        let response = self.do_txn(request, &before);
        self.commit();
        Ok(response)
    }

    fn check_ops(&self, request: &TxnRequest<'_>, before: &State) -> Result<(), Error> {
        for op in branch(request, before).1 {
            match op {
                RequestOp::Put(put) => self.check_put(put)?,
                RequestOp::Range(range) if range.revision > self.revision() => {
                    return Err(Error::FutureRevision {
                        requested: range.revision,
                        current: self.revision(),
                    });
                }
                RequestOp::Range(range)
                    if range.revision != 0 && range.revision < self.compacted =>
                {
                    return Err(Error::Compacted {
                        requested: range.revision,
                        compacted: self.compacted,
                    });
                }
                RequestOp::Txn(inner) => self.check_ops(inner, before)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn do_txn(&mut self, request: &TxnRequest<'_>, before: &State) -> TxnResponse {
        let (succeeded, ops) = branch(request, before);
        let responses = ops.iter().map(|op| match op {
            RequestOp::Range(range) => ResponseOp::Range(self.range(range).expect("checked")),
            RequestOp::Put(put) => ResponseOp::Put(self.do_put(put)),
            RequestOp::DeleteRange(delete) => ResponseOp::DeleteRange(self.do_delete(delete)),
            RequestOp::Txn(inner) => ResponseOp::Txn(Box::new(self.do_txn(inner, before))),
        });
        TxnResponse {
            succeeded,
            responses: responses.collect(),
        }
    }

    pub fn compact(&mut self, revision: i64) -> Result<(), Error> {
        if revision <= self.compacted {
            return Err(Error::Compacted {
                requested: revision,
                compacted: self.compacted,
            });
        }
        if revision > self.revision() {
            return Err(Error::FutureRevision {
                requested: revision,
                current: self.revision(),
            });
        }
        self.compacted = revision;
        Ok(())
    }

    pub fn lease_grant(&mut self, id: i64, ttl_s: i64) -> Result<i64, Error> {
        if self.leases.contains_key(&id) {
            return Err(Error::LeaseExists);
        }
        self.leases.insert(id, ttl_s.max(2));
        Ok(ttl_s.max(2))
    }

    pub fn lease_revoke(&mut self, id: i64) -> Result<i64, Error> {
        self.leases.remove(&id).ok_or(Error::LeaseNotFound)?;
        let keys: Vec<_> = self
            .work
            .values()
            .filter(|kv| kv.lease == id)
            .cloned()
            .collect();
        keys.iter().for_each(|kv| self.do_delete_one(kv));
        self.commit();
        Ok(keys.len() as i64)
    }

    pub fn lease_keys(&self, id: i64) -> Vec<Bytes> {
        self.work
            .values()
            .filter(|kv| kv.lease == id)
            .map(|kv| kv.key.clone())
            .collect()
    }
}

fn branch<'r, 'a>(request: &'r TxnRequest<'a>, before: &State) -> (bool, &'r [RequestOp<'a>]) {
    let holds = request.compare.iter().all(|compare| holds(compare, before));
    (
        holds,
        if holds {
            &request.success
        } else {
            &request.failure
        },
    )
}

fn holds(compare: &Compare<'_>, state: &State) -> bool {
    let kvs: Vec<_> = state
        .values()
        .filter(|kv| contains(&compare.range, &kv.key))
        .collect();
    if kvs.is_empty() {
        return !matches!(compare.target, CompareTarget::Value(_))
            && holds_for(compare, &KeyValue::default());
    }
    kvs.into_iter().all(|kv| holds_for(compare, kv))
}

fn holds_for(compare: &Compare<'_>, kv: &KeyValue) -> bool {
    let order = match compare.target {
        CompareTarget::Version(given) => kv.version.cmp(&given),
        CompareTarget::CreateRevision(given) => kv.create_revision.cmp(&given),
        CompareTarget::ModRevision(given) => kv.mod_revision.cmp(&given),
        CompareTarget::Value(given) => kv.value[..].cmp(given),
        CompareTarget::Lease(given) => kv.lease.cmp(&given),
    };
    match compare.result {
        CompareResult::Equal => order.is_eq(),
        CompareResult::Greater => order.is_gt(),
        CompareResult::Less => order.is_lt(),
        CompareResult::NotEqual => order.is_ne(),
    }
}

pub fn contains(range: &KeyRange<'_>, key: &[u8]) -> bool {
    match range.end {
        b"" => key == range.key,
        b"\0" => key >= range.key,
        end => key >= range.key && key < end,
    }
}
