//! Reading and writing keys: put, get, range, delete, transactions, compaction.
//!
//! Promises: a request is checked, routed and encoded before the method returns, so no future borrows
//! from its caller, and a write happens whether or not its future is awaited.
//! Must never know: what a shard does with a request. Tested by `tests/engine`.

use henge_api::{Caller, Error, Header, Reply};
use henge_core::machine::Command;
use henge_core::shard::request::RequestKind;
use henge_mvcc as mvcc;

use super::submit::Answers as _;
use super::ticket::Ticket;
use super::{Engine, Operation, sharded};
use crate::failure::{CompactError, DeleteError, PutError, RangeError, TxnError};

impl Engine {
    /// Writes one key and waits until that is durable (on a quorum).
    ///
    /// Cancel safety: the write starts when this is called; dropping the future gives up the answer,
    /// never the write.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { on_scratch(async |engine| {
    /// let first = engine.put("greeting", "hello").await?;
    /// let second = engine.put("greeting", "hello again").await?;
    /// assert_eq!(second.header.revision, first.header.revision + 1);
    /// # Ok(()) }) }
    /// ```
    pub fn put(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
    ) -> Operation<Reply<mvcc::PutResponse>, PutError> {
        let request = mvcc::PutRequest {
            key: key.as_ref(),
            value: value.as_ref(),
            ..mvcc::PutRequest::default()
        };
        self.put_with(&request)
    }

    /// As [`Engine::put`], with a lease or the previous value.
    ///
    /// Cancel safety: the write starts when this is called; dropping the future gives up the answer,
    /// never the write.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { on_scratch(async |engine| {
    /// use henge::mvcc::PutRequest;
    ///
    /// engine.put("greeting", "hello").await?;
    /// let request = PutRequest {
    ///     key: b"greeting",
    ///     value: b"good-bye",
    ///     prev_kv: true,
    ///     ..PutRequest::default()
    /// };
    /// let reply = engine.put_with(&request).await?;
    /// assert_eq!(reply.body.prev_kv.map(|kv| kv.value), Some("hello".into()));
    /// # Ok(()) }) }
    /// ```
    pub fn put_with(
        &self,
        request: &mvcc::PutRequest<'_>,
    ) -> Operation<Reply<mvcc::PutResponse>, PutError> {
        let ticket = match mvcc::check::put(request, &self.inner.limits) {
            Ok(()) => match self.check_lease(request.key, request.lease) {
                Ok(()) => self.write(self.route(request.key), &Command::Put(request.clone())),
                Err(error) => Ticket::failed(error),
            },
            Err(error) => Ticket::failed(error.into()),
        };
        Operation::new(ticket, Reply::put)
    }

    /// Reads one key, linearizably.
    ///
    /// Cancel safety: dropping the future gives up the answer; nothing else happens.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { on_scratch(async |engine| {
    /// assert_eq!(engine.get("greeting").await?, None);
    /// engine.put("greeting", "hello").await?;
    /// let found = engine.get("greeting").await?.expect("just written");
    /// assert_eq!((found.value, found.version), ("hello".into(), 1));
    /// # Ok(()) }) }
    /// ```
    pub fn get(&self, key: impl AsRef<[u8]>) -> Operation<Option<mvcc::KeyValue>, RangeError> {
        let range = mvcc::KeyRange::one(key.as_ref());
        let request = mvcc::RangeRequest {
            range,
            ..mvcc::RangeRequest::default()
        };
        let ticket = match mvcc::check::range(&request, &self.inner.limits) {
            Ok(()) => {
                let encoded = Command::Range(request).encode();
                let kind = RequestKind::Read {
                    encoded,
                    serializable: false,
                };
                self.submit(self.route(key.as_ref()), kind)
            }
            Err(error) => Ticket::failed(error.into()),
        };
        Operation::new(ticket, |reply| {
            Ok(reply.range()?.body.kvs.into_iter().next())
        })
    }

    /// Reads a range, linearizably. Over several shards the answer is merged in key order and its header
    /// carries the highest revision; a past revision or another order needs one shard. To read on in the
    /// same state, use [`Engine::range_at`].
    ///
    /// Cancel safety: dropping the future gives up the answer; nothing else happens.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { on_scratch(async |engine| {
    /// use henge::mvcc::{KeyRange, RangeRequest};
    ///
    /// for name in ["ada", "bob", "cleo"] {
    ///     engine.put(format!("users/{name}"), name).await?;
    /// }
    /// let request = RangeRequest {
    ///     range: KeyRange { key: b"users/", end: b"users0" },
    ///     limit: 2,
    ///     ..RangeRequest::default()
    /// };
    /// let reply = engine.range(&request).await?;
    /// assert_eq!((reply.body.kvs.len(), reply.body.count, reply.body.more), (2, 3, true));
    /// # Ok(()) }) }
    /// ```
    pub fn range(
        &self,
        request: &mvcc::RangeRequest<'_>,
    ) -> impl Future<Output = Result<Reply<mvcc::RangeResponse>, RangeError>> + Send + use<> {
        let parts = self.range_parts(request, None);
        let limit = request.limit;
        let descending = request.sort_order == mvcc::SortOrder::Descend;
        async move {
            let mut header = Header::default();
            let mut found = Vec::new();
            for (_, ticket) in parts? {
                let part = ticket.await?.range()?;
                if part.header.revision >= header.revision {
                    header = part.header;
                }
                found.push(part.body);
            }
            let body = sharded::merge(found, limit, descending);
            Ok(Reply { header, body })
        }
    }

    /// Deletes one key.
    ///
    /// Cancel safety: the write starts when this is called; dropping the future gives up the answer,
    /// never the write.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { on_scratch(async |engine| {
    /// engine.put("greeting", "hello").await?;
    /// assert_eq!(engine.delete("greeting").await?.body.deleted, 1);
    /// assert_eq!(engine.delete("greeting").await?.body.deleted, 0);
    /// # Ok(()) }) }
    /// ```
    pub fn delete(
        &self,
        key: impl AsRef<[u8]>,
    ) -> Operation<Reply<mvcc::DeleteRangeResponse>, DeleteError> {
        let range = mvcc::KeyRange::one(key.as_ref());
        self.delete_range(&mvcc::DeleteRangeRequest {
            range,
            prev_kv: false,
        })
    }

    /// Deletes a range that lies in one shard.
    ///
    /// Cancel safety: the write starts when this is called; dropping the future gives up the answer,
    /// never the write.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { on_scratch(async |engine| {
    /// use henge::mvcc::{DeleteRangeRequest, KeyRange};
    ///
    /// engine.put("users/ada", "1").await?;
    /// engine.put("users/bob", "2").await?;
    /// let request = DeleteRangeRequest {
    ///     range: KeyRange { key: b"users/", end: b"users0" },
    ///     prev_kv: true,
    /// };
    /// let reply = engine.delete_range(&request).await?;
    /// assert_eq!(reply.body.prev_kvs.len(), 2);
    /// # Ok(()) }) }
    /// ```
    pub fn delete_range(
        &self,
        request: &mvcc::DeleteRangeRequest<'_>,
    ) -> Operation<Reply<mvcc::DeleteRangeResponse>, DeleteError> {
        let checked = mvcc::check::delete_range(request, &self.inner.limits).map_err(Error::from);
        let shard = checked.and_then(|()| self.route_range(&request.range, "a range delete"));
        let ticket = match shard {
            Ok(shard) => self.write(shard, &Command::DeleteRange(request.clone())),
            Err(error) => Ticket::failed(error),
        };
        Operation::new(ticket, Reply::delete)
    }

    /// Compares, then executes one of two lists of operations, atomically.
    ///
    /// Cancel safety: the write starts when this is called; dropping the future gives up the answer,
    /// never the write.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { on_scratch(async |engine| {
    /// use henge::mvcc::{
    ///     Compare, CompareResult, CompareTarget, KeyRange, PutRequest, RequestOp, TxnRequest,
    /// };
    ///
    /// // Created only if it does not exist.
    /// let create = TxnRequest {
    ///     compare: vec![Compare {
    ///         range: KeyRange::one(b"leader"),
    ///         result: CompareResult::Equal,
    ///         target: CompareTarget::CreateRevision(0),
    ///     }],
    ///     success: vec![RequestOp::Put(PutRequest {
    ///         key: b"leader",
    ///         value: b"me",
    ///         ..PutRequest::default()
    ///     })],
    ///     failure: vec![],
    /// };
    /// assert!(engine.txn(&create).await?.body.succeeded);
    /// assert!(!engine.txn(&create).await?.body.succeeded);
    /// # Ok(()) }) }
    /// ```
    pub fn txn(
        &self,
        request: &mvcc::TxnRequest<'_>,
    ) -> Operation<Reply<mvcc::TxnResponse>, TxnError> {
        let checked = mvcc::check::txn(request, &self.inner.limits).map_err(Error::from);
        let ticket = match checked.and_then(|()| self.route_txn(request)) {
            Ok(shard) => self.txn_ticket(Caller::nobody(), shard, request, false),
            Err(error) => Ticket::failed(error),
        };
        Operation::new(ticket, Reply::txn)
    }

    /// Forgets history below `revision`; `physical` waits until it is gone, but for what open snapshots
    /// and long ranges still read. One shard only, as revisions are per shard: for several, use
    /// [`Engine::compact_to`].
    ///
    /// Cancel safety: the write starts when this is called; dropping the future gives up the answer,
    /// never the write.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { on_scratch(async |engine| {
    /// use henge::mvcc::{KeyRange, RangeRequest};
    ///
    /// engine.put("greeting", "hello").await?;
    /// let now = engine.put("greeting", "again").await?.header.revision;
    /// engine.compact(now, true).await?;
    /// let old = RangeRequest {
    ///     range: KeyRange::one(b"greeting"),
    ///     revision: now - 1,
    ///     ..RangeRequest::default()
    /// };
    /// assert!(engine.range(&old).await.is_err());
    /// # Ok(()) }) }
    /// ```
    pub fn compact(&self, revision: i64, physical: bool) -> Operation<Reply<()>, CompactError> {
        let ticket = match self.one_shard("compaction at a revision") {
            Ok(shard) => self.write(shard, &Command::Compact { revision, physical }),
            Err(error) => Ticket::failed(error),
        };
        Operation::new(ticket, Reply::done)
    }
}
