//! `mvcc`: the revisioned store against `BTreeMap<Vec<u8>, Vec<(u64, Vec<u8>)>>`.
//!
//! Promises: a table for people, and as the last line the figures that the design sets goals for:
//! `put_ratio= get_ratio= range_ratio= bytes_per_key= bytes_per_version= compact_slice_max_us=
//! count_us= restore_mkeys=`. Each is the worst over the key shapes (and, with `--full`, the sizes)
//! that were measured. `put_ratio` is that of inserts or overwrites, whichever is worse, of puts as a shard
//! makes them: 16 keys are announced to the store, then put. Puts one at a time are printed beside them,
//! measured in the same run, every second batch. The map counts in the manner that is faster for it, also
//! looking up ahead or not. The slice's time is of the processor alone, the longest of a compaction, and of
//! three compactions the median. The allocator is the server's. `--only` measures single phases; figures of
//! the others are not in the last line then. `--only weigh` compares the work that the store counts with the
//! time that it takes, in `work_ratio=` and `work_slice_max_us=`: of the kind that is furthest above.
//! Resident bytes mean something for the first shape only (`--shape` picks it): later ones reuse
//! memory that the kernel has counted already.
//! Must never know: what the store is inside. Tested by running it; the phases check their answers.
#![allow(clippy::disallowed_methods, reason = "a benchmark lives in real time")]

use std::process::ExitCode;

use clap::Parser;

use henge_benches::mvcc_load::{Duel, PutDuel, Shape, quantile_us, slices_of_nothing};
use henge_benches::mvcc_phases::{Arena, Overhead, SCANS};
use henge_benches::mvcc_weights;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Watchers of the fan-out phase.
const WATCHERS: u64 = 10_000;
/// Compactions of a shape. An interrupt of the virtual machine can lengthen any slice by a millisecond,
/// and nothing tells of it; a slice that is long by itself is long each time.
const COMPACTIONS: usize = 3;
/// Puts between two slices of a snapshot.
const PUTS_PER_SLICE: u64 = 200;

/// Measures the store and its rival in one run.
#[derive(Parser, Debug)]
struct Options {
    /// Measure 10 million keys too (12 GB of memory, some minutes).
    #[arg(long)]
    full: bool,
    /// Keys, instead of a million.
    #[arg(long, default_value_t = 1_000_000)]
    keys: u64,
    /// Only keys of one shape.
    #[arg(long)]
    shape: Option<Shape>,
    /// Only these phases, by commas; `insert` is always done.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Phase>,
    /// Measure another ordered map as an index, and nothing else: `store`, `std`, `indexset`, `scc`.
    #[cfg(feature = "alternatives")]
    #[arg(long, value_parser = henge_benches::mvcc_index::NAMES)]
    alternative: Option<String>,
}

/// What is measured, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Phase {
    /// Puts of new keys, and memory per key.
    Insert,
    /// Puts of keys that are there, and memory per version.
    Overwrite,
    /// Reads of single keys.
    Get,
    /// Ranges of 500.
    Range,
    /// Counts.
    Count,
    /// Compactions in slices.
    Compact,
    /// Ranges of everything, in slices and not.
    Scan,
    /// A snapshot restored.
    Restore,
    /// Puts while a snapshot is taken.
    Snapshot,
    /// Watchers.
    Watch,
    /// Counted work against time; only where it is named.
    Weigh,
}

/// Figures of the last line in their order, with their decimals, and whether more is better.
const FIGURES: [(&str, usize, bool); 10] = [
    ("put_ratio", 2, true),
    ("get_ratio", 2, true),
    ("range_ratio", 2, true),
    ("bytes_per_key", 1, false),
    ("bytes_per_version", 1, false),
    ("compact_slice_max_us", 0, false),
    ("count_us", 2, false),
    ("restore_mkeys", 2, true),
    ("work_ratio", 2, false),
    ("work_slice_max_us", 0, false),
];

/// The last line: the worst of each that was measured.
#[derive(Debug, Default)]
struct Summary([Option<f64>; FIGURES.len()]);

impl Summary {
    fn note(&mut self, name: &str, figure: f64) {
        for (&(known, _, more_is_better), worst) in FIGURES.iter().zip(&mut self.0) {
            if known == name {
                let before = worst.unwrap_or(figure);
                *worst = Some(match more_is_better {
                    true => before.min(figure),
                    false => before.max(figure),
                });
            }
        }
    }

    fn print(&self) {
        let figures = FIGURES.iter().zip(&self.0);
        let texts = figures.filter_map(|(&(name, decimals, _), &worst)| {
            let figure = worst?;
            Some(format!("{name}={figure:.decimals$}"))
        });
        println!("{}", texts.collect::<Vec<_>>().join(" "));
    }
}

fn main() -> ExitCode {
    let options = Options::parse();
    #[cfg(feature = "alternatives")]
    if let Some(name) = &options.alternative {
        let shape = options.shape.unwrap_or(Shape::Uniform);
        let taken = henge_benches::mvcc_index::measure(name, shape, options.keys);
        println!(
            "{} keys, {}, {}: insert {:.0} ns, get {:.0} ns, {:.1} B per key beside the key",
            options.keys,
            shape.name(),
            taken.name,
            taken.insert_ns,
            taken.get_ns,
            taken.bytes
        );
        return ExitCode::SUCCESS;
    }
    let mut summary = Summary::default();
    let mut sizes = vec![options.keys];
    if options.full {
        sizes.push(10_000_000);
    }
    for keys in sizes {
        let wanted = |shape: &Shape| options.shape.is_none_or(|only| only == *shape);
        for shape in Shape::ALL.into_iter().filter(wanted) {
            println!("{keys} keys, {}", shape.name());
            if options.only == [Phase::Weigh] {
                weigh(shape, keys, &mut summary);
                continue;
            }
            let is_wanted = |phase| options.only.is_empty() || options.only.contains(&phase);
            measure(shape, keys, is_wanted, &mut summary);
        }
    }
    summary.print();
    ExitCode::SUCCESS
}

fn measure(shape: Shape, keys: u64, is_wanted: impl Fn(Phase) -> bool, summary: &mut Summary) {
    let (mut arena, load, per_key) = Arena::load(shape, keys);
    if is_wanted(Phase::Insert) {
        put_duel("insert", load, summary);
        memory("memory per key", per_key);
        summary.note("bytes_per_key", per_key.accounted);
    }
    if is_wanted(Phase::Overwrite) {
        let (overwrite, per_version) = arena.overwrite();
        put_duel("overwrite", overwrite, summary);
        memory("memory per old version", per_version);
        summary.note("bytes_per_version", per_version.accounted);
    }
    if is_wanted(Phase::Get) {
        summary.note("get_ratio", duel("get", arena.get()));
    }
    if is_wanted(Phase::Range) {
        summary.note("range_ratio", duel("range, limit 500", arena.range()));
    }
    if is_wanted(Phase::Count) {
        let count_us = arena.count();
        println!("  {:<34}{count_us:>8.2} µs", "count between two keys");
        summary.note("count_us", count_us);
    }
    if is_wanted(Phase::Compact) {
        summary.note("compact_slice_max_us", compact(&mut arena));
    }
    arena.drop_rival();
    if is_wanted(Phase::Scan) {
        scan(&mut arena);
    }
    if is_wanted(Phase::Restore) {
        let restore_mkeys = arena.restore();
        println!("  {:<34}{restore_mkeys:>8.2} M keys/s", "restore");
        summary.note("restore_mkeys", restore_mkeys);
    }
    if is_wanted(Phase::Snapshot) {
        snapshot(&mut arena);
    }
    if is_wanted(Phase::Watch) {
        watch(&mut arena);
    }
}

fn memory(name: &str, overhead: Overhead) {
    println!(
        "  {name:<34}{:>8.1} B, resident {:.1} B",
        overhead.accounted, overhead.resident
    );
}

fn scan(arena: &mut Arena) {
    for scan in &SCANS {
        let (whole_ms, slices) = arena.scan(scan);
        println!(
            "  {:<34}{whole_ms:>8.0} ms in one answer; in {} slices p99 {:.0} µs, max {:.0} µs, total {:.0} \
            ms",
            scan.name,
            slices.len(),
            quantile_us(&slices, 0.99),
            quantile_us(&slices, 1.0),
            slices.iter().sum::<u64>() as f64 / 1e6,
        );
    }
}

fn snapshot(arena: &mut Arena) {
    let effect = arena.snapshot(PUTS_PER_SLICE);
    println!(
        "  {:<34}{:>8.2} µs -> {:.2} µs; slice p99 {:.0} µs, max {:.0} µs, {} MB",
        "put p99 while a snapshot is taken",
        effect.put_alone_p99_us,
        effect.put_during_p99_us,
        effect.slice_p99_us,
        effect.slice_max_us,
        effect.bytes / 1_000_000,
    );
}

fn watch(arena: &mut Arena) {
    let watch = arena.watch(WATCHERS);
    println!(
        "  {:<34}{:>8.0} ns; {WATCHERS} other prefixes watched {:.0} ns; one matches, delivered {:.0} ns",
        "put, nobody watches", watch.none, watch.unmatched, watch.one_of_many
    );
    println!(
        "  {:<34}{:>8.0} ns per watcher",
        "one event to 10,000 of one key", watch.fan_out
    );
}

/// Compacts [`COMPACTIONS`] times as many old versions as there are keys; the median of the longest
/// slices in microseconds of processor time.
fn compact(arena: &mut Arena) -> f64 {
    let mut maxima = Vec::new();
    for round in 0..COMPACTIONS {
        if round > 0 {
            arena.age();
        }
        let mut slices = arena.compact();
        slices.sort_unstable_by_key(|slice| slice.cpu_ns);
        let times: Vec<_> = slices.iter().map(|slice| slice.cpu_ns).collect();
        let longest = slices.last().expect("one at least");
        println!(
            "  {:<34}{:>8.0} µs, p99 {:.0} µs; it removed {} versions, {} page faults; {:.0} ms for {} \
            versions",
            "longest compaction slice",
            quantile_us(&times, 1.0),
            quantile_us(&times, 0.99),
            longest.removed,
            longest.faults,
            times.iter().sum::<u64>() as f64 / 1e6,
            slices.iter().map(|slice| slice.removed).sum::<u64>(),
        );
        let median_ns = times[times.len() / 2];
        let mut idle = slices_of_nothing(times.len(), median_ns);
        idle.sort_unstable();
        println!(
            "  {:<34}{:>8.0} µs, p99 {:.0} µs",
            "as many slices of plain arithmetic",
            quantile_us(&idle, 1.0),
            quantile_us(&idle, 0.99),
        );
        maxima.push(quantile_us(&times, 1.0));
    }
    maxima.sort_unstable_by(f64::total_cmp);
    maxima[COMPACTIONS / 2]
}

fn weigh(shape: Shape, keys: u64, summary: &mut Summary) {
    for weighed in mvcc_weights::weigh(shape, keys) {
        let (p99, longest) = (weighed.slice_us(0.99), weighed.slice_us(1.0));
        println!(
            "  {:<34}{:>8.2} of {:.0} ms counted; in {} slices p99 {p99:.0} µs, max {longest:.0} µs",
            weighed.name,
            weighed.ratio(),
            weighed.counted_ns as f64 / 1e6,
            weighed.slices.len(),
        );
        summary.note("work_ratio", weighed.ratio());
        summary.note("work_slice_max_us", longest);
    }
}

fn duel(name: &str, duel: Duel) -> f64 {
    println!(
        "  {name:<34}{:>8.0} ns, BTreeMap {:.0} ns, ratio {:.2}",
        duel.ours.ns(),
        duel.rival.ns(),
        duel.ratio()
    );
    duel.ratio()
}

fn put_duel(name: &str, puts: PutDuel, summary: &mut Summary) {
    let ratio = duel(&format!("{name}, announced by 16"), puts.best());
    summary.note("put_ratio", ratio);
    duel(&format!("{name}, one at a time"), puts.one_by_one());
    println!(
        "  {:<34}{:>8.0} ns, looking up 16 ahead {:.0} ns",
        "  BTreeMap, one at a time",
        puts.rival_plain.ns(),
        puts.rival_announced.ns()
    );
}
