//! A range read in slices, while writes go on.
//!
//! One answer of a million pairs takes hundreds of milliseconds and as much memory again; a
//! [`RangeCursor`] gives it in pieces, each bounded by keys looked at and by bytes. All pieces are of
//! the revision at which the cursor began: put together they are what [`Store::range`] would have
//! answered then, with `more` and `count` in the last. That is etcd 3.7's RangeStream, and serves a
//! large unary Range as well. A range sorted by anything but the key needs everything before its first
//! pair: its slices are empty but for the last, and no longer than others (see `sorter`).
//!
//! A compaction past its revision does not end a cursor: it began before, and is served as etcd
//! serves a read transaction that is open. The price is what was there at its revision and
//! is overwritten since: that stays while the cursor has not seen all its keys, and nothing else does.
//! Never knows streams or chunks' framing. Tested by `tests/cursor.rs`: random histories in between,
//! against the plain range.

use std::ops::ControlFlow;

use crate::error::Error;
use crate::pins::{Pin, Span};
use crate::range::{has_filters, passes, range_revision};
use crate::sorter::{By, Sorter, bytes_of};
use crate::store::{Moment, Store};
use crate::types::{
    KeyRange, KeyValue, OwnedRange, RangeRequest, RangeResponse, SortOrder, SortTarget,
};
use crate::version::Version;

/// The longest page that is read in one go: each of its values may be large.
const SHORT_PAGE_MAX: i64 = 8;
/// Most pairs that room is made for ahead: to grow into 100 MB would be a stall of its own.
const PAIRS_AHEAD_MAX: usize = 4 << 20;

/// Bytes of pairs after which a cursor ends that may end early.
pub const EARLY_BYTES: usize = 2 << 20;

/// A range that is being read. Drop it when done: what it reads is kept.
#[derive(Debug)]
pub struct RangeCursor {
    range: OwnedRange,
    revision: i64,
    /// What the slices have to know of the request but for the range.
    keys_only: bool,
    count_only: bool,
    filters: Filters,
    /// From the end.
    descending: bool,
    /// Of a range that is sorted by anything but the key.
    sorter: Option<Box<Sorter>>,
    /// Pairs that may still be given out, or sorted.
    left: usize,
    /// Bytes that may still be given out, if it may end early.
    room: Option<usize>,
    /// A pair passed that was not given out, for the limit.
    more: bool,
    /// Keys of the range that existed, so far.
    seen: i64,
    /// All of them, where that was known at once.
    count: Option<i64>,
    /// The key to go on after.
    after: Option<Vec<u8>>,
    /// All keys were looked at.
    scanned: bool,
    done: bool,
    /// Held until then.
    pin: Option<Pin>,
}

#[derive(Clone, Copy, Debug)]
struct Filters {
    mod_revision: (i64, i64),
    create_revision: (i64, i64),
}

/// A piece of a range's answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeSlice {
    /// The next pairs, in the order asked for; may be none before the end.
    pub kvs: Vec<KeyValue>,
    /// What they take, at the most: a million that were sorted are not gone through once more to say it.
    pub bytes: usize,
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
    /// Do the pairs of this request come as they are found? Not if they are to be sorted by anything but the
    /// key: then the last slice gives them all.
    pub fn streams(request: &RangeRequest<'_>) -> bool {
        request.sort_target == SortTarget::Key || request.count_only
    }

    /// Bytes that it holds of pairs not given out yet.
    pub fn held_bytes(&self) -> usize {
        self.sorter.as_ref().map_or(0, |sorter| sorter.held_bytes())
    }

    /// Ends it, and gives out the pairs that it holds, in any order.
    pub fn into_pairs(self) -> Vec<KeyValue> {
        self.sorter
            .map_or_else(Vec::new, |sorter| sorter.into_pairs())
    }

    /// Is there nothing more to be learnt from other keys?
    fn knows_all(&self) -> bool {
        let is_cut = self.left == 0 && (self.more || self.sorter.is_some());
        self.count.is_some() && (is_cut || self.count_only)
    }

    /// Is a version that exists to be given out, or sorted?
    fn takes(&mut self, version: &Version<'_>) -> bool {
        if self.count_only || !self.filters.pass(version) {
            return false;
        }
        let Some(left) = self.left.checked_sub(1) else {
            self.more = true;
            return false;
        };
        self.left = left;
        self.sorter
            .as_mut()
            .is_none_or(|sorter| sorter.wants(version))
    }

    /// The revision that is read, which is the one that the answer's header has to say: a client
    /// that goes on by watching from there misses nothing.
    pub fn revision(&self) -> i64 {
        self.revision
    }
}

impl Store {
    /// Begins to read. Refuses what [`Store::range`] refuses.
    pub fn range_begin(&self, request: &RangeRequest<'_>) -> Result<RangeCursor, Error> {
        self.counted.read(1);
        let moment = self.moment();
        // Before it is pinned: a request that is refused holds nothing up.
        let revision = range_revision(request, moment)?;
        self.range_begin_at(request, moment, self.pins.pin(Span::at(revision)))
    }

    /// The same as the write that is going on sees it.
    pub(crate) fn range_begin_seen(
        &self,
        request: &RangeRequest<'_>,
    ) -> Result<RangeCursor, Error> {
        let moment = self.moment_seen();
        let revision = range_revision(request, moment)?;
        self.range_begin_at(request, moment, self.pin(revision, revision))
    }

    /// The same at a moment that is kept readable.
    pub(crate) fn range_begin_at(
        &self,
        request: &RangeRequest<'_>,
        moment: Moment,
        pin: Pin,
    ) -> Result<RangeCursor, Error> {
        let revision = range_revision(request, moment)?;
        let KeyRange { key, end } = request.range;
        let by = By::of(request).filter(|_| !request.count_only);
        let limit = usize::try_from(request.limit)
            .ok()
            .filter(|&limit| limit > 0);
        let left = match limit {
            _ if request.count_only => 0,
            // All is sorted, but for etcd's quirk: see `range`.
            Some(_) if by.is_some() && !is_sorted_cut(request) => usize::MAX,
            Some(limit) if by.is_some() => limit.saturating_add(1),
            Some(limit) => limit,
            None => usize::MAX,
        };
        // Who reads all of it counts on the way; so does who reads a past that is not quickly counted.
        let is_known = left < usize::MAX && self.counts_quickly(revision);
        let count = is_known.then(|| self.count(request.range, revision));
        let may_end_early = request.may_end_early && by.is_none() && !request.count_only;
        let by_value = by.is_some_and(By::is_by_value);
        let strip = by_value && request.keys_only;
        let sorter = by.map(|by| Box::new(Sorter::new(by, limit.unwrap_or(usize::MAX), strip)));
        Ok(RangeCursor {
            range: OwnedRange {
                key: key.to_vec().into(),
                end: end.to_vec().into(),
            },
            revision,
            keys_only: request.keys_only && !by_value,
            count_only: request.count_only,
            filters: Filters {
                mod_revision: (request.min_mod_revision, request.max_mod_revision),
                create_revision: (request.min_create_revision, request.max_create_revision),
            },
            descending: by.is_none() && request.sort_order == SortOrder::Descend,
            sorter,
            left,
            room: may_end_early.then_some(EARLY_BYTES),
            more: false,
            seen: 0,
            count,
            after: None,
            scanned: false,
            done: false,
            pin: Some(pin),
        })
    }

    /// Should a range be read with a cursor, as [`Store::range`] might take longer for it than a slice?
    pub fn range_is_long(&self, request: &RangeRequest<'_>) -> bool {
        if request.range.is_one() {
            return false;
        }
        let at = match request.revision {
            ..=0 => self.revision,
            revision => revision,
        };
        // A page may have to pass keys that were deleted and are not compacted, in the worst case all.
        let is_page = (1..=SHORT_PAGE_MAX).contains(&request.limit)
            && RangeCursor::streams(request)
            && !has_filters(request)
            && self.keys.len() - self.index.live() <= SliceLimits::default().keys_max;
        !(is_page || request.count_only) || !self.counts_quickly(at)
    }

    /// Is a range counted within a slice? The present is counted by the index, the near past by what
    /// changed since.
    fn counts_quickly(&self, revision: i64) -> bool {
        revision == self.revision_seen()
            || self.log.len_since(revision + 1) <= SliceLimits::default().keys_max
    }

    /// About how many pairs a cursor has yet to give piece by piece, for whoever makes room for them: no more
    /// than its limit, nor than there are in its range now.
    pub fn range_left(&self, cursor: &RangeCursor) -> usize {
        match cursor.sorter {
            Some(_) => 0,
            None => cursor.left.min(self.keys_left(cursor)),
        }
    }

    /// Room for the pairs of an answer that is put together.
    pub(crate) fn room_for(&self, cursor: &RangeCursor) -> usize {
        self.range_left(cursor).min(PAIRS_AHEAD_MAX)
    }

    /// Reads on. After the last piece there are only empty ones. The cursor has to be of this store.
    pub fn range_next(&self, cursor: &mut RangeCursor, limits: SliceLimits) -> RangeSlice {
        if cursor.done {
            return RangeSlice::default();
        }
        let (mut kvs, mut looked_at) = (Vec::new(), 0);
        if !cursor.scanned {
            let is_first = cursor.after.is_none();
            (kvs, looked_at) = self.range_scan(cursor, limits);
            let room = match cursor.sorter {
                Some(_) if is_first && !cursor.scanned => self.keys_left(cursor),
                _ => 0,
            };
            if let Some(sorter) = &mut cursor.sorter {
                self.meter.look(kvs.len());
                sorter.push(&mut kvs);
                sorter.reserve(room);
            }
        }
        if !cursor.scanned {
            let bytes = kvs.iter().map(bytes_of).sum();
            if let Some(room) = &mut cursor.room {
                *room = room.saturating_sub(bytes);
            }
            cursor.done = cursor.room == Some(0);
            let end = cursor.done.then(|| RangeEnd {
                more: true,
                count: cursor.count.unwrap_or(cursor.seen),
            });
            if cursor.done {
                cursor.pin = None;
            }
            return RangeSlice { kvs, bytes, end };
        }
        cursor.pin = None;
        let mut bytes = kvs.iter().map(bytes_of).sum();
        if let Some(sorter) = &mut cursor.sorter {
            let keys = limits.keys_max.saturating_sub(looked_at);
            self.meter.look(keys);
            bytes = sorter.held_bytes();
            match (keys > 0).then(|| sorter.step(keys)).flatten() {
                Some(sorted) => kvs = sorted,
                None => return RangeSlice::default(),
            }
            cursor.more = sorter.cuts_off();
        }
        cursor.done = true;
        let end = Some(RangeEnd {
            more: cursor.more,
            count: cursor.count.unwrap_or(cursor.seen),
        });
        RangeSlice { kvs, bytes, end }
    }

    /// Looks at the next keys; their pairs, and how many they were.
    fn range_scan(&self, cursor: &mut RangeCursor, limits: SliceLimits) -> (Vec<KeyValue>, usize) {
        let mut found = Vec::new();
        let (mut looked_at, mut bytes) = (0, 0);
        let resume = cursor.after.take();
        let (range, descending) = (cursor.range.clone(), cursor.descending);
        let mut stopped_before = false;
        let visit = |id| {
            let key = self.keys.key(id);
            if resume.as_deref() == Some(key) {
                return ControlFlow::Continue(());
            }
            if cursor.knows_all() {
                return ControlFlow::Break(());
            }
            looked_at += 1;
            let version = self
                .keys
                .at(id, cursor.revision)
                .filter(|version| !version.tombstone);
            if let Some(version) = version {
                cursor.seen += 1;
                if cursor.takes(&version) {
                    bytes += key.len();
                    bytes += if cursor.keys_only {
                        0
                    } else {
                        version.value.len()
                    };
                    found.push((key, version));
                }
            }
            if looked_at >= limits.keys_max || bytes >= limits.bytes_max {
                stopped_before = true;
                cursor.after = Some(key.to_vec());
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        };
        match rest(&range, resume.as_deref(), descending) {
            None => {}
            Some(rest) if descending => self.scan_range_back(rest, visit),
            Some(rest) => self.scan_range(rest, visit),
        }
        cursor.scanned = !stopped_before;
        self.meter.look(looked_at);
        (self.copy_pairs(&found, cursor.keys_only), looked_at)
    }

    /// Keys that a cursor has yet to look at, as far as they exist now.
    fn keys_left(&self, cursor: &RangeCursor) -> usize {
        let rest = rest(&cursor.range, cursor.after.as_deref(), cursor.descending);
        let count = rest.map_or(0, |rest| self.count(rest, self.revision_seen()));
        usize::try_from(count).unwrap_or(0)
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

/// What of a range has not been looked at; its first key may be the last that was. `None`: nothing.
fn rest<'a>(
    range: &'a OwnedRange,
    after: Option<&'a [u8]>,
    descending: bool,
) -> Option<KeyRange<'a>> {
    let whole = range.as_range();
    let Some(after) = after else {
        return Some(whole);
    };
    if !descending {
        let end = if whole.is_one() { b"" } else { whole.end };
        return Some(KeyRange { key: after, end });
    }
    // The first of all keys would be read as "no end"; and nothing is before it.
    let has_more = !whole.is_one() && after != b"\0";
    has_more.then_some(KeyRange {
        key: whole.key,
        end: after,
    })
}

/// Does etcd cut the range in key order and sort what is left? See `range`.
fn is_sorted_cut(request: &RangeRequest<'_>) -> bool {
    request.sort_order == SortOrder::None && !has_filters(request)
}

impl Filters {
    fn pass(&self, version: &Version<'_>) -> bool {
        passes(version, self.mod_revision, self.create_revision)
    }
}
