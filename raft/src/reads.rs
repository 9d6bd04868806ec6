//! Linearizable reads without a log entry (thesis, 6.4).
//!
//! Promises: a read is answered with a commit index at which every write acknowledged before the read
//! was asked for is included. The leader must have committed an entry of its term first (only then
//! does it know what is committed), and then show that it still led when the read came.
//! Must never know: what is read.
//! Tests: below; `tests/cluster.rs`.
//!
//! Confirmation is by position: reads queue up in order, a heartbeat carries the position of the
//! newest one, its response acknowledges all up to there, and the quorum function for log indexes
//! finds how far a quorum has come. So a heartbeat response that was delayed can only confirm reads
//! that were waiting when the heartbeat was sent, never a later one (etcd issue 20418).

use std::collections::VecDeque;

use bytes::Bytes;

use crate::config::ReadOnly;
use crate::logger::warning;
use crate::message::{Entry, Message, MessageKind, NONE};
use crate::planted::{Bug, planted};
use crate::quorum::JointConfig;
use crate::raft::Raft;
use crate::ready::ReadState;
use crate::storage::Storage;
use crate::trace::TraceEvent;

/// Reads a leader keeps waiting; more are dropped, and their askers ask again.
pub(crate) const READS_WAITING_MAX: usize = 65_536;

/// Someone wants to read.
#[derive(Debug)]
pub(crate) struct ReadRequest {
    /// A peer, or [`NONE`] for ourselves.
    pub(crate) from: u64,
    pub(crate) context: Bytes,
    /// The commit index when it was asked for.
    index: u64,
}

/// The reads that wait on a leader.
#[derive(Debug, Default)]
pub(crate) struct Reads {
    /// Wait for the first commit of this term.
    pending: Vec<ReadRequest>,
    /// Wait for a quorum. The first has position `confirmed + 1`.
    unconfirmed: VecDeque<ReadRequest>,
    confirmed: u64,
    /// The highest position each node has acknowledged.
    acks: Vec<(u64, u64)>,
}

impl Reads {
    /// What a heartbeat must carry to confirm all reads there are; empty if there are none.
    pub(crate) fn heartbeat_context(&self) -> Bytes {
        match self.unconfirmed.is_empty() {
            true => Bytes::new(),
            false => Bytes::copy_from_slice(&self.newest_position().to_le_bytes()),
        }
    }

    fn newest_position(&self) -> u64 {
        self.confirmed + self.unconfirmed.len() as u64
    }

    fn is_full(&self) -> bool {
        self.pending.len() + self.unconfirmed.len() >= READS_WAITING_MAX
    }

    /// `from` acknowledges all reads up to `position`; what was never asked for does not count.
    fn acknowledge(&mut self, from: u64, position: u64) {
        let position = position.min(self.newest_position());
        match self.acks.iter_mut().find(|(id, _)| *id == from) {
            Some((_, acked)) => *acked = position.max(*acked),
            None => self.acks.push((from, position)),
        }
    }

    /// The reads that a quorum has confirmed by now.
    fn take_confirmed(&mut self, voters: &JointConfig) -> Vec<ReadRequest> {
        let acks = &self.acks;
        let acked = |id| {
            acks.iter()
                .find(|(from, _)| *from == id)
                .map(|(_, acked)| *acked)
        };
        let position = voters.committed_index(acked).min(self.newest_position());
        let count = position.saturating_sub(self.confirmed) as usize;
        self.confirmed += count as u64;
        self.unconfirmed.drain(..count).collect()
    }
}

impl<S: Storage> Raft<S> {
    /// Leader: someone wants to read. `message` has one entry, its context.
    pub(crate) fn read_requested(&mut self, message: Message) {
        let from = if message.from == self.id {
            NONE
        } else {
            message.from
        };
        let Some(entry) = message.entries.first() else {
            return;
        };
        let request = ReadRequest {
            from,
            context: entry.data.clone(),
            index: self.log.committed,
        };
        let has_committed = self.has_committed_in_term();
        let Some(leadership) = self.leadership() else {
            return;
        };
        if leadership.reads.is_full() {
            warning!(
                self.logger,
                "{:x} has too many waiting reads; dropping one",
                self.id
            );
            return;
        }
        // A lone voter waits for this, too, unlike etcd's: after a restart its stored commit index may
        // lag behind what it has acknowledged.
        if !has_committed {
            leadership.reads.pending.push(request);
        } else {
            self.read(request);
        }
    }

    /// Leader: reads that waited for the first commit of this term can go on.
    pub(crate) fn release_pending_reads(&mut self) {
        if !self.has_committed_in_term() {
            return;
        }
        let Some(leadership) = self.leadership() else {
            return;
        };
        for request in std::mem::take(&mut leadership.reads.pending) {
            self.read(request);
        }
    }

    /// Leader: a heartbeat was answered.
    pub(crate) fn read_acknowledged(&mut self, from: u64, context: &Bytes) {
        let Ok(position) = <[u8; 8]>::try_from(context.as_ref()) else {
            return;
        };
        let Some(leadership) = self.leadership() else {
            return;
        };
        let position = match planted(Bug::LateReadAnswers) {
            false => u64::from_le_bytes(position),
            true => u64::MAX,
        };
        leadership.reads.acknowledge(from, position);
        self.answer_confirmed();
    }

    fn read(&mut self, request: ReadRequest) {
        let committed = self.log.committed;
        let request = ReadRequest {
            index: committed,
            ..request
        };
        let is_alone = self.membership.is_singleton();
        let (id, read_only) = (self.id, self.config.read_only);
        let Some(leadership) = self.leadership() else {
            return;
        };
        let has_lease = read_only == ReadOnly::LeaseBased && !leadership.is_lease_void;
        if has_lease || is_alone {
            return self.answer_read(request);
        }
        leadership.reads.unconfirmed.push_back(request);
        let newest = leadership.reads.newest_position();
        leadership.reads.acknowledge(id, newest);
        self.broadcast_heartbeat();
    }

    fn answer_confirmed(&mut self) {
        let voters = self.membership.voters.clone();
        let Some(leadership) = self.leadership() else {
            return;
        };
        for request in leadership.reads.take_confirmed(&voters) {
            self.answer_read(request);
        }
    }

    fn answer_read(&mut self, request: ReadRequest) {
        let ReadRequest {
            from,
            context,
            index,
        } = request;
        self.trace
            .emit(|| TraceEvent::ReadConfirmed { from, index });
        if from == NONE {
            self.read_states.push(ReadState { index, context });
            return;
        }
        let kind = MessageKind::ReadIndexResp;
        let entry = Entry {
            data: context,
            ..Entry::default()
        };
        self.send(Message {
            kind,
            to: from,
            index,
            entries: entry.into(),
            ..Message::default()
        });
    }

    fn has_committed_in_term(&mut self) -> bool {
        let committed = self.log.committed;
        self.leadership()
            .is_some_and(|leadership| committed >= leadership.term_start)
            || (self.is_leader() && planted(Bug::ReadBeforeCommit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quorum::MajorityConfig;

    fn ask(reads: &mut Reads, context: &'static str) -> u64 {
        let context = Bytes::from_static(context.as_bytes());
        reads.unconfirmed.push_back(ReadRequest {
            from: NONE,
            context,
            index: 1,
        });
        let newest = reads.newest_position();
        reads.acknowledge(1, newest);
        newest
    }

    fn confirmed(reads: &mut Reads) -> Vec<Bytes> {
        let incoming = MajorityConfig::new(&[1, 2, 3]);
        let voters = JointConfig {
            incoming,
            ..JointConfig::default()
        };
        reads
            .take_confirmed(&voters)
            .into_iter()
            .map(|request| request.context)
            .collect()
    }

    #[test]
    fn a_late_response_confirms_only_what_it_was_asked() {
        let mut reads = Reads::default();
        let first = ask(&mut reads, "first");
        ask(&mut reads, "second");
        reads.acknowledge(2, first);
        assert_eq!(confirmed(&mut reads), ["first"]);
        reads.acknowledge(3, first);
        assert!(
            confirmed(&mut reads).is_empty(),
            "the second was asked after that heartbeat"
        );
        // The context of the next heartbeat still stands for the second.
        assert_eq!(reads.heartbeat_context(), 2u64.to_le_bytes().as_slice());
        reads.acknowledge(3, 2);
        assert_eq!(confirmed(&mut reads), ["second"]);
        assert!(reads.heartbeat_context().is_empty());
    }

    #[test]
    fn positions_from_nowhere_confirm_nothing_later() {
        let mut reads = Reads::default();
        ask(&mut reads, "first");
        reads.acknowledge(2, u64::MAX);
        assert_eq!(confirmed(&mut reads), ["first"]);
        ask(&mut reads, "second");
        assert!(confirmed(&mut reads).is_empty());
    }
}
