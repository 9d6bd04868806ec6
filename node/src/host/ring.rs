//! The default host: one thread, one tokio current-thread runtime for sockets and timers, and a small
//! io_uring ring of our own for the log.
//!
//! A log write is with the kernel when the turn that made it ends, whatever else the thread has to
//! do, and is seen complete by looking at the ring. Measured against the tokio-uring host in
//! decision 6.

use std::io;
use std::os::fd::OwnedFd;
use std::task::{Context, Poll, ready};

use henge_wal::disk::ring::{Bell, RingDisk};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc::Receiver;
use tokio::task::LocalSet;

use super::clock::Clock;
use super::drive::{TokioPace, drive, run_tasks};
use super::poll_window::PollWindow;
use super::{CoreBuilder, HostError, HostOptions, LocalTask, Opened, place};

/// Runs a core on the current thread until it ends.
pub fn run(build: CoreBuilder, opened: Opened, tasks: Receiver<LocalTask>, options: HostOptions) {
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            opened.failed(HostError::Thread(error));
            return;
        }
    };
    let clock = Clock::start();
    let local = LocalSet::new();
    local.block_on(&runtime, async move {
        let built = RingDisk::new(watch)
            .map_err(HostError::Thread)
            .and_then(|disk| Ok(build(Box::new(disk), clock)?));
        match built {
            Ok((core, peers)) => {
                if !opened.runs() {
                    return;
                }
                // Not before: threads started while opening must not inherit it.
                if let Some(cpu) = options.cpu {
                    place::pin(cpu);
                }
                let beside = tokio::task::spawn_local(run_tasks(tasks));
                // A task of its own, so that it takes turns with the connections as one of them.
                let driven = drive(
                    core,
                    peers,
                    clock,
                    PollWindow::new(options.busy_poll_micros),
                    TokioPace::new(),
                );
                let _ = tokio::task::spawn_local(driven).await;
                beside.abort();
            }
            Err(error) => opened.failed(error),
        }
    });
}

/// The ring's eventfd in tokio's reactor.
struct Watched(AsyncFd<OwnedFd>);

/// Watches it in the reactor of the runtime that the calling thread is in.
pub(super) fn watch(event: OwnedFd) -> io::Result<Box<dyn Bell>> {
    // SAFETY: the descriptor is owned by what is registered, and stays the same one until both go.
    let watched = unsafe { AsyncFd::register_with_interest(event, Interest::READABLE) };
    Ok(Box::new(Watched(watched?)))
}

impl Bell for Watched {
    fn poll_rung(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // The reactor is edge-triggered and every ring is an edge, so the count need not be read.
        if let Ok(mut guard) = ready!(self.0.poll_read_ready(cx)) {
            guard.clear_ready();
        }
        Poll::Ready(())
    }
}
