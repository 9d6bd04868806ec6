//! The part of `/metrics` that etcd has no names for.

use henge_api::Metrics;

use super::page::Page;

/// The lines under our own names.
pub(super) fn render(p: &mut Page, m: &Metrics) {
    p.head(
        "henge_build_info",
        "Which Henge is running, and how it was built. Always 1.",
        "gauge",
    );
    let build = [("version", henge_api::VERSION), ("build", henge_api::BUILD)];
    p.line("henge_build_info", &build, 1);
    let mean = |total: u64| {
        if m.wal_batches == 0 {
            0.0
        } else {
            total as f64 / m.wal_batches as f64
        }
    };
    p.head(
        "henge_io_backend",
        "What carries the log's writes. 1 for the one in use.",
        "gauge",
    );
    let direct = if m.direct_io { "true" } else { "false" };
    p.line(
        "henge_io_backend",
        &[("backend", m.io_backend), ("direct_io", direct)],
        1,
    );
    p.counter(
        "henge_wal_batches_total",
        "Group commits: durable writes of the log.",
        m.wal_batches,
    );
    p.counter(
        "henge_wal_payload_bytes_total",
        "Record bytes in those writes, without padding.",
        m.wal_payload_bytes,
    );
    p.gauge(
        "henge_wal_batch_payload_bytes_mean",
        "Record bytes per group commit since start.",
        mean(m.wal_payload_bytes),
    );
    p.gauge(
        "henge_wal_batch_proposals_mean",
        "Committed proposals per group commit since start.",
        mean(m.committed),
    );
    p.gauge(
        "henge_wal_poisoned",
        "1 after a log write failed: nothing is acknowledged any more.",
        u8::from(m.poisoned),
    );
    p.gauge(
        "henge_space_low",
        "1 while writes are refused because the disk has no room.",
        u8::from(m.space_low),
    );
    p.gauge(
        "henge_alarm_nospace",
        "1 while an alarm for space is raised.",
        u8::from(m.alarm_nospace),
    );
    p.gauge(
        "henge_alarm_corrupt",
        "1 while an alarm for corruption is raised.",
        u8::from(m.alarm_corrupt),
    );
    p.gauge(
        "henge_mvcc_versions",
        "Versions kept, over all keys.",
        m.versions,
    );
    p.gauge(
        "henge_data_in_memory",
        "1 if the data directory is in memory (tmpfs, ramfs): nothing is durable.",
        u8::from(m.in_memory),
    );
    p.gauge("henge_leases", "Leases granted and not ended.", m.leases);
}
