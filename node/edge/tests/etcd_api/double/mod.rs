//! A stand-in for the engine: one lock, one map of histories, answers at once.
//!
//! Just enough of etcd's semantics to tell whether the edge carries them faithfully, with handles
//! to make it fail, hang, or lose its leader.

mod backend;
mod store;
mod watch;

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use henge::api::*;
use henge_mvcc as mvcc;
use tokio::sync::mpsc;

pub const CLUSTER: u64 = 0xcdf8_181e_3277_2a70;
pub const MEMBER: u64 = 0x8e9e_05c5_2164_694d;
pub const TERM: u64 = 3;

#[derive(Clone, Default)]
pub struct Double(Arc<Mutex<State>>);

pub struct State {
    pub revision: i64,
    pub compacted: i64,
    /// Per key, (mod revision, value or tombstone) in order.
    pub history: BTreeMap<Bytes, Vec<(i64, Option<mvcc::KeyValue>)>>,
    pub leases: BTreeMap<i64, i64>,
    /// What the next calls answer instead.
    pub failures: VecDeque<Error>,
    pub metrics: Metrics,
    pub alarms: Vec<AlarmMember>,
    /// Calls wait for this before they answer, if set.
    pub gate: Option<tokio::sync::watch::Receiver<bool>>,
    /// Operations that reached the engine.
    pub calls: u64,
    /// In whose names it was asked.
    pub callers: Vec<Caller>,
    sessions: BTreeMap<u64, Session>,
    next_session: u64,
}

/// A watch stream of a client.
struct Session {
    out: mpsc::UnboundedSender<WatchResponse>,
    watchers: BTreeMap<i64, WatchCreate>,
}

impl Default for State {
    fn default() -> State {
        State {
            revision: 1,
            compacted: -1,
            history: BTreeMap::new(),
            leases: BTreeMap::new(),
            failures: VecDeque::new(),
            alarms: Vec::new(),
            metrics: Metrics {
                has_leader: true,
                io_backend: "none",
                ..Metrics::default()
            },
            gate: None,
            calls: 0,
            callers: Vec::new(),
            sessions: BTreeMap::new(),
            next_session: 0,
        }
    }
}

type Answer<T> = Pin<Box<dyn Future<Output = Result<Reply<T>, Error>> + Send>>;

impl Double {
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no test panics inside")
    }

    pub fn watchers(&self) -> usize {
        self.state()
            .sessions
            .values()
            .map(|s| s.watchers.len())
            .sum()
    }

    pub fn sessions(&self) -> usize {
        self.state().sessions.len()
    }

    /// Runs `f` on the state now; the future only carries the answer (and waits at the gate).
    fn answer<T: Send + 'static>(
        &self,
        f: impl FnOnce(&mut State) -> Result<T, Error>,
    ) -> Answer<T> {
        let mut state = self.state();
        state.calls += 1;
        let result = match state.failures.pop_front() {
            Some(e) => Err(e),
            None => f(&mut state),
        };
        let reply = result.map(|body| Reply {
            header: state.header(),
            body,
        });
        let gate = state.gate.clone();
        Box::pin(async move {
            if let Some(mut gate) = gate {
                gate.wait_for(|open| *open)
                    .await
                    .expect("the test keeps the gate");
            }
            reply
        })
    }
}

impl State {
    fn header(&self) -> Header {
        Header {
            cluster_id: CLUSTER,
            member_id: MEMBER,
            revision: self.revision,
            raft_term: TERM,
        }
    }

    fn at(&self, key: &[u8], revision: i64) -> Option<mvcc::KeyValue> {
        let versions = self.history.get(key)?;
        versions
            .iter()
            .rev()
            .find(|(r, _)| *r <= revision)?
            .1
            .clone()
    }
}
