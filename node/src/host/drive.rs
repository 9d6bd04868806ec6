//! Drives a core as one task of an executor's thread, beside whatever else runs there.
//!
//! What differs between executors is small: how a task waits for a time, and how it lets the others run
//! first. That is [`Pace`]; the loop is the same everywhere.

use std::future::{Future as _, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use henge_core::guard::{Guarded, guarded};
use henge_core::{Core, Next, Peers};
use tokio::sync::mpsc::Receiver;
use tokio::time::{Instant, Sleep, sleep_until};

use super::LocalTask;
use super::clock::Clock;
use super::poll_window::PollWindow;

/// What an executor offers to a task that drives a core.
pub(super) trait Pace {
    /// Ready once the clock shows `millis`; else wakes `cx` then.
    fn poll_until(&mut self, clock: Clock, millis: u64, cx: &mut Context<'_>) -> Poll<()>;

    /// Pending: runs again once every other task had its share and the sockets were looked at.
    fn poll_others(&mut self, cx: &mut Context<'_>) -> Poll<()>;
}

/// On a tokio current-thread runtime (tokio-uring's is one).
pub(super) struct TokioPace {
    timer: Pin<Box<Sleep>>,
    /// What the timer is set to.
    armed: u64,
}

impl TokioPace {
    /// On the runtime that the calling thread is in.
    pub(super) fn new() -> Self {
        TokioPace {
            timer: Box::pin(sleep_until(Instant::now())),
            armed: 0,
        }
    }
}

impl Pace for TokioPace {
    fn poll_until(&mut self, clock: Clock, millis: u64, cx: &mut Context<'_>) -> Poll<()> {
        if millis != self.armed {
            self.armed = millis;
            let at = Instant::from_std(clock.instant(millis));
            self.timer.as_mut().reset(at);
        }
        let ended = self.timer.as_mut().poll(cx);
        if ended.is_ready() {
            self.armed = 0;
        }
        ended
    }

    fn poll_others(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        pin!(tokio::task::yield_now()).poll(cx)
    }
}

/// Runs turns until the core ends. While `window` says so, the thread looks for new work instead of
/// sleeping.
pub(super) async fn drive(
    mut core: Core,
    mut peers: Box<dyn Peers>,
    clock: Clock,
    mut window: PollWindow,
    mut pace: impl Pace,
) {
    poll_fn(|cx| {
        loop {
            let now = clock.now();
            match core.turn_awake(now, cx, &mut *peers) {
                Next::Ended => return Poll::Ready(()),
                Next::Again => {
                    window.look_again(now.micros, true);
                    return pace.poll_others(cx);
                }
                Next::At(millis) => {
                    if window.look_again(now.micros, core.worked()) && core.is_light() {
                        // Whoever this is waiting for (the kernel's worker that completes a write, a
                        // client on the same machine) may need this very processor.
                        std::thread::yield_now();
                        return pace.poll_others(cx);
                    }
                    if core.rests_not(cx) {
                        window.look_again(now.micros, true);
                        return pace.poll_others(cx);
                    }
                    if pace.poll_until(clock, millis, cx).is_pending() {
                        return Poll::Pending;
                    }
                }
            }
        }
    })
    .await;
}

/// Starts local tasks as they come. One that panics, at its start, later, or when it is dropped, ends alone.
pub(super) async fn run_tasks(tasks: Receiver<LocalTask>) {
    let mut tasks = Tasks(tasks);
    while let Some(task) = tasks.0.recv().await {
        if let Some(task) = Guarded::make(task) {
            tokio::task::spawn_local(task);
        }
    }
}

/// Tasks that were not started are dropped one by one: what they hold is their callers'.
struct Tasks(Receiver<LocalTask>);

impl Drop for Tasks {
    fn drop(&mut self) {
        self.0.close();
        while let Ok(task) = self.0.try_recv() {
            let _ = guarded(|| drop(task));
        }
    }
}

/// Runs local tasks on a thread of their own, for hosts that have no tokio runtime beside the core. The
/// thread ends when the engine drops its end of the queue.
pub(super) fn run_tasks_elsewhere(tasks: Receiver<LocalTask>) -> std::io::Result<()> {
    let thread = std::thread::Builder::new().name("henge-tasks".to_owned());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    thread.spawn(move || {
        tokio::task::LocalSet::new().block_on(&runtime, run_tasks(tasks));
    })?;
    Ok(())
}
