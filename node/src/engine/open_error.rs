//! Why an engine could not be opened: each case names the file or the setting and the next safe step.

use std::path::PathBuf;

use henge_core::open::OpenCoreError;
use henge_mvcc as mvcc;

use crate::cluster::members::Membership;
use crate::host::{HostError, HostKind};

/// Why an engine could not be opened. Nothing was changed on disk unless the variant says so.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The log refused (locked, foreign, damaged, not writable, …); the text names file and remedy.
    #[error(transparent)]
    Wal(#[from] henge_wal::OpenError),
    /// A checkpoint file cannot be read.
    #[error(transparent)]
    CheckpointFile(#[from] henge_wal::checkpoint::CheckpointError),
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
    Recover(#[from] henge_core::shard::recover::RecoverFault),
    /// A setting makes no sense.
    #[error("{setting}: {why}")]
    Config {
        /// Which setting.
        setting: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// The directory was made with another number of shards, or another router.
    #[error(
        "{path} was made with {found}, not with {asked}: keys lie where that put them; open it as it was \
         made"
    )]
    Layout {
        /// The layout file.
        path: PathBuf,
        /// What it says.
        found: String,
        /// What was asked for.
        asked: String,
    },
    /// What a checkpoint says beside the store cannot be understood.
    #[error("{path}: {error}")]
    CheckpointPart {
        /// The checkpoint.
        path: PathBuf,
        /// What is wrong with it.
        error: henge_core::machine::alarms::ImageError,
    },
    /// The directory belongs to another member, or to one with other voters.
    #[error(
        "{path}: the directory was made for {found}, not for {asked}; open it with the members it was made \
         with"
    )]
    OtherMembers {
        /// The file that says so.
        path: PathBuf,
        /// Whose it is.
        found: Box<Membership>,
        /// Whose it should be.
        asked: Box<Membership>,
    },
    /// The layout file, or the list of members, cannot be understood.
    #[error("{path}: {why}")]
    BadLayout {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A core's log is not there.
    #[error(
        "{path} is missing or has no IDENTITY: the shards of this core would be empty; put it back, or \
         restore the data directory from a copy"
    )]
    MissingLog {
        /// Its directory.
        path: PathBuf,
    },
    /// Shards could not be moved to another core's log. What they held is safe; opening again goes on.
    #[error("moving shards between logs, {path}: {why}")]
    Move {
        /// The log's directory.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// The data directory cannot be used.
    #[error("data directory {path}: {error}")]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// The peer port cannot be listened on.
    #[error("peers: {0}")]
    Peers(String),
    /// A thread could not be started.
    #[error("cannot start a thread: {0}; check the process and thread limits")]
    Thread(std::io::Error),
    /// The host cannot run on this machine, or not on this thread.
    #[error("host {host}: {why}")]
    Host {
        /// Which.
        host: HostKind,
        /// Why.
        why: String,
    },
    /// A host thread ended while it opened its core.
    #[error("the host thread ended while it opened its core; its panic message is on stderr")]
    HostDied,
}

impl From<OpenCoreError> for OpenError {
    fn from(error: OpenCoreError) -> Self {
        match error {
            OpenCoreError::Wal(error) => OpenError::Wal(error),
            OpenCoreError::CheckpointFile(error) => OpenError::CheckpointFile(error),
            OpenCoreError::Checkpoint { path, error } => OpenError::Checkpoint { path, error },
            OpenCoreError::CheckpointPart { path, error } => {
                OpenError::CheckpointPart { path, error }
            }
            OpenCoreError::ForeignCheckpoint { path } => OpenError::ForeignCheckpoint { path },
            OpenCoreError::Recover(fault) => OpenError::Recover(fault),
            OpenCoreError::Group { member_id, why } => OpenError::Config {
                setting: "cluster",
                why: format!("{member_id:x}: {why}"),
            },
        }
    }
}

impl From<HostError> for OpenError {
    fn from(error: HostError) -> Self {
        match error {
            HostError::Core(error) => error.into(),
            HostError::Thread(error) => OpenError::Thread(error),
            HostError::Refused { host, why } => OpenError::Host { host, why },
            HostError::Died => OpenError::HostDied,
        }
    }
}
