//! The transport between members, joined to the cores: frames in go to an inbox, frames out to a connection.
//!
//! Promises: what is sent before the transport runs is not taken, and not waited for; round trips are counted
//! per member for as long as the engine is open. Must never know: what frames say.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use henge_api::{Histogram, Member, PeerStats, PeerView, RTT_SCALE};
use henge_core::inbox::Input;
use henge_core::shard::role::who;
use henge_core::{Lane, Peers, pack};
use henge_peer::frame::MESSAGE_BYTES_MAX;
use henge_peer::{PeerConfig, PeerHandler, PeerNet};

use super::demux::Demux;
use crate::engine::{ClusterConfig, OpenError};
use crate::host::clock::wall_clock_ms;

// A pack that a core makes has to be a message that the transport takes.
const _: () = assert!(pack::MESSAGE_BYTES_MAX == MESSAGE_BYTES_MAX);

/// Per member, by length.
type RoundTrips = Arc<BTreeMap<u64, Histogram>>;

/// The running transport of a member.
pub(crate) struct Mesh {
    net: Arc<PeerNet>,
    round_trips: RoundTrips,
}

/// Frames to peers go to the transport, once it runs.
#[derive(Clone, Default)]
pub(crate) struct LateMesh(Arc<OnceLock<Arc<PeerNet>>>);

impl Peers for LateMesh {
    fn send(&mut self, to: u64, frame: Bytes, lane: Lane) -> bool {
        let lane = match lane {
            Lane::Urgent => henge_peer::Lane::Urgent,
            Lane::Bulk => henge_peer::Lane::Bulk,
            Lane::Snapshot => henge_peer::Lane::Snapshot,
        };
        self.0
            .get()
            .is_some_and(|net| net.send(to, frame, lane).is_ok())
    }
}

/// Listens for the other members and reaches out to them; `None` where there are none. What clients of theirs
/// should be told goes to `met`.
pub(crate) fn start(
    cluster: &ClusterConfig,
    cores: Demux,
    late: &LateMesh,
    met: &Arc<Mutex<Vec<Member>>>,
) -> Result<Option<Mesh>, OpenError> {
    if cluster.members.len() == 1 {
        return Ok(None);
    }
    let mut config = PeerConfig::new(cluster.cluster_id, cluster.member_id, wall_clock_ms());
    config.listen = cluster.listen.clone();
    config.peers = cluster.peers.clone();
    let own = cluster.members.iter().find(|m| m.id == cluster.member_id);
    config.client_urls = own.map(|m| m.client_urls.clone()).unwrap_or_default();
    let ids = cluster.members.iter().map(|member| member.id);
    let round_trips: RoundTrips = Arc::new(ids.map(|id| (id, Histogram::default())).collect());
    let handler = Arc::new(Door {
        round_trips: round_trips.clone(),
        cores,
        members: cluster.members.clone(),
        met: met.clone(),
    });
    let net =
        PeerNet::start(config, handler).map_err(|error| OpenError::Peers(error.to_string()))?;
    let net = Arc::new(net);
    // Set once, here: `open` runs once per builder.
    let _ = late.0.set(net.clone());
    Ok(Some(Mesh { net, round_trips }))
}

impl Mesh {
    /// Ends every connection.
    pub(crate) fn shutdown(&self) {
        self.net.shutdown();
    }

    /// The other members, as this one's transport sees them.
    pub(crate) fn view(&self, members: &[Member]) -> Vec<PeerView> {
        let view = |stats: henge_peer::PeerStats| {
            let (name, url) = who(members, stats.peer);
            PeerView {
                id: stats.peer,
                name: name.to_owned(),
                url: url.to_owned(),
                stats: self.counted(stats),
            }
        };
        self.net.stats().peers.into_iter().map(view).collect()
    }

    fn counted(&self, stats: henge_peer::PeerStats) -> PeerStats {
        let trips = self.round_trips.get(&stats.peer);
        PeerStats {
            connected: stats.connected,
            sent_bytes: stats.sent_bytes,
            received_bytes: stats.received_bytes,
            sent_frames: stats.sent_frames,
            received_frames: stats.received_frames,
            dropped_frames: stats.dropped_frames,
            queue_bytes: stats.queue_bytes,
            full: stats.full,
            rtt_us: stats.rtt_us,
            round_trips: trips.map_or_else(Vec::new, |trips| trips.counts(RTT_SCALE).collect()),
            round_trips_us: trips.map_or(0, Histogram::sum),
            sessions: stats.sessions,
            failures: stats.failures,
            bad_frames: stats.bad_frames,
            last_failure: stats.last_failure,
        }
    }
}

/// Frames from peers go to the cores that have their groups.
struct Door {
    round_trips: RoundTrips,
    cores: Demux,
    /// For people.
    members: Vec<Member>,
    /// As clients are told of them.
    met: Arc<Mutex<Vec<Member>>>,
}

impl PeerHandler for Door {
    fn message(&self, from: u64, frame: Bytes) {
        self.cores.frame(from, frame);
    }

    fn introduced(&self, peer: u64, client_urls: &[String]) {
        let mut members = self.met.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(member) = members.iter_mut().find(|member| member.id == peer) {
            member.client_urls = client_urls.to_vec();
        }
    }

    fn connected(&self, peer: u64) {
        let (peer_name, peer_url) = who(&self.members, peer);
        tracing::info!(peer = %format_args!("{peer:x}"), peer_name, peer_url, "peer connected");
    }

    fn answered(&self, peer: u64, rtt: Duration) {
        let (peer_name, peer_url) = who(&self.members, peer);
        let rtt_us = u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX);
        tracing::info!(peer = %format_args!("{peer:x}"), peer_name, peer_url, rtt_us, "peer is up");
    }

    fn round_trip(&self, peer: u64, rtt: Duration) {
        let micros = u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX);
        if let Some(trips) = self.round_trips.get(&peer) {
            trips.record(RTT_SCALE, micros, 1);
        }
    }

    fn disconnected(&self, peer: u64, why: &str) {
        let (peer_name, peer_url) = who(&self.members, peer);
        tracing::warn!(peer = %format_args!("{peer:x}"), peer_name, peer_url, why, "peer is down");
        self.cores.all(|| Input::PeerLost { peer });
    }

    fn unreachable(&self, peer: u64, why: &str) {
        let (peer_name, peer_url) = who(&self.members, peer);
        tracing::warn!(peer = %format_args!("{peer:x}"), peer_name, peer_url, why, "peer cannot be reached");
    }

    fn refused(&self, from: SocketAddr, why: &str) {
        tracing::warn!(%from, why, "refused a peer connection");
    }
}
