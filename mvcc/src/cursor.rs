//! A range read in slices, while writes go on.
//!
//! One answer of a million pairs takes hundreds of milliseconds and as much memory again; a
//! [`RangeCursor`] gives it in pieces, each bounded by keys looked at and by bytes. All pieces are of
//! the revision at which the cursor began: put together they are what [`Store::range`] would have
//! answered then, with `more` and `count` in the last. That is etcd 3.7's RangeStream, and serves a
//! large unary Range as well.
//!
//! A compaction past its revision does not end a cursor: it began before, and is served as etcd
//! serves a read transaction that is open. The price is that physical compaction waits while a cursor
//! exists, so whoever holds one for a client bounds for how long. Custom sorts need everything
//! before the first pair, so they are not for cursors ([`RangeCursor::serves`]), nor in etcd's
//! RangeStream. Never knows streams or chunks' framing. Tested by `tests/cursor.rs`: random histories
//! in between, against the plain range.

use std::ops::ControlFlow;

use crate::error::Error;
use crate::pins::Pin;
use crate::range::{has_filters, passes, to_pairs};
use crate::store::Store;
use crate::types::{
    KeyRange, KeyValue, OwnedRange, RangeRequest, RangeResponse, SortOrder, SortTarget,
};

/// A range that is being read. Drop it when done: physical compaction waits for it.
#[derive(Debug)]
pub struct RangeCursor {
    range: OwnedRange,
    revision: i64,
    /// What the slices have to know of the request but for the range.
    keys_only: bool,
    count_only: bool,
    filters: Filters,
    /// Pairs that may still be given out.
    left: usize,
    /// A pair passed that was not given out, for the limit.
    more: bool,
    /// Keys of the range that existed, so far.
    seen: i64,
    /// All of them, where that was known at once.
    count: Option<i64>,
    /// The key to go on after.
    after: Option<Vec<u8>>,
    done: bool,
    _pin: Pin,
}

#[derive(Clone, Copy, Debug)]
struct Filters {
    mod_revision: (i64, i64),
    create_revision: (i64, i64),
}

/// A piece of a range's answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeSlice {
    /// The next pairs, in key order; may be none before the end.
    pub kvs: Vec<KeyValue>,
    /// With the last piece: `more` and `count` of the whole.
    pub end: Option<RangeEnd>,
}

/// What a range's answer says beside its pairs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RangeEnd {
    /// The limit cut something off.
    pub more: bool,
    /// Keys in the range at that revision, whatever limit and filters say.
    pub count: i64,
}

/// Bounds of one slice. A slice gives at least one pair if it comes to one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SliceLimits {
    /// Most keys that are looked at, given out or not. A key costs 0.1 to 0.4 µs.
    pub keys_max: usize,
    /// Bytes of keys and values after which it ends.
    pub bytes_max: usize,
}

impl Default for SliceLimits {
    /// 1,000 keys or 256 KiB: well under a millisecond.
    fn default() -> Self {
        SliceLimits {
            keys_max: 1_000,
            bytes_max: 256 << 10,
        }
    }
}

impl RangeCursor {
    /// Can a cursor answer this request? Not if it is to be sorted by anything but ascending keys.
    pub fn serves(request: &RangeRequest<'_>) -> bool {
        request.sort_order != SortOrder::Descend && request.sort_target == SortTarget::Key
    }

    /// The revision that is read, which is the one that the answer's header has to say: a client
    /// that goes on by watching from there misses nothing.
    pub fn revision(&self) -> i64 {
        self.revision
    }
}

impl Store {
    /// Begins to read. Refuses what [`Store::range`] refuses, and a custom sort.
    pub fn range_begin(&self, request: &RangeRequest<'_>) -> Result<RangeCursor, Error> {
        let revision = self.range_revision(request)?;
        if !RangeCursor::serves(request) {
            return Err(Error::InvalidSortOption);
        }
        let KeyRange { key, end } = request.range;
        // Who reads all of it counts on the way; so does who reads a past that is not quickly counted.
        let reads_all = request.limit <= 0 && !request.count_only;
        let is_known = !reads_all && self.counts_quickly(revision);
        let count = is_known.then(|| self.count(request.range, revision));
        Ok(RangeCursor {
            range: OwnedRange {
                key: key.to_vec().into(),
                end: end.to_vec().into(),
            },
            revision,
            keys_only: request.keys_only,
            count_only: request.count_only,
            filters: Filters {
                mod_revision: (request.min_mod_revision, request.max_mod_revision),
                create_revision: (request.min_create_revision, request.max_create_revision),
            },
            left: match usize::try_from(request.limit) {
                _ if request.count_only => 0,
                Ok(limit) if limit > 0 => limit,
                _ => usize::MAX,
            },
            more: false,
            seen: 0,
            count,
            after: None,
            done: false,
            _pin: self.pins.pin(self.revision_seen()),
        })
    }

    /// Should a range be read with a cursor, as [`Store::range`] might take longer for it than a slice? Not
    /// said of custom sorts, for which there is no cursor.
    pub fn range_is_long(&self, request: &RangeRequest<'_>) -> bool {
        if request.range.is_one() || !RangeCursor::serves(request) {
            return false;
        }
        let keys_max = SliceLimits::default().keys_max as i64;
        let is_paged = request.count_only || (1..=keys_max).contains(&request.limit);
        !is_paged || has_filters(request) || !self.counts_quickly(request.revision)
    }

    /// Is a range counted within a slice? The present is counted by the index, the near past by what
    /// changed since.
    fn counts_quickly(&self, revision: i64) -> bool {
        let now = self.revision_seen();
        let is_now = revision <= 0 || revision == now;
        is_now || self.log.len_since(revision + 1) <= SliceLimits::default().keys_max
    }

    /// About how many pairs a cursor has yet to give, for whoever makes room for them: no more than its
    /// limit, nor than there are in its range now.
    pub fn range_left(&self, cursor: &RangeCursor) -> usize {
        let mut rest = cursor.range.as_range();
        rest.key = cursor.after.as_deref().unwrap_or(rest.key);
        let count = self.count(rest, self.revision_seen());
        cursor.left.min(usize::try_from(count).unwrap_or(0))
    }

    /// Reads on. After the last piece there are only empty ones. The cursor has to be of this store.
    pub fn range_next(&self, cursor: &mut RangeCursor, limits: SliceLimits) -> RangeSlice {
        if cursor.done {
            return RangeSlice::default();
        }
        let mut found = Vec::new();
        let (mut looked_at, mut bytes) = (0, 0);
        let resume = cursor.after.take();
        let range = cursor.range.clone();
        let rest = KeyRange {
            key: resume.as_deref().unwrap_or(&range.key),
            end: if range.as_range().is_one() {
                b""
            } else {
                &range.end
            },
        };
        let mut stopped_before = false;
        self.scan_range(rest, |id| {
            let key = self.keys.key(id);
            if resume.as_deref() == Some(key) {
                return ControlFlow::Continue(());
            }
            // Nothing more can be learnt: the count is known and the limit passed.
            let all_known = cursor.count.is_some() && cursor.left == 0 && cursor.more;
            if all_known || cursor.count.is_some() && cursor.count_only {
                return ControlFlow::Break(());
            }
            looked_at += 1;
            let version = self
                .keys
                .at(id, cursor.revision)
                .filter(|version| !version.tombstone);
            if let Some(version) = version {
                cursor.seen += 1;
                if !cursor.count_only && cursor.filters.pass(&version) {
                    match cursor.left.checked_sub(1) {
                        Some(left) => {
                            cursor.left = left;
                            bytes += key.len();
                            bytes += if cursor.keys_only {
                                0
                            } else {
                                version.value.len()
                            };
                            found.push((key, version));
                        }
                        None => cursor.more = true,
                    }
                }
            }
            if looked_at >= limits.keys_max || bytes >= limits.bytes_max {
                stopped_before = true;
                cursor.after = Some(key.to_vec());
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        });
        cursor.done = !stopped_before;
        let end = cursor.done.then(|| RangeEnd {
            more: cursor.more,
            count: cursor.count.unwrap_or(cursor.seen),
        });
        RangeSlice {
            kvs: to_pairs(&found, cursor.keys_only),
            end,
        }
    }

    /// Reads a whole range in slices: what [`Store::range`] answers, for comparison and for callers
    /// that have nothing else to do.
    pub fn range_through(
        &self,
        request: &RangeRequest<'_>,
        limits: SliceLimits,
    ) -> Result<RangeResponse, Error> {
        let mut cursor = self.range_begin(request)?;
        let mut kvs = Vec::new();
        loop {
            let slice = self.range_next(&mut cursor, limits);
            kvs.extend(slice.kvs);
            if let Some(RangeEnd { more, count }) = slice.end {
                return Ok(RangeResponse { kvs, more, count });
            }
        }
    }
}

impl Filters {
    fn pass(&self, version: &crate::version::Version<'_>) -> bool {
        passes(version, self.mod_revision, self.create_revision)
    }
}
