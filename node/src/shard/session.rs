//! The queue between a shard and one client's watch stream.
//!
//! The shard pushes, the client's task pops. Bounded by bytes: when it is full the shard stops
//! delivering to this stream (its watchers then fall back to reading history) and the client's next pop
//! tells the shard that there is room again.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::api::{WatchCommand, WatchResponse, WatchSession};
use crate::core::inbox::{Inbox, Input};

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
}

/// The client's end: one stream of watchers on one shard.
///
/// Dropping it cancels its watchers.
#[derive(Debug)]
pub struct WatchStream {
    handle: SessionHandle,
    group: u64,
    inbox: Arc<Inbox>,
}

impl SessionHandle {
    /// Queues a response for the client.
    pub fn push(&self, response: WatchResponse) {
        let bytes = weight(&response);
        let mut queue = self.lock();
        queue.bytes += bytes;
        queue.responses.push_back((response, bytes));
        let waker = queue.waker.take();
        drop(queue);
        if let Some(waker) = waker {
            waker.wake();
        }
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

    /// The shard has ended: the client sees the end of its stream after what is queued.
    pub fn end(&self) {
        let mut queue = self.lock();
        queue.ended = true;
        if let Some(waker) = queue.waker.take() {
            drop(queue);
            waker.wake();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl WatchStream {
    /// Opens a stream on a shard.
    pub fn open(id: SessionId, group: u64, inbox: Arc<Inbox>) -> Self {
        let handle = SessionHandle {
            id,
            queue: Arc::default(),
        };
        if !inbox.push(Input::WatchOpen {
            group,
            session: handle.clone(),
        }) {
            handle.end();
        }
        WatchStream {
            handle,
            group,
            inbox,
        }
    }

    /// The next response, for callers that poll by hand.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<WatchResponse>> {
        let mut queue = self.handle.lock();
        if let Some((response, bytes)) = queue.responses.pop_front() {
            queue.bytes -= bytes;
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

    fn touch(&self) {
        self.inbox.push(Input::WatchTouch {
            group: self.group,
            session: self.handle.id,
        });
    }
}

impl WatchSession for WatchStream {
    fn command(&mut self, command: WatchCommand) {
        let (group, session) = (self.group, self.handle.id);
        if !self.inbox.push(Input::Watch {
            group,
            session,
            command,
        }) {
            self.handle.end();
        }
    }

    async fn next(&mut self) -> Option<WatchResponse> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }
}

impl Drop for WatchStream {
    fn drop(&mut self) {
        self.handle.lock().dropped = true;
        self.touch();
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
