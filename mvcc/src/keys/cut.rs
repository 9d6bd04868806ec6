//! Versions of a key that nobody can read any more: cut out of its chain at once, removed bit by bit.
//!
//! A key that changed a million times has a million versions to lose. To walk to each of them from
//! the versions that stay would cost more the more of them there are, so all are cut out at the first
//! of their changes that compaction comes by: that takes a short walk, from a waypoint. What was cut
//! out hangs on nothing, and [`Keys::bury`] removes it in slices. At the other changes it is enough to
//! see that the key is through, for which a key with a long walk keeps a waypoint where it ended. So
//! a version costs one look to remove, however many there are.
//! Knows no more of a key than its chain. Tested with [`super::Keys`].

use super::{KeyId, Keys, Waypoint};
use crate::arena::Loc;
use crate::keys::summary::{HAS_WAYPOINTS, Summary};

/// No version is held for somebody who reads the past.
pub(crate) const FLOOR_NONE: i64 = i64::MIN;

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

/// What can be read of a key.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reach {
    /// Versions at or before this revision stay, whatever hides them.
    pub floor: i64,
    /// Of the others, those older than the newest at or before this revision go, and that one too if it
    /// is a tombstone older than this revision.
    pub at: i64,
}

impl Keys {
    /// Cuts out what cannot be read of a key, for its change at revision `main`; nothing may be left to
    /// [`Keys::bury`] of another. The newest version stays, tombstone or not. Returns how many versions
    /// were looked at.
    pub fn cut(&mut self, id: KeyId, main: i64, reach: Reach) -> usize {
        debug_assert!(self.doomed.is_none());
        if self.is_through(id, main) {
            return 1;
        }
        let mut above = None;
        let mut base = self.walk_from(id, |waypoint| waypoint.main > reach.at);
        let mut looked_at = 1;
        let found = loop {
            match self.arena.get(base) {
                Some(record) if record.main <= reach.at => break record,
                Some(record) => {
                    let Some(before) = record.before else {
                        return looked_at;
                    };
                    above = Some(base);
                    base = before;
                    looked_at += 1;
                }
                None => return looked_at,
            }
        };
        let newest_main = found.main;
        let is_past = newest_main < reach.at && reach.floor == FLOOR_NONE;
        let is_tombstone = found.version().is_some_and(|version| version.tombstone);
        if let Some(above) = above.filter(|_| is_past && is_tombstone) {
            self.cut_behind(id, above, Some(base), newest_main + 1, reach.floor);
            return looked_at;
        }
        // All changes of a revision go or stay together.
        let mut hidden = found.before;
        while let Some(older) = hidden
            && let Some(record) = self.arena.get(older)
        {
            looked_at += 1;
            if record.main < newest_main {
                break;
            }
            base = older;
            hidden = record.before;
        }
        looked_at += self.cut_behind(id, base, hidden, newest_main, reach.floor);
        if looked_at > WALK_MAX && reach.floor == FLOOR_NONE {
            self.note_oldest(id, base, newest_main);
        }
        looked_at
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

    /// Was all that revision `main` and those before it hide of a key cut out already? Not always known;
    /// not said of the oldest version's own revision, as it may be a tombstone that goes now.
    fn is_through(&self, id: KeyId, main: i64) -> bool {
        let oldest = self.waypoints_of(id).and_then(|all| all.front());
        oldest
            .filter(|waypoint| waypoint.main > main)
            .and_then(|waypoint| self.arena.get(waypoint.loc))
            .is_some_and(|record| record.before.is_none())
    }

    /// Cuts a chain behind `last`: `hidden` and what is older than it goes, down to the floor. `main`: the
    /// waypoints before it go. Returns how many versions were looked at.
    fn cut_behind(
        &mut self,
        id: KeyId,
        last: Loc,
        hidden: Option<Loc>,
        main: i64,
        floor: i64,
    ) -> usize {
        let is_held = |loc| {
            let record = self.arena.get(loc);
            record.is_none_or(|record| record.main <= floor)
        };
        let Some(next) = hidden.filter(|&loc| !is_held(loc)) else {
            return 1;
        };
        let (mut until, mut looked_at) = (None, 0);
        if floor != FLOOR_NONE {
            let mut newer = self.walk_from(id, |waypoint| waypoint.main > floor);
            loop {
                looked_at += 1;
                until = self.arena.get(newer).and_then(|record| record.before);
                match until.filter(|&loc| !is_held(loc)) {
                    Some(loc) => newer = loc,
                    None => break,
                }
            }
        }
        self.arena.set_before(last, until);
        self.doomed = Some(Doomed { next, until });
        self.drop_waypoints(id, floor, main);
        looked_at
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

    /// Makes the oldest version a waypoint.
    fn note_oldest(&mut self, id: KeyId, loc: Loc, main: i64) {
        let waypoints = self.waypoints.entry(id).or_default();
        if waypoints.front().is_none_or(|first| first.loc != loc) {
            waypoints.push_front(Waypoint { main, loc });
            self.waypoint_count += 1;
        }
        let (newest, summary) = self.head(id);
        self.set_head(id, newest, Summary(summary.0 | HAS_WAYPOINTS));
    }
}
