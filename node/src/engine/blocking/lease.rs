//! Leases and their keys, for callers that block.

use henge_api::{LeaseGranted, LeaseTtl, Reply};
use henge_mvcc as mvcc;

use super::Blocking;
use crate::failure::{LeaseError, PutError};

impl Blocking {
    /// See [`Engine::put_with`](crate::Engine::put_with).
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { with_scratch(|engine| {
    /// use henge::mvcc::PutRequest;
    ///
    /// let db = engine.blocking();
    /// let lease = db.lease_grant(0, 60)?.body.id;
    /// db.put_with(&PutRequest { key: b"session", value: b"here", lease, ..PutRequest::default() })?;
    /// db.lease_revoke(lease)?;
    /// assert_eq!(db.get("session")?, None);
    /// # Ok(()) }) }
    /// ```
    pub fn put_with(
        &self,
        request: &mvcc::PutRequest<'_>,
    ) -> Result<Reply<mvcc::PutResponse>, PutError> {
        self.run(|engine| engine.put_with(request))
    }

    /// See [`Engine::lease_grant`](crate::Engine::lease_grant).
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { with_scratch(|engine| {
    /// assert_eq!(engine.blocking().lease_grant(7, 60)?.body.id, 7);
    /// # Ok(()) }) }
    /// ```
    pub fn lease_grant(&self, id: i64, ttl_s: i64) -> Result<Reply<LeaseGranted>, LeaseError> {
        self.run(|engine| engine.lease_grant(id, ttl_s))
    }

    /// See [`Engine::lease_grant_for`](crate::Engine::lease_grant_for).
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { with_scratch(|engine| {
    /// assert!(engine.blocking().lease_grant_for("session", 60)?.body.id > 0);
    /// # Ok(()) }) }
    /// ```
    pub fn lease_grant_for(
        &self,
        key: impl AsRef<[u8]>,
        ttl_s: i64,
    ) -> Result<Reply<LeaseGranted>, LeaseError> {
        self.run(|engine| engine.lease_grant_for(key, ttl_s))
    }

    /// See [`Engine::lease_revoke`](crate::Engine::lease_revoke).
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { with_scratch(|engine| {
    /// let db = engine.blocking();
    /// db.lease_grant(7, 60)?;
    /// db.lease_revoke(7)?;
    /// assert!(db.lease_revoke(7).is_err());
    /// # Ok(()) }) }
    /// ```
    pub fn lease_revoke(&self, id: i64) -> Result<Reply<()>, LeaseError> {
        self.run(|engine| engine.lease_revoke(id))
    }

    /// See [`Engine::lease_keep_alive`](crate::Engine::lease_keep_alive).
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { with_scratch(|engine| {
    /// let db = engine.blocking();
    /// db.lease_grant(7, 60)?;
    /// assert_eq!(db.lease_keep_alive(7)?.body, 60);
    /// # Ok(()) }) }
    /// ```
    pub fn lease_keep_alive(&self, id: i64) -> Result<Reply<i64>, LeaseError> {
        self.run(|engine| engine.lease_keep_alive(id))
    }

    /// See [`Engine::lease_time_to_live`](crate::Engine::lease_time_to_live).
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { with_scratch(|engine| {
    /// let db = engine.blocking();
    /// db.lease_grant(7, 60)?;
    /// assert_eq!(db.lease_time_to_live(7, true)?.body.granted_ttl_s, 60);
    /// # Ok(()) }) }
    /// ```
    pub fn lease_time_to_live(&self, id: i64, keys: bool) -> Result<Reply<LeaseTtl>, LeaseError> {
        self.run(|engine| engine.lease_time_to_live(id, keys))
    }
}
