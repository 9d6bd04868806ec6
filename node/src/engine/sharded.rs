//! What spans several shards: ranges, watches, compaction and hashes with a revision per shard, and where
//! leases live.
//!
//! Promises: what is merged is in key order; an answer says at which revision of each shard it holds, and
//! asking again at those gives the same; a watch resumed after them misses nothing and repeats nothing.
//! Between shards there is no order: two shards' answers are each linearizable, together they are no
//! snapshot of one moment unless asked for at one [`Revisions`].

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use henge_api::{Error, HashKv, LeaseGranted, Reply, WatchCreate, WatchResponse};
use henge_core::machine::{Command, lease_id};
use henge_core::shard::request::RequestKind;
use henge_core::stream::WatchStream;
use henge_mvcc as mvcc;

use super::revisions::Revisions;
use super::submit::Answers as _;
use super::{Engine, Operation, Ticket, WatchEnd, owned};
use crate::failure::{CompactError, LeaseError, RangeError, WatchError};

/// An answer that holds at a revision of each shard.
#[derive(Clone, Debug, PartialEq)]
pub struct Sharded<T> {
    /// The answer.
    pub body: T,
    /// Where it holds; 0 for shards that were not asked.
    pub revisions: Revisions,
}

impl Engine {
    /// How far every shard is, linearizably.
    ///
    /// Cancel safety: dropping the future gives up the answer; nothing else happens.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { on_scratch(async |engine| {
    /// let written = engine.put("greeting", "hello").await?;
    /// assert_eq!(engine.revisions().await?.get(0), written.header.revision);
    /// # Ok(()) }) }
    /// ```
    pub fn revisions(&self) -> impl Future<Output = Result<Revisions, RangeError>> + Send + use<> {
        let tickets: Vec<_> = (0..self.shards())
            .map(|shard| self.submit(shard, RequestKind::Barrier))
            .collect();
        async move {
            let mut revisions = Vec::with_capacity(tickets.len());
            for ticket in tickets {
                revisions.push(ticket.await?.header.revision);
            }
            Ok(revisions.into_iter().collect())
        }
    }

    /// Reads a range over all shards it touches, merged in key order: at `at`, or linearizably as it is
    /// now. The answer's revisions, handed in with the next page's key, read on in the same state.
    ///
    /// The request's own revision must be 0, and its order that of the keys.
    ///
    /// Cancel safety: dropping the future gives up the answer; nothing else happens.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { on_scratch(async |engine| {
    /// use henge::mvcc::{KeyRange, RangeRequest};
    ///
    /// engine.put("greeting", "hello").await?;
    /// let everything = RangeRequest { range: KeyRange::all(), ..RangeRequest::default() };
    /// let now = engine.range_at(&everything, None).await?;
    /// engine.put("greeting", "good-bye").await?;
    /// let then = engine.range_at(&everything, Some(&now.revisions)).await?;
    /// assert_eq!(then.body.kvs, now.body.kvs);
    /// # Ok(()) }) }
    /// ```
    pub fn range_at(
        &self,
        request: &mvcc::RangeRequest<'_>,
        at: Option<&Revisions>,
    ) -> impl Future<Output = Result<Sharded<mvcc::RangeResponse>, RangeError>> + Send + use<> {
        let parts = self.range_parts(request, at);
        let (limit, shards) = (request.limit, self.shards());
        let descending = request.sort_order == mvcc::SortOrder::Descend;
        let at = at.cloned();
        async move {
            let mut revisions = at.unwrap_or_else(|| Revisions::unknown(shards));
            let mut found = Vec::new();
            for (shard, ticket) in parts? {
                let part = ticket.await?.range()?;
                if revisions.get(shard) == 0 {
                    revisions.advance(shard, part.header.revision);
                }
                found.push(part.body);
            }
            let body = merge(found, limit, descending);
            Ok(Sharded { body, revisions })
        }
    }

    /// Watches a key or a range over all shards it touches, from what comes next or after `after`; a shard
    /// at 0 in it (which was not read) from what comes next. The request's own start revision must be 0.
    /// Fails as [`Engine::watch`] does.
    ///
    /// `after` is how far somebody has read: the revisions of [`Engine::range_at`], [`Engine::revisions`], a
    /// [`Snapshot`](crate::Snapshot) or another watcher. A write's header says only where that write is; a
    /// vector that is advanced by it skips what others changed before.
    ///
    /// Cancel safety: dropping the watcher ends the watch.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { on_scratch(async |engine| {
    /// use henge::api::WatchCreate;
    ///
    /// engine.put("a", "1").await?;
    /// let seen = engine.revisions().await?;
    /// engine.put("b", "2").await?;
    /// let create = WatchCreate { key: "\0".into(), range_end: "\0".into(), ..Default::default() };
    /// let mut watcher = engine.watch_after(&create, Some(&seen))?;
    /// let missed = loop {
    ///     let (_, response) = watcher.next().await.expect("the engine runs");
    ///     if let Some(event) = response.events.into_iter().next() {
    ///         break event;
    ///     }
    /// };
    /// assert_eq!(missed.kv.key, "b");
    /// # Ok(()) }) }
    /// ```
    pub fn watch_after(
        &self,
        create: &WatchCreate,
        after: Option<&Revisions>,
    ) -> Result<ShardedWatcher, WatchError> {
        self.check_revisions(after)?;
        if create.start_revision != 0 {
            return Err(Error::OneShardOnly("watching from a single revision").into());
        }
        let range = mvcc::KeyRange {
            key: &create.key,
            end: &create.range_end,
        };
        let unknown = || Revisions::unknown(self.shards());
        let mut revisions = after.cloned().unwrap_or_else(unknown);
        let mut streams = Vec::new();
        for shard in self.shards_of(&range) {
            if revisions.get(shard) == 0 {
                // What comes next is given a number here: else the watch would have no place to be resumed
                // at until it had read what each shard says of its creation.
                let shown = self.inner().shards[shard]
                    .door
                    .revision
                    .load(Ordering::Acquire);
                revisions.advance(shard, shown);
            }
            let create = WatchCreate {
                start_revision: revisions.get(shard).saturating_add(1),
                ..create.clone()
            };
            streams.push((shard, self.watch_on(shard, create)?));
        }
        Ok(ShardedWatcher {
            first: 0,
            revisions,
            streams,
            ends: BTreeMap::new(),
        })
    }

    /// Forgets history below these revisions, shard by shard; shards at 0 keep theirs. `physical` waits
    /// until it is gone, but for what open snapshots and long ranges still read. A shard that was compacted
    /// farther before is left as it is.
    ///
    /// Cancel safety: the compactions start when this is called; dropping the future gives up the answer,
    /// never them.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { on_scratch(async |engine| {
    /// engine.put("greeting", "hello").await?;
    /// engine.put("greeting", "again").await?;
    /// let now = engine.revisions().await?;
    /// engine.compact_to(&now, true).await?;
    /// let before: henge::Revisions = [now.get(0) - 1].into_iter().collect();
    /// assert!(engine.hashes(Some(&before)).await.is_err());
    /// # Ok(()) }) }
    /// ```
    pub fn compact_to(
        &self,
        revisions: &Revisions,
        physical: bool,
    ) -> impl Future<Output = Result<(), CompactError>> + Send + use<> {
        let checked = self.check_revisions(Some(revisions));
        let tickets: Vec<_> = (0..self.shards())
            .filter(|shard| checked.is_ok() && revisions.get(*shard) > 0)
            .map(|shard| {
                let revision = revisions.get(shard);
                self.write(shard, &Command::Compact { revision, physical })
            })
            .collect();
        async move {
            checked?;
            for ticket in tickets {
                match ticket.await {
                    Ok(_) | Err(Error::Invalid(mvcc::Error::Compacted { .. })) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            Ok(())
        }
    }

    /// Hashes of the content of every shard, in shard order: at `at`, or as it is now. Linearizable: a shard
    /// that was just opened first applies what its log holds.
    ///
    /// Cancel safety: dropping the future gives up the answer; nothing else happens.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { on_scratch(async |engine| {
    /// engine.put("greeting", "hello").await?;
    /// let now = engine.revisions().await?;
    /// let before = engine.hashes(Some(&now)).await?;
    /// engine.put("greeting", "again").await?;
    /// assert_eq!(engine.hashes(Some(&now)).await?, before);
    /// # Ok(()) }) }
    /// ```
    pub fn hashes(
        &self,
        at: Option<&Revisions>,
    ) -> impl Future<Output = Result<Vec<HashKv>, RangeError>> + Send + use<> {
        let checked = self.check_revisions(at);
        let asked: Vec<_> = (0..self.shards())
            .map(|shard| at.map_or(0, |at| at.get(shard)))
            .collect();
        let there = self.revisions();
        let engine = self.clone();
        async move {
            checked?;
            // The hash itself is a look at what is applied here (as etcd's HashKV).
            there.await?;
            let tickets: Vec<_> = asked
                .into_iter()
                .enumerate()
                .map(|(shard, revision)| engine.submit(shard, RequestKind::HashKv(revision)))
                .collect();
            let mut hashes = Vec::with_capacity(tickets.len());
            for ticket in tickets {
                hashes.push(ticket.await?.hash()?.body);
            }
            Ok(hashes)
        }
    }

    /// Creates a lease of `ttl_s` seconds for keys of the shard that holds `key` (see
    /// [`Engine::lease_grant`]). The engine picks its id.
    ///
    /// Cancel safety: the write starts when this is called; dropping the future gives up the answer,
    /// never the write.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { on_scratch(async |engine| {
    /// use henge::mvcc::PutRequest;
    ///
    /// let lease = engine.lease_grant_for("session", 60).await?.body.id;
    /// let put = PutRequest { key: b"session", value: b"here", lease, ..PutRequest::default() };
    /// engine.put_with(&put).await?;
    /// engine.lease_revoke(lease).await?;
    /// assert_eq!(engine.get("session").await?, None);
    /// # Ok(()) }) }
    /// ```
    pub fn lease_grant_for(
        &self,
        key: impl AsRef<[u8]>,
        ttl_s: i64,
    ) -> Operation<Reply<LeaseGranted>, LeaseError> {
        let shard = self.route(key.as_ref());
        self.lease_grant_on(shard, 0, ttl_s)
    }

    /// The shard a lease lives in: ids are dealt out to shards as the remainder says.
    pub(crate) fn lease_shard(&self, id: i64) -> usize {
        usize::try_from(id.unsigned_abs() % self.shards() as u64).unwrap_or(0)
    }

    pub(crate) fn lease_grant_on(
        &self,
        shard: usize,
        id: i64,
        ttl_s: i64,
    ) -> Operation<Reply<LeaseGranted>, LeaseError> {
        // With one shard the state machine picks, as etcd's does.
        let id = if id == 0 && self.shards() > 1 {
            self.pick_lease_id(shard)
        } else {
            id
        };
        let ticket = self.write(shard, &Command::LeaseGrant { id, ttl_s });
        Operation::new(ticket, Reply::granted)
    }

    /// A positive id of the shard's that no other run picked: runs start from the wall clock.
    fn pick_lease_id(&self, shard: usize) -> i64 {
        let number = self.inner().next_lease.fetch_add(1, Ordering::Relaxed);
        lease_id::of_shard(number, shard, self.shards())
    }

    /// Whether a lease lives where a key does.
    pub(crate) fn check_lease(&self, key: &[u8], lease: i64) -> Result<(), Error> {
        if lease == 0 || self.lease_shard(lease) == self.route(key) {
            return Ok(());
        }
        Err(Error::LeaseElsewhere {
            key: owned(key),
            lease,
        })
    }

    fn check_revisions(&self, at: Option<&Revisions>) -> Result<(), Error> {
        match at {
            Some(at) if at.shards() != self.shards() => Err(Error::OtherShards {
                given: at.shards(),
                shards: self.shards(),
            }),
            _ => Ok(()),
        }
    }

    pub(crate) fn range_parts(
        &self,
        request: &mvcc::RangeRequest<'_>,
        at: Option<&Revisions>,
    ) -> Result<Vec<(usize, Ticket)>, Error> {
        mvcc::check::range(request, &self.inner().limits)?;
        self.check_revisions(at)?;
        let shards = self.shards_of(&request.range);
        let many = shards.len() > 1;
        if many && (request.revision > 0 || request.sort_target != mvcc::SortTarget::Key) {
            return Err(Error::OneShardOnly(
                "a range at a single past revision or in another order",
            ));
        }
        let ask = |shard| {
            let mut request = request.clone();
            if let Some(at) = at {
                request.revision = at.get(shard);
            }
            let encoded = Command::Range(request).encode();
            let kind = RequestKind::Read {
                encoded,
                serializable: false,
            };
            (shard, self.submit(shard, kind))
        };
        Ok(shards.map(ask).collect())
    }
}

/// Merges the shards' answers in key order; each is sorted already, and limited.
pub(crate) fn merge(
    mut parts: Vec<mvcc::RangeResponse>,
    limit: i64,
    descending: bool,
) -> mvcc::RangeResponse {
    if parts.len() == 1
        && let Some(only) = parts.pop()
    {
        return only;
    }
    let mut merged = mvcc::RangeResponse::default();
    for part in parts {
        merged.count += part.count;
        merged.more |= part.more;
        merged.kvs.extend(part.kvs);
    }
    // Runs that are sorted: the merge sort finds them.
    merged.kvs.sort_by(|left, right| match descending {
        false => left.key.cmp(&right.key),
        true => right.key.cmp(&left.key),
    });
    if let Ok(limit) = usize::try_from(limit)
        && limit > 0
        && merged.kvs.len() > limit
    {
        merged.kvs.truncate(limit);
        merged.more = true;
    }
    merged
}

/// A watch over several shards. Within a shard responses come in revision order; between shards they come
/// as they happen. Dropping it ends the watch.
#[derive(Debug)]
pub struct ShardedWatcher {
    streams: Vec<(usize, WatchStream)>,
    /// Where the next look begins, so that a busy shard does not hide the others.
    first: usize,
    revisions: Revisions,
    /// Why it has ended in which shards.
    ends: BTreeMap<usize, WatchEnd>,
}

impl ShardedWatcher {
    /// The next response and the shard it is of: first one `created` from each shard. A shard whose response
    /// is `canceled` (its history was compacted, or it is damaged) has no more; the others go on. `None`
    /// after the last shard's, and when the engine has stopped or a core's log failed;
    /// [`ShardedWatcher::ends`] says why.
    ///
    /// Cancel safety: a response is taken by the poll that returns it; a future that is dropped before
    /// takes none.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { on_scratch(async |engine| {
    /// let create = henge::api::WatchCreate { key: "a".into(), ..Default::default() };
    /// let mut watcher = engine.watch_after(&create, None)?;
    /// let (shard, first) = watcher.next().await.expect("the engine runs");
    /// assert!(shard == 0 && first.created);
    /// # Ok(()) }) }
    /// ```
    pub async fn next(&mut self) -> Option<(usize, WatchResponse)> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// As [`ShardedWatcher::next`], for callers that poll by hand.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { on_scratch(async |engine| {
    /// let create = henge::api::WatchCreate { key: "a".into(), ..Default::default() };
    /// let mut watcher = engine.watch_after(&create, None)?;
    /// let first = std::future::poll_fn(|cx| watcher.poll_next(cx)).await;
    /// assert!(first.expect("the engine runs").1.created);
    /// # Ok(()) }) }
    /// ```
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<(usize, WatchResponse)>> {
        let count = self.streams.len();
        for step in 0..count {
            let at = (self.first + step) % count;
            let (shard, stream) = &mut self.streams[at];
            let shard = *shard;
            match stream.poll_next(cx) {
                Poll::Pending => {}
                Poll::Ready(None) => {
                    let end = WatchEnd::of(None, stream.why());
                    self.ends.insert(shard, end);
                    return Poll::Ready(None);
                }
                Poll::Ready(Some(response)) => {
                    self.first = at + 1;
                    // The creation's header says where the store is, not how far this watch has come.
                    if !response.created && !response.canceled {
                        self.revisions.advance(shard, response.header.revision);
                    }
                    if response.canceled {
                        // The others go on.
                        let end = WatchEnd::of(Some(&response), stream.why());
                        self.ends.insert(shard, end);
                        self.streams.remove(at);
                    }
                    return Poll::Ready(Some((shard, response)));
                }
            }
        }
        match count {
            0 => Poll::Ready(None),
            _ => Poll::Pending,
        }
    }

    /// Why it has ended in which shards, as far as [`ShardedWatcher::next`] has told: one whose response was
    /// `canceled`, and the one that had no more when it gave `None`.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { on_scratch(async |engine| {
    /// let create = henge::api::WatchCreate { key: "a".into(), ..Default::default() };
    /// let mut watcher = engine.watch_after(&create, None)?;
    /// engine.stop().await;
    /// while watcher.next().await.is_some() {}
    /// assert_eq!(watcher.ends().get(&0), Some(&henge::WatchEnd::Stopped));
    /// # Ok(()) }) }
    /// ```
    pub fn ends(&self) -> &BTreeMap<usize, WatchEnd> {
        &self.ends
    }

    /// How far it has been read: hand this to [`Engine::watch_after`] to go on. Known for every watched shard
    /// from the start, whether or not anything was read; others are as they were handed in.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { on_scratch(async |engine| {
    /// let create = henge::api::WatchCreate { key: "a".into(), ..Default::default() };
    /// let mut watcher = engine.watch_after(&create, None)?;
    /// watcher.next().await;
    /// let left = watcher.revisions().encode(); // keep it with what was done
    /// let seen = henge::Revisions::decode(&left)?;
    /// assert_eq!(seen.shards(), engine.shards());
    /// # Ok(()) }) }
    /// ```
    pub fn revisions(&self) -> &Revisions {
        &self.revisions
    }
}
