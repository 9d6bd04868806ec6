//! What can go wrong, per operation: who is at fault, which file and place, the next safe step.
//!
//! Errors are values that can be compared and cloned, so an `io::Error` is kept as its code and
//! text ([`IoFault`]): the poison of a log is handed out again and again.

use std::io;
use std::path::PathBuf;

use crate::scan::Expect;
use crate::{GroupId, Lsn};

/// An operating-system error as a value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct IoFault {
    /// The `errno`, where there was one.
    pub code: Option<i32>,
    /// What the system said.
    pub text: String,
}

impl IoFault {
    /// What ran short, if that is all: worth trying again later, nothing is broken.
    pub fn shortage(&self) -> Option<Shortage> {
        Shortage::of_code(self.code?)
    }
}

/// What the log lacks to get another segment: whoever is to make room must know of what.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Shortage {
    /// The file system is full (ENOSPC).
    #[error("the file system is full")]
    Space,
    /// This user's share of it is spent (EDQUOT).
    #[error("the disk quota is spent")]
    Quota,
    /// No file may be so large (EFBIG: `RLIMIT_FSIZE`, or the file system's own limit).
    #[error("a segment is larger than a file may be (RLIMIT_FSIZE)")]
    FileSize,
    /// This process or the machine has no file descriptor left (EMFILE, ENFILE).
    #[error("no file descriptor is left")]
    Descriptors,
    /// The kernel has no memory for it (ENOMEM, EAGAIN).
    #[error("the kernel lacks memory")]
    Memory,
}

impl Shortage {
    /// What ran short, if that is all that is wrong.
    pub(crate) fn of(e: &io::Error) -> Option<Self> {
        Self::of_code(e.raw_os_error()?)
    }

    fn of_code(code: i32) -> Option<Self> {
        Some(match code {
            libc::ENOSPC => Self::Space,
            libc::EDQUOT => Self::Quota,
            libc::EFBIG => Self::FileSize,
            libc::EMFILE | libc::ENFILE => Self::Descriptors,
            libc::ENOMEM | libc::EAGAIN => Self::Memory,
            _ => return None,
        })
    }
}

impl From<io::Error> for IoFault {
    fn from(e: io::Error) -> Self {
        Self {
            code: e.raw_os_error(),
            text: e.to_string(),
        }
    }
}

/// Why a log was not opened. The directory is as it was, unless the text says otherwise.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The caller's options are out of range.
    #[error("log options: {0}")]
    BadOptions(&'static str),
    /// The process may not write files as large as a segment.
    #[error(
        "{path}: this process may write files of at most {limit} bytes (RLIMIT_FSIZE, `ulimit -f`), and \
         segments of the log take {bytes}: raise the limit, or have smaller segments (`--wal-segment-bytes`, \
         `EngineBuilder::wal_segment_bytes`)"
    )]
    FileLimit {
        /// The directory.
        path: PathBuf,
        /// Largest file that the process may write, in bytes.
        limit: u64,
        /// Bytes of a segment.
        bytes: u64,
    },
    /// The file system has not the room that a new log begins with.
    #[error(
        "{path}: {free} bytes are free on this file system, and the segments that a log begins with take \
         {bytes}: make room, or have smaller segments (`--wal-segment-bytes`, \
         `EngineBuilder::wal_segment_bytes`)"
    )]
    NoRoom {
        /// The directory.
        path: PathBuf,
        /// Bytes that are free.
        free: u64,
        /// Bytes that are needed.
        bytes: u64,
    },
    /// Another process (or another log of this process) has the directory.
    #[error(
        "{path}: in use by {holder}; stop it, or wait if it has just been killed, then start again"
    )]
    Locked {
        /// The lock file.
        path: PathBuf,
        /// `process PID`, as the holder wrote it, or `another process`.
        holder: String,
    },
    /// The directory holds something, but no log of ours.
    #[error(
        "{path}: not empty and not a Henge log (found {found:?}); give an empty or new directory"
    )]
    NotOurs {
        /// The directory.
        path: PathBuf,
        /// A file that does not belong to a log.
        found: String,
    },
    /// The directory belongs to another cluster or member.
    #[error(
        "{path}: belongs to cluster {found_cluster:x} member {found_member:x}, \
         not to cluster {cluster:x} member {member:x}; check the data directory and the ids"
    )]
    WrongIdentity {
        /// The IDENTITY file.
        path: PathBuf,
        /// Cluster id asked for.
        cluster: u64,
        /// Member id asked for.
        member: u64,
        /// Cluster id found.
        found_cluster: u64,
        /// Member id found.
        found_member: u64,
    },
    /// The IDENTITY file is damaged, or gone while segments are there.
    #[error(
        "{path}: {what}; restore the file from a backup; without one, read \"A member that lost its \
         log\" in docs/faults.md before this directory is given up"
    )]
    BadIdentity {
        /// The IDENTITY file.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
    /// Written by a newer version.
    #[error("{path}: format {found}, this program knows {known}; use the newer program")]
    NewerFormat {
        /// The file that says so.
        path: PathBuf,
        /// Format version found.
        found: u16,
        /// Newest format version known here.
        known: u16,
    },
    /// A segment that must be there is not.
    #[error(
        "{path}: segment is missing but the log needs it (lost or moved away?); put it back; if it is \
         gone, `henge wal repair` says what going on without it may cost"
    )]
    MissingSegment {
        /// The file that should be there.
        path: PathBuf,
    },
    /// A segment of another log lies in the directory.
    #[error("{path}: belongs to another log; move the file back to where it came from")]
    ForeignSegment {
        /// The file.
        path: PathBuf,
    },
    /// The directory or a file in it cannot be used.
    #[error("{path}: cannot {doing}: {fault}; check owner, mode and mount of the directory")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What was tried: a verb.
        doing: &'static str,
        /// What the system said.
        fault: IoFault,
    },
    /// Acknowledged data is damaged. Nothing was cut or changed.
    #[error("{0}")]
    Corrupt(Box<Corruption>),
}

/// Acknowledged data that cannot be read back: where, and whose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Corruption {
    /// The segment file.
    pub file: PathBuf,
    /// Byte offset of the first bad block.
    pub offset: u64,
    /// The batch that should be there.
    pub lsn: Lsn,
    /// The highest batch known to have been acknowledged.
    pub durable_lsn: Lsn,
    /// What is wrong.
    pub what: String,
    /// Groups with entries in the damaged range: `(group, first index, last index)`. Indexes are 0
    /// where a group is known to be hit but not where; empty when nothing can be said.
    pub groups: Vec<(GroupId, u64, u64)>,
    /// For a repair.
    pub(crate) obstacle: Obstacle,
}

/// What is in the way of a recovery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Obstacle {
    /// This batch; and the first batch of the next segment, with its chain, if there is one.
    Batch(Expect, Option<(Lsn, u32)>),
    /// The header of this segment.
    Header(u64),
    /// This segment was cut so far that nothing is left of it.
    Emptied(u64),
    /// What only a copy of the files can heal.
    Other,
}

impl Corruption {
    /// What is wrong, without what to do about it: for the tools that the advice would name.
    pub fn facts(&self) -> String {
        let is = match self.lsn > self.durable_lsn {
            true => "may have been acknowledged, and cannot be read",
            false => "was acknowledged, and is damaged",
        };
        let mut text = format!(
            "{} offset {}: batch {} {is} ({}); batches up to {} are known durable",
            self.file.display(),
            self.offset,
            self.lsn,
            self.what,
            self.durable_lsn
        );
        for (group, first, last) in &self.groups {
            text += &match first {
                0 => format!("; group {group}"),
                _ => format!("; group {group} indexes {first}..={last}"),
            };
        }
        text
    }
}

impl OpenError {
    /// What is wrong, without the advice to use a tool: for that tool.
    pub fn facts(&self) -> String {
        match self {
            Self::Corrupt(corruption) => corruption.facts(),
            Self::MissingSegment { path } => format!(
                "{}: segment is missing but the log needs it (lost or moved away?)",
                path.display()
            ),
            other => other.to_string(),
        }
    }
}

impl std::fmt::Display for Corruption {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{}; nothing was changed: `henge wal verify` looks at it again, `henge wal repair` says what \
            going on \
             without the damaged batches may cost",
            self.facts()
        )
    }
}

/// Why an operation on an open log failed.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WalError {
    /// A write failed. What was not yet acknowledged is unknown; nothing is acknowledged again.
    #[error(
        "the log is poisoned: {doing} {file} at offset {offset} failed: {fault}; outcome of what was \
         in flight is unknown, restart to recover"
    )]
    Poisoned {
        /// The file that failed.
        file: String,
        /// Byte offset of the operation.
        offset: u64,
        /// What was being done: a verb.
        doing: &'static str,
        /// What the system said.
        fault: IoFault,
    },
    /// The caller's entry is larger than the log can ever hold.
    #[error("entry of {bytes} bytes exceeds the log's limit of {max} bytes")]
    EntryTooLarge {
        /// Payload bytes.
        bytes: usize,
        /// Largest payload with these options.
        max: usize,
    },
    /// The caller used the log after closing it.
    #[error("the log is closed")]
    Closed,
}

/// Why entries could not be read back.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The first entry asked for was compacted: send a snapshot instead.
    #[error("group {group}: entries up to {compacted} are compacted")]
    Compacted {
        /// The group.
        group: GroupId,
        /// Last compacted index.
        compacted: u64,
    },
    /// The first entry asked for is not in the log (not yet durable, or never was).
    #[error("group {group}: entry {index} is not in the log")]
    Unavailable {
        /// The group.
        group: GroupId,
        /// The entry asked for.
        index: u64,
    },
    /// What was written did not come back.
    #[error("{file} offset {offset}: {what}")]
    Damaged {
        /// The segment file.
        file: String,
        /// Byte offset of the batch.
        offset: u64,
        /// What is wrong.
        what: String,
    },
    /// The log was closed before the read ended.
    #[error("the log is closed")]
    Closed,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ran_short_is_told_apart_from_what_is_broken() {
        let lacks = |code| IoFault::from(io::Error::from_raw_os_error(code)).shortage();
        assert_eq!(lacks(libc::ENOSPC), Some(Shortage::Space));
        assert_eq!(lacks(libc::EDQUOT), Some(Shortage::Quota));
        assert_eq!(lacks(libc::EFBIG), Some(Shortage::FileSize));
        assert_eq!(lacks(libc::EMFILE), Some(Shortage::Descriptors));
        assert_eq!(lacks(libc::ENFILE), Some(Shortage::Descriptors));
        assert_eq!(lacks(libc::ENOMEM), Some(Shortage::Memory));
        assert_eq!(lacks(libc::EIO), None);
        assert!(Shortage::Descriptors.to_string().contains("descriptor"));
    }

    #[test]
    fn messages_name_the_place_and_the_next_step() {
        let c = Corruption {
            file: "x/1.seg".into(),
            offset: 8192,
            lsn: 3,
            durable_lsn: 7,
            what: "record checksum".into(),
            groups: vec![(1, 5, 6), (2, 0, 0)],
            obstacle: Obstacle::Other,
        };
        let text = OpenError::Corrupt(Box::new(c)).to_string();
        for part in [
            "x/1.seg",
            "8192",
            "batch 3",
            "group 1 indexes 5..=6",
            "group 2",
            "verify",
        ] {
            assert!(text.contains(part), "{part} not in {text}");
        }
    }

    #[test]
    fn regression_no_advice_to_rejoin_empty() {
        // A member that comes back without what it acknowledged can cost acknowledged writes.
        let c = Corruption {
            file: "1.seg".into(),
            offset: 0,
            lsn: 1,
            durable_lsn: 1,
            what: "x".into(),
            groups: vec![],
            obstacle: Obstacle::Other,
        };
        let what = "IDENTITY is damaged";
        for error in [
            OpenError::Corrupt(Box::new(c)),
            OpenError::BadIdentity {
                path: "IDENTITY".into(),
                what,
            },
        ] {
            let text = error.to_string();
            assert!(!text.contains("rejoin empty"), "{text}");
        }
    }
}
