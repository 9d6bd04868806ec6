//! Many puts and deletes at once: one durable, atomic entry per shard.
//!
//! Promises: what a batch holds for one shard happens whole, in one revision, or not at all. Between shards
//! there is no such promise: each part has its own outcome. A batch that is wrong in form is refused whole.
//! Must never know: what a shard makes of its part (it is a transaction without comparisons). Tested by
//! `tests/engine/batch.rs`.

use std::collections::BTreeMap;
use std::ops::Range;

use henge_api::{Error, Header};
use henge_core::machine::Command;
use henge_mvcc as mvcc;
use henge_mvcc::RequestOp;

use super::Engine;
use super::ticket::Ticket;
use crate::failure::BatchError;

/// Puts and deletes to be done together, in one buffer. Reusable: [`Batch::clear`] keeps the buffer.
///
/// Of several operations on one key the last one counts.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Keys and values, one after another.
    bytes: Vec<u8>,
    operations: Vec<Step>,
}

#[derive(Clone, Debug)]
struct Step {
    key: Range<usize>,
    /// Nothing for a delete.
    put: Option<(Range<usize>, i64)>,
}

/// What became of a batch: a part for each shard that it touches.
#[derive(Clone, Debug, PartialEq)]
#[must_use = "each shard's part has its own outcome; `all()` is an error if any failed"]
pub struct BatchReport {
    /// The parts, in shard order.
    pub parts: Vec<BatchPart>,
}

/// One shard's part of a batch, done whole or not at all.
#[derive(Clone, Debug, PartialEq)]
pub struct BatchPart {
    /// The shard.
    pub shard: usize,
    /// Which operations, as numbers in the order in which they were added, ascending. Those that a later one
    /// on the same key replaced are not among them.
    pub operations: Vec<usize>,
    /// The revision that it made, if it is done; else why not, or that nobody knows
    /// ([`Failure::outcome`](crate::Failure::outcome)).
    pub result: Result<Header, BatchError>,
}

impl Batch {
    /// An empty batch.
    ///
    /// ```
    /// let mut batch = henge::Batch::new();
    /// batch.put("a", "1").put_with_lease("session", "here", 7).delete("b");
    /// assert_eq!((batch.len(), batch.bytes()), (3, 14));
    /// batch.clear();
    /// assert!(batch.is_empty());
    /// ```
    pub fn new() -> Self {
        Batch::default()
    }

    /// Writes a key.
    ///
    /// ```
    /// let mut batch = henge::Batch::new();
    /// batch.put("a", "1").put("b", "2");
    /// assert_eq!(batch.len(), 2);
    /// ```
    pub fn put(&mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> &mut Self {
        self.put_with_lease(key, value, 0)
    }

    /// Writes a key and attaches it to a lease of the key's shard.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { on_scratch(async |engine| {
    /// let lease = engine.lease_grant_for("session", 60).await?.body.id;
    /// let mut batch = henge::Batch::new();
    /// batch.put_with_lease("session", "here", lease);
    /// engine.batch(&batch).await.all()?;
    /// engine.lease_revoke(lease).await?;
    /// assert_eq!(engine.get("session").await?, None);
    /// # Ok(()) }) }
    /// ```
    pub fn put_with_lease(
        &mut self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        lease: i64,
    ) -> &mut Self {
        let key = self.keep(key.as_ref());
        let value = self.keep(value.as_ref());
        let put = Some((value, lease));
        self.operations.push(Step { key, put });
        self
    }

    /// Deletes a key; one that does not exist is left as it is.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { on_scratch(async |engine| {
    /// engine.put("old", "1").await?;
    /// let mut batch = henge::Batch::new();
    /// engine.batch(batch.put("new", "1").delete("old")).await.all()?;
    /// assert_eq!(engine.get("old").await?, None);
    /// # Ok(()) }) }
    /// ```
    pub fn delete(&mut self, key: impl AsRef<[u8]>) -> &mut Self {
        let key = self.keep(key.as_ref());
        self.operations.push(Step { key, put: None });
        self
    }

    /// Number of operations.
    ///
    /// ```
    /// assert_eq!(henge::Batch::new().put("a", "1").delete("b").len(), 2);
    /// ```
    pub fn len(&self) -> usize {
        self.operations.len()
    }

    /// Whether it holds none.
    ///
    /// ```
    /// assert!(henge::Batch::new().is_empty());
    /// ```
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    /// Bytes of its keys and values.
    ///
    /// ```
    /// assert_eq!(henge::Batch::new().put("key", "value").bytes(), 8);
    /// ```
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Makes it empty.
    ///
    /// ```
    /// let mut batch = henge::Batch::new();
    /// batch.put("a", "1").clear();
    /// assert!(batch.is_empty());
    /// ```
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.operations.clear();
    }

    fn keep(&mut self, bytes: &[u8]) -> Range<usize> {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        start..self.bytes.len()
    }

    fn key(&self, operation: usize) -> &[u8] {
        &self.bytes[self.operations[operation].key.clone()]
    }

    fn request(&self, operation: usize) -> RequestOp<'_> {
        let key = self.key(operation);
        match &self.operations[operation].put {
            Some((value, lease)) => RequestOp::Put(mvcc::PutRequest {
                key,
                value: &self.bytes[value.clone()],
                lease: *lease,
                ..mvcc::PutRequest::default()
            }),
            None => RequestOp::DeleteRange(mvcc::DeleteRangeRequest {
                range: mvcc::KeyRange::one(key),
                prev_kv: false,
            }),
        }
    }

    /// The operations that count, in order: the last one on each key.
    fn effective(&self) -> Vec<usize> {
        let all = 0..self.len();
        // Keys that ascend, as an ingest's do, are different: nothing to look for.
        if (1..self.len()).all(|at| self.key(at - 1) < self.key(at)) {
            return all.collect();
        }
        let mut by_key: Vec<_> = all.collect();
        by_key.sort_by(|left, right| {
            let keys = self.key(*left).cmp(self.key(*right));
            keys.then(left.cmp(right))
        });
        let mut last: Vec<_> = by_key
            .chunk_by(|left, right| self.key(*left) == self.key(*right))
            .filter_map(|same| same.last().copied())
            .collect();
        last.sort_unstable();
        last
    }
}

impl BatchReport {
    /// Its parts if every one is done, else the failure of the first that is not. Other parts may be done
    /// all the same.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { on_scratch(async |engine| {
    /// let mut batch = henge::Batch::new();
    /// let parts = engine.batch(batch.put("a", "1").delete("b")).await.all()?;
    /// assert_eq!(parts[0].operations, [0, 1]);
    /// # Ok(()) }) }
    /// ```
    pub fn all(self) -> Result<Vec<BatchPart>, BatchError> {
        let failed = self.parts.iter().find_map(|part| part.result.clone().err());
        failed.map_or(Ok(self.parts), Err)
    }
}

impl Engine {
    /// Does many puts and deletes, and waits until they are durable (on a quorum): **atomic per shard**, not
    /// over several.
    ///
    /// Each shard gets its operations as one entry of its log: they happen together, in one revision. With
    /// several shards some parts may be done and others not, so each has its own result. A part may not be
    /// larger than a request (default 1.5 MiB, [`EngineBuilder`](crate::EngineBuilder)); their number is not
    /// limited otherwise. An empty key, or a lease of another shard than its key's, refuses the whole batch.
    ///
    /// Cancel safety: all parts start when this is called; dropping the future gives up the answers, never
    /// the writes.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { on_scratch(async |engine| {
    /// use henge::{Batch, BatchError};
    ///
    /// let mut batch = Batch::new();
    /// for number in 0..1_000 {
    ///     batch.put(format!("events/{number:04}"), "measured");
    /// }
    /// batch.delete("events/0007");
    /// engine.batch(&batch).await.all()?;
    ///
    /// // Or shard by shard:
    /// for part in engine.batch(&batch).await.parts {
    ///     match part.result {
    ///         Ok(header) => println!("shard {} is at revision {}", part.shard, header.revision),
    ///         Err(BatchError::Unavailable(why)) => println!("repeat {:?}: {why}", part.operations),
    ///         Err(error) => return Err(error.into()),
    ///     }
    /// }
    /// # Ok(()) }) }
    /// ```
    pub fn batch(&self, batch: &Batch) -> impl Future<Output = BatchReport> + Send + use<> {
        let checked = self.check_batch(batch);
        let begun: Vec<_> = self
            .parts_of(batch)
            .into_iter()
            .map(|(shard, operations)| {
                let ticket = match &checked {
                    Ok(()) => self.batch_part(shard, batch, &operations),
                    Err(error) => Ticket::failed(error.clone()),
                };
                (shard, operations, ticket)
            })
            .collect();
        async move {
            let mut parts = Vec::with_capacity(begun.len());
            for (shard, operations, ticket) in begun {
                let result = match ticket.await {
                    Ok(reply) => Ok(reply.header),
                    Err(error) => Err(error.into()),
                };
                parts.push(BatchPart {
                    shard,
                    operations,
                    result,
                });
            }
            BatchReport { parts }
        }
    }

    /// What becomes of one of which nothing is done.
    pub(super) fn refuse_batch(&self, batch: &Batch, error: &Error) -> BatchReport {
        let parts = self.parts_of(batch).into_iter();
        let parts = parts.map(|(shard, operations)| BatchPart {
            shard,
            operations,
            result: Err(error.clone().into()),
        });
        BatchReport {
            parts: parts.collect(),
        }
    }

    /// The operations that count, by shard.
    fn parts_of(&self, batch: &Batch) -> BTreeMap<usize, Vec<usize>> {
        let mut parts = BTreeMap::<usize, Vec<usize>>::new();
        for operation in batch.effective() {
            let shard = self.route(batch.key(operation));
            parts.entry(shard).or_default().push(operation);
        }
        parts
    }

    fn check_batch(&self, batch: &Batch) -> Result<(), Error> {
        for (at, operation) in batch.operations.iter().enumerate() {
            let key = batch.key(at);
            if key.is_empty() {
                return Err(Error::Invalid(mvcc::Error::EmptyKey));
            }
            if let Some((_, lease)) = operation.put {
                self.check_lease(key, lease)?;
            }
        }
        Ok(())
    }

    fn batch_part(&self, shard: usize, batch: &Batch, operations: &[usize]) -> Ticket {
        let requests = operations.iter().map(|at| batch.request(*at));
        let txn = mvcc::TxnRequest {
            success: requests.collect(),
            ..mvcc::TxnRequest::default()
        };
        self.write(shard, &Command::Txn(txn))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_operations_on_a_key_the_last_counts() {
        let table: [(&[&str], &[usize]); 6] = [
            (&[], &[]),
            (&["a"], &[0]),
            (&["a", "b", "c"], &[0, 1, 2]),
            (&["c", "b", "a"], &[0, 1, 2]),
            (&["a", "a"], &[1]),
            (&["b", "a", "b", "c", "a"], &[2, 3, 4]),
        ];
        for (keys, expected) in table {
            let mut batch = Batch::new();
            for key in keys {
                batch.put(key, "x");
            }
            assert_eq!(batch.effective(), expected, "{keys:?}");
        }
    }
}
