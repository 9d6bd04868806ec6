//! Checkpoint files: a raft group's snapshot in checksummed chunks, written beside traffic.
//!
//! A file gets its name only when it is complete and durable (written under another name, synced,
//! renamed, directory synced), and only then are older ones of its group removed: at every moment
//! there is a whole one, or none was ever finished. What may be dropped from the log once a
//! checkpoint is durable is the caller's business. Must never know: what a snapshot means.
//!
//! [`Writer`] takes chunks without blocking and writes them on a thread of its own; [`Reader`] gives
//! verified chunks back; [`latest`] finds a group's newest. Drawn in `docs/format.md`.

use std::path::{Path, PathBuf};

use crate::{GroupId, IoFault};

mod format;
mod reader;
mod writer;

pub use reader::Reader;
pub use writer::{BYTES_PER_SECOND, Finished, PushError, Writer};

/// Largest chunk, in bytes (256 KiB): one can be made, checked and sent within a turn.
pub const CHUNK_BYTES_MAX: usize = 256 * 1024;

/// Whose snapshot a checkpoint is, and how far it reaches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// The cluster.
    pub cluster_id: u64,
    /// The member that wrote it.
    pub member_id: u64,
    /// The raft group.
    pub group: GroupId,
    /// Last raft index in it.
    pub index: u64,
    /// Its term.
    pub term: u64,
}

/// What can go wrong with a checkpoint file.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    /// The file system failed.
    #[error("{path}: cannot {doing}: {fault}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What was tried: a verb.
        doing: &'static str,
        /// What the system said.
        fault: IoFault,
    },
    /// The file is not what was written.
    #[error(
        "{path} offset {offset}: {what}; use an older checkpoint or fetch a snapshot from a peer"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Byte offset of the damage.
        offset: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// Written by a newer version.
    #[error("{path}: format {found}, this program knows {known}; use the newer program")]
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// Format found.
        found: u16,
        /// Newest format known here.
        known: u16,
    },
}

/// The newest finished checkpoint of a group in `dir`, by name; its contents are not read. `None` if
/// there is none, or no such directory.
pub fn latest(dir: &Path, group: GroupId) -> Result<Option<PathBuf>, CheckpointError> {
    let newest = all(dir, group)?.into_iter().max_by_key(|(index, _)| *index);
    Ok(newest.map(|(_, path)| path))
}

/// Every finished checkpoint of a group: `(index, file)`.
fn all(dir: &Path, group: GroupId) -> Result<Vec<(u64, PathBuf)>, CheckpointError> {
    let failed = |e| io(dir, "list", e);
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(failed(e)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned());
        if let Some((of, index)) = name.as_deref().and_then(format::parse_name)
            && of == group
        {
            found.push((index, path));
        }
    }
    Ok(found)
}

fn io(path: &Path, doing: &'static str, e: std::io::Error) -> CheckpointError {
    CheckpointError::Io {
        path: path.into(),
        doing,
        fault: e.into(),
    }
}
