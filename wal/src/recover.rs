//! From a directory to a log: find the segments, replay them, judge the end.
//!
//! A batch is *bad* at the place where batch L must be: unreadable, from elsewhere, wrong number, broken
//! chain, wrong checksum. "Durable" is the highest `durable_lsn` seen in anything readable: in
//! accepted batches, in segment headers, and in whatever lies behind the bad place.
//!
//! | row | where                         | found                                | verdict              |
//! |-----|-------------------------------|--------------------------------------|----------------------|
//! | 1   | any segment                   | good batch L                         | replay, L + 1        |
//! | 2   | segment with a successor      | bad before the end the successor says| corrupt              |
//! | 3   | segment with a successor      | good to that end, but other number   |                      |
//! |     |                               | or chain than the successor says     | corrupt              |
//! | 4   | last segment                  | bad, durable >= L                    | corrupt              |
//! | 5   | last segment                  | bad, durable < L, traces of L or     |                      |
//! |     |                               | later writes                         | torn tail: cut, keep |
//! | 6   | last segment                  | bad, durable < L, no traces          | clean end            |
//! | 7   | last segment                  | footer where L must be               | missing or corrupt   |
//! | 8   | segment in the chain          | no readable header copy              | corrupt              |
//! | 9   | segment in the chain, needed  | no file                              | missing              |
//! | 10  | file after the last segment   | traces of writes, durable >= L       | corrupt              |
//! | 11  | file after the last segment   | traces of writes, durable < L        | torn rotation: cut   |
//! | 12  | file after the last segment   | no traces                            | ready segment        |
//! | 13  | ready segment                 | testifies a segment after the last   | missing              |
//! | 14  | ready segment                 | testifies a durable batch >= L       | corrupt, as row 4    |
//!
//! Why rows 5 and 11 may cut: nothing above `durable` was ever acknowledged, as an acknowledgement
//! precedes every later batch that could say so; at most the last `depth` batches were in flight.
//! Why a cut cannot be undone by old bytes: new batches go to a *new* segment, whose header says
//! where the log ends in the old one; and no number of a file that may have been written to is used
//! again (ready files are renumbered at every open). Until that header is durable, opening again
//! finds the same end and cuts the same tail: recovery only adds copies and renames unused files, so
//! it can be interrupted anywhere. Orphaned writes of a killed process are waited for: every file is
//! locked and synced when it is opened, so what is judged is what the device holds.

use std::collections::BTreeMap;

use crate::batch::{BatchHeader, FLAG_FIRST};
use crate::chain::{Chain, DiskSource, FoundFile, corrupt, keep_copy, open_files, renumber};
use crate::disk::{Disk, FileId};
use crate::groups::{Groups, Place, Touches};
use crate::identity::{Birth, CUT_DIR, fault};
use crate::pipeline::SegmentFile;
use crate::record::Records;
use crate::scan::{Bad, Evidence, Expect, Window};
use crate::segment::{self, DATA_AT, SegmentHeader};
use crate::{BatchInfo, Cut, Lsn, OpenError, OpenReport, Record, Replay};

/// The log as it was found: everything an open log starts from.
pub(crate) struct Recovered {
    pub(crate) groups: Groups,
    /// The log's segments, oldest first.
    pub(crate) segments: BTreeMap<u64, SegmentFile>,
    /// Files to write to next.
    pub(crate) ready: Vec<SegmentFile>,
    /// Larger than every number ever used.
    pub(crate) next_seq: u64,
    pub(crate) end: End,
    pub(crate) report: OpenReport,
}

/// Where the log ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct End {
    /// The last segment; 0 if there is none.
    pub(crate) seq: u64,
    pub(crate) offset: u64,
    /// The last batch.
    pub(crate) lsn: Lsn,
    /// Checksum of its header.
    pub(crate) crc: u32,
    /// Oldest segment still needed, as the last batch says.
    pub(crate) low_seq: u64,
    /// Newest segment that begins with marks of all groups; 0 if none.
    pub(crate) marked_seq: u64,
}

/// Copies of torn tails kept; a later one takes the place of the oldest.
const CUT_COPIES_MAX: u64 = 16;

/// What a directory holds, before anything was done about it.
pub(crate) struct Judged {
    groups: Groups,
    files: BTreeMap<u64, FoundFile>,
    chain: Chain,
    pub(crate) end: End,
    pub(crate) report: OpenReport,
}

/// Replay the log in the disk's directory, which is locked and ours, and put the directory in order.
pub(crate) fn recover(
    disk: &mut dyn Disk,
    birth: &Birth,
    segment_bytes: u64,
    replay: &mut dyn Replay,
) -> Result<Recovered, OpenError> {
    let Judged {
        groups,
        mut files,
        chain,
        end,
        report,
    } = judge(disk, birth.uuid, replay)?;
    if let Some(cut) = &report.cut {
        keep_copy(disk, cut, &files)?;
    }
    let max_seq = files.keys().next_back().copied().unwrap_or(0);
    let in_log = |header: &SegmentHeader| Some((header.seq, files.get(&header.seq)?.file));
    let segments: BTreeMap<u64, SegmentFile> = chain.segments.iter().filter_map(in_log).collect();
    files.retain(|seq, _| !segments.contains_key(seq));
    let (ready, next_seq) = renumber(disk, files, segment_bytes, end.seq, max_seq)?;
    Ok(Recovered {
        groups,
        segments,
        ready,
        next_seq,
        end,
        report,
    })
}

/// Replay the log and judge its end. Changes nothing.
pub(crate) fn judge(
    disk: &mut dyn Disk,
    uuid: u128,
    replay: &mut dyn Replay,
) -> Result<Judged, OpenError> {
    let files = open_files(disk, uuid)?;
    let missing = |disk: &dyn Disk, seq| OpenError::MissingSegment {
        path: disk.path().join(segment::name(seq)),
    };
    if files.is_empty() {
        return Err(missing(disk, 1));
    }
    let chain = Chain::find(disk, &files)?;
    let mut recovery = Recovery {
        uuid,
        disk,
        replay,
        touches: Touches::default(),
        groups: Groups::default(),
        durable: 0,
        end: End::default(),
        report: OpenReport::default(),
    };
    recovery.segments(&chain)?;
    // Row 13. What ready files testify.
    for ready in files.values().filter_map(|f| f.ready) {
        if ready.prev_seq > recovery.end.seq {
            return Err(missing(recovery.disk, ready.prev_seq));
        }
        recovery.durable = recovery.durable.max(ready.first_lsn.saturating_sub(1));
    }
    recovery.tail(&chain, &files)?;
    let Recovery {
        groups,
        end,
        mut report,
        durable,
        ..
    } = recovery;
    if chain.before >= end.low_seq.max(1) {
        return Err(missing(disk, chain.before)); // row 9
    }
    for found in files.values().filter(|f| f.copies == 1) {
        let name = segment::name(found.file.seq);
        report
            .notes
            .push(format!("{name}: one of the two header copies is damaged"));
    }
    report.segments = chain.segments.len();
    report.last_lsn = end.lsn;
    report.durable_lsn = durable;
    Ok(Judged {
        groups,
        files,
        chain,
        end,
        report,
    })
}

struct Recovery<'a> {
    uuid: u128,
    disk: &'a mut dyn Disk,
    replay: &'a mut dyn Replay,
    touches: Touches,
    groups: Groups,
    /// Highest batch known durable.
    durable: Lsn,
    end: End,
    report: OpenReport,
}

impl Recovery<'_> {
    /// Replay all segments, to the ends their successors say, the last one as far as it goes.
    fn segments(&mut self, chain: &Chain) -> Result<(), OpenError> {
        for (at, header) in chain.segments.iter().enumerate() {
            let successor = chain.segments.get(at + 1);
            if at == 0 {
                self.end.lsn = header.first_lsn.saturating_sub(1);
                self.end.crc = header.prev;
            }
            self.durable = self.durable.max(header.first_lsn.saturating_sub(1));
            self.end.seq = header.seq;
            self.end.offset = DATA_AT;
            self.end.low_seq = self.end.low_seq.max(header.low_seq);
            let limit = successor.map_or(chain.sizes[at], |next| next.prev_end);
            let bad = self.segment(chain.files[at], limit)?;
            let Some(next) = successor else { break };
            if let Some(bad) = bad {
                let expect = self.expect(limit);
                let durable = next.first_lsn.saturating_sub(1);
                return Err(self.corrupt(chain.files[at], expect, durable, &bad)?); // row 2
            }
            self.footer(chain.files[at], limit, chain.sizes[at])?;
            if next.first_lsn != self.end.lsn + 1 || next.prev != self.end.crc {
                let what = format!("segment {} does not follow it", segment::name(next.seq));
                let durable = next.first_lsn.saturating_sub(1);
                return Err(corrupt(
                    self.disk,
                    header.seq,
                    self.expect(limit),
                    durable,
                    what,
                    vec![],
                )); // row 3
            }
        }
        Ok(())
    }

    /// Note a damaged footer. It may be missing: then whatever lies there says nothing.
    fn footer(&mut self, file: FileId, at: u64, size: u64) -> Result<(), OpenError> {
        let expect = Expect {
            offset: at,
            limit: size,
            ..self.expect(size)
        };
        let name = segment::name(expect.seq);
        let mut source = DiskSource {
            disk: self.disk,
            file,
        };
        let found = Window::new(&mut source).footer_is_whole(&expect);
        if found.map_err(|e| fault(self.disk, &name, "read", e))? == Some(false) {
            self.report
                .notes
                .push(format!("{name}: the footer is damaged"));
        }
        Ok(())
    }

    /// What must come next in the current segment.
    fn expect(&self, limit: u64) -> Expect {
        Expect {
            uuid: self.uuid,
            seq: self.end.seq,
            offset: self.end.offset,
            lsn: self.end.lsn + 1,
            prev: self.end.crc,
            limit,
        }
    }

    /// Replay one segment up to `limit`; what stopped it earlier, if something did.
    fn segment(&mut self, file: FileId, limit: u64) -> Result<Option<Bad>, OpenError> {
        let name = segment::name(self.end.seq);
        let (uuid, path) = (self.uuid, self.disk.path().join(&name));
        let mut source = DiskSource {
            disk: self.disk,
            file,
        };
        let mut window = Window::new(&mut source);
        while self.end.offset < limit {
            let expect = Expect {
                uuid,
                seq: self.end.seq,
                offset: self.end.offset,
                lsn: self.end.lsn + 1,
                prev: self.end.crc,
                limit,
            };
            let read = window.batch(&expect).map_err(|e| OpenError::Io {
                path: path.clone(),
                doing: "read",
                fault: e.into(),
            })?;
            let (header, crc, bytes) = match read {
                Ok(good) => good,
                Err(bad) => return Ok(Some(bad)),
            };
            let place = Place {
                lsn: header.lsn,
                seq: header.seq,
                offset: header.offset,
                len: header.len,
            };
            let mut to = Replaying {
                groups: &mut self.groups,
                touches: &mut self.touches,
                replay: self.replay,
                report: &mut self.report,
            };
            to.batch(&header, bytes, place);
            self.durable = self.durable.max(header.durable_lsn);
            if header.flags & FLAG_FIRST != 0 {
                self.end.marked_seq = header.seq;
            }
            self.end.low_seq = self.end.low_seq.max(header.low_seq);
            self.end.lsn = header.lsn;
            self.end.crc = crc;
            self.end.offset += u64::from(header.len);
        }
        Ok(None)
    }

    /// Judge the end of the log: rows 4 to 7 and 10 to 12.
    fn tail(&mut self, chain: &Chain, files: &BTreeMap<u64, FoundFile>) -> Result<(), OpenError> {
        let lsn = self.end.lsn + 1;
        let after = files.range(self.end.seq + 1..).map(|(_, f)| f);
        let mut traces: Vec<(SegmentFile, Evidence)> = Vec::new();
        for found in after.filter(|f| f.touched) {
            let seq = found.file.seq;
            let expect = Expect {
                seq,
                offset: DATA_AT,
                limit: found.file.bytes,
                lsn,
                ..self.expect(0)
            };
            traces.push((found.file, self.evidence(found.file.file, &expect)?));
        }
        let Some((&file, &limit)) = chain.files.last().zip(chain.sizes.last()) else {
            return self.rotation(lsn, &traces);
        };
        let expect = self.expect(limit);
        let bad = self.segment(file, limit)?;
        let is_footer = bad.as_ref().and_then(|b| b.known).is_some_and(|h| {
            h.is_footer() && h.lsn == lsn && h.is_at(self.uuid, expect.seq, expect.offset)
        });
        if is_footer {
            return Err(self.no_successor(&expect, &traces)); // row 7
        }
        let seen = self.evidence(file, &expect)?;
        self.durable = self.durable.max(seen.durable_lsn);
        for (_, trace) in &traces {
            self.durable = self.durable.max(trace.durable_lsn);
        }
        if self.durable >= lsn {
            let bad = bad.unwrap_or(Bad {
                what: "nothing",
                known: None,
            });
            return Err(self.corrupt(file, expect, self.durable, &bad)?); // rows 4 and 10
        }
        if seen.end > expect.offset {
            self.cut(expect.seq, expect.offset, seen.end); // row 5
        }
        self.rotation(lsn, &traces)
    }

    /// Row 7. A footer is written only after the next segment's header is durable.
    fn no_successor(&self, expect: &Expect, traces: &[(SegmentFile, Evidence)]) -> OpenError {
        let Some((file, _)) = traces.iter().find(|(_, trace)| trace.end > 0) else {
            let name = format!("(the one after {})", segment::name(expect.seq));
            return OpenError::MissingSegment {
                path: self.disk.path().join(name),
            };
        };
        let what = "both copies of the segment header".into();
        let expect = Expect {
            offset: 0,
            ..*expect
        };
        corrupt(self.disk, file.seq, expect, self.durable, what, vec![])
    }

    /// Rows 10 and 11: files after the last segment that were written to.
    fn rotation(&mut self, lsn: Lsn, traces: &[(SegmentFile, Evidence)]) -> Result<(), OpenError> {
        for (file, trace) in traces {
            if trace.durable_lsn >= lsn {
                let expect = Expect {
                    lsn,
                    ..Expect::nowhere()
                };
                let what = "both copies of the segment header".into();
                return Err(corrupt(
                    self.disk,
                    file.seq,
                    expect,
                    trace.durable_lsn,
                    what,
                    vec![],
                ));
            }
            if trace.end > 0 && self.report.cut.is_none() {
                self.cut(file.seq, 0, trace.end);
            }
        }
        Ok(())
    }

    fn cut(&mut self, seq: u64, offset: u64, end: u64) {
        let lsn = self.end.lsn + 1;
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
        let mut source = DiskSource {
            disk: self.disk,
            file,
        };
        let found = Window::new(&mut source).evidence(expect);
        found.map_err(|e| fault(self.disk, &segment::name(expect.seq), "read", e))
    }

    /// Name what a damaged batch held.
    fn corrupt(
        &mut self,
        file: FileId,
        expect: Expect,
        durable: Lsn,
        bad: &Bad,
    ) -> Result<OpenError, OpenError> {
        let groups = match bad
            .known
            .filter(|known| known.is_at(self.uuid, expect.seq, expect.offset))
        {
            None => vec![],
            Some(known) => {
                let mut source = DiskSource {
                    disk: self.disk,
                    file,
                };
                let held = Window::new(&mut source).held_by(&known);
                held.map_err(|e| fault(self.disk, &segment::name(expect.seq), "read", e))?
            }
        };
        let expect = Expect {
            offset: self.end.offset,
            ..expect
        };
        Ok(corrupt(
            self.disk,
            expect.seq,
            expect,
            durable,
            bad.what.into(),
            groups,
        ))
    }
}

/// Gives one batch to the replay and to the groups.
struct Replaying<'a> {
    groups: &'a mut Groups,
    touches: &'a mut Touches,
    replay: &'a mut dyn Replay,
    report: &'a mut OpenReport,
}

impl Replaying<'_> {
    fn batch(&mut self, header: &BatchHeader, bytes: &[u8], place: Place) {
        self.replay.batch(&BatchInfo {
            lsn: header.lsn,
            seq: header.seq,
            offset: header.offset,
            bytes: header.len,
            durable_lsn: header.durable_lsn,
            low_seq: header.low_seq,
            records: header.records,
            marks: header.marks,
        });
        self.touches.clear();
        for record in header
            .records(bytes)
            .into_iter()
            .flat_map(|r| Records::new(r, header.records))
        {
            let Ok(record) = record else { break };
            self.touches.add(&record);
            self.replay.record(record);
            self.report.records += 1;
        }
        self.groups.apply(self.touches, place);
        self.marks(header, bytes);
        self.report.batches += 1;
        self.report.bytes += u64::from(header.len);
    }

    /// What the marks know beyond the records is what purged segments held: in an intact log, only
    /// those of the first batch do.
    fn marks(&mut self, header: &BatchHeader, bytes: &[u8]) {
        for mark in header.marks(bytes).into_iter().flatten() {
            let group = mark.group;
            let (hard, compacted) = self.groups.adopt(&mark);
            if let Some(hard) = hard {
                let (term, vote, commit) = (hard.term, hard.vote, hard.commit);
                self.replay.record(Record::HardState {
                    group,
                    term,
                    vote,
                    commit,
                });
            }
            if let Some((index, term)) = compacted {
                self.replay.record(Record::Compacted { group, index, term });
            }
        }
    }
}
