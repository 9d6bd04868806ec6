//! The plain host: the core on one thread that parks between turns, its log written by `pwrite` on a
//! helper thread, local tasks on a tokio runtime of their own. Needs nothing from the kernel that a
//! container could refuse.

use std::task::Context;

use henge_core::Next;
use tokio::sync::mpsc::Receiver;

use super::clock::Clock;
use super::drive::run_tasks_elsewhere;
use super::{CoreBuilder, HostError, LocalTask, Opened};

/// Helper threads that write: as many as a log keeps batches in flight.
pub(super) const WRITERS: usize = 4;

/// Runs a core on the current thread until it ends.
pub fn run(build: CoreBuilder, opened: Opened, tasks: Receiver<LocalTask>) {
    let clock = Clock::start();
    let disk = Box::new(henge_wal::disk::thread::ThreadDisk::new(WRITERS));
    let (mut core, mut peers) = match build(disk, clock) {
        Ok(built) => built,
        Err(error) => {
            opened.failed(error.into());
            return;
        }
    };
    if let Err(error) = run_tasks_elsewhere(tasks) {
        opened.failed(HostError::Thread(error));
        return;
    }
    if !opened.runs() {
        return;
    }
    let waker = crate::unpark::waker();
    let mut cx = Context::from_waker(&waker);
    loop {
        match core.turn(clock.now(), &mut cx, &mut *peers) {
            Next::Ended => break,
            Next::Again => {}
            Next::At(millis) => {
                let wait = millis.saturating_sub(clock.now().millis()).max(1);
                std::thread::park_timeout(std::time::Duration::from_millis(wait));
            }
        }
    }
}
