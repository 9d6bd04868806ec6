//! The command line of the `henge` binary.
//!
//! `args` holds `serve`'s flags (etcd's names), `serve` runs the server, `bench` the load generator, `wal`
//! the offline log tools, `doctor` the look at the machine. Exit codes: 0 done, 1 failed, 2 wrong usage; the
//! tools document theirs.

mod announce;
pub mod args;
pub mod bench;
pub mod doctor;
pub mod flags;
mod identity;
mod known;
mod listeners;
mod log_lines;
pub mod logging;
pub mod options;
mod output;
pub mod salvage;
pub mod serve;
pub mod values;
pub mod wal;

use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

/// Wrong usage of the command line.
const EXIT_USAGE: u8 = 2;

/// A replicated, revisioned key-value store that any etcd v3 client can use.
#[derive(Parser, Debug)]
#[command(
    name = "henge",
    version,
    about,
    arg_required_else_help = true,
    propagate_version = true
)]
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
    let prepared = match flags::prepare(std::env::args_os(), std::env::vars_os()) {
        Ok(prepared) => prepared,
        Err(error) => return usage(&error.to_string()),
    };
    let cli = match parse(&prepared.args) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version, too, are errors to the parser. If nobody reads them, that is fine.
            let _ = error.print();
            let text = error.render().to_string();
            sources(&prepared, &text);
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(EXIT_USAGE));
        }
    };
    match cli.command {
        Command::Serve(args) => match args.validate() {
            Ok(mut config) => {
                config.warnings.extend(prepared.warnings);
                serve::run(config)
            }
            Err(error) => {
                let text = error.to_string();
                let code = usage(&text);
                sources(&prepared, &text);
                code
            }
        },
        Command::Bench(args) => output::end(bench::run(&args)),
        Command::Wal(args) => output::end(wal::run(&args)),
        Command::Doctor(args) => output::end(doctor::run(&args)),
    }
}

fn parse(args: &[std::ffi::OsString]) -> Result<Cli, clap::Error> {
    let command = Cli::command().mut_subcommand("serve", args::with_variables);
    Cli::from_arg_matches(&command.try_get_matches_from(args)?)
}

fn usage(error: &str) -> ExitCode {
    output::tell!("henge: {error}");
    ExitCode::from(EXIT_USAGE)
}

/// An error about a flag that nobody typed is about a variable.
fn sources(prepared: &flags::Prepared, error: &str) {
    for line in prepared.sources(error).lines() {
        output::tell!("henge: {line}");
    }
}
