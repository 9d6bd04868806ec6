//! The cores of a running machine: the product's own recovery and turn, one log each, as the engine's
//! builder puts them together.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Context;

use henge::api::{CoreMetrics, Error};
use henge_core::door::ShardDoor;
use henge_core::inbox::{Inbox, Input};
use henge_core::open::{self, GroupOpening, Opening};
use henge_core::shard::Shard;
use henge_core::shard::request::{AnswerReceiver, RequestKind};
use henge_core::{Core, Next, Now};
use henge_wal::disk::Disk;
use henge_wal::{Identity, Options};

use crate::sim::flag::Flag;
use crate::sim::host::{StartError, shard_config};

/// The only member.
const MEMBER: u64 = 0x11;
/// Whose logs they are.
pub(super) const IDENTITY: Identity = Identity {
    cluster_id: 7,
    member_id: MEMBER,
};

/// Bytes of log between two checkpoints of a shard: often enough that a power loss soon meets one.
const CHECKPOINT_BYTES: u64 = 256 << 10;

/// One core of a running process.
pub(super) struct RunningCore {
    core: Core,
    pub(super) inbox: Arc<Inbox>,
    doors: BTreeMap<u64, ShardDoor>,
    metrics: Arc<Mutex<CoreMetrics>>,
    woken: Arc<Flag>,
    /// When it wants its next turn; `u64::MAX`: it has ended.
    pub(super) turn_us: u64,
    /// A turn takes time.
    pub(super) busy_until_us: u64,
    /// World time minus this process's time.
    offset_us: u64,
}

impl RunningCore {
    /// Recovers a core with these groups, in ascending order, from its log.
    pub(super) fn start(
        at: usize,
        groups: &[u64],
        disk: Box<dyn Disk>,
        options: &Options,
        now_us: u64,
        seed: u64,
    ) -> Result<Self, StartError> {
        let inbox = Arc::new(Inbox::new());
        let metrics = Arc::<Mutex<CoreMetrics>>::default();
        let group = |group: &u64| {
            let config = shard_config(*group, MEMBER, vec![MEMBER], now_us, seed);
            let door = ShardDoor::new(config.pending_bytes_max);
            GroupOpening { config, door }
        };
        let groups: Vec<_> = groups.iter().map(group).collect();
        let doors = groups
            .iter()
            .map(|group| (group.config.group, group.door.clone()));
        let doors = doors.collect();
        let opening = Opening {
            dir: PathBuf::from(format!("core-{at}")),
            wal: options.clone(),
            identity: IDENTITY,
            cores: 1,
            holds_all: false,
            checkpoint_bytes: CHECKPOINT_BYTES,
            groups,
            inbox: inbox.clone(),
            metrics: metrics.clone(),
            vitals: Arc::default(),
            stopwatch: Default::default(),
        };
        Ok(RunningCore {
            core: open::open(opening, disk, 0, &mut ())?,
            inbox,
            doors,
            metrics,
            woken: Flag::raised(),
            turn_us: now_us,
            busy_until_us: now_us,
            offset_us: now_us,
        })
    }

    /// Hands a request in.
    pub(super) fn ask(&self, group: u64, kind: RequestKind) -> Result<AnswerReceiver, Error> {
        self.doors[&group].ask(&self.inbox, group, kind)
    }

    /// One turn.
    pub(super) fn turn(&mut self, now_us: u64) {
        let waker = self.woken.lower();
        let mut cx = Context::from_waker(&waker);
        let micros = now_us.saturating_sub(self.offset_us);
        let next = self.core.turn(Now { micros }, &mut cx, &mut ());
        self.turn_us = match next {
            Next::Ended => u64::MAX,
            Next::At(millis) if !self.woken.is_raised() => millis
                .saturating_mul(1_000)
                .saturating_add(self.offset_us)
                .max(now_us),
            _ => now_us,
        };
    }

    /// Asks it to end in good order.
    pub(super) fn stop(&self) {
        self.inbox.push(Input::Stop);
    }

    pub(super) fn has_ended(&self) -> bool {
        self.turn_us == u64::MAX
    }

    /// A group of it that stopped serving.
    pub(super) fn corrupt(&self) -> bool {
        self.core.shards().any(Shard::is_corrupt)
    }

    /// Its log failed.
    pub(super) fn is_poisoned(&self) -> bool {
        let metrics = self.metrics.lock().unwrap_or_else(PoisonError::into_inner);
        metrics.poisoned
    }
}
