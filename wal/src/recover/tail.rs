//! The end of the log: the last segment, and what lies behind it.
//!
//! A place that is bad is judged only when everything behind it has been read: whether a later write
//! says that the batch there was durable decides between rot and a tear.

use std::collections::BTreeMap;

use super::{Recovery, limit};
use crate::batch::{BatchHeader, Mark};
use crate::chain::{Chain, FoundFile, corrupt, headless};
use crate::disk::FileId;
use crate::error::Obstacle;
use crate::identity::CUT_DIR;
use crate::pipeline::SegmentFile;
use crate::record::HardState;
use crate::scan::{Bad, Evidence, Expect};
use crate::segment::{self, DATA_AT};
use crate::{BLOCK_BYTES, Cut, IoFault, Lsn, OpenError, Record, mend};

/// Copies of torn tails kept; a later one takes the place of the oldest.
const CUT_COPIES_MAX: u64 = 16;

type Traces = Vec<(SegmentFile, Evidence)>;

impl Recovery<'_> {
    /// Replay the last segment and judge its end: rows 4 to 7 and 10 to 12.
    pub(super) fn last(
        &mut self,
        chain: &Chain,
        files: &BTreeMap<u64, FoundFile>,
    ) -> Result<(), OpenError> {
        let file_end = chain.file_ends.last().copied().unwrap_or(0);
        let Some((&file, &limit)) = chain.files.last().zip(chain.sizes.last()) else {
            let lsn = self.end.lsn.saturating_add(1);
            let traces = self.traces(lsn, files)?;
            return self.rotation(lsn, &traces);
        };
        // As far as all is well; and then again, knowing what lies behind.
        let well = self.batches(file, limit, 0, 0)?.is_none();
        let traces = self.traces(self.end.lsn.saturating_add(1), files)?;
        let mut seen = Evidence::default();
        if !well {
            seen = self.evidence(file, &self.expect(limit))?;
        }
        let said = traces.iter().map(|(_, trace)| trace.durable_lsn).max();
        self.durable = self.durable.max(seen.durable_lsn).max(said.unwrap_or(0));
        let bad = self.batches(file, limit, seen.end, self.durable)?;

        let expect = self.expect(limit);
        let is_footer = bad.as_ref().and_then(|b| b.known).is_some_and(|h| {
            h.is_footer() && h.lsn == expect.lsn && h.is_at(self.uuid, expect.seq, expect.offset)
        });
        if is_footer {
            return Err(self.no_successor(&expect, &traces, files)); // row 7
        }
        if self.durable >= expect.lsn {
            let bad = bad.unwrap_or(Bad {
                what: "nothing",
                known: None,
            });
            return Err(self.corrupt(file, expect, &bad, None)?); // rows 4a and 10
        }
        // Where the disk cannot read, nobody knows whether there was an end.
        if let Some((_, offset)) = self
            .unreadable
            .range((file, expect.offset)..=(file, limit))
            .next()
        {
            let text = format!("input/output error at offset {offset}, where the log may go on");
            return Err(OpenError::Io {
                path: self.disk.path().join(segment::name(expect.seq)),
                doing: "read",
                fault: IoFault {
                    code: Some(libc::EIO),
                    text,
                },
            });
        }
        let used_to = seen.end.max(expect.offset);
        if file_end < limit && used_to + BLOCK_BYTES as u64 > file_end {
            let what = "the file was cut where the log may go on";
            let bad = Bad { what, known: None };
            return Err(self.corrupt(file, expect, &bad, None)?); // row 16
        }
        if seen.end > expect.offset {
            self.cut(expect.seq, expect.offset, seen.end); // row 5
            self.votes(file, &expect, seen.end)?;
            self.doubtful(file, &expect, seen.end)?;
        } else if expect.offset == DATA_AT {
            self.votes_before(chain)?;
        }
        self.rotation(expect.lsn, &traces)
    }

    /// What lies in files after the last segment that were written to.
    fn traces(&mut self, lsn: Lsn, files: &BTreeMap<u64, FoundFile>) -> Result<Traces, OpenError> {
        let mut traces = Vec::new();
        for found in files
            .range(self.end.seq + 1..)
            .map(|(_, f)| f)
            .filter(|f| f.touched)
        {
            let expect = Expect {
                seq: found.file.seq,
                offset: DATA_AT,
                lsn,
                ..self.expect(found.file.bytes)
            };
            traces.push((found.file, self.evidence(found.file.file, &expect)?));
        }
        Ok(traces)
    }

    /// Row 7. A footer is written only after the next segment's header is durable.
    fn no_successor(
        &self,
        expect: &Expect,
        traces: &Traces,
        files: &BTreeMap<u64, FoundFile>,
    ) -> OpenError {
        let Some((file, _)) = traces.iter().find(|(_, trace)| trace.end > 0) else {
            // Its number may be any larger one; a repair can do with the next, if no file has it.
            let next = expect.seq + 1;
            let name = match files.contains_key(&next) {
                true => format!("(the one after {})", segment::name(expect.seq)),
                false => segment::name(next),
            };
            return OpenError::MissingSegment {
                path: self.disk.path().join(name),
            };
        };
        headless(self.disk, &files[&file.seq], expect.lsn, self.durable)
    }

    /// Rows 10 and 11: files after the last segment that were written to.
    fn rotation(&mut self, lsn: Lsn, traces: &Traces) -> Result<(), OpenError> {
        for (file, trace) in traces {
            if trace.durable_lsn >= lsn {
                let expect = Expect {
                    lsn,
                    ..Expect::nowhere()
                };
                let what = "both copies of the segment header".into();
                let durable = trace.durable_lsn;
                let header = Obstacle::Header(file.seq);
                return Err(corrupt(self.disk, file.seq, expect, durable, what, header));
            }
            if trace.end > 0 {
                if self.report.cut.is_none() {
                    self.cut(file.seq, 0, trace.end);
                }
                let expect = Expect {
                    seq: file.seq,
                    offset: DATA_AT,
                    ..self.expect(trace.end)
                };
                self.votes(file.file, &expect, trace.end)?;
                self.doubtful(file.file, &expect, trace.end)?;
            }
        }
        Ok(())
    }

    fn cut(&mut self, seq: u64, offset: u64, end: u64) {
        let lsn = self.end.lsn.saturating_add(1);
        let dir = self.disk.path();
        // The copy begins with the batch's own header; the name only has to be the same each time.
        let kept = dir
            .join(CUT_DIR)
            .join(format!("{}.torn", seq % CUT_COPIES_MAX));
        let file = dir.join(segment::name(seq));
        self.report.cut = Some(Cut {
            file,
            offset,
            bytes: end - offset,
            lsn,
            kept,
        });
    }

    fn evidence(&mut self, file: FileId, expect: &Expect) -> Result<Evidence, OpenError> {
        self.look(file, |window| window.evidence(expect))
    }

    /// Keep the terms and votes of what is cut. If the last batch was acknowledged and is rotten, they
    /// were promised to others; if it was torn, nobody was told, and keeping them does no harm. One
    /// bad sector cannot take both places where a batch says them.
    fn votes(&mut self, file: FileId, expect: &Expect, end: u64) -> Result<(), OpenError> {
        let mut marks: Vec<(Lsn, Mark)> = Vec::new();
        self.look(file, |window| {
            window.batches_between(expect, end, |header, bytes| {
                let found = said(header, bytes);
                marks.extend(found.into_iter().map(|mark| (header.lsn, mark)));
            })
        })?;
        marks.sort_by_key(|(lsn, _)| *lsn);
        for (_, mark) in marks {
            self.replaying().keep_vote(&mark);
        }
        Ok(())
    }

    /// What is cut and can be read, for who wants to know.
    fn doubtful(&mut self, file: FileId, expect: &Expect, end: u64) -> Result<(), OpenError> {
        if !self.replay.wants_doubtful() {
            return Ok(());
        }
        let mut areas: Vec<(BatchHeader, Vec<u8>)> = Vec::new();
        let mut last = expect.lsn.saturating_sub(1);
        self.look(file, |window| {
            window.batches_between(expect, end, |header, bytes| {
                if header.is_footer() || header.is_bridge() {
                    return;
                }
                last = last.max(header.lsn);
                let marks: Vec<Mark> = header.marks(bytes).into_iter().flatten().collect();
                let good = header.records(bytes).map(<[u8]>::to_vec);
                if let Some(area) = good.or_else(|| mend::mend(header, bytes, &marks)) {
                    areas.push((*header, area));
                }
            })
        })?;
        let all = (expect.lsn..=last).eq(areas.iter().map(|(header, _)| header.lsn));
        let read_to = areas.last().map(|(h, _)| h.offset + u64::from(h.len));
        if !all || read_to.is_none_or(|to| to < end) {
            self.replay.unread();
        }
        for (header, area) in areas {
            mend::each(&header, &area, |record| self.replay.doubtful(record));
        }
        Ok(())
    }

    /// The last segments hold no batch yet: what was cut before they were begun is still the last that
    /// was said, until the first batch repeats it.
    fn votes_before(&mut self, chain: &Chain) -> Result<(), OpenError> {
        for at in (1..chain.segments.len()).rev() {
            let (before, end) = (at - 1, limit(chain, at - 1));
            let expect = Expect {
                seq: chain.segments[before].seq,
                offset: end,
                ..self.expect(chain.sizes[before])
            };
            self.votes(chain.files[before], &expect, chain.sizes[before])?;
            if end > DATA_AT {
                break;
            }
        }
        Ok(())
    }
}

/// The hard states that a batch says, by its marks or by its records.
fn said(header: &BatchHeader, bytes: &[u8]) -> Vec<Mark> {
    if header.is_footer() {
        return Vec::new();
    }
    if let Some(marks) = header.marks(bytes) {
        return marks.collect();
    }
    if header.records(bytes).is_none() {
        return Vec::new();
    }
    let hard = |record| match record {
        Ok(Record::HardState {
            group,
            term,
            vote,
            commit,
        }) => Some(Mark {
            group,
            hard: HardState { term, vote, commit },
            ..Mark::default()
        }),
        _ => None,
    };
    header.records_of(bytes).filter_map(hard).collect()
}
