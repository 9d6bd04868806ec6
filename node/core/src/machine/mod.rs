//! The replicated state machine: the commands of the log, applied in order to the store.
//!
//! Promises: the same entries in the same order give the same store on every replica; time reaches it
//! only as a parameter and only moves lease deadlines, which are not replicated state.
//! Must never know: raft messages, the log, callers' futures.

pub mod alarms;
pub mod apply;
pub mod command;
mod decode;
mod decoded;
mod encode;
pub mod lease_id;

pub use apply::{ApplyBegun, LongApply, Machine, ReadBegun, Response};
pub use command::{Command, CommandError, Stamp};
pub use decoded::{Decoded, LongTxn};
