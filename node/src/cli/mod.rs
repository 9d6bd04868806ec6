//! The command line of the `henge` binary.
//!
//! `args` holds `serve`'s flags (etcd's names), `serve` runs the server, `bench` the load generator, `wal`
//! the offline log tools. Exit codes: 0 done, 1 failed, 2 wrong usage; the tools document theirs.

pub mod bench;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A replicated, revisioned key-value store that any etcd v3 client can use.
#[derive(Parser, Debug)]
#[command(name = "henge", version, about, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Load an engine or servers, and measure
    Bench(bench::BenchArgs),
}

/// Parses the command line and does what it says.
pub fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Bench(args) => bench::run(&args),
    }
}
