//! What a host gives the transport: who is who, the bounds, and where the news goes.
//!
//! Promises: every default is safe and says why it is what it is; a configuration that contradicts
//! itself is refused before anything starts. Must never know: how the transport works.
//! Tested by `node/peer/tests/peer/`.

use std::{io, net::SocketAddr, time::Duration};

use bytes::Bytes;

/// What the transport tells. Called on its thread: return soon, hand work over, never block.
/// A panic in here ends the session it concerns, not the transport.
pub trait PeerHandler: Send + Sync {
    /// A message from peer `from`, whole and checked.
    fn message(&self, from: u64, frame: Bytes);

    /// `peer` told where its clients reach it, as a session begins. Builds that cannot are silent.
    fn introduced(&self, peer: u64, client_urls: &[String]) {
        let _ = (peer, client_urls);
    }

    /// A session with `peer` is up; messages to it are taken from now on.
    fn connected(&self, peer: u64);

    /// The peer answered the first ping of its session, after `rtt`: it is there, and its path works both
    /// ways. For logs.
    fn answered(&self, peer: u64, rtt: Duration) {
        let _ = (peer, rtt);
    }

    /// The peer answered a ping after `rtt`, one of many. For counters.
    fn round_trip(&self, peer: u64, rtt: Duration) {
        let _ = (peer, rtt);
    }

    /// The session ended; what was queued is gone.
    fn disconnected(&self, peer: u64, why: &str);

    /// An attempt to reach `peer` failed, for another reason than the last one since there was a
    /// session. For logs; the attempts go on.
    fn unreachable(&self, peer: u64, why: &str) {
        let _ = (peer, why);
    }

    /// A caller was turned away before a session. For logs.
    fn refused(&self, from: SocketAddr, why: &str) {
        let _ = (from, why);
    }
}

/// Bounds in time. The defaults find a dead peer within 5 s and a restarted one within 1 s.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timing {
    /// A ping goes out this often, busy or idle. 1 s: nothing against any network's capacity.
    pub ping_every: Duration,
    /// A session ends when nothing arrives, or nothing of ours is taken, for this long. 4 s: three
    /// pings may be lost to a retransmission before a healthy peer is given up.
    pub silence_max: Duration,
    /// For a TCP connection to come up. 2 s: one retransmission of the SYN.
    pub connect_max: Duration,
    /// For a handshake to finish. 3 s.
    pub handshake_max: Duration,
    /// First delay between attempts. 20 ms.
    pub backoff_min: Duration,
    /// Longest delay between attempts. 1 s.
    pub backoff_max: Duration,
}

impl Default for Timing {
    fn default() -> Timing {
        Timing {
            ping_every: Duration::from_secs(1),
            silence_max: Duration::from_secs(4),
            connect_max: Duration::from_secs(2),
            handshake_max: Duration::from_secs(3),
            backoff_min: Duration::from_millis(20),
            backoff_max: Duration::from_secs(1),
        }
    }
}

/// Who we are, who the others are, and the bounds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerConfig {
    /// Nodes of other clusters are refused.
    pub cluster_id: u64,
    /// Id of this node; not 0.
    pub node_id: u64,
    /// Where to listen. Port 0 takes a free one; see [`PeerNet::listening`].
    pub listen: Vec<SocketAddr>,
    /// The other members and their `host:port`s, tried in order. An entry for this node itself is
    /// passed over, so that one list serves every node.
    pub peers: Vec<(u64, Vec<String>)>,
    /// Where this node's clients reach it: peers are told, as far as a kilobyte holds them.
    pub client_urls: Vec<String>,
    /// Bound of each peer's bulk queue, in bytes. 64 MiB: a few turns of a busy leader. A message
    /// longer than the bound is still taken when nothing else waits.
    pub queue_bytes_max: usize,
    /// For jitter, and to tell this start of the node from the last one: give a new one each start.
    pub seed: u64,
    /// Bounds in time.
    pub timing: Timing,
}

impl PeerConfig {
    /// A node with no peers and no listener yet, and the default bounds.
    pub fn new(cluster_id: u64, node_id: u64, seed: u64) -> PeerConfig {
        PeerConfig {
            cluster_id,
            node_id,
            listen: Vec::new(),
            peers: Vec::new(),
            client_urls: Vec::new(),
            queue_bytes_max: 64 * 1024 * 1024,
            seed,
            timing: Timing::default(),
        }
    }

    pub(super) fn check(&self) -> Result<(), StartError> {
        let bad = |why: String| Err(StartError::Config(why));
        if self.node_id == 0 {
            return bad("node id 0 means nobody".to_owned());
        }
        let mut seen = Vec::new();
        for (id, _) in &self.peers {
            if *id == 0 {
                return bad("peer id 0 means nobody".to_owned());
            }
            if seen.contains(id) {
                return bad(format!("peer {id:016x} is given twice"));
            }
            seen.push(*id);
        }
        let timing = &self.timing;
        if timing.ping_every.is_zero() || timing.silence_max < timing.ping_every * 2 {
            return bad("silence_max must be at least twice ping_every, above 0".to_owned());
        }
        if timing.connect_max.is_zero() || timing.handshake_max.is_zero() {
            return bad("connect_max and handshake_max must be above 0".to_owned());
        }
        if timing.backoff_min.is_zero() || timing.backoff_max < timing.backoff_min {
            return bad("backoff_max must be at least backoff_min, above 0".to_owned());
        }
        Ok(())
    }
}

/// Why the transport did not start. Nothing is left running.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A value contradicts itself or another: the caller's mistake.
    #[error("peer configuration: {0}")]
    Config(String),
    /// Another process listens there.
    #[error("peer address {address} is taken by another process; choose another or stop that one")]
    PortTaken {
        /// The address that was asked for.
        address: SocketAddr,
    },
    /// The address cannot be listened on.
    #[error("cannot listen for peers on {address}: {source}")]
    Listen {
        /// The address that was asked for.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The system gave us no runtime or no thread.
    #[error("cannot start the peer thread: {0}")]
    Thread(#[source] io::Error),
}
