//! One run of `crash` over servers: starts them, kills them under load, and compares what they have with what
//! they acknowledged.
//!
//! Must never know: how the command was asked.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use tokio::time::sleep;

use henge_tests::dice::Dice;
use henge_tests::etcd::{Client, KeyValue, RangeRequest};
use henge_tests::history::{History, Session};
use henge_tests::load::{self, Board, Worker};
use henge_tests::process::{Member, Program, Server};
use henge_tests::rolling;
use henge_tests::watched::Watched;
use henge_tests::watcher::Watchers;

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

/// One run: the members, those that live, and what they were told.
pub(super) struct Run {
    pub(super) program: Program,
    pub(super) members: Vec<Member>,
    pub(super) servers: Vec<Option<Server>>,
    pub(super) history: History,
    pub(super) watched: Watched,
    /// The last revision that everything was compared at.
    pub(super) revision: i64,
    pub(super) dice: Dice,
    pub(super) clients: u64,
    pub(super) watch_streams: u64,
    pub(super) longest: Duration,
    pub(super) early_kills: u64,
}

impl Run {
    /// One server: load, kill -9, restart, check.
    pub(super) async fn alone(&mut self, round: u64) -> Result<String, String> {
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
    pub(super) async fn cluster(&mut self, round: u64) -> Result<String, String> {
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
    pub(super) async fn rolling(&mut self, gap_ms: u64) -> Result<String, String> {
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
    pub(super) fn start_all(&mut self) -> Result<(), String> {
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
