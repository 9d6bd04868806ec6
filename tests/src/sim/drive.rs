//! A node's disk in the world's time: the simulated disk of `henge_wal`, whose operations complete when
//! the world's clock says so, out of order, and fail when the world wants them to.
//!
//! What a crash leaves is decided by the simulated disk (any subset of the sectors in flight, a prefix of
//! the directory's changes). Here are delays, errors, and the planted bugs that a disk can have.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::rc::Rc;
use std::task::{Context, Poll};

use henge_wal::disk::sim::{Fault, Keep, SimDisk, SimHandle};
use henge_wal::disk::{
    AlignedBuf, Completion, Disk, DiskInfo, FileInfo, LockError, Op, Output, Token,
};

use super::planted::Planted;
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
    /// In the order of the simulated disk's own list.
    in_flight: Vec<Flying>,
    /// Acknowledged ahead of time by a planted bug.
    early: VecDeque<Completion>,
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
            in_flight: Vec::new(),
            early: VecDeque::new(),
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
        let (handle, timing) = (self.handle.clone(), self.timing.clone());
        Box::new(TimedDisk {
            inner: handle.disk(),
            handle,
            timing,
        })
    }

    /// Tells it the time.
    pub fn set_now(&self, now_us: u64) {
        self.timing.borrow_mut().now_us = now_us;
    }

    /// When something completes next.
    pub fn next_due_us(&self) -> Option<u64> {
        let timing = self.timing.borrow();
        if !timing.early.is_empty() {
            return Some(timing.now_us);
        }
        timing
            .in_flight
            .iter()
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
        timing.in_flight.clear();
        timing.early.clear();
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
    }

    /// The machine will stop at the `n`-th operation from now.
    pub fn stop_at(&self, n: u64) {
        self.handle.fail(n, Fault::Crash);
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
struct TimedDisk {
    inner: SimDisk,
    handle: SimHandle,
    timing: Rc<RefCell<Timing>>,
}

impl Disk for TimedDisk {
    fn info(&self) -> DiskInfo {
        self.inner.info()
    }

    fn attach(&mut self, dir: &Path) {
        self.inner.attach(dir);
    }

    fn path(&self) -> &Path {
        self.inner.path()
    }

    fn list(&mut self) -> io::Result<Option<Vec<FileInfo>>> {
        self.inner.list()
    }

    fn make(&mut self) -> io::Result<()> {
        self.inner.make()
    }

    fn lock(&mut self) -> Result<(), LockError> {
        self.inner.lock()
    }

    fn entropy(&mut self) -> io::Result<[u8; 32]> {
        self.inner.entropy()
    }

    fn run(&mut self, op: Op) -> io::Result<Output> {
        self.inner.run(op)
    }

    fn submit(&mut self, token: Token, op: Op) {
        let mut timing = self.timing.borrow_mut();
        let delay_us = timing.delay_us(&op);
        let due_us = match timing.hangs {
            true => u64::MAX,
            false => timing.now_us + delay_us,
        };
        let is_write = matches!(op, Op::Write { .. });
        let told = is_write && timing.planted == Some(Planted::AckBeforeDurable);
        if told {
            timing.early.push_back(written(token));
        }
        if timing.print {
            let head: String = format!("{op:?}").chars().take(100).collect();
            eprintln!("           disk, done at {due_us}: {head}");
        }
        timing.in_flight.push(Flying {
            token,
            due_us,
            told,
            is_write,
        });
        self.inner.submit(token, op);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Completion> {
        let mut timing = self.timing.borrow_mut();
        if let Some(completion) = timing.early.pop_front() {
            return Poll::Ready(completion);
        }
        while let Some(at) = timing.first_due() {
            let flying = &timing.in_flight[at];
            if timing.planted == Some(Planted::LostWrite) && flying.is_write && !flying.told {
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
            if !flying.told {
                return Poll::Ready(completion);
            }
        }
        // The world knows when the next is due and gives the node a turn then: no waker is needed.
        Poll::Pending
    }
}

impl Timing {
    fn first_due(&self) -> Option<usize> {
        let due = self
            .in_flight
            .iter()
            .enumerate()
            .filter(|(_, flying)| flying.due_us <= self.now_us);
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
