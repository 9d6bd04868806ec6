//! The door of a core: everything that reaches it from other threads.
//!
//! One short lock, one vector swapped out whole per turn: a push costs a few dozen nanoseconds and the
//! core pays the lock once per turn, however much arrived. Bounded by bytes and count: a full inbox
//! refuses the caller, requests and words on watch streams alike, it never grows. Writes are also bounded
//! until they are answered ([`Budget`]).
//! Promises: what was accepted is seen by the next turn; a push that finds the core waiting wakes it.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Waker;

use bytes::Bytes;

use super::budget::Budget;
use super::guard;
use crate::api::Error;
use crate::api::WatchCommand;
use crate::shard::STOPPED_QUEUED;
use crate::shard::request::Request;
use crate::shard::watch::{SessionHandle, SessionId};

/// Requests and frames an inbox holds at most between two turns.
pub const ITEMS_MAX: usize = 65_536;
/// Bytes of requests an inbox holds at most between two turns.
pub const BYTES_MAX: usize = 64 << 20;

/// Something for a core to do.
#[derive(Debug)]
pub enum Input {
    /// A caller's request for a shard.
    Request {
        /// Which shard.
        group: u64,
        /// What it asks.
        request: Request,
    },
    /// A frame of raft messages from a peer.
    Peer {
        /// Its member id.
        from: u64,
        /// Packed messages (see `core::pack`).
        frame: Bytes,
    },
    /// A peer cannot be reached any more.
    PeerLost {
        /// Its member id.
        peer: u64,
    },
    /// A new client stream of watchers.
    WatchOpen {
        /// Which shard.
        group: u64,
        /// Where its responses go.
        session: SessionHandle,
    },
    /// A client's word on its stream.
    Watch {
        /// Which shard.
        group: u64,
        /// Which stream.
        session: SessionId,
        /// The word.
        command: WatchCommand,
    },
    /// A stream has room again, or was closed by its client.
    WatchTouch {
        /// Which shard.
        group: u64,
        /// Which stream.
        session: SessionId,
    },
    /// Answer everyone, close the log, end.
    Stop,
    /// Take no more requests; stop once those that were taken are answered, or after so many milliseconds.
    Drain {
        /// Longest time.
        within_ms: u64,
    },
}

/// The inbox of one core.
#[derive(Debug)]
pub struct Inbox {
    inner: Mutex<Inner>,
    /// Of all shards of the core.
    budget: Budget,
    closed: AtomicBool,
}

#[derive(Debug)]
struct Inner {
    items: Vec<Input>,
    bytes: usize,
    /// Requests turned away because it was full.
    refused: u64,
    waker: Option<Waker>,
    closed: bool,
    /// No requests are taken any more.
    draining: bool,
}

impl Inbox {
    /// An empty inbox of a core whose callers may wait for [`BYTES_MAX`] bytes of writes.
    pub fn new() -> Self {
        Self::with_budget(BYTES_MAX)
    }

    /// An empty inbox of a core whose callers may wait for so many bytes of writes.
    pub fn with_budget(bytes_max: usize) -> Self {
        Inbox {
            budget: Budget::new(bytes_max),
            closed: AtomicBool::new(false),
            inner: Mutex::new(Inner {
                items: Vec::new(),
                bytes: 0,
                refused: 0,
                waker: None,
                closed: false,
                draining: false,
            }),
        }
    }

    /// What the core's shards may hold together.
    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Whether the core has ended: what is handed in is refused as *stopped*.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Why there is no room: a core that has ended gives nothing back any more.
    pub fn no_room(&self) -> Error {
        if self.is_closed() {
            STOPPED_QUEUED
        } else {
            Error::TooManyRequests
        }
    }

    /// Hands a request in; `bytes` is what it occupies. Refuses with the typed error a caller sees.
    pub fn request(
        &self,
        group: u64,
        request: Request,
        bytes: usize,
    ) -> Result<(), (Error, Request)> {
        let held = request.kind.held_bytes();
        if !self.budget.take(held) {
            return Err((self.no_room(), request));
        }
        let mut inner = self.lock();
        if let Err(error) = inner.admit(bytes) {
            self.budget.give_back(held);
            return Err((error, request));
        }
        inner.items.push(Input::Request { group, request });
        wake(inner);
        Ok(())
    }

    /// Hands in a word of a watch stream; `bytes` is what it occupies. Refuses as [`Inbox::request`].
    pub fn word(&self, input: Input, bytes: usize) -> Result<(), Error> {
        let mut inner = self.lock();
        inner.admit(bytes)?;
        inner.items.push(input);
        wake(inner);
        Ok(())
    }

    /// Hands in anything else. Frames beyond the bound are dropped (raft repeats itself); what remains is
    /// the engine's own, or one for each stream that was let in, and passes. Returns false once the core
    /// has ended.
    pub fn push(&self, input: Input) -> bool {
        let mut inner = self.lock();
        if inner.closed {
            return false;
        }
        if let Input::Peer { frame, .. } = &input {
            if inner.is_full(frame.len()) {
                return true;
            }
            inner.bytes = inner.bytes.saturating_add(frame.len());
        }
        inner.items.push(input);
        wake(inner);
        true
    }

    /// Swaps what arrived into `into` (which must be empty) at the start of a turn. Returns how many bytes
    /// of requests and frames that was, and how many requests were turned away since the start.
    pub fn take(&self, into: &mut Vec<Input>) -> (usize, u64) {
        let mut inner = self.lock();
        std::mem::swap(&mut inner.items, into);
        inner.waker = None;
        let refused = inner.refused + self.budget.refused();
        (std::mem::take(&mut inner.bytes), refused)
    }

    /// At the end of a turn: true if something has arrived meanwhile; otherwise `waker` will be told.
    pub fn rest(&self, waker: &Waker) -> bool {
        let mut inner = self.lock();
        if !inner.items.is_empty() {
            return true;
        }
        inner.waker = Some(waker.clone());
        false
    }

    /// Takes no more requests, and lets those that were taken be answered. What comes later is refused as
    /// *stopped*.
    pub fn drain(&self, within_ms: u64) {
        let mut inner = self.lock();
        if inner.closed {
            return;
        }
        inner.draining = true;
        inner.items.push(Input::Drain { within_ms });
        wake(inner);
    }

    /// Refuses everything from now on.
    pub fn close(&self) {
        self.lock().closed = true;
        self.closed.store(true, Ordering::Release);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        // A panic while the lock was held cannot leave the vector half-changed.
        self.inner
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Inner {
    fn is_full(&self, bytes: usize) -> bool {
        self.items.len() >= ITEMS_MAX || self.bytes.saturating_add(bytes) > BYTES_MAX
    }

    /// Counts what comes in, or refuses it. One thing that is larger than all gets through alone.
    fn admit(&mut self, bytes: usize) -> Result<(), Error> {
        if self.closed || self.draining {
            return Err(STOPPED_QUEUED);
        }
        if self.is_full(bytes) && !self.items.is_empty() {
            self.refused += 1;
            return Err(Error::TooManyRequests);
        }
        self.bytes = self.bytes.saturating_add(bytes);
        Ok(())
    }
}

impl Default for Inbox {
    fn default() -> Self {
        Inbox::new()
    }
}

fn wake(mut inner: std::sync::MutexGuard<'_, Inner>) {
    let waker = inner.waker.take();
    drop(inner);
    if let Some(waker) = waker {
        // Of the host, or of the executor that a local engine's caller runs it on.
        guard::wake(waker);
    }
}
