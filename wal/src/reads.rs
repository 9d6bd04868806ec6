//! Reading entries back, for followers that lag behind what raft keeps in memory.
//!
//! A read walks the group's runs, one batch at a time, and ends after about `max_bytes` of payload. The
//! segments it reads from are pinned meanwhile: a recycled file must not change under a read.
//! What the log is while a read runs may change (entries compacted or replaced): the reader compares
//! terms, as raft does anyway.

use std::collections::{BTreeMap, VecDeque};
use std::io;

use bytes::Bytes;

use crate::batch::BatchHeader;
use crate::disk::{Op, Output};
use crate::groups::{Groups, Run};
use crate::record::Records;
use crate::{GroupId, Lsn, ReadError, Record, segment};

/// Names a read in flight.
pub type ReadId = u64;

/// Reads that touch the disk at the same time; more wait in line.
const ACTIVE_MAX: usize = 16;

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

#[derive(Debug)]
struct Reading {
    id: ReadId,
    group: GroupId,
    next: u64,
    hi: u64,
    bytes_left: usize,
    entries: Vec<ReadEntry>,
    /// The run being read.
    run: Option<Run>,
}

/// A finished read.
pub(crate) type Finished = (ReadId, Result<Vec<ReadEntry>, ReadError>);

/// All reads in flight.
#[derive(Debug, Default)]
pub(crate) struct Reads {
    next_id: ReadId,
    waiting: VecDeque<Reading>,
    active: BTreeMap<ReadId, Reading>,
    /// Segment -> reads of it in flight.
    pins: BTreeMap<u64, usize>,
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
            run: None,
        };
        self.waiting.push_back(reading);
        id
    }

    pub(crate) fn is_pinned(&self, seq: u64) -> bool {
        self.pins.contains_key(&seq)
    }

    /// The next read that can go on: its next disk operation, or its end.
    pub(crate) fn step(
        &mut self,
        groups: &Groups,
        durable: Lsn,
        file_of: impl Fn(u64) -> Option<crate::disk::FileId>,
    ) -> Option<Result<(ReadId, Op), Finished>> {
        if self.active.len() >= ACTIVE_MAX {
            return None;
        }
        let mut reading = self.waiting.pop_front()?;
        let run = groups
            .runs(reading.group, reading.next, reading.hi)
            .next()
            .filter(|run| run.first <= reading.next && run.place.lsn <= durable);
        let file = run.and_then(|run| file_of(run.place.seq));
        let (Some(run), Some(file)) = (run, file) else {
            return Some(Err(reading.end(groups)));
        };
        reading.run = Some(run);
        *self.pins.entry(run.place.seq).or_default() += 1;
        let op = Op::Read {
            file,
            offset: run.place.offset,
            bytes: run.place.len as usize,
        };
        let id = reading.id;
        self.active.insert(id, reading);
        Some(Ok((id, op)))
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
        let run = reading.run.take()?;
        if let Some(pins) = self.pins.get_mut(&run.place.seq) {
            *pins -= 1;
            if *pins == 0 {
                self.pins.remove(&run.place.seq);
            }
        }
        let more = match result {
            Ok(Output::Buf(buf)) => reading.take(&buf, &run, uuid),
            Ok(_) => Err("no bytes came back".into()),
            Err(e) => Err(e.to_string()),
        };
        match more {
            Ok(true) => {
                self.waiting.push_front(reading);
                None
            }
            Ok(false) => Some(reading.end(groups)),
            // What came before the damage is good; the caller's next read meets the damage first.
            Err(_) if !reading.entries.is_empty() => Some(reading.end(groups)),
            Err(what) => {
                let (file, offset) = (segment::name(run.place.seq), run.place.offset);
                Some((id, Err(ReadError::Damaged { file, offset, what })))
            }
        }
    }

    /// End all reads: the log closes.
    pub(crate) fn cancel(&mut self) -> Vec<ReadId> {
        let ids = self.waiting.drain(..).map(|r| r.id);
        ids.chain(std::mem::take(&mut self.active).into_keys())
            .collect()
    }
}

impl Reading {
    /// Collect the entries of `run` from its batch. `false`: enough, or the end.
    fn take(&mut self, batch: &[u8], run: &Run, uuid: u128) -> Result<bool, String> {
        let (header, _) = BatchHeader::decode(batch).ok_or("no batch header")?;
        let place = &run.place;
        if !header.is_at(uuid, place.seq, place.offset) || header.lsn != place.lsn {
            return Err(format!("batch {} is not what lies here", place.lsn));
        }
        let records = header.records(batch).ok_or("checksum of the records")?;
        let (hi, last) = (self.hi.min(run.last), run.last);
        let mut found: Vec<(u64, u64, u8, &[u8])> = Vec::new();
        for record in Records::new(records, header.records) {
            if let Record::Entry {
                group,
                term,
                index,
                kind,
                payload,
            } = record?
                && group == self.group
            {
                // The same rule as everywhere: an entry hides those at and after its index.
                while found.last().is_some_and(|f| f.0 >= index) {
                    found.pop();
                }
                found.push((index, term, kind, payload));
            }
        }
        for (index, term, kind, payload) in found {
            if index < self.next || index > hi {
                continue;
            }
            if index > self.next {
                return Err(format!("entry {} is missing from its batch", self.next));
            }
            if !self.entries.is_empty() && payload.len() > self.bytes_left {
                return Ok(false);
            }
            self.bytes_left = self.bytes_left.saturating_sub(payload.len());
            let payload = Bytes::copy_from_slice(payload);
            self.entries.push(ReadEntry {
                term,
                index,
                kind,
                payload,
            });
            self.next = index.saturating_add(1);
        }
        if self.next <= hi && hi < u64::MAX {
            return Err(format!("entry {} is missing from its batch", self.next));
        }
        Ok(self.next <= self.hi && self.next > last)
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
