//! A cluster restarted member by member under steady load, as an operator rolls out a new version.
//!
//! Promises: each put is sent once and its answer counted: done, or failed. The only thing that is tried
//! again, with the next member, is what certainly was not done: nobody took the connection, the client's own
//! library gave the request back unsent, or the server said with its GOAWAY that it had not looked at it (RFC
//! 9113 6.8; grpc-go sends such a request again by itself). At the end every put is there, written once.
//! Must never know: the server's inside. Tested by `crash --rolling` against Henge and etcd.

use std::error::Error as _;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::time::sleep;
use tonic::Status;

use crate::etcd::Client;
use crate::process::{Member, Program, Server};

/// Longest wait for one answer: above the server's own deadline, so that a put that hangs is seen as what it
/// is.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Longest time until a member is ready.
const START_MAX: Duration = Duration::from_secs(30);
/// Longest time until a member that was asked to end has ended: its drain takes 5 s at most.
const END_MAX: Duration = Duration::from_secs(15);
/// Between restarts, and before and after all of them: time for clients to be where they belong.
const REST: Duration = Duration::from_millis(1_500);

/// The load: so many clients, together so many puts per second.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Connections, each with one put in flight.
    pub clients: u64,
    /// Of all clients together.
    pub puts_per_second: u64,
}

/// What happened.
#[derive(Debug, Default)]
pub struct Report {
    /// Puts that were acknowledged.
    pub done: u64,
    /// What the others were answered.
    pub failed: Vec<String>,
    /// Puts that were tried with the next member, as nobody took the connection.
    pub refused: u64,
    /// Puts that the client's library gave back, as its connection was told to go before they were looked at.
    pub unsent: u64,
    /// The longest time without any acknowledgement.
    pub gap: Duration,
    /// What had happened last when it began, and how long before.
    pub gap_after: String,
    /// The longest time from a put's first try to its acknowledgement.
    pub slowest: Duration,
    /// The longest time from SIGTERM to the end of a process.
    pub end: Duration,
}

impl Report {
    /// A line of figures; an error if a request failed, or nothing was answered for longer than this.
    pub fn verdict(&self, gap_max: Duration) -> Result<String, String> {
        let line = format!(
            "puts={} failed={} refused_and_tried_elsewhere={} unsent={} gap_ms={} slowest_ms={} end_ms={}",
            self.done,
            self.failed.len(),
            self.refused,
            self.unsent,
            self.gap.as_millis(),
            self.slowest.as_millis(),
            self.end.as_millis(),
        );
        println!(
            "the longest time without an answer began {}",
            self.gap_after
        );
        if let Some(first) = self.failed.first() {
            return Err(format!("{line}\nthe first that failed: {first}"));
        }
        match self.gap > gap_max {
            true => Err(format!(
                "{line}\nnothing was answered for longer than {gap_max:?}"
            )),
            false => Ok(line),
        }
    }
}

/// What the clients share.
#[derive(Debug)]
struct Board {
    ports: Vec<u16>,
    stop: AtomicBool,
    /// Counts the members' returns: clients go back to their own.
    returns: AtomicUsize,
    done: AtomicU64,
    refused: AtomicU64,
    unsent: AtomicU64,
    failed: Mutex<Vec<String>>,
    /// When each acknowledgement came, and how long it had taken.
    acks: Mutex<Vec<(Instant, Duration)>>,
}

/// Restarts each member once, the leader first, then whoever leads of those that are left, then the rest.
pub async fn run(
    program: &Program,
    members: &[Member],
    servers: &mut [Option<Server>],
    load: Load,
) -> Result<Report, String> {
    let board = Arc::new(Board {
        ports: members.iter().map(|member| member.client_port).collect(),
        stop: AtomicBool::new(false),
        returns: AtomicUsize::new(0),
        done: AtomicU64::new(0),
        refused: AtomicU64::new(0),
        unsent: AtomicU64::new(0),
        failed: Mutex::default(),
        acks: Mutex::default(),
    });
    let every =
        Duration::from_secs(load.clients) / u32::try_from(load.puts_per_second).unwrap_or(1);
    let clients: Vec<_> = (0..load.clients)
        .map(|number| {
            let offset = every * u32::try_from(number).unwrap_or(0)
                / u32::try_from(load.clients).unwrap_or(1);
            tokio::spawn(client(Arc::clone(&board), number, offset, every))
        })
        .collect();
    sleep(REST).await;
    let mut end = Duration::ZERO;
    let mut events = vec![(Instant::now(), "the beginning".to_owned())];
    let mut left: Vec<usize> = (0..members.len()).collect();
    while !left.is_empty() {
        let leads = leader(members).await?;
        let at = left.iter().position(|member| *member == leads).unwrap_or(0);
        let member = left.remove(at);
        let took = restart(program, members, servers, member, &mut events).await?;
        end = end.max(took);
        println!(
            "restarted {}{}: ended {} ms after SIGTERM",
            members[member].name,
            if member == leads { ", the leader" } else { "" },
            took.as_millis()
        );
        board.returns.fetch_add(1, Ordering::Relaxed);
        sleep(REST).await;
    }
    board.stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.map_err(|e| format!("a client failed: {e}"))?;
    }
    let report = board.report(end, &events);
    check(members, &report).await?;
    Ok(report)
}

async fn restart(
    program: &Program,
    members: &[Member],
    servers: &mut [Option<Server>],
    member: usize,
    events: &mut Vec<(Instant, String)>,
) -> Result<Duration, String> {
    let name = &members[member].name;
    let mut server = servers[member]
        .take()
        .ok_or_else(|| format!("{name} is not running"))?;
    let begun = Instant::now();
    events.push((begun, format!("SIGTERM to {name}")));
    server.terminate()?;
    // Not on this thread: the load goes on meanwhile.
    let ended = tokio::task::spawn_blocking(move || {
        let status = server.await_exit(END_MAX)?;
        match status.success() {
            true => {
                // How long the handing over took, by the server's own word.
                let log = server.log();
                log.lines()
                    .filter(|line| line.contains("leads"))
                    .for_each(|line| println!("{line}"));
                Ok(begun.elapsed())
            }
            false => Err(format!("ended with {status}:\n{}", server.log())),
        }
    });
    let took = ended.await.map_err(|e| e.to_string())??;
    events.push((Instant::now(), format!("the end of {name}")));
    let mut server = Server::spawn(program, members[member].flags(members))?;
    let ready = tokio::task::spawn_blocking(move || {
        server.await_ready(START_MAX)?;
        Ok::<Server, String>(server)
    });
    servers[member] = Some(ready.await.map_err(|e| e.to_string())??);
    events.push((Instant::now(), format!("the return of {name}")));
    Ok(took)
}

/// One client: a put at a time, at its own pace, with its own member as long as that is there.
async fn client(board: Arc<Board>, number: u64, offset: Duration, every: Duration) {
    let members = board.ports.len();
    let own = number as usize % members;
    let mut member = own;
    let mut client = Client::new(board.ports[member], ANSWER_MAX);
    let mut returns = 0;
    let mut due = Instant::now() + offset;
    for sequence in 0_u64.. {
        sleep(due.saturating_duration_since(Instant::now())).await;
        due += every;
        if board.stop.load(Ordering::Relaxed) {
            return;
        }
        let seen = board.returns.load(Ordering::Relaxed);
        if seen != std::mem::replace(&mut returns, seen) && member != own {
            member = own;
            client = Client::new(board.ports[member], ANSWER_MAX);
        }
        let key = format!("{number:04}/{sequence:08}").into_bytes();
        let begun = Instant::now();
        loop {
            let status = match client.put(key.clone(), b"rolling".to_vec()).await {
                Ok(_) => {
                    board.done.fetch_add(1, Ordering::Relaxed);
                    let mut acks = board.acks.lock().unwrap_or_else(PoisonError::into_inner);
                    acks.push((Instant::now(), begun.elapsed()));
                    break;
                }
                Err(status) => status,
            };
            if was_refused(&status) {
                board.refused.fetch_add(1, Ordering::Relaxed);
                member = (member + 1) % members;
                client = Client::new(board.ports[member], ANSWER_MAX);
            } else if was_unsent(&status) {
                board.unsent.fetch_add(1, Ordering::Relaxed);
            } else {
                let mut failed = board.failed.lock().unwrap_or_else(PoisonError::into_inner);
                let took = begun.elapsed().as_millis();
                failed.push(format!(
                    "{} after {took} ms: {status:?}",
                    board.ports[member]
                ));
                break;
            }
            if begun.elapsed() > ANSWER_MAX {
                let mut failed = board.failed.lock().unwrap_or_else(PoisonError::into_inner);
                failed.push(format!("no member let it in for {ANSWER_MAX:?}"));
                break;
            }
        }
    }
}

impl Board {
    fn report(&self, end: Duration, events: &[(Instant, String)]) -> Report {
        let mut acks = self.acks.lock().unwrap_or_else(PoisonError::into_inner);
        acks.sort_unstable();
        let gaps = acks
            .windows(2)
            .map(|pair| (pair[1].0 - pair[0].0, pair[0].0));
        let (gap, since) = gaps.max().unwrap_or((Duration::ZERO, Instant::now()));
        let before = events.iter().rev().find(|(at, _)| *at <= since);
        let gap_after = before.map_or_else(String::new, |(at, what)| {
            format!("{} ms after {what}", (since - *at).as_millis())
        });
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        Report {
            done: self.done.load(Ordering::Relaxed),
            failed: std::mem::take(&mut failed),
            refused: self.refused.load(Ordering::Relaxed),
            unsent: self.unsent.load(Ordering::Relaxed),
            gap,
            gap_after,
            slowest: acks.iter().map(|ack| ack.1).max().unwrap_or_default(),
            end,
        }
    }
}

/// Every put was done once: each has a revision of its own, and no key was written twice.
async fn check(members: &[Member], report: &Report) -> Result<(), String> {
    let mut client = Client::new(members[0].client_port, START_MAX);
    let everything = client.everything(false).await;
    let (revision, kvs) = everything.map_err(|status| format!("cannot be read: {status}"))?;
    if let Some(twice) = kvs.iter().find(|kv| kv.version != 1) {
        return Err(format!("{twice:?} was written more than once"));
    }
    let there = kvs.len() as u64;
    let might_be = report.done + report.failed.len() as u64;
    if there < report.done || there > might_be || revision != there as i64 + 1 {
        return Err(format!(
            "{there} keys at revision {revision} after {} puts acknowledged and {} not",
            report.done,
            report.failed.len()
        ));
    }
    Ok(())
}

/// The member that another says leads.
async fn leader(members: &[Member]) -> Result<usize, String> {
    for _ in 0..100 {
        for (number, member) in members.iter().enumerate() {
            let mut client = Client::new(member.client_port, ANSWER_MAX);
            if let Ok(status) = client.status().await
                && let Some(header) = status.header
                && status.leader == header.member_id
            {
                return Ok(number);
            }
        }
        sleep(Duration::from_millis(50)).await;
    }
    Err("no member leads".to_owned())
}

/// Whether the connection was refused: nothing was sent.
fn was_refused(status: &Status) -> bool {
    causes(status).any(|cause| {
        let error = cause.downcast_ref::<io::Error>();
        error.is_some_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
    })
}

/// Whether the library gave the request back as its connection had just been told to go: before any of it was
/// sent (`hyper::Error::is_canceled`), or because it came after the last one that the server's GOAWAY says it
/// looks at. A request that was looked at and is cut off has another error: a broken pipe. (Neither hyper nor
/// h2 is known here, so their words are.)
fn was_unsent(status: &Status) -> bool {
    causes(status).map(ToString::to_string).any(|cause| {
        cause.starts_with("operation was canceled")
            || cause == "connection error received: not a result of an error"
    })
}

fn causes(status: &Status) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
    let mut next = status.source();
    std::iter::from_fn(move || {
        let cause = next?;
        next = cause.source();
        Some(cause)
    })
}
