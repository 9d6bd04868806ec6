//! `mvcc`: the revisioned store against `BTreeMap<Vec<u8>, Vec<(u64, Vec<u8>)>>`.
//!
//! Promises: a table for people, and as the last line the figures that the design sets goals for:
//! `put_ratio= get_ratio= range_ratio= bytes_per_key= bytes_per_version= compact_slice_max_us=
//! count_us= restore_mkeys=`. Each is the worst over the key shapes (and, with `--full`, the sizes)
//! that were measured; `put_ratio` is that of inserts or overwrites, whichever is worse. The slice's
//! time is of the processor alone, the longest of a compaction, and of three compactions the median. The allocator is the server's.
//! Resident bytes mean something for the first shape only (`--shape` picks it): later ones reuse
//! memory that the kernel has counted already.
//! Must never know: what the store is inside. Tested by running it; the phases check their answers.
#![allow(clippy::disallowed_methods, reason = "a benchmark lives in real time")]

use std::process::ExitCode;

use clap::Parser;

use henge_benches::mvcc_load::{Duel, Shape, quantile_us};
use henge_benches::mvcc_phases::Arena;

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
    /// Measure another ordered map as an index, and nothing else: `store`, `std`, `indexset`, `scc`.
    #[cfg(feature = "alternatives")]
    #[arg(long, value_parser = henge_benches::mvcc_index::NAMES)]
    alternative: Option<String>,
}

/// The last line: the worst of each.
#[derive(Debug)]
struct Summary {
    put_ratio: f64,
    get_ratio: f64,
    range_ratio: f64,
    bytes_per_key: f64,
    bytes_per_version: f64,
    compact_slice_max_us: f64,
    count_us: f64,
    restore_mkeys: f64,
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
    let mut summary = Summary {
        put_ratio: f64::INFINITY,
        get_ratio: f64::INFINITY,
        range_ratio: f64::INFINITY,
        bytes_per_key: 0.0,
        bytes_per_version: 0.0,
        compact_slice_max_us: 0.0,
        count_us: 0.0,
        restore_mkeys: f64::INFINITY,
    };
    let mut sizes = vec![options.keys];
    if options.full {
        sizes.push(10_000_000);
    }
    for keys in sizes {
        let wanted = |shape: &Shape| options.shape.is_none_or(|only| only == *shape);
        for shape in Shape::ALL.into_iter().filter(wanted) {
            measure(shape, keys, &mut summary);
        }
    }
    println!(
        "put_ratio={:.2} get_ratio={:.2} range_ratio={:.2} bytes_per_key={:.1} \
         bytes_per_version={:.1} compact_slice_max_us={:.0} count_us={:.2} restore_mkeys={:.2}",
        summary.put_ratio,
        summary.get_ratio,
        summary.range_ratio,
        summary.bytes_per_key,
        summary.bytes_per_version,
        summary.compact_slice_max_us,
        summary.count_us,
        summary.restore_mkeys,
    );
    ExitCode::SUCCESS
}

fn measure(shape: Shape, keys: u64, summary: &mut Summary) {
    println!("{keys} keys, {}", shape.name());
    let (mut arena, load, per_key) = Arena::load(shape, keys);
    duel("insert", load);
    println!(
        "  {:<34}{:>8.1} B, resident {:.1} B",
        "memory per key", per_key.accounted, per_key.resident
    );
    let (overwrite, per_version) = arena.overwrite();
    duel("overwrite", overwrite);
    println!(
        "  {:<34}{:>8.1} B, resident {:.1} B",
        "memory per old version", per_version.accounted, per_version.resident
    );
    let announced = arena.overwrite_announced();
    println!(
        "  {:<34}{:>8.0} ns",
        "overwrite, announced by 16",
        announced.ns()
    );
    let get = arena.get();
    duel("get", get);
    let range = arena.range();
    duel("range, limit 500", range);
    let count_us = arena.count();
    println!("  {:<34}{count_us:>8.2} µs", "count between two keys");
    let longest_slice_us = compact(&mut arena);
    arena.drop_rival();
    let (whole_ms, slices) = arena.scan();
    println!(
        "  {:<34}{whole_ms:>8.0} ms in one answer; in slices p99 {:.0} µs, max {:.0} µs, total {:.0} ms",
        "range of everything",
        quantile_us(&slices, 0.99),
        quantile_us(&slices, 1.0),
        slices.iter().sum::<u64>() as f64 / 1e6,
    );
    let restore_mkeys = arena.restore();
    println!("  {:<34}{restore_mkeys:>8.2} M keys/s", "restore");
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
    let watch = arena.watch(WATCHERS);
    println!(
        "  {:<34}{:>8.0} ns; {WATCHERS} other prefixes watched {:.0} ns; one matches, delivered {:.0} ns",
        "put, nobody watches", watch.none, watch.unmatched, watch.one_of_many
    );
    println!(
        "  {:<34}{:>8.0} ns per watcher",
        "one event to 10,000 of one key", watch.fan_out
    );
    summary.put_ratio = summary.put_ratio.min(load.ratio()).min(overwrite.ratio());
    summary.get_ratio = summary.get_ratio.min(get.ratio());
    summary.range_ratio = summary.range_ratio.min(range.ratio());
    summary.bytes_per_key = summary.bytes_per_key.max(per_key.accounted);
    summary.bytes_per_version = summary.bytes_per_version.max(per_version.accounted);
    summary.compact_slice_max_us = summary.compact_slice_max_us.max(longest_slice_us);
    summary.count_us = summary.count_us.max(count_us);
    summary.restore_mkeys = summary.restore_mkeys.min(restore_mkeys);
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
            "  {:<34}{:>8.0} µs, p99 {:.0} µs; it removed {} versions, {} page faults; {:.0} ms for {} versions",
            "longest compaction slice",
            quantile_us(&times, 1.0),
            quantile_us(&times, 0.99),
            longest.removed,
            longest.faults,
            times.iter().sum::<u64>() as f64 / 1e6,
            slices.iter().map(|slice| slice.removed).sum::<u64>(),
        );
        maxima.push(quantile_us(&times, 1.0));
    }
    maxima.sort_unstable_by(f64::total_cmp);
    maxima[COMPACTIONS / 2]
}

fn duel(name: &str, duel: Duel) {
    println!(
        "  {name:<34}{:>8.0} ns, BTreeMap {:.0} ns, ratio {:.2}",
        duel.ours.ns(),
        duel.rival.ns(),
        duel.ratio()
    );
}
