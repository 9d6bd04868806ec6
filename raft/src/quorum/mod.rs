//! Majorities, and pairs of majorities: what is committed, who is elected.
//!
//! Promises: pure functions of a configuration and what its members said.
//! Must never know: logs, terms or messages. An index here is any number that only grows: a log
//! index, or the position of a read.
//! Tests: etcd's `quorum` transcripts (`tests/transcripts`), and naive twins by proptest in each file.

mod joint;
mod majority;

use std::fmt;

pub use joint::JointConfig;
pub use majority::MajorityConfig;

/// How a vote stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VoteResult {
    /// Neither is sure yet.
    Pending,
    /// A quorum said no, or can no longer say yes.
    Lost,
    /// A quorum said yes.
    Won,
}

impl fmt::Display for VoteResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Vote{self:?}")
    }
}
