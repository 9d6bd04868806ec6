//! What is left of a lease, as the leader of its group says.
//!
//! Deadlines are each member's own: a follower counts from when it applied a lease's grant or renewal, and
//! one that has just started applied all of them just now. The leader's are those that leases end by. So
//! whoever asks a follower is told what the leader's clock says: the question rides on the round of the
//! linearizable read, behind its name, and the leader writes its answer behind that, once it has applied what
//! the round must include. A leader that does not know the question gives the round back as it came; then the
//! follower's own clock has to do. Drawn in docs/format.md.
//!
//! Promises: what is said is said by a leader that still led when it was asked (raft's promise), of a store
//! that holds every renewal acknowledged before; a turn's account bounds how much is said in it.
//! Must never know: who asks. Tested by `shard/handover` and below.

use std::collections::{BTreeSet, VecDeque};

use bytes::{BufMut, Bytes, BytesMut};
use henge_api::LeaseTtl;
use henge_raft::{Message, MessageKind};

use super::Shard;
use crate::work::ENTRY_NANOS;

/// Leases that one round asks about; more wait for another.
pub(super) const ASKED_MAX: usize = 1_024;
/// Rounds of others that a leader lets wait for what it has not applied. Whoever finds no room asks again.
const HELD_MAX: usize = 1_024;

/// A round's name, and the leases it asks about.
pub(super) fn question(context: u64, leases: &[i64]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(8 + leases.len() * 8);
    bytes.put_u64_le(context);
    leases.iter().for_each(|&lease| bytes.put_i64_le(lease));
    bytes.freeze()
}

/// Numbers of eight bytes each; none if there is a piece of one.
fn numbers(bytes: &[u8]) -> Option<impl Iterator<Item = i64>> {
    let (numbers, rest) = bytes.as_chunks();
    rest.is_empty()
        .then(|| numbers.iter().map(|number| i64::from_le_bytes(*number)))
}

/// What the leader said of the leases that were asked about, in their order; `None` if it said nothing.
pub(super) fn told(asked: &[i64], said: &[u8]) -> Option<Vec<i64>> {
    if asked.is_empty() || said.len() != asked.len() * 16 {
        return None;
    }
    let mut said = numbers(said)?;
    let mut next = || said.next();
    asked
        .iter()
        .map(|&lease| (next()? == lease).then_some(next()?))
        .collect()
}

/// Rounds of other members with a question, on their leader.
#[derive(Debug, Default)]
pub struct Times {
    held: VecDeque<Message>,
    /// What is held, by name: who does not hear asks again.
    names: BTreeSet<Name>,
}

/// Whose round it is, of which term of its leader's, and which. (Word of an earlier term would not be taken.)
type Name = (u64, u64, u64);

fn name(message: &Message) -> Option<Name> {
    let context = &message.entries.first()?.data;
    let name = context.first_chunk().copied()?;
    Some((message.to, message.term, u64::from_le_bytes(name)))
}

impl Times {
    /// Whether some can be answered when so much is applied.
    pub fn is_due(&self, applied: u64) -> bool {
        self.held
            .front()
            .is_some_and(|first| first.index <= applied)
    }

    /// Nobody is told anything.
    pub fn clear(&mut self) {
        self.held.clear();
        self.names.clear();
    }
}

impl Shard {
    /// Keeps a confirmed round of another member that asks about leases; gives back any other message.
    pub(super) fn times_asked(&mut self, message: Message) -> Option<Message> {
        let asked = message.kind == MessageKind::ReadIndexResp
            && message.entries.first().is_some_and(|context| {
                let leases = context.data.len().saturating_sub(8);
                leases > 0 && leases <= ASKED_MAX * 8 && leases.is_multiple_of(8)
            });
        if !asked {
            return Some(message);
        }
        if self.times.held.len() < HELD_MAX
            && let Some(name) = name(&message)
            && self.times.names.insert(name)
        {
            self.times.held.push_back(message);
        }
        None
    }

    /// Answers those whose round is applied, until the turn's account is at `until`.
    pub(super) fn times_told(&mut self, until: u64, now_ms: u64, mut send: impl FnMut(Message)) {
        if !self.times.held.is_empty() && !self.is_leader() {
            // The leader of now is asked again.
            self.times.clear();
        }
        while self.times.is_due(self.machine.applied_index)
            && self.turn.is_before(until)
            && let Some(mut message) = self.times.held.pop_front()
        {
            if let Some(name) = name(&message) {
                self.times.names.remove(&name);
            }
            let mut context = message.entries.to_vec();
            for entry in &mut context {
                entry.data = self.answered(&entry.data, now_ms);
            }
            message.entries = context.into();
            send(message);
        }
    }

    /// A round's name and leases with what is left of each: seconds, below 0 if there is no such lease.
    fn answered(&self, context: &Bytes, now_ms: u64) -> Bytes {
        let (name, leases) = context.split_at(context.len().min(8));
        let mut bytes = BytesMut::with_capacity(name.len() + leases.len() * 2);
        bytes.put_slice(name);
        for lease in numbers(leases).into_iter().flatten() {
            bytes.put_i64_le(lease);
            bytes.put_i64_le(self.machine.lease_time_to_live(lease, false, now_ms).ttl_s);
            self.turn.spend(ENTRY_NANOS);
        }
        bytes.freeze()
    }

    /// What is left of a lease: as the leader said, or else by this member's clock.
    pub(super) fn time_to_live(
        &self,
        id: i64,
        keys: bool,
        said: Option<i64>,
        now_ms: u64,
    ) -> LeaseTtl {
        match said {
            Some(ttl_s) if ttl_s < 0 => LeaseTtl {
                id,
                ttl_s: -1,
                ..LeaseTtl::default()
            },
            said => {
                let mut left = self.machine.lease_time_to_live(id, keys, now_ms);
                if left.ttl_s >= 0 {
                    left.ttl_s = said.unwrap_or(left.ttl_s);
                }
                left
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_what_was_asked_or_nothing() {
        let asked = [7, -3, 7];
        let context = question(9, &asked);
        assert_eq!(context.len(), 8 + 24);
        // As it came, from a leader that does not know the question.
        assert_eq!(told(&asked, &context[8..]), None);
        let said = |numbers: &[i64]| -> Vec<u8> {
            numbers
                .iter()
                .flat_map(|number| number.to_le_bytes())
                .collect()
        };
        let right = said(&[7, 60, -3, -1, 7, 60]);
        assert_eq!(told(&asked, &right), Some(vec![60, -1, 60]));
        for cut in 0..right.len() {
            assert_eq!(told(&asked, &right[..cut]), None, "{cut}");
        }
        assert_eq!(told(&asked, &said(&[7, 60, 3, -1, 7, 60])), None, "another");
        assert_eq!(told(&[], &[]), None);
        assert_eq!(told(&[1, 2], &said(&[1, 2])), None, "two as they came");
        // A question about two is as long as an answer about one.
        assert_eq!(told(&[1], &said(&[2, 1])), None);
    }
}
