//! henge-tests: whole-system tests.
//!
//! `sim` runs a whole cluster in one thread, the real code of every layer over a simulated disk and
//! network, with time and dice from a seed. The other rooms look at real processes from outside: they
//! know ports, files, signals and exit codes, never how the server works inside.
//! Promises: a check that passes on a process passed on the binary that users run; a seed that failed
//! fails again.
//! Tested by planted faults that the checkers have to find, and by running the same suites on a real etcd.
#![allow(
    clippy::disallowed_methods,
    reason = "whole-system tests live in real time and wait for real processes"
)]

pub mod dice;
pub mod diff_wire;
pub mod embedded;
pub mod etcd;
pub mod full;
pub mod history;
pub mod leases;
pub mod load;
pub mod process;
pub mod rolling;
pub mod seccomp;
pub mod sim;
pub mod watched;
pub mod watcher;
