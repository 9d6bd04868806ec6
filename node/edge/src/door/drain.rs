//! The end of service, from the first word of it to the last connection.
//!
//! It comes in two steps. First nobody new is let in, while who is here goes on as before: in a cluster that
//! is when another member takes over the lead. Then connections are told to go (GOAWAY) and streams end. A
//! connection whose client does as told closes by itself once its calls are answered. One whose client does
//! not is cut when it has been quiet for [`QUIET`] and no call is being worked on or answered, or at its
//! limit.
//!
//! Promises: whoever connected before the first step is served; whoever comes after it is refused by the
//! kernel, so that a client tries the next member at once.
//! Must never know: what is served. Tested by `tests/etcd_api` and henge-tests `crash --rolling`.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;

use crate::counters::Calls;
use crate::counters::GrpcCounters;

/// No byte in or out for so long, after it was told to go: the client has nothing under way, or is not there.
/// Longer than a round trip to anywhere, as a call may have been on its way here when the word went out.
const QUIET: Duration = Duration::from_millis(300);
/// How often that is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// Announces the end of service to everything that serves. Clones share one state.
#[derive(Clone, Debug)]
pub struct Shutdown(Arc<Steps>);

#[derive(Debug)]
struct Steps {
    /// Nobody new is let in.
    closed: watch::Sender<bool>,
    /// Who is here is to go.
    draining: watch::Sender<bool>,
}

impl Shutdown {
    /// Not announced.
    pub fn new() -> Shutdown {
        Shutdown(Arc::new(Steps {
            closed: watch::Sender::new(false),
            draining: watch::Sender::new(false),
        }))
    }

    /// The first step: listeners stop accepting; what is being served goes on.
    pub fn close(&self) {
        self.0.closed.send_replace(true);
    }

    /// The second, and the first if it was not taken: connections say GOAWAY, streams end.
    pub fn begin(&self) {
        self.close();
        self.0.draining.send_replace(true);
    }

    /// Whether the second was taken.
    pub fn has_begun(&self) -> bool {
        *self.0.draining.borrow()
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<bool> {
        self.0.draining.subscribe()
    }

    pub(crate) fn closing(&self) -> watch::Receiver<bool> {
        self.0.closed.subscribe()
    }
}

impl Default for Shutdown {
    fn default() -> Shutdown {
        Shutdown::new()
    }
}

/// Counts what moves on a connection.
#[derive(Clone, Debug, Default)]
pub(crate) struct Traffic(Arc<AtomicU64>);

impl Traffic {
    /// A stream whose bytes are counted here.
    pub(crate) fn of<S>(&self, stream: S) -> Counted<S> {
        Counted {
            stream,
            traffic: self.clone(),
        }
    }

    /// Ends when nothing has moved for a while, the server works on no call, and no answer to one of the
    /// connection's `calls` is still on its way out.
    pub(crate) async fn is_quiet(&self, counters: &GrpcCounters, calls: &Calls) {
        let mut before = u64::MAX;
        let mut quiet = Duration::ZERO;
        while quiet < QUIET {
            let now = self.0.load(Ordering::Relaxed);
            let still = now == before && counters.under_way() == 0 && !calls.any();
            quiet = if still { quiet + LOOK } else { Duration::ZERO };
            before = now;
            tokio::time::sleep(LOOK).await;
        }
    }

    fn moved(&self, bytes: usize) {
        self.0.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

/// See [`Traffic::of`].
#[derive(Debug)]
pub(crate) struct Counted<S> {
    stream: S,
    traffic: Traffic,
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        self.traffic.moved(buffer.filled().len() - before);
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.wrote(&polled);
        polled
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.wrote(&polled);
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl<S> Counted<S> {
    fn wrote(&self, polled: &Poll<io::Result<usize>>) {
        if let Poll::Ready(Ok(bytes)) = polled {
            self.traffic.moved(*bytes);
        }
    }
}
