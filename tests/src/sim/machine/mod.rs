//! One machine with several cores and many shards, whose power fails, and which is opened again with
//! another number of cores or with shards placed elsewhere.
//!
//! As in `world`, everything above the disk seam and behind the inbox is the product's own: the move of
//! groups between logs (`engine::rehome`), recovery, the turn. The power can fail at any operation of any
//! disk, also while groups move, and around each write of the layout file; the next start may ask for
//! another placement than the one that was cut short. Each shard has its clients, its watcher and its
//! history: an acknowledged write that is lost, repeated or out of order in any shard is a violation.
//!
//! `cores` builds and drives cores, `group` is a shard's outside, `ground` the disks and the layout.

mod cores;
mod ground;
mod group;
mod settle;

use std::collections::BTreeMap;

use henge::engine::layout::{Layout, Placement, Router};
use henge::engine::rehome::{Ground as _, rehome};
use henge_wal::Options as LogOptions;

use self::cores::{IDENTITY, RunningCore};
use self::ground::Hardware;
use self::group::{CLIENTS, Group, Notes};
use super::aside::KINDS;
use super::check::{Violation, violated};
use super::drive::Drive;
use super::host::StartError;
use super::rng::Rng;
use super::trace::{Kind, Trace};
use super::{Options, Stats};

/// Where the machine's clock starts, so that no process's clock can go below zero.
const START_US: u64 = 3_600_000_000;
/// Most cores that a start asks for.
const CORES_MAX: usize = 4;
/// Bytes of a log segment, unless a run asks for others: small, so that segments are given up and groups
/// rewritten within a run.
const SEGMENT_BYTES: u64 = 64 << 10;
/// Mean pause of a client between two operations.
const THINK_US: u64 = 6_000;

/// The machine, its clients, and what happens to it.
pub struct Machine {
    rng: Rng,
    hardware: Hardware,
    running: Vec<RunningCore>,
    groups: Vec<Group>,
    log: LogOptions,
    write_us: u64,
    queue: BTreeMap<(u64, u64), Event>,
    queued: u64,
    /// Mean time between two faults.
    fault_us: u64,
    /// No more faults.
    healed: bool,
    /// Clients ask nothing new.
    quiet: bool,
    /// A start is queued.
    starting: bool,
    /// A disk may refuse one operation, perhaps that of the next process.
    disk_bad: bool,
    /// A poisoned process is about to be killed.
    doomed: bool,
    options: Options,
    /// What happened.
    pub stats: Stats,
}

enum Event {
    Client { shard: usize, client: usize },
    Fault,
    Start,
    PowerLoss,
}

impl Machine {
    /// A machine of a seed, with `options.shards` shards; nothing runs yet.
    pub fn new(options: &Options) -> Self {
        let mut rng = Rng::new(options.seed);
        let write_us = rng.between(50, 1_000);
        let drives =
            (0..CORES_MAX).map(|_| Drive::new(rng.fork(), write_us, options.planted, false));
        let drives: Vec<_> = drives.collect();
        let layout = Layout {
            shards: options.shards,
            router: Router::Hash,
            placement: Placement::turns(1 + rng.index(CORES_MAX.min(options.shards))),
            moving: None,
            making: false,
        };
        let trace = Trace::new(options.print);
        let checkpoints = Drive::new(rng.fork(), write_us, options.planted, false);
        let drives = (drives, checkpoints);
        let hardware = Hardware::new(START_US, trace, drives, layout, options.planted);
        let log = LogOptions {
            segment_bytes: options.segment_bytes.unwrap_or(SEGMENT_BYTES),
            ..LogOptions::default()
        };
        let groups = (1..=options.shards as u64).map(|id| Group::new(id, rng.fork()));
        Machine {
            groups: groups.collect(),
            hardware,
            running: Vec::new(),
            log,
            write_us,
            queue: BTreeMap::new(),
            queued: 0,
            fault_us: rng.between(30_000, 400_000),
            healed: false,
            quiet: false,
            starting: false,
            disk_bad: false,
            doomed: false,
            options: *options,
            stats: Stats::default(),
            rng,
        }
    }

    /// Lets it run under faults for `for_us`, then heals it and examines every shard.
    pub fn run(&mut self, for_us: u64) -> Result<(), Violation> {
        self.come_up(0);
        for shard in 0..self.groups.len() {
            for client in 0..CLIENTS {
                self.rest(shard, client);
            }
        }
        let first = self.rng.spread(self.fault_us);
        self.after(first, Event::Fault);
        self.run_until(self.now_us() + for_us)?;
        self.settle()?;
        self.stats.virtual_us = self.now_us() - START_US;
        self.stats.aside = self.hardware.tally();
        for group in &self.groups {
            let counts = group.history.counts;
            self.stats.revisions += group.history.model.revision();
            self.stats.counts.done += counts.done;
            self.stats.counts.not_done += counts.not_done;
            self.stats.counts.unknown += counts.unknown;
        }
        self.stats.trace = self.hardware.trace.hash();
        self.stats.events = self.hardware.trace.events();
        Ok(())
    }

    fn now_us(&self) -> u64 {
        self.hardware.now_us
    }

    fn run_until(&mut self, until_us: u64) -> Result<(), Violation> {
        while self.step(until_us)? {}
        self.hardware.now_us = self.now_us().max(until_us);
        Ok(())
    }

    /// Does what is next, if it is due before `until_us`.
    fn step(&mut self, until_us: u64) -> Result<bool, Violation> {
        let first = self.queue.first_key_value();
        let queued = first.map_or(u64::MAX, |((at, _), _)| *at);
        let turns = (0..self.running.len()).map(|core| (self.due_us(core), core));
        let (turn, core) = turns.min().unwrap_or((u64::MAX, 0));
        let next = queued.min(turn);
        if next >= until_us {
            return Ok(false);
        }
        self.hardware.now_us = self.now_us().max(next);
        if turn < queued {
            self.turn(core)?;
        } else if let Some((_, event)) = self.queue.pop_first() {
            self.happen(event)?;
        }
        Ok(true)
    }

    /// When a core takes its next turn.
    fn due_us(&self, core: usize) -> u64 {
        let running = &self.running[core];
        if running.has_ended() {
            return u64::MAX;
        }
        let disk = self.hardware.drives[core].next_due_us();
        let beside = self.hardware.checkpoints.next_due_by_us(core);
        let disk = disk.unwrap_or(u64::MAX).min(beside.unwrap_or(u64::MAX));
        let wanted = running.turn_us.min(disk);
        wanted.max(running.busy_until_us)
    }

    fn after(&mut self, delay_us: u64, event: Event) {
        self.queued += 1;
        let at = (self.now_us() + delay_us, self.queued);
        self.queue.insert(at, event);
    }

    fn happen(&mut self, event: Event) -> Result<(), Violation> {
        match event {
            Event::Client { shard, client } => return self.client_step(shard, client),
            Event::Fault => self.strike(),
            Event::Start => return self.start(),
            Event::PowerLoss => {
                if !self.running.is_empty() {
                    self.lose_power();
                }
            }
        }
        Ok(())
    }

    fn turn(&mut self, core: usize) -> Result<(), Violation> {
        let now_us = self.now_us();
        self.hardware.drives[core].set_now(now_us);
        self.hardware.checkpoints.set_now(now_us);
        let running = &mut self.running[core];
        running.turn(now_us);
        running.busy_until_us = now_us + 5 + self.rng.spread(20);
        self.stats.turns += 1;
        self.hardware
            .trace
            .note(now_us, Kind::Turn, core as u64, running.turn_us, 0);
        if running.corrupt() {
            return violated!("a group of core {core} stopped serving");
        }
        let (ended, poisoned) = (running.has_ended(), running.is_poisoned());
        self.look(core)?;
        if self.hardware.has_stopped() {
            self.lose_power();
        } else if ended && self.running.iter().all(RunningCore::has_ended) {
            self.go_down();
        } else if poisoned && !std::mem::replace(&mut self.doomed, true) {
            // What an operator or a supervisor does.
            self.stats.poisoned += 1;
            let delay = self.rng.spread(20_000);
            self.after(delay, Event::PowerLoss);
        }
        Ok(())
    }

    /// Shows the checkers what the shards of a core have to show.
    fn look(&mut self, core: usize) -> Result<(), Violation> {
        let placement = &self.hardware.layout.placement;
        let homes = (0..self.groups.len()).filter(|shard| placement.home(*shard) == core);
        for shard in homes.collect::<Vec<_>>() {
            let now_us = self.hardware.now_us;
            let trace = &mut self.hardware.trace;
            let inbox = &self.running[core].inbox;
            let free = self.groups[shard].look(inbox, &mut Notes { trace, now_us })?;
            for client in free {
                self.rest(shard, client);
            }
        }
        Ok(())
    }

    /// The core that holds a shard, if the machine runs.
    fn core_of(&self, shard: usize) -> Option<usize> {
        let core = self.hardware.layout.placement.home(shard);
        (core < self.running.len()).then_some(core)
    }

    fn client_step(&mut self, shard: usize, client: usize) -> Result<(), Violation> {
        if self.quiet {
            return Ok(());
        }
        let Some(core) = self.core_of(shard) else {
            self.rest(shard, client);
            return Ok(());
        };
        let now_us = self.hardware.now_us;
        let trace = &mut self.hardware.trace;
        let running = &self.running[core];
        self.groups[shard].ask_next(client, running, &mut Notes { trace, now_us })?;
        if self.groups[shard].is_idle(client) {
            self.rest(shard, client);
        }
        self.wake(core);
        Ok(())
    }

    fn wake(&mut self, core: usize) {
        let now_us = self.now_us();
        let running = &mut self.running[core];
        if !running.has_ended() {
            running.turn_us = running.turn_us.min(now_us);
        }
    }

    /// A client does nothing for a while.
    fn rest(&mut self, shard: usize, client: usize) {
        if !self.quiet {
            let delay = self.rng.spread(THINK_US);
            self.after(delay, Event::Client { shard, client });
        }
    }

    /// A fault strikes, and the next one is set.
    fn strike(&mut self) {
        if self.healed {
            return;
        }
        let pause = self.rng.spread(self.fault_us);
        self.after(pause, Event::Fault);
        if self.running.is_empty() {
            return;
        }
        self.stats.faults += 1;
        // One more: that of the checkpoints.
        let drive = self.rng.index(self.running.len() + 1);
        let struck = match drive < self.running.len() {
            true => &self.hardware.drives[drive],
            false => &self.hardware.checkpoints,
        };
        let kind = self.rng.below(12);
        match kind {
            0..=2 => self.lose_power(),
            3..=5 => struck.stop_at(self.rng.below(8)),
            6..=7 => {
                for core in 0..self.running.len() {
                    self.running[core].stop();
                    self.wake(core);
                }
            }
            8 => {
                self.disk_bad = true;
                struck.fail_next();
            }
            9..=10 => {
                let at = KINDS[self.rng.index(KINDS.len())];
                self.hardware.checkpoints.stop_at_kind(at);
            }
            _ => {
                let until_us = self.hardware.now_us + self.rng.spread(100_000);
                struck.slow_until(until_us);
            }
        }
        let now_us = self.now_us();
        self.hardware
            .trace
            .note(now_us, Kind::Disk, drive as u64, kind, 1);
    }

    fn lose_power(&mut self) {
        self.stats.crashes += 1;
        self.hardware.lose_power();
        self.go_down();
    }

    /// The process is gone; it comes back later.
    fn go_down(&mut self) {
        self.running.clear();
        self.doomed = false;
        for shard in 0..self.groups.len() {
            for client in self.groups[shard].lose() {
                self.rest(shard, client);
            }
        }
        let down_us = 1_000 + self.rng.spread(20_000);
        self.come_up(down_us);
    }

    fn come_up(&mut self, after_us: u64) {
        if !std::mem::replace(&mut self.starting, true) {
            self.after(after_us, Event::Start);
        }
    }

    /// Where the next start wants the shards.
    fn draw_placement(&mut self) -> Placement {
        let shards = self.options.shards;
        let cores = 1 + self.rng.index(CORES_MAX.min(shards));
        if self.rng.permille(200) {
            let homes = (0..shards).map(|_| self.rng.index(cores)).collect();
            return Placement { cores, homes };
        }
        Placement::turns(cores)
    }

    /// Opens the directory with a placement of the dice's choice, as the engine does.
    fn start(&mut self) -> Result<(), Violation> {
        self.starting = false;
        let wanted = self.draw_placement();
        if !self.healed && self.rng.permille(300) {
            let drive = self.rng.index(CORES_MAX);
            self.hardware.drives[drive].stop_at(self.rng.below(60));
        }
        if !self.healed && self.rng.permille(100) {
            self.hardware.stop_at_layout = Some((self.rng.below(2), self.rng.permille(500)));
        }
        let opened = self.open(&wanted);
        let stopped = self.hardware.has_stopped();
        self.hardware.stop_at_layout = None;
        match opened {
            Ok(()) => {
                self.stats.starts += 1;
                Ok(())
            }
            // An error of the disk may have been meant for the process before.
            Err(_) if stopped || std::mem::take(&mut self.disk_bad) => {
                self.stats.failed_starts += 1;
                self.lose_power();
                Ok(())
            }
            Err(StartError::Disk(why) | StartError::Refused(why)) => {
                violated!("it does not start with {wanted:?}: {why}")
            }
        }
    }

    fn open(&mut self, wanted: &Placement) -> Result<(), StartError> {
        let mut layout = self.hardware.layout.clone();
        let (log, write_us, planted) = (self.log.clone(), self.write_us, self.options.planted);
        if layout.moving.is_some() || layout.placement != *wanted {
            self.stats.moves += 1;
        }
        let moved = rehome(&mut self.hardware, &mut layout, wanted, &log, &IDENTITY);
        moved.map_err(|why| StartError::Refused(why.to_string()))?;
        self.hardware.retire(&mut self.rng, |rng| {
            Drive::new(rng, write_us, planted, false)
        });
        let seed = self.rng.bits();
        let now_us = self.now_us();
        let mut running = Vec::new();
        for core in 0..layout.placement.cores {
            let homes = (0..layout.shards).filter(|shard| layout.placement.home(*shard) == core);
            let groups: Vec<u64> = homes.map(|shard| self.groups[shard].id).collect();
            let disk = self.hardware.disk(core);
            running.push(RunningCore::start(core, &groups, disk, &log, now_us, seed)?);
        }
        self.running = running;
        for (shard, group) in self.groups.iter_mut().enumerate() {
            group.seat(&self.running[layout.placement.home(shard)].inbox);
        }
        self.hardware
            .trace
            .note(now_us, Kind::Start, layout.placement.cores as u64, 0, 0);
        Ok(())
    }
}
