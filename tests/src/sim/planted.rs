//! Bugs planted outside the product: in the disk, the network, the recovery's input, or the clients'
//! path. Each imitates a mistake that a store could make; the checkers must find every one, or they are
//! blind.

use std::fmt;
use std::str::FromStr;

use super::Options;

/// A bug to plant in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Planted {
    /// The disk says "durable" at once and writes later: a log without sync.
    AckBeforeDurable,
    /// A crash undoes the last write that was acknowledged as durable: a lying cache.
    LostWrite,
    /// Recovery keeps only entries known to be committed: the acknowledged tail is forgotten.
    LostTail,
    /// Recovery forgets for whom this member voted.
    LostVote,
    /// Linearizable reads are answered from the local replica.
    StaleRead,
    /// A forwarded proposal may arrive twice.
    RepeatedProposal,
    /// Recovery changes a byte of a value on one replica.
    RottenReplica,
    /// One watch response in a hundred never reaches its client.
    LostEvent,
    /// A node that is behind a watcher's begin, or behind what another node has shown it, tells it how far
    /// the node is: its client resumes there.
    EarlyNote,
    /// A power loss undoes what was written to the layout file since the machine started: renamed, never
    /// synced.
    LostLayout,
    /// A checkpoint is named before it is synced: the disk says that it was, and does nothing.
    UnsyncedCheckpoint,
    /// Segments are purged before the checkpoint that replaces them is durable: the sync of its name is said
    /// to be done, and is not.
    EarlyPurge,
}

/// All of them.
pub const ALL: [Planted; 12] = [
    Planted::AckBeforeDurable,
    Planted::LostWrite,
    Planted::LostTail,
    Planted::LostVote,
    Planted::StaleRead,
    Planted::RepeatedProposal,
    Planted::RottenReplica,
    Planted::LostEvent,
    Planted::EarlyNote,
    Planted::LostLayout,
    Planted::UnsyncedCheckpoint,
    Planted::EarlyPurge,
];

impl Planted {
    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Planted::AckBeforeDurable => "ack-before-durable",
            Planted::LostWrite => "lost-write",
            Planted::LostTail => "lost-tail",
            Planted::LostVote => "lost-vote",
            Planted::StaleRead => "stale-read",
            Planted::RepeatedProposal => "repeated-proposal",
            Planted::RottenReplica => "rotten-replica",
            Planted::LostEvent => "lost-event",
            Planted::EarlyNote => "early-note",
            Planted::LostLayout => "lost-layout",
            Planted::UnsyncedCheckpoint => "unsynced-checkpoint",
            Planted::EarlyPurge => "early-purge",
        }
    }

    /// Nodes a run needs for the bug to show.
    pub fn nodes(self) -> usize {
        match self {
            Planted::AckBeforeDurable | Planted::LostWrite | Planted::LostTail => 1,
            Planted::LostEvent | Planted::LostLayout => 1,
            Planted::UnsyncedCheckpoint | Planted::EarlyPurge => 1,
            _ => 3,
        }
    }

    /// A run of a seed in which the bug can show.
    pub fn options(self, seed: u64) -> Options {
        let options = match self {
            Planted::LostLayout => Options::machine(seed),
            _ => Options {
                nodes: self.nodes(),
                ..Options::new(seed)
            },
        };
        Options {
            planted: Some(self),
            ..options
        }
    }
}

impl fmt::Display for Planted {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

impl FromStr for Planted {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        ALL.into_iter()
            .find(|planted| planted.name() == name)
            .ok_or_else(|| {
                let names: Vec<_> = ALL.iter().map(|planted| planted.name()).collect();
                format!(
                    "no planted bug is called {name:?}; there are {}",
                    names.join(", ")
                )
            })
    }
}
