//! The machine under a move: what `engine::rehome` needs of a data directory, in the world's time, with
//! power that can fail at any operation of any disk and around each write of the layout.

use std::path::PathBuf;

use henge::OpenError;
use henge::engine::layout::Layout;
use henge::engine::rehome::Ground;
use henge_wal::disk::Disk;

use crate::sim::aside::Tally;
use crate::sim::drive::Drive;
use crate::sim::planted::Planted;
use crate::sim::rng::Rng;
use crate::sim::trace::{Kind, Trace};

/// Disks and the layout file: what outlives a power loss.
pub(super) struct Hardware {
    pub(super) now_us: u64,
    pub(super) trace: Trace,
    pub(super) drives: Vec<Drive>,
    /// Where all cores have their checkpoints.
    pub(super) checkpoints: Drive,
    /// What drives saw that are gone.
    retired: Tally,
    pub(super) layout: Layout,
    /// As it was when the power came: what a planted bug goes back to.
    durable_layout: Layout,
    /// The power fails at the layout's write after so many; with true, once that is done.
    pub(super) stop_at_layout: Option<(u64, bool)>,
    stopped: bool,
    planted: Option<Planted>,
}

impl Hardware {
    pub(super) fn new(
        now_us: u64,
        trace: Trace,
        (drives, checkpoints): (Vec<Drive>, Drive),
        layout: Layout,
        planted: Option<Planted>,
    ) -> Self {
        Hardware {
            now_us,
            trace,
            drives,
            checkpoints,
            retired: Tally::default(),
            durable_layout: layout.clone(),
            layout,
            stop_at_layout: None,
            stopped: false,
            planted,
        }
    }

    /// The power failed by itself, at an operation that was chosen before.
    pub(super) fn has_stopped(&self) -> bool {
        self.stopped || self.all().any(Drive::has_stopped)
    }

    /// The power is gone, and back: every disk tears what it had in flight.
    pub(super) fn lose_power(&mut self) {
        self.all().for_each(Drive::crash);
        self.stopped = false;
        self.stop_at_layout = None;
        if self.planted == Some(Planted::LostLayout) {
            self.layout = self.durable_layout.clone();
        }
        self.durable_layout = self.layout.clone();
        self.trace.note(self.now_us, Kind::Crash, 0, 0, 0);
    }

    /// The logs of cores that are no more are removed, as far as the machine comes with it.
    pub(super) fn retire(&mut self, rng: &mut Rng, fresh: impl Fn(Rng) -> Drive) {
        for at in self.layout.placement.cores..self.drives.len() {
            if rng.permille(500) {
                self.retired.add(&self.drives[at].tally());
                self.drives[at] = fresh(rng.fork());
            }
        }
    }

    /// A disk for a process that begins to use it.
    pub(super) fn plug(&self, core: usize) -> Box<dyn Disk> {
        let drive = &self.drives[core];
        drive.set_now(self.now_us);
        drive.ended();
        self.checkpoints.set_now(self.now_us);
        drive.disk_beside(&self.checkpoints, core)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Drive> {
        self.drives.iter().chain([&self.checkpoints])
    }

    /// What all drives have seen.
    pub(super) fn tally(&self) -> Tally {
        let mut sum = self.retired;
        self.all().for_each(|drive| sum.add(&drive.tally()));
        sum
    }
}

impl Ground for Hardware {
    fn log_dir(&self, core: usize) -> PathBuf {
        PathBuf::from(format!("core-{core}"))
    }

    fn disk(&mut self, core: usize) -> Box<dyn Disk> {
        self.plug(core)
    }

    fn write_layout(&mut self, layout: &Layout) -> Result<(), OpenError> {
        let stop = match &mut self.stop_at_layout {
            Some((0, done)) => Some(*done),
            Some((more, _)) => {
                *more -= 1;
                None
            }
            None => None,
        };
        if stop != Some(false) {
            self.layout = layout.clone();
        }
        self.stopped |= stop.is_some();
        let moving = u64::from(layout.moving.is_some());
        self.trace
            .note(self.now_us, Kind::Disk, 0, moving, u64::from(self.stopped));
        if self.has_stopped() {
            return Err(OpenError::HostDied);
        }
        Ok(())
    }

    fn wait(&mut self) -> Result<(), OpenError> {
        // What is due by now on another disk is not what the caller waits for: it was just asked.
        let now_us = self.now_us;
        let due = self.drives.iter().filter_map(Drive::next_due_us);
        let next = due.filter(|due_us| *due_us > now_us).min();
        match next.filter(|_| !self.has_stopped()) {
            // No disk has anything to say: it would wait for ever.
            None => Err(OpenError::HostDied),
            Some(next_us) => {
                self.now_us = self.now_us.max(next_us);
                self.drives
                    .iter()
                    .for_each(|drive| drive.set_now(self.now_us));
                Ok(())
            }
        }
    }
}
