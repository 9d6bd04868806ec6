//! Behind a bridge: which groups may have had entries in the batches that it stands for.
//!
//! A bridge is what a repair puts where batches cannot be read and nothing says whose they were. From then
//! on every group is suspect, until something behind it bears witness: a mark that says where the group
//! ends, or its next entries.
//!
//! | what is seen next of a group that ended at (B, T)        | verdict                              |
//! |-----------------------------------------------------------|--------------------------------------|
//! | a mark that ends it at (B, T)                             | whole                                |
//! | a mark that ends it behind B, in term T                   | lost: B + 1 up to that end           |
//! | a mark that ends it elsewhere                             | lost: floor + 1 up to that end       |
//! | entries from floor + 1 or below on                        | whole: they take the place of all    |
//! | entries from B + 1 or below on, of term T                 | whole                                |
//! | entries from f on, of term T                              | lost: B + 1 up to f - 1              |
//! | entries from f on, of another term                        | lost: floor + 1 up to f - 1          |
//! | a snapshot in its place, or its removal                   | whole                                |
//! | nothing of it in a batch that marks all groups            | it was removed in between            |
//! | nothing, up to where the log ended when it was repaired   | lost: floor + 1, and no end is known |
//!
//! *Floor*: what is committed or compacted; a group never replaces those, so what is there stays. Everything
//! after it may have been replaced in the hole, unless the same term says otherwise: one leader writes all
//! entries of a term and never replaces its own, so that an entry of term T follows those that are here.
//! What the log said after its repair is no witness. Tested with `tests/bridge.rs`.

use std::collections::BTreeMap;

use super::replay::Replaying;
use crate::batch::{BatchHeader, Mark};
use crate::groups::Place;
use crate::{Damage, GroupId, Lsn, Record};

/// Groups that may have lost something, and where.
#[derive(Debug, Default)]
pub(super) struct Suspects {
    all: BTreeMap<GroupId, Place>,
    /// Groups may have begun there of which nothing is known yet.
    unnamed: Option<Place>,
    /// They did, as nothing said otherwise.
    pub(super) nameless: Option<Place>,
    /// The last batch that may bear witness.
    known: Lsn,
    /// The last place where records cannot be read.
    pub(super) hole: Option<Place>,
}

/// The first thing that a batch says about a group's entries.
enum First {
    Entry(u64, u64),
    /// Whatever it had is void.
    Anew,
}

impl Suspects {
    fn is_quiet(&self) -> bool {
        self.all.is_empty() && self.unnamed.is_none()
    }
}

impl Replaying<'_> {
    /// From here on every group is suspect.
    pub(super) fn bridge(&mut self, header: &BatchHeader) {
        let place = Place::of(header);
        let known = match header.durable_lsn {
            // Not yet written: the whole log is as it was found.
            0 => Lsn::MAX,
            lsn => lsn,
        };
        let suspects = &mut *self.suspects;
        suspects.known = suspects.known.max(known);
        for id in self.groups.ids() {
            suspects.all.entry(id).or_insert(place);
        }
        suspects.unnamed.get_or_insert(place);
        suspects.hole = Some(place);
        self.groups
            .bar(header.seq, header.offset + u64::from(header.len));
        self.report.bytes += u64::from(header.len);
    }

    /// What a batch says of suspects, before it is applied. `records`: they can be read.
    pub(super) fn witness(&mut self, header: &BatchHeader, bytes: &[u8], records: bool) {
        if self.suspects.is_quiet() {
            return;
        }
        if header.lsn > self.suspects.known {
            return self.settle();
        }
        let mut said: BTreeMap<GroupId, (Option<First>, Option<Mark>)> = BTreeMap::new();
        let readable = header.records_of(bytes).flatten().filter(|_| records);
        for record in readable {
            let (group, first) = match record {
                Record::Entry {
                    group, index, term, ..
                } => (group, First::Entry(index, term)),
                Record::Restored { group, .. } | Record::Removed { group } => (group, First::Anew),
                Record::Compacted { .. } | Record::HardState { .. } => continue,
            };
            said.entry(group).or_default().0.get_or_insert(first);
        }
        let marks: Option<Vec<Mark>> = header.marks(bytes).map(Iterator::collect);
        for mark in marks.iter().flatten() {
            let (first, of) = said.entry(mark.group).or_default();
            if !records && mark.count > 0 {
                // Its entries are lost, but not where they began; their terms lie before the last.
                *first = Some(First::Entry(mark.first, mark.last_term));
            }
            *of = Some(*mark);
        }
        for (id, (first, mark)) in &said {
            let unknown = self.groups.get(*id).is_none();
            let place = match self.suspects.all.remove(id) {
                None => self.suspects.unnamed.filter(|_| unknown),
                place => place,
            };
            if let Some(place) = place {
                self.hear(*id, first.as_ref(), mark.as_ref(), place);
            }
        }
        if header.is_first() && marks.is_some() {
            for id in std::mem::take(&mut self.suspects.all).into_keys() {
                self.leave(id);
            }
            self.suspects.unnamed = None;
        }
    }

    /// One group, of which something is said.
    fn hear(&mut self, id: GroupId, first: Option<&First>, mark: Option<&Mark>, place: Place) {
        if mark.is_some_and(Mark::is_gone) {
            return;
        }
        let (last, term, floor) = self.standing(id);
        let floor = floor.max(mark.map_or(0, |mark| mark.compacted));
        match (first, mark) {
            (Some(First::Anew), _) => {}
            (Some(First::Entry(f, t)), _) => {
                let stays = if *t == term { floor.max(last) } else { floor };
                if *f > stays.saturating_add(1) {
                    self.lose(id, (stays + 1, *f - 1), *t, place);
                }
            }
            (None, Some(mark)) if (mark.last, mark.last_term) != (last, term) => {
                let follows = mark.last_term == term && mark.last > last;
                let stays = if follows { floor.max(last) } else { floor };
                let (first, count) = match mark.last > stays {
                    true => (stays + 1, 1),
                    false => (0, 0),
                };
                let ends = Mark {
                    first,
                    count,
                    ..*mark
                };
                self.lost_until(&ends, place);
            }
            (None, _) => {}
        }
    }

    /// Where a group ends, and up to where nothing can have been replaced.
    fn standing(&self, id: GroupId) -> (u64, u64, u64) {
        let stands = self.groups.get(id).map(|g| {
            let floor = g.compacted.max(g.hard.commit.min(g.last));
            (g.last, g.last_term, floor)
        });
        stands.unwrap_or_default()
    }

    /// No more is to be heard: who was not cleared may have lost something.
    pub(super) fn settle(&mut self) {
        for (id, place) in std::mem::take(&mut self.suspects.all) {
            let (_, term, floor) = self.standing(id);
            self.lose(id, (floor + 1, Damage::NO_END), term, place);
        }
        if let Some(place) = self.suspects.unnamed.take() {
            self.suspects.nameless.get_or_insert(place);
        }
    }

    /// All is replayed. What a purged segment held was said again before it went, or was compacted: where
    /// nothing says either, the batch that did lies in a hole. So what a hole has cost is also known where
    /// the segments before it, or before another one, are gone.
    pub(super) fn miss(&mut self) {
        let Some(place) = self.suspects.hole else {
            return;
        };
        for (id, first, last) in self.groups.miss(place) {
            self.replay.missing(id, first, last);
        }
    }

    fn lose(&mut self, id: GroupId, span: (u64, u64), term: u64, place: Place) {
        self.groups.lose_span(id, span, term, place);
        self.replay.lost(id, span.0, span.1);
    }
}
