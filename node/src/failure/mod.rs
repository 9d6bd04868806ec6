//! Why an operation did not succeed: one shape for all, one list of possible mistakes for each.
//!
//! [`Failure`] answers the question a caller has to act on: was it my request, was it the moment, or does
//! nobody know. What can be wrong with a request differs by operation, so that is its parameter:
//! [`PutError`] is `Failure<PutMistake>`, and so on.
//!
//! Promises: an outcome that nobody knows is [`Failure::Unknown`] or [`Failure::Poisoned`], never folded
//! into another; a read, which has no effect, is never [`Failure::Unknown`]. Every failure becomes the flat
//! [`Error`] again without losing what it said. Must never know: codes and texts of the etcd edge, which
//! reads [`Error`]. Decided in docs/decisions/0013.

mod mistake;

pub use self::mistake::{
    AlarmMistake, BatchMistake, CompactMistake, DeleteMistake, LeaseMistake, PutMistake,
    RangeMistake, TxnMistake, WatchMistake,
};
use henge_api::{Error, Outcome};

/// Why an operation did not succeed, sorted by what to do about it. `C` lists what the caller of this
/// operation can have done wrong.
///
/// ```
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
/// # fn main() -> Outcome { on_scratch(async |engine| {
/// use henge::{PutError, PutMistake};
///
/// match engine.put("", "a value without a key").await {
///     Ok(written) => println!("durable at revision {}", written.header.revision),
///     Err(PutError::Caller(PutMistake::EmptyKey)) => println!("name a key"),
///     Err(PutError::Unavailable(why)) => println!("not done ({why}); again in a moment"),
///     Err(PutError::Unknown(why)) => println!("look before you repeat it: {why}"),
///     Err(error) => return Err(error.into()),
/// }
/// # Ok(()) }) }
/// ```
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Failure<C> {
    /// The request is wrong. Nothing was done, and the same request will not succeed by being repeated.
    #[error("{0}")]
    Caller(C),
    /// Not at this moment. Nothing was done: repeat it, with backoff.
    #[error("{0}")]
    Unavailable(Unavailable),
    /// It was handed to raft, and its end was not seen: it may have been done, or may still be. Read
    /// before you repeat what is not harmless twice.
    #[error("{0}; it may have been done")]
    Unknown(Unknown),
    /// The quota is spent, or the disk has no room for another log segment. Nothing was done; reads go on.
    /// Delete, compact, or give room.
    #[error("mvcc: database space exceeded")]
    NoSpace,
    /// The shard's replicated data cannot be read by this build: it serves nothing until it is repaired.
    #[error("corrupt cluster")]
    Corrupt,
    /// The disk failed a log write: this process acknowledges nothing any more, and what was under way may
    /// have been done. Look at the disk, then restart.
    #[error("the log is poisoned: {0}")]
    Poisoned(String),
}

/// Why it could not be done at this moment. Nothing was done.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// The shard has as much work as it may hold.
    #[error("too many requests")]
    TooManyRequests,
    /// The cluster has no leader.
    #[error("no leader")]
    NoLeader,
    /// Only the leader can answer this, and this member is not it.
    #[error("not leader")]
    NotLeader,
    /// Leadership moved while the request waited.
    #[error("leader changed")]
    LeaderChanged,
    /// Its deadline passed before it was begun.
    #[error("request timed out")]
    Timeout,
    /// The log cannot open its next segment: every file descriptor of the process is taken.
    #[error("no file descriptor is left for the log; raise the limit (ulimit -n)")]
    NoDescriptors,
    /// The engine has stopped, or is about to: repeating helps only after it is opened again.
    #[error("server stopped")]
    Stopped,
}

/// Why nobody can say what became of it.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unknown {
    /// Its deadline passed after it was begun.
    #[error("request timed out")]
    Timeout,
    /// The engine stopped after it was begun.
    #[error("server stopped")]
    Stopped,
    /// It was begun, and then waited for on the thread that drives the engine, which would be for ever: it
    /// goes on once that thread drives the engine again. Await it, or wait for it on another thread.
    #[error("this thread drives the engine: a blocking call here would wait for itself")]
    OwnThread,
}

/// Why a put did not succeed.
pub type PutError = Failure<PutMistake>;
/// Why a read did not succeed: gets, ranges, snapshots, hashes, revisions, alarms.
pub type RangeError = Failure<RangeMistake>;
/// Why a delete did not succeed.
pub type DeleteError = Failure<DeleteMistake>;
/// Why a transaction did not succeed.
pub type TxnError = Failure<TxnMistake>;
/// Why a shard's part of a batch did not succeed.
pub type BatchError = Failure<BatchMistake>;
/// Why an operation on a lease did not succeed.
pub type LeaseError = Failure<LeaseMistake>;
/// Why a compaction did not succeed.
pub type CompactError = Failure<CompactMistake>;
/// Why an alarm was not lowered.
pub type AlarmError = Failure<AlarmMistake>;
/// Why a watch was not begun.
pub type WatchError = Failure<WatchMistake>;

impl<C> Failure<C> {
    /// Whether the operation was certainly not done, or may have been.
    ///
    /// ```
    /// use henge::api::Outcome;
    /// use henge::failure::{PutError, Unavailable, Unknown};
    ///
    /// let refused = PutError::Unavailable(Unavailable::Timeout);
    /// assert_eq!(refused.outcome(), Outcome::NotDone);
    /// assert_eq!(PutError::Unknown(Unknown::Timeout).outcome(), Outcome::Unknown);
    /// ```
    pub fn outcome(&self) -> Outcome {
        match self {
            Failure::Unknown(_) | Failure::Poisoned(_) => Outcome::Unknown,
            Failure::Caller(_) | Failure::Unavailable(_) | Failure::NoSpace | Failure::Corrupt => {
                Outcome::NotDone
            }
        }
    }
}

impl<C: From<Error>> Failure<C> {
    /// Sorts an error of an operation that only reads, or may write.
    fn sorted(error: Error, reads: bool) -> Self {
        // What has no effect is done with when its answer is not awaited any longer.
        let settled = |outcome| reads || outcome == Outcome::NotDone;
        match error {
            Error::TooManyRequests => Failure::Unavailable(Unavailable::TooManyRequests),
            Error::NoLeader => Failure::Unavailable(Unavailable::NoLeader),
            Error::NotLeader => Failure::Unavailable(Unavailable::NotLeader),
            Error::LeaderChanged => Failure::Unavailable(Unavailable::LeaderChanged),
            Error::NoDescriptors => Failure::Unavailable(Unavailable::NoDescriptors),
            Error::Timeout { outcome } if settled(outcome) => {
                Failure::Unavailable(Unavailable::Timeout)
            }
            Error::Stopped { outcome } if settled(outcome) => {
                Failure::Unavailable(Unavailable::Stopped)
            }
            Error::OwnThread { outcome } if settled(outcome) => {
                let outcome = Outcome::NotDone;
                Failure::Caller(C::from(Error::OwnThread { outcome }))
            }
            Error::Timeout { .. } => Failure::Unknown(Unknown::Timeout),
            Error::Stopped { .. } => Failure::Unknown(Unknown::Stopped),
            Error::OwnThread { .. } => Failure::Unknown(Unknown::OwnThread),
            Error::NoSpace | Error::Invalid(henge_mvcc::Error::NoSpace) => Failure::NoSpace,
            Error::Corrupt => Failure::Corrupt,
            Error::Poisoned(why) => Failure::Poisoned(why),
            // By name, so that a new one is not put down to the caller by mistake.
            mistake @ (Error::Invalid(_)
            | Error::RequestTooLarge { .. }
            | Error::CrossShard { .. }
            | Error::LeaseElsewhere { .. }
            | Error::OtherShards { .. }
            | Error::OneShardOnly(_)) => Failure::Caller(C::from(mistake)),
        }
    }
}

/// The flat error, for callers that handle all operations alike.
impl<C: Into<Error>> From<Failure<C>> for Error {
    fn from(failure: Failure<C>) -> Self {
        match failure {
            Failure::Caller(mistake) => mistake.into(),
            Failure::Unavailable(why) => match why {
                Unavailable::TooManyRequests => Error::TooManyRequests,
                Unavailable::NoLeader => Error::NoLeader,
                Unavailable::NotLeader => Error::NotLeader,
                Unavailable::LeaderChanged => Error::LeaderChanged,
                Unavailable::NoDescriptors => Error::NoDescriptors,
                Unavailable::Timeout => Error::Timeout {
                    outcome: Outcome::NotDone,
                },
                Unavailable::Stopped => Error::Stopped {
                    outcome: Outcome::NotDone,
                },
            },
            Failure::Unknown(why) => {
                let outcome = Outcome::Unknown;
                match why {
                    Unknown::Timeout => Error::Timeout { outcome },
                    Unknown::Stopped => Error::Stopped { outcome },
                    Unknown::OwnThread => Error::OwnThread { outcome },
                }
            }
            Failure::NoSpace => Error::NoSpace,
            Failure::Corrupt => Error::Corrupt,
            Failure::Poisoned(why) => Error::Poisoned(why),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use henge_mvcc as mvcc;

    use super::*;

    /// Every error there is, with both outcomes where it has one.
    fn every_error() -> Vec<Error> {
        let key = Bytes::from_static(b"k");
        let invalid = [
            mvcc::Error::EmptyKey,
            mvcc::Error::KeyNotFound,
            mvcc::Error::ValueProvided,
            mvcc::Error::LeaseProvided,
            mvcc::Error::TooManyOps,
            mvcc::Error::DuplicateKey,
            mvcc::Error::InvalidSortOption,
            mvcc::Error::Compacted {
                requested: 1,
                compacted: 2,
            },
            mvcc::Error::FutureRevision {
                requested: 4,
                current: 3,
            },
            mvcc::Error::LeaseNotFound,
            mvcc::Error::LeaseExists,
            mvcc::Error::LeaseTtlTooLarge,
        ];
        let outcomes = [Outcome::NotDone, Outcome::Unknown];
        let mut all: Vec<_> = invalid.into_iter().map(Error::Invalid).collect();
        all.extend(outcomes.map(|outcome| Error::Timeout { outcome }));
        all.extend(outcomes.map(|outcome| Error::Stopped { outcome }));
        all.extend(outcomes.map(|outcome| Error::OwnThread { outcome }));
        all.extend([
            Error::RequestTooLarge { bytes: 2, max: 1 },
            Error::TooManyRequests,
            Error::NoLeader,
            Error::NotLeader,
            Error::LeaderChanged,
            Error::NoSpace,
            Error::NoDescriptors,
            Error::Poisoned("EIO".to_owned()),
            Error::Corrupt,
            Error::CrossShard {
                first: key.clone(),
                other: key.clone(),
            },
            Error::LeaseElsewhere { key, lease: 7 },
            Error::OtherShards {
                given: 1,
                shards: 2,
            },
            Error::OneShardOnly("a range delete"),
        ]);
        all
    }

    fn through<C>(error: &Error) -> (Failure<C>, Error)
    where
        Failure<C>: From<Error> + Clone,
        C: Into<Error>,
    {
        let failure = Failure::<C>::from(error.clone());
        (failure.clone(), failure.into())
    }

    #[test]
    fn nothing_is_lost_on_the_way_to_an_operations_error_and_back() {
        for error in every_error() {
            let (put, back) = through::<PutMistake>(&error);
            assert_eq!((back, put.outcome()), (error.clone(), error.outcome()));
            let (txn, back) = through::<TxnMistake>(&error);
            assert_eq!((back, txn.outcome()), (error.clone(), error.outcome()));
            for back in [
                through::<DeleteMistake>(&error).1,
                through::<BatchMistake>(&error).1,
                through::<LeaseMistake>(&error).1,
                through::<AlarmMistake>(&error).1,
                through::<CompactMistake>(&error).1,
            ] {
                assert_eq!(back, error);
            }
        }
    }

    #[test]
    fn a_read_has_no_unknown_outcome() {
        for error in every_error() {
            let (range, _) = through::<RangeMistake>(&error);
            assert!(!matches!(range, RangeError::Unknown(_)), "{error:?}");
            let (watch, _) = through::<WatchMistake>(&error);
            assert!(!matches!(watch, WatchError::Unknown(_)), "{error:?}");
        }
    }

    #[test]
    fn only_what_the_caller_can_change_is_the_callers() {
        let callers = every_error().into_iter().filter(|error| {
            let failure = TxnError::from(error.clone());
            matches!(failure, TxnError::Caller(_))
        });
        // Twelve of the store's, five about sizes and shards, and one about threads.
        assert_eq!(callers.count(), 18);
        let full = Error::Invalid(mvcc::Error::NoSpace);
        assert_eq!(TxnError::from(full), TxnError::NoSpace);
    }

    #[test]
    fn texts_are_those_of_the_flat_error() {
        for error in every_error() {
            let failure = TxnError::from(error.clone());
            let expected = match failure {
                TxnError::Unknown(_) => format!("{error}; it may have been done"),
                _ => error.to_string(),
            };
            assert_eq!(failure.to_string(), expected);
        }
    }
}
