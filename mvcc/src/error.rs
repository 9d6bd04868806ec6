//! What a caller of the store can have done wrong, and what a damaged snapshot looks like.
//!
//! Promise: `Display` of [`Error`] is etcd's text after `etcdserver: `, byte for byte, because
//! clients of etcd match errors by that string. Nothing here knows about gRPC codes: the edge maps
//! variants to codes. Tested by the table at the end of this file.

/// A mistake of the caller. Nothing was changed by the request that got it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The request names the empty key.
    #[error("key is not provided")]
    EmptyKey,
    /// `ignore_value` or `ignore_lease` on a key that does not exist, or an operation of no kind.
    #[error("key not found")]
    KeyNotFound,
    /// `ignore_value` together with a value.
    #[error("value is provided")]
    ValueProvided,
    /// `ignore_lease` together with a lease.
    #[error("lease is provided")]
    LeaseProvided,
    /// A transaction has more compares or operations than the limit, or nests too deep.
    #[error("too many operations in txn request")]
    TooManyOps,
    /// A transaction would change one key twice.
    #[error("duplicate key given in txn request")]
    DuplicateKey,
    /// A sort order or sort target that is none of etcd's numbers (found where numbers come in).
    #[error("invalid sort option")]
    InvalidSortOption,
    /// The revision is older than what compaction left.
    #[error("mvcc: required revision has been compacted")]
    Compacted {
        /// The revision that was asked for.
        requested: i64,
        /// The store's compact revision; the oldest revision that can be read.
        compacted: i64,
    },
    /// The revision has not happened yet.
    #[error("mvcc: required revision is a future revision")]
    FutureRevision {
        /// The revision that was asked for.
        requested: i64,
        /// The store's revision.
        current: i64,
    },
    /// No lease with this id.
    #[error("requested lease not found")]
    LeaseNotFound,
    /// A lease with this id exists already.
    #[error("lease already exists")]
    LeaseExists,
    /// The time to live is above [`crate::LEASE_TTL_S_MAX`].
    #[error("too large lease TTL")]
    LeaseTtlTooLarge,
    /// The space quota is used up (raised by whoever enforces the quota, from [`crate::Stats`]).
    #[error("mvcc: database space exceeded")]
    NoSpace,
}

/// A snapshot stream that cannot be restored. The stream is at fault (or whoever kept it); the
/// next safe step is to fetch the snapshot again. Nothing was built from it.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// The stream does not start with the snapshot magic.
    #[error("not a snapshot of this store: wrong magic at byte 0")]
    Magic,
    /// The stream was written by a newer version.
    #[error("snapshot format {found} is newer than the supported {supported}; use a newer binary")]
    Version {
        /// Version in the stream.
        found: u32,
        /// Newest version that this build reads.
        supported: u32,
    },
    /// A field or record does not decode.
    #[error("snapshot is damaged at byte {offset}: {what}; fetch it again")]
    Damaged {
        /// Offset in the stream of the block that holds the damage.
        offset: u64,
        /// What was found wrong.
        what: &'static str,
    },
    /// The stream ends too early.
    #[error("snapshot ends at byte {offset}, before its end block; fetch it again")]
    Truncated {
        /// Bytes seen.
        offset: u64,
    },
    /// Content and end block disagree.
    #[error("snapshot checksum mismatch: computed {computed:#x}, recorded {recorded:#x}")]
    Checksum {
        /// Computed over the stream.
        computed: u64,
        /// Written in the end block.
        recorded: u64,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_etcds() {
        let table = [
            (Error::EmptyKey, "key is not provided"),
            (Error::KeyNotFound, "key not found"),
            (Error::ValueProvided, "value is provided"),
            (Error::LeaseProvided, "lease is provided"),
            (Error::TooManyOps, "too many operations in txn request"),
            (Error::DuplicateKey, "duplicate key given in txn request"),
            (Error::InvalidSortOption, "invalid sort option"),
            (
                Error::Compacted {
                    requested: 1,
                    compacted: 2,
                },
                "mvcc: required revision has been compacted",
            ),
            (
                Error::FutureRevision {
                    requested: 2,
                    current: 1,
                },
                "mvcc: required revision is a future revision",
            ),
            (Error::LeaseNotFound, "requested lease not found"),
            (Error::LeaseExists, "lease already exists"),
            (Error::LeaseTtlTooLarge, "too large lease TTL"),
            (Error::NoSpace, "mvcc: database space exceeded"),
        ];
        for (error, text) in table {
            assert_eq!(error.to_string(), text);
        }
    }
}
