//! `henge bench`: loads an engine in this process, or servers over the network, and says what it saw.
//!
//! `args` is the command line, `load` makes the operations and runs the clients, `embedded` and `remote`
//! are what they run against, `report` turns the counts into a table or JSON.
//!
//! Closed loop unless `--rate` is given: each client waits for its answer before it asks again, so its
//! latencies leave out queueing. With `--rate` arrivals follow a fixed schedule and latency counts from
//! the intended start (no coordinated omission).

mod args;
mod embedded;
mod load;
mod remote;
mod report;

pub use args::BenchArgs;

use std::process::ExitCode;

use super::output::{self, out, tell};

/// For wrong usage, as the flags' own errors.
const EXIT_USAGE: u8 = 2;

/// Runs the load and prints the result. Exit code 1 when it could not be run or operations failed, 2 for
/// arguments that do not fit together.
pub fn run(args: &BenchArgs) -> ExitCode {
    if let Err(why) = args.check() {
        tell!("error: {why}");
        return ExitCode::from(EXIT_USAGE);
    }
    let outcome = if args.endpoints.is_empty() {
        embedded::run(args)
    } else {
        remote::run(args)
    };
    match outcome {
        Ok(result) => {
            if args.json {
                out!("{}", report::json(args, &result));
            } else {
                output::text(&report::table(args, &result));
            }
            if result.failures > 0 {
                tell!("henge bench: {} operations failed", result.failures);
                return ExitCode::FAILURE;
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            tell!("henge bench: {error}");
            ExitCode::FAILURE
        }
    }
}
