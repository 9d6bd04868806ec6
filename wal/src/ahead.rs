//! Reading the log ahead of its replay: a few threads keep several large reads in flight, the replay
//! takes them in order.
//!
//! Promises: at most [`AHEAD_MAX`] chunks in memory, whatever the size of the log; chunks come in log
//! order; a read that fails is an error at its place and not before. Buffers are used again: fresh
//! ones would cost more page faults than the checksums cost. Must never know: what the bytes mean.
//! Tested below and by every test that opens a log on real files.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use crate::BLOCK_BYTES;
use crate::disk::{AlignedBuf, FileId, ReadAt};
use crate::scan::CHUNK_BYTES;

/// Reads in flight at once. Four of 1 MiB reach the sequential rate of the reference machine's disk;
/// more brings nothing.
const THREADS: usize = 4;
/// Chunks read and not yet replayed: 8 MiB.
const AHEAD_MAX: usize = 8;

/// A part of a file that will be wanted.
pub(crate) struct Span {
    pub(crate) file: FileId,
    pub(crate) reader: Arc<dyn ReadAt>,
    pub(crate) from: u64,
    pub(crate) to: u64,
}

/// One read.
struct Piece {
    file: FileId,
    reader: Arc<dyn ReadAt>,
    offset: u64,
    bytes: usize,
}

/// The parts of the log that will be wanted, being read.
pub(crate) struct Ahead {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    /// A piece was read, or taken.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Not begun yet, in order.
    wanted: VecDeque<Piece>,
    /// File, offset and length of what was begun and not taken, in order; the first has this number.
    begun: VecDeque<(FileId, u64, usize)>,
    first: u64,
    read: BTreeMap<u64, io::Result<AlignedBuf>>,
    pool: Vec<AlignedBuf>,
    stop: bool,
}

impl Ahead {
    /// Begin to read. `None`: no thread can be started; the caller reads by itself.
    pub(crate) fn start(spans: Vec<Span>) -> Option<Self> {
        let wanted = spans.iter().flat_map(pieces).collect();
        let state = State {
            wanted,
            ..State::default()
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            changed: Condvar::new(),
        });
        let mut threads = Vec::new();
        for _ in 0..THREADS {
            let shared = shared.clone();
            let thread = std::thread::Builder::new().name("henge-wal-ahead".into());
            match thread.spawn(move || shared.work()) {
                Ok(thread) => threads.push(thread),
                Err(_) => break,
            }
        }
        (!threads.is_empty()).then_some(Self { shared, threads })
    }

    /// The chunk at this place, if it was or will be read ahead; what comes before it is let go.
    pub(crate) fn take(&mut self, file: FileId, offset: u64) -> Option<io::Result<AlignedBuf>> {
        let mut state = self.shared.state();
        loop {
            let (front_file, front, bytes) = match state.begun.front() {
                Some(front) => *front,
                None => match state.wanted.front() {
                    Some(piece) => (piece.file, piece.offset, piece.bytes),
                    None => return None,
                },
            };
            let gone = front_file == file && front + bytes as u64 <= offset;
            let elsewhere = front_file != file && state.knows(file, offset);
            if gone || elsewhere {
                state = self.next(state).1;
                continue;
            }
            if front_file != file || front != offset {
                return None;
            }
            return Some(self.next(state).0);
        }
    }

    /// A buffer to read into again.
    pub(crate) fn give_back(&mut self, buf: AlignedBuf) {
        let mut state = self.shared.state();
        if state.pool.len() < AHEAD_MAX && buf.capacity() >= CHUNK_BYTES {
            state.pool.push(buf);
        }
    }

    /// Wait for the next chunk, whatever it is.
    fn next<'s>(
        &'s self,
        mut state: MutexGuard<'s, State>,
    ) -> (io::Result<AlignedBuf>, MutexGuard<'s, State>) {
        loop {
            let first = state.first;
            if let Some(chunk) = state.read.remove(&first) {
                state.begun.pop_front();
                state.first += 1;
                self.shared.changed.notify_all();
                return (chunk, state);
            }
            let waited = self.shared.changed.wait(state);
            state = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.shared.state().stop = true;
        self.shared.changed.notify_all();
        for thread in self.threads.drain(..) {
            // A panicked reader has nothing left to finish.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        let mut state = self.state();
        loop {
            if state.stop {
                return;
            }
            if state.begun.len() >= AHEAD_MAX || state.wanted.is_empty() {
                state = self
                    .changed
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let Some(piece) = state.wanted.pop_front() else {
                continue;
            };
            let number = state.first + state.begun.len() as u64;
            state
                .begun
                .push_back((piece.file, piece.offset, piece.bytes));
            let buf = state.pool.pop();
            drop(state);
            let read = piece.read(buf.unwrap_or_else(|| AlignedBuf::with_capacity(CHUNK_BYTES)));
            state = self.state();
            state.read.insert(number, read);
            self.changed.notify_all();
        }
    }
}

impl State {
    /// This place is among what is still to come.
    fn knows(&self, file: FileId, offset: u64) -> bool {
        let begun = self.begun.iter().any(|b| (b.0, b.1) == (file, offset));
        begun
            || self
                .wanted
                .iter()
                .any(|w| (w.file, w.offset) == (file, offset))
    }
}

impl Piece {
    fn read(&self, mut buf: AlignedBuf) -> io::Result<AlignedBuf> {
        buf.resize(self.bytes);
        let mut filled = 0;
        while filled < self.bytes {
            match self
                .reader
                .read_at(self.offset + filled as u64, &mut buf[filled..])
            {
                Ok(n) => {
                    filled += n;
                    // A read that ends inside a block has met the end of the file.
                    if n == 0 || !filled.is_multiple_of(BLOCK_BYTES) {
                        break;
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        buf.resize(filled);
        Ok(buf)
    }
}

fn pieces(span: &Span) -> impl Iterator<Item = Piece> + '_ {
    (span.from..span.to)
        .step_by(CHUNK_BYTES)
        .map(|offset| Piece {
            file: span.file,
            reader: span.reader.clone(),
            offset,
            bytes: (span.to - offset).min(CHUNK_BYTES as u64) as usize,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Numbers;

    impl ReadAt for Numbers {
        fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
            if offset == 5 * CHUNK_BYTES as u64 {
                return Err(io::ErrorKind::Other.into());
            }
            let n = buf.len().min(300_000 / 4096 * 4096);
            buf[..n].fill((offset / CHUNK_BYTES as u64) as u8);
            Ok(n)
        }
    }

    fn span(file: FileId, chunks: u64) -> Span {
        let to = chunks * CHUNK_BYTES as u64;
        Span {
            file,
            reader: Arc::new(Numbers),
            from: 0,
            to,
        }
    }

    #[test]
    fn chunks_come_in_order_and_errors_at_their_place() {
        let mut ahead = Ahead::start(vec![span(1, 30), span(2, 3)]).expect("threads");
        for n in 0..30u64 {
            let chunk = ahead.take(1, n * CHUNK_BYTES as u64).expect("planned");
            match n {
                5 => assert!(chunk.is_err()),
                _ => {
                    let chunk = chunk.expect("read");
                    assert!(chunk.len() == CHUNK_BYTES && chunk.iter().all(|b| *b == n as u8));
                    ahead.give_back(chunk);
                }
            }
            assert!(ahead.shared.state().begun.len() <= AHEAD_MAX);
        }
        assert!(ahead.take(2, 0).is_some());
    }

    #[test]
    fn what_is_skipped_is_let_go_and_what_is_not_planned_is_not_there() {
        let mut ahead = Ahead::start(vec![span(1, 30), span(2, 3)]).expect("threads");
        assert!(ahead.take(1, 4096).is_none());
        assert!(ahead.take(3, 0).is_none());
        assert!(ahead.take(1, 20 * CHUNK_BYTES as u64).is_some());
        assert!(ahead.take(1, 0).is_none());
        assert!(ahead.take(2, 2 * CHUNK_BYTES as u64).is_some());
        assert!(ahead.take(2, 0).is_none());
    }
}
