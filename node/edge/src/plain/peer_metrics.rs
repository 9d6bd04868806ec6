//! The part of `/metrics` about the other members: whether they answer, how fast, what was sent and lost,
//! and how far they are behind. etcd's names where it has one.

use henge_api::RTT_SCALE;
use henge_api::{Metrics, PeerView};

use super::page::Page;

/// The lines about the other members; for a member that is alone the names only.
pub fn render(m: &Metrics, peers: &[PeerView], own_id: u64) -> String {
    let mut page = Page::default();
    let p = &mut page;
    let each = |p: &mut Page, name: &str, kind: &str, help: &str, label: &str, value: &Value| {
        p.head(name, help, kind);
        for peer in peers {
            if let Some(value) = value(peer) {
                let id = format!("{:x}", peer.id);
                p.line(name, &[(label, &id), ("name", &peer.name)], value);
            }
        }
    };
    for (name, label, kind, help, value) in TABLE {
        each(p, name, kind, help, label, value);
    }
    let local = format!("{own_id:x}");
    for (name, kind, help, value) in BY_PAIR {
        p.head(name, help, kind);
        for peer in peers {
            let remote = format!("{:x}", peer.id);
            p.line(name, &[("Local", &local), ("Remote", &remote)], value(peer));
        }
    }
    const TRIPS: &str = "etcd_network_peer_round_trip_time_seconds";
    p.head(
        TRIPS,
        "Round-Trip-Time histogram between peers.",
        "histogram",
    );
    for peer in peers {
        let id = format!("{:x}", peer.id);
        let bounds = RTT_SCALE.bounds().map(|micros| micros as f64 * 1e-6);
        let sum = peer.stats.round_trips_us as f64 * 1e-6;
        p.series(TRIPS, &[("To", &id)], bounds, &peer.stats.round_trips, sum);
    }
    const LAG: &str = "henge_follower_lag_entries";
    let followers = m.follower_lag.iter().filter(|(id, _)| *id != 0);
    p.head(
        LAG,
        "Entries that a member does not have yet, as the leader knows it; only on the leader.",
        "gauge",
    );
    for (id, entries) in followers {
        let name = peers.iter().find(|peer| peer.id == *id);
        let name = name.map_or("", |peer| peer.name.as_str());
        p.line(LAG, &[("To", &format!("{id:x}")), ("name", name)], entries);
    }
    page.into_text()
}

type Value = dyn Fn(&PeerView) -> Option<f64> + Sync;

/// Name, type, help, value.
type Row = (
    &'static str,
    &'static str,
    &'static str,
    fn(&PeerView) -> u64,
);

/// For labels of both ends.
const BY_PAIR: &[Row] = &[
    (
        "etcd_network_active_peers",
        "gauge",
        "The current number of active peer connections.",
        |peer| u64::from(peer.stats.connected),
    ),
    (
        "etcd_network_disconnected_peers_total",
        "counter",
        "The total number of disconnected peers.",
        |peer| {
            let now = u64::from(peer.stats.connected);
            peer.stats.sessions.saturating_sub(now)
        },
    ),
];

/// Name, label of the member's id (as etcd has it), type, help, value.
const TABLE: &[(&str, &str, &str, &str, &Value)] = &[
    (
        "henge_peer_connected",
        "To",
        "gauge",
        "1 while a session with the member is up.",
        &|peer| Some(f64::from(u8::from(peer.stats.connected))),
    ),
    (
        "henge_peer_round_trip_seconds",
        "To",
        "gauge",
        "Round trip of the last ping; none before the first.",
        &|peer| peer.stats.rtt_us.map(|micros| micros as f64 / 1e6),
    ),
    (
        "henge_peer_failures_total",
        "To",
        "counter",
        "Attempts and sessions that ended in an error.",
        &|peer| Some(peer.stats.failures as f64),
    ),
    (
        "henge_peer_sessions_total",
        "To",
        "counter",
        "Sessions that came up.",
        &|peer| Some(peer.stats.sessions as f64),
    ),
    (
        "etcd_network_peer_sent_bytes_total",
        "To",
        "counter",
        "The total number of bytes sent to peers.",
        &|peer| Some(peer.stats.sent_bytes as f64),
    ),
    (
        "etcd_network_peer_received_bytes_total",
        "From",
        "counter",
        "The total number of bytes received from peers.",
        &|peer| Some(peer.stats.received_bytes as f64),
    ),
    (
        "etcd_network_peer_sent_failures_total",
        "To",
        "counter",
        "The total number of send failures from peers.",
        &|peer| Some((peer.stats.full + peer.stats.dropped_frames) as f64),
    ),
    (
        "etcd_network_peer_received_failures_total",
        "From",
        "counter",
        "The total number of receive failures from peers.",
        &|peer| Some(peer.stats.bad_frames as f64),
    ),
];

#[cfg(test)]
mod tests {
    use super::*;
    use henge_api::PeerStats;

    #[test]
    fn each_member_has_its_lines_with_its_name() {
        let stats = PeerStats {
            connected: true,
            rtt_us: Some(1_500),
            sent_bytes: 7,
            sessions: 3,
            round_trips: vec![1, 3, 0, 1],
            round_trips_us: 700,
            ..PeerStats::default()
        };
        let peers = [PeerView {
            id: 0xab,
            name: "b".to_owned(),
            url: "http://b:1".to_owned(),
            stats,
        }];
        let mut m = Metrics::default();
        m.follower_lag[0] = (0xab, 3);
        let page = render(&m, &peers, 0xcd);
        for line in [
            "henge_peer_connected{To=\"ab\",name=\"b\"} 1",
            "henge_peer_round_trip_seconds{To=\"ab\",name=\"b\"} 0.0015",
            "etcd_network_peer_sent_bytes_total{To=\"ab\",name=\"b\"} 7",
            "etcd_network_active_peers{Local=\"cd\",Remote=\"ab\"} 1",
            "etcd_network_disconnected_peers_total{Local=\"cd\",Remote=\"ab\"} 2",
            "etcd_network_peer_round_trip_time_seconds_bucket{To=\"ab\",le=\"0.0002\"} 4",
            "etcd_network_peer_round_trip_time_seconds_sum{To=\"ab\"} 0.0007",
            "henge_follower_lag_entries{To=\"ab\",name=\"b\"} 3",
        ] {
            assert!(page.lines().any(|l| l == line), "{line} is not in {page}");
        }
        let alone = render(&m, &[], 0xcd);
        assert!(
            alone
                .lines()
                .all(|line| line.starts_with('#') || line.contains("lag"))
        );
    }
}
