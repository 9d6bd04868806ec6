//! What is handed to the kernel as a pointer: the transfers of a ring, and advice about memory; and calls
//! that nobody has wrapped well. The one file of this crate with `unsafe`.
//!
//! Promises: a buffer stays with its slot until the kernel is done with it, whoever is dropped; a short
//! transfer is continued, so a completion means the whole buffer or an error.
//! Must never know: tokens' meaning, runtimes, what is written.
#![expect(
    unsafe_code,
    reason = "the kernel is given pointers; each use says why they live long enough"
)]

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;

use io_uring::types::{Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, opcode, squeue};

use super::files::SegmentHandle;
use super::{AlignedBuf, Completion, Output, Token};
use crate::BLOCK_BYTES;

/// How long a dropped ring waits for what the kernel still holds, in seconds. Then the buffers are
/// leaked: freeing memory that a device still reads would be worse.
const DROP_WAIT_SECONDS: u64 = 10;

/// A ring and the transfers that the kernel holds.
pub(super) struct Transfers {
    ring: IoUring,
    /// The index is the `user_data`.
    slots: Vec<Option<Transfer>>,
    in_flight: usize,
    /// Finished, not yet taken.
    finished: VecDeque<Completion>,
}

/// One transfer.
pub(super) struct Transfer {
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

/// Largest file that this process may write, in bytes (`RLIMIT_FSIZE`); `u64::MAX` without a limit.
pub fn file_bytes_max() -> u64 {
    let mut limit = libc::rlimit {
        rlim_cur: libc::RLIM_INFINITY,
        rlim_max: libc::RLIM_INFINITY,
    };
    // SAFETY: the kernel fills the structure, which lives until after the call.
    let asked = unsafe { libc::getrlimit(libc::RLIMIT_FSIZE, &raw mut limit) };
    match (asked, limit.rlim_cur) {
        (0, bytes) if bytes != libc::RLIM_INFINITY => bytes,
        _ => u64::MAX,
    }
}

/// Has a write beyond `RLIMIT_FSIZE` fail (EFBIG) instead of ending the process (SIGXFSZ). For programs: a
/// library leaves signals alone, and the log makes no file beyond the limit.
pub fn outlive_file_limit() {
    // SAFETY: no handler is installed: ignoring a signal runs no code.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}

impl Transfers {
    pub(super) fn new(ring: IoUring) -> Self {
        Self {
            ring,
            slots: Vec::new(),
            in_flight: 0,
            finished: VecDeque::new(),
        }
    }

    /// The kernel holds something.
    pub(super) fn any(&self) -> bool {
        self.in_flight > 0
    }

    /// Hands a transfer to the kernel.
    pub(super) fn start(&mut self, transfer: Transfer) -> io::Result<()> {
        let slot = self.slots.iter().position(Option::is_none);
        let slot = slot.unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        self.fly(slot, transfer)
    }

    /// The next one that is finished.
    pub(super) fn take(&mut self) -> Option<Completion> {
        self.reap();
        self.finished.pop_front()
    }

    /// Hands what is left of a transfer to the kernel.
    fn fly(&mut self, slot: usize, mut transfer: Transfer) -> io::Result<()> {
        let entry = transfer.entry().user_data(slot as u64);
        // The slot owns the memory from here on; only a completion takes it out.
        self.slots[slot] = Some(transfer);
        self.in_flight += 1;
        let pushed = self.push(&entry);
        if pushed.is_err() {
            self.slots[slot] = None;
            self.in_flight -= 1;
        }
        pushed?;
        match self.ring.submit() {
            Ok(_) => Ok(()),
            // The kernel is short of something or was interrupted: the entry stays in the queue and
            // goes with the next call, which `take` makes.
            Err(e) if is_passing(&e) => Ok(()),
            Err(e) => {
                // It cannot be taken back out of the queue, so its memory stays where it is.
                if let Some(transfer) = &mut self.slots[slot] {
                    transfer.token = None;
                }
                Err(e)
            }
        }
    }

    fn push(&mut self, entry: &squeue::Entry) -> io::Result<()> {
        for _ in 0..2 {
            // SAFETY: the entry was made by `Transfer::entry` and points into a `Vec` that its slot owns
            // and nobody touches until the completion takes it out; `drop` waits for the kernel or leaks
            // it.
            if unsafe { self.ring.submission().push(entry) }.is_ok() {
                return Ok(());
            }
            self.ring.submit()?;
        }
        Err(io::Error::new(
            io::ErrorKind::WouldBlock,
            "the ring's submission queue is full",
        ))
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
            let Some(transfer) = self.slots.get_mut(slot).and_then(Option::take) else {
                continue;
            };
            self.in_flight -= 1;
            self.land(slot, transfer, result);
        }
    }

    fn next_entry(&mut self) -> Option<(usize, i32)> {
        let entry = self.ring.completion().next()?;
        Some((entry.user_data() as usize, entry.result()))
    }

    /// A part of a transfer is done, or it failed.
    fn land(&mut self, slot: usize, mut transfer: Transfer, result: i32) {
        let passing = matches!(-result, libc::EINTR | libc::EAGAIN);
        transfer.at += usize::try_from(result).unwrap_or(0);
        let whole = transfer.at >= transfer.vec.len();
        // The end of a file, or an error. A direct read that ends within a block ends with the file.
        let moved = transfer.at - transfer.start;
        let cut = !transfer.write && transfer.file.direct && !moved.is_multiple_of(BLOCK_BYTES);
        let over = (result <= 0 || cut) && !passing;
        let token = transfer.token;
        let result = if whole || over {
            transfer.outcome(result)
        } else {
            // The device says what was wrong with the rest when it is asked for it.
            match self.fly(slot, transfer) {
                Ok(()) => return,
                Err(e) => Err(e),
            }
        };
        if let Some(token) = token {
            self.finished.push_back(Completion { token, result });
        }
    }
}

impl Drop for Transfers {
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
                if self.slots.get_mut(slot).and_then(Option::take).is_some() {
                    self.in_flight -= 1;
                }
            }
        }
        for transfer in self.slots.drain(..) {
            std::mem::forget(transfer);
        }
    }
}

impl Transfer {
    /// Writes the buffer to the file (`write`), or fills it from there.
    pub(super) fn new(
        token: Token,
        file: Arc<SegmentHandle>,
        offset: u64,
        buf: AlignedBuf,
        write: bool,
    ) -> Self {
        let (vec, start) = buf.into_parts();
        Self {
            token: Some(token),
            file,
            write,
            offset,
            vec,
            start,
            at: start,
        }
    }

    /// The kernel's order for the part that is left.
    fn entry(&mut self) -> squeue::Entry {
        let fd = Fd(self.file.file.as_raw_fd());
        let offset = self.offset + (self.at - self.start) as u64;
        let rest = &mut self.vec[self.at..];
        let len = u32::try_from(rest.len()).unwrap_or(u32::MAX);
        if self.write {
            // Segments are opened O_DSYNC where direct I/O works; elsewhere each write says it.
            let flags = if self.file.owes_sync() {
                libc::RWF_DSYNC
            } else {
                0
            };
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

/// Has the kernel ring a fresh eventfd whenever something completes.
pub(super) fn bell(ring: &IoUring) -> io::Result<OwnedFd> {
    // SAFETY: a system call without pointers; the result is checked before it is owned.
    let fd = unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a fresh descriptor that nobody else owns.
    let event = unsafe { OwnedFd::from_raw_fd(fd) };
    ring.submitter().register_eventfd(event.as_raw_fd())?;
    Ok(event)
}

/// Adds an order without memory to an empty ring.
pub(super) fn no_op(ring: &mut IoUring) -> io::Result<()> {
    // SAFETY: a NOP has no pointers.
    let pushed = unsafe { ring.submission().push(&opcode::Nop::new().build()) };
    pushed.map_err(io::Error::other)
}

/// Asks for huge pages under this memory, which begins at a page. The kernel may have none: nothing
/// depends on it.
pub(super) fn want_huge_pages(memory: &mut [u8]) {
    // SAFETY: the range is exclusively ours, and MADV_HUGEPAGE changes neither contents nor mapping.
    unsafe {
        libc::madvise(
            memory.as_mut_ptr().cast(),
            memory.len(),
            libc::MADV_HUGEPAGE,
        );
    }
}

fn is_passing(e: &io::Error) -> bool {
    matches!(
        e.raw_os_error(),
        Some(libc::EINTR | libc::EAGAIN | libc::EBUSY)
    )
}

/// Takes room for the first `bytes` bytes of a file. (The library's call takes the error from the wrong
/// place, and writes zeros where the file system cannot do it.)
pub(super) fn allocate(file: &File, bytes: u64) -> io::Result<()> {
    let bytes = libc::off_t::try_from(bytes).map_err(|_| io::ErrorKind::InvalidInput)?;
    loop {
        // SAFETY: the descriptor is open as long as `file` lives; no memory is handed over.
        let done = unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, bytes) };
        let failed = (done != 0).then(io::Error::last_os_error);
        match failed {
            None => return Ok(()),
            Some(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Some(e) => return Err(e),
        }
    }
}
