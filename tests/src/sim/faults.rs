//! The nemesis: which faults a run has, how often, and what each does.
//!
//! Every run draws its own mix ("swarm testing"): a bug that needs many crashes and a calm network is
//! found in another run than one that needs partitions and a slow disk.

use super::aside::KINDS;
use super::check::Violation;
use super::planted::Planted;
use super::rng::Rng;
use super::trace::Kind;
use super::world::{Event, World};

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Crash,
    PowerLoss,
    Stop,
    Pause,
    Jump,
    Partition,
    SlowDisk,
    DiskError,
    DiskFull,
    StopMidWrite,
    StopMidCheckpoint,
}

const ALL: [Fault; 11] = [
    Fault::Crash,
    Fault::PowerLoss,
    Fault::Stop,
    Fault::Pause,
    Fault::Jump,
    Fault::Partition,
    Fault::SlowDisk,
    Fault::DiskError,
    Fault::DiskFull,
    Fault::StopMidWrite,
    Fault::StopMidCheckpoint,
];

/// What a run may suffer.
#[derive(Debug)]
pub struct Nemesis {
    faults: Vec<Fault>,
    interval_us: u64,
    down_us: u64,
    recovery_stop_permille: u64,
    rng: Rng,
    over: bool,
}

impl Nemesis {
    /// Draws a run's faults.
    pub fn draw(rng: &mut Rng, nodes: usize, planted: Option<Planted>) -> Self {
        let mut faults: Vec<Fault> = ALL
            .into_iter()
            .filter(|fault| nodes > 1 || *fault != Fault::Partition)
            // Only a member that is alone writes checkpoints.
            .filter(|fault| nodes == 1 || *fault != Fault::StopMidCheckpoint)
            .filter(|_| rng.permille(500))
            .collect();
        // Always one at least; planted bugs mostly need a crash, or a partition, to show.
        faults.push(Fault::Crash);
        if planted.is_some() && nodes > 1 {
            faults.push(Fault::Partition);
        }
        Nemesis {
            faults,
            interval_us: rng.between(50_000, 800_000),
            down_us: rng.between(2_000, 300_000),
            recovery_stop_permille: if rng.permille(500) { 250 } else { 0 },
            rng: rng.fork(),
            over: false,
        }
    }

    /// Crashes in the middle of elections, and back before they end: what a forgotten vote needs to show.
    pub fn hurried(rng: &mut Rng) -> Self {
        Nemesis {
            faults: vec![Fault::Crash],
            interval_us: 100_000,
            down_us: 500,
            recovery_stop_permille: 0,
            rng: rng.fork(),
            over: false,
        }
    }

    /// Until the next fault.
    pub fn pause_us(&mut self) -> u64 {
        self.rng.spread(self.interval_us)
    }

    /// How long a node stays down this time.
    pub fn down_us(&self, rng: &mut Rng) -> u64 {
        1_000 + rng.spread(self.down_us)
    }

    /// After how many operations of its recovery the machine stops again, if it does.
    pub fn stop_during_recovery(&self, rng: &mut Rng) -> Option<u64> {
        let stops = !self.over && rng.permille(self.recovery_stop_permille);
        stops.then(|| rng.below(30))
    }

    /// No more faults.
    pub fn end(&mut self) {
        self.over = true;
    }
}

impl World {
    /// A fault strikes, and the next one is set.
    pub(super) fn strike(&mut self) -> Result<(), Violation> {
        if self.nemesis.over {
            return Ok(());
        }
        let fault = self.nemesis.faults[self.nemesis.rng.index(self.nemesis.faults.len())];
        let at = self.nemesis.rng.index(self.nodes.len());
        let span_us = self.nemesis.rng.spread(300_000);
        self.stats.faults += 1;
        // By no dice of its own: what else happens under a seed stays as it was.
        if self.planted.is_none() && span_us.is_multiple_of(3) {
            self.hand_over(at);
        }
        match fault {
            Fault::Crash => self.crash(at),
            Fault::PowerLoss => (0..self.nodes.len()).for_each(|at| self.crash(at)),
            Fault::Stop => {
                if let Some(process) = &self.nodes[at].host.process {
                    process.stop();
                    self.note(Kind::Stop, at, 0, 1);
                    self.wake(at);
                }
            }
            Fault::Pause => {
                self.nodes[at].paused_until_us = self.now_us + span_us;
                self.note(Kind::Pause, at, span_us, 0);
            }
            Fault::Jump => {
                if let Some(process) = &mut self.nodes[at].host.process {
                    process.jump(span_us);
                    self.note(Kind::Jump, at, span_us, 0);
                    self.wake(at);
                }
            }
            Fault::Partition => {
                let mask = self.network.partition();
                self.note(Kind::Links, 0, mask, 0);
                self.after(span_us, Event::Mend);
            }
            _ => self.disk_fault(fault, at, span_us),
        }
        let pause = self.nemesis.pause_us();
        self.after(pause, Event::Fault);
        Ok(())
    }

    /// Whoever leads is asked to let another lead, as before it is stopped.
    fn hand_over(&mut self, at: usize) {
        for node in 0..self.nodes.len() {
            if let Some(process) = &self.nodes[node].host.process {
                process.hand_over();
                self.wake(node);
            }
        }
        self.note(Kind::HandOver, at, 0, 0);
    }

    fn disk_fault(&mut self, fault: Fault, at: usize, span_us: u64) {
        let node = &mut self.nodes[at];
        let drive = &node.host.drive;
        let until_us = self.now_us + span_us;
        match fault {
            Fault::SlowDisk => drive.slow_until(until_us),
            Fault::DiskError => {
                drive.fail_next();
                // Nothing may be written for a while: the error then meets the next start.
                node.disk_bad_until_us = u64::MAX;
            }
            Fault::DiskFull => {
                drive.set_full(true);
                node.disk_bad_until_us = node.disk_bad_until_us.max(until_us);
                self.after(span_us, Event::Space(at));
            }
            Fault::StopMidCheckpoint => {
                drive.stop_at_kind(KINDS[self.nemesis.rng.index(KINDS.len())]);
            }
            _ => drive.stop_at(self.nemesis.rng.below(8)),
        }
        self.note(Kind::Disk, at, fault as u64, span_us);
    }

    /// Ends all faults for good.
    pub(super) fn heal(&mut self) {
        self.nemesis.end();
        self.network.heal();
        self.note(Kind::Heal, 0, 0, 0);
        for node in &mut self.nodes {
            node.paused_until_us = 0;
            node.host.drive.heal();
        }
    }
}
