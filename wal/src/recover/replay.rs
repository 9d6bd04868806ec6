//! One batch, or what is left of one, into the groups and to the caller's replay.

use super::suspects::Suspects;
use crate::batch::{BatchHeader, Mark};
use crate::groups::{Groups, News, Place, Touches};
use crate::record::HardState;
use crate::{BatchInfo, GroupId, OpenReport, Record, Replay, mend};

/// Gives one batch after the other to the replay and to the groups.
pub(super) struct Replaying<'a> {
    pub(super) groups: &'a mut Groups,
    pub(super) suspects: &'a mut Suspects,
    pub(super) touches: &'a mut Touches,
    pub(super) replay: &'a mut dyn Replay,
    pub(super) report: &'a mut OpenReport,
}

impl Place {
    /// Where a batch lies.
    pub(super) fn of(header: &BatchHeader) -> Self {
        Self {
            lsn: header.lsn,
            seq: header.seq,
            offset: header.offset,
            len: header.len,
        }
    }
}

impl Replaying<'_> {
    /// A batch whose records are right.
    pub(super) fn batch(&mut self, header: &BatchHeader, bytes: &[u8], place: Place) {
        self.witness(header, bytes, true);
        self.announce(header);
        self.touches.clear();
        for record in header.records_of(bytes) {
            let Ok(record) = record else { break };
            self.touches.add(&record);
            self.replay.record(record);
            self.report.records += 1;
        }
        self.groups.apply(self.touches, place);
        if let Some(marks) = header.marks(bytes) {
            let marks: Vec<Mark> = marks.collect();
            self.marks(header, &marks);
        }
        self.report.batches += 1;
        self.report.bytes += u64::from(header.len);
    }

    /// What the marks know beyond the records is what purged segments held: in an intact log, only
    /// those of the first batch do. Behind a hole they also say what the hole did.
    fn marks(&mut self, header: &BatchHeader, marks: &[Mark]) {
        for mark in marks.iter().filter(|mark| !mark.is_gone()) {
            let news = self.groups.adopt(mark);
            self.tell(mark.group, news);
        }
        let holes = self.groups.lost().next().is_some();
        if holes && header.is_first() {
            self.only(marks);
        }
    }

    /// These are all groups that there are.
    fn only(&mut self, marks: &[Mark]) {
        for id in self.groups.ids() {
            if !marks.iter().any(|mark| mark.group == id) {
                self.leave(id);
            }
        }
    }

    /// A term and vote that only a mark says: who was told of them must not be told otherwise.
    pub(super) fn keep_vote(&mut self, mark: &Mark) {
        if let Some(HardState { term, vote, commit }) = self.groups.adopt_vote(mark) {
            self.replay.record(Record::HardState {
                group: mark.group,
                term,
                vote,
                commit,
            });
        }
    }

    /// A group is found to be gone.
    pub(super) fn leave(&mut self, group: GroupId) {
        self.groups.forget(group);
        self.replay.record(Record::Removed { group });
    }

    /// A batch of which only the marks are right.
    pub(super) fn lost(&mut self, header: &BatchHeader, bytes: &[u8], marks: &[Mark]) {
        self.witness(header, bytes, false);
        self.announce(header);
        self.suspects.hole = Some(Place::of(header));
        if self.replay.wants_doubtful()
            && let Some(area) = mend::mend(header, bytes, marks)
        {
            mend::each(header, &area, |record| self.replay.doubtful(record));
        }
        for mark in marks {
            if mark.is_gone() {
                self.leave(mark.group);
                continue;
            }
            let (restored, news) = self.groups.lose(mark, Place::of(header));
            self.told(mark, restored, news);
        }
        if header.is_first() {
            self.only(marks);
        }
        self.report.batches += 1;
        self.report.bytes += u64::from(header.len);
    }

    /// Batches of which only the end of a group is known.
    pub(super) fn lost_until(&mut self, mark: &Mark, place: Place) {
        let (restored, news) = self.groups.lose_until(mark, place);
        self.told(mark, restored, news);
    }

    fn told(&mut self, mark: &Mark, restored: bool, news: News) {
        let Mark {
            group,
            first,
            last,
            compacted: index,
            compacted_term: term,
            ..
        } = *mark;
        if restored {
            self.replay.record(Record::Restored { group, index, term });
        }
        if mark.count > 0 {
            self.replay.lost(group, first, last);
        }
        self.tell(group, news);
    }

    /// Pass on what a mark knew that no record had said.
    pub(super) fn tell(&mut self, group: GroupId, (hard, compacted): News) {
        if let Some(HardState { term, vote, commit }) = hard {
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

    fn announce(&mut self, header: &BatchHeader) {
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
    }
}
