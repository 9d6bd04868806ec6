//! Behind the door: which service answers a request, gRPC or plain, and that it is counted.
//!
//! Promises: every call is judged by its headers first, counted once, and answered by the service that its
//! path names. Must never know: sockets, what a message says; it touches the engine through [`Backend`]
//! alone.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;

use henge_api::Backend;
use http::{HeaderMap, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};
use tower_service::Service as TowerService;

use crate::config::EdgeConfig;
use crate::counters::{Calls, GrpcCounters, METHODS, Meter, Method, Service};
use crate::door::body::{EdgeBody, EdgeFuture, as_asked, status_code, success};
use crate::door::connections::Connections;
use crate::door::drain::Shutdown;
use crate::door::gate::{self, Encoding, Pass};
use crate::door::inbound::Inbound;
use crate::door::listen::Serves;
use crate::door::serve::{Rooms, Shared};
use crate::etcd::asked::Asked;
use crate::etcd::auth::Auth;
use crate::etcd::cluster::Cluster;
use crate::etcd::errors::{self, text};
use crate::etcd::health::Health;
use crate::etcd::kv::Kv;
use crate::etcd::lease::Lease;
use crate::etcd::maintenance::Maintenance;
use crate::etcd::proto::etcdserverpb as pb;
use crate::etcd::proto::health::health_server::HealthServer;
use crate::etcd::streams::HAS_LEADER;
use crate::etcd::unary;
use crate::etcd::watch::Watch;
use crate::plain;

/// For who asks at the wrong door.
const NO_PLAIN: &str = "only gRPC is served here; plain HTTP is on --listen-client-http-urls\n";
const NO_GRPC: &str = "only plain HTTP is served here; gRPC is on --listen-client-urls";

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
    shared: Shared,
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
        let asked = Asked::new(backend.clone(), config.who);
        let kv = Arc::new(Kv::new(asked.clone(), config.clone()));
        let watch = Watch::new(asked.clone(), config.clone(), draining());
        let lease = Arc::new(Lease::new(asked.clone(), config.clone(), draining()));
        let cluster = Cluster::new(asked.clone());
        let maintenance = Maintenance::new(asked.clone(), config.clone());
        let auth = Auth::new(asked);
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
            shared: Shared {
                connections: Arc::new(Connections::new(config.max_connections)),
                config,
                counters,
                shutdown,
            },
        };
        Edge(Arc::new(services), Serves::Both, Calls::default())
    }

    /// The same for a listener that serves only a part of it.
    pub fn serving(&self, serves: Serves) -> Edge<B> {
        Edge(self.0.clone(), serves, Calls::default())
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
            let lost = (s.shared.config.log_lines_lost)();
            let (counters, connections) = (&s.shared.counters, &s.shared.connections);
            Ok(plain::respond(&s.backend, counters, connections, lost, &request).await)
        })
    }

    fn grpc(&self, request: Request<Incoming>) -> EdgeFuture {
        let Pass { method, encoding } = match gate::check(&request) {
            Ok(pass) => pass,
            Err(refused) => {
                if let Some((method, code)) = refused.counted {
                    Meter::start(self.0.shared.counters.clone(), method).finish(code);
                }
                return Box::pin(std::future::ready(Ok(refused.answer)));
            }
        };
        let mut meter = Meter::start(self.0.shared.counters.clone(), method).under(self.2.begin());
        let is_stream = METHODS.get(method).is_some_and(|m| m.kind != "unary");
        let clients = &self.0.shared.counters.clients;
        clients.count(request.headers(), is_stream);
        if requires_leader(request.headers()) && !self.0.backend.vitals().has_leader {
            meter.finish(Code::Unavailable);
            return refuse(Status::unavailable(text::NO_LEADER));
        }
        let Some(method) = METHODS.get(method) else {
            return refuse(Status::unimplemented("unknown method"));
        };
        let max = self.0.shared.config.max_message_bytes();
        match unary::hot(method.path).filter(|_| self.0.shared.config.thin_unary) {
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
        let max = s.shared.config.max_message_bytes();
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

impl<B: Backend> Rooms for Edge<B> {
    fn shared(&self) -> &Shared {
        &self.0.shared
    }

    fn counting(&self, calls: Calls) -> Edge<B> {
        Edge(self.0.clone(), self.1, calls)
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
