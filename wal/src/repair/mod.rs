//! Repair of a log: for `henge wal repair`.
//!
//! Three things, in this order, each only where there is need:
//! 1. A log that does not open, because of damage that no group can be named for, is made to open: what
//!    cannot be read gets a *bridge* over it, a lost segment header is made again. Every group that may
//!    have had entries there is damaged then (`recover/suspects.rs` says which); nothing that can be read
//!    is given up, and of what is taken away a copy is kept.
//! 2. What is there twice and was read from its other copy is made good again in both.
//! 3. Damaged groups are ended before their first lost entry: acknowledged entries are given up. Right only
//!    where no peer has them. Never in the same go as 1, so that what it costs can be seen before.
//!
//! [`plan`] says what would be done and changes nothing; [`apply`] does it. It can be interrupted anywhere
//! and begun again: files are replaced whole (`overlay.rs`), groups are ended by ordinary batches. Tested
//! with `tests/repair.rs` and `tests/bridge.rs`.

use std::path::{Path, PathBuf};

use crate::disk::thread::ThreadDisk;
use crate::disk::{Disk, LockError, Op, Output};
use crate::identity::{Birth, IDENTITY_NAME, LOCK_NAME, fault};
use crate::inspect::{Found, ReadOnly};
use crate::segment::{self, SegmentHeader};
use crate::{
    Damage, GroupId, Healed, Identity, Lsn, OpenError, OpenReport, Replay, WalError, recover,
};

mod copies;
mod fix;
mod give_up;
mod overlay;

use fix::Bridge;
use overlay::Overlay;

/// Obstacles that a repair takes out of the way; a log with more is not one that repair brings back.
const FIXES_MAX: usize = 256;

/// What repairing a group means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// The group.
    pub group: GroupId,
    /// Its last entry afterwards.
    pub keep: u64,
    /// Its last entry before: everything between is given up. [`Damage::NO_END`]: nobody knows it.
    pub last: u64,
}

/// A place that a bridge goes over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bridged {
    /// The segment file.
    pub file: PathBuf,
    /// Byte offset of the first batch that cannot be read.
    pub offset: u64,
    /// Bytes from there to where the log goes on.
    pub bytes: u64,
    /// First and last batch that are given up.
    pub batches: (Lsn, Lsn),
}

/// What a repair does, or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Batches that nobody can read are bridged.
    pub bridges: Vec<Bridged>,
    /// Segment headers that are made again.
    pub headers: Vec<PathBuf>,
    /// With bridges: the groups that may have lost something by them, or were damaged before. They are
    /// damaged afterwards: they serve, vote and campaign no more, until a second repair ends them.
    pub damaged: Vec<Damage>,
    /// With bridges: groups of which nothing else is in the log may have been there.
    pub nameless: bool,
    /// Copies that are made good again.
    pub mended: Vec<Healed>,
    /// Copies that stay damaged until their segment is purged: what they repeat is there once more.
    pub unmended: Vec<Healed>,
    /// Groups that are ended.
    pub steps: Vec<Step>,
}

impl Plan {
    /// There is nothing to repair.
    pub fn is_empty(&self) -> bool {
        !self.reopens() && self.mended.is_empty() && self.steps.is_empty()
    }

    /// It makes a log open that did not.
    pub fn reopens(&self) -> bool {
        !self.bridges.is_empty() || !self.headers.is_empty()
    }
}

/// Why a repair did not happen. The log is as it was.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RepairError {
    /// It does not open, and not because of damage that a bridge goes over.
    #[error("{0}")]
    Open(#[from] OpenError),
    /// It could not be written to.
    #[error("{0}")]
    Write(#[from] WalError),
}

/// What was done about an obstacle.
#[derive(Debug)]
enum Work {
    Bridge { file: PathBuf, bridge: Bridge },
    Header { file: PathBuf },
}

/// Replay the log in `dir` as far as it can be read, over what a repair would make of it; what that would be,
/// and what was found. Nothing is changed, no lock is taken. A lost IDENTITY is made up from the segments.
pub fn read(dir: &Path, replay: &mut dyn Replay) -> Result<(Plan, Found), RepairError> {
    let mut disk = ReadOnly::new(dir);
    let mut overlay = Overlay::new(&mut disk);
    let birth = match birth(&mut overlay, dir) {
        Ok(birth) => birth,
        Err(error) => foundling(&mut overlay)?.ok_or(error)?,
    };
    let plan = salvage(&mut overlay, &birth)?;
    let report = recover::judge(&mut overlay, birth.uuid, replay)?.report;
    let found = Found {
        identity: birth.identity,
        report,
    };
    Ok((plan, found))
}

/// Whose log it is, as its segments say.
fn foundling(disk: &mut dyn Disk) -> Result<Option<Birth>, OpenError> {
    let listed = disk.list().map_err(|e| fault(disk, "", "list", e))?;
    for info in listed.unwrap_or_default() {
        let Some(seq) = segment::seq_of(&info.name) else {
            continue;
        };
        let failed = |disk: &dyn Disk, e| fault(disk, &info.name, "read", e);
        let name = info.name.clone();
        let opened = disk.run(Op::Open { name }).map_err(|e| failed(disk, e))?;
        let Output::Opened { file, .. } = opened else {
            continue;
        };
        let op = Op::Read {
            file,
            offset: 0,
            bytes: segment::DATA_AT as usize,
        };
        let Output::Buf(blocks) = disk.run(op).map_err(|e| failed(disk, e))? else {
            continue;
        };
        if let segment::Found::Header { header, .. } = SegmentHeader::find(&blocks, seq) {
            return Ok(Some(Birth {
                identity: Identity {
                    cluster_id: header.cluster_id,
                    member_id: header.member_id,
                },
                uuid: header.uuid,
                birth_id: 0,
                created: false,
            }));
        }
    }
    Ok(None)
}

/// What a repair of the log in `dir` would do. Nothing is changed.
pub fn plan(dir: &Path) -> Result<Plan, RepairError> {
    let mut disk = ReadOnly::new(dir);
    let mut overlay = Overlay::new(&mut disk);
    let birth = birth(&mut overlay, dir)?;
    let mut plan = salvage(&mut overlay, &birth)?;
    if !plan.reopens() {
        plan.steps = give_up::plan(dir)?;
    }
    Ok(plan)
}

/// Repair the log in `dir`, which nobody else has open: as [`plan`] says.
pub fn apply(dir: &Path) -> Result<Plan, RepairError> {
    let mut plan = apply_on(&mut ThreadDisk::new(1), dir)?;
    if !plan.reopens() {
        plan.steps = give_up::apply(dir)?;
    }
    Ok(plan)
}

/// Make the log in `dir` open, and what is there twice good, on a disk of the caller's. No group is ended.
pub fn apply_on(disk: &mut dyn Disk, dir: &Path) -> Result<Plan, RepairError> {
    disk.attach(dir);
    let birth = birth(disk, dir)?;
    disk.lock().map_err(|e| match e {
        LockError::Held { holder } => OpenError::Locked {
            path: dir.join(LOCK_NAME),
            holder,
        },
        LockError::Io(e) => fault(disk, LOCK_NAME, "lock", e),
    })?;
    let mut overlay = Overlay::new(disk);
    let plan = salvage(&mut overlay, &birth)?;
    if !overlay.is_clean() {
        overlay.write()?;
    }
    Ok(plan)
}

fn birth(disk: &mut dyn Disk, dir: &Path) -> Result<Birth, OpenError> {
    let path = dir.join(IDENTITY_NAME);
    let name = IDENTITY_NAME.to_string();
    let loaded = disk.run(Op::Load { name });
    match loaded.map_err(|e| fault(disk, IDENTITY_NAME, "read", e))? {
        Output::Bytes(bytes) => Birth::decode(&bytes, &path),
        _ => Birth::decode(&[], &path),
    }
}

/// Take obstacles out of the way until the log opens; then see to what is there twice.
fn salvage(overlay: &mut Overlay<'_>, birth: &Birth) -> Result<Plan, OpenError> {
    let mut works: Vec<Work> = Vec::new();
    let report = loop {
        let error = match recover::judge(overlay, birth.uuid, &mut ()) {
            Ok(judged) => break judged.report,
            Err(error) => error,
        };
        let more = match works.len() < FIXES_MAX {
            true => fix::fix(overlay, birth, &error)?,
            false => vec![],
        };
        if more.is_empty() {
            return Err(error);
        }
        works.extend(more);
    };
    let mut plan = Plan::default();
    let open = works.is_empty();
    for work in works {
        match work {
            Work::Header { file } => plan.headers.push(file),
            Work::Bridge { file, bridge } => {
                // What is known of the groups now is all that bears witness.
                bridge.lay(overlay, report.last_lsn);
                plan.bridges.push(Bridged {
                    file,
                    offset: bridge.header.offset,
                    bytes: bridge.bytes,
                    batches: (bridge.header.lsn, bridge.header.until),
                });
            }
        }
    }
    let OpenReport {
        damaged,
        nameless,
        healed,
        ..
    } = report;
    if !open {
        plan.damaged = damaged;
        plan.nameless = nameless.is_some();
    }
    (plan.mended, plan.unmended) = copies::mend(overlay, birth, healed)?;
    Ok(plan)
}
