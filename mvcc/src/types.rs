//! Requests (which borrow), responses (which own), and the watch vocabulary.
//!
//! The names and meanings are etcd's v3 API, without its wire form: no protobuf type appears here.
//! Requests borrow so that a decoded command can be applied without copying; responses own `Bytes`
//! so that they outlive the store's next change. Tested through every test of the store.

use bytes::Bytes;

/// Largest time to live of a lease, in seconds (etcd's MaxLeaseTTL).
pub const LEASE_TTL_S_MAX: i64 = 9_000_000_000;

/// A set of keys in etcd's terms: `end` empty is the single key `key`; `end` = `b"\0"` is every
/// key from `key` on; otherwise `[key, end)`, which is empty when `end <= key`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyRange<'a> {
    /// First key.
    pub key: &'a [u8],
    /// etcd's range_end.
    pub end: &'a [u8],
}

impl<'a> KeyRange<'a> {
    /// Exactly one key.
    pub fn one(key: &'a [u8]) -> Self {
        KeyRange { key, end: b"" }
    }

    /// Every key: from `b"\0"` on, as etcd clients write it.
    pub fn all() -> Self {
        KeyRange {
            key: b"\0",
            end: b"\0",
        }
    }

    /// Does this name a single key rather than an interval?
    pub fn is_one(&self) -> bool {
        self.end.is_empty()
    }

    /// Is `key` in the set?
    pub fn contains(&self, key: &[u8]) -> bool {
        if self.is_one() {
            return key == self.key;
        }
        key >= self.key && self.end_bound().is_none_or(|end| key < end)
    }

    /// The exclusive upper bound of an interval; `None` means no bound.
    /// For a single key this has no meaning; ask [`KeyRange::is_one`] first.
    pub(crate) fn end_bound(&self) -> Option<&'a [u8]> {
        if self.end == b"\0" {
            None
        } else {
            Some(self.end)
        }
    }
}

/// The `end` that makes a range of all keys with this prefix: the prefix with its last byte that
/// is not 0xff incremented; `b"\0"` if there is none (etcd's clientv3.GetPrefixRangeEnd).
pub fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return end;
        }
    }
    vec![0]
}

/// A [`KeyRange`] that owns its bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnedRange {
    /// First key.
    pub key: Bytes,
    /// etcd's range_end.
    pub end: Bytes,
}

impl OwnedRange {
    /// The borrowed form.
    pub fn as_range(&self) -> KeyRange<'_> {
        KeyRange {
            key: &self.key,
            end: &self.end,
        }
    }
}

/// Order of a range's result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SortOrder {
    /// Key order; with a target other than `Key`, ascending.
    #[default]
    None,
    /// Ascending.
    Ascend,
    /// Descending.
    Descend,
}

/// What a range's result is sorted by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SortTarget {
    /// The key.
    #[default]
    Key,
    /// The number of puts since creation.
    Version,
    /// The create revision.
    Create,
    /// The mod revision.
    Mod,
    /// The value's bytes.
    Value,
}

/// Reads keys. Whether the read is linearizable is decided before the store is asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeRequest<'a> {
    /// Which keys.
    pub range: KeyRange<'a>,
    /// Most pairs to return; 0 or less is unlimited.
    pub limit: i64,
    /// Revision to read at; 0 or less is the current one.
    pub revision: i64,
    /// Order.
    pub sort_order: SortOrder,
    /// What to order by.
    pub sort_target: SortTarget,
    /// Leave the values out.
    pub keys_only: bool,
    /// Only count.
    pub count_only: bool,
    /// Drop pairs with a smaller mod revision; 0 is off.
    pub min_mod_revision: i64,
    /// Drop pairs with a greater mod revision; 0 is off.
    pub max_mod_revision: i64,
    /// Drop pairs with a smaller create revision; 0 is off.
    pub min_create_revision: i64,
    /// Drop pairs with a greater create revision; 0 is off.
    pub max_create_revision: i64,
    /// The caller asks on behind the last pair, so a cursor may end before the limit, once it gave out
    /// [`crate::EARLY_BYTES`]: its answer says `more`, and `count` is of no use.
    pub may_end_early: bool,
}

/// Writes one key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PutRequest<'a> {
    /// The key; not empty.
    pub key: &'a [u8],
    /// The value; may be empty.
    pub value: &'a [u8],
    /// The lease to attach the key to; 0 is none, and detaches the key from an older one.
    pub lease: i64,
    /// Return the pair as it was.
    pub prev_kv: bool,
    /// Keep the value, change only the lease (and the revision).
    pub ignore_value: bool,
    /// Keep the lease.
    pub ignore_lease: bool,
}

/// Deletes keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeleteRangeRequest<'a> {
    /// Which keys.
    pub range: KeyRange<'a>,
    /// Return the pairs as they were.
    pub prev_kv: bool,
}

/// How a compare relates the stored value to the given one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CompareResult {
    /// stored = given
    #[default]
    Equal,
    /// stored > given
    Greater,
    /// stored < given
    Less,
    /// stored ≠ given
    NotEqual,
}

/// What a compare looks at, with the given value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompareTarget<'a> {
    /// The version of the key; 0 for a missing key.
    Version(i64),
    /// The create revision; 0 for a missing key.
    CreateRevision(i64),
    /// The mod revision; 0 for a missing key.
    ModRevision(i64),
    /// The value; on a missing key every such compare is false.
    Value(&'a [u8]),
    /// The lease; 0 for a missing key.
    Lease(i64),
}

impl Default for CompareTarget<'_> {
    fn default() -> Self {
        CompareTarget::Version(0)
    }
}

/// One condition of a transaction. With an interval every key in it must satisfy it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compare<'a> {
    /// Which keys.
    pub range: KeyRange<'a>,
    /// The relation.
    pub result: CompareResult,
    /// The target and the given value.
    pub target: CompareTarget<'a>,
}

/// One operation of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestOp<'a> {
    /// A read; sees what the operations before it in the transaction wrote.
    Range(RangeRequest<'a>),
    /// A put.
    Put(PutRequest<'a>),
    /// A delete.
    DeleteRange(DeleteRangeRequest<'a>),
    /// A nested transaction; its compares see the state before the outermost transaction.
    Txn(Box<TxnRequest<'a>>),
}

/// If all compares hold, `success`, else `failure`; atomically, in one revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TxnRequest<'a> {
    /// The conditions.
    pub compare: Vec<Compare<'a>>,
    /// What to do when all hold.
    pub success: Vec<RequestOp<'a>>,
    /// What to do otherwise.
    pub failure: Vec<RequestOp<'a>>,
}

impl TxnRequest<'_> {
    /// Only ranges in both branches, so it need not be replicated. A nested transaction counts as
    /// a write, as in etcd.
    pub fn is_read_only(&self) -> bool {
        self.success
            .iter()
            .chain(&self.failure)
            .all(|op| matches!(op, RequestOp::Range(_)))
    }
}

/// A key with its value and history numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyValue {
    /// The key.
    pub key: Bytes,
    /// The value.
    pub value: Bytes,
    /// Revision of the put that created the key (this generation of it).
    pub create_revision: i64,
    /// Revision of the last change.
    pub mod_revision: i64,
    /// Puts since creation, from 1; 0 in a delete event.
    pub version: i64,
    /// The lease the key is attached to; 0 is none.
    pub lease: i64,
}

/// Answer to [`RangeRequest`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeResponse {
    /// The pairs.
    pub kvs: Vec<KeyValue>,
    /// The limit cut something off.
    pub more: bool,
    /// Keys in the range at that revision, whatever limit and filters say.
    pub count: i64,
}

/// Answer to [`PutRequest`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PutResponse {
    /// The pair before the put, if asked for and there was one.
    pub prev_kv: Option<KeyValue>,
}

/// Answer to [`DeleteRangeRequest`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeleteRangeResponse {
    /// Keys deleted.
    pub deleted: i64,
    /// The pairs as they were, in key order, if asked for.
    pub prev_kvs: Vec<KeyValue>,
}

/// Answer to one [`RequestOp`], of the same kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResponseOp {
    /// To a range.
    Range(RangeResponse),
    /// To a put.
    Put(PutResponse),
    /// To a delete.
    DeleteRange(DeleteRangeResponse),
    /// To a nested transaction.
    Txn(Box<TxnResponse>),
}

/// Answer to [`TxnRequest`]; `responses` are positional.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TxnResponse {
    /// Did all compares hold?
    pub succeeded: bool,
    /// One per operation of the branch taken.
    pub responses: Vec<ResponseOp>,
}

/// What a lease is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaseStatus {
    /// Time to live as granted, in seconds.
    pub granted_ttl_s: i64,
    /// Seconds left, rounded down, not below 0; the granted time where no deadline runs (on a
    /// replica that is not the primary).
    pub remaining_ttl_s: i64,
    /// Attached keys in key order, if asked for.
    pub keys: Vec<Bytes>,
}

/// Put or delete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// A put.
    Put,
    /// A delete.
    Delete,
}

/// One change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Put or delete.
    pub kind: EventKind,
    /// The pair after a put; for a delete only key and mod_revision (of the delete) are set.
    pub kv: KeyValue,
    /// The pair before, if the watcher asked for it, there was one, and it is not compacted.
    pub prev_kv: Option<KeyValue>,
}

/// Which kinds of events a watcher does not want.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WatchFilters {
    /// No puts.
    pub no_put: bool,
    /// No deletes.
    pub no_delete: bool,
}

/// What a watcher wants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WatchSpec {
    /// Which keys. An empty key means `b"\0"`, as in etcd.
    pub range: OwnedRange,
    /// First revision wanted; 0 or less means after the current one; a future one is accepted.
    pub start_revision: i64,
    /// Unwanted kinds.
    pub filters: WatchFilters,
    /// Deliver the pair before each change.
    pub prev_kv: bool,
}

/// Names a watcher of one store; never reused within the life of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WatcherId(pub u64);

/// What [`crate::Store::watch_next`] delivers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchBatch {
    /// Events in revision order. All events of a revision are in the same batch.
    Events {
        /// Revision of the last event.
        revision: i64,
        /// The events, not empty.
        events: Vec<Event>,
    },
    /// The watcher needs revisions that are compacted. It is gone; this is its last batch.
    Compacted {
        /// The store's compact revision.
        compact_revision: i64,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_contain_what_etcd_says() {
        let table: [(&str, &str, &str, bool); 10] = [
            ("a", "", "a", true),
            ("a", "", "a\0", false),
            ("a", "c", "a", true),
            ("a", "c", "bzz", true),
            ("a", "c", "c", false),
            ("a", "\0", "zz", true),
            ("b", "\0", "a", false),
            ("\0", "\0", "\0", true),
            ("c", "a", "b", false),
            ("c", "c", "c", false),
        ];
        for (key, end, probe, inside) in table {
            let range = KeyRange {
                key: key.as_bytes(),
                end: end.as_bytes(),
            };
            assert_eq!(
                range.contains(probe.as_bytes()),
                inside,
                "{range:?} {probe:?}"
            );
        }
    }

    #[test]
    fn prefix_end_increments_the_last_byte_that_can_be() {
        assert_eq!(prefix_end(b"ab"), b"ac");
        assert_eq!(prefix_end(b"a\xff"), b"b");
        assert_eq!(prefix_end(b"\xff\xff"), b"\0");
        assert_eq!(prefix_end(b""), b"\0");
    }

    #[test]
    fn a_nested_txn_counts_as_a_write() {
        let mut txn = TxnRequest {
            success: vec![RequestOp::Range(RangeRequest::default())],
            ..TxnRequest::default()
        };
        assert!(txn.is_read_only());
        txn.failure.push(RequestOp::Txn(Box::default()));
        assert!(!txn.is_read_only());
    }
}
