//! The [`Ready`]: all work there is, handed over; and what it is answered with.
//!
//! Promises: what is handed over once is not handed over again; a message that rests on something
//! durable is never among those that may go at once.
//! Must never know: how the host does the work.
//! Tests: `tests/cluster.rs`, and every transcript prints every Ready.

use bytes::Bytes;

use crate::entries::Entries;
use crate::message::{
    Entry, HardState, LOCAL_APPEND_THREAD, LOCAL_APPLY_THREAD, Message, MessageKind, Snapshot,
    SoftState,
};
use crate::node::RawNode;
use crate::storage::{Storage, StorageError};

/// Room kept between two Readys for what a busy group has in each of them; more is given back.
const STEPS_KEPT_MAX: usize = 4;

/// A read that was asked for with [`RawNode::read_index`] may be served.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadState {
    /// As soon as this index is applied.
    pub index: u64,
    /// What was given to `read_index`.
    pub context: Bytes,
}

/// Everything the host must do now. It is handed out once: what is in it is not repeated.
///
/// **Synchronous** (`async_storage_writes` off). In this order:
/// 1. Store `entries` (one at index i replaces all stored ones from i on), `hard_state` unless it is
///    empty, and `snapshot`; durably, if `must_sync`.
/// 2. Send `messages`. A leader's [`MessageKind::App`]s may be sent before step 1 is done (thesis,
///    10.2.1); everything else only after. Report snapshots that were sent with
///    [`RawNode::report_snapshot`].
/// 3. Apply `snapshot`, then `committed_entries`. Membership changes among them go to
///    [`RawNode::apply_conf_change`] (one that the host decides against: with node 0).
/// 4. Call [`RawNode::advance`], before the next Ready is taken.
///
/// **Asynchronous** (`async_storage_writes` on). `messages` also has messages to two local threads, and
/// there is no `advance`. `entries` and `committed_entries` stay empty: they are in those messages.
/// - [`MessageKind::StorageAppend`] to [`LOCAL_APPEND_THREAD`]: store its entries, its
///   [hard state](Message::hard_state) unless that is empty, and its snapshot; when all that is
///   durable, deliver its `responses` (to peers, or to our own [`RawNode::step`]). Without responses
///   there is no hurry; but responses of a later one rest on everything before it, too. Only a commit
///   index may be lost (a hard state whose term and vote are those stored before).
/// - [`MessageKind::StorageApply`] to [`LOCAL_APPLY_THREAD`]: apply its entries, then deliver its
///   `responses`. It need not be durable. A snapshot can overtake it: entries up to the index of a
///   snapshot that is applied already are skipped.
/// - Messages to one thread are handled in order, and none is ever dropped. The two threads do not
///   wait for each other. All other messages may be sent at once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ready {
    /// Leader and role, if they changed. Need not be stored.
    pub soft_state: Option<SoftState>,
    /// To be stored; empty if unchanged.
    pub hard_state: HardState,
    /// Reads that can be served, each as soon as its index is applied.
    pub read_states: Vec<ReadState>,
    /// To be stored. Synchronous mode only.
    pub entries: Entries,
    /// To be stored and applied.
    pub snapshot: Option<Snapshot>,
    /// To be applied. Synchronous mode only.
    pub committed_entries: Entries,
    /// To be sent; in asynchronous mode, also to the local threads.
    pub messages: Vec<Message>,
    /// Whether entries, term or vote are to be stored. A commit index alone can be lost.
    pub must_sync: bool,
}

impl<S: Storage> RawNode<S> {
    /// Whether [`RawNode::ready`] would return work.
    pub fn has_ready(&self) -> bool {
        let raft = &self.raft;
        raft.fault.is_none()
            && (!raft.messages.is_empty()
                || !raft.messages_after_append.is_empty()
                || raft.log.unstable.new_count() > 0
                || raft.log.has_next_committed(!self.is_async)
                || !raft.read_states.is_empty()
                || raft.log.unstable.new_snapshot().is_some()
                || raft.soft_state() != self.soft_before
                || raft.hard_state() != self.hard_before)
    }

    /// All work there is, handed over: see [`Ready`]. Empty after a [`Fault`](crate::Fault).
    pub fn ready(&mut self) -> Ready {
        self.raft.check_invariants(self.hard_before);
        let committed = self.next_committed();
        if self.raft.fault.is_some() {
            return Ready::default();
        }
        let entries = self.raft.log.unstable.new_entries();
        let mut ready = Ready {
            soft_state: self.changed_soft_state(),
            read_states: std::mem::take(&mut self.raft.read_states),
            snapshot: self.raft.log.unstable.new_snapshot().cloned(),
            messages: std::mem::take(&mut self.raft.messages),
            ..Ready::default()
        };
        let (before, now) = (self.hard_before, self.raft.hard_state());
        ready.must_sync = !entries.is_empty() || now.vote != before.vote || now.term != before.term;
        if now != before {
            ready.hard_state = now;
            self.hard_before = now;
        }
        let answer = self.append_response(&ready);
        self.raft.log.unstable.accept_in_progress();
        self.accept_committed(&committed);
        if self.is_async {
            let after_append = std::mem::take(&mut self.raft.messages_after_append);
            attach_append(&mut ready, self.raft.id, entries, after_append, answer);
            attach_apply(&mut ready, self.raft.id, committed);
        } else {
            self.keep_for_advance(&mut ready, answer, &committed);
            ready.entries = entries;
            ready.committed_entries = committed;
        }
        ready
    }

    /// Everything in the last Ready is done. Synchronous mode only; does nothing otherwise.
    pub fn advance(&mut self) {
        let mut steps = std::mem::take(&mut self.steps_on_advance);
        for message in steps.drain(..) {
            // These are our own answers to ourselves; what they can run into is logged there.
            let _ = self.local(message);
        }
        if steps.capacity() <= STEPS_KEPT_MAX {
            self.steps_on_advance = steps;
        }
    }

    fn next_committed(&mut self) -> Entries {
        match self.raft.log.next_committed(!self.is_async) {
            Ok(entries) => entries,
            Err(StorageError::Unavailable) => {
                // Ask again when something happens, not over and over.
                self.raft.log.waits_for_storage = true;
                Entries::new()
            }
            Err(error) => {
                self.raft.poison_storage("read committed entries", error);
                Entries::new()
            }
        }
    }

    fn changed_soft_state(&mut self) -> Option<SoftState> {
        let now = self.raft.soft_state();
        let is_changed = now != self.soft_before;
        self.soft_before = now;
        is_changed.then_some(now)
    }

    fn accept_committed(&mut self, committed: &[Entry]) {
        if let Some(last) = committed.last() {
            let size = committed.iter().map(Entry::size).sum();
            self.raft
                .log
                .accept_applying(last.index, size, !self.is_async);
        }
    }

    /// What tells us, when all that is unstable now is durable, that it is.
    ///
    /// It carries our term, and an answer from an earlier term is ignored. Index and term of the last
    /// entry alone would not do (the ABA problem): entries 5/2 may be written, replaced by 5/3 from
    /// another leader, and replaced again by the same 5/2 from the first one. When the first write is
    /// reported, storage will still be overwritten twice, and must not be read yet. Replacing entries
    /// takes a new leader, so while the term is the same nobody has replaced anything.
    ///
    /// Since answers get ignored, each new term must produce one, or the tail would stay in memory for
    /// ever: hence it is asked for whenever there is a tail, not only when entries are new (a new term
    /// always has a hard state to store), and it is about the last entry.
    fn append_response(&self, ready: &Ready) -> Option<Message> {
        let log = &self.raft.log;
        if log.unstable.is_empty() && ready.snapshot.is_none() {
            return None;
        }
        let mut answer = Message {
            kind: MessageKind::StorageAppendResp,
            to: self.raft.id,
            from: LOCAL_APPEND_THREAD,
            term: self.raft.term,
            snapshot: ready.snapshot.clone().map(Box::new),
            ..Message::default()
        };
        if !log.unstable.is_empty() {
            answer.index = log.last().index;
            answer.log_term = log.last().term;
        }
        Some(answer)
    }

    fn keep_for_advance(
        &mut self,
        ready: &mut Ready,
        answer: Option<Message>,
        committed: &Entries,
    ) {
        let id = self.raft.id;
        for message in self.raft.messages_after_append.drain(..) {
            match message.to == id {
                true => self.steps_on_advance.push(message),
                false => ready.messages.push(message),
            }
        }
        self.raft.messages_after_append.shrink_to(STEPS_KEPT_MAX);
        self.steps_on_advance.extend(answer);
        if !committed.is_empty() {
            self.steps_on_advance
                .push(apply_response(id, committed.clone()));
        }
    }
}

/// Our own acknowledgements come before the answer about stability: while entries are in the tail, their
/// terms are found there, without asking storage.
fn attach_append(
    ready: &mut Ready,
    id: u64,
    entries: Entries,
    after_append: Vec<Message>,
    answer: Option<Message>,
) {
    let has_work = !entries.is_empty()
        || !ready.hard_state.is_empty()
        || ready.snapshot.is_some()
        || !after_append.is_empty();
    if !has_work {
        return;
    }
    let mut responses = after_append;
    responses.extend(answer);
    ready.messages.push(Message {
        kind: MessageKind::StorageAppend,
        to: LOCAL_APPEND_THREAD,
        from: id,
        // All zero if unchanged: the host then finds an empty hard state.
        term: ready.hard_state.term,
        vote: ready.hard_state.vote,
        commit: ready.hard_state.commit,
        entries,
        snapshot: ready.snapshot.clone().map(Box::new),
        responses,
        ..Message::default()
    });
}

fn attach_apply(ready: &mut Ready, id: u64, committed: Entries) {
    if committed.is_empty() {
        return;
    }
    ready.messages.push(Message {
        kind: MessageKind::StorageApply,
        to: LOCAL_APPLY_THREAD,
        from: id,
        responses: vec![apply_response(id, committed.clone())],
        entries: committed,
        ..Message::default()
    });
}

/// Without a term: what is committed holds in every term.
fn apply_response(id: u64, entries: Entries) -> Message {
    let (kind, from) = (MessageKind::StorageApplyResp, LOCAL_APPLY_THREAD);
    Message {
        kind,
        to: id,
        from,
        entries,
        ..Message::default()
    }
}
