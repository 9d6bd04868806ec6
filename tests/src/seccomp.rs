//! A machine that refuses io_uring, for one child process: a real seccomp filter, as container runtimes
//! install one (Docker's default profile since 2023 answers EPERM; older ones, and kernels without it,
//! ENOSYS).
//!
//! Promises: the filter is on whatever `make` starts and on nothing else. A filter belongs to a thread
//! and is inherited by what that thread starts; so the thread is made for it and ends with it.
//! Must never know: what is started.

use std::thread;

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

/// `io_uring_setup`: the same number on every architecture (kernel, `scripts/syscall.tbl`).
const IO_URING_SETUP: i64 = 425;

/// The caller is not allowed to.
pub const EPERM: u32 = 1;
/// There is no such system call.
pub const ENOSYS: u32 = 38;

/// Runs `make` where `io_uring_setup` answers `errno`: for starting processes. An error: this machine
/// takes no filter.
pub fn without_io_uring<T: Send>(errno: u32, make: impl FnOnce() -> T + Send) -> Result<T, String> {
    let filter = filter(errno).map_err(|e| format!("seccomp filter: {e}"))?;
    thread::scope(|scope| {
        let made = scope.spawn(move || {
            seccompiler::apply_filter(&filter).map_err(|e| format!("seccomp: {e}"))?;
            Ok(make())
        });
        made.join()
            .unwrap_or_else(|_| Err("the thread under the filter panicked".to_owned()))
    })
}

fn filter(errno: u32) -> Result<BpfProgram, seccompiler::BackendError> {
    let rules = [(IO_URING_SETUP, Vec::new())].into();
    let (others, refused) = (SeccompAction::Allow, SeccompAction::Errno(errno));
    SeccompFilter::new(rules, others, refused, std::env::consts::ARCH.try_into()?)?.try_into()
}
