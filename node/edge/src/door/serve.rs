//! From a listener to requests, and to the end of each connection: who is let in, HTTP/1.1 or HTTP/2 and
//! their limits, silent clients, the drain.
//!
//! Promises: every HTTP knob that matters is set here. Runs on any tokio runtime, in particular on the single
//! thread of a core ([`LocalExecutor`]). Must never know: what is asked or who answers ([`Rooms`]).

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::sync::watch;

use super::body::{EdgeBody, EdgeFuture};
use super::connections::Connections;
use super::drain::{Shutdown, Traffic};
use super::front::Front;
use super::listen::{ClientStream, Listen};
use super::pings::Pings;
use crate::config::EdgeConfig;
use crate::counters::{Calls, GrpcCounters};

/// Bytes a client may send ahead on one stream before the server reads them. A whole largest
/// request fits, so that a big Put takes one round trip.
const STREAM_WINDOW_BYTES: u32 = 2 * 1024 * 1024;

/// The same for all streams of a connection together; also bounds its receive memory. So large
/// because h2 (≥ 0.4.18) closes a connection whose unread small frames cost more than half of it,
/// at about 250 bytes each, and hyper passes no other setting on: this allows a Go client some
/// 60,000 keep-alives in one burst, each in a frame of its own.
const CONNECTION_WINDOW_BYTES: u32 = 32 * 1024 * 1024;

/// Streams a client may cancel before we look at them, and errors of ours, before the connection
/// is closed with ENHANCE_YOUR_CALM. hyper's 20 is too few: Go clients cancel contexts in bursts.
const RESET_BUDGET: usize = 4_096;

/// Longest header list of a request, in bytes (tokens and metadata of clients fit).
/// etcd takes 16 MiB; each byte is memory that a stranger makes us hold.
const HEADER_LIST_BYTES: u32 = 1024 * 1024;

/// Answer bytes buffered per stream for a client that reads slowly.
const SEND_BUFFER_BYTES: usize = 400 * 1024;

/// Time an HTTP/1.1 client has for its request head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// Pause after a failed accept (out of file descriptors), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Connections that were waiting to be accepted when the end was announced, at most.
const LATE_MAX: usize = 4_096;

/// Runs tasks on the current thread's `LocalSet` (or tokio-uring runtime).
#[derive(Clone, Copy, Debug, Default)]
pub struct LocalExecutor;

impl<F: Future + 'static> Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

/// What all connections of an edge share.
#[derive(Debug)]
pub struct Shared {
    pub(crate) config: Arc<EdgeConfig>,
    pub(crate) counters: Arc<GrpcCounters>,
    pub(crate) connections: Arc<Connections>,
    pub(crate) shutdown: Shutdown,
}

/// Behind the door: whoever answers requests. A clone for each connection.
pub trait Rooms:
    Service<
        Request<Incoming>,
        Response = Response<EdgeBody>,
        Error = Infallible,
        Future = EdgeFuture,
    > + Clone
    + Send
    + Sync
    + 'static
{
    /// What it shares with all connections.
    fn shared(&self) -> &Shared;

    /// The same for one connection, whose calls are counted there.
    fn counting(&self, calls: Calls) -> Self;
}

/// Serves one accepted connection until the client leaves or a drain is over. HTTP/1.1 and
/// HTTP/2 (prior knowledge) are told apart by the first bytes.
///
/// # Errors
/// What ended the connection early: the client's protocol error, or I/O.
pub async fn serve_connection<S, R, E>(
    stream: S,
    edge: R,
    executor: E,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>>
where
    S: ClientStream,
    R: Rooms,
    E: auto::HttpServerConnExec<EdgeFuture, EdgeBody> + Clone,
{
    stream.prepare()?;
    let config = edge.shared().config.clone();
    let mut draining = edge.shared().shutdown.subscribe();
    let counters = edge.shared().counters.clone();
    let traffic = Traffic::default();
    let builder = builder(&config, executor);
    let calls = Calls::default();
    let edge = edge.counting(calls.clone());
    let pings = Pings::new(calls.clone(), config.ping_least);
    let front = Front::new(stream, HEADER_LIST_BYTES as usize, pings);
    let spoke = front.spoke();
    let mut connection = pin!(builder.serve_connection(TokioIo::new(traffic.of(front)), edge));
    let silent = async {
        tokio::time::sleep(config.silence_limit).await;
        if spoke.is_so() {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        ended = connection.as_mut() => return ended,
        _ = draining.wait_for(|d| *d) => {}
        () = silent => return Ok(()), // dropping it closes the socket
    }
    connection.as_mut().graceful_shutdown();
    tokio::select! {
        ended = connection => ended,
        // Dropping it closes the socket.
        () = traffic.is_quiet(&counters, &calls) => Ok(()),
        () = tokio::time::sleep(config.drain_limit) => Ok(()),
    }
}

/// Every HTTP knob that matters, set here so that a new hyper does not change them under us.
fn builder<E>(config: &EdgeConfig, executor: E) -> auto::Builder<E> {
    let mut builder = auto::Builder::new(executor);
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .keep_alive(true);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(config.max_concurrent_streams)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_pending_accept_reset_streams(RESET_BUDGET)
        .max_local_error_reset_streams(RESET_BUDGET)
        .max_header_list_size(HEADER_LIST_BYTES)
        .max_send_buf_size(SEND_BUFFER_BYTES)
        .keep_alive_interval(config.keepalive_interval)
        .keep_alive_timeout(config.keepalive_timeout)
        .auto_date_header(false);
    builder
}

/// A task that serves one connection.
pub type ConnectionTask = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Accepts connections and serves them on `executor` until shutdown, then waits for those that
/// are still open (each is bounded by [`EdgeConfig::drain_limit`]).
///
/// # Errors
/// None today; accept errors are waited out, since they pass (out of descriptors, client gone).
pub async fn serve<L, R, E>(listener: L, edge: R, executor: E) -> io::Result<()>
where
    L: Listen,
    R: Rooms,
    E: auto::HttpServerConnExec<EdgeFuture, EdgeBody>
        + Executor<ConnectionTask>
        + Clone
        + Send
        + Sync
        + 'static,
{
    let open = Arc::new(watch::Sender::new(0_usize));
    let mut closing = edge.shared().shutdown.closing();
    let mut late = 0;
    while late < LATE_MAX {
        // Whoever connected before the end is let in: the kernel told him that he is.
        let accepted = tokio::select! {
            biased;
            accepted = listener.accept() => accepted,
            _ = closing.wait_for(|closed| *closed) => break,
        };
        late += usize::from(*closing.borrow());
        let Ok(stream) = accepted else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let Some(admitted) = edge.shared().connections.admit() else {
            drop(stream);
            edge.shared().connections.tell_of_refusals();
            continue;
        };
        let guard = (OpenGuard::new(open.clone()), admitted);
        let (edge, on) = (edge.clone(), executor.clone());
        executor.execute(Box::pin(async move {
            // How a client's connection ended is the client's business; calls were counted.
            let _ended = serve_connection(stream, edge, on).await;
            drop(guard);
        }) as ConnectionTask);
    }
    drop(listener);
    let mut open = open.subscribe();
    // The sender lives in this function's guard clones or not at all; either way nobody is left.
    let _ = open.wait_for(|n| *n == 0).await;
    Ok(())
}

/// Counts an open connection for as long as it lives.
struct OpenGuard(Arc<watch::Sender<usize>>);

impl OpenGuard {
    fn new(open: Arc<watch::Sender<usize>>) -> OpenGuard {
        open.send_modify(|n| *n += 1);
        OpenGuard(open)
    }
}

impl Drop for OpenGuard {
    fn drop(&mut self) {
        self.0.send_modify(|n| *n -= 1);
    }
}
