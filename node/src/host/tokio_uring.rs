//! The tokio-uring host: one thread, one ring, one tokio current-thread runtime, for services that
//! already live in that runtime.
//!
//! The core is one task; client connections are others. tokio-uring hands submissions to the kernel only
//! when the thread has nothing left to run (its source: `on_thread_park`), so a busy core writes larger
//! batches less often, and a thread that looks for work instead of sleeping would submit nothing.

use tokio::sync::mpsc::Receiver;

use super::clock::Clock;
use super::drive::{TokioPace, drive, run_tasks};
use super::poll_window::PollWindow;
use super::{CoreBuilder, HostError, HostKind, LocalTask, Opened, does_not_panic};

/// Runs a core on the current thread until it ends.
pub fn run(build: CoreBuilder, opened: Opened, tasks: Receiver<LocalTask>) {
    // Starting the runtime where it cannot run would panic.
    if let Err(why) = henge_wal::disk::tokio_uring::probe() {
        let host = HostKind::TokioUring;
        opened.failed(HostError::Refused { host, why });
        return;
    }
    let clock = Clock::start();
    ::tokio_uring::start(async move {
        let disk = Box::new(henge_wal::disk::tokio_uring::UringDisk::new());
        match build(disk, clock) {
            Ok((core, peers)) => {
                if !opened.runs() {
                    return;
                }
                let beside = tokio::task::spawn_local(run_tasks(tasks));
                drive(core, peers, clock, PollWindow::new(0), TokioPace::new()).await;
                beside.abort();
            }
            Err(error) => {
                opened.failed(error.into());
            }
        }
    });
}

/// Whether the calling thread is inside such a runtime: it offers no other way to ask.
pub(super) fn is_here() -> bool {
    does_not_panic(|| {
        let mut operation = std::pin::pin!(::tokio_uring::no_op());
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        let _ = std::future::Future::poll(operation.as_mut(), &mut cx);
    })
}
