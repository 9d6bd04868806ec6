//! A disk for hosts where io_uring is blocked (Docker's default profile, `io_uring_disabled`): a few
//! threads that do plain `pwrite`, and the helpers for what takes long.
//!
//! As many writers as writes should be in flight; making segments never stands in a commit's way, nor does
//! what is written to be synced later.

use std::io;
use std::task::{Context, Poll};

use super::helpers::{Helped, Job, Workers, by_helpers};
use super::{Completion, Disk, Op, Token};

/// Most writer threads.
const WRITERS_MAX: usize = 16;

/// A disk served by threads of its own.
///
/// Fields in the order they are dropped: the directory's lock is let go last.
pub struct ThreadDisk {
    /// Started by the first submission.
    writers: Option<Workers>,
    helped: Helped,
    writers_wanted: usize,
}

impl ThreadDisk {
    /// `writers`: writes done at the same time; the log's `depth` is the right number.
    pub fn new(writers: usize) -> Self {
        Self {
            writers: None,
            helped: Helped::default(),
            writers_wanted: writers.clamp(1, WRITERS_MAX),
        }
    }

    fn writers(&mut self) -> io::Result<&Workers> {
        let writers = match self.writers.take() {
            Some(writers) => writers,
            None => {
                let (dir, done) = (&self.helped.files.dir, &self.helped.done);
                Workers::start("henge-wal-write", self.writers_wanted, dir, done)?
            }
        };
        Ok(self.writers.insert(writers))
    }

    fn start(&mut self, token: Token, op: Op) -> io::Result<()> {
        let job = match op {
            Op::Write { file, offset, buf } => {
                let handle = self.helped.to_write(file, offset, &buf)?;
                let is_loose = handle.loose;
                let job = Job::Write(token, handle, offset, buf);
                if is_loose {
                    return self.helped.aside(job);
                }
                job
            }
            Op::Read {
                file,
                offset,
                bytes,
            } => Job::Read(token, self.helped.files.handle(file)?, offset, bytes),
            other => return self.helped.start(token, other),
        };
        self.writers()?.give(job);
        Ok(())
    }
}

impl Disk for ThreadDisk {
    by_helpers!("thread");

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Completion> {
        self.helped.poll(cx)
    }
}
