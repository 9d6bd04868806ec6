//! One shard shown as a complete etcd: the [`Backend`] of the server's edge.

use std::sync::PoisonError;

use henge_api::{
    AlarmAction, AlarmMember, Backend, Caller, CoreMetrics, Error, HashKv, LeaseGranted, LeaseTtl,
    Member, Metrics, PeerView, Reply, Status, Vitals,
};
use henge_core::machine::{Command, Response};
use henge_core::shard::request::RequestKind;
use henge_core::stream::WatchStream;
use henge_mvcc as mvcc;

use super::submit::Answers as _;
use super::{Engine, Operation, Ticket};

/// A shard with its own revision, leases and watchers.
#[derive(Clone)]
pub struct Keyspace {
    engine: Engine,
    shard: usize,
    /// Who asks through it.
    caller: Caller,
}

impl Keyspace {
    pub(crate) fn new(engine: Engine, shard: usize) -> Self {
        Keyspace {
            engine,
            shard,
            caller: Caller::nobody(),
        }
    }

    /// The engine it belongs to.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { on_scratch(async |engine| {
    /// let keyspace = engine.keyspace(0).expect("it has one shard");
    /// keyspace.engine().put("greeting", "hello").await?;
    /// # Ok(()) }) }
    /// ```
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    fn checked(&self, checked: Result<(), mvcc::Error>, submit: impl FnOnce() -> Ticket) -> Ticket {
        match checked {
            Ok(()) => submit(),
            Err(error) => Ticket::failed(error.into()),
        }
    }

    fn write(&self, command: &Command<'_>) -> Ticket {
        self.engine.write_by(self.caller, self.shard, command)
    }

    fn submit(&self, kind: RequestKind) -> Ticket {
        self.engine.submit_by(self.caller, self.shard, kind)
    }

    fn limits(&self) -> &mvcc::check::Limits {
        &self.engine.inner().limits
    }
}

impl Backend for Keyspace {
    type Watch = WatchStream;

    fn by(&self, caller: Caller) -> Self {
        Keyspace {
            engine: self.engine.clone(),
            shard: self.shard,
            caller,
        }
    }

    fn range(
        &self,
        request: &mvcc::RangeRequest<'_>,
        serializable: bool,
    ) -> impl Future<Output = Result<Reply<mvcc::RangeResponse>, Error>> + Send + 'static {
        let ticket = self.checked(mvcc::check::range(request, self.limits()), || {
            let encoded = Command::Range(request.clone()).encode();
            self.submit(RequestKind::Read {
                encoded,
                serializable,
            })
        });
        Operation::new(ticket, Reply::range)
    }

    fn put(
        &self,
        request: &mvcc::PutRequest<'_>,
    ) -> impl Future<Output = Result<Reply<mvcc::PutResponse>, Error>> + Send + 'static {
        let ticket = self.checked(mvcc::check::put(request, self.limits()), || {
            self.write(&Command::Put(request.clone()))
        });
        Operation::new(ticket, Reply::put)
    }

    fn delete_range(
        &self,
        request: &mvcc::DeleteRangeRequest<'_>,
    ) -> impl Future<Output = Result<Reply<mvcc::DeleteRangeResponse>, Error>> + Send + 'static
    {
        let ticket = self.checked(mvcc::check::delete_range(request, self.limits()), || {
            self.write(&Command::DeleteRange(request.clone()))
        });
        Operation::new(ticket, Reply::delete)
    }

    fn txn(
        &self,
        request: &mvcc::TxnRequest<'_>,
        serializable: bool,
    ) -> impl Future<Output = Result<Reply<mvcc::TxnResponse>, Error>> + Send + 'static {
        let ticket = self.checked(mvcc::check::txn(request, self.limits()), || {
            self.engine
                .txn_ticket(self.caller, self.shard, request, serializable)
        });
        Operation::new(ticket, Reply::txn)
    }

    fn compact(
        &self,
        revision: i64,
        physical: bool,
    ) -> impl Future<Output = Result<Reply<()>, Error>> + Send + 'static {
        let ticket = self.write(&Command::Compact { revision, physical });
        Operation::new(ticket, Reply::done)
    }

    fn lease_grant(
        &self,
        id: i64,
        ttl_s: i64,
    ) -> impl Future<Output = Result<Reply<LeaseGranted>, Error>> + Send + 'static {
        let ticket = self.write(&Command::LeaseGrant { id, ttl_s });
        Operation::new(ticket, Reply::granted)
    }

    fn lease_revoke(
        &self,
        id: i64,
    ) -> impl Future<Output = Result<Reply<()>, Error>> + Send + 'static {
        let ticket = self.write(&Command::LeaseRevoke { id });
        Operation::new(ticket, Reply::done)
    }

    fn lease_keep_alive(
        &self,
        id: i64,
    ) -> impl Future<Output = Result<Reply<i64>, Error>> + Send + 'static {
        let ticket = self.submit(RequestKind::LeaseKeepAlive(id));
        Operation::new(ticket, Reply::renewed)
    }

    fn lease_time_to_live(
        &self,
        id: i64,
        keys: bool,
    ) -> impl Future<Output = Result<Reply<LeaseTtl>, Error>> + Send + 'static {
        let ticket = self.submit(RequestKind::LeaseTimeToLive { id, keys });
        Operation::new(ticket, Reply::ttl)
    }

    fn leases(&self) -> impl Future<Output = Result<Reply<Vec<i64>>, Error>> + Send + 'static {
        let ticket = self.submit(RequestKind::Leases);
        Operation::new(ticket, Reply::leases)
    }

    fn hash_kv(
        &self,
        revision: i64,
    ) -> impl Future<Output = Result<Reply<HashKv>, Error>> + Send + 'static {
        let ticket = self.submit(RequestKind::HashKv(revision));
        Operation::new(ticket, Reply::hash)
    }

    fn status(&self) -> impl Future<Output = Result<Reply<Status>, Error>> + Send + 'static {
        let ticket = self.submit(RequestKind::Status);
        Operation::new(ticket, |reply| Ok(reply.status()?.map(|status| *status)))
    }

    fn alarms(
        &self,
    ) -> impl Future<Output = Result<Reply<Vec<AlarmMember>>, Error>> + Send + 'static {
        let ticket = self.submit(RequestKind::Alarms);
        Operation::new(ticket, Reply::alarms)
    }

    fn alarm(
        &self,
        action: AlarmAction,
        alarm: AlarmMember,
    ) -> impl Future<Output = Result<Reply<Vec<AlarmMember>>, Error>> + Send + 'static {
        let ticket = self.write(&Command::Alarm { action, alarm });
        Operation::new(ticket, Reply::alarms)
    }

    fn members(
        &self,
        linearizable: bool,
    ) -> impl Future<Output = Result<Reply<Vec<Member>>, Error>> + Send + 'static {
        let kind = if linearizable {
            RequestKind::Barrier
        } else {
            RequestKind::Status
        };
        let ticket = self.submit(kind);
        let members = self.engine.inner().members.clone();
        async move {
            let Reply::<Response> { mut header, .. } = ticket.await?;
            // etcd's Cluster RPCs carry no revision.
            header.revision = 0;
            let members = members
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone();
            Ok(Reply {
                header,
                body: members,
            })
        }
    }

    fn watch_session(&self) -> WatchStream {
        self.engine.session(self.shard)
    }

    fn metrics(&self) -> Metrics {
        self.engine.metrics(self.shard).unwrap_or_default()
    }

    fn vitals(&self) -> Vitals {
        let inner = self.engine.inner();
        let shard = inner.shards.get(self.shard);
        shard.map_or_else(Vitals::default, |shard| {
            shard.door.vitals.with(&inner.cores[shard.core].vitals)
        })
    }

    fn peers(&self) -> Vec<PeerView> {
        let inner = self.engine.inner();
        let members = inner.members.lock().unwrap_or_else(PoisonError::into_inner);
        let mesh = inner.peers.as_ref();
        mesh.map_or_else(Vec::new, |mesh| mesh.view(&members))
    }

    fn core_metrics(&self) -> Option<(usize, CoreMetrics)> {
        let core = self.engine.core_of(self.shard)?;
        Some((core, self.engine.core_metrics(core)?))
    }
}
