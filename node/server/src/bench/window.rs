//! The measured window: when it begins and ends, for all threads of clients, and whose turn it is in it.
//!
//! Promises: it begins when every client stands ready and ends at its deadline, with its last operation
//! (`--total`), or when it is interrupted; what is over after its end is not counted, to the nanosecond.
//! With a rate, operations become due on a fixed schedule, however late the answers to earlier ones are.
//! Must never know: what the operations are.
#![allow(
    clippy::disallowed_methods,
    reason = "a load generator measures real time, on threads of its own"
)]

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, watch};

use super::args::BenchArgs;

/// Shortest and longest sleep of the pacer: less than the first is not slept exactly, and within the second
/// it sees that all is over.
const PACE_MIN: Duration = Duration::from_micros(20);
const PACE_MAX: Duration = Duration::from_millis(50);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Preparing,
    Running,
    Over,
    /// And everything that was to be read at its end has been.
    Closed,
}

/// What all threads of a load share.
#[derive(Debug)]
pub struct Window {
    phase: watch::Sender<Phase>,
    /// Clients that stand ready.
    ready: watch::Sender<u32>,
    /// Threads of clients that have ended.
    ended: watch::Sender<u32>,
    begin: OnceLock<Instant>,
    /// In nanoseconds after the beginning.
    end: AtomicU64,
    /// Operations answered so far, for who looks on.
    pub done: AtomicU64,
    /// Operations failed so far, for who looks on.
    pub failed: AtomicU64,
    /// Turns taken.
    taken: AtomicU64,
    /// Turns that are due and not taken, with a rate.
    due: Semaphore,
}

/// A client's turn.
#[derive(Clone, Copy, Debug)]
pub struct Turn {
    /// Which operation of all.
    pub number: u64,
    /// When the schedule wants it to start; none without one.
    pub intended: Option<Instant>,
}

/// Counts a thread of clients as ended, however it ends.
pub struct Ended<'a>(&'a Window);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.ended.send_modify(|ended| *ended += 1);
    }
}

impl Window {
    /// One that has not begun.
    pub fn new() -> Arc<Self> {
        Arc::new(Window {
            phase: watch::channel(Phase::Preparing).0,
            ready: watch::channel(0).0,
            ended: watch::channel(0).0,
            begin: OnceLock::new(),
            end: AtomicU64::new(u64::MAX),
            done: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            taken: AtomicU64::new(0),
            due: Semaphore::new(0),
        })
    }

    /// A client stands ready.
    pub fn one_ready(&self) {
        self.ready.send_modify(|ready| *ready += 1);
    }

    /// Waits until so many clients stand ready.
    pub async fn all_ready(&self, clients: u32) {
        let mut ready = self.ready.subscribe();
        // The sender is this value's own.
        let _ = ready.wait_for(|ready| *ready >= clients).await;
    }

    /// Held by a thread of clients while it lives.
    pub fn thread(&self) -> Ended<'_> {
        Ended(self)
    }

    /// Waits until so many threads of clients have ended.
    pub async fn have_ended(&self, threads: u32) {
        let mut ended = self.ended.subscribe();
        let _ = ended.wait_for(|ended| *ended >= threads).await;
    }

    /// Begins now, for that long at the most.
    pub fn begin(self: &Arc<Self>, args: &BenchArgs) -> Instant {
        let begin = *self.begin.get_or_init(Instant::now);
        self.end.store(nanos(args.duration), Ordering::Relaxed);
        self.phase.send_replace(Phase::Running);
        if let Some(rate) = args.rate {
            let window = self.clone();
            std::thread::spawn(move || window.pace(begin, rate));
        }
        begin
    }

    /// Waits for the beginning; none if it never comes.
    pub async fn begun(&self) -> Option<Instant> {
        let mut phase = self.phase.subscribe();
        let _ = phase.wait_for(|phase| *phase != Phase::Preparing).await;
        self.begin.get().copied()
    }

    /// Ends now, if it has not ended before.
    pub fn end(&self) {
        if let Some(begin) = self.begin.get() {
            self.end
                .fetch_min(nanos(begin.elapsed()), Ordering::Relaxed);
        }
        self.phase
            .send_modify(|phase| *phase = Phase::Over.max(*phase));
    }

    /// Waits until it is over.
    pub async fn over(&self) {
        let mut phase = self.phase.subscribe();
        let _ = phase.wait_for(|phase| *phase >= Phase::Over).await;
    }

    /// Ends it, and lets its threads go.
    pub fn close(&self) {
        self.end();
        self.phase.send_replace(Phase::Closed);
    }

    /// Waits until its threads may go: the processor time of one that has gone could not be read any more.
    pub async fn closed(&self) {
        let mut phase = self.phase.subscribe();
        let _ = phase.wait_for(|phase| *phase == Phase::Closed).await;
    }

    /// Whether a moment lies in it.
    pub fn holds(&self, at: Instant) -> bool {
        self.begin.get().is_some_and(|begin| {
            let after = at.saturating_duration_since(*begin);
            nanos(after) <= self.end.load(Ordering::Relaxed)
        })
    }

    /// Its length, if it has begun; that of a part of it after its end was brought forward.
    pub fn length(&self) -> Option<Duration> {
        self.begin.get()?;
        Some(Duration::from_nanos(self.end.load(Ordering::Relaxed)))
    }

    /// When it ended, if it has begun.
    pub fn ended_at(&self) -> Option<Instant> {
        Some(*self.begin.get()? + self.length()?)
    }

    /// The next turn; none when there is none left. With a rate it waits until one is due.
    pub async fn turn(&self, args: &BenchArgs) -> Option<Turn> {
        if args.rate.is_some() {
            // The semaphore is never closed.
            self.due.acquire().await.ok()?.forget();
        }
        let number = self.taken.fetch_add(1, Ordering::Relaxed);
        if args.total.is_some_and(|total| number >= total) {
            return None;
        }
        let intended = match args.rate {
            Some(rate) => Some(*self.begin.get()? + start_of(number, rate)),
            None => None,
        };
        Some(Turn { number, intended })
    }

    /// One operation was answered or failed, at that moment: the last of `--total` ends the window.
    pub fn one_over(&self, args: &BenchArgs, failed: bool) {
        let mine = if failed { &self.failed } else { &self.done };
        mine.fetch_add(1, Ordering::Relaxed);
        if let Some(total) = args.total {
            let over = self.done.load(Ordering::Relaxed) + self.failed.load(Ordering::Relaxed);
            if over >= total {
                self.end();
            }
        }
    }

    /// Turns that were due and that nobody took: every client was busy.
    pub fn left_due(&self) -> u64 {
        self.due.available_permits() as u64
    }

    /// Lets turns become due. A thread of its own: timers of a runtime are a millisecond coarse.
    fn pace(&self, begin: Instant, rate: u64) {
        let mut given = 0;
        while *self.phase.borrow() < Phase::Over {
            let due = due_after(begin.elapsed(), rate);
            let more = usize::try_from(due - given).unwrap_or(usize::MAX);
            self.due.add_permits(more.min(Semaphore::MAX_PERMITS / 2));
            given = due;
            let next = begin + start_of(given, rate);
            let wait = next.saturating_duration_since(Instant::now());
            std::thread::sleep(wait.clamp(PACE_MIN, PACE_MAX));
        }
    }
}

/// When the operation of that number is due, after the beginning.
fn start_of(number: u64, rate: u64) -> Duration {
    let nanos = u128::from(number) * 1_000_000_000 / u128::from(rate.max(1));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// How many operations are due by then.
fn due_after(elapsed: Duration, rate: u64) -> u64 {
    let due = elapsed.as_nanos() * u128::from(rate) / 1_000_000_000;
    u64::try_from(due).unwrap_or(u64::MAX).saturating_add(1)
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::args::tests::args;
    use super::*;

    #[test]
    fn what_is_over_after_the_end_is_not_counted_to_the_nanosecond() {
        let window = Window::new();
        assert!(!window.holds(Instant::now()), "it has not begun");
        assert_eq!(window.length(), None);
        let begin = window.begin(&args("put --duration 3600"));
        let last = begin + Duration::from_secs(3600);
        assert!(window.holds(begin) && window.holds(last));
        assert!(!window.holds(last + Duration::from_nanos(1)));
        window.end();
        let end = window.ended_at().expect("it began");
        assert!(window.holds(end) && !window.holds(end + Duration::from_nanos(1)));
        assert!(window.length() < Some(Duration::from_secs(3600)));
    }

    #[test]
    fn the_schedule_is_fixed_and_no_operation_is_due_early() {
        for rate in [1, 3, 7, 1_000, 999_999_937, 1_000_000_000] {
            for number in [0, 1, 2, 5, 1_000, 123_456_789] {
                let due = start_of(number, rate);
                // Rounding down a nanosecond is all the difference there may be.
                assert!(
                    due_after(due + Duration::from_nanos(1), rate) > number,
                    "{rate} {number}"
                );
                if number > 0 {
                    let before = due.saturating_sub(Duration::from_nanos(1));
                    assert!(due_after(before, rate) <= number + 1, "{rate} {number}");
                }
            }
        }
        assert_eq!(start_of(150, 100), Duration::from_millis(1_500));
        assert_eq!(due_after(Duration::from_millis(1_499), 100), 150);
    }

    #[test]
    fn the_last_operation_of_a_total_ends_the_window() {
        let args = args("put --total 2 --duration 3600");
        let window = Window::new();
        window.begin(&args);
        window.one_over(&args, true);
        assert_eq!(window.length(), Some(Duration::from_secs(3600)));
        window.one_over(&args, false);
        assert!(window.length() < Some(Duration::from_secs(3600)));
    }
}
