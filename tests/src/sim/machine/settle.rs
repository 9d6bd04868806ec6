//! The end of a machine's run: no more faults, and then every shard takes a write, reads, and shows its
//! whole history again after one more power loss and one more orderly restart, each with another number
//! of cores.

use super::group::Notes;
use super::{CLIENTS, Machine};
use crate::sim::check::{Violation, violated};
use crate::sim::drive::Drive;
use crate::sim::op::Op;

/// All of the examination must be done in this much virtual time.
const SETTLE_US: u64 = 10_000_000;
/// Clients go on for so long after healing.
const AFTERMATH_US: u64 = 100_000;
/// Longest time that a caller waits for its answer, with a margin.
const ANSWER_US: u64 = 3_000_000;
/// A step of waiting.
const STEP_US: u64 = 1_000;

impl Machine {
    pub(super) fn settle(&mut self) -> Result<(), Violation> {
        self.healed = true;
        self.disk_bad = false;
        self.hardware.all().for_each(Drive::heal);
        if self.doomed {
            self.lose_power();
        }
        self.run_until(self.now_us() + AFTERMATH_US)?;
        self.quiet = true;
        self.run_until(self.now_us() + ANSWER_US)?;
        if let Some(group) = self.groups.iter().find(|group| !group.is_quiet()) {
            return violated!("group {}: a caller was never answered", group.id);
        }
        self.examine("takes no write", |machine, shard| {
            machine.groups[shard].a_put()
        })?;
        self.examine("answers no read", |_, _| Op::read_all(false))?;
        self.converge()?;
        self.examine("does not hash", |_, _| Op::Hash)?;
        // What is on the disks now is shown again from the first revision on, wherever it has moved.
        self.lose_power();
        self.show_all_again()?;
        for core in 0..self.running.len() {
            self.running[core].stop();
            self.wake(core);
        }
        self.run_until(self.now_us() + AFTERMATH_US)?;
        self.show_all_again()?;
        for group in &self.groups {
            group.history.finish().map_err(|why| group.blame(why))?;
        }
        Ok(())
    }

    fn show_all_again(&mut self) -> Result<(), Violation> {
        self.run_until(self.now_us() + AFTERMATH_US)?;
        for shard in 0..self.groups.len() {
            self.groups[shard].watch_again();
            if let Some(core) = self.core_of(shard) {
                self.groups[shard].seat(&self.running[core].inbox);
                self.wake(core);
            }
        }
        self.converge()?;
        self.examine("answers no read", |_, _| Op::read_all(false))?;
        self.examine("does not hash", |_, _| Op::Hash)
    }

    /// Asks every shard until it has done it.
    fn examine(
        &mut self,
        otherwise: &str,
        op: impl Fn(&mut Machine, usize) -> Op,
    ) -> Result<(), Violation> {
        let deadline_us = self.now_us() + SETTLE_US;
        for shard in 0..self.groups.len() {
            let before = self.groups[shard].history.counts.done;
            while self.groups[shard].history.counts.done == before {
                if self.now_us() >= deadline_us {
                    let group = self.groups[shard].id;
                    return violated!("group {group} {otherwise} though everything is healed");
                }
                if let Some(core) = self.core_of(shard) {
                    let op = op(self, shard);
                    let now_us = self.hardware.now_us;
                    let trace = &mut self.hardware.trace;
                    let running = &self.running[core];
                    let mut notes = Notes { trace, now_us };
                    self.groups[shard].ask(CLIENTS - 1, op, running, &mut notes)?;
                    self.wake(core);
                }
                self.run_until(self.now_us() + STEP_US)?;
            }
        }
        Ok(())
    }

    /// Waits until every watcher has been shown the last revision.
    fn converge(&mut self) -> Result<(), Violation> {
        let deadline_us = self.now_us() + SETTLE_US;
        while let Some(group) = self.groups.iter().find(|group| !group.has_shown_all()) {
            if self.now_us() >= deadline_us {
                let last = group.history.model.revision();
                return violated!("group {} does not show revision {last}", group.id);
            }
            self.run_until(self.now_us() + STEP_US)?;
        }
        Ok(())
    }
}
