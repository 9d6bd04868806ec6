//! The tokio-uring host: one thread, one ring, one tokio current-thread runtime.
//!
//! The core is one task; client connections are others. tokio-uring hands submissions to the kernel only
//! when the thread has nothing left to run (its source: `on_thread_park`), so a busy core writes larger
//! batches less often. That is group commit, and it was measured to be what bounds the delay.

use std::future::poll_fn;
use std::sync::mpsc;
use std::task::Poll;

use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, Sleep, sleep_until};

use super::clock::Clock;
use super::{CoreBuilder, LocalTask};
use crate::core::{Core, Next, Peers};
use crate::engine::OpenError;

/// Runs a core on the current thread until it ends.
pub fn run(
    build: CoreBuilder,
    opened: mpsc::Sender<Result<(), OpenError>>,
    tasks: UnboundedReceiver<LocalTask>,
) {
    let clock = Clock::start();
    ::tokio_uring::start(async move {
        let disk = Box::new(henge_wal::disk::tokio_uring::UringDisk::new());
        match build(disk, clock) {
            Ok((core, peers)) => {
                if opened.send(Ok(())).is_err() {
                    return;
                }
                let beside = tokio::task::spawn_local(run_tasks(tasks));
                drive(core, peers, clock).await;
                beside.abort();
            }
            Err(error) => {
                let _ = opened.send(Err(error));
            }
        }
    });
}

/// Starts local tasks as they come.
pub(super) async fn run_tasks(mut tasks: UnboundedReceiver<LocalTask>) {
    while let Some(task) = tasks.recv().await {
        tokio::task::spawn_local(task());
    }
}

async fn drive(mut core: Core, mut peers: Box<dyn Peers>, clock: Clock) {
    let mut timer = std::pin::pin!(sleep_until(Instant::now()));
    let mut armed = 0;
    poll_fn(|cx| {
        loop {
            match core.turn(clock.now(), cx, &mut *peers) {
                Next::Ended => return Poll::Ready(()),
                Next::Again => {
                    // Connections and completions get their share before the next turn.
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Next::At(millis) => {
                    if millis != armed {
                        armed = millis;
                        timer
                            .as_mut()
                            .reset(Instant::from_std(clock.instant(millis)));
                    }
                    if Sleep::poll(timer.as_mut(), cx).is_pending() {
                        return Poll::Pending;
                    }
                    armed = 0;
                }
            }
        }
    })
    .await;
}

use std::future::Future as _;
