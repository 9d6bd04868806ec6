//! The stores of a log's groups as far as the log can be read, and which of their keys may be wrong.
//!
//! Entries are applied in order, over whatever is missing between them. What an entry that cannot be read did
//! is not known, so from there on:
//!
//! | key                                              | is                                            |
//! |--------------------------------------------------|-----------------------------------------------|
//! | was there when entries are missing               | doubtful: changed or deleted in between?      |
//! | put later, without conditions                    | sure again                                    |
//! | deleted later, without conditions                | sure not to be there                          |
//! | named by a later transaction, lease, or put with | doubtful: the outcome depends on what is      |
//! | a lease                                          |                                               |
//! | not there                                        | may be missing, and nobody knows its name     |
//! | revisions                                        | may be too low, by the entries missing        |
//!
//! An entry whose batch has one wrong byte that its checksum tells (`henge_wal`'s `doubtful`) is applied, and
//! so is one that recovery cuts, as nothing shows that it was acknowledged; the keys it names are doubtful,
//! and no others.
//! Promises: no key that is wrong is missing among the doubtful ones, but for those whose names are gone
//! ([`Salvaged::may_miss_keys`]). Must never know: files, how it is shown.

use std::collections::{BTreeMap, VecDeque};

use henge::mvcc::{self as mvcc, KeyRange, RangeRequest, RequestOp};
use henge_wal::{Damage, Record, Replay};

use henge::machine::{Command, Machine, command};

/// Why a key may be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Doubt {
    /// Named by an entry that nothing shows to be acknowledged.
    Uncommitted,
    /// Named by an entry of a batch with one wrong byte, put right by its checksum.
    Corrected,
    /// Its last change depends on what is doubtful.
    Depends,
    /// Not written again since entries went missing.
    Stale,
}

impl Doubt {
    /// For people, and for programs.
    pub fn text(self) -> &'static str {
        match self {
            Doubt::Uncommitted => "nothing shows that its last change was acknowledged",
            Doubt::Corrected => "a wrong byte near its last change was put right by a checksum",
            Doubt::Depends => "its last change depends on what is doubtful",
            Doubt::Stale => "entries that may have changed it are missing",
        }
    }
}

/// Entries that are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hole {
    /// First index.
    pub first: u64,
    /// Last index; `None`: nobody knows.
    pub last: Option<u64>,
    /// The store's revision before it.
    pub revision: i64,
}

/// What was brought out of one group.
pub struct Salvaged {
    /// Its store.
    pub machine: Machine,
    /// Keys that may be wrong, whether they are in the store or not.
    pub doubtful: BTreeMap<Vec<u8>, Doubt>,
    /// Entries that are missing.
    pub holes: Vec<Hole>,
    /// Entries that were put right by a checksum.
    pub corrected: u64,
    /// Entries applied though nothing shows that they were acknowledged.
    pub uncommitted: u64,
    /// Keys may be missing of which nobody knows the names.
    pub may_miss_keys: bool,
}

enum Held {
    Entry {
        index: u64,
        term: u64,
        payload: Vec<u8>,
        doubt: Option<Doubt>,
    },
    Hole {
        first: u64,
        last: u64,
    },
}

impl Held {
    fn first(&self) -> u64 {
        match self {
            Held::Entry { index, .. } => *index,
            Held::Hole { first, .. } => *first,
        }
    }

    fn last(&self) -> u64 {
        match self {
            Held::Entry { index, .. } => *index,
            Held::Hole { last, .. } => *last,
        }
    }
}

struct Group {
    salvaged: Salvaged,
    /// What was cut cannot be read.
    unread: bool,
    /// Not applied yet, in order.
    tail: VecDeque<Held>,
    commit: u64,
    /// Entries that recovery does not believe, until it says what became of their batch.
    doubtful: BTreeMap<u64, (u64, Vec<u8>)>,
}

/// Collects groups while a log is replayed.
#[derive(Default)]
pub struct Collector {
    groups: BTreeMap<u64, Group>,
}

impl Collector {
    /// A group that begins with a checkpoint.
    pub fn restored(&mut self, group: u64, machine: Machine) {
        self.groups.insert(group, Group::new(machine));
    }

    /// A group whose checkpoint, up to that entry, cannot be read.
    pub fn without_checkpoint(&mut self, group: u64, index: u64) {
        let group = self.group(group);
        group.tail.push_back(Held::Hole {
            first: 1,
            last: index,
        });
        group.commit = group.commit.max(index);
        group.apply_to(index);
    }

    /// All that was found.
    pub fn finish(self) -> BTreeMap<u64, Salvaged> {
        let groups = self.groups.into_iter();
        groups.map(|(id, group)| (id, group.finish())).collect()
    }

    fn group(&mut self, id: u64) -> &mut Group {
        let empty = || Group::new(Machine::default());
        self.groups.entry(id).or_insert_with(empty)
    }
}

impl Replay for Collector {
    fn record(&mut self, record: Record<'_>) {
        match record {
            Record::Entry {
                group,
                term,
                index,
                kind,
                payload,
            } => {
                let group = self.group(group);
                group.doubtful.clear();
                group.push(term, index, as_command(kind, payload), None);
            }
            Record::HardState { group, commit, .. } => {
                let group = self.group(group);
                group.commit = group.commit.max(commit);
                group.apply_to(group.commit);
            }
            Record::Restored { group, index, .. } => {
                let group = self.group(group);
                group.tail.clear();
                group.lost(group.next(), index);
            }
            Record::Removed { group } => {
                self.groups.remove(&group);
            }
            _ => {}
        }
    }

    fn lost(&mut self, group: u64, first: u64, last: u64) {
        self.group(group).lost(first, last);
    }

    fn wants_doubtful(&self) -> bool {
        true
    }

    fn doubtful(&mut self, record: Record<'_>) {
        if let Record::Entry {
            group,
            term,
            index,
            kind,
            payload,
        } = record
        {
            let payload = as_command(kind, payload).to_vec();
            self.group(group).doubtful.insert(index, (term, payload));
        }
    }

    fn unread(&mut self) {
        for group in self.groups.values_mut() {
            group.unread = true;
        }
    }
}

/// What is applied of an entry: one that changes the membership changes no key.
fn as_command(kind: u8, payload: &[u8]) -> &[u8] {
    match kind {
        0 => payload,
        _ => &[],
    }
}

impl Group {
    fn new(machine: Machine) -> Self {
        Group {
            salvaged: Salvaged {
                machine,
                doubtful: BTreeMap::new(),
                holes: Vec::new(),
                corrected: 0,
                uncommitted: 0,
                may_miss_keys: false,
            },
            unread: false,
            tail: VecDeque::new(),
            commit: 0,
            doubtful: BTreeMap::new(),
        }
    }

    /// The first index that is neither applied nor held.
    fn next(&self) -> u64 {
        let held = self.tail.back().map_or(0, Held::last);
        held.max(self.salvaged.machine.applied_index)
            .saturating_add(1)
    }

    fn push(&mut self, term: u64, index: u64, payload: &[u8], doubt: Option<Doubt>) {
        if index <= self.salvaged.machine.applied_index {
            return;
        }
        self.cut_from(index);
        self.tail.push_back(Held::Entry {
            index,
            term,
            payload: payload.to_vec(),
            doubt,
        });
    }

    /// Another entry takes the place of this one and of all after it.
    fn cut_from(&mut self, index: u64) {
        while self.tail.back().is_some_and(|held| held.last() >= index) {
            match self.tail.pop_back() {
                // What of it comes before is still missing.
                Some(Held::Hole { first, .. }) if first < index => {
                    let last = index - 1;
                    self.tail.push_back(Held::Hole { first, last });
                    return;
                }
                _ => {}
            }
        }
    }

    /// These entries cannot be read; those that could be corrected take their places.
    fn lost(&mut self, first: u64, last: u64) {
        let corrected = std::mem::take(&mut self.doubtful);
        let known = last.saturating_sub(first) < corrected.len() as u64
            && (first..=last).all(|index| corrected.contains_key(&index));
        let applied = self.salvaged.machine.applied_index;
        if last <= applied {
            // In the checkpoint it began with, or its place was taken.
            return;
        }
        if !known {
            let first = first.max(applied + 1);
            self.cut_from(first);
            self.tail.push_back(Held::Hole { first, last });
            return;
        }
        for (index, (term, payload)) in corrected {
            self.push(term, index, &payload, Some(Doubt::Corrected));
        }
    }

    /// Apply what is held, as far as it goes on where the last one ended. What is between may come yet: a
    /// group that pinned an old segment is written again, whole.
    fn apply_to(&mut self, commit: u64) {
        while let Some(held) = self.tail.front() {
            let follows = held.first() <= self.salvaged.machine.applied_index.saturating_add(1);
            if held.first() > commit || !follows {
                return;
            }
            if let Some(held) = self.tail.pop_front() {
                self.salvaged.apply(held);
            }
        }
    }

    fn finish(mut self) -> Salvaged {
        // What was cut: it may have been acknowledged.
        for (index, (term, payload)) in std::mem::take(&mut self.doubtful) {
            if index <= self.next() {
                self.push(term, index, &payload, Some(Doubt::Uncommitted));
            }
        }
        // What recovery accepts is committed as soon as a member that is alone starts.
        while let Some(held) = self.tail.pop_front() {
            let next = self.salvaged.machine.applied_index.saturating_add(1);
            if held.first() > next {
                let last = held.first() - 1;
                self.salvaged.apply(Held::Hole { first: next, last });
            }
            self.salvaged.apply(held);
        }
        if self.unread {
            let next = self.salvaged.machine.applied_index.saturating_add(1);
            self.salvaged.miss(next, Damage::NO_END);
        }
        self.salvaged
    }
}

impl Salvaged {
    fn apply(&mut self, held: Held) {
        match held {
            Held::Hole { first, last } => {
                self.miss(first, last);
                if last < Damage::NO_END {
                    let applied = &mut self.machine.applied_index;
                    *applied = (*applied).max(last);
                }
            }
            Held::Entry {
                index,
                term,
                payload,
                doubt,
            } => self.enter(index, term, &payload, doubt),
        }
    }

    /// Entries are missing: whatever is there may have been changed by them.
    fn miss(&mut self, first: u64, last: u64) {
        self.holes.push(Hole {
            first,
            last: (last < Damage::NO_END).then_some(last),
            revision: self.machine.store.revision(),
        });
        self.may_miss_keys = true;
        for key in self.keys(&KeyRange::all()) {
            self.doubtful.insert(key, Doubt::Stale);
        }
    }

    fn enter(&mut self, index: u64, term: u64, payload: &[u8], doubt: Option<Doubt>) {
        match doubt {
            Some(Doubt::Corrected) => self.corrected += 1,
            Some(Doubt::Uncommitted) => self.uncommitted += 1,
            _ => {}
        }
        if payload.is_empty() {
            (self.machine.applied_index, self.machine.applied_term) = (index, term);
            return;
        }
        let Ok((_, command)) = command::decode(payload) else {
            self.miss(index, index);
            (self.machine.applied_index, self.machine.applied_term) = (index, term);
            return;
        };
        let blind = !self.holes.is_empty();
        let sure = match &command {
            Command::Put(put) => !blind || put.lease == 0 && !put.ignore_value && !put.ignore_lease,
            Command::DeleteRange(_) => true,
            _ => !blind,
        };
        let doubt = doubt.or((!sure).then_some(Doubt::Depends));
        let named = self.named(&command);
        let answer = self.machine.apply(index, term, payload, 0);
        if let (Command::Put(put), Ok(Some((_, Err(_))))) = (&command, &answer)
            && blind
        {
            // Its lease may have been granted in what is missing: the value, at least, is brought out.
            let bare = mvcc::PutRequest {
                lease: 0,
                ..put.clone()
            };
            let _ = self.machine.store.put(&bare);
        }
        match (doubt, &command) {
            (Some(doubt), _) => {
                for key in named {
                    let worst = self.doubtful.entry(key).or_insert(doubt);
                    *worst = (*worst).max(doubt);
                }
            }
            (None, Command::Put(put)) if !put.ignore_value && !put.ignore_lease => {
                self.doubtful.remove(put.key);
            }
            (None, Command::DeleteRange(delete)) => {
                self.doubtful.retain(|key, _| !delete.range.contains(key));
            }
            // Where a doubtful key decides, what follows is doubtful.
            (None, Command::Put(put)) => self.follow(&[put.key.to_vec()], &named),
            (None, Command::Txn(txn)) => {
                let mut asked: Vec<Vec<u8>> = Vec::new();
                self.asked(txn, &mut asked);
                asked.extend(named.iter().cloned());
                self.follow(&asked, &named);
            }
            (None, _) => self.follow(&named, &named),
        }
    }

    /// If any of `causes` is doubtful, all of `effects` are.
    fn follow(&mut self, causes: &[Vec<u8>], effects: &[Vec<u8>]) {
        let any = causes.iter().any(|key| self.doubtful.contains_key(key));
        if any {
            for key in effects {
                self.doubtful.entry(key.clone()).or_insert(Doubt::Depends);
            }
        }
    }

    /// The keys that a command may change.
    fn named(&self, command: &Command<'_>) -> Vec<Vec<u8>> {
        match command {
            Command::Put(put) => vec![put.key.to_vec()],
            Command::DeleteRange(delete) => self.keys(&delete.range),
            Command::Txn(txn) => {
                let mut keys = Vec::new();
                self.written(txn, &mut keys);
                keys
            }
            Command::LeaseRevoke { id } | Command::LeaseExpire { id, .. } => {
                let status = self.machine.store.lease_time_to_live(*id, 0, true);
                let keys = status.map(|status| status.keys).unwrap_or_default();
                keys.iter().map(|key| key.to_vec()).collect()
            }
            _ => Vec::new(),
        }
    }

    /// The keys that a transaction may change, whichever way it goes.
    fn written(&self, txn: &mvcc::TxnRequest<'_>, keys: &mut Vec<Vec<u8>>) {
        for op in txn.success.iter().chain(&txn.failure) {
            match op {
                RequestOp::Put(put) => keys.push(put.key.to_vec()),
                RequestOp::DeleteRange(delete) => {
                    keys.extend(self.keys(&delete.range));
                    let doubtful = self.doubtful.keys();
                    let named = doubtful.filter(|key| delete.range.contains(key));
                    keys.extend(named.cloned());
                }
                RequestOp::Txn(nested) => self.written(nested, keys),
                RequestOp::Range(_) => {}
            }
        }
    }

    /// The doubtful keys that its compares look at.
    fn asked(&self, txn: &mvcc::TxnRequest<'_>, keys: &mut Vec<Vec<u8>>) {
        for compare in &txn.compare {
            let doubtful = self.doubtful.keys();
            keys.extend(doubtful.filter(|key| compare.range.contains(key)).cloned());
        }
        for op in txn.success.iter().chain(&txn.failure) {
            if let RequestOp::Txn(nested) = op {
                self.asked(nested, keys);
            }
        }
    }

    fn keys(&self, range: &KeyRange<'_>) -> Vec<Vec<u8>> {
        let request = RangeRequest {
            range: *range,
            keys_only: true,
            ..RangeRequest::default()
        };
        let found = self.machine.store.range(&request).unwrap_or_default();
        found.kvs.into_iter().map(|kv| kv.key.to_vec()).collect()
    }
}
