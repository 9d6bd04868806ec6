//! What the real disks share: files through std, a lock through fs2, and threads that take
//! operations from a queue and hand completions back with a wake-up.
//!
//! Segment files are opened `O_DIRECT | O_DSYNC`; where the file system refuses `O_DIRECT` (EINVAL),
//! without both, and every write is followed by fdatasync.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use fs2::FileExt as _;

use super::kernel::{self, file_bytes_max};
use super::{AlignedBuf, Completion, FileId, FileInfo, LockError, Op, Output, ReadAt, Room, Token};
use crate::Shortage;
use crate::identity::{CUT_DIR, LOCK_NAME};

/// Attempts to take a lock, and the wait between them: about a second in all. A killed process's
/// io_uring can keep its files open for some milliseconds after it is gone.
const LOCK_TRIES: u32 = 20;
const LOCK_WAIT: Duration = Duration::from_millis(50);
/// Zeros written at once when a segment is made.
const ZERO_BYTES: usize = 256 * 1024;
/// Shorter rests are not worth the waking up.
const PAUSE_MIN: Duration = Duration::from_micros(200);

/// The calls of a disk that block, and what it is: the same for every disk that keeps its files in a field
/// `files`.
macro_rules! by_files {
    ($backend:literal) => {
        fn info(&self) -> $crate::disk::DiskInfo {
            $crate::disk::DiskInfo {
                backend: $backend,
                direct_io: self.files.direct,
            }
        }

        fn attach(&mut self, dir: &std::path::Path) {
            self.files.dir = dir.to_path_buf();
        }

        fn path(&self) -> &std::path::Path {
            &self.files.dir
        }

        fn list(&mut self) -> std::io::Result<Option<Vec<$crate::disk::FileInfo>>> {
            self.files.list()
        }

        fn make(&mut self) -> std::io::Result<()> {
            self.files.make()
        }

        fn lock(&mut self) -> Result<(), $crate::disk::LockError> {
            self.files.lock()
        }

        fn entropy(&mut self) -> std::io::Result<[u8; 32]> {
            self.files.entropy()
        }

        fn room(&mut self) -> Option<$crate::disk::Room> {
            self.files.room()
        }

        fn run(&mut self, op: $crate::disk::Op) -> std::io::Result<$crate::disk::Output> {
            self.files.run(op)
        }

        fn reader(
            &self,
            file: $crate::disk::FileId,
        ) -> Option<std::sync::Arc<dyn $crate::disk::ReadAt>> {
            self.files.reader(file)
        }
    };
}
pub(super) use by_files;

/// An open segment file.
#[derive(Debug)]
pub(super) struct SegmentHandle {
    pub(super) file: File,
    pub(super) direct: bool,
    bytes: u64,
}

impl SegmentHandle {
    /// Write all of `buf` durably.
    pub(super) fn write(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        self.file.write_all_at(buf, offset)?;
        if self.direct {
            Ok(())
        } else {
            self.file.sync_data()
        }
    }

    /// Read up to `bytes`; fewer at the end of the file.
    pub(super) fn read(&self, offset: u64, bytes: usize) -> io::Result<AlignedBuf> {
        let mut buf = AlignedBuf::zeroed(bytes);
        let mut filled = 0;
        while filled < bytes {
            match self
                .file
                .read_at(&mut buf[filled..], offset + filled as u64)
            {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        buf.resize(filled);
        Ok(buf)
    }
}

impl ReadAt for SegmentHandle {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.file.read_at(buf, offset)
    }
}

/// The directory, its lock and its open files. The blocking half of a real disk.
#[derive(Debug, Default)]
pub(super) struct Files {
    pub(super) dir: PathBuf,
    lock: Option<File>,
    open: BTreeMap<FileId, Arc<SegmentHandle>>,
    next_id: FileId,
    /// As of the last opened file.
    pub(super) direct: bool,
}

impl Files {
    pub(super) fn list(&self) -> io::Result<Option<Vec<FileInfo>>> {
        let entries = match std::fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        let mut files = Vec::new();
        for entry in entries {
            let entry = entry?;
            let meta = entry.metadata()?;
            let name = entry.file_name().to_string_lossy().into_owned();
            files.push(FileInfo {
                name,
                bytes: meta.len(),
                is_dir: meta.is_dir(),
            });
        }
        files.sort();
        Ok(Some(files))
    }

    pub(super) fn make(&self) -> io::Result<()> {
        if self.dir.is_dir() {
            return Ok(());
        }
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.dir)?;
        let parent = self.dir.parent().filter(|p| !p.as_os_str().is_empty());
        sync_dir(parent.unwrap_or(Path::new(".")))
    }

    pub(super) fn lock(&mut self) -> Result<(), LockError> {
        let path = self.dir.join(LOCK_NAME);
        let open = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path);
        let mut file = open.map_err(LockError::Io)?;
        if !lock_patiently(&file).map_err(LockError::Io)? {
            let mut holder = String::new();
            let read = (&file).take(64).read_to_string(&mut holder);
            let known = read.is_ok() && !holder.trim().is_empty();
            let holder = if known {
                holder.trim()
            } else {
                "another process"
            }
            .to_string();
            return Err(LockError::Held { holder });
        }
        let written = file
            .set_len(0)
            .and_then(|()| file.seek(SeekFrom::Start(0)))
            .and_then(|_| writeln!(file, "process {}", std::process::id()));
        match written {
            // The name is for others to read; on a full file system they have to do without.
            Err(e) if Shortage::of(&e).is_some() => {}
            written => written.map_err(LockError::Io)?,
        }
        self.lock = Some(file);
        Ok(())
    }

    pub(super) fn entropy(&self) -> io::Result<[u8; 32]> {
        let mut random = [0; 32];
        File::open("/dev/urandom")?.read_exact(&mut random)?;
        Ok(random)
    }

    pub(super) fn room(&self) -> Option<Room> {
        Some(Room {
            free_bytes: fs2::available_space(&self.dir).ok()?,
            file_bytes_max: file_bytes_max(),
        })
    }

    /// Enter an opened file into the table.
    pub(super) fn admit(&mut self, handle: SegmentHandle) -> Output {
        self.next_id += 1;
        self.direct = handle.direct;
        let bytes = handle.bytes;
        self.open.insert(self.next_id, Arc::new(handle));
        Output::Opened {
            file: self.next_id,
            bytes,
        }
    }

    pub(super) fn handle(&self, file: FileId) -> io::Result<Arc<SegmentHandle>> {
        let known = self.open.get(&file).cloned();
        known.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "this file is not open"))
    }

    pub(super) fn reader(&self, file: FileId) -> Option<Arc<dyn ReadAt>> {
        Some(self.open.get(&file)?.clone())
    }

    pub(super) fn close(&mut self, file: FileId) {
        self.open.remove(&file);
    }

    /// Do an operation now.
    pub(super) fn run(&mut self, op: Op) -> io::Result<Output> {
        match op {
            Op::Write { file, offset, buf } => self
                .handle(file)?
                .write(offset, &buf)
                .map(|()| Output::Buf(buf)),
            Op::Read {
                file,
                offset,
                bytes,
            } => self.handle(file)?.read(offset, bytes).map(Output::Buf),
            Op::Close { file } => {
                self.close(file);
                Ok(Output::Done)
            }
            named => match run_named(&self.dir, named, &|_| {})? {
                Named::Opened(handle) => Ok(self.admit(handle)),
                Named::Other(output) => Ok(output),
            },
        }
    }
}

/// What an operation on a name brings.
pub(super) enum Named {
    Opened(SegmentHandle),
    Other(Output),
}

/// Do an operation that names its file. `pause` waits so long.
pub(super) fn run_named(dir: &Path, op: Op, pause: &dyn Fn(Duration)) -> io::Result<Named> {
    let done = Ok(Named::Other(Output::Done));
    match op {
        Op::Zero {
            name,
            bytes,
            pause_ms,
            spread_ms,
        } => {
            let millis = |ms: u32| Duration::from_millis(ms.into());
            pause(millis(pause_ms));
            let path = dir.join(name);
            zero(&path, bytes, millis(spread_ms), pause).inspect_err(|_| {
                // Give the space back; if that fails too, the next attempt truncates the file.
                let _ = std::fs::remove_file(&path);
            })?;
            done
        }
        Op::Rename { from, to } => std::fs::rename(dir.join(from), dir.join(to)).and(done),
        Op::Remove { name } => std::fs::remove_file(dir.join(name)).and(done),
        Op::SyncDir => sync_dir(dir).and(done),
        Op::Open { name } => open_segment(&dir.join(name)).map(Named::Opened),
        Op::Store { name, bytes } => store(dir, &name, &bytes).and(done),
        Op::Load { name } => std::fs::read(dir.join(name)).map(|b| Named::Other(Output::Bytes(b))),
        Op::Write { .. } | Op::Read { .. } | Op::Close { .. } => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not an operation on a name",
        )),
    }
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

fn store(dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let path = dir.join(name);
    if let Some(folder) = path
        .parent()
        .filter(|folder| *folder != dir && !folder.exists())
    {
        DirBuilder::new().mode(0o700).create(folder)?;
    }
    let options = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&path);
    let mut file = options?;
    file.write_all(bytes)?;
    file.sync_all()?;
    // The folder's own entry is synced by the caller's SyncDir; its contents here.
    match path.parent() {
        Some(folder) if folder == dir.join(CUT_DIR) => sync_dir(folder),
        _ => Ok(()),
    }
}

/// Open with `O_DIRECT` and more flags, or without all of them where the file system refuses.
fn open_direct(path: &Path, options: &OpenOptions, more: i32) -> io::Result<(File, bool)> {
    match options
        .clone()
        .custom_flags(libc::O_DIRECT | more)
        .open(path)
    {
        Ok(file) => Ok((file, true)),
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => Ok((options.open(path)?, false)),
        Err(e) => Err(e),
    }
}

fn open_segment(path: &Path) -> io::Result<SegmentHandle> {
    let options = OpenOptions::new().read(true).write(true).clone();
    let (file, direct) = open_direct(path, &options, libc::O_DSYNC)?;
    if !lock_patiently(&file)? {
        return Err(io::Error::new(
            io::ErrorKind::WouldBlock,
            "another process is writing to it",
        ));
    }
    // What is read from here on must be what survives a power cut: flush the device's cache.
    file.sync_all()?;
    let bytes = file.metadata()?.len();
    Ok(SegmentHandle {
        file,
        direct,
        bytes,
    })
}

/// Takes room for the first `bytes` bytes of a new file, where the file system knows how to; fails if it
/// has none. It is asked first how much it has: an allocation that fails takes all there is before it does,
/// and others who write meanwhile find none.
pub(crate) fn take_room(file: &File, path: &Path, bytes: u64) -> io::Result<()> {
    // The kernel would not only refuse: it ends a process that has not thought of SIGXFSZ.
    if bytes > file_bytes_max() {
        return Err(io::Error::from_raw_os_error(libc::EFBIG));
    }
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    let available = fs2::available_space(dir.unwrap_or(Path::new(".")));
    if available.is_ok_and(|available| available < bytes) {
        return Err(io::Error::from_raw_os_error(libc::ENOSPC));
    }
    match kernel::allocate(file, bytes) {
        Err(e) if Shortage::of(&e).is_some() => Err(e),
        _ => Ok(()),
    }
}

/// Takes about `spread`, in small steps: filling 64 MiB in one go keeps the device busy for 40 ms on the
/// reference machine, and the commits of that time wait behind it (seen as a p99 of 10 ms).
#[expect(
    clippy::disallowed_methods,
    reason = "on a helper thread, or while a log is opened"
)]
fn zero(path: &Path, bytes: u64, spread: Duration, pause: &dyn Fn(Duration)) -> io::Result<()> {
    let begun = Instant::now();
    // The kernel would not only refuse: it ends a process that has not thought of SIGXFSZ.
    if bytes > file_bytes_max() {
        return Err(io::Error::from_raw_os_error(libc::EFBIG));
    }
    let options = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .clone();
    let (file, _) = open_direct(path, &options, 0)?;
    // One extent where possible, and a full disk is met before the zeros are written.
    take_room(&file, path, bytes)?;
    let zeros = AlignedBuf::zeroed(ZERO_BYTES);
    let mut at = 0;
    while at < bytes {
        let n = (bytes - at).min(ZERO_BYTES as u64);
        file.write_all_at(&zeros[..n as usize], at)?;
        at += n;
        let ahead = spread
            .mul_f64(at as f64 / bytes as f64)
            .saturating_sub(begun.elapsed());
        if ahead >= PAUSE_MIN {
            pause(ahead);
        }
    }
    file.sync_all()
}

#[expect(
    clippy::disallowed_methods,
    reason = "blocks while a log is opened, not in a turn"
)]
fn lock_patiently(file: &File) -> io::Result<bool> {
    for attempt in 0..LOCK_TRIES {
        if attempt > 0 {
            std::thread::sleep(LOCK_WAIT);
        }
        match file.try_lock_exclusive() {
            Ok(()) => return Ok(true),
            Err(e) if e.raw_os_error() == fs2::lock_contended_error().raw_os_error() => {}
            Err(e) => return Err(e),
        }
    }
    Ok(false)
}

/// Taking a lock whose holder panicked: what it guards is a plain queue, whole after every step.
fn take<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A finished operation on its way back to the owner of the disk.
pub(super) enum Finished {
    Opened(Token, SegmentHandle),
    Other(Completion),
}

/// Finished operations, and who waits for them.
#[derive(Default)]
pub(super) struct Done {
    queue: Mutex<(VecDeque<Finished>, Option<Waker>)>,
}

impl Done {
    pub(super) fn push(&self, finished: Finished) {
        let waker = {
            let mut queue = take(&self.queue);
            queue.0.push_back(finished);
            queue.1.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    pub(super) fn poll(&self, cx: &mut Context<'_>) -> Poll<Finished> {
        let mut queue = take(&self.queue);
        match queue.0.pop_front() {
            Some(finished) => Poll::Ready(finished),
            None => {
                queue.1 = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

/// Work for a thread.
pub(super) enum Job {
    Named(Token, Op),
    Write(Token, Arc<SegmentHandle>, u64, AlignedBuf),
    Read(Token, Arc<SegmentHandle>, u64, usize),
}

#[derive(Default)]
struct Jobs {
    queue: VecDeque<Job>,
    stop: bool,
}

/// Threads that take operations in order. Dropping finishes what is queued.
pub(super) struct Workers {
    shared: Arc<(Mutex<Jobs>, Condvar)>,
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    /// Start `count` threads for the directory; at least one must start.
    pub(super) fn start(
        name: &str,
        count: usize,
        dir: &Path,
        done: &Arc<Done>,
    ) -> io::Result<Self> {
        let shared = Arc::new((Mutex::new(Jobs::default()), Condvar::new()));
        let mut workers = Self {
            shared,
            threads: Vec::new(),
        };
        for _ in 0..count {
            let (shared, dir, done) = (workers.shared.clone(), dir.to_path_buf(), done.clone());
            let thread = std::thread::Builder::new().name(name.into());
            match thread.spawn(move || work(&shared, &dir, &done)) {
                Ok(thread) => workers.threads.push(thread),
                Err(e) if workers.threads.is_empty() => return Err(e),
                Err(_) => break,
            }
        }
        Ok(workers)
    }

    pub(super) fn give(&self, job: Job) {
        take(&self.shared.0).queue.push_back(job);
        self.shared.1.notify_one();
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        take(&self.shared.0).stop = true;
        self.shared.1.notify_all();
        for thread in self.threads.drain(..) {
            // A panicked worker has nothing left to finish.
            let _ = thread.join();
        }
    }
}

fn work(shared: &(Mutex<Jobs>, Condvar), dir: &Path, done: &Done) {
    // A pause ends early when the disk is dropped.
    let pause = |wait: Duration| {
        if !wait.is_zero() {
            let _ = shared
                .1
                .wait_timeout_while(take(&shared.0), wait, |jobs| !jobs.stop);
        }
    };
    loop {
        let job = {
            let mut jobs = take(&shared.0);
            loop {
                match jobs.queue.pop_front() {
                    Some(job) => break job,
                    None if jobs.stop => return,
                    None => {
                        jobs = shared.1.wait(jobs).unwrap_or_else(PoisonError::into_inner);
                    }
                }
            }
        };
        let (token, result) = match job {
            Job::Named(token, op) => match run_named(dir, op, &pause) {
                Ok(Named::Opened(handle)) => {
                    done.push(Finished::Opened(token, handle));
                    continue;
                }
                Ok(Named::Other(output)) => (token, Ok(output)),
                Err(e) => (token, Err(e)),
            },
            Job::Write(token, file, offset, buf) => {
                (token, file.write(offset, &buf).map(|()| Output::Buf(buf)))
            }
            Job::Read(token, file, offset, bytes) => {
                (token, file.read(offset, bytes).map(Output::Buf))
            }
        };
        done.push(Finished::Other(Completion { token, result }));
    }
}

/// The owner's side of a finished operation.
pub(super) fn settle(files: &mut Files, finished: Finished) -> Completion {
    match finished {
        Finished::Opened(token, handle) => Completion {
            token,
            result: Ok(files.admit(handle)),
        },
        Finished::Other(completion) => completion,
    }
}
