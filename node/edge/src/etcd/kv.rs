//! The KV service: validation in etcd's order, then the engine.
//!
//! The same methods serve the thin layer ([`super::unary`]) and the tonic service below, which only differ
//! in how answers become bytes. Holds no state but the backend.

use std::pin::Pin;
use std::sync::Arc;

use futures_core::Stream;
use henge_api::{Backend, Caller, Error, Reply};
use henge_mvcc as mvcc;
use prost::Message;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};

use super::asked::Asked;
use super::errors::status;
use super::header::header;
use super::nested::Txn;
use super::proto::etcdserverpb as pb;
use super::range_stream;
use super::translate;
use crate::config::EdgeConfig;

/// What etcd wraps around a request before it measures it: a header with an id, tag and length (3.5.1
/// takes a put of up to 17 bytes less than `--max-request-bytes`).
const PROPOSAL_BYTES: usize = 17;

/// The KV service over a backend.
#[derive(Debug)]
pub struct Kv<B> {
    asked: Asked<B>,
    config: Arc<EdgeConfig>,
    limits: mvcc::check::Limits,
}

impl<B: Backend> Kv<B> {
    /// A service that answers from what is asked.
    pub fn new(asked: Asked<B>, config: Arc<EdgeConfig>) -> Kv<B> {
        let limits = mvcc::check::Limits {
            txn_ops_max: config.max_txn_ops,
        };
        Kv {
            asked,
            config,
            limits,
        }
    }

    /// A read of one key or a range.
    pub async fn range(
        &self,
        of: Caller,
        req: pb::RangeRequest,
    ) -> Result<Reply<mvcc::RangeResponse>, Error> {
        let call = {
            let t = translate::range(&req);
            mvcc::check::range(&t.request, &self.limits)?;
            late(t.late)?;
            self.asked.by(of).range(&t.request, req.serializable)
        };
        call.await
    }

    /// A write of one key.
    pub async fn put(
        &self,
        of: Caller,
        req: pb::PutRequest,
    ) -> Result<Reply<mvcc::PutResponse>, Error> {
        let call = {
            let r = translate::put(&req);
            mvcc::check::put(&r, &self.limits)?;
            self.fits(&req)?;
            self.asked.by(of).put(&r)
        };
        call.await
    }

    /// A removal of one key or a range.
    pub async fn delete_range(
        &self,
        of: Caller,
        req: pb::DeleteRangeRequest,
    ) -> Result<Reply<mvcc::DeleteRangeResponse>, Error> {
        let call = {
            let r = translate::delete_range(&req);
            mvcc::check::delete_range(&r, &self.limits)?;
            self.fits(&req)?;
            self.asked.by(of).delete_range(&r)
        };
        call.await
    }

    /// A transaction.
    pub(crate) async fn txn(
        &self,
        of: Caller,
        txn: Txn,
    ) -> Result<Reply<mvcc::TxnResponse>, Error> {
        let call = {
            let req = &txn.request;
            let t = translate::txn(&txn);
            mvcc::check::txn(&t.request, &self.limits)?;
            late(t.late)?;
            // Only what is proposed has a size limit: a read-only transaction skips the log.
            if !t.request.is_read_only() {
                self.fits(req)?;
            }
            self.asked
                .by(of)
                .txn(&t.request, translate::txn_is_serializable(req))
        };
        call.await
    }

    /// A compaction up to a revision.
    pub async fn compact(
        &self,
        of: Caller,
        req: pb::CompactionRequest,
    ) -> Result<pb::CompactionResponse, Error> {
        let reply = self
            .asked
            .by(of)
            .compact(req.revision, req.physical)
            .await?;
        Ok(pb::CompactionResponse {
            header: header(reply.header),
        })
    }

    /// Who makes the call with this metadata.
    pub(crate) fn caller(&self, metadata: &MetadataMap) -> Caller {
        self.asked.caller(metadata)
    }

    fn fits(&self, req: &impl Message) -> Result<(), Error> {
        let bytes = req.encoded_len() + PROPOSAL_BYTES;
        let max = self.config.max_request_bytes;
        if bytes > max {
            Err(Error::RequestTooLarge { bytes, max })
        } else {
            Ok(())
        }
    }
}

fn late(mistake: Option<mvcc::Error>) -> Result<(), Error> {
    mistake.map_or(Ok(()), |e| Err(Error::Invalid(e)))
}

fn answer<T>(result: Result<T, Error>) -> Result<Response<T>, Status> {
    result.map(Response::new).map_err(|e| status(&e))
}

#[tonic::async_trait]
impl<B: Backend> pb::kv_server::Kv for Kv<B> {
    async fn range(
        &self,
        request: Request<pb::RangeRequest>,
    ) -> Result<Response<pb::RangeResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let of = self.asked.caller(&metadata);
        drop(metadata);
        let found = self.range(of, request).await;
        answer(found.map(|reply| translate::range_response(reply.header, reply.body)))
    }

    type RangeStreamStream =
        Pin<Box<dyn Stream<Item = Result<pb::RangeStreamResponse, Status>> + Send>>;

    async fn range_stream(
        &self,
        request: Request<pb::RangeRequest>,
    ) -> Result<Response<Self::RangeStreamStream>, Status> {
        let limit = self.config.max_request_bytes;
        let backend = self.asked.of(request.metadata());
        range_stream::start(backend, request.into_inner(), limit).map(Response::new)
    }

    async fn put(
        &self,
        request: Request<pb::PutRequest>,
    ) -> Result<Response<pb::PutResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let of = self.asked.caller(&metadata);
        drop(metadata);
        let put = self.put(of, request).await;
        answer(put.map(|reply| translate::put_response(reply.header, reply.body)))
    }

    async fn delete_range(
        &self,
        request: Request<pb::DeleteRangeRequest>,
    ) -> Result<Response<pb::DeleteRangeResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let of = self.asked.caller(&metadata);
        drop(metadata);
        let deleted = self.delete_range(of, request).await;
        answer(deleted.map(|reply| translate::delete_response(reply.header, reply.body)))
    }

    async fn txn(
        &self,
        request: Request<pb::TxnRequest>,
    ) -> Result<Response<pb::TxnResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let of = self.asked.caller(&metadata);
        drop(metadata);
        // The code and text of tonic's own decoder.
        let txn = Txn::unfold(request).map_err(|e| Status::internal(e.to_string()))?;
        answer(self.txn(of, txn).await.map(translate::txn_response))
    }

    async fn compact(
        &self,
        request: Request<pb::CompactionRequest>,
    ) -> Result<Response<pb::CompactionResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let of = self.asked.caller(&metadata);
        drop(metadata);
        answer(self.compact(of, request).await)
    }
}
