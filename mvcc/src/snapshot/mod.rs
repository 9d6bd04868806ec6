//! Snapshots: the store at one revision as a stream of bytes, made in slices while writes go on.
//!
//! ```text
//! stream  = frame*                       HEAD, LEASES*, KEYS*, END
//! frame   = length:u32le kind:u8 payload (length counts the payload)
//! HEAD    = "HENGEMV\0" version:u32le revision:varint compacted+1:varint
//! LEASES  = (id:varint ttl_s:varint renewed:varint)*       ascending ids
//! KEYS    = (klen:varint key count:varint (main:varint blen:varint body)*)*
//! END     = versions:varint hash:u64le
//! ```
//!
//! Keys ascend; versions of a key ascend; a key with many versions may go on in the next frame
//! (same key again). Bodies are those of `version`. The hash covers every frame before END. In the
//! stream are exactly the versions readable at the pinned revision or after its compaction (see
//! `compact`), so two replicas that stand at the same command write the same content. Deadlines of
//! leases are not in it; the leases are those of its beginning (see `leases`). Version 1 had no `renewed`
//! (see `lease`); it is still read.
//!
//! Never knows files, checkpoints or the network. Tested by `tests/snapshot.rs`: round trips in the
//! middle of writes, every cut and every flipped byte refused.

pub(crate) mod leases;
mod restore;

pub use restore::Restorer;

use std::ops::ControlFlow;

use crate::hash::Hash64;
use crate::names::KeyId;
use crate::pins::{Pin, Span};
use crate::store::Store;
use crate::varint;

pub(crate) const MAGIC: &[u8; 8] = b"HENGEMV\0";
pub(crate) const FORMAT_VERSION: u32 = 2;
/// The oldest that is read.
pub(crate) const FORMAT_VERSION_MIN: u32 = 1;
/// The first whose leases say when they were renewed.
pub(crate) const FORMAT_VERSION_RENEWED: u32 = 2;
/// Bytes before a frame's payload.
pub(crate) const FRAME_HEAD: usize = 5;

pub(crate) const KIND_HEAD: u8 = 1;
pub(crate) const KIND_LEASES: u8 = 2;
pub(crate) const KIND_KEYS: u8 = 3;
pub(crate) const KIND_END: u8 = 4;

/// A frame ends when its payload passes this, so that a reader can check it in one piece.
const FRAME_BYTES: usize = 64 << 10;
/// A frame that announces more than this is damaged. Only a single version can make a frame larger
/// than [`FRAME_BYTES`], so this also bounds the values a store can be restored with; requests are
/// bounded far below (1.5 MiB by default).
pub(crate) const FRAME_BYTES_MAX: usize = 1 << 30;
/// Most keys and leases that one slice looks at, in case few of them have anything to write.
const SLICE_KEYS_MAX: usize = 4_000;

/// A snapshot that is being made. It is pinned to the revision at which it began; while it exists
/// what it reads stays, so drop it when done.
#[derive(Debug)]
pub struct SnapshotCursor {
    revision: i64,
    compacted: i64,
    /// As of the beginning; none once they are written.
    leases: Option<leases::Shared>,
    stage: Stage,
    versions: u64,
    hash: Hash64,
    _pin: Pin,
}

impl SnapshotCursor {
    /// The revision of the snapshot.
    pub fn revision(&self) -> i64 {
        self.revision
    }
}

#[derive(Debug)]
enum Stage {
    Head,
    Leases,
    Keys(Option<After>),
    End,
    Done,
}

/// Where the last frame of keys ended.
#[derive(Clone, Debug, Default)]
struct After {
    key: Vec<u8>,
    /// The last version written; `None` when the key is complete.
    main: Option<i64>,
}

impl Store {
    /// Begins a snapshot of the current revision.
    pub fn snapshot_begin(&self) -> SnapshotCursor {
        SnapshotCursor {
            revision: self.revision,
            compacted: self.compacted,
            leases: Some(self.leases.readers.begin()),
            stage: Stage::Head,
            versions: 0,
            hash: Hash64::default(),
            _pin: self.pins.pin(Span {
                first: self.compacted,
                last: self.revision,
            }),
        }
    }

    /// Appends the next frames to `out`, at least one, until about `max_bytes` were added (a frame
    /// is about 64 KiB, or one version if that is larger). Returns whether there is more.
    pub fn snapshot_next(
        &self,
        cursor: &mut SnapshotCursor,
        max_bytes: usize,
        out: &mut Vec<u8>,
    ) -> bool {
        let start = out.len();
        let count = |out: &Vec<u8>| self.meter.bytes(out.len() - start);
        let mut keys_left = SLICE_KEYS_MAX;
        while !matches!(cursor.stage, Stage::Done) {
            let room = max_bytes
                .saturating_sub(out.len() - start)
                .clamp(1, FRAME_BYTES);
            self.snapshot_frame(cursor, room, &mut keys_left, out);
            if out.len() - start >= max_bytes || keys_left == 0 {
                break;
            }
        }
        count(out);
        !matches!(cursor.stage, Stage::Done)
    }

    fn snapshot_frame(
        &self,
        cursor: &mut SnapshotCursor,
        room: usize,
        keys_left: &mut usize,
        out: &mut Vec<u8>,
    ) {
        let start = out.len();
        out.extend_from_slice(&[0; FRAME_HEAD]);
        let kind;
        (kind, cursor.stage) = match std::mem::replace(&mut cursor.stage, Stage::Done) {
            Stage::Head => {
                out.extend_from_slice(MAGIC);
                out.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
                varint::put(out, cursor.revision as u64);
                varint::put(out, (cursor.compacted + 1) as u64);
                (KIND_HEAD, Stage::Leases)
            }
            Stage::Leases => (KIND_LEASES, self.leases_frame(cursor, room, keys_left, out)),
            Stage::Keys(after) => (
                KIND_KEYS,
                self.keys_frame(cursor, after, room, keys_left, out),
            ),
            Stage::End | Stage::Done => {
                varint::put(out, cursor.versions);
                out.extend_from_slice(&cursor.hash.finish().to_le_bytes());
                (KIND_END, Stage::Done)
            }
        };
        let payload = out.len() - start - FRAME_HEAD;
        out[start..start + 4].copy_from_slice(&(payload as u32).to_le_bytes());
        out[start + 4] = kind;
        cursor.hash.bytes(&out[start..]);
    }

    fn leases_frame(
        &self,
        cursor: &mut SnapshotCursor,
        room: usize,
        keys_left: &mut usize,
        out: &mut Vec<u8>,
    ) -> Stage {
        let limit = out.len() + room;
        let more = cursor.leases.as_ref().is_some_and(|then| {
            let now = |from| self.leases.iter_from(from);
            leases::next(then, now, |entry| {
                if let Some(entry) = entry {
                    varint::put(out, entry.id as u64);
                    varint::put(out, entry.ttl_s as u64);
                    varint::put(out, entry.renewed);
                }
                self.meter.look(1);
                *keys_left = keys_left.saturating_sub(1);
                out.len() < limit && *keys_left > 0
            })
        });
        if more {
            return Stage::Leases;
        }
        cursor.leases = None;
        Stage::Keys(None)
    }

    fn keys_frame(
        &self,
        cursor: &mut SnapshotCursor,
        after: Option<After>,
        room: usize,
        keys_left: &mut usize,
        out: &mut Vec<u8>,
    ) -> Stage {
        let limit = out.len() + room;
        let resume = after.clone();
        let mut after = after.unwrap_or_default();
        let start = after.key.clone();
        let stopped = self.index.scan(&self.keys, &start, |id| {
            let key = self.keys.key(id);
            let from = match &resume {
                Some(resume) if resume.key == key => match resume.main {
                    Some(main) => main + 1,
                    None => return ControlFlow::Continue(()),
                },
                _ => i64::MIN,
            };
            if out.len() >= limit || *keys_left == 0 {
                return ControlFlow::Break(());
            }
            *keys_left -= 1;
            self.meter.look(1);
            after.key.clear();
            after.key.extend_from_slice(key);
            after.main = self.key_entry(cursor, id, from, limit, out);
            if after.main.is_some() {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        match stopped {
            Some(()) => Stage::Keys(Some(after)),
            None => Stage::End,
        }
    }

    /// Writes a key with its versions above `from`, until `limit`. Returns the last revision
    /// written if there are more. Nothing is written for a key that has none.
    fn key_entry(
        &self,
        cursor: &mut SnapshotCursor,
        id: KeyId,
        from: i64,
        limit: usize,
        out: &mut Vec<u8>,
    ) -> Option<i64> {
        let readable = || self.readable(id, cursor.compacted, cursor.revision, from);
        // Two passes: the count comes first, and only as many as fit may be counted.
        let (mut count, mut bytes, mut last, mut more) = (0u64, 0, 0, false);
        for version in readable() {
            let new_revision = count == 0 || version.main != last;
            if new_revision && count > 0 && out.len() + bytes >= limit {
                more = true;
                break;
            }
            (count, bytes, last) = (count + 1, bytes + version.body_len(), version.main);
        }
        if count == 0 {
            return None;
        }
        let key = self.keys.key(id);
        varint::put(out, key.len() as u64);
        out.extend_from_slice(key);
        varint::put(out, count);
        for version in readable().take(count as usize) {
            varint::put(out, version.main as u64);
            varint::put(out, version.body_len() as u64);
            version.encode_body(out);
        }
        cursor.versions += count;
        more.then_some(last)
    }
}
