//! What a core has to do next: the shards to look at, and work that can wait.
//!
//! A shard is on the list of the next turn once, however many reasons there are. What a turn leaves
//! undone is listed before what arrives later, so that no shard is passed over. Work without a caller
//! (compaction, watchers that read history) waits in a queue of its own, from which each turn takes a few
//! slices; checkpoints are begun in the order in which they are due, a few at a time.
//! Must never know: shards themselves, time.

use std::collections::{BTreeSet, VecDeque};

use crate::seats::Slot;

/// Lists of shards, by their place on the core.
#[derive(Debug, Default)]
pub struct Agenda {
    /// For the next turn.
    next: Vec<Slot>,
    listed: Vec<bool>,
    /// Vectors of earlier turns, to be used again.
    spare: Vec<Vec<Slot>>,
    /// Work that can wait.
    later: VecDeque<Slot>,
    deferred: Vec<bool>,
    /// Log bytes at which a shard's next checkpoint is due.
    dues: BTreeSet<(u64, Slot)>,
    /// Shards whose checkpoint is being written.
    pub checkpointing: Vec<Slot>,
}

impl Agenda {
    /// A shard takes the next place; its first checkpoint is due at this size of the log. It is to be looked
    /// at.
    pub fn take_in(&mut self, at: Slot, due: u64) {
        self.listed.resize(at.at() + 1, false);
        self.deferred.resize(at.at() + 1, false);
        self.set_due(at, due);
        self.mark(at);
    }

    /// A shard has something to do.
    pub fn mark(&mut self, at: Slot) {
        if let Some(listed) = self.listed.get_mut(at.at())
            && !std::mem::replace(listed, true)
        {
            self.next.push(at);
        }
    }

    /// Whether a shard is listed for the next turn.
    pub fn has_any(&self) -> bool {
        !self.next.is_empty()
    }

    /// Takes the list; the next turn's starts empty. Give it back with [`Agenda::give_back`].
    pub fn take(&mut self) -> Vec<Slot> {
        let empty = self.spare.pop().unwrap_or_default();
        let run = std::mem::replace(&mut self.next, empty);
        for at in &run {
            self.listed[at.at()] = false;
        }
        run
    }

    /// Takes a list's memory back.
    pub fn give_back(&mut self, mut list: Vec<Slot>) {
        list.clear();
        self.spare.push(list);
    }

    /// A copy of a list, to work through.
    pub fn queue(&mut self, run: &[Slot]) -> Vec<Slot> {
        let mut queue = self.spare.pop().unwrap_or_default();
        queue.extend_from_slice(run);
        queue
    }

    /// What is left of it goes to the next turn, before everything else.
    pub fn keep(&mut self, queue: Vec<Slot>) {
        for at in &queue {
            self.mark(*at);
        }
        self.give_back(queue);
    }

    /// A shard has work that can wait.
    pub fn defer(&mut self, at: Slot) {
        if let Some(deferred) = self.deferred.get_mut(at.at())
            && !std::mem::replace(deferred, true)
        {
            self.later.push_back(at);
        }
    }

    /// The shard whose work has waited longest.
    pub fn next_deferred(&mut self) -> Option<Slot> {
        let at = self.later.pop_front()?;
        self.deferred[at.at()] = false;
        Some(at)
    }

    /// Shards with work that can wait.
    pub fn deferred(&self) -> usize {
        self.later.len()
    }

    /// The shard whose checkpoint is due first, if it is at this size of the log.
    pub fn take_due(&mut self, log_bytes: u64) -> Option<Slot> {
        let (due, at) = *self.dues.first()?;
        if due > log_bytes {
            return None;
        }
        self.dues.pop_first();
        Some(at)
    }

    /// A shard's next checkpoint is due at this size of the log.
    pub fn set_due(&mut self, at: Slot, log_bytes: u64) {
        self.dues.insert((log_bytes, at));
    }

    /// A shard's next checkpoint is due at this size of the log at the latest; nothing, if one is being
    /// written.
    pub fn bring_forward(&mut self, at: Slot, log_bytes: u64) {
        let due = self.dues.iter().find(|(_, shard)| *shard == at).copied();
        if let Some(due) = due.filter(|(due, _)| *due > log_bytes) {
            self.dues.remove(&due);
            self.dues.insert((log_bytes, at));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slots<const N: usize>(at: [usize; N]) -> [Slot; N] {
        at.map(Slot::new)
    }

    fn agenda() -> Agenda {
        let mut agenda = Agenda::default();
        for (at, due) in [5, 3, 9].into_iter().enumerate() {
            agenda.take_in(Slot::new(at), due);
        }
        agenda
    }

    #[test]
    fn a_shard_is_listed_once_and_leftovers_come_first() {
        let mut agenda = agenda();
        let [a, b, c, none] = slots([0, 1, 2, 7]);
        assert_eq!(agenda.take(), [a, b, c]);
        assert!(!agenda.has_any());
        agenda.mark(c);
        agenda.mark(a);
        agenda.mark(c);
        agenda.mark(none);
        let run = agenda.take();
        assert_eq!(run, [c, a]);
        let mut queue = agenda.queue(&run);
        queue.retain(|at| *at == a);
        agenda.keep(queue);
        agenda.mark(b);
        agenda.mark(a);
        assert_eq!(agenda.take(), [a, b]);
    }

    #[test]
    fn what_can_wait_goes_round_and_checkpoints_go_by_size() {
        let mut agenda = agenda();
        let [a, b] = slots([0, 1]);
        agenda.defer(b);
        agenda.defer(a);
        agenda.defer(b);
        assert_eq!((agenda.next_deferred(), agenda.deferred()), (Some(b), 1));
        agenda.defer(b);
        assert_eq!(
            (agenda.next_deferred(), agenda.next_deferred()),
            (Some(a), Some(b))
        );
        assert_eq!((agenda.take_due(4), agenda.take_due(4)), (Some(b), None));
        agenda.bring_forward(b, 4);
        assert_eq!(
            agenda.take_due(4),
            None,
            "it has none, or one is being written"
        );
        agenda.set_due(b, 8);
        agenda.bring_forward(b, 9);
        assert_eq!(agenda.take_due(4), None, "earlier only");
        agenda.bring_forward(b, 4);
        assert_eq!(
            (agenda.take_due(6), agenda.take_due(6), agenda.take_due(6)),
            (Some(b), Some(a), None)
        );
    }
}
