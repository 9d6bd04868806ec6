//! Kills real servers at random moments under load, and holds them to what they acknowledged.
//!
//!     cargo run --release -p henge-tests --bin crash -- [--rounds 20] [--seed N] [--binary PATH]
//!     cargo run --release -p henge-tests --bin crash -- --cluster 3 [--rounds 10]
//!     cargo run --release -p henge-tests --bin crash -- --embedded-shards 64 [--rounds 20]
//!     cargo run --release -p henge-tests --bin crash -- --cluster 3 --rolling [--gap-ms 1000]
//!     cargo run --release -p henge-tests --bin crash -- --cluster 3 --leases 20000
//!
//! Promises: prints the seed first and `key=value` pairs last; exits 1 on a violation and keeps the
//! data directories then. One server: kill -9, restart (sometimes killed again while it recovers),
//! then every acknowledged write is there with its value and revisions, unanswered ones wholly or
//! not at all, and the revision accounts for each. A cluster: the leader is killed, writes resume
//! through the others within 3 s, the old leader comes back and catches up, and all members hold
//! the same. Clients watch meanwhile, from the past, from now and from revisions yet to come, and resume on
//! any member after the last revision they were told: each is shown every change it asked for, once
//! (`henge_tests::watched`). With `--embedded-shards`: a process that embeds an engine with so many shards,
//! killed and opened again with another number of cores each time (`henge_tests::embedded`). With `--rolling`
//! nobody is killed: each member is asked to end and started again under load, and no request may fail
//! (`henge_tests::rolling`). With `--leases`: so many leases of 5 s are kept alive by one stream through a
//! follower (`henge_tests::leases`).
//! Must never know: the server's inside; any server that takes etcd's flags will do (`--plain`).
//! Tested by running it on a real etcd, and by the planted faults in `history.rs`.
#![allow(
    clippy::disallowed_methods,
    reason = "whole-system tests live in real time and wait for real processes"
)]

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use tokio::runtime::Runtime;

use henge_tests::dice::Dice;
use henge_tests::embedded::{self, Planted, child};
use henge_tests::history::History;
use henge_tests::leases;
use henge_tests::process::{Member, Program, Scratch, Server};
use henge_tests::watched::Watched;

mod run;

use run::Run;

/// Kills real servers at random moments under load and checks what they acknowledged.
#[derive(Parser, Debug)]
struct Options {
    /// How often to kill. Default: 20, or 10 with --cluster.
    #[arg(long)]
    rounds: Option<u64>,
    /// Repeats the choices of a run that printed this.
    #[arg(long, env = "HENGE_SEED")]
    seed: Option<u64>,
    /// The server to kill; without it this workspace's, built if need be.
    #[arg(long)]
    binary: Option<PathBuf>,
    /// `--binary` takes etcd's flags without a subcommand (an etcd).
    #[arg(long, requires = "binary")]
    plain: bool,
    /// Members of the cluster.
    #[arg(long, default_value_t = 1)]
    cluster: usize,
    /// Connections with one operation in flight each.
    #[arg(long, default_value_t = 12)]
    clients: u64,
    /// Streams of watchers, beside one for each member that watches everything.
    #[arg(long, default_value_t = 6)]
    watch_streams: u64,
    /// Restarts each member of the cluster once, in good order, under 500 puts a second by 64 clients.
    #[arg(long)]
    rolling: bool,
    /// With --rolling: the longest time without an acknowledgement that passes. The figure to reach is 100;
    /// the default is what a busy machine with two cores cannot fail by its own noise, and a hung request
    /// (seven seconds) cannot pass.
    #[arg(long, default_value_t = 1_000, requires = "rolling")]
    gap_ms: u64,
    /// Keeps so many leases of 5 s alive through one stream, instead of killing anybody.
    #[arg(long, conflicts_with = "rolling")]
    leases: Option<u32>,
    /// Kills a process that embeds an engine with so many shards, instead of servers.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    embedded_shards: Option<u16>,
    /// With --embedded-shards: a bug that has to be found (lost-tail, split-txn).
    #[arg(long, requires = "embedded_shards")]
    planted: Option<Planted>,
    /// Is the process that is killed, on this directory.
    #[arg(long, hide = true, requires_all = ["embedded_shards", "cores", "number"])]
    embedded_child: Option<PathBuf>,
    #[arg(long, hide = true)]
    cores: Option<usize>,
    #[arg(long, hide = true)]
    number: Option<u64>,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let seed = options.seed.unwrap_or_else(Dice::fresh_seed);
    if let Some(dir) = &options.embedded_child {
        return be_killed(&options, dir, seed);
    }
    println!("seed={seed}");
    if let Some(shards) = options.embedded_shards {
        return embedded(&options, shards.into(), seed);
    }
    match prepare(&options, seed) {
        Ok((runtime, scratch, run)) if options.rolling || options.leases.is_some() => {
            in_peace(&options, &runtime, scratch, run)
        }
        Ok((runtime, scratch, run)) => conduct(&options, &runtime, scratch, run, seed),
        Err(why) => {
            eprintln!("error: {why}");
            ExitCode::FAILURE
        }
    }
}

/// The process under test of `--embedded-shards`.
fn be_killed(options: &Options, dir: &Path, seed: u64) -> ExitCode {
    let order = child::Order {
        shards: options.embedded_shards.unwrap_or(1).into(),
        cores: options.cores.unwrap_or(1),
        number: options.number.unwrap_or(0),
        seed,
        planted: options.planted,
    };
    if let Err(why) = child::run(dir, order) {
        eprintln!("error: {why}");
    }
    // It is killed; every other end is one that the killer reports.
    ExitCode::FAILURE
}

fn embedded(options: &Options, shards: usize, seed: u64) -> ExitCode {
    let made = Scratch::new("crash-embedded").and_then(|scratch| {
        let program = std::env::current_exe().map_err(|e| format!("where am I: {e}"))?;
        Ok((scratch, program))
    });
    let (mut scratch, program) = match made {
        Ok(made) => made,
        Err(why) => {
            eprintln!("error: {why}");
            return ExitCode::FAILURE;
        }
    };
    let dir = scratch.path().join("data");
    let mut run = embedded::Run::new(program, dir, shards, seed, options.planted);
    let mut done = 0;
    let mut violation = None;
    while done < options.rounds.unwrap_or(20) && violation.is_none() {
        match run.round() {
            Ok(line) => {
                done += 1;
                println!("round {done}: {line}");
            }
            Err(why) => violation = Some(why),
        }
    }
    if let Some(why) = &violation {
        eprintln!("VIOLATION in round {}: {why}", done + 1);
        // What a planted bug left is of no interest.
        if options.planted.is_none() {
            scratch.keep();
            eprintln!("data directory kept in {}", scratch.path().display());
        }
    }
    let (acked, unknown, applied) = run.counts();
    println!(
        "seed={seed} rounds={done} shards={shards} acked={acked} unknown={unknown} \
         unknown_applied={applied} killed_in_recovery={} core_changes={} restart_ms_max={} \
         violations={}",
        run.killed_opening,
        run.moves,
        run.restart_max.as_millis(),
        u8::from(violation.is_some())
    );
    match violation {
        None => ExitCode::SUCCESS,
        Some(_) => ExitCode::FAILURE,
    }
}

/// The cluster under load that nobody is killed in.
fn in_peace(options: &Options, runtime: &Runtime, mut scratch: Scratch, mut run: Run) -> ExitCode {
    let result = runtime.block_on(async {
        run.start_all()?;
        match options.leases {
            Some(count) => leases::run(&run.members, count).await,
            None => run.rolling(options.gap_ms).await,
        }
    });
    match result {
        Ok(line) => {
            println!("{line} violations=0");
            println!("1 passed, 0 failed");
            ExitCode::SUCCESS
        }
        Err(why) => {
            scratch.keep();
            eprintln!("VIOLATION: {why}");
            eprintln!("data directories kept in {}", scratch.path().display());
            println!("0 passed, 1 failed");
            ExitCode::FAILURE
        }
    }
}

fn prepare(options: &Options, seed: u64) -> Result<(Runtime, Scratch, Run), String> {
    let program = match &options.binary {
        Some(path) if options.plain => Program::plain(path.clone()),
        Some(path) => Program::henge(path.clone()),
        None => Program::built()?,
    };
    if options.cluster == 0 || options.clients == 0 {
        return Err("--cluster and --clients have to be above 0".to_owned());
    }
    let runtime = Runtime::new().map_err(|e| format!("cannot start the load's runtime: {e}"))?;
    let scratch = Scratch::new("crash")?;
    let members = Member::cluster(scratch.path(), options.cluster)?;
    let run = Run {
        program,
        servers: members.iter().map(|_| None).collect(),
        members,
        history: History::new(1),
        watched: Watched::default(),
        revision: 1,
        dice: Dice::new(seed),
        clients: options.clients,
        watch_streams: options.watch_streams,
        longest: Duration::ZERO,
        early_kills: 0,
    };
    Ok((runtime, scratch, run))
}

fn conduct(
    options: &Options,
    runtime: &Runtime,
    mut scratch: Scratch,
    mut run: Run,
    seed: u64,
) -> ExitCode {
    let alone = options.cluster == 1;
    let rounds = options.rounds.unwrap_or(if alone { 20 } else { 10 });
    let mut done = 0;
    let result = runtime.block_on(async {
        run.start_all()?;
        for round in 1..=rounds {
            let line = if alone {
                run.alone(round).await
            } else {
                run.cluster(round).await
            }?;
            println!("round {round}: {line}");
            done = round;
        }
        Ok::<(), String>(())
    });
    if let Err(why) = &result {
        scratch.keep();
        eprintln!("VIOLATION in round {}: {why}", done + 1);
        eprintln!("data directories kept in {}", scratch.path().display());
        for (member, server) in run.members.iter().zip(&run.servers) {
            let log = server
                .as_ref()
                .map_or_else(|| "not running".to_owned(), Server::log);
            let tail: Vec<&str> = log.lines().rev().take(15).collect();
            eprintln!(
                "log of {}, last line first:\n  {}",
                member.name,
                tail.join("\n  ")
            );
        }
    }
    let (unknown, applied) = run.history.unknown();
    let (watchers, events) = run.watched.counts();
    println!(
        "seed={seed} rounds={done} acked={} unknown={unknown} unknown_applied={applied} \
         watchers={watchers} watch_events={events} killed_in_recovery={} {}={} violations={}",
        run.history.acked(),
        run.early_kills,
        if alone {
            "restart_ms_max"
        } else {
            "resume_ms_max"
        },
        run.longest.as_millis(),
        u8::from(result.is_err())
    );
    if result.is_ok() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
