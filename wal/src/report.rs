//! What the log tells about itself: how it was opened, and its running figures.

use std::path::PathBuf;

use crate::{GroupId, Lsn, Shortage};

/// How an open went: what was replayed and what was cut.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpenReport {
    /// The directory was empty or new: this log was just born.
    pub created: bool,
    /// Random id of this log, written into every block of it.
    pub log_uuid: u128,
    /// Random id of this birth of the member: a wiped and re-created member has another one.
    pub birth_id: u64,
    /// Name of the disk in use (`tokio-uring`, `thread`, `sim`).
    pub backend: &'static str,
    /// `O_DIRECT` is in use; `false` means write + fdatasync through the page cache (worth one
    /// line in the log: slower, and rot in the page cache is not seen).
    pub direct_io: bool,
    /// Bytes of the log's smallest and largest segments from here on, as the options and the room there
    /// is have it.
    pub segment_bytes: (u64, u64),
    /// Segments with batches.
    pub segments: usize,
    /// Batches replayed.
    pub batches: u64,
    /// Records replayed (entries, hard states, compactions).
    pub records: u64,
    /// Bytes of log replayed.
    pub bytes: u64,
    /// The last batch of the log; 0 if it has none.
    pub last_lsn: Lsn,
    /// Highest batch known to have been acknowledged; damage above it could not be told from a tail
    /// that was never finished.
    pub durable_lsn: Lsn,
    /// The torn tail that was cut, if there was one.
    pub cut: Option<Cut>,
    /// Damage that cost nothing, because what was damaged is there twice.
    pub healed: Vec<Healed>,
    /// Acknowledged entries that cannot be read. Their groups must not serve, vote or campaign; the
    /// others are whole.
    pub damaged: Vec<Damage>,
    /// Where a repair put a bridge over batches of which nothing can be known, not even which groups
    /// began in them: a group of which the log knows nothing may have been here, and is then damaged
    /// as a whole.
    pub nameless: Option<Damage>,
}

/// Damage that cost nothing: what cannot be read here was read elsewhere. It costs something as soon as the
/// other place is hit as well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Healed {
    /// The segment file.
    pub file: PathBuf,
    /// Byte offset of what is damaged, or of the batch that it is a part of.
    pub offset: u64,
    /// What is damaged: `header of batch 7`.
    pub what: String,
    /// A repair can write it again; else it goes with its segment.
    pub mendable: bool,
}

impl std::fmt::Display for Healed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (file, offset) = (self.file.display(), self.offset);
        write!(f, "{file} offset {offset}: {}", self.what)
    }
}

/// A hole in a group's log: acknowledged entries that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The group.
    pub group: GroupId,
    /// First lost index.
    pub first: u64,
    /// Last lost index; [`Damage::NO_END`] where nobody knows how many there were.
    pub last: u64,
    /// The segment file.
    pub file: PathBuf,
    /// Byte offset of the damaged batch.
    pub offset: u64,
    /// The damaged batch.
    pub lsn: Lsn,
}

impl Damage {
    /// As the last lost index: from the first one on, and nobody knows how many.
    pub const NO_END: u64 = 1 << 62;
}

impl std::fmt::Display for Damage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (file, offset) = (self.file.display(), self.offset);
        write!(f, "group {} lost entries ", self.group)?;
        match self.last {
            last if last >= Self::NO_END => write!(f, "from {} on", self.first)?,
            last => write!(f, "{}..={last}", self.first)?,
        }
        write!(f, ": {file} offset {offset}, batch {}", self.lsn)
    }
}

/// A torn tail: written but never acknowledged, and therefore removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The segment file.
    pub file: PathBuf,
    /// Byte offset of the first batch that was cut.
    pub offset: u64,
    /// Bytes from there to the last thing seen.
    pub bytes: u64,
    /// The first batch number that was cut.
    pub lsn: Lsn,
    /// Copy of what was cut; the segment file itself where there was no room for one.
    pub kept: PathBuf,
}

/// Running figures of a log, since it was opened. Latencies are the caller's: it has the clock.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Batches written and acknowledged.
    pub batches: u64,
    /// Bytes written in batches, padding included.
    pub bytes: u64,
    /// Bytes of entry payloads in them.
    pub payload_bytes: u64,
    /// Entries in them.
    pub entries: u64,
    /// Writes in flight now.
    pub in_flight: usize,
    /// Bytes staged and not yet submitted.
    pub staged_bytes: usize,
    /// Segments holding log.
    pub segments: usize,
    /// Segments ready for use.
    pub ready_segments: usize,
    /// Segments recycled rather than made new.
    pub recycled: u64,
    /// Entries written again so that old segments could go.
    pub rewritten: u64,
    /// The last batch submitted.
    pub submitted_lsn: Lsn,
    /// The last batch acknowledged.
    pub durable_lsn: Lsn,
    /// Oldest segment that is still needed.
    pub low_seq: u64,
    /// Name of the disk in use.
    pub backend: &'static str,
    /// `O_DIRECT` is in use.
    pub direct_io: bool,
    /// A write failed: see [`crate::WalError::Poisoned`].
    pub poisoned: bool,
    /// No new segment can be made for lack of something.
    pub space_low: bool,
    /// Of what.
    pub shortage: Option<Shortage>,
    /// Memory that it takes to know where entries lie, in bytes: 96 for each group and segment with
    /// entries of it, and 16 for each stretch of a segment (at most 640 KiB per segment).
    pub index_bytes: usize,
    /// Damage that cost nothing ([`Healed`]): found when the log was opened, and by the scrubber since.
    pub healed: u64,
}
