//! A core on the caller's own thread: built there, and driven by a future that the caller spawns on its
//! executor. Nothing here starts a thread for the core or keeps it on a processor: both are the
//! caller's to decide.

use henge_wal::disk::ring::RingDisk;
use henge_wal::disk::thread::ThreadDisk;
use henge_wal::disk::tokio_uring::UringDisk;

use super::clock::Clock;
use super::drive::{TokioPace, drive};
use super::poll_window::PollWindow;
use super::{
    CoreBuilder, Ending, HostError, HostKind, HostOptions, LocalFuture, does_not_panic, ring,
    thread,
};

/// Builds a core on the calling thread; `kind` says which executor that is in and how the log is
/// written.
pub fn start(
    kind: HostKind,
    options: HostOptions,
    build: CoreBuilder,
    ending: Ending,
) -> Result<LocalFuture, HostError> {
    let clock = Clock::start();
    let window = PollWindow::new(options.busy_poll_micros);
    let refused = |why: &str| HostError::Refused {
        host: kind,
        why: why.to_owned(),
    };
    #[cfg(feature = "glommio")]
    if kind == HostKind::Glommio {
        if !super::glommio::is_here() {
            return Err(refused("open it inside a glommio executor"));
        }
        let driven = super::glommio::start(build, clock)?;
        return Ok(until_the_end(driven, ending));
    }
    if !is_tokio_here() {
        return Err(refused(
            "open it inside a tokio current-thread runtime with timers and I/O (`enable_all`), or \
             inside tokio-uring",
        ));
    }
    let (disk, window): (Box<dyn henge_wal::disk::Disk>, _) = match kind {
        HostKind::TokioUring => {
            if !super::tokio_uring::is_here() {
                return Err(refused("open it inside a tokio-uring runtime"));
            }
            // That runtime submits when its thread has nothing left to run: looking would keep it from it.
            (Box::new(UringDisk::new()), PollWindow::new(0))
        }
        HostKind::Thread => (Box::new(ThreadDisk::new(thread::WRITERS)), window),
        _ => {
            let disk = RingDisk::new(ring::watch).map_err(|error| refused(&error.to_string()))?;
            (Box::new(disk), window)
        }
    };
    let (core, peers) = build(disk, clock)?;
    let pace = TokioPace::new();
    let driven = Box::pin(drive(core, peers, clock, window, pace));
    Ok(until_the_end(driven, ending))
}

/// Whoever waits for the end hears of it when the future has ended, or is dropped.
fn until_the_end(driven: LocalFuture, ending: Ending) -> LocalFuture {
    Box::pin(async move {
        driven.await;
        drop(ending);
    })
}

/// Whether the calling thread is in a tokio runtime with timers and I/O: there is no other way to ask.
fn is_tokio_here() -> bool {
    tokio::runtime::Handle::try_current().is_ok()
        && does_not_panic(|| {
            drop(tokio::time::sleep(std::time::Duration::ZERO));
            drop(tokio::net::UnixStream::pair());
        })
}
