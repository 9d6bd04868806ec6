//! The command line of the `henge` binary.
//!
//! `args` holds `serve`'s flags (etcd's names), `serve` runs the server, `bench` the load generator, `wal`
//! the offline log tools, `doctor` the look at the machine. Exit codes: 0 done, 1 failed, 2 wrong usage; the tools document theirs.

pub mod args;
pub mod bench;
pub mod compaction;
pub mod doctor;
pub mod flags;
pub mod logging;
pub mod options;
pub mod serve;
pub mod values;
pub mod wal;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Wrong usage of the command line.
const EXIT_USAGE: u8 = 2;

/// A replicated, revisioned key-value store that any etcd v3 client can use.
#[derive(Parser, Debug)]
#[command(name = "henge", version, about, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Serve etcd clients: a single node, or a member of a static cluster
    Serve(Box<args::ServeArgs>),
    /// Load an engine or servers, and measure
    Bench(bench::BenchArgs),
    /// Look at a log without changing it
    Wal(wal::WalArgs),
    /// Look at this machine: kernel, io_uring, disk, limits, commit latency; with advice
    Doctor(doctor::DoctorArgs),
}

/// Parses the command line and does what it says.
pub fn main() -> ExitCode {
    let variable = |name: &str| std::env::var(name).ok();
    let prepared = match flags::prepare(std::env::args_os(), variable) {
        Ok(prepared) => prepared,
        Err(error) => return usage(&error),
    };
    match Cli::parse_from(prepared.args).command {
        Command::Serve(args) => match args.validate() {
            Ok(mut config) => {
                config.warnings.extend(prepared.warnings);
                serve::run(config)
            }
            Err(error) => usage(&error),
        },
        Command::Bench(args) => bench::run(&args),
        Command::Wal(args) => wal::run(&args),
        Command::Doctor(args) => doctor::run(&args),
    }
}

fn usage(error: &flags::UsageError) -> ExitCode {
    eprintln!("henge: {error}");
    ExitCode::from(EXIT_USAGE)
}
