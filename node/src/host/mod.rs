//! Hosts: what drives a core.
//!
//! A host owns a thread, tells a core the time, and waits between its turns. It also runs local tasks
//! (client connections) beside the core: on tokio-uring on the core's own thread, where a request
//! reaches its shard without a thread hop; elsewhere on a thread of their own.
//!
//! Invariant: nothing outside this folder and `henge_wal::disk` knows a runtime's file or ring types.

pub mod clock;
pub mod thread;
pub mod tokio_uring;

use std::future::Future;
use std::pin::Pin;
use std::sync::mpsc;

use henge_wal::disk::Disk;

use crate::core::{Core, Peers};
use crate::engine::OpenError;

/// Which host drives the cores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HostKind {
    /// tokio-uring if this machine allows io_uring, else threads; the choice is logged.
    #[default]
    Auto,
    /// tokio-uring: log writes through io_uring, connections on the same thread.
    TokioUring,
    /// Plain threads: log writes by `pwrite` on a helper thread. For machines where io_uring is blocked.
    Thread,
}

/// A future that stays on the thread it was made on.
pub type LocalFuture = Pin<Box<dyn Future<Output = ()>>>;
/// Makes such a future on the thread where it will run.
pub type LocalTask = Box<dyn FnOnce() -> LocalFuture + Send>;
/// Builds a core on its own thread, over the disk its host gives it.
pub type CoreBuilder = Box<
    dyn FnOnce(Box<dyn Disk>, clock::Clock) -> Result<(Core, Box<dyn Peers>), OpenError> + Send,
>;

/// A running host thread.
pub struct HostHandle {
    /// The thread.
    pub thread: std::thread::JoinHandle<()>,
    /// Runs local tasks beside the core.
    pub tasks: tokio::sync::mpsc::UnboundedSender<LocalTask>,
}

impl HostKind {
    /// What [`HostKind::Auto`] means on this machine, with the reason if io_uring is refused.
    pub fn resolve(self) -> (HostKind, Option<String>) {
        match self {
            HostKind::Auto => match henge_wal::disk::tokio_uring::probe() {
                Ok(()) => (HostKind::TokioUring, None),
                Err(reason) => (HostKind::Thread, Some(reason.to_string())),
            },
            kind => (kind, None),
        }
    }

    /// Starts a host thread, builds its core there and returns once that has succeeded or failed.
    pub fn start(self, name: &str, build: CoreBuilder) -> Result<HostHandle, OpenError> {
        let (opened, open_result) = mpsc::channel();
        let (tasks, task_queue) = tokio::sync::mpsc::unbounded_channel();
        let (kind, _) = self.resolve();
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || match kind {
                HostKind::Thread => thread::run(build, opened, task_queue),
                _ => tokio_uring::run(build, opened, task_queue),
            })
            .map_err(OpenError::Thread)?;
        match open_result.recv() {
            Ok(Ok(())) => Ok(HostHandle { thread, tasks }),
            Ok(Err(error)) => {
                let _ = thread.join();
                Err(error)
            }
            Err(_) => Err(OpenError::HostDied),
        }
    }
}
