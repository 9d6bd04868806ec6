//! Load from several connections, each answer written down.
//!
//! Promises: every operation sent is in a session's record, as acknowledged with its revision or as
//! unknown; nothing is retried, because a retry could hide a loss.
//! Must never know: why a call failed. Any error makes the operation unknown.
//! Tested by the crash test against a real etcd.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tonic::Status;

use crate::dice::Dice;
use crate::etcd::{Client, DeleteRangeRequest, Op, PutRequest};
use crate::history::{Operation, Session, Stamp, Write};

/// Keys that a session writes over and over.
pub const HOT_KEYS: u64 = 8;
/// How long a worker waits before it tries the next member.
const PAUSE: Duration = Duration::from_millis(20);

/// What the workers of one round share with the one who kills.
#[derive(Debug, Default)]
pub struct Board {
    /// Workers finish their operation and stop.
    pub stop: AtomicBool,
    /// Set by the killer: when the server was killed.
    pub killed: OnceLock<Instant>,
    /// Set by the first worker that got an acknowledgement for an operation begun after the kill.
    pub resumed: OnceLock<Instant>,
    /// Acknowledged operations.
    pub acked: AtomicU64,
    /// The first error that came before the kill, from a server that had no excuse.
    pub early: OnceLock<String>,
}

/// One worker's place in a round.
#[derive(Clone, Debug)]
pub struct Worker {
    /// Round of the run; part of the key names.
    pub round: u64,
    /// Number of the worker; part of the key names.
    pub number: u64,
    /// Client ports, the worker's own first.
    pub ports: Vec<u16>,
    /// Longest wait for an answer.
    pub deadline: Duration,
    /// After an unanswered operation: go on with the next member (a cluster), or end.
    pub carry_on: bool,
}

impl Worker {
    /// Works until told to stop; all its sessions.
    pub async fn run(self, mut dice: Dice, board: &Board) -> Vec<Session> {
        let mut sessions = Vec::new();
        let mut member = 0;
        while !board.stop.load(Ordering::Relaxed) {
            let client = Client::new(self.ports[member % self.ports.len()], self.deadline);
            let id = session_id(self.round, self.number, sessions.len() as u64);
            let session = session(id, client, &mut dice, board).await;
            let failed = session.unknown.is_some();
            sessions.push(session);
            if failed && !self.carry_on {
                break;
            }
            member += 1;
            tokio::time::sleep(PAUSE).await;
        }
        sessions
    }
}

fn session_id(round: u64, worker: u64, session: u64) -> u64 {
    round << 32 | worker << 16 | session
}

/// What no key of a worker in a round is before: a place for a watcher to begin or to end.
pub fn key_of(round: u64, worker: u64) -> Vec<u8> {
    format!("{:012x}", session_id(round, worker, 0)).into_bytes()
}

/// One operation after the other until one fails.
async fn session(id: u64, mut client: Client, dice: &mut Dice, board: &Board) -> Session {
    let mut session = Session::default();
    let mut hot = [false; HOT_KEYS as usize];
    for sequence in 0.. {
        if board.stop.load(Ordering::Relaxed) {
            break;
        }
        let operation = choose(id, sequence, dice, &mut hot, String::into_bytes);
        let begun = Instant::now();
        match send(&mut client, &operation).await {
            Ok(revision) => {
                session.acked.push((revision, operation));
                board.acked.fetch_add(1, Ordering::Relaxed);
                if board.killed.get().is_some_and(|killed| begun > *killed) {
                    // Only the first to come counts.
                    let _ = board.resumed.set(Instant::now());
                }
            }
            Err(status) => {
                if board.killed.get().is_none() {
                    // One is enough to tell.
                    let _ = board.early.set(status.to_string());
                }
                session.unknown = Some(operation);
                break;
            }
        }
    }
    session
}

/// Half new keys, else rewritten ones, transactions of three keys, and deletes. `hot` says which of its
/// [`HOT_KEYS`] a session has; `key` makes a key of a name.
pub fn choose(
    id: u64,
    sequence: u64,
    dice: &mut Dice,
    hot: &mut [bool],
    key: impl Fn(String) -> Vec<u8>,
) -> Operation {
    // A few values are large: they cross block and segment borders.
    let len = if dice.one_in(100) {
        dice.range(4_000, 40_000)
    } else {
        dice.range(33, 300)
    };
    let stamp = Stamp {
        session: id,
        sequence,
        len: len as usize,
    };
    let key = |kind: &str, number: u64| key(format!("{id:012x}/{kind}/{number:08}"));
    let at = dice.range(0, HOT_KEYS);
    match dice.range(0, 20) {
        0..10 => vec![Write::Put(key("once", sequence), stamp)],
        10 if hot[at as usize] => {
            hot[at as usize] = false;
            vec![Write::Delete(key("hot", at))]
        }
        10..17 => {
            hot[at as usize] = true;
            vec![Write::Put(key("hot", at), stamp)]
        }
        _ => ["x", "y", "z"]
            .map(|kind| Write::Put(key(kind, at), stamp))
            .into(),
    }
}

async fn send(client: &mut Client, operation: &Operation) -> Result<i64, Status> {
    match operation.as_slice() {
        [Write::Put(key, stamp)] => client.put(key.clone(), stamp.bytes()).await,
        [Write::Delete(key)] => client.delete(key.clone()).await,
        several => client.txn(several.iter().map(op).collect()).await,
    }
}

fn op(write: &Write) -> Op {
    match write {
        Write::Put(key, stamp) => Op::Put(PutRequest {
            key: key.clone(),
            value: stamp.bytes(),
        }),
        Write::Delete(key) => Op::Delete(DeleteRangeRequest { key: key.clone() }),
    }
}
