//! Wire messages to engine requests and engine answers to wire messages.
//!
//! Requests are borrowed (the engine encodes its command before the first await), answers are
//! moved. What the wire can say but the engine's types cannot (unknown enum numbers, an empty
//! operation) is settled here, in etcd's way. No I/O, no policy; tested over the socket by
//! `tests/etcd_api/kv.rs`.

use henge_api::{Header, Reply};
use henge_mvcc as mvcc;
use mvcc::{CompareResult, CompareTarget, Error, KeyRange, RequestOp, SortOrder, SortTarget};

use super::header::header;
use super::nested::Txn;
use super::proto::etcdserverpb as pb;
use super::proto::mvccpb;

/// An engine request plus the mistake etcd would only report after its other checks.
pub(crate) struct Translated<T> {
    /// The request; where the wire had no engine meaning, a harmless stand-in keeps the counts.
    pub(crate) request: T,
    /// What to answer once `mvcc::check` found nothing else wrong.
    pub(crate) late: Option<Error>,
}

/// A Range; an unknown sort number is a late `InvalidSortOption` (etcd checks the key first).
pub(crate) fn range(r: &pb::RangeRequest) -> Translated<mvcc::RangeRequest<'_>> {
    let (order, target) = (sort_order(r.sort_order), sort_target(r.sort_target));
    let late = (order.is_none() || target.is_none()).then_some(Error::InvalidSortOption);
    let request = mvcc::RangeRequest {
        range: KeyRange {
            key: &r.key,
            end: &r.range_end,
        },
        limit: r.limit,
        revision: r.revision,
        sort_order: order.unwrap_or_default(),
        sort_target: target.unwrap_or_default(),
        keys_only: r.keys_only,
        count_only: r.count_only,
        min_mod_revision: r.min_mod_revision,
        max_mod_revision: r.max_mod_revision,
        min_create_revision: r.min_create_revision,
        max_create_revision: r.max_create_revision,
        may_end_early: false,
    };
    Translated { request, late }
}

fn sort_order(n: i32) -> Option<SortOrder> {
    Some(match pb::range_request::SortOrder::try_from(n).ok()? {
        pb::range_request::SortOrder::None => SortOrder::None,
        pb::range_request::SortOrder::Ascend => SortOrder::Ascend,
        pb::range_request::SortOrder::Descend => SortOrder::Descend,
    })
}

fn sort_target(n: i32) -> Option<SortTarget> {
    Some(match pb::range_request::SortTarget::try_from(n).ok()? {
        pb::range_request::SortTarget::Key => SortTarget::Key,
        pb::range_request::SortTarget::Version => SortTarget::Version,
        pb::range_request::SortTarget::Create => SortTarget::Create,
        pb::range_request::SortTarget::Mod => SortTarget::Mod,
        pb::range_request::SortTarget::Value => SortTarget::Value,
    })
}

/// A Put.
pub(crate) fn put(r: &pb::PutRequest) -> mvcc::PutRequest<'_> {
    mvcc::PutRequest {
        key: &r.key,
        value: &r.value,
        lease: r.lease,
        prev_kv: r.prev_kv,
        ignore_value: r.ignore_value,
        ignore_lease: r.ignore_lease,
    }
}

/// A DeleteRange.
pub(crate) fn delete_range(r: &pb::DeleteRangeRequest) -> mvcc::DeleteRangeRequest<'_> {
    mvcc::DeleteRangeRequest {
        range: KeyRange {
            key: &r.key,
            end: &r.range_end,
        },
        prev_kv: r.prev_kv,
    }
}

/// A Txn with everything nested in it.
pub(crate) fn txn(txn: &Txn) -> Translated<mvcc::TxnRequest<'_>> {
    let r = &txn.request;
    let (mut late, mut nested) = (None, txn.nested.iter());
    let compare = r.compare.iter().map(compare).collect();
    let mut op = |o| op(o, &mut nested, &mut late);
    let success = r.success.iter().map(&mut op).collect();
    let failure = r.failure.iter().map(&mut op).collect();
    Translated {
        request: mvcc::TxnRequest {
            compare,
            success,
            failure,
        },
        late,
    }
}

fn op<'a>(
    o: &'a pb::RequestOp,
    nested: &mut std::slice::Iter<'a, Option<Txn>>,
    late: &mut Option<Error>,
) -> RequestOp<'a> {
    use pb::request_op::Request;
    let (op, mistake) = match &o.request {
        Some(Request::RequestRange(r)) => {
            let t = range(r);
            (RequestOp::Range(t.request), t.late)
        }
        Some(Request::RequestPut(r)) => (RequestOp::Put(put(r)), None),
        Some(Request::RequestDeleteRange(r)) => (RequestOp::DeleteRange(delete_range(r)), None),
        Some(Request::RequestTxn(_)) => match nested.next() {
            Some(Some(inner)) => {
                let t = txn(inner);
                (RequestOp::Txn(Box::new(t.request)), t.late)
            }
            // Too deep to be read: `mvcc::check` says so, by the depth at which this one stands.
            _ => (RequestOp::Txn(Box::default()), None),
        },
        // etcd's checkRequestOp answers an empty union with ErrKeyNotFound.
        None => (RequestOp::Range(any_key()), Some(Error::KeyNotFound)),
    };
    *late = late.take().or(mistake);
    op
}

/// Stand-in for an operation that will be refused anyway.
fn any_key() -> mvcc::RangeRequest<'static> {
    mvcc::RangeRequest {
        range: KeyRange {
            key: b"\0",
            end: b"",
        },
        ..Default::default()
    }
}

/// A comparison. etcd reads the union member its `target` names and takes zero when another one
/// is set; unknown numbers never fail there: an unknown result is always true, an unknown target
/// compares as equal. Both are said here with a version no key can have.
fn compare(c: &pb::Compare) -> mvcc::Compare<'_> {
    use pb::compare::{CompareTarget as T, TargetUnion as U};
    let range = KeyRange {
        key: &c.key,
        end: &c.range_end,
    };
    let target = match (T::try_from(c.target), &c.target_union) {
        (Ok(T::Version), Some(U::Version(v))) => CompareTarget::Version(*v),
        (Ok(T::Version), _) => CompareTarget::Version(0),
        (Ok(T::Create), Some(U::CreateRevision(v))) => CompareTarget::CreateRevision(*v),
        (Ok(T::Create), _) => CompareTarget::CreateRevision(0),
        (Ok(T::Mod), Some(U::ModRevision(v))) => CompareTarget::ModRevision(*v),
        (Ok(T::Mod), _) => CompareTarget::ModRevision(0),
        (Ok(T::Value), Some(U::Value(v))) => CompareTarget::Value(v),
        (Ok(T::Value), _) => CompareTarget::Value(b""),
        (Ok(T::Lease), Some(U::Lease(v))) => CompareTarget::Lease(*v),
        (Ok(T::Lease), _) => CompareTarget::Lease(0),
        (Err(_), _) => {
            let equal = pb::compare::CompareResult::try_from(c.result).ok();
            let truth = matches!(equal, None | Some(pb::compare::CompareResult::Equal));
            return constant(range, truth);
        }
    };
    let Some(result) = compare_result(c.result) else {
        return constant(range, true);
    };
    mvcc::Compare {
        range,
        result,
        target,
    }
}

fn compare_result(n: i32) -> Option<CompareResult> {
    Some(match pb::compare::CompareResult::try_from(n).ok()? {
        pb::compare::CompareResult::Equal => CompareResult::Equal,
        pb::compare::CompareResult::Greater => CompareResult::Greater,
        pb::compare::CompareResult::Less => CompareResult::Less,
        pb::compare::CompareResult::NotEqual => CompareResult::NotEqual,
    })
}

/// A comparison that is `truth` for every key: versions are never negative.
fn constant(range: KeyRange<'_>, truth: bool) -> mvcc::Compare<'_> {
    let result = if truth {
        CompareResult::NotEqual
    } else {
        CompareResult::Equal
    };
    mvcc::Compare {
        range,
        result,
        target: CompareTarget::Version(-1),
    }
}

/// True when every Range of the transaction, in both branches, asks for a serializable read.
pub(crate) fn txn_is_serializable(r: &pb::TxnRequest) -> bool {
    r.success
        .iter()
        .chain(&r.failure)
        .all(|o| match &o.request {
            Some(pb::request_op::Request::RequestRange(r)) => r.serializable,
            _ => true,
        })
}

/// A key-value.
pub(crate) fn key_value(kv: mvcc::KeyValue) -> mvccpb::KeyValue {
    mvccpb::KeyValue {
        key: kv.key,
        create_revision: kv.create_revision,
        mod_revision: kv.mod_revision,
        version: kv.version,
        value: kv.value,
        lease: kv.lease,
    }
}

/// A watch event.
pub(crate) fn event(e: mvcc::Event) -> mvccpb::Event {
    let kind = match e.kind {
        mvcc::EventKind::Put => mvccpb::event::EventType::Put,
        mvcc::EventKind::Delete => mvccpb::event::EventType::Delete,
    };
    mvccpb::Event {
        r#type: kind as i32,
        kv: Some(key_value(e.kv)),
        prev_kv: e.prev_kv.map(key_value),
    }
}

/// Answer to a Range.
pub(crate) fn range_response(h: Header, r: mvcc::RangeResponse) -> pb::RangeResponse {
    pb::RangeResponse {
        header: header(h),
        kvs: r.kvs.into_iter().map(key_value).collect(),
        more: r.more,
        count: r.count,
    }
}

/// Answer to a Put.
pub(crate) fn put_response(h: Header, r: mvcc::PutResponse) -> pb::PutResponse {
    pb::PutResponse {
        header: header(h),
        prev_kv: r.prev_kv.map(key_value),
    }
}

/// Answer to a DeleteRange.
pub(crate) fn delete_response(h: Header, r: mvcc::DeleteRangeResponse) -> pb::DeleteRangeResponse {
    pb::DeleteRangeResponse {
        header: header(h),
        deleted: r.deleted,
        prev_kvs: r.prev_kvs.into_iter().map(key_value).collect(),
    }
}

/// Answer to a Txn.
///
/// The answers inside carry a header with nothing but a revision, as etcd's do: the store's
/// revision just after that operation, which is the old one until the first change. A nested
/// transaction's own header is empty (etcd `server/etcdserver/txn/txn.go`).
pub(crate) fn txn_response(r: Reply<mvcc::TxnResponse>) -> pb::TxnResponse {
    let mut at = Position::before(r.header, &r.body);
    pb::TxnResponse {
        header: header(r.header),
        succeeded: r.body.succeeded,
        responses: ops_response(&mut at, r.body.responses),
    }
}

/// Where the walk through a transaction's answers is.
pub(crate) struct Position {
    revision: i64,
    new: i64,
}

impl Position {
    /// Before the first answer.
    pub(crate) fn before(header: Header, r: &mvcc::TxnResponse) -> Self {
        let new = header.revision;
        let revision = if changes(r) { new - 1 } else { new };
        Position { revision, new }
    }

    /// The header of the next answer.
    pub(crate) fn pass(&mut self, answer: &mvcc::ResponseOp) -> Header {
        match answer {
            mvcc::ResponseOp::Range(_) => {}
            mvcc::ResponseOp::Put(_) => self.revision = self.new,
            mvcc::ResponseOp::DeleteRange(r) if r.deleted == 0 => {}
            mvcc::ResponseOp::DeleteRange(_) => self.revision = self.new,
            mvcc::ResponseOp::Txn(_) => return Header::default(),
        }
        Header {
            revision: self.revision,
            ..Header::default()
        }
    }
}

fn changes(r: &mvcc::TxnResponse) -> bool {
    r.responses.iter().any(|r| match r {
        mvcc::ResponseOp::Range(_) => false,
        mvcc::ResponseOp::Put(_) => true,
        mvcc::ResponseOp::DeleteRange(r) => r.deleted > 0,
        mvcc::ResponseOp::Txn(r) => changes(r),
    })
}

fn ops_response(at: &mut Position, ops: Vec<mvcc::ResponseOp>) -> Vec<pb::ResponseOp> {
    use pb::response_op::Response;
    let answer = |op| {
        let h = at.pass(&op);
        let response = match op {
            mvcc::ResponseOp::Range(r) => Response::ResponseRange(range_response(h, r)),
            mvcc::ResponseOp::Put(r) => Response::ResponsePut(put_response(h, r)),
            mvcc::ResponseOp::DeleteRange(r) => {
                Response::ResponseDeleteRange(delete_response(h, r))
            }
            mvcc::ResponseOp::Txn(r) => Response::ResponseTxn(pb::TxnResponse {
                header: header(h),
                succeeded: r.succeeded,
                responses: ops_response(at, r.responses),
            }),
        };
        pb::ResponseOp {
            response: Some(response),
        }
    };
    ops.into_iter().map(answer).collect()
}
