//! Bugs to be switched on, so that tests can show that they would find them.
//!
//! Promises: nothing of this exists in a normal build: `planted` is then the constant `false`. Only
//! `RUSTFLAGS="--cfg henge_planted"` makes the bugs, and even then none is on until a test asks for it.
//! Must never know: tests.
//! Tests: `tests/network` finds each of them.

/// What can be broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// Votes for whoever asks, however often.
    VoteForEveryone,
    /// Forgets at a restart whom it voted for.
    ForgetVote,
    /// Votes for logs that lack what it has.
    VoteForShortLogs,
    /// Lets a vote go before it is durable.
    VoteBeforeDurable,
    /// Asks for votes, and leads, before its own term and vote are durable.
    LeadBeforeDurable,
    /// Acknowledges entries before they are durable.
    AcknowledgeBeforeDurable,
    /// Takes the answer to an overtaken append for the answer to the one that overtook it.
    SkipTermOfStorage,
    /// Commits entries of earlier terms by counting (paper, figure 8).
    CommitOldTerms,
    /// Lets learners acknowledge for voters.
    CountLearners,
    /// Needs only one majority in a joint configuration.
    OneMajority,
    /// Tells followers to commit what they were not seen to have.
    CommitUnmatched,
    /// Cuts the log behind every append, also a late one.
    CutAfterAppend,
    /// Lets one membership change follow another that is not applied.
    ChangesAtOnce,
    /// Takes any heartbeat response for the answer to the newest read (etcd issue 20418).
    LateReadAnswers,
    /// Answers reads before it has committed anything in its term.
    ReadBeforeCommit,
}

impl Bug {
    /// All of them.
    pub const ALL: [Bug; 15] = [
        Bug::VoteForEveryone,
        Bug::ForgetVote,
        Bug::VoteForShortLogs,
        Bug::VoteBeforeDurable,
        Bug::LeadBeforeDurable,
        Bug::AcknowledgeBeforeDurable,
        Bug::SkipTermOfStorage,
        Bug::CommitOldTerms,
        Bug::CountLearners,
        Bug::OneMajority,
        Bug::CommitUnmatched,
        Bug::CutAfterAppend,
        Bug::ChangesAtOnce,
        Bug::LateReadAnswers,
        Bug::ReadBeforeCommit,
    ];
}

/// Whether `bug` is on.
#[cfg(not(henge_planted))]
#[inline(always)]
pub(crate) const fn planted(_bug: Bug) -> bool {
    false
}

#[cfg(henge_planted)]
pub(crate) fn planted(bug: Bug) -> bool {
    switch::is_on(bug)
}

#[cfg(henge_planted)]
pub use switch::plant;

#[cfg(henge_planted)]
mod switch {
    use std::cell::Cell;

    use super::Bug;

    thread_local! {
        static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    /// Switches `bug` on, in this thread, and all others off.
    pub fn plant(bug: Option<Bug>) {
        PLANTED.set(bug);
    }

    pub(super) fn is_on(bug: Bug) -> bool {
        PLANTED.get() == Some(bug)
    }
}
