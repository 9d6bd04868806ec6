//! The default disk: a small io_uring ring of our own. A write is with the kernel when `submit`
//! returns, and its completion is found by looking at the ring, so a core that polls need not sleep.
//!
//! Must never know: runtimes. Who waits is woken through a [`Bell`], an eventfd that the kernel
//! rings and a host watches with whatever it has.
//!
//! What the kernel holds of it is in `kernel.rs`. What may block (making, naming and opening files) runs
//! on helper threads.

use std::io;
use std::os::fd::OwnedFd;
use std::task::{Context, Poll};

use io_uring::IoUring;

use super::helpers::{Helped, by_helpers};
use super::kernel::{self, Transfer, Transfers};
use super::{AlignedBuf, Completion, Disk, Op, Token};

/// Submission queue entries. More operations than this in flight are legal: each submission is
/// handed to the kernel at once, so the queue is empty between calls.
const ENTRIES: u32 = 64;

/// Tells the owner's task that the ring has something, by watching the eventfd the kernel rings.
pub trait Bell {
    /// Ready once for each time (or more) that the bell rang since the last call; else wakes `cx`
    /// when it rings.
    fn poll_rung(&mut self, cx: &mut Context<'_>) -> Poll<()>;
}

/// Can this process use such a ring? The reason if not: seccomp (EPERM), an old kernel (ENOSYS),
/// `kernel.io_uring_disabled` (EPERM), or no memory for it. Starts and ends a small one.
pub fn probe() -> Result<(), String> {
    let mut ring = set_up().map_err(|e| format!("io_uring cannot be set up: {e}"))?;
    // One operation there and back: a ring that can be made but not used is no use.
    let worked = kernel::no_op(&mut ring)
        .and_then(|()| ring.submit_and_wait(1))
        .and_then(|_| match ring.completion().next().map(|c| c.result()) {
            Some(0) => Ok(()),
            Some(code) => Err(io::Error::from_raw_os_error(-code)),
            None => Err(io::Error::other("nothing came back")),
        });
    worked.map_err(|e| format!("io_uring does not complete operations: {e}"))
}

/// One way to set a ring up, and what this machine says to it.
#[derive(Debug)]
pub struct Mode {
    /// What is special about it.
    pub name: &'static str,
    /// The first kernel that has it.
    pub since: &'static str,
    /// Whether a ring could be made.
    pub result: io::Result<()>,
}

/// Tries all ways to set a ring up, best first. A [`RingDisk`] takes the first that works.
pub fn modes() -> Vec<Mode> {
    let modes = MODES.iter().enumerate();
    modes
        .map(|(mode, (name, since))| Mode {
            name,
            since,
            result: build(mode).map(drop),
        })
        .collect()
}

/// A disk on a ring of its own. Stays on the thread that made it.
///
/// Fields in the order they are dropped: the directory's lock is let go last.
pub struct RingDisk {
    transfers: Transfers,
    bell: Box<dyn Bell>,
    helped: Helped,
}

impl RingDisk {
    /// A disk on a fresh ring. `watch` is given a duplicate of the eventfd that the kernel rings
    /// when something completes, and makes the [`Bell`] of the caller's runtime from it.
    pub fn new(watch: impl FnOnce(OwnedFd) -> io::Result<Box<dyn Bell>>) -> io::Result<Self> {
        let ring = set_up()?;
        let event = kernel::bell(&ring)?;
        Ok(Self {
            transfers: Transfers::new(ring),
            bell: watch(event)?,
            helped: Helped::default(),
        })
    }

    fn start(&mut self, token: Token, op: Op) -> io::Result<()> {
        let transfer = match op {
            Op::Write { file, offset, buf } => {
                let file = self.helped.to_write(file, offset, &buf)?;
                Transfer::new(token, file, offset, buf, true)
            }
            Op::Read {
                file,
                offset,
                bytes,
            } => {
                let file = self.helped.files.handle(file)?;
                Transfer::new(token, file, offset, AlignedBuf::zeroed(bytes), false)
            }
            other => return self.helped.start(token, other),
        };
        self.transfers.start(transfer)
    }
}

/// How a ring can be set up, best first. With the newest way completions are processed only when this
/// thread asks, and interrupt nothing; older kernels answer EINVAL to what they do not know.
const MODES: [(&str, &str); 3] = [
    ("single issuer, deferred completions", "6.1"),
    ("cooperative completions", "5.19"),
    ("plain", "5.1"),
];

fn build(mode: usize) -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    match mode {
        0 => {
            builder
                .setup_single_issuer()
                .setup_defer_taskrun()
                .setup_taskrun_flag();
        }
        1 => {
            builder.setup_coop_taskrun().setup_taskrun_flag();
        }
        _ => {}
    }
    builder.build(ENTRIES)
}

fn set_up() -> io::Result<IoUring> {
    let mut last = io::Error::from_raw_os_error(libc::EINVAL);
    for mode in 0..MODES.len() {
        match build(mode) {
            Ok(ring) => return Ok(ring),
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => last = e,
            Err(e) => return Err(e),
        }
    }
    Err(last)
}

impl Disk for RingDisk {
    by_helpers!("io_uring");

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Completion> {
        loop {
            if let Some(completion) = self.transfers.take() {
                return Poll::Ready(completion);
            }
            if let Poll::Ready(completion) = self.helped.poll(cx) {
                return Poll::Ready(completion);
            }
            // The bell may have rung between the look and now: then look again.
            if !self.transfers.any() || self.bell.poll_rung(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }
}
