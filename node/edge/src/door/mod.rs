//! The client's way in and out: from a listening socket to a request, and from an answer to the wire.
//!
//! Promises: what HTTP and gRPC ask of a server, in grpc-go's words where something is wrong, within bounds
//! that a client cannot move: connections, silence, pings, header lists, messages, packing. Must never know:
//! services, messages' contents, [`henge_api::Backend`]; what answers is handed to it ([`Rooms`]).
//!
//! The way of a request: [`listen`] (TCP or a unix socket) → [`connections`] (is there room) → `front` (odd
//! authorities, `frame`, `authority`, `pings`) → [`serve`](mod@serve) (HTTP, the end of service with `drain`)
//! → [`Rooms`], who ask `gate` (is it a call) and read messages from `inbound` (unpacked by `gzip`). An
//! answer leaves as a [`body`], counted by `outgoing`.

mod authority;
pub mod body;
pub mod connections;
pub(crate) mod drain;
mod frame;
mod front;
pub(crate) mod gate;
mod gzip;
pub(crate) mod inbound;
pub mod listen;
mod outgoing;
mod pings;
pub mod serve;

pub use drain::Shutdown;
pub use serve::{LocalExecutor, Rooms, serve, serve_connection};
