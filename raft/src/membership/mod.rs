//! Who is in the group, and how that changes without ever having two majorities (thesis, chapter 4).
//!
//! `change` holds the proposals and their encoding, `joint` the transitions between configurations,
//! `restore` the way back from a stored [`ConfState`](crate::ConfState), `switch` what a running node
//! does when its configuration changes.

mod change;
mod joint;
mod restore;
mod switch;

pub use change::{
    ConfChange, ConfChangeKind, ConfChangeSingle, ConfChangeV2, DecodeError, Transition,
    parse_changes,
};
pub use joint::{ChangeError, Changer};
pub use restore::restore;
