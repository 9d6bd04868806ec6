//! etcd's requests and answers on the wire, and their equals in the store's vocabulary.
//!
//! Promises: field numbers of our own, written from etcd's API and not shared with the server;
//! nothing of an answer is dropped but what names the member that gave it. Must never know: what is
//! asked. Tested by the differential test, in which a wrong number would show at once.

use henge_mvcc as mvcc;
use prost::{Message, Oneof};

use crate::etcd::{Header, KeyValue};

macro_rules! messages {
    ($($(#[$meta:meta])* $name:ident { $($(#[$field_meta:meta])* $field:ident: $type:ty,)* })*) => {
        $($(#[$meta])*
        #[derive(Clone, PartialEq, Message)]
        pub struct $name {
            $(#[doc = concat!("`", stringify!($field), "`.")] $(#[$field_meta])* pub $field: $type,)*
        })*
    };
}

messages! {
    /// `RangeRequest`.
    RangeRequest {
        #[prost(bytes = "vec", tag = "1")] key: Vec<u8>,
        #[prost(bytes = "vec", tag = "2")] range_end: Vec<u8>,
        #[prost(int64, tag = "3")] limit: i64,
        #[prost(int64, tag = "4")] revision: i64,
        #[prost(int32, tag = "5")] sort_order: i32,
        #[prost(int32, tag = "6")] sort_target: i32,
        #[prost(bool, tag = "7")] serializable: bool,
        #[prost(bool, tag = "8")] keys_only: bool,
        #[prost(bool, tag = "9")] count_only: bool,
        #[prost(int64, tag = "10")] min_mod_revision: i64,
        #[prost(int64, tag = "11")] max_mod_revision: i64,
        #[prost(int64, tag = "12")] min_create_revision: i64,
        #[prost(int64, tag = "13")] max_create_revision: i64,
    }
    /// `RangeResponse`.
    RangeResponse {
        #[prost(message, optional, tag = "1")] header: Option<Header>,
        #[prost(message, repeated, tag = "2")] kvs: Vec<KeyValue>,
        #[prost(bool, tag = "3")] more: bool,
        #[prost(int64, tag = "4")] count: i64,
    }
    /// `PutRequest`.
    PutRequest {
        #[prost(bytes = "vec", tag = "1")] key: Vec<u8>,
        #[prost(bytes = "vec", tag = "2")] value: Vec<u8>,
        #[prost(int64, tag = "3")] lease: i64,
        #[prost(bool, tag = "4")] prev_kv: bool,
        #[prost(bool, tag = "5")] ignore_value: bool,
        #[prost(bool, tag = "6")] ignore_lease: bool,
    }
    /// `PutResponse`.
    PutResponse {
        #[prost(message, optional, tag = "1")] header: Option<Header>,
        #[prost(message, optional, tag = "2")] prev_kv: Option<KeyValue>,
    }
    /// `DeleteRangeRequest`.
    DeleteRangeRequest {
        #[prost(bytes = "vec", tag = "1")] key: Vec<u8>,
        #[prost(bytes = "vec", tag = "2")] range_end: Vec<u8>,
        #[prost(bool, tag = "3")] prev_kv: bool,
    }
    /// `DeleteRangeResponse`.
    DeleteRangeResponse {
        #[prost(message, optional, tag = "1")] header: Option<Header>,
        #[prost(int64, tag = "2")] deleted: i64,
        #[prost(message, repeated, tag = "3")] prev_kvs: Vec<KeyValue>,
    }
    /// `RequestOp`.
    RequestOp {
        #[prost(oneof = "Request", tags = "1, 2, 3, 4")] request: Option<Request>,
    }
    /// `ResponseOp`.
    ResponseOp {
        #[prost(oneof = "Response", tags = "1, 2, 3, 4")] response: Option<Response>,
    }
    /// `Compare`.
    Compare {
        #[prost(int32, tag = "1")] result: i32,
        #[prost(int32, tag = "2")] target: i32,
        #[prost(bytes = "vec", tag = "3")] key: Vec<u8>,
        #[prost(oneof = "Target", tags = "4, 5, 6, 7, 8")] given: Option<Target>,
        #[prost(bytes = "vec", tag = "64")] range_end: Vec<u8>,
    }
    /// `TxnRequest`.
    TxnRequest {
        #[prost(message, repeated, tag = "1")] compare: Vec<Compare>,
        #[prost(message, repeated, tag = "2")] success: Vec<RequestOp>,
        #[prost(message, repeated, tag = "3")] failure: Vec<RequestOp>,
    }
    /// `TxnResponse`.
    TxnResponse {
        #[prost(message, optional, tag = "1")] header: Option<Header>,
        #[prost(bool, tag = "2")] succeeded: bool,
        #[prost(message, repeated, tag = "3")] responses: Vec<ResponseOp>,
    }
    /// `CompactionRequest`.
    CompactionRequest {
        #[prost(int64, tag = "1")] revision: i64,
        #[prost(bool, tag = "2")] physical: bool,
    }
    /// `LeaseGrantRequest`, and `LeaseTimeToLiveRequest` with `ttl` as its `keys`.
    LeaseGrantRequest {
        #[prost(int64, tag = "1")] ttl: i64,
        #[prost(int64, tag = "2")] id: i64,
    }
    /// `LeaseGrantResponse`.
    LeaseGrantResponse {
        #[prost(message, optional, tag = "1")] header: Option<Header>,
        #[prost(int64, tag = "2")] id: i64,
        #[prost(int64, tag = "3")] ttl: i64,
        #[prost(string, tag = "4")] error: String,
    }
    /// `LeaseRevokeRequest`.
    LeaseRevokeRequest {
        #[prost(int64, tag = "1")] id: i64,
    }
    /// `LeaseTimeToLiveRequest`.
    LeaseTimeToLiveRequest {
        #[prost(int64, tag = "1")] id: i64,
        #[prost(bool, tag = "2")] keys: bool,
    }
    /// `LeaseTimeToLiveResponse`.
    LeaseTimeToLiveResponse {
        #[prost(message, optional, tag = "1")] header: Option<Header>,
        #[prost(int64, tag = "2")] id: i64,
        #[prost(int64, tag = "3")] ttl: i64,
        #[prost(int64, tag = "4")] granted_ttl: i64,
        #[prost(bytes = "vec", repeated, tag = "5")] keys: Vec<Vec<u8>>,
    }
}

/// `RequestOp.request`.
#[derive(Clone, PartialEq, Oneof)]
pub enum Request {
    /// A range.
    #[prost(message, tag = "1")]
    Range(RangeRequest),
    /// A put.
    #[prost(message, tag = "2")]
    Put(PutRequest),
    /// A delete.
    #[prost(message, tag = "3")]
    DeleteRange(DeleteRangeRequest),
    /// A nested transaction.
    #[prost(message, tag = "4")]
    Txn(TxnRequest),
}

/// `ResponseOp.response`.
#[derive(Clone, PartialEq, Oneof)]
pub enum Response {
    /// To a range.
    #[prost(message, tag = "1")]
    Range(RangeResponse),
    /// To a put.
    #[prost(message, tag = "2")]
    Put(PutResponse),
    /// To a delete.
    #[prost(message, tag = "3")]
    DeleteRange(DeleteRangeResponse),
    /// To a nested transaction.
    #[prost(message, tag = "4")]
    Txn(TxnResponse),
}

/// `Compare.target_union`.
#[derive(Clone, PartialEq, Oneof)]
pub enum Target {
    /// Version.
    #[prost(int64, tag = "4")]
    Version(i64),
    /// Create revision.
    #[prost(int64, tag = "5")]
    Create(i64),
    /// Mod revision.
    #[prost(int64, tag = "6")]
    Mod(i64),
    /// Value.
    #[prost(bytes = "vec", tag = "7")]
    Value(Vec<u8>),
    /// Lease.
    #[prost(int64, tag = "8")]
    Lease(i64),
}

impl From<&mvcc::RangeRequest<'_>> for RangeRequest {
    fn from(request: &mvcc::RangeRequest<'_>) -> Self {
        RangeRequest {
            key: request.range.key.to_vec(),
            range_end: request.range.end.to_vec(),
            limit: request.limit,
            revision: request.revision,
            sort_order: request.sort_order as i32,
            sort_target: request.sort_target as i32,
            // One member: a local read is as fresh, and faster.
            serializable: true,
            keys_only: request.keys_only,
            count_only: request.count_only,
            min_mod_revision: request.min_mod_revision,
            max_mod_revision: request.max_mod_revision,
            min_create_revision: request.min_create_revision,
            max_create_revision: request.max_create_revision,
        }
    }
}

impl From<&mvcc::PutRequest<'_>> for PutRequest {
    fn from(request: &mvcc::PutRequest<'_>) -> Self {
        PutRequest {
            key: request.key.to_vec(),
            value: request.value.to_vec(),
            lease: request.lease,
            prev_kv: request.prev_kv,
            ignore_value: request.ignore_value,
            ignore_lease: request.ignore_lease,
        }
    }
}

impl From<&mvcc::DeleteRangeRequest<'_>> for DeleteRangeRequest {
    fn from(request: &mvcc::DeleteRangeRequest<'_>) -> Self {
        DeleteRangeRequest {
            key: request.range.key.to_vec(),
            range_end: request.range.end.to_vec(),
            prev_kv: request.prev_kv,
        }
    }
}

impl From<&mvcc::Compare<'_>> for Compare {
    fn from(compare: &mvcc::Compare<'_>) -> Self {
        let (target, given) = match compare.target {
            mvcc::CompareTarget::Version(n) => (0, Target::Version(n)),
            mvcc::CompareTarget::CreateRevision(n) => (1, Target::Create(n)),
            mvcc::CompareTarget::ModRevision(n) => (2, Target::Mod(n)),
            mvcc::CompareTarget::Value(value) => (3, Target::Value(value.to_vec())),
            mvcc::CompareTarget::Lease(n) => (4, Target::Lease(n)),
        };
        Compare {
            result: compare.result as i32,
            target,
            key: compare.range.key.to_vec(),
            given: Some(given),
            range_end: compare.range.end.to_vec(),
        }
    }
}

impl From<&mvcc::TxnRequest<'_>> for TxnRequest {
    fn from(request: &mvcc::TxnRequest<'_>) -> Self {
        let ops = |ops: &[mvcc::RequestOp<'_>]| ops.iter().map(RequestOp::from).collect();
        TxnRequest {
            compare: request.compare.iter().map(Compare::from).collect(),
            success: ops(&request.success),
            failure: ops(&request.failure),
        }
    }
}

impl From<&mvcc::RequestOp<'_>> for RequestOp {
    fn from(op: &mvcc::RequestOp<'_>) -> Self {
        let request = match op {
            mvcc::RequestOp::Range(r) => Request::Range(r.into()),
            mvcc::RequestOp::Put(r) => Request::Put(r.into()),
            mvcc::RequestOp::DeleteRange(r) => Request::DeleteRange(r.into()),
            mvcc::RequestOp::Txn(r) => Request::Txn((&**r).into()),
        };
        RequestOp {
            request: Some(request),
        }
    }
}

fn pair(kv: KeyValue) -> mvcc::KeyValue {
    mvcc::KeyValue {
        key: kv.key.into(),
        value: kv.value.into(),
        create_revision: kv.create_revision,
        mod_revision: kv.mod_revision,
        version: kv.version,
        lease: kv.lease,
    }
}

impl From<RangeResponse> for mvcc::RangeResponse {
    fn from(answer: RangeResponse) -> Self {
        mvcc::RangeResponse {
            kvs: answer.kvs.into_iter().map(pair).collect(),
            more: answer.more,
            count: answer.count,
        }
    }
}

impl From<PutResponse> for mvcc::PutResponse {
    fn from(answer: PutResponse) -> Self {
        mvcc::PutResponse {
            prev_kv: answer.prev_kv.map(pair),
        }
    }
}

impl From<DeleteRangeResponse> for mvcc::DeleteRangeResponse {
    fn from(answer: DeleteRangeResponse) -> Self {
        mvcc::DeleteRangeResponse {
            deleted: answer.deleted,
            prev_kvs: answer.prev_kvs.into_iter().map(pair).collect(),
        }
    }
}

impl From<TxnResponse> for mvcc::TxnResponse {
    fn from(answer: TxnResponse) -> Self {
        let responses = answer.responses.into_iter().filter_map(|op| op.response);
        mvcc::TxnResponse {
            succeeded: answer.succeeded,
            responses: responses.map(mvcc::ResponseOp::from).collect(),
        }
    }
}

impl From<Response> for mvcc::ResponseOp {
    fn from(response: Response) -> Self {
        match response {
            Response::Range(r) => mvcc::ResponseOp::Range(r.into()),
            Response::Put(r) => mvcc::ResponseOp::Put(r.into()),
            Response::DeleteRange(r) => mvcc::ResponseOp::DeleteRange(r.into()),
            Response::Txn(r) => mvcc::ResponseOp::Txn(Box::new(r.into())),
        }
    }
}
