//! The part of `/metrics` about the other members: whether they answer, how fast, what was sent and lost,
//! and how far they are behind. etcd's names where it has one.

use super::metrics::Page;
use crate::api::{Metrics, PeerView};

/// The lines about the other members; none for a member that is alone.
pub fn render(m: &Metrics, peers: &[PeerView]) -> String {
    let mut page = Page::default();
    let p = &mut page;
    if peers.is_empty() {
        return String::new();
    }
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
    use crate::peer::PeerStats;

    #[test]
    fn each_member_has_its_lines_with_its_name() {
        let stats = PeerStats {
            connected: true,
            rtt_us: Some(1_500),
            sent_bytes: 7,
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
        let page = render(&m, &peers);
        for line in [
            "henge_peer_connected{To=\"ab\",name=\"b\"} 1",
            "henge_peer_round_trip_seconds{To=\"ab\",name=\"b\"} 0.0015",
            "etcd_network_peer_sent_bytes_total{To=\"ab\",name=\"b\"} 7",
            "henge_follower_lag_entries{To=\"ab\",name=\"b\"} 3",
        ] {
            assert!(page.lines().any(|l| l == line), "{line} is not in {page}");
        }
        assert_eq!(render(&m, &[]), "");
    }
}
