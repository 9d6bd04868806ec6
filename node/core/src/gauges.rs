//! What a core measures of itself: lengths of its turns and of their stages, batches, commits.
//!
//! The turn reads no clock; it is given a [`Stopwatch`], which in the simulator stands still. Reading it
//! costs some 30 ns, eight times per turn. A turn that takes longer than [`SLOW_TURN_MICROS`] is counted
//! and logged with the stage that took longest, as that is where its callers' time went. One turn in
//! [`SPAN_EVERY`] is a `tracing` span with the microseconds of each stage, around whatever is logged in it.
//! Must never know: shards, logs.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use henge_wal::Lsn;
use tracing::field::Empty;
use tracing::span::EnteredSpan;

use henge_api::{Buckets, CoreMetrics, STAGE_NAMES, STAGES, Stage};

/// A turn longer than this is slow: an order of magnitude above a durable write.
pub const SLOW_TURN_MICROS: u64 = 20_000;
/// At most one slow turn is logged in this time.
const LOG_EVERY_MICROS: u64 = 1_000_000;
/// A log write that takes so long is worth a line (etcd's `slow fdatasync`).
const SLOW_WRITE_MICROS: u64 = 1_000_000;

/// One turn in so many is a span: under load some tens of them a second, and next to nothing to pay for it.
pub const SPAN_EVERY: u64 = 1_024;

/// Microseconds that only grow; where from is the host's business.
#[derive(Clone)]
pub struct Stopwatch(Arc<dyn Fn() -> u64 + Send + Sync>);

/// Stands still.
impl Default for Stopwatch {
    fn default() -> Self {
        Stopwatch::new(|| 0)
    }
}

impl fmt::Debug for Stopwatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Stopwatch")
    }
}

impl Stopwatch {
    /// One that reads a clock.
    pub fn new(micros: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        Stopwatch(Arc::new(micros))
    }

    /// The time now.
    pub fn micros(&self) -> u64 {
        (self.0)()
    }
}

/// The measurements of one core.
#[derive(Debug, Default)]
pub struct Gauges {
    stopwatch: Stopwatch,
    turn_began: u64,
    lap_began: u64,
    /// Of this turn.
    stages: [u64; STAGES],
    logged_at: Option<u64>,
    /// The same of slow writes.
    slow_write_logged_at: Option<u64>,
    /// Turns begun.
    turns: u64,
    /// This turn's, if it is one that is shown.
    span: Option<EnteredSpan>,
    /// Log batches in flight, when they were handed over, and entries in them.
    written: VecDeque<(Lsn, u64)>,
    /// Everything so far.
    pub metrics: CoreMetrics,
}

impl Gauges {
    /// Nothing measured yet.
    pub fn new(stopwatch: Stopwatch) -> Self {
        Gauges {
            stopwatch,
            ..Gauges::default()
        }
    }

    /// The clock, for stages within stages.
    pub fn stopwatch(&self) -> &Stopwatch {
        &self.stopwatch
    }

    /// A turn begins.
    pub fn begin(&mut self) {
        self.turn_began = self.stopwatch.micros();
        self.lap_began = self.turn_began;
        self.stages = [0; STAGES];
        if self.turns.is_multiple_of(SPAN_EVERY) {
            self.span = Some(turn_span().entered());
        }
        self.turns += 1;
    }

    /// What was done since the last lap was this.
    pub fn lap(&mut self, stage: Stage) {
        let now = self.stopwatch.micros();
        self.stages[stage as usize] += now.saturating_sub(self.lap_began);
        self.lap_began = now;
    }

    /// So much of a stage that was just lapped was another.
    pub fn split(&mut self, from: Stage, to: Stage, micros: u64) {
        let micros = micros.min(self.stages[from as usize]);
        self.stages[from as usize] -= micros;
        self.stages[to as usize] += micros;
    }

    /// The turn is over; turns that found nothing to do are not counted.
    pub fn end(&mut self, worked: bool) {
        let micros = self.lap_began.saturating_sub(self.turn_began);
        if let Some(span) = self.span.take() {
            span.record("micros", micros);
            for (stage, micros) in STAGE_NAMES.iter().zip(self.stages) {
                span.record(*stage, micros);
            }
        }
        if !worked {
            return;
        }
        self.metrics.turn_micros.record(micros);
        for (sum, stage) in self.metrics.stage_micros.iter_mut().zip(self.stages) {
            *sum += stage;
        }
        if micros < SLOW_TURN_MICROS {
            return;
        }
        let slowest = (0..STAGES).max_by_key(|stage| self.stages[*stage]);
        let slowest = slowest.unwrap_or_default();
        self.metrics.slow_turns[slowest] += 1;
        let quiet = self
            .logged_at
            .is_some_and(|at| self.lap_began < at + LOG_EVERY_MICROS);
        if !quiet {
            self.logged_at = Some(self.lap_began);
            let (stage, stage_micros) = (STAGE_NAMES[slowest], self.stages[slowest]);
            if slowest == Stage::Apply as usize {
                tracing::warn!(micros, stage, stage_micros, "slow apply");
            } else {
                tracing::warn!(micros, stage, stage_micros, "slow turn");
            }
        }
    }

    /// A batch was handed to the disk.
    pub fn submitted(&mut self, lsn: Lsn, durable: Lsn, now_micros: u64) {
        let now_micros = self.at_least(now_micros);
        let last = self.written.back().map_or(durable, |(lsn, _)| *lsn);
        if lsn > last {
            self.written.push_back((lsn, now_micros));
        }
    }

    /// All batches up to this one are durable.
    pub fn durable(&mut self, lsn: Lsn, now_micros: u64) {
        let now_micros = self.at_least(now_micros);
        while let Some((_, at)) = self.written.pop_front_if(|(written, _)| *written <= lsn) {
            let micros = now_micros.saturating_sub(at);
            self.metrics.commit_micros.record(micros);
            if micros >= SLOW_WRITE_MICROS {
                let quiet = self
                    .slow_write_logged_at
                    .is_some_and(|at| now_micros < at + LOG_EVERY_MICROS);
                if !quiet {
                    self.slow_write_logged_at = Some(now_micros);
                    tracing::warn!(micros, "slow disk: a log write took long to become durable");
                }
            }
            let bucket = (0..14).find(|k| micros <= 1_000 << k).unwrap_or(14);
            self.metrics.wal_write_seconds[bucket] += 1;
            self.metrics.wal_write_seconds_sum += micros as f64 / 1e6;
        }
    }

    /// The time of a turn is that of its beginning; what was submitted and heard of in one long turn would
    /// seem to have taken no time.
    fn at_least(&self, turn_micros: u64) -> u64 {
        turn_micros.max(self.stopwatch.micros())
    }
}

/// A span with a field for each of [`STAGE_NAMES`].
fn turn_span() -> tracing::Span {
    tracing::debug_span!(
        "turn",
        micros = Empty,
        completions = Empty,
        intake = Empty,
        time = Empty,
        ready = Empty,
        apply = Empty,
        submit = Empty,
        send = Empty,
        answer = Empty,
        background = Empty,
    )
}

/// The log's own distribution, which has more buckets, as one that is shown.
pub(crate) fn buckets_of(log: &henge_wal::Histogram) -> Buckets {
    let mut buckets = Buckets {
        sum: log.sum,
        ..Buckets::default()
    };
    for (bucket, count) in log.counts.iter().enumerate() {
        buckets.counts[bucket.min(Buckets::COUNT - 1)] += count;
    }
    buckets
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicU64, Ordering};

    use tracing::field::{Field, Visit};
    use tracing::span::{Attributes, Id, Record};
    use tracing::{Event, Metadata};

    use super::*;

    /// Keeps the spans' names and what was recorded in them.
    #[derive(Clone, Default)]
    struct Spans(Arc<Mutex<Vec<(String, u64)>>>);

    impl Spans {
        fn note(&self, name: &str, value: u64) {
            let mut seen = self.0.lock().expect("no test panics with it");
            seen.push((name.to_owned(), value));
        }
    }

    impl Visit for Spans {
        fn record_u64(&mut self, field: &Field, value: u64) {
            self.note(field.name(), value);
        }
        fn record_debug(&mut self, _: &Field, _: &dyn fmt::Debug) {}
    }

    impl tracing::Subscriber for Spans {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }
        fn new_span(&self, span: &Attributes<'_>) -> Id {
            self.note(span.metadata().name(), 0);
            Id::from_u64(1)
        }
        fn record(&self, _: &Id, values: &Record<'_>) {
            values.record(&mut self.clone());
        }
        fn record_follows_from(&self, _: &Id, _: &Id) {}
        fn event(&self, event: &Event<'_>) {
            self.note(event.metadata().target(), 0);
        }
        fn enter(&self, _: &Id) {
            self.note("entered", 0);
        }
        fn exit(&self, _: &Id) {
            self.note("left", 0);
        }
    }

    #[test]
    fn one_turn_in_many_is_a_span_with_its_stages() {
        let spans = Spans::default();
        let clock = Arc::new(AtomicU64::new(0));
        let reader = clock.clone();
        let mut gauges = Gauges::new(Stopwatch::new(move || reader.load(Ordering::Relaxed)));
        tracing::subscriber::with_default(spans.clone(), || {
            for _ in 0..SPAN_EVERY + 1 {
                gauges.begin();
                for stage in [Stage::Intake, Stage::Ready, Stage::Background] {
                    clock.fetch_add(1 + stage as u64, Ordering::Relaxed);
                    gauges.lap(stage);
                }
                gauges.end(true);
            }
        });
        let seen = spans.0.lock().expect("no test panics with it").clone();
        let one = [("turn", 0), ("entered", 0), ("micros", 15)];
        let stages = [0, 2, 0, 4, 0, 0, 0, 0, 9];
        let one = one.into_iter().chain(STAGE_NAMES.into_iter().zip(stages));
        let one: Vec<_> = one.chain([("left", 0)]).collect();
        let seen: Vec<_> = seen.iter().map(|(name, at)| (&name[..], *at)).collect();
        assert_eq!(seen, [&one[..], &one[..]].concat());
    }

    #[test]
    fn a_commit_within_one_turn_took_the_time_it_took() {
        let clock = Arc::new(AtomicU64::new(1_000));
        let reader = clock.clone();
        let mut gauges = Gauges::new(Stopwatch::new(move || reader.load(Ordering::Relaxed)));
        gauges.submitted(1, 0, 1_000);
        clock.store(1_150, Ordering::Relaxed);
        gauges.durable(1, 1_000);
        assert_eq!(gauges.metrics.commit_micros.sum, 150);
        // Without a clock, by turns.
        let mut gauges = Gauges::new(Stopwatch::default());
        gauges.submitted(1, 0, 1_000);
        gauges.durable(1, 1_300);
        assert_eq!(gauges.metrics.commit_micros.sum, 300);
    }

    /// What is logged while `work` is done.
    fn said_by(work: impl FnOnce()) -> String {
        #[derive(Clone, Default)]
        struct Lines(Arc<Mutex<Vec<u8>>>);
        impl std::io::Write for Lines {
            fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
                self.0.lock().expect("no test panics with it").extend(line);
                Ok(line.len())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let lines = Lines::default();
        let writer = lines.clone();
        let logger = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(move || writer.clone());
        tracing::subscriber::with_default(logger.finish(), work);
        let lines = lines.0.lock().expect("no test panics with it").clone();
        String::from_utf8(lines).expect("text")
    }

    #[test]
    fn slow_applies_and_a_slow_disk_are_said_once_in_a_second() {
        let said = said_by(|| {
            let clock = Arc::new(AtomicU64::new(0));
            let reader = clock.clone();
            let mut gauges = Gauges::new(Stopwatch::new(move || reader.load(Ordering::Relaxed)));
            for _ in 0..2 {
                gauges.begin();
                clock.fetch_add(SLOW_TURN_MICROS, Ordering::Relaxed);
                gauges.lap(Stage::Apply);
                gauges.end(true);
            }
            for lsn in 1..=2 {
                gauges.submitted(lsn, 0, 0);
            }
            clock.fetch_add(SLOW_WRITE_MICROS, Ordering::Relaxed);
            gauges.durable(2, 0);
        });
        for line in ["slow apply", "slow disk: a log write took long"] {
            assert_eq!(said.matches(line).count(), 1, "{line} in {said}");
        }
        assert!(said.contains("stage=\"apply\" stage_micros="), "{said}");
    }

    #[test]
    fn a_slow_turn_is_put_down_to_the_stage_that_took_longest() {
        let clock = Arc::new(AtomicU64::new(0));
        let reader = clock.clone();
        let mut gauges = Gauges::new(Stopwatch::new(move || reader.load(Ordering::Relaxed)));
        let mut turn = |intake, ready, apply| {
            gauges.begin();
            clock.fetch_add(intake, Ordering::Relaxed);
            gauges.lap(Stage::Intake);
            clock.fetch_add(ready, Ordering::Relaxed);
            gauges.lap(Stage::Ready);
            gauges.split(Stage::Ready, Stage::Apply, apply);
            gauges.end(true);
            gauges.metrics.slow_turns
        };
        assert_eq!(turn(100, SLOW_TURN_MICROS - 200, 0), [0; STAGES]);
        assert_eq!(turn(100, SLOW_TURN_MICROS, 0)[Stage::Ready as usize], 1);
        let slow = turn(1, SLOW_TURN_MICROS, SLOW_TURN_MICROS - 10);
        assert_eq!(
            (slow[Stage::Ready as usize], slow[Stage::Apply as usize]),
            (1, 1)
        );
        assert_eq!(gauges.metrics.turn_micros.total(), 3);
        assert_eq!(gauges.metrics.stage_micros[Stage::Intake as usize], 201);
    }
}
