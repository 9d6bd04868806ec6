//! A group's state machine from a checkpoint.
//!
//! Promises: what is restored is what was written, whole, for this member and group, or it is refused by
//! name.
//! Must never know: the log, paths but for messages.

use std::path::PathBuf;

use henge_mvcc as mvcc;
use henge_wal::Identity;
use henge_wal::checkpoint::{self, CheckpointError, Meta, Reader};
use henge_wal::disk::Disk;

use crate::machine::Machine;
use crate::machine::alarms::{Alarms, ImageError};

/// Where the checkpoints of all cores lie, as their logs' disks name it.
pub const CHECKPOINTS: &str = "../checkpoints";

/// Why a checkpoint is not what a group starts from.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The file cannot be read.
    #[error(transparent)]
    File(#[from] CheckpointError),
    /// Its content is not a store.
    #[error("{path}: {error}")]
    Store {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: mvcc::SnapshotError,
    },
    /// What it says beside the store cannot be understood.
    #[error("{path}: {error}")]
    Part {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: ImageError,
    },
    /// It is of another cluster, member or group.
    #[error("{path}: belongs to another cluster, member or group")]
    Foreign {
        /// The file.
        path: PathBuf,
    },
}

/// From a group's newest checkpoint, if it has one. The disk is attached to the directory of the group's log.
/// Blocks.
pub fn newest(
    disk: &mut dyn Disk,
    identity: &Identity,
    group: u64,
) -> Result<Option<Machine>, RestoreError> {
    let Some(name) = checkpoint::latest(disk, CHECKPOINTS, group)? else {
        return Ok(None);
    };
    let (meta, path, machine) = read(disk, &name)?;
    let theirs = (meta.cluster_id, meta.member_id, meta.group);
    match theirs == (identity.cluster_id, identity.member_id, group) {
        true => Ok(Some(machine)),
        false => Err(RestoreError::Foreign { path }),
    }
}

/// From a checkpoint of this name, whosever it is. Blocks.
pub fn read(disk: &mut dyn Disk, name: &str) -> Result<(Meta, PathBuf, Machine), RestoreError> {
    let mut reader = Reader::open(disk, name)?;
    let (meta, path) = (*reader.meta(), reader.path().to_path_buf());
    let unreadable = |error| RestoreError::Store {
        path: path.clone(),
        error,
    };
    let mut restorer = mvcc::Restorer::new();
    let mut alarms = None;
    while let Some(chunk) = reader.next_chunk()? {
        if alarms.is_none() {
            // The machine's own part, if there is one, comes first.
            let own = Alarms::of_image(&chunk).map_err(|error| RestoreError::Part {
                path: path.clone(),
                error,
            })?;
            let is_own = own.is_some();
            alarms = Some(own.unwrap_or_default());
            if is_own {
                continue;
            }
        }
        restorer.push(&chunk).map_err(unreadable)?;
    }
    let machine = Machine {
        store: restorer.finish().map_err(unreadable)?,
        alarms: alarms.unwrap_or_default(),
        applied_index: meta.index,
        applied_term: meta.term,
        leases_expired: 0,
    };
    Ok((meta, path, machine))
}
