//! The part of `/metrics` about what is stored: keys, revisions, leases, watchers, and the log below.

use henge_api::COMPACTION_SCALE;
use henge_api::{CoreMetrics, Metrics};

use super::metrics::View;
use super::page::Page;

/// The lines.
pub(super) fn render(p: &mut Page, view: &View<'_>) {
    store(p, view.metrics);
    asked(p, view.metrics);
    leases(p, view.metrics);
    compaction(p, view.metrics);
    watching(p, view.metrics);
    wal(p, view.metrics, view.core);
}

fn store(p: &mut Page, m: &Metrics) {
    p.gauge(
        "etcd_mvcc_db_total_size_in_bytes",
        "Total size of the underlying database in bytes.",
        m.db_bytes,
    );
    p.gauge(
        "etcd_mvcc_db_total_size_in_use_in_bytes",
        "Total size of the underlying database logically in use in bytes.",
        m.db_bytes_in_use,
    );
    p.gauge(
        "etcd_debugging_mvcc_keys_total",
        "Total number of keys.",
        m.keys,
    );
    p.gauge(
        "etcd_debugging_mvcc_current_revision",
        "The current revision of store.",
        m.revision,
    );
    p.gauge(
        "etcd_debugging_mvcc_compact_revision",
        "The revision of the last compaction in store.",
        m.compact_revision,
    );
    p.gauge(
        "etcd_debugging_mvcc_watcher_total",
        "Total number of watchers.",
        m.watchers,
    );
}

fn asked(p: &mut Page, m: &Metrics) {
    let asked = &m.asked;
    for (name, what, count) in [
        ("etcd_mvcc_range_total", "ranges", asked.ranges),
        // The name of 3.5.
        ("etcd_debugging_mvcc_range_total", "ranges", asked.ranges),
        ("etcd_mvcc_put_total", "puts", asked.puts),
        ("etcd_mvcc_delete_total", "deletes", asked.deletes),
        ("etcd_mvcc_txn_total", "txns", asked.txns),
    ] {
        let help = format!("Total number of {what} seen by this member.");
        p.counter(name, &help, count);
    }
    p.gauge(
        "etcd_debugging_mvcc_total_put_size_in_bytes",
        "The total size of put kv pairs seen by this member.",
        asked.put_bytes,
    );
    p.gauge(
        "etcd_mvcc_db_open_read_transactions",
        "The number of currently open read transactions.",
        m.open_reads,
    );
}

fn leases(p: &mut Page, m: &Metrics) {
    let asked = &m.asked;
    p.counter(
        "etcd_debugging_lease_granted_total",
        "The total number of granted leases.",
        asked.leases_granted,
    );
    p.counter(
        "etcd_debugging_lease_revoked_total",
        "The total number of revoked leases.",
        asked.leases_revoked,
    );
    p.counter(
        "etcd_debugging_lease_renewed_total",
        "The number of renewed leases seen by the leader.",
        m.leases_renewed,
    );
    const TTL: &str = "etcd_debugging_lease_ttl_total";
    p.head(TTL, "Bucketed histogram of lease TTLs.", "histogram");
    let bounds = (0..asked.lease_ttls.len() - 1).map(|at| (1_u64 << at) as f64);
    let sum = asked.lease_ttl_s_sum as f64;
    p.series(TTL, &[], bounds, &asked.lease_ttls, sum);
}

fn compaction(p: &mut Page, m: &Metrics) {
    p.counter(
        "etcd_debugging_mvcc_db_compaction_keys_total",
        "Total number of db keys compacted.",
        m.versions_compacted,
    );
    let last = m.compacted_ms.map(|at| (m.clock_unix_ms + at) / 1_000);
    p.gauge(
        "etcd_debugging_mvcc_db_compaction_last",
        "The unix time of the last db compaction. Resets to 0 on start.",
        last.unwrap_or(0),
    );
    const TIME: &str = "etcd_debugging_mvcc_db_compaction_total_duration_milliseconds";
    p.head(
        TIME,
        "Bucketed histogram of db compaction total duration.",
        "histogram",
    );
    p.buckets(TIME, &[], COMPACTION_SCALE, &m.compaction_millis, 1.0);
}

fn watching(p: &mut Page, m: &Metrics) {
    p.gauge(
        "etcd_debugging_mvcc_watch_stream_total",
        "Total number of watch streams.",
        m.watch_streams,
    );
    p.gauge(
        "etcd_debugging_mvcc_slow_watcher_total",
        "Total number of unsynced slow watchers.",
        m.watchers_behind,
    );
    p.counter(
        "etcd_debugging_mvcc_events_total",
        "Total number of events sent by this member.",
        m.watched.taken(),
    );
    p.gauge(
        "etcd_debugging_mvcc_pending_events_total",
        "Total number of pending events to be sent.",
        m.watched.pending(),
    );
}

fn wal(p: &mut Page, m: &Metrics, core: &CoreMetrics) {
    // Our log is synchronous by its open flags: the durable write is what etcd's fsync is.
    const NAME: &str = "etcd_disk_wal_fsync_duration_seconds";
    p.head(
        NAME,
        "The latency distributions of durable log writes.",
        "histogram",
    );
    let bounds = (0..m.wal_write_seconds.len() - 1).map(|at| 0.001 * (1_u64 << at) as f64);
    let counts = &m.wal_write_seconds;
    p.series(NAME, &[], bounds, counts, m.wal_write_seconds_sum);
    const WRITE: &str = "etcd_disk_wal_write_duration_seconds";
    p.head(
        WRITE,
        "The latency distributions of log writes, from submission to completion.",
        "histogram",
    );
    p.powers(WRITE, &[], &core.log_write_micros, 1e-6);
    p.gauge(
        "etcd_disk_wal_write_bytes_total",
        "Total number of bytes written in WAL.",
        m.wal_bytes,
    );
}
