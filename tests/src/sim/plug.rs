//! What a process has of its drives: its log's, and where its checkpoints lie, if that is another one.
//!
//! Operations on what lies beside the directory go to that other drive, by their names; its files are told by
//! a bit of their numbers. Must never know: time.

use std::io;
use std::path::Path;
use std::task::{Context, Poll};

use henge_wal::disk::{
    Completion, Disk, DiskInfo, FileId, FileInfo, LockError, Op, Output, Room, Token,
};

use super::drive::TimedDisk;

/// Of files of the other drive.
const BESIDE: FileId = 1 << 31;

pub(super) struct Plugged {
    log: TimedDisk,
    beside: Option<TimedDisk>,
}

impl Plugged {
    pub(super) fn new(log: TimedDisk, beside: Option<TimedDisk>) -> Self {
        Plugged { log, beside }
    }

    /// The drive that an operation is for; what it says is as that drive has it.
    fn route(&mut self, op: &mut Op) -> (&mut TimedDisk, bool) {
        let is_beside = match op {
            Op::Rename { to: name, .. }
            | Op::Zero { name, .. }
            | Op::Remove { name }
            | Op::Open { name }
            | Op::Store { name, .. }
            | Op::Load { name }
            | Op::MakeFolder { folder: name }
            | Op::List { folder: name }
            | Op::SyncFolder { folder: name }
            | Op::Create { name, .. } => name.starts_with("../"),
            Op::Close { file }
            | Op::Write { file, .. }
            | Op::Read { file, .. }
            | Op::Sync { file, .. } => {
                let is_beside = *file & BESIDE != 0;
                *file &= !BESIDE;
                is_beside
            }
            Op::SyncDir => false,
        };
        match &mut self.beside {
            Some(beside) if is_beside => (beside, true),
            _ => (&mut self.log, false),
        }
    }
}

/// As the process knows the file.
fn told(output: Output, is_beside: bool) -> Output {
    match output {
        Output::Opened { file, bytes } if is_beside => Output::Opened {
            file: file | BESIDE,
            bytes,
        },
        output => output,
    }
}

impl Disk for Plugged {
    fn info(&self) -> DiskInfo {
        self.log.inner.info()
    }

    fn attach(&mut self, dir: &Path) {
        self.log.inner.attach(dir);
    }

    fn path(&self) -> &Path {
        self.log.inner.path()
    }

    fn list(&mut self) -> io::Result<Option<Vec<FileInfo>>> {
        self.log.inner.list()
    }

    fn make(&mut self) -> io::Result<()> {
        self.log.inner.make()
    }

    fn lock(&mut self) -> Result<(), LockError> {
        self.log.inner.lock()
    }

    fn entropy(&mut self) -> io::Result<[u8; 32]> {
        self.log.inner.entropy()
    }

    fn room(&mut self) -> Option<Room> {
        self.log.inner.room()
    }

    fn run(&mut self, mut op: Op) -> io::Result<Output> {
        let (disk, is_beside) = self.route(&mut op);
        disk.inner.run(op).map(|output| told(output, is_beside))
    }

    fn submit(&mut self, token: Token, mut op: Op) {
        let (disk, _) = self.route(&mut op);
        disk.submit(token, op);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Completion> {
        if let Poll::Ready(completion) = self.log.poll(cx) {
            return Poll::Ready(completion);
        }
        let polled = self.beside.as_mut().map(|beside| beside.poll(cx));
        let Some(Poll::Ready(Completion { token, result })) = polled else {
            return Poll::Pending;
        };
        let result = result.map(|output| told(output, true));
        Poll::Ready(Completion { token, result })
    }
}
