//! Where versions lie: segments that only grow at the end of the last one.
//!
//! A version is written once, behind the one written before it, whatever its key, so a put touches
//! nothing of older versions and allocates nothing of its own. Versions of a key are a chain: each
//! names the place of the one before. A record is
//! `flags:u8 [before:5] id:varint main:varint length:varint body`, where main is the distance from the
//! segment's first (zigzag: moved records are older), and the flags of the version's body are the upper
//! half of the record's.
//!
//! Compaction marks records dead. Once a third of all bytes is dead the deadest segment is emptied: what
//! lives is moved to the end, in steps ([`Arena::next_to_move`]; the owner corrects who points there), so
//! that memory stays below one and a half times what lives. (On top come idle segments, and room that
//! records of half a segment and more leave at segments' ends.) Nothing else moves a record.
//!
//! An emptied segment is kept for the next records, and given back to the allocator only bit by bit
//! ([`Arena::trim`]): allocators put giving back off and then do all of it in one call of somebody's
//! (mimalloc: what was freed within a second; 20 to 30 ms after a compaction of ten million versions).
//! Knows no keys, only their numbers, and no rules of revisions. Tested here and through [`crate::keys`].

mod emptying;
mod head;

use std::mem;

use crate::names::{KeyId, LOC_BYTES};
use crate::usual::Usual;
use crate::varint;
use crate::version::Version;
use emptying::{Emptying, Level};
use head::{HEAD_BYTES_MAX, Head};

/// A segment takes no record that would end behind this. One that is larger has a segment to itself.
const SEGMENT_BYTES: usize = 1 << SEGMENT_BITS;
const SEGMENT_BITS: u32 = 18;
/// Bytes that segments may take together; half of what places can name.
const BYTES_MAX: usize = 1 << 39;
/// First room of a segment, so that a store that holds little takes little.
const SEGMENT_BYTES_MIN: usize = 512;

/// The record has room for a place.
const HAS_ROOM: u8 = 1;
/// The place in it is that of an older version.
const HAS_BEFORE: u8 = 2;
/// Nobody needs the record.
const DEAD: u8 = 4;
/// Above these are the flags of the version's body.
const BODY_SHIFT: u32 = 4;

/// Where a record begins: segment and offset, in 40 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Loc(u64);

impl Loc {
    fn new(segment: usize, offset: usize) -> Self {
        Loc((segment as u64) << SEGMENT_BITS | offset as u64)
    }

    /// Its bytes, for a record or a key's head.
    pub fn to_bytes(self) -> [u8; LOC_BYTES] {
        let bytes = self.0.to_le_bytes();
        [bytes[0], bytes[1], bytes[2], bytes[3], bytes[4]]
    }

    /// From its bytes.
    pub fn from_bytes(bytes: [u8; LOC_BYTES]) -> Self {
        let [a, b, c, d, e] = bytes;
        Loc(u64::from_le_bytes([a, b, c, d, e, 0, 0, 0]))
    }

    fn segment(self) -> usize {
        (self.0 >> SEGMENT_BITS) as usize
    }

    fn offset(self) -> usize {
        self.0 as usize & (SEGMENT_BYTES - 1)
    }
}

/// A record, borrowed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record<'a> {
    /// The key changed.
    pub id: KeyId,
    /// Main revision of the change.
    pub main: i64,
    /// The version before, if it can still be read.
    pub before: Option<Loc>,
    flags: u8,
    /// But for its flags.
    body: &'a [u8],
    /// Bytes of the whole record.
    len: usize,
}

impl<'a> Record<'a> {
    /// The version in it.
    pub fn version(&self) -> Option<Version<'a>> {
        Version::decode_rest(self.main, self.flags >> BODY_SHIFT, self.body)
    }
}

#[derive(Debug, Default)]
struct Segment {
    bytes: Vec<u8>,
    /// Main revision of the first record.
    base: i64,
    /// Bytes of dead records. (A number as small as this keeps the table small: it doubles in one put.)
    dead: u32,
    /// Where it is listed among those to be emptied.
    level: Level,
}

/// What [`Arena::next_to_move`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Move {
    /// A record that lives in a segment to be emptied.
    Live(Loc),
    /// A dead one, or a segment done with: go on.
    Passed,
    /// No segment is worth emptying.
    Idle,
}

/// All segments.
#[derive(Debug, Default)]
pub(crate) struct Arena {
    segments: Vec<Segment>,
    /// Numbers of segments given back.
    free: Vec<usize>,
    /// Memory of emptied segments of the usual size.
    idle: Vec<Vec<u8>>,
    /// The segment that grows.
    tail: usize,
    /// Segments that grow no more.
    emptying: Emptying,
    /// The segment being emptied, and how far.
    moving: Option<(usize, usize)>,
    capacity: usize,
    live: usize,
    scratch: Vec<u8>,
    usual: Usual,
}

impl Arena {
    /// Writes a version of a key behind all others.
    pub fn append(&mut self, id: KeyId, before: Option<Loc>, version: &Version<'_>) -> Loc {
        let mut flags = version.flags() << BODY_SHIFT;
        if before.is_some() {
            flags |= HAS_ROOM | HAS_BEFORE;
        }
        let mut numbers = Head::default();
        version
            .numbers(version.flags())
            .for_each(|number| numbers.put(number));
        let body = [numbers.bytes(), version.value];
        self.write(flags, before, id, version.main, body)
    }

    /// Writes a record whose body is in two parts.
    #[inline]
    fn write(
        &mut self,
        flags: u8,
        before: Option<Loc>,
        id: KeyId,
        main: i64,
        body: [&[u8]; 2],
    ) -> Loc {
        let length = body[0].len() + body[1].len();
        let loc = self.make_room(HEAD_BYTES_MAX + length);
        let Segment { bytes, base, .. } = &mut self.segments[self.tail];
        if bytes.is_empty() {
            *base = main;
        }
        let mut head = Head::default();
        head.push(&[flags]);
        if flags & HAS_ROOM != 0 {
            head.push(&before.map_or([0; LOC_BYTES], Loc::to_bytes));
        }
        head.put(u64::from(id));
        head.put(distance(main, *base));
        head.put(length as u64);
        bytes.extend_from_slice(head.bytes());
        bytes.extend_from_slice(body[0]);
        bytes.extend_from_slice(body[1]);
        let len = head.bytes().len() + length;
        self.live += len;
        self.usual.note(len.min(SEGMENT_BYTES));
        loc
    }

    /// The record at a place.
    pub fn get(&self, loc: Loc) -> Option<Record<'_>> {
        let segment = self.segments.get(loc.segment())?;
        let bytes = segment.bytes.get(loc.offset()..)?;
        let (&flags, mut rest) = bytes.split_first()?;
        let mut before = None;
        if flags & HAS_ROOM != 0 {
            let (place, behind) = rest.split_first_chunk::<LOC_BYTES>()?;
            rest = behind;
            before = (flags & HAS_BEFORE != 0).then(|| Loc::from_bytes(*place));
        }
        let id = varint::take(&mut rest)? as KeyId;
        let main = at_distance(varint::take(&mut rest)?, segment.base);
        let length = varint::take(&mut rest)?;
        let body = varint::take_bytes(&mut rest, length)?;
        let len = bytes.len() - rest.len();
        Some(Record {
            id,
            main,
            before,
            flags,
            body,
            len,
        })
    }

    /// Loads a record into the cache, if it is not much longer than others. The result only keeps the
    /// load.
    pub fn touch(&self, loc: Loc) -> u8 {
        let segment = self.segments.get(loc.segment());
        let record = segment.and_then(|segment| segment.bytes.get(loc.offset()..));
        record
            .and_then(|r| Some(r.first()? ^ r.get(self.usual.last()).unwrap_or(&0)))
            .unwrap_or_default()
    }

    /// Loads the beginning of a record. The result only keeps the load.
    pub fn touch_head(&self, loc: Loc) -> u8 {
        let segment = self.segments.get(loc.segment());
        let flags = segment.and_then(|segment| segment.bytes.get(loc.offset()));
        flags.copied().unwrap_or_default()
    }

    /// Where the version before a record is.
    pub fn before(&self, loc: Loc) -> Option<Loc> {
        let bytes = self
            .segments
            .get(loc.segment())?
            .bytes
            .get(loc.offset()..)?;
        let (&flags, place) = bytes.split_first()?;
        let place = place.first_chunk::<LOC_BYTES>()?;
        (flags & HAS_BEFORE != 0).then(|| Loc::from_bytes(*place))
    }

    /// Nobody needs this record any more. Returns the version before it.
    pub fn kill(&mut self, loc: Loc) -> Option<Loc> {
        let Record {
            before, flags, len, ..
        } = self.get(loc)?;
        if flags & DEAD == 0 {
            let segment = &mut self.segments[loc.segment()];
            segment.bytes[loc.offset()] = flags | DEAD;
            segment.dead += len as u32;
            self.live -= len;
            if self.is_counted(loc.segment()) {
                self.emptying.dies(len);
                self.consider(loc.segment());
            }
        }
        before
    }

    /// Says where the version before is, if there is one. The record must have been written with one.
    pub fn set_before(&mut self, loc: Loc, before: Option<Loc>) {
        let Some(flags) = self.get(loc).map(|record| record.flags) else {
            return;
        };
        if flags & HAS_ROOM == 0 {
            return;
        }
        let (bytes, at) = (&mut self.segments[loc.segment()].bytes, loc.offset());
        match before {
            Some(before) => {
                bytes[at] = flags | HAS_BEFORE;
                bytes[at + 1..=at + LOC_BYTES].copy_from_slice(&before.to_bytes());
            }
            None => bytes[at] = flags & !HAS_BEFORE,
        }
    }

    /// The next record to be moved out of a segment to be emptied. Whoever gets `Live` must copy it
    /// away and kill it before asking again.
    pub fn next_to_move(&mut self) -> Move {
        let Some((segment, offset)) = self.moving else {
            let Some((number, level)) = self.emptying.next() else {
                return Move::Idle;
            };
            if self.segments[number].level == level {
                let segment = &mut self.segments[number];
                segment.level = 0;
                self.emptying
                    .remove(segment.bytes.len(), segment.dead as usize);
                self.moving = Some((number, 0));
            }
            return Move::Passed;
        };
        let found = &self.segments[segment];
        let record = (!found.is_all_dead()).then(|| self.get(Loc::new(segment, offset)));
        let Some(Record { flags, len, .. }) = record.flatten() else {
            self.release(segment);
            self.moving = None;
            return Move::Passed;
        };
        self.moving = Some((segment, offset + len));
        if flags & DEAD != 0 {
            return Move::Passed;
        }
        Move::Live(Loc::new(segment, offset))
    }

    /// Is there a segment to be emptied?
    pub fn has_to_move(&self) -> bool {
        self.moving.is_some() || self.emptying.has_any()
    }

    /// Writes a record once more, at the end; the place of the copy.
    pub fn copy(&mut self, loc: Loc) -> Option<Loc> {
        let mut scratch = mem::take(&mut self.scratch);
        scratch.clear();
        let Record {
            id,
            main,
            before,
            flags,
            body,
            ..
        } = self.get(loc)?;
        scratch.extend_from_slice(body);
        let copy = self.write(flags, before, id, main, [&[], &scratch]);
        if scratch.capacity() <= SEGMENT_BYTES {
            self.scratch = scratch;
        }
        Some(copy)
    }

    /// Ends the last segment if it is worth emptying: after compaction, when nothing more is coming.
    pub fn close(&mut self) {
        let tail = self.tail;
        let Some(segment) = self.segments.get(tail) else {
            return;
        };
        if segment.is_worth_emptying() && !segment.bytes.is_empty() {
            self.begin_segment(0);
            self.seal(tail);
        }
    }

    /// Bytes of records that live.
    pub fn live_bytes(&self) -> usize {
        self.live
    }

    /// Bytes on the heap.
    pub fn heap_bytes(&self) -> usize {
        let tables = self.segments.capacity() * mem::size_of::<Segment>();
        self.capacity + tables + self.scratch.capacity() + self.emptying.heap_bytes()
    }

    /// Bytes of emptied segments that are kept; part of [`Arena::heap_bytes`].
    pub fn idle_bytes(&self) -> usize {
        self.idle.len() * SEGMENT_BYTES
    }

    /// Gives emptied segments back to the allocator, up to about `bytes_max`; returns whether there are
    /// more.
    pub fn trim(&mut self, bytes_max: usize) -> bool {
        let left = self.idle.len().saturating_sub(bytes_max / SEGMENT_BYTES);
        for segment in self.idle.drain(left..) {
            self.capacity -= segment.capacity();
        }
        left > 0
    }

    /// Can it take no more?
    pub fn is_full(&self) -> bool {
        self.capacity > BYTES_MAX
    }

    /// The place of a record of up to `len` bytes, which the last segment then has room for.
    fn make_room(&mut self, len: usize) -> Loc {
        let used = self
            .segments
            .get(self.tail)
            .map(|segment| segment.bytes.len());
        if used.is_none_or(|used| used > 0 && used + len > SEGMENT_BYTES) {
            let full = self.tail;
            self.begin_segment(len);
            if used.is_some() {
                self.seal(full);
            }
        }
        let bytes = &mut self.segments[self.tail].bytes;
        if bytes.capacity() - bytes.len() < len {
            // Doubling, but never past what a segment may take.
            let room = (bytes.capacity() * 2).clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES);
            let before = bytes.capacity();
            bytes.reserve_exact(room.saturating_sub(bytes.len()).max(len));
            self.capacity += bytes.capacity() - before;
        }
        Loc::new(self.tail, self.segments[self.tail].bytes.len())
    }

    /// Once there is a segment's worth the next ones are given their whole room at once.
    fn begin_segment(&mut self, len: usize) {
        let is_small = self.live < SEGMENT_BYTES;
        let idle = match len <= SEGMENT_BYTES && !is_small {
            true => self.idle.pop(),
            false => None,
        };
        let bytes = idle.unwrap_or_else(|| {
            let room = if is_small {
                len
            } else {
                SEGMENT_BYTES.max(len)
            };
            let bytes = Vec::with_capacity(room);
            self.capacity += bytes.capacity();
            bytes
        });
        let segment = Segment {
            bytes,
            ..Segment::default()
        };
        self.tail = match self.free.pop() {
            Some(number) => {
                self.segments[number] = segment;
                number
            }
            None => {
                self.segments.push(segment);
                self.segments.len() - 1
            }
        };
    }

    /// A segment grows no more.
    fn seal(&mut self, number: usize) {
        let segment = &self.segments[number];
        self.emptying
            .add(segment.bytes.len(), segment.dead as usize);
        self.consider(number);
    }

    /// Does it grow no more, and is it not being emptied?
    fn is_counted(&self, number: usize) -> bool {
        let is_moving = self.moving.is_some_and(|(segment, _)| segment == number);
        number != self.tail && !is_moving
    }

    /// Lists a segment by what is dead of it; gives its memory back at once when all of it is.
    fn consider(&mut self, number: usize) {
        let segment = &mut self.segments[number];
        if segment.is_all_dead() {
            self.emptying
                .remove(segment.bytes.len(), segment.dead as usize);
            segment.dead = 0;
            let bytes = mem::take(&mut segment.bytes);
            self.put_aside(bytes);
        }
        let segment = &mut self.segments[number];
        let (bytes, dead) = (segment.bytes.len(), segment.dead as usize);
        segment.level = self.emptying.list(number, segment.level, bytes, dead);
    }

    fn release(&mut self, number: usize) {
        let segment = mem::take(&mut self.segments[number]);
        self.put_aside(segment.bytes);
        self.free.push(number);
    }

    /// Keeps the memory of a segment of the usual size for the next one.
    fn put_aside(&mut self, mut bytes: Vec<u8>) {
        if bytes.capacity() == SEGMENT_BYTES {
            bytes.clear();
            self.idle.push(bytes);
        } else {
            self.capacity -= bytes.capacity();
        }
    }
}

impl Segment {
    fn is_all_dead(&self) -> bool {
        self.dead as usize == self.bytes.len()
    }

    fn is_worth_emptying(&self) -> bool {
        self.dead as usize * 3 >= self.bytes.len()
    }
}

/// How far a revision is from another, small for both signs.
fn distance(main: i64, base: i64) -> u64 {
    let distance = main.wrapping_sub(base);
    (distance << 1 ^ distance >> 63).cast_unsigned()
}

fn at_distance(distance: u64, base: i64) -> i64 {
    let half = (distance >> 1).cast_signed();
    base.wrapping_add(half ^ -(distance & 1).cast_signed())
}

/// The table of all segments is copied when it grows: 2.6 MB where there are 16 GB of versions.
const _: () = assert!(mem::size_of::<Segment>() <= 40);

#[cfg(test)]
mod tests;
