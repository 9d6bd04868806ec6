//! The one table from engine errors to gRPC codes and etcd's texts.
//!
//! Both columns are API: Go's clientv3 matches the text only, the other clients mostly the code
//! (etcd `api/v3rpc/rpctypes/error.go`). Every row has a test below.

use std::borrow::Cow;

use tonic::{Code, Status};

use henge_api::Error;

use henge_mvcc as mvcc;

/// Texts that more than one place answers with.
pub(crate) mod text {
    /// Answer to anything that needs a leader while there is none.
    pub(crate) const NO_LEADER: &str = "etcdserver: no leader";
    /// Answer to streams while the server drains.
    pub(crate) const STOPPED: &str = "etcdserver: server stopped";
    /// Answer to `Authenticate` while authentication is off.
    pub(crate) const AUTH_NOT_ENABLED: &str = "etcdserver: authentication is not enabled";
}

/// `e` as the gRPC status etcd would answer with.
pub fn status(e: &Error) -> Status {
    let (code, text) = row(e);
    Status::new(code, text)
}

/// The code and text of `e` on the wire.
pub fn row(e: &Error) -> (Code, Cow<'static, str>) {
    let (code, text) = match e {
        Error::Invalid(e) => return invalid(e),
        Error::RequestTooLarge { .. } => {
            (Code::InvalidArgument, "etcdserver: request is too large")
        }
        // etcd's own table says ResourceExhausted, but its server map holds the client-side error
        // value, which has no gRPC status: on the wire it is Unknown. Clients were written
        // against the wire.
        Error::TooManyRequests => (Code::Unknown, "etcdserver: too many requests"),
        Error::NoLeader => (Code::Unavailable, text::NO_LEADER),
        Error::NotLeader => (Code::FailedPrecondition, "etcdserver: not leader"),
        Error::LeaderChanged => (Code::Unavailable, "etcdserver: leader changed"),
        Error::Timeout { .. } => (Code::Unavailable, "etcdserver: request timed out"),
        Error::Stopped { .. } => (Code::Unavailable, text::STOPPED),
        Error::NoSpace => (
            Code::ResourceExhausted,
            "etcdserver: mvcc: database space exceeded",
        ),
        // Ours alone: etcd keeps descriptors back too, but has no word for it when they run out.
        Error::NoDescriptors => (
            Code::ResourceExhausted,
            "etcdserver: no file descriptor is left for the log; raise the limit (ulimit -n)",
        ),
        Error::Corrupt => (Code::DataLoss, "etcdserver: corrupt cluster"),
        // Ours alone (etcd exits the process instead). Unavailable: another member may serve it,
        // and clientv3 does not repeat writes on it, which is right since the outcome is unknown.
        Error::Poisoned(_) => return (Code::Unavailable, Cow::Owned(format!("etcdserver: {e}"))),
        // Ours alone, and of embedded engines; etcd answers Unknown to what it has no row for.
        Error::CrossShard { .. }
        | Error::LeaseElsewhere { .. }
        | Error::OtherShards { .. }
        | Error::OneShardOnly(_)
        | Error::OwnThread { .. } => {
            return (Code::Unknown, Cow::Owned(format!("etcdserver: {e}")));
        }
    };
    (code, Cow::Borrowed(text))
}

/// The caller's mistakes.
fn invalid(e: &mvcc::Error) -> (Code, Cow<'static, str>) {
    use mvcc::Error as E;
    let (code, text) = match e {
        E::EmptyKey => (Code::InvalidArgument, "etcdserver: key is not provided"),
        E::KeyNotFound => (Code::InvalidArgument, "etcdserver: key not found"),
        E::ValueProvided => (Code::InvalidArgument, "etcdserver: value is provided"),
        E::LeaseProvided => (Code::InvalidArgument, "etcdserver: lease is provided"),
        E::TooManyOps => (
            Code::InvalidArgument,
            "etcdserver: too many operations in txn request",
        ),
        E::DuplicateKey => (
            Code::InvalidArgument,
            "etcdserver: duplicate key given in txn request",
        ),
        E::InvalidSortOption => (Code::InvalidArgument, "etcdserver: invalid sort option"),
        E::Compacted { .. } => (
            Code::OutOfRange,
            "etcdserver: mvcc: required revision has been compacted",
        ),
        E::FutureRevision { .. } => (
            Code::OutOfRange,
            "etcdserver: mvcc: required revision is a future revision",
        ),
        E::LeaseNotFound => (Code::NotFound, "etcdserver: requested lease not found"),
        E::LeaseExists => (Code::FailedPrecondition, "etcdserver: lease already exists"),
        E::LeaseTtlTooLarge => (Code::OutOfRange, "etcdserver: too large lease TTL"),
        E::NoSpace => (
            Code::ResourceExhausted,
            "etcdserver: mvcc: database space exceeded",
        ),
    };
    (code, Cow::Borrowed(text))
}

/// A stream's read error: tonic says OutOfRange for an over-long message, grpc-go (and so every
/// etcd) ResourceExhausted.
pub(crate) fn inbound(status: Status) -> Status {
    if status.code() == Code::OutOfRange && status.message().starts_with(TONIC_TOO_LARGE) {
        return Status::resource_exhausted(status.message().replacen(
            TONIC_TOO_LARGE,
            "grpc: received message larger than max",
            1,
        ));
    }
    status
}

/// How tonic 0.14 begins its text for a message over the limit.
pub(crate) const TONIC_TOO_LARGE: &str = "Error, decoded message length too large";

#[cfg(test)]
mod tests {
    use super::*;
    use henge_api::Outcome;

    #[test]
    fn every_row_has_etcds_code_and_text() {
        use Code::*;
        let m = Error::Invalid;
        let compacted = mvcc::Error::Compacted {
            requested: 1,
            compacted: 2,
        };
        let future = mvcc::Error::FutureRevision {
            requested: 3,
            current: 2,
        };
        let outcome = Outcome::Unknown;
        let table: Vec<(Error, Code, &str)> = vec![
            (
                m(mvcc::Error::EmptyKey),
                InvalidArgument,
                "key is not provided",
            ),
            (
                m(mvcc::Error::KeyNotFound),
                InvalidArgument,
                "key not found",
            ),
            (
                m(mvcc::Error::ValueProvided),
                InvalidArgument,
                "value is provided",
            ),
            (
                m(mvcc::Error::LeaseProvided),
                InvalidArgument,
                "lease is provided",
            ),
            (
                m(mvcc::Error::TooManyOps),
                InvalidArgument,
                "too many operations in txn request",
            ),
            (
                m(mvcc::Error::DuplicateKey),
                InvalidArgument,
                "duplicate key given in txn request",
            ),
            (
                m(mvcc::Error::InvalidSortOption),
                InvalidArgument,
                "invalid sort option",
            ),
            (
                m(compacted),
                OutOfRange,
                "mvcc: required revision has been compacted",
            ),
            (
                m(future),
                OutOfRange,
                "mvcc: required revision is a future revision",
            ),
            (
                m(mvcc::Error::LeaseNotFound),
                NotFound,
                "requested lease not found",
            ),
            (
                m(mvcc::Error::LeaseExists),
                FailedPrecondition,
                "lease already exists",
            ),
            (
                m(mvcc::Error::LeaseTtlTooLarge),
                OutOfRange,
                "too large lease TTL",
            ),
            (
                m(mvcc::Error::NoSpace),
                ResourceExhausted,
                "mvcc: database space exceeded",
            ),
            (
                Error::RequestTooLarge { bytes: 2, max: 1 },
                InvalidArgument,
                "request is too large",
            ),
            (Error::TooManyRequests, Unknown, "too many requests"),
            (Error::NoLeader, Unavailable, "no leader"),
            (Error::NotLeader, FailedPrecondition, "not leader"),
            (Error::LeaderChanged, Unavailable, "leader changed"),
            (Error::Timeout { outcome }, Unavailable, "request timed out"),
            (Error::Stopped { outcome }, Unavailable, "server stopped"),
            (
                Error::NoSpace,
                ResourceExhausted,
                "mvcc: database space exceeded",
            ),
            (
                Error::NoDescriptors,
                ResourceExhausted,
                "no file descriptor is left for the log; raise the limit (ulimit -n)",
            ),
            (Error::Corrupt, DataLoss, "corrupt cluster"),
            (
                Error::Poisoned("EIO".into()),
                Unavailable,
                "the log is poisoned: EIO",
            ),
        ];
        for (error, code, text) in table {
            let s = status(&error);
            assert_eq!(
                (s.code(), s.message()),
                (code, format!("etcdserver: {text}").as_str()),
                "{error:?}"
            );
        }
    }

    #[test]
    fn an_overlong_stream_message_is_resource_exhausted_as_in_grpc_go() {
        let s = inbound(Status::out_of_range(format!("{TONIC_TOO_LARGE}: found 9")));
        assert_eq!(s.code(), Code::ResourceExhausted);
        assert_eq!(inbound(Status::out_of_range("x")).code(), Code::OutOfRange);
    }
}
