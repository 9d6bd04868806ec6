//! A disk in memory, for tests and the simulator: deterministic, seeded, and as unkind as a real one.
//!
//! The fault model. An operation takes effect when it completes; a crash leaves of the writes in
//! flight any subset of their 512-byte sectors, of a folder's new names, renames and removals since its
//! last sync a prefix, of completed writes everything (the log's disks write synchronously), but of those
//! to a file of [`Op::Create`] that was not synced since, any subset of their sectors, too. Completions
//! come in any order. The n-th operation can fail, once or from then on; space can run out; bytes
//! can rot; and whatever else bad devices do happens by chance ([`Chances`]). A crashed [`SimDisk`] is dead:
//! it fails everything and completes nothing, as a killed process's would; the [`SimHandle`] gives a new one.
//!
//! Same seed and same calls, same outcome: no clock, no threads, no global state.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use super::{Completion, Disk, DiskInfo, FileInfo, LockError, Op, Output, Room, Token};

mod faults;
mod loose;
mod state;

pub use faults::{Chances, Struck};
use state::{Dice, Inode, Pending, State};

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

/// The test's hand on a simulated machine: outlives its disks.
#[derive(Clone)]
pub struct SimHandle(Arc<Mutex<State>>);

/// One life of the simulated disk, as the log owns it.
pub struct SimDisk {
    state: Arc<Mutex<State>>,
    life: u64,
    /// Which disk of the machine: whose operations it completes.
    id: u64,
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

    /// A disk of the present life, for one log, or for one of several that share folders.
    pub fn disk(&self) -> SimDisk {
        let mut state = self.state();
        state.disks += 1;
        SimDisk {
            state: self.0.clone(),
            life: state.life,
            id: state.disks,
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

    /// Those of [`SimHandle::sectors_in_flight`] that are not what lies there already: whether the others
    /// arrive makes no difference.
    pub fn sectors_that_matter(&self) -> Vec<usize> {
        let mut state = self.state();
        let pending = std::mem::take(&mut state.pending);
        let (mut found, mut first) = (Vec::new(), 0);
        for op in pending.iter().map(|pending| &pending.op) {
            let Op::Write { file, offset, buf } = op else {
                continue;
            };
            let now = state.data(*file).map_or(&[][..], |bytes| bytes);
            for (n, new) in buf.chunks(SECTOR_BYTES).enumerate() {
                let at = *offset as usize + n * SECTOR_BYTES;
                if now.get(at..at + new.len()) != Some(new) {
                    found.push(first + n);
                }
            }
            first += buf.len().div_ceil(SECTOR_BYTES);
        }
        state.pending = pending;
        found
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

    /// Faults by chance from now on; `Chances::default()` ends them. Seeded by `seed`.
    pub fn set_chances(&self, seed: u64, chances: Chances) {
        let mut state = self.state();
        state.chances = chances;
        state.fault_dice = Dice(seed);
    }

    /// How often each struck.
    pub fn struck(&self) -> Struck {
        self.state().struck
    }

    /// Operations that were stuck go on.
    pub fn unstick(&self) {
        let mut state = self.state();
        let now = state.now;
        for pending in &mut state.pending {
            pending.due = pending.due.min(now + 1);
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

    /// What the machine says of its room: bytes free, and the largest file. It holds nobody to it.
    pub fn set_room(&self, room: Option<(u64, u64)>) {
        self.state().room = room;
    }

    /// Bytes of a file change under everybody: rot, while it is open.
    pub fn rot(&self, name: &str, at: usize, bytes: &[u8]) {
        let mut state = self.state();
        let inode = state.names.get(name).copied().unwrap_or_default();
        let file = state.inodes.get_mut(&inode);
        if let Some(place) = file.and_then(|file| file.get_mut(at..at + bytes.len())) {
            place.copy_from_slice(bytes);
        }
    }

    /// A copy of the whole machine as a crash that keeps nothing would leave it.
    pub fn fork(&self, seed: u64) -> Self {
        let state = self.state();
        let mut copy = State {
            exists: state.exists,
            inodes: state.inodes.clone(),
            names: state.names.clone(),
            next_id: state.next_id,
            latency_max: state.latency_max,
            direct: state.direct,
            dice: Dice(seed),
            ..State::default()
        };
        for (folder, changes) in &state.old_names {
            if let Some(then) = changes.first() {
                copy.go_back(folder, then);
            }
        }
        for (inode, loose) in &state.loose {
            copy.inodes.insert(*inode, loose.durable.clone());
        }
        Self(Arc::new(Mutex::new(copy)))
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
        let here = state
            .names
            .iter()
            .filter(|(name, _)| !name.starts_with("../"));
        let mut files: Vec<_> = here.map(info).collect();
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

    fn room(&mut self) -> Option<Room> {
        let (free_bytes, file_bytes_max) = self.state()?.room?;
        Some(Room {
            free_bytes,
            file_bytes_max,
        })
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
                    by: self.id,
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
        let by = self.id;
        let latency = state.latency_max;
        // A pause is as many steps as milliseconds: without it, retries on a full disk never end.
        let pause = match op {
            Op::Zero { pause_ms, .. } => u64::from(pause_ms),
            _ => 0,
        };
        let due = state.now + 1 + pause + state.dice.below(latency);
        let due = match state.delay() {
            Some(more) if !state.manual => due + more,
            _ => u64::MAX,
        };
        match state.begin() {
            None => state.pending.push(Pending { token, by, op, due }),
            Some(Fault::Error(code) | Fault::ErrorForEver(code)) => {
                // Fails when it would have completed: an operation that cannot be done.
                let op = Op::Load {
                    name: format!("\0{code}"),
                };
                state.pending.push(Pending { token, by, op, due });
            }
            Some(Fault::Crash) => {
                state.pending.push(Pending { token, by, op, due });
                state.crashed_at = true;
            }
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Completion> {
        let Some(mut state) = self.state() else {
            return Poll::Pending;
        };
        if let Some(Pending { token, op, .. }) = state.due(self.id) {
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
