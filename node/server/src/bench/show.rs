//! The result as a table for people or an object for programs, with everything that was asked for.
//!
//! Must never know: how it was measured.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::args::{BenchArgs, Work};
use super::report::{Against, RunResult};
use henge::{BUILD, VERSION};

/// Rows of a table.
struct Table(String);

impl Table {
    fn row(&mut self, name: &str, value: impl AsRef<str>) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "{name:<22}{}", value.as_ref());
    }
}

/// A table for people.
pub fn table(args: &BenchArgs, run: &RunResult) -> String {
    let mut table = Table(String::new());
    settings(&mut table, args, run);
    operations(&mut table, args, run);
    let (cpu, cores) = run.cpu_per_op();
    table.row("CPU per op", format!("{cpu:.2} µs (this process)"));
    if let Some((batches, _)) = run.log {
        table.row("core CPU per op", format!("{cores:.2} µs"));
        table.row("log commits", format!("{:.0} /s", run.per_second(batches)));
        if let Some((ops, bytes)) = run.batch_means() {
            table.row("log batch", format!("{ops:.1} ops, {bytes:.0} B"));
        }
        table.row(
            "peak memory",
            format!("{:.0} MB", run.resident_max() as f64 / 1e6),
        );
    }
    for remark in run.remarks(args) {
        table.row("note", remark);
    }
    table.0
}

/// What was asked for.
fn settings(table: &mut Table, args: &BenchArgs, run: &RunResult) {
    table.row("against", against(args, run));
    let order = if args.sequential {
        "keys in order"
    } else {
        "keys at random"
    };
    table.row(
        "load",
        format!(
            "{}, linearizable, {order}, seed {}",
            args.work.name(),
            args.seed
        ),
    );
    let over = match run.against {
        Against::Embedded { .. } => "threads",
        Against::Remote { .. } => "connections",
    };
    table.row(
        "clients",
        format!("{} on {} {over}", args.clients, run.conns),
    );
    table.row(
        "data",
        format!(
            "{} keys of {} B, values of {} B",
            args.keyspace, args.key_size, args.val_size
        ),
    );
    if args.work.reads() {
        let prefill = if run.prefill.begun() {
            format!(
                "{} keys were there, {} written",
                run.prefill.there(),
                run.prefill.written()
            )
        } else {
            "none".to_owned()
        };
        table.row("prefill", prefill);
    }
    let pace = match args.rate {
        Some(rate) => format!("{rate} ops/s, latency from the intended start"),
        None => "as fast as answers come".to_owned(),
    };
    let total = args
        .total
        .map_or_else(String::new, |total| format!(", or {total} operations"));
    table.row(
        "asked for",
        format!("{pace}; {} s{total}", args.duration.as_secs_f64()),
    );
    table.row("bench", format!("henge {VERSION} ({BUILD})"));
    if let Some(caught) = run.caught {
        let window = run.window.unwrap_or_default().as_secs_f64();
        let name = caught.name();
        table.row("interrupted", format!("by {name}, after {window:.3} s"));
    }
}

fn against(args: &BenchArgs, run: &RunResult) -> String {
    match &run.against {
        Against::Embedded { host, dir, .. } => format!(
            "embedded engine: shards {}, cores {}, host {host}, data in {dir}",
            args.shards, args.cores
        ),
        Against::Remote { servers } => {
            let servers: Vec<_> = servers
                .iter()
                .map(|server| match &server.version {
                    Some(version) => format!("{} (version {version})", server.url),
                    None => server.url.clone(),
                })
                .collect();
            servers.join(", ")
        }
    }
}

/// What came of it.
fn operations(table: &mut Table, args: &BenchArgs, run: &RunResult) {
    let tally = &run.tally;
    let window = run.window.unwrap_or_default().as_secs_f64();
    table.row(
        "operations",
        format!(
            "{} in {window:.3} s, {} failed, {} unfinished at the end",
            tally.ops(),
            tally.failures(),
            tally.unfinished
        ),
    );
    if tally.unfinished > 0 {
        let oldest = tally.unfinished_oldest.as_secs_f64() * 1e6;
        table.row("oldest unfinished", format!("{oldest:.1} µs"));
    }
    for (error, count) in &tally.errors {
        table.row("failed", format!("{count} × {error}"));
    }
    let misses = match tally.misses {
        0 => String::new(),
        misses => format!(" ({:.0} of them found nothing)", run.per_second(misses)),
    };
    table.row(
        "throughput",
        format!("{:.0} ops/s{misses}", run.per_second(tally.ops())),
    );
    if let Some(rate) = run.rate(args) {
        let verdict = if rate.missed { "MISSED" } else { "kept" };
        let reached = rate.reached;
        table.row(
            "rate",
            format!(
                "{verdict}: {} ops/s wanted, {reached:.0} reached",
                rate.wanted
            ),
        );
    }
    if let Some(rate) = run.hit_rate() {
        let keys = match args.work {
            Work::Range => format!(
                ", {:.1} keys each",
                tally.keys_found as f64 / (tally.hits as f64).max(1.0)
            ),
            _ => String::new(),
        };
        table.row(
            "hits",
            format!("{:.1} % of reads found something{keys}", rate * 100.0),
        );
    }
    if args.work == Work::Watch {
        let events = run.per_second(tally.events);
        table.row("events", format!("{events:.0} /s, from put to event:"));
    }
    for (name, quantile) in QUANTILES {
        if let Some(nanos) = run.latency(quantile) {
            table.row(
                &format!("latency {name}"),
                format!("{:.1} µs", micros(nanos)),
            );
        }
    }
}

const QUANTILES: [(&str, f64); 5] = [
    ("p50", 0.5),
    ("p90", 0.9),
    ("p99", 0.99),
    ("p99.9", 0.999),
    ("max", 1.0),
];

fn micros(nanos: u64) -> f64 {
    nanos as f64 / 1e3
}

/// One JSON object.
pub fn json(args: &BenchArgs, run: &RunResult) -> String {
    let mut object = asked(args, run);
    let figures = figures(args, run);
    if let (Value::Object(object), Value::Object(figures)) = (&mut object, figures) {
        object.extend(figures);
    }
    object.to_string()
}

/// Everything that was asked for, by the names of the flags. What does not apply is null.
fn asked(args: &BenchArgs, run: &RunResult) -> Value {
    let mut object = json!({
        "work": args.work.name(),
        "against": against(args, run),
        "clients": args.clients,
        "conns": run.conns,
        "key_size": args.key_size,
        "val_size": args.val_size,
        "keyspace": args.keyspace,
        "sequential": args.sequential,
        "rate": args.rate,
        "duration": args.duration.as_secs_f64(),
        "total": args.total,
        "seed": args.seed,
        "consistency": "linearizable",
        "version": VERSION,
        "build": BUILD,
        "no_prefill": args.no_prefill,
        "prefill": run.prefill.begun().then(|| json!({
            "keys": args.keyspace,
            "there": run.prefill.there(),
            "written": run.prefill.written(),
        })),
    });
    let shape = match &run.against {
        Against::Embedded {
            host,
            dir,
            temporary,
            in_memory,
        } => json!({
            "mode": "embedded",
            "shards": args.shards,
            "cores": args.cores,
            "host": host,
            "data_dir": dir,
            "data_dir_temporary": temporary,
            "in_memory": in_memory,
            "endpoints": null,
            "servers": null,
            "dial_timeout": null,
        }),
        Against::Remote { servers } => json!({
            "mode": "endpoints",
            "shards": null,
            "cores": null,
            "host": null,
            "data_dir": null,
            "data_dir_temporary": null,
            "in_memory": null,
            "endpoints": args.endpoints,
            "servers": servers.iter().map(|server| json!({
                "url": server.url,
                "version": server.version,
            })).collect::<Vec<_>>(),
            "dial_timeout": args.dial_timeout.as_secs_f64(),
        }),
    };
    if let (Value::Object(object), Value::Object(shape)) = (&mut object, shape) {
        object.extend(shape);
    }
    object
}

/// Everything that was measured.
fn figures(args: &BenchArgs, run: &RunResult) -> Value {
    let tally = &run.tally;
    let latency = |quantile| run.latency(quantile).map(micros);
    let (cpu, cores) = run.cpu_per_op();
    // What only the engine's own process can know is null for servers.
    let own = |figure: f64| run.log.map(|_| figure);
    let batches = run.log.map_or(0, |(batches, _)| batches);
    // What only reads have is null for what does not read.
    let reads = |count: u64| args.work.reads().then_some(count);
    let watches = args.work == Work::Watch;
    let rate = run.rate(args);
    json!({
        "interrupted": run.caught.is_some(),
        "signal": run.caught.map(|caught| caught.name()),
        "seconds": run.window.unwrap_or_default().as_secs_f64(),
        "ops": tally.ops(),
        "failures": tally.failures(),
        "errors": tally.errors,
        "first_error": tally.first_error,
        "unfinished": tally.unfinished,
        "unfinished_oldest_us": tally.unfinished_oldest.as_secs_f64() * 1e6,
        "ops_per_sec": run.per_second(tally.ops()),
        "rate_wanted": rate.map(|rate| rate.wanted),
        "rate_reached": rate.map(|rate| rate.reached),
        "rate_missed": rate.map(|rate| rate.missed),
        "hits": reads(tally.hits),
        "misses": reads(tally.misses),
        "hit_rate": run.hit_rate(),
        "keys_found": reads(tally.keys_found),
        "events": watches.then_some(tally.events),
        "events_per_sec": watches.then(|| run.per_second(tally.events)),
        "p50_us": latency(0.5),
        "p90_us": latency(0.9),
        "p99_us": latency(0.99),
        "p999_us": latency(0.999),
        "max_us": latency(1.0),
        "cpu_us_per_op": cpu,
        "core_cpu_us_per_op": own(cores),
        "commits_per_sec": own(run.per_second(batches)),
        "batch_mean": run.batch_means().map(|(ops, _)| ops),
        "rss_max_bytes": run.resident_max(),
        "remarks": run.remarks(args),
    })
}
