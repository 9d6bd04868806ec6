//! What the log knows of each group in memory: hard state, ends of its log, and near where its entries
//! lie: one *run* per group and segment, not one slot per entry or batch (`runs.rs` says how little).
//!
//! Updated in log order, by the same code when batches are sealed and when they are replayed. Counts
//! the runs that live in each segment, so that the oldest segment still needed is known at once.
//! Must never know: disks, bytes.

mod group;
mod runs;
mod touches;

use std::collections::BTreeMap;

use crate::batch::Mark;
use crate::record::HardState;
use crate::{GroupId, Lsn, Pin};

pub(crate) use group::{Group, Place};
use runs::Account;
pub(crate) use runs::{Run, Stretch};
use touches::Touch;
pub(crate) use touches::{Change, Touches};

/// What a mark knew that no record had said: a hard state, a compaction.
pub(crate) type News = (Option<HardState>, Option<(u64, u64)>);

/// Every group of the log.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    map: BTreeMap<GroupId, Group>,
    /// What lives in which segment.
    live: Account,
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
        self.live.oldest()
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

    /// The groups the last applied batch touched, also those that left with it.
    pub(crate) fn marks(&self) -> impl Iterator<Item = Mark> {
        let marked = |id: &GroupId| match self.map.get(id) {
            Some(group) => group.mark(*id, self.lsn),
            None => Mark::gone(*id),
        };
        self.touched.iter().map(marked)
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
        let lost = self.lose_until(mark, place);
        let group = self.map.entry(mark.group).or_default();
        group.segment.1 = group.segment.1.saturating_add(mark.count);
        lost
    }

    /// The same of batches of another segment, or of which nothing but this end is known.
    pub(crate) fn lose_until(&mut self, mark: &Mark, place: Place) -> (bool, News) {
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
        }
        let news = self.adopt(mark);
        let group = self.map.entry(mark.group).or_default();
        group.keep_until(mark.last, &mut self.live);
        // A mark never ends below its own compaction ([`Mark::is_sound`]).
        (group.last, group.last_term) = (mark.last, mark.last_term);
        (restored, news)
    }

    /// Entries `span.0..=span.1` of a group, and what it had after them, cannot be read. `term`: of the last
    /// one, as far as it is known.
    pub(crate) fn lose_span(&mut self, id: GroupId, span: (u64, u64), term: u64, place: Place) {
        let group = self.map.entry(id).or_default();
        group.lose(span.0, span.1, place, &mut self.live);
        if group.last == span.1 {
            group.last_term = term;
        }
    }

    /// What groups must have and have nowhere is lost: group, first and last entry.
    pub(crate) fn miss(&mut self, place: Place) -> Vec<(GroupId, u64, u64)> {
        let mut missing = Vec::new();
        for (id, group) in &mut self.map {
            let spans = group.miss(place, &mut self.live);
            missing.extend(spans.into_iter().map(|(first, last)| (*id, first, last)));
        }
        missing
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
            let old = group.runs.iter().take_while(|run| run.seq <= seq);
            Some(Pin {
                group: *id,
                index: old.last()?.last,
                bytes: group.runs.iter().map(|run| run.bytes).sum(),
            })
        };
        self.map.iter().filter_map(pin).collect()
    }

    /// Entries of the group are lost, or in a batch after `durable`.
    pub(crate) fn is_unfit(&self, id: GroupId, durable: Lsn) -> bool {
        self.map
            .get(&id)
            .is_some_and(|group| group.batch.0 > durable || group.runs.iter().any(|run| run.lost))
    }

    /// Runs that are lost, by group.
    pub(crate) fn lost(&self) -> impl Iterator<Item = (GroupId, &Run)> {
        self.map.iter().flat_map(|(id, group)| {
            let lost = group.runs.iter().filter(|run| run.lost);
            lost.map(move |run| (*id, run))
        })
    }

    /// The runs that hold entries `lo..=hi`, from the one with `lo` on.
    pub(crate) fn runs(&self, group: GroupId, lo: u64, hi: u64) -> impl Iterator<Item = &Run> {
        let runs = self.map.get(&group).map(|g| &g.runs);
        let skip = runs.map_or(0, |r| r.partition_point(|run| run.last < lo));
        runs.into_iter()
            .flat_map(move |r| r.iter().skip(skip))
            .take_while(move |run| run.first <= hi)
    }

    /// Bytes that it takes to know where the entries of all groups lie.
    pub(crate) fn index_bytes(&self) -> usize {
        self.live.bytes()
    }

    /// What lies before `offset` in a segment cannot be read from batch to batch.
    pub(crate) fn bar(&mut self, seq: u64, offset: u64) {
        self.live.bar(seq, offset);
    }

    /// For tests: other limits than those of the index.
    #[cfg(test)]
    pub(crate) fn limited(span_bytes: u64, spans_per_doubling: u32, spans_max: u32) -> Self {
        let mut groups = Self::default();
        groups.live.limits = Some((span_bytes, spans_per_doubling, spans_max));
        groups
    }

    #[cfg(test)]
    pub(crate) fn spans_max(&self) -> u32 {
        self.live.spans_max()
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

    fn spans_of(groups: &Groups, group: u64) -> Vec<(u64, u64, u64)> {
        let runs = groups.runs(group, 1, u64::MAX);
        runs.map(|r| (r.first, r.last, r.lsn)).collect()
    }

    fn spans(groups: &Groups, lo: u64, hi: u64) -> Vec<(u64, u64, u64)> {
        groups
            .runs(1, lo, hi)
            .map(|r| (r.first, r.last, r.lsn))
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
        assert_eq!(touches.len(), 65, "only what changes begins a new one");
        touches.clear();
        touches.entry(5, 1, 1, 1);
        assert_eq!(touches.len(), 1);
    }

    #[test]
    fn regression_turns_of_a_batch_in_other_orders_lose_no_entries() {
        // A record went into an earlier touch of its group although there was a later one: it was applied
        // before what came between, which then took its place.
        let mut g = Groups::default();
        batch(&mut g, 1, 1, |t| (1..=14).for_each(|i| t.entry(3, 1, i, 0)));
        batch(&mut g, 2, 2, |t| {
            for (group, index) in [(1, 1), (2, 1), (3, 15), (1, 2), (3, 16), (1, 3), (2, 2)] {
                t.entry(group, 1, index, 0);
            }
            t.entry(3, 1, 17, 0);
        });
        assert_eq!(spans_of(&g, 3), [(1, 14, 1), (15, 17, 2)]);
        assert_eq!(g.get(3).map(|group| group.last), Some(17));
        assert_eq!(g.oldest(), Some(1));
    }

    #[test]
    fn touches_in_any_order_do_what_the_records_do_one_by_one() {
        for seed in 0..2_000_u64 {
            let mut dice = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            let mut roll = |sides: u64| {
                dice ^= dice << 13;
                dice ^= dice >> 7;
                dice ^= dice << 17;
                dice % sides
            };
            let (mut together, mut single) = (Groups::default(), Groups::default());
            let mut last = [0_u64; 5];
            for lsn in 1..=4 {
                let mut records: Vec<(u64, Option<u64>)> = Vec::new();
                for _ in 0..roll(40) {
                    let group = roll(4) + 1;
                    let index = &mut last[group as usize];
                    if roll(8) == 0 && *index > 0 {
                        records.push((group, Some(*index - roll(2).min(*index - 1))));
                    } else {
                        *index += 1;
                        records.push((group, None));
                    }
                }
                // What each record does, by itself.
                let mut at = last;
                for (group, change) in &records {
                    at[*group as usize] -= u64::from(change.is_none());
                }
                let note = |touches: &mut Touches,
                            at: &mut [u64; 5],
                            record: &(u64, Option<u64>)| {
                    match *record {
                        (group, Some(index)) => touches.change(group, Change::Compacted(index, 1)),
                        (group, None) => {
                            at[group as usize] += 1;
                            touches.entry(group, 1, at[group as usize], 1);
                        }
                    }
                };
                let place = Place {
                    lsn,
                    seq: lsn,
                    offset: 4_096,
                    len: 4_096,
                };
                let (mut touches, mut here) = (Touches::default(), at);
                for record in &records {
                    note(&mut touches, &mut here, record);
                }
                together.apply(&touches, place);
                let mut here = at;
                for record in &records {
                    let mut touches = Touches::default();
                    note(&mut touches, &mut here, record);
                    single.apply(&touches, place);
                }
                for group in 1..=4 {
                    let of = |g: &Groups| g.get(group).map(|g| (g.last, g.compacted));
                    assert_eq!(of(&together), of(&single), "seed {seed}");
                    assert_eq!(
                        spans_of(&together, group),
                        spans_of(&single, group),
                        "seed {seed}"
                    );
                }
                assert_eq!(together.oldest(), single.oldest(), "seed {seed}");
            }
        }
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
