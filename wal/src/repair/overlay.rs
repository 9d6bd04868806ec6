//! A directory as it would be: a disk whose files are read with changes that are not made yet.
//!
//! Recovery judges it as it would judge the directory after the repair; what it opens stays open, as a
//! file is locked by whoever opened it. [`Overlay::write`] makes the changes: each file is written anew
//! beside the old one and takes its place by a rename, so that it is there either with its changes or
//! without, and no block of the log is ever written twice.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::task::{Context, Poll};

use crate::disk::{AlignedBuf, Completion, Disk, DiskInfo, FileId, FileInfo, LockError, Op};
use crate::disk::{Output, Token};
use crate::identity::{CUT_DIR, fault};
use crate::segment::{self, PREPARE_NAME};
use crate::{BLOCK_BYTES, OpenError};

/// Bytes copied at once.
const COPY_BYTES: usize = 1024 * 1024;
/// Ids of files that do not exist yet.
const NEW_FILE: FileId = 1 << 31;

/// A disk with changes to be made.
pub(super) struct Overlay<'d> {
    disk: &'d mut dyn Disk,
    open: BTreeMap<String, (FileId, u64)>,
    changes: BTreeMap<String, Change>,
}

/// What becomes of a file.
#[derive(Debug, Default)]
struct Change {
    /// It is new, of this size.
    new: Option<u64>,
    /// It was cut, and shall have this size again.
    grown: Option<u64>,
    patches: BTreeMap<u64, Vec<u8>>,
    /// What is taken away: offset and bytes.
    taken: Vec<(u64, u64)>,
}

impl<'d> Overlay<'d> {
    pub(super) fn new(disk: &'d mut dyn Disk) -> Self {
        Self {
            disk,
            open: BTreeMap::new(),
            changes: BTreeMap::new(),
        }
    }

    /// Nothing would be changed.
    pub(super) fn is_clean(&self) -> bool {
        self.changes.is_empty()
    }

    /// There shall be a new segment of so many zeros.
    pub(super) fn create(&mut self, seq: u64, bytes: u64) {
        self.change(seq).new = Some(bytes);
        // What was there, if anything, is not read any more.
        self.open.remove(&segment::name(seq));
    }

    /// The segment shall have so many bytes, zeros where there are none.
    pub(super) fn grow(&mut self, seq: u64, bytes: u64) {
        self.change(seq).grown = Some(bytes);
    }

    /// These bytes shall be there.
    pub(super) fn patch(&mut self, seq: u64, offset: u64, bytes: Vec<u8>) {
        self.change(seq).patches.insert(offset, bytes);
    }

    /// Of what was there, a copy is kept.
    pub(super) fn keep(&mut self, seq: u64, offset: u64, bytes: u64) {
        self.change(seq).taken.push((offset, bytes));
    }

    fn change(&mut self, seq: u64) -> &mut Change {
        self.changes.entry(segment::name(seq)).or_default()
    }

    /// Make the changes, one file after the other.
    pub(super) fn write(mut self) -> Result<(), OpenError> {
        let names: Vec<String> = self.changes.keys().cloned().collect();
        for name in names {
            let made = self.write_one(&name);
            made.map_err(|e| fault(self.disk, &name, "repair", e))?;
        }
        Ok(())
    }

    fn write_one(&mut self, name: &str) -> io::Result<()> {
        let (file, bytes) = self.file(name)?;
        let grown = self.changes.get(name).and_then(|c| c.grown);
        let bytes = bytes.max(grown.unwrap_or(0));
        let taken = self.changes.get(name).map_or(vec![], |c| c.taken.clone());
        for (offset, bytes) in taken {
            let stem = name.trim_end_matches(".seg");
            let kept = self.original(file, offset, bytes as usize)?;
            self.disk.run(Op::Store {
                name: format!("{CUT_DIR}/{stem}-{offset}.lost"),
                bytes: kept.to_vec(),
            })?;
            self.disk.run(Op::SyncDir)?;
        }
        let prepare = || PREPARE_NAME.to_string();
        self.disk.run(Op::Zero {
            name: prepare(),
            bytes,
            pause_ms: 0,
            spread_ms: 0,
        })?;
        let Output::Opened { file: copy, .. } = self.disk.run(Op::Open { name: prepare() })? else {
            return Err(io::Error::other("a file did not open"));
        };
        for offset in (0..bytes).step_by(COPY_BYTES) {
            let wanted = COPY_BYTES.min((bytes - offset) as usize);
            let buf = self.patched(name, file, offset, wanted)?;
            let file = copy;
            self.disk.run(Op::Write { file, offset, buf })?;
        }
        self.disk.run(Op::Close { file: copy })?;
        if file < NEW_FILE {
            self.disk.run(Op::Close { file })?;
        }
        self.open.remove(name);
        let (from, to) = (prepare(), name.to_string());
        self.disk.run(Op::Rename { from, to })?;
        self.disk.run(Op::SyncDir)?;
        Ok(())
    }

    fn file(&mut self, name: &str) -> io::Result<(FileId, u64)> {
        if let Some(open) = self.open.get(name) {
            return Ok(*open);
        }
        let new = self.changes.get(name).and_then(|change| change.new);
        let open = match new {
            Some(bytes) => {
                let ids = self.open.values().map(|open| open.0);
                let last = ids.filter(|id| *id >= NEW_FILE).max();
                (last.map_or(NEW_FILE, |last| last + 1), bytes)
            }
            None => match self.disk.run(Op::Open { name: name.into() })? {
                Output::Opened { file, bytes } => (file, bytes),
                _ => return Err(io::Error::other("a file did not open")),
            },
        };
        self.open.insert(name.into(), open);
        Ok(open)
    }

    /// A part of a file as it is; blocks that cannot be read are zeros.
    fn original(&mut self, file: FileId, offset: u64, bytes: usize) -> io::Result<AlignedBuf> {
        if file >= NEW_FILE {
            return Ok(AlignedBuf::zeroed(bytes));
        }
        let mut out = AlignedBuf::zeroed(bytes);
        let mut read = |from: usize, bytes: usize| -> io::Result<bool> {
            let offset = offset + from as u64;
            match self.disk.run(Op::Read {
                file,
                offset,
                bytes,
            }) {
                Ok(Output::Buf(buf)) => {
                    out[from..from + buf.len()].copy_from_slice(&buf);
                    Ok(true)
                }
                Ok(_) => Err(io::Error::other("a read brought no bytes")),
                Err(e) if e.raw_os_error() == Some(libc::EIO) => Ok(false),
                Err(e) => Err(e),
            }
        };
        if !read(0, bytes)? {
            for from in (0..bytes).step_by(BLOCK_BYTES) {
                read(from, BLOCK_BYTES)?;
            }
        }
        Ok(out)
    }

    /// A part of a file as it will be written.
    fn patched(
        &mut self,
        name: &str,
        file: FileId,
        offset: u64,
        bytes: usize,
    ) -> io::Result<AlignedBuf> {
        let mut buf = self.original(file, offset, bytes)?;
        if let Some(change) = self.changes.get(name) {
            change.lay(&mut buf, offset);
        }
        Ok(buf)
    }

    fn read(&mut self, file: FileId, offset: u64, bytes: usize) -> io::Result<Output> {
        let name = self.open.iter().find(|(_, open)| open.0 == file);
        let change = name.and_then(|(name, open)| Some((self.changes.get(name)?, open.1)));
        let Some((change, size)) = change else {
            return self.disk.run(Op::Read {
                file,
                offset,
                bytes,
            });
        };
        let size = size.max(change.grown.unwrap_or(0));
        let end = size.min(offset + bytes as u64);
        let length = end.saturating_sub(offset) as usize;
        if change.new.is_some() || change.covers(offset, end) {
            let mut buf = AlignedBuf::zeroed(length);
            change.lay(&mut buf, offset);
            return Ok(Output::Buf(buf));
        }
        match self.disk.run(Op::Read {
            file,
            offset,
            bytes,
        })? {
            Output::Buf(mut buf) => {
                if change.grown.is_some() {
                    buf.resize(length);
                }
                change.lay(&mut buf, offset);
                Ok(Output::Buf(buf))
            }
            other => Ok(other),
        }
    }
}

impl Change {
    /// All of a part is changed.
    fn covers(&self, from: u64, to: u64) -> bool {
        let at = self.patches.range(..=from).next_back();
        at.is_some_and(|(offset, bytes)| offset + bytes.len() as u64 >= to)
    }

    /// Lay the changes over what was read from `offset` on.
    fn lay(&self, buf: &mut [u8], offset: u64) {
        let end = offset + buf.len() as u64;
        for (at, bytes) in self.patches.range(..end) {
            let from = offset.max(*at);
            let to = end.min(at + bytes.len() as u64);
            if from < to {
                buf[(from - offset) as usize..(to - offset) as usize]
                    .copy_from_slice(&bytes[(from - at) as usize..(to - at) as usize]);
            }
        }
    }
}

fn refused() -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, "only read so far")
}

impl Disk for Overlay<'_> {
    fn info(&self) -> DiskInfo {
        self.disk.info()
    }

    fn attach(&mut self, _: &Path) {}

    fn path(&self) -> &Path {
        self.disk.path()
    }

    fn list(&mut self) -> io::Result<Option<Vec<FileInfo>>> {
        let mut files = self.disk.list()?.unwrap_or_default();
        for (name, change) in &self.changes {
            if let Some(bytes) = change.new
                && files.iter().all(|file| file.name != *name)
            {
                files.push(FileInfo {
                    name: name.clone(),
                    bytes,
                    is_dir: false,
                });
            }
        }
        files.sort();
        Ok(Some(files))
    }

    fn make(&mut self) -> io::Result<()> {
        Err(refused())
    }

    fn lock(&mut self) -> Result<(), LockError> {
        Err(LockError::Io(refused()))
    }

    fn entropy(&mut self) -> io::Result<[u8; 32]> {
        Err(refused())
    }

    fn run(&mut self, op: Op) -> io::Result<Output> {
        match op {
            Op::Open { name } => {
                let (file, bytes) = self.file(&name)?;
                let grown = self.changes.get(&name).and_then(|c| c.grown);
                let bytes = bytes.max(grown.unwrap_or(0));
                Ok(Output::Opened { file, bytes })
            }
            Op::Read {
                file,
                offset,
                bytes,
            } => self.read(file, offset, bytes),
            Op::Load { name } => self.disk.run(Op::Load { name }),
            _ => Err(refused()),
        }
    }

    fn submit(&mut self, _: Token, _: Op) {}

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<Completion> {
        Poll::Pending
    }
}
