//! Peers: the transport between the nodes of a cluster.
//!
//! One TCP connection per node pair carries opaque messages, checked and bounded, in two lanes:
//! bulk and urgent. What the messages say is the caller's business (raft's wire codec packs them);
//! who is on the other end, whether it is still there, and how much may wait for it, is ours.
//!
//! ```text
//!        any thread                       thread "henge-peers" (tokio, current-thread)
//!  send              --> queue (per peer) --> connection --frames--> the other node
//!  PeerHandler       <----------------------- connection <--frames-- the other node
//!                                             link: dial, knock, back off, replace
//!                                             net:  listen, handshake, hand over
//! ```
//!
//! Promises: sending never blocks and is bounded in bytes per peer; no message is delivered before
//! the handshake agreed; within a lane of one connection order is kept, between lanes and
//! connections it is not; a message may be lost (raft sends again) but never altered; `connected`
//! and `disconnected` come in strict pairs around the messages of a connection.
//!
//! Must never know: raft, shards, what a message means, which runtime hosts the cores.
//!
//! Clock and sockets: only `connection`, `link` and `net`, through tokio. `frame`, `handshake`,
//! `queue` and `backoff` are plain code. Tested in each file and in `node/peer/tests/peer/`.

mod about;
mod backoff;
mod config;
mod connection;
pub mod frame;
pub mod handshake;
mod link;
mod net;
mod queue;
mod stats;

pub use config::{PeerConfig, PeerHandler, StartError, Timing};
pub use net::PeerNet;
pub use queue::{Lane, SendError};
pub use stats::{NetStats, PeerStats};
