//! What the slowest puts at the peak waited for.
//!
//! Every put's time is taken; while a put is late, the core's own counters and the thread's own pauses are
//! looked at, so that a stall is put down to a slow turn (and its stage), a slow log write, or the caller.
//! Must never know: the core's inside; all of it is public.

use std::time::{Duration, Instant};

use henge::Engine;
use henge::api::{Buckets, CoreMetrics};
use henge_api::STAGE_NAMES;

use crate::puts::Load;

/// A put that takes longer is late.
const LATE: Duration = Duration::from_millis(20);
/// How often the counters are read.
const LOOK: Duration = Duration::from_millis(5);
/// Puts in flight.
const IN_FLIGHT: usize = 2_048;

/// A time in which nothing was answered.
struct Stall {
    at: Duration,
    lasted: Duration,
    before: CoreMetrics,
    after: CoreMetrics,
    /// The caller's own longest pause meanwhile.
    paused: Duration,
}

/// Puts for so long; prints the distributions and each stall, and returns the last line's share.
pub fn trace(engine: &Engine, time: Duration) -> String {
    let metrics = || engine.core_metrics(0).unwrap_or_default();
    crate::puts::closed_loop(engine, IN_FLIGHT, Duration::from_secs(2));
    let mut load = Load::new(engine, 256);
    let first = metrics();
    let began = Instant::now();
    let (mut answered, mut looked, mut looped) = (began, began, began);
    let (mut before, mut done, mut paused) = (metrics(), 0, Duration::ZERO);
    let mut stalls: Vec<Stall> = Vec::new();
    while began.elapsed() < time {
        load.fill(IN_FLIGHT);
        load.collect();
        let now = Instant::now();
        paused = paused.max(now - looped);
        looped = now;
        if load.done > done {
            done = load.done;
            if now - answered > LATE {
                stalls.push(Stall {
                    at: answered - began,
                    lasted: now - answered,
                    before: before.clone(),
                    after: metrics(),
                    paused,
                });
            }
            answered = now;
            if now - looked > LOOK {
                looked = now;
                before = metrics();
            }
            paused = Duration::ZERO;
        }
    }
    let rate = load.done as f64 / began.elapsed().as_secs_f64();
    load.drain();
    report(&first, &metrics(), &stalls, rate)
}

fn report(first: &CoreMetrics, last: &CoreMetrics, stalls: &[Stall], rate: f64) -> String {
    println!(
        "tail: {rate:.0} puts/s, {} times nothing was answered for {LATE:?}",
        stalls.len()
    );
    for (what, first, last) in [
        ("turns", &first.turn_micros, &last.turn_micros),
        (
            "log writes",
            &first.log_write_micros,
            &last.log_write_micros,
        ),
        ("commits", &first.commit_micros, &last.commit_micros),
    ] {
        let grown = grown(first, last);
        println!(
            "tail: {what}: {} of them, half below {} µs, 99 % below {} µs, 99.9 % below {} µs, all below {} \
            µs",
            grown.total(),
            grown.permille(500),
            grown.permille(990),
            grown.permille(999),
            grown.permille(1_000)
        );
    }
    for stall in stalls {
        let (before, after) = (&stall.before, &stall.after);
        let stages = (0..STAGE_NAMES.len()).max_by_key(|stage| {
            after.stage_micros[*stage].saturating_sub(before.stage_micros[*stage])
        });
        let stage = stages.unwrap_or_default();
        println!(
            "tail: at {:>6} ms for {:>3} ms: slowest log write below {} µs; {} slow turns, longest turn \
            below \
             {} µs, most time in {} ({} µs); caller's longest pause {} ms; segments {} to {}, {} checkpoints",
            stall.at.as_millis(),
            stall.lasted.as_millis(),
            grown(&before.log_write_micros, &after.log_write_micros).permille(1_000),
            after.slow_turns.iter().sum::<u64>() - before.slow_turns.iter().sum::<u64>(),
            grown(&before.turn_micros, &after.turn_micros).permille(1_000),
            STAGE_NAMES[stage],
            after.stage_micros[stage].saturating_sub(before.stage_micros[stage]),
            stall.paused.as_millis(),
            before.wal_segments,
            after.wal_segments,
            after.checkpoints,
        );
    }
    let longest = stalls
        .iter()
        .map(|stall| stall.lasted)
        .max()
        .unwrap_or_default();
    format!(
        "tail_puts={rate:.0} tail_stalls={} tail_longest_ms={} tail_slow_turns={}",
        stalls.len(),
        longest.as_millis(),
        last.slow_turns.iter().sum::<u64>() - first.slow_turns.iter().sum::<u64>()
    )
}

/// What was counted between two looks.
fn grown(first: &Buckets, last: &Buckets) -> Buckets {
    let mut grown = *last;
    for (count, before) in grown.counts.iter_mut().zip(first.counts) {
        *count = count.saturating_sub(before);
    }
    grown.sum = last.sum.saturating_sub(first.sum);
    grown
}
