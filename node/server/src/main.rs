//! The `henge` binary: a server for etcd clients, a load generator, and offline tools.

use std::process::ExitCode;

/// Small allocations of many threads are this program's daily bread; measured against the system
/// allocator in docs/performance.md. Only the binary chooses: a library must not.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // A file that may not grow is an error to be told, not a reason to be gone without a word.
    henge::wal::disk::outlive_file_limit();
    henge_server::main()
}
