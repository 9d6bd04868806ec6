//! A whole cluster in one thread, with time and dice from a seed.
//!
//! The product's own code runs unchanged above its seams: the turn, the shards, raft, the log and the
//! store. Below the seams everything is simulated and hostile: disks tear, fail, fill up and crash; the
//! network loses, repeats, reorders and cuts; processes die, stand still, and see their clocks jump.
//! Clients ask, watchers watch, and the checkers compare all of it with a model.
//!
//! Promises: the same options give the same run, event for event (its trace hash says so); a broken
//! promise of the engine is a [`Violation`] that names what was seen and what was expected; the checkers
//! find every bug in [`planted`].
//!
//! `world` is the event loop, `watching` its watchers, `host` one node, `drive` its disk (`plug` what a
//! process has of it, `aside` what checkpoints do to it), `net` the links, `faults` the nemesis, `client`,
//! `op` and `seat` the load, `model` and `check` the judges, `settle` the final examination. `machine` is
//! another world: one machine with many shards on several cores, whose number changes.

pub mod aside;
pub mod check;
pub mod client;
pub mod drive;
pub mod faults;
mod flag;
pub mod host;
pub mod machine;
pub mod model;
pub mod net;
pub mod op;
pub mod planted;
mod plug;
pub mod rng;
pub mod seat;
pub mod settle;
pub mod trace;
mod watching;
pub mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

pub use check::Violation;
pub use planted::Planted;

use aside::Tally;
use check::history::Counts;
use machine::Machine;
use world::World;

/// What to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Decides everything else.
    pub seed: u64,
    /// Nodes: 1 or 3.
    pub nodes: usize,
    /// Shards on one machine with several cores; 0: a cluster of nodes with one core and one shard.
    pub shards: usize,
    /// Bytes of a log segment of such a machine, if not the default.
    pub segment_bytes: Option<u64>,
    /// Milliseconds of virtual time under faults.
    pub virtual_ms: u64,
    /// A bug to plant.
    pub planted: Option<Planted>,
    /// Write every event to standard error.
    pub print: bool,
}

impl Options {
    /// A run of a seed with a number of nodes that the seed decides, too.
    pub fn new(seed: u64) -> Self {
        let nodes = if seed.is_multiple_of(3) { 1 } else { 3 };
        Options {
            seed,
            nodes,
            shards: 0,
            segment_bytes: None,
            virtual_ms: 2_000,
            planted: None,
            print: false,
        }
    }

    /// A machine of a seed, with a number of shards that the seed decides, too.
    pub fn machine(seed: u64) -> Self {
        Options {
            nodes: 1,
            shards: 2 + usize::try_from(seed % 23).unwrap_or_default(),
            virtual_ms: 1_000,
            ..Options::new(seed)
        }
    }

    /// The command that repeats this run.
    pub fn command(&self) -> String {
        let shape = match self.shards {
            0 => format!("--nodes {}", self.nodes),
            shards => match self.segment_bytes {
                Some(bytes) => format!("--shards {shards} --segment-bytes {bytes}"),
                None => format!("--shards {shards}"),
            },
        };
        let planted = self
            .planted
            .map_or(String::new(), |planted| format!(" --planted {planted}"));
        format!(
            "cargo run --release -p henge-tests --bin sim -- --seed {} --seeds 1 {shape} \
             --virtual-ms {}{planted} --print",
            self.seed, self.virtual_ms
        )
    }
}

/// What happened in a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Hash of everything that happened.
    pub trace: u64,
    /// Events in the trace.
    pub events: u64,
    /// Microseconds of virtual time.
    pub virtual_us: u64,
    /// Turns of all cores.
    pub turns: u64,
    /// The last revision.
    pub revisions: i64,
    /// How operations ended.
    pub counts: Counts,
    /// Faults that struck.
    pub faults: u64,
    /// Processes started.
    pub starts: u64,
    /// Starts that a disk fault or another crash ended.
    pub failed_starts: u64,
    /// Processes that died.
    pub crashes: u64,
    /// Logs poisoned by an error of the disk.
    pub poisoned: u64,
    /// Starts that found shards to be moved to other cores.
    pub moves: u64,
    /// Frames lost.
    pub frames_lost: u64,
    /// Responses that watchers got.
    pub watch_responses: u64,
    /// Watchers that compaction overtook.
    pub watches_compacted: u64,
    /// Progress notes and answers that watchers got.
    pub watch_notes: u64,
    /// Checkpoints, purged segments, and power cuts in the middle of checkpoints.
    pub aside: Tally,
}

impl Stats {
    /// Adds another run's figures; the hashes are folded in order.
    pub fn add(&mut self, other: &Stats) {
        self.trace = self.trace.rotate_left(1) ^ other.trace;
        self.revisions += other.revisions;
        self.counts.done += other.counts.done;
        self.counts.not_done += other.counts.not_done;
        self.counts.unknown += other.counts.unknown;
        let sums: [(&mut u64, u64); 11] = [
            (&mut self.events, other.events),
            (&mut self.virtual_us, other.virtual_us),
            (&mut self.turns, other.turns),
            (&mut self.faults, other.faults),
            (&mut self.starts, other.starts),
            (&mut self.failed_starts, other.failed_starts),
            (&mut self.crashes, other.crashes),
            (&mut self.poisoned, other.poisoned),
            (&mut self.moves, other.moves),
            (&mut self.frames_lost, other.frames_lost),
            (&mut self.watch_responses, other.watch_responses),
        ];
        for (sum, more) in sums {
            *sum += more;
        }
        self.watches_compacted += other.watches_compacted;
        self.watch_notes += other.watch_notes;
        self.aside.add(&other.aside);
    }
}

/// Runs one seed. A panic anywhere in the engine is a violation, too.
pub fn run(options: &Options) -> Result<Stats, Violation> {
    let for_us = options.virtual_ms * 1_000;
    let ran = catch_unwind(AssertUnwindSafe(|| {
        if options.shards > 0 {
            let mut machine = Machine::new(options);
            machine.run(for_us).map(|()| machine.stats)
        } else {
            let mut world = World::new(options);
            world.run(for_us).map(|()| world.stats)
        }
    }));
    ran.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text
            .or(panic.downcast_ref::<&str>().copied())
            .unwrap_or("no message");
        Err(Violation(format!("the engine panicked: {text}")))
    })
}
