//! Writing a checkpoint beside traffic: chunks go over a bounded channel to a thread that writes,
//! syncs, names, and removes what is then superseded. Nothing here blocks the caller, but for the drop
//! of an unfinished one: its thread is at most one piece or one sync away from its end, and must not
//! go on in a directory that somebody else may have opened by then.
//!
//! The room for all of it is taken first, so that a full file system is met before anything was
//! written; what is too large for the room there is may find it in the reserve (see `room`).

use std::fs::{DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;

use super::format::{self, Next};
use super::{CHUNK_BYTES_MAX, CheckpointError, MAKE_ROOM, Meta, io, room, sweep};
use crate::disk::{AlignedBuf, file_bytes_max};
use crate::{BLOCK_BYTES, Shortage};

/// Chunks on their way to the thread: with the largest chunks, 1 MiB.
const QUEUE_MAX: usize = 4;
/// Bytes per second a checkpoint may write, unless it is told otherwise: less than a tenth of what the
/// reference machine's disk writes, so that the log's commits find it free (measured: at full speed the
/// p99 of a commit is 13 times as long).
pub const BYTES_PER_SECOND: u64 = 64 * 1024 * 1024;
/// Room for the smallest: its header, a chunk and the footer.
const ROOM_BYTES_MIN: u64 = 2 * BLOCK_BYTES as u64;
/// Written at once: what a commit may have to wait for. Measured side by side, the p99 of a lone
/// writer's commits beside a checkpoint is 1.6 times as long with pieces of 128 KiB, 1.4 with 32.
const PIECE_BYTES: usize = 32 * 1024;

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

/// Why a chunk was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PushError {
    /// The thread is behind: keep the chunk and try again when woken.
    #[error("the writer is behind")]
    Full,
    /// Longer than [`CHUNK_BYTES_MAX`].
    #[error("a chunk of {0} bytes is too large")]
    TooLarge(usize),
    /// The thread has ended with an error, which [`Writer::poll`] gives; or after `finish`.
    #[error("the writer has ended")]
    Ended,
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

/// A checkpoint being written. Dropped unfinished, it leaves nothing behind.
pub struct Writer {
    chunks: Option<SyncSender<Bytes>>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    /// The caller has pushed everything.
    finish: AtomicBool,
    /// The caller is gone.
    abandoned: AtomicBool,
    /// The room that the plan speaks of is taken.
    has_room: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    outcome: Option<Result<Finished, CheckpointError>>,
    waker: Option<Waker>,
}

impl Writer {
    /// Begin a checkpoint in `dir` (made if absent) on a thread of its own, at [`BYTES_PER_SECOND`].
    pub fn create(dir: &Path, meta: Meta) -> Result<Self, CheckpointError> {
        Self::begin(dir, meta, Plan::default())
    }

    /// As [`Writer::create`], by this plan.
    pub fn begin(dir: &Path, meta: Meta, plan: Plan) -> Result<Self, CheckpointError> {
        let (chunks, queue) = sync_channel(QUEUE_MAX);
        let shared = Arc::<Shared>::default();
        let (dir, theirs) = (dir.to_path_buf(), shared.clone());
        let thread = std::thread::Builder::new().name("henge-checkpoint".into());
        let path = dir.clone();
        let spawned = thread.spawn(move || {
            let job = Job {
                dir: &dir,
                meta,
                plan,
                gate: Gate::default(),
            };
            let outcome = job.run(&queue, &theirs);
            let mut state = theirs.state();
            state.outcome = outcome.transpose();
            state.wake();
        });
        let thread = spawned.map_err(|e| io(&path, "start a thread for", e))?;
        Ok(Self {
            chunks: Some(chunks),
            shared,
            thread: Some(thread),
        })
    }

    /// Hand over the next chunk, without waiting.
    pub fn try_push(&mut self, chunk: Bytes) -> Result<(), PushError> {
        if chunk.len() > CHUNK_BYTES_MAX {
            return Err(PushError::TooLarge(chunk.len()));
        }
        let chunks = self.chunks.as_ref().ok_or(PushError::Ended)?;
        chunks.try_send(chunk).map_err(|e| match e {
            TrySendError::Full(_) => PushError::Full,
            TrySendError::Disconnected(_) => PushError::Ended,
        })
    }

    /// That was the last chunk.
    pub fn finish(&mut self) {
        self.shared.finish.store(true, Ordering::Release);
        self.chunks = None;
    }

    /// Whether the room for [`Plan::bytes_min`] is taken. Who waits in [`Writer::poll`] is woken.
    pub fn has_room(&self) -> bool {
        self.shared.has_room.load(Ordering::Acquire)
    }

    /// How it ended: ready once the checkpoint is durable under its name, or has failed. While pending,
    /// `cx` is woken whenever there is room for a chunk again, too.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Finished, CheckpointError>> {
        let mut state = self.shared.state();
        match &state.outcome {
            Some(outcome) => Poll::Ready(outcome.clone()),
            None => {
                state.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.shared.abandoned.store(true, Ordering::Release);
        self.chunks = None;
        if let Some(thread) = self.thread.take() {
            // One that panicked has nothing left to do in the directory either.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn is_abandoned(&self) -> bool {
        self.abandoned.load(Ordering::Acquire)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// The thread's work.
struct Job<'a> {
    dir: &'a Path,
    meta: Meta,
    plan: Plan,
    gate: Gate,
}

/// Every operation on a file passes it: tests let one fail, or all from one on.
#[derive(Clone, Debug, Default)]
struct Gate {
    #[cfg(test)]
    fault: Option<std::rc::Rc<tests::Fault>>,
}

impl Gate {
    fn pass(&self) -> std::io::Result<()> {
        #[cfg(test)]
        if let Some(fault) = &self.fault {
            return fault.pass();
        }
        Ok(())
    }
}

/// The file, written in pieces with rests between them, past the page cache where the file system
/// allows: dirty pages would pile up and then hit the disk, and with it the log's commits, all at once.
struct Out {
    file: File,
    buf: AlignedBuf,
    at: u64,
    bytes_per_second: u64,
    gate: Gate,
}

impl Out {
    fn create(path: &Path, plan: &Plan, gate: &Gate) -> std::io::Result<Self> {
        gate.pass()?;
        let options = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .clone();
        let file = match options.clone().custom_flags(libc::O_DIRECT).open(path) {
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => options.open(path)?,
            file => file?,
        };
        Ok(Self {
            file,
            buf: AlignedBuf::with_capacity(2 * PIECE_BYTES),
            at: 0,
            bytes_per_second: plan.bytes_per_second,
            gate: gate.clone(),
        })
    }

    fn push(&mut self, mut bytes: &[u8]) -> std::io::Result<()> {
        while !bytes.is_empty() {
            let n = (PIECE_BYTES - self.buf.len()).min(bytes.len());
            self.buf.extend(&bytes[..n]);
            bytes = &bytes[n..];
            if self.buf.len() == PIECE_BYTES {
                self.flush()?;
                self.rest();
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.gate.pass()?;
        // The kernel would not only refuse: it ends a process that has not thought of SIGXFSZ.
        if self.at + self.buf.len() as u64 > file_bytes_max() {
            return Err(std::io::Error::from_raw_os_error(libc::EFBIG));
        }
        self.file.write_all_at(&self.buf, self.at)?;
        self.at += self.buf.len() as u64;
        self.buf.clear();
        Ok(())
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "a thread of its own, which nobody waits for"
    )]
    fn rest(&self) {
        if let Some(micros) = (PIECE_BYTES as u64 * 1_000_000).checked_div(self.bytes_per_second) {
            std::thread::sleep(Duration::from_micros(micros));
        }
    }

    /// Write what is left and make all of it durable.
    fn finish(mut self) -> std::io::Result<()> {
        let bytes = self.at + self.buf.len() as u64;
        self.buf
            .resize(self.buf.len().next_multiple_of(BLOCK_BYTES));
        self.flush()?;
        self.gate.pass()?;
        self.file.set_len(bytes)?;
        self.gate.pass()?;
        self.file.sync_all()
    }
}

impl Job<'_> {
    /// `None`: the caller gave up.
    fn run(
        &self,
        queue: &Receiver<Bytes>,
        shared: &Shared,
    ) -> Result<Option<Finished>, CheckpointError> {
        let path = self.dir.join(format::name(&self.meta));
        let tmp = path.with_extension("tmp");
        let written = self.write(&tmp, queue, shared);
        let bytes = match written {
            Ok(Some(bytes)) if !shared.is_abandoned() => bytes,
            unfinished => {
                // A left-over goes with the next attempt; nobody reads it.
                let _ = std::fs::remove_file(&tmp);
                return unfinished.map(|_| None);
            }
        };
        let renamed = self.gate.pass().and_then(|()| std::fs::rename(&tmp, &path));
        renamed.map_err(|e| io(&tmp, "rename", e))?;
        self.sync_dir()?;
        self.gate
            .pass()
            .map_err(|e| io(self.dir, "remove older ones in", e))?;
        sweep(self.dir, self.meta.group, self.meta.index)?;
        // For the next one; where there is no room for it, this one had none to spare either.
        room::make_reserve(self.dir);
        Ok(Some(Finished {
            path,
            meta: self.meta,
            bytes,
        }))
    }

    fn write(
        &self,
        tmp: &Path,
        queue: &Receiver<Bytes>,
        shared: &Shared,
    ) -> Result<Option<u64>, CheckpointError> {
        let made = DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(self.dir);
        made.map_err(|e| io(self.dir, "make", e))?;
        // What an attempt of an earlier process left would take the room that this one needs.
        sweep(self.dir, self.meta.group, 0)?;
        self.make_room(tmp)?;
        shared.has_room.store(true, Ordering::Release);
        shared.state().wake();
        let out = Out::create(tmp, &self.plan, &self.gate);
        let mut out = out.map_err(|e| io(tmp, "create", e))?;
        let failed = |e| io(tmp, "write", e);
        out.push(&format::header(&self.meta)).map_err(failed)?;
        let (mut number, mut bytes, mut chain) = (0, 0, 0);
        let Meta { group, index, .. } = self.meta;
        while let Ok(chunk) = queue.recv()
            && !shared.is_abandoned()
        {
            shared.state().wake();
            let crc = crc32c::crc32c(&chunk);
            let head = Next::Chunk {
                bytes: chunk.len() as u32,
                number,
                group,
                index,
                crc,
            };
            out.push(&head.encode()).map_err(failed)?;
            out.push(&chunk).map_err(failed)?;
            let padding = chunk.len().next_multiple_of(8) - chunk.len();
            out.push(&[0; 7][..padding]).map_err(failed)?;
            number += 1;
            bytes += chunk.len() as u64;
            chain = format::chain(chain, crc);
        }
        if !shared.finish.load(Ordering::Acquire) || shared.is_abandoned() {
            return Ok(None);
        }
        let footer = Next::Footer {
            chunks: number,
            bytes,
            chain,
        };
        out.push(&footer.encode()).map_err(failed)?;
        out.finish().map_err(|e| io(tmp, "sync", e))?;
        Ok(Some(bytes))
    }

    fn sync_dir(&self) -> Result<(), CheckpointError> {
        let open = self.gate.pass().and_then(|()| File::open(self.dir));
        let synced = open.and_then(|dir| dir.sync_all());
        synced.map_err(|e| io(self.dir, "sync", e))
    }

    /// Takes the room for what is to come, from the reserve if there is no other.
    fn make_room(&self, tmp: &Path) -> Result<(), CheckpointError> {
        let taken = room::take(tmp, self.plan.bytes_min.max(ROOM_BYTES_MIN));
        match taken {
            Err(e) if Shortage::of(&e).is_some() => {
                let _ = std::fs::remove_file(tmp);
                let fits = self.plan.bytes_min <= room::RESERVE_BYTES;
                if fits && room::spend_reserve(self.dir, tmp) {
                    return Ok(());
                }
                Err(io(tmp, MAKE_ROOM, e))
            }
            // Where a file system cannot, the writing finds out.
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use super::super::{Reader, latest};
    use super::*;

    /// The n-th operation fails; or all from it on.
    #[derive(Debug)]
    pub(super) struct Fault {
        at: u64,
        for_ever: bool,
        passed: Cell<u64>,
    }

    impl Fault {
        pub(super) fn pass(&self) -> std::io::Result<()> {
            let n = self.passed.replace(self.passed.get() + 1);
            match n == self.at || (self.for_ever && n > self.at) {
                true => Err(std::io::Error::from_raw_os_error(libc::EIO)),
                false => Ok(()),
            }
        }
    }

    /// Write the group's snapshot up to `index`; whether the fault was reached.
    fn write(dir: &Path, index: u64, at: u64, for_ever: bool) -> (bool, Option<Finished>) {
        let meta = Meta {
            cluster_id: 1,
            member_id: 2,
            group: 7,
            index,
            term: 3,
        };
        let fault = Rc::new(Fault {
            at,
            for_ever,
            passed: Cell::new(0),
        });
        let job = Job {
            dir,
            meta,
            plan: Plan {
                bytes_per_second: 0,
                bytes_min: 0,
            },
            gate: Gate {
                fault: Some(fault.clone()),
            },
        };
        let (chunks, queue) = sync_channel(8);
        let shared = Shared::default();
        for n in 0..4 {
            let chunk = Bytes::from(vec![index as u8 + n; 30_000]);
            chunks.send(chunk).expect("there is room");
        }
        shared.finish.store(true, Ordering::Release);
        drop(chunks);
        let done = job.run(&queue, &shared);
        let reached = fault.passed.get() > at;
        if let Err(error) = &done {
            assert!(
                reached && matches!(error, CheckpointError::Io { .. }),
                "{error}"
            );
        }
        (reached, done.unwrap_or_default())
    }

    /// Fault D6 to D8 for checkpoints: the n-th operation fails, for all n, once or from then on. There is
    /// always a whole snapshot, the older one or the newer, and the next attempt succeeds.
    #[test]
    fn the_nth_operation_of_a_checkpoint_fails_for_all_n() {
        let dir = std::env::temp_dir().join(format!("henge-ckpt-{}", std::process::id()));
        let mut cases = 0;
        for for_ever in [false, true] {
            for at in 0.. {
                let _ = std::fs::remove_dir_all(&dir);
                write(&dir, 5, u64::MAX, false).1.expect("the older one");
                let (reached, done) = write(&dir, 9, at, for_ever);
                let path = latest(&dir, 7).expect("readable").expect("there is one");
                let mut reader = Reader::open(&path).expect("whole");
                let (index, mut chunks) = (reader.meta().index, 0);
                while let Some(chunk) = reader.next_chunk().expect("whole") {
                    assert!(chunk.iter().all(|b| *b == index as u8 + chunks));
                    chunks += 1;
                }
                assert_eq!(chunks, 4);
                assert!(
                    index == 9 || done.is_none(),
                    "at {at}: it said that it was there"
                );
                if !reached {
                    assert!(done.is_some());
                    break;
                }
                cases += 1;
                write(&dir, 9, u64::MAX, false).1.expect("the next attempt");
                let files = std::fs::read_dir(&dir).expect("a directory");
                let left = files.filter_map(|file| Some(file.ok()?.file_name()));
                let left = left.filter(|name| name != room::RESERVE_NAME).count();
                assert_eq!(left, 1, "at {at}: nothing is left over");
            }
        }
        let _ = std::fs::remove_dir_all(&dir);
        assert!(cases > 14, "{cases}");
    }
}
