//! Opening a core: its newest checkpoints read, its log replayed, its shards started. The engine does it on
//! the core's own thread, the simulator in its world: there is no other way.
//!
//! Promises: what is on the disk is taken as a whole or refused by name; a group whose entries are lost does
//! not serve, and the others do. Must never know: who drives the core, what a caller is, members' addresses.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use henge_api::{CoreMetrics, SharedVitals};
use henge_mvcc as mvcc;
use henge_raft::ConfState;
use henge_wal::checkpoint::CheckpointError;
use henge_wal::disk::{Disk, Room};
use henge_wal::{Damage, Identity, OpenReport, Options, Record, Replay, Wal};

use crate::door::ShardDoor;
use crate::gauges::Stopwatch;
use crate::inbox::Inbox;
use crate::machine::alarms::ImageError;
use crate::restore::{self, CHECKPOINTS, RestoreError};
use crate::shard::recover::{RecoverFault, RecoveredGroup, Recovery};
use crate::shard::{Shard, ShardConfig};
use crate::{Core, CoreConfig};

/// What a core is opened from.
#[derive(Debug)]
pub struct Opening {
    /// Its log's directory.
    pub dir: PathBuf,
    /// How its log is kept.
    pub wal: Options,
    /// Whose log it is.
    pub identity: Identity,
    /// Cores that share the room there is, this one included.
    pub cores: u64,
    /// No other core has groups of this log: one that holds nothing but damage is refused whole, as it was
    /// found.
    pub holds_all: bool,
    /// Bytes of log between two checkpoints of a shard, at the most.
    pub checkpoint_bytes: u64,
    /// Its groups, in ascending order.
    pub groups: Vec<GroupOpening>,
    /// Its door.
    pub inbox: Arc<Inbox>,
    /// Where it shows what it counts.
    pub metrics: Arc<Mutex<CoreMetrics>>,
    /// How it is.
    pub vitals: Arc<SharedVitals>,
    /// Measures turns.
    pub stopwatch: Stopwatch,
}

/// One group of a core.
#[derive(Debug)]
pub struct GroupOpening {
    /// What it is.
    pub config: ShardConfig,
    /// What it shares with its callers.
    pub door: ShardDoor,
}

/// Why a core could not be opened. Nothing was changed on disk unless the log's own error says so.
#[derive(Debug, thiserror::Error)]
pub enum OpenCoreError {
    /// The log refused (locked, foreign, damaged, not writable, …); the text names file and remedy.
    #[error(transparent)]
    Wal(#[from] henge_wal::OpenError),
    /// A checkpoint file cannot be read.
    #[error(transparent)]
    CheckpointFile(#[from] CheckpointError),
    /// A checkpoint's content is not a store.
    #[error(
        "{path}: {error}; the log before it is gone: put the file back from a copy of it; other members may \
         have what is lost (docs/faults.md, a member that lost its log)"
    )]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: mvcc::SnapshotError,
    },
    /// What a checkpoint says beside the store cannot be understood.
    #[error("{path}: {error}")]
    CheckpointPart {
        /// The checkpoint.
        path: PathBuf,
        /// What is wrong with it.
        error: ImageError,
    },
    /// A checkpoint of another cluster, member or group.
    #[error(
        "{path}: belongs to another cluster or member; move it away if it was copied here by mistake"
    )]
    ForeignCheckpoint {
        /// The file.
        path: PathBuf,
    },
    /// What the log holds cannot be turned into shards.
    #[error(transparent)]
    Recover(#[from] RecoverFault),
    /// A group cannot be started as it was described.
    #[error("cluster: {member_id:x}: {why}")]
    Group {
        /// The member.
        member_id: u64,
        /// What is wrong.
        why: String,
    },
}

/// What may stand between the disk and the groups. Nothing, but in tests that plant a bug there.
pub trait Meddle {
    /// The log says this.
    fn record(&mut self, record: Record<'_>, to: &mut Recovery) {
        to.record(record);
    }

    /// A group was recovered.
    fn recovered(&mut self, group: u64, found: &mut RecoveredGroup) {
        let _ = (group, found);
    }
}

/// Nothing does.
impl Meddle for () {}

/// The log, heard through a meddler.
struct Heard<'h> {
    recovery: &'h mut Recovery,
    meddle: &'h mut dyn Meddle,
}

impl Replay for Heard<'_> {
    fn record(&mut self, record: Record<'_>) {
        self.meddle.record(record, self.recovery);
    }

    fn lost(&mut self, group: u64, first: u64, last: u64) {
        self.recovery.lost(group, first, last);
    }

    fn refuses(&mut self, damaged: &[Damage]) -> bool {
        self.recovery.refuses(damaged)
    }
}

/// Opens a core on its disk. `now_ms` dates the leases that are granted again.
pub fn open(
    opening: Opening,
    mut disk: Box<dyn Disk>,
    now_ms: u64,
    meddle: &mut dyn Meddle,
) -> Result<Core, OpenCoreError> {
    let groups = &opening.groups;
    let conf_state = groups.first().map(|group| ConfState {
        voters: group.config.voters.clone(),
        ..ConfState::default()
    });
    let mut recovery = Recovery::new(conf_state.unwrap_or_default(), now_ms);
    recovery.only(groups.iter().map(|group| group.config.group));
    recovery.refuse_if_nothing_is_left(opening.holds_all);
    let mut restored = BTreeMap::new();
    disk.attach(&opening.dir);
    for group in groups.iter().map(|group| group.config.group) {
        if let Some(machine) = restore::newest(disk.as_mut(), &opening.identity, group)? {
            restored.insert(group, machine.applied_index);
            recovery.restored(group, machine);
        }
    }
    let (mut wal, report) = {
        let mut heard = Heard {
            recovery: &mut recovery,
            meddle,
        };
        let (wal, identity) = (&opening.wal, &opening.identity);
        Wal::open(&opening.dir, wal, identity, disk, &mut heard)?
    };
    report_open(&opening.dir, &report);
    let mut found = recovery.finish()?;
    let distance =
        distance_max(wal.disk_room(), opening.cores, &report).min(opening.checkpoint_bytes);
    let mut shards = Vec::new();
    for GroupOpening { mut config, door } in opening.groups {
        config.log_bytes_replayed = report.bytes;
        config.checkpoint_bytes = distance;
        let mut recovered = found.remove(&config.group).unwrap_or_default();
        meddle.recovered(config.group, &mut recovered);
        if is_alone(&config) {
            // What attempts that did not finish left goes, and what is older than what was read.
            let (group, read) = (config.group, restored.get(&config.group).copied());
            if let Err(error) = wal.prepare_checkpoints(CHECKPOINTS, group, read.unwrap_or(0)) {
                tracing::warn!(group, %error, "the directory of checkpoints cannot be put in order");
            }
        }
        if report.nameless.is_some() && !wal.knows(config.group) {
            recovered.lost = Some((1, Damage::NO_END));
        }
        if recovered.lost.is_some() {
            report_damage(config.group, &report);
        }
        let member_id = config.member_id;
        let started = Shard::start(config, recovered, now_ms);
        let shard = started.map_err(|error| OpenCoreError::Group {
            member_id,
            why: error.to_string(),
        })?;
        shards.push((shard, door));
    }
    let config = CoreConfig {
        inbox: opening.inbox,
        checkpoint_bytes: distance,
        metrics: opening.metrics,
        vitals: opening.vitals,
        stopwatch: opening.stopwatch,
    };
    Ok(Core::new(config, shards, wal))
}

fn is_alone(config: &ShardConfig) -> bool {
    config.voters == [config.member_id]
}

impl From<RestoreError> for OpenCoreError {
    fn from(error: RestoreError) -> Self {
        match error {
            RestoreError::File(error) => OpenCoreError::CheckpointFile(error),
            RestoreError::Store { path, error } => OpenCoreError::Checkpoint { path, error },
            RestoreError::Part { path, error } => OpenCoreError::CheckpointPart { path, error },
            RestoreError::Foreign { path } => OpenCoreError::ForeignCheckpoint { path },
        }
    }
}

/// Most log between two checkpoints: a quarter of the room that this core's log has for itself, so that there
/// is room for a checkpoint when one is due. Where nobody knows the room, as much as was asked for.
fn distance_max(room: Option<Room>, cores: u64, report: &OpenReport) -> u64 {
    let Some(Room { free_bytes, .. }) = room else {
        return u64::MAX;
    };
    let room = free_bytes / cores.max(1) + report.bytes;
    (room / 4).max(report.segment_bytes.1)
}

fn report_open(dir: &Path, report: &OpenReport) {
    tracing::info!(
        dir = %dir.display(),
        backend = report.backend,
        direct_io = report.direct_io,
        segments = report.segments,
        records = report.records,
        last_lsn = report.last_lsn,
        "opened the log"
    );
    if !report.direct_io {
        tracing::warn!(
            dir = %dir.display(),
            "this file system refuses O_DIRECT: the log uses write and fdatasync, which is slower"
        );
    }
    if let Some(cut) = &report.cut {
        tracing::warn!(
            file = %cut.file.display(),
            offset = cut.offset,
            bytes = cut.bytes,
            kept = %cut.kept.display(),
            "cut a torn tail: a write that was never acknowledged"
        );
    }
    for healed in &report.healed {
        tracing::warn!(
            file = %healed.file.display(),
            offset = healed.offset,
            what = healed.what,
            "a damaged part of the log was read from its second copy: `henge wal repair` makes it good again"
        );
    }
    if let Some(place) = &report.nameless {
        tracing::error!(
            file = %place.file.display(),
            offset = place.offset,
            "the log was repaired here over batches that nobody can read: groups of which it knows nothing \
             may have lost everything"
        );
    }
}

/// A group that does not start, and why; the others do.
fn report_damage(group: u64, report: &OpenReport) {
    let is_named = report.damaged.iter().any(|damage| damage.group == group);
    let nameless = report.nameless.iter().filter(|_| !is_named);
    let named = report.damaged.iter().filter(|damage| damage.group == group);
    for damage in named.chain(nameless) {
        tracing::error!(
            group,
            first = damage.first,
            last = damage.last,
            file = %damage.file.display(),
            offset = damage.offset,
            "acknowledged entries cannot be read: this group serves nothing; other members may have them \
             (docs/faults.md, a member that lost its log); `henge wal repair` says what it would give up"
        );
    }
}
