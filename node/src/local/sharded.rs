//! Operations over several shards, on the engine's own thread.

use henge_api::{AlarmMember, HashKv, LeaseGranted, Reply, WatchCreate};
use henge_mvcc as mvcc;

use super::Local;
use crate::engine::{Operation, Revisions, Sharded, ShardedWatcher};
use crate::failure::{AlarmError, CompactError, LeaseError, RangeError, WatchError};

impl Local {
    /// See [`Engine::revisions`](crate::Engine::revisions); cancel safety as there.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { on_local(async |db| {
    /// let written = db.put("greeting", "hello").await?;
    /// assert_eq!(db.revisions().await?.get(0), written.header.revision);
    /// # Ok(()) }) }
    /// ```
    pub fn revisions(&self) -> impl Future<Output = Result<Revisions, RangeError>> + Send + use<> {
        self.engine.revisions()
    }

    /// See [`Engine::range_at`](crate::Engine::range_at); cancel safety as there.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { on_local(async |db| {
    /// use henge::mvcc::{KeyRange, RangeRequest};
    ///
    /// db.put("greeting", "hello").await?;
    /// let before = db.revisions().await?;
    /// db.delete("greeting").await?;
    /// let everything = RangeRequest { range: KeyRange::all(), ..RangeRequest::default() };
    /// assert_eq!(db.range_at(&everything, Some(&before)).await?.body.count, 1);
    /// # Ok(()) }) }
    /// ```
    pub fn range_at(
        &self,
        request: &mvcc::RangeRequest<'_>,
        at: Option<&Revisions>,
    ) -> impl Future<Output = Result<Sharded<mvcc::RangeResponse>, RangeError>> + Send + use<> {
        self.engine.range_at(request, at)
    }

    /// See [`Engine::hashes`](crate::Engine::hashes); cancel safety as there.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { on_local(async |db| {
    /// assert_eq!(db.hashes(None).await?.len(), db.shards());
    /// # Ok(()) }) }
    /// ```
    pub fn hashes(
        &self,
        at: Option<&Revisions>,
    ) -> impl Future<Output = Result<Vec<HashKv>, RangeError>> + Send + use<> {
        self.engine.hashes(at)
    }

    /// See [`Engine::compact_to`](crate::Engine::compact_to); cancel safety as there.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { on_local(async |db| {
    /// db.put("greeting", "hello").await?;
    /// let now = db.revisions().await?;
    /// db.compact_to(&now, true).await?;
    /// # Ok(()) }) }
    /// ```
    pub fn compact_to(
        &self,
        revisions: &Revisions,
        physical: bool,
    ) -> impl Future<Output = Result<(), CompactError>> + Send + use<> {
        self.engine.compact_to(revisions, physical)
    }

    /// See [`Engine::alarms`](crate::Engine::alarms); cancel safety as there.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { on_local(async |db| {
    /// assert_eq!(db.alarms().await?, []);
    /// # Ok(()) }) }
    /// ```
    pub fn alarms(
        &self,
    ) -> impl Future<Output = Result<Vec<(usize, AlarmMember)>, RangeError>> + Send + use<> {
        self.engine.alarms()
    }

    /// See [`Engine::alarm_disarm`](crate::Engine::alarm_disarm); cancel safety as there.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { on_local(async |db| {
    /// for (_shard, raised) in db.alarms().await? {
    ///     db.alarm_disarm(raised).await?;
    /// }
    /// # Ok(()) }) }
    /// ```
    pub fn alarm_disarm(
        &self,
        alarm: AlarmMember,
    ) -> impl Future<Output = Result<Vec<(usize, AlarmMember)>, AlarmError>> + Send + use<> {
        self.engine.alarm_disarm(alarm)
    }

    /// See [`Engine::lease_grant_for`](crate::Engine::lease_grant_for); cancel safety as there.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { on_local(async |db| {
    /// assert!(db.lease_grant_for("session", 60).await?.body.id > 0);
    /// # Ok(()) }) }
    /// ```
    pub fn lease_grant_for(
        &self,
        key: impl AsRef<[u8]>,
        ttl_s: i64,
    ) -> Operation<Reply<LeaseGranted>, LeaseError> {
        self.engine.lease_grant_for(key, ttl_s)
    }

    /// See [`Engine::watch_after`](crate::Engine::watch_after); cancel safety as there.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { on_local(async |db| {
    /// use henge::api::WatchCreate;
    ///
    /// let create = WatchCreate { key: "greeting".into(), ..WatchCreate::default() };
    /// let mut watcher = db.watch_after(&create, None)?;
    /// assert!(watcher.next().await.expect("the engine runs").1.created);
    /// # Ok(()) }) }
    /// ```
    pub fn watch_after(
        &self,
        create: &WatchCreate,
        after: Option<&Revisions>,
    ) -> Result<ShardedWatcher, WatchError> {
        self.engine.watch_after(create, after)
    }
}
