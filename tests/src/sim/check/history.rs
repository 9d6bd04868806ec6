//! Operations and their answers, placed among the revisions.

use std::collections::BTreeMap;

use henge::api::{Error, Outcome, Reply};
use henge_core::machine::Response;
use henge_mvcc::{Error as StoreError, Event, EventKind, ResponseOp, TxnResponse};

use super::{Violation, matching, violated};
use crate::sim::model::{Effect, Model, changes};
use crate::sim::op::{self, Op, OpId};

/// Everything that was asked and seen.
#[derive(Debug, Default)]
pub struct History {
    /// The revisions, as the nodes showed them.
    pub model: Model,
    ops: BTreeMap<OpId, Record>,
    /// Which operation made a revision, where known.
    makers: BTreeMap<i64, OpId>,
    /// When a revision was first seen, in the order of events.
    seen: BTreeMap<i64, u64>,
    /// Hashes by (revision, compact revision), and who said so first.
    hashes: BTreeMap<(i64, i64), (u32, usize)>,
    /// Highest place of any linearizable operation that has ended.
    floor: i64,
    /// Highest revision that any compaction asked for.
    compact_asked: i64,
    last_id: OpId,
    /// Counts invocations, answers and revisions, so that "before" has a meaning.
    moment: u64,
    /// How operations ended.
    pub counts: Counts,
}

/// How operations ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Answered with success, or with an error that is the store's answer.
    pub done: u64,
    /// Certainly not done.
    pub not_done: u64,
    /// Nobody knows.
    pub unknown: u64,
}

#[derive(Debug)]
struct Record {
    op: Op,
    node: usize,
    /// Places of operations that ended before this one began.
    floor: i64,
    invoked: u64,
    /// The revision it made, as far as known.
    made: Option<i64>,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    Done,
    NotDone,
    Unknown,
}

impl History {
    /// The number the next operation will have, so that its values can carry it.
    pub fn next_id(&self) -> OpId {
        self.last_id + 1
    }

    /// An operation begins.
    pub fn invoke(&mut self, node: usize, op: Op) -> OpId {
        self.moment += 1;
        self.last_id += 1;
        if let Op::Compact { revision } = op {
            self.compact_asked = self.compact_asked.max(revision);
        }
        let record = Record {
            op,
            node,
            floor: self.floor,
            invoked: self.moment,
            made: None,
            state: State::Open,
        };
        self.ops.insert(self.last_id, record);
        self.last_id
    }

    /// A node showed a revision: the next one, or one that is known already.
    pub fn observe(
        &mut self,
        node: usize,
        revision: i64,
        events: &[Event],
    ) -> Result<bool, Violation> {
        if let Some(known) = self.model.events(revision) {
            if !same(known, events) {
                return violated!(
                    "node {node} shows revision {revision} as {events:?}, another one as {known:?}"
                );
            }
            return Ok(false);
        }
        self.moment += 1;
        self.model
            .extend(revision, events)
            .map_err(|what| format!("node {node}: {what}"))?;
        self.seen.insert(revision, self.moment);
        self.attribute(revision)?;
        Ok(true)
    }

    /// An operation ends with an answer of its node.
    pub fn answer(
        &mut self,
        id: OpId,
        answer: Result<Reply<Response>, Error>,
    ) -> Result<(), Violation> {
        self.moment += 1;
        let Some(record) = self.ops.get(&id) else {
            return violated!("operation {id} was answered and never asked");
        };
        let state = match answer {
            Ok(reply) => {
                self.done(id, reply)?;
                State::Done
            }
            Err(Error::Invalid(error)) => {
                self.refused(id, &error)?;
                State::Done
            }
            Err(error) => match error.outcome() {
                Outcome::NotDone if record.made.is_some() => {
                    let op = &record.op;
                    return violated!("operation {id} {op:?} ended \"{error}\" and was done");
                }
                Outcome::NotDone => State::NotDone,
                Outcome::Unknown => State::Unknown,
            },
        };
        self.end(id, state);
        Ok(())
    }

    /// An operation's node is gone; nobody will answer.
    pub fn lost(&mut self, id: OpId) {
        self.end(id, State::Unknown);
    }

    /// The place that the next linearizable operation may not be before.
    pub fn floor(&self) -> i64 {
        self.floor
    }

    /// Whether a compaction may have removed what was before `revision`.
    pub fn may_be_compacted(&self, revision: i64) -> bool {
        revision <= self.compact_asked
    }

    /// What can only be said at the end: every revision has exactly one maker.
    pub fn finish(&self) -> Result<(), Violation> {
        let nameless: Vec<i64> = self
            .seen
            .keys()
            .copied()
            .filter(|at| !self.makers.contains_key(at))
            .collect();
        let candidates: Vec<(OpId, &Record)> = self
            .ops
            .iter()
            .filter(|(_, record)| record.state != State::NotDone && record.made.is_none())
            .map(|(id, record)| (*id, record))
            .collect();
        let mut choices = Vec::new();
        for &revision in &nameless {
            let could = |(at, (_, record)): (usize, &(OpId, &Record))| {
                self.explains(record, revision).then_some(at)
            };
            choices.push(candidates.iter().enumerate().filter_map(could).collect());
        }
        match matching::assign(&choices, candidates.len()) {
            Ok(_) => Ok(()),
            Err(at) => {
                let revision = nameless[at];
                let events = self.model.events(revision);
                violated!("revision {revision} {events:?} was made by no operation")
            }
        }
    }

    /// Finds the maker of a new revision by the values it wrote. Deletes have none: their revision waits
    /// for an answer that names it, or for the end.
    fn attribute(&mut self, revision: i64) -> Result<(), Violation> {
        let events = self.model.events(revision).unwrap_or_default();
        let Some(put) = events.iter().find(|event| event.kind == EventKind::Put) else {
            return Ok(());
        };
        let Some((id, record)) =
            op::writer(&put.kv.value).and_then(|id| Some((id, self.ops.get(&id)?)))
        else {
            return violated!(
                "revision {revision} writes {:?}, which nobody asked for",
                put.kv
            );
        };
        if let Some(other) = record.made {
            let op = &record.op;
            return violated!(
                "operation {id} {op:?} was done at revision {other} and at {revision}"
            );
        }
        if record.state == State::NotDone || !self.explains(record, revision) {
            let (op, state, floor) = (&record.op, record.state, record.floor);
            return violated!(
                "revision {revision} {events:?} cannot be operation {id} {op:?} \
                 ({state:?}, begun after revision {floor})"
            );
        }
        self.claim(id, revision)
    }

    /// Whether an operation can have made exactly this revision.
    fn explains(&self, record: &Record, revision: i64) -> bool {
        let Some(events) = self.model.events(revision) else {
            return false;
        };
        record.floor < revision
            && self
                .seen
                .get(&revision)
                .is_some_and(|seen| record.invoked < *seen)
            && self.model.execute(&record.op, revision - 1).changes == changes(events)
    }

    fn done(&mut self, id: OpId, reply: Reply<Response>) -> Result<(), Violation> {
        let revision = reply.header.revision;
        let Some(record) = self.ops.get(&id) else {
            return Ok(());
        };
        let op = record.op.clone();
        if revision > self.model.revision() {
            return violated!(
                "operation {id} {op:?} was answered at revision {revision}, \
                              of which no event was shown"
            );
        }
        let response = match reply.body {
            Response::Put(put) => ResponseOp::Put(put),
            Response::Delete(delete) => ResponseOp::DeleteRange(delete),
            Response::Txn(txn) => ResponseOp::Txn(Box::new(txn)),
            Response::Range(range) => ResponseOp::Range(range),
            Response::Hash(hash) => {
                let key = (hash.hash_revision, hash.compact_revision);
                return self.hash(record.node, key, hash.hash);
            }
            Response::Done if matches!(op, Op::Compact { .. }) => return Ok(()),
            other => return violated!("operation {id} {op:?} was answered with {other:?}"),
        };
        let made = changed(&response);
        let stale = matches!(
            op,
            Op::Range {
                serializable: true,
                ..
            }
        );
        let lowest = if made { record.floor + 1 } else { record.floor };
        if revision < lowest && !stale {
            return violated!(
                "operation {id} {op:?} was answered at revision {revision}, though an operation \
                 at revision {} had ended before it began",
                record.floor
            );
        }
        let expected = self
            .model
            .execute(&op, if made { revision - 1 } else { revision });
        self.compare(id, &op, revision, made, &response, &expected)?;
        if made {
            self.claim(id, revision)?;
        }
        if !stale {
            self.floor = self.floor.max(revision);
        }
        Ok(())
    }

    fn compare(
        &self,
        id: OpId,
        op: &Op,
        revision: i64,
        made: bool,
        response: &ResponseOp,
        expected: &Effect,
    ) -> Result<(), Violation> {
        let events = self.model.events(revision).unwrap_or_default();
        let shown = if made { changes(events) } else { Vec::new() };
        if *response != expected.response || shown != expected.changes {
            return violated!(
                "operation {id} {op:?}, answered at revision {revision}: got {response:?} and \
                 {shown:?}, expected {expected:?}"
            );
        }
        Ok(())
    }

    fn claim(&mut self, id: OpId, revision: i64) -> Result<(), Violation> {
        if let Some(record) = self.ops.get_mut(&id) {
            record.made = Some(revision);
        }
        match self.makers.insert(revision, id) {
            Some(other) if other != id => {
                violated!("operations {other} and {id} were both answered with revision {revision}")
            }
            _ => Ok(()),
        }
    }

    /// The store answered with an error of the caller: only those that the clients can provoke.
    fn refused(&self, id: OpId, error: &StoreError) -> Result<(), Violation> {
        let Some(Record { op, .. }) = self.ops.get(&id) else {
            return Ok(());
        };
        let fits = match (op, error) {
            (Op::Range { revision, .. }, StoreError::Compacted { compacted, .. }) => {
                *revision > 0 && revision < compacted && *compacted <= self.compact_asked
            }
            (Op::Compact { revision }, StoreError::Compacted { compacted, .. }) => {
                revision <= compacted && *compacted <= self.compact_asked
            }
            // A replica that lags may not have got that far.
            (
                Op::Range {
                    revision,
                    serializable: true,
                    ..
                },
                StoreError::FutureRevision { current, .. },
            ) => revision > current,
            _ => false,
        };
        if fits {
            Ok(())
        } else {
            violated!("operation {id} {op:?} was refused: {error} {error:?}")
        }
    }

    fn hash(&mut self, node: usize, at: (i64, i64), hash: u32) -> Result<(), Violation> {
        let (first, other) = *self.hashes.entry(at).or_insert((hash, node));
        if first != hash {
            return violated!(
                "at revision {} (compacted {}) node {other} has hash {first:08x} and node {node} \
                 {hash:08x}",
                at.0,
                at.1
            );
        }
        Ok(())
    }

    fn end(&mut self, id: OpId, state: State) {
        let Some(record) = self.ops.get_mut(&id) else {
            return;
        };
        record.state = state;
        match state {
            State::NotDone => self.counts.not_done += 1,
            State::Unknown => self.counts.unknown += 1,
            _ => self.counts.done += 1,
        }
        // A read has no effect that could still come.
        if !record.op.is_write() {
            self.ops.remove(&id);
        }
    }
}

/// Whether two nodes show the same revision, whatever they say about pairs before it.
pub(super) fn same(known: &[Event], events: &[Event]) -> bool {
    known.len() == events.len()
        && known
            .iter()
            .zip(events)
            .all(|(a, b)| a.kind == b.kind && a.kv == b.kv)
}

/// Whether an answer says that something changed.
fn changed(response: &ResponseOp) -> bool {
    match response {
        ResponseOp::Put(_) => true,
        ResponseOp::DeleteRange(delete) => delete.deleted > 0,
        ResponseOp::Range(_) => false,
        ResponseOp::Txn(txn) => {
            let TxnResponse { responses, .. } = &**txn;
            responses.iter().any(changed)
        }
    }
}
