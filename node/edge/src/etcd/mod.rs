//! etcd's v3 services over [`henge_api::Backend`].
//!
//! Promises: etcd's messages, codes, texts, limits and validation order, so that a client cannot
//! tell the difference. Must never know: how the engine works (it sees `Backend` and nothing else), sockets,
//! how messages are framed and packed. No protobuf type leaves this folder. Tested over real sockets
//! against an in-memory double in `tests/etcd_api`.
//!
//! The way of a call: [`unary`] (thin layer for the hot calls, `long_answer` where the answer is long) or the
//! generated tonic services ([`kv`] with [`range_stream`], [`watch`], [`lease`], [`cluster`],
//! [`maintenance`], [`auth`], [`health`]) → [`translate`] → [`asked`] (by whom) → `Backend` → [`errors`].

pub mod asked;
pub mod auth;
pub mod cluster;
pub mod errors;
pub mod header;
pub mod health;
pub mod kv;
pub mod lease;
mod long_answer;
pub mod maintenance;
mod nested;
pub mod proto;
pub mod range_stream;
pub mod streams;
pub mod translate;
pub mod unary;
pub mod watch;
