//! The door of a core: everything that reaches it from other threads.
//!
//! One short lock, one vector swapped out whole per turn: a push costs a few dozen nanoseconds and the
//! core pays the lock once per turn, however much arrived. Bounded by bytes and count: a full inbox
//! refuses the caller, requests and words on watch streams alike, it never grows. Writes are also bounded
//! until they are answered ([`Budget`]).
//!
//! What arrives is of four kinds, and each has bounds of its own, so that none of them crowds out another:
//! callers' requests; renewals of leases, since a lease must not run out because its renewal found no room
//! (decision 2); frames of peers; and among these the urgent ones, since a group that does not hear its
//! leader's heartbeats for the noise of everything else elects another one, again and again.
//! Promises: what was accepted is seen by the next turn; a push that finds the core waiting wakes it.
//! Must never know: what a request asks, or which shards there are.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Waker;

use bytes::Bytes;
use henge_api::Error;
use henge_api::WatchCommand;

use super::budget::Budget;
use super::guard;
use super::pack;
use crate::shard::STOPPED_QUEUED;
use crate::shard::request::{Request, RequestKind};
use crate::shard::watch::{SessionHandle, SessionId};

/// Things of one kind (see the file's head) that an inbox holds at most between two turns.
pub const ITEMS_MAX: usize = 65_536;
/// Bytes of one kind that an inbox holds at most between two turns.
pub const BYTES_MAX: usize = 64 << 20;
/// The same for urgent frames, of all peers together: each may have a mebibyte of them under way.
const URGENT_BYTES_MAX: usize = 8 << 20;

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
    /// Make other members lead the groups that this one leads.
    HandOver,
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
    requests: Lane,
    renewals: Lane,
    frames: Lane,
    urgent: Lane,
    /// Requests turned away because it was full.
    refused: u64,
    /// Among them a renewal, since the last turn.
    renewal_refused: bool,
    waker: Option<Waker>,
    closed: bool,
    /// No requests are taken any more.
    draining: bool,
}

/// What of one kind has arrived since the last turn.
#[derive(Debug, Default)]
struct Lane {
    items: usize,
    bytes: usize,
}

/// What a turn took out of its inbox, beside the things themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// Bytes of requests and frames.
    pub bytes: usize,
    /// Requests that were turned away since the start.
    pub refused: u64,
    /// A renewal of a lease was turned away since the last turn.
    pub renewal_refused: bool,
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
                requests: Lane::default(),
                renewals: Lane::default(),
                frames: Lane::default(),
                urgent: Lane::default(),
                refused: 0,
                renewal_refused: false,
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
    pub fn request(&self, group: u64, request: Request, bytes: usize) -> Result<(), Error> {
        let held = request.kind.held_bytes();
        if !self.budget.take(held) {
            return Err(self.no_room());
        }
        let mut inner = self.lock();
        let admitted = match request.kind {
            RequestKind::LeaseKeepAlive(_) => inner.admit_renewal(),
            _ => inner.admit(bytes),
        };
        if let Err(error) = admitted {
            self.budget.give_back(held);
            return Err(error);
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
            let (lane, bytes_max) = match pack::is_urgent(frame) {
                true => (&mut inner.urgent, URGENT_BYTES_MAX),
                false => (&mut inner.frames, BYTES_MAX),
            };
            if lane.is_full(frame.len(), bytes_max) {
                return true;
            }
            lane.add(frame.len());
        }
        inner.items.push(input);
        wake(inner);
        true
    }

    /// Swaps what arrived into `into` (which must be empty) at the start of a turn. `kept` are requests and
    /// words, and their bytes, that earlier turns took and had no time for: there is the less room for
    /// others.
    pub fn take(&self, into: &mut Vec<Input>, kept: (usize, usize)) -> Taken {
        let mut inner = self.lock();
        std::mem::swap(&mut inner.items, into);
        inner.waker = None;
        let bytes = [&inner.requests, &inner.frames, &inner.urgent].map(|lane| lane.bytes);
        (inner.requests.items, inner.requests.bytes) = kept;
        inner.renewals = Lane::default();
        inner.frames = Lane::default();
        inner.urgent = Lane::default();
        Taken {
            bytes: bytes.iter().sum(),
            refused: inner.refused + self.budget.refused(),
            renewal_refused: std::mem::take(&mut inner.renewal_refused),
        }
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
    /// Counts what comes in, or refuses it. One thing that is larger than all gets through alone.
    fn admit(&mut self, bytes: usize) -> Result<(), Error> {
        if self.closed || self.draining {
            return Err(STOPPED_QUEUED);
        }
        if self.requests.is_full(bytes, BYTES_MAX) && self.requests.items > 0 {
            self.refused += 1;
            return Err(Error::TooManyRequests);
        }
        self.requests.add(bytes);
        Ok(())
    }

    fn admit_renewal(&mut self) -> Result<(), Error> {
        if self.closed || self.draining {
            return Err(STOPPED_QUEUED);
        }
        if self.renewals.is_full(0, 0) {
            self.refused += 1;
            self.renewal_refused = true;
            return Err(Error::TooManyRequests);
        }
        self.renewals.add(0);
        Ok(())
    }
}

impl Lane {
    fn is_full(&self, bytes: usize, bytes_max: usize) -> bool {
        self.items >= ITEMS_MAX || self.bytes.saturating_add(bytes) > bytes_max
    }

    fn add(&mut self, bytes: usize) {
        self.items += 1;
        self.bytes = self.bytes.saturating_add(bytes);
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

#[cfg(test)]
mod tests {
    use henge_raft::{Message, MessageKind};

    use super::*;
    use crate::shard::answer::Answer;

    fn frame(kind: MessageKind) -> Input {
        let message = Message {
            kind,
            to: 1,
            from: 2,
            term: 1,
            ..Message::default()
        };
        let mut frames = Vec::new();
        pack::pack([(1, message)].iter(), |frame| frames.push(frame));
        let frame = frames.remove(0);
        Input::Peer { from: 2, frame }
    }

    fn ask(inbox: &Inbox, kind: RequestKind) -> bool {
        let (answer, _) = Answer::channel();
        inbox.request(1, Request { kind, answer }, 0).is_ok()
    }

    /// What a turn had no time for has its room here until it is worked off.
    #[test]
    fn what_was_taken_and_waits_leaves_less_room() {
        let inbox = Inbox::new();
        inbox.take(&mut Vec::new(), (ITEMS_MAX - 1, 0));
        assert!(ask(&inbox, RequestKind::Status) && !ask(&inbox, RequestKind::Status));
        inbox.take(&mut Vec::new(), (1, BYTES_MAX));
        let touch = |bytes| {
            let (group, session) = (1, 1);
            inbox.word(Input::WatchTouch { group, session }, bytes)
        };
        assert_eq!(touch(1), Err(Error::TooManyRequests));
        assert!(touch(0).is_ok());
    }

    /// Requests, renewals, appends and heartbeats had one bound together: with 65,536 requests waiting, a
    /// member heard nothing of its leader and campaigned; with as many of anything, leases ran out.
    #[test]
    fn regression_no_kind_of_thing_crowds_out_another() {
        let asks = |inbox: &Inbox| (0..ITEMS_MAX).all(|_| ask(inbox, RequestKind::Status));
        let renews = |inbox: &Inbox| {
            (0..ITEMS_MAX).all(|n| ask(inbox, RequestKind::LeaseKeepAlive(n as i64)))
        };
        let appends = |inbox: &Inbox| (0..ITEMS_MAX).all(|_| inbox.push(frame(MessageKind::App)));
        let inbox = Inbox::new();
        assert!(asks(&inbox) && renews(&inbox) && appends(&inbox));
        // Now each of these is full, and refuses, or drops what raft repeats.
        assert!(!ask(&inbox, RequestKind::Status));
        assert!(!ask(&inbox, RequestKind::LeaseKeepAlive(1)));
        assert!(inbox.push(frame(MessageKind::App)));
        assert!(inbox.push(frame(MessageKind::Heartbeat)));
        assert!(inbox.push(frame(MessageKind::Vote)));
        let mut items = Vec::new();
        let taken = inbox.take(&mut items, (0, 0));
        assert_eq!(items.len(), 3 * ITEMS_MAX + 2);
        assert_eq!((taken.refused, taken.renewal_refused), (2, true));
        // A turn makes room.
        assert!(ask(&inbox, RequestKind::LeaseKeepAlive(1)));
        items.clear();
        assert!(!inbox.take(&mut items, (0, 0)).renewal_refused);
    }
}
