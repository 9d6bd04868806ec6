//! Drives a core as one task of a tokio thread, beside the connections of that thread.

use std::future::{Future as _, poll_fn};
use std::pin::pin;
use std::task::{Context, Poll};

use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, Sleep, sleep_until};

use super::LocalTask;
use super::clock::Clock;
use super::poll_window::PollWindow;
use crate::core::{Core, Next, Peers};

/// Starts local tasks as they come.
pub(super) async fn run_tasks(mut tasks: UnboundedReceiver<LocalTask>) {
    while let Some(task) = tasks.recv().await {
        tokio::task::spawn_local(task());
    }
}

/// Runs turns until the core ends. While `window` says so, the thread looks for new work instead of
/// sleeping.
pub(super) async fn drive(
    mut core: Core,
    mut peers: Box<dyn Peers>,
    clock: Clock,
    mut window: PollWindow,
) {
    let mut timer = pin!(sleep_until(Instant::now()));
    let mut armed = 0;
    poll_fn(|cx| {
        loop {
            let now = clock.now();
            match core.turn(now, cx, &mut *peers) {
                Next::Ended => return Poll::Ready(()),
                Next::Again => {
                    window.look_again(now.micros, true);
                    return after_the_others(cx);
                }
                Next::At(millis) => {
                    if window.look_again(now.micros, core.worked()) && core.is_light() {
                        // Whoever this is waiting for (the kernel's worker that completes a write, a
                        // client on the same machine) may need this very processor.
                        std::thread::yield_now();
                        return after_the_others(cx);
                    }
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

/// Runs again once every other task had its share and the sockets were looked at.
fn after_the_others(cx: &mut Context<'_>) -> Poll<()> {
    pin!(tokio::task::yield_now()).poll(cx)
}
