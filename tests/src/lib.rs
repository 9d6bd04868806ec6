//! Whole-system tests of Henge: tools that the tests and binaries of this crate share.
//!
//! `sim` runs a whole cluster in one thread, with time and dice from a seed.

pub mod sim;
