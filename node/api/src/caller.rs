//! Who asks.
//!
//! Promises: cheap to copy, so that every call carries one. Must never know: names, passwords, tokens;
//! whoever reads a call's metadata has looked them up.

use std::num::NonZeroU64;

/// Who asks, and what was true of users and their rights when he was let in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    user: Option<NonZeroU64>,
    auth_revision: u64,
}

impl Caller {
    /// Nobody in particular: whoever calls where there are no users.
    pub const fn nobody() -> Self {
        Caller {
            user: None,
            auth_revision: 0,
        }
    }

    /// A user by his number, as of a revision of the users and their rights.
    pub const fn user(user: NonZeroU64, auth_revision: u64) -> Self {
        Caller {
            user: Some(user),
            auth_revision,
        }
    }

    /// The user's number.
    pub fn user_number(&self) -> Option<NonZeroU64> {
        self.user
    }

    /// The revision of users and rights that he was let in by.
    pub fn auth_revision(&self) -> u64 {
        self.auth_revision
    }
}
