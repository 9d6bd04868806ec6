//! The checker's own store: every version of every key, written for clarity and nothing else.
//!
//! It grows only by whole revisions that some node showed ([`Model::extend`]), and answers what any
//! operation must have done and returned in the state after any revision ([`Model::execute`]).

use std::collections::BTreeMap;

use bytes::Bytes;
use henge_mvcc::{
    DeleteRangeResponse, Event, EventKind, KeyRange, KeyValue, PutResponse, RangeResponse,
    ResponseOp, TxnResponse,
};

use super::op::{Guard, Op};

/// Revision of an empty store.
const REVISION_FIRST: i64 = 1;

/// All versions of all keys.
#[derive(Debug, Default)]
pub struct Model {
    keys: BTreeMap<Bytes, Vec<Version>>,
    /// The events of revision 2, 3, …
    revisions: Vec<Vec<Event>>,
}

#[derive(Debug)]
struct Version {
    revision: i64,
    /// `None` is a tombstone.
    pair: Option<KeyValue>,
}

/// One change that an operation makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The key.
    pub key: Bytes,
    /// Its new pair; `None` deletes it.
    pub pair: Option<KeyValue>,
}

/// What an operation does and answers in some state.
#[derive(Clone, Debug, PartialEq)]
pub struct Effect {
    /// In order; empty if nothing changes.
    pub changes: Vec<Change>,
    /// The answer.
    pub response: ResponseOp,
}

impl Model {
    /// The last known revision.
    pub fn revision(&self) -> i64 {
        REVISION_FIRST + self.revisions.len() as i64
    }

    /// What happened at a known revision.
    pub fn events(&self, revision: i64) -> Option<&[Event]> {
        let at = usize::try_from(revision - REVISION_FIRST - 1).ok()?;
        self.revisions.get(at).map(Vec::as_slice)
    }

    /// Adds the next revision as a node showed it, and says what is wrong with it.
    pub fn extend(&mut self, revision: i64, events: &[Event]) -> Result<(), String> {
        if revision != self.revision() + 1 {
            return Err(format!(
                "revision {revision} was shown after {}",
                self.revision()
            ));
        }
        if events.is_empty() {
            return Err(format!("revision {revision} has no events"));
        }
        for event in events {
            let key = &event.kv.key;
            let before = self.pair(key, revision);
            let expected = match event.kind {
                EventKind::Put => put(before.as_ref(), key, &event.kv.value, revision),
                EventKind::Delete if before.is_none() => {
                    return Err(format!(
                        "revision {revision} deletes {key:?}, which does not exist"
                    ));
                }
                EventKind::Delete => KeyValue {
                    key: key.clone(),
                    mod_revision: revision,
                    ..KeyValue::default()
                },
            };
            if event.kv != expected {
                return Err(format!(
                    "revision {revision} shows {:?}, not {expected:?}",
                    event.kv
                ));
            }
            let pair = (event.kind == EventKind::Put).then_some(expected);
            self.keys
                .entry(key.clone())
                .or_default()
                .push(Version { revision, pair });
        }
        self.revisions.push(events.to_vec());
        Ok(())
    }

    /// A key's pair in the state after `revision`.
    pub fn pair(&self, key: &[u8], revision: i64) -> Option<KeyValue> {
        let versions = self.keys.get(key)?;
        let after = versions.partition_point(|version| version.revision <= revision);
        versions[..after].last()?.pair.clone()
    }

    /// What `op` does and answers in the state after `revision`.
    pub fn execute(&self, op: &Op, revision: i64) -> Effect {
        let mut view = View {
            model: self,
            revision,
            changes: Vec::new(),
        };
        let response = view.execute(op);
        Effect {
            changes: view.changes,
            response,
        }
    }
}

/// The changes that events stand for.
pub fn changes(events: &[Event]) -> Vec<Change> {
    let change = |event: &Event| Change {
        key: event.kv.key.clone(),
        pair: (event.kind == EventKind::Put).then(|| event.kv.clone()),
    };
    events.iter().map(change).collect()
}

/// A state, and the changes of the operation that is being executed on it.
struct View<'a> {
    model: &'a Model,
    revision: i64,
    changes: Vec<Change>,
}

impl View<'_> {
    fn execute(&mut self, op: &Op) -> ResponseOp {
        match op {
            Op::Put {
                key,
                value,
                prev_kv,
            } => {
                let before = self.pair(key);
                let pair = put(before.as_ref(), key, value, self.revision + 1);
                self.changes.push(Change {
                    key: key.clone(),
                    pair: Some(pair),
                });
                ResponseOp::Put(PutResponse {
                    prev_kv: before.filter(|_| *prev_kv),
                })
            }
            Op::Delete { key, end, prev_kv } => {
                let gone = self.pairs(KeyRange { key, end });
                for pair in &gone {
                    self.changes.push(Change {
                        key: pair.key.clone(),
                        pair: None,
                    });
                }
                let deleted = gone.len() as i64;
                let prev_kvs = if *prev_kv { gone } else { Vec::new() };
                ResponseOp::DeleteRange(DeleteRangeResponse { deleted, prev_kvs })
            }
            Op::Txn {
                key,
                guard,
                success,
                failure,
            } => {
                let succeeded = holds(guard, self.pair(key));
                let branch = if succeeded { success } else { failure };
                let responses = branch.iter().map(|op| self.execute(op)).collect();
                ResponseOp::Txn(Box::new(TxnResponse {
                    succeeded,
                    responses,
                }))
            }
            Op::Range { .. } => self.range(op),
            Op::Compact { .. } | Op::Hash => ResponseOp::Range(RangeResponse::default()),
        }
    }

    fn range(&self, op: &Op) -> ResponseOp {
        let Op::Range {
            key,
            end,
            revision,
            limit,
            keys_only,
            count_only,
            ..
        } = op
        else {
            return ResponseOp::Range(RangeResponse::default());
        };
        let range = KeyRange { key, end };
        let mut kvs = if *revision > 0 {
            View {
                model: self.model,
                revision: *revision,
                changes: Vec::new(),
            }
            .pairs(range)
        } else {
            self.pairs(range)
        };
        let count = kvs.len() as i64;
        let mut more = false;
        if *count_only {
            kvs.clear();
        } else if *limit > 0 && count > *limit {
            kvs.truncate(usize::try_from(*limit).unwrap_or(usize::MAX));
            more = true;
        }
        if *keys_only {
            kvs.iter_mut().for_each(|pair| pair.value = Bytes::new());
        }
        ResponseOp::Range(RangeResponse { kvs, more, count })
    }

    /// With the changes made so far.
    fn pair(&self, key: &[u8]) -> Option<KeyValue> {
        match self.changes.iter().rev().find(|change| change.key == key) {
            Some(change) => change.pair.clone(),
            None => self.model.pair(key, self.revision),
        }
    }

    fn pairs(&self, range: KeyRange<'_>) -> Vec<KeyValue> {
        let known = self.model.keys.keys();
        let mut keys: Vec<_> = known
            .chain(self.changes.iter().map(|change| &change.key))
            .collect();
        keys.sort_unstable();
        keys.dedup();
        keys.into_iter()
            .filter(|key| range.contains(key))
            .filter_map(|key| self.pair(key))
            .collect()
    }
}

fn put(before: Option<&KeyValue>, key: &Bytes, value: &Bytes, revision: i64) -> KeyValue {
    KeyValue {
        key: key.clone(),
        value: value.clone(),
        create_revision: before.map_or(revision, |pair| pair.create_revision),
        mod_revision: revision,
        version: before.map_or(1, |pair| pair.version + 1),
        lease: 0,
    }
}

fn holds(guard: &Guard, pair: Option<KeyValue>) -> bool {
    match guard {
        Guard::Missing => pair.is_none(),
        Guard::Exists => pair.is_some(),
        Guard::ModRevision(revision) => pair.map_or(0, |pair| pair.mod_revision) == *revision,
        Guard::Value(value) => pair.is_some_and(|pair| pair.value == *value),
    }
}

#[cfg(test)]
mod tests {
    use super::super::op;
    use super::*;

    fn key(name: &'static str) -> Bytes {
        Bytes::from_static(name.as_bytes())
    }

    fn put_op(name: &'static str, id: u64) -> Op {
        Op::Put {
            key: key(name),
            value: op::value(id, 8),
            prev_kv: true,
        }
    }

    fn events(effect: &Effect, revision: i64) -> Vec<Event> {
        let event = |change: &Change| match &change.pair {
            Some(pair) => Event {
                kind: EventKind::Put,
                kv: pair.clone(),
                prev_kv: None,
            },
            None => Event {
                kind: EventKind::Delete,
                kv: KeyValue {
                    key: change.key.clone(),
                    mod_revision: revision,
                    ..KeyValue::default()
                },
                prev_kv: None,
            },
        };
        effect.changes.iter().map(event).collect()
    }

    #[test]
    fn a_transaction_sees_its_own_writes_and_an_old_revision_stays() {
        let mut model = Model::default();
        let first = model.execute(&put_op("a", 1), 1);
        model.extend(2, &events(&first, 2)).expect("legal");
        let txn = Op::Txn {
            key: key("a"),
            guard: Guard::ModRevision(2),
            success: vec![put_op("b", 2), Op::read_all(false)],
            failure: Vec::new(),
        };
        let effect = model.execute(&txn, 2);
        let ResponseOp::Txn(response) = &effect.response else {
            panic!("{effect:?}")
        };
        let ResponseOp::Range(range) = &response.responses[1] else {
            panic!("{effect:?}")
        };
        assert_eq!((range.count, range.kvs[1].mod_revision), (2, 3));
        model.extend(3, &events(&effect, 3)).expect("legal");
        assert_eq!(model.pair(b"b", 2), None);
        assert!(!model.execute(&txn, 3).changes.is_empty());
        let delete = Op::Delete {
            key: key("a"),
            end: key("z"),
            prev_kv: false,
        };
        let effect = model.execute(&delete, 3);
        assert_eq!(effect.changes.len(), 2);
        model.extend(4, &events(&effect, 4)).expect("legal");
        assert!(model.execute(&txn, 4).changes.is_empty());
    }

    #[test]
    fn illegal_revisions_are_named() {
        let mut model = Model::default();
        let effect = model.execute(&put_op("a", 1), 1);
        let shown = events(&effect, 2);
        assert!(model.extend(3, &shown).is_err());
        assert!(model.extend(2, &[]).is_err());
        let mut wrong = shown.clone();
        wrong[0].kv.version = 2;
        assert!(model.extend(2, &wrong).is_err());
        assert!(model.extend(2, &shown).is_ok());
    }
}
