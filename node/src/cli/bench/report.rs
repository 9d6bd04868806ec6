//! The result as a table for people or an object for programs.

use std::fmt::Write as _;
use std::time::Duration;

use hdrhistogram::Histogram;

use super::args::BenchArgs;
use super::load::Measured;

/// What a run measured, from whichever side.
pub struct RunResult {
    latency: Histogram<u64>,
    ops: u64,
    /// Operations that failed.
    pub failures: u64,
    first_error: Option<String>,
    elapsed: Duration,
    usage: Usage,
    /// Log batches and bytes; none for a remote server.
    log: Option<(u64, u64)>,
    against: String,
}

/// Processor time and memory of this process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// Whole process.
    pub cpu: Duration,
    /// Threads that run cores.
    pub core_cpu: Duration,
    /// Peak resident memory in bytes.
    pub resident_max: u64,
}

impl RunResult {
    /// A run inside this process; `before` and `after` count log batches and bytes.
    pub fn embedded(
        measured: Measured,
        usage: Usage,
        before: (u64, u64),
        after: (u64, u64),
        host: String,
    ) -> Self {
        let log = Some((after.0 - before.0, after.1 - before.1));
        Self::new(
            measured,
            usage,
            log,
            format!("embedded engine, host {host}"),
        )
    }

    /// A run against servers.
    pub fn remote(measured: Measured, usage: Usage, endpoints: &[String]) -> Self {
        Self::new(measured, usage, None, endpoints.join(","))
    }

    fn new(measured: Measured, usage: Usage, log: Option<(u64, u64)>, against: String) -> Self {
        let Measured {
            latency,
            ops,
            failures,
            elapsed,
            first_error,
        } = measured;
        RunResult {
            latency,
            ops,
            failures,
            first_error,
            elapsed,
            usage,
            log,
            against,
        }
    }

    fn per_second(&self, count: u64) -> f64 {
        count as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }

    fn micros_per_op(&self, cpu: Duration) -> f64 {
        cpu.as_secs_f64() * 1e6 / (self.ops as f64).max(1.0)
    }

    fn batch_mean(&self) -> f64 {
        self.log.map_or(0.0, |(batches, _)| {
            self.ops as f64 / (batches as f64).max(1.0)
        })
    }
}

impl Usage {
    /// As of now, read from /proc.
    pub fn now() -> Self {
        let mut core_cpu = Duration::ZERO;
        let threads = std::fs::read_dir("/proc/self/task")
            .into_iter()
            .flatten()
            .flatten();
        for thread in threads {
            let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
            if stat.contains("(henge-core") {
                core_cpu += cpu_of(&stat);
            }
        }
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let resident_max = peak
            .and_then(|rest| rest.split_whitespace().next())
            .and_then(|kib| kib.parse::<u64>().ok())
            .map_or(0, |kib| kib << 10);
        Usage {
            cpu: cpu_of(&stat),
            core_cpu,
            resident_max,
        }
    }

    /// What was used after `start`.
    pub fn since(&self, start: &Usage) -> Self {
        Usage {
            cpu: self.cpu.saturating_sub(start.cpu),
            core_cpu: self.core_cpu.saturating_sub(start.core_cpu),
            resident_max: self.resident_max,
        }
    }
}

/// User and system time of a `stat` line (proc(5): fields 14 and 15, in ticks of 10 ms).
fn cpu_of(stat: &str) -> Duration {
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks: u64 = after_name
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<u64>().ok())
        .sum();
    Duration::from_millis(ticks * 10)
}

/// A table for people.
pub fn table(args: &BenchArgs, run: &RunResult) -> String {
    let mut out = String::new();
    let mut row = |name: &str, value: String| {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{name:<22}{value}");
    };
    row("against", run.against.clone());
    row(
        "load",
        format!(
            "{:?}, {} clients, {} keys of {} B, values of {} B{}",
            args.work,
            args.clients,
            args.keyspace,
            args.key_size,
            args.val_size,
            if args.rate > 0 {
                format!(", {} ops/s asked for", args.rate)
            } else {
                String::new()
            },
        ),
    );
    row(
        "operations",
        format!(
            "{} in {:.2} s, {} failed",
            run.ops,
            run.elapsed.as_secs_f64(),
            run.failures
        ),
    );
    if let Some(error) = &run.first_error {
        row("first error", error.clone());
    }
    row(
        "throughput",
        format!("{:.0} ops/s", run.per_second(run.ops)),
    );
    for (name, quantile) in [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999)] {
        row(
            &format!("latency {name}"),
            format!("{} µs", run.latency.value_at_quantile(quantile)),
        );
    }
    row("latency max", format!("{} µs", run.latency.max()));
    row(
        "CPU per op",
        format!("{:.2} µs (this process)", run.micros_per_op(run.usage.cpu)),
    );
    if let Some((batches, bytes)) = run.log {
        row(
            "core CPU per op",
            format!("{:.2} µs", run.micros_per_op(run.usage.core_cpu)),
        );
        row("log commits", format!("{:.0} /s", run.per_second(batches)));
        row(
            "log batch",
            format!(
                "{:.1} ops, {:.0} B",
                run.batch_mean(),
                bytes as f64 / (batches as f64).max(1.0)
            ),
        );
        row(
            "peak memory",
            format!("{:.0} MB", run.usage.resident_max as f64 / 1e6),
        );
    }
    out
}

/// One JSON object.
pub fn json(args: &BenchArgs, run: &RunResult) -> String {
    let quantile = |q| run.latency.value_at_quantile(q);
    // What only the engine's own process can know is null for a remote server.
    let own = |figure: f64| run.log.map(|_| figure);
    let batches = run.log.map_or(0, |(batches, _)| batches);
    serde_json::json!({
        "work": format!("{:?}", args.work).to_lowercase(),
        "against": run.against,
        "clients": args.clients,
        "key_size": args.key_size,
        "val_size": args.val_size,
        "keyspace": args.keyspace,
        "seconds": run.elapsed.as_secs_f64(),
        "ops": run.ops,
        "failures": run.failures,
        "first_error": run.first_error,
        "ops_per_sec": run.per_second(run.ops),
        "p50_us": quantile(0.5),
        "p90_us": quantile(0.9),
        "p99_us": quantile(0.99),
        "p999_us": quantile(0.999),
        "max_us": run.latency.max(),
        "cpu_us_per_op": run.micros_per_op(run.usage.cpu),
        "core_cpu_us_per_op": own(run.micros_per_op(run.usage.core_cpu)),
        "commits_per_sec": own(run.per_second(batches)),
        "batch_mean": own(run.batch_mean()),
        "rss_max_bytes": run.usage.resident_max,
    })
    .to_string()
}
