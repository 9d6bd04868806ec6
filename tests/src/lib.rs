//! henge-tests: whole-system tests. Real processes, looked at from outside.
//!
//! Promises: a check that passes here passed on the binary that users run.
//! Must never know: how the server works inside; it has ports, files, signals and exit codes.
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
