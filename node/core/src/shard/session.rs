//! The queue between a shard and one client's watch stream.
//!
//! The shard pushes, the client's task pops. Bounded by bytes: when it is full the shard stops
//! delivering to this stream (its watchers then fall back to reading history) and the client's next pop
//! tells the shard that there is room again. The way in, through the core's inbox, has the inbox's bounds.
//! Must never know: what events mean, the core's inbox.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use henge_api::{Error, WatchCommand, WatchCreate, WatchResponse, WatchSession, Watched};

use crate::guard::wake;
use crate::inbox::{Inbox, Input};

/// Bytes of undelivered events one stream may hold before its watchers have to wait.
pub const SESSION_BYTES_MAX: usize = 4 << 20;

/// Identifies a stream within its engine.
pub type SessionId = u64;

/// The shard's end.
#[derive(Clone, Debug)]
pub struct SessionHandle {
    /// Identifies the stream.
    pub id: SessionId,
    queue: Arc<Mutex<Queue>>,
}

#[derive(Debug, Default)]
struct Queue {
    responses: VecDeque<(WatchResponse, usize)>,
    bytes: usize,
    waker: Option<Waker>,
    /// The shard found it full and waits for a touch.
    stalled: bool,
    /// The client has gone.
    dropped: bool,
    /// The shard has gone.
    ended: bool,
    /// Why it has, or is about to.
    why: Option<Error>,
    /// Where events are counted, once the shard has taken the stream in.
    watched: Option<Arc<Watched>>,
}

impl Queue {
    fn count(&self, events: usize, of: impl FnOnce(&Watched) -> &AtomicU64) {
        if let Some(watched) = self.watched.as_deref().filter(|_| events > 0) {
            of(watched).fetch_add(events as u64, Ordering::Relaxed);
        }
    }
}

/// The client's end: one stream of watchers on one shard.
///
/// Dropping it cancels its watchers.
#[derive(Debug)]
pub struct WatchStream {
    handle: SessionHandle,
    group: u64,
    inbox: Arc<Inbox>,
    /// Whether the core took it in, and has to hear of its end.
    let_in: bool,
}

impl SessionHandle {
    /// Queues a response for the client.
    pub fn push(&self, response: WatchResponse) {
        let bytes = weight(&response);
        let mut queue = self.lock();
        if queue.dropped {
            return;
        }
        queue.count(response.events.len(), |watched| &watched.given);
        queue.bytes += bytes;
        queue.responses.push_back((response, bytes));
        let waker = queue.waker.take();
        drop(queue);
        if let Some(waker) = waker {
            wake(waker);
        }
    }

    /// Counts the stream's events there from now on.
    pub fn count_in(&self, watched: Arc<Watched>) {
        self.lock().watched = Some(watched);
    }

    /// Whether there is room for more; if not, the client's next pop will touch the shard.
    pub fn has_room(&self) -> bool {
        let mut queue = self.lock();
        queue.stalled = queue.bytes >= SESSION_BYTES_MAX;
        !queue.stalled
    }

    /// Whether the client has gone.
    pub fn is_dropped(&self) -> bool {
        self.lock().dropped
    }

    /// The stream is about to end for this reason, once its watchers were told.
    pub fn note_end(&self, why: &Error) {
        self.lock().why.get_or_insert_with(|| why.clone());
    }

    /// The shard has ended: the client sees the end of its stream after what is queued.
    pub fn end(&self, why: &Error) {
        let mut queue = self.lock();
        queue.ended = true;
        queue.why.get_or_insert_with(|| why.clone());
        if let Some(waker) = queue.waker.take() {
            drop(queue);
            wake(waker);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl WatchStream {
    /// Opens a stream on a shard. One that the core does not let in says so itself, and ends.
    pub fn open(id: SessionId, group: u64, inbox: Arc<Inbox>) -> Self {
        let mut stream = Self::new(id, group, inbox);
        if let Err(error) = stream.hand_in() {
            stream.refuse(&error);
            stream.handle.end(&error);
        }
        stream
    }

    /// Opens a stream on a shard with its first watcher; fails if the core lets it in no more.
    pub fn begin(
        id: SessionId,
        group: u64,
        inbox: Arc<Inbox>,
        create: WatchCreate,
    ) -> Result<Self, Error> {
        let mut stream = Self::new(id, group, inbox);
        stream.hand_in()?;
        stream.say(WatchCommand::Create(create))?;
        Ok(stream)
    }

    fn new(id: SessionId, group: u64, inbox: Arc<Inbox>) -> Self {
        let queue = Arc::default();
        WatchStream {
            handle: SessionHandle { id, queue },
            group,
            inbox,
            let_in: false,
        }
    }

    fn hand_in(&mut self) -> Result<(), Error> {
        let (group, session) = (self.group, self.handle.clone());
        self.inbox.word(Input::WatchOpen { group, session }, 0)?;
        self.let_in = true;
        Ok(())
    }

    fn say(&self, mut command: WatchCommand) -> Result<(), Error> {
        if let WatchCommand::Create(create) = &mut command {
            // They may be slices of something large, or have an owner of the caller's whose drop does what
            // it likes: neither belongs to the core.
            create.key = Bytes::copy_from_slice(&create.key);
            create.range_end = Bytes::copy_from_slice(&create.range_end);
        }
        let bytes = command.bytes();
        let word = Input::Watch {
            group: self.group,
            session: self.handle.id,
            command,
        };
        self.inbox.word(word, bytes)
    }

    /// Answers a watcher that was not let in. Nothing waits for a core that has stopped.
    fn refuse(&self, error: &Error) {
        if *error == Error::TooManyRequests {
            let reason = format!("etcdserver: {error}");
            self.handle.push(WatchResponse::refused(reason));
        }
    }

    /// The next response, for callers that poll by hand.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<WatchResponse>> {
        let mut queue = self.handle.lock();
        if let Some((response, bytes)) = queue.responses.pop_front() {
            queue.bytes -= bytes;
            queue.count(response.events.len(), |watched| &watched.taken);
            let touch = queue.stalled && queue.bytes < SESSION_BYTES_MAX / 2;
            if touch {
                queue.stalled = false;
                drop(queue);
                self.touch();
            }
            return Poll::Ready(Some(response));
        }
        if queue.ended {
            return Poll::Ready(None);
        }
        queue.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Why it has ended, or is about to.
    pub fn why(&self) -> Option<Error> {
        self.handle.lock().why.clone()
    }

    fn touch(&self) {
        self.inbox.push(Input::WatchTouch {
            group: self.group,
            session: self.handle.id,
        });
    }
}

impl WatchSession for WatchStream {
    fn command(&mut self, command: WatchCommand) {
        let creates = matches!(command, WatchCommand::Create(_));
        let Err(error) = self.say(command) else {
            return;
        };
        // A word that is lost without an answer leaves its client waiting; so does an answer that finds
        // no room because nobody reads: then the stream ends.
        let answered = creates && error == Error::TooManyRequests && self.handle.has_room();
        if answered {
            self.refuse(&error);
        } else {
            self.handle.end(&error);
        }
    }

    async fn next(&mut self) -> Option<WatchResponse> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }
}

impl Drop for WatchStream {
    fn drop(&mut self) {
        let mut queue = self.handle.lock();
        queue.dropped = true;
        let unread = std::mem::take(&mut queue.responses);
        let events = unread.iter().map(|(response, _)| response.events.len());
        queue.count(events.sum(), |watched| &watched.dropped);
        // Dropped here, on the caller's thread.
        let waker = queue.waker.take();
        drop(queue);
        // Refused ones come without a bound.
        if self.let_in {
            self.touch();
        }
        drop((waker, unread));
    }
}

fn weight(response: &WatchResponse) -> usize {
    let kv = |kv: &henge_mvcc::KeyValue| kv.key.len() + kv.value.len() + 64;
    128 + response
        .events
        .iter()
        .map(|event| kv(&event.kv) + event.prev_kv.as_ref().map_or(0, kv))
        .sum::<usize>()
}
