//! What the caller of each operation can have done wrong.
//!
//! Each list is a selection from [`Error`]: one table says which, and gives both conversions, so the two
//! cannot drift apart. Texts are [`Error`]'s. Tested in `failure`.

use std::fmt;

use bytes::Bytes;
use henge_api::Error;
use henge_mvcc as mvcc;

use super::Failure;

/// An enum per operation: `Variant { fields } = [the error it stands for]`; the bracket is used as a
/// pattern and as an expression.
macro_rules! mistakes {
    ($(
        $(#[$doc:meta])*
        $name:ident, reads: $reads:literal {
            $($(#[$why:meta])* $variant:ident
                $({ $($(#[$what:meta])* $field:ident: $type:ty,)* })? = [$($error:tt)*],)*
        }
    )*) => {$(
        $(#[$doc])*
        #[non_exhaustive]
        #[derive(Clone, Debug, PartialEq)]
        pub enum $name {
            $($(#[$why])* $variant $({ $($(#[$what])* $field: $type,)* })?,)*
            /// A refusal that has no name in this list.
            Other(Error),
        }

        impl From<Error> for $name {
            fn from(error: Error) -> Self {
                match error {
                    $($($error)* => $name::$variant $({ $($field),* })?,)*
                    other => $name::Other(other),
                }
            }
        }

        impl From<$name> for Error {
            fn from(mistake: $name) -> Self {
                match mistake {
                    $($name::$variant $({ $($field),* })? => $($error)*,)*
                    $name::Other(error) => error,
                }
            }
        }

        impl From<Error> for Failure<$name> {
            fn from(error: Error) -> Self {
                Failure::sorted(error, $reads)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                Error::from(self.clone()).fmt(f)
            }
        }

        impl std::error::Error for $name {}
    )*};
}

mistakes! {
    /// What can be wrong with a put.
    PutMistake, reads: false {
        /// It names the empty key.
        EmptyKey = [Error::Invalid(mvcc::Error::EmptyKey)],
        /// `ignore_value` or `ignore_lease` on a key that does not exist.
        KeyNotFound = [Error::Invalid(mvcc::Error::KeyNotFound)],
        /// `ignore_value` together with a value.
        ValueProvided = [Error::Invalid(mvcc::Error::ValueProvided)],
        /// `ignore_lease` together with a lease.
        LeaseProvided = [Error::Invalid(mvcc::Error::LeaseProvided)],
        /// No such lease, or not any more.
        LeaseNotFound = [Error::Invalid(mvcc::Error::LeaseNotFound)],
        /// The lease lives in another shard than the key: take one granted for the key.
        LeaseElsewhere {
            /// The key.
            key: Bytes,
            /// The lease.
            lease: i64,
        } = [Error::LeaseElsewhere { key, lease }],
        /// Encoded it is over the limit on requests (default 1.5 MiB).
        TooLarge {
            /// Encoded size.
            bytes: usize,
            /// The limit.
            max: usize,
        } = [Error::RequestTooLarge { bytes, max }],
    }

    /// What can be wrong with a read.
    RangeMistake, reads: true {
        /// It names the empty key.
        EmptyKey = [Error::Invalid(mvcc::Error::EmptyKey)],
        /// The revision is older than what compaction left.
        Compacted {
            /// The revision that was asked for.
            requested: i64,
            /// The oldest one that can be read.
            compacted: i64,
        } = [Error::Invalid(mvcc::Error::Compacted { requested, compacted })],
        /// The revision has not happened yet.
        FutureRevision {
            /// The revision that was asked for.
            requested: i64,
            /// The shard's.
            current: i64,
        } = [Error::Invalid(mvcc::Error::FutureRevision { requested, current })],
        /// Not possible over several shards.
        OneShardOnly {
            /// What is not.
            what: &'static str,
        } = [Error::OneShardOnly(what)],
        /// Revisions of an engine with another number of shards.
        OtherShards {
            /// Shards of the revisions.
            given: usize,
            /// Shards of the engine.
            shards: usize,
        } = [Error::OtherShards { given, shards }],
    }

    /// What can be wrong with a delete.
    DeleteMistake, reads: false {
        /// It names the empty key.
        EmptyKey = [Error::Invalid(mvcc::Error::EmptyKey)],
        /// The range lies in several shards.
        OneShardOnly {
            /// What is not possible over several.
            what: &'static str,
        } = [Error::OneShardOnly(what)],
        /// Encoded it is over the limit on requests (default 1.5 MiB).
        TooLarge {
            /// Encoded size.
            bytes: usize,
            /// The limit.
            max: usize,
        } = [Error::RequestTooLarge { bytes, max }],
    }

    /// What can be wrong with a transaction.
    TxnMistake, reads: false {
        /// An operation or a comparison names the empty key.
        EmptyKey = [Error::Invalid(mvcc::Error::EmptyKey)],
        /// More comparisons or operations than the limit (default 128).
        TooManyOps = [Error::Invalid(mvcc::Error::TooManyOps)],
        /// One key would be changed twice.
        DuplicateKey = [Error::Invalid(mvcc::Error::DuplicateKey)],
        /// A put with `ignore_value` or `ignore_lease` on a key that does not exist.
        KeyNotFound = [Error::Invalid(mvcc::Error::KeyNotFound)],
        /// A put with `ignore_value` together with a value.
        ValueProvided = [Error::Invalid(mvcc::Error::ValueProvided)],
        /// A put with `ignore_lease` together with a lease.
        LeaseProvided = [Error::Invalid(mvcc::Error::LeaseProvided)],
        /// A put with a lease that does not exist, or not any more.
        LeaseNotFound = [Error::Invalid(mvcc::Error::LeaseNotFound)],
        /// A put's lease lives in another shard than its key: take one granted for the key.
        LeaseElsewhere {
            /// The key.
            key: Bytes,
            /// The lease.
            lease: i64,
        } = [Error::LeaseElsewhere { key, lease }],
        /// A range reads a revision older than what compaction left.
        Compacted {
            /// The revision that was asked for.
            requested: i64,
            /// The oldest one that can be read.
            compacted: i64,
        } = [Error::Invalid(mvcc::Error::Compacted { requested, compacted })],
        /// A range reads a revision that has not happened yet.
        FutureRevision {
            /// The revision that was asked for.
            requested: i64,
            /// The shard's.
            current: i64,
        } = [Error::Invalid(mvcc::Error::FutureRevision { requested, current })],
        /// Its keys live in different shards.
        CrossShard {
            /// A key of the transaction.
            first: Bytes,
            /// Another one, which another shard holds.
            other: Bytes,
        } = [Error::CrossShard { first, other }],
        /// One of its ranges lies in several shards.
        OneShardOnly {
            /// What is not possible over several.
            what: &'static str,
        } = [Error::OneShardOnly(what)],
        /// Encoded it is over the limit on requests (default 1.5 MiB).
        TooLarge {
            /// Encoded size.
            bytes: usize,
            /// The limit.
            max: usize,
        } = [Error::RequestTooLarge { bytes, max }],
    }

    /// What can be wrong with a batch.
    BatchMistake, reads: false {
        /// One of its operations names the empty key; nothing of the batch was done, in any shard.
        EmptyKey = [Error::Invalid(mvcc::Error::EmptyKey)],
        /// No such lease, or not any more; nothing of this shard's part was done.
        LeaseNotFound = [Error::Invalid(mvcc::Error::LeaseNotFound)],
        /// A put's lease lives in another shard than its key; nothing of the batch was done, in any shard.
        LeaseElsewhere {
            /// The key.
            key: Bytes,
            /// The lease.
            lease: i64,
        } = [Error::LeaseElsewhere { key, lease }],
        /// A shard's part, encoded, is over the limit on requests (default 1.5 MiB): make smaller batches.
        TooLarge {
            /// Encoded size.
            bytes: usize,
            /// The limit.
            max: usize,
        } = [Error::RequestTooLarge { bytes, max }],
    }

    /// What can be wrong with an operation on a lease.
    LeaseMistake, reads: false {
        /// No such lease, or not any more.
        NotFound = [Error::Invalid(mvcc::Error::LeaseNotFound)],
        /// A lease with this id exists already.
        Exists = [Error::Invalid(mvcc::Error::LeaseExists)],
        /// The time to live is above [`mvcc::LEASE_TTL_S_MAX`].
        TtlTooLarge = [Error::Invalid(mvcc::Error::LeaseTtlTooLarge)],
    }

    /// What can be wrong with a compaction.
    CompactMistake, reads: false {
        /// That far and farther was compacted before.
        Compacted {
            /// The revision that was asked for.
            requested: i64,
            /// How far it was.
            compacted: i64,
        } = [Error::Invalid(mvcc::Error::Compacted { requested, compacted })],
        /// The revision has not happened yet.
        FutureRevision {
            /// The revision that was asked for.
            requested: i64,
            /// The shard's.
            current: i64,
        } = [Error::Invalid(mvcc::Error::FutureRevision { requested, current })],
        /// One revision does not say where, over several shards.
        OneShardOnly {
            /// What is not possible over several.
            what: &'static str,
        } = [Error::OneShardOnly(what)],
        /// Revisions of an engine with another number of shards.
        OtherShards {
            /// Shards of the revisions.
            given: usize,
            /// Shards of the engine.
            shards: usize,
        } = [Error::OtherShards { given, shards }],
    }

    /// What can be wrong with lowering an alarm: nothing of its own.
    AlarmMistake, reads: false {
    }

    /// What can be wrong with a watch.
    WatchMistake, reads: true {
        /// Not possible over several shards.
        OneShardOnly {
            /// What is not.
            what: &'static str,
        } = [Error::OneShardOnly(what)],
        /// Revisions of an engine with another number of shards.
        OtherShards {
            /// Shards of the revisions.
            given: usize,
            /// Shards of the engine.
            shards: usize,
        } = [Error::OtherShards { given, shards }],
    }
}
