//! A disk inside a tokio-uring runtime: writes and reads through that runtime's ring; what may block
//! (making, naming and opening files) on helper threads.
//!
//! A write enters the ring's submission queue when it is submitted, and is owned by a spawned task
//! that nothing cancels: dropping the log leaves the buffer with the task until the kernel is done
//! with it. tokio-uring 0.5 hands the queue to the kernel when the executor parks (or when the queue
//! is full), so a core that submits should have nothing else to run, or yield.
//!
//! Use it only on a thread that runs inside a tokio-uring runtime; ask [`probe`] first.

use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio_uring::buf::BoundedBuf;
use tokio_uring::fs::File;

use super::helpers::{Finished, Helped, by_helpers};
use super::{AlignedBuf, Completion, Disk, FileId, Op, Output, Token};

/// Can this process use io_uring? The reason if not: seccomp (EPERM), an old kernel (ENOSYS),
/// `kernel.io_uring_disabled` (EPERM), or no memory for a ring. Starts and ends a small ring.
pub fn probe() -> Result<(), String> {
    match tokio_uring::Runtime::new(tokio_uring::builder().entries(8)) {
        Ok(runtime) => {
            // One operation there and back: a ring that can be made but not used is no use.
            let worked = runtime.block_on(tokio_uring::no_op());
            worked.map_err(|e| format!("io_uring does not complete operations: {e}"))
        }
        Err(e) => Err(format!("io_uring cannot be set up: {e}")),
    }
}

/// A disk on the ring of the current tokio-uring runtime.
///
/// Fields in the order they are dropped: the directory's lock is let go last.
#[derive(Default)]
pub struct UringDisk {
    rings: BTreeMap<FileId, Rc<Ring>>,
    helped: Helped,
}

/// A segment file as the ring sees it.
struct Ring {
    file: File,
    owes_sync: bool,
}

impl UringDisk {
    /// A disk for the runtime that the calling thread is in when operations are submitted.
    pub fn new() -> Self {
        Self::default()
    }

    fn ring(&mut self, file: FileId) -> io::Result<Rc<Ring>> {
        if let Some(ring) = self.rings.get(&file) {
            return Ok(ring.clone());
        }
        let handle = self.helped.files.handle(file)?;
        let file_of_ring = File::from_std(handle.file.try_clone()?);
        let ring = Rc::new(Ring {
            file: file_of_ring,
            owes_sync: handle.owes_sync(),
        });
        self.rings.insert(file, ring.clone());
        Ok(ring)
    }

    fn start(&mut self, token: Token, op: Op) -> io::Result<()> {
        match op {
            Op::Write { file, offset, buf } => {
                self.helped.to_write(file, offset, &buf)?;
                let ring = self.ring(file)?;
                let done = self.helped.done.clone();
                let (vec, start) = buf.into_parts();
                let len = vec.len();
                // Enters the submission queue here, in this turn.
                let write = ring.file.write_at(vec.slice(start..len), offset).submit();
                tokio_uring::spawn(async move {
                    let (result, slice) = write.await;
                    let result = match result {
                        Ok(n) if n == len - start => finish(&ring).await,
                        // Direct I/O is short only on an error that the next write would name.
                        Ok(n) => Err(io::Error::new(
                            io::ErrorKind::WriteZero,
                            format!("short write: {n} of {} bytes", len - start),
                        )),
                        Err(e) => Err(e),
                    };
                    let buf = AlignedBuf::from_parts(slice.into_inner(), start);
                    let result = result.map(|()| Output::Buf(buf));
                    done.push(Finished::Other(Completion { token, result }));
                });
            }
            Op::Read {
                file,
                offset,
                bytes,
            } => {
                let ring = self.ring(file)?;
                let done = self.helped.done.clone();
                tokio_uring::spawn(async move {
                    let result = read(&ring, offset, bytes).await.map(Output::Buf);
                    done.push(Finished::Other(Completion { token, result }));
                });
            }
            other => {
                if let Op::Close { file } = other {
                    self.rings.remove(&file);
                }
                self.helped.start(token, other)?;
            }
        }
        Ok(())
    }
}

/// What makes a write durable beyond the write itself.
async fn finish(ring: &Ring) -> io::Result<()> {
    match ring.owes_sync {
        true => ring.file.sync_data().await,
        false => Ok(()),
    }
}

async fn read(ring: &Ring, offset: u64, bytes: usize) -> io::Result<AlignedBuf> {
    let (mut vec, start) = AlignedBuf::zeroed(bytes).into_parts();
    let mut filled = 0;
    while filled < bytes {
        let place = start + filled..start + bytes;
        let (result, slice) = ring
            .file
            .read_at(vec.slice(place), offset + filled as u64)
            .await;
        vec = slice.into_inner();
        match result? {
            0 => break,
            n => filled += n,
        }
    }
    let mut buf = AlignedBuf::from_parts(vec, start);
    buf.resize(filled);
    Ok(buf)
}

impl Disk for UringDisk {
    by_helpers!("tokio-uring");

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Completion> {
        self.helped.poll(cx)
    }
}
