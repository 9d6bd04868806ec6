//! What clients were told, and whether a store still agrees with it.
//!
//! Promises: finds a lost or altered acknowledged write, a torn operation, a write nobody made, a
//! revision used twice, gone backwards or unaccounted for. An operation that nobody answered may be
//! wholly there or wholly absent.
//! The trick that keeps this exact and linear: every session writes keys of its own, one operation
//! at a time, and ends with its first unanswered one. So a key's expected state is never a guess,
//! and only the last operation of a session can be either way.
//! Must never know: processes, sockets, time. Tested below with planted faults.

use std::collections::BTreeMap;
use std::fmt;

use crate::dice::Dice;
use crate::etcd::{Event, KeyValue};

/// Violations listed in full; more are counted.
const LISTED_MAX: usize = 20;

/// A value that can be written down in a few bytes: who wrote it, when, and how long it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Writing session.
    pub session: u64,
    /// Its how-manieth operation.
    pub sequence: u64,
    /// Bytes of the value (at least the 33 that the two numbers take).
    pub len: usize,
}

impl Stamp {
    /// The value itself.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = format!("{:016x}-{:016x}", self.session, self.sequence).into_bytes();
        // The filling differs from value to value, so that a misplaced block cannot look right.
        let filling = self
            .sequence
            .wrapping_mul(0x9E37_79B9_7F4A_7C15)
            .to_le_bytes();
        while bytes.len() < self.len {
            bytes.extend_from_slice(&filling);
        }
        bytes.truncate(self.len.max(33));
        bytes
    }
}

/// One change of one key.
#[derive(Clone, PartialEq, Eq)]
pub enum Write {
    /// Put.
    Put(Vec<u8>, Stamp),
    /// Delete; only ever of a key that is there.
    Delete(Vec<u8>),
}

impl Write {
    /// The changed key.
    pub fn key(&self) -> &[u8] {
        match self {
            Self::Put(key, _) | Self::Delete(key) => key,
        }
    }
}

impl fmt::Debug for Write {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Put(key, stamp) => write!(f, "put {} #{}", name(key), stamp.sequence),
            Self::Delete(key) => write!(f, "delete {}", name(key)),
        }
    }
}

/// Changes that happen together or not at all.
pub type Operation = Vec<Write>;

/// What one session did, in order.
#[derive(Clone, Debug, Default)]
pub struct Session {
    /// Acknowledged operations with their revisions.
    pub acked: Vec<(i64, Operation)>,
    /// The last one, if it got no answer.
    pub unknown: Option<Operation>,
}

/// What a key has to look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Expected {
    stamp: Stamp,
    created: i64,
    modified: i64,
    version: i64,
}

impl Expected {
    fn matches(&self, kv: &KeyValue) -> bool {
        (kv.create_revision, kv.mod_revision, kv.version, kv.lease)
            == (self.created, self.modified, self.version, 0)
            && kv.value == self.stamp.bytes()
    }
}

/// An unanswered operation and the last revision its session had seen.
#[derive(Clone, Debug)]
struct Pending {
    operation: Operation,
    after: i64,
}

/// All that is known about a store.
#[derive(Clone, Debug)]
pub struct History {
    keys: BTreeMap<Vec<u8>, Expected>,
    pending: Vec<Pending>,
    /// Acknowledged operations by their revision.
    log: BTreeMap<i64, Operation>,
    base: i64,
    checked: i64,
    unknown: u64,
    applied: u64,
}

impl History {
    /// The history of an empty store at revision `base` (1 for a new etcd).
    pub fn new(base: i64) -> Self {
        Self {
            keys: BTreeMap::new(),
            pending: Vec::new(),
            log: BTreeMap::new(),
            base,
            checked: base,
            unknown: 0,
            applied: 0,
        }
    }

    /// Operations that were acknowledged.
    pub fn acked(&self) -> u64 {
        self.log.len() as u64
    }

    /// Operations without an answer, and how many of them turned out to have happened.
    pub fn unknown(&self) -> (u64, u64) {
        (self.unknown, self.applied)
    }

    /// Takes in what a session did. The error is a violation by itself.
    pub fn record(&mut self, session: Session) -> Result<(), String> {
        let mut last = self.base;
        for (revision, operation) in session.acked {
            if revision <= last {
                return Err(format!("revision {revision} was acknowledged after {last}"));
            }
            self.apply(&operation, revision);
            if self.log.insert(revision, operation).is_some() {
                return Err(format!("revision {revision} was acknowledged twice"));
            }
            last = revision;
        }
        if let Some(operation) = session.unknown {
            self.unknown += 1;
            self.pending.push(Pending {
                operation,
                after: last,
            });
        }
        Ok(())
    }

    /// Compares with everything a store holds (`kvs`, in key order, read at `revision`).
    ///
    /// `settled`: unanswered operations cannot happen any more (their server died), so one that is
    /// absent now has to stay absent.
    pub fn check(&mut self, revision: i64, kvs: &[KeyValue], settled: bool) -> Result<(), String> {
        let mut wrong = Violations::default();
        let known = self
            .log
            .keys()
            .last()
            .copied()
            .unwrap_or(self.base)
            .max(self.checked);
        if revision < known {
            wrong.add(format!("the revision went back from {known} to {revision}"));
        }
        self.settle(kvs, settled, &mut wrong);
        self.compare(kvs, &mut wrong);
        let changes = (self.acked() + self.applied) as i64;
        if revision - self.base != changes {
            wrong.add(format!(
                "{changes} changes were made since revision {}, but it is now {revision}",
                self.base
            ));
        }
        self.checked = revision;
        wrong.verdict()
    }

    /// What watchers were shown of a revision against what was acknowledged at it, if anything was: an
    /// unanswered operation may have any revision.
    pub fn check_events(&self, revision: i64, events: &[Event]) -> Result<(), String> {
        let Some(operation) = self.log.get(&revision) else {
            return Ok(());
        };
        let same = |write: &Write, event: &Event| {
            let Some(kv) = &event.kv else { return false };
            kv.key == write.key()
                && match write {
                    Write::Put(_, stamp) => event.kind == 0 && kv.value == stamp.bytes(),
                    Write::Delete(_) => event.kind == 1,
                }
        };
        let all = operation.len() == events.len()
            && operation.iter().zip(events).all(|(w, e)| same(w, e));
        if all {
            return Ok(());
        }
        let keys = events.iter().filter_map(|event| event.kv.as_ref());
        let keys: Vec<_> = keys.map(|kv| name(&kv.key)).collect();
        Err(format!(
            "revision {revision} was acknowledged as {operation:?} and shown to watchers as changes of \
            {keys:?}"
        ))
    }

    /// Up to `count` acknowledged writes, each with its revision, anywhere in the history: what a
    /// store has to answer when it is read at that revision, however often the key changed since.
    pub fn samples(&self, dice: &mut Dice, count: usize) -> Vec<(i64, Write)> {
        let (Some(first), Some(last)) = (self.log.keys().next(), self.log.keys().last()) else {
            return Vec::new();
        };
        (0..count)
            .filter_map(|_| {
                let from = dice.range(*first as u64, *last as u64 + 1) as i64;
                let (revision, operation) = self.log.range(from..).next()?;
                let write = operation.get(dice.range(0, operation.len() as u64) as usize)?;
                Some((*revision, write.clone()))
            })
            .collect()
    }

    fn apply(&mut self, operation: &Operation, revision: i64) {
        for write in operation {
            match write {
                Write::Put(key, stamp) => {
                    let before = self.keys.get(key);
                    let expected = Expected {
                        stamp: *stamp,
                        created: before.map_or(revision, |b| b.created),
                        modified: revision,
                        version: before.map_or(1, |b| b.version + 1),
                    };
                    self.keys.insert(key.clone(), expected);
                }
                Write::Delete(key) => {
                    self.keys.remove(key);
                }
            }
        }
    }

    /// Finds out what became of the unanswered operations.
    fn settle(&mut self, kvs: &[KeyValue], settled: bool, wrong: &mut Violations) {
        for pending in std::mem::take(&mut self.pending) {
            let found: Vec<Option<&KeyValue>> = pending
                .operation
                .iter()
                .map(|write| find(kvs, write.key()))
                .collect();
            if let Some(revision) = self.happened(&pending, &found) {
                self.applied += 1;
                self.apply(&pending.operation, revision);
            } else if self.did_not_happen(&pending.operation, &found) {
                if !settled {
                    self.pending.push(pending);
                }
            } else {
                wrong.add(format!(
                    "an unanswered operation is neither wholly there nor wholly absent: \
                     {:?}, of which there are {:?}",
                    pending.operation,
                    found
                        .iter()
                        .flatten()
                        .map(|kv| name(&kv.key))
                        .collect::<Vec<_>>()
                ));
                // Its keys are reported once, here.
                for write in &pending.operation {
                    self.keys.remove(write.key());
                }
            }
        }
    }

    /// The revision at which the whole operation happened. For a delete, which leaves none behind,
    /// the last one its session saw: nothing refers to it.
    fn happened(&self, pending: &Pending, found: &[Option<&KeyValue>]) -> Option<i64> {
        let mut revision = None;
        for (write, found) in pending.operation.iter().zip(found) {
            match (write, found) {
                (Write::Put(_, stamp), Some(kv)) if kv.value == stamp.bytes() => {
                    if revision.is_some_and(|r| r != kv.mod_revision) {
                        return None;
                    }
                    revision = Some(kv.mod_revision);
                }
                (Write::Delete(key), None) if self.keys.contains_key(key) => {}
                _ => return None,
            }
        }
        let revision = revision.unwrap_or(pending.after);
        (revision >= pending.after).then_some(revision)
    }

    fn did_not_happen(&self, operation: &Operation, found: &[Option<&KeyValue>]) -> bool {
        operation.iter().zip(found).all(|(write, found)| {
            match (self.keys.get(write.key()), found) {
                (Some(expected), Some(kv)) => expected.matches(kv),
                (None, None) => true,
                _ => false,
            }
        })
    }

    /// Walks both in key order.
    fn compare(&self, kvs: &[KeyValue], wrong: &mut Violations) {
        let mut found = kvs.iter().peekable();
        for (key, expected) in &self.keys {
            while let Some(extra) = found.next_if(|kv| kv.key < *key) {
                wrong.add(format!("{} is there and nobody wrote it", name(&extra.key)));
            }
            match found.next_if(|kv| kv.key == *key) {
                None => wrong.add(format!("{} is lost: expected {expected:?}", name(key))),
                Some(kv) if !expected.matches(kv) => wrong.add(format!(
                    "{} is not as acknowledged: expected {expected:?}, found create {} mod {} \
                     version {} and {} bytes starting `{}`",
                    name(key),
                    kv.create_revision,
                    kv.mod_revision,
                    kv.version,
                    kv.value.len(),
                    name(&kv.value[..kv.value.len().min(40)])
                )),
                Some(_) => {}
            }
        }
        for extra in found {
            wrong.add(format!("{} is there and nobody wrote it", name(&extra.key)));
        }
    }
}

impl Write {
    /// Is `found`, the key as read at `revision`, what this write left there?
    pub fn check(&self, revision: i64, found: Option<&KeyValue>) -> Result<(), String> {
        let good = match (self, found) {
            (Self::Put(_, stamp), Some(kv)) => {
                kv.mod_revision == revision && kv.value == stamp.bytes()
            }
            (Self::Delete(_), None) => true,
            _ => false,
        };
        if good {
            return Ok(());
        }
        let found = found.map(|kv| (kv.mod_revision, kv.version, kv.value.len()));
        Err(format!(
            "read at revision {revision}, after {self:?}, found (mod, version, bytes) {found:?}"
        ))
    }
}

fn find<'a>(kvs: &'a [KeyValue], key: &[u8]) -> Option<&'a KeyValue> {
    kvs.binary_search_by(|kv| kv.key.as_slice().cmp(key))
        .ok()
        .map(|at| &kvs[at])
}

/// Bytes, readable.
pub(crate) fn name(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

#[derive(Default)]
struct Violations {
    listed: Vec<String>,
    count: usize,
}

impl Violations {
    fn add(&mut self, violation: String) {
        self.count += 1;
        if self.listed.len() < LISTED_MAX {
            self.listed.push(violation);
        }
    }

    fn verdict(self) -> Result<(), String> {
        if self.count == 0 {
            return Ok(());
        }
        Err(format!(
            "{} violations:\n  {}",
            self.count,
            self.listed.join("\n  ")
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn stamp(sequence: u64) -> Stamp {
        Stamp {
            session: 1,
            sequence,
            len: 50,
        }
    }

    fn put(key: &str, sequence: u64) -> Write {
        Write::Put(key.into(), stamp(sequence))
    }

    fn kv(key: &str, sequence: u64, created: i64, modified: i64, version: i64) -> KeyValue {
        KeyValue {
            key: key.into(),
            create_revision: created,
            mod_revision: modified,
            version,
            value: stamp(sequence).bytes(),
            lease: 0,
        }
    }

    /// a put twice (revisions 2, 4), b once (3); then an unanswered transaction over c and d.
    fn history() -> History {
        let mut history = History::new(1);
        let acked = vec![
            (2, vec![put("a", 1)]),
            (3, vec![put("b", 2)]),
            (4, vec![put("a", 3)]),
        ];
        let unknown = Some(vec![put("c", 4), put("d", 4)]);
        history
            .record(Session { acked, unknown })
            .expect("revisions rise");
        history
    }

    fn good() -> Vec<KeyValue> {
        vec![kv("a", 3, 2, 4, 2), kv("b", 2, 3, 3, 1)]
    }

    #[test]
    fn unanswered_may_be_wholly_absent_or_wholly_there() {
        history().check(4, &good(), true).expect("absent");
        let mut with = good();
        with.extend([kv("c", 4, 5, 5, 1), kv("d", 4, 5, 5, 1)]);
        let mut there = history();
        there.check(5, &with, true).expect("there");
        assert_eq!((there.acked(), there.unknown()), (3, (1, 1)));
        there.check(5, &with, true).expect("still there");
    }

    #[test]
    fn settled_operations_do_not_come_back() {
        let mut with = good();
        with.extend([kv("c", 4, 5, 5, 1), kv("d", 4, 5, 5, 1)]);
        let mut settled = history();
        settled.check(4, &good(), true).expect("absent");
        assert!(settled.check(5, &with, true).is_err());
        let mut open = history();
        open.check(4, &good(), false).expect("absent");
        open.check(5, &with, false).expect("came late");
    }

    #[test]
    fn planted_faults_are_found() {
        type Fault = (&'static str, i64, fn(&mut Vec<KeyValue>));
        let faults: [Fault; 10] = [
            ("is lost", 4, |kvs| drop(kvs.remove(0))),
            ("is not as acknowledged", 4, |kvs| kvs[0].mod_revision = 3),
            ("is not as acknowledged", 4, |kvs| kvs[0].version = 1),
            ("is not as acknowledged", 4, |kvs| {
                kvs[0].create_revision = 4
            }),
            ("is not as acknowledged", 4, |kvs| kvs[1].value[40] ^= 1),
            ("nobody wrote it", 4, |kvs| kvs.push(kv("z", 9, 4, 4, 1))),
            ("went back from 4 to 3", 3, |_| {}),
            ("3 changes were made", 5, |_| {}),
            ("neither wholly there", 5, |kvs| {
                kvs.push(kv("c", 4, 5, 5, 1))
            }),
            ("neither wholly there", 6, |kvs| {
                kvs.extend([kv("c", 4, 5, 5, 1), kv("d", 4, 6, 6, 1)]);
            }),
        ];
        for (text, revision, plant) in faults {
            let mut kvs = good();
            plant(&mut kvs);
            let error = history().check(revision, &kvs, true).expect_err(text);
            assert!(error.contains(text), "expected `{text}` in: {error}");
        }
    }

    #[test]
    fn an_unanswered_delete_may_be_either_way() {
        let mut history = History::new(1);
        let acked = vec![(2, vec![put("a", 1)])];
        let unknown = Some(vec![Write::Delete(b"a".to_vec())]);
        history
            .record(Session { acked, unknown })
            .expect("one revision");
        history
            .clone()
            .check(2, &[kv("a", 1, 2, 2, 1)], true)
            .expect("not deleted");
        history.clone().check(3, &[], true).expect("deleted");
        assert!(
            history.check(2, &[], true).is_err(),
            "a delete takes a revision"
        );
    }

    #[test]
    fn acknowledged_revisions_rise_and_are_used_once() {
        let session = |revisions: [i64; 2]| Session {
            acked: revisions
                .into_iter()
                .map(|r| (r, vec![put("a", 1)]))
                .collect(),
            unknown: None,
        };
        assert!(History::new(1).record(session([3, 2])).is_err());
        let mut history = History::new(1);
        history.record(session([2, 3])).expect("rising");
        assert!(history.record(session([3, 4])).is_err());
    }

    #[test]
    fn samples_are_checked_as_of_their_revision() {
        let history = history();
        let samples = history.samples(&mut Dice::new(1), 50);
        assert_eq!(samples.len(), 50);
        let as_of = |revision| match revision {
            2 => kv("a", 1, 2, 2, 1),
            3 => kv("b", 2, 3, 3, 1),
            _ => kv("a", 3, 2, 4, 2),
        };
        for (revision, write) in samples {
            write
                .check(revision, Some(&as_of(revision)))
                .expect("as acknowledged");
            assert!(write.check(revision, None).is_err());
            let mut later = as_of(revision);
            later.mod_revision += 1;
            assert!(write.check(revision, Some(&later)).is_err());
        }
        assert!(History::new(1).samples(&mut Dice::new(1), 5).is_empty());
    }

    #[test]
    fn values_differ_and_have_their_length() {
        assert_eq!(stamp(1).bytes().len(), 50);
        assert_ne!(stamp(1).bytes()[33..], stamp(2).bytes()[33..]);
        assert_eq!(
            Stamp {
                session: 0,
                sequence: 0,
                len: 5
            }
            .bytes()
            .len(),
            33
        );
    }
}
