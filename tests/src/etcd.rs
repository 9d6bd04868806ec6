//! A small etcd client: the messages and calls that the tests use.
//!
//! Promises: wire definitions of our own, written from etcd's field numbers and not shared with the
//! server, so that a wrong number in the server's protos cannot agree with itself.
//! Must never know: which server answers. Tested by running the crash test against a real etcd.

use std::time::Duration;

use prost::Message;
use tokio::sync::mpsc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::codegen::tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming};
use tonic_prost::ProstCodec;

/// A reply's header (`etcdserverpb.ResponseHeader`).
#[derive(Clone, Copy, PartialEq, Message)]
pub struct Header {
    /// Cluster.
    #[prost(uint64, tag = "1")]
    pub cluster_id: u64,
    /// Member that answered.
    #[prost(uint64, tag = "2")]
    pub member_id: u64,
    /// The store's revision.
    #[prost(int64, tag = "3")]
    pub revision: i64,
    /// Raft term.
    #[prost(uint64, tag = "4")]
    pub raft_term: u64,
}

/// `mvccpb.KeyValue`.
#[derive(Clone, PartialEq, Message)]
pub struct KeyValue {
    /// Key.
    #[prost(bytes = "vec", tag = "1")]
    pub key: Vec<u8>,
    /// Revision that created it.
    #[prost(int64, tag = "2")]
    pub create_revision: i64,
    /// Revision that last changed it.
    #[prost(int64, tag = "3")]
    pub mod_revision: i64,
    /// Changes since it was created, from 1.
    #[prost(int64, tag = "4")]
    pub version: i64,
    /// Value.
    #[prost(bytes = "vec", tag = "5")]
    pub value: Vec<u8>,
    /// Lease, or 0.
    #[prost(int64, tag = "6")]
    pub lease: i64,
}

/// `etcdserverpb.RangeRequest`, as far as used.
#[derive(Clone, PartialEq, Message)]
pub struct RangeRequest {
    /// First key.
    #[prost(bytes = "vec", tag = "1")]
    pub key: Vec<u8>,
    /// Key behind the last; empty for one key only, `"\0"` for all from `key` on.
    #[prost(bytes = "vec", tag = "2")]
    pub range_end: Vec<u8>,
    /// At most so many keys; 0 for all.
    #[prost(int64, tag = "3")]
    pub limit: i64,
    /// Revision to read at; 0 for now.
    #[prost(int64, tag = "4")]
    pub revision: i64,
    /// Answer from this member's own state.
    #[prost(bool, tag = "7")]
    pub serializable: bool,
}

/// `etcdserverpb.RangeResponse`.
#[derive(Clone, PartialEq, Message)]
pub struct RangeResponse {
    /// Header.
    #[prost(message, optional, tag = "1")]
    pub header: Option<Header>,
    /// Found pairs, in key order.
    #[prost(message, repeated, tag = "2")]
    pub kvs: Vec<KeyValue>,
    /// The limit cut something off.
    #[prost(bool, tag = "3")]
    pub more: bool,
    /// Keys in the range, whatever the limit.
    #[prost(int64, tag = "4")]
    pub count: i64,
}

/// `etcdserverpb.PutRequest`, as far as used.
#[derive(Clone, PartialEq, Message)]
pub struct PutRequest {
    /// Key.
    #[prost(bytes = "vec", tag = "1")]
    pub key: Vec<u8>,
    /// Value.
    #[prost(bytes = "vec", tag = "2")]
    pub value: Vec<u8>,
}

/// `etcdserverpb.DeleteRangeRequest`, as far as used.
#[derive(Clone, PartialEq, Message)]
pub struct DeleteRangeRequest {
    /// Key.
    #[prost(bytes = "vec", tag = "1")]
    pub key: Vec<u8>,
}

/// One operation of a transaction (`etcdserverpb.RequestOp`).
#[derive(Clone, PartialEq, Message)]
pub struct RequestOp {
    /// Which.
    #[prost(oneof = "Op", tags = "2, 3")]
    pub request: Option<Op>,
}

/// The operations used here.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Op {
    /// Put.
    #[prost(message, tag = "2")]
    Put(PutRequest),
    /// Delete.
    #[prost(message, tag = "3")]
    Delete(DeleteRangeRequest),
}

/// `etcdserverpb.TxnRequest` without compares: `success` always runs.
#[derive(Clone, PartialEq, Message)]
pub struct TxnRequest {
    /// Operations.
    #[prost(message, repeated, tag = "2")]
    pub success: Vec<RequestOp>,
}

/// Any reply of which only the header matters (put, delete, txn).
#[derive(Clone, PartialEq, Message)]
pub struct Headed {
    /// Header.
    #[prost(message, optional, tag = "1")]
    pub header: Option<Header>,
}

/// `etcdserverpb.AlarmRequest`.
#[derive(Clone, PartialEq, Message)]
struct AlarmRequest {
    /// 1 raises, 2 lowers.
    #[prost(int32, tag = "1")]
    action: i32,
    #[prost(uint64, tag = "2")]
    member_id: u64,
    /// 1 is NOSPACE.
    #[prost(int32, tag = "3")]
    alarm: i32,
}

/// `etcdserverpb.AlarmResponse`, as far as used.
#[derive(Clone, PartialEq, Message)]
struct AlarmResponse {
    #[prost(message, optional, tag = "1")]
    header: Option<Header>,
}

/// `etcdserverpb.StatusRequest`.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct StatusRequest {}

/// `etcdserverpb.StatusResponse`, as far as used.
#[derive(Clone, PartialEq, Message)]
pub struct StatusResponse {
    /// Header.
    #[prost(message, optional, tag = "1")]
    pub header: Option<Header>,
    /// Member id of the leader, 0 for none.
    #[prost(uint64, tag = "4")]
    pub leader: u64,
}

/// `mvccpb.Event`, as far as used.
#[derive(Clone, PartialEq, Message)]
pub struct Event {
    /// 0 for a put, 1 for a delete.
    #[prost(int32, tag = "1")]
    pub kind: i32,
    /// The pair; of a delete, its key and revision.
    #[prost(message, optional, tag = "2")]
    pub kv: Option<KeyValue>,
}

/// `etcdserverpb.WatchCreateRequest`, as far as used.
#[derive(Clone, PartialEq, Message)]
pub struct WatchCreateRequest {
    /// First key.
    #[prost(bytes = "vec", tag = "1")]
    pub key: Vec<u8>,
    /// As in a range request.
    #[prost(bytes = "vec", tag = "2")]
    pub range_end: Vec<u8>,
    /// First revision wanted; 0 for what comes next.
    #[prost(int64, tag = "3")]
    pub start_revision: i64,
    /// Notes of how far an idle watcher is.
    #[prost(bool, tag = "4")]
    pub progress_notify: bool,
    /// Its number on the stream, not 0.
    #[prost(int64, tag = "7")]
    pub watch_id: i64,
}

/// `etcdserverpb.WatchProgressRequest`.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct WatchProgressRequest {}

/// `etcdserverpb.WatchRequest`, as far as used.
#[derive(Clone, PartialEq, Message)]
pub struct WatchRequest {
    /// Which.
    #[prost(oneof = "Watch", tags = "1, 3")]
    pub request: Option<Watch>,
}

/// What is said on a watch stream here.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Watch {
    /// Begin a watcher.
    #[prost(message, tag = "1")]
    Create(WatchCreateRequest),
    /// How far is the stream?
    #[prost(message, tag = "3")]
    Progress(WatchProgressRequest),
}

/// `etcdserverpb.WatchResponse`, as far as used.
#[derive(Clone, PartialEq, Message)]
pub struct WatchResponse {
    /// Header.
    #[prost(message, optional, tag = "1")]
    pub header: Option<Header>,
    /// Which watcher; -1 for all of the stream.
    #[prost(int64, tag = "2")]
    pub watch_id: i64,
    /// The first one.
    #[prost(bool, tag = "3")]
    pub created: bool,
    /// The last one.
    #[prost(bool, tag = "4")]
    pub canceled: bool,
    /// Why, if history is gone.
    #[prost(int64, tag = "5")]
    pub compact_revision: i64,
    /// Changes.
    #[prost(message, repeated, tag = "11")]
    pub events: Vec<Event>,
}

/// Largest reply taken: a page of keys with values.
const REPLY_MAX: usize = 256 << 20;

/// One connection to one server. It connects when first used, and again when it has to.
#[derive(Clone, Debug)]
pub struct Client {
    grpc: tonic::client::Grpc<Channel>,
}

impl Client {
    /// A client of `127.0.0.1:port` whose calls end after `deadline` at the latest.
    pub fn new(port: u16, deadline: Duration) -> Self {
        Self::of(format!("http://127.0.0.1:{port}"), deadline)
    }

    /// The same through a unix socket.
    pub fn unix(path: &std::path::Path, deadline: Duration) -> Self {
        Self::of(format!("unix://{}", path.display()), deadline)
    }

    fn of(url: String, deadline: Duration) -> Self {
        let endpoint = Endpoint::try_from(url)
            .expect("a valid URL")
            .connect_timeout(deadline)
            .timeout(deadline);
        let grpc =
            tonic::client::Grpc::new(endpoint.connect_lazy()).max_decoding_message_size(REPLY_MAX);
        Self { grpc }
    }

    /// Puts; the revision it got.
    pub async fn put(&mut self, key: Vec<u8>, value: Vec<u8>) -> Result<i64, Status> {
        self.headed("/etcdserverpb.KV/Put", PutRequest { key, value })
            .await
    }

    /// Runs `ops` as one transaction; the revision it got.
    pub async fn txn(&mut self, ops: Vec<Op>) -> Result<i64, Status> {
        let success = ops
            .into_iter()
            .map(|op| RequestOp { request: Some(op) })
            .collect();
        self.headed("/etcdserverpb.KV/Txn", TxnRequest { success })
            .await
    }

    /// Deletes one key; the revision it got.
    pub async fn delete(&mut self, key: Vec<u8>) -> Result<i64, Status> {
        self.headed("/etcdserverpb.KV/DeleteRange", DeleteRangeRequest { key })
            .await
    }

    /// Reads a range.
    pub async fn range(&mut self, request: RangeRequest) -> Result<RangeResponse, Status> {
        self.call("/etcdserverpb.KV/Range", request).await
    }

    /// Member, leader and revision as this member sees them.
    pub async fn status(&mut self) -> Result<StatusResponse, Status> {
        self.call("/etcdserverpb.Maintenance/Status", StatusRequest {})
            .await
    }

    /// Raises NOSPACE of a member, or lowers it.
    pub async fn alarm_nospace(&mut self, raise: bool, member_id: u64) -> Result<(), Status> {
        let request = AlarmRequest {
            action: if raise { 1 } else { 2 },
            member_id,
            alarm: 1,
        };
        let _: AlarmResponse = self
            .call("/etcdserverpb.Maintenance/Alarm", request)
            .await?;
        Ok(())
    }

    /// Everything in the store at one revision, page by page; the revision and the pairs.
    pub async fn everything(&mut self, serializable: bool) -> Result<(i64, Vec<KeyValue>), Status> {
        const PAGE: i64 = 5_000;
        let mut request = RangeRequest {
            key: vec![0],
            range_end: vec![0],
            limit: PAGE,
            revision: 0,
            serializable,
        };
        let mut all = Vec::new();
        loop {
            let page = self.range(request.clone()).await?;
            if request.revision == 0 {
                // The first page pins the revision: the others must not see later writes.
                request.revision = revision(page.header)?;
            }
            all.extend(page.kvs);
            match all.last() {
                Some(last) if page.more => request.key = [&last.key[..], &[0]].concat(),
                _ => return Ok((request.revision, all)),
            }
        }
    }

    /// Opens a watch stream on which `requests` are said.
    pub async fn watch(
        &mut self,
        requests: mpsc::Receiver<WatchRequest>,
    ) -> Result<Streaming<WatchResponse>, Status> {
        self.grpc
            .ready()
            .await
            .map_err(|e| Status::unavailable(e.to_string()))?;
        let path = PathAndQuery::from_static("/etcdserverpb.Watch/Watch");
        let codec = ProstCodec::<WatchRequest, WatchResponse>::default();
        let requests = Request::new(ReceiverStream::new(requests));
        Ok(self
            .grpc
            .streaming(requests, path, codec)
            .await?
            .into_inner())
    }

    async fn headed<T: Message + 'static>(
        &mut self,
        path: &'static str,
        request: T,
    ) -> Result<i64, Status> {
        let reply: Headed = self.call(path, request).await?;
        revision(reply.header)
    }

    /// Any unary call.
    pub async fn call<T, U>(&mut self, path: &'static str, request: T) -> Result<U, Status>
    where
        T: Message + 'static,
        U: Message + Default + 'static,
    {
        self.grpc
            .ready()
            .await
            .map_err(|e| Status::unavailable(e.to_string()))?;
        let path = PathAndQuery::from_static(path);
        let codec = ProstCodec::<T, U>::default();
        Ok(self
            .grpc
            .unary(Request::new(request), path, codec)
            .await?
            .into_inner())
    }
}

fn revision(header: Option<Header>) -> Result<i64, Status> {
    header
        .map(|h| h.revision)
        .ok_or_else(|| Status::internal("the reply has no header"))
}
