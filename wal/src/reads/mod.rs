//! Reading entries back, for followers that lag behind what raft keeps in memory.
//!
//! A read takes one stretch of a segment after the other, as the group's runs say, walks the batches in
//! it, and ends after about `max_bytes` of payload. What cannot be read on the way is passed over: it
//! matters only where an entry that was asked for does not turn up. The segments it reads from are pinned
//! meanwhile: a recycled file must not change under a read. Of sealed segments whole windows are read, and
//! kept for others within a bound ([`cache`]).
//! What the log is while a read runs may change (entries compacted or replaced): the reader compares
//! terms, as raft does anyway.

use std::collections::{BTreeMap, VecDeque};
use std::io;

use crate::disk::{FileId, Op, Output};
use crate::groups::Groups;
use crate::{GroupId, Lsn, ReadError, segment};

mod cache;
#[cfg(test)]
mod tests;
mod walk;

use cache::{Cache, WINDOW_BYTES};
pub use walk::ReadEntry;
use walk::Walk;

/// Names a read in flight.
pub type ReadId = u64;

/// Reads that touch the disk at the same time; more wait in line.
const ACTIVE_MAX: usize = 16;

#[derive(Debug)]
struct Reading {
    id: ReadId,
    group: GroupId,
    next: u64,
    hi: u64,
    bytes_left: usize,
    entries: Vec<ReadEntry>,
    /// The stretch being read; its segment is pinned.
    walk: Option<Walk>,
    /// Where the window begins that was asked of the disk, to be kept.
    window: Option<u64>,
}

/// A finished read.
pub(crate) type Finished = (ReadId, Result<Vec<ReadEntry>, ReadError>);

/// All reads in flight.
#[derive(Debug, Default)]
pub(crate) struct Reads {
    next_id: ReadId,
    waiting: VecDeque<Reading>,
    active: BTreeMap<ReadId, Reading>,
    /// Segment -> reads that walk it.
    pins: BTreeMap<u64, usize>,
    cache: Cache,
}

impl Reads {
    pub(crate) fn add(&mut self, group: GroupId, lo: u64, hi: u64, max_bytes: usize) -> ReadId {
        self.next_id += 1;
        let (id, next, bytes_left) = (self.next_id, lo, max_bytes);
        let reading = Reading {
            id,
            group,
            next,
            hi,
            bytes_left,
            entries: Vec::new(),
            walk: None,
            window: None,
        };
        self.waiting.push_back(reading);
        id
    }

    pub(crate) fn is_pinned(&self, seq: u64) -> bool {
        self.pins.contains_key(&seq)
    }

    /// The segment is let go.
    pub(crate) fn forget(&mut self, seq: u64) {
        self.cache.forget(seq);
    }

    /// The next read that can go on: its next disk operation, or its end. Nothing is written any more to
    /// segments before `unsealed`.
    pub(crate) fn step(
        &mut self,
        groups: &Groups,
        durable: Lsn,
        (uuid, unsealed): (u128, u64),
        file_of: impl Fn(u64) -> Option<FileId>,
    ) -> Option<Result<(ReadId, Op), Finished>> {
        while self.active.len() < ACTIVE_MAX {
            let mut reading = self.waiting.pop_front()?;
            if reading.walk.is_none() {
                reading.walk = reading.begin(groups, durable);
                if let Some(walk) = &reading.walk {
                    *self.pins.entry(walk.seq()).or_default() += 1;
                }
            }
            let file = reading.walk.as_ref().and_then(|walk| file_of(walk.seq()));
            let (Some(walk), Some(file)) = (&mut reading.walk, file) else {
                self.unpin(&mut reading);
                return Some(Err(reading.end(groups)));
            };
            let (seq, (at, bytes)) = (walk.seq(), walk.wants());
            let window = at - at % WINDOW_BYTES;
            let whole = seq < unsealed && at + bytes as u64 <= window + WINDOW_BYTES;
            if whole && let Some(kept) = self.cache.get(seq, window) {
                let on = walk.take(part(&kept, window, walk.wants()), uuid);
                match self.took(reading, on, groups) {
                    Some(finished) => return Some(Err(finished)),
                    None => continue,
                }
            }
            let (offset, bytes) = match whole {
                true => (window, WINDOW_BYTES as usize),
                false => (at, bytes),
            };
            reading.window = whole.then_some(window);
            let id = reading.id;
            self.active.insert(id, reading);
            let op = Op::Read {
                file,
                offset,
                bytes,
            };
            return Some(Ok((id, op)));
        }
        None
    }

    /// A disk operation of a read ended. `Some` if the read is over.
    pub(crate) fn done(
        &mut self,
        id: ReadId,
        result: io::Result<Output>,
        uuid: u128,
        groups: &Groups,
    ) -> Option<Finished> {
        let mut reading = self.active.remove(&id)?;
        let window = reading.window.take();
        let walk = reading.walk.as_mut()?;
        let on = match result {
            Ok(Output::Buf(buf)) => {
                let wants = walk.wants();
                let on = walk.take(part(&buf, window.unwrap_or(wants.0), wants), uuid);
                if let Some(window) = window.filter(|_| !walk.is_damaged()) {
                    self.cache.keep(walk.seq(), window, buf);
                }
                on
            }
            Ok(_) => walk.fail("no bytes came back".into()),
            Err(e) => walk.fail(e.to_string()),
        };
        self.took(reading, on, groups)
    }

    /// A read has looked at some bytes; `on`: it wants more of this stretch. `Some` if it is over.
    fn took(&mut self, mut reading: Reading, on: bool, groups: &Groups) -> Option<Finished> {
        let id = reading.id;
        if on {
            self.waiting.push_front(reading);
            return None;
        }
        let walk = self.unpin(&mut reading)?;
        let seq = walk.seq();
        let (last, end) = (walk.last(), walk.end());
        let got = end.entries.len();
        reading.bytes_left = reading.bytes_left.saturating_sub(end.bytes);
        reading.next = reading.next.saturating_add(got as u64);
        reading.entries.extend(end.entries);
        if reading.next > last {
            if last < reading.hi && !end.full {
                self.waiting.push_front(reading);
                return None;
            }
            return Some(reading.end(groups));
        }
        match end.damage {
            // What came before the damage is good; the caller's next read meets the damage first.
            Some((offset, what)) if !end.full && reading.entries.is_empty() => {
                let file = segment::name(seq);
                Some((id, Err(ReadError::Damaged { file, offset, what })))
            }
            _ => Some(reading.end(groups)),
        }
    }

    /// The walk of a read is over: others may have its segment.
    fn unpin(&mut self, reading: &mut Reading) -> Option<Walk> {
        let walk = reading.walk.take()?;
        if let Some(pins) = self.pins.get_mut(&walk.seq()) {
            *pins -= 1;
            if *pins == 0 {
                self.pins.remove(&walk.seq());
            }
        }
        Some(walk)
    }

    /// End all reads: the log closes.
    pub(crate) fn cancel(&mut self) -> Vec<ReadId> {
        let ids = self.waiting.drain(..).map(|r| r.id);
        ids.chain(std::mem::take(&mut self.active).into_keys())
            .collect()
    }
}

/// What a walk wants of bytes that lie at `base`; less where the file ends.
fn part(bytes: &[u8], base: u64, (at, wanted): (u64, usize)) -> &[u8] {
    let from = (at - base) as usize;
    let to = (from + wanted).min(bytes.len());
    bytes.get(from..to).unwrap_or_default()
}

impl Reading {
    /// The stretch that has the next entry.
    fn begin(&self, groups: &Groups, durable: Lsn) -> Option<Walk> {
        let run = groups
            .runs(self.group, self.next, self.hi)
            .next()
            .filter(|run| run.first <= self.next)?;
        let stretch = run.stretch(self.next);
        // Where entries replace others, what is not durable yet may be what counts.
        let newest = match stretch.mixed && groups.is_unfit(self.group, durable) {
            true => 0,
            false => durable,
        };
        let first = self.entries.is_empty();
        let wanted = (self.next, self.hi.min(stretch.last));
        (stretch.lsn <= newest)
            .then(|| Walk::new(self.group, wanted, stretch, newest, self.bytes_left, first))
    }

    fn end(self, groups: &Groups) -> Finished {
        let (group, index) = (self.group, self.next);
        let result = match groups.get(group) {
            _ if !self.entries.is_empty() => Ok(self.entries),
            Some(g) if index <= g.compacted => Err(ReadError::Compacted {
                group,
                compacted: g.compacted,
            }),
            _ => Err(ReadError::Unavailable { group, index }),
        };
        (self.id, result)
    }
}
