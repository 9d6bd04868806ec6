//! The default disk: a small io_uring ring of our own. A write is with the kernel when `submit`
//! returns, and its completion is found by looking at the ring, so a core that polls need not sleep.
//!
//! Promises: a buffer stays with its slot until the kernel is done with it, whoever is dropped; a
//! short transfer is continued, so a completion means the whole buffer or an error.
//! Must never know: runtimes. Who waits is woken through a [`Bell`], an eventfd that the kernel
//! rings and a host watches with whatever it has.
//!
//! The one file of this crate with `unsafe`: handing a pointer to the kernel, and making an eventfd.
//! What may block (making, naming and opening files) runs on one helper thread.
#![expect(
    unsafe_code,
    reason = "the kernel is given pointers; each use says why they live long enough"
)]

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Poll};

use io_uring::types::{Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, opcode, squeue};

use super::files::{Done, Files, Job, SegmentHandle, Workers, settle};
use super::{
    AlignedBuf, Completion, Disk, DiskInfo, FileId, FileInfo, LockError, Op, Output, ReadAt, Token,
};

/// Submission queue entries. More operations than this in flight are legal: each submission is
/// handed to the kernel at once, so the queue is empty between calls.
const ENTRIES: u32 = 64;
/// How long a dropped disk waits for what the kernel still holds, in seconds. Then the buffers are
/// leaked: freeing memory that a device still reads would be worse.
const DROP_WAIT_SECONDS: u64 = 10;

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
    let worked = push(&mut ring, &opcode::Nop::new().build())
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
/// Fields in the order they are dropped: the helper ends before the directory's lock is let go.
pub struct RingDisk {
    helper: Option<Workers>,
    ring: IoUring,
    bell: Box<dyn Bell>,
    /// Operations the kernel holds; the index is their `user_data`.
    flights: Vec<Option<Flight>>,
    in_flight: usize,
    /// Finished on the ring, not yet taken.
    finished: VecDeque<Completion>,
    files: Files,
    /// Finished on the helper thread.
    done: Arc<Done>,
}

/// One transfer.
struct Flight {
    /// Who hears of it; `None` once they were told that it failed to start.
    token: Option<Token>,
    /// Keeps the descriptor open.
    file: Arc<SegmentHandle>,
    write: bool,
    offset: u64,
    /// The memory the kernel reads or fills, never reallocated while it is here.
    vec: Vec<u8>,
    /// Where the contents begin in `vec`.
    start: usize,
    /// Where the part not yet transferred begins.
    at: usize,
}

impl RingDisk {
    /// A disk on a fresh ring. `watch` is given a duplicate of the eventfd that the kernel rings
    /// when something completes, and makes the [`Bell`] of the caller's runtime from it.
    pub fn new(watch: impl FnOnce(OwnedFd) -> io::Result<Box<dyn Bell>>) -> io::Result<Self> {
        let ring = set_up()?;
        let event = eventfd()?;
        ring.submitter().register_eventfd(event.as_raw_fd())?;
        Ok(Self {
            helper: None,
            ring,
            bell: watch(event)?,
            flights: Vec::new(),
            in_flight: 0,
            finished: VecDeque::new(),
            files: Files::default(),
            done: Arc::default(),
        })
    }

    fn helper(&mut self) -> io::Result<&Workers> {
        let helper = match self.helper.take() {
            Some(helper) => helper,
            None => Workers::start("henge-wal-file", 1, &self.files.dir, &self.done)?,
        };
        Ok(self.helper.insert(helper))
    }

    fn start(&mut self, token: Token, op: Op) -> io::Result<()> {
        match op {
            Op::Write { file, offset, buf } => self.transfer(token, file, offset, buf, true),
            Op::Read {
                file,
                offset,
                bytes,
            } => self.transfer(token, file, offset, AlignedBuf::zeroed(bytes), false),
            Op::Close { file } => {
                self.files.close(file);
                self.finished.push_back(Completion {
                    token,
                    result: Ok(Output::Done),
                });
                Ok(())
            }
            named => {
                self.helper()?.give(Job::Named(token, named));
                Ok(())
            }
        }
    }

    fn transfer(
        &mut self,
        token: Token,
        file: FileId,
        offset: u64,
        buf: AlignedBuf,
        write: bool,
    ) -> io::Result<()> {
        let file = self.files.handle(file)?;
        let (vec, start) = buf.into_parts();
        let flight = Flight {
            token: Some(token),
            file,
            write,
            offset,
            vec,
            start,
            at: start,
        };
        let slot = self.flights.iter().position(Option::is_none);
        let slot = slot.unwrap_or_else(|| {
            self.flights.push(None);
            self.flights.len() - 1
        });
        self.fly(slot, flight)
    }

    /// Hands what is left of a transfer to the kernel.
    fn fly(&mut self, slot: usize, mut flight: Flight) -> io::Result<()> {
        let entry = flight.entry().user_data(slot as u64);
        // The slot owns the memory from here on; only a completion takes it out.
        self.flights[slot] = Some(flight);
        self.in_flight += 1;
        let pushed = push(&mut self.ring, &entry);
        if pushed.is_err() {
            self.flights[slot] = None;
            self.in_flight -= 1;
        }
        pushed?;
        match self.ring.submit() {
            Ok(_) => Ok(()),
            // The kernel is short of something or was interrupted: the entry stays in the queue and
            // goes with the next call, which `poll` makes.
            Err(e) if is_passing(&e) => Ok(()),
            Err(e) => {
                // It cannot be taken back out of the queue, so its memory stays where it is.
                if let Some(flight) = &mut self.flights[slot] {
                    flight.token = None;
                }
                Err(e)
            }
        }
    }

    /// Takes what the kernel finished into `finished`.
    fn reap(&mut self) {
        if self.in_flight == 0 {
            return;
        }
        let (waiting, task_work, overflow) = {
            let queue = self.ring.submission();
            (!queue.is_empty(), queue.taskrun(), queue.cq_overflow())
        };
        if waiting || task_work || overflow {
            // Completions that wait for this thread to ask, or found the completion queue full (for
            // which the bell does not ring again), are written by this call, which does not wait. What
            // goes wrong with it shows in the next submission.
            let _ = self
                .ring
                .submitter()
                .submit_with_args(0, &SubmitArgs::new());
        }
        while let Some((slot, result)) = self.next_entry() {
            let Some(flight) = self.flights.get_mut(slot).and_then(Option::take) else {
                continue;
            };
            self.in_flight -= 1;
            self.land(slot, flight, result);
        }
    }

    fn next_entry(&mut self) -> Option<(usize, i32)> {
        let entry = self.ring.completion().next()?;
        Some((entry.user_data() as usize, entry.result()))
    }

    /// A part of a transfer is done, or it failed.
    fn land(&mut self, slot: usize, mut flight: Flight, result: i32) {
        let passing = matches!(-result, libc::EINTR | libc::EAGAIN);
        flight.at += usize::try_from(result).unwrap_or(0);
        let whole = flight.at >= flight.vec.len();
        // The end of a file, or an error.
        let over = result <= 0 && !passing;
        let token = flight.token;
        let result = if whole || over {
            flight.outcome(result)
        } else {
            // The device says what was wrong with the rest when it is asked for it.
            match self.fly(slot, flight) {
                Ok(()) => return,
                Err(e) => Err(e),
            }
        };
        if let Some(token) = token {
            self.finished.push_back(Completion { token, result });
        }
    }
}

impl Flight {
    /// The kernel's order for the part that is left.
    fn entry(&mut self) -> squeue::Entry {
        let fd = Fd(self.file.file.as_raw_fd());
        let offset = self.offset + (self.at - self.start) as u64;
        let rest = &mut self.vec[self.at..];
        let len = u32::try_from(rest.len()).unwrap_or(u32::MAX);
        if self.write {
            // Segments are opened O_DSYNC where direct I/O works; elsewhere each write says it.
            let flags = if self.file.direct { 0 } else { libc::RWF_DSYNC };
            opcode::Write::new(fd, rest.as_ptr(), len)
                .offset(offset)
                .rw_flags(flags)
                .build()
        } else {
            opcode::Read::new(fd, rest.as_mut_ptr(), len)
                .offset(offset)
                .build()
        }
    }

    fn outcome(self, result: i32) -> io::Result<Output> {
        if result < 0 {
            return Err(io::Error::from_raw_os_error(-result));
        }
        let moved = self.at - self.start;
        let bytes = self.vec.len() - self.start;
        if self.write && moved < bytes {
            return Err(io::Error::new(
                io::ErrorKind::WriteZero,
                format!("short write: {moved} of {bytes} bytes"),
            ));
        }
        let mut buf = AlignedBuf::from_parts(self.vec, self.start);
        if !self.write {
            buf.resize(moved);
        }
        Ok(Output::Buf(buf))
    }
}

fn push(ring: &mut IoUring, entry: &squeue::Entry) -> io::Result<()> {
    for _ in 0..2 {
        // SAFETY: the entry points into a `Vec` that its slot in `flights` owns and nobody touches
        // until the completion takes it out; `drop` waits for the kernel or leaks it.
        if unsafe { ring.submission().push(entry) }.is_ok() {
            return Ok(());
        }
        ring.submit()?;
    }
    Err(io::Error::new(
        io::ErrorKind::WouldBlock,
        "the ring's submission queue is full",
    ))
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

fn eventfd() -> io::Result<OwnedFd> {
    // SAFETY: a system call without pointers; the result is checked before it is owned.
    let fd = unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a fresh descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn is_passing(e: &io::Error) -> bool {
    matches!(
        e.raw_os_error(),
        Some(libc::EINTR | libc::EAGAIN | libc::EBUSY)
    )
}

impl Drop for RingDisk {
    fn drop(&mut self) {
        let second = Timespec::new().sec(1);
        let args = SubmitArgs::new().timespec(&second);
        for _ in 0..DROP_WAIT_SECONDS {
            if self.in_flight == 0 {
                break;
            }
            // ETIME is the second passing.
            let _ = self.ring.submitter().submit_with_args(1, &args);
            while let Some((slot, _)) = self.next_entry() {
                if self.flights.get_mut(slot).and_then(Option::take).is_some() {
                    self.in_flight -= 1;
                }
            }
        }
        for flight in self.flights.drain(..) {
            std::mem::forget(flight);
        }
    }
}

impl Disk for RingDisk {
    fn info(&self) -> DiskInfo {
        DiskInfo {
            backend: "io_uring",
            direct_io: self.files.direct,
        }
    }

    fn attach(&mut self, dir: &Path) {
        self.files.dir = dir.to_path_buf();
    }

    fn path(&self) -> &Path {
        &self.files.dir
    }

    fn list(&mut self) -> io::Result<Option<Vec<FileInfo>>> {
        self.files.list()
    }

    fn make(&mut self) -> io::Result<()> {
        self.files.make()
    }

    fn lock(&mut self) -> Result<(), LockError> {
        self.files.lock()
    }

    fn entropy(&mut self) -> io::Result<[u8; 32]> {
        self.files.entropy()
    }

    fn run(&mut self, op: Op) -> io::Result<Output> {
        self.files.run(op)
    }

    fn reader(&self, file: FileId) -> Option<Arc<dyn ReadAt>> {
        self.files.reader(file)
    }

    fn submit(&mut self, token: Token, op: Op) {
        if let Err(e) = self.start(token, op) {
            self.finished.push_back(Completion {
                token,
                result: Err(e),
            });
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Completion> {
        loop {
            self.reap();
            if let Some(completion) = self.finished.pop_front() {
                return Poll::Ready(completion);
            }
            if let Poll::Ready(finished) = self.done.poll(cx) {
                return Poll::Ready(settle(&mut self.files, finished));
            }
            // The bell may have rung between the look and now: then look again.
            if self.in_flight == 0 || self.bell.poll_rung(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }
}
