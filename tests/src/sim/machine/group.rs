//! One shard of the machine as its clients and its watcher see it: a history of its own, checked by the
//! same checkers as a whole cluster's, since each shard promises everything that a store of its own does.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use henge::api::{Error, Outcome, Reply};
use henge_core::inbox::Inbox;
use henge_core::machine::Response;
use henge_core::shard::request::{AnswerReceiver, RequestKind};
use henge_core::stream::WatchStream;

use super::cores::RunningCore;
use crate::sim::check::Violation;
use crate::sim::check::history::History;
use crate::sim::check::watch::Step;
use crate::sim::client::Workload;
use crate::sim::op::{Op, OpId};
use crate::sim::rng::Rng;
use crate::sim::seat::Seat;
use crate::sim::trace::{Kind, Trace};

/// Clients of each shard, with one operation in flight each.
pub(super) const CLIENTS: usize = 2;

/// A shard, over all its lives.
pub(super) struct Group {
    /// Its id in the logs.
    pub(super) id: u64,
    pub(super) history: History,
    workload: Workload,
    clients: [Option<Waiting>; CLIENTS],
    observer: Seat,
    /// Watchers of some keys, resumed in every life of the shard, which may be behind what they were shown
    /// until it has read its log.
    others: Seat,
    /// The dice of their client.
    fidget: Rng,
    next_session: u64,
}

struct Waiting {
    op: OpId,
    receiver: AnswerReceiver,
}

/// What is noted in the trace, and when.
pub(super) struct Notes<'a> {
    pub(super) trace: &'a mut Trace,
    pub(super) now_us: u64,
}

impl Notes<'_> {
    fn note(&mut self, kind: Kind, group: u64, a: u64, b: u64) {
        self.trace.note(self.now_us, kind, group, a, b);
    }
}

impl Group {
    pub(super) fn new(id: u64, mut rng: Rng) -> Self {
        let mut fidget = rng.fork();
        let mut workload = Workload::draw(rng);
        let history = History::default();
        Group {
            id,
            others: Seat::draw(&mut fidget, &mut workload, &history),
            fidget,
            history,
            workload,
            clients: [const { None }; CLIENTS],
            observer: Seat::of_all(),
            next_session: 1,
        }
    }

    /// Opens the watchers' streams on a core that holds the shard, where they were left.
    pub(super) fn seat(&mut self, inbox: &Arc<Inbox>) {
        for seat in [&mut self.observer, &mut self.others] {
            if !seat.is_open() {
                seat.open(WatchStream::open(self.next_session, self.id, inbox.clone()));
                self.next_session += 1;
            }
        }
    }

    /// From here on the watcher wants to see everything again.
    pub(super) fn watch_again(&mut self) {
        self.observer = Seat::of_all();
    }

    /// The watcher has been shown everything that is known.
    pub(super) fn has_shown_all(&self) -> bool {
        self.observer.cursor() >= self.history.model.revision()
    }

    /// Nobody waits for an answer.
    pub(super) fn is_quiet(&self) -> bool {
        self.clients.iter().all(Option::is_none)
    }

    /// This client waits for nothing.
    pub(super) fn is_idle(&self, client: usize) -> bool {
        self.clients[client].is_none()
    }

    /// A client that waits for nothing asks something; returns whether it did.
    pub(super) fn ask_next(
        &mut self,
        client: usize,
        core: &RunningCore,
        notes: &mut Notes<'_>,
    ) -> Result<bool, Violation> {
        if self.fidget.permille(100) {
            self.others.ask_progress();
        }
        let op = self.workload.next(&self.history);
        self.ask(client, op, core, notes)
    }

    /// A write for an examination.
    pub(super) fn a_put(&mut self) -> Op {
        self.workload.put(&self.history)
    }

    pub(super) fn ask(
        &mut self,
        client: usize,
        op: Op,
        core: &RunningCore,
        notes: &mut Notes<'_>,
    ) -> Result<bool, Violation> {
        if self.clients[client].is_some() {
            return Ok(false);
        }
        let kind = match &op {
            Op::Hash => RequestKind::HashKv(0),
            Op::Range { serializable, .. } => RequestKind::Read {
                encoded: op.encode(),
                serializable: *serializable,
            },
            _ => RequestKind::Write(op.encode()),
        };
        let id = self.history.invoke(0, op);
        notes.note(Kind::Invoke, self.id, client as u64, id);
        match core.ask(self.id, kind) {
            Ok(receiver) => self.clients[client] = Some(Waiting { op: id, receiver }),
            Err(error) => self.answered(id, Err(error), notes)?,
        }
        Ok(true)
    }

    /// Shows the checkers what the shard showed: first its watcher, then its callers. Returns the clients
    /// that got their answers.
    pub(super) fn look(
        &mut self,
        inbox: &Arc<Inbox>,
        notes: &mut Notes<'_>,
    ) -> Result<Vec<usize>, Violation> {
        let mut reopen = false;
        let id = self.id;
        for seat in [&mut self.observer, &mut self.others] {
            while let Some(response) = seat.receive() {
                let revision = response.header.revision.cast_unsigned();
                let events = response.events.len() as u64;
                notes.note(Kind::Watch, id, revision, events);
                let seen = seat.take(&mut self.history, 0, &response);
                if seen.map_err(|why| blame(id, why))? == Step::Reopen {
                    seat.close();
                    reopen = true;
                }
            }
        }
        if reopen {
            self.seat(inbox);
        }
        let mut free = Vec::new();
        for client in 0..CLIENTS {
            let Some(waiting) = &mut self.clients[client] else {
                continue;
            };
            let mut cx = Context::from_waker(Waker::noop());
            if let Poll::Ready(answer) = Future::poll(Pin::new(&mut waiting.receiver), &mut cx) {
                let op = waiting.op;
                self.clients[client] = None;
                self.answered(op, answer, notes)?;
                free.push(client);
            }
        }
        Ok(free)
    }

    /// The process is gone: nobody will answer. Returns the clients that waited.
    pub(super) fn lose(&mut self) -> Vec<usize> {
        self.observer.close();
        self.others.close();
        if self.fidget.permille(300) {
            self.others = Seat::draw(&mut self.fidget, &mut self.workload, &self.history);
        }
        let mut lost = Vec::new();
        for (client, waiting) in self.clients.iter_mut().enumerate() {
            if let Some(waiting) = waiting.take() {
                self.history.lost(waiting.op);
                lost.push(client);
            }
        }
        lost
    }

    /// Says whose promise was broken.
    pub(super) fn blame(&self, why: Violation) -> Violation {
        blame(self.id, why)
    }

    fn answered(
        &mut self,
        op: OpId,
        answer: Result<Reply<Response>, Error>,
        notes: &mut Notes<'_>,
    ) -> Result<(), Violation> {
        let (what, revision) = match &answer {
            Ok(reply) => (0, reply.header.revision),
            Err(error) if error.outcome() == Outcome::NotDone => (1, 0),
            Err(_) => (2, 0),
        };
        notes.note(Kind::Answer, what, op, revision.cast_unsigned());
        let judged = self.history.answer(op, answer);
        judged.map_err(|why| self.blame(why))
    }
}

fn blame(group: u64, why: Violation) -> Violation {
    Violation(format!("group {group}: {why}"))
}
