//! Plain HTTP beside gRPC on the same port: health, version, metrics.
//!
//! Answers are etcd's (`server/etcdserver/api/etcdhttp`): probes, load balancers and dashboards made
//! for etcd work unchanged. Knows `Backend` only.

mod core_metrics;
pub mod counters;
mod grpc_metrics;
pub mod health;
pub mod metrics;
mod own_metrics;
mod page;
mod peer_metrics;
pub mod process;
mod server_metrics;
mod store_metrics;

use henge_api::{Backend, CoreMetrics};
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};

use crate::config::cluster_version;
use crate::counters::GrpcCounters;
use crate::door::body::EdgeBody;
use crate::door::connections::Connections;
use crate::{API_VERSION, LogLinesLost};

/// Content type of plain texts, as Go's net/http says it.
const TEXT: &str = "text/plain; charset=utf-8";

/// Answers one plain request.
pub(crate) async fn respond<B: Backend, T>(
    backend: &B,
    counters: &GrpcCounters,
    connections: &Connections,
    log_lines_lost: LogLinesLost,
    request: &Request<T>,
) -> Response<EdgeBody> {
    let path = request.uri().path();
    let query = request.uri().query().unwrap_or("");
    if !known(path) {
        return text(StatusCode::NOT_FOUND, "404 page not found\n");
    }
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let mut refused = text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed\n");
        refused
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static("GET"));
        return refused;
    }
    match path {
        "/health" => health::health(backend, &counters.plain, query).await,
        "/version" => version(),
        "/metrics" => exposition(backend, counters, connections, log_lines_lost).await,
        _ => health::probe(backend, &counters.plain, path, query).await,
    }
}

fn known(path: &str) -> bool {
    matches!(path, "/health" | "/version" | "/metrics") || health::is_probe(path)
}

fn version() -> Response<EdgeBody> {
    let cluster = cluster_version(API_VERSION);
    json(
        StatusCode::OK,
        format!(
            "{{\"etcdserver\":\"{API_VERSION}\",\"etcdcluster\":\"{cluster}\",\
             \"storage\":\"{cluster}\"}}"
        ),
    )
}

async fn exposition<B: Backend>(
    backend: &B,
    counters: &GrpcCounters,
    connections: &Connections,
    log_lines_lost: LogLinesLost,
) -> Response<EdgeBody> {
    let scrape = counters.plain.scrape();
    // A server that cannot tell its status still has metrics.
    let identity = backend.status().await.map_or_else(
        |_| metrics::Identity::default(),
        |s| metrics::Identity {
            member_id: s.header.member_id,
            alarms: s.body.alarms,
            is_learner: s.body.is_learner,
        },
    );
    let (metrics, peers, core) = (backend.metrics(), backend.peers(), backend.core_metrics());
    let mut body = metrics::render(&metrics::View {
        metrics: &metrics,
        core: core
            .as_ref()
            .map_or(&CoreMetrics::default(), |(_, core)| core),
        peers: &peers,
        counters,
        process: &process::Process::read(log_lines_lost),
        who: &identity,
    });
    let own_id = identity.member_id;
    body.push_str(&peer_metrics::render(&metrics, &peers, own_id));
    if let Some((core, metrics)) = core {
        body.push_str(&core_metrics::render(core, &metrics));
    }
    body.push_str(&metrics::clients(connections));
    scrape.answered();
    let mut response = Response::new(EdgeBody::plain(body));
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

pub(crate) fn text(status: StatusCode, body: impl Into<String>) -> Response<EdgeBody> {
    typed(status, body.into(), TEXT)
}

pub(crate) fn json(status: StatusCode, body: String) -> Response<EdgeBody> {
    typed(status, body, "application/json")
}

fn typed(status: StatusCode, body: String, kind: &'static str) -> Response<EdgeBody> {
    let mut response = Response::new(EdgeBody::plain(body));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
