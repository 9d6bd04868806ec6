//! The watchers of a world: clients whose streams sit at a node, and the all-seeing one of every node.
//!
//! Must never know: what else clients do.

use super::check::Violation;
use super::check::watch::Step;
use super::host::Process;
use super::planted::Planted;
use super::seat::Seat;
use super::trace::Kind;
use super::world::{Event, FIDGET_US, World};

impl World {
    /// Lets every node show everything again from the first revision on.
    pub(super) fn watch_again(&mut self) {
        for at in 0..self.nodes.len() {
            self.nodes[at].observer = Seat::of_all();
            self.seat_watchers(at);
        }
    }

    /// A client of watchers asks how far they are, takes them to another node, or watches something else.
    pub(super) fn fidget(&mut self, at: usize) {
        let delay = self.fidget.spread(FIDGET_US);
        self.after(delay, Event::Fidget(at));
        let here = &mut self.watchers[at];
        let was = here.node;
        match self.fidget.below(10) {
            0..=5 => here.seat.ask_progress(),
            6..=7 => {
                here.seat.close();
                here.node = self.fidget.index(self.nodes.len());
            }
            // Watchers that never end would hardly ever be those of a lagging node.
            _ if !self.quiet => {
                here.seat = Seat::draw(&mut self.fidget, &mut self.workload, &self.history);
            }
            _ => {}
        }
        let node = here.node;
        self.wake(was);
        self.seat_watchers(node);
    }

    /// Opens the streams of watchers that sit at a node and have none.
    pub(super) fn seat_watchers(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        let Some(process) = node.host.process.as_mut() else {
            return;
        };
        let here = self.watchers.iter_mut().filter(|here| here.node == at);
        for seat in here.map(|here| &mut here.seat).chain([&mut node.observer]) {
            if !seat.is_open() {
                seat.open(process.stream());
            }
        }
        self.wake(at);
    }

    /// Shows the checkers what a node showed its watchers, the all-seeing one first.
    pub(super) fn look(&mut self, at: usize) -> Result<(), Violation> {
        let mut reopen = false;
        let node = &mut self.nodes[at];
        let revision = node.host.process.as_ref().map_or(0, Process::revision);
        let here = self.watchers.iter_mut().filter(|here| here.node == at);
        for seat in std::iter::once(&mut node.observer).chain(here.map(|here| &mut here.seat)) {
            let forged = match self.planted {
                Some(Planted::EarlyNote) if self.rng.permille(20) => seat.forged_note(revision),
                _ => None,
            };
            let mut shown = forged;
            while let Some(response) = shown.take().or_else(|| seat.receive()) {
                let revision = response.header.revision.cast_unsigned();
                let events = response.events.len() as u64;
                self.trace
                    .note(self.now_us, Kind::Watch, at as u64, revision, events);
                if self.planted == Some(Planted::LostEvent) && events > 0 && self.rng.permille(10) {
                    continue;
                }
                self.stats.watch_responses += 1;
                let is_note = events == 0 && !response.created && !response.canceled;
                self.stats.watch_notes += u64::from(is_note);
                let cursor = seat.cursor();
                self.trace
                    .say(|| format!("watchers at {cursor}: {response:?}"));
                if seat.take(&mut self.history, at, &response)? == Step::Reopen {
                    seat.close();
                    reopen = true;
                }
            }
        }
        if reopen {
            self.stats.watches_compacted += 1;
            self.seat_watchers(at);
        }
        Ok(())
    }

    /// How far the watcher is that has been shown least.
    pub(super) fn shown_to_all(&self) -> i64 {
        let cursors = self.watchers.iter().map(|here| here.seat.cursor());
        cursors.min().unwrap_or(i64::MAX)
    }
}
