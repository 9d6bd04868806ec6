//! The turn: everything a core does between two waits.
//!
//! ```text
//!   inbox ──► intake ──► step ──► ready ──► persist ──► send ──► apply ──► (wait)
//!               │          ▲         │          │          │         │
//!            requests   durable   entries,   one batch  messages  answers,
//!            frames     batches   votes      of all     to peers  watch events
//!                                            groups
//! ```
//!
//! Synchronous code: inputs are what arrived and what time it is; outputs are log batches, frames for
//! peers and answers. The same code runs under every host and in the simulator.
//!
//! Promises: a turn looks only at shards that something arrived for, whose timer is due, or that had
//! work left; an idle shard costs nothing. Each gets a bounded share before the next has its own, and
//! what is left goes first in the next turn (see `agenda`).
//! Must never know: what drives it, which disk is below, what entries say.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use henge_api::{CoreMetrics, SharedVitals, Stage};
use henge_raft::{Message, MessageKind};
use henge_wal::{Event, Lsn, ReadId, Shortage, Wal};

use super::agenda::Agenda;
use super::background::SCRUB_EVERY_MICROS;
use super::door::ShardDoor;
use super::gauges::{Gauges, Stopwatch};
use super::inbox::{Inbox, Input};
use super::pack;
use super::pressure::Pressure;
use super::retries::Retries;
use super::seats::{Seats, Slot};
use super::timers::Timers;
use super::work::TurnWork;
use crate::shard::Shard;
use crate::shard::answer::{CHAIN_MS_MAX, Chain, Delivery};
use crate::shard::persist::{Outputs, Parked};

/// Times that a turn gives shards their share of "take Ready"; work that is left waits for the next turn,
/// so that new input and completed writes get in between.
const SHARES_MAX: usize = 4_096;
/// Shares of one shard in one turn: with nobody else on the core it gets so many.
const ROUNDS_MAX: usize = 64;

/// Callers that may wait while a core still counts as lightly loaded: more of them share their
/// batches, and gain more from a larger batch than from an earlier one.
const LIGHT_CALLERS_MAX: usize = 4;

/// Of a segment, for votes, compaction and checkpoints once there is no other; several times what a turn
/// stages beyond what it means to.
const LOG_RESERVE_BYTES: u64 = 4 << 20;

/// Longest time a core whose log is saturated leaves its inbox unread, in milliseconds.
const SATURATED_MS_MAX: u64 = 2;

/// The time of a turn, from the host's monotonic clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Microseconds since the host started.
    pub micros: u64,
}

impl Now {
    /// Whole milliseconds.
    pub fn millis(self) -> u64 {
        self.micros / 1_000
    }
}

/// When a core wants its next turn, unless something arrives first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// At once: work was left over.
    Again,
    /// At this time, in milliseconds of the same clock.
    At(u64),
    /// Never: the core has ended.
    Ended,
}

/// Which frames overtake which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// What raft's timers wait for: heartbeats, votes.
    Urgent,
    /// Everything that groups say beside that.
    Bulk,
    /// Pieces of images.
    Snapshot,
}

/// Where frames for peers go; never blocks. A frame that is lost, raft repeats, but for proposals in it.
pub trait Peers {
    /// Sends packed messages. False if it is certain that nothing of the frame will leave.
    fn send(&mut self, to: u64, frame: Bytes, lane: Lane) -> bool;
}

/// For a member without peers.
impl Peers for () {
    fn send(&mut self, _: u64, _: Bytes, _: Lane) -> bool {
        false
    }
}

/// What a core needs besides its shards.
#[derive(Clone, Debug)]
pub struct CoreConfig {
    /// Its door.
    pub inbox: Arc<Inbox>,
    /// Bytes of log between two checkpoints of a shard.
    pub checkpoint_bytes: u64,
    /// The core's own, refreshed in every turn.
    pub metrics: Arc<Mutex<CoreMetrics>>,
    /// How it is.
    pub vitals: Arc<SharedVitals>,
    /// Measures turns.
    pub stopwatch: Stopwatch,
}

/// One core.
pub struct Core {
    pub(super) config: CoreConfig,
    pub(super) shards: Seats,
    pub(super) wal: Wal,
    /// Who has work, and since when.
    pub(super) agenda: Agenda,
    pub(super) timers: Timers,
    pub(super) gauges: Gauges,
    /// What its budgets refuse.
    pub(super) pressure: Pressure,
    /// Callers that wait, as of the last look at each shard.
    pub(super) waiting: usize,
    /// Shards whose queues wait for the log to write something.
    held_back: Vec<Slot>,
    /// What this turn does.
    pub(super) work: TurnWork,
    /// Entries that this turn applied.
    pub(super) applied: usize,
    /// Entries in log batches so far.
    pub(super) entries_counted: u64,
    /// The log cannot get another segment, for lack of this, and has no more left than its ballast.
    pub(super) shortage: Option<Shortage>,
    /// Nor more than its reserve.
    pub(super) log_full: bool,
    /// Bytes of the last segment that are kept for votes and checkpoints.
    pub(super) log_reserve: u64,
    pub(super) retries: Retries,
    pub(super) parked: VecDeque<Parked>,
    pub(super) messages: Vec<(u64, Message)>,
    pub(super) inputs: Vec<Input>,
    pub(super) last_lsn: Lsn,
    pub(super) durable_lsn: Lsn,
    /// Old entries being read back: for which shard, from which index.
    pub(super) reads: Vec<(ReadId, Slot, u64)>,
    /// The oldest log write does not come back: this core no longer claims to be alive.
    pub(super) log_stuck: bool,
    /// When the next slice of sealed log is read.
    pub(super) scrub_at_micros: u64,
    /// Callers of this turn that another caller wakes.
    pub(super) chains: Vec<Arc<Chain>>,
    pub(super) phase: Phase,
    /// No more requests come: it stops once everyone is answered,
    pub(super) draining: bool,
    /// or then, in milliseconds.
    pub(super) drain_until_ms: u64,
    /// This turn had input, or word from the log.
    pub(super) worked: bool,
    /// Words on watch streams may wait at some shard.
    pub(super) keeps_words: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Running,
    /// The log failed: everyone was answered, nothing is acknowledged any more.
    Poisoned,
    /// Waiting for the log to close.
    Closing,
    Ended,
}

impl Core {
    /// A core over recovered shards and their open log.
    pub fn new(config: CoreConfig, shards: Vec<(Shard, ShardDoor)>, wal: Wal) -> Self {
        let durable_lsn = wal.stats().durable_lsn;
        let log_reserve = LOG_RESERVE_BYTES.min(wal.payload_max() as u64 / 4);
        let mut core = Core {
            agenda: Agenda::default(),
            timers: Timers::default(),
            gauges: Gauges::new(config.stopwatch.clone()),
            config,
            shards: Seats::default(),
            wal,
            pressure: Pressure::default(),
            waiting: 0,
            held_back: Vec::new(),
            work: TurnWork::bounded(),
            applied: 0,
            entries_counted: 0,
            shortage: None,
            log_full: false,
            log_reserve,
            retries: Retries::default(),
            log_stuck: false,
            parked: VecDeque::new(),
            messages: Vec::new(),
            inputs: Vec::new(),
            last_lsn: durable_lsn,
            durable_lsn,
            reads: Vec::new(),
            scrub_at_micros: SCRUB_EVERY_MICROS,
            chains: Vec::new(),
            phase: Phase::Running,
            draining: false,
            drain_until_ms: u64::MAX,
            worked: false,
            keeps_words: false,
        };
        for (shard, door) in shards {
            core.seat(shard, door);
        }
        core
    }

    /// Gives a shard its place; the next turn looks at it. `door`: what it shares with its callers, refreshed
    /// in every turn that looks at the shard.
    pub(super) fn seat(&mut self, mut shard: Shard, door: ShardDoor) {
        let due = shard.join(self.work.clone(), door.revision.clone());
        let at = self.shards.take_in(shard, door);
        self.agenda.take_in(at, due);
        self.gauges.metrics.shards = self.shards.len() as u64;
    }

    /// The shards in the order of their groups' ids, for tests and the simulator's checkers.
    pub fn shards(&self) -> impl Iterator<Item = &Shard> {
        self.shards.shards()
    }

    /// The work of the last turn, in nanoseconds of the reference machine, as the shards' stores count it.
    pub fn work_nanos(&self) -> u64 {
        self.work.spent()
    }

    /// Whether the last turn found anything new: input, or word from the log.
    pub fn worked(&self) -> bool {
        self.worked
    }

    /// So few callers wait that each of them is served alone.
    pub fn is_light(&self) -> bool {
        self.waiting <= LIGHT_CALLERS_MAX
    }

    /// One turn. `cx` is woken when the inbox or the disk has something new.
    pub fn turn(&mut self, now: Now, cx: &mut Context<'_>, peers: &mut dyn Peers) -> Next {
        match self.turn_awake(now, cx, peers) {
            Next::At(_) if self.rests_not(cx) => Next::Again,
            next => next,
        }
    }

    /// As [`Core::turn`], for a host that may look again instead of sleeping: until [`Core::rests_not`] was
    /// asked the inbox wakes nobody. To wake a thread that is awake costs its caller a system call for
    /// every request, more than the request itself (docs/performance.md).
    pub fn turn_awake(&mut self, now: Now, cx: &mut Context<'_>, peers: &mut dyn Peers) -> Next {
        if self.phase == Phase::Ended {
            return Next::Ended;
        }
        self.worked = false;
        self.work.begin();
        self.gauges.begin();
        self.wal.set_time(now.micros);
        // Callers of the last turn whose first one has not run yet.
        self.release_chains();
        self.take_completions(now, cx);
        self.watch_log(now);
        self.gauges.lap(Stage::Completions);
        self.intake(now);
        self.end_drain(now);
        self.gauges.lap(Stage::Intake);
        let run = self.begin_looks(now);
        self.gauges.lap(Stage::Time);
        self.process(&run, now);
        self.submit(now);
        self.gauges.lap(Stage::Submit);
        self.send(peers, now);
        self.gauges.lap(Stage::Send);
        // Before anybody hears: a caller that asks again at once finds the room that its answer made.
        self.settle(&run);
        self.press(&run, now);
        let mut delivery = Delivery::default();
        for at in &run {
            if let Some(seat) = self.shards.get_mut(*at) {
                delivery.add(seat.shard.take_answers());
            }
        }
        self.chains.extend(delivery.finish());
        self.gauges.lap(Stage::Answer);
        let mut again = self.background(&run, now);
        self.scrub(now);
        self.gauges.lap(Stage::Background);
        self.end_looks(run, now);
        if self.phase == Phase::Ended {
            self.release_chains();
            return Next::Ended;
        }
        // Registers the waker with the disk; a completion that is already there means another turn.
        again |= self.take_completions(now, cx);
        if self.phase == Phase::Ended {
            self.release_chains();
            return Next::Ended;
        }
        if again || self.agenda.has_any() || self.is_drained() {
            return Next::Again;
        }
        // The look at the log comes round however idle the shards are: hosts need not know of "never".
        let scrub_ms = self.scrub_at_micros.div_ceil(1_000);
        let mut next_ms = self.timers.next_ms().min(scrub_ms).min(self.stuck_ms());
        next_ms = next_ms.min(self.wal.checkpoint_due_micros().div_ceil(1_000));
        if !self.chains.is_empty() {
            next_ms = next_ms.min(now.millis() + CHAIN_MS_MAX);
        }
        next_ms = next_ms.min(self.pressure.next_ms());
        if self.phase == Phase::Running {
            next_ms = next_ms.min(self.retries.next_ms(self.wal.stats().space_low));
        }
        if self.draining && self.phase == Phase::Running {
            next_ms = next_ms.min(self.drain_until_ms);
        }
        if self.wal.is_saturated() {
            // New requests could not be written before a write completes, which wakes the core: being
            // woken for each of them would only cost wake-ups. The bound is for what needs no log.
            return Next::At(next_ms.min(now.millis() + SATURATED_MS_MAX));
        }
        Next::At(next_ms)
    }

    /// Before the host sleeps: whether something has arrived since the turn took its input; if not, `cx` is
    /// woken when it does.
    pub fn rests_not(&mut self, cx: &mut Context<'_>) -> bool {
        !self.wal.is_saturated() && self.config.inbox.rest(cx.waker())
    }

    /// The shards this turn looks at, each told the time.
    fn begin_looks(&mut self, now: Now) -> Vec<Slot> {
        let now_ms = now.millis();
        let agenda = &mut self.agenda;
        self.timers.take_due(now_ms, |at| agenda.mark(at));
        let run = self.agenda.take();
        for at in &run {
            if let Some(seat) = self.shards.get_mut(*at) {
                self.waiting -= std::mem::take(&mut seat.waiting);
                let is_running = self.phase == Phase::Running;
                seat.shard.begin_turn(now_ms, is_running);
            }
        }
        run
    }

    /// What the looks of this turn came to: timers and metrics.
    fn end_looks(&mut self, run: Vec<Slot>, now: Now) {
        for at in &run {
            let Some(seat) = self.shards.get_mut(*at) else {
                continue;
            };
            let (waiting, next_look_ms) = seat.shard.end_turn(now.millis());
            seat.waiting = waiting;
            self.waiting += waiting;
            self.timers.arm(*at, next_look_ms);
        }
        self.gauges.end(self.worked || !run.is_empty());
        self.publish(&run, now);
        self.agenda.give_back(run);
    }

    /// The log has room for what was held back.
    pub(super) fn let_propose(&mut self) {
        for at in self.held_back.drain(..) {
            self.agenda.mark(at);
        }
    }

    /// Gives back what callers took for writes that are answered.
    fn settle(&mut self, run: &[Slot]) {
        let mut freed = 0;
        for at in run {
            if let Some(seat) = self.shards.get_mut(*at) {
                let freed_here = seat.shard.settle();
                seat.door.budget.give_back(freed_here);
                freed += freed_here;
            }
        }
        self.config.inbox.budget().give_back(freed);
    }

    pub(super) fn release_chains(&mut self) {
        for chain in self.chains.drain(..) {
            chain.release();
        }
    }

    /// Takes what the log has to say; returns whether there was anything.
    fn take_completions(&mut self, now: Now, cx: &mut Context<'_>) -> bool {
        let mut any = false;
        while let Poll::Ready(event) = self.wal.poll(cx) {
            any = true;
            self.worked = true;
            match event {
                Event::Durable(lsn) => self.durable(lsn, now),
                Event::Read { id, result } => self.read_back(id, result, now),
                Event::SpaceLow(lacks) => {
                    tracing::debug!(%lacks, "no room for another log segment")
                }
                Event::SpaceOk => tracing::debug!("another log segment was made"),
                Event::Poisoned(error) => self.poison(&error.to_string()),
                Event::Rot {
                    file, offset, what, ..
                } => {
                    tracing::error!(file = %file.display(), offset, what, "sealed log has rotted: see \
                        `henge wal verify`");
                }
                Event::Healed(healed) => {
                    tracing::warn!(
                        file = %healed.file.display(),
                        offset = healed.offset,
                        what = healed.what,
                        "one of two copies in the log has rotted: `henge wal repair` makes it good again"
                    );
                }
                Event::Closed => {
                    self.phase = Phase::Ended;
                    break;
                }
                _ => {}
            }
        }
        any
    }

    /// Ready, persist and apply: a share for each shard in turn, until nothing is left or the turn's bound
    /// is met.
    fn process(&mut self, run: &[Slot], now: Now) {
        if self.phase != Phase::Running {
            return;
        }
        let mut out = Outputs {
            wal: &mut self.wal,
            parked: &mut self.parked,
            messages: &mut self.messages,
            last_lsn: &mut self.last_lsn,
            durable_lsn: self.durable_lsn,
            log_reserve: self.log_reserve,
            now_ms: now.millis(),
            stopwatch: &self.config.stopwatch,
            apply_micros: 0,
            applied: 0,
            held_back: &mut self.held_back,
        };
        let mut left = SHARES_MAX.max(run.len());
        let mut queue = self.agenda.queue(run);
        for _ in 0..ROUNDS_MAX {
            queue.retain(|at| {
                if left == 0 {
                    return true;
                }
                left -= 1;
                let seat = self.shards.get_mut(*at);
                seat.is_some_and(|seat| seat.shard.process(*at, &mut out))
            });
            if queue.is_empty() || left == 0 {
                break;
            }
        }
        let apply_micros = out.apply_micros;
        self.applied = out.applied;
        self.agenda.keep(queue);
        // Who was first is last in the next turn: what a turn has time for may not do for all.
        let (first, others) = run.split_at(run.len().min(1));
        for at in others.iter().chain(first) {
            let seat = self.shards.get_mut(*at);
            if seat.is_some_and(|seat| seat.shard.has_left()) {
                self.agenda.mark(*at);
            }
        }
        self.gauges.lap(Stage::Ready);
        self.gauges.split(Stage::Ready, Stage::Apply, apply_micros);
    }

    /// Packs the turn's messages, heartbeats and votes apart so that they need not wait behind entries.
    fn send(&mut self, peers: &mut dyn Peers, now: Now) {
        if self.log_stuck {
            // Who cannot write must not lead: without heartbeats the others elect another leader, and
            // without answers this one steps down (CheckQuorum). What it was to forward, it keeps.
            let messages = std::mem::take(&mut self.messages);
            let heartbeats = messages.iter();
            let heartbeats = heartbeats.filter(|(_, m)| m.kind == MessageKind::Heartbeat);
            self.gauges.metrics.heartbeats_kept += heartbeats.count() as u64;
            pack::pack(messages.iter(), |frame| self.not_sent(frame, now));
        }
        if self.messages.is_empty() {
            return;
        }
        let messages = std::mem::take(&mut self.messages);
        let mut targets: Vec<u64> = messages.iter().map(|(_, message)| message.to).collect();
        targets.sort_unstable();
        targets.dedup();
        let mut not_sent = Vec::new();
        for to in targets {
            for lane in [Lane::Urgent, Lane::Bulk] {
                let urgent = lane == Lane::Urgent;
                let messages = messages.iter().filter(|(_, message)| {
                    message.to == to && pack::is_urgent_kind(message.kind) == urgent
                });
                pack::pack(messages, |frame| {
                    // Timers' own messages come again by themselves; proposals in the others do not.
                    if !peers.send(to, frame.clone(), lane) && !urgent {
                        not_sent.push(frame);
                    }
                });
            }
        }
        for frame in not_sent {
            self.not_sent(frame, now);
        }
    }
}
