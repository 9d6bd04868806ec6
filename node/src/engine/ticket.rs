//! Waiting for the answer to one request.

use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll};

use henge_api::{Error, Outcome, Reply};
use henge_core::machine::Response;
use henge_core::shard::request::AnswerReceiver;

/// The caller's half of a request that was handed to its shard. Dropping it abandons the answer only.
#[derive(Debug)]
pub struct Ticket(State);

#[derive(Debug)]
enum State {
    Failed(Option<Error>),
    Waiting(AnswerReceiver),
}

impl Ticket {
    /// A request that was refused before it reached its shard.
    pub fn failed(error: Error) -> Self {
        Ticket(State::Failed(Some(error)))
    }

    /// A request whose answer comes through `receiver`.
    pub fn waiting(receiver: AnswerReceiver) -> Self {
        Ticket(State::Waiting(receiver))
    }
}

impl Future for Ticket {
    type Output = Result<Reply<Response>, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            State::Failed(error) => Poll::Ready(Err(error.take().unwrap_or(Error::Stopped {
                outcome: Outcome::NotDone,
            }))),
            State::Waiting(receiver) => Pin::new(receiver).poll(cx),
        }
    }
}

/// An operation that was started; awaiting it gives its answer, or the failure `E` of its kind. It borrows
/// nothing and is `Send`.
///
/// Cancel safety: its shard owns the operation from the call that returned this; dropping this gives up
/// the answer only.
///
/// ```
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
/// # fn main() -> Outcome { on_scratch(async |engine| {
/// drop(engine.put("greeting", "hello"));
/// // Done in the order of the calls, whether or not anybody waits.
/// engine.put("later", "x").await?;
/// assert!(engine.get("greeting").await?.is_some());
/// # Ok(()) }) }
/// ```
#[derive(Debug)]
#[must_use = "the operation runs anyway; await it to learn what became of it"]
pub struct Operation<T, E = Error> {
    ticket: Ticket,
    convert: fn(Reply<Response>) -> Result<T, Error>,
    failure: PhantomData<fn() -> E>,
}

impl<T, E> Operation<T, E> {
    pub(crate) fn new(ticket: Ticket, convert: fn(Reply<Response>) -> Result<T, Error>) -> Self {
        Operation {
            ticket,
            convert,
            failure: PhantomData,
        }
    }
}

impl<T, E: From<Error>> Future for Operation<T, E> {
    type Output = Result<T, E>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let convert = self.convert;
        Pin::new(&mut self.ticket)
            .poll(cx)
            .map(|answer| answer.and_then(convert).map_err(E::from))
    }
}
