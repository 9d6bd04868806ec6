//! Progress by node id, in rising order of ids.
//!
//! Promises: iteration order is the order of ids, always. A sorted vector, because groups have a
//! handful of members and every append walks all of them.
//! Must never know: which member is this node.
//! Tests: through `membership` and the transcripts.

use std::fmt;

use crate::progress::Progress;

/// The progress of every member.
#[derive(Clone, Debug, Default)]
pub struct ProgressMap(Vec<(u64, Progress)>);

impl ProgressMap {
    /// The progress of `id`, if it is a member.
    pub fn get(&self, id: u64) -> Option<&Progress> {
        self.position(id).ok().map(|position| &self.0[position].1)
    }

    /// The progress of `id`, if it is a member.
    pub fn get_mut(&mut self, id: u64) -> Option<&mut Progress> {
        self.position(id)
            .ok()
            .map(|position| &mut self.0[position].1)
    }

    /// Adds or replaces the progress of `id`.
    pub fn insert(&mut self, id: u64, progress: Progress) {
        match self.position(id) {
            Ok(position) => self.0[position].1 = progress,
            Err(position) => self.0.insert(position, (id, progress)),
        }
    }

    /// Forgets `id`.
    pub fn remove(&mut self, id: u64) {
        if let Ok(position) = self.position(id) {
            self.0.remove(position);
        }
    }

    /// How many members there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The id at this position of the order.
    pub fn id_at(&self, position: usize) -> Option<u64> {
        self.0.get(position).map(|(id, _)| *id)
    }

    /// All members, in order.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &Progress)> {
        self.0.iter().map(|(id, progress)| (*id, progress))
    }

    /// All members, in order.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (u64, &mut Progress)> {
        self.0.iter_mut().map(|(id, progress)| (*id, progress))
    }

    fn position(&self, id: u64) -> Result<usize, usize> {
        self.0.binary_search_by_key(&id, |(id, _)| *id)
    }
}

impl fmt::Display for ProgressMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.iter()
            .try_for_each(|(id, progress)| writeln!(f, "{id}: {progress}"))
    }
}
