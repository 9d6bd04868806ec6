//! The generated protobuf types, clients and service traits of `node/edge/proto/`.
//!
//! Only `node/edge/src/etcd/`, `edge.rs` beside it and tools that speak the wire (tests, the load generator)
//! may name what is in here; the engine never sees a protobuf type.
#![allow(missing_docs, clippy::all, rustdoc::all)]

/// `etcdserverpb`: the six services of etcd and their messages.
pub mod etcdserverpb {
    tonic::include_proto!("etcdserverpb");
}
/// `mvccpb`: key-values and events.
pub mod mvccpb {
    tonic::include_proto!("mvccpb");
}
/// `authpb`: users, roles, permissions.
pub mod authpb {
    tonic::include_proto!("authpb");
}
/// `grpc.health.v1`: the standard health service.
pub mod health {
    tonic::include_proto!("grpc.health.v1");
}
