//! Looking at a log without touching it: for `henge wal dump|verify|stat`.
//!
//! Runs the very code of recovery over plain files, read-only and without the lock, and stops before
//! anything is put in order. A log that is being written to can be looked at; its end is then a
//! moment's view. Tested with `tests/table.rs`: what recovery says, this says.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::task::{Context, Poll};

use crate::disk::{
    self, AlignedBuf, Completion, Disk, DiskInfo, FileId, FileInfo, LockError, Op, Output, Token,
    place_of,
};
use crate::identity::{Birth, IDENTITY_NAME};
use crate::{Cut, Identity, IoFault, OpenError, OpenReport, Replay, recover};

/// What was found in a log's directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Whose log it is.
    pub identity: Identity,
    /// As an open would report it. What it calls cut is still there.
    pub report: OpenReport,
}

/// What is to be thought of a log.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// All of it reads.
    Good(Found),
    /// The end is torn: an open cuts it. Nothing acknowledged is lost.
    TornTail(Found, Cut),
    /// Acknowledged entries of some groups cannot be read ([`OpenReport::damaged`]). An open serves the
    /// other groups. There may be a torn tail as well.
    Damaged(Found),
    /// An open refuses: damage, a missing or foreign segment, a newer format, no log at all.
    Refused(OpenError),
}

/// Replay the log in `dir` and report. Nothing is changed, no lock is taken.
pub fn read(dir: &Path, replay: &mut dyn Replay) -> Result<Found, OpenError> {
    let path = dir.join(IDENTITY_NAME);
    let bytes = std::fs::read(&path).map_err(|e| {
        let fault = IoFault::from(e);
        OpenError::Io {
            path: path.clone(),
            doing: "read",
            fault,
        }
    })?;
    let birth = Birth::decode(&bytes, &path)?;
    let mut disk = ReadOnly::new(dir);
    let judged = recover::judge(&mut disk, birth.uuid, replay)?;
    let report = OpenReport {
        log_uuid: birth.uuid,
        birth_id: birth.birth_id,
        backend: disk.info().backend,
        ..judged.report
    };
    Ok(Found {
        identity: birth.identity,
        report,
    })
}

/// Judge the log in `dir`: where the first bad place is, and what kind of bad.
pub fn verify(dir: &Path) -> Verdict {
    match read(dir, &mut ()) {
        Ok(found) if !found.report.damaged.is_empty() || found.report.nameless.is_some() => {
            Verdict::Damaged(found)
        }
        Ok(found) => match found.report.cut.clone() {
            Some(cut) => Verdict::TornTail(found, cut),
            None => Verdict::Good(found),
        },
        Err(error) => Verdict::Refused(error),
    }
}

/// A disk that only reads, through the page cache, and takes no lock: for a look at the directory of a log.
pub fn disk(dir: &Path) -> impl Disk + use<> {
    ReadOnly::new(dir)
}

/// A disk that only reads, through the page cache.
pub(crate) struct ReadOnly {
    dir: PathBuf,
    open: BTreeMap<FileId, File>,
    last: FileId,
}

impl ReadOnly {
    pub(crate) fn new(dir: &Path) -> Self {
        Self {
            dir: dir.into(),
            open: BTreeMap::new(),
            last: 0,
        }
    }
}

fn refused() -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, "inspection does not write")
}

impl Disk for ReadOnly {
    fn info(&self) -> DiskInfo {
        DiskInfo {
            backend: "read-only",
            direct_io: false,
        }
    }

    fn attach(&mut self, dir: &Path) {
        self.dir = dir.into();
    }

    fn path(&self) -> &Path {
        &self.dir
    }

    fn list(&mut self) -> io::Result<Option<Vec<FileInfo>>> {
        disk::list(&self.dir)
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
                let opened = File::open(place_of(&self.dir, &name))?;
                let bytes = opened.metadata()?.len();
                self.last += 1;
                let file = self.last;
                self.open.insert(file, opened);
                Ok(Output::Opened { file, bytes })
            }
            Op::Read {
                file,
                offset,
                bytes,
            } => {
                let opened = self.open.get(&file).ok_or(io::ErrorKind::NotFound)?;
                let mut buf = AlignedBuf::zeroed(bytes);
                let mut filled = 0;
                while filled < bytes {
                    match opened.read_at(&mut buf[filled..], offset + filled as u64)? {
                        0 => break,
                        n => filled += n,
                    }
                }
                buf.resize(filled);
                Ok(Output::Buf(buf))
            }
            Op::Load { name } => std::fs::read(place_of(&self.dir, &name)).map(Output::Bytes),
            Op::List { folder } => {
                let files = disk::list(&place_of(&self.dir, &folder))?;
                Ok(Output::Files(files.unwrap_or_default()))
            }
            Op::Close { file } => {
                self.open.remove(&file);
                Ok(Output::Done)
            }
            _ => Err(refused()),
        }
    }

    fn submit(&mut self, _: Token, _: Op) {}

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<Completion> {
        Poll::Pending
    }
}
