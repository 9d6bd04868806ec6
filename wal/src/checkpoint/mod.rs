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

use crate::{GroupId, IoFault, Shortage};

mod format;
mod reader;
mod room;
mod writer;

pub use reader::Reader;
pub use room::{available, prepare};
pub use writer::{BYTES_PER_SECOND, Finished, Plan, PushError, Writer};

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

/// What a checkpoint does that fails for lack of room before it wrote anything.
const MAKE_ROOM: &str = "make room for";

impl CheckpointError {
    /// What ran short, if that is all: worth trying again later.
    pub fn shortage(&self) -> Option<Shortage> {
        match self {
            Self::Io { fault, .. } => fault.shortage(),
            _ => None,
        }
    }

    /// It failed before anything was written: trying again costs next to nothing.
    pub fn was_cheap(&self) -> bool {
        matches!(self, Self::Io { doing, .. } if *doing == MAKE_ROOM)
    }
}

/// Every finished checkpoint of a group: `(index, file)`.
fn all(dir: &Path, group: GroupId) -> Result<Vec<(u64, PathBuf)>, CheckpointError> {
    named(dir, group, format::parse_name)
}

/// Removes what attempts that did not finish left of a group, and its checkpoints before `index`.
fn sweep(dir: &Path, group: GroupId, index: u64) -> Result<(), CheckpointError> {
    let unfinished = named(dir, group, format::parse_tmp_name)?;
    let older = all(dir, group)?.into_iter().filter(|(at, _)| *at < index);
    for (_, path) in unfinished.into_iter().chain(older) {
        std::fs::remove_file(&path).map_err(|e| io(&path, "remove", e))?;
    }
    Ok(())
}

/// The group's files whose names `parse` understands: `(index, file)`.
fn named(
    dir: &Path,
    group: GroupId,
    parse: fn(&str) -> Option<(GroupId, u64)>,
) -> Result<Vec<(u64, PathBuf)>, CheckpointError> {
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
        if let Some((of, index)) = name.as_deref().and_then(parse)
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
