//! A stand-in for the engine: one lock, one map of histories, answers at once.
//!
//! Just enough of etcd's semantics to tell whether the edge carries them faithfully, with handles
//! to make it fail, hang, or lose its leader.

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
    /// Calls wait for this before they answer, if set.
    pub gate: Option<tokio::sync::watch::Receiver<bool>>,
    /// Operations that reached the engine.
    pub calls: u64,
    sessions: BTreeMap<u64, Session>,
    next_session: u64,
}

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
            metrics: Metrics {
                has_leader: true,
                io_backend: "none",
                ..Metrics::default()
            },
            gate: None,
            calls: 0,
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

    fn range(&self, r: &mvcc::RangeRequest<'_>) -> Result<mvcc::RangeResponse, Error> {
        let at = if r.revision <= 0 {
            self.revision
        } else {
            r.revision
        };
        if at > self.revision {
            let e = mvcc::Error::FutureRevision {
                requested: at,
                current: self.revision,
            };
            return Err(e.into());
        }
        if at < self.compacted {
            let e = mvcc::Error::Compacted {
                requested: at,
                compacted: self.compacted,
            };
            return Err(e.into());
        }
        let mut kvs: Vec<mvcc::KeyValue> = self
            .history
            .keys()
            .filter(|k| r.range.contains(k))
            .filter_map(|k| self.at(k, at))
            .collect();
        let count = kvs.len() as i64;
        let more = r.limit > 0 && count > r.limit;
        if more {
            kvs.truncate(r.limit as usize);
        }
        if r.keys_only {
            kvs.iter_mut().for_each(|kv| kv.value = Bytes::new());
        }
        if r.count_only {
            return Ok(mvcc::RangeResponse {
                kvs: Vec::new(),
                more: false,
                count,
            });
        }
        Ok(mvcc::RangeResponse { kvs, more, count })
    }

    fn put(
        &mut self,
        r: &mvcc::PutRequest<'_>,
        at: i64,
        events: &mut Vec<mvcc::Event>,
    ) -> Result<mvcc::PutResponse, Error> {
        if r.lease != 0 && !self.leases.contains_key(&r.lease) {
            return Err(mvcc::Error::LeaseNotFound.into());
        }
        let old = self.at(r.key, i64::MAX);
        let kv = mvcc::KeyValue {
            key: Bytes::copy_from_slice(r.key),
            value: Bytes::copy_from_slice(r.value),
            create_revision: old.as_ref().map_or(at, |kv| kv.create_revision),
            mod_revision: at,
            version: old.as_ref().map_or(1, |kv| kv.version + 1),
            lease: r.lease,
        };
        self.history
            .entry(kv.key.clone())
            .or_default()
            .push((at, Some(kv.clone())));
        events.push(mvcc::Event {
            kind: mvcc::EventKind::Put,
            kv,
            prev_kv: old.clone(),
        });
        Ok(mvcc::PutResponse {
            prev_kv: old.filter(|_| r.prev_kv),
        })
    }

    fn delete(
        &mut self,
        r: &mvcc::DeleteRangeRequest<'_>,
        at: i64,
        events: &mut Vec<mvcc::Event>,
    ) -> mvcc::DeleteRangeResponse {
        let keys: Vec<Bytes> = self
            .history
            .keys()
            .filter(|k| r.range.contains(k))
            .cloned()
            .collect();
        let mut out = mvcc::DeleteRangeResponse::default();
        for key in keys {
            let Some(old) = self.at(&key, i64::MAX) else {
                continue;
            };
            self.history
                .get_mut(&key)
                .expect("just listed")
                .push((at, None));
            let kv = mvcc::KeyValue {
                key,
                mod_revision: at,
                ..Default::default()
            };
            let prev_kv = Some(old.clone());
            events.push(mvcc::Event {
                kind: mvcc::EventKind::Delete,
                kv,
                prev_kv,
            });
            out.deleted += 1;
            if r.prev_kv {
                out.prev_kvs.push(old);
            }
        }
        out
    }

    fn holds(&self, c: &mvcc::Compare<'_>) -> bool {
        let kv = self.at(c.range.key, i64::MAX);
        let of = |f: fn(&mvcc::KeyValue) -> i64| kv.as_ref().map_or(0, f);
        let order = match c.target {
            mvcc::CompareTarget::Version(v) => of(|kv| kv.version).cmp(&v),
            mvcc::CompareTarget::CreateRevision(v) => of(|kv| kv.create_revision).cmp(&v),
            mvcc::CompareTarget::ModRevision(v) => of(|kv| kv.mod_revision).cmp(&v),
            mvcc::CompareTarget::Lease(v) => of(|kv| kv.lease).cmp(&v),
            mvcc::CompareTarget::Value(v) => match &kv {
                Some(kv) => kv.value.as_ref().cmp(v),
                None => return false,
            },
        };
        match c.result {
            mvcc::CompareResult::Equal => order.is_eq(),
            mvcc::CompareResult::NotEqual => order.is_ne(),
            mvcc::CompareResult::Greater => order.is_gt(),
            mvcc::CompareResult::Less => order.is_lt(),
        }
    }

    fn txn(
        &mut self,
        t: &mvcc::TxnRequest<'_>,
        at: i64,
        events: &mut Vec<mvcc::Event>,
    ) -> Result<mvcc::TxnResponse, Error> {
        let succeeded = t.compare.iter().all(|c| self.holds(c));
        let ops = if succeeded { &t.success } else { &t.failure };
        let mut responses = Vec::new();
        for op in ops {
            responses.push(match op {
                mvcc::RequestOp::Range(r) => mvcc::ResponseOp::Range(self.range(r)?),
                mvcc::RequestOp::Put(r) => mvcc::ResponseOp::Put(self.put(r, at, events)?),
                mvcc::RequestOp::DeleteRange(r) => {
                    mvcc::ResponseOp::DeleteRange(self.delete(r, at, events))
                }
                mvcc::RequestOp::Txn(r) => {
                    mvcc::ResponseOp::Txn(Box::new(self.txn(r, at, events)?))
                }
            });
        }
        Ok(mvcc::TxnResponse {
            succeeded,
            responses,
        })
    }

    /// Runs a write at the next revision, which is used up only if something changed.
    fn write<T>(
        &mut self,
        f: impl FnOnce(&mut State, i64, &mut Vec<mvcc::Event>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut events = Vec::new();
        let result = f(self, self.revision + 1, &mut events);
        if !events.is_empty() {
            self.revision += 1;
            self.feed(&events);
        }
        result
    }

    fn feed(&mut self, events: &[mvcc::Event]) {
        let header = self.header();
        for session in self.sessions.values() {
            for (id, w) in &session.watchers {
                deliver(session, *id, w, header, events);
            }
        }
    }

    fn create(&mut self, session: u64, mut w: WatchCreate) {
        let header = self.header();
        let refused = |reason: &str| WatchResponse {
            header,
            watch_id: -1,
            created: true,
            canceled: true,
            cancel_reason: reason.to_owned(),
            ..Default::default()
        };
        let Some(s) = self.sessions.get_mut(&session) else {
            return;
        };
        let empty = !w.range_end.is_empty() && w.range_end != b"\0"[..] && w.key >= w.range_end;
        let answer = if empty {
            refused("mvcc: watcher range is empty")
        } else if w.watch_id != 0 && s.watchers.contains_key(&w.watch_id) {
            refused("mvcc: duplicate watch ID provided on the WatchStream")
        } else {
            if w.watch_id == 0 {
                w.watch_id = (0..)
                    .find(|id| !s.watchers.contains_key(id))
                    .expect("some id");
            }
            WatchResponse {
                header,
                watch_id: w.watch_id,
                created: true,
                ..Default::default()
            }
        };
        let accepted = !answer.canceled;
        let _ = s.out.send(answer);
        if accepted {
            s.watchers.insert(w.watch_id, w.clone());
            self.replay(session, &w);
        }
    }

    /// What happened from the start revision on.
    fn replay(&mut self, session: u64, w: &WatchCreate) {
        if w.start_revision <= 0 {
            return;
        }
        let mut events: Vec<mvcc::Event> = Vec::new();
        for (key, versions) in &self.history {
            for (i, (at, value)) in versions.iter().enumerate() {
                if *at < w.start_revision {
                    continue;
                }
                let prev_kv = i.checked_sub(1).and_then(|i| versions[i].1.clone());
                events.push(match value.clone() {
                    Some(kv) => mvcc::Event {
                        kind: mvcc::EventKind::Put,
                        kv,
                        prev_kv,
                    },
                    None => mvcc::Event {
                        kind: mvcc::EventKind::Delete,
                        kv: mvcc::KeyValue {
                            key: key.clone(),
                            mod_revision: *at,
                            ..Default::default()
                        },
                        prev_kv,
                    },
                });
            }
        }
        events.sort_by_key(|e| e.kv.mod_revision);
        if let Some(s) = self.sessions.get(&session) {
            deliver(s, w.watch_id, w, self.header(), &events);
        }
    }
}

fn deliver(s: &Session, id: i64, w: &WatchCreate, header: Header, events: &[mvcc::Event]) {
    let range = mvcc::KeyRange {
        key: &w.key,
        end: &w.range_end,
    };
    let mut events: Vec<mvcc::Event> = events
        .iter()
        .filter(|e| range.contains(&e.kv.key))
        .filter(|e| match e.kind {
            mvcc::EventKind::Put => !w.no_put,
            mvcc::EventKind::Delete => !w.no_delete,
        })
        .cloned()
        .collect();
    if !w.prev_kv {
        events.iter_mut().for_each(|e| e.prev_kv = None);
    }
    if !events.is_empty() {
        let fragment = w.fragment;
        let _ = s.out.send(WatchResponse {
            header,
            watch_id: id,
            fragment,
            events,
            ..Default::default()
        });
    }
}

pub struct DoubleWatch {
    double: Double,
    id: u64,
    out: mpsc::UnboundedReceiver<WatchResponse>,
}

impl WatchSession for DoubleWatch {
    fn command(&mut self, command: WatchCommand) {
        let mut state = self.double.state();
        let header = state.header();
        match command {
            WatchCommand::Create(w) => state.create(self.id, w),
            WatchCommand::Cancel { watch_id } => {
                if let Some(s) = state.sessions.get_mut(&self.id)
                    && s.watchers.remove(&watch_id).is_some()
                {
                    let canceled = true;
                    let _ = s.out.send(WatchResponse {
                        header,
                        watch_id,
                        canceled,
                        ..Default::default()
                    });
                }
            }
            WatchCommand::Progress => {
                if let Some(s) = state.sessions.get(&self.id) {
                    let _ = s.out.send(WatchResponse {
                        header,
                        watch_id: -1,
                        ..Default::default()
                    });
                }
            }
        }
    }

    async fn next(&mut self) -> Option<WatchResponse> {
        self.out.recv().await
    }
}

impl Drop for DoubleWatch {
    fn drop(&mut self) {
        self.double.state().sessions.remove(&self.id);
    }
}

impl Backend for Double {
    type Watch = DoubleWatch;

    fn range(
        &self,
        r: &mvcc::RangeRequest<'_>,
        _serializable: bool,
    ) -> impl Future<Output = Result<Reply<mvcc::RangeResponse>, Error>> + Send + 'static {
        self.answer(|s| s.range(r))
    }

    fn put(
        &self,
        r: &mvcc::PutRequest<'_>,
    ) -> impl Future<Output = Result<Reply<mvcc::PutResponse>, Error>> + Send + 'static {
        self.answer(|s| s.write(|s, at, events| s.put(r, at, events)))
    }

    fn delete_range(
        &self,
        r: &mvcc::DeleteRangeRequest<'_>,
    ) -> impl Future<Output = Result<Reply<mvcc::DeleteRangeResponse>, Error>> + Send + 'static
    {
        self.answer(|s| s.write(|s, at, events| Ok(s.delete(r, at, events))))
    }

    fn txn(
        &self,
        t: &mvcc::TxnRequest<'_>,
        _serializable: bool,
    ) -> impl Future<Output = Result<Reply<mvcc::TxnResponse>, Error>> + Send + 'static {
        self.answer(|s| s.write(|s, at, events| s.txn(t, at, events)))
    }

    fn compact(
        &self,
        revision: i64,
        _physical: bool,
    ) -> impl Future<Output = Result<Reply<()>, Error>> + Send + 'static {
        self.answer(|s| {
            s.compacted = revision;
            Ok(())
        })
    }

    fn lease_grant(
        &self,
        id: i64,
        ttl_s: i64,
    ) -> impl Future<Output = Result<Reply<LeaseGranted>, Error>> + Send + 'static {
        self.answer(|s| {
            let id = if id == 0 {
                1_000 + s.leases.len() as i64
            } else {
                id
            };
            if s.leases.insert(id, ttl_s).is_some() {
                return Err(mvcc::Error::LeaseExists.into());
            }
            Ok(LeaseGranted { id, ttl_s })
        })
    }

    fn lease_revoke(
        &self,
        id: i64,
    ) -> impl Future<Output = Result<Reply<()>, Error>> + Send + 'static {
        self.answer(|s| {
            s.leases
                .remove(&id)
                .map(|_| ())
                .ok_or_else(|| mvcc::Error::LeaseNotFound.into())
        })
    }

    fn lease_keep_alive(
        &self,
        id: i64,
    ) -> impl Future<Output = Result<Reply<i64>, Error>> + Send + 'static {
        self.answer(|s| Ok(s.leases.get(&id).copied().unwrap_or(0)))
    }

    fn lease_time_to_live(
        &self,
        id: i64,
        keys: bool,
    ) -> impl Future<Output = Result<Reply<LeaseTtl>, Error>> + Send + 'static {
        self.answer(|s| {
            let ttl = s.leases.get(&id).copied();
            let keys = if keys {
                vec![Bytes::from_static(b"k")]
            } else {
                Vec::new()
            };
            let granted_ttl_s = ttl.unwrap_or(0);
            Ok(LeaseTtl {
                id,
                ttl_s: ttl.unwrap_or(-1),
                granted_ttl_s,
                keys,
            })
        })
    }

    fn leases(&self) -> impl Future<Output = Result<Reply<Vec<i64>>, Error>> + Send + 'static {
        self.answer(|s| Ok(s.leases.keys().copied().collect()))
    }

    fn hash_kv(
        &self,
        revision: i64,
    ) -> impl Future<Output = Result<Reply<HashKv>, Error>> + Send + 'static {
        self.answer(|s| {
            let hash_revision = if revision == 0 { s.revision } else { revision };
            Ok(HashKv {
                hash: 77,
                compact_revision: s.compacted,
                hash_revision,
            })
        })
    }

    fn status(&self) -> impl Future<Output = Result<Reply<Status>, Error>> + Send + 'static {
        self.answer(|_| {
            Ok(Status {
                version: "3.5.13".to_owned(),
                leader: MEMBER,
                raft_index: 9,
                raft_term: TERM,
                ..Default::default()
            })
        })
    }

    fn members(
        &self,
        _linearizable: bool,
    ) -> impl Future<Output = Result<Reply<Vec<Member>>, Error>> + Send + 'static {
        self.answer(|_| {
            Ok(vec![Member {
                id: MEMBER,
                name: "default".into(),
                peer_urls: vec!["http://localhost:2380".into()],
                client_urls: vec!["http://localhost:2379".into()],
                is_learner: false,
            }])
        })
    }

    fn watch_session(&self) -> DoubleWatch {
        let (tx, out) = mpsc::unbounded_channel();
        let mut state = self.state();
        let id = state.next_session;
        state.next_session += 1;
        state.sessions.insert(
            id,
            Session {
                out: tx,
                watchers: BTreeMap::new(),
            },
        );
        DoubleWatch {
            double: self.clone(),
            id,
            out,
        }
    }

    fn metrics(&self) -> Metrics {
        self.state().metrics.clone()
    }
}
