//! Fuzzing, as plain functions: `codec` takes any bytes for messages, `step` takes any bytes for a script
//! of calls, messages and answers of storage. Both say what an input showed (which errors, which roles);
//! an input that shows something new is kept and varied further.
//!
//! `cargo test` replays `tests/corpus` and then tries some thousand inputs from a seed, which is printed.
//! The long run: `HENGE_FUZZ_RUNS=100000000 cargo test --release -p henge-raft --test fuzz -- --nocapture
//! step` (or `codec`); `HENGE_SEED=n` takes a seed back, `HENGE_FUZZ_KEEP=dir` writes what was kept there.
//! An input that fails is written to the temporary directory, and named.

mod codec;
mod source;
mod step;

#[path = "../common/allocations.rs"]
mod allocations;
mod common {
    pub(crate) use crate::allocations;
}

use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

#[global_allocator]
static ALLOCATOR: common::allocations::Counting = common::allocations::Counting;

/// About twenty seconds each.
const RUNS_CODEC: u64 = 12_000_000;
const RUNS_STEP: u64 = 2_400_000;
const LENGTH_MAX: u64 = 300;
/// Inputs kept to be varied.
const POOL_MAX: usize = 4_096;

#[test]
fn codec_takes_anything() {
    fuzz("codec", RUNS_CODEC, codec::codec);
}

#[test]
fn step_takes_anything() {
    fuzz("step", RUNS_STEP, step::step);
}

fn fuzz(name: &str, runs: u64, function: fn(&[u8]) -> Vec<u64>) {
    let variable = |name| {
        let value = std::env::var(name).ok();
        value.map(|it| it.parse::<u64>().expect("a number"))
    };
    let seed = variable("HENGE_SEED").unwrap_or(1);
    let runs = variable("HENGE_FUZZ_RUNS").unwrap_or(runs);
    println!("{name}: HENGE_SEED={seed}, {runs} runs");
    let mut pool = corpus(name);
    let mut seen = BTreeSet::new();
    for input in &pool {
        seen.extend(run(name, function, input));
    }
    println!("{name}: {} inputs of the corpus pass", pool.len());
    let mut dice = Dice(seed);
    for _ in 0..runs {
        let input = dice.input(&pool);
        let shown = run(name, function, &input);
        let known = seen.len();
        seen.extend(shown);
        if seen.len() > known && pool.len() < POOL_MAX {
            pool.push(input);
        }
    }
    println!(
        "{name}: {} things seen, {} inputs kept",
        seen.len(),
        pool.len()
    );
    if let Ok(directory) = std::env::var("HENGE_FUZZ_KEEP") {
        keep(&Path::new(&directory).join(name), pool, function);
    }
}

/// Writes as few inputs as show everything: those that show most come first.
fn keep(directory: &Path, mut pool: Vec<Vec<u8>>, function: fn(&[u8]) -> Vec<u64>) {
    fs::create_dir_all(directory).expect("a directory to write to");
    let all = |input: &[u8]| function(input).into_iter().collect::<BTreeSet<u64>>();
    pool.sort_by_cached_key(|input| usize::MAX - all(input).len());
    let mut seen = BTreeSet::new();
    let needed = pool.iter().filter(|input| {
        let known = seen.len();
        seen.extend(all(input));
        seen.len() > known
    });
    for (number, input) in needed.enumerate() {
        fs::write(directory.join(format!("{number:04}")), input).expect("room for a file");
    }
}

fn corpus(name: &str) -> Vec<Vec<u8>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/corpus")
        .join(name);
    let files = fs::read_dir(&directory).expect("the corpus is part of the crate");
    let mut paths: Vec<_> = files.map(|file| file.expect("a file").path()).collect();
    paths.sort();
    paths
        .iter()
        .map(|path| fs::read(path).expect("a file"))
        .collect()
}

fn run(name: &str, function: fn(&[u8]) -> Vec<u64>, input: &[u8]) -> Vec<u64> {
    catch_unwind(AssertUnwindSafe(|| function(input))).unwrap_or_else(|_| {
        let path = std::env::temp_dir().join(format!("henge-fuzz-{name}"));
        let _ = fs::write(&path, input);
        panic!("{name} failed: the input is in {}", path.display())
    })
}

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn throw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: u64) -> usize {
        (self.throw() % limit.max(1)) as usize
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.throw() as u8).collect()
    }

    /// A new one, or a variation of one or two that were interesting.
    fn input(&mut self, pool: &[Vec<u8>]) -> Vec<u8> {
        if pool.is_empty() || self.below(8) == 0 {
            let length = self.below(LENGTH_MAX);
            return self.bytes(length);
        }
        let mut input = pool[self.below(pool.len() as u64)].clone();
        for _ in 0..=self.below(4) {
            let at = self.below(input.len() as u64 + 1);
            match self.below(6) {
                0 => input.truncate(at),
                1 => {
                    let length = self.below(20);
                    let more = self.bytes(length);
                    input.splice(at..at, more);
                }
                2 => {
                    let end = (at + self.below(20)).min(input.len());
                    input.drain(at..end);
                }
                3 => {
                    let other = &pool[self.below(pool.len() as u64)];
                    let from = self.below(other.len() as u64 + 1);
                    input.truncate(at);
                    input.extend_from_slice(&other[from..]);
                }
                _ => {
                    let new = self.throw() as u8;
                    if let Some(byte) = input.get_mut(at) {
                        *byte = new;
                    }
                }
            }
        }
        input.truncate(2 * LENGTH_MAX as usize);
        input
    }
}
