//! The values raft speaks in: entries, hard and soft state, configurations, snapshots and messages.
//!
//! Promises: every type is plain data, passed by value; payloads are [`Bytes`] and never copied.
//! The numbers of [`MessageKind`] and [`EntryKind`] are those of etcd's `raftpb` and do not change:
//! they travel on the wire and sit in the log.
//! Must never know: how any of this is encoded (`wire`), stored or printed in full (`describe`).
//! Tests: the numbering below; everything else is tested by those who use these types.

use std::fmt;

use bytes::Bytes;

use crate::entries::Entries;

/// The id that stands for "no node": no leader, no vote, no sender.
pub const NONE: u64 = 0;
/// Target of [`MessageKind::StorageAppend`]: whatever makes entries and hard state durable here.
pub const LOCAL_APPEND_THREAD: u64 = u64::MAX;
/// Target of [`MessageKind::StorageApply`]: whatever applies committed entries here.
pub const LOCAL_APPLY_THREAD: u64 = u64::MAX - 1;

/// Bytes an entry is counted with beside its payload: term, index, kind and length as `wire` writes
/// them. One constant instead of an exact encoded size, because sizes are summed on the hot path.
pub const ENTRY_OVERHEAD_BYTES: u64 = 21;

/// What an entry's payload is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum EntryKind {
    /// A command of the state machine; empty for the entry a new leader starts its term with.
    #[default]
    Normal = 0,
    /// One membership change, encoded by [`ConfChange`](crate::ConfChange).
    ConfChange = 1,
    /// Several membership changes at once, encoded by [`ConfChangeV2`](crate::ConfChangeV2).
    ConfChangeV2 = 2,
}

impl EntryKind {
    /// The kind with this number, if there is one.
    pub fn from_u8(number: u8) -> Option<EntryKind> {
        match number {
            0 => Some(EntryKind::Normal),
            1 => Some(EntryKind::ConfChange),
            2 => Some(EntryKind::ConfChangeV2),
            _ => None,
        }
    }
}

impl fmt::Display for EntryKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            EntryKind::Normal => "EntryNormal",
            EntryKind::ConfChange => "EntryConfChange",
            EntryKind::ConfChangeV2 => "EntryConfChangeV2",
        })
    }
}

/// One slot of the replicated log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// Term of the leader that created it.
    pub term: u64,
    /// Position in the log; the first entry ever has index 1.
    pub index: u64,
    /// What `data` is.
    pub kind: EntryKind,
    /// The payload.
    pub data: Bytes,
}

impl Entry {
    /// What every size limit of [`Config`](crate::Config) counts this entry as, in bytes.
    pub fn size(&self) -> u64 {
        ENTRY_OVERHEAD_BYTES + self.data.len() as u64
    }

    /// Its (term, index).
    pub fn id(&self) -> EntryId {
        EntryId {
            term: self.term,
            index: self.index,
        }
    }
}

/// Names an entry: two logs with the same (term, index) hold the same entries up to it (raft paper, 5.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EntryId {
    /// Term of the entry.
    pub term: u64,
    /// Index of the entry.
    pub index: u64,
}

/// What must survive a restart beside the entries (raft paper, figure 2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    /// Latest term seen.
    pub term: u64,
    /// Who got our vote in `term`, or [`NONE`].
    pub vote: u64,
    /// Highest index known to be committed. May lag: it is safe to lose an update of it.
    pub commit: u64,
}

impl HardState {
    /// True for the value that means "nothing to write".
    pub fn is_empty(&self) -> bool {
        *self == HardState::default()
    }
}

/// What is useful for logs and routing and need not be stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SoftState {
    /// The leader this node believes in, or [`NONE`].
    pub leader: u64,
    /// The role of this node.
    pub role: RoleKind,
}

/// The four roles, without the data each carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RoleKind {
    /// Follows a leader, or waits for one.
    #[default]
    Follower,
    /// Asks for votes in a term of its own.
    Candidate,
    /// Decides the order of the log.
    Leader,
    /// Asks whether it would win, before it disturbs anyone (thesis, 9.6).
    PreCandidate,
}

impl fmt::Display for RoleKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RoleKind::Follower => "StateFollower",
            RoleKind::Candidate => "StateCandidate",
            RoleKind::Leader => "StateLeader",
            RoleKind::PreCandidate => "StatePreCandidate",
        })
    }
}

/// A membership configuration, as snapshots and hosts store it. The lists are sets: order means nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfState {
    /// Voters; in a joint configuration, those of the incoming half.
    pub voters: Vec<u64>,
    /// Nodes that get the log and do not vote.
    pub learners: Vec<u64>,
    /// Voters of the outgoing half of a joint configuration; empty otherwise.
    pub voters_outgoing: Vec<u64>,
    /// Voters of the outgoing half that become learners when the joint configuration is left.
    pub learners_next: Vec<u64>,
    /// Whether the leader leaves the joint configuration by itself.
    pub auto_leave: bool,
}

impl ConfState {
    /// Whether both describe the same configuration, whatever the order of their lists.
    pub fn is_equivalent(&self, other: &ConfState) -> bool {
        self.sorted() == other.sorted()
    }

    /// Whether `id` has any part in this configuration. (`learners_next` needs no look: whoever is
    /// there is in `voters_outgoing` too.)
    pub fn contains(&self, id: u64) -> bool {
        self.voters.contains(&id)
            || self.learners.contains(&id)
            || self.voters_outgoing.contains(&id)
    }

    fn sorted(&self) -> ConfState {
        let mut sorted = self.clone();
        sorted.voters.sort_unstable();
        sorted.learners.sort_unstable();
        sorted.voters_outgoing.sort_unstable();
        sorted.learners_next.sort_unstable();
        sorted
    }
}

/// What a snapshot is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SnapshotMeta {
    /// The configuration at `index`.
    pub conf_state: ConfState,
    /// The last entry the snapshot contains.
    pub index: u64,
    /// The term of that entry.
    pub term: u64,
}

/// A state machine's state in place of the log up to `meta.index`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// What it is about.
    pub meta: SnapshotMeta,
    /// The host's bytes: the state itself, or a note of where to fetch it.
    pub data: Bytes,
}

impl Snapshot {
    /// True for the value that means "no snapshot".
    pub fn is_empty(&self) -> bool {
        self.meta.index == 0
    }
}

macro_rules! message_kinds {
    ($($(#[$doc:meta])* $name:ident = $number:literal,)*) => {
        /// What a [`Message`] says. Numbers and meanings are those of etcd's raft.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum MessageKind {
            $($(#[$doc])* $name = $number,)*
        }

        impl MessageKind {
            /// All kinds, by number.
            pub const ALL: &'static [MessageKind] = &[$(MessageKind::$name),*];

            /// etcd's name, as it appears in log lines: `MsgApp`.
            pub fn name(self) -> &'static str {
                match self {
                    $(MessageKind::$name => concat!("Msg", stringify!($name)),)*
                }
            }
        }
    };
}

message_kinds! {
    /// Local: start an election.
    #[default]
    Hup = 0,
    /// Local: a leader's heartbeat timer fired.
    Beat = 1,
    /// Append these entries to the log, wherever the leader is.
    Prop = 2,
    /// Leader to follower: entries, the entry before them, and the commit index.
    App = 3,
    /// Follower to leader: matched up to `index`, or rejected with a hint.
    AppResp = 4,
    /// Candidate: vote for me in `term`.
    Vote = 5,
    /// The answer to `Vote`.
    VoteResp = 6,
    /// Leader to follower: here is a snapshot, your entries are gone.
    Snap = 7,
    /// Leader: I lead, and you may commit up to `commit`.
    Heartbeat = 8,
    /// Follower: I follow; echoes the heartbeat's context.
    HeartbeatResp = 9,
    /// Local: the last message to `from` did not get through.
    Unreachable = 10,
    /// Local: the snapshot sent to `from` arrived, or (`reject`) did not.
    SnapStatus = 11,
    /// Local: a leader checks that it hears from a quorum.
    CheckQuorum = 12,
    /// Hand leadership to `from`.
    TransferLeader = 13,
    /// Leader to the chosen follower: start an election now.
    TimeoutNow = 14,
    /// Which index must be applied for a linearizable read?
    ReadIndex = 15,
    /// The answer to `ReadIndex`.
    ReadIndexResp = 16,
    /// Would you vote for me in `term`?
    PreVote = 17,
    /// The answer to `PreVote`.
    PreVoteResp = 18,
    /// To [`LOCAL_APPEND_THREAD`]: make this durable, then deliver `responses`.
    StorageAppend = 19,
    /// From [`LOCAL_APPEND_THREAD`]: entries up to (`log_term`, `index`) are durable.
    StorageAppendResp = 20,
    /// To [`LOCAL_APPLY_THREAD`]: apply these entries, then deliver `responses`.
    StorageApply = 21,
    /// From [`LOCAL_APPLY_THREAD`]: these entries are applied.
    StorageApplyResp = 22,
    /// Local: a follower forgets its leader, and so may vote for another.
    ForgetLeader = 23,
}

impl MessageKind {
    /// The kind with this number, if there is one.
    pub fn from_u8(number: u8) -> Option<MessageKind> {
        MessageKind::ALL.get(usize::from(number)).copied()
    }

    /// Whether only this node may say it to itself; over a network it is refused.
    pub fn is_local(self) -> bool {
        use MessageKind::*;
        matches!(
            self,
            Hup | Beat
                | Unreachable
                | SnapStatus
                | CheckQuorum
                | StorageAppend
                | StorageAppendResp
                | StorageApply
                | StorageApplyResp
        )
    }

    /// Whether it answers something, and so is only welcome from a node we know.
    pub fn is_response(self) -> bool {
        use MessageKind::*;
        matches!(
            self,
            AppResp
                | VoteResp
                | HeartbeatResp
                | Unreachable
                | ReadIndexResp
                | PreVoteResp
                | StorageAppendResp
                | StorageApplyResp
        )
    }
}

impl fmt::Display for MessageKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Whether `id` is one of the two local threads.
pub fn is_local_target(id: u64) -> bool {
    id == LOCAL_APPEND_THREAD || id == LOCAL_APPLY_THREAD
}

/// Everything nodes say to each other, and a node to its own storage. Which fields mean something
/// depends on `kind`; the others are zero or empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// What is said.
    pub kind: MessageKind,
    /// To whom.
    pub to: u64,
    /// By whom.
    pub from: u64,
    /// The sender's term; 0 in local messages and forwarded requests.
    pub term: u64,
    /// Term of the entry at `index` (`App`, votes), or of the entry at `reject_hint` (`AppResp`).
    pub log_term: u64,
    /// The entry before `entries` (`App`), the last log index (votes), the acknowledged or rejected
    /// index (`AppResp`), the read index (`ReadIndexResp`).
    pub index: u64,
    /// Entries to append, propose or apply; for reads, one entry with the context as its data.
    pub entries: Entries,
    /// The sender's commit index, as far as the receiver may use it.
    pub commit: u64,
    /// `StorageAppend`: the vote to store.
    pub vote: u64,
    /// `Snap`, `StorageAppend` and its response.
    pub snapshot: Option<Box<Snapshot>>,
    /// No.
    pub reject: bool,
    /// `AppResp`: where the follower's log may match.
    pub reject_hint: u64,
    /// Heartbeats: the position of the newest unconfirmed read. Votes: the campaign's type.
    pub context: Bytes,
    /// `StorageAppend`, `StorageApply`: to be delivered when the work is done.
    pub responses: Vec<Message>,
}

impl Message {
    /// The hard state a `StorageAppend` asks to store; empty if it asks for none.
    pub fn hard_state(&self) -> HardState {
        HardState {
            term: self.term,
            vote: self.vote,
            commit: self.commit,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_positions() {
        for (position, kind) in MessageKind::ALL.iter().enumerate() {
            assert_eq!(*kind as usize, position);
            assert_eq!(MessageKind::from_u8(position as u8), Some(*kind));
        }
        assert_eq!(MessageKind::ALL.len(), 24);
        assert_eq!(MessageKind::from_u8(24), None);
        assert_eq!(MessageKind::AppResp.name(), "MsgAppResp");
    }

    #[test]
    fn equivalence_ignores_order() {
        let one = ConfState {
            voters: vec![1, 2, 3],
            learners: vec![5, 4],
            ..ConfState::default()
        };
        let two = ConfState {
            voters: vec![3, 1, 2],
            learners: vec![4, 5],
            ..ConfState::default()
        };
        assert!(one.is_equivalent(&two));
        assert!(!one.is_equivalent(&ConfState {
            auto_leave: true,
            ..two.clone()
        }));
        assert!(one.contains(4) && !one.contains(6));
    }
}
