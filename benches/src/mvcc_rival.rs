//! What the store is measured against: std's ordered map with a vector of versions per key.
//!
//! Promises: the plainest code that keeps every version and can read each, with the cheapest call of
//! std for each job (one lookup per put, no key allocated for a key that is there). It does less than
//! the store: no create revision, version number, lease, revision log or watcher. So a ratio against
//! it is a bound from below. It is given the store's chance as well, to look the next few keys up before
//! it puts them; whichever manner is faster for it counts. (Looking up ahead is the slower one, by a tenth
//! to a sixth at a million keys and at ten: its look-ups are chains of waits that do not overlap.)
//! Must never know: how the store works. Tested below, and by every phase comparing its answers.

use std::collections::BTreeMap;
use std::ops::Bound;

/// The map and its revision.
#[derive(Debug)]
pub struct Rival {
    map: BTreeMap<Vec<u8>, Vec<(u64, Vec<u8>)>>,
    revision: u64,
}

impl Default for Rival {
    /// Empty, at revision 1, as the store begins.
    fn default() -> Self {
        Rival {
            map: BTreeMap::new(),
            revision: 1,
        }
    }
}

/// An owned pair, as a caller gets it: key, revision, value.
pub type Pair = (Vec<u8>, u64, Vec<u8>);

impl Rival {
    /// Writes a key that is not there.
    pub fn insert(&mut self, key: &[u8], value: &[u8]) {
        self.revision += 1;
        let versions = self.map.entry(key.to_vec()).or_default();
        versions.push((self.revision, value.to_vec()));
    }

    /// Writes a key that is probably there.
    pub fn overwrite(&mut self, key: &[u8], value: &[u8]) {
        match self.map.get_mut(key) {
            Some(versions) => {
                self.revision += 1;
                versions.push((self.revision, value.to_vec()));
            }
            None => self.insert(key, value),
        }
    }

    /// Looks up keys that will be put next; how many are there.
    pub fn look_up(&self, keys: &[&[u8]]) -> usize {
        keys.iter()
            .filter(|key| self.map.contains_key(**key))
            .count()
    }

    /// The newest version of a key.
    pub fn get(&self, key: &[u8]) -> Option<Pair> {
        let (revision, value) = self.map.get(key)?.last()?;
        Some((key.to_vec(), *revision, value.clone()))
    }

    /// The newest version of each key from `start` up to `end`, at most `limit`.
    pub fn range(&self, start: &[u8], end: Option<&[u8]>, limit: usize) -> Vec<Pair> {
        let end = end.map_or(Bound::Unbounded, Bound::Excluded);
        let within = self.map.range::<[u8], _>((Bound::Included(start), end));
        let newest = within.filter_map(|(key, versions)| {
            let (revision, value) = versions.last()?;
            Some((key.clone(), *revision, value.clone()))
        });
        newest.take(limit).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_versions_and_reads_the_newest() {
        let mut rival = Rival::default();
        rival.insert(b"a", b"1");
        rival.overwrite(b"b", b"2");
        rival.overwrite(b"a", b"3");
        assert_eq!(rival.get(b"a"), Some((b"a".to_vec(), 4, b"3".to_vec())));
        assert_eq!(rival.look_up(&[b"b", b"c", b"a"]), 2);
        assert_eq!(rival.range(b"a", None, 1).len(), 1);
        assert_eq!(rival.range(b"a", Some(b"b"), 5).len(), 1);
        assert_eq!(rival.range(b"a", None, 5)[1].1, 3);
    }
}
