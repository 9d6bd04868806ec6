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

use henge_api::{Error, WatchResponse, Watched};

use crate::guard::wake;

/// Bytes of undelivered events one stream may hold before its watchers have to wait.
pub const SESSION_BYTES_MAX: usize = 4 << 20;

/// Identifies a stream within its engine.
pub type SessionId = u64;

/// Both ends: the shard's, and within [`crate::stream::WatchStream`] the client's.
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

impl SessionHandle {
    /// Of a stream that nobody has opened yet.
    pub fn new(id: SessionId) -> Self {
        let queue = Arc::default();
        SessionHandle { id, queue }
    }

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

    /// Its client takes the next response; and whether the shard has to hear that there is room again.
    pub fn take(&self, cx: &mut Context<'_>) -> (Poll<Option<WatchResponse>>, bool) {
        let mut queue = self.lock();
        if let Some((response, bytes)) = queue.responses.pop_front() {
            queue.bytes -= bytes;
            queue.count(response.events.len(), |watched| &watched.taken);
            let has_room_again = queue.stalled && queue.bytes < SESSION_BYTES_MAX / 2;
            queue.stalled &= !has_room_again;
            return (Poll::Ready(Some(response)), has_room_again);
        }
        if queue.ended {
            return (Poll::Ready(None), false);
        }
        queue.waker = Some(cx.waker().clone());
        (Poll::Pending, false)
    }

    /// Why the stream has ended, or is about to.
    pub fn why(&self) -> Option<Error> {
        self.lock().why.clone()
    }

    /// Its client goes. What it leaves is given back: it is dropped on its own thread.
    pub fn leave(&self) -> impl Sized + use<> {
        let mut queue = self.lock();
        queue.dropped = true;
        let unread = std::mem::take(&mut queue.responses);
        let events = unread.iter().map(|(response, _)| response.events.len());
        queue.count(events.sum(), |watched| &watched.dropped);
        (queue.waker.take(), unread)
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
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
