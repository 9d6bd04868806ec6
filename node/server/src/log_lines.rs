//! Log lines on their way out of the process: one thread writes them to stderr.
//!
//! Promises: whoever logs never waits for whoever reads the log, and never hears of a line that could not
//! be written: such a line is lost and counted ([`lost`]). A full disk, a closed pipe or a log collector
//! that stopped reading costs lines, never a core. What waits is bounded; lines keep their order, and one
//! line is one write, so that lines of several processes in one pipe stay whole.
//! Must never know: what a line says.

use std::collections::VecDeque;
use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use henge_edge::LogLinesLost;

/// Bytes of lines that may wait: some ten thousand lines, more than a start or an end says.
const WAITING_BYTES_MAX: usize = 2 << 20;

/// Of the process, since stderr is the process's.
static UNWRITTEN: AtomicU64 = AtomicU64::new(0);
static UNREAD: AtomicU64 = AtomicU64::new(0);

/// How many lines were lost.
pub fn lost() -> LogLinesLost {
    LogLinesLost {
        unwritten: UNWRITTEN.load(Relaxed),
        unread: UNREAD.load(Relaxed),
    }
}

/// Takes lines for the thread that writes them. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct LogLines(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    /// Lines were taken out and are not written yet.
    writing: bool,
}

impl LogLines {
    /// Starts the thread. Without one (the process may have no more) every line is counted as lost.
    pub fn start() -> LogLines {
        let lines = LogLines::default();
        let shared = lines.0.clone();
        let started = std::thread::Builder::new()
            .name("henge-log".to_owned())
            .spawn(move || shared.write_for_ever(&mut std::io::stderr()));
        if started.is_err() {
            // Full for good: nobody takes anything out.
            lines.0.lock().bytes = WAITING_BYTES_MAX;
        }
        lines
    }

    /// Waits until everything said so far is written or lost, but no longer than `within`.
    pub fn flush(&self, within: Duration) {
        let waiting = self.0.lock();
        // A timeout is no failure: the reader does not read, and the end must not wait for it.
        let _ = self.0.changed.wait_timeout_while(waiting, within, |left| {
            left.writing || !left.lines.is_empty()
        });
    }

    fn push(&self, line: &[u8]) {
        let mut waiting = self.0.lock();
        if waiting.bytes + line.len() > WAITING_BYTES_MAX {
            UNREAD.fetch_add(1, Relaxed);
            return;
        }
        waiting.bytes += line.len();
        waiting.lines.push_back(line.to_vec());
        drop(waiting);
        self.0.changed.notify_all();
    }
}

/// One call is one line; it always succeeds.
impl Write for LogLines {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        self.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Nothing in here panics; if something did, the lines are whole all the same.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_for_ever(&self, out: &mut dyn Write) {
        loop {
            let idle = |left: &mut Waiting| left.lines.is_empty();
            let waiting = self.changed.wait_while(self.lock(), idle);
            let mut waiting = waiting.unwrap_or_else(PoisonError::into_inner);
            let lines = std::mem::take(&mut waiting.lines);
            waiting.writing = true;
            drop(waiting);
            for line in lines {
                if out.write_all(&line).is_err() {
                    UNWRITTEN.fetch_add(1, Relaxed);
                }
                // Line by line: what waits for a slow reader still counts.
                self.lock().bytes -= line.len();
            }
            self.lock().writing = false;
            self.changed.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_takes_is_bounded_and_counted() {
        let lines = LogLines::default(); // no thread: a reader that reads nothing
        let line = [b'x'; 1024];
        let before = lost().unread;
        for _ in 0..WAITING_BYTES_MAX / line.len() + 3 {
            lines.clone().write_all(&line).expect("never fails");
        }
        assert_eq!(lines.0.lock().bytes, WAITING_BYTES_MAX);
        assert!(lost().unread >= before + 3);
        lines.flush(Duration::from_millis(1)); // ends although nothing moves
    }
}
