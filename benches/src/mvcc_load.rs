//! Keys, dice and clocks of the `mvcc` measurement.
//!
//! Promises: the same keys in the same order on every run; a rate is operations over the processor time
//! spent in them alone. Must never know: what is measured. Tested below.

use rustix::time::{ClockId, clock_gettime};

/// Bytes of every value: small, so that the store's own work is what shows.
pub const VALUE_BYTES: usize = 64;

/// What keys look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Shape {
    /// 32 bytes that share nothing, as hashed or random ids do.
    Uniform,
    /// Long paths that share much, as Kubernetes writes them (59 bytes).
    Kubernetes,
}

impl Shape {
    /// Both.
    pub const ALL: [Shape; 2] = [Shape::Uniform, Shape::Kubernetes];

    /// For the table.
    pub fn name(self) -> &'static str {
        match self {
            Shape::Uniform => "uniform 32 B",
            Shape::Kubernetes => "kubernetes",
        }
    }

    /// Writes the key of number `n`; different numbers give different keys.
    pub fn key(self, n: u64, out: &mut Vec<u8>) {
        use std::io::Write;
        out.clear();
        let mixed = mix(n);
        let written = match self {
            Shape::Uniform => write!(out, "{mixed:016x}{:016x}", mix(!n)),
            // 1,000 namespaces; 20 pods of a deployment differ in their last characters.
            Shape::Kubernetes => write!(
                out,
                "/registry/pods/namespace-{:04}/service-{:06}-7d9f8b6c5d-{:05x}",
                n / 20 % 1_000,
                n / 20,
                mixed & 0xf_ffff,
            ),
        };
        debug_assert!(written.is_ok(), "a vector takes all");
    }
}

/// SplitMix64's finalizer: a permutation of the numbers.
pub fn mix(n: u64) -> u64 {
    let mut z = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// All numbers below `count` in an order without order (a multiplication modulo a power of two,
/// those above `count` left out).
pub fn shuffled(count: u64) -> impl Iterator<Item = u64> {
    let size = count.next_power_of_two();
    (0..size)
        .map(move |n| {
            n.wrapping_mul(0x9e37_79b9_7f4a_7c15 | 1)
                .wrapping_add(12_345)
                & (size - 1)
        })
        .map(move |n| (n ^ (n >> 7)) & (size - 1))
        .filter(move |&n| n < count)
}

/// Dice with a fixed seed.
#[derive(Debug)]
pub struct Dice(pub u64);

impl Dice {
    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(1);
        mix(self.0) % bound
    }
}

/// A batch of keys in one buffer, made before the clock runs.
#[derive(Debug, Default)]
pub struct Batch {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Batch {
    /// The keys of these numbers.
    pub fn new(shape: Shape, numbers: impl Iterator<Item = u64>) -> Self {
        let mut batch = Batch::default();
        let mut key = Vec::new();
        for n in numbers {
            shape.key(n, &mut key);
            batch.bytes.extend_from_slice(&key);
            batch.ends.push(batch.bytes.len());
        }
        batch
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// None?
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The keys.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts
            .zip(&self.ends)
            .map(|(start, &end)| &self.bytes[start..end])
    }
}

/// Operations and the processor time that they took. (Time on the wall would count what others of the
/// machine take, and one side may meet more of that than the other.)
#[derive(Clone, Copy, Debug, Default)]
pub struct Rate {
    operations: u64,
    cpu_ns: u64,
}

impl Rate {
    /// Runs `work`, which does `operations`, and counts it.
    pub fn time<T>(&mut self, operations: usize, work: impl FnOnce() -> T) -> T {
        let begun = cpu_ns();
        let result = work();
        self.cpu_ns += cpu_ns() - begun;
        self.operations += operations as u64;
        result
    }

    /// Nanoseconds per operation.
    pub fn ns(&self) -> f64 {
        self.cpu_ns as f64 / self.operations.max(1) as f64
    }
}

/// Two rates of the same work.
#[derive(Clone, Copy, Debug, Default)]
pub struct Duel {
    /// The store.
    pub ours: Rate,
    /// The map.
    pub rival: Rate,
}

impl Duel {
    /// How many times faster the store is.
    pub fn ratio(&self) -> f64 {
        self.rival.ns() / self.ours.ns()
    }
}

/// Rates of puts in both manners: one at a time, and with the next few keys announced (the store) or
/// looked up (the map) before they are put.
#[derive(Clone, Copy, Debug, Default)]
pub struct PutDuel {
    /// The store, one at a time.
    pub plain: Rate,
    /// The store as a shard drives it.
    pub announced: Rate,
    /// The map, one at a time.
    pub rival_plain: Rate,
    /// The map, looked up ahead.
    pub rival_announced: Rate,
}

impl PutDuel {
    /// The store as a shard drives it against the map in the manner that suits it best.
    pub fn best(&self) -> Duel {
        Duel {
            ours: self.announced,
            rival: self.rival(),
        }
    }

    /// The same for puts one at a time.
    pub fn one_by_one(&self) -> Duel {
        Duel {
            ours: self.plain,
            rival: self.rival(),
        }
    }

    /// A manner that was not tried, as there was one batch only, is none.
    fn rival(&self) -> Rate {
        let (plain, announced) = (self.rival_plain, self.rival_announced);
        if announced.operations > 0 && announced.ns() < plain.ns() {
            announced
        } else {
            plain
        }
    }
}

/// Bytes of this process in memory, from the kernel.
pub fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok());
    pages.unwrap_or(0u64) * 4_096
}

/// Nanoseconds of processor time that this thread has had, from the kernel: what others of the machine
/// take is not in it (but what the hypervisor takes is, on machines that do not tell of it).
pub fn cpu_ns() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Processor times of so many slices of plain arithmetic that take about `each_ns`: the longest is what the
/// machine itself adds to a slice (its hypervisor's share is in a thread's processor time).
pub fn slices_of_nothing(count: usize, each_ns: u64) -> Vec<u64> {
    const PROBE: u64 = 1_000_000;
    let work = |rounds: u64| {
        let begun = cpu_ns();
        std::hint::black_box((0..rounds).fold(1, |sum, n| mix(sum ^ n)));
        cpu_ns() - begun
    };
    let rounds = each_ns.saturating_mul(PROBE) / work(PROBE).max(1);
    (0..count).map(|_| work(rounds)).collect()
}

/// Pages that the kernel had to find for this thread, so far.
pub fn page_faults() -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap_or_default();
    // The second field is a name in brackets; minor faults are the tenth.
    let fields = stat.rsplit(") ").next().unwrap_or_default();
    let faults = fields.split(' ').nth(7).and_then(|n| n.parse().ok());
    faults.unwrap_or_default()
}

/// The value at a quantile of durations, in microseconds.
pub fn quantile_us(sorted: &[u64], quantile: f64) -> f64 {
    let at = (sorted.len() as f64 * quantile) as usize;
    let found = sorted.get(at.min(sorted.len().saturating_sub(1)));
    found.map_or(0.0, |&ns| ns as f64 / 1_000.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn keys_and_orders_repeat_nothing() {
        for shape in Shape::ALL {
            let batch = Batch::new(shape, 0..20_000);
            assert_eq!(batch.iter().collect::<BTreeSet<_>>().len(), 20_000);
        }
        let order: Vec<_> = shuffled(1_000).collect();
        assert_eq!(order.iter().collect::<BTreeSet<_>>().len(), 1_000);
        assert!(!order.is_sorted());
    }

    #[test]
    fn quantiles_of_nothing_and_something() {
        assert_eq!(quantile_us(&[], 0.5), 0.0);
        assert_eq!(quantile_us(&[1_000, 2_000, 3_000], 0.99), 3.0);
    }
}
