//! Callers that wait for a proposed command.
//!
//! Request ids of one member are consecutive, so the waiter of an id is a slot at a known distance
//! from the front: no map, no hashing. All requests get the same time to live, so the front is also the
//! first to expire.
//! Promises: each waiter is answered exactly once; one that expires after it was proposed is told
//! *unknown*, never *not done*.
//! Must never know: what was proposed.

use std::collections::VecDeque;

use henge_api::{Caller, Error, Outcome};

use super::renewals::Renewal;
use super::request::Answer;

/// Waiters in request-id order.
pub struct Waiters {
    /// Id of the front slot.
    base: u64,
    slots: VecDeque<Option<Waiter>>,
    /// Slots that are still occupied.
    open: usize,
    /// Renewals of leases in them.
    renewals: usize,
}

/// Who waits for one proposed command, and what is to be given back when it is answered.
#[derive(Debug)]
pub struct Waiter {
    /// Whom to answer.
    pub callers: Callers,
    /// What the command holds of its shard's bytes.
    pub bytes: usize,
    /// Until when it may still wait to be proposed, should it come back.
    pub queued_until_ms: u64,
    expires_ms: u64,
}

/// The callers of one command.
#[derive(Debug)]
pub enum Callers {
    /// A write's.
    One(Answer),
    /// Of renewals that were asked for together, in the order of their ids in the command.
    Renewals(Vec<Renewal>),
    /// The shard itself: nobody waits.
    Nobody,
}

impl Callers {
    fn renewals(&self) -> usize {
        match self {
            Callers::Renewals(renewals) => renewals.len(),
            Callers::One(_) | Callers::Nobody => 0,
        }
    }

    /// Who asked: nobody in particular for what the shard asks by itself, and for what many asked together.
    pub fn caller(&self) -> Caller {
        match self {
            Callers::One(answer) => answer.caller(),
            Callers::Renewals(_) | Callers::Nobody => Caller::nobody(),
        }
    }

    /// Whether these are renewals.
    #[cfg(test)]
    pub fn are_renewals(&self) -> bool {
        matches!(self, Callers::Renewals(_))
    }

    /// Tells them all that it failed.
    pub fn fail(self, error: &Error) {
        match self {
            Callers::One(answer) => answer.send(Err(error.clone())),
            Callers::Renewals(renewals) => {
                for renewal in renewals {
                    renewal.answer.send(Err(error.clone()));
                }
            }
            Callers::Nobody => {}
        }
    }
}

impl Waiters {
    /// Ids will start at `first`.
    pub fn new(first: u64) -> Self {
        Waiters {
            base: first,
            slots: VecDeque::new(),
            open: 0,
            renewals: 0,
        }
    }

    /// The id the next waiter gets.
    pub fn next_id(&self) -> u64 {
        self.base + self.slots.len() as u64
    }

    /// Callers not answered yet.
    pub fn open(&self) -> usize {
        self.open
    }

    /// Callers among them whose leases are being renewed: many share a slot.
    pub fn renewals(&self) -> usize {
        self.renewals
    }

    /// Registers the callers of a command of `bytes` that was just proposed, under [`Self::next_id`].
    pub fn push(&mut self, callers: Callers, bytes: usize, queued_until_ms: u64, expires_ms: u64) {
        self.renewals += callers.renewals();
        self.slots.push_back(Some(Waiter {
            callers,
            bytes,
            queued_until_ms,
            expires_ms,
        }));
        self.open += 1;
    }

    /// Who waits for this id, if anybody does.
    pub fn get(&self, id: u64) -> Option<&Waiter> {
        let at = usize::try_from(id.checked_sub(self.base)?).ok()?;
        self.slots.get(at)?.as_ref()
    }

    /// Takes who waits for this id, if anybody does.
    pub fn take(&mut self, id: u64) -> Option<Waiter> {
        let at = usize::try_from(id.checked_sub(self.base)?).ok()?;
        let waiter = self.slots.get_mut(at)?.take()?;
        self.open -= 1;
        self.renewals -= waiter.callers.renewals();
        self.trim();
        Some(waiter)
    }

    /// Answers *unknown* to those whose time is over; returns how many bytes that frees.
    pub fn expire(&mut self, now_ms: u64) -> usize {
        let mut freed = 0;
        while let Some(Some(front)) = self.slots.front() {
            if front.expires_ms > now_ms {
                break;
            }
            freed += self.fail_front(&Error::Timeout {
                outcome: Outcome::Unknown,
            });
        }
        freed
    }

    /// When the first of them expires.
    pub fn next_expiry_ms(&self) -> Option<u64> {
        self.slots
            .front()
            .and_then(|slot| slot.as_ref())
            .map(|waiter| waiter.expires_ms)
    }

    /// Answers everyone with the same error.
    pub fn fail_all(&mut self, error: &Error) -> usize {
        let mut freed = 0;
        while !self.slots.is_empty() {
            freed += self.fail_front(error);
        }
        freed
    }

    fn fail_front(&mut self, error: &Error) -> usize {
        let Some(slot) = self.slots.pop_front() else {
            return 0;
        };
        self.base += 1;
        let freed = match slot {
            Some(waiter) => {
                self.open -= 1;
                self.renewals -= waiter.callers.renewals();
                waiter.callers.fail(error);
                waiter.bytes
            }
            None => 0,
        };
        self.trim();
        freed
    }

    fn trim(&mut self) {
        while let Some(None) = self.slots.front() {
            self.slots.pop_front();
            self.base += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Response;
    use henge_api::{Header, Reply};

    fn answered(receiver: &mut super::super::request::AnswerReceiver) -> Option<Result<(), Error>> {
        receiver.try_recv().map(|answer| answer.map(|_| ()))
    }

    #[test]
    fn answers_go_to_the_caller_of_the_id_in_any_order() {
        let mut waiters = Waiters::new(100);
        let mut receivers = Vec::new();
        for at in 0..4 {
            assert_eq!(waiters.next_id(), 100 + at);
            let (answer, receiver) = Answer::channel();
            waiters.push(Callers::One(answer), 10, 500, 1_000);
            receivers.push(receiver);
        }
        for id in [102, 100, 103, 101] {
            let waiter = waiters.take(id).expect("it waits");
            assert_eq!((waiter.bytes, waiter.queued_until_ms), (10, 500));
            let Callers::One(answer) = waiter.callers else {
                panic!("one caller");
            };
            answer.send(Ok(Reply {
                header: Header::default(),
                body: Response::Done,
            }));
            let at = usize::try_from(id - 100).expect("small");
            assert_eq!(answered(&mut receivers[at]), Some(Ok(())));
        }
        assert!(waiters.take(100).is_none());
        assert!(waiters.take(99).is_none());
        assert!(waiters.take(500).is_none());
        assert_eq!((waiters.open(), waiters.next_id()), (0, 104));
    }

    #[test]
    fn an_expired_waiter_is_told_unknown_and_only_it() {
        let mut waiters = Waiters::new(1);
        let (first, mut first_receiver) = Answer::channel();
        let (second, mut second_receiver) = Answer::channel();
        waiters.push(Callers::One(first), 7, 5, 10);
        waiters.push(Callers::One(second), 9, 5, 20);
        assert_eq!(waiters.next_expiry_ms(), Some(10));
        assert_eq!(waiters.expire(15), 7);
        assert_eq!(
            answered(&mut first_receiver),
            Some(Err(Error::Timeout {
                outcome: Outcome::Unknown
            }))
        );
        assert_eq!(answered(&mut second_receiver), None);
        assert_eq!(waiters.fail_all(&Error::NoLeader), 9);
        assert_eq!(answered(&mut second_receiver), Some(Err(Error::NoLeader)));
    }
}
