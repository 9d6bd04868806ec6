//! The scrubber: reads what is sealed, in bounded slices, and says what has rotted while there are still
//! peers and checkpoints to repair it from.
//!
//! Driven by the owner, who decides how often ([`Wal::scrub_slice`]); one read in flight, so that it never
//! takes more than its slice of the disk. What it checks is what recovery checks: place, number, chain,
//! checksums of both header copies, records and marks. Segments being written are left alone.

use std::collections::BTreeMap;

use crate::batch::{BatchHeader, Mark};
use crate::disk::{FileId, Op};
use crate::log::{Errand, Phase};
use crate::scan::{Bad, Judged, judge};
use crate::segment::{self, DATA_AT};
use crate::{BLOCK_BYTES, Damage, Event, Healed, Lsn, Wal};

/// Least bytes of a slice: a block tells how long its batch is.
const SLICE_BYTES_MIN: usize = BLOCK_BYTES;

/// Where the log ends in segments that are written no more, and how far they were read.
#[derive(Debug, Default)]
pub(crate) struct Scrub {
    /// Segment -> where its log ends.
    pub(crate) sealed: BTreeMap<u64, u64>,
    /// The segment being read.
    seq: u64,
    offset: u64,
    /// What the next batch must be; unknown at the begin of a segment.
    next: Option<(Lsn, u32)>,
    in_flight: bool,
    /// The batch at `offset` is this long.
    needs: usize,
    /// Whole passes over everything sealed.
    pub(crate) passes: u64,
    pub(crate) bytes: u64,
}

impl Scrub {
    /// Nothing read yet.
    pub(crate) fn new(sealed: BTreeMap<u64, u64>) -> Self {
        Self {
            sealed,
            ..Self::default()
        }
    }

    /// What to read next: segment, offset, bytes.
    fn next(&mut self, bytes: usize) -> Option<(u64, u64, usize)> {
        loop {
            let end = self.sealed.get(&self.seq).copied();
            if end.is_some_and(|end| self.offset < end) {
                let left = end.unwrap_or(0) - self.offset;
                let wanted = bytes.max(self.needs).max(SLICE_BYTES_MIN) / BLOCK_BYTES * BLOCK_BYTES;
                return Some((self.seq, self.offset, wanted.min(left as usize)));
            }
            let next = self.sealed.range(self.seq + 1..).next();
            let Some((seq, _)) = next else {
                self.passes += u64::from(self.seq != 0);
                self.seq = 0;
                return None;
            };
            self.begin(*seq);
        }
    }

    fn begin(&mut self, seq: u64) {
        self.seq = seq;
        self.offset = DATA_AT;
        self.next = None;
        self.needs = 0;
    }
}

impl Wal {
    /// Read and check the next up to `bytes` bytes of sealed log, beside everything else. Does nothing
    /// while the slice before is still being read. `false`: a pass over everything has ended; the next
    /// call begins another. What has rotted is said by [`Event::Rot`].
    pub fn scrub_slice(&mut self, bytes: usize) -> bool {
        if self.scrub.in_flight || self.poison.is_some() || self.phase != Phase::Running {
            return true;
        }
        let Some((seq, offset, bytes)) = self.scrub.next(bytes) else {
            return false;
        };
        let Some(file) = self.segments.get(&seq).map(|segment| segment.file) else {
            self.scrub.sealed.remove(&seq);
            return true;
        };
        self.scrub.in_flight = true;
        self.scrub_read(seq, file, offset, bytes);
        true
    }

    /// Whole passes of the scrubber since the log was opened, and bytes read by it.
    pub fn scrubbed(&self) -> (u64, u64) {
        (self.scrub.passes, self.scrub.bytes)
    }

    fn scrub_read(&mut self, seq: u64, file: FileId, offset: u64, bytes: usize) {
        let op = Op::Read {
            file,
            offset,
            bytes,
        };
        self.errand(Errand::Scrub(seq), op);
    }

    /// A slice was read.
    pub(crate) fn scrubbed_slice(&mut self, seq: u64, read: Result<&[u8], String>) {
        self.scrub.in_flight = false;
        if self.scrub.seq != seq || !self.segments.contains_key(&seq) {
            return; // purged meanwhile
        }
        let bytes = match read {
            Ok(bytes) => bytes,
            Err(what) => return self.rot(what, vec![]),
        };
        self.scrub.bytes += bytes.len() as u64;
        let mut at = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            let known = BatchHeader::decode(rest).map(|(header, _)| header);
            let here = known.filter(|h| h.is_at(self.uuid, seq, self.scrub.offset));
            let Some(header) = here else {
                return self.rot("no batch header".into(), vec![]);
            };
            if rest.len() < header.len as usize {
                self.scrub.needs = header.len as usize;
                return;
            }
            let batch = &rest[..header.len as usize];
            let follows = self
                .scrub
                .next
                .is_none_or(|next| next == (header.lsn, header.prev));
            let what = match judge(header, 0, batch, None) {
                _ if header.is_bridge() => None,
                Judged::Bad(Bad { what, .. }) | Judged::Lost { what, .. } => Some(what),
                Judged::Good {
                    note: Some(part), ..
                } => {
                    self.healed(&header, part);
                    None
                }
                Judged::Good { .. } | Judged::Bridge(_) => None,
            };
            if let Some(what) = what.or((!follows).then_some("broken chain")) {
                let marks = header.marks(batch).map(Iterator::collect);
                return self.rot(what.into(), marks.unwrap_or_default());
            }
            self.scrub.next = Some(match header.is_bridge() {
                true => (header.until + 1, header.chain),
                false => (header.lsn + 1, header.crc()),
            });
            self.scrub.offset += u64::from(header.len);
            self.scrub.needs = 0;
            at += header.len as usize;
        }
    }

    /// One of two copies: nothing is lost, and the next batch is known.
    fn healed(&mut self, header: &BatchHeader, part: &str) {
        self.stats.healed += 1;
        self.events.push_back(Event::Healed(Healed {
            file: self.disk.path().join(segment::name(header.seq)),
            offset: header.offset,
            what: format!("{part} of batch {}", header.lsn),
            mendable: part != "marks",
        }));
    }

    /// Say it, and go on with the next segment: where one place is bad, the next place is not known.
    fn rot(&mut self, what: String, marks: Vec<Mark>) {
        let (seq, offset) = (self.scrub.seq, self.scrub.offset);
        let lsn = self.scrub.next.map_or(0, |(lsn, _)| lsn);
        let file = self.disk.path().join(segment::name(seq));
        let held = marks.into_iter().filter(|mark| mark.count > 0);
        let groups = held
            .map(|mark| Damage {
                group: mark.group,
                first: mark.first,
                last: mark.last,
                file: file.clone(),
                offset,
                lsn,
            })
            .collect();
        self.events.push_back(Event::Rot {
            file,
            offset,
            what,
            groups,
        });
        self.scrub.offset = u64::MAX;
    }
}
