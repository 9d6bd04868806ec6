//! Versions of a key that nobody can read any more: cut out of its chain at once, removed bit by bit.
//!
//! A key that changed a million times has a million versions to lose. To walk to each of them from
//! the versions that stay would cost more the more of them there are, so all that lie between two
//! revisions which somebody reads are cut out at the first of their changes that compaction comes by: that
//! takes a short walk, from a waypoint. What was cut out hangs on nothing, and [`Keys::bury`] removes it in
//! slices. At the other changes it is enough to see that the key is through, for which a key with a long
//! walk keeps a waypoint where it ended. So a version costs one look to remove, however many there are.
//! Knows no more of a key than its chain. Tested with [`super::Keys`].

use super::{KeyId, Keys, Waypoint};
use crate::arena::Loc;
use crate::keys::summary::{HAS_WAYPOINTS, HELD, Summary};
use crate::pins::Span;

/// No older version is needed.
const FLOOR_NONE: i64 = i64::MIN;

/// A walk to the oldest version that stays which is longer than this is not made for every change of
/// the key: its end becomes a waypoint, of 16 bytes beside at least so many versions.
const WALK_MAX: usize = 4;

/// A chain of versions that nothing leads to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Doomed {
    next: Loc,
    /// The first that stays.
    until: Option<Loc>,
}

/// The revisions at which keys are read: of each version that is the newest at one of them, all has to stay.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Needs<'a> {
    /// From here on everything can be read; this is the compact revision.
    pub from: i64,
    /// What open cursors read of the time before: ascending and disjoint.
    pub spans: &'a [Span],
}

impl Needs<'_> {
    /// The newest span that begins at or before a revision.
    fn upto(&self, revision: i64) -> Option<Span> {
        let count = self.spans.partition_point(|span| span.first <= revision);
        count.checked_sub(1).map(|at| self.spans[at])
    }

    /// Is a change of this revision itself to be seen, be it a delete?
    fn shows(&self, main: i64) -> bool {
        main >= self.from || self.upto(main).is_some_and(|span| span.last >= main)
    }
}

/// What [`Keys::cut`] came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cut {
    /// Versions looked at.
    pub looked_at: usize,
    /// There may be more to cut out, once this is buried; the rest is not known before.
    pub more: bool,
    /// Something stays for open cursors only.
    pub held: bool,
    /// What is left is a delete that nobody needs to know of.
    pub dead: bool,
}

/// Changes of a key in one revision, which go or stay together.
#[derive(Clone, Copy, Debug)]
struct Group {
    main: i64,
    /// The newest of them, and what it says.
    first: Loc,
    is_tombstone: bool,
    /// The oldest.
    last: Loc,
    /// The version before.
    next: Option<Loc>,
}

impl Keys {
    /// Cuts out versions of a key that nobody needs; nothing may be left to [`Keys::bury`] of another.
    /// `change`: the revision of the change for which this is asked, if it is. The newest version stays,
    /// tombstone or not.
    pub fn cut(&mut self, id: KeyId, change: Option<i64>, needs: Needs<'_>) -> Cut {
        debug_assert!(self.doomed.is_none());
        let mut cut = Cut {
            looked_at: 1,
            ..Cut::default()
        };
        if change.is_some_and(|main| self.is_through(id, main)) {
            return cut;
        }
        let start = self.walk_from(id, |waypoint| waypoint.main > needs.from);
        let (mut above, base) = self.walk(id, None, start, needs.from, &mut cut.looked_at);
        let Some(base) = self.group(base, &mut cut.looked_at) else {
            return cut;
        };
        if base.main > needs.from {
            return cut;
        }
        let mut oldest = base;
        while let Some(next) = oldest.next
            && let Some(main) = self.main(next)
        {
            let span = needs.upto(oldest.main - 1);
            if let Some(span) = span.filter(|span| span.last >= main) {
                // Between its ends a span needs everything.
                let newer = Some(oldest.last);
                let found = self.walk(id, newer, next, span.first, &mut cut.looked_at);
                let Some(group) = self.group(found.1, &mut cut.looked_at) else {
                    break;
                };
                (above, oldest) = (found.0, group);
                continue;
            }
            if span.is_none() && oldest.is_tombstone && !needs.shows(oldest.main) {
                // The tombstone goes as well.
                break;
            }
            let floor = span.map_or(FLOOR_NONE, |span| span.last);
            let until = span.and_then(|_| {
                let (_, loc) = self.walk(id, None, next, floor, &mut cut.looked_at);
                self.main(loc).filter(|&main| main <= floor).map(|_| loc)
            });
            self.cut_out(id, oldest.last, next, until, (floor, oldest.main));
            oldest.next = until;
            // Once that is gone a tombstone that it needed may go.
            cut.more = until.is_some() || oldest.is_tombstone && !needs.shows(oldest.main);
            break;
        }
        let mut is_base = oldest.main == base.main;
        if oldest.is_tombstone && !cut.more && !needs.shows(oldest.main) {
            match (above, oldest.next) {
                (Some(above), _) => {
                    let main = oldest.main.saturating_add(1);
                    self.cut_out(id, above, oldest.first, None, (FLOOR_NONE, main));
                    // What is the oldest now may be a tombstone too.
                    cut.more = !is_base;
                    return cut;
                }
                (None, next) => {
                    if let Some(next) = next {
                        self.cut_out(id, oldest.last, next, None, (FLOOR_NONE, oldest.main));
                    }
                    cut.dead = true;
                    is_base = true;
                }
            }
        }
        let is_hidden = base.is_tombstone && base.main < needs.from && !cut.dead;
        cut.held = !is_base || is_hidden;
        if cut.looked_at > WALK_MAX && !cut.dead {
            self.note(id, base.last, base.main);
        }
        cut
    }

    /// Removes up to `budget` of the versions cut out; returns what is left of the budget.
    pub fn bury(&mut self, budget: usize) -> usize {
        let mut left = budget;
        while left > 0
            && let Some(Doomed { next, until }) = self.doomed
        {
            let before = self.arena.kill(next);
            self.versions -= 1;
            left -= 1;
            self.doomed = before
                .filter(|_| before != until)
                .map(|next| Doomed { next, until });
        }
        left
    }

    /// Would [`Keys::bury`] do something?
    pub fn has_to_bury(&self) -> bool {
        self.doomed.is_some()
    }

    /// Is it noted that something of the key stays for open cursors only?
    pub fn is_held(&self, id: KeyId) -> bool {
        self.head(id).1.has(HELD)
    }

    /// Notes it, or that it is so no more.
    pub fn set_held(&mut self, id: KeyId, is_held: bool) {
        let (loc, summary) = self.head(id);
        let bits = if is_held {
            summary.0 | HELD
        } else {
            summary.0 & !HELD
        };
        self.set_head(id, loc, Summary(bits));
    }

    /// Was the change of a key at revision `main` cut out already, with all that it hid and nobody needs? Not
    /// always known; not said of the oldest version's own revision, as it may be a tombstone that goes now.
    fn is_through(&self, id: KeyId, main: i64) -> bool {
        let newer = self
            .waypoints_of(id)
            .and_then(|all| all.get(all.partition_point(|waypoint| waypoint.main <= main)));
        newer
            .and_then(|waypoint| self.arena.get(waypoint.loc))
            .is_some_and(|record| {
                let before = record.before.and_then(|before| self.main(before));
                before.is_none_or(|before| before < main)
            })
    }

    fn main(&self, loc: Loc) -> Option<i64> {
        self.arena.get(loc).map(|record| record.main)
    }

    /// The newest version at or before `main` from a version on, else the oldest of all; with the one above.
    fn walk(
        &self,
        id: KeyId,
        mut above: Option<Loc>,
        from: Loc,
        main: i64,
        looked_at: &mut usize,
    ) -> (Option<Loc>, Loc) {
        let mut at = from;
        if self.main(from).is_some_and(|from| from > main) {
            let nearer = self.walk_from(id, |waypoint| waypoint.main > main);
            if self.main(nearer) < self.main(from) {
                at = nearer;
            }
        }
        while let Some(record) = self.arena.get(at)
            && record.main > main
            && let Some(before) = record.before
        {
            (above, at) = (Some(at), before);
            *looked_at += 1;
        }
        (above, at)
    }

    /// The changes of a revision, of which this is the newest.
    fn group(&self, first: Loc, looked_at: &mut usize) -> Option<Group> {
        let record = self.arena.get(first)?;
        let mut group = Group {
            main: record.main,
            first,
            is_tombstone: record.version().is_some_and(|version| version.tombstone),
            last: first,
            next: record.before,
        };
        while let Some(older) = group.next
            && let Some(record) = self.arena.get(older)
        {
            *looked_at += 1;
            if record.main < group.main {
                break;
            }
            (group.last, group.next) = (older, record.before);
        }
        Some(group)
    }

    /// Cuts a chain behind `last`: `next` and what is older than it goes, down to `until`. The waypoints
    /// between these two revisions go with it.
    fn cut_out(
        &mut self,
        id: KeyId,
        last: Loc,
        next: Loc,
        until: Option<Loc>,
        (floor, main): (i64, i64),
    ) {
        self.arena.set_before(last, until);
        self.doomed = Some(Doomed { next, until });
        self.drop_waypoints(id, floor, main);
    }

    /// Drops waypoints behind `floor` and before `main`.
    fn drop_waypoints(&mut self, id: KeyId, floor: i64, main: i64) {
        let (loc, summary) = self.head(id);
        if !summary.has(HAS_WAYPOINTS) {
            return;
        }
        let Some(waypoints) = self.waypoints.get_mut(&id) else {
            return;
        };
        let first = waypoints.partition_point(|waypoint| waypoint.main <= floor);
        let end = waypoints.partition_point(|waypoint| waypoint.main < main);
        self.waypoint_count -= waypoints.drain(first..end.max(first)).len();
        if waypoints.is_empty() {
            self.waypoints.remove(&id);
            self.set_head(id, loc, Summary(summary.0 & !HAS_WAYPOINTS));
        }
    }

    /// Makes a version a waypoint: the oldest of its revision.
    fn note(&mut self, id: KeyId, loc: Loc, main: i64) {
        let waypoints = self.waypoints.entry(id).or_default();
        let at = waypoints.partition_point(|waypoint| waypoint.main < main);
        if waypoints.get(at).is_none_or(|found| found.loc != loc) {
            waypoints.insert(at, Waypoint { main, loc });
            self.waypoint_count += 1;
        }
        let (newest, summary) = self.head(id);
        self.set_head(id, newest, Summary(summary.0 | HAS_WAYPOINTS));
    }
}
