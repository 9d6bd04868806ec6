//! Everything, as it was at one revision of each shard, in bounded pieces.
//!
//! Promises: the pieces of a shard together are its keys at [`Snapshot::revisions`], each once, whatever is
//! written or compacted meanwhile; one piece is in memory at a time. The shard holds nothing for it but
//! history: the cursors are here, and go with the snapshot. Must never know: how a shard is stored.
//! Tested by `tests/engine/snapshot.rs`.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;
use henge_api::Error;
use henge_core::machine::Command;
use henge_core::shard::cursor::Cursor;
use henge_core::shard::request::RequestKind;
use henge_mvcc as mvcc;

use super::submit::Answers as _;
use super::ticket::Ticket;
use super::{Engine, Revisions};
use crate::failure::RangeError;

/// A consistent read of everything, as a stream of pieces: shard after shard, and in key order within each.
///
/// While it exists, shards keep the history that it reads, and it counts as a handle to the engine: read it
/// to its end, or drop it.
///
/// Failures: after [`Unavailable::TooManyRequests`](crate::Unavailable::TooManyRequests) the same piece can
/// be asked for again, by polling on; any other failure is its end.
#[derive(Debug)]
#[must_use = "it keeps history until it is read or dropped"]
pub struct Snapshot {
    engine: Engine,
    revisions: Revisions,
    /// Shards that are not read to their end, the front one first.
    open: VecDeque<(usize, Cursor)>,
    /// The piece that was asked for.
    asked: Option<Ticket>,
}

/// Some keys of one shard: about 256 KiB, or one pair if that is larger.
#[derive(Clone, Debug, PartialEq)]
pub struct SnapshotPiece {
    /// The shard.
    pub shard: usize,
    /// The next of its keys, in key order; at least one.
    pub kvs: Vec<mvcc::KeyValue>,
}

impl Engine {
    /// Begins to read everything as it is now: every shard at its own revision, linearizably.
    ///
    /// Each shard is read as of one moment, which lies between the call and the answer; the moments of two
    /// shards may differ. Writes go on meanwhile, and compaction removes everything but what the
    /// snapshot has yet to read: one version of each key at most, for as long as the snapshot is held; it has
    /// no deadline.
    ///
    /// Cancel safety: dropping the future or the snapshot, at any point, ends the reading; nothing is left
    /// behind.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { on_scratch(async |engine| {
    /// let mut batch = henge::Batch::new();
    /// for number in 0..3_000 {
    ///     batch.put(format!("key-{number:04}"), "then");
    /// }
    /// engine.batch(&batch).await.all()?;
    /// let mut snapshot = engine.snapshot().await?;
    /// engine.put("key-2999", "later").await?;
    ///
    /// let mut keys = 0;
    /// while let Some(piece) = snapshot.next().await {
    ///     let piece = piece?;
    ///     assert!(piece.kvs.iter().all(|kv| kv.value == "then"));
    ///     keys += piece.kvs.len();
    /// }
    /// assert_eq!(keys, 3_000);
    /// // A watch after these misses nothing. (The batch was one revision, the second.)
    /// assert_eq!(snapshot.revisions().get(0), 2);
    /// # Ok(()) }) }
    /// ```
    pub fn snapshot(&self) -> impl Future<Output = Result<Snapshot, RangeError>> + Send + use<> {
        let everything = mvcc::RangeRequest {
            range: mvcc::KeyRange {
                key: b"\0",
                end: b"\0",
            },
            ..mvcc::RangeRequest::default()
        };
        let encoded = Command::Range(everything).encode();
        let begun: Vec<_> = (0..self.shards())
            .map(|shard| {
                let (encoded, cursor) = (encoded.clone(), Cursor::default());
                let kind = RequestKind::CursorBegin {
                    encoded,
                    cursor: cursor.clone(),
                };
                (shard, cursor, self.submit(shard, kind))
            })
            .collect();
        let engine = self.clone();
        async move {
            let mut revisions = Revisions::unknown(begun.len());
            let mut open = VecDeque::with_capacity(begun.len());
            for (shard, cursor, ticket) in begun {
                let reply = ticket.await?;
                revisions.advance(shard, reply.header.revision);
                open.push_back((shard, cursor));
            }
            Ok(Snapshot {
                engine,
                revisions,
                open,
                asked: None,
            })
        }
    }
}

impl Snapshot {
    /// The next piece; `None` when everything was read, or after a failure.
    ///
    /// Cancel safety: a piece is taken by the poll that returns it; a future that is dropped before takes
    /// none.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { on_scratch(async |engine| {
    /// engine.put("greeting", "hello").await?;
    /// let mut snapshot = engine.snapshot().await?;
    /// let piece = snapshot.next().await.expect("there is one")?;
    /// assert_eq!((piece.shard, piece.kvs.len()), (0, 1));
    /// assert!(snapshot.next().await.is_none());
    /// # Ok(()) }) }
    /// ```
    pub async fn next(&mut self) -> Option<Result<SnapshotPiece, RangeError>> {
        poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }

    /// The revision of each shard that it shows: hand these to [`Engine::watch_after`] to follow from there.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { on_scratch(async |engine| {
    /// let written = engine.put("greeting", "hello").await?;
    /// let snapshot = engine.snapshot().await?;
    /// assert_eq!(snapshot.revisions().get(0), written.header.revision);
    /// # Ok(()) }) }
    /// ```
    pub fn revisions(&self) -> &Revisions {
        &self.revisions
    }

    /// Ends a shard's part when its last slice was read; the slice as a piece, unless it is empty.
    fn take(&mut self, shard: usize, slice: mvcc::RangeSlice) -> Option<SnapshotPiece> {
        if slice.end.is_some() {
            self.open.pop_front();
        }
        let kvs = slice.kvs;
        (!kvs.is_empty()).then_some(SnapshotPiece { shard, kvs })
    }
}

impl Stream for Snapshot {
    type Item = Result<SnapshotPiece, RangeError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        while let Some((shard, cursor)) = this.open.front() {
            let shard = *shard;
            let asked = this.asked.get_or_insert_with(|| {
                let kind = RequestKind::CursorNext(cursor.clone());
                this.engine.submit(shard, kind)
            });
            let answer = std::task::ready!(Pin::new(asked).poll(cx));
            this.asked = None;
            match answer.and_then(|reply| reply.slice()) {
                Ok(slice) => {
                    if let Some(piece) = this.take(shard, slice.body) {
                        return Poll::Ready(Some(Ok(piece)));
                    }
                }
                Err(error) => {
                    // A refusal at the door has not moved the cursor; whatever else may have.
                    if error != Error::TooManyRequests {
                        this.open.clear();
                    }
                    return Poll::Ready(Some(Err(error.into())));
                }
            }
        }
        Poll::Ready(None)
    }
}
