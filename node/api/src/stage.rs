//! The parts that a core's turn is measured in.
//!
//! Must never know: what a core does in them.

/// The parts of a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// What the log completed.
    Completions,
    /// Requests and frames.
    Intake,
    /// Timers, expiry, asking for read indexes.
    Time,
    /// Raft: proposing, Ready, staging entries.
    Ready,
    /// Committed entries into the store.
    Apply,
    /// Handing the batch to the disk.
    Submit,
    /// Frames to peers.
    Send,
    /// Waking callers.
    Answer,
    /// Slices of compaction, checkpoints, late watchers.
    Background,
}

/// Number of stages.
pub const STAGES: usize = 9;
/// Their names, in order.
pub const STAGE_NAMES: [&str; STAGES] = [
    "completions",
    "intake",
    "time",
    "ready",
    "apply",
    "submit",
    "send",
    "answer",
    "background",
];
