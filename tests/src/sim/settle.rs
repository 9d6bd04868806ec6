//! The end of a run: everything is healed, and then it must work again within a bounded time and be
//! whole: every node takes a write, reads the same content, and has the same hash.

use super::check::{Violation, violated};
use super::op::Op;
use super::trace::Kind;
use super::world::World;

/// After healing, the cluster must do all of the final examination in this much virtual time: fifty
/// election timeouts.
const SETTLE_US: u64 = 10_000_000;
/// Clients go on for so long after healing.
const AFTERMATH_US: u64 = 200_000;
/// The longest a caller may wait for its answer: its deadline, and a generous margin.
const ANSWER_US: u64 = 3_000_000;

impl World {
    /// Heals everything and examines it.
    pub(super) fn settle(&mut self) -> Result<(), Violation> {
        self.heal();
        self.run_until(self.now_us + AFTERMATH_US)?;
        self.quiet = true;
        let deadline_us = self.now_us + SETTLE_US;
        for node in 0..self.nodes.len() {
            self.examine(node, deadline_us, "takes no write", |world| {
                world.workload.put(&world.history)
            })?;
        }
        for node in 0..self.nodes.len() {
            self.examine(node, deadline_us, "answers no read", |_| {
                Op::read_all(false)
            })?;
        }
        self.converge(deadline_us)?;
        // Nothing happens any more: who watches from the start now is shown history, and all of it.
        self.watch_again();
        self.converge(deadline_us)?;
        for node in 0..self.nodes.len() {
            self.examine(node, deadline_us, "answers no stale read", |_| {
                Op::read_all(true)
            })?;
            self.examine(node, deadline_us, "does not hash", |_| Op::Hash)?;
        }
        self.run_until(self.now_us + ANSWER_US)?;
        if let Some(waiting) = self
            .clients
            .iter()
            .find_map(|client| client.waiting.as_ref())
        {
            return violated!(
                "node {} never answered operation {}",
                waiting.node,
                waiting.id
            );
        }
        self.history.finish()
    }

    /// Asks a node until it has done it.
    fn examine(
        &mut self,
        node: usize,
        deadline_us: u64,
        otherwise: &str,
        op: impl Fn(&mut World) -> Op,
    ) -> Result<(), Violation> {
        let examiner = self.examiner();
        let before = self.history.counts.done;
        while self.history.counts.done == before {
            if self.now_us >= deadline_us {
                return violated!("node {node} {otherwise} though everything has been healed");
            }
            if self.clients[examiner].waiting.is_none() {
                let op = op(self);
                self.ask(examiner, node, op)?;
            }
            let until_us = self.now_us + 1_000;
            self.run_until(until_us)?;
        }
        Ok(())
    }

    /// The last client examines, once nobody else waits for an answer any more.
    fn examiner(&self) -> usize {
        self.clients.len() - 1
    }

    /// Waits until every node has shown its watcher the last revision, and every other watcher knows, by
    /// its events or by a note, that it is there.
    fn converge(&mut self, deadline_us: u64) -> Result<(), Violation> {
        loop {
            let last = self.history.model.revision();
            let behind = (0..self.nodes.len()).find(|at| self.nodes[*at].shown() < last);
            let told = self.shown_to_all();
            if behind.is_none() && told >= last {
                break;
            }
            if self.now_us >= deadline_us {
                let Some(at) = behind else {
                    return violated!(
                        "a watcher knows of revision {told}, and not that {last} is the last"
                    );
                };
                let shown = self.nodes[at].shown();
                return violated!(
                    "node {at} shows revision {shown} and stays there; last is {last}"
                );
            }
            self.run_until(self.now_us + 10_000)?;
        }
        self.note(
            Kind::Heal,
            1,
            self.history.model.revision().cast_unsigned(),
            0,
        );
        Ok(())
    }
}
