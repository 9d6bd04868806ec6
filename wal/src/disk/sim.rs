//! A disk in memory, for tests and the simulator: deterministic, seeded, and as unkind as a real one.
//!
//! The fault model. An operation takes effect when it completes; a crash leaves of the writes in
//! flight any subset of their 512-byte sectors, of renames and removals since the last directory
//! sync a prefix, of completed writes everything (the log's disks write synchronously). Completions
//! come in any order. The n-th operation can fail, once or from then on; space can run out; bytes
//! can rot. A crashed [`SimDisk`] is dead: it fails everything and completes nothing, as a killed
//! process's would; the [`SimHandle`] gives a new one.
//!
//! Same seed and same calls, same outcome: no clock, no threads, no global state.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use super::{
    AlignedBuf, Completion, Disk, DiskInfo, FileId, FileInfo, LockError, Op, Output, Token,
};

/// The unit a crash tears.
pub const SECTOR_BYTES: usize = 512;

/// What a crash leaves of the writes in flight, sector by sector in order of submission.
pub enum Keep<'a> {
    /// None of them arrived.
    Nothing,
    /// All of them arrived.
    Everything,
    /// Each as the seed's dice say.
    Seeded(u64),
    /// As the function says of the n-th sector in flight.
    Sectors(&'a dyn Fn(usize) -> bool),
}

/// A fault to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The operation fails with this `errno`, and nothing of it happens.
    Error(i32),
    /// As `Error`, and so does every later one.
    ErrorForEver(i32),
    /// The machine stops here: the operation happens in part, everything after it not at all.
    Crash,
}

type Inode = u64;

#[derive(Debug)]
struct Pending {
    token: Token,
    op: Op,
    /// Completes at this step or later.
    due: u64,
}

#[derive(Debug, Default)]
struct State {
    /// The directory was made.
    exists: bool,
    locked: bool,
    /// Which life of the machine: a disk of an earlier one is dead.
    life: u64,
    inodes: BTreeMap<Inode, Vec<u8>>,
    names: BTreeMap<String, Inode>,
    /// What a crash goes back to, one map per change since the last directory sync.
    old_names: Vec<BTreeMap<String, Inode>>,
    open: BTreeMap<FileId, Inode>,
    next_id: u64,
    pending: Vec<Pending>,
    now: u64,
    latency_max: u64,
    manual: bool,
    dice: Dice,
    ops: u64,
    fault: Option<(u64, Fault)>,
    crashed_at: bool,
    capacity: Option<u64>,
    direct: bool,
    waker: Option<Waker>,
}

/// splitmix64 (Vigna): small, seedable, and good enough to place faults.
#[derive(Clone, Copy, Debug, Default)]
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        if n == 0 { 0 } else { self.roll() % n }
    }
}

/// The test's hand on a simulated machine: outlives its disks.
#[derive(Clone)]
pub struct SimHandle(Arc<Mutex<State>>);

/// One life of the simulated disk, as the log owns it.
pub struct SimDisk {
    state: Arc<Mutex<State>>,
    life: u64,
    dir: PathBuf,
    /// It took the lock: the operations in flight are its own.
    owner: bool,
}

impl SimHandle {
    /// An empty machine. Operations take 1 to `latency_max` steps; a step is one call to `poll`.
    pub fn new(seed: u64, latency_max: u64) -> Self {
        let state = State {
            dice: Dice(seed),
            latency_max,
            direct: true,
            ..State::default()
        };
        Self(Arc::new(Mutex::new(state)))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The disk of the present life, for one log.
    pub fn disk(&self) -> SimDisk {
        SimDisk {
            state: self.0.clone(),
            life: self.state().life,
            dir: PathBuf::from("sim"),
            owner: false,
        }
    }

    /// Stop the machine: what was in flight is kept in part, the disk handed out is dead.
    pub fn crash(&self, keep: &Keep<'_>) {
        self.state().crash(keep);
    }

    /// Sectors of writes in flight: what [`Keep::Sectors`] is asked about.
    pub fn sectors_in_flight(&self) -> usize {
        let state = self.state();
        let writes = state.pending.iter().filter_map(|p| match &p.op {
            Op::Write { buf, .. } => Some(buf.len().div_ceil(SECTOR_BYTES)),
            _ => None,
        });
        writes.sum()
    }

    /// Operations in flight.
    pub fn pending(&self) -> usize {
        self.state().pending.len()
    }

    /// Complete operations only when [`SimHandle::release`] says so (a simulator with its own time).
    pub fn set_manual(&self, manual: bool) {
        self.state().manual = manual;
    }

    /// Let the `n`-th operation in flight complete now.
    pub fn release(&self, n: usize) {
        let mut state = self.state();
        if let Some(pending) = state.pending.get_mut(n) {
            pending.due = 0;
        }
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
    }

    /// Operations begun so far.
    pub fn ops(&self) -> u64 {
        self.state().ops
    }

    /// Let the `n`-th operation from now fail (0: the next one).
    pub fn fail(&self, n: u64, fault: Fault) {
        let mut state = self.state();
        state.fault = Some((state.ops + n, fault));
    }

    /// No more faults.
    pub fn heal(&self) {
        self.state().fault = None;
    }

    /// The machine stopped by [`Fault::Crash`] since the last [`SimHandle::crash`].
    pub fn is_crashed(&self) -> bool {
        self.state().crashed_at
    }

    /// Bytes all files together may take; `None`: no limit.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state().capacity = bytes;
    }

    /// The disk claims to bypass the page cache, or not.
    pub fn set_direct(&self, direct: bool) {
        self.state().direct = direct;
    }

    /// The names of all files.
    pub fn names(&self) -> Vec<String> {
        self.state().names.keys().cloned().collect()
    }

    /// The bytes of a file.
    pub fn file(&self, name: &str) -> Option<Vec<u8>> {
        let state = self.state();
        state.inodes.get(state.names.get(name)?).cloned()
    }

    /// Replace the bytes of a file, or remove it.
    pub fn set_file(&self, name: &str, bytes: Option<Vec<u8>>) {
        let mut state = self.state();
        match bytes {
            Some(bytes) => state.store(name, bytes),
            None => {
                state.names.remove(name);
            }
        }
        state.exists = true;
        state.old_names.clear();
    }

    /// A copy of the whole machine as a crash that keeps nothing would leave it.
    pub fn fork(&self, seed: u64) -> Self {
        let state = self.state();
        let names = state.old_names.first().unwrap_or(&state.names).clone();
        let copy = State {
            exists: state.exists,
            inodes: state.inodes.clone(),
            names,
            next_id: state.next_id,
            latency_max: state.latency_max,
            direct: state.direct,
            dice: Dice(seed),
            ..State::default()
        };
        Self(Arc::new(Mutex::new(copy)))
    }
}

impl State {
    fn new_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// A name is about to change.
    fn renaming(&mut self) {
        self.old_names.push(self.names.clone());
    }

    fn store(&mut self, name: &str, bytes: Vec<u8>) {
        let inode = self.new_id();
        self.inodes.insert(inode, bytes);
        self.renaming();
        self.names.insert(name.into(), inode);
    }

    fn used(&self) -> u64 {
        let linked = self
            .names
            .values()
            .filter_map(|inode| self.inodes.get(inode));
        linked.map(|bytes| bytes.len() as u64).sum()
    }

    fn has_room(&self, name: &str, bytes: u64) -> bool {
        let old = self
            .names
            .get(name)
            .and_then(|inode| self.inodes.get(inode));
        let old = old.map_or(0, |bytes| bytes.len() as u64);
        self.capacity
            .is_none_or(|max| self.used() - old + bytes <= max)
    }

    /// Count an operation; the fault that hits it, if one does.
    fn begin(&mut self) -> Option<Fault> {
        let n = self.ops;
        self.ops += 1;
        let (at, fault) = self.fault?;
        match fault {
            Fault::ErrorForEver(_) if n >= at => Some(fault),
            _ if n == at => Some(fault),
            _ => None,
        }
    }

    fn apply(&mut self, op: Op) -> io::Result<Output> {
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
                self.renaming();
                self.names.remove(&from);
                self.names.insert(to, inode);
            }
            Op::Remove { name } => {
                self.renaming();
                self.names.remove(&name).ok_or(io::ErrorKind::NotFound)?;
            }
            Op::SyncDir => self.old_names.clear(),
            Op::Open { name } => {
                let inode = *self.names.get(&name).ok_or(io::ErrorKind::NotFound)?;
                let bytes = self.inodes.get(&inode).map_or(0, |b| b.len() as u64);
                let file = self.new_id() as FileId;
                self.open.insert(file, inode);
                return Ok(Output::Opened { file, bytes });
            }
            Op::Close { file } => {
                self.open.remove(&file);
            }
            Op::Write { file, offset, buf } => {
                self.write(file, offset, &buf, |_| true)?;
                return Ok(Output::Buf(buf));
            }
            Op::Read {
                file,
                offset,
                bytes,
            } => {
                let data = self.data(file)?;
                let from = (offset as usize).min(data.len());
                let mut buf = AlignedBuf::with_capacity(bytes);
                buf.extend(&data[from..(from + bytes).min(data.len())]);
                return Ok(Output::Buf(buf));
            }
            Op::Load { name } => {
                let inode = self.names.get(&name).ok_or(io::ErrorKind::NotFound)?;
                return Ok(Output::Bytes(
                    self.inodes.get(inode).cloned().unwrap_or_default(),
                ));
            }
        }
        Ok(Output::Done)
    }

    fn data(&mut self, file: FileId) -> io::Result<&mut Vec<u8>> {
        let inode = self.open.get(&file).ok_or(io::ErrorKind::NotFound)?;
        self.inodes
            .get_mut(inode)
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn write(
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

    fn crash(&mut self, keep: &Keep<'_>) {
        let mut dice = match keep {
            Keep::Seeded(seed) => Dice(*seed),
            _ => self.dice,
        };
        let mut sector = 0;
        for pending in std::mem::take(&mut self.pending) {
            self.tear(pending.op, keep, &mut dice, &mut sector);
        }
        // The directory's journal keeps a prefix of its changes.
        let kept = match keep {
            Keep::Nothing => 0,
            Keep::Everything => self.old_names.len() as u64,
            _ => dice.below(self.old_names.len() as u64 + 1),
        };
        if let Some(names) = self.old_names.get(kept as usize) {
            self.names = names.clone();
        }
        self.old_names.clear();
        self.open.clear();
        self.locked = false;
        self.crashed_at = false;
        self.life += 1;
        self.fault = None;
        self.waker = None;
        let linked: std::collections::BTreeSet<_> = self.names.values().copied().collect();
        self.inodes.retain(|inode, _| linked.contains(inode));
    }

    /// What a crash leaves of one operation in flight.
    fn tear(&mut self, op: Op, keep: &Keep<'_>, dice: &mut Dice, sector: &mut usize) {
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
            Op::Write { file, offset, buf } => self.write(file, offset, &buf, |_| keeps(dice)),
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
            named @ (Op::Rename { .. } | Op::Remove { .. })
                if !matches!(keep, Keep::Nothing) && dice.below(2) == 0 =>
            {
                self.apply(named).map(drop)
            }
            _ => Ok(()),
        };
    }

    /// The next operation that completes at this step, the earliest due first.
    fn due(&mut self) -> Option<Pending> {
        self.now += 1;
        let now = if self.manual { 0 } else { self.now };
        let ready = |p: &(usize, &Pending)| p.1.due <= now;
        let next = self
            .pending
            .iter()
            .enumerate()
            .filter(ready)
            .min_by_key(|(_, p)| p.due);
        next.map(|(at, _)| at).map(|at| self.pending.remove(at))
    }
}

fn dead() -> io::Error {
    io::Error::other("the simulated machine has stopped")
}

impl SimDisk {
    fn state(&self) -> Option<MutexGuard<'_, State>> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        (state.life == self.life && !state.crashed_at).then_some(state)
    }
}

impl Drop for SimDisk {
    fn drop(&mut self) {
        if !self.owner {
            return; // refused: what is in flight is another's
        }
        if let Some(mut state) = self.state() {
            // As a process that ends: what is in flight completes, the lock is let go.
            for pending in std::mem::take(&mut state.pending) {
                let _ = state.apply(pending.op);
            }
            state.locked = false;
            state.open.clear();
        }
    }
}

impl Disk for SimDisk {
    fn info(&self) -> DiskInfo {
        DiskInfo {
            backend: "sim",
            direct_io: self.state().is_none_or(|s| s.direct),
        }
    }

    fn attach(&mut self, dir: &Path) {
        self.dir = dir.to_path_buf();
    }

    fn path(&self) -> &Path {
        &self.dir
    }

    fn list(&mut self) -> io::Result<Option<Vec<FileInfo>>> {
        let state = self.state().ok_or_else(dead)?;
        if !state.exists {
            return Ok(None);
        }
        let info = |(name, inode): (&String, &Inode)| FileInfo {
            name: name.split('/').next().unwrap_or(name).into(),
            bytes: state.inodes.get(inode).map_or(0, |b| b.len() as u64),
            is_dir: name.contains('/'),
        };
        let mut files: Vec<_> = state.names.iter().map(info).collect();
        files.dedup_by(|a, b| a.name == b.name);
        Ok(Some(files))
    }

    fn make(&mut self) -> io::Result<()> {
        self.state().ok_or_else(dead)?.exists = true;
        Ok(())
    }

    fn lock(&mut self) -> Result<(), LockError> {
        let mut state = self.state().ok_or_else(|| LockError::Io(dead()))?;
        if std::mem::replace(&mut state.locked, true) {
            return Err(LockError::Held {
                holder: "the simulator".into(),
            });
        }
        drop(state);
        self.owner = true;
        Ok(())
    }

    fn entropy(&mut self) -> io::Result<[u8; 32]> {
        let mut state = self.state().ok_or_else(dead)?;
        let mut random = [0; 32];
        for chunk in random.chunks_exact_mut(8) {
            chunk.copy_from_slice(&state.dice.roll().to_le_bytes());
        }
        Ok(random)
    }

    fn run(&mut self, op: Op) -> io::Result<Output> {
        let mut state = self.state().ok_or_else(dead)?;
        match state.begin() {
            None => state.apply(op),
            Some(Fault::Error(code) | Fault::ErrorForEver(code)) => {
                Err(io::Error::from_raw_os_error(code))
            }
            Some(Fault::Crash) => {
                state.pending.push(Pending {
                    token: 0,
                    op,
                    due: u64::MAX,
                });
                state.crashed_at = true;
                Err(dead())
            }
        }
    }

    fn submit(&mut self, token: Token, op: Op) {
        let Some(mut state) = self.state() else {
            return;
        };
        let latency = state.latency_max;
        // A pause is as many steps as milliseconds: without it, retries on a full disk never end.
        let pause = match op {
            Op::Zero { pause_ms, .. } => u64::from(pause_ms),
            _ => 0,
        };
        let due = state.now + 1 + pause + state.dice.below(latency);
        let due = if state.manual { u64::MAX } else { due };
        match state.begin() {
            None => state.pending.push(Pending { token, op, due }),
            Some(Fault::Error(code) | Fault::ErrorForEver(code)) => {
                // Fails when it would have completed: an operation that cannot be done.
                let op = Op::Load {
                    name: format!("\0{code}"),
                };
                state.pending.push(Pending { token, op, due });
            }
            Some(Fault::Crash) => {
                state.pending.push(Pending { token, op, due });
                state.crashed_at = true;
            }
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Completion> {
        let Some(mut state) = self.state() else {
            return Poll::Pending;
        };
        if let Some(Pending { token, op, .. }) = state.due() {
            let failed = match &op {
                Op::Load { name } => name.strip_prefix('\0').and_then(|code| code.parse().ok()),
                _ => None,
            };
            let result = match failed {
                Some(code) => Err(io::Error::from_raw_os_error(code)),
                None => state.apply(op),
            };
            return Poll::Ready(Completion { token, result });
        }
        if state.manual || state.pending.is_empty() {
            state.waker = Some(cx.waker().clone());
        } else {
            cx.waker().wake_by_ref(); // each poll is a step of this disk's time
        }
        Poll::Pending
    }
}
