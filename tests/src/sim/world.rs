//! The world: virtual time, the queue of what happens when, and the nodes, clients and watchers in it.
//!
//! One thread, one step at a time: the earliest of the queued events and the nodes' next turns. After
//! every turn the checkers see what the node showed its watchers, then what it answered.
//! Nemesis and final examination are in `faults` and `settle`, what watchers do in `watching`.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use henge::api::{Error, Outcome, Reply};
use henge_core::machine::Response;
use henge_core::shard::request::{AnswerReceiver, RequestKind};

use super::check::history::History;
use super::check::{Violation, violated};
use super::client::Workload;
use super::drive::Drive;
use super::faults::Nemesis;
use super::host::{Host, StartError, Turned};
use super::net::{Network, Weather};
use super::op::{Op, OpId};
use super::planted::Planted;
use super::rng::Rng;
use super::seat::Seat;
use super::trace::{Kind, Trace, digest};
use super::{Options, Stats};

/// Where the world's clock starts, so that no node's clock can go below zero.
const START_US: u64 = 3_600_000_000;
/// Clients of a run.
const CLIENTS: usize = 5;
/// Streams of watchers beside the one per node that sees everything.
const WATCHERS: usize = 4;
/// Mean time between two moves of such a stream's client.
pub(super) const FIDGET_US: u64 = 60_000;
/// Between two progress notes of a watcher in a run, in milliseconds: often, and more seldom than a crash.
const PROGRESS_MS: [u64; 3] = [20, 100, 300];
/// Runs of several nodes, per thousand, that are all about elections cut short.
const HURRIED_PERMILLE: u64 = 60;
/// Bytes of log between two checkpoints of a run: often enough that a crash soon meets one.
const CHECKPOINT_BYTES: [u64; 3] = [64 << 10, 256 << 10, 1 << 20];
/// Mean pause of a client between two operations.
const THINK_US: u64 = 3_000;

/// Everything there is.
pub struct World {
    pub(super) now_us: u64,
    pub(super) rng: Rng,
    pub(super) trace: Trace,
    pub(super) nodes: Vec<Node>,
    pub(super) network: Network,
    pub(super) nemesis: Nemesis,
    pub(super) history: History,
    pub(super) workload: Workload,
    pub(super) clients: Vec<Client>,
    /// Clients ask nothing new.
    pub(super) quiet: bool,
    pub(super) stats: Stats,
    pub(super) watchers: Vec<Watching>,
    /// The dice of the watchers' clients.
    pub(super) fidget: Rng,
    queue: BTreeMap<(u64, u64), Event>,
    queued: u64,
    leaders: BTreeMap<u64, usize>,
    pub(super) planted: Option<Planted>,
}

/// A node and the world's view of it.
pub(super) struct Node {
    pub(super) host: Host,
    /// When it wants its next turn.
    turn_us: u64,
    /// A turn takes time.
    busy_until_us: u64,
    pub(super) paused_until_us: u64,
    /// Until then its disk may refuse operations.
    pub(super) disk_bad_until_us: u64,
    /// A start is queued.
    pub(super) starting: bool,
    pub(super) stopping: bool,
    pub(super) observer: Seat,
}

/// A client's watchers, and the node they watch now.
pub(super) struct Watching {
    pub(super) seat: Seat,
    pub(super) node: usize,
}

/// A client and what it waits for.
#[derive(Default)]
pub(super) struct Client {
    pub(super) waiting: Option<Waiting>,
}

/// An operation that is not answered yet.
pub(super) struct Waiting {
    pub(super) id: OpId,
    pub(super) node: usize,
    receiver: AnswerReceiver,
}

/// Something that happens at its time.
pub(super) enum Event {
    Frame {
        from: usize,
        to: usize,
        frame: Bytes,
    },
    Client(usize),
    /// A client of watchers does something with its stream.
    Fidget(usize),
    Start(usize),
    Crash(usize),
    Fault,
    Mend,
    /// A full disk has room again.
    Space(usize),
}

impl World {
    /// A world of a seed; nothing runs yet.
    pub fn new(options: &Options) -> Self {
        let mut rng = Rng::new(options.seed);
        let planted = options.planted;
        let nodes = options.nodes;
        let repeat = planted == Some(Planted::RepeatedProposal);
        let hurried =
            planted == Some(Planted::LostVote) || (nodes > 1 && rng.permille(HURRIED_PERMILLE));
        let weather = if hurried {
            Weather::SLOW
        } else {
            Weather::draw(&mut rng)
        };
        let network = Network::new(nodes, weather, repeat, rng.fork());
        let write_us = rng.between(50, 1_000);
        let segment_bytes = [64 << 10, 128 << 10, 1 << 20][rng.index(3)];
        // Members of a cluster write none.
        let checkpoint_bytes = match nodes {
            1 => CHECKPOINT_BYTES[rng.index(CHECKPOINT_BYTES.len())],
            _ => u64::MAX,
        };
        let nemesis = match hurried {
            true => Nemesis::hurried(&mut rng),
            false => Nemesis::draw(&mut rng, nodes, planted),
        };
        let workload = Workload::draw(rng.fork());
        let mut fidget = rng.fork();
        let progress_ms = PROGRESS_MS[fidget.index(PROGRESS_MS.len())];
        let node = |at| {
            let drive = Drive::new(rng.fork(), write_us, planted, options.print);
            let sizes = (segment_bytes, checkpoint_bytes);
            let host = Host::new(at, nodes, drive, sizes, progress_ms, planted);
            Node::new(host)
        };
        let nodes = (0..nodes).map(node).collect();
        World {
            now_us: START_US,
            trace: Trace::new(options.print),
            nodes,
            network,
            nemesis,
            history: History::default(),
            workload,
            clients: (0..CLIENTS).map(|_| Client::default()).collect(),
            quiet: false,
            stats: Stats::default(),
            watchers: Vec::new(),
            fidget,
            queue: BTreeMap::new(),
            queued: 0,
            leaders: BTreeMap::new(),
            planted,
            rng,
        }
    }

    /// Starts everything, lets it run under faults for `for_us`, then heals it and examines it.
    pub fn run(&mut self, for_us: u64) -> Result<(), Violation> {
        for at in 0..self.nodes.len() {
            self.after(0, Event::Start(at));
            self.nodes[at].starting = true;
        }
        for at in 0..WATCHERS {
            let seat = Seat::draw(&mut self.fidget, &mut self.workload, &self.history);
            let node = at % self.nodes.len();
            self.watchers.push(Watching { seat, node });
            let delay = self.fidget.spread(FIDGET_US);
            self.after(delay, Event::Fidget(at));
        }
        for at in 0..self.clients.len() {
            let delay = self.rng.spread(THINK_US);
            self.after(delay, Event::Client(at));
        }
        let first = self.nemesis.pause_us();
        self.after(first, Event::Fault);
        self.run_until(self.now_us + for_us)?;
        self.settle()?;
        self.stats.virtual_us = self.now_us - START_US;
        for node in &self.nodes {
            self.stats.aside.add(&node.host.drive.tally());
        }
        self.stats.revisions = self.history.model.revision();
        self.stats.counts = self.history.counts;
        self.stats.trace = self.trace.hash();
        self.stats.events = self.trace.events();
        Ok(())
    }

    /// Lets time pass until then.
    pub(super) fn run_until(&mut self, until_us: u64) -> Result<(), Violation> {
        while self.step(until_us)? {}
        self.now_us = until_us;
        Ok(())
    }

    /// Does what is next, if it is due before `until_us`.
    pub(super) fn step(&mut self, until_us: u64) -> Result<bool, Violation> {
        let queued = self
            .queue
            .first_key_value()
            .map_or(u64::MAX, |((at, _), _)| *at);
        let turns = self
            .nodes
            .iter()
            .enumerate()
            .map(|(at, node)| (node.due_us(), at));
        let (turn, node) = turns.min().unwrap_or((u64::MAX, 0));
        let next = queued.min(turn);
        if next >= until_us {
            return Ok(false);
        }
        self.now_us = self.now_us.max(next);
        if turn < queued {
            self.turn(node)?;
        } else if let Some((_, event)) = self.queue.pop_first() {
            self.happen(event)?;
        }
        Ok(true)
    }

    /// Queues an event.
    pub(super) fn after(&mut self, delay_us: u64, event: Event) {
        self.queued += 1;
        self.queue
            .insert((self.now_us + delay_us, self.queued), event);
    }

    /// Notes something in the trace.
    pub(super) fn note(&mut self, kind: Kind, node: usize, a: u64, b: u64) {
        self.trace.note(self.now_us, kind, node as u64, a, b);
    }

    fn happen(&mut self, event: Event) -> Result<(), Violation> {
        match event {
            Event::Frame { from, to, frame } => self.arrive(from, to, frame),
            Event::Client(client) => self.client_step(client),
            Event::Fidget(at) => {
                self.fidget(at);
                Ok(())
            }
            Event::Start(node) => self.start(node),
            Event::Crash(node) => {
                self.crash(node);
                Ok(())
            }
            Event::Fault => self.strike(),
            Event::Mend => {
                self.network.mend();
                self.note(Kind::Links, 0, 0, 0);
                Ok(())
            }
            Event::Space(node) => {
                self.nodes[node].host.drive.set_full(false);
                Ok(())
            }
        }
    }

    /// Starts a node's process, or finds that it cannot start now.
    fn start(&mut self, at: usize) -> Result<(), Violation> {
        if self.nodes[at].host.process.is_some() {
            return Ok(());
        }
        if let Some(ops) = self.nemesis.stop_during_recovery(&mut self.rng) {
            self.nodes[at].host.drive.stop_at(ops);
        }
        let seed = self.rng.bits();
        let node = &mut self.nodes[at];
        node.host.drive.set_now(self.now_us);
        let started = node.host.start(self.now_us, seed);
        let stopped = node.host.drive.has_stopped();
        let excused = stopped || self.now_us < node.disk_bad_until_us;
        match started {
            Ok(()) => {
                node.starting = false;
                node.turn_us = self.now_us;
                node.paused_until_us = 0;
                self.stats.starts += 1;
                self.note(Kind::Start, at, 0, 0);
                self.seat_watchers(at);
                Ok(())
            }
            Err(StartError::Disk(why)) if excused => {
                node.host.drive.crash();
                self.note(Kind::Crash, at, digest(why.as_bytes()), 1);
                self.stats.failed_starts += 1;
                let delay = self.rng.between(1_000, 50_000);
                self.after(delay, Event::Start(at));
                Ok(())
            }
            Err(StartError::Disk(why) | StartError::Refused(why)) => {
                violated!("node {at} does not start: {why}")
            }
        }
    }

    /// The machine of a node stops dead, and comes back later.
    pub(super) fn crash(&mut self, at: usize) {
        let down_us = self.nemesis.down_us(&mut self.rng);
        let node = &mut self.nodes[at];
        if node.host.process.is_some() {
            node.host.crash();
            self.stats.crashes += 1;
            self.down(at, Kind::Crash, down_us);
        }
    }

    /// After a process has gone: its callers and watchers know nothing, its peers lose a connection.
    fn down(&mut self, at: usize, kind: Kind, down_us: u64) {
        self.note(kind, at, down_us, 0);
        self.nodes[at].observer.close();
        for here in self.watchers.iter_mut().filter(|here| here.node == at) {
            here.seat.close();
            // A client whose node is gone goes to another, which may lag behind what it was shown.
            here.node = (at + 1) % self.nodes.len();
        }
        for client in 0..self.clients.len() {
            if let Some(waiting) = self.clients[client]
                .waiting
                .take_if(|waiting| waiting.node == at)
            {
                self.history.lost(waiting.id);
                self.rest(client);
            }
        }
        for (peer, node) in self.nodes.iter().enumerate() {
            if let Some(process) = node.host.process.as_ref().filter(|_| peer != at) {
                process.lose(at);
            }
        }
        self.nodes[at].stopping = false;
        if !std::mem::replace(&mut self.nodes[at].starting, true) {
            self.after(down_us, Event::Start(at));
        }
        for node in 0..self.nodes.len() {
            self.seat_watchers(node);
        }
    }

    fn turn(&mut self, at: usize) -> Result<(), Violation> {
        let node = &mut self.nodes[at];
        let Some(process) = node.host.process.as_mut() else {
            return Ok(());
        };
        node.host.drive.set_now(self.now_us);
        let Turned { next_us, frames } = process.turn(self.now_us);
        node.turn_us = match next_us {
            Some(_) if process.is_woken() => self.now_us,
            Some(next_us) => next_us,
            None => u64::MAX,
        };
        node.busy_until_us = self.now_us + 5 + self.rng.spread(20);
        if process.is_corrupt() {
            return violated!("node {at}: its group stopped serving");
        }
        let (revision, poisoned) = (process.revision(), process.metrics().poisoned);
        self.stats.turns += 1;
        self.note(
            Kind::Turn,
            at,
            revision.cast_unsigned(),
            frames.len() as u64,
        );
        for (to, frame) in frames {
            self.send(at, to, &frame);
        }
        self.look(at)?;
        self.take_answers(at)?;
        self.note_leader(at)?;
        if self.nodes[at].host.drive.has_stopped() {
            self.crash(at);
        } else if next_us.is_none() {
            let down_us = self.nemesis.down_us(&mut self.rng);
            self.nodes[at].host.process = None;
            self.nodes[at].host.drive.ended();
            self.down(at, Kind::Stop, down_us);
        } else if poisoned && !std::mem::replace(&mut self.nodes[at].stopping, true) {
            // What an operator or a supervisor does.
            self.stats.poisoned += 1;
            let delay = self.rng.spread(20_000);
            self.after(delay, Event::Crash(at));
        }
        Ok(())
    }

    fn send(&mut self, from: usize, to: usize, frame: &Bytes) {
        if to >= self.nodes.len() {
            return;
        }
        let arrivals = self.network.route(from, to, frame);
        self.note(Kind::Send, from, to as u64, digest(frame));
        if arrivals.is_empty() {
            self.stats.frames_lost += 1;
            self.note(Kind::Drop, from, to as u64, 0);
        }
        for arrival in arrivals {
            self.after(
                arrival.delay_us,
                Event::Frame {
                    from,
                    to,
                    frame: frame.clone(),
                },
            );
        }
    }

    fn arrive(&mut self, from: usize, to: usize, frame: Bytes) -> Result<(), Violation> {
        // A link that was cut meanwhile swallows what was on its way.
        if self.network.is_cut(from, to) {
            return Ok(());
        }
        if let Some(process) = &self.nodes[to].host.process {
            let seen = digest(&frame);
            self.trace
                .say(|| format!("{:?}", henge_core::pack::unpack(frame.clone())));
            process.deliver(from, frame);
            self.note(Kind::Deliver, to, from as u64, seen);
            self.wake(to);
        }
        Ok(())
    }

    pub(super) fn wake(&mut self, at: usize) {
        self.nodes[at].turn_us = self.nodes[at].turn_us.min(self.now_us);
    }

    /// Two leaders of one term would be raft's end.
    fn note_leader(&mut self, at: usize) -> Result<(), Violation> {
        let Some(process) = &self.nodes[at].host.process else {
            return Ok(());
        };
        let Some(term) = process.leads() else {
            return Ok(());
        };
        match *self.leaders.entry(term).or_insert(at) {
            leader if leader != at => violated!("nodes {leader} and {at} both lead term {term}"),
            _ => Ok(()),
        }
    }

    fn client_step(&mut self, client: usize) -> Result<(), Violation> {
        if self.quiet || self.clients[client].waiting.is_some() {
            return Ok(());
        }
        let node = self.rng.index(self.nodes.len());
        let op = self.workload.next(&self.history);
        self.ask(client, node, op)
    }

    /// A client asks a node.
    pub(super) fn ask(&mut self, client: usize, node: usize, op: Op) -> Result<(), Violation> {
        let Some(process) = &self.nodes[node].host.process else {
            self.rest(client);
            return Ok(());
        };
        let kind = request(&op, self.planted);
        let id = self.history.invoke(node, op);
        self.trace
            .note(self.now_us, Kind::Invoke, node as u64, client as u64, id);
        match process.ask(kind) {
            Ok(receiver) => {
                self.clients[client].waiting = Some(Waiting { id, node, receiver });
                self.wake(node);
                Ok(())
            }
            Err(error) => {
                self.rest(client);
                self.answered(id, Err(error))
            }
        }
    }

    /// A client does nothing for a while.
    fn rest(&mut self, client: usize) {
        if !self.quiet {
            let delay = self.rng.spread(THINK_US);
            self.after(delay, Event::Client(client));
        }
    }

    fn take_answers(&mut self, at: usize) -> Result<(), Violation> {
        for client in 0..self.clients.len() {
            let Some(waiting) = &mut self.clients[client].waiting else {
                continue;
            };
            if waiting.node != at {
                continue;
            }
            let mut cx = Context::from_waker(Waker::noop());
            let id = waiting.id;
            match Future::poll(Pin::new(&mut waiting.receiver), &mut cx) {
                Poll::Pending => {}
                Poll::Ready(answer) => {
                    self.clients[client].waiting = None;
                    self.rest(client);
                    self.answered(id, answer)?;
                }
            }
        }
        Ok(())
    }

    fn answered(
        &mut self,
        id: OpId,
        answer: Result<Reply<Response>, Error>,
    ) -> Result<(), Violation> {
        let (what, revision) = match &answer {
            Ok(reply) => (0, reply.header.revision),
            Err(error) if error.outcome() == Outcome::NotDone => (1, 0),
            Err(_) => (2, 0),
        };
        self.trace.note(
            self.now_us,
            Kind::Answer,
            what,
            id,
            revision.cast_unsigned(),
        );
        if let Err(error) = &answer {
            self.trace.say(|| format!("operation {id}: {error}"));
        }
        self.history.answer(id, answer)
    }
}

impl Node {
    fn new(host: Host) -> Self {
        Node {
            host,
            turn_us: 0,
            busy_until_us: 0,
            paused_until_us: 0,
            disk_bad_until_us: 0,
            starting: false,
            stopping: false,
            observer: Seat::of_all(),
        }
    }

    /// When it takes its next turn.
    fn due_us(&self) -> u64 {
        if self.host.process.is_none() {
            return u64::MAX;
        }
        let disk = self.host.drive.next_due_us().unwrap_or(u64::MAX);
        self.turn_us
            .min(disk)
            .max(self.busy_until_us)
            .max(self.paused_until_us)
    }

    /// How far its all-seeing watcher has come.
    pub(super) fn shown(&self) -> i64 {
        self.observer.cursor()
    }
}

fn request(op: &Op, planted: Option<Planted>) -> RequestKind {
    match op {
        Op::Hash => RequestKind::HashKv(0),
        Op::Range { serializable, .. } => {
            let serializable = *serializable || planted == Some(Planted::StaleRead);
            RequestKind::Read {
                encoded: op.encode(),
                serializable,
            }
        }
        _ => RequestKind::Write(op.encode()),
    }
}
