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

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use henge_raft::{Entry, EntryKind, Message, MessageKind};
use henge_wal::{Event, Lsn, ReadId, Wal};

use super::inbox::{Inbox, Input};
use super::pack;
use crate::api::{Error, Metrics};
use crate::shard::answer::{CHAIN_MS_MAX, Chain};
use crate::shard::persist::{Outputs, Parked};
use crate::shard::{STOPPED_PROPOSED, STOPPED_QUEUED, Shard};

/// Rounds of "take Ready of every shard" in one turn; work that is left waits for the next turn, so
/// that new input and completed writes get in between.
const ROUNDS_MAX: usize = 8;
/// Bytes of old entries read back from the log for a slow follower at a time.
const READ_BACK_BYTES: usize = 4 << 20;

/// Callers that may wait while a core still counts as lightly loaded: more of them share their
/// batches, and gain more from a larger batch than from an earlier one.
const LIGHT_CALLERS_MAX: usize = 4;

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

/// Where frames for peers go; never blocks. A frame that cannot be taken is lost, and raft repeats it.
pub trait Peers {
    /// Sends packed messages. `urgent` ones (heartbeats, votes) should pass bulk ones.
    fn send(&mut self, to: u64, frame: Bytes, urgent: bool);
}

/// For a member without peers.
impl Peers for () {
    fn send(&mut self, _: u64, _: Bytes, _: bool) {}
}

/// What a core needs besides its shards.
#[derive(Clone, Debug)]
pub struct CoreConfig {
    /// Its door.
    pub inbox: Arc<Inbox>,
    /// Where checkpoints are written.
    pub checkpoint_dir: PathBuf,
    /// Bytes of log between two checkpoints of a shard.
    pub checkpoint_bytes: u64,
    /// One entry per shard, refreshed every turn.
    pub metrics: Vec<Arc<Mutex<Metrics>>>,
}

/// One core.
pub struct Core {
    config: CoreConfig,
    shards: Vec<Shard>,
    wal: Wal,
    parked: VecDeque<Parked>,
    messages: Vec<(u64, Message)>,
    inputs: Vec<Input>,
    last_lsn: Lsn,
    durable_lsn: Lsn,
    /// Log batches in flight and when they were handed over.
    written: VecDeque<(Lsn, u64)>,
    write_seconds: [u64; 15],
    write_seconds_sum: f64,
    /// Old entries being read back: for which shard, from which index.
    reads: Vec<(ReadId, usize, u64)>,
    /// Callers of this turn that another caller wakes.
    chains: Vec<Arc<Chain>>,
    phase: Phase,
    /// This turn had input, or word from the log.
    worked: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Running,
    /// The log failed: everyone was answered, nothing is acknowledged any more.
    Poisoned,
    /// Waiting for the log to close.
    Closing,
    Ended,
}

impl Core {
    /// A core over recovered shards and their open log.
    pub fn new(config: CoreConfig, shards: Vec<Shard>, wal: Wal) -> Self {
        let durable_lsn = wal.stats().durable_lsn;
        Core {
            config,
            shards,
            wal,
            parked: VecDeque::new(),
            messages: Vec::new(),
            inputs: Vec::new(),
            last_lsn: durable_lsn,
            durable_lsn,
            written: VecDeque::new(),
            write_seconds: [0; 15],
            write_seconds_sum: 0.0,
            reads: Vec::new(),
            chains: Vec::new(),
            phase: Phase::Running,
            worked: false,
        }
    }

    /// The shards, for tests and the simulator's checkers.
    pub fn shards(&self) -> &[Shard] {
        &self.shards
    }

    /// Whether the last turn found anything new: input, or word from the log.
    pub fn worked(&self) -> bool {
        self.worked
    }

    /// So few callers wait that each of them is served alone.
    pub fn is_light(&self) -> bool {
        let waiting: usize = self.shards.iter().map(Shard::waiting).sum();
        waiting <= LIGHT_CALLERS_MAX
    }

    /// One turn. `cx` is woken when the inbox or the disk has something new.
    pub fn turn(&mut self, now: Now, cx: &mut Context<'_>, peers: &mut dyn Peers) -> Next {
        if self.phase == Phase::Ended {
            return Next::Ended;
        }
        self.worked = false;
        // Callers of the last turn whose first one has not run yet.
        self.release_chains();
        self.take_completions(now, cx);
        self.intake(now);
        let mut next_ms = u64::MAX;
        for shard in &mut self.shards {
            next_ms = next_ms.min(shard.advance_time(now.millis()));
            if self.phase == Phase::Running {
                shard.ask_read_index(now.millis());
            }
        }
        let mut again = self.process(now);
        self.send(peers);
        for shard in &mut self.shards {
            self.chains.extend(shard.flush_answers());
        }
        again |= self.background(cx);
        self.publish();
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
        if again {
            return Next::Again;
        }
        if !self.chains.is_empty() {
            next_ms = next_ms.min(now.millis() + CHAIN_MS_MAX);
        }
        if self.wal.is_saturated() {
            // New requests could not be written before a write completes, which wakes the core: being
            // woken for each of them would only cost wake-ups. The bound is for what needs no log.
            return Next::At(next_ms.min(now.millis() + SATURATED_MS_MAX));
        }
        if self.config.inbox.rest(cx.waker()) {
            Next::Again
        } else {
            Next::At(next_ms)
        }
    }

    fn release_chains(&mut self) {
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
                Event::Read { id, result } => self.read_back(id, result),
                Event::SpaceLow => self.set_space_low(true),
                Event::SpaceOk => self.set_space_low(false),
                Event::Poisoned(error) => self.poison(&error.to_string()),
                Event::Closed => {
                    self.phase = Phase::Ended;
                    break;
                }
                _ => {}
            }
        }
        any
    }

    fn durable(&mut self, lsn: Lsn, now: Now) {
        self.durable_lsn = lsn;
        while let Some((_, at)) = self.written.pop_front_if(|(written, _)| *written <= lsn) {
            let micros = now.micros.saturating_sub(at);
            let bucket = (0..14).find(|k| micros <= 1_000 << k).unwrap_or(14);
            self.write_seconds[bucket] += 1;
            self.write_seconds_sum += micros as f64 / 1e6;
        }
        while let Some(parked) = self.parked.pop_front_if(|parked| parked.lsn <= lsn) {
            if let Some(shard) = self.shards.get_mut(parked.shard) {
                shard.deliver(parked.responses, &mut self.messages);
            }
        }
    }

    fn intake(&mut self, now: Now) {
        let mut inputs = std::mem::take(&mut self.inputs);
        self.config.inbox.take(&mut inputs);
        self.worked |= !inputs.is_empty();
        for input in inputs.drain(..) {
            self.take_input(input, now);
        }
        self.inputs = inputs;
    }

    fn take_input(&mut self, input: Input, now: Now) {
        let running = self.phase == Phase::Running;
        match input {
            Input::Request { group, request } => match self.shard(group) {
                Some(shard) if running => shard.admit(request, now.millis()),
                _ => request.answer.send(Err(self.refusal())),
            },
            Input::Peer { from, frame } if running => self.step_frame(from, frame),
            Input::PeerLost { peer } if running => {
                for shard in &mut self.shards {
                    shard.raft.report_unreachable(peer);
                }
            }
            Input::WatchOpen { group, session } => match self.shard(group) {
                Some(shard) if running => shard.watches.open(session),
                _ => session.end(),
            },
            Input::Watch {
                group,
                session,
                command,
            } => {
                if let Some(shard) = self.shard(group) {
                    let header = shard.header();
                    shard
                        .watches
                        .command(&mut shard.machine.store, session, command, header);
                }
            }
            Input::WatchTouch { group, session } => {
                if let Some(shard) = self.shard(group) {
                    let header = shard.header();
                    shard
                        .watches
                        .touch(&mut shard.machine.store, session, header);
                }
            }
            Input::Stop => self.stop(),
            Input::Peer { .. } | Input::PeerLost { .. } => {}
        }
    }

    fn shard(&mut self, group: u64) -> Option<&mut Shard> {
        self.shards
            .iter_mut()
            .find(|shard| shard.config.group == group)
    }

    fn refusal(&self) -> Error {
        match self.phase {
            Phase::Poisoned => Error::Poisoned("an earlier write failed".to_owned()),
            _ => STOPPED_QUEUED,
        }
    }

    fn step_frame(&mut self, from: u64, frame: Bytes) {
        let messages = match pack::unpack(frame) {
            Ok(messages) => messages,
            Err(error) => {
                tracing::warn!(peer = %format_args!("{from:x}"), %error, "dropped a peer's frame");
                return;
            }
        };
        for (group, message) in messages {
            // A peer speaks for itself, except that it may pass on a forwarded proposal or read.
            let forwarded = matches!(message.kind, MessageKind::Prop | MessageKind::ReadIndex);
            if message.from != from && !forwarded {
                continue;
            }
            if let Some(shard) = self.shard(group) {
                shard.step_peer(message);
            }
        }
    }

    /// Ready, persist and apply, until nothing is left or the turn's bound is met.
    fn process(&mut self, now: Now) -> bool {
        if self.phase != Phase::Running {
            return false;
        }
        let mut again = true;
        for _ in 0..ROUNDS_MAX {
            if !again {
                break;
            }
            again = false;
            for (at, shard) in self.shards.iter_mut().enumerate() {
                let mut out = Outputs {
                    wal: &mut self.wal,
                    parked: &mut self.parked,
                    messages: &mut self.messages,
                    last_lsn: &mut self.last_lsn,
                    durable_lsn: self.durable_lsn,
                    now_ms: now.millis(),
                };
                again |= shard.process_ready(at, &mut out);
                shard.answer_reads(now.millis());
            }
        }
        self.submit(now);
        again
    }

    fn submit(&mut self, now: Now) {
        match self.wal.submit() {
            Ok(_) => {
                let submitted = self.wal.stats().submitted_lsn;
                let last = self
                    .written
                    .back()
                    .map_or(self.durable_lsn, |(lsn, _)| *lsn);
                if submitted > last {
                    self.written.push_back((submitted, now.micros));
                }
            }
            Err(error) => self.poison(&error.to_string()),
        }
    }

    /// Packs the turn's messages, heartbeats and votes apart so that they need not wait behind entries.
    fn send(&mut self, peers: &mut dyn Peers) {
        if self.messages.is_empty() {
            return;
        }
        let messages = std::mem::take(&mut self.messages);
        let mut targets: Vec<u64> = messages.iter().map(|(_, message)| message.to).collect();
        targets.sort_unstable();
        targets.dedup();
        for to in targets {
            for urgent in [true, false] {
                let lane = messages
                    .iter()
                    .filter(|(_, message)| message.to == to && is_urgent(message) == urgent);
                pack::pack(lane, |frame| peers.send(to, frame, urgent));
            }
        }
    }

    /// Work without a caller waiting: a slice of compaction or of a checkpoint, old entries for slow
    /// followers.
    fn background(&mut self, cx: &mut Context<'_>) -> bool {
        if self.phase != Phase::Running {
            return false;
        }
        let mut again = false;
        let (dir, every) = (&self.config.checkpoint_dir, self.config.checkpoint_bytes);
        for (at, shard) in self.shards.iter_mut().enumerate() {
            again |= shard.compact_slice();
            again |= shard.checkpoint_slice(dir, &mut self.wal, every, cx);
            again |= shard.watch_slice();
            while let Some(wanted) = shard.raft.storage_mut().take_wanted() {
                let (low, high) = (wanted.low, wanted.high - 1);
                let id = self
                    .wal
                    .read(shard.config.group, low, high, READ_BACK_BYTES);
                self.reads.push((id, at, low));
            }
        }
        again
    }

    fn read_back(
        &mut self,
        id: ReadId,
        result: Result<Vec<henge_wal::ReadEntry>, henge_wal::ReadError>,
    ) {
        let Some(found) = self.reads.iter().position(|(read, ..)| *read == id) else {
            return;
        };
        let (_, at, low) = self.reads.swap_remove(found);
        let Some(shard) = self.shards.get_mut(at) else {
            return;
        };
        match result {
            Ok(entries) => {
                let entries = entries.into_iter().map(|entry| Entry {
                    term: entry.term,
                    index: entry.index,
                    kind: EntryKind::from_u8(entry.kind).unwrap_or_default(),
                    data: entry.payload,
                });
                shard.raft.storage_mut().fetched(low, entries.collect());
                // Not at the next heartbeat: a laggard would get one span per heartbeat.
                shard.raft.entries_available();
            }
            Err(error) => {
                shard.raft.storage_mut().fetched(low, Vec::new());
                tracing::warn!(group = shard.config.group, %error, "old entries cannot be read back");
            }
        }
    }

    fn set_space_low(&mut self, low: bool) {
        if low {
            tracing::warn!("no room for another log segment: writes that add data are refused");
        } else {
            tracing::info!("there is room for log segments again");
        }
        for shard in &mut self.shards {
            shard.space_low = low;
        }
    }

    fn poison(&mut self, why: &str) {
        if self.phase == Phase::Poisoned {
            return;
        }
        tracing::error!(
            why,
            "the log failed; nothing is acknowledged any more; look at the disk, then restart"
        );
        self.phase = Phase::Poisoned;
        self.parked.clear();
        let error = Error::Poisoned(why.to_owned());
        for shard in &mut self.shards {
            shard.end(&error, &error);
        }
    }

    fn stop(&mut self) {
        for shard in &mut self.shards {
            shard.end(&STOPPED_PROPOSED, &STOPPED_QUEUED);
        }
        self.config.inbox.close();
        if self.phase == Phase::Poisoned {
            self.phase = Phase::Ended;
        } else {
            self.phase = Phase::Closing;
            self.wal.close();
        }
    }

    fn publish(&mut self) {
        let stats = self.wal.stats();
        let log_full = stats.space_low && stats.ready_segments == 0;
        for (shard, published) in self.shards.iter_mut().zip(&self.config.metrics) {
            shard.log_full = log_full;
            let mut metrics = published.lock().unwrap_or_else(PoisonError::into_inner);
            shard.metrics(&mut metrics);
            metrics.wal_batches = stats.batches;
            metrics.wal_bytes = stats.bytes;
            metrics.wal_payload_bytes = stats.payload_bytes;
            metrics.io_backend = stats.backend;
            metrics.direct_io = stats.direct_io;
            metrics.poisoned = self.phase == Phase::Poisoned;
            metrics.wal_write_seconds = self.write_seconds;
            metrics.wal_write_seconds_sum = self.write_seconds_sum;
        }
    }
}

fn is_urgent(message: &Message) -> bool {
    matches!(
        message.kind,
        MessageKind::Heartbeat
            | MessageKind::HeartbeatResp
            | MessageKind::Vote
            | MessageKind::VoteResp
            | MessageKind::PreVote
            | MessageKind::PreVoteResp
            | MessageKind::TimeoutNow
    )
}
