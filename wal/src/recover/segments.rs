//! The segments' batches, replayed in order: what is good, what is passed over, and what stops it.
//!
//! The rows are those of the table in `mod.rs`. Must never know: which files belong to the log.

use super::{Recovery, replay};
use crate::chain::{Chain, DiskSource, LogSource, corrupt};
use crate::disk::FileId;
use crate::error::Obstacle;
use crate::groups::Place;
use crate::identity::fault;
use crate::scan::{Bad, Expect, Footer, Judged, Window};
use crate::segment::{self, DATA_AT, SegmentHeader};
use crate::{BLOCK_BYTES, Corruption, Healed, Lsn, OpenError, batch};

/// Log replayed between two notes of progress.
const PROGRESS_BYTES: u64 = 16 * 1024 * 1024;

impl Recovery<'_> {
    /// Replay all segments but the last, to the ends their successors say; and begin the last.
    pub(super) fn segments(&mut self, chain: &Chain) -> Result<(), OpenError> {
        for (at, header) in chain.segments.iter().enumerate() {
            if at == 0 {
                self.end.lsn = header.first_lsn.saturating_sub(1);
                self.end.crc = header.prev;
            }
            self.durable = self.durable.max(header.first_lsn.saturating_sub(1));
            self.end.seq = header.seq;
            self.end.offset = DATA_AT;
            // None says more than up to itself, or it is no more needed itself.
            self.end.low_seq = self.end.low_seq.max(header.low_seq.min(header.seq));
            self.groups.begin_segment();
            let Some(next) = chain.segments.get(at + 1) else {
                break;
            };
            self.durable = self.durable.max(next.first_lsn.saturating_sub(1));
            self.sealed(chain.files[at], next, chain.sizes[at])?;
            if next.first_lsn != self.end.lsn.saturating_add(1) || next.prev != self.end.crc {
                let what = format!("segment {} does not follow it", segment::name(next.seq));
                let expect = self.expect(next.prev_end);
                return Err(corrupt(
                    self.disk,
                    header.seq,
                    expect,
                    self.durable,
                    what,
                    Obstacle::Other,
                )); // row 3
            }
        }
        Ok(())
    }

    /// Replay a segment that has a successor: everything in it was acknowledged.
    pub(super) fn sealed(
        &mut self,
        file: FileId,
        next: &SegmentHeader,
        size: u64,
    ) -> Result<(), OpenError> {
        let limit = next.prev_end.min(size);
        while let Some(bad) = self.batches(file, limit, limit, Lsn::MAX)? {
            let expect = self.expect(limit);
            if !self.gap(file, &expect, next, size)? {
                let after = Some((next.first_lsn, next.prev));
                return Err(self.corrupt(file, expect, &bad, after)?); // row 2b
            }
        }
        let footer = self.footer(file, limit, size)?;
        if footer.is_there && !footer.is_whole {
            self.report.healed.push(Healed {
                file: self.disk.path().join(segment::name(self.end.seq)),
                offset: limit,
                what: "footer".into(),
                mendable: false,
            });
        }
        Ok(())
    }

    /// The footer of the current segment, whose log ends at `limit`. It may be missing: then whatever
    /// lies there says nothing.
    pub(super) fn footer(
        &mut self,
        file: FileId,
        limit: u64,
        size: u64,
    ) -> Result<Footer, OpenError> {
        let expect = Expect {
            offset: limit,
            limit: size,
            ..self.expect(size)
        };
        if limit + BLOCK_BYTES as u64 > size {
            return Ok(Footer::default());
        }
        let bytes_max = batch::batch_bytes(0, self.groups.len());
        self.look(file, |window| window.footer(&expect, bytes_max))
    }

    /// What must come next in the current segment.
    pub(super) fn expect(&self, limit: u64) -> Expect {
        Expect {
            uuid: self.uuid,
            seq: self.end.seq,
            offset: self.end.offset,
            lsn: self.end.lsn.saturating_add(1),
            prev: self.end.crc,
            limit,
        }
    }

    pub(super) fn replaying(&mut self) -> replay::Replaying<'_> {
        replay::Replaying {
            groups: &mut self.groups,
            suspects: &mut self.suspects,
            touches: &mut self.touches,
            replay: self.replay,
            report: &mut self.report,
        }
    }

    /// Replay the current segment up to `limit`; what stopped it earlier, if something did. Damage is
    /// passed over (rows 1a, 2, 4) in batches up to `durable`; `search`: where trailers may be.
    pub(super) fn batches(
        &mut self,
        file: FileId,
        limit: u64,
        search: u64,
        durable: Lsn,
    ) -> Result<Option<Bad>, OpenError> {
        let path = self.disk.path().join(segment::name(self.end.seq));
        let mut source = LogSource {
            disk: DiskSource {
                disk: self.disk,
                file,
            },
            ahead: self.ahead.as_mut(),
            unreadable: &mut self.unreadable,
        };
        let mut window = Window::new(&mut source);
        let mut to = replay::Replaying {
            groups: &mut self.groups,
            suspects: &mut self.suspects,
            touches: &mut self.touches,
            replay: self.replay,
            report: &mut self.report,
        };
        while self.end.offset < limit {
            let expect = Expect {
                uuid: self.uuid,
                seq: self.end.seq,
                offset: self.end.offset,
                lsn: self.end.lsn.saturating_add(1),
                prev: self.end.crc,
                limit,
            };
            let judged = window.batch(&expect, search);
            let judged = judged.map_err(|e| OpenError::Io {
                path: path.clone(),
                doing: "read",
                fault: e.into(),
            })?;
            let (header, crc, marked) = match judged {
                Judged::Bad(bad) => return Ok(Some(bad)),
                Judged::Bridge(header) => {
                    to.bridge(&header); // row 0
                    self.bridged = header.seq;
                    self.durable = self.durable.max(header.durable_lsn).max(header.until);
                    (self.end.lsn, self.end.crc) = (header.until, header.chain);
                    self.end.offset += u64::from(header.len);
                    continue;
                }
                Judged::Good {
                    header,
                    crc,
                    bytes,
                    note,
                    marked,
                } => {
                    let only_copy = self.after_purged == Some(header.seq) && header.is_first();
                    if only_copy && !marked {
                        let (what, known) = ("checksum of the marks", Some(header));
                        let bad = Bad { what, known };
                        if header.lsn > durable {
                            return Ok(Some(bad));
                        }
                        self.unmarked = Some((expect, bad)); // row 1b
                    }
                    if let Some(part) = note {
                        to.report.healed.push(Healed {
                            file: path.clone(),
                            offset: expect.offset,
                            what: format!("{part} of batch {}", header.lsn),
                            mendable: part != "marks",
                        });
                    }
                    to.batch(&header, bytes, Place::of(&header));
                    (header, crc, marked)
                }
                Judged::Lost {
                    header,
                    crc,
                    bytes,
                    marks,
                    what,
                } => {
                    if header.lsn > durable {
                        let known = Some(header);
                        return Ok(Some(Bad { what, known }));
                    }
                    to.lost(&header, bytes, &marks);
                    (header, crc, true)
                }
            };
            self.durable = self.durable.max(header.durable_lsn);
            if header.is_first() && marked {
                self.end.marked_seq = header.seq;
                self.unmarked = None;
            }
            self.end.low_seq = self.end.low_seq.max(header.low_seq.min(header.seq));
            self.end.lsn = header.lsn;
            self.end.crc = crc;
            self.end.offset += u64::from(header.len);
            let done = to.report.bytes;
            if done >= self.bytes_told + PROGRESS_BYTES {
                self.bytes_told = done;
                to.replay.progress(done, self.bytes_total);
            }
        }
        Ok(None)
    }

    /// Look at a file, aside from the replay.
    pub(super) fn look<T>(
        &mut self,
        file: FileId,
        f: impl FnOnce(&mut Window<'_>) -> std::io::Result<T>,
    ) -> Result<T, OpenError> {
        let name = segment::name(self.end.seq);
        let mut source = LogSource {
            disk: DiskSource {
                disk: self.disk,
                file,
            },
            ahead: None,
            unreadable: &mut self.unreadable,
        };
        let found = f(&mut Window::new(&mut source));
        found.map_err(|e| fault(self.disk, &name, "read", e))
    }

    /// Name what a damaged batch held. `after`: the next segment's first batch, and its chain.
    pub(super) fn corrupt(
        &mut self,
        file: FileId,
        expect: Expect,
        bad: &Bad,
        after: Option<(Lsn, u32)>,
    ) -> Result<OpenError, OpenError> {
        let here =
            |known: &crate::batch::BatchHeader| known.is_at(expect.uuid, expect.seq, expect.offset);
        let groups = match bad.known.filter(here) {
            None => vec![],
            Some(known) => self.look(file, |window| window.held_by(&known))?,
        };
        Ok(OpenError::Corrupt(Box::new(Corruption {
            file: self.disk.path().join(segment::name(expect.seq)),
            offset: expect.offset,
            lsn: expect.lsn,
            durable_lsn: self.durable,
            what: bad.what.into(),
            groups,
            obstacle: Obstacle::Batch(expect, after),
        })))
    }
}
