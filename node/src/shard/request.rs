//! A request on its way into a shard, and the handle that answers its caller.

use tokio::sync::oneshot;

use crate::api::{Error, Reply};
use crate::machine::Response;

/// What a caller waits for. (Only the channel of tokio is used; it works on any runtime.)
pub type AnswerReceiver = oneshot::Receiver<Result<Reply<Response>, Error>>;

/// Answers one caller, once. If the caller has gone, the answer is dropped; the operation is not.
#[derive(Debug)]
pub struct Answer(oneshot::Sender<Result<Reply<Response>, Error>>);

impl Answer {
    /// The two ends.
    pub fn channel() -> (Answer, AnswerReceiver) {
        let (sender, receiver) = oneshot::channel();
        (Answer(sender), receiver)
    }

    /// Delivers the answer.
    pub fn send(self, answer: Result<Reply<Response>, Error>) {
        // An error here means that the caller dropped its future; that is its right.
        let _ = self.0.send(answer);
    }
}

/// One request of one caller.
#[derive(Debug)]
pub struct Request {
    /// What is asked.
    pub kind: RequestKind,
    /// Whom to answer.
    pub answer: Answer,
}

/// What a caller can ask of a shard.
#[derive(Debug)]
pub enum RequestKind {
    /// An encoded command that goes through the log.
    Write(Vec<u8>),
    /// An encoded range or read-only transaction.
    Read {
        /// The command.
        encoded: Vec<u8>,
        /// Answer from this replica at once, maybe stale.
        serializable: bool,
    },
    /// Renew a lease.
    LeaseKeepAlive(i64),
    /// Ask about a lease.
    LeaseTimeToLive {
        /// Which.
        id: i64,
        /// With its keys.
        keys: bool,
    },
    /// List leases.
    Leases,
    /// Hash the content at a revision.
    HashKv(i64),
    /// This member's view of itself.
    Status,
    /// Answer once everything committed before is applied here.
    Barrier,
}

impl RequestKind {
    /// Bytes it occupies while it waits.
    pub fn bytes(&self) -> usize {
        match self {
            RequestKind::Write(encoded) | RequestKind::Read { encoded, .. } => encoded.len(),
            _ => 0,
        }
    }
}
