//! One shard shown as a complete etcd: the [`Backend`] of the server's edge.

use henge_mvcc as mvcc;

use super::{Engine, Ticket};
use crate::api::{
    Backend, Error, HashKv, LeaseGranted, LeaseTtl, Member, Metrics, Reply, Status,
};
use crate::machine::{Command, Response};
use crate::shard::request::RequestKind;
use crate::shard::session::WatchStream;

/// A shard with its own revision, leases and watchers.
#[derive(Clone)]
pub struct Keyspace {
    engine: Engine,
    shard: usize,
}

impl Keyspace {
    pub(crate) fn new(engine: Engine, shard: usize) -> Self {
        Keyspace { engine, shard }
    }

    /// The engine it belongs to.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    fn checked(
        &self,
        checked: Result<(), mvcc::Error>,
        submit: impl FnOnce() -> Ticket,
    ) -> Ticket {
        match checked {
            Ok(()) => submit(),
            Err(error) => Ticket::failed(error.into()),
        }
    }

    fn write(&self, command: &Command<'_>) -> Ticket {
        self.engine.write(self.shard, command)
    }

    fn limits(&self) -> &mvcc::check::Limits {
        &self.engine.inner().limits
    }
}

impl Backend for Keyspace {
    type Watch = WatchStream;

    fn range(
        &self,
        request: &mvcc::RangeRequest<'_>,
        serializable: bool,
    ) -> impl Future<Output = Result<Reply<mvcc::RangeResponse>, Error>> + Send + 'static {
        let ticket = self.checked(mvcc::check::range(request, self.limits()), || {
            let encoded = Command::Range(request.clone()).encode();
            self.engine.submit(self.shard, RequestKind::Read { encoded, serializable })
        });
        async move { ticket.await?.range() }
    }

    fn put(
        &self,
        request: &mvcc::PutRequest<'_>,
    ) -> impl Future<Output = Result<Reply<mvcc::PutResponse>, Error>> + Send + 'static {
        let ticket = self.checked(mvcc::check::put(request, self.limits()), || {
            self.write(&Command::Put(request.clone()))
        });
        async move { ticket.await?.put() }
    }

    fn delete_range(
        &self,
        request: &mvcc::DeleteRangeRequest<'_>,
    ) -> impl Future<Output = Result<Reply<mvcc::DeleteRangeResponse>, Error>> + Send + 'static {
        let ticket = self.checked(mvcc::check::delete_range(request, self.limits()), || {
            self.write(&Command::DeleteRange(request.clone()))
        });
        async move { ticket.await?.delete() }
    }

    fn txn(
        &self,
        request: &mvcc::TxnRequest<'_>,
        serializable: bool,
    ) -> impl Future<Output = Result<Reply<mvcc::TxnResponse>, Error>> + Send + 'static {
        let ticket = self.checked(mvcc::check::txn(request, self.limits()), || {
            self.engine.txn_ticket(self.shard, request, serializable)
        });
        async move { ticket.await?.txn() }
    }

    fn compact(
        &self,
        revision: i64,
        physical: bool,
    ) -> impl Future<Output = Result<Reply<()>, Error>> + Send + 'static {
        let ticket = self.write(&Command::Compact { revision, physical });
        async move { ticket.await?.done() }
    }

    fn lease_grant(
        &self,
        id: i64,
        ttl_s: i64,
    ) -> impl Future<Output = Result<Reply<LeaseGranted>, Error>> + Send + 'static {
        let ticket = self.write(&Command::LeaseGrant { id, ttl_s });
        async move { ticket.await?.granted() }
    }

    fn lease_revoke(
        &self,
        id: i64,
    ) -> impl Future<Output = Result<Reply<()>, Error>> + Send + 'static {
        let ticket = self.write(&Command::LeaseRevoke { id });
        async move { ticket.await?.done() }
    }

    fn lease_keep_alive(
        &self,
        id: i64,
    ) -> impl Future<Output = Result<Reply<i64>, Error>> + Send + 'static {
        let ticket = self.engine.submit(self.shard, RequestKind::LeaseKeepAlive(id));
        async move { ticket.await?.renewed() }
    }

    fn lease_time_to_live(
        &self,
        id: i64,
        keys: bool,
    ) -> impl Future<Output = Result<Reply<LeaseTtl>, Error>> + Send + 'static {
        let ticket = self.engine.submit(self.shard, RequestKind::LeaseTimeToLive { id, keys });
        async move { ticket.await?.ttl() }
    }

    fn leases(&self) -> impl Future<Output = Result<Reply<Vec<i64>>, Error>> + Send + 'static {
        let ticket = self.engine.submit(self.shard, RequestKind::Leases);
        async move { ticket.await?.leases() }
    }

    fn hash_kv(
        &self,
        revision: i64,
    ) -> impl Future<Output = Result<Reply<HashKv>, Error>> + Send + 'static {
        let ticket = self.engine.submit(self.shard, RequestKind::HashKv(revision));
        async move { ticket.await?.hash() }
    }

    fn status(&self) -> impl Future<Output = Result<Reply<Status>, Error>> + Send + 'static {
        let ticket = self.engine.submit(self.shard, RequestKind::Status);
        async move { Ok(ticket.await?.status()?.map(|status| *status)) }
    }

    fn members(
        &self,
        linearizable: bool,
    ) -> impl Future<Output = Result<Reply<Vec<Member>>, Error>> + Send + 'static {
        let kind = if linearizable { RequestKind::Barrier } else { RequestKind::Status };
        let ticket = self.engine.submit(self.shard, kind);
        let members = self.engine.inner().members.clone();
        async move {
            let Reply::<Response> { mut header, .. } = ticket.await?;
            // etcd's Cluster RPCs carry no revision.
            header.revision = 0;
            Ok(Reply { header, body: members })
        }
    }

    fn watch_session(&self) -> WatchStream {
        self.engine.session(self.shard)
    }

    fn metrics(&self) -> Metrics {
        self.engine.metrics(self.shard).unwrap_or_default()
    }
}
