//! The revisioned store of Henge.
#![forbid(unsafe_code)]

pub mod check;
mod error;
mod store;
mod types;

pub use error::{Error, SnapshotError};
pub use store::*;
pub use types::*;
