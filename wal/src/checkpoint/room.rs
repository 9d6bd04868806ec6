//! Room for checkpoints, taken before it is needed.
//!
//! On a full file system only a checkpoint gives log back, and it needs room itself. What makes a store
//! small enough (deletes, compaction) makes the checkpoint small, but gives the file system nothing: so a
//! small file is kept that becomes the checkpoint's own when there is no other room. Whoever takes the
//! room of a larger one hears at once that there is none, before a byte was written.
//! Must never know: what a checkpoint holds.

use super::{CheckpointError, io, list, needless};
use crate::disk::{FileInfo, Op, Output, Room};
use crate::{GroupId, Shortage, Wal};

/// Name of the reserve.
const RESERVE_NAME: &str = "reserve";
/// Its size: a store that was emptied and compacted fits many times.
pub(super) const RESERVE_BYTES: u64 = 1 << 20;

pub(super) fn reserve_in(folder: &str) -> String {
    format!("{folder}/{RESERVE_NAME}")
}

/// Whether the reserve is among a folder's files.
pub(super) fn has_reserve(files: &[FileInfo]) -> bool {
    let is_reserve = |file: &FileInfo| file.name == RESERVE_NAME && file.bytes >= RESERVE_BYTES;
    files.iter().any(is_reserve)
}

/// Makes the reserve, if there is room for it: there may be a next time.
pub(super) fn make_reserve(folder: &str) -> Op {
    Op::Create {
        name: reserve_in(folder),
        room: RESERVE_BYTES,
    }
}

impl Wal {
    /// Make a folder ready for a group whose newest checkpoint, at `index`, was read (0: it has none):
    /// what attempts of an earlier process left is removed, as are older checkpoints, and the reserve is
    /// made. Blocks; called before the core's loop starts.
    pub fn prepare_checkpoints(
        &mut self,
        folder: &str,
        group: GroupId,
        index: u64,
    ) -> Result<(), CheckpointError> {
        let disk = self.disk.as_mut();
        let made = disk.run(Op::MakeFolder {
            folder: folder.into(),
        });
        match made {
            // No room for a directory: it can wait.
            Err(e) if Shortage::of(&e).is_some() => return Ok(()),
            made => made.map_err(|e| io(disk, folder, "make", e))?,
        };
        let files = list(disk, folder)?;
        for name in needless(&files, folder, group, index) {
            let removed = disk.run(Op::Remove { name: name.clone() });
            removed.map_err(|e| io(disk, &name, "remove", e))?;
        }
        if !has_reserve(&files)
            && let Ok(Output::Opened { file, .. }) = disk.run(make_reserve(folder))
        {
            let closed = disk.run(Op::Close { file });
            closed.map_err(|e| io(disk, folder, "close the reserve in", e))?;
        }
        Ok(())
    }

    /// The room that the disk has for files of all kinds; [`Wal::room`] is what the log has of its own.
    /// `None`: nobody knows. May block.
    pub fn disk_room(&mut self) -> Option<Room> {
        self.disk.room()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserve_that_is_too_small_is_none() {
        let file = |name: &str, bytes| FileInfo {
            name: name.into(),
            bytes,
            is_dir: false,
        };
        assert!(!has_reserve(&[]));
        assert!(!has_reserve(&[file(RESERVE_NAME, RESERVE_BYTES - 1)]));
        assert!(has_reserve(&[
            file("a", 5),
            file(RESERVE_NAME, RESERVE_BYTES)
        ]));
    }
}
