//! The revisioned store of Henge.
#![forbid(unsafe_code)]

pub mod check;
mod error;
mod history;
mod index;
mod keys;
mod store;
#[cfg(test)]
mod testing;
mod types;
mod varint;
mod version;

pub use error::{Error, SnapshotError};
pub use store::*;
pub use types::*;
