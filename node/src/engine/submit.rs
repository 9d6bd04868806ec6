//! A request's way to its shard, and its answer's way into the type that its question has.
//!
//! Promises: what cannot be handed over fails its ticket, never the caller's thread; an answer of another
//! type is reported as corruption.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use henge_api::{Caller, Error, LeaseGranted, LeaseTtl, Reply};
use henge_core::machine::{Command, Response, command};
use henge_core::shard::request::REQUEST_BYTES;
use henge_core::shard::request::RequestKind;
use henge_core::stream::WatchStream;
use henge_mvcc as mvcc;

use super::ticket::Ticket;
use super::{Engine, Inner};

impl Engine {
    pub(crate) fn inner(&self) -> &Inner {
        &self.inner
    }

    pub(crate) fn session(&self, shard: usize) -> WatchStream {
        let id = self.inner.next_session.fetch_add(1, Ordering::Relaxed);
        let shard = &self.inner.shards[shard];
        WatchStream::open(id, shard.group, self.inner.cores[shard.core].inbox.clone())
    }

    pub(crate) fn write(&self, shard: usize, command: &Command<'_>) -> Ticket {
        self.write_by(Caller::nobody(), shard, command)
    }

    pub(crate) fn write_by(&self, caller: Caller, shard: usize, command: &Command<'_>) -> Ticket {
        let content = command.content_bytes();
        let checked = self
            .check_size(content)
            .and_then(|()| self.look_for_room(shard, command.bytes_hint()));
        if let Err(error) = checked {
            return Ticket::failed(error);
        }
        self.submit_by(caller, shard, RequestKind::Write(command.encode()))
    }

    pub(crate) fn txn_ticket(
        &self,
        caller: Caller,
        shard: usize,
        request: &mvcc::TxnRequest<'_>,
        serializable: bool,
    ) -> Ticket {
        let content = match request.is_read_only() {
            true => 0,
            false => command::txn_bytes(request),
        };
        let checked = self
            .check_size(content)
            .and_then(|()| self.look_for_room(shard, 0));
        if let Err(error) = checked {
            return Ticket::failed(error);
        }
        let encoded = Command::Txn(request.clone()).encode();
        let kind = if request.is_read_only() {
            RequestKind::Read {
                encoded,
                serializable,
            }
        } else {
            RequestKind::Write(encoded)
        };
        self.submit_by(caller, shard, kind)
    }

    pub(crate) fn submit(&self, shard: usize, kind: RequestKind) -> Ticket {
        self.submit_by(Caller::nobody(), shard, kind)
    }

    pub(crate) fn submit_by(&self, caller: Caller, shard: usize, kind: RequestKind) -> Ticket {
        let shard = &self.inner.shards[shard];
        let inbox = &self.inner.cores[shard.core].inbox;
        match shard.door.ask_by(caller, inbox, shard.group, kind) {
            Ok(receiver) => Ticket::waiting(receiver),
            Err(error) => Ticket::failed(error),
        }
    }

    /// Refuses what its shard would refuse as too large, before gigabytes are copied: keys and values alone
    /// are more than a request may be.
    fn check_size(&self, bytes: usize) -> Result<(), Error> {
        let max = self.inner.request_bytes_max;
        match bytes > max {
            true => Err(Error::RequestTooLarge { bytes, max }),
            false => Ok(()),
        }
    }

    /// Refuses a write that would be refused anyhow, before it costs its encoding.
    fn look_for_room(&self, shard: usize, bytes: usize) -> Result<(), Error> {
        let shard = &self.inner.shards[shard];
        let inbox = &self.inner.cores[shard.core].inbox;
        let bytes = bytes + REQUEST_BYTES;
        match shard.door.budget.has_room(bytes) && inbox.budget().has_room(bytes) {
            true => Ok(()),
            false => Err(inbox.no_room()),
        }
    }
}

/// Turns an answer into the type its question has. Another type would be a mistake of ours, and is
/// reported as corruption rather than as a panic in the caller's process.
macro_rules! answers {
    ($($name:ident: $variant:ident($body:ty);)*) => {
        /// An answer as the type that its question has.
        pub(crate) trait Answers: Sized {
            $(fn $name(self) -> Result<Reply<$body>, Error>;)*
            fn done(self) -> Result<Reply<()>, Error>;
        }

        impl Answers for Reply<Response> {
            $(fn $name(self) -> Result<Reply<$body>, Error> {
                match self.body {
                    Response::$variant(body) => Ok(Reply { header: self.header, body }),
                    _ => Err(Error::Corrupt),
                }
            })*
            fn done(self) -> Result<Reply<()>, Error> {
                Ok(Reply { header: self.header, body: () })
            }
        }
    };
}

answers! {
    range: Range(mvcc::RangeResponse);
    put: Put(mvcc::PutResponse);
    delete: Delete(mvcc::DeleteRangeResponse);
    txn: Txn(mvcc::TxnResponse);
    granted: Granted(LeaseGranted);
    renewed: Renewed(i64);
    ttl: Ttl(LeaseTtl);
    leases: Leases(Vec<i64>);
    hash: Hash(henge_api::HashKv);
    slice: Slice(mvcc::RangeSlice);
    alarms: Alarms(Vec<henge_api::AlarmMember>);
    status: Status(Box<henge_api::Status>);
}

/// Builds a key from anything that has bytes; used where a key is named in an error.
pub(crate) fn owned(key: &[u8]) -> Bytes {
    Bytes::copy_from_slice(key)
}
