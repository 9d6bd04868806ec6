//! The etcd v3 gRPC edge: everything between a client's TCP connection and [`henge_api::Backend`].
//!
//! Promises: etcd's messages, codes, texts, limits and validation order, so that a client cannot
//! tell the difference. It must never know how the engine works: it sees `Backend` and nothing
//! else, and no protobuf type leaves this folder. Tested over real sockets against an in-memory
//! double in `tests/etcd_api`.
//!
//! The way of a request: `connections` (is there room) → `front` (odd authorities, `pings`) → [`server`] (HTTP/2,
//! routing, counters) → `gate` (is it a call) → `inbound` (messages, unpacked) → [`unary`] (thin layer for the hot
//! KV calls, `long_answer` where the answer is long) or the generated tonic services ([`kv`], [`watch`], [`lease`], [`cluster`],
//! [`maintenance`], [`auth`], [`health`]) → [`translate`] → `Backend` → [`errors`].

pub mod auth;
mod authority;
pub mod body;
mod clients;
pub mod cluster;
pub mod config;
pub mod connections;
pub mod counters;
mod drain;
pub mod errors;
mod frame;
mod front;
mod gate;
mod gzip;
pub mod header;
pub mod health;
mod inbound;
pub mod kv;
pub mod lease;
pub mod listen;
mod long_answer;
pub mod maintenance;
mod nested;
mod outgoing;
mod pings;
pub mod proto;
pub mod range_stream;
pub mod server;
pub mod streams;
pub mod translate;
pub mod unary;
pub mod watch;

pub use config::EdgeConfig;
pub use counters::GrpcCounters;
pub use drain::Shutdown;
pub use server::{Edge, LocalExecutor, serve, serve_connection};
