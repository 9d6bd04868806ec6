//! The glommio host: a core inside one of that runtime's executors, its log written through the
//! executor's ring; local tasks on a thread of their own, as glommio has no tokio beside it.
//!
//! Traps of the runtime (see docs/decisions/0007): it must be probed before it is touched, a task that
//! is dropped is cancelled, and a task that is always runnable keeps it from looking at its ring, so
//! the core never looks for work by spinning here.

use std::future::Future as _;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use ::glommio::timer::{Timer, sleep};
use ::glommio::{LocalExecutorBuilder, Placement, executor};
use henge_core::open::OpenCoreError;
use henge_wal::disk::glommio::{Flights, GlommioDisk};
use tokio::sync::mpsc::Receiver;

use super::clock::Clock;
use super::drive::{Pace, drive, run_tasks_elsewhere};
use super::poll_window::PollWindow;
use super::{CoreBuilder, HostError, HostKind, LocalFuture, LocalTask, Opened, does_not_panic};

/// Memory the executor registers with each of its three rings, in bytes: below the usual limit on locked
/// memory (8 MiB) in all. What does not fit is written from ordinary memory.
const IO_MEMORY: usize = 2 << 20;
/// Longest time a timer is set to, in milliseconds: an idle core looks at itself once a day.
const TIMER_MS_MAX: u64 = 86_400_000;

/// Runs a core on the current thread until it ends.
pub fn run(build: CoreBuilder, opened: Opened, tasks: Receiver<LocalTask>) {
    let fail = |why: String| {
        let host = HostKind::Glommio;
        opened.failed(HostError::Refused { host, why });
    };
    if let Err(why) = henge_wal::disk::ring::probe() {
        return fail(why);
    }
    let executor = LocalExecutorBuilder::new(Placement::Unbound)
        .name("henge-core")
        .io_memory(IO_MEMORY)
        .make();
    let executor = match executor {
        Ok(executor) => executor,
        Err(error) => return fail(error.to_string()),
    };
    executor.run(async move {
        match start(build, Clock::start()) {
            Ok(driven) => {
                if let Err(error) = run_tasks_elsewhere(tasks) {
                    opened.failed(HostError::Thread(error));
                    return;
                }
                if opened.runs() {
                    driven.await;
                }
            }
            Err(error) => opened.failed(error.into()),
        }
    });
}

/// Builds a core over a disk of the executor that the calling thread is in; the future drives it, and
/// ends when the core and its last write have.
pub(super) fn start(build: CoreBuilder, clock: Clock) -> Result<LocalFuture, OpenCoreError> {
    let disk = GlommioDisk::new();
    let flights = disk.flights();
    let (core, peers) = build(Box::new(disk), clock)?;
    let pace = GlommioPace::new();
    Ok(Box::pin(async move {
        drive(core, peers, clock, PollWindow::new(0), pace).await;
        settled(&flights).await;
    }))
}

/// Whether the calling thread is inside an executor: it offers no other way to ask.
pub(super) fn is_here() -> bool {
    does_not_panic(|| {
        executor().id();
    })
}

/// A core that gave up (its log failed) may leave writes behind; the executor must outlive them.
async fn settled(flights: &Flights) {
    while flights.count() > 0 {
        sleep(Duration::from_millis(1)).await;
    }
}

struct GlommioPace {
    timer: Timer,
    armed: u64,
}

impl GlommioPace {
    fn new() -> Self {
        GlommioPace {
            timer: Timer::new(Duration::ZERO),
            armed: 0,
        }
    }
}

impl Pace for GlommioPace {
    fn poll_until(&mut self, clock: Clock, millis: u64, cx: &mut Context<'_>) -> Poll<()> {
        if millis != self.armed {
            self.armed = millis;
            let wait = millis.saturating_sub(clock.now().millis());
            // A new one: the old one's place in the executor's wheel goes with it.
            self.timer = Timer::new(Duration::from_millis(wait.min(TIMER_MS_MAX)));
        }
        let ended = Pin::new(&mut self.timer).poll(cx);
        if ended.is_ready() {
            self.armed = 0;
        }
        ended.map(drop)
    }

    fn poll_others(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        pin!(executor().yield_task_queue_now()).poll(cx)
    }
}
