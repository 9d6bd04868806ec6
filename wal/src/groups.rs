//! What the log knows of each group in memory: hard state, ends of its log, and where its entries
//! lie: one *run* per group and batch, not one slot per entry.
//!
//! Updated in log order, by the same code when batches are sealed and when they are replayed. Counts
//! the runs that live in each segment, so that the oldest segment still needed is known at once.
//! Must never know: disks, bytes.

use std::collections::{BTreeMap, VecDeque};

use crate::batch::Mark;
use crate::record::HardState;
use crate::{GroupId, Lsn, Pin, Record};

/// Where a batch lies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) lsn: Lsn,
    pub(crate) seq: u64,
    pub(crate) offset: u64,
    /// Bytes to read for it: at least its length (before sealing only a bound is known).
    pub(crate) len: u32,
}

/// Consecutive entries of one group in one batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) first: u64,
    pub(crate) last: u64,
    /// Bytes of their payloads.
    pub(crate) bytes: u64,
    pub(crate) place: Place,
    /// They were acknowledged and cannot be read: the group is damaged until they are compacted or
    /// replaced.
    pub(crate) lost: bool,
}

/// What happened to the log of a group: at most one of these before the entries of a [`Touch`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Change {
    #[default]
    None,
    Compacted(u64, u64),
    Restored(u64, u64),
    Removed,
}

/// What some consecutive records of a batch do to one group: `change`, then `count` entries that
/// end at `last`, then `hard`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Touch {
    pub(crate) group: GroupId,
    change: Change,
    /// Smallest index among the entries.
    first: u64,
    last: u64,
    last_term: u64,
    count: u64,
    bytes: u64,
    hard: Option<HardState>,
}

/// What the records of a batch do, in their order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Touches {
    all: Vec<Touch>,
    /// The one that took the last record.
    at: usize,
    /// There are changes among them: then order between touches of a group matters.
    changes: bool,
}

impl Touches {
    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    pub(crate) fn clear(&mut self) {
        self.all.clear();
        self.at = 0;
        self.changes = false;
    }

    pub(crate) fn has(&self, group: GroupId) -> bool {
        self.all.iter().any(|touch| touch.group == group)
    }

    /// Note a record. Records of one group that follow each other share a touch.
    pub(crate) fn add(&mut self, record: &Record<'_>) {
        match *record {
            Record::Entry {
                group,
                term,
                index,
                payload,
                ..
            } => self.entry(group, term, index, payload.len()),
            Record::HardState {
                group,
                term,
                vote,
                commit,
            } => {
                self.hard(group, HardState { term, vote, commit });
            }
            Record::Compacted { group, index, term } => {
                self.change(group, Change::Compacted(index, term));
            }
            Record::Restored { group, index, term } => {
                self.change(group, Change::Restored(index, term));
            }
            Record::Removed { group } => self.change(group, Change::Removed),
        }
    }

    pub(crate) fn entry(&mut self, group: GroupId, term: u64, index: u64, bytes: usize) {
        let touch = self.touch(group);
        touch.first = if touch.count == 0 {
            index
        } else {
            touch.first.min(index)
        };
        (touch.last, touch.last_term) = (index, term);
        touch.count += 1;
        touch.bytes += bytes as u64;
    }

    pub(crate) fn hard(&mut self, group: GroupId, hard: HardState) {
        self.touch(group).hard = Some(hard);
    }

    pub(crate) fn change(&mut self, group: GroupId, change: Change) {
        self.changes = true;
        self.all.push(Touch {
            group,
            change,
            ..Touch::default()
        });
    }

    /// The touch that takes the next record of a group: the one of the last record, or the one after it
    /// (turns that share a batch visit the groups in the same order: 64 groups of 16 turns would
    /// otherwise be a thousand touches), or a new one.
    fn touch(&mut self, group: GroupId) -> &mut Touch {
        let is = |at: usize| self.all.get(at).is_some_and(|touch| touch.group == group);
        let last = self.all.len().saturating_sub(1);
        let next = if self.at >= last { 0 } else { self.at + 1 };
        if self.changes {
            self.at = last;
        }
        if !is(self.at) {
            self.at = if !self.changes && is(next) {
                next
            } else {
                self.all.push(Touch {
                    group,
                    ..Touch::default()
                });
                self.all.len() - 1
            };
        }
        &mut self.all[self.at]
    }
}

/// One group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Group {
    pub(crate) hard: HardState,
    pub(crate) last: u64,
    pub(crate) last_term: u64,
    pub(crate) compacted: u64,
    pub(crate) compacted_term: u64,
    /// In index order, without overlap.
    runs: VecDeque<Run>,
    /// Of the batch that touched it last: its number, smallest index and number of entries.
    batch: (Lsn, u64, u64),
    /// Of the segment being written: the same.
    segment: (u64, u64),
}

/// What a mark knew that no record had said: a hard state, a compaction.
pub(crate) type News = (Option<HardState>, Option<(u64, u64)>);

/// Every group of the log.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    map: BTreeMap<GroupId, Group>,
    /// Segment -> runs in it.
    live: BTreeMap<u64, u64>,
    /// The batch applied last, and the groups it touched.
    lsn: Lsn,
    touched: Vec<GroupId>,
}

impl Groups {
    pub(crate) fn len(&self) -> usize {
        self.map.len()
    }

    pub(crate) fn get(&self, group: GroupId) -> Option<&Group> {
        self.map.get(&group)
    }

    /// The oldest segment with entries that are still needed.
    pub(crate) fn oldest(&self) -> Option<u64> {
        self.live.first_key_value().map(|(seq, _)| *seq)
    }

    /// Apply what a batch does. Afterwards [`Groups::marks`] says what it left behind.
    pub(crate) fn apply(&mut self, touches: &Touches, place: Place) {
        self.lsn = place.lsn;
        self.touched.clear();
        for touch in &touches.all {
            self.touched.push(touch.group);
            self.apply_one(touch, place);
        }
        self.touched.sort_unstable();
        self.touched.dedup();
    }

    fn apply_one(&mut self, touch: &Touch, place: Place) {
        let live = &mut self.live;
        if touch.change == Change::Removed {
            if let Some(mut group) = self.map.remove(&touch.group) {
                group.keep_until(0, live);
            }
            if touch.count == 0 && touch.hard.is_none() {
                return;
            }
        }
        let group = self.map.entry(touch.group).or_default();
        match touch.change {
            Change::Compacted(index, term) => group.compact(index, term, live),
            Change::Restored(index, term) => {
                group.keep_until(0, live);
                group.compacted = 0;
                group.last = 0;
                // What this batch held before it is void.
                group.batch = (0, 0, 0);
                group.compact(index, term, live);
            }
            Change::None | Change::Removed => {}
        }
        if touch.count > 0 {
            group.append(touch, place, live);
        }
        if let Some(hard) = touch.hard {
            group.hard = hard;
        }
    }

    /// The groups the last applied batch touched.
    pub(crate) fn marks(&self) -> impl Iterator<Item = Mark> {
        let marked = |id: &GroupId| Some(self.map.get(id)?.mark(*id, self.lsn));
        self.touched.iter().filter_map(marked)
    }

    /// All groups, as after the last applied batch.
    pub(crate) fn all_marks(&self) -> impl Iterator<Item = Mark> {
        self.map.iter().map(|(id, g)| g.mark(*id, self.lsn))
    }

    /// All groups, with what the segment that ends here holds of them; begins a new segment.
    pub(crate) fn footer_marks(&mut self) -> Vec<Mark> {
        let lsn = self.lsn;
        let footer = |(id, g): (&GroupId, &mut Group)| {
            let (first, count) = std::mem::take(&mut g.segment);
            Mark {
                first,
                count,
                ..g.mark(*id, lsn)
            }
        };
        self.map.iter_mut().map(footer).collect()
    }

    /// Take over what a mark knows beyond the records seen (they were purged). Says what was new:
    /// a hard state, a compaction.
    pub(crate) fn adopt(&mut self, mark: &Mark) -> News {
        let group = self.map.entry(mark.group).or_default();
        let hard = (group.hard != mark.hard).then_some(mark.hard);
        group.hard = mark.hard;
        let compacted =
            (mark.compacted > group.compacted).then_some((mark.compacted, mark.compacted_term));
        if let Some((index, term)) = compacted {
            group.compact(index, term, &mut self.live);
        }
        if mark.last > group.last {
            (group.last, group.last_term) = (mark.last, mark.last_term);
        }
        (hard, compacted)
    }

    /// What a batch whose records are lost did, as far as its marks say: whether a snapshot took the
    /// place of the group's log; and what is new, as in `adopt`. The group ends as the mark says.
    pub(crate) fn lose(&mut self, mark: &Mark, place: Place) -> (bool, News) {
        let group = self.map.entry(mark.group).or_default();
        // Nothing else makes a log shorter without entries, or takes a compaction back.
        let restored =
            (mark.count == 0 && mark.last < group.last) || mark.compacted < group.compacted;
        if restored {
            group.keep_until(0, &mut self.live);
            group.compacted = 0;
            group.last = 0;
        }
        if mark.count > 0 {
            group.lose(mark.first, mark.last, place, &mut self.live);
            group.segment.1 = group.segment.1.saturating_add(mark.count);
        }
        let news = self.adopt(mark);
        let group = self.map.entry(mark.group).or_default();
        group.keep_until(mark.last, &mut self.live);
        // A mark never ends below its own compaction ([`Mark::is_sound`]).
        (group.last, group.last_term) = (mark.last, mark.last_term);
        (restored, news)
    }

    /// `missing` entries of a group, after its last one and before `before` (if given, else up to
    /// `last`), were in batches of which nothing can be read.
    pub(crate) fn lose_between(
        &mut self,
        id: GroupId,
        before: Option<u64>,
        last: u64,
        place: Place,
    ) {
        let group = self.map.entry(id).or_default();
        let until = before.map_or(last, |b| b.saturating_sub(1));
        // Where the span says nothing (what was lost had been replaced later) the last entry before
        // it is as doubtful as those lost: name that.
        let first = group
            .last
            .saturating_add(1)
            .min(until.max(group.compacted.saturating_add(1)));
        group.lose(first, until.max(first), place, &mut self.live);
    }

    /// Entries of a group in the segment being replayed.
    pub(crate) fn count_in_segment(&self, id: GroupId) -> u64 {
        self.map.get(&id).map_or(0, |group| group.segment.1)
    }

    /// A segment begins.
    pub(crate) fn begin_segment(&mut self) {
        for group in self.map.values_mut() {
            group.segment = (0, 0);
        }
    }

    /// Groups of the log.
    pub(crate) fn ids(&self) -> Vec<GroupId> {
        self.map.keys().copied().collect()
    }

    /// A group that is found to be gone.
    pub(crate) fn forget(&mut self, id: GroupId) {
        if let Some(mut group) = self.map.remove(&id) {
            group.keep_until(0, &mut self.live);
        }
    }

    /// A term and vote found in what is cut: whoever was told of them must not be told otherwise. Says
    /// whether they are newer than what is known.
    pub(crate) fn adopt_vote(&mut self, mark: &Mark) -> Option<HardState> {
        let ours = self
            .map
            .get(&mark.group)
            .map_or(HardState::default(), |g| g.hard);
        let theirs = mark.hard;
        let newer = theirs.term > ours.term
            || (theirs.term == ours.term && ours.vote == 0 && theirs.vote != 0);
        if !newer {
            return None;
        }
        let hard = HardState {
            commit: ours.commit,
            ..theirs
        };
        self.map.entry(mark.group).or_default().hard = hard;
        Some(hard)
    }

    /// The groups with entries in a segment or in older ones.
    pub(crate) fn pins(&self, seq: u64) -> Vec<Pin> {
        let pin = |(id, group): (&GroupId, &Group)| {
            let old = group.runs.iter().take_while(|run| run.place.seq <= seq);
            Some(Pin {
                group: *id,
                index: old.last()?.last,
                bytes: group.runs.iter().map(|run| run.bytes).sum(),
            })
        };
        self.map.iter().filter_map(pin).collect()
    }

    /// Some run of the group is such.
    pub(crate) fn any_run(&self, id: GroupId, f: impl Fn(&Run) -> bool) -> bool {
        self.map
            .get(&id)
            .is_some_and(|group| group.runs.iter().any(f))
    }

    /// Runs that are lost, by group.
    pub(crate) fn lost(&self) -> impl Iterator<Item = (GroupId, Run)> {
        let of = |(id, group): (&GroupId, &Group)| {
            let id = *id;
            let lost: Vec<_> = group.runs.iter().filter(|run| run.lost).copied().collect();
            lost.into_iter().map(move |run| (id, run))
        };
        self.map.iter().flat_map(of)
    }

    /// The runs that hold entries `lo..=hi`, from the one with `lo` on.
    pub(crate) fn runs(&self, group: GroupId, lo: u64, hi: u64) -> impl Iterator<Item = Run> {
        let runs = self.map.get(&group).map(|g| &g.runs);
        let skip = runs.map_or(0, |r| r.partition_point(|run| run.last < lo));
        runs.into_iter()
            .flat_map(move |r| r.iter().skip(skip))
            .take_while(move |run| run.first <= hi)
            .copied()
    }
}

impl Group {
    fn mark(&self, group: GroupId, lsn: Lsn) -> Mark {
        // What an earlier batch held is none of this one's.
        let (_, first, count) = if self.batch.0 == lsn {
            self.batch
        } else {
            (0, 0, 0)
        };
        Mark {
            group,
            hard: self.hard,
            first,
            last: self.last,
            last_term: self.last_term,
            compacted: self.compacted,
            compacted_term: self.compacted_term,
            count,
        }
    }

    fn compact(&mut self, index: u64, term: u64, live: &mut BTreeMap<u64, u64>) {
        if index < self.compacted {
            return;
        }
        (self.compacted, self.compacted_term) = (index, term);
        while let Some(run) = self.runs.front().filter(|run| run.last <= index) {
            release(live, run.place.seq);
            self.runs.pop_front();
        }
        if let Some(run) = self.runs.front_mut() {
            run.first = run.first.max(index.saturating_add(1));
        }
        if self.last <= index {
            (self.last, self.last_term) = (index, term);
        }
    }

    /// Entries `first..=last` were in a batch that cannot be read.
    fn lose(&mut self, first: u64, last: u64, place: Place, live: &mut BTreeMap<u64, u64>) {
        let first = first.max(self.compacted.saturating_add(1));
        if last < first {
            return;
        }
        self.keep_until(first.saturating_sub(1), live);
        *live.entry(place.seq).or_default() += 1;
        self.runs.push_back(Run {
            first,
            last,
            bytes: 0,
            place,
            lost: true,
        });
        self.last = last;
    }

    /// Forget entries after `index`.
    fn keep_until(&mut self, index: u64, live: &mut BTreeMap<u64, u64>) {
        while let Some(run) = self.runs.back().filter(|run| run.first > index) {
            release(live, run.place.seq);
            self.runs.pop_back();
        }
        if let Some(run) = self.runs.back_mut() {
            run.last = run.last.min(index);
        }
    }

    fn append(&mut self, touch: &Touch, place: Place, live: &mut BTreeMap<u64, u64>) {
        // Raft never replaces what is compacted (it is committed); replay ignores it, so do we.
        let first = touch.first.max(self.compacted.saturating_add(1));
        let last = touch.last;
        if last < first {
            return;
        }
        self.keep_until(first.saturating_sub(1), live);
        if let Some(run) = self
            .runs
            .back()
            .filter(|run| run.last.saturating_add(1) < first)
            .copied()
        {
            if self.runs.iter().any(|run| run.lost) {
                // What is missing went with what is known to be lost.
                self.lose(run.last + 1, first - 1, run.place, live);
            } else {
                // A gap: what lies before it was purged, and is compacted further on in the log.
                self.keep_until(0, live);
            }
        }
        match self.runs.back_mut() {
            Some(run) if run.place == place && !run.lost => {
                run.last = last;
                run.bytes += touch.bytes;
            }
            _ => {
                *live.entry(place.seq).or_default() += 1;
                self.runs.push_back(Run {
                    first,
                    last,
                    bytes: touch.bytes,
                    place,
                    lost: false,
                });
            }
        }
        (self.last, self.last_term) = (last, touch.last_term);
        if self.batch.0 != place.lsn {
            self.batch = (place.lsn, first, 0);
        }
        self.batch.1 = self.batch.1.min(first);
        self.batch.2 = self.batch.2.saturating_add(touch.count);
        self.segment.0 = if self.segment.1 == 0 {
            first
        } else {
            self.segment.0.min(first)
        };
        self.segment.1 = self.segment.1.saturating_add(touch.count);
    }
}

fn release(live: &mut BTreeMap<u64, u64>, seq: u64) {
    if let Some(count) = live.get_mut(&seq) {
        *count -= 1;
        if *count == 0 {
            live.remove(&seq);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(groups: &mut Groups, lsn: u64, seq: u64, f: impl Fn(&mut Touches)) {
        let mut touches = Touches::default();
        f(&mut touches);
        groups.apply(
            &touches,
            Place {
                lsn,
                seq,
                offset: lsn * 4096,
                len: 4096,
            },
        );
    }

    fn spans(groups: &Groups, lo: u64, hi: u64) -> Vec<(u64, u64, u64)> {
        groups
            .runs(1, lo, hi)
            .map(|r| (r.first, r.last, r.place.lsn))
            .collect()
    }

    #[test]
    fn a_rewritten_suffix_hides_the_older_one() {
        let mut g = Groups::default();
        batch(&mut g, 1, 1, |t| (1..=5).for_each(|i| t.entry(1, 1, i, 0)));
        batch(&mut g, 2, 1, |t| (6..=8).for_each(|i| t.entry(1, 1, i, 0)));
        batch(&mut g, 3, 2, |t| (4..=4).for_each(|i| t.entry(1, 2, i, 0)));
        assert_eq!(spans(&g, 1, 9), [(1, 3, 1), (4, 4, 3)]);
        assert_eq!(g.get(1).map(|g| (g.last, g.last_term)), Some((4, 2)));
        assert_eq!(spans(&g, 4, 4), [(4, 4, 3)]);
        assert_eq!(spans(&g, 5, 9), []);
    }

    #[test]
    fn turns_that_share_a_batch_share_touches() {
        let mut touches = Touches::default();
        for index in 1..=16 {
            (1..=64).for_each(|group| touches.entry(group, 1, index, 10));
        }
        assert_eq!(touches.len(), 64);
        touches.change(1, Change::Compacted(3, 1));
        touches.entry(2, 1, 17, 10);
        touches.entry(1, 1, 17, 10);
        touches.entry(1, 1, 18, 10);
        assert_eq!(
            touches.len(),
            67,
            "behind a change nothing is put before it"
        );
        touches.clear();
        touches.entry(5, 1, 1, 1);
        assert_eq!(touches.len(), 1);
    }

    #[test]
    fn segments_are_needed_as_long_as_a_run_lives_in_them() {
        let mut g = Groups::default();
        batch(&mut g, 1, 1, |t| (1..=2).for_each(|i| t.entry(1, 1, i, 0)));
        batch(&mut g, 2, 2, |t| (3..=4).for_each(|i| t.entry(1, 1, i, 0)));
        batch(&mut g, 3, 3, |t| t.entry(2, 1, 1, 0));
        assert_eq!(g.oldest(), Some(1));
        batch(&mut g, 4, 3, |t| t.change(1, Change::Compacted(2, 1)));
        assert_eq!(g.oldest(), Some(2));
        batch(&mut g, 5, 3, |t| t.change(1, Change::Compacted(3, 1)));
        assert_eq!((g.oldest(), spans(&g, 4, 4)), (Some(2), vec![(4, 4, 2)]));
        batch(&mut g, 6, 3, |t| t.change(1, Change::Restored(2, 2)));
        assert_eq!((g.oldest(), g.get(1).map(|g| g.last)), (Some(3), Some(2)));
        batch(&mut g, 7, 3, |t| t.change(2, Change::Removed));
        assert_eq!((g.oldest(), g.len()), (None, 1));
    }

    /// Fuzz, seed 2, case 139986: the group ended below its compaction, and its rewrite counted
    /// backwards.
    #[test]
    fn a_lost_batch_never_leaves_a_group_that_ends_below_its_compaction() {
        let place = Place {
            lsn: 3,
            seq: 1,
            ..Place::default()
        };
        let marks = [
            (0, 0, 4, 2),
            (1, 3, 4, 2),
            (1, 3, 4, 0),
            (2, 8, 9, 8),
            (2, 9, 7, 7),
        ];
        for (count, first, last, compacted) in marks {
            let mut g = Groups::default();
            batch(&mut g, 1, 1, |t| (1..=9).for_each(|i| t.entry(1, 1, i, 0)));
            batch(&mut g, 2, 1, |t| t.change(1, Change::Compacted(6, 1)));
            let mark = Mark {
                group: 1,
                count,
                first,
                last,
                compacted,
                ..Mark::default()
            };
            assert!(mark.is_sound());
            let (restored, _) = g.lose(&mark, place);
            assert_eq!(restored, compacted < 6);
            let group = g.get(1).expect("it was marked");
            assert_eq!((group.last, group.compacted), (last, compacted));
            assert!(group.runs.iter().all(|run| run.last <= last));
            assert!(group.runs.iter().all(|run| run.first > compacted));
        }
    }

    #[test]
    fn what_a_batch_held_before_a_snapshot_took_its_place_is_not_counted() {
        let mut g = Groups::default();
        batch(&mut g, 1, 1, |t| {
            (5..=8).for_each(|i| t.entry(1, 1, i, 0));
            t.change(1, Change::Restored(3, 1));
        });
        let mark = g.marks().next().expect("one group");
        assert_eq!((mark.first, mark.last, mark.count), (0, 3, 0));
    }

    #[test]
    fn marks_say_what_a_batch_and_a_segment_hold() {
        let mut g = Groups::default();
        let hard = HardState {
            term: 3,
            vote: 2,
            commit: 1,
        };
        batch(&mut g, 1, 1, |t| {
            t.entry(1, 3, 7, 0);
            t.entry(2, 1, 1, 0);
            t.entry(1, 3, 8, 0);
            t.hard(1, hard);
        });
        let marks: Vec<_> = g
            .marks()
            .map(|m| (m.group, m.first, m.last, m.count))
            .collect();
        assert_eq!(marks, [(1, 7, 8, 2), (2, 1, 1, 1)]);
        batch(&mut g, 2, 1, |t| t.hard(2, hard));
        let marks: Vec<_> = g
            .marks()
            .map(|m| (m.group, m.first, m.last, m.count))
            .collect();
        assert_eq!(marks, [(2, 0, 1, 0)]);
        let footer: Vec<_> = g
            .footer_marks()
            .iter()
            .map(|m| (m.group, m.first, m.count))
            .collect();
        assert_eq!(footer, [(1, 7, 2), (2, 1, 1)]);
        assert_eq!(g.footer_marks()[0].count, 0);
        assert_eq!(g.all_marks().map(|m| m.hard).next(), Some(hard));
    }
}
