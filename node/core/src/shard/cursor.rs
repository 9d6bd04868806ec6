//! A range that is read in slices on behalf of a caller: between slices the cursor is with the caller.
//!
//! Promises: all slices are of the revision at which it was begun, whatever is written or compacted
//! meanwhile; nothing of it stays in the shard when the caller drops it. A slice is bounded by
//! [`mvcc::SliceLimits`]. Must never know: who reads, and how often. Tested by `tests/engine/snapshot.rs`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use henge_api::Error;
use henge_mvcc as mvcc;

use super::Shard;
use crate::machine::{Command, Response, command};

/// A place for a range cursor, shared by the caller that reads and the request that is under way.
#[derive(Clone, Debug, Default)]
pub struct Cursor(Arc<Mutex<Option<mvcc::RangeCursor>>>);

impl Cursor {
    fn lock(&self) -> MutexGuard<'_, Option<mvcc::RangeCursor>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shard {
    /// Pins an encoded range to the revision of now. Refuses a sort by anything but the key, as etcd does for
    /// its streams: the first pair would come with the last.
    pub(super) fn cursor_begin(&self, encoded: &[u8], cursor: &Cursor) -> Result<Response, Error> {
        match command::decode(encoded) {
            Ok((_, Command::Range(range))) => {
                if !mvcc::RangeCursor::streams(&range) {
                    return Err(mvcc::Error::InvalidSortOption.into());
                }
                *cursor.lock() = Some(self.machine.store.range_begin(&range)?);
                Ok(Response::Done)
            }
            _ => Err(Error::Corrupt),
        }
    }

    /// Reads one slice on. A cursor that was never begun has nothing to read.
    pub(super) fn cursor_next(&self, cursor: &Cursor) -> Result<Response, Error> {
        let mut cursor = cursor.lock();
        let cursor = cursor.as_mut().ok_or(Error::Corrupt)?;
        let slice = self
            .machine
            .store
            .range_next(cursor, mvcc::SliceLimits::default());
        Ok(Response::Slice(slice))
    }
}
