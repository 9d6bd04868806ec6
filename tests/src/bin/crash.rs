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
//! (`henge_tests::watched`). With `--embedded-shards`: a process that embeds an engine with so many shards, killed and
//! opened again with another number of cores each time (`henge_tests::embedded`).
//! With `--rolling` nobody is killed: each member is asked to end and started again under load, and no request
//! may fail (`henge_tests::rolling`). With `--leases`: so many leases of 5 s are kept alive by one stream
//! through a follower (`henge_tests::leases`).
//! Must never know: the server's inside; any server that takes etcd's flags will do (`--plain`).
//! Tested by running it on a real etcd, and by the planted faults in `history.rs`.
#![allow(
    clippy::disallowed_methods,
    reason = "whole-system tests live in real time and wait for real processes"
)]

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use clap::Parser;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use henge_tests::dice::Dice;
use henge_tests::embedded::{self, Planted, child};
use henge_tests::etcd::{Client, KeyValue, RangeRequest};
use henge_tests::history::{History, Session};
use henge_tests::load::{self, Board, Worker};
use henge_tests::process::{Member, Program, Scratch, Server};
use henge_tests::watched::Watched;
use henge_tests::watcher::Watchers;
use henge_tests::{leases, rolling};

/// A start replays the log: design goal under 10 s, with room for a busy machine.
const START_MAX: Duration = Duration::from_secs(30);
/// Writes have to resume this soon after a leader's death.
const RESUME_MAX: Duration = Duration::from_secs(3);
/// How long a returned member may take to catch up.
const CATCH_UP_MAX: Duration = Duration::from_secs(15);
/// Reads in the past, each round.
const SAMPLES: usize = 100;
/// Longest wait for one answer: a single server, and a member of a cluster, which may be waiting
/// for a leader that is gone.
const ANSWER_MAX: Duration = Duration::from_secs(5);
const ANSWER_MAX_CLUSTER: Duration = Duration::from_millis(500);

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

/// One run: the members, those that live, and what they were told.
struct Run {
    program: Program,
    members: Vec<Member>,
    servers: Vec<Option<Server>>,
    history: History,
    watched: Watched,
    /// The last revision that everything was compared at.
    revision: i64,
    dice: Dice,
    clients: u64,
    watch_streams: u64,
    longest: Duration,
    early_kills: u64,
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

impl Run {
    /// One server: load, kill -9, restart, check.
    async fn alone(&mut self, round: u64) -> Result<String, String> {
        let board = Arc::new(Board::default());
        let watchers = self.watch(round);
        let workers = self.work(round, &board, ANSWER_MAX, false);
        let lived = self.dice.range(50, 1_500);
        sleep(Duration::from_millis(lived)).await;
        let _ = board.killed.set(Instant::now());
        self.kill(0);
        self.gather(workers, &board).await?;
        if let Some(error) = board.early.get() {
            return Err(format!("a running server answered with an error: {error}"));
        }
        if lived > 500 && board.acked.load(Ordering::Relaxed) == 0 {
            return Err(format!("nothing was acknowledged in {lived} ms"));
        }

        // Recovery is killed as well: it has to bear being interrupted anywhere.
        while self.dice.one_in(3) {
            let mut server = self.spawn(0)?;
            sleep(Duration::from_millis(self.dice.range(0, 120))).await;
            server.kill();
            self.early_kills += 1;
        }
        let begun = Instant::now();
        let mut server = self.spawn(0)?;
        server.await_ready(START_MAX)?;
        self.servers[0] = Some(server);
        let restarted = begun.elapsed();
        self.longest = self.longest.max(restarted);

        let (revision, kvs) = self.everything(0, false).await?;
        self.history.check(revision, &kvs, true)?;
        self.check_past(0).await?;
        self.check_watchers(watchers, revision).await?;
        Ok(format!(
            "killed after {lived} ms, ready again in {} ms, {} acknowledged so far, revision \
             {revision}, {} keys",
            restarted.as_millis(),
            self.history.acked(),
            kvs.len()
        ))
    }

    /// A cluster: load, kill the leader, see writes resume, bring it back, compare all.
    async fn cluster(&mut self, round: u64) -> Result<String, String> {
        let leader = self.leader().await?;
        let board = Arc::new(Board::default());
        let watchers = self.watch(round);
        let workers = self.work(round, &board, ANSWER_MAX_CLUSTER, true);
        sleep(Duration::from_millis(self.dice.range(300, 1_200))).await;
        let acked_before = board.acked.load(Ordering::Relaxed);
        // The clock starts before the signal: what is acknowledged after it was begun after it.
        let _ = board.killed.set(Instant::now());
        self.kill(leader);
        let resumed = wait_resumed(&board).await?;
        self.longest = self.longest.max(resumed);

        sleep(Duration::from_millis(300)).await;
        self.servers[leader] = Some(self.spawn(leader)?);
        self.await_ready(leader)?;
        sleep(Duration::from_millis(500)).await;
        self.gather(workers, &board).await?;
        if acked_before == 0 {
            return Err("nothing was acknowledged before the kill".to_owned());
        }
        if resumed > RESUME_MAX {
            return Err(format!(
                "writes resumed only after {} ms",
                resumed.as_millis()
            ));
        }
        let (caught_up, revision) = self.compare_members(leader).await?;
        self.check_past(leader).await?;
        self.check_watchers(watchers, revision).await?;
        Ok(format!(
            "killed leader {}, writes resumed in {} ms, it caught up in {} ms, {} acknowledged so \
             far",
            self.members[leader].name,
            resumed.as_millis(),
            caught_up.as_millis(),
            self.history.acked()
        ))
    }

    /// Restarts everyone in good order.
    async fn rolling(&mut self, gap_ms: u64) -> Result<String, String> {
        let load = rolling::Load {
            clients: 64,
            puts_per_second: 500,
        };
        let report = rolling::run(&self.program, &self.members, &mut self.servers, load).await?;
        report.verdict(Duration::from_millis(gap_ms))
    }

    /// Reads some writes of all rounds as of their own revisions: the history has to survive too.
    async fn check_past(&mut self, member: usize) -> Result<(), String> {
        let mut client = Client::new(self.members[member].client_port, ANSWER_MAX);
        for (revision, write) in self.history.samples(&mut self.dice, SAMPLES) {
            let request = RangeRequest {
                key: write.key().to_vec(),
                revision,
                ..RangeRequest::default()
            };
            let found = client
                .range(request)
                .await
                .map_err(|status| format!("{write:?} cannot be read at {revision}: {status}"))?;
            write.check(revision, found.kvs.first())?;
        }
        Ok(())
    }

    /// All members hold the same, and what was acknowledged: first read through the one that came
    /// back, then each one's own state.
    async fn compare_members(&mut self, returned: usize) -> Result<(Duration, i64), String> {
        let begun = Instant::now();
        let mut last = 0;
        let (revision, kvs) = self.everything(self.another(returned), false).await?;
        self.history.check(revision, &kvs, false)?;
        let mut caught_up = Duration::ZERO;
        for member in 0..self.members.len() {
            loop {
                let own = self.everything(member, true).await;
                match own {
                    Ok((at, own)) if at >= revision => {
                        last = last.max(at);
                        if (at, &own) != (revision, &kvs) {
                            // A late answerless write may have come in between: that is one more
                            // state to check, not a difference.
                            self.history.check(at, &own, false).map_err(|why| {
                                format!("{} differs: {why}", self.members[member].name)
                            })?;
                        }
                        break;
                    }
                    _ if begun.elapsed() > CATCH_UP_MAX => {
                        return Err(format!(
                            "{} did not reach revision {revision} in {CATCH_UP_MAX:?}: {:?}",
                            self.members[member].name,
                            own.map(|(at, _)| at)
                        ));
                    }
                    _ => sleep(Duration::from_millis(20)).await,
                }
            }
            if member == returned {
                caught_up = begun.elapsed();
            }
        }
        Ok((caught_up, last))
    }

    /// Starts the round's watchers.
    fn watch(&mut self, round: u64) -> Watchers {
        let ports = self.members.iter().map(|member| member.client_port);
        let workers = self.clients;
        let keys = |dice: &mut Dice| load::key_of(round, dice.range(0, workers + 1));
        let (streams, dice) = (self.watch_streams, &mut self.dice);
        Watchers::begin(ports.collect(), streams, self.revision, dice, keys)
    }

    /// Sends the watchers home with `revision`, and compares what they were shown.
    async fn check_watchers(&mut self, watchers: Watchers, revision: i64) -> Result<(), String> {
        let bookmarks = watchers.call_home(revision).await?;
        if !bookmarks.is_empty() {
            self.watched.check(&self.history, revision, &bookmarks)?;
        }
        self.revision = revision;
        Ok(())
    }

    /// Starts the load: clients are dealt out to the members in turn.
    fn work(
        &mut self,
        round: u64,
        board: &Arc<Board>,
        deadline: Duration,
        carry_on: bool,
    ) -> Vec<JoinHandle<Vec<Session>>> {
        let ports: Vec<u16> = self
            .members
            .iter()
            .map(|member| member.client_port)
            .collect();
        (0..self.clients)
            .map(|number| {
                let mut ports = ports.clone();
                ports.rotate_left(number as usize % self.members.len());
                let worker = Worker {
                    round,
                    number,
                    ports,
                    deadline,
                    carry_on,
                };
                let (dice, board) = (Dice::new(self.dice.bits()), Arc::clone(board));
                tokio::spawn(async move { worker.run(dice, &board).await })
            })
            .collect()
    }

    /// Ends the load and takes in what it saw.
    async fn gather(
        &mut self,
        workers: Vec<JoinHandle<Vec<Session>>>,
        board: &Board,
    ) -> Result<(), String> {
        board.stop.store(true, Ordering::Relaxed);
        for worker in workers {
            for session in worker
                .await
                .map_err(|e| format!("a load worker failed: {e}"))?
            {
                self.history.record(session)?;
            }
        }
        Ok(())
    }

    fn spawn(&self, member: usize) -> Result<Server, String> {
        let mut flags = self.members[member].flags(&self.members);
        if self.program.is_henge() {
            // Often enough for a note to meet a member that lags.
            flags.push("--watch-progress-notify-interval=100ms".into());
        }
        Server::spawn(&self.program, flags)
    }

    /// All at once: members wait for each other before they are ready.
    fn start_all(&mut self) -> Result<(), String> {
        for member in 0..self.members.len() {
            self.servers[member] = Some(self.spawn(member)?);
        }
        (0..self.members.len()).try_for_each(|member| self.await_ready(member))
    }

    fn await_ready(&mut self, member: usize) -> Result<(), String> {
        match &mut self.servers[member] {
            Some(server) => server.await_ready(START_MAX),
            None => Err(format!("{} is not running", self.members[member].name)),
        }
    }

    fn kill(&mut self, member: usize) {
        if let Some(mut server) = self.servers[member].take() {
            server.kill();
        }
    }

    fn another(&self, member: usize) -> usize {
        (member + 1) % self.members.len()
    }

    async fn everything(
        &self,
        member: usize,
        serializable: bool,
    ) -> Result<(i64, Vec<KeyValue>), String> {
        // A page of large values on a busy machine may take longer than a put.
        let mut client = Client::new(self.members[member].client_port, CATCH_UP_MAX);
        client
            .everything(serializable)
            .await
            .map_err(|status| format!("{} cannot be read: {status}", self.members[member].name))
    }

    /// The member that says that it leads.
    async fn leader(&self) -> Result<usize, String> {
        let begun = Instant::now();
        while begun.elapsed() < CATCH_UP_MAX {
            for (number, member) in self.members.iter().enumerate() {
                let mut client = Client::new(member.client_port, ANSWER_MAX);
                if let Ok(status) = client.status().await
                    && status.leader != 0
                    && status
                        .header
                        .is_some_and(|header| header.member_id == status.leader)
                {
                    return Ok(number);
                }
            }
            sleep(Duration::from_millis(50)).await;
        }
        Err(format!("no member led within {CATCH_UP_MAX:?}"))
    }
}

/// Time from the kill to the first acknowledgement of a write that was begun after it.
async fn wait_resumed(board: &Board) -> Result<Duration, String> {
    let begun = Instant::now();
    while begun.elapsed() < CATCH_UP_MAX {
        if let (Some(killed), Some(resumed)) = (board.killed.get(), board.resumed.get()) {
            return Ok(resumed.duration_since(*killed));
        }
        sleep(Duration::from_millis(5)).await;
    }
    Err(format!(
        "writes did not resume within {CATCH_UP_MAX:?} of the leader's death"
    ))
}
