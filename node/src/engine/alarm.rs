//! Alarms: what is raised, and lowering it once its cause is mended. Each shard has its own, since each has
//! its own quota.
//!
//! Tested by `tests/engine/alarms.rs`.

use henge_api::{AlarmAction, AlarmMember, Error, Reply};
use henge_core::machine::Command;
use henge_core::shard::request::RequestKind;

use super::submit::Answers as _;
use super::{Engine, Ticket};
use crate::failure::{AlarmError, RangeError};

impl Engine {
    /// The alarms that are raised, with their shards, in shard order: [`Alarm::NoSpace`] where the quota
    /// ([`EngineBuilder::quota_bytes`]) was spent, until it is lowered with [`Engine::alarm_disarm`], and
    /// where this member's disk has no room, for as long as that is so; [`Alarm::Corrupt`] where somebody
    /// raised it. While one is raised writes that add data are refused ([`Failure::NoSpace`]), or all of
    /// the data is ([`Failure::Corrupt`]). Linearizable.
    ///
    /// Cancel safety: dropping the future gives up the answer; nothing else happens.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { on_scratch(async |engine| {
    /// for (shard, raised) in engine.alarms().await? {
    ///     println!("shard {shard}: {} of member {:x}", raised.alarm.name(), raised.member_id);
    /// }
    /// # Ok(()) }) }
    /// ```
    ///
    /// [`Alarm::NoSpace`]: henge_api::Alarm::NoSpace
    /// [`Alarm::Corrupt`]: henge_api::Alarm::Corrupt
    /// [`EngineBuilder::quota_bytes`]: crate::EngineBuilder::quota_bytes
    /// [`Failure::NoSpace`]: crate::Failure::NoSpace
    /// [`Failure::Corrupt`]: crate::Failure::Corrupt
    pub fn alarms(
        &self,
    ) -> impl Future<Output = Result<Vec<(usize, AlarmMember)>, RangeError>> + Send + use<> {
        let asked = (0..self.shards()).map(|shard| self.submit(shard, RequestKind::Alarms));
        let tickets: Vec<_> = asked.collect();
        async move { Ok(gather(tickets).await?) }
    }

    /// Lowers an alarm in every shard where it is raised, once its cause is mended: for space, once keys were
    /// deleted and history was compacted ([`Engine::compact_to`], `physical`), or the quota is larger. Where
    /// the cause remains it is raised again. Which were lowered, with their shards: one that is not raised
    /// is not among them, nor is that of a full disk, which falls by itself.
    ///
    /// A shard that cannot do it does not keep the others from it; its failure is the answer.
    ///
    /// Cancel safety: the writes start when this is called; dropping the future gives up the answer, never
    /// the writes.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { on_scratch(async |engine| {
    /// engine.compact_to(&engine.revisions().await?, true).await?;
    /// for (_shard, raised) in engine.alarms().await? {
    ///     engine.alarm_disarm(raised).await?;
    /// }
    /// # Ok(()) }) }
    /// ```
    pub fn alarm_disarm(
        &self,
        alarm: AlarmMember,
    ) -> impl Future<Output = Result<Vec<(usize, AlarmMember)>, AlarmError>> + Send + use<> {
        let action = AlarmAction::Deactivate;
        let lower = |shard| self.write(shard, &Command::Alarm { action, alarm });
        let tickets: Vec<_> = (0..self.shards()).map(lower).collect();
        async move { Ok(gather(tickets).await?) }
    }
}

/// What the shards answer, or the first failure once all have answered.
async fn gather(tickets: Vec<Ticket>) -> Result<Vec<(usize, AlarmMember)>, Error> {
    let (mut found, mut failed) = (Vec::new(), None);
    for (shard, ticket) in tickets.into_iter().enumerate() {
        match ticket.await.and_then(Reply::alarms) {
            Ok(alarms) => found.extend(alarms.body.into_iter().map(|alarm| (shard, alarm))),
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    failed.map_or(Ok(found), Err)
}
