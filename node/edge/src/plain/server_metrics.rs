//! The part of `/metrics` about the member: its lead, its proposals, its health.

use henge_api::{AppliedTimes, CoreMetrics, Metrics, PeerView, Stage};

use super::metrics::{Identity, View};
use super::page::Page;
use crate::API_VERSION;
use crate::config::cluster_version;
use crate::plain::counters::PlainCounters;

/// The lines.
pub(super) fn render(p: &mut Page, view: &View<'_>) {
    consensus(p, view.metrics, view.who);
    trouble(p, view.metrics, view.core);
    applies(p, &view.metrics.applied_times);
    cluster(p, view.who, view.peers);
    health(p, &view.counters.plain);
}

fn consensus(p: &mut Page, m: &Metrics, who: &Identity) {
    p.gauge(
        "etcd_server_has_leader",
        "Whether or not a leader exists. 1 is existence, 0 is not.",
        u8::from(m.has_leader),
    );
    p.gauge(
        "etcd_server_is_leader",
        "Whether or not this member is a leader. 1 if is, 0 otherwise.",
        u8::from(m.is_leader),
    );
    p.counter(
        "etcd_server_leader_changes_seen_total",
        "The number of leader changes seen.",
        m.leader_changes,
    );
    // etcd registers these three as gauges whatever their names say.
    p.gauge(
        "etcd_server_proposals_committed_total",
        "The total number of consensus proposals committed.",
        m.committed,
    );
    p.gauge(
        "etcd_server_proposals_applied_total",
        "The total number of consensus proposals applied.",
        m.applied,
    );
    p.gauge(
        "etcd_server_proposals_pending",
        "The current number of pending proposals to commit.",
        m.pending,
    );
    p.counter(
        "etcd_server_proposals_failed_total",
        "The total number of failed proposals seen.",
        m.failed,
    );
    p.head(
        "etcd_server_id",
        "Server or member ID in hexadecimal format. 1 for 'server_id' label with current ID.",
        "gauge",
    );
    p.line(
        "etcd_server_id",
        &[("server_id", &format!("{:x}", who.member_id))],
        1,
    );
    p.head(
        "etcd_server_version",
        "Which version is running. 1 for 'server_version' label with current version.",
        "gauge",
    );
    p.line("etcd_server_version", &[("server_version", API_VERSION)], 1);
}

fn trouble(p: &mut Page, m: &Metrics, core: &CoreMetrics) {
    p.counter(
        "etcd_server_heartbeat_send_failures_total",
        "The total number of leader heartbeat send failures (likely overloaded from slow disk).",
        m.late_heartbeats + core.heartbeats_kept,
    );
    p.counter(
        "etcd_server_slow_apply_total",
        "The total number of slow apply requests (likely overloaded from slow disk).",
        core.slow_turns[Stage::Apply as usize],
    );
    p.counter(
        "etcd_server_slow_read_indexes_total",
        "The total number of pending read indexes not in sync with leader's or timed out read index \
         requests.",
        m.slow_read_indexes,
    );
    p.counter(
        "etcd_server_read_indexes_failed_total",
        "The total number of failed read indexes seen.",
        m.failed_read_indexes,
    );
    p.counter(
        "etcd_debugging_server_lease_expired_total",
        "The total number of expired leases.",
        m.leases_expired,
    );
    p.gauge(
        "etcd_server_quota_backend_bytes",
        "Current backend storage quota size in bytes.",
        m.quota_bytes,
    );
}

fn applies(p: &mut Page, times: &AppliedTimes) {
    const NAME: &str = "etcd_server_apply_duration_seconds";
    p.head(
        NAME,
        "The latency distributions of applying a committed request; those of one go have its mean.",
        "histogram",
    );
    for (kind, op) in AppliedTimes::KINDS.into_iter().enumerate() {
        for success in [false, true] {
            let times = times.of(kind, success);
            if let Some(times) = times.filter(|times| times.total() > 0) {
                let labels = [
                    ("op", op),
                    ("success", if success { "true" } else { "false" }),
                    ("version", "v3"),
                ];
                p.buckets(NAME, &labels, AppliedTimes::SCALE, times, 1e-6);
            }
        }
    }
}

fn cluster(p: &mut Page, who: &Identity, peers: &[PeerView]) {
    const VERSION: &str = "etcd_cluster_version";
    p.head(
        VERSION,
        "Which version is running. 1 for 'cluster_version' label with current cluster version.",
        "gauge",
    );
    let version = cluster_version(API_VERSION);
    let version = version.strip_suffix(".0").unwrap_or(&version);
    p.line(VERSION, &[("cluster_version", version)], 1);
    p.gauge(
        "etcd_server_is_learner",
        "Whether or not this member is a learner. 1 if is, 0 otherwise.",
        u8::from(who.is_learner),
    );
    const ALARMS: &str = "etcd_debugging_server_alarms";
    p.head(
        ALARMS,
        "Alarms for every member in cluster. 1 for 'server_id' label with current ID and 'alarm_type' \
         label with type of this alarm.",
        "gauge",
    );
    for alarm in &who.alarms {
        let id = format!("{:x}", alarm.member_id);
        let labels = [("alarm_type", alarm.alarm.name()), ("server_id", &id)];
        p.line(ALARMS, &labels, 1);
    }
    const KNOWN: &str = "etcd_network_known_peers";
    p.head(KNOWN, "The current number of known peers.", "gauge");
    let local = format!("{:x}", who.member_id);
    for id in std::iter::once(who.member_id).chain(peers.iter().map(|peer| peer.id)) {
        let remote = format!("{id:x}");
        p.line(KNOWN, &[("Local", &local), ("Remote", &remote)], 1);
    }
}

fn health(p: &mut Page, plain: &PlainCounters) {
    let (ill, well) = plain.health();
    p.counter(
        "etcd_server_health_success",
        "The total number of successful health checks",
        well,
    );
    p.counter(
        "etcd_server_health_failures",
        "The total number of failed health checks",
        ill,
    );
    const LAST: &str = "etcd_server_healthcheck";
    p.head(LAST, "The result of each kind of healthcheck.", "gauge");
    for check in plain.checks() {
        if let Some(last) = check.last {
            let labels = [("name", check.name), ("type", check.of)];
            p.line(LAST, &labels, u8::from(last));
        }
    }
    const ALL: &str = "etcd_server_healthchecks_total";
    p.head(
        ALL,
        "The total number of each kind of healthcheck.",
        "counter",
    );
    for check in plain.checks() {
        for (status, count) in [("error", check.failed), ("success", check.passed)] {
            if count > 0 {
                let labels = [("name", check.name), ("status", status), ("type", check.of)];
                p.line(ALL, &labels, count);
            }
        }
    }
    let (under_way, answered) = plain.scrapes();
    p.gauge(
        "promhttp_metric_handler_requests_in_flight",
        "Current number of scrapes being served.",
        under_way,
    );
    const SCRAPES: &str = "promhttp_metric_handler_requests_total";
    p.head(
        SCRAPES,
        "Total number of scrapes by HTTP status code.",
        "counter",
    );
    p.line(SCRAPES, &[("code", "200")], answered);
}
