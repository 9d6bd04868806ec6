//! What a shard and its callers share, and the one way in.
//!
//! Promises: a request takes its bytes of its shard's and its core's budget before it costs anything, and a
//! refused one gives them back. Must never know: whether its caller may ask, or on which thread he does.

use std::sync::atomic::AtomicI64;
use std::sync::{Arc, Mutex};

use henge_api::{Caller, Error, Metrics, SharedVitals};

use crate::budget::Budget;
use crate::inbox::Inbox;
use crate::shard::answer::{Answer, AnswerReceiver};
use crate::shard::request::{Request, RequestKind};

/// The door of one shard.
#[derive(Clone, Debug)]
pub struct ShardDoor {
    /// As of its last turn.
    pub metrics: Arc<Mutex<Metrics>>,
    /// The revision of its store: at least that of everything anybody has heard of.
    pub revision: Arc<AtomicI64>,
    /// What its callers may wait for.
    pub budget: Arc<Budget>,
    /// How it is.
    pub vitals: Arc<SharedVitals>,
}

impl ShardDoor {
    /// One that lets in so many bytes at a time.
    pub fn new(pending_bytes_max: usize) -> Self {
        ShardDoor {
            metrics: Arc::default(),
            revision: Arc::default(),
            budget: Arc::new(Budget::new(pending_bytes_max)),
            vitals: Arc::default(),
        }
    }

    /// Hands in a request of nobody in particular; see [`ShardDoor::ask_by`].
    pub fn ask(
        &self,
        inbox: &Inbox,
        group: u64,
        kind: RequestKind,
    ) -> Result<AnswerReceiver, Error> {
        self.ask_by(Caller::nobody(), inbox, group, kind)
    }

    /// Hands a request in through its core's inbox. Refused: it was not, and never will be done.
    pub fn ask_by(
        &self,
        caller: Caller,
        inbox: &Inbox,
        group: u64,
        kind: RequestKind,
    ) -> Result<AnswerReceiver, Error> {
        let (bytes, held) = (kind.bytes(), kind.held_bytes());
        if !self.budget.take(held) {
            return Err(inbox.no_room());
        }
        let (answer, receiver) = Answer::of(caller);
        match inbox.request(group, Request { kind, answer }, bytes) {
            Ok(()) => Ok(receiver),
            Err(error) => {
                self.budget.give_back(held);
                Err(error)
            }
        }
    }
}
