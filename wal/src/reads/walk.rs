//! Walking a stretch of a segment: from batch to batch, taking a group's entries.
//!
//! Pure judgement over the bytes that are brought. Blocks that are no batch are passed over, one at a time,
//! and noted; a batch is also found by its trailer. The rule of replay holds here, too: an entry hides those
//! at and after its index.

use bytes::Bytes;

use super::cache::WINDOW_BYTES;
use crate::batch::BatchHeader;
use crate::groups::Stretch;
use crate::record::Records;
use crate::{BLOCK_BYTES, GroupId, Lsn, Record};

/// An entry read back from the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadEntry {
    /// Raft term.
    pub term: u64,
    /// Raft index.
    pub index: u64,
    /// The caller's kind.
    pub kind: u8,
    /// The caller's bytes.
    pub payload: Bytes,
}

/// What a walk found: entries from the first that was wanted on, without a gap.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) entries: Vec<ReadEntry>,
    /// Of their payloads.
    pub(super) bytes: usize,
    /// There would be more, but not within the bytes that were asked for.
    pub(super) full: bool,
    /// What could not be read on the way: where, and what is wrong.
    pub(super) damage: Option<(u64, String)>,
}

/// A stretch being read.
#[derive(Debug)]
pub(super) struct Walk {
    group: GroupId,
    /// First and last entry that are wanted.
    first: u64,
    last: u64,
    stretch: Stretch,
    /// The last batch that may be believed.
    newest: Lsn,
    /// Where the next batch begins, and the least number it may have.
    at: u64,
    lsn: Lsn,
    /// The batch there is this long.
    needs: u64,
    bytes_max: usize,
    /// One entry is taken, however long it is.
    at_least_one: bool,
    found: Found,
}

impl Walk {
    pub(super) fn new(
        group: GroupId,
        (first, last): (u64, u64),
        stretch: Stretch,
        newest: Lsn,
        bytes_max: usize,
        at_least_one: bool,
    ) -> Self {
        Self {
            group,
            first,
            last,
            stretch,
            newest,
            at: stretch.from,
            lsn: stretch.lsn,
            needs: 0,
            bytes_max,
            at_least_one,
            found: Found::default(),
        }
    }

    pub(super) fn seq(&self) -> u64 {
        self.stretch.seq
    }

    /// Last entry that is wanted.
    pub(super) fn last(&self) -> u64 {
        self.last
    }

    pub(super) fn end(self) -> Found {
        self.found
    }

    /// What to read next: offset and bytes. Up to the end of a window, unless a batch is longer.
    pub(super) fn wants(&self) -> (u64, usize) {
        let window = WINDOW_BYTES - self.at % WINDOW_BYTES;
        let bytes = self.needs.max(window).min(self.stretch.to - self.at);
        (self.at, bytes as usize)
    }

    /// Something could not be read on the way.
    pub(super) fn is_damaged(&self) -> bool {
        self.found.damage.is_some()
    }

    /// The read failed: that is the end of the walk.
    pub(super) fn fail(&mut self, what: String) -> bool {
        let at = self.at;
        self.found.damage.get_or_insert((at, what));
        false
    }

    /// Take what was read. `true`: there is more to read.
    pub(super) fn take(&mut self, bytes: &[u8], uuid: u128) -> bool {
        let (base, asked) = self.wants();
        let mut passed = 0;
        while let Some(rest) = bytes.get((self.at - base) as usize..)
            && rest.len() >= BLOCK_BYTES
        {
            match self.batch_at(rest, uuid) {
                Some(header) if header.lsn > self.newest => return false,
                Some(header) if header.len as usize > rest.len() => {
                    self.needs = header.len.into();
                    if bytes.len() < asked || self.at + self.needs > self.stretch.to {
                        return self.fail("a batch longer than its place".into());
                    }
                    return true;
                }
                Some(header) => {
                    self.batch(&header, &rest[..header.len as usize]);
                    self.at += u64::from(header.len);
                    self.lsn = header.lsn.saturating_add(1);
                    (self.needs, passed) = (0, 0);
                }
                None => {
                    let what = || (self.at, "no batch header".into());
                    self.found.damage.get_or_insert_with(what);
                    passed += 1;
                    self.at += BLOCK_BYTES as u64;
                    let end = (self.at - base) as usize;
                    self.by_trailer(&bytes[..end], base, passed, uuid);
                }
            }
            let enough = !self.stretch.mixed && self.is_enough();
            if enough || self.lsn > self.newest {
                return false;
            }
        }
        if self.at < self.stretch.to {
            return bytes.len() == asked || self.fail("the file ends early".into());
        }
        if !self.is_enough() {
            let what = format!("entry {} is missing from its place", self.next());
            self.found.damage.get_or_insert((self.stretch.from, what));
        }
        false
    }

    fn is_enough(&self) -> bool {
        self.found.full || self.next() > self.last
    }

    /// The entry that must come next.
    fn next(&self) -> u64 {
        self.first + self.found.entries.len() as u64
    }

    /// The batch that begins here.
    fn batch_at(&self, bytes: &[u8], uuid: u128) -> Option<BatchHeader> {
        let (header, _) = BatchHeader::decode(bytes)?;
        let here = header.is_at(uuid, self.stretch.seq, self.at);
        (here && header.lsn >= self.lsn && !header.is_footer()).then_some(header)
    }

    /// A block that is no begin of a batch may be the end of one whose begin was passed over.
    fn by_trailer(&mut self, bytes: &[u8], base: u64, passed: usize, uuid: u128) {
        let Some(header) = BatchHeader::decode_trailer(bytes) else {
            return;
        };
        let begun = self.at - (passed * BLOCK_BYTES) as u64;
        let fits = header.offset >= begun && header.offset + u64::from(header.len) == self.at;
        let ours = header.is_at(uuid, self.stretch.seq, header.offset) && !header.is_footer();
        if fits && ours && (self.lsn..=self.newest).contains(&header.lsn) {
            self.batch(&header, &bytes[(header.offset - base) as usize..]);
            self.lsn = header.lsn.saturating_add(1);
        }
    }

    /// Take the group's entries of a batch.
    fn batch(&mut self, header: &BatchHeader, bytes: &[u8]) {
        let marks = header.marks(bytes);
        if let Some(mut marks) = marks
            && !marks.any(|mark| mark.group == self.group && mark.count > 0)
        {
            return;
        }
        let Some(records) = header.records(bytes) else {
            let what = "checksum of the records".into();
            self.found.damage.get_or_insert((header.offset, what));
            return;
        };
        for record in Records::new(records, header.records) {
            match record {
                Ok(Record::Entry {
                    group,
                    term,
                    index,
                    kind,
                    payload,
                }) if group == self.group => self.entry(term, index, kind, payload),
                Ok(_) => {}
                Err(what) => {
                    self.found
                        .damage
                        .get_or_insert((header.offset, what.into()));
                    return;
                }
            }
        }
    }

    fn entry(&mut self, term: u64, index: u64, kind: u8, payload: &[u8]) {
        if index > self.next().min(self.last) {
            return;
        }
        // One below what is wanted hides all that is wanted: it comes again, or is not there.
        while self.next() > index
            && let Some(hidden) = self.found.entries.pop()
        {
            self.found.bytes -= hidden.payload.len();
            self.found.full = false;
        }
        if index < self.first {
            self.found.full = false;
            return;
        }
        let first = self.at_least_one && self.found.entries.is_empty();
        let fits = self.found.bytes.saturating_add(payload.len()) <= self.bytes_max;
        if self.found.full || !(fits || first) {
            self.found.full = true;
            return;
        }
        self.found.bytes += payload.len();
        let payload = Bytes::copy_from_slice(payload);
        self.found.entries.push(ReadEntry {
            term,
            index,
            kind,
            payload,
        });
    }
}
