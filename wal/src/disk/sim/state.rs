//! The simulated machine's state: files, names, what is in flight, and what a crash leaves of it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::task::Waker;

use super::faults::{Chances, Struck};
use super::loose::Loose;
use super::{Fault, Keep, SECTOR_BYTES};
use crate::disk::{FileId, FileInfo, Op, Output, Token};
use crate::identity::CUT_DIR;

/// No file is larger.
const FILE_BYTES_MAX: u64 = 1 << 32;

pub(super) type Inode = u64;

#[derive(Debug)]
pub(super) struct Pending {
    pub(super) token: Token,
    /// The disk it was given to.
    pub(super) by: u64,
    pub(super) op: Op,
    /// Completes at this step or later.
    pub(super) due: u64,
}

#[derive(Debug, Default)]
pub(super) struct State {
    /// The directory was made.
    pub(super) exists: bool,
    pub(super) locked: bool,
    /// Which life of the machine: a disk of an earlier one is dead.
    pub(super) life: u64,
    pub(super) inodes: BTreeMap<Inode, Vec<u8>>,
    pub(super) names: BTreeMap<String, Inode>,
    /// What a crash goes back to, per folder: one map per change since that folder was synced.
    pub(super) old_names: BTreeMap<String, Vec<BTreeMap<String, Inode>>>,
    pub(super) open: BTreeMap<FileId, Inode>,
    /// Those of [`Op::Create`], and what of them is not durable.
    pub(super) loose_open: BTreeSet<FileId>,
    pub(super) loose: BTreeMap<Inode, Loose>,
    pub(super) next_id: u64,
    pub(super) pending: Vec<Pending>,
    pub(super) now: u64,
    pub(super) latency_max: u64,
    pub(super) manual: bool,
    pub(super) dice: Dice,
    pub(super) ops: u64,
    pub(super) fault: Option<(u64, Fault)>,
    pub(super) crashed_at: bool,
    pub(super) capacity: Option<u64>,
    /// What it says of its room: bytes free, and largest file. Nothing: it says nothing.
    pub(super) room: Option<(u64, u64)>,
    pub(super) direct: bool,
    pub(super) disks: u64,
    pub(super) waker: Option<Waker>,
    pub(super) chances: Chances,
    /// Their own, so that the same life without faults takes the same course.
    pub(super) fault_dice: Dice,
    pub(super) struck: Struck,
    /// Sectors that cannot be read: a device's grown defects.
    pub(super) unreadable: BTreeSet<(Inode, usize)>,
    /// What completed writes replaced, since the disk began to lie: a crash may undo them.
    pub(super) undo: Vec<(Inode, usize, Vec<u8>)>,
}

/// splitmix64 (Vigna): small, seedable, and good enough to place faults.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, n: u64) -> u64 {
        if n == 0 { 0 } else { self.roll() % n }
    }
}

/// The folder whose sync makes a name durable. What is cut off is stored with its folder.
pub(super) fn folder_of(name: &str) -> &str {
    match name.rsplit_once('/') {
        Some((folder, _)) if folder != CUT_DIR => folder,
        _ => "",
    }
}

impl State {
    pub(super) fn new_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// A name is about to change.
    pub(super) fn renaming(&mut self, name: &str) {
        let folder = self.old_names.entry(folder_of(name).into()).or_default();
        folder.push(self.names.clone());
    }

    /// A folder's names become those it had at some time.
    pub(super) fn go_back(&mut self, folder: &str, then: &BTreeMap<String, Inode>) {
        self.names.retain(|name, _| folder_of(name) != folder);
        let old = then.iter().filter(|(name, _)| folder_of(name) == folder);
        self.names
            .extend(old.map(|(name, inode)| (name.clone(), *inode)));
    }

    pub(super) fn store(&mut self, name: &str, bytes: Vec<u8>) {
        let inode = self.new_id();
        self.inodes.insert(inode, bytes);
        self.renaming(name);
        self.names.insert(name.into(), inode);
    }

    pub(super) fn used(&self) -> u64 {
        let linked = self
            .names
            .values()
            .filter_map(|inode| self.inodes.get(inode));
        linked.map(|bytes| bytes.len() as u64).sum()
    }

    pub(super) fn has_room(&self, name: &str, bytes: u64) -> bool {
        let old = self
            .names
            .get(name)
            .and_then(|inode| self.inodes.get(inode));
        let old = old.map_or(0, |bytes| bytes.len() as u64);
        let fits = |max| self.used() - old + bytes <= max;
        bytes <= FILE_BYTES_MAX && self.capacity.is_none_or(fits)
    }

    /// Count an operation; the fault that hits it, if one does.
    pub(super) fn begin(&mut self) -> Option<Fault> {
        let n = self.ops;
        self.ops += 1;
        let (at, fault) = self.fault?;
        match fault {
            Fault::ErrorForEver(_) if n >= at => Some(fault),
            _ if n == at => Some(fault),
            _ => None,
        }
    }

    pub(super) fn apply(&mut self, op: Op) -> io::Result<Output> {
        if let Some(error) = self.refuses(&op) {
            return Err(error);
        }
        match op {
            Op::Zero { name, bytes, .. } => {
                if !self.has_room(&name, bytes) {
                    return Err(io::Error::from_raw_os_error(libc::ENOSPC));
                }
                self.store(&name, vec![0; bytes as usize]);
            }
            Op::Store { name, bytes } => {
                if !self.has_room(&name, bytes.len() as u64) {
                    return Err(io::Error::from_raw_os_error(libc::ENOSPC));
                }
                self.store(&name, bytes);
            }
            Op::Rename { from, to } => {
                let inode = *self.names.get(&from).ok_or(io::ErrorKind::NotFound)?;
                self.renaming(&to);
                self.names.remove(&from);
                self.names.insert(to, inode);
            }
            Op::Remove { name } => {
                self.renaming(&name);
                self.names.remove(&name).ok_or(io::ErrorKind::NotFound)?;
            }
            Op::SyncDir => {
                self.old_names.remove("");
            }
            Op::Open { name } => return self.opened(&name),
            Op::Close { file } => {
                self.open.remove(&file);
                self.loose_open.remove(&file);
            }
            Op::MakeFolder { .. } => {}
            Op::List { folder } => return Ok(Output::Files(self.folder(&folder))),
            Op::SyncFolder { folder } => {
                self.old_names.remove(&folder);
            }
            Op::Create { name, room } => return self.create(&name, room),
            Op::Sync { file, bytes } => self.sync(file, bytes)?,
            Op::Write { file, offset, buf } => return self.complete_write(file, offset, buf),
            Op::Read {
                file,
                offset,
                bytes,
            } => return self.complete_read(file, offset, bytes),
            Op::Load { name } => {
                let inode = self.names.get(&name).ok_or(io::ErrorKind::NotFound)?;
                return Ok(Output::Bytes(
                    self.inodes.get(inode).cloned().unwrap_or_default(),
                ));
            }
        }
        Ok(Output::Done)
    }

    pub(super) fn opened(&mut self, name: &str) -> io::Result<Output> {
        let inode = *self.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        let bytes = self.inodes.get(&inode).map_or(0, |b| b.len() as u64);
        let file = self.new_id() as FileId;
        self.open.insert(file, inode);
        Ok(Output::Opened { file, bytes })
    }

    /// The files of a folder.
    fn folder(&self, folder: &str) -> Vec<FileInfo> {
        let here = self.names.iter().filter_map(|(name, inode)| {
            let name = name.strip_prefix(folder)?.strip_prefix('/')?;
            Some(FileInfo {
                name: name.into(),
                bytes: self.inodes.get(inode).map_or(0, |b| b.len() as u64),
                is_dir: false,
            })
        });
        here.collect()
    }

    pub(super) fn data(&mut self, file: FileId) -> io::Result<&mut Vec<u8>> {
        let inode = self.open.get(&file).ok_or(io::ErrorKind::NotFound)?;
        self.inodes
            .get_mut(inode)
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    pub(super) fn write(
        &mut self,
        file: FileId,
        offset: u64,
        buf: &[u8],
        mut keep: impl FnMut(usize) -> bool,
    ) -> io::Result<()> {
        let aligned = |n: usize| n.is_multiple_of(crate::BLOCK_BYTES);
        if !aligned(offset as usize) || !aligned(buf.len()) || !aligned(buf.as_ptr() as usize) {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let data = self.data(file)?;
        let at = offset as usize;
        let place = data.get_mut(at..at + buf.len());
        // Growing a file would be a change of metadata: the log never writes past a segment's end.
        let place = place.ok_or_else(|| io::Error::from_raw_os_error(libc::EFBIG))?;
        let sectors = place.chunks_mut(SECTOR_BYTES).zip(buf.chunks(SECTOR_BYTES));
        for (n, (to, from)) in sectors.enumerate() {
            if keep(n) {
                to.copy_from_slice(from);
            }
        }
        Ok(())
    }

    pub(super) fn crash(&mut self, keep: &Keep<'_>) {
        let mut dice = match keep {
            Keep::Seeded(seed) => Dice(*seed),
            _ => self.dice,
        };
        self.undo_lies();
        self.forget_unsynced(keep, &mut dice);
        let mut sector = 0;
        for pending in std::mem::take(&mut self.pending) {
            self.tear(pending.op, keep, &mut dice, &mut sector);
        }
        // Each folder's journal keeps a prefix of its changes.
        for (folder, changes) in std::mem::take(&mut self.old_names) {
            let kept = match keep {
                Keep::Nothing => 0,
                Keep::Everything => changes.len() as u64,
                _ => dice.below(changes.len() as u64 + 1),
            };
            if let Some(then) = changes.get(kept as usize) {
                self.go_back(&folder, then);
            }
        }
        self.open.clear();
        self.loose_open.clear();
        self.locked = false;
        self.crashed_at = false;
        self.life += 1;
        self.fault = None;
        self.waker = None;
        let linked: BTreeSet<_> = self.names.values().copied().collect();
        self.inodes.retain(|inode, _| linked.contains(inode));
    }

    /// What a crash leaves of one operation in flight.
    pub(super) fn tear(&mut self, op: Op, keep: &Keep<'_>, dice: &mut Dice, sector: &mut usize) {
        let mut keeps = |dice: &mut Dice| {
            *sector += 1;
            match keep {
                Keep::Nothing => false,
                Keep::Everything => true,
                Keep::Seeded(_) => dice.below(2) == 0,
                Keep::Sectors(f) => f(*sector - 1),
            }
        };
        // An operation that could not have been done (a closed file) leaves nothing either.
        let _ = match op {
            Op::Write { file, offset, buf } => {
                let end = offset + buf.len() as u64;
                let grown = self.grow(file, end);
                grown.and_then(|()| self.write(file, offset, &buf, |_| keeps(dice)))
            }
            Op::Store { name, mut bytes } if !matches!(keep, Keep::Nothing) => {
                let kept = dice.below(bytes.len() as u64 + 1);
                bytes.truncate(kept as usize);
                self.store(&name, bytes);
                Ok(())
            }
            Op::Zero { name, bytes, .. } if !matches!(keep, Keep::Nothing) => {
                let kept = dice.below(bytes / 4096 + 1) * 4096;
                self.store(&name, vec![0; kept as usize]);
                Ok(())
            }
            named @ (Op::Rename { .. } | Op::Remove { .. } | Op::Create { .. })
                if !matches!(keep, Keep::Nothing) && dice.below(2) == 0 =>
            {
                self.apply(named).map(drop)
            }
            _ => Ok(()),
        };
    }

    /// The next operation of a disk that completes at this step, the earliest due first.
    pub(super) fn due(&mut self, by: u64) -> Option<Pending> {
        self.now += 1;
        let now = if self.manual { 0 } else { self.now };
        // A file is forgotten when everything before that is done.
        let busy = |(at, close): &(usize, &Pending)| {
            let Op::Close { file: closed } = close.op else {
                return false;
            };
            self.pending[..*at].iter().any(|p| match p.op {
                Op::Write { file, .. } | Op::Read { file, .. } | Op::Sync { file, .. } => {
                    file == closed
                }
                _ => false,
            })
        };
        let ready = |p: &(usize, &Pending)| p.1.by == by && p.1.due <= now && !busy(p);
        let next = self
            .pending
            .iter()
            .enumerate()
            .filter(ready)
            .min_by_key(|(_, p)| p.due);
        next.map(|(at, _)| at).map(|at| self.pending.remove(at))
    }
}
