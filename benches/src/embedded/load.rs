//! What a writer puts, and how puts are counted.
//!
//! Promises: a writer's keys are its own, 16 B chosen at random from its share of a million; values
//! are 256 B and never repeat; only what is acknowledged inside the window counts.
//! Must never know: which store is loaded. Tested below.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::mvcc_load::mix;

/// Keys of all writers together.
const KEYSPACE: u64 = 1_000_000;
pub const KEY_BYTES: usize = 16;
pub const VALUE_BYTES: usize = 256;

const WARMING: u8 = 0;
const COUNTING: u8 = 1;
const OVER: u8 = 2;

/// One measurement.
pub struct Load {
    /// How many write at once.
    pub writers: usize,
    /// Pairs of one durable operation.
    pub batch: usize,
    warm: Duration,
    window: Duration,
    phase: AtomicU8,
    counted: AtomicU64,
    last: Mutex<Vec<Pair>>,
}

/// What came of it.
pub struct Rate {
    /// Pairs acknowledged per second of the window.
    pub per_second: f64,
}

/// A key and a value.
#[derive(Clone)]
pub struct Pair {
    pub key: [u8; KEY_BYTES],
    pub value: [u8; VALUE_BYTES],
}

/// Where a writer is.
pub struct Writer {
    number: u64,
    /// Of the keyspace: the first of its keys, and how many.
    keys: (u64, u64),
    put: u64,
    pairs: Vec<Pair>,
}

impl Load {
    pub fn new(writers: usize, batch: usize, (warm, window): (Duration, Duration)) -> Self {
        Self {
            writers,
            batch,
            warm,
            window,
            phase: AtomicU8::new(WARMING),
            counted: AtomicU64::new(0),
            last: Mutex::new(Vec::new()),
        }
    }

    /// The writers, each for a thread or a task.
    pub fn writers(&self) -> Vec<Writer> {
        let share = KEYSPACE / self.writers as u64;
        let writer = |number| Writer {
            number,
            keys: (number * share, share),
            put: 0,
            pairs: vec![
                Pair {
                    key: [0; KEY_BYTES],
                    value: [0; VALUE_BYTES],
                };
                self.batch
            ],
        };
        (0..self.writers as u64).map(writer).collect()
    }

    pub fn is_over(&self) -> bool {
        self.phase.load(Ordering::Relaxed) == OVER
    }

    /// What a writer put last is durable.
    pub fn acknowledged(&self) {
        if self.phase.load(Ordering::Relaxed) == COUNTING {
            self.counted.fetch_add(self.batch as u64, Ordering::Relaxed);
        }
    }

    /// A writer ends; what it was told last is to be found.
    pub fn ended(&self, writer: &Writer) {
        if let (Ok(mut last), Some(pair)) = (self.last.lock(), writer.pairs.last()) {
            last.push(pair.clone());
        }
    }

    /// Runs `put` on a thread for each writer until the window is over, then asks `get` for what each
    /// was told last.
    pub fn on_threads(
        &self,
        put: impl Fn(&[Pair]) -> Result<(), String> + Sync,
        get: impl Fn(&[u8]) -> Result<Option<Vec<u8>>, String>,
    ) -> Result<Rate, String> {
        let rate = std::thread::scope(|scope| {
            let threads: Vec<_> = self
                .writers()
                .into_iter()
                .map(|mut writer| {
                    let put = &put;
                    scope.spawn(move || {
                        while !self.is_over() {
                            put(writer.next())?;
                            self.acknowledged();
                        }
                        self.ended(&writer);
                        Ok::<_, String>(())
                    })
                })
                .collect();
            let seconds = self.supervise();
            for thread in threads {
                thread.join().map_err(|_| "a writer died".to_owned())??;
            }
            Ok::<_, String>(self.rate(seconds))
        })?;
        self.check(get)?;
        Ok(rate)
    }

    /// Warms up, counts, ends; the window's seconds.
    pub fn supervise(&self) -> f64 {
        std::thread::sleep(self.warm);
        self.phase.store(COUNTING, Ordering::Relaxed);
        let begun = Instant::now();
        std::thread::sleep(self.window);
        self.phase.store(OVER, Ordering::Relaxed);
        begun.elapsed().as_secs_f64()
    }

    pub fn rate(&self, seconds: f64) -> Rate {
        Rate {
            per_second: self.counted.load(Ordering::Relaxed) as f64 / seconds,
        }
    }

    /// Every writer's last pair has to be there.
    pub fn check(
        &self,
        get: impl Fn(&[u8]) -> Result<Option<Vec<u8>>, String>,
    ) -> Result<(), String> {
        let last = self.last.lock().map_err(|_| "a writer died")?;
        if last.len() != self.writers {
            return Err(format!("{} of {} writers ended", last.len(), self.writers));
        }
        for pair in last.iter() {
            if get(&pair.key)?.as_deref() != Some(pair.value.as_slice()) {
                return Err(format!(
                    "an acknowledged put is gone: key {:02x?}",
                    pair.key
                ));
            }
        }
        Ok(())
    }
}

impl Writer {
    /// The next pairs: keys in a row from a random one on, so that none repeats within a batch.
    pub fn next(&mut self) -> &[Pair] {
        let (first, count) = self.keys;
        let begin = mix(self.number << 40 | self.put) % count;
        for (at, pair) in (0..).zip(&mut self.pairs) {
            self.put += 1;
            let key = first + (begin + at) % count;
            pair.key[..8].copy_from_slice(&mix(key).to_be_bytes());
            pair.key[8..].copy_from_slice(&key.to_be_bytes());
            let salt = mix(self.put ^ self.number << 40);
            for (at, chunk) in (0..).zip(pair.value.chunks_exact_mut(8)) {
                chunk.copy_from_slice(&salt.wrapping_mul(2 * at + 1).to_le_bytes());
            }
        }
        &self.pairs
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const SHORT: (Duration, Duration) = (Duration::ZERO, Duration::from_millis(20));

    #[test]
    fn a_batch_has_no_key_twice_and_writers_share_none() {
        let load = Load::new(3, 1_000, SHORT);
        let mut owners = BTreeMap::new();
        for mut writer in load.writers() {
            for _ in 0..20 {
                let number = writer.number;
                let pairs = writer.next();
                let keys: std::collections::BTreeSet<_> = pairs.iter().map(|p| p.key).collect();
                assert_eq!(keys.len(), 1_000);
                for key in keys {
                    assert_eq!(*owners.entry(key).or_insert(number), number);
                }
            }
        }
    }

    #[test]
    fn a_store_that_forgets_gets_no_figure() {
        let load = Load::new(4, 1, SHORT);
        let told = load.on_threads(|_| Ok(()), |_| Ok(None));
        assert!(told.is_err_and(|why| why.contains("is gone")));

        let kept = Mutex::new(BTreeMap::new());
        let load = Load::new(4, 1, SHORT);
        let put = |pairs: &[Pair]| {
            let mut kept = kept.lock().map_err(|e| e.to_string())?;
            kept.extend(pairs.iter().map(|p| (p.key.to_vec(), p.value.to_vec())));
            Ok(())
        };
        let get = |key: &[u8]| Ok(kept.lock().map_err(|e| e.to_string())?.get(key).cloned());
        assert!(
            load.on_threads(put, get)
                .is_ok_and(|rate| rate.per_second > 0.0)
        );
    }
}
