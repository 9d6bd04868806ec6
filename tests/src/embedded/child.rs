//! The process that is killed: an engine of its own with many shards, and callers that write to each.
//!
//! Promises: an operation is announced before it is handed to the engine, and its acknowledgement after it
//! came; the process goes on until it is killed, or until nobody listens any more.
//! Must never know: when it will be killed. Tested by the runs of [`super`].

use std::fmt::Display;
use std::io::Write as _;
use std::path::Path;
use std::rc::Rc;

use henge::Engine;
use henge::engine::route::shard_of;
use henge::mvcc::{PutRequest, RequestOp, TxnRequest};
use tokio::task::LocalSet;

use super::report::Line;
use super::{Planted, builder};
use crate::dice::Dice;
use crate::history::{Operation, Write};
use crate::load::{self, HOT_KEYS};

/// Callers of each shard, each with one operation in flight.
const CALLERS: u64 = 2;

/// What the process under test is told.
#[derive(Clone, Copy, Debug)]
pub struct Order {
    /// Shards of the engine.
    pub shards: usize,
    /// Cores of this run.
    pub cores: usize,
    /// Number of the process: part of its sessions' names.
    pub number: u64,
    /// Where its dice begin.
    pub seed: u64,
    /// A bug to plant.
    pub planted: Option<Planted>,
}

/// Opens the engine and writes until the end. The error says what went wrong before.
pub fn run(dir: &Path, order: Order) -> Result<(), String> {
    let engine = builder(dir, order.shards, order.cores)
        .open()
        .map_err(|e| format!("cannot open with {} cores: {e}", order.cores))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .map_err(|e| format!("cannot start the load's runtime: {e}"))?;
    LocalSet::new().block_on(&runtime, async {
        let at = engine.revisions().await.map_err(|e| e.to_string())?;
        let revisions = (0..order.shards).map(|shard| at.get(shard)).collect();
        say(&Line::Opened(revisions))?;
        let mut dice = Dice::new(order.seed);
        let engine = Rc::new(engine);
        let mut callers = Vec::new();
        for number in 0..order.shards as u64 * CALLERS {
            let caller = Caller {
                engine: Rc::clone(&engine),
                session: order.number << 32 | number,
                shard: number as usize % order.shards,
                order,
            };
            callers.push(tokio::task::spawn_local(
                caller.work(Dice::new(dice.bits())),
            ));
        }
        for caller in callers {
            caller.await.map_err(|e| e.to_string())??;
        }
        Ok(())
    })
}

/// One session, all of whose keys live in one shard.
struct Caller {
    engine: Rc<Engine>,
    session: u64,
    shard: usize,
    order: Order,
}

impl Caller {
    async fn work(self, mut dice: Dice) -> Result<(), String> {
        let mut hot = [false; HOT_KEYS as usize];
        for sequence in 0.. {
            let operation = load::choose(self.session, sequence, &mut dice, &mut hot, |name| {
                self.key(&name)
            });
            say(&Line::Begin(self.session, operation.clone()))?;
            match self.carry_out(&operation).await {
                Ok(revision) => say(&Line::Acked(self.session, revision))?,
                Err(why) => {
                    let why = format!("a running engine answered {operation:?} with: {why}");
                    return say(&Line::Wrong(why));
                }
            }
        }
        Ok(())
    }

    /// A key that begins like this and lives in this caller's shard.
    fn key(&self, name: &str) -> Vec<u8> {
        (0_u64..)
            .map(|salt| format!("{name}.{salt}").into_bytes())
            .find(|key| shard_of(key, self.order.shards) == self.shard)
            .unwrap_or_default()
    }

    /// The revision at which it was acknowledged.
    async fn carry_out(&self, operation: &Operation) -> Result<i64, String> {
        fn text(error: impl Display) -> String {
            error.to_string()
        }
        match operation.as_slice() {
            [Write::Put(key, stamp)] => {
                let put = self.engine.put(key, stamp.bytes()).await.map_err(text)?;
                Ok(put.header.revision)
            }
            [Write::Delete(key)] => {
                let deleted = self.engine.delete(key).await.map_err(text)?;
                Ok(deleted.header.revision)
            }
            changes if self.order.planted == Some(Planted::SplitTxn) => {
                let mut revision = 0;
                for change in changes {
                    revision = Box::pin(self.carry_out(&vec![change.clone()])).await?;
                }
                Ok(revision)
            }
            changes => self.txn(changes).await.map_err(text),
        }
    }

    async fn txn(&self, changes: &[Write]) -> Result<i64, henge::TxnError> {
        let values: Vec<_> = changes
            .iter()
            .filter_map(|change| match change {
                Write::Put(key, stamp) => Some((key, stamp.bytes())),
                Write::Delete(_) => None,
            })
            .collect();
        let puts = values.iter().map(|(key, value)| {
            RequestOp::Put(PutRequest {
                key,
                value,
                ..PutRequest::default()
            })
        });
        let request = TxnRequest {
            compare: Vec::new(),
            success: puts.collect(),
            failure: Vec::new(),
        };
        Ok(self.engine.txn(&request).await?.header.revision)
    }
}

/// Into the pipe, at once.
fn say(line: &Line) -> Result<(), String> {
    let mut out = std::io::stdout().lock();
    out.write_all(line.text().as_bytes())
        .and_then(|()| out.flush())
        .map_err(|e| format!("nobody listens: {e}"))
}
