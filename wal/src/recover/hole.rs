//! A hole of which the damaged place itself says nothing: a lost write, a zeroed or foreign block, a
//! batch that was one block long. Whose entries are missing follows from what lies around it.
//!
//! The footer of a sealed segment says of every group how many entries of it the segment holds and
//! what its state was at the end. A group of which as many were read, before and behind the hole, and
//! which ends in the same place, lost nothing. The others are damaged. One hole per segment (of any
//! number of batches that follow each other): with two, counts say too little, and the log is refused.

use std::collections::BTreeMap;

use super::Recovery;
use crate::batch::Mark;
use crate::disk::FileId;
use crate::groups::{Place, Touches};
use crate::scan::{Bad, Expect, Footer, Judged, Window};
use crate::segment::{self, DATA_AT, SegmentHeader};
use crate::{GroupId, Healed, Lsn, OpenError, Record};

/// What of a group lies behind a hole.
#[derive(Default)]
struct Behind {
    entries: u64,
    /// The first index there, and its term.
    first: Option<(u64, u64)>,
    last: u64,
    last_term: u64,
    removed: bool,
}

/// What lies behind a hole, up to the end of its segment.
struct Rest {
    groups: BTreeMap<GroupId, Behind>,
    /// The last batch and the checksum of its header.
    lsn: Lsn,
    crc: u32,
}

impl Recovery<'_> {
    /// The batch at `expect` is bad. Find the next good one, and whose entries the batches between held;
    /// go on behind the hole. `false`: that cannot be told.
    pub(super) fn gap(
        &mut self,
        file: FileId,
        expect: &Expect,
        successor: &SegmentHeader,
        size: u64,
    ) -> Result<bool, OpenError> {
        if self.bridged == expect.seq {
            return Ok(false); // what the footer counts is no more what there is
        }
        let next = self.look(file, |window| window.next_header(expect))?;
        // Where nothing follows, the hole reaches to the end that the next segment says.
        let from = next.map_or(
            Expect {
                offset: expect.limit,
                lsn: successor.first_lsn,
                prev: successor.prev,
                ..*expect
            },
            |next| Expect {
                offset: next.offset,
                lsn: next.lsn,
                prev: next.prev,
                ..*expect
            },
        );
        // The rest is read before anything is believed: the hole must be the only one.
        let Some(behind) = self.look(file, |window| rest(window, &from))? else {
            return Ok(false);
        };
        if from.lsn <= expect.lsn {
            return Ok(false);
        }
        let end = (self.end.lsn, self.end.crc);
        (self.end.lsn, self.end.crc) = (behind.lsn, behind.crc);
        let footer = self.footer(file, expect.limit, size)?;
        (self.end.lsn, self.end.crc) = end;
        let Footer {
            marks: Some(marks), ..
        } = footer
        else {
            return Ok(false);
        };
        let place = Place {
            lsn: expect.lsn,
            seq: expect.seq,
            offset: expect.offset,
            len: u32::try_from(from.offset - expect.offset).unwrap_or(u32::MAX),
        };
        if expect.offset == DATA_AT && self.after_purged == Some(expect.seq) {
            let what = "what purged segments held";
            self.unmarked = Some((*expect, Bad { what, known: None }));
        }
        self.suspects.hole = Some(place);
        self.attribute(&marks, &behind.groups, place);
        self.report.healed.push(Healed {
            file: self.disk.path().join(segment::name(expect.seq)),
            offset: expect.offset,
            what: format!(
                "batches {}..={}, but for entries that are named as lost",
                expect.lsn,
                from.lsn - 1
            ),
            mendable: false,
        });
        self.groups.bar(expect.seq, from.offset);
        self.end.offset = from.offset;
        self.end.lsn = from.lsn - 1;
        self.end.crc = from.prev;
        Ok(true)
    }

    fn attribute(&mut self, marks: &[Mark], behind: &BTreeMap<GroupId, Behind>, place: Place) {
        for mark in marks {
            self.attribute_one(mark, behind.get(&mark.group), place);
            // The batch with a vote may be gone, and have held no entry. (Not the commit index: what is there
            // yet may be replaced behind the hole, before it is committed.)
            self.replaying().keep_vote(mark);
        }
        for id in self.groups.ids() {
            let removed = behind.get(&id).is_some_and(|r| r.removed);
            if !removed && !marks.iter().any(|mark| mark.group == id) {
                self.replaying().leave(id);
            }
        }
    }

    fn attribute_one(&mut self, mark: &Mark, rest: Option<&Behind>, place: Place) {
        let entries = self
            .groups
            .count_in_segment(mark.group)
            .saturating_add(rest.map_or(0, |r| r.entries));
        let ours = self.groups.get(mark.group);
        let (last, term) = ours.map_or((0, 0), |g| (g.last, g.last_term));
        let ends = rest
            .filter(|r| r.entries > 0)
            .map_or((last, term), |r| (r.last, r.last_term));
        if entries == mark.count && ends == (mark.last, mark.last_term) {
            return;
        }
        // As behind a bridge (`suspects.rs`): what may have been replaced in the hole is doubtful, and
        // what is committed or follows in the same term is not.
        let committed = ours.map_or(0, |g| g.compacted.max(g.hard.commit.min(g.last)));
        let floor = committed.max(mark.compacted);
        let (until, then) = match rest.and_then(|r| r.first) {
            Some((index, term)) => (index.saturating_sub(1), term),
            None => (mark.last, mark.last_term),
        };
        let follows = then == term && until >= last;
        let stays = if follows { floor.max(last) } else { floor };
        if until > stays {
            self.groups
                .lose_span(mark.group, (stays + 1, until), then, place);
            self.replay.lost(mark.group, stays + 1, until);
        }
    }
}

/// Read the rest of a segment without replaying it. `None`: it is not whole either.
fn rest(window: &mut Window<'_>, from: &Expect) -> std::io::Result<Option<Rest>> {
    let mut expect = *from;
    let mut found = Rest {
        groups: BTreeMap::new(),
        lsn: from.lsn.saturating_sub(1),
        crc: from.prev,
    };
    let mut touches = Touches::default();
    while expect.offset < expect.limit {
        let Judged::Good {
            header, crc, bytes, ..
        } = window.batch(&expect, expect.limit)?
        else {
            return Ok(None);
        };
        touches.clear();
        for record in header.records_of(bytes).flatten() {
            match record {
                Record::Entry {
                    group, term, index, ..
                } => {
                    let behind = found.groups.entry(group).or_default();
                    behind.entries += 1;
                    behind.first.get_or_insert((index, term));
                    (behind.last, behind.last_term) = (index, term);
                    behind.removed = false;
                }
                Record::Removed { group } => {
                    let removed = Behind {
                        removed: true,
                        ..Behind::default()
                    };
                    found.groups.insert(group, removed);
                }
                // Its end is what the mark says; what it does is done when it is replayed.
                Record::Restored { group, index, term }
                | Record::Compacted { group, index, term } => {
                    let behind = found.groups.entry(group).or_default();
                    if matches!(record, Record::Restored { .. }) || behind.last < index {
                        (behind.last, behind.last_term) = (index, term);
                    }
                }
                Record::HardState { .. } => {}
            }
        }
        (found.lsn, found.crc) = (header.lsn, crc);
        expect.offset += u64::from(header.len);
        expect.lsn = header.lsn.saturating_add(1);
        expect.prev = crc;
    }
    Ok(Some(found))
}
