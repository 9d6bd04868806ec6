//! Hosts: what drives a core.
//!
//! A host owns a thread, tells a core the time, and waits between its turns. It also runs local tasks
//! (client connections) beside the core: with io_uring on the core's own thread, where a request
//! reaches its shard without a thread hop; on the plain host on a thread of their own.
//!
//! Invariant: nothing outside this folder and `henge_wal::disk` knows a runtime's file or ring types.

pub mod clock;
#[cfg(feature = "glommio")]
pub mod glommio;
pub mod here;
pub mod mounts;
pub mod place;
pub mod ring;
pub mod thread;
pub mod tokio_uring;

mod drive;
mod opened;
mod poll_window;

use std::fmt;
use std::str::FromStr;

use henge_core::open::OpenCoreError;
use henge_core::{Core, Peers};
use henge_wal::disk::Disk;

/// Local tasks that wait to be started beside a core, at most.
const TASKS_MAX: usize = 1_024;

/// Which host drives the cores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HostKind {
    /// A ring if this machine allows io_uring, else threads; the choice is logged.
    #[default]
    Auto,
    /// Log writes through an io_uring ring of our own, connections on the same thread.
    Ring,
    /// As [`HostKind::Ring`], inside a tokio-uring runtime.
    TokioUring,
    /// As [`HostKind::Ring`], inside a glommio executor; connections on a thread of their own. With the
    /// feature `glommio`.
    #[cfg(feature = "glommio")]
    Glommio,
    /// Plain threads: log writes by `pwrite` on a helper thread. For machines where io_uring is blocked.
    Thread,
}

pub use self::opened::{Ended, Ending, HostError, Opened};
pub use henge_core::guard::{LocalFuture, LocalTask};

/// Builds a core on its own thread, over the disk its host gives it.
pub type CoreBuilder = Box<
    dyn FnOnce(Box<dyn Disk>, clock::Clock) -> Result<(Core, Box<dyn Peers>), OpenCoreError> + Send,
>;

/// How a host's thread behaves; for [`HostKind::Ring`].
#[derive(Clone, Copy, Debug, Default)]
pub struct HostOptions {
    /// Longest time it looks for new work before it sleeps, in microseconds.
    pub busy_poll_micros: u64,
    /// The processor to stay on.
    pub cpu: Option<usize>,
}

/// A running host thread.
pub struct HostHandle {
    /// The thread; none if the core runs on its caller's.
    pub thread: Option<std::thread::JoinHandle<()>>,
    /// Runs local tasks beside the core.
    pub tasks: tokio::sync::mpsc::Sender<LocalTask>,
    /// Says when it has ended.
    pub ended: Ended,
}

impl HostKind {
    /// What [`HostKind::Auto`] means on this machine, with the reason if io_uring is refused.
    pub fn resolve(self) -> (HostKind, Option<String>) {
        match self {
            HostKind::Auto => match henge_wal::disk::ring::probe() {
                Ok(()) => (HostKind::Ring, None),
                Err(reason) => (HostKind::Thread, Some(reason)),
            },
            kind => (kind, None),
        }
    }

    /// Starts a host thread, builds its core there and returns once that has succeeded or failed.
    pub fn start(
        self,
        name: &str,
        options: HostOptions,
        build: CoreBuilder,
    ) -> Result<HostHandle, HostError> {
        let (opened, answer, ended) = Opened::new();
        let (tasks, task_queue) = tokio::sync::mpsc::channel(TASKS_MAX);
        let (kind, _) = self.resolve();
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || match kind {
                HostKind::Thread => thread::run(build, opened, task_queue),
                HostKind::TokioUring => tokio_uring::run(build, opened, task_queue),
                #[cfg(feature = "glommio")]
                HostKind::Glommio => glommio::run(build, opened, task_queue),
                HostKind::Ring | HostKind::Auto => {
                    ring::run(build, opened, task_queue, options);
                }
            })
            .map_err(HostError::Thread)?;
        match answer.recv() {
            Ok(Ok(())) => Ok(HostHandle {
                thread: Some(thread),
                tasks,
                ended,
            }),
            Ok(Err(error)) => {
                let _ = thread.join();
                Err(error)
            }
            Err(_) => Err(HostError::Died),
        }
    }
}

impl fmt::Display for HostKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            HostKind::Auto => "auto",
            HostKind::Ring => "ring",
            HostKind::TokioUring => "tokio-uring",
            #[cfg(feature = "glommio")]
            HostKind::Glommio => "glommio",
            HostKind::Thread => "thread",
        })
    }
}

impl FromStr for HostKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(HostKind::Auto),
            "ring" => Ok(HostKind::Ring),
            "tokio-uring" => Ok(HostKind::TokioUring),
            "thread" => Ok(HostKind::Thread),
            #[cfg(feature = "glommio")]
            "glommio" => Ok(HostKind::Glommio),
            #[cfg(not(feature = "glommio"))]
            "glommio" => {
                Err("this build has no glommio: build with `--features glommio`".to_owned())
            }
            _ => Err("must be auto, ring, tokio-uring, glommio or thread".to_owned()),
        }
    }
}

/// Runs something of a runtime that panics where it should say no. The panic's message still goes to
/// stderr; what the caller gets is an error.
fn does_not_panic(what: impl FnOnce()) -> bool {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(what)).is_ok()
}
