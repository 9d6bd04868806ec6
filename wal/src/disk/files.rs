//! What the real disks share: files through std, and a lock through fs2.
//!
//! Segment files are opened `O_DIRECT | O_DSYNC`; where the file system refuses `O_DIRECT` (EINVAL),
//! without both, and every write is followed by fdatasync. Those of [`Op::Create`] are *loose*: written
//! past the page cache, too, where that can be, and durable once they are synced.
//! Must never know: who waits for an operation, threads.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fs2::FileExt as _;

use super::kernel::{self, file_bytes_max};
use super::{AlignedBuf, FileId, FileInfo, LockError, Op, Output, ReadAt, Room};
use crate::identity::{CUT_DIR, LOCK_NAME};
use crate::{BLOCK_BYTES, Shortage};

/// Attempts to take a lock, and the wait between them: about a second in all. A killed process's
/// io_uring can keep its files open for some milliseconds after it is gone.
const LOCK_TRIES: u32 = 20;
const LOCK_WAIT: Duration = Duration::from_millis(50);
/// Zeros written at once when a segment is made.
const ZERO_BYTES: usize = 256 * 1024;
/// Shorter rests are not worth the waking up.
const PAUSE_MIN: Duration = Duration::from_micros(200);

/// Where a file of this name lies. What is beside the directory is so by its name, wherever a link of that
/// name leads.
pub(crate) fn place_of(dir: &Path, name: &str) -> PathBuf {
    let beside = name.strip_prefix("../").zip(dir.file_name());
    match beside {
        Some((rest, _)) => dir.with_file_name(rest),
        None => dir.join(name),
    }
}

/// An open file.
#[derive(Debug)]
pub(super) struct SegmentHandle {
    pub(super) file: File,
    pub(super) direct: bool,
    /// Durable when it is synced, not when it is written.
    pub(super) loose: bool,
    bytes: u64,
}

impl SegmentHandle {
    /// Write all of `buf`, durably where that is promised.
    pub(super) fn write(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        self.may_write(offset, buf.len())?;
        self.file.write_all_at(buf, offset)?;
        match self.owes_sync() {
            true => self.file.sync_data(),
            false => Ok(()),
        }
    }

    /// A write alone does not make it durable, and must.
    pub(super) fn owes_sync(&self) -> bool {
        !self.direct && !self.loose
    }

    /// Whether this process may write there: the kernel would not only refuse, it ends one that has not
    /// thought of SIGXFSZ. Segments are never written behind their end.
    pub(super) fn may_write(&self, offset: u64, bytes: usize) -> io::Result<()> {
        match self.loose && offset + bytes as u64 > file_bytes_max() {
            true => Err(io::Error::from_raw_os_error(libc::EFBIG)),
            false => Ok(()),
        }
    }

    /// Its final length, and all of it durable.
    pub(super) fn sync(&self, bytes: u64) -> io::Result<()> {
        self.file.set_len(bytes)?;
        self.file.sync_all()
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
                // Not in whole blocks: the end of the file, and no place to ask for more past the page cache.
                Ok(n) if self.direct && !n.is_multiple_of(BLOCK_BYTES) => {
                    filled += n;
                    break;
                }
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
        list(&self.dir)
    }

    pub(super) fn make(&self) -> io::Result<()> {
        make(&self.dir)
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
        if !handle.loose {
            self.direct = handle.direct;
        }
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
            Op::Sync { file, bytes } => self.handle(file)?.sync(bytes).map(|()| Output::Done),
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
    let at = |name: &str| place_of(dir, name);
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
            let path = at(&name);
            zero(&path, bytes, millis(spread_ms), pause).inspect_err(|_| {
                // Give the space back; if that fails too, the next attempt truncates the file.
                let _ = std::fs::remove_file(&path);
            })?;
            done
        }
        Op::Rename { from, to } => std::fs::rename(at(&from), at(&to)).and(done),
        Op::Remove { name } => std::fs::remove_file(at(&name)).and(done),
        Op::SyncDir => sync_dir(dir).and(done),
        Op::Open { name } => open_segment(&at(&name)).map(Named::Opened),
        Op::Store { name, bytes } => store(dir, &name, &bytes).and(done),
        Op::Load { name } => std::fs::read(at(&name)).map(|b| Named::Other(Output::Bytes(b))),
        Op::MakeFolder { folder } => make(&at(&folder)).and(done),
        Op::List { folder } => {
            let files = list(&at(&folder))?.unwrap_or_default();
            Ok(Named::Other(Output::Files(files)))
        }
        Op::SyncFolder { folder } => sync_dir(&at(&folder)).and(done),
        Op::Create { name, room } => create(&at(&name), room).map(Named::Opened),
        Op::Write { .. } | Op::Read { .. } | Op::Close { .. } | Op::Sync { .. } => Err(
            io::Error::new(io::ErrorKind::InvalidInput, "not an operation on a name"),
        ),
    }
}

/// A directory's files, sorted by name; `None` if it does not exist.
pub(crate) fn list(dir: &Path) -> io::Result<Option<Vec<FileInfo>>> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry?;
        let meta = match entry.metadata() {
            Ok(meta) => meta,
            // Gone since: others may remove what is theirs.
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(e),
        };
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

/// Makes a directory, and its name durable.
fn make(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let parent = dir.parent().filter(|p| !p.as_os_str().is_empty());
    sync_dir(parent.unwrap_or(Path::new(".")))
}

fn create(path: &Path, room: u64) -> io::Result<SegmentHandle> {
    let options = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(room > 0)
        .mode(0o600)
        .clone();
    let (file, direct) = open_direct(path, &options, 0)?;
    if room > 0 {
        take_room(&file, path, room).inspect_err(|_| {
            let _ = std::fs::remove_file(path);
        })?;
    }
    let bytes = file.metadata()?.len();
    Ok(SegmentHandle {
        file,
        direct,
        loose: true,
        bytes,
    })
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
        loose: false,
        bytes,
    })
}

/// Takes room for the first `bytes` bytes of a new file, where the file system knows how to; fails if it
/// has none. It is asked first how much it has: an allocation that fails takes all there is before it does,
/// and others who write meanwhile find none.
fn take_room(file: &File, path: &Path, bytes: u64) -> io::Result<()> {
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
