//! Writes the keys that reads will look for, if they are not there already.
//!
//! Promises: afterwards every key of the keyspace is there; those that were are left as they are. Says what
//! it does: a live line on a terminal, plain lines elsewhere. Ends at once when it is interrupted.
//! Must never know: what a load runs against.
#![allow(clippy::disallowed_methods, reason = "progress is shown in real time")]

use std::cell::RefCell;
use std::convert::Infallible;
use std::io::IsTerminal as _;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use tokio::task::JoinSet;

use super::args::BenchArgs;
use super::clients::Target;
use super::op::{self, Maker};
use super::signals::Signals;
use crate::output::tell;

/// Batches under way, and what one holds at the most: far below what a server takes in one request.
const WRITERS: usize = 32;
const BATCH_KEYS: usize = 100;
const BATCH_BYTES: usize = 256 << 10;
/// Keys and bytes of them that are looked at in one request.
const PAGE_KEYS: usize = 10_000;
const PAGE_BYTES: usize = 1 << 20;
/// How often a batch is tried, and the pause between: a store that is full of work takes it in a moment.
const TRIES: u32 = 20;
const BETWEEN_TRIES: Duration = Duration::from_millis(100);
/// How often the line on a terminal is drawn, and how often a plain line is printed.
const DRAW: Duration = Duration::from_millis(200);
const LINE: Duration = Duration::from_secs(5);

/// How far it is.
#[derive(Debug, Default)]
pub struct Prefill {
    begun: AtomicBool,
    there: AtomicU64,
    written: AtomicU64,
}

impl Prefill {
    /// Whether it was begun.
    pub fn begun(&self) -> bool {
        self.begun.load(Ordering::Relaxed)
    }

    /// Keys that were there.
    pub fn there(&self) -> u64 {
        self.there.load(Ordering::Relaxed)
    }

    /// Keys that were not, and are.
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Runs it if the load needs it. In a [`tokio::task::LocalSet`].
    pub async fn run<T: Target>(
        self: &Arc<Self>,
        args: &BenchArgs,
        signals: &Signals,
        target: &T,
    ) -> Result<(), String> {
        if !args.work.reads() || args.no_prefill {
            return Ok(());
        }
        self.begun.store(true, Ordering::Relaxed);
        let begun = Instant::now();
        let bar = ProgressBar::new(args.keyspace);
        if let Ok(style) = ProgressStyle::with_template("prefill {bar:30} {pos}/{len} keys {eta}") {
            bar.set_style(style);
        }
        tokio::select! {
            _ = signals.caught() => {}
            done = self.fill(args, target) => done.map_err(|error| format!("prefill: {error}"))?,
            never = self.show(&bar) => match never {},
        }
        bar.finish_and_clear();
        if signals.look().is_none() {
            tell!(
                "prefill: {} keys: {} were there already, {} written in {:.1} s",
                args.keyspace,
                self.there(),
                self.written(),
                begun.elapsed().as_secs_f64()
            );
        }
        Ok(())
    }

    async fn show(&self, bar: &ProgressBar) -> Infallible {
        let plain = !std::io::stderr().is_terminal();
        let mut draw = tokio::time::interval(if plain { LINE } else { DRAW });
        loop {
            draw.tick().await;
            let (there, written) = (self.there(), self.written());
            let keys = bar.length().unwrap_or_default();
            bar.set_position(there + written);
            if plain {
                tell!(
                    "prefill: {there} of {keys} keys were there already, {written} written so far"
                );
            }
        }
    }

    async fn fill<T: Target>(self: &Arc<Self>, args: &BenchArgs, target: &T) -> Result<(), String> {
        let missing = self.missing(args, target).await?;
        let numbers: Box<dyn Iterator<Item = u64>> = Box::new(missing.into_iter().flatten());
        let source = Rc::new(RefCell::new(Source {
            numbers,
            maker: Maker::new(args, u32::MAX),
            args: args.clone(),
        }));
        let mut writers = JoinSet::<Result<(), String>>::new();
        for _ in 0..WRITERS {
            let (prefill, source, target) = (self.clone(), source.clone(), target.clone());
            writers.spawn_local(async move {
                loop {
                    let batch = source.borrow_mut().batch();
                    let keys = batch.len() as u64;
                    if keys == 0 {
                        return Ok(());
                    }
                    write(&target, batch).await?;
                    prefill.written.fetch_add(keys, Ordering::Relaxed);
                }
            });
        }
        while let Some(ended) = writers.join_next().await {
            ended.map_err(|error| format!("a writer died: {error}"))??;
        }
        Ok(())
    }

    /// The numbers of the keys that are not there.
    async fn missing<T: Target>(
        &self,
        args: &BenchArgs,
        target: &T,
    ) -> Result<Vec<Range<u64>>, String> {
        let limit = (PAGE_BYTES / (args.key_size as usize + 64)).clamp(1, PAGE_KEYS);
        let mut missing = Vec::new();
        let (mut from, mut next) = (op::key(args, 0), 0);
        loop {
            let page = target.keys(from, limit as i64).await;
            let page = page.map_err(|error| format!("which keys there are: {error}"))?;
            for number in page.iter().filter_map(|key| op::number(args, key)) {
                if number > next {
                    missing.push(next..number);
                }
                next = number + 1;
                self.there.fetch_add(1, Ordering::Relaxed);
            }
            match page.last() {
                Some(last) if page.len() == limit => from = [last, &b"\0"[..]].concat(),
                _ => break,
            }
        }
        if next < args.keyspace {
            missing.push(next..args.keyspace);
        }
        Ok(missing)
    }
}

/// What is still to be written.
struct Source {
    numbers: Box<dyn Iterator<Item = u64>>,
    maker: Maker,
    args: BenchArgs,
}

impl Source {
    fn batch(&mut self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let pair = (self.args.key_size + self.args.val_size) as usize;
        let keys = (BATCH_BYTES / pair).clamp(1, BATCH_KEYS);
        let (maker, args) = (&mut self.maker, &self.args);
        let numbers = self.numbers.by_ref().take(keys);
        numbers
            .map(|number| (op::key(args, number), maker.value()))
            .collect()
    }
}

/// Writes a batch, again if need be: writing it twice does no harm.
async fn write<T: Target>(target: &T, batch: Vec<(Vec<u8>, Vec<u8>)>) -> Result<(), String> {
    let mut tries = 1;
    while let Err(error) = target.write(batch.clone()).await {
        if tries == TRIES {
            return Err(error);
        }
        tries += 1;
        tokio::time::sleep(BETWEEN_TRIES).await;
    }
    Ok(())
}
