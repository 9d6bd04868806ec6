//! A node's disk in the world's time: the simulated disk of `henge_wal`, whose operations complete when
//! the world's clock says so, out of order, and fail when the world wants them to.
//!
//! What a crash leaves is decided by the simulated disk (any subset of the sectors in flight and not synced,
//! a prefix of each folder's changes). Here are delays, errors, and the planted bugs that a disk can have.
//! Checkpoints may lie on a drive that several logs share (`plug`).

use std::cell::RefCell;
use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll};

use henge_wal::disk::sim::{Fault, Keep, SimDisk, SimHandle};
use henge_wal::disk::{AlignedBuf, Completion, Disk, FileId, Op, Output, Token};

use super::aside::{self, Kind, Tally};
use super::planted::Planted;
use super::plug::Plugged;
use super::rng::Rng;

const EIO: i32 = 5;

/// A node's disk: outlives the node's processes.
#[derive(Clone)]
pub struct Drive {
    handle: SimHandle,
    timing: Rc<RefCell<Timing>>,
}

/// When operations complete.
struct Timing {
    now_us: u64,
    write_us: u64,
    rng: Rng,
    /// Counts power cuts: whoever had it before the last one has it no more.
    life: u64,
    /// In the order of the simulated disk's own list.
    in_flight: Vec<Flying>,
    /// Acknowledged ahead of time by a planted bug, and to whom.
    early: VecDeque<(usize, Completion)>,
    /// Open files of checkpoints.
    loose: BTreeSet<FileId>,
    /// The machine stops at the next operation of this kind.
    stop_at: Option<Kind>,
    tally: Tally,
    slow_until_us: u64,
    /// Writes do not complete.
    hangs: bool,
    /// The next write is done and yet reported as failed.
    false_failure: bool,
    planted: Option<Planted>,
    print: bool,
}

struct Flying {
    token: Token,
    /// Whose it is, of those that share the drive.
    by: usize,
    /// Of a checkpoint.
    kind: Option<Kind>,
    due_us: u64,
    /// The log has been told already: a planted bug.
    told: bool,
    is_write: bool,
}

impl Drive {
    /// An empty disk whose writes take around `write_us` microseconds.
    pub fn new(mut rng: Rng, write_us: u64, planted: Option<Planted>, print: bool) -> Self {
        let handle = SimHandle::new(rng.bits(), 1);
        handle.set_manual(true);
        let timing = Timing {
            now_us: 0,
            write_us,
            rng,
            life: 0,
            in_flight: Vec::new(),
            early: VecDeque::new(),
            loose: BTreeSet::new(),
            stop_at: None,
            tally: Tally::default(),
            slow_until_us: 0,
            hangs: false,
            false_failure: false,
            planted,
            print,
        };
        Drive {
            handle,
            timing: Rc::new(RefCell::new(timing)),
        }
    }

    /// The disk for a new process.
    pub fn disk(&self) -> Box<dyn Disk> {
        Box::new(Plugged::new(self.plug(0), None))
    }

    /// The disk for a new process whose checkpoints lie on another drive, which it shares under a number.
    pub fn disk_beside(&self, checkpoints: &Drive, by: usize) -> Box<dyn Disk> {
        Box::new(Plugged::new(self.plug(0), Some(checkpoints.plug(by))))
    }

    fn plug(&self, by: usize) -> TimedDisk {
        TimedDisk {
            inner: self.handle.disk(),
            handle: self.handle.clone(),
            life: self.timing.borrow().life,
            timing: self.timing.clone(),
            by,
        }
    }

    /// What it has seen so far.
    pub fn tally(&self) -> Tally {
        self.timing.borrow().tally
    }

    /// Tells it the time.
    pub fn set_now(&self, now_us: u64) {
        self.timing.borrow_mut().now_us = now_us;
    }

    /// When something completes next.
    pub fn next_due_us(&self) -> Option<u64> {
        self.next_due_of(|_| true)
    }

    /// The same of one that shares it.
    pub fn next_due_by_us(&self, by: usize) -> Option<u64> {
        self.next_due_of(|whose| whose == by)
    }

    fn next_due_of(&self, is_asked: impl Fn(usize) -> bool) -> Option<u64> {
        let timing = self.timing.borrow();
        if timing.early.iter().any(|(by, _)| is_asked(*by)) {
            return Some(timing.now_us);
        }
        timing
            .in_flight
            .iter()
            .filter(|flying| is_asked(flying.by))
            .map(|flying| flying.due_us)
            .min()
            .filter(|due| *due != u64::MAX)
    }

    /// The machine stops: what is in flight is torn.
    pub fn crash(&self) {
        let mut timing = self.timing.borrow_mut();
        let keep = match timing.planted {
            Some(Planted::LostWrite) => Keep::Nothing,
            _ => Keep::Seeded(timing.rng.bits()),
        };
        self.handle.crash(&keep);
        timing.life += 1;
        for flying in std::mem::take(&mut timing.in_flight) {
            if let Some(kind) = flying.kind {
                timing.tally.cuts[kind as usize] += 1;
            }
        }
        timing.early.clear();
        timing.loose.clear();
        timing.stop_at = None;
        timing.false_failure = false;
    }

    /// Whether it stopped at the operation that [`Drive::stop_at`] named.
    pub fn has_stopped(&self) -> bool {
        self.handle.is_crashed()
    }

    /// The process ended in good order: its operations are done.
    pub fn ended(&self) {
        let mut timing = self.timing.borrow_mut();
        timing.in_flight.clear();
        timing.early.clear();
        timing.loose.clear();
    }

    /// The machine will stop at the `n`-th operation from now.
    pub fn stop_at(&self, n: u64) {
        self.handle.fail(n, Fault::Crash);
    }

    /// The machine will stop at the next operation of a checkpoint of this kind.
    pub fn stop_at_kind(&self, kind: Kind) {
        self.timing.borrow_mut().stop_at = Some(kind);
    }

    /// The next operation fails: nothing of it is done, or (half of the time) all of it.
    pub fn fail_next(&self) {
        let mut timing = self.timing.borrow_mut();
        if timing.rng.permille(500) {
            timing.false_failure = true;
        } else {
            self.handle.fail(0, Fault::Error(EIO));
        }
    }

    /// Everything takes fifty times as long until then.
    pub fn slow_until(&self, until_us: u64) {
        self.timing.borrow_mut().slow_until_us = until_us;
    }

    /// From now on nothing that is submitted completes, until it is let go again.
    pub fn hang(&self, hangs: bool) {
        let mut timing = self.timing.borrow_mut();
        timing.hangs = hangs;
        let now_us = timing.now_us;
        for flying in &mut timing.in_flight {
            if !hangs && flying.due_us == u64::MAX {
                flying.due_us = now_us;
            }
        }
    }

    /// There is no room for new files, or there is again.
    pub fn set_full(&self, full: bool) {
        self.handle.set_capacity(full.then_some(0));
    }

    /// No more faults.
    pub fn heal(&self) {
        self.handle.heal();
        self.handle.set_capacity(None);
        let mut timing = self.timing.borrow_mut();
        timing.slow_until_us = 0;
        timing.hangs = false;
        timing.stop_at = None;
        timing.false_failure = false;
    }
}

impl Timing {
    fn delay_us(&mut self, op: &Op) -> u64 {
        let (mean, pause_us) = match op {
            Op::Write { .. } | Op::Read { .. } => (self.write_us, 0),
            Op::Zero { pause_ms, .. } => (10 * self.write_us, 1_000 * u64::from(*pause_ms)),
            _ => (2 * self.write_us, 0),
        };
        let slow = if self.now_us < self.slow_until_us {
            50
        } else {
            1
        };
        10 + pause_us + self.rng.spread(mean) * slow
    }
}

/// One process's disk.
pub(super) struct TimedDisk {
    pub(super) inner: SimDisk,
    handle: SimHandle,
    timing: Rc<RefCell<Timing>>,
    life: u64,
    by: usize,
}

impl TimedDisk {
    pub(super) fn submit(&mut self, token: Token, op: Op) {
        let mut timing = self.timing.borrow_mut();
        if timing.life != self.life {
            return; // the power has failed: this process is gone
        }
        let kind = aside::kind(&op, |file| timing.loose.contains(&file));
        timing.tally.checkpoints += u64::from(aside::begins(&op));
        timing.tally.purged += u64::from(aside::purges(&op));
        let forgotten = match timing.planted {
            Some(Planted::UnsyncedCheckpoint) => kind == Some(Kind::Sync),
            Some(Planted::EarlyPurge) => kind == Some(Kind::SyncFolder),
            _ => false,
        };
        if forgotten {
            let result = Ok(Output::Done);
            timing
                .early
                .push_back((self.by, Completion { token, result }));
            return;
        }
        if timing.stop_at.is_some() && timing.stop_at == kind {
            timing.stop_at = None;
            self.handle.fail(0, Fault::Crash);
        }
        let delay_us = timing.delay_us(&op);
        let due_us = match timing.hangs {
            true => u64::MAX,
            false => timing.now_us + delay_us,
        };
        let is_write = matches!(op, Op::Write { .. });
        let is_log = is_write && kind.is_none();
        let told = is_log && timing.planted == Some(Planted::AckBeforeDurable);
        if told {
            timing.early.push_back((self.by, written(token)));
        }
        if timing.print {
            let head: String = format!("{op:?}").chars().take(100).collect();
            eprintln!("           disk, done at {due_us}: {head}");
        }
        timing.in_flight.push(Flying {
            token,
            by: self.by,
            kind,
            due_us,
            told,
            is_write,
        });
        self.inner.submit(token, op);
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Completion> {
        let mut timing = self.timing.borrow_mut();
        if timing.life != self.life {
            return Poll::Pending;
        }
        let early = timing.early.iter().position(|(by, _)| *by == self.by);
        if let Some((_, completion)) = early.and_then(|at| timing.early.remove(at)) {
            return Poll::Ready(completion);
        }
        while let Some(at) = timing.first_due(self.by) {
            let flying = &timing.in_flight[at];
            let is_log = flying.is_write && flying.kind.is_none();
            if timing.planted == Some(Planted::LostWrite) && is_log && !flying.told {
                // Stays in the disk's cache: written when the next write comes, lost in a crash.
                let token = timing.in_flight[at].token;
                timing.in_flight[at].told = true;
                timing.in_flight[at].due_us = u64::MAX;
                for older in &mut timing.in_flight {
                    if older.told && older.token != token {
                        older.due_us = 0;
                    }
                }
                return Poll::Ready(written(token));
            }
            let flying = timing.in_flight.remove(at);
            self.handle.release(at);
            let Poll::Ready(mut completion) = self.inner.poll(cx) else {
                return Poll::Pending;
            };
            if flying.is_write && std::mem::take(&mut timing.false_failure) {
                completion.result = Err(io::Error::from_raw_os_error(EIO));
            }
            if let (Some(Kind::Create), Ok(Output::Opened { file, .. })) =
                (flying.kind, &completion.result)
            {
                timing.loose.insert(*file);
            }
            if !flying.told {
                return Poll::Ready(completion);
            }
        }
        // The world knows when the next is due and gives the node a turn then: no waker is needed.
        Poll::Pending
    }
}

impl Timing {
    fn first_due(&self, by: usize) -> Option<usize> {
        let due = self
            .in_flight
            .iter()
            .enumerate()
            .filter(|(_, flying)| flying.by == by && flying.due_us <= self.now_us);
        due.min_by_key(|(_, flying)| flying.due_us)
            .map(|(at, _)| at)
    }
}

fn written(token: Token) -> Completion {
    Completion {
        token,
        result: Ok(Output::Buf(AlignedBuf::default())),
    }
}
