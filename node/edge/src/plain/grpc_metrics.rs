//! The part of `/metrics` about calls: the names of grpc-go's interceptors, and etcd's about its clients.

use henge_api::Histogram;
use tonic::Code;

use super::page::Page;
use crate::counters::GrpcCounters;
use crate::counters::{self, HASH_SCALE, METHODS, Method, REQUEST_SCALE};

/// The lines about calls and messages.
pub(super) fn render(p: &mut Page, counters: &GrpcCounters) {
    calls(p, counters);
    messages(p, counters);
    requests(p, counters);
    failures(p, counters);
}

fn calls(p: &mut Page, counters: &GrpcCounters) {
    const STARTED: &str = "grpc_server_started_total";
    const HANDLED: &str = "grpc_server_handled_total";
    p.head(
        STARTED,
        "Total number of RPCs started on the server.",
        "counter",
    );
    for (i, m) in METHODS.iter().enumerate() {
        p.line(STARTED, &labels(m), counters.started(i));
    }
    p.head(
        HANDLED,
        "Total number of RPCs completed on the server, regardless of success or failure.",
        "counter",
    );
    for (i, m) in METHODS.iter().enumerate() {
        for (code, name) in CODES {
            let n = counters.handled(i, code);
            // OK is shown from the start so that ratios have a denominator; the rest when seen.
            if n == 0 && code != Code::Ok {
                continue;
            }
            let labels = [
                ("grpc_code", name),
                ("grpc_method", m.name()),
                ("grpc_service", m.service()),
                ("grpc_type", m.kind),
            ];
            p.line(HANDLED, &labels, n);
        }
    }
}

fn labels(m: &Method) -> [(&'static str, &'static str); 3] {
    [
        ("grpc_method", m.name()),
        ("grpc_service", m.service()),
        ("grpc_type", m.kind),
    ]
}

fn messages(p: &mut Page, counters: &GrpcCounters) {
    for (name, help, sent) in [
        (
            "grpc_server_msg_received_total",
            "Total number of RPC stream messages received on the server.",
            false,
        ),
        (
            "grpc_server_msg_sent_total",
            "Total number of gRPC stream messages sent by the server.",
            true,
        ),
    ] {
        p.head(name, help, "counter");
        for (i, m) in METHODS.iter().enumerate() {
            p.line(name, &labels(m), counters.messages(i, sent));
        }
    }
    let (received, sent) = counters.bytes();
    p.counter(
        "etcd_network_client_grpc_received_bytes_total",
        "The total number of bytes received from grpc clients.",
        received,
    );
    p.counter(
        "etcd_network_client_grpc_sent_bytes_total",
        "The total number of bytes sent to grpc clients.",
        sent,
    );
}

/// etcd's names of what a request is, by method.
const TIMED: [(&str, &str); 8] = [
    ("/etcdserverpb.KV/Range", "Range"),
    ("/etcdserverpb.KV/Put", "Put"),
    ("/etcdserverpb.KV/DeleteRange", "DeleteRange"),
    ("/etcdserverpb.KV/Txn", "Txn"),
    ("/etcdserverpb.KV/Compact", "Compaction"),
    ("/etcdserverpb.Lease/LeaseGrant", "LeaseGrant"),
    ("/etcdserverpb.Lease/LeaseRevoke", "LeaseRevoke"),
    ("/etcdserverpb.Maintenance/Alarm", "Alarm"),
];

fn requests(p: &mut Page, counters: &GrpcCounters) {
    const NAME: &str = "etcd_server_request_duration_seconds";
    p.head(
        NAME,
        "Response latency distribution in seconds for each type.",
        "histogram",
    );
    let mut show = |kind: &str, both: &[Histogram; 2]| {
        for (success, times) in ["false", "true"].into_iter().zip(both) {
            if times.total() > 0 {
                let labels = [("success", success), ("type", kind)];
                p.buckets(NAME, &labels, REQUEST_SCALE, times, 1e-6);
            }
        }
    };
    for (path, kind) in TIMED {
        if let Some(times) = counters::find(path).and_then(|i| counters.times(i)) {
            show(kind, times);
        }
    }
    show("ReadonlyTxn", counters.readonly_times());
    for (name, path, help) in [
        (
            "etcd_mvcc_hash_duration_seconds",
            "/etcdserverpb.Maintenance/Hash",
            "The latency distribution of storage hash operation.",
        ),
        (
            "etcd_mvcc_hash_rev_duration_seconds",
            "/etcdserverpb.Maintenance/HashKV",
            "The latency distribution of storage hash by revision operation.",
        ),
    ] {
        p.head(name, help, "histogram");
        let times = counters::find(path).and_then(|i| counters.times(i));
        if let Some([_, done]) = times {
            p.buckets(name, &[], HASH_SCALE, done, 1e-6);
        }
    }
    const REQUESTS: &str = "etcd_server_client_requests_total";
    p.head(
        REQUESTS,
        "The total number of client requests per client version.",
        "counter",
    );
    for (version, kind, count) in counters.clients.counts() {
        let labels = [("client_api_version", &version[..]), ("type", kind)];
        p.line(REQUESTS, &labels, count);
    }
}

fn failures(p: &mut Page, counters: &GrpcCounters) {
    const NAME: &str = "etcd_network_server_stream_failures_total";
    p.head(
        NAME,
        "The total number of stream failures from the local server.",
        "counter",
    );
    for (path, api) in [
        ("/etcdserverpb.Watch/Watch", "watch"),
        ("/etcdserverpb.Lease/LeaseKeepAlive", "lease-keepalive"),
    ] {
        let Some(i) = counters::find(path) else {
            continue;
        };
        // A client that leaves and a server that ends are no failures.
        let well = [Code::Ok, Code::Cancelled, Code::Unavailable];
        let ill = CODES.iter().filter(|(code, _)| !well.contains(code));
        let failed: u64 = ill.map(|(code, _)| counters.handled(i, *code)).sum();
        p.line(NAME, &[("API", api), ("Type", "receive")], failed);
    }
}

/// The codes as grpc-go writes them.
const CODES: [(Code, &str); 17] = [
    (Code::Ok, "OK"),
    (Code::Cancelled, "Canceled"),
    (Code::Unknown, "Unknown"),
    (Code::InvalidArgument, "InvalidArgument"),
    (Code::DeadlineExceeded, "DeadlineExceeded"),
    (Code::NotFound, "NotFound"),
    (Code::AlreadyExists, "AlreadyExists"),
    (Code::PermissionDenied, "PermissionDenied"),
    (Code::ResourceExhausted, "ResourceExhausted"),
    (Code::FailedPrecondition, "FailedPrecondition"),
    (Code::Aborted, "Aborted"),
    (Code::OutOfRange, "OutOfRange"),
    (Code::Unimplemented, "Unimplemented"),
    (Code::Internal, "Internal"),
    (Code::Unavailable, "Unavailable"),
    (Code::DataLoss, "DataLoss"),
    (Code::Unauthenticated, "Unauthenticated"),
];
