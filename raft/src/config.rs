//! How a node is set up: every knob with its reason, its danger and a value to start from.
//!
//! Promises: [`Config::validate`] refuses every combination that cannot work; what it accepts is used
//! as given.
//! Must never know: storage, or the state machine that is configured.
//! Tests: below, one per refusal.

use std::fmt;
use std::sync::Arc;

use crate::error::ConfigError;
use crate::logger::Logger;
use crate::message::{NONE, is_local_target};
use crate::trace::Tracer;

/// "No limit" for every size in [`Config`].
pub const NO_LIMIT: u64 = u64::MAX;

/// How a leader makes sure that a read sees everything written before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReadOnly {
    /// It asks a quorum whether it still leads. Safe whatever the clocks do; costs a round trip that
    /// all reads of the moment share. Take this one.
    #[default]
    Safe,
    /// It trusts that nobody else was elected while it thinks it leads. Costs nothing, and returns stale
    /// data if a clock stops or jumps (a paused VM is enough), or if followers restart and forget that
    /// they follow; and even with perfect clocks a leader that is cut off finds out up to one
    /// `election_tick` after another may have been elected, as in etcd's library. After a transfer of
    /// leadership was begun it asks a quorum, as `Safe` does. Needs `check_quorum`.
    LeaseBased,
}

/// How to run one member of one group. Start from [`Config::new`].
#[derive(Clone)]
pub struct Config {
    /// This node's id: unique in the group for ever (never give a removed member's id to a new one:
    /// it may have voted), not 0 and not one of the two highest numbers.
    pub id: u64,
    /// Ticks without a word from the leader before a follower campaigns; the real timeout is drawn
    /// from `election_tick..2 * election_tick`. Too small and a hiccup deposes leaders; too large and
    /// a dead leader is missed late. Ten times `heartbeat_tick`.
    pub election_tick: u32,
    /// Ticks between a leader's heartbeats. Must be well under `election_tick`. 1.
    pub heartbeat_tick: u32,
    /// The last index the host's state machine has applied; committed entries after it are handed
    /// out again. Too low and commands are applied twice (a state machine that cannot bear that must
    /// store this index with its state). 0 for a new node.
    pub applied: u64,
    /// Whether storage work is handed out as messages that answer when done, so that several writes
    /// can be in flight; see [`Ready`](crate::Ready). Off: `advance` says that all is done.
    pub async_storage_writes: bool,
    /// Bytes of entries in one append message. Small values make loss cheap and catching up slow.
    /// 0: one entry each. 1 MiB.
    pub max_size_per_msg: u64,
    /// Bytes of committed entries handed out and not yet reported applied. Bounds the memory and the
    /// pause of a slow state machine. 0: as `max_size_per_msg`.
    pub max_committed_size_per_ready: u64,
    /// Payload bytes a leader takes while they are not committed; beyond, proposals are dropped.
    /// Without a limit, a leader that lost its quorum collects proposals until memory ends.
    /// 0: no limit. 1 GiB divided by the number of groups that share the memory.
    pub max_uncommitted_entries_size: u64,
    /// Append messages in flight to one follower. Bounds what a lost connection throws away. 256.
    pub max_inflight_msgs: usize,
    /// Bytes in flight to one follower, softly (the last message may exceed it). Bounds bandwidth
    /// times delay: 1 MiB in flight over a round trip of 100 ms is at most 10 MiB/s. 0: no limit.
    pub max_inflight_bytes: u64,
    /// Whether a leader that has not heard from a quorum for `election_tick` steps down, and
    /// followers refuse votes while they hear from their leader. Without it a cut-off leader takes
    /// reads and proposals it can never finish. On.
    pub check_quorum: bool,
    /// Whether a candidate first asks if it could win (thesis, 9.6), so that a node that comes back
    /// from a partition does not depose a healthy leader. On. With neither this nor `check_quorum`, a
    /// removed member that campaigns on can get a member stuck in a term of its own.
    pub pre_vote: bool,
    /// How reads are made linearizable.
    pub read_only: ReadOnly,
    /// Whether a follower drops proposals instead of passing them on. For hosts whose leader computes
    /// what it proposes (a timestamp, say), so that no follower may. Off.
    pub disable_proposal_forwarding: bool,
    /// Dangerous: with asynchronous storage writes, a candidate's requests for votes are handed out at
    /// once, as etcd's library does, and not as responses of the append that makes its term durable. A
    /// candidate that crashes in between forgets that term and what was at the end of its log, wins the
    /// same term with votes that were given to the longer log, and leads without committed entries.
    /// Only for comparing with etcd's transcripts, or for hosts that hold the requests back themselves.
    /// Off.
    pub dangerous_early_vote_requests: bool,
    /// Dangerous: no check of proposed membership changes against the present configuration. Only for
    /// hosts that serialise and check changes themselves: an invalid change that commits is refused
    /// when applied, on every node. Off.
    pub disable_conf_change_validation: bool,
    /// Whether a leader that is removed or demoted steps down once that is applied. Without it the
    /// removed node goes on leading and drops all proposals. On.
    pub step_down_on_removal: bool,
    /// Seed of the election timeouts: the only randomness there is. Must differ between the members
    /// of a group, or they campaign in step.
    pub random_seed: u64,
    /// Where log lines go; `None` costs nothing.
    pub logger: Option<Arc<dyn Logger>>,
    /// Where events go, as values; `None` costs nothing. A slow one slows the group.
    pub tracer: Option<Arc<dyn Tracer>>,
}

impl Config {
    /// The suggested values for node `id`, with the id as the seed.
    pub fn new(id: u64) -> Config {
        Config {
            id,
            election_tick: 10,
            heartbeat_tick: 1,
            applied: 0,
            async_storage_writes: false,
            max_size_per_msg: 1 << 20,
            max_committed_size_per_ready: 0,
            max_uncommitted_entries_size: 1 << 30,
            max_inflight_msgs: 256,
            max_inflight_bytes: 0,
            check_quorum: true,
            pre_vote: true,
            read_only: ReadOnly::Safe,
            disable_proposal_forwarding: false,
            dangerous_early_vote_requests: false,
            disable_conf_change_validation: false,
            step_down_on_removal: true,
            random_seed: id,
            logger: None,
            tracer: None,
        }
    }

    /// Checks what can be checked without storage.
    ///
    /// # Errors
    /// [`ConfigError`], naming the field.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.id == NONE || is_local_target(self.id) {
            return Err(ConfigError::ReservedId(self.id));
        }
        if self.heartbeat_tick == 0 {
            return Err(ConfigError::HeartbeatTick);
        }
        // The upper half keeps `2 * election_tick` inside u32.
        if self.election_tick <= self.heartbeat_tick || self.election_tick > u32::MAX / 2 {
            let (election, heartbeat) = (self.election_tick, self.heartbeat_tick);
            return Err(ConfigError::ElectionTick {
                election,
                heartbeat,
            });
        }
        if self.max_inflight_msgs == 0 {
            return Err(ConfigError::InflightMsgs);
        }
        if self.max_inflight_bytes != 0 && self.max_inflight_bytes < self.max_size_per_msg {
            let (inflight, message) = (self.max_inflight_bytes, self.max_size_per_msg);
            return Err(ConfigError::InflightBytes { inflight, message });
        }
        if self.read_only == ReadOnly::LeaseBased && !self.check_quorum {
            return Err(ConfigError::LeaseNeedsCheckQuorum);
        }
        Ok(())
    }

    /// `max_committed_size_per_ready` with its zero resolved.
    pub(crate) fn committed_size_max(&self) -> u64 {
        match self.max_committed_size_per_ready {
            0 => self.max_size_per_msg,
            size => size,
        }
    }

    /// `max_uncommitted_entries_size` with its zero resolved.
    pub(crate) fn uncommitted_size_max(&self) -> u64 {
        match self.max_uncommitted_entries_size {
            0 => NO_LIMIT,
            size => size,
        }
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("id", &self.id)
            .field("election_tick", &self.election_tick)
            .field("heartbeat_tick", &self.heartbeat_tick)
            .field("applied", &self.applied)
            .field("async_storage_writes", &self.async_storage_writes)
            .field("check_quorum", &self.check_quorum)
            .field("pre_vote", &self.pre_vote)
            .field("read_only", &self.read_only)
            .field("random_seed", &self.random_seed)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid_and_each_mistake_is_named() {
        assert_eq!(Config::new(1).validate(), Ok(()));
        let check = |change: fn(&mut Config)| {
            let mut config = Config::new(1);
            change(&mut config);
            config.validate().unwrap_err()
        };
        assert_eq!(check(|c| c.id = 0), ConfigError::ReservedId(0));
        assert_eq!(
            check(|c| c.id = u64::MAX),
            ConfigError::ReservedId(u64::MAX)
        );
        assert_eq!(check(|c| c.heartbeat_tick = 0), ConfigError::HeartbeatTick);
        let expected = ConfigError::ElectionTick {
            election: 1,
            heartbeat: 1,
        };
        assert_eq!(check(|c| c.election_tick = 1), expected);
        assert_eq!(
            check(|c| c.max_inflight_msgs = 0),
            ConfigError::InflightMsgs
        );
        let expected = ConfigError::InflightBytes {
            inflight: 1,
            message: 1 << 20,
        };
        assert_eq!(check(|c| c.max_inflight_bytes = 1), expected);
        let lease = |c: &mut Config| {
            c.read_only = ReadOnly::LeaseBased;
            c.check_quorum = false;
        };
        assert_eq!(check(lease), ConfigError::LeaseNeedsCheckQuorum);
    }

    #[test]
    fn zeroes_mean_what_the_fields_say() {
        let mut config = Config::new(1);
        config.max_uncommitted_entries_size = 0;
        assert_eq!(config.committed_size_max(), 1 << 20);
        assert_eq!(config.uncommitted_size_max(), NO_LIMIT);
    }
}
