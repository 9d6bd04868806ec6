//! Writing a checkpoint beside traffic: chunks go over a bounded channel to a thread that writes,
//! syncs, names, and removes what is then superseded. Nothing here blocks the caller.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

use super::format::{self, Next};
use super::{CHUNK_BYTES_MAX, CheckpointError, Meta, all, io};

/// Chunks on their way to the thread: with the largest chunks, 1 MiB.
const QUEUE_MAX: usize = 4;
/// Synced this often, so that dirty pages do not pile up and then hit the disk, and with it the log's
/// commits, all at once.
const SYNC_EVERY_BYTES: u64 = 8 * 1024 * 1024;

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

/// A checkpoint being written. Dropped unfinished, it leaves nothing behind.
pub struct Writer {
    chunks: Option<SyncSender<Bytes>>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// The caller has pushed everything.
    finish: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    outcome: Option<Result<Finished, CheckpointError>>,
    waker: Option<Waker>,
}

impl Writer {
    /// Begin a checkpoint in `dir` (made if absent) on a thread of its own.
    pub fn create(dir: &Path, meta: Meta) -> Result<Self, CheckpointError> {
        let (chunks, queue) = sync_channel(QUEUE_MAX);
        let shared = Arc::<Shared>::default();
        let (dir, theirs) = (dir.to_path_buf(), shared.clone());
        let thread = std::thread::Builder::new().name("henge-checkpoint".into());
        let path = dir.clone();
        let spawned = thread.spawn(move || {
            let outcome = Job { dir: &dir, meta }.run(&queue, &theirs);
            let mut state = theirs.state();
            state.outcome = outcome.transpose();
            state.wake();
        });
        spawned.map_err(|e| io(&path, "start a thread for", e))?;
        Ok(Self {
            chunks: Some(chunks),
            shared,
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

impl Shared {
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
            Ok(Some(bytes)) => bytes,
            unfinished => {
                // A left-over is overwritten by the next attempt; nobody reads it.
                let _ = std::fs::remove_file(&tmp);
                return unfinished.map(|_| None);
            }
        };
        std::fs::rename(&tmp, &path).map_err(|e| io(&tmp, "rename", e))?;
        self.sync_dir()?;
        self.remove_older()?;
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
        let open = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(tmp);
        let mut file = open.map_err(|e| io(tmp, "create", e))?;
        let failed = |e| io(tmp, "write", e);
        file.write_all(&format::header(&self.meta))
            .map_err(failed)?;
        let (mut number, mut bytes, mut chain, mut unsynced) = (0, 0, 0, 0);
        let Meta { group, index, .. } = self.meta;
        while let Ok(chunk) = queue.recv() {
            shared.state().wake();
            let crc = crc32c::crc32c(&chunk);
            let head = Next::Chunk {
                bytes: chunk.len() as u32,
                number,
                group,
                index,
                crc,
            };
            file.write_all(&head.encode()).map_err(failed)?;
            file.write_all(&chunk).map_err(failed)?;
            let padding = chunk.len().next_multiple_of(8) - chunk.len();
            file.write_all(&[0; 7][..padding]).map_err(failed)?;
            number += 1;
            bytes += chunk.len() as u64;
            unsynced += chunk.len() as u64;
            chain = format::chain(chain, crc);
            if unsynced >= SYNC_EVERY_BYTES {
                file.sync_data().map_err(|e| io(tmp, "sync", e))?;
                unsynced = 0;
            }
        }
        if !shared.finish.load(Ordering::Acquire) {
            return Ok(None);
        }
        let footer = Next::Footer {
            chunks: number,
            bytes,
            chain,
        };
        file.write_all(&footer.encode()).map_err(failed)?;
        file.sync_all().map_err(|e| io(tmp, "sync", e))?;
        Ok(Some(bytes))
    }

    fn sync_dir(&self) -> Result<(), CheckpointError> {
        let synced = File::open(self.dir).and_then(|dir| dir.sync_all());
        synced.map_err(|e| io(self.dir, "sync", e))
    }

    /// The new one is durable: older ones of its group are not needed.
    fn remove_older(&self) -> Result<(), CheckpointError> {
        for (index, path) in all(self.dir, self.meta.group)? {
            if index < self.meta.index {
                std::fs::remove_file(&path).map_err(|e| io(&path, "remove", e))?;
            }
        }
        Ok(())
    }
}
