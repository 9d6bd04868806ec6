//! What checkpoints do to a disk, operation by operation: what a power cut can hit, and what is counted of
//! it.
//!
//! Must never know: what is in a checkpoint; it looks at names.

use henge_wal::disk::Op;

/// The folder of checkpoints, as logs name it.
const FOLDER: &str = "../";

/// A kind of operation of a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The folder is made.
    MakeFolder,
    /// It is listed.
    List,
    /// What is needless is removed.
    Remove,
    /// Room is taken, for a checkpoint or the reserve.
    Create,
    /// A piece is written.
    Write,
    /// All of it is made durable.
    Sync,
    /// The file is closed.
    Close,
    /// It gets its name, or the reserve another.
    Rename,
    /// The name is made durable.
    SyncFolder,
}

/// All of them.
pub const KINDS: [Kind; 9] = [
    Kind::MakeFolder,
    Kind::List,
    Kind::Remove,
    Kind::Create,
    Kind::Write,
    Kind::Sync,
    Kind::Close,
    Kind::Rename,
    Kind::SyncFolder,
];

/// As they are printed.
pub const NAMES: [&str; 9] = [
    "make_folder",
    "list",
    "remove",
    "create",
    "write",
    "sync",
    "close",
    "rename",
    "sync_folder",
];

/// Which one an operation is, if it is one; `is_loose`: whether a file is a checkpoint's.
pub fn kind(op: &Op, is_loose: impl Fn(u32) -> bool) -> Option<Kind> {
    let here = |name: &str, kind| name.starts_with(FOLDER).then_some(kind);
    match op {
        Op::MakeFolder { folder } => here(folder, Kind::MakeFolder),
        Op::List { folder } => here(folder, Kind::List),
        Op::SyncFolder { folder } => here(folder, Kind::SyncFolder),
        Op::Remove { name } => here(name, Kind::Remove),
        Op::Create { name, .. } => here(name, Kind::Create),
        Op::Rename { to, .. } => here(to, Kind::Rename),
        Op::Write { file, .. } => is_loose(*file).then_some(Kind::Write),
        Op::Sync { file, .. } => is_loose(*file).then_some(Kind::Sync),
        Op::Close { file } => is_loose(*file).then_some(Kind::Close),
        _ => None,
    }
}

/// Whether it begins a checkpoint.
pub fn begins(op: &Op) -> bool {
    matches!(op, Op::Create { name, room } if *room > 0 && name.ends_with(".tmp"))
}

/// Whether it is what becomes of a segment that was let go: another one, or nothing.
pub fn purges(op: &Op) -> bool {
    match op {
        Op::Rename { from: name, .. } | Op::Remove { name } => name.ends_with(".seg"),
        _ => false,
    }
}

/// What a disk has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Checkpoints begun.
    pub checkpoints: u64,
    /// Segments that were let go and used again, or removed.
    pub purged: u64,
    /// Power cuts in the middle of each kind of operation.
    pub cuts: [u64; KINDS.len()],
}

impl Tally {
    /// Adds another one's.
    pub fn add(&mut self, other: &Tally) {
        self.checkpoints += other.checkpoints;
        self.purged += other.purged;
        for (sum, more) in self.cuts.iter_mut().zip(other.cuts) {
            *sum += more;
        }
    }
}
