//! Room for checkpoints, taken before it is needed.
//!
//! On a full file system only a checkpoint gives log back, and it needs room itself. What makes a store
//! small enough (deletes, compaction) makes the checkpoint small, but gives the file system nothing: so a
//! small file is kept that becomes the checkpoint's own when there is no other room. Whoever takes the
//! room of a larger one hears at once that there is none, before a byte was written.
//! Must never know: what a checkpoint holds.

use std::fs::{DirBuilder, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use super::{CheckpointError, io, sweep};
use crate::disk::take_room;
use crate::{GroupId, Shortage};

/// Name of the reserve.
pub(super) const RESERVE_NAME: &str = "reserve";
/// Its size: a store that was emptied and compacted fits many times.
pub(super) const RESERVE_BYTES: u64 = 1 << 20;

/// Bytes that the file system of this directory still has for us.
pub fn available(dir: &Path) -> std::io::Result<u64> {
    fs2::available_space(dir)
}

/// Make the directory ready for a group whose newest checkpoint, at `index`, was read (0: it has none):
/// what attempts of an earlier process left is removed, as are older checkpoints, and the reserve is made.
/// Blocks; the log of the group must be open, so that nobody else is at it.
pub fn prepare(dir: &Path, group: GroupId, index: u64) -> Result<(), CheckpointError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    match made {
        // No room for a directory: it can wait.
        Err(e) if Shortage::of(&e).is_some() => return Ok(()),
        made => made.map_err(|e| io(dir, "make", e))?,
    }
    sweep(dir, group, index)?;
    make_reserve(dir);
    Ok(())
}

/// Makes the reserve, if there is room for it: there may be a next time.
pub(super) fn make_reserve(dir: &Path) {
    let path = dir.join(RESERVE_NAME);
    let there = std::fs::metadata(&path).is_ok_and(|found| found.len() >= RESERVE_BYTES);
    if !there && take(&path, RESERVE_BYTES).is_err() {
        let _ = std::fs::remove_file(&path);
    }
}

/// Makes the reserve this file; whether it was there.
pub(super) fn spend_reserve(dir: &Path, on: &Path) -> bool {
    std::fs::rename(dir.join(RESERVE_NAME), on).is_ok()
}

/// Makes a file that has room for so many bytes.
pub(super) fn take(path: &Path, bytes: u64) -> std::io::Result<()> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    take_room(&file, path, bytes)
}
