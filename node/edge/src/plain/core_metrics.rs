//! The part of `/metrics` that is about a core: its turns, batches, queues and memory.
//!
//! Histograms are kept in powers of two; Prometheus gets them in seconds. Rendering takes no lock.

use henge_api::STAGE_NAMES;
use henge_api::{Buckets, CoreMetrics};

use super::page::Page;

/// The lines about one core.
pub fn render(core: usize, m: &CoreMetrics) -> String {
    let mut page = Page::default();
    let p = &mut page;
    let core = core.to_string();
    let label = [("core", core.as_str())];
    let micros = 1e-6;
    histogram(
        p,
        "henge_core_turn_seconds",
        "Lengths of turns that had work.",
        &label,
        &m.turn_micros,
        micros,
    );
    histogram(
        p,
        "henge_core_commit_seconds",
        "From handing a log batch over to hearing that it is durable.",
        &label,
        &m.commit_micros,
        micros,
    );
    histogram(
        p,
        "henge_core_batch_entries",
        "Entries per log batch.",
        &label,
        &m.batch_entries,
        1.0,
    );
    histogram(
        p,
        "henge_log_write_seconds",
        "Log writes, from submission to completion as the core saw it.",
        &label,
        &m.log_write_micros,
        micros,
    );
    histogram(
        p,
        "henge_log_batch_bytes",
        "Bytes of log batches, padding included.",
        &label,
        &m.log_batch_bytes,
        1.0,
    );
    histogram(
        p,
        "henge_log_in_flight",
        "Log writes in flight as each was submitted, itself included.",
        &label,
        &m.log_in_flight,
        1.0,
    );
    by_name(
        p,
        "henge_core_stage_seconds_total",
        "counter",
        "Time spent in each stage of a turn.",
        &core,
        "stage",
        &named(&m.stage_micros.map(|sum| sum as f64 * micros)),
    );
    by_name(
        p,
        "henge_core_slow_turns_total",
        "counter",
        "Turns over 20 ms, by the stage that took longest.",
        &core,
        "stage",
        &named(&m.slow_turns.map(|count| count as f64)),
    );
    let memory = [
        ("stores", m.memory.stores),
        ("log_tails", m.memory.log_tails),
        ("pending", m.memory.pending),
        ("inbox", m.memory.inbox),
        ("log_staged", m.memory.log_staged),
        ("log_index", m.memory.log_index),
    ];
    by_name(
        p,
        "henge_core_memory_bytes",
        "gauge",
        "Bytes held, by what for.",
        &core,
        "class",
        &memory.map(|(class, bytes)| (class, bytes as f64)),
    );
    for (name, help, value) in [
        (
            "henge_core_shards",
            "Shards that live on the core.",
            m.shards,
        ),
        (
            "henge_core_shards_active",
            "Shards that the last turn looked at.",
            m.shards_active,
        ),
        (
            "henge_core_inbox_items",
            "Items that the last turn found in the inbox.",
            m.inbox_items,
        ),
        (
            "henge_core_waiting",
            "Callers that wait for an answer.",
            m.waiting,
        ),
        (
            "henge_core_background",
            "Shards with slices of work left.",
            m.background,
        ),
        (
            "henge_core_checkpoints",
            "Checkpoints being written.",
            m.checkpoints,
        ),
        (
            "henge_core_wal_in_flight",
            "Log batches in flight.",
            m.wal_in_flight,
        ),
        (
            "henge_core_wal_segments",
            "Segments that hold log.",
            m.wal_segments,
        ),
        (
            "henge_core_wal_healed",
            "Places of the log that were read from their second copy: `henge wal repair` makes them good.",
            m.wal_healed,
        ),
        (
            "henge_log_stuck",
            "The oldest log write does not complete: 1 if so.",
            u64::from(m.log_stuck),
        ),
    ] {
        p.head(name, help, "gauge");
        p.line(name, &label, value);
    }
    let name = "henge_core_inbox_refused_total";
    p.head(
        name,
        "Requests refused before they cost anything: the core or the shard held all it may.",
        "counter",
    );
    p.line(name, &label, m.inbox_refused);
    page.into_text()
}

fn named<'a>(values: &[f64; STAGE_NAMES.len()]) -> Vec<(&'a str, f64)> {
    STAGE_NAMES.into_iter().zip(*values).collect()
}

fn by_name(
    p: &mut Page,
    name: &str,
    kind: &str,
    help: &str,
    core: &str,
    label: &str,
    values: &[(&str, f64)],
) {
    p.head(name, help, kind);
    for (of, value) in values {
        p.line(name, &[("core", core), (label, of)], value);
    }
}

fn histogram(
    p: &mut Page,
    name: &str,
    help: &str,
    label: &[(&str, &str)],
    buckets: &Buckets,
    unit: f64,
) {
    p.head(name, help, "histogram");
    p.powers(name, label, buckets, unit);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_counts_up_and_ends_with_all() {
        let mut metrics = CoreMetrics::default();
        for micros in [0, 1, 3, 900, u64::MAX >> 1] {
            metrics.turn_micros.record(micros);
        }
        metrics.slow_turns[3] = 7;
        let text = render(2, &metrics);
        let bucket = |le: &str| {
            let line = format!("henge_core_turn_seconds_bucket{{core=\"2\",le=\"{le}\"}} ");
            let found = text.lines().find_map(|l| l.strip_prefix(&line));
            found.expect("a bucket").to_owned()
        };
        assert_eq!(
            (bucket("0.000001"), bucket("0.000002")),
            ("1".into(), "2".into())
        );
        assert_eq!(
            (bucket("0.000004"), bucket("+Inf")),
            ("3".into(), "5".into())
        );
        assert!(text.contains("henge_core_turn_seconds_count{core=\"2\"} 5\n"));
        assert!(text.contains("henge_core_slow_turns_total{core=\"2\",stage=\"ready\"} 7\n"));
        assert!(text.contains("henge_core_memory_bytes{core=\"2\",class=\"stores\"} 0\n"));
    }
}
