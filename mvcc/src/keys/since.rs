//! The versions of a key from a revision on, oldest first, although chains run the other way. Knows no
//! more of a key than its waypoints and its newest version. Tested with [`super::Keys`].

use std::collections::VecDeque;

use super::{KeyId, Keys, Waypoint};
use crate::arena::Loc;
use crate::version::Version;

impl Keys {
    /// All versions with a main revision of at least `from`, oldest first.
    pub fn since(&self, id: KeyId, from: i64) -> Since<'_> {
        let waypoints = self.waypoints_of(id);
        let next = waypoints.map_or(0, |all| {
            all.partition_point(|waypoint| waypoint.main < from)
        });
        let mut since = Since {
            keys: self,
            waypoints,
            next,
            newest: Some(self.head(id).0),
            from,
            older: Vec::new(),
            first: None,
        };
        since.fill();
        since
    }
}

/// Versions of a key, oldest first: chains run the other way, so a stretch between two waypoints is
/// walked first and then given out from its end.
#[derive(Debug)]
pub(crate) struct Since<'a> {
    keys: &'a Keys,
    waypoints: Option<&'a VecDeque<Waypoint>>,
    /// The waypoint that ends the next stretch.
    next: usize,
    /// The end of the last stretch; taken once that is begun.
    newest: Option<Loc>,
    from: i64,
    /// What is left of this stretch, but for its end.
    older: Vec<Loc>,
    /// Its end.
    first: Option<Loc>,
}

impl Since<'_> {
    /// Begins the next stretch.
    fn fill(&mut self) {
        let waypoint_at = |at: usize| Some(self.waypoints?.get(at)?.loc);
        let stop = self.next.checked_sub(1).and_then(waypoint_at);
        let end = match waypoint_at(self.next) {
            Some(loc) => loc,
            None => match self.newest.take() {
                // The newest version may be a waypoint itself, and done with.
                Some(loc) if Some(loc) != stop => loc,
                _ => return,
            },
        };
        self.next += 1;
        let record_at = |loc| {
            self.keys
                .arena
                .get(loc)
                .filter(|record| record.main >= self.from)
        };
        let Some(mut record) = record_at(end) else {
            return;
        };
        self.first = Some(end);
        while let Some(before) = record.before.filter(|&loc| Some(loc) != stop) {
            match record_at(before) {
                Some(older) => record = older,
                None => break,
            }
            self.older.push(before);
        }
    }
}

impl<'a> Iterator for Since<'a> {
    type Item = Version<'a>;

    fn next(&mut self) -> Option<Version<'a>> {
        let loc = match self.older.pop() {
            Some(loc) => loc,
            None => {
                let loc = self.first.take()?;
                self.fill();
                loc
            }
        };
        self.keys.arena.get(loc)?.version()
    }
}
