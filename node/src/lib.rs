//! henge

pub mod peer;
