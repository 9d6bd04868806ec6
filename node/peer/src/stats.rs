//! What the transport counted: plain numbers for metrics and for people.
//!
//! Written by the network thread, read by anyone; each number is exact, but two numbers of one
//! reading may be a moment apart. Must never know: sockets, clocks. Tested by `node/peer/tests/peer/`.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicU64, Ordering::Relaxed},
};

/// The whole transport.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetStats {
    /// One per configured peer, by id.
    pub peers: Vec<PeerStats>,
    /// Connections taken by the listeners.
    pub accepted: u64,
    /// Of these, turned away: a refusal, not a peer at all, or silent.
    pub refused: u64,
    /// Of these, dropped because too many were in their handshake at once.
    pub shed: u64,
}

/// One peer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerStats {
    /// Its node id.
    pub peer: u64,
    /// Whether a session is up.
    pub connected: bool,
    /// Bytes written, frame headers included.
    pub sent_bytes: u64,
    /// Bytes read, frame headers included.
    pub received_bytes: u64,
    /// Frames written, pings included.
    pub sent_frames: u64,
    /// Frames read, pings included.
    pub received_frames: u64,
    /// Frames dropped from the queue when a session ended.
    pub dropped_frames: u64,
    /// Bytes queued or being written now.
    pub queue_bytes: usize,
    /// Messages not taken because the queue was full.
    pub full: u64,
    /// Round trip of the last ping, in microseconds; it includes waiting behind one bulk write on
    /// either side. None before the first.
    pub rtt_us: Option<u64>,
    /// Sessions that came up.
    pub sessions: u64,
    /// Attempts and sessions that ended in an error; a peer's orderly goodbye is none.
    pub failures: u64,
    /// Of these, because of bytes that are not a sound frame (fault N6).
    pub bad_frames: u64,
    /// Why the last attempt or session failed.
    pub last_failure: Option<String>,
}

/// Counters behind [`NetStats`].
#[derive(Debug, Default)]
pub(super) struct NetCounters {
    pub(super) accepted: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) shed: AtomicU64,
}

/// Counters behind [`PeerStats`].
#[derive(Debug, Default)]
pub(super) struct PeerCounters {
    pub(super) sent_bytes: AtomicU64,
    pub(super) received_bytes: AtomicU64,
    pub(super) sent_frames: AtomicU64,
    pub(super) received_frames: AtomicU64,
    pub(super) dropped_frames: AtomicU64,
    pub(super) full: AtomicU64,
    /// Round trip plus one, so that 0 means none yet.
    pub(super) rtt_us_plus_one: AtomicU64,
    pub(super) sessions: AtomicU64,
    pub(super) failures: AtomicU64,
    pub(super) bad_frames: AtomicU64,
    last_failure: Mutex<Option<String>>,
}

/// Adds to a counter; order between counters does not matter.
pub(super) fn add(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Relaxed);
}

impl PeerCounters {
    /// Counts a failure and keeps its reason.
    pub(super) fn fail(&self, why: &str, bad_frame: bool) {
        add(&self.failures, 1);
        add(&self.bad_frames, u64::from(bad_frame));
        let mut last = self
            .last_failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *last = Some(why.to_owned());
    }

    pub(super) fn read(&self, peer: u64, connected: bool, queue_bytes: usize) -> PeerStats {
        let last_failure = self
            .last_failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        PeerStats {
            peer,
            connected,
            sent_bytes: self.sent_bytes.load(Relaxed),
            received_bytes: self.received_bytes.load(Relaxed),
            sent_frames: self.sent_frames.load(Relaxed),
            received_frames: self.received_frames.load(Relaxed),
            dropped_frames: self.dropped_frames.load(Relaxed),
            queue_bytes,
            full: self.full.load(Relaxed),
            rtt_us: self.rtt_us_plus_one.load(Relaxed).checked_sub(1),
            sessions: self.sessions.load(Relaxed),
            failures: self.failures.load(Relaxed),
            bad_frames: self.bad_frames.load(Relaxed),
            last_failure: last_failure.clone(),
        }
    }
}

impl NetCounters {
    pub(super) fn read(&self, peers: Vec<PeerStats>) -> NetStats {
        NetStats {
            peers,
            accepted: self.accepted.load(Relaxed),
            refused: self.refused.load(Relaxed),
            shed: self.shed.load(Relaxed),
        }
    }
}
