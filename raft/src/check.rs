//! What a message must look like before it may reach the state machine.
//!
//! Promises: after this check, the fields of a message do not contradict each other, whoever sent it;
//! nothing is changed by checking.
//! Must never know: roles. What a well-formed message means is decided by those who handle it.
//! Tests: `tests/misbehaviour.rs` throws arbitrary messages at a node.

use crate::error::StepError;
use crate::membership::ConfChangeV2;
use crate::message::{EntryKind, Message, MessageKind, NONE, is_local_target};
use crate::raft::Raft;
use crate::storage::Storage;

/// No term or index that was counted up gets near this; one that is claimed to must not bring us to the
/// end of numbers, where the next one is computed.
pub(crate) const NUMBER_MAX: u64 = 1 << 62;

impl<S: Storage> Raft<S> {
    /// Checks a message that came from outside: a peer, or a local thread.
    pub(crate) fn check(&self, message: &Message) -> Result<(), StepError> {
        let Message { kind, from, to, .. } = *message;
        let is_from_thread = is_local_target(from);
        if kind.is_local() && !is_from_thread {
            return Err(StepError::LocalMessage { kind, from });
        }
        // The other way round, too: the threads only say what threads say.
        let is_thread_answer = matches!(
            kind,
            MessageKind::StorageAppendResp | MessageKind::StorageApplyResp
        );
        if is_from_thread && !is_thread_answer {
            return Err(StepError::LocalMessage { kind, from });
        }
        if kind.is_response() && !is_from_thread && self.progress.get(from).is_none() {
            return Err(StepError::PeerNotFound { kind, from });
        }
        if to != self.id {
            return Err(StepError::WrongTarget {
                kind,
                from,
                to,
                id: self.id,
            });
        }
        // What we say to ourselves, by way of the append thread.
        use MessageKind::{AppResp, PreVoteResp, VoteResp};
        let is_own_word = matches!(kind, AppResp | VoteResp | PreVoteResp) && !message.reject;
        let fault = match from {
            // A vote for nobody would be a vote to be given again.
            NONE => Some("no sender"),
            from if from == self.id && !is_own_word => Some("from ourselves"),
            _ => fault_in(message),
        };
        match fault {
            Some(what) => Err(StepError::Malformed { kind, from, what }),
            None => Ok(()),
        }
    }
}

fn fault_in(message: &Message) -> Option<&'static str> {
    use MessageKind::*;
    // A pre-vote may be refused by a node that is still in term 0; requests are in no term.
    let needs_term = matches!(
        message.kind,
        App | AppResp | Heartbeat | HeartbeatResp | Snap | Vote | VoteResp | PreVote | TimeoutNow
    );
    if needs_term && message.term == 0 {
        return Some("term 0");
    }
    if message.term > NUMBER_MAX {
        return Some("term beyond all terms");
    }
    match message.kind {
        App => fault_in_append(message),
        Prop => fault_in_proposal(message),
        Snap => fault_in_snapshot(message),
        ReadIndex | ReadIndexResp if message.entries.len() != 1 => {
            Some("a read needs exactly one context")
        }
        Heartbeat | HeartbeatResp if !matches!(message.context.len(), 0 | 8) => {
            Some("a heartbeat's context is 8 bytes or none")
        }
        _ => None,
    }
}

/// Entries must follow each other and the entry before them, in index and in term.
fn fault_in_append(message: &Message) -> Option<&'static str> {
    let (mut index, mut term) = (message.index, message.log_term);
    for entry in &message.entries {
        if index.checked_add(1) != Some(entry.index) {
            return Some("entries leave a gap");
        }
        if entry.term < term || entry.term > message.term {
            return Some("terms of entries go backward, or beyond the message's");
        }
        (index, term) = (entry.index, entry.term);
    }
    (index > NUMBER_MAX).then_some("index beyond all indexes")
}

fn fault_in_proposal(message: &Message) -> Option<&'static str> {
    if message.entries.is_empty() {
        return Some("nothing is proposed");
    }
    let is_bad = message.entries.iter().any(|entry| {
        entry.kind != EntryKind::Normal
            && ConfChangeV2::from_entry(entry.kind, &entry.data).is_err()
    });
    is_bad.then_some("a configuration change does not decode")
}

fn fault_in_snapshot(message: &Message) -> Option<&'static str> {
    match &message.snapshot {
        None => Some("no snapshot"),
        Some(snapshot) if snapshot.meta.term > message.term => Some("snapshot from a later term"),
        Some(snapshot) if snapshot.meta.index > NUMBER_MAX => Some("index beyond all indexes"),
        Some(_) => None,
    }
}
