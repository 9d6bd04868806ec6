//! Leases: granted, renewed, asked about, revoked. Where they live among several shards: `sharded`.
//!
//! Tested by `tests/engine`.

use henge_api::{LeaseGranted, LeaseTtl, Reply};
use henge_core::machine::Command;
use henge_core::shard::request::RequestKind;

use super::submit::Answers as _;
use super::{Engine, Operation};
use crate::failure::LeaseError;

impl Engine {
    /// Creates a lease of `ttl_s` seconds; id 0 lets the engine pick.
    ///
    /// With several shards a lease lives in one of them, which its id says, and only keys of that shard can
    /// be attached to it: grant one for a key with [`Engine::lease_grant_for`].
    ///
    /// Cancel safety: the write starts when this is called; dropping the future gives up the answer,
    /// never the write.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { on_scratch(async |engine| {
    /// use henge::mvcc::PutRequest;
    ///
    /// let lease = engine.lease_grant(0, 60).await?.body.id;
    /// let request = PutRequest {
    ///     key: b"sessions/ada",
    ///     value: b"here",
    ///     lease,
    ///     ..PutRequest::default()
    /// };
    /// engine.put_with(&request).await?;
    /// # Ok(()) }) }
    /// ```
    pub fn lease_grant(&self, id: i64, ttl_s: i64) -> Operation<Reply<LeaseGranted>, LeaseError> {
        self.lease_grant_on(self.lease_shard(id), id, ttl_s)
    }

    /// Deletes a lease and the keys attached to it.
    ///
    /// Cancel safety: the write starts when this is called; dropping the future gives up the answer,
    /// never the write.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { on_scratch(async |engine| {
    /// let lease = engine.lease_grant(0, 60).await?.body.id;
    /// engine.lease_revoke(lease).await?;
    /// assert!(engine.lease_revoke(lease).await.is_err());
    /// # Ok(()) }) }
    /// ```
    pub fn lease_revoke(&self, id: i64) -> Operation<Reply<()>, LeaseError> {
        let ticket = self.write(self.lease_shard(id), &Command::LeaseRevoke { id });
        Operation::new(ticket, Reply::done)
    }

    /// Renews a lease; its time to live in seconds, 0 if there is none.
    ///
    /// Cancel safety: dropping the future gives up the answer, never the renewal.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { on_scratch(async |engine| {
    /// let lease = engine.lease_grant(0, 60).await?.body.id;
    /// assert_eq!(engine.lease_keep_alive(lease).await?.body, 60);
    /// assert_eq!(engine.lease_keep_alive(lease + 1).await?.body, 0);
    /// # Ok(()) }) }
    /// ```
    pub fn lease_keep_alive(&self, id: i64) -> Operation<Reply<i64>, LeaseError> {
        let ticket = self.submit(self.lease_shard(id), RequestKind::LeaseKeepAlive(id));
        Operation::new(ticket, Reply::renewed)
    }

    /// How long a lease still lives, and its keys if asked for.
    ///
    /// Cancel safety: dropping the future gives up the answer; nothing else happens.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { on_scratch(async |engine| {
    /// let lease = engine.lease_grant(0, 60).await?.body.id;
    /// let left = engine.lease_time_to_live(lease, true).await?.body;
    /// assert_eq!((left.granted_ttl_s, left.keys.len()), (60, 0));
    /// # Ok(()) }) }
    /// ```
    pub fn lease_time_to_live(
        &self,
        id: i64,
        keys: bool,
    ) -> Operation<Reply<LeaseTtl>, LeaseError> {
        let kind = RequestKind::LeaseTimeToLive { id, keys };
        Operation::new(self.submit(self.lease_shard(id), kind), Reply::ttl)
    }
}
