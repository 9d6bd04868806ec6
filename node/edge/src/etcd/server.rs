//! From an accepted connection to the services, and back: protocol detection, HTTP/2 limits,
//! routing, counters, graceful drain.
//!
//! Runs on any tokio runtime, in particular on the single thread of a core
//! ([`LocalExecutor`]). It never touches the engine except through [`Backend`].

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use henge_api::Backend;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::sync::watch;
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};
use tower_service::Service as TowerService;

use super::auth::Auth;
use super::body::{EdgeBody, status_code};
use super::cluster::Cluster;
use super::config::EdgeConfig;
use super::connections::Connections;
use super::counters::{GrpcCounters, METHODS, Meter, Method, Service};
use super::drain::{Shutdown, Traffic};
use super::errors::{self, text};
use super::front::Front;
use super::gate::{self, Encoding, Pass};
use super::health::Health;
use super::inbound::Inbound;
use super::kv::Kv;
use super::lease::Lease;
use super::listen::{ClientStream, Listen, Serves};
use super::maintenance::Maintenance;
use super::pings::{Calls, Pings};
use super::proto::etcdserverpb as pb;
use super::proto::health::health_server::HealthServer;
use super::streams::HAS_LEADER;
use super::unary;
use super::watch::Watch;
use crate::plain;

/// The future of one request.
pub type EdgeFuture = Pin<Box<dyn Future<Output = Result<Response<EdgeBody>, Infallible>> + Send>>;

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

/// For who asks at the wrong door.
const NO_PLAIN: &str = "only gRPC is served here; plain HTTP is on --listen-client-http-urls\n";
const NO_GRPC: &str = "only plain HTTP is served here; gRPC is on --listen-client-urls";

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

/// The edge over one backend: what answers the requests of every connection. Cheap to clone.
#[derive(Debug)]
pub struct Edge<B: Backend>(Arc<Services<B>>, Serves, Calls);

impl<B: Backend> Clone for Edge<B> {
    fn clone(&self) -> Edge<B> {
        Edge(self.0.clone(), self.1, self.2.clone())
    }
}

#[derive(Debug)]
struct Services<B: Backend> {
    backend: B,
    config: Arc<EdgeConfig>,
    counters: Arc<GrpcCounters>,
    connections: Arc<Connections>,
    shutdown: Shutdown,
    kv: Arc<Kv<B>>,
    kv_server: pb::kv_server::KvServer<Kv<B>>,
    watch: Watch<B>,
    lease: Arc<Lease<B>>,
    lease_server: pb::lease_server::LeaseServer<Lease<B>>,
    cluster: pb::cluster_server::ClusterServer<Cluster<B>>,
    maintenance: pb::maintenance_server::MaintenanceServer<Maintenance<B>>,
    auth: pb::auth_server::AuthServer<Auth<B>>,
    health: HealthServer<Health>,
}

impl<B: Backend> Edge<B> {
    /// An edge that answers from `backend`, counts in `counters` and ends with `shutdown`.
    pub fn new(
        backend: B,
        config: EdgeConfig,
        counters: Arc<GrpcCounters>,
        shutdown: Shutdown,
    ) -> Edge<B> {
        let config = Arc::new(config);
        let max = config.max_message_bytes();
        let draining = || shutdown.subscribe();
        let kv = Arc::new(Kv::new(backend.clone(), config.clone()));
        let watch = Watch::new(backend.clone(), config.clone(), draining());
        let lease = Arc::new(Lease::new(backend.clone(), config.clone(), draining()));
        let cluster = Cluster::new(backend.clone());
        let maintenance = Maintenance::new(backend.clone(), config.clone());
        let auth = Auth::new(backend.clone());
        let health = Health::new(draining());
        let services = Services {
            kv_server: pb::kv_server::KvServer::from_arc(kv.clone()).max_decoding_message_size(max),
            watch,
            lease_server: pb::lease_server::LeaseServer::from_arc(lease.clone())
                .max_decoding_message_size(max),
            lease,
            cluster: pb::cluster_server::ClusterServer::new(cluster).max_decoding_message_size(max),
            maintenance: pb::maintenance_server::MaintenanceServer::new(maintenance)
                .max_decoding_message_size(max),
            auth: pb::auth_server::AuthServer::new(auth).max_decoding_message_size(max),
            health: HealthServer::new(health).max_decoding_message_size(max),
            kv,
            backend,
            connections: Arc::new(Connections::new(config.max_connections)),
            config,
            counters,
            shutdown,
        };
        Edge(Arc::new(services), Serves::Both, Calls::default())
    }

    /// The same for a listener that serves only a part of it.
    pub fn serving(&self, serves: Serves) -> Edge<B> {
        Edge(self.0.clone(), serves, Calls::default())
    }

    /// The same for one connection, whose calls are counted there.
    fn counting(&self, calls: Calls) -> Edge<B> {
        Edge(self.0.clone(), self.1, calls)
    }

    /// Answers one request, gRPC or plain.
    fn respond(&self, request: Request<Incoming>) -> EdgeFuture {
        let call = request.version() == Version::HTTP_2 && gate::is_call(&request);
        match self.1 {
            Serves::Both | Serves::Grpc if call => return self.grpc(request),
            Serves::Grpc => return not_here(),
            Serves::Plain if call => return refuse(Status::unimplemented(NO_GRPC)),
            Serves::Both | Serves::Plain => {}
        }
        let edge = self.clone();
        Box::pin(async move {
            let s = &*edge.0;
            let lost = (s.config.log_lines_lost)();
            Ok(plain::respond(&s.backend, &s.counters, &s.connections, lost, &request).await)
        })
    }

    fn grpc(&self, request: Request<Incoming>) -> EdgeFuture {
        let Pass { method, encoding } = match gate::check(&request) {
            Ok(pass) => pass,
            Err(refused) => {
                if let Some((method, code)) = refused.counted {
                    Meter::start(self.0.counters.clone(), method).finish(code);
                }
                return Box::pin(std::future::ready(Ok(refused.answer)));
            }
        };
        let mut meter = Meter::start(self.0.counters.clone(), method).under(self.2.begin());
        let is_stream = METHODS.get(method).is_some_and(|m| m.kind != "unary");
        let clients = &self.0.counters.clients;
        clients.count(request.headers(), is_stream);
        if requires_leader(request.headers()) && !self.0.backend.vitals().has_leader {
            meter.finish(Code::Unavailable);
            return refuse(Status::unavailable(text::NO_LEADER));
        }
        let Some(method) = METHODS.get(method) else {
            return refuse(Status::unimplemented("unknown method"));
        };
        let max = self.0.config.max_message_bytes();
        match unary::hot(method.path).filter(|_| self.0.config.thin_unary) {
            Some(hot) => {
                let services = (self.0.kv.clone(), self.0.lease.clone());
                unary::call(services, hot, request, encoding, max, meter)
            }
            None => self.tonic(method, request, encoding, meter),
        }
    }

    fn tonic(
        &self,
        method: &'static Method,
        request: Request<Incoming>,
        encoding: Encoding,
        meter: Meter,
    ) -> EdgeFuture {
        let s = &*self.0;
        let max = s.config.max_message_bytes();
        let single = method.kind != "bidi_stream";
        let messages = meter.messages().clone();
        let mut request = request.map(|body| Inbound::new(body, encoding, max, single, messages));
        // The body is plain by now, and the answer is packed on its way out.
        request.headers_mut().remove("grpc-encoding");
        request.headers_mut().remove("grpc-accept-encoding");
        let how = (meter, encoding);
        match method.of {
            Service::Kv => metered(s.kv_server.clone().call(request), how),
            Service::Watch => {
                let (parts, body) = request.into_parts();
                let metadata = MetadataMap::from_headers(parts.headers);
                let answers = s.watch.call(&metadata, body, how.0);
                Box::pin(std::future::ready(Ok(success(answers, encoding))))
            }
            Service::Lease => metered(s.lease_server.clone().call(request), how),
            Service::Cluster => metered(s.cluster.clone().call(request), how),
            Service::Auth => metered(s.auth.clone().call(request), how),
            Service::Maintenance => metered(s.maintenance.clone().call(request), how),
            Service::Health => metered(s.health.clone().call(request), how),
        }
    }
}

impl<B: Backend> hyper::service::Service<Request<Incoming>> for Edge<B> {
    type Response = Response<EdgeBody>;
    type Error = Infallible;
    type Future = EdgeFuture;

    fn call(&self, request: Request<Incoming>) -> EdgeFuture {
        self.respond(request)
    }
}

fn requires_leader(headers: &HeaderMap) -> bool {
    headers
        .get(HAS_LEADER)
        .is_some_and(|v| v.as_bytes() == b"true")
}

/// Plain HTTP where only gRPC is served.
fn not_here() -> EdgeFuture {
    let answer = plain::text(StatusCode::NOT_FOUND, NO_PLAIN);
    Box::pin(std::future::ready(Ok(answer)))
}

fn refuse(status: Status) -> EdgeFuture {
    Box::pin(std::future::ready(Ok(status.into_http())))
}

/// The beginning of a gRPC answer.
pub(crate) fn success(body: EdgeBody, encoding: Encoding) -> Response<EdgeBody> {
    let mut response = Response::new(body);
    let grpc = HeaderValue::from_static("application/grpc");
    response.headers_mut().insert(CONTENT_TYPE, grpc);
    as_asked(response, encoding)
}

/// In the caller's own encoding, as grpc-go answers.
fn as_asked(response: Response<EdgeBody>, encoding: Encoding) -> Response<EdgeBody> {
    match encoding {
        Encoding::Identity => response,
        Encoding::Gzip => EdgeBody::packed(response),
    }
}

/// Runs a tonic service's call, counts its end, and gives an over-long message grpc-go's code.
fn metered<F>(call: F, (mut meter, encoding): (Meter, Encoding)) -> EdgeFuture
where
    F: Future<Output = Result<Response<tonic::body::Body>, Infallible>> + Send + 'static,
{
    Box::pin(async move {
        let Ok(response) = call.await;
        let headers = response.headers();
        if !headers.contains_key(Status::GRPC_STATUS) {
            let response = response.map(|body| EdgeBody::tonic(body, Some(meter)));
            return Ok(as_asked(response, encoding));
        }
        // An answer of headers only: the call failed.
        if status_code(headers) == Code::OutOfRange
            && let Some(status) = Status::from_header_map(headers)
        {
            let status = errors::inbound(status);
            meter.finish(status.code());
            return Ok(status.into_http());
        }
        meter.finish(status_code(headers));
        Ok(response.map(|body| EdgeBody::tonic(body, None)))
    })
}

/// Serves one accepted connection until the client leaves or a drain is over. HTTP/1.1 and
/// HTTP/2 (prior knowledge) are told apart by the first bytes.
///
/// # Errors
/// What ended the connection early: the client's protocol error, or I/O.
pub async fn serve_connection<S, B, E>(
    stream: S,
    edge: Edge<B>,
    executor: E,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>>
where
    S: ClientStream,
    B: Backend,
    E: auto::HttpServerConnExec<EdgeFuture, EdgeBody> + Clone,
{
    stream.prepare()?;
    let config = edge.0.config.clone();
    let mut draining = edge.0.shutdown.subscribe();
    let counters = edge.0.counters.clone();
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
pub async fn serve<L, B, E>(listener: L, edge: Edge<B>, executor: E) -> io::Result<()>
where
    L: Listen,
    B: Backend,
    E: auto::HttpServerConnExec<EdgeFuture, EdgeBody>
        + Executor<ConnectionTask>
        + Clone
        + Send
        + Sync
        + 'static,
{
    let open = Arc::new(watch::Sender::new(0_usize));
    let mut closing = edge.0.shutdown.closing();
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
        let Some(admitted) = edge.0.connections.admit() else {
            drop(stream);
            edge.0.connections.tell_of_refusals();
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
