//! A core: one thread's worth of shards and the log they share.
//!
//! `inbox` is its door, `budget` what may wait behind it and `pressure` how much less while it refuses,
//! `open` builds its shards from its log and from checkpoints (`restore`), `turn` is what it does again and
//! again (`intake` its first stage), `seats` says where its shards sit, `agenda` and `timers` which of them
//! it looks at, `background` is what it does when nobody waits (`retries` says when it tries a failed
//! checkpoint again), `gauges` measures it, `work` bounds it, `ending` ends it, `log` is what it has to do
//! with its log, `guard` runs callers' code on its thread, `pack` puts messages to peers into frames. What
//! drives it (tokio-uring, a plain thread, the simulator) lives in `node/src/host` and sees only
//! [`turn::Core`].
//!
//! Invariant: a turn is synchronous and gets time, randomness and inputs from outside; the only place a
//! core waits is between turns.
//! Must never know: runtimes, sockets, files, clocks, protobuf, etcd's texts, members' addresses.

pub mod agenda;
mod background;
pub mod budget;
pub mod door;
mod ending;
pub mod gauges;
pub mod guard;
pub mod inbox;
mod intake;
mod log;
pub mod machine;
pub mod open;
pub mod pack;
mod pressure;
pub mod restore;
mod retries;
pub mod seats;
pub mod shard;
pub mod stream;
pub mod timers;
pub mod turn;
pub mod work;

pub use turn::{Core, CoreConfig, Lane, Next, Now, Peers};
