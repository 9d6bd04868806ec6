//! What the long-lived streams (Watch, LeaseKeepAlive, health Watch, RangeStream) share: the answer stream
//! as a state machine polled by its connection, the end of service, and the loss of a leader.
//!
//! No task is spawned for a stream: dropping the call (client gone, connection lost) drops its
//! state and with it every watcher, at once. The price is that requests are only read while the
//! client takes answers; the HTTP/2 window bounds what can pile up meanwhile.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::Stream;
use henge_api::Backend;
use tokio::sync::watch;
use tokio::time::{Instant, Interval, MissedTickBehavior};
use tonic::Status;
use tonic::metadata::MetadataMap;

use super::errors::text;

/// A boxed stream of answers.
pub(crate) type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

type Step<S, T> = Pin<Box<dyn Future<Output = Option<(Result<T, Status>, S)>> + Send>>;

/// The stream that `next` produces step by step from `state`; it ends after an error.
pub(crate) fn unfold<S, T, F, N>(state: S, mut next: N) -> Answers<T>
where
    S: Send + 'static,
    T: Send + 'static,
    N: FnMut(S) -> F + Send + Unpin + 'static,
    F: Future<Output = Option<(Result<T, Status>, S)>> + Send + 'static,
{
    let first: Step<S, T> = Box::pin(next(state));
    Box::pin(Unfold {
        step: Some(first),
        next: move |s| -> Step<S, T> { Box::pin(next(s)) },
    })
}

struct Unfold<S, T, N> {
    step: Option<Step<S, T>>,
    next: N,
}

impl<S, T, N: FnMut(S) -> Step<S, T> + Unpin> Stream for Unfold<S, T, N> {
    type Item = Result<T, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        let Some(step) = this.step.as_mut() else {
            return Poll::Ready(None);
        };
        match step.as_mut().poll(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(None) => {
                this.step = None;
                Poll::Ready(None)
            }
            Poll::Ready(Some((item, state))) => {
                this.step = item.is_ok().then(|| (this.next)(state));
                Poll::Ready(Some(item))
            }
        }
    }
}

/// Tells streams that the server drains. Cloned per stream.
pub(crate) type Draining = watch::Receiver<bool>;

/// Completes when the server drains; the status is what etcd ends its streams with.
pub(crate) async fn drained(draining: &mut Draining) -> Status {
    // A dropped sender means that nobody can announce a drain any more, not that one began.
    if draining.wait_for(|d| *d).await.is_err() {
        std::future::pending::<()>().await;
    }
    Status::unavailable(text::STOPPED)
}

/// How many checks without a leader end a stream that requires one (etcd
/// `v3rpc/interceptor.go`: `maxNoLeaderCnt`).
const NO_LEADER_CHECKS: u32 = 3;

/// Watches for a lost leader on behalf of a stream with metadata `hasleader: true`.
pub(crate) struct LeaderMonitor<B> {
    backend: B,
    ticks: Option<Interval>,
    missed: u32,
}

impl<B: Backend> LeaderMonitor<B> {
    /// Looks once per election timeout, if the caller asked for it.
    pub(crate) fn new(backend: B, metadata: &MetadataMap, election_timeout: Duration) -> Self {
        let wanted = metadata
            .get(HAS_LEADER)
            .is_some_and(|v| v.as_bytes() == b"true");
        let ticks = wanted.then(|| {
            let period = election_timeout.max(Duration::from_millis(1));
            let mut ticks = tokio::time::interval_at(Instant::now() + period, period);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            ticks
        });
        LeaderMonitor {
            backend,
            ticks,
            missed: 0,
        }
    }

    /// Completes when there was no leader for too long. Safe to drop and call again.
    pub(crate) async fn lost(&mut self) -> Status {
        let Some(ticks) = self.ticks.as_mut() else {
            return std::future::pending().await;
        };
        while self.missed < NO_LEADER_CHECKS {
            ticks.tick().await;
            self.missed = if self.backend.vitals().has_leader {
                0
            } else {
                self.missed + 1
            };
        }
        Status::unavailable(text::NO_LEADER)
    }
}

/// Name of the metadata by which a client refuses to be served without a leader.
pub(crate) const HAS_LEADER: &str = "hasleader";
