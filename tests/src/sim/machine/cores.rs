//! The cores of a running machine: the product's own recovery and turn, one log each, as the engine's
//! builder puts them together.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Wake, Waker};

use henge::api::{CoreMetrics, Metrics};
use henge_core::inbox::{Inbox, Input};
use henge_core::recover::Recovery;
use henge_core::shard::Shard;
use henge_core::{Core, CoreConfig, Next, Now};
use henge_raft::ConfState;
use henge_wal::disk::Disk;
use henge_wal::{Identity, Options, Wal};

use crate::sim::host::{StartError, shard_config};

/// The only member.
const MEMBER: u64 = 0x11;
/// Whose logs they are.
pub(super) const IDENTITY: Identity = Identity {
    cluster_id: 7,
    member_id: MEMBER,
};

/// One core of a running process.
pub(super) struct RunningCore {
    core: Core,
    pub(super) inbox: Arc<Inbox>,
    metrics: Arc<Mutex<CoreMetrics>>,
    woken: Arc<Flag>,
    /// When it wants its next turn; `u64::MAX`: it has ended.
    pub(super) turn_us: u64,
    /// A turn takes time.
    pub(super) busy_until_us: u64,
    /// World time minus this process's time.
    offset_us: u64,
}

struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
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
        let voters = vec![MEMBER];
        let conf_state = ConfState {
            voters: voters.clone(),
            ..ConfState::default()
        };
        let refused = |why: &dyn std::fmt::Display| StartError::Refused(why.to_string());
        let mut recovery = Recovery::new(conf_state, 0);
        recovery.only(groups.iter().copied());
        let dir = PathBuf::from(format!("core-{at}"));
        let (wal, _) =
            Wal::open(&dir, options, &IDENTITY, disk, &mut recovery).map_err(StartError::from)?;
        let mut found = recovery.finish().map_err(|why| refused(&why))?;
        let mut shards = Vec::new();
        for group in groups {
            let config = shard_config(*group, MEMBER, voters.clone(), now_us, seed);
            let recovered = found.remove(group).unwrap_or_default();
            shards.push(Shard::start(config, recovered, 0).map_err(|why| refused(&why))?);
        }
        let inbox = Arc::new(Inbox::new());
        let metrics = Arc::<Mutex<CoreMetrics>>::default();
        let config = CoreConfig {
            inbox: inbox.clone(),
            budgets: Vec::new(),
            // Checkpoints are written by a thread, which this world has none of.
            checkpoint_dir: PathBuf::new(),
            checkpoint_bytes: u64::MAX,
            metrics: groups
                .iter()
                .map(|_| Arc::new(Mutex::new(Metrics::default())))
                .collect(),
            core_metrics: metrics.clone(),
            stopwatch: Default::default(),
        };
        Ok(RunningCore {
            core: Core::new(config, shards, wal),
            inbox,
            metrics,
            woken: Arc::new(Flag(AtomicBool::new(true))),
            turn_us: now_us,
            busy_until_us: now_us,
            offset_us: now_us,
        })
    }

    /// One turn.
    pub(super) fn turn(&mut self, now_us: u64) {
        self.woken.0.store(false, Ordering::Relaxed);
        let waker = Waker::from(self.woken.clone());
        let mut cx = Context::from_waker(&waker);
        let micros = now_us.saturating_sub(self.offset_us);
        let next = self.core.turn(Now { micros }, &mut cx, &mut ());
        self.turn_us = match next {
            Next::Ended => u64::MAX,
            Next::At(millis) if !self.woken.0.load(Ordering::Relaxed) => millis
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
        self.core.shards().iter().any(Shard::is_corrupt)
    }

    /// Its log failed.
    pub(super) fn is_poisoned(&self) -> bool {
        let metrics = self.metrics.lock().unwrap_or_else(PoisonError::into_inner);
        metrics.poisoned
    }
}
