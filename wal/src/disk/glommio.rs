//! A disk inside a glommio executor: writes and reads through that executor's ring; what may block
//! (making, naming and opening files) on helper threads.
//!
//! Every transfer is owned by a detached task (dropping a glommio task cancels it), so dropping the
//! log leaves a write with its task until the kernel is done with it; [`Flights`] says when. Bytes are
//! copied into buffers of the executor, which are registered with its ring.
//!
//! Traps of that runtime that are kept away here: files are opened by their descriptor's `/proc` name,
//! as it reads the path a second time and panics if a rename came between; one transfer is never
//! larger than the device takes at once, as larger ones were seen to hang (DataDog/glommio#633).
//!
//! Use it only on a thread that runs inside a glommio executor; ask [`super::ring::probe`] first.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use glommio::GlommioError;
use glommio::io::{BufferedFile, DmaFile, OpenOptions};

use super::files::SegmentHandle;
use super::helpers::{Finished, Helped, by_helpers};
use super::{AlignedBuf, Completion, Disk, FileId, Op, Output, Token};
use crate::BLOCK_BYTES;

/// Bytes of one transfer where the device does not say how much it takes at once: less than any known
/// one's limit.
const TRANSFER_BYTES_UNKNOWN: usize = 128 << 10;

/// A disk on the ring of the current glommio executor.
///
/// Fields in the order they are dropped: the directory's lock is let go last.
#[derive(Default)]
pub struct GlommioDisk {
    segments: BTreeMap<FileId, Rc<Segment>>,
    helped: Helped,
    flights: Flights,
}

/// Counts the transfers a disk has started and not finished; outlives the disk.
#[derive(Clone, Debug, Default)]
pub struct Flights(Rc<Cell<usize>>);

/// A segment file, and the executor's own file of it once it was needed.
struct Segment {
    handle: Arc<SegmentHandle>,
    native: RefCell<Option<Rc<Native>>>,
    /// Bytes of one transfer.
    transfer_bytes: usize,
}

enum Native {
    Direct(DmaFile),
    /// Where the file system refuses direct I/O.
    Buffered(BufferedFile),
}

/// One transfer; counted while it lives.
struct Flight(Flights);

impl GlommioDisk {
    /// A disk for the executor that the calling thread is in when operations are submitted.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whose end must be waited for before the executor may end.
    pub fn flights(&self) -> Flights {
        self.flights.clone()
    }

    fn segment(&mut self, file: FileId) -> io::Result<Rc<Segment>> {
        if let Some(segment) = self.segments.get(&file) {
            return Ok(segment.clone());
        }
        let handle = self.helped.files.handle(file)?;
        let device = handle.file.metadata()?.dev();
        let segment = Rc::new(Segment {
            handle,
            native: RefCell::new(None),
            transfer_bytes: transfer_bytes(device),
        });
        self.segments.insert(file, segment.clone());
        Ok(segment)
    }

    fn start(&mut self, token: Token, op: Op) -> io::Result<()> {
        match op {
            Op::Write { file, offset, buf } => {
                self.helped.to_write(file, offset, &buf)?;
                let segment = self.segment(file)?;
                self.fly(token, async move {
                    segment.write(offset, &buf).await?;
                    Ok(buf)
                });
            }
            Op::Read {
                file,
                offset,
                bytes,
            } => {
                let segment = self.segment(file)?;
                self.fly(token, async move { segment.read(offset, bytes).await });
            }
            other => {
                if let Op::Close { file } = other {
                    self.segments.remove(&file);
                }
                self.helped.start(token, other)?;
            }
        }
        Ok(())
    }

    fn fly(&self, token: Token, transfer: impl Future<Output = io::Result<AlignedBuf>> + 'static) {
        let (done, flight) = (self.helped.done.clone(), Flight::new(&self.flights));
        let task = glommio::spawn_local(async move {
            let result = transfer.await.map(Output::Buf);
            drop(flight);
            done.push(Finished::Other(Completion { token, result }));
        });
        task.detach();
    }
}

impl Segment {
    async fn native(&self) -> io::Result<Rc<Native>> {
        if let Some(native) = self.native.borrow().as_ref() {
            return Ok(native.clone());
        }
        // By number: `self` would be another process on kernels whose ring workers are not ours.
        let (process, fd) = (std::process::id(), self.handle.file.as_raw_fd());
        let path = PathBuf::from(format!("/proc/{process}/fd/{fd}"));
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        let native = if self.handle.direct {
            if !self.handle.loose {
                options.custom_flags(libc::O_DSYNC);
            }
            Native::Direct(options.dma_open(&path).await.map_err(os)?)
        } else {
            Native::Buffered(options.buffered_open(&path).await.map_err(os)?)
        };
        // Two transfers may both have been first: the later one's file is as good.
        let native = Rc::new(native);
        *self.native.borrow_mut() = Some(native.clone());
        Ok(native)
    }

    /// Write all of `buf` durably.
    async fn write(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        let native = self.native().await?;
        let mut at = 0;
        while at < buf.len() {
            let part = &buf[at..buf.len().min(at + self.transfer_bytes)];
            let place = offset + at as u64;
            let written = match &*native {
                Native::Direct(file) => {
                    let mut memory = file.alloc_dma_buffer(part.len());
                    memory.as_bytes_mut()[..part.len()].copy_from_slice(part);
                    file.write_at(memory, place).await.map_err(os)?
                }
                Native::Buffered(file) => file.write_at(part.to_vec(), place).await.map_err(os)?,
            };
            if written == 0 || written > part.len() {
                return Err(io::Error::new(
                    io::ErrorKind::WriteZero,
                    format!("short write: {at} of {} bytes", buf.len()),
                ));
            }
            at += written;
        }
        match &*native {
            Native::Buffered(file) if self.handle.owes_sync() => file.fdatasync().await.map_err(os),
            _ => Ok(()),
        }
    }

    /// Read up to `bytes`; fewer at the end of the file.
    async fn read(&self, offset: u64, bytes: usize) -> io::Result<AlignedBuf> {
        let native = self.native().await?;
        let mut buf = AlignedBuf::with_capacity(bytes);
        while buf.len() < bytes {
            let want = (bytes - buf.len()).min(self.transfer_bytes);
            let place = offset + buf.len() as u64;
            let part = match &*native {
                Native::Direct(file) => file.read_at_aligned(place, want).await.map_err(os)?,
                Native::Buffered(file) => file.read_at(place, want).await.map_err(os)?,
            };
            let part = &part[..part.len().min(want)];
            buf.extend(part);
            // A direct read ends short only at the end of the file.
            if part.len() < want {
                break;
            }
        }
        Ok(buf)
    }
}

impl Flights {
    /// How many transfers are in flight.
    pub fn count(&self) -> usize {
        self.0.get()
    }
}

impl Flight {
    fn new(flights: &Flights) -> Self {
        flights.0.set(flights.0.get() + 1);
        Flight(flights.clone())
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.0.0.set(self.0.0.get() - 1);
    }
}

/// What the block device below takes in one request, in whole blocks.
fn transfer_bytes(device: u64) -> usize {
    let number = format!("{}:{}", libc::major(device), libc::minor(device));
    let folder = Path::new("/sys/dev/block").join(number);
    // A partition's limits are its disk's.
    let limit = ["queue", "../queue"].iter().find_map(|queue| {
        let text = std::fs::read_to_string(folder.join(queue).join("max_sectors_kb")).ok()?;
        text.trim().parse::<usize>().ok()
    });
    let bytes = limit.map_or(TRANSFER_BYTES_UNKNOWN, |kib| kib << 10);
    (bytes / BLOCK_BYTES).max(1) * BLOCK_BYTES
}

/// The operating system's error number must survive: a full disk is told from a failed one by it.
fn os(error: GlommioError<()>) -> io::Error {
    match error.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => error.into(),
    }
}

impl Disk for GlommioDisk {
    by_helpers!("glommio");

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Completion> {
        self.helped.poll(cx)
    }
}
