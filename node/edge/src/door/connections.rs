//! How many clients may be connected, so that the log and the peers never run out of descriptors.
//!
//! Each connection is a descriptor, and so is each segment of the log: with all of them taken by
//! clients, even silent ones, no segment can be made and every write is refused. So some are kept back,
//! as etcd does, and a client beyond the rest is let in and closed at once: it can try elsewhere.
//! Must never know: what a connection is used for.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::time::Instant;

/// Descriptors that are not for clients: the log, checkpoints, peers, the process itself (etcd's
/// `reservedInternalFDNum`).
pub const RESERVED_DESCRIPTORS: u64 = 150;

/// Silence after which the kernel asks whether a client's machine is still there, and between two such
/// questions (etcd's `SetKeepAlivePeriod`).
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// Time between two lines in the log about refused clients.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// Most client connections with `descriptors` in all; None if there are too few to serve anyone.
pub fn connections_max(descriptors: u64) -> Option<usize> {
    let left = descriptors.checked_sub(RESERVED_DESCRIPTORS)?;
    (left > 0).then(|| usize::try_from(left).unwrap_or(usize::MAX))
}

/// The client connections of a process.
#[derive(Debug)]
pub(crate) struct Connections {
    max: usize,
    open: AtomicUsize,
    refused: AtomicU64,
    /// Of those, how many the log has told of, and when it did last.
    told: Mutex<Option<(u64, Instant)>>,
}

impl Connections {
    pub(crate) fn new(max: usize) -> Connections {
        Connections {
            max,
            open: AtomicUsize::new(0),
            refused: AtomicU64::new(0),
            told: Mutex::new(None),
        }
    }

    /// Says in the log that clients are turned away, once in a while.
    pub(crate) fn tell_of_refusals(&self) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let (before, at) = told.map_or((0, None), |(n, at)| (n, Some(at)));
        if at.is_some_and(|at| at.elapsed() < TELL_EVERY) {
            return;
        }
        let refused = self.refused();
        *told = Some((refused, Instant::now()));
        tracing::warn!(
            open = self.open(),
            max = self.max,
            refused = refused - before,
            "client connections are refused: the limit on file descriptors (ulimit -n, LimitNOFILE) \
             leaves no more, as {RESERVED_DESCRIPTORS} are kept for the log and peers"
        );
    }

    /// Connections now.
    pub(crate) fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Connections turned away since the start.
    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Counts one more for as long as the answer lives; None if there are enough.
    pub(crate) fn admit(self: &Arc<Self>) -> Option<Admitted> {
        let room = |open: usize| (open < self.max).then_some(open + 1);
        let taken = self
            .open
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, room);
        if taken.is_err() {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        Some(Admitted(self.clone()))
    }
}

/// A connection that counts.
#[derive(Debug)]
pub(crate) struct Admitted(Arc<Connections>);

impl Drop for Admitted {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Sets what every client's socket has.
pub(crate) fn prepare(stream: &TcpStream) -> std::io::Result<()> {
    // Nagle and delayed acknowledgements together cost ~40 ms per small answer.
    stream.set_nodelay(true)?;
    let keep_alive = TcpKeepalive::new()
        .with_time(KEEP_ALIVE)
        .with_interval(KEEP_ALIVE);
    SockRef::from(stream).set_tcp_keepalive(&keep_alive)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_descriptors_are_never_for_clients() {
        assert_eq!(connections_max(1_024), Some(874));
        assert_eq!(connections_max(151), Some(1));
        assert_eq!(connections_max(150), None);
        assert_eq!(connections_max(0), None);
        assert!(connections_max(u64::MAX).is_some());
    }

    #[test]
    fn one_too_many_is_refused_until_another_leaves() {
        let all = Arc::new(Connections::new(2));
        let first = all.admit().expect("room");
        let _second = all.admit().expect("room");
        assert!(all.admit().is_none());
        drop(first);
        assert!(all.admit().is_some());
        assert_eq!((all.open(), all.refused()), (1, 1));
    }
}
