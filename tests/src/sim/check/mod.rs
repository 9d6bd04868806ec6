//! The checkers: what a run showed against what the engine promises.
//!
//! etcd's revisions make checking nearly linear. All nodes together show one sequence of revisions
//! ([`super::model::Model`]); a revision that two nodes show differently, that is skipped or that cannot
//! be explained by exactly one operation is a violation. Every answer names the revision it was given
//! at, so it is executed on the model at that place and must be equal; real time then only asks that an
//! operation's place is not before that of any operation that had ended when it began.
//!
//! Must never know: how the engine works inside.

pub mod history;
pub mod matching;
pub mod watch;

/// A broken promise, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation(pub String);

impl std::fmt::Display for Violation {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(&self.0)
    }
}

impl From<String> for Violation {
    fn from(text: String) -> Self {
        Violation(text)
    }
}

/// Builds an `Err(Violation)`.
macro_rules! violated {
    ($($text:tt)*) => { Err($crate::sim::check::Violation(format!($($text)*))) };
}
pub(crate) use violated;
