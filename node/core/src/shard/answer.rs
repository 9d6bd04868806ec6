//! The way back to a caller: a slot for one answer, and waking many callers at the price of one.
//!
//! A turn answers hundreds of callers at once. Waking each of them from the core would cost a system
//! call whenever its thread has just gone to sleep again, which in a virtual machine is dearer than
//! applying several writes (measured: 23 µs each, ten per log batch, a tenth of the core). So a turn
//! first fills all slots, then wakes one caller and hands it a [`Chain`] of the others' wakers; that
//! caller, running on its own thread, wakes the rest, which is cheap there.
//!
//! Promises: an answer is delivered once; a caller that is gone, or whose waker panics, is no error. No
//! caller depends on another: whoever holds a chain releases it on its first poll or when it is dropped, and
//! the core releases what is left at its next turn, at the latest [`CHAIN_MS_MAX`] later.
//! Must never know: what is answered, or whether its caller may ask.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use henge_api::{Caller, Error, Outcome, Reply};

use crate::guard::wake;
use crate::machine::Response;

/// What a caller is told.
pub type Outcomes = Result<Reply<Response>, Error>;

/// Longest time, in milliseconds, that a caller may stay unwoken behind another one that does not run.
pub const CHAIN_MS_MAX: u64 = 1;

/// Answers one caller, once. Dropping it unanswered tells the caller that nobody knows the outcome.
#[derive(Debug)]
pub struct Answer(Arc<Mutex<Slot>>, Caller);

/// What a caller waits for; works on any runtime. Dropping it abandons the answer, not the operation.
#[derive(Debug)]
pub struct AnswerReceiver(Arc<Mutex<Slot>>);

/// Wakers of callers whose answers are there, in the hands of one of them.
#[derive(Debug, Default)]
pub struct Chain(Mutex<Vec<Waker>>);

#[derive(Debug, Default)]
struct Slot {
    answer: Option<Outcomes>,
    waker: Option<Waker>,
    chain: Option<Arc<Chain>>,
    /// Answered, or given up: nothing more will come.
    closed: bool,
}

impl Answer {
    /// The two ends, of nobody in particular.
    pub fn channel() -> (Answer, AnswerReceiver) {
        Answer::of(Caller::nobody())
    }

    /// The two ends, of whoever asks.
    pub fn of(caller: Caller) -> (Answer, AnswerReceiver) {
        let slot = Arc::new(Mutex::new(Slot::default()));
        (Answer(slot.clone(), caller), AnswerReceiver(slot))
    }

    /// Who asked.
    pub fn caller(&self) -> Caller {
        self.1
    }

    /// Has the caller gone, so that nobody will ever look at the answer?
    pub fn is_abandoned(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }

    /// Delivers the answer and wakes the caller.
    pub fn send(self, answer: Outcomes) {
        if let Some(waker) = self.fill(answer, None) {
            wake(waker);
        }
    }

    /// Delivers the answer; the waker is left to us. The first caller of a turn gets the chain.
    fn fill(&self, answer: Outcomes, chain: Option<&Arc<Chain>>) -> Option<Waker> {
        let mut slot = lock(&self.0);
        slot.answer = Some(answer);
        slot.closed = true;
        let waker = slot.waker.take();
        if waker.is_some() {
            slot.chain = chain.cloned();
        }
        waker
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        let mut slot = lock(&self.0);
        if !slot.closed {
            slot.closed = true;
            let waker = slot.waker.take();
            drop(slot);
            if let Some(waker) = waker {
                wake(waker);
            }
        }
    }
}

impl AnswerReceiver {
    /// The answer, if it is there.
    pub fn try_recv(&mut self) -> Option<Outcomes> {
        let mut slot = lock(&self.0);
        slot.answer.take().or_else(|| slot.closed.then(unanswered))
    }
}

impl Future for AnswerReceiver {
    type Output = Outcomes;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcomes> {
        let mut slot = lock(&self.0);
        if !slot.closed {
            match &mut slot.waker {
                Some(waker) => waker.clone_from(cx.waker()),
                none => *none = Some(cx.waker().clone()),
            }
            return Poll::Pending;
        }
        let (answer, chain) = (slot.answer.take(), slot.chain.take());
        drop(slot);
        if let Some(chain) = chain {
            chain.release();
        }
        Poll::Ready(answer.unwrap_or_else(unanswered))
    }
}

impl Drop for AnswerReceiver {
    fn drop(&mut self) {
        let mut slot = lock(&self.0);
        // The waker is the caller's: it is dropped here, not with the slot on the core's thread.
        let (chain, waker) = (slot.chain.take(), slot.waker.take());
        drop(slot);
        if let Some(chain) = chain {
            chain.release();
        }
        drop(waker);
    }
}

impl Chain {
    /// Wakes everyone who still waits in it.
    pub fn release(&self) {
        let wakers = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        for waker in wakers {
            wake(waker);
        }
    }
}

/// A turn's answers on their way: fills every slot, whichever shard it is of, then wakes one caller with the
/// chain of the others. One per turn, not one per shard: with a thousand active shards a turn would wake a
/// thousand callers.
#[derive(Debug, Default)]
pub struct Delivery {
    chain: Arc<Chain>,
    first: Option<Waker>,
    others: Vec<Waker>,
}

impl Delivery {
    /// Fills the slots of these.
    pub fn add(&mut self, answers: impl Iterator<Item = (Answer, Outcomes)>) {
        for (answer, outcome) in answers {
            let chain = self.first.is_none().then_some(&self.chain);
            match (&self.first, answer.fill(outcome, chain)) {
                (_, None) => {}
                (None, waker) => self.first = waker,
                (Some(_), Some(waker)) => self.others.push(waker),
            }
        }
    }

    /// Wakes the first caller. The core must release the chain by itself soon (see the file's head).
    pub fn finish(self) -> Option<Arc<Chain>> {
        let any = !self.others.is_empty();
        // The chain is complete before anybody can be woken by it.
        *self.chain.0.lock().unwrap_or_else(PoisonError::into_inner) = self.others;
        if let Some(waker) = self.first {
            wake(waker);
        }
        any.then_some(self.chain)
    }
}

/// Delivers answers by themselves.
pub fn deliver(answers: impl Iterator<Item = (Answer, Outcomes)>) -> Option<Arc<Chain>> {
    let mut delivery = Delivery::default();
    delivery.add(answers);
    delivery.finish()
}

/// A core that ended without answering may have written the request: nobody can say.
fn unanswered() -> Outcomes {
    Err(Error::Stopped {
        outcome: Outcome::Unknown,
    })
}

fn lock(slot: &Mutex<Slot>) -> MutexGuard<'_, Slot> {
    slot.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;
    use henge_api::Header;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn done() -> Outcomes {
        Ok(Reply {
            header: Header::default(),
            body: Response::Done,
        })
    }

    /// Three callers that wait, and how often each was woken.
    fn waiting() -> (Vec<Answer>, Vec<AnswerReceiver>, Vec<Arc<Count>>) {
        let (mut answers, mut receivers, mut counts) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..3 {
            let (answer, mut receiver) = Answer::channel();
            let count = Arc::<Count>::default();
            let waker = Waker::from(count.clone());
            let pending = Pin::new(&mut receiver).poll(&mut Context::from_waker(&waker));
            assert!(pending.is_pending());
            answers.push(answer);
            receivers.push(receiver);
            counts.push(count);
        }
        (answers, receivers, counts)
    }

    fn woken(counts: &[Arc<Count>]) -> Vec<usize> {
        counts
            .iter()
            .map(|count| count.0.load(Ordering::Relaxed))
            .collect()
    }

    #[test]
    fn the_first_caller_wakes_the_others_when_it_runs() {
        let (answers, mut receivers, counts) = waiting();
        let chain = deliver(answers.into_iter().map(|answer| (answer, done())));
        assert!(chain.is_some());
        assert_eq!(woken(&counts), [1, 0, 0]);
        let waker = Waker::noop();
        let mut cx = Context::from_waker(waker);
        assert!(Pin::new(&mut receivers[0]).poll(&mut cx).is_ready());
        assert_eq!(woken(&counts), [1, 1, 1]);
        for receiver in &mut receivers[1..] {
            assert_eq!(Pin::new(receiver).poll(&mut cx), Poll::Ready(done()));
        }
    }

    #[test]
    fn a_first_caller_that_is_dropped_lets_the_others_go() {
        let (answers, mut receivers, counts) = waiting();
        deliver(answers.into_iter().map(|answer| (answer, done())));
        drop(receivers.remove(0));
        assert_eq!(woken(&counts), [1, 1, 1]);
    }

    #[test]
    fn the_core_lets_them_go_if_the_first_caller_does_not_run() {
        let (answers, _receivers, counts) = waiting();
        let chain = deliver(answers.into_iter().map(|answer| (answer, done()))).expect("a chain");
        chain.release();
        chain.release();
        assert_eq!(woken(&counts), [1, 1, 1]);
    }

    #[test]
    fn an_answer_that_is_dropped_is_unknown() {
        let (answer, mut receiver) = Answer::channel();
        assert_eq!(receiver.try_recv(), None);
        drop(answer);
        assert_eq!(receiver.try_recv(), Some(unanswered()));
    }
}
