//! From a directory to a log: find the segments, replay them, judge the end.
//!
//! At the place where batch L must be lies something *good* (all records readable; of what is there
//! twice, header and trailer, records and marks, one may be damaged), something *lost* (the records are
//! damaged, but a header copy and the marks say whose they were) or something *bad* (neither).
//! "Durable" is the highest `durable_lsn` seen in anything readable: in accepted batches, in segment
//! headers, and in whatever lies behind a bad place.
//!
//! | row | where                         | found                                | verdict              |
//! |-----|-------------------------------|--------------------------------------|----------------------|
//! | 0   | any segment                   | a bridge from L to M, by a repair    | M + 1; groups suspect|
//! | 1   | any segment                   | good batch L, whole                  | replay, L + 1        |
//! | 1a  | any segment                   | good batch L, not whole              | replay, note, L + 1  |
//! | 1b  | oldest segment, first batch   | good, but its marks (the only copy   |                      |
//! |     |                               | of what purged segments held) not,   |                      |
//! |     |                               | and no later segment repeats them    | corrupt              |
//! | 2   | segment with a successor      | lost                                 | groups damaged, L + 1|
//! | 2a  | segment with a successor      | bad, and footer and batches behind   |                      |
//! |     |                               | it say whose entries are missing     | groups damaged       |
//! | 2b  | segment with a successor      | bad, nothing tells whose             | corrupt              |
//! | 3   | segment with a successor      | good to that end, but other number   |                      |
//! |     |                               | or chain than the successor says     | corrupt              |
//! | 4   | last segment                  | lost, durable >= L                   | groups damaged, L + 1|
//! | 4a  | last segment                  | bad, durable >= L                    | corrupt              |
//! | 5   | last segment                  | lost or bad, durable < L, traces of  |                      |
//! |     |                               | L or later writes                    | torn tail: cut, keep |
//! | 6   | last segment                  | bad, durable < L, no traces          | clean end            |
//! | 7   | last segment                  | footer where L must be               | missing or corrupt   |
//! | 8   | segment in the chain          | no readable header copy              | corrupt              |
//! | 9   | segment in the chain, needed  | no file                              | missing              |
//! | 10  | file after the last segment   | traces of writes, durable >= L       | corrupt              |
//! | 11  | file after the last segment   | traces of writes, durable < L        | torn rotation: cut   |
//! | 12  | file after the last segment   | no traces                            | ready segment        |
//! | 13  | ready segment                 | testifies a segment after the last   | missing, or corrupt  |
//! | 14  | ready segment                 | testifies a durable batch >= L       | as row 4             |
//! | 15  | file after the last segment   | cut, its header with it              | corrupt              |
//! | 16  | last segment, cut             | all of it log, or torn, to its end,  |                      |
//! |     |                               |                                      | corrupt              |
//! | 17  | any segment, cut or grown     | where no batch lies                  | note                 |
//!
//! Why rows 5 and 11 may cut: nothing above `durable` was ever acknowledged, as an acknowledgement
//! precedes every batch that was written later and says so. The exception are batches that nothing was
//! written after: a batch says what was durable when it was written, so that the last `depth` of them (four,
//! by default), if they were in flight together, were all acknowledged and say nothing of each other. Where
//! the first of these rots, it and those behind it cannot be told from torn ones, and are cut; never more
//! than `depth`. Their terms and votes, there twice, are kept (`tail.rs`): a vote that was given is never
//! given again to another. A clean stop's mark says that all before it were durable. Why a cut cannot be
//! undone by old bytes: new batches go to a *new* segment, whose header says where the log ends in the old
//! one; and no number of a file that may have been written to is used again (ready files are renumbered at
//! every open). Until that header is durable, opening again finds the same end and cuts the same tail:
//! recovery only adds copies and renames unused files, so it can be interrupted anywhere. (But one whose file
//! system is full goes on in the old segment behind a clean end, rows 1 and 6: as the process would have that
//! wrote it. See `commit.rs`.) Orphaned writes of a killed process are waited for: every file is locked and
//! synced when it is opened, so what is judged is what the device holds.
//!
//! Why row 16: batches follow each other without a gap, so a whole block that is none of them shows that
//! nothing was written behind it. Where a file that is shorter than it says ends before such a block,
//! batches may have been cut off with it. A file that was cut is never written to again.
//!
//! What is read: of a segment with a successor, the part that is log, and its footer; all of the last
//! one, as only that shows that nothing was written behind its end; the header of every other file.

mod hole;
mod replay;
mod segments;
mod suspects;
mod tail;

use std::collections::{BTreeMap, BTreeSet};

use crate::ahead::{Ahead, Span};

use crate::chain::{Chain, FoundFile, headless, keep_copy, open_files, renumber};
use crate::disk::{Disk, FileId};
use crate::error::Obstacle;
use crate::groups::{Groups, Touches};
use crate::identity::Birth;
use crate::pipeline::SegmentFile;
use crate::scan::{Bad, Expect};
use crate::segment::{self, DATA_AT, SegmentHeader};
use crate::sizes::Sizes;
use crate::{BLOCK_BYTES, Corruption, Damage, Healed, Lsn, OpenError, OpenReport, Replay};

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
    /// The segment that was being written, where the log has a clean end in it: nothing was written behind.
    pub(crate) resumable: Option<SegmentFile>,
    /// Where the log ends in each segment.
    pub(crate) sealed: BTreeMap<u64, u64>,
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

/// What a directory holds, before anything was done about it.
pub(crate) struct Judgement {
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
    sizes: &Sizes,
    replay: &mut dyn Replay,
) -> Result<Recovered, OpenError> {
    let Judgement {
        groups,
        mut files,
        chain,
        end,
        mut report,
    } = judge(disk, birth.uuid, replay)?;
    if let Some(first) = report.damaged.first()
        && replay.refuses(&report.damaged)
    {
        let groups = report.damaged.iter();
        return Err(OpenError::Corrupt(Box::new(Corruption {
            file: first.file.clone(),
            offset: first.offset,
            lsn: first.lsn,
            durable_lsn: report.durable_lsn,
            what: "entries lost".into(),
            groups: groups.map(|d| (d.group, d.first, d.last)).collect(),
            obstacle: Obstacle::Other,
        })));
    }
    if let Some(cut) = &mut report.cut {
        keep_copy(disk, cut, &files)?;
    }
    let max_seq = files.keys().next_back().copied().unwrap_or(0);
    let in_log = |header: &SegmentHeader| {
        let found = files.get(&header.seq)?;
        // One that was cut, or that grew, is never used again: no segment has so many bytes.
        let bytes = if found.is_whole() {
            found.file.bytes
        } else {
            0
        };
        Some((
            header.seq,
            SegmentFile {
                bytes,
                ..found.file
            },
        ))
    };
    let segments: BTreeMap<u64, SegmentFile> = chain.segments.iter().filter_map(in_log).collect();
    files.retain(|seq, _| !segments.contains_key(seq));
    let last = segments.get(&end.seq).copied();
    let resumable = last.filter(|_| report.cut.is_none());
    let mut sealed: BTreeMap<u64, u64> = chain
        .segments
        .iter()
        .enumerate()
        .map(|(at, header)| (header.seq, limit(&chain, at)))
        .collect();
    if let Some(last) = sealed.get_mut(&end.seq) {
        *last = end.offset;
    }
    let (ready, next_seq) = renumber(disk, files, sizes, end.seq, max_seq)?;
    Ok(Recovered {
        groups,
        segments,
        ready,
        next_seq,
        end,
        resumable,
        sealed,
        report,
    })
}

/// Replay the log and judge its end. Changes nothing.
pub(crate) fn judge(
    disk: &mut dyn Disk,
    uuid: u128,
    replay: &mut dyn Replay,
) -> Result<Judgement, OpenError> {
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
        ahead: read_ahead(disk, &chain),
        disk,
        replay,
        touches: Touches::default(),
        groups: Groups::default(),
        suspects: suspects::Suspects::default(),
        bridged: 0,
        durable: 0,
        end: End::default(),
        unmarked: None,
        after_purged: chain
            .segments
            .first()
            .map(|h| h.seq)
            .filter(|_| chain.before != 0),
        unreadable: BTreeSet::new(),
        bytes_total: bytes_total(&chain),
        bytes_told: 0,
        report: OpenReport::default(),
    };
    recovery.segments(&chain)?;
    // Row 13. What ready files testify.
    for ready in files.values().filter_map(|f| f.ready) {
        if ready.prev_seq > chain.segments.last().map_or(0, |last| last.seq) {
            if !files.contains_key(&ready.prev_seq) {
                return Err(missing(recovery.disk, ready.prev_seq));
            }
            let bare = &files[&ready.prev_seq];
            let durable = ready.first_lsn.saturating_sub(1);
            return Err(headless(recovery.disk, bare, ready.first_lsn, durable));
        }
        recovery.durable = recovery.durable.max(ready.first_lsn.saturating_sub(1));
    }
    // Row 15. It may have been the newest segment.
    let newest = chain.segments.last().map_or(0, |last| last.seq);
    let mut later = files.range(newest + 1..).map(|(_, found)| found);
    if let Some(emptied) = later.find(|found| found.is_emptied()) {
        let lsn = recovery.end.lsn.saturating_add(1);
        return Err(headless(recovery.disk, emptied, lsn, recovery.durable));
    }
    recovery.last(&chain, &files)?;
    recovery.replaying().settle();
    recovery.replaying().miss();
    if let Some((expect, bad)) = recovery.unmarked.take()
        && let Some(file) = chain.files.first()
    {
        return Err(recovery.corrupt(*file, expect, &bad, None)?);
    }
    let Recovery {
        groups,
        mut end,
        mut report,
        durable,
        suspects,
        ..
    } = recovery;
    if chain.before >= end.low_seq.max(1) {
        return Err(missing(disk, chain.before)); // row 9
    }
    // Where the marks that let older segments go cannot be read, these are needed again.
    end.low_seq = end.low_seq.min(end.marked_seq);
    // And where the log itself does not bear out that older ones may go, they stay. (Fuzz, seed 1, case
    // 35616: a forged low mark took the segment with a hole away, and with it the knowledge of the hole.)
    end.low_seq = groups
        .oldest()
        .map_or(end.low_seq, |oldest| end.low_seq.min(oldest));
    for found in files.values().filter(|f| !f.is_whole()) {
        report.healed.push(Healed {
            file: disk.path().join(segment::name(found.file.seq)),
            offset: found.file.bytes.min(found.said),
            what: format!(
                "the file has {} bytes and was made with {}; no batch lay there",
                found.file.bytes, found.said
            ),
            mendable: false,
        });
    }
    for found in files.values().filter(|f| f.copies == 1) {
        report.healed.push(Healed {
            file: disk.path().join(segment::name(found.file.seq)),
            offset: 0,
            what: "one of the two copies of the segment header".into(),
            mendable: true,
        });
    }
    report.segments = chain.segments.len();
    report.last_lsn = end.lsn;
    report.durable_lsn = durable;
    report.damaged = damaged(&groups, disk);
    report.nameless = suspects.nameless.map(|place| Damage {
        group: 0,
        first: 1,
        last: Damage::NO_END,
        file: disk.path().join(segment::name(place.seq)),
        offset: place.offset,
        lsn: place.lsn,
    });
    Ok(Judgement {
        groups,
        files,
        chain,
        end,
        report,
    })
}

/// The holes in the groups' logs.
pub(crate) fn damaged(groups: &Groups, disk: &dyn Disk) -> Vec<Damage> {
    let damage = |(group, run): (_, &crate::groups::Run)| Damage {
        group,
        first: run.first,
        last: run.last,
        file: disk.path().join(segment::name(run.seq)),
        offset: run.offset(),
        lsn: run.lsn,
    };
    groups.lost().map(damage).collect()
}

/// Where the log ends in the `at`-th segment of the chain: what the next one says, or the file's end.
fn limit(chain: &Chain, at: usize) -> u64 {
    let next = chain.segments.get(at + 1);
    next.map_or(chain.sizes[at], |next| next.prev_end.min(chain.sizes[at]))
}

fn bytes_total(chain: &Chain) -> u64 {
    let log = |at| limit(chain, at).saturating_sub(DATA_AT);
    (0..chain.segments.len()).map(log).sum()
}

/// Begin to read what will be replayed, where the disk gives its files to threads.
fn read_ahead(disk: &dyn Disk, chain: &Chain) -> Option<Ahead> {
    let spans: Option<Vec<Span>> = chain
        .files
        .iter()
        .enumerate()
        .map(|(at, file)| {
            // One block more than the log: a footer, where there is one.
            let to = (limit(chain, at) + BLOCK_BYTES as u64)
                .min(chain.sizes[at])
                .min(chain.file_ends[at]);
            let reader = disk.reader(*file)?;
            Some(Span {
                file: *file,
                reader,
                from: DATA_AT,
                to,
            })
        })
        .collect();
    Ahead::start(spans.filter(|spans| !spans.is_empty())?)
}

struct Recovery<'a> {
    uuid: u128,
    disk: &'a mut dyn Disk,
    ahead: Option<Ahead>,
    replay: &'a mut dyn Replay,
    touches: Touches,
    groups: Groups,
    suspects: suspects::Suspects,
    /// The last segment with a bridge in it.
    bridged: u64,
    /// Highest batch known durable.
    durable: Lsn,
    end: End,
    /// The oldest segment of the chain, if others were before it.
    after_purged: Option<u64>,
    /// What is wrong with the first batch of that segment, until a later segment has repeated what it
    /// says of every group.
    unmarked: Option<(Expect, Bad)>,
    /// Blocks that the disk could not read.
    unreadable: BTreeSet<(FileId, u64)>,
    bytes_total: u64,
    bytes_told: u64,
    report: OpenReport,
}
