//! henge-tests: whole-system tests. Real processes, looked at from outside, and (`sim`) a whole
//! cluster in one thread, with time and dice from a seed.
//!
//! Promises: a check that passes here passed on the binary that users run; the simulator runs the same
//! code above the seams.
//! Must never know: how the server works inside; it has ports, files, signals and exit codes. Only
//! `sim` builds cores itself.
//! Tested by its own unit tests (the checkers have to find planted faults), and by running the same
//! suites on a real etcd.
#![allow(
    clippy::disallowed_methods,
    reason = "whole-system tests live in real time and wait for real processes"
)]

pub mod dice;
pub mod etcd;
pub mod history;
pub mod load;
pub mod process;
pub mod sim;
