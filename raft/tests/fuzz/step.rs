//! Any messages, any calls in any order, and a storage that answers whatever it likes: the node does not
//! panic, does not loop, takes no memory without end; and once it has stopped, it stays stopped.

use std::cell::RefCell;

use henge_raft::membership::{ConfChangeKind, ConfChangeV2};
use henge_raft::{
    ConfState, Config, Entry, EntryKind, HardState, LOCAL_APPEND_THREAD, LOCAL_APPLY_THREAD,
    MemoryStorage, Message, RawNode, ReadOnly, Ready, Snapshot, SnapshotStatus, StepError, Storage,
    StorageError, is_local_target,
};

use crate::common::allocations;
use crate::source::Source;

/// Readys in a row: a node that has more work than that has work without end.
const READYS_MAX: usize = 100;
/// What a script may allocate, in bytes, for each of its bytes, and once. Each byte can be a call, and
/// each call can make the node read its whole log and send it to everyone.
const BYTES_PER_BYTE_MAX: u64 = 1 << 16;
const BYTES_ONCE_MAX: u64 = 1 << 20;

/// Answers truthfully until told otherwise: then each answer is decided by the next of these bytes.
struct Whims {
    truth: MemoryStorage,
    lies: RefCell<Vec<u8>>,
}

impl Whims {
    /// What to answer instead of the truth, if anything.
    fn whim<T>(&self, lie: impl FnOnce(&mut Source<'_>) -> T) -> Option<Result<T, StorageError>> {
        let mut lies = self.lies.borrow_mut();
        let answer = match lies.pop()? {
            0..=99 => return None,
            100..=119 => Err(StorageError::Compacted),
            120..=159 => Err(StorageError::Unavailable),
            160..=179 => Err(StorageError::SnapshotTemporarilyUnavailable),
            180..=189 => Err(StorageError::Other("a whim".to_string())),
            _ => {
                let taken = lies.len().saturating_sub(8);
                let bytes = lies.split_off(taken);
                Ok(lie(&mut Source(&bytes)))
            }
        };
        Some(answer)
    }
}

impl Storage for Whims {
    fn initial_state(&self) -> Result<(HardState, ConfState), StorageError> {
        let lie = |source: &mut Source<'_>| {
            let state = HardState {
                term: source.number(),
                vote: source.number(),
                commit: source.number(),
            };
            (state, source.conf_state())
        };
        self.whim(lie).unwrap_or_else(|| self.truth.initial_state())
    }

    fn entries(&self, lo: u64, hi: u64, max_bytes: u64) -> Result<Vec<Entry>, StorageError> {
        self.whim(|source| source.entries().to_vec())
            .unwrap_or_else(|| self.truth.entries(lo, hi, max_bytes))
    }

    fn term(&self, index: u64) -> Result<u64, StorageError> {
        self.whim(|source| source.number())
            .unwrap_or_else(|| self.truth.term(index))
    }

    fn first_index(&self) -> Result<u64, StorageError> {
        self.whim(|source| source.number())
            .unwrap_or_else(|| self.truth.first_index())
    }

    fn last_index(&self) -> Result<u64, StorageError> {
        self.whim(|source| source.number())
            .unwrap_or_else(|| self.truth.last_index())
    }

    fn snapshot(&self) -> Result<Snapshot, StorageError> {
        self.whim(|source| source.snapshot())
            .unwrap_or_else(|| self.truth.snapshot())
    }
}

/// Returns what the input showed: see `main`.
pub fn step(input: &[u8]) -> Vec<u64> {
    let (_, before) = allocations::so_far();
    let mut shown = Vec::new();
    let mut source = Source(input);
    if let Some(mut node) = start(&mut source) {
        while !source.is_empty() {
            let call = source.below(24);
            let outcome = act(&mut node, call, &mut source);
            let stopped = u64::from(node.fault().is_some());
            let role = node.role() as u64;
            shown.push((u64::from(call) << 16) | (outcome << 8) | (role << 1) | stopped);
            if node.fault().is_some() {
                assert!(!node.has_ready());
                assert_eq!(node.ready(), Ready::default());
            }
            assert!(node.commit_index() <= node.last_index());
        }
    }
    let (_, after) = allocations::so_far();
    let limit = BYTES_PER_BYTE_MAX * input.len() as u64 + BYTES_ONCE_MAX;
    assert!(after - before <= limit, "{} bytes", after - before);
    shown
}

fn start(source: &mut Source<'_>) -> Option<RawNode<Whims>> {
    let options = source.byte();
    let mut truth = match options & 3 {
        0 => MemoryStorage::new(),
        1 => MemoryStorage::with_voters(&[1]),
        _ => MemoryStorage::with_voters(&[1, 2, 3]),
    };
    if options & 4 != 0 {
        let entries = (2..8).map(|index| Entry {
            term: 1 + index / 4,
            index,
            ..Entry::default()
        });
        let _ = truth.append(&entries.collect::<Vec<_>>());
    }
    let lies = match options & 8 {
        0 => Vec::new(),
        _ => (0..8).map(|_| source.byte()).collect(),
    };
    let config = Config {
        async_storage_writes: options & 16 != 0,
        pre_vote: options & 32 != 0,
        check_quorum: options & 64 != 0,
        read_only: match options & 192 {
            192 => ReadOnly::LeaseBased,
            _ => ReadOnly::Safe,
        },
        applied: match source.below(4) {
            0 => source.number(),
            _ => 0,
        },
        max_size_per_msg: source.number(),
        max_uncommitted_entries_size: source.number(),
        max_inflight_msgs: source.number() as usize,
        disable_conf_change_validation: source.below(4) == 0,
        ..Config::new(1)
    };
    let lies = RefCell::new(lies);
    RawNode::new(config, Whims { truth, lies }).ok()
}

/// One call. Returns which of its outcomes it was.
fn act(node: &mut RawNode<Whims>, call: u8, source: &mut Source<'_>) -> u64 {
    match call {
        0..8 => {
            let mut message = source.message(1);
            // Most would only be late, or early.
            if source.below(4) != 0 {
                message.term = node.term() + u64::from(source.below(2));
            }
            return outcome(node.step(message));
        }
        8..12 => return work(node, source),
        12 => node.tick(),
        13 => (0..20).for_each(|_| node.tick()),
        14 => return outcome(node.campaign()),
        15 => return u64::from(node.propose(source.payload()).is_ok()),
        16 => node.read_index(source.payload()),
        17 => {
            let change = change(source);
            return u64::from(node.propose_conf_change(&change).is_ok());
        }
        18 => return u64::from(node.apply_conf_change(&change(source)).is_ok()),
        19 => node.transfer_leader(source.number()),
        20 => node.forget_leader(),
        21 => node.report_unreachable(source.number()),
        22 => {
            let status = match source.flag() {
                true => SnapshotStatus::Finish,
                false => SnapshotStatus::Failure,
            };
            node.report_snapshot(source.number(), status);
        }
        _ => {
            let count = source.below(32);
            let lies = (0..count).map(|_| source.byte()).collect();
            node.storage_mut().lies = RefCell::new(lies);
        }
    }
    0
}

fn change(source: &mut Source<'_>) -> ConfChangeV2 {
    let kind = match source.below(3) {
        0 => ConfChangeKind::AddNode,
        1 => ConfChangeKind::AddLearnerNode,
        _ => ConfChangeKind::RemoveNode,
    };
    let mut change = ConfChangeV2::single(kind, source.number());
    let more = ConfChangeV2::single(ConfChangeKind::AddNode, source.number());
    match source.below(4) {
        0 => change.changes.clear(),
        1 => change.changes.extend(more.changes),
        _ => {}
    }
    change
}

/// Does what there is to do, or leaves some of it undone, as a broken host would.
fn work(node: &mut RawNode<Whims>, source: &mut Source<'_>) -> u64 {
    let is_careless = source.below(8) == 0;
    for round in 0..READYS_MAX {
        if !node.has_ready() {
            return round.min(3) as u64;
        }
        let ready = node.ready();
        // Touching storage without need would tell the node to ask again for what was unavailable.
        if ready.must_sync || ready.snapshot.is_some() {
            let storage = node.storage_mut();
            if let Some(snapshot) = ready.snapshot {
                let _ = storage.truth.apply_snapshot(snapshot);
            }
            let _ = storage.truth.append(&ready.entries);
            storage.truth.set_hard_state(ready.hard_state);
        }
        apply(node, &ready.committed_entries);
        for message in ready.messages {
            if is_local_target(message.to) && !(is_careless && source.flag()) {
                local(node, message);
            }
        }
        if !(is_careless && source.flag()) {
            node.advance();
        }
        // Unread bytes may have ended: then every careless answer is the same one.
        if is_careless && source.is_empty() {
            return 4;
        }
    }
    panic!("there is always more to do: {:?}", node.status())
}

fn local(node: &mut RawNode<Whims>, message: Message) {
    match message.to {
        LOCAL_APPEND_THREAD => {
            let storage = &mut node.storage_mut().truth;
            if let Some(snapshot) = message.snapshot.clone() {
                let _ = storage.apply_snapshot(*snapshot);
            }
            let _ = storage.append(&message.entries);
            storage.set_hard_state(message.hard_state());
        }
        LOCAL_APPLY_THREAD => apply(node, &message.entries),
        _ => {}
    }
    for response in message.responses {
        if response.to == node.id() {
            let _ = node.step(response);
        }
    }
}

fn apply(node: &mut RawNode<Whims>, entries: &[Entry]) {
    for entry in entries {
        if entry.kind != EntryKind::Normal
            && let Ok(change) = ConfChangeV2::from_entry(entry.kind, &entry.data)
        {
            let _ = node.apply_conf_change(&change);
        }
    }
}

fn outcome(result: Result<(), StepError>) -> u64 {
    match result {
        Ok(()) => 0,
        Err(StepError::LocalMessage { .. }) => 1,
        Err(StepError::PeerNotFound { .. }) => 2,
        Err(StepError::WrongTarget { .. }) => 3,
        Err(StepError::Malformed { .. }) => 4,
        Err(StepError::ConflictsWithCommitted { .. }) => 5,
        Err(StepError::AckBeyondLog { .. }) => 6,
        Err(StepError::CommitBeyondLog { .. }) => 7,
        Err(StepError::BadSnapshot { .. }) => 8,
        Err(StepError::AppliedOutOfRange { .. }) => 9,
        Err(StepError::Proposal(_)) => 10,
        Err(StepError::Poisoned(_)) => 11,
        Err(_) => 12,
    }
}
