//! The records of a batch: what the caller staged, byte by byte, and how they are read back.
//!
//! A record is an 8-byte head (type, kind, length of the body) and a body padded to 8 bytes.
//! Decoding takes bytes whose checksum was right, and still believes nothing: lengths are checked
//! against what is there, and an odd record ends the decoding with a reason.

use crate::GroupId;
use crate::disk::AlignedBuf;
use crate::le::{Fields, u32_at, u64_at};

/// One record of the log, as replayed at open, in log order.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record<'a> {
    /// A raft entry. One that repeats an index replaces it and everything after it.
    Entry {
        /// The group.
        group: GroupId,
        /// Raft term.
        term: u64,
        /// Raft index.
        index: u64,
        /// The caller's kind of entry (normal, configuration change, …).
        kind: u8,
        /// The caller's bytes.
        payload: &'a [u8],
    },
    /// A group's hard state: the last one replayed counts.
    HardState {
        /// The group.
        group: GroupId,
        /// Current term.
        term: u64,
        /// Member voted for in that term; 0 for none.
        vote: u64,
        /// Commit index.
        commit: u64,
    },
    /// The group's entries up to `index` are in a checkpoint and no longer needed here; those after
    /// it stay.
    Compacted {
        /// The group.
        group: GroupId,
        /// Last compacted index.
        index: u64,
        /// Its term.
        term: u64,
    },
    /// A snapshot replaced the group's log: all entries replayed so far are void, also those after
    /// `index`; the hard state stays.
    Restored {
        /// The group.
        group: GroupId,
        /// Last index in the snapshot.
        index: u64,
        /// Its term.
        term: u64,
    },
    /// The group left this log: whatever was replayed of it before does not count.
    Removed {
        /// The group.
        group: GroupId,
    },
}

impl Record<'_> {
    /// Whose it is.
    pub fn group(&self) -> GroupId {
        match *self {
            Record::Entry { group, .. }
            | Record::HardState { group, .. }
            | Record::Compacted { group, .. }
            | Record::Restored { group, .. }
            | Record::Removed { group } => group,
        }
    }
}

/// Takes the records of a log as it is opened. Memory of the log itself is bounded by a segment.
///
/// How to build a group's raft log from them ([`crate::Collect`] does so):
/// - an entry at or below the last compacted index is ignored;
/// - an entry at or below the last index replaces it and everything after it;
/// - an entry beyond the last index + 1 begins the log anew: those between were purged, because a
///   later `Compacted` covers them, or because all of the group's entries are written again later;
/// - `Compacted` drops entries up to its index, `Restored` drops all, `Removed` drops the group.
pub trait Replay {
    /// The next record, in log order.
    fn record(&mut self, record: Record<'_>);

    /// The batch that the next records are from.
    fn batch(&mut self, batch: &BatchInfo) {
        let _ = batch;
    }

    /// Entries `first..=last` of a group were acknowledged and cannot be read; what follows of the group
    /// has a hole there. Said in log order: a later `Compacted` or `Restored` that reaches `last`, or a
    /// later entry at or below `first`, makes it whole again.
    fn lost(&mut self, group: GroupId, first: u64, last: u64) {
        let _ = (group, first, last);
    }

    /// Entries `first..=last` of a group were acknowledged and are nowhere, as [`Replay::lost`] says it; but
    /// what was replayed behind them is good. Said when all is replayed: only then it is clear that what
    /// purged segments held was neither compacted nor written again in anything that can be read.
    fn missing(&mut self, group: GroupId, first: u64, last: u64) {
        self.lost(group, first, last);
    }

    /// Whether to be told what recovery itself does not believe ([`Replay::doubtful`]): for a salvage.
    fn wants_doubtful(&self) -> bool {
        false
    }

    /// A record that recovery does not believe: of a batch whose records are damaged in one byte, as the
    /// checksum says they were, before the batch is said to be lost; or of one that was cut, as nothing
    /// shows that it was acknowledged.
    fn doubtful(&mut self, record: Record<'_>) {
        let _ = record;
    }

    /// Something was cut, as nothing shows that it was acknowledged, and not all of it can be read.
    fn unread(&mut self) {}

    /// All is replayed and nothing is changed yet: refuse the log for its damaged groups? For a caller to
    /// whom nothing would be left.
    fn refuses(&mut self, damaged: &[crate::Damage]) -> bool {
        let _ = damaged;
        false
    }

    /// So many bytes of the log are replayed, of about so many: for a caller that shows progress where an
    /// open takes long.
    fn progress(&mut self, bytes: u64, bytes_total: u64) {
        let _ = (bytes, bytes_total);
    }
}

/// A batch, as the tools show it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BatchInfo {
    /// Its number.
    pub lsn: crate::Lsn,
    /// Its segment.
    pub seq: u64,
    /// Byte offset in the segment.
    pub offset: u64,
    /// Bytes, padding included.
    pub bytes: u32,
    /// Highest batch known durable when it was written.
    pub durable_lsn: crate::Lsn,
    /// Oldest segment needed once it was durable.
    pub low_seq: u64,
    /// Records in it.
    pub records: u32,
    /// Groups whose state it repeats.
    pub marks: u32,
}

/// For callers that need no replay (tools, tests).
impl Replay for () {
    fn record(&mut self, _: Record<'_>) {}
}

impl<F: FnMut(Record<'_>)> Replay for F {
    fn record(&mut self, record: Record<'_>) {
        self(record);
    }
}

/// Bytes of a record's head: type u8, kind u8, zero u16, body length u32.
pub(crate) const HEAD_BYTES: usize = 8;
/// Bytes an entry takes beside its payload: head, group, term, index.
pub(crate) const ENTRY_HEAD_BYTES: usize = HEAD_BYTES + 24;

const TYPE_ENTRY: u8 = 1;
const TYPE_HARD_STATE: u8 = 2;
const TYPE_COMPACTED: u8 = 3;
const TYPE_REMOVED: u8 = 4;
const TYPE_RESTORED: u8 = 5;

/// Bytes an entry with this payload takes in a batch.
pub(crate) fn entry_bytes(payload: usize) -> usize {
    ENTRY_HEAD_BYTES + payload.next_multiple_of(8)
}

/// Append an entry: one small write for the head, one copy of the payload.
pub(crate) fn put_entry(
    out: &mut AlignedBuf,
    group: GroupId,
    term: u64,
    index: u64,
    kind: u8,
    payload: &[u8],
) {
    let mut head = [0; ENTRY_HEAD_BYTES];
    Fields::new(&mut head)
        .put([TYPE_ENTRY, kind, 0, 0])
        .u32(24 + payload.len() as u32)
        .u64(group)
        .u64(term)
        .u64(index);
    out.reserve(entry_bytes(payload.len()));
    out.extend(&head);
    out.extend(payload);
    out.extend(&[0; 7][..payload.len().next_multiple_of(8) - payload.len()]);
}

/// Append a record that is not an entry.
fn put_fields<const N: usize>(out: &mut AlignedBuf, kind: u8, fields: [u64; N]) {
    let mut bytes = [0; HEAD_BYTES + 32];
    let mut writer = Fields::new(&mut bytes)
        .put([kind, 0, 0, 0])
        .u32(8 * N as u32);
    for field in fields {
        writer = writer.u64(field);
    }
    out.extend(&bytes[..HEAD_BYTES + 8 * N]);
}

pub(crate) fn put_hard_state(out: &mut AlignedBuf, group: GroupId, hard: HardState) {
    put_fields(
        out,
        TYPE_HARD_STATE,
        [group, hard.term, hard.vote, hard.commit],
    );
}

pub(crate) fn put_compacted(out: &mut AlignedBuf, group: GroupId, index: u64, term: u64) {
    put_fields(out, TYPE_COMPACTED, [group, index, term]);
}

pub(crate) fn put_restored(out: &mut AlignedBuf, group: GroupId, index: u64, term: u64) {
    put_fields(out, TYPE_RESTORED, [group, index, term]);
}

pub(crate) fn put_removed(out: &mut AlignedBuf, group: GroupId) {
    put_fields(out, TYPE_REMOVED, [group]);
}

/// A group's term, vote and commit index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct HardState {
    pub(crate) term: u64,
    pub(crate) vote: u64,
    pub(crate) commit: u64,
}

/// Reads the records of a batch, in order. An `Err` is the last item.
pub(crate) struct Records<'a> {
    bytes: &'a [u8],
    left: u32,
}

impl<'a> Records<'a> {
    /// `bytes` is the record area of a batch (padding included), `count` what its header says.
    pub(crate) fn new(bytes: &'a [u8], count: u32) -> Self {
        Self { bytes, left: count }
    }

    fn take(&mut self) -> Result<Record<'a>, &'static str> {
        let (bytes, short) = (self.bytes, "record reaches past its batch");
        let &[kind, entry_kind, ..] = bytes else {
            return Err(short);
        };
        let body_bytes = u32_at(bytes, 4) as usize;
        let end = HEAD_BYTES.checked_add(body_bytes).ok_or(short)?;
        let body = bytes.get(HEAD_BYTES..end).ok_or(short)?;
        let field = |n: usize| u64_at(body, 8 * n);
        let record = match (kind, body_bytes) {
            (TYPE_ENTRY, 24..) => Record::Entry {
                group: field(0),
                term: field(1),
                index: field(2),
                kind: entry_kind,
                payload: &body[24..],
            },
            (TYPE_HARD_STATE, 32) => Record::HardState {
                group: field(0),
                term: field(1),
                vote: field(2),
                commit: field(3),
            },
            (TYPE_COMPACTED, 24) => Record::Compacted {
                group: field(0),
                index: field(1),
                term: field(2),
            },
            (TYPE_RESTORED, 24) => Record::Restored {
                group: field(0),
                index: field(1),
                term: field(2),
            },
            (TYPE_REMOVED, 8) => Record::Removed { group: field(0) },
            _ => return Err("record of unknown type or length"),
        };
        self.bytes = bytes.get(end.next_multiple_of(8)..).unwrap_or_default();
        Ok(record)
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, &'static str>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return None;
        }
        self.left -= 1;
        let item = self.take();
        if item.is_err() {
            self.left = 0;
        }
        Some(item)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_comes_back_in_order() {
        let mut out = AlignedBuf::with_capacity(0);
        for len in 0..20 {
            put_entry(&mut out, 7, 2, len as u64, 3, &vec![len as u8; len]);
        }
        put_hard_state(
            &mut out,
            7,
            HardState {
                term: 2,
                vote: 1,
                commit: 9,
            },
        );
        put_compacted(&mut out, 7, 4, 2);
        put_removed(&mut out, 8);
        assert_eq!(out.len() % 8, 0);
        let all: Vec<_> = Records::new(&out, 23).map(|r| r.expect("valid")).collect();
        for (len, record) in all[..20].iter().enumerate() {
            let payload = vec![len as u8; len];
            assert_eq!(
                *record,
                Record::Entry {
                    group: 7,
                    term: 2,
                    index: len as u64,
                    kind: 3,
                    payload: &payload
                }
            );
        }
        assert_eq!(
            all[20],
            Record::HardState {
                group: 7,
                term: 2,
                vote: 1,
                commit: 9
            }
        );
        assert_eq!(
            all[21],
            Record::Compacted {
                group: 7,
                index: 4,
                term: 2
            }
        );
        assert_eq!(all[22], Record::Removed { group: 8 });
        assert_eq!(
            Records::new(&out, 24).last(),
            Some(Err("record reaches past its batch"))
        );
    }

    #[test]
    fn any_bytes_end_in_records_or_an_error() {
        let mut bytes = vec![0u8; 64];
        for (at, value) in (0..64).flat_map(|at| [0, 1, 2, 24, 255].map(|v| (at, v))) {
            bytes[at] = value;
            assert!(Records::new(&bytes, 50).count() <= 50);
        }
        assert!(Records::new(&[], 1).next().is_some_and(|r| r.is_err()));
    }
}
