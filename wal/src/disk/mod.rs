//! The disk seam: submit an operation, take a completion. Everything the log does to a disk is one
//! [`Op`], so a disk that counts, fails, tears or delays operations sees all of them.
//!
//! A [`Disk`] owns one directory, and its operations are owned by the disk from submission to
//! completion: dropping whoever waits cancels nothing (an orphaned write could land later, on top
//! of newer bytes). Completions come in any order; the log puts them in order.
//! Must never know: batches, segments' contents, groups.
//!
//! [`ring`] is the default, [`tokio_uring`] and (with the feature `glommio`) `glommio` serve owners that
//! live in those runtimes, [`thread`] hosts where io_uring is blocked, [`sim`] is the deterministic one.
//! What every disk must do is in [`conformance`], as a suite to run.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Poll};

pub mod conformance;
#[cfg(feature = "glommio")]
pub mod glommio;
pub mod ring;
pub mod sim;
pub mod thread;
pub mod tokio_uring;

mod buf;
mod files;
mod forward;
mod helpers;
mod kernel;

pub use buf::AlignedBuf;
pub(crate) use files::{list, place_of};
pub use kernel::{file_bytes_max, outlive_file_limit};

/// A file opened through a [`Disk`], valid until it is closed.
pub type FileId = u32;

/// Pairs a completion with its submission. Chosen by the submitter, unique among those in flight.
pub type Token = u64;

/// One operation on the disk's directory. File names are relative to it: `file`, `folder/file`, or
/// `../folder/file` for a folder beside it, which disks of several directories may share.
#[derive(Debug)]
pub enum Op {
    /// Make (or overwrite) a file of `bytes` zeros, written and synced, so that later writes into
    /// it change no metadata. `pause_ms`: wait that long first (a retry on a full disk).
    Zero {
        /// The file.
        name: String,
        /// Its size.
        bytes: u64,
        /// Milliseconds to wait before starting.
        pause_ms: u32,
        /// Milliseconds over which the writing may be spread, leaving the device to others in between;
        /// 0: somebody waits for this file.
        spread_ms: u32,
    },
    /// Rename a file. Durable after [`Op::SyncDir`].
    Rename {
        /// Old name.
        from: String,
        /// New name; replaced if it exists.
        to: String,
    },
    /// Remove a file. Durable after [`Op::SyncDir`].
    Remove {
        /// The file.
        name: String,
    },
    /// Make the directory's names durable.
    SyncDir,
    /// Open a file for aligned reads and synchronous writes, alone (waiting up to about a second
    /// for a killed process whose writes the kernel is still finishing).
    Open {
        /// The file.
        name: String,
    },
    /// Forget an open file.
    Close {
        /// The file.
        file: FileId,
    },
    /// Write the whole buffer; durable when it completes, or after [`Op::Sync`] in a file of
    /// [`Op::Create`]. Offset and length are multiples of 4,096.
    Write {
        /// The file.
        file: FileId,
        /// Byte offset.
        offset: u64,
        /// The bytes.
        buf: AlignedBuf,
    },
    /// Read up to `bytes` from `offset` (fewer at the end of the file). Both multiples of 4,096.
    Read {
        /// The file.
        file: FileId,
        /// Byte offset.
        offset: u64,
        /// How many bytes.
        bytes: usize,
    },
    /// Write a small file as a whole and sync it. Its name is durable after [`Op::SyncDir`].
    Store {
        /// The file; may be `folder/file`, whose folder is made.
        name: String,
        /// Its bytes.
        bytes: Vec<u8>,
    },
    /// Read a small file as a whole.
    Load {
        /// The file.
        name: String,
    },
    /// Make a folder (mode 0700) if it does not exist, and its name durable.
    MakeFolder {
        /// The folder.
        folder: String,
    },
    /// The files of a folder, sorted by name; none if there is no such folder.
    List {
        /// The folder.
        folder: String,
    },
    /// Make the names in a folder durable.
    SyncFolder {
        /// The folder.
        folder: String,
    },
    /// Open a file, made if absent, for aligned writes that [`Op::Sync`] makes durable; one behind its end
    /// makes it longer.
    Create {
        /// The file.
        name: String,
        /// If not 0, the file is emptied, and room for so many bytes is taken first, where the file system
        /// can. Where there is none nothing is written, and there is no such file afterwards.
        room: u64,
    },
    /// Give a file of [`Op::Create`] its final length and make all of it durable.
    Sync {
        /// The file.
        file: FileId,
        /// Its length.
        bytes: u64,
    },
}

/// What an operation that went well brings back.
#[derive(Debug)]
pub enum Output {
    /// Nothing but success.
    Done,
    /// The buffer of a write, for reuse; the bytes of a read.
    Buf(AlignedBuf),
    /// An opened file and its size in bytes.
    Opened {
        /// The file.
        file: FileId,
        /// Its size.
        bytes: u64,
    },
    /// The bytes of a small file.
    Bytes(Vec<u8>),
    /// The files of a folder.
    Files(Vec<FileInfo>),
}

/// A finished operation.
#[derive(Debug)]
pub struct Completion {
    /// As given at submission.
    pub token: Token,
    /// How it went.
    pub result: io::Result<Output>,
}

/// A file of the directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileInfo {
    /// Its name.
    pub name: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// It is a directory.
    pub is_dir: bool,
}

/// What a disk is and can.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskInfo {
    /// Short name for logs and metrics.
    pub backend: &'static str,
    /// Opened files bypass the page cache. Known after the first [`Op::Open`].
    pub direct_io: bool,
}

/// The room there is for files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Bytes that the file system has left for this user.
    pub free_bytes: u64,
    /// Largest file that this process may write (`RLIMIT_FSIZE`).
    pub file_bytes_max: u64,
}

/// Someone else holds the directory's lock: `holder` is what they wrote into it.
#[derive(Debug)]
pub enum LockError {
    /// Held by another.
    Held {
        /// Who.
        holder: String,
    },
    /// Could not even try.
    Io(io::Error),
}

/// An open file that can be read from any thread.
pub trait ReadAt: Send + Sync {
    /// Read into `buf` from `offset`: how many bytes; 0 only at the end of the file. Offset, length and
    /// address of the buffer are multiples of 4,096.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize>;
}

/// One directory on one disk, as the log sees it.
///
/// The blocking calls (`list`, `make`, `lock`, `run`, `entropy`) are used while a log is opened,
/// before the core's loop starts; `submit` and `poll` never block and are used in the turn.
pub trait Disk {
    /// What this disk is.
    fn info(&self) -> DiskInfo;

    /// Work on this directory from now on; touches nothing. Called first; again only with the same one.
    fn attach(&mut self, dir: &Path);

    /// The directory's path, for messages.
    fn path(&self) -> &Path;

    /// The directory's files, sorted by name; `None` if the directory does not exist.
    fn list(&mut self) -> io::Result<Option<Vec<FileInfo>>>;

    /// Make the directory (mode 0700) if it does not exist, and make its name durable.
    fn make(&mut self) -> io::Result<()>;

    /// Take the directory for this disk alone, retrying for about a second.
    fn lock(&mut self) -> Result<(), LockError>;

    /// 32 random bytes, for ids.
    fn entropy(&mut self) -> io::Result<[u8; 32]>;

    /// The room there is in the directory, which exists. `None`: nobody knows.
    fn room(&mut self) -> Option<Room> {
        None
    }

    /// Do one operation now.
    fn run(&mut self, op: Op) -> io::Result<Output>;

    /// An open file for reading on other threads, while a log is opened. `None`: this disk cannot, and
    /// is read by [`Disk::run`].
    fn reader(&self, file: FileId) -> Option<Arc<dyn ReadAt>> {
        let _ = file;
        None
    }

    /// Start one operation. It ends in exactly one [`Completion`].
    fn submit(&mut self, token: Token, op: Op);

    /// Take the next completion. Pending: `cx` is woken when there may be one.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Completion>;
}
