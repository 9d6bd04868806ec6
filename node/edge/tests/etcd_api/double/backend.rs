//! The stand-in as the backend of an edge.

use std::collections::BTreeMap;
use std::future::Future;

use bytes::Bytes;
use henge::api::*;
use henge_mvcc as mvcc;
use tokio::sync::mpsc;

use super::watch::DoubleWatch;
use super::{Double, MEMBER, Session, TERM};

impl Backend for Double {
    type Watch = DoubleWatch;

    fn by(&self, caller: Caller) -> Self {
        self.state().callers.push(caller);
        self.clone()
    }

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
                leader: MEMBER,
                raft_index: 9,
                raft_term: TERM,
                ..Default::default()
            })
        })
    }

    fn alarms(
        &self,
    ) -> impl Future<Output = Result<Reply<Vec<AlarmMember>>, Error>> + Send + 'static {
        self.answer(|s| Ok(s.alarms.clone()))
    }

    fn alarm(
        &self,
        action: AlarmAction,
        alarm: AlarmMember,
    ) -> impl Future<Output = Result<Reply<Vec<AlarmMember>>, Error>> + Send + 'static {
        self.answer(|s| {
            let before = s.alarms.len();
            s.alarms.retain(|raised| *raised != alarm);
            match action {
                AlarmAction::Activate => s.alarms.push(alarm),
                AlarmAction::Deactivate if s.alarms.len() == before => return Ok(Vec::new()),
                AlarmAction::Deactivate => {}
            }
            Ok(vec![alarm])
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
