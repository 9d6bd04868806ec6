//! One checkpoint being written: which operation of the disk comes next, and what its end means.
//!
//! ```text
//! make the folder, remove what is left of attempts, take the room (or the reserve's),
//! write piece by piece, sync, close, rename, sync the folder, remove what is superseded, make the reserve
//! ```
//!
//! The room for all of it is taken first, so that a full file system is met before anything was
//! written; what is too large for the room there is may find it in the reserve (see `room`). One that fails
//! or is given up closes its file and removes it, and only then says how it ended: the next attempt may have
//! the same name. From the rename on it goes on to its end: it is whole.
//! Must never know: the log, clocks, when its operations are done.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;

use bytes::Bytes;

use super::format::{self, HEAD_BYTES, Next};
use super::pace::{PIECE_BYTES, Pace};
use super::{BYTES_PER_SECOND, CheckpointError, MAKE_ROOM, Meta, needless, room};
use crate::disk::{AlignedBuf, FileId, Op, Output, place_of};
use crate::{BLOCK_BYTES, Shortage};

/// Chunks on their way to the disk: with the largest chunks, 1 MiB.
const QUEUE_MAX: usize = 4;
/// Room for the smallest: its header, a chunk and the footer.
const ROOM_BYTES_MIN: u64 = 2 * BLOCK_BYTES as u64;

/// A finished checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finished {
    /// The file.
    pub path: PathBuf,
    /// Whose snapshot it is.
    pub meta: Meta,
    /// Bytes of its chunks.
    pub bytes: u64,
}

/// How a checkpoint is to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Most bytes per second; 0: as fast as the disk takes it.
    pub bytes_per_second: u64,
    /// It will have at least so many bytes: without room for them it fails before it writes any.
    pub bytes_min: u64,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            bytes_per_second: BYTES_PER_SECOND,
            bytes_min: 0,
        }
    }
}

/// What comes next, or what the operation in flight does.
#[derive(Debug)]
enum Step {
    MakeFolder,
    ListLeft,
    RemoveLeft,
    TakeRoom,
    /// There was no room, says this error.
    SpendReserve(io::Error),
    Create,
    Write,
    Sync,
    Close,
    Rename,
    SyncFolder,
    ListOlder,
    RemoveOlder,
    MakeReserve,
    CloseReserve(FileId),
    /// It comes to nothing: what was made goes.
    GiveUpFile,
    GiveUpName,
    Ended,
}

/// A checkpoint being written.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) folder: String,
    pub(super) meta: Meta,
    plan: Plan,
    /// The log's directory, for messages.
    dir: PathBuf,
    step: Step,
    /// An operation that is no write.
    in_flight: bool,
    pace: Pace,
    /// Chunks to come.
    chunks: VecDeque<Bytes>,
    /// The last one was handed over.
    is_last: bool,
    /// A chunk was refused since there was room for one last.
    refused: bool,
    /// Its owner should look.
    news: bool,
    /// Bytes of the file that wait to be written, and how much of the first is.
    out: VecDeque<Bytes>,
    out_at: usize,
    buf: AlignedBuf,
    spare: Vec<AlignedBuf>,
    /// The footer is in `out`.
    is_sealed: bool,
    file: Option<FileId>,
    /// The file may be there under its first name.
    is_made: bool,
    has_room: bool,
    has_reserve: bool,
    /// Bytes given to the disk.
    at: u64,
    /// Chunks, their bytes, and their checksums'.
    number: u64,
    bytes: u64,
    chain: u32,
    to_remove: Vec<String>,
    abandoned: bool,
    failed: Option<CheckpointError>,
}

impl Writer {
    pub(super) fn new(dir: PathBuf, folder: &str, meta: Meta, plan: Plan) -> Self {
        Self {
            folder: folder.into(),
            meta,
            plan,
            dir,
            step: Step::MakeFolder,
            in_flight: false,
            pace: Pace::new(plan.bytes_per_second),
            chunks: VecDeque::new(),
            is_last: false,
            refused: false,
            news: false,
            out: VecDeque::from([Bytes::from(format::header(&meta))]),
            out_at: 0,
            buf: AlignedBuf::default(),
            spare: Vec::new(),
            is_sealed: false,
            file: None,
            is_made: false,
            has_room: false,
            has_reserve: false,
            at: 0,
            number: 0,
            bytes: 0,
            chain: 0,
            to_remove: Vec::new(),
            abandoned: false,
            failed: None,
        }
    }

    /// Takes the next chunk, unless it has enough of them.
    pub(super) fn push(&mut self, chunk: Bytes) -> bool {
        // Chunks that do not even make a piece are not waited for.
        self.refused = self.chunks.len() >= QUEUE_MAX && self.has_piece();
        if !self.refused {
            self.chunks.push_back(chunk);
        }
        !self.refused
    }

    /// No chunk is taken any more.
    pub(super) fn is_closed(&self) -> bool {
        self.is_last || self.failed.is_some() || self.abandoned || self.is_ended()
    }

    pub(super) fn finish(&mut self) {
        self.is_last = true;
    }

    pub(super) fn has_room(&self) -> bool {
        self.has_room
    }

    pub(super) fn is_ended(&self) -> bool {
        matches!(self.step, Step::Ended)
    }

    pub(super) fn is_abandoned(&self) -> bool {
        self.abandoned
    }

    /// Whether its owner should look, since it was asked last.
    pub(super) fn take_news(&mut self) -> bool {
        std::mem::take(&mut self.news)
    }

    /// How it ended, if it has.
    pub(super) fn outcome(&self) -> Option<Result<Finished, CheckpointError>> {
        if !self.is_ended() {
            return None;
        }
        Some(match &self.failed {
            Some(error) => Err(error.clone()),
            None => Ok(Finished {
                path: place_of(&self.dir, &self.name()),
                meta: self.meta,
                bytes: self.bytes,
            }),
        })
    }

    /// Nobody wants it any more: unless it is whole already, it goes.
    pub(super) fn abandon(&mut self) {
        self.abandoned = true;
        self.chunks.clear();
        if !self.in_flight && self.pace.in_flight == 0 {
            self.turn_back();
        }
    }

    /// The file it leaves behind if nothing more is done, as far as anybody knows.
    pub(super) fn left_over(&self) -> Option<String> {
        self.is_made.then(|| self.tmp())
    }

    /// From here on what was made is undone, if it is not whole.
    fn turn_back(&mut self) {
        let is_unfinished = matches!(
            self.step,
            Step::MakeFolder
                | Step::ListLeft
                | Step::RemoveLeft
                | Step::TakeRoom
                | Step::SpendReserve(_)
                | Step::Create
                | Step::Write
                | Step::Sync
                | Step::Close
        );
        let given_up = self.failed.is_some() || (self.abandoned && is_unfinished);
        if given_up && !matches!(self.step, Step::GiveUpFile | Step::GiveUpName) {
            self.step = match (self.file, self.is_made) {
                (Some(_), _) => Step::GiveUpFile,
                (None, true) => Step::GiveUpName,
                (None, false) => self.end(),
            };
        }
    }

    fn end(&mut self) -> Step {
        self.news = true;
        Step::Ended
    }

    fn name(&self) -> String {
        format!("{}/{}", self.folder, format::name(&self.meta))
    }

    fn tmp(&self) -> String {
        format!("{}/{}", self.folder, format::tmp_name(&self.meta))
    }

    /// When it wants to go on, if it waits for a time.
    pub(super) fn due_micros(&self, now_micros: u64) -> Option<u64> {
        let writes = self.is_writing() && self.has_piece();
        self.pace.due_micros(now_micros).filter(|_| writes)
    }

    fn is_writing(&self) -> bool {
        matches!(self.step, Step::Write) && self.failed.is_none() && !self.abandoned
    }

    /// There are the bytes for a piece, or all of the last one.
    fn has_piece(&self) -> bool {
        let waiting: usize = self.out.iter().map(Bytes::len).sum();
        let bytes = self.buf.len() + waiting - self.out_at;
        let to_come = self.chunks.iter().map(|chunk| HEAD_BYTES + chunk.len());
        let is_complete = self.is_last && !self.is_done();
        is_complete || bytes + to_come.sum::<usize>() >= PIECE_BYTES
    }

    /// All of the file was given to the disk.
    fn is_done(&self) -> bool {
        self.is_sealed && self.out.is_empty() && self.buf.is_empty()
    }

    /// The next operation, if there is one now.
    pub(super) fn next(&mut self, now_micros: u64) -> Option<Op> {
        if self.is_writing() {
            if let Some(op) = self.next_piece(now_micros) {
                return Some(op);
            }
            if !(self.is_last && self.pace.in_flight == 0) {
                return None;
            }
            if !(self.chunks.is_empty() && self.is_done()) {
                return None;
            }
            self.step = Step::Sync;
        }
        if self.in_flight || self.pace.in_flight > 0 {
            return None;
        }
        let op = self.operation()?;
        self.in_flight = true;
        Some(op)
    }

    /// What the present step does.
    fn operation(&mut self) -> Option<Op> {
        let folder = self.folder.clone();
        Some(match &self.step {
            Step::MakeFolder => Op::MakeFolder { folder },
            Step::ListLeft | Step::ListOlder => Op::List { folder },
            Step::RemoveLeft | Step::RemoveOlder => Op::Remove {
                name: self.to_remove.last()?.clone(),
            },
            Step::TakeRoom => {
                self.is_made = true;
                Op::Create {
                    name: self.tmp(),
                    room: self.plan.bytes_min.max(ROOM_BYTES_MIN),
                }
            }
            Step::SpendReserve(_) => {
                self.is_made = true;
                Op::Rename {
                    from: room::reserve_in(&folder),
                    to: self.tmp(),
                }
            }
            Step::Create => {
                self.is_made = true;
                Op::Create {
                    name: self.tmp(),
                    room: 0,
                }
            }
            Step::Sync => Op::Sync {
                file: self.file?,
                bytes: self.at,
            },
            Step::Close | Step::GiveUpFile => Op::Close { file: self.file? },
            Step::Rename => Op::Rename {
                from: self.tmp(),
                to: self.name(),
            },
            Step::SyncFolder => Op::SyncFolder { folder },
            Step::MakeReserve => room::make_reserve(&folder),
            Step::CloseReserve(file) => Op::Close { file: *file },
            Step::GiveUpName => Op::Remove { name: self.tmp() },
            Step::Write | Step::Ended => return None,
        })
    }

    /// The next piece, if it may go.
    fn next_piece(&mut self, now_micros: u64) -> Option<Op> {
        let due = self.due_micros(now_micros)?;
        if due > now_micros {
            return None;
        }
        self.fill();
        let (offset, bytes) = (self.at, self.buf.len());
        let mut buf = std::mem::replace(&mut self.buf, self.spare.pop().unwrap_or_default());
        self.buf.clear();
        self.at += bytes as u64;
        buf.resize(bytes.next_multiple_of(BLOCK_BYTES));
        self.pace.sent(now_micros);
        Some(Op::Write {
            file: self.file?,
            offset,
            buf,
        })
    }

    /// Fills the buffer with the next bytes of the file, as far as there are any.
    fn fill(&mut self) {
        self.buf.reserve(PIECE_BYTES - self.buf.len());
        while self.buf.len() < PIECE_BYTES {
            let Some(first) = self.out.front() else {
                if !self.more() {
                    return;
                }
                continue;
            };
            let rest = &first[self.out_at..];
            let n = rest.len().min(PIECE_BYTES - self.buf.len());
            self.buf.extend(&rest[..n]);
            self.out_at += n;
            if self.out_at == first.len() {
                self.out.pop_front();
                self.out_at = 0;
            }
        }
    }

    /// The bytes of the next chunk, or of the footer; whether there were any.
    fn more(&mut self) -> bool {
        let Some(chunk) = self.chunks.pop_front() else {
            let seal = self.is_last && !std::mem::replace(&mut self.is_sealed, self.is_last);
            if seal {
                let footer = Next::Footer {
                    chunks: self.number,
                    bytes: self.bytes,
                    chain: self.chain,
                };
                self.out.push_back(Bytes::copy_from_slice(&footer.encode()));
            }
            return seal;
        };
        self.news |= std::mem::take(&mut self.refused);
        let crc = crc32c::crc32c(&chunk);
        let head = Next::Chunk {
            bytes: chunk.len() as u32,
            number: self.number,
            group: self.meta.group,
            index: self.meta.index,
            crc,
        };
        self.number += 1;
        self.bytes += chunk.len() as u64;
        self.chain = format::chain(self.chain, crc);
        let padding = chunk.len().next_multiple_of(8) - chunk.len();
        self.out.push_back(Bytes::copy_from_slice(&head.encode()));
        let parts = [chunk, Bytes::from_static(&[0; 7][..padding])];
        self.out
            .extend(parts.into_iter().filter(|part| !part.is_empty()));
        true
    }

    /// A piece was written, or failed.
    pub(super) fn landed(&mut self, result: io::Result<Output>, now_micros: u64) {
        self.pace.landed(now_micros);
        match result {
            Ok(Output::Buf(buf)) => self.spare.push(buf),
            Ok(_) => {}
            Err(e) => self.fail(&self.tmp(), "write", e),
        }
        if self.pace.in_flight == 0 {
            self.turn_back();
        }
    }

    /// The operation in flight ended, which was no write.
    pub(super) fn done(&mut self, result: io::Result<Output>) {
        self.in_flight = false;
        let step = std::mem::replace(&mut self.step, Step::Ended);
        self.step = match result {
            Ok(output) => self.after(step, output),
            Err(e) => self.after_failure(step, e),
        };
        self.turn_back();
    }

    fn after(&mut self, step: Step, output: Output) -> Step {
        match (step, output) {
            (Step::MakeFolder, _) => Step::ListLeft,
            (Step::ListLeft, Output::Files(files)) => {
                self.to_remove = needless(&files, &self.folder, self.meta.group, 0);
                self.remove_or(Step::RemoveLeft, Step::TakeRoom)
            }
            (Step::RemoveLeft, _) => {
                self.to_remove.pop();
                self.remove_or(Step::RemoveLeft, Step::TakeRoom)
            }
            (Step::TakeRoom | Step::Create, Output::Opened { file, .. }) => {
                self.file = Some(file);
                (self.has_room, self.news) = (true, true);
                Step::Write
            }
            (Step::SpendReserve(_), _) => Step::Create,
            (Step::Sync, _) => Step::Close,
            (Step::Close, _) => {
                self.file = None;
                Step::Rename
            }
            (Step::Rename, _) => {
                self.is_made = false;
                Step::SyncFolder
            }
            (Step::SyncFolder, _) => Step::ListOlder,
            (Step::ListOlder, Output::Files(files)) => {
                let Meta { group, index, .. } = self.meta;
                self.to_remove = needless(&files, &self.folder, group, index);
                self.has_reserve = room::has_reserve(&files);
                self.older_or_reserve()
            }
            (Step::RemoveOlder, _) => {
                self.to_remove.pop();
                self.older_or_reserve()
            }
            (Step::MakeReserve, Output::Opened { file, .. }) => Step::CloseReserve(file),
            (Step::GiveUpFile, _) => {
                self.file = None;
                Step::GiveUpName
            }
            (Step::GiveUpName, _) => {
                self.is_made = false;
                self.end()
            }
            // A listing without files, an opening without a file: no disk does that.
            (step @ (Step::ListLeft | Step::ListOlder | Step::TakeRoom | Step::Create), _) => {
                self.after_failure(step, io::Error::other("nothing came back"))
            }
            (Step::MakeReserve | Step::CloseReserve(_) | Step::Write | Step::Ended, _) => {
                self.end()
            }
        }
    }

    fn remove_or(&self, remove: Step, otherwise: Step) -> Step {
        match self.to_remove.is_empty() {
            true => otherwise,
            false => remove,
        }
    }

    fn older_or_reserve(&mut self) -> Step {
        if !self.to_remove.is_empty() {
            return Step::RemoveOlder;
        }
        // For the next one; where there is no room for it, this one had none to spare either.
        match self.has_reserve {
            true => self.end(),
            false => Step::MakeReserve,
        }
    }

    fn after_failure(&mut self, step: Step, e: io::Error) -> Step {
        let (name, doing) = match step {
            Step::TakeRoom => {
                // The disk left no such file.
                self.is_made = false;
                let fits = self.plan.bytes_min <= room::RESERVE_BYTES;
                match Shortage::of(&e) {
                    Some(_) if fits => return Step::SpendReserve(e),
                    Some(_) => (self.tmp(), MAKE_ROOM),
                    None => (self.tmp(), "create"),
                }
            }
            // There is no reserve either: what was said first counts.
            Step::SpendReserve(no_room) => {
                self.is_made = false;
                self.fail(&self.tmp(), MAKE_ROOM, no_room);
                return self.end();
            }
            Step::MakeFolder => (self.folder.clone(), "make"),
            Step::ListLeft | Step::ListOlder => (self.folder.clone(), "list"),
            Step::RemoveLeft | Step::RemoveOlder => {
                let name = self.to_remove.pop();
                (name.unwrap_or_default(), "remove")
            }
            Step::Create => (self.tmp(), "create"),
            Step::Write => (self.tmp(), "write"),
            Step::Sync => (self.tmp(), "sync"),
            Step::Close => (self.tmp(), "close"),
            Step::Rename => (self.tmp(), "rename"),
            Step::SyncFolder => (self.folder.clone(), "sync"),
            Step::MakeReserve | Step::CloseReserve(_) | Step::Ended => return self.end(),
            Step::GiveUpFile => {
                self.file = None;
                return Step::GiveUpName;
            }
            // A left-over goes with the next attempt; nobody reads it.
            Step::GiveUpName => {
                self.is_made = false;
                return self.end();
            }
        };
        self.fail(&name, doing, e);
        // `turn_back` says what is to be undone; with nothing made, that is all.
        step
    }

    fn fail(&mut self, name: &str, doing: &'static str, e: io::Error) {
        let path = place_of(&self.dir, name);
        let fault = e.into();
        self.failed
            .get_or_insert(CheckpointError::Io { path, doing, fault });
        self.chunks.clear();
    }
}
