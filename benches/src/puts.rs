//! Puts into an embedded engine from one thread, many in flight, and what a process tells of itself.
//!
//! Promises: every put is really called, and counted once as done, refused or failed.
//! Must never know: what is measured with them.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use henge::api::Reply;
use henge::engine::Operation;
use henge::mvcc::PutResponse;
use henge::{Engine, PutError, Unavailable};

/// Keys that are put, unless another number is asked for.
pub const KEYS: u64 = 200_000;

/// Keeps so many puts in flight for a while; puts per second.
pub fn closed_loop(engine: &Engine, in_flight: usize, time: Duration) -> f64 {
    closed_loop_of(Load::new(engine, 256), in_flight, time)
}

/// The same with a load of the caller's.
pub fn closed_loop_of(mut load: Load<'_>, in_flight: usize, time: Duration) -> f64 {
    let began = Instant::now();
    while began.elapsed() < time {
        load.fill(in_flight);
        load.collect();
    }
    let rate = load.done as f64 / began.elapsed().as_secs_f64();
    load.drain();
    rate
}

/// Puts that were started and are not answered yet, looked at from time to time by one thread.
pub struct Load<'a> {
    engine: &'a Engine,
    value: Vec<u8>,
    /// How many there are to choose from.
    keys: u64,
    open: VecDeque<Operation<Reply<PutResponse>, PutError>>,
    number: u64,
    /// Puts that were done.
    pub done: u64,
    /// Puts refused as too many requests.
    pub refused: u64,
    /// Puts that failed otherwise.
    pub failed: u64,
}

impl<'a> Load<'a> {
    /// With values of so many bytes, on [`KEYS`] keys.
    pub fn new(engine: &'a Engine, value_bytes: usize) -> Self {
        Load {
            engine,
            value: vec![b'v'; value_bytes],
            keys: KEYS,
            open: VecDeque::new(),
            number: 0,
            done: 0,
            refused: 0,
            failed: 0,
        }
    }

    /// On so many keys.
    pub fn on_keys(mut self, keys: u64) -> Self {
        self.keys = keys;
        self
    }

    /// Starts so many more; refusals are counted at once.
    pub fn start(&mut self, count: usize) {
        let mut cx = Context::from_waker(Waker::noop());
        let mut key = *b"key-............";
        for _ in 0..count {
            self.number += 1;
            // A fixed set of keys, in an order without pattern (Knuth's multiplier).
            let number = self.number.wrapping_mul(0x9e37_79b9_7f4a_7c15) % self.keys;
            let mut rest = number;
            for digit in key[4..].iter_mut().rev() {
                *digit = b'0' + (rest % 10) as u8;
                rest /= 10;
            }
            let mut put = self.engine.put(key, &self.value);
            // A refusal is there at once.
            match Pin::new(&mut put).poll(&mut cx) {
                Poll::Pending => self.open.push_back(put),
                Poll::Ready(answer) => self.count(answer),
            }
        }
    }

    /// Starts what is missing to so many.
    pub fn fill(&mut self, in_flight: usize) {
        self.start(in_flight.saturating_sub(self.open.len()));
    }

    /// Takes answers in the order of asking, as far as they are there.
    pub fn collect(&mut self) {
        let mut cx = Context::from_waker(Waker::noop());
        let mut any = false;
        while let Some(put) = self.open.front_mut() {
            let Poll::Ready(answer) = Pin::new(put).poll(&mut cx) else {
                break;
            };
            self.open.pop_front();
            self.count(answer);
            any = true;
        }
        if !any {
            std::thread::sleep(Duration::from_micros(50));
        }
    }

    fn count(&mut self, answer: Result<Reply<PutResponse>, PutError>) {
        match answer {
            Ok(_) => self.done += 1,
            Err(PutError::Unavailable(Unavailable::TooManyRequests)) => self.refused += 1,
            Err(_) => self.failed += 1,
        }
    }

    /// Waits for all answers.
    pub fn drain(&mut self) {
        while !self.open.is_empty() {
            self.collect();
        }
    }
}

/// Processor time of this process, user and system.
pub fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks = fields.split_ascii_whitespace().skip(11).take(2);
    ticks
        .filter_map(|field| field.parse::<f64>().ok())
        .sum::<f64>()
        / 100.0
}

/// A figure of `/proc/self/status`, in bytes.
pub fn status_bytes(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let kib = line.and_then(|rest| rest.split_ascii_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1_024
}
