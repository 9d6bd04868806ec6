//! What the real disks do on threads: two helpers for what may block whatever one does, and what is common to
//! disks that have them. Completions come back with a wake-up.
//!
//! One helper makes, names and opens the log's files; the other has what takes long and nobody waits for: the
//! files of folders (checkpoints), whose syncs would hold up the next segment. Both are started when the
//! directory is taken, or by the first operation where nobody takes it.
//! Must never know: what the files are for.

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread::JoinHandle;
use std::time::Duration;

use super::files::{Files, Named, SegmentHandle, run_named};
use super::{AlignedBuf, Completion, FileId, LockError, Op, Output, Token};

/// The calls of a disk that keeps a [`Helped`] in a field `helped` and begins operations in a method `start`:
/// all but `poll`.
macro_rules! by_helpers {
    ($backend:literal) => {
        fn info(&self) -> $crate::disk::DiskInfo {
            $crate::disk::DiskInfo {
                backend: $backend,
                direct_io: self.helped.files.direct,
            }
        }

        fn attach(&mut self, dir: &std::path::Path) {
            self.helped.files.dir = dir.to_path_buf();
        }

        fn path(&self) -> &std::path::Path {
            &self.helped.files.dir
        }

        fn list(&mut self) -> std::io::Result<Option<Vec<$crate::disk::FileInfo>>> {
            self.helped.files.list()
        }

        fn make(&mut self) -> std::io::Result<()> {
            self.helped.files.make()
        }

        fn lock(&mut self) -> Result<(), $crate::disk::LockError> {
            self.helped.lock()
        }

        fn entropy(&mut self) -> std::io::Result<[u8; 32]> {
            self.helped.files.entropy()
        }

        fn room(&mut self) -> Option<$crate::disk::Room> {
            self.helped.files.room()
        }

        fn run(&mut self, op: $crate::disk::Op) -> std::io::Result<$crate::disk::Output> {
            self.helped.files.run(op)
        }

        fn reader(
            &self,
            file: $crate::disk::FileId,
        ) -> Option<std::sync::Arc<dyn $crate::disk::ReadAt>> {
            self.helped.files.reader(file)
        }

        fn submit(&mut self, token: $crate::disk::Token, op: $crate::disk::Op) {
            if let Err(e) = self.start(token, op) {
                self.helped.finish(token, Err(e));
            }
        }
    };
}
pub(super) use by_helpers;

/// Files, the helpers, and what those have finished.
///
/// Fields in the order they are dropped: the helpers end before the directory's lock is let go.
#[derive(Default)]
pub(super) struct Helped {
    helpers: Option<Helpers>,
    pub(super) files: Files,
    pub(super) done: Arc<Done>,
}

struct Helpers {
    files: Workers,
    aside: Workers,
}

impl Helped {
    /// Takes the directory, and starts the helpers: not in somebody's turn.
    pub(super) fn lock(&mut self) -> Result<(), LockError> {
        self.files.lock()?;
        self.helpers().map(drop).map_err(LockError::Io)
    }

    fn helpers(&mut self) -> io::Result<&Helpers> {
        let helpers = match self.helpers.take() {
            Some(helpers) => helpers,
            None => Helpers {
                files: Workers::start("henge-wal-file", 1, &self.files.dir, &self.done)?,
                aside: Workers::start("henge-wal-aside", 1, &self.files.dir, &self.done)?,
            },
        };
        Ok(self.helpers.insert(helpers))
    }

    /// Begins everything but a transfer.
    pub(super) fn start(&mut self, token: Token, op: Op) -> io::Result<()> {
        match op {
            Op::Close { file } => {
                self.files.close(file);
                self.finish(token, Ok(Output::Done));
            }
            Op::Sync { file, bytes } => {
                let job = Job::Sync(token, self.files.handle(file)?, bytes);
                self.helpers()?.aside.give(job);
            }
            named => {
                let helpers = self.helpers()?;
                let helper = match is_aside(&named) {
                    true => &helpers.aside,
                    false => &helpers.files,
                };
                helper.give(Job::Named(token, named));
            }
        }
        Ok(())
    }

    /// A transfer that is left to the helper.
    pub(super) fn aside(&mut self, job: Job) -> io::Result<()> {
        self.helpers()?.aside.give(job);
        Ok(())
    }

    /// The file to write to, if that is allowed.
    pub(super) fn to_write(
        &self,
        file: FileId,
        offset: u64,
        buf: &AlignedBuf,
    ) -> io::Result<Arc<SegmentHandle>> {
        let handle = self.files.handle(file)?;
        handle.may_write(offset, buf.len())?;
        Ok(handle)
    }

    pub(super) fn finish(&self, token: Token, result: io::Result<Output>) {
        self.done
            .push(Finished::Other(Completion { token, result }));
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Completion> {
        let Poll::Ready(finished) = self.done.poll(cx) else {
            return Poll::Pending;
        };
        Poll::Ready(match finished {
            Finished::Opened(token, handle) => Completion {
                token,
                result: Ok(self.files.admit(handle)),
            },
            Finished::Other(completion) => completion,
        })
    }
}

/// An operation in a folder: nobody waits for it.
fn is_aside(op: &Op) -> bool {
    match op {
        Op::MakeFolder { .. } | Op::List { .. } | Op::SyncFolder { .. } | Op::Create { .. } => true,
        Op::Rename { to: name, .. } | Op::Remove { name } => name.contains('/'),
        _ => false,
    }
}

/// Taking a lock whose holder panicked: what it guards is a plain queue, whole after every step.
fn take<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A finished operation on its way back to the owner of the disk.
pub(super) enum Finished {
    Opened(Token, SegmentHandle),
    Other(Completion),
}

/// Finished operations, and who waits for them.
#[derive(Default)]
pub(super) struct Done {
    queue: Mutex<(VecDeque<Finished>, Option<Waker>)>,
}

impl Done {
    pub(super) fn push(&self, finished: Finished) {
        let waker = {
            let mut queue = take(&self.queue);
            queue.0.push_back(finished);
            queue.1.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    pub(super) fn poll(&self, cx: &mut Context<'_>) -> Poll<Finished> {
        let mut queue = take(&self.queue);
        match queue.0.pop_front() {
            Some(finished) => Poll::Ready(finished),
            None => {
                queue.1 = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

/// Work for a thread.
pub(super) enum Job {
    Named(Token, Op),
    Write(Token, Arc<SegmentHandle>, u64, AlignedBuf),
    Read(Token, Arc<SegmentHandle>, u64, usize),
    Sync(Token, Arc<SegmentHandle>, u64),
}

#[derive(Default)]
struct Jobs {
    queue: VecDeque<Job>,
    stop: bool,
}

/// Threads that take operations in order. Dropping finishes what is queued.
pub(super) struct Workers {
    shared: Arc<(Mutex<Jobs>, Condvar)>,
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    /// Start `count` threads for the directory; at least one must start.
    pub(super) fn start(
        name: &str,
        count: usize,
        dir: &Path,
        done: &Arc<Done>,
    ) -> io::Result<Self> {
        let shared = Arc::new((Mutex::new(Jobs::default()), Condvar::new()));
        let mut workers = Self {
            shared,
            threads: Vec::new(),
        };
        for _ in 0..count {
            let (shared, dir, done) = (workers.shared.clone(), dir.to_path_buf(), done.clone());
            let thread = std::thread::Builder::new().name(name.into());
            match thread.spawn(move || work(&shared, &dir, &done)) {
                Ok(thread) => workers.threads.push(thread),
                Err(e) if workers.threads.is_empty() => return Err(e),
                Err(_) => break,
            }
        }
        Ok(workers)
    }

    pub(super) fn give(&self, job: Job) {
        take(&self.shared.0).queue.push_back(job);
        self.shared.1.notify_one();
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        take(&self.shared.0).stop = true;
        self.shared.1.notify_all();
        for thread in self.threads.drain(..) {
            // A panicked worker has nothing left to finish.
            let _ = thread.join();
        }
    }
}

fn work(shared: &(Mutex<Jobs>, Condvar), dir: &Path, done: &Done) {
    // A pause ends early when the disk is dropped.
    let pause = |wait: Duration| {
        if !wait.is_zero() {
            let _ = shared
                .1
                .wait_timeout_while(take(&shared.0), wait, |jobs| !jobs.stop);
        }
    };
    loop {
        let job = {
            let mut jobs = take(&shared.0);
            loop {
                match jobs.queue.pop_front() {
                    Some(job) => break job,
                    None if jobs.stop => return,
                    None => {
                        jobs = shared.1.wait(jobs).unwrap_or_else(PoisonError::into_inner);
                    }
                }
            }
        };
        let (token, result) = match job {
            Job::Named(token, op) => match run_named(dir, op, &pause) {
                Ok(Named::Opened(handle)) => {
                    done.push(Finished::Opened(token, handle));
                    continue;
                }
                Ok(Named::Other(output)) => (token, Ok(output)),
                Err(e) => (token, Err(e)),
            },
            Job::Write(token, file, offset, buf) => {
                (token, file.write(offset, &buf).map(|()| Output::Buf(buf)))
            }
            Job::Read(token, file, offset, bytes) => {
                (token, file.read(offset, bytes).map(Output::Buf))
            }
            Job::Sync(token, file, bytes) => (token, file.sync(bytes).map(|()| Output::Done)),
        };
        done.push(Finished::Other(Completion { token, result }));
    }
}
