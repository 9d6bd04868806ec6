//! What spans several shards or goes on for a while, for callers that block.

use henge_api::{AlarmMember, HashKv, Reply, WatchCreate};
use henge_mvcc as mvcc;

use super::{Blocking, BlockingIter};
use crate::engine::{Revisions, Sharded, ShardedWatcher, Watcher};
use crate::failure::{AlarmError, CompactError, DeleteError, RangeError, WatchError};

impl Blocking {
    /// See [`Engine::delete_range`](crate::Engine::delete_range).
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { with_scratch(|engine| {
    /// use henge::mvcc::{DeleteRangeRequest, KeyRange};
    ///
    /// let db = engine.blocking();
    /// db.put("greeting", "hello")?;
    /// let all = DeleteRangeRequest { range: KeyRange::all(), prev_kv: false };
    /// assert_eq!(db.delete_range(&all)?.body.deleted, 1);
    /// # Ok(()) }) }
    /// ```
    pub fn delete_range(
        &self,
        request: &mvcc::DeleteRangeRequest<'_>,
    ) -> Result<Reply<mvcc::DeleteRangeResponse>, DeleteError> {
        self.run(|engine| engine.delete_range(request))
    }

    /// See [`Engine::revisions`](crate::Engine::revisions).
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { with_scratch(|engine| {
    /// let db = engine.blocking();
    /// let written = db.put("greeting", "hello")?;
    /// assert_eq!(db.revisions()?.get(0), written.header.revision);
    /// # Ok(()) }) }
    /// ```
    pub fn revisions(&self) -> Result<Revisions, RangeError> {
        self.run(|engine| engine.revisions())
    }

    /// See [`Engine::range_at`](crate::Engine::range_at).
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { with_scratch(|engine| {
    /// use henge::mvcc::{KeyRange, RangeRequest};
    ///
    /// let db = engine.blocking();
    /// db.put("greeting", "hello")?;
    /// let before = db.revisions()?;
    /// db.delete("greeting")?;
    /// let everything = RangeRequest { range: KeyRange::all(), ..RangeRequest::default() };
    /// assert_eq!(db.range_at(&everything, Some(&before))?.body.count, 1);
    /// # Ok(()) }) }
    /// ```
    pub fn range_at(
        &self,
        request: &mvcc::RangeRequest<'_>,
        at: Option<&Revisions>,
    ) -> Result<Sharded<mvcc::RangeResponse>, RangeError> {
        self.run(|engine| engine.range_at(request, at))
    }

    /// See [`Engine::hashes`](crate::Engine::hashes).
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { with_scratch(|engine| {
    /// assert_eq!(engine.blocking().hashes(None)?.len(), engine.shards());
    /// # Ok(()) }) }
    /// ```
    pub fn hashes(&self, at: Option<&Revisions>) -> Result<Vec<HashKv>, RangeError> {
        self.run(|engine| engine.hashes(at))
    }

    /// See [`Engine::compact`](crate::Engine::compact).
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { with_scratch(|engine| {
    /// let db = engine.blocking();
    /// let now = db.put("greeting", "hello")?.header.revision;
    /// db.compact(now, true)?;
    /// # Ok(()) }) }
    /// ```
    pub fn compact(&self, revision: i64, physical: bool) -> Result<Reply<()>, CompactError> {
        self.run(|engine| engine.compact(revision, physical))
    }

    /// See [`Engine::compact_to`](crate::Engine::compact_to).
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { with_scratch(|engine| {
    /// let db = engine.blocking();
    /// db.put("greeting", "hello")?;
    /// db.compact_to(&db.revisions()?, true)?;
    /// # Ok(()) }) }
    /// ```
    pub fn compact_to(&self, revisions: &Revisions, physical: bool) -> Result<(), CompactError> {
        self.run(|engine| engine.compact_to(revisions, physical))
    }

    /// See [`Engine::alarms`](crate::Engine::alarms).
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { with_scratch(|engine| {
    /// assert_eq!(engine.blocking().alarms()?, []);
    /// # Ok(()) }) }
    /// ```
    pub fn alarms(&self) -> Result<Vec<(usize, AlarmMember)>, RangeError> {
        self.run(|engine| engine.alarms())
    }

    /// See [`Engine::alarm_disarm`](crate::Engine::alarm_disarm).
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { with_scratch(|engine| {
    /// let db = engine.blocking();
    /// for (_shard, raised) in db.alarms()? {
    ///     db.alarm_disarm(raised)?;
    /// }
    /// # Ok(()) }) }
    /// ```
    pub fn alarm_disarm(
        &self,
        alarm: AlarmMember,
    ) -> Result<Vec<(usize, AlarmMember)>, AlarmError> {
        self.run(|engine| engine.alarm_disarm(alarm))
    }

    /// See [`Engine::watch`](crate::Engine::watch): its responses, as an iterator that blocks its thread.
    /// Dropping it ends the watch; after its last response `stream().end()` says why it has ended.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { with_scratch(|engine| {
    /// use henge::api::WatchCreate;
    ///
    /// let db = engine.blocking();
    /// let watch = db.watch(WatchCreate { key: "k".into(), ..WatchCreate::default() })?;
    /// db.put("k", "1")?;
    /// let mut changes = watch.flat_map(|response| response.events);
    /// assert_eq!(changes.next().expect("it was put").kv.value, "1");
    /// # Ok(()) }) }
    /// ```
    pub fn watch(&self, create: WatchCreate) -> Result<BlockingIter<Watcher>, WatchError> {
        self.check_thread()?;
        Ok(self.iter(self.engine.watch(create)?)?)
    }

    /// See [`Engine::watch_after`](crate::Engine::watch_after): as [`Blocking::watch`]. Where it was
    /// left, to go on later, is `stream().revisions()`.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { with_scratch(|engine| {
    /// use henge::api::WatchCreate;
    ///
    /// let db = engine.blocking();
    /// let before = db.revisions()?;
    /// db.put("k", "1")?;
    /// let create = WatchCreate { key: "k".into(), ..WatchCreate::default() };
    /// let watch = db.watch_after(&create, Some(&before))?;
    /// let mut changes = watch.flat_map(|(_shard, response)| response.events);
    /// assert_eq!(changes.next().expect("it was put").kv.value, "1");
    /// # Ok(()) }) }
    /// ```
    pub fn watch_after(
        &self,
        create: &WatchCreate,
        after: Option<&Revisions>,
    ) -> Result<BlockingIter<ShardedWatcher>, WatchError> {
        self.check_thread()?;
        Ok(self.iter(self.engine.watch_after(create, after)?)?)
    }
}
