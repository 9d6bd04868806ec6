//! A client's end of a watch stream: words go in through the core's inbox, responses come out of the
//! session's queue.
//!
//! Promises: a watcher that the core does not let in is told so, or its stream ends; nothing of the caller's
//! is dropped by the core. Must never know: what a shard makes of a word.

use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use henge_api::{Error, WatchCommand, WatchCreate, WatchResponse, WatchSession};

use crate::inbox::{Inbox, Input};
use crate::shard::session::{SessionHandle, SessionId};

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
        WatchStream {
            handle: SessionHandle::new(id),
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
            let refusal = error.clone().into();
            self.handle.push(WatchResponse::refused(refusal));
        }
    }

    /// The next response, for callers that poll by hand.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<WatchResponse>> {
        let (response, has_room_again) = self.handle.take(cx);
        if has_room_again {
            self.touch();
        }
        response
    }

    /// Why it has ended, or is about to.
    pub fn why(&self) -> Option<Error> {
        self.handle.why()
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
        let left = self.handle.leave();
        // Refused ones come without a bound.
        if self.let_in {
            self.touch();
        }
        drop(left);
    }
}
