//! `henge bench`: loads an engine in this process, or servers over the network, and says what it saw.
//!
//! `args` is the command line, `op` makes the operations, `prefill` the keys they read, `window` is the time
//! that is measured, `clients` run in it, `supervise` and `signals` end it, `tally` and `usage` count;
//! `embedded` (in its `scratch` directory) and `remote` (which `dial`s) are what they run against, `seen` is
//! the wait for a watcher; `report` draws conclusions and `show` makes a table or JSON of them.
//!
//! Closed loop unless `--rate` is given: each client waits for its answer before it asks again, so its
//! latencies leave out queueing. With `--rate` arrivals follow a fixed schedule and latency counts from
//! the intended start (no coordinated omission).

mod args;
mod clients;
mod dial;
mod embedded;
mod op;
mod prefill;
mod remote;
mod report;
mod scratch;
mod seen;
mod show;
mod signals;
mod supervise;
mod tally;
mod usage;
mod window;

pub use args::BenchArgs;

use std::process::ExitCode;

use super::output::{self, out, tell};
use report::RunResult;
use signals::Signals;

/// For wrong usage, as the flags' own errors.
const EXIT_USAGE: u8 = 2;

/// Runs the load and prints the result. Exit code 1 when it could not be run, when operations failed or none
/// was answered; 2 for arguments that do not fit together; 130 or 143 when SIGINT or SIGTERM ended it, after
/// printing what was measured by then.
pub fn run(args: &BenchArgs) -> ExitCode {
    if let Err(why) = args.check() {
        tell!("error: {why}");
        return ExitCode::from(EXIT_USAGE);
    }
    let outcome = Signals::install().and_then(|signals| {
        if args.endpoints.is_empty() {
            embedded::run(args, &signals)
        } else {
            remote::run(args, &signals)
        }
    });
    match outcome {
        Ok(result) => conclude(args, &result),
        Err(error) => {
            tell!("henge bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn conclude(args: &BenchArgs, result: &RunResult) -> ExitCode {
    if args.json {
        out!("{}", show::json(args, result));
        for remark in result.remarks(args) {
            tell!("henge bench: {remark}");
        }
    } else if result.window.is_some() {
        output::text(&show::table(args, result));
    }
    if result.window.is_none() && result.caught.is_some() {
        let prefill = &result.prefill;
        let far = if prefill.begun() {
            let keys = prefill.there() + prefill.written();
            format!("prefill at {keys} of {} keys", args.keyspace)
        } else {
            "before it began".to_owned()
        };
        tell!("henge bench: nothing was measured ({far})");
    }
    let failure = result.failure();
    if let Some(why) = &failure {
        tell!("henge bench: {why}");
    }
    match result.caught {
        Some(caught) => ExitCode::from(caught.exit_code()),
        None if failure.is_some() => ExitCode::FAILURE,
        None => ExitCode::SUCCESS,
    }
}
