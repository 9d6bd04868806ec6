//! `/metrics`: Prometheus text exposition with etcd's names, and ours under `henge_`.
//!
//! Written by hand because etcd's names break the rules that exposition libraries enforce (gauges
//! that end in `_total`). Every line comes from a snapshot of counters; rendering takes no lock. Which names
//! of etcd's are missing, and why, is in docs/metrics.md; `tests/etcd_api/metrics` holds that list against
//! etcd's.

use henge_api::{AlarmMember, CoreMetrics, Metrics, PeerView};

use super::page::Page;
use super::process::{self, Process};
use super::{grpc_metrics, own_metrics, server_metrics, store_metrics};
use crate::counters::GrpcCounters;
use crate::door::connections::Connections;

/// Who answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// Shown in hex, as etcd does.
    pub member_id: u64,
    /// What is raised.
    pub alarms: Vec<AlarmMember>,
    /// It has no vote.
    pub is_learner: bool,
}

/// Everything that is shown.
pub struct View<'v> {
    /// Of the shard that is served.
    pub metrics: &'v Metrics,
    /// Of its core.
    pub core: &'v CoreMetrics,
    /// The other members.
    pub peers: &'v [PeerView],
    /// Of the client edge.
    pub counters: &'v GrpcCounters,
    /// Of the process.
    pub process: &'v Process,
    /// Who answers.
    pub who: &'v Identity,
}

/// The whole exposition, but for what is of cores, peers and connections.
pub fn render(view: &View<'_>) -> String {
    let mut page = Page::with_capacity(64 * 1024);
    server_metrics::render(&mut page, view);
    store_metrics::render(&mut page, view);
    grpc_metrics::render(&mut page, view.counters);
    own_metrics::render(&mut page, view.metrics);
    process::render(&mut page, view.process);
    page.into_text()
}

/// The lines about connected clients.
pub(crate) fn clients(connections: &Connections) -> String {
    let mut page = Page::default();
    page.gauge(
        "henge_client_connections",
        "Client connections now.",
        connections.open() as u64,
    );
    page.counter(
        "henge_client_connections_refused_total",
        "Client connections closed at once, as file descriptors are kept back for the log and peers.",
        connections.refused(),
    );
    page.into_text()
}

#[cfg(test)]
mod tests {
    use super::*;
    use henge_api::Stage;
    use std::collections::{BTreeMap, BTreeSet};

    /// A strict reading of the exposition format: every sample has a TYPE before it, once.
    fn parse(page: &str) -> BTreeMap<String, f64> {
        let (mut samples, mut types) = (BTreeMap::new(), BTreeSet::new());
        for line in page.lines() {
            if let Some(rest) = line.strip_prefix("# ") {
                let word: Vec<&str> = rest.splitn(3, ' ').collect();
                assert!(word.len() == 3 && !word[2].is_empty(), "{line}");
                assert!(
                    word[0] != "TYPE" || types.insert(word[1].to_owned()),
                    "{line}"
                );
                continue;
            }
            let (series, value) = line.rsplit_once(' ').expect("a sample has a value");
            let name = series.split('{').next().expect("name");
            let family = ["_bucket", "_sum", "_count"]
                .iter()
                .filter_map(|s| name.strip_suffix(s))
                .find(|f| types.contains(*f))
                .unwrap_or(name);
            assert!(types.contains(family), "{name} has no TYPE before it");
            let value: f64 = value.parse().expect("a number");
            assert!(
                samples.insert(series.to_owned(), value).is_none(),
                "twice: {series}"
            );
        }
        samples
    }

    #[test]
    fn the_page_parses_and_holds_the_numbers() {
        let mut m = Metrics {
            has_leader: true,
            committed: 7,
            revision: 42,
            ..Metrics::default()
        };
        m.wal_write_seconds[0] = 3;
        m.wal_write_seconds[13] = 2;
        m.wal_write_seconds[14] = 1;
        m.wal_write_seconds_sum = 1.5;
        m.io_backend = "tokio-uring";
        m.asked.puts = 5;
        let who = Identity {
            member_id: 0xabc,
            ..Identity::default()
        };
        (
            m.late_heartbeats,
            m.slow_read_indexes,
            m.failed_read_indexes,
        ) = (2, 3, 4);
        let mut core = CoreMetrics {
            heartbeats_kept: 5,
            ..CoreMetrics::default()
        };
        core.slow_turns[Stage::Apply as usize] = 6;
        let counters = GrpcCounters::new();
        let page = render(&View {
            metrics: &m,
            core: &core,
            peers: &[],
            counters: &counters,
            process: &Process::read(Default::default()),
            who: &who,
        });
        let s = parse(&page);
        let fsync = "etcd_disk_wal_fsync_duration_seconds";
        let table = [
            ("etcd_server_has_leader".to_owned(), 1.0),
            ("etcd_server_proposals_committed_total".to_owned(), 7.0),
            ("etcd_debugging_mvcc_current_revision".to_owned(), 42.0),
            ("etcd_server_heartbeat_send_failures_total".to_owned(), 7.0),
            ("etcd_server_slow_read_indexes_total".to_owned(), 3.0),
            ("etcd_server_read_indexes_failed_total".to_owned(), 4.0),
            ("etcd_server_slow_apply_total".to_owned(), 6.0),
            ("etcd_mvcc_put_total".to_owned(), 5.0),
            (
                "etcd_cluster_version{cluster_version=\"3.6\"}".to_owned(),
                1.0,
            ),
            ("etcd_server_id{server_id=\"abc\"}".to_owned(), 1.0),
            (format!("{fsync}_bucket{{le=\"0.001\"}}"), 3.0),
            (format!("{fsync}_bucket{{le=\"8.192\"}}"), 5.0),
            (format!("{fsync}_bucket{{le=\"+Inf\"}}"), 6.0),
            (format!("{fsync}_count"), 6.0),
            (format!("{fsync}_sum"), 1.5),
        ];
        for (series, value) in table {
            assert_eq!(s.get(&series), Some(&value), "{series}");
        }
        let put = "grpc_server_handled_total{grpc_code=\"OK\",grpc_method=\"Put\",\
                   grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"}";
        assert_eq!(s.get(put), Some(&0.0));
        assert!(s["process_resident_memory_bytes"] > 0.0);
    }
}
