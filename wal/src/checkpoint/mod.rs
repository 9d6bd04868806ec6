//! Checkpoint files: a raft group's snapshot in checksummed chunks, written beside traffic.
//!
//! A file gets its name only when it is complete and durable (written under another name, synced,
//! renamed, folder synced), and only then are older ones of its group removed: at every moment
//! there is a whole one, or none was ever finished. What may be dropped from the log once a
//! checkpoint is durable is the caller's business. Must never know: what a snapshot means, clocks, files but
//! by operations of the log's disk.
//!
//! They lie in a folder that the log's disk reaches ([`Op`]), often beside the log, shared by several. One is
//! written by the log itself, as operations of its disk beside its own ([`Wal::begin_checkpoint`], `beside`):
//! `writer` says which operation comes next, `pace` when the next piece may go. [`Reader`] gives verified
//! chunks back; [`latest`] finds a group's newest. Drawn in `docs/format.md`.
//!
//! [`Wal::begin_checkpoint`]: crate::Wal::begin_checkpoint

use std::path::PathBuf;

use crate::disk::{Disk, FileInfo, Op, Output, place_of};
use crate::{GroupId, IoFault, Shortage};

mod beside;
mod format;
mod pace;
mod reader;
mod room;
mod writer;

pub(crate) use beside::Checkpoints;
pub use beside::{CheckpointId, PushError};
pub use pace::BYTES_PER_SECOND;
pub use reader::Reader;
pub use writer::{Finished, Plan};

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

/// The newest finished checkpoint of a group in a folder of the disk, by name; its contents are not read.
/// `None` if there is none, or no such folder. Blocks.
pub fn latest(
    disk: &mut dyn Disk,
    folder: &str,
    group: GroupId,
) -> Result<Option<String>, CheckpointError> {
    let files = list(disk, folder)?;
    let mine = files.into_iter().filter_map(|file| {
        let (of, index) = format::parse_name(&file.name)?;
        (of == group).then_some((index, file.name))
    });
    Ok(mine.max().map(|(_, name)| format!("{folder}/{name}")))
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

/// What of a folder's files is in the way of a group's checkpoint at `index`: what attempts that did not
/// finish left, and finished ones before it.
fn needless(files: &[FileInfo], folder: &str, group: GroupId, index: u64) -> Vec<String> {
    let is_needless = |file: &&FileInfo| {
        let unfinished = format::parse_tmp_name(&file.name);
        let finished = format::parse_name(&file.name);
        unfinished.is_some_and(|(of, _)| of == group)
            || finished.is_some_and(|(of, at)| of == group && at < index)
    };
    let found = files.iter().filter(is_needless);
    found
        .map(|file| format!("{folder}/{}", file.name))
        .collect()
}

fn list(disk: &mut dyn Disk, folder: &str) -> Result<Vec<FileInfo>, CheckpointError> {
    let folder_name = folder.to_owned();
    match disk.run(Op::List {
        folder: folder_name,
    }) {
        Ok(Output::Files(files)) => Ok(files),
        Ok(_) => Ok(Vec::new()),
        Err(e) => Err(io(disk, folder, "list", e)),
    }
}

fn io(disk: &dyn Disk, name: &str, doing: &'static str, e: std::io::Error) -> CheckpointError {
    CheckpointError::Io {
        path: place_of(disk.path(), name),
        doing,
        fault: e.into(),
    }
}
