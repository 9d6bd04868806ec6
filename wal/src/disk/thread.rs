//! A disk for hosts where io_uring is blocked (Docker's default profile, `io_uring_disabled`): a few
//! threads that do plain `pwrite`, and one more for what takes long.
//!
//! As many writers as writes should be in flight; making segments never stands in a commit's way.

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::files::{Done, Files, Finished, Job, Workers, by_files, settle};
use super::{Completion, Disk, Op, Output, Token};

/// Most writer threads.
const WRITERS_MAX: usize = 16;

/// A disk served by threads of its own.
///
/// Fields in the order they are dropped: the threads end before the directory's lock is let go.
pub struct ThreadDisk {
    /// Writers and the helper, started by the first submission.
    workers: Option<(Workers, Workers)>,
    files: Files,
    writers_wanted: usize,
    done: Arc<Done>,
}

impl ThreadDisk {
    /// `writers`: writes done at the same time; the log's `depth` is the right number.
    pub fn new(writers: usize) -> Self {
        Self {
            files: Files::default(),
            writers_wanted: writers.clamp(1, WRITERS_MAX),
            workers: None,
            done: Arc::default(),
        }
    }

    fn workers(&mut self) -> io::Result<&(Workers, Workers)> {
        let fresh = match self.workers.take() {
            Some(workers) => workers,
            None => {
                let dir = &self.files.dir;
                let writers =
                    Workers::start("henge-wal-write", self.writers_wanted, dir, &self.done)?;
                (
                    writers,
                    Workers::start("henge-wal-file", 1, dir, &self.done)?,
                )
            }
        };
        Ok(self.workers.insert(fresh))
    }

    fn start(&mut self, token: Token, op: Op) -> io::Result<()> {
        let job = match op {
            Op::Write { file, offset, buf } => {
                Job::Write(token, self.files.handle(file)?, offset, buf)
            }
            Op::Read {
                file,
                offset,
                bytes,
            } => Job::Read(token, self.files.handle(file)?, offset, bytes),
            Op::Close { file } => {
                self.files.close(file);
                self.done.push(Finished::Other(Completion {
                    token,
                    result: Ok(Output::Done),
                }));
                return Ok(());
            }
            named => {
                self.workers()?.1.give(Job::Named(token, named));
                return Ok(());
            }
        };
        self.workers()?.0.give(job);
        Ok(())
    }
}

impl Disk for ThreadDisk {
    by_files!("thread");

    fn submit(&mut self, token: Token, op: Op) {
        if let Err(e) = self.start(token, op) {
            self.done.push(Finished::Other(Completion {
                token,
                result: Err(e),
            }));
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Completion> {
        self.done
            .poll(cx)
            .map(|finished| settle(&mut self.files, finished))
    }
}
