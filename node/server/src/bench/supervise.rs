//! Opens and closes the window, and shows progress between.
//!
//! Promises: what is metered (processor time, log batches) is read at the window's own ends; a signal ends
//! it at once. Must never know: what the operations are.
#![allow(
    clippy::disallowed_methods,
    reason = "a load generator measures real time, on threads of its own"
)]

use std::io::IsTerminal as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::args::BenchArgs;
use super::signals::{Signal, Signals};
use super::window::Window;
use crate::output::tell;

/// How often the live line is drawn.
const DRAW: Duration = Duration::from_millis(500);

/// What was seen of a window from outside.
pub struct Seen<M> {
    /// The signal that ended it, if one did.
    pub caught: Option<Signal>,
    /// What was metered at its beginning and its end; none if it never began.
    pub meters: Option<(M, M)>,
}

/// Supervises a window with so many threads of clients.
pub fn supervise<M>(
    args: &BenchArgs,
    window: &Arc<Window>,
    signals: &Signals,
    threads: u32,
    meter: impl Fn() -> M,
) -> Result<Seen<M>, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .map_err(|error| format!("cannot start a runtime: {error}"))?;
    let seen = runtime.block_on(async {
        let caught = tokio::select! {
            biased;
            caught = signals.caught() => Some(caught),
            // One that ends before it began has failed, and says why itself.
            () = window.have_ended(1) => None,
            () = window.all_ready(args.clients) => {
                let before = meter();
                let begin = window.begin(args);
                let caught = run(args, window, signals, threads, begin).await;
                window.end();
                return Seen { caught, meters: Some((before, meter())) };
            }
        };
        window.end();
        Seen {
            caught,
            meters: None,
        }
    });
    Ok(seen)
}

/// From the beginning to the end.
async fn run(
    args: &BenchArgs,
    window: &Window,
    signals: &Signals,
    threads: u32,
    begin: Instant,
) -> Option<Signal> {
    if !std::io::stderr().is_terminal() {
        tell!("measuring for {:?}", args.duration);
    }
    let bar = ProgressBar::new(args.duration.as_secs().max(1));
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {elapsed}/{len}s {msg}") {
        bar.set_style(style);
    }
    let deadline = tokio::time::sleep_until((begin + args.duration).into());
    tokio::pin!(deadline);
    let mut draw = tokio::time::interval(DRAW);
    let (mut before, mut at) = (0, begin);
    let caught = loop {
        tokio::select! {
            caught = signals.caught() => break Some(caught),
            () = &mut deadline => break None,
            () = window.over() => break None,
            () = window.have_ended(threads) => break None,
            _ = draw.tick() => {
                let done = window.done.load(Ordering::Relaxed);
                let rate = (done - before) as f64 / at.elapsed().as_secs_f64().max(1e-9);
                bar.set_position(begin.elapsed().as_secs());
                bar.set_message(format!(
                    "{rate:.0} ops/s, {} failed",
                    window.failed.load(Ordering::Relaxed)
                ));
                (before, at) = (done, Instant::now());
            }
        }
    };
    bar.finish_and_clear();
    caught
}
