//! A revision per shard: the position of a reader or a watcher over a whole engine.
//!
//! Shards count their revisions each for itself, so one number cannot say how far somebody has read. A
//! [`Revisions`] can: what is read at it twice is the same twice, and what is watched after it misses
//! nothing and repeats nothing.

use bytes::{Buf, Bytes, BytesMut};

/// One revision for each shard, in shard order; 0 where nothing is known. There are none below 0: those
/// count as 0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Revisions(Vec<i64>);

/// Bytes that are not an encoded [`Revisions`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a vector of revisions: {0}")]
pub struct RevisionsError(&'static str);

impl Revisions {
    /// Nothing known of so many shards.
    ///
    /// ```
    /// use henge::Revisions;
    ///
    /// assert_eq!(Revisions::unknown(3), [0, 0, 0].into_iter().collect());
    /// ```
    pub fn unknown(shards: usize) -> Self {
        Revisions(vec![0; shards])
    }

    /// Number of shards.
    ///
    /// ```
    /// assert_eq!(henge::Revisions::unknown(3).shards(), 3);
    /// ```
    pub fn shards(&self) -> usize {
        self.0.len()
    }

    /// The revision of a shard; 0 if nothing is known of it.
    ///
    /// ```
    /// let revisions: henge::Revisions = [4, 7].into_iter().collect();
    /// assert_eq!((revisions.get(1), revisions.get(9)), (7, 0));
    /// ```
    pub fn get(&self, shard: usize) -> i64 {
        self.0.get(shard).copied().unwrap_or(0)
    }

    /// A shard is at this revision at least.
    ///
    /// ```
    /// let mut revisions: henge::Revisions = [4, 7].into_iter().collect();
    /// revisions.advance(0, 9);
    /// revisions.advance(1, 2);
    /// assert_eq!(revisions, [9, 7].into_iter().collect());
    /// ```
    pub fn advance(&mut self, shard: usize, revision: i64) {
        if let Some(known) = self.0.get_mut(shard) {
            *known = revision.max(*known);
        }
    }

    /// Whether every shard is as far as in `other`, or farther.
    ///
    /// ```
    /// use henge::Revisions;
    ///
    /// let early: Revisions = [4, 7].into_iter().collect();
    /// let later: Revisions = [4, 8].into_iter().collect();
    /// assert!(later.covers(&early) && !early.covers(&later));
    /// ```
    pub fn covers(&self, other: &Revisions) -> bool {
        self.0.len() == other.0.len()
            && self
                .0
                .iter()
                .zip(&other.0)
                .all(|(ours, theirs)| ours >= theirs)
    }

    /// Bytes to keep it in: a count and the revisions, little-endian.
    ///
    /// ```
    /// let revisions: henge::Revisions = [4, 7].into_iter().collect();
    /// assert_eq!(henge::Revisions::decode(&revisions.encode()), Ok(revisions));
    /// ```
    pub fn encode(&self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(4 + 8 * self.0.len());
        let count = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        bytes.extend_from_slice(&count.to_le_bytes());
        for revision in &self.0 {
            bytes.extend_from_slice(&revision.to_le_bytes());
        }
        bytes.freeze()
    }

    /// Reads what [`Revisions::encode`] wrote.
    ///
    /// ```
    /// assert!(henge::Revisions::decode(b"something else").is_err());
    /// ```
    pub fn decode(mut bytes: &[u8]) -> Result<Self, RevisionsError> {
        if bytes.len() < 4 {
            return Err(RevisionsError("too short"));
        }
        let count = bytes.get_u32_le() as usize;
        if bytes.len() != 8 * count {
            return Err(RevisionsError("its length is not what it says"));
        }
        let revisions: Vec<_> = (0..count).map(|_| bytes.get_i64_le()).collect();
        match revisions.iter().all(|revision| *revision >= 0) {
            true => Ok(Revisions(revisions)),
            false => Err(RevisionsError("a revision is below 0")),
        }
    }
}

impl FromIterator<i64> for Revisions {
    fn from_iter<I: IntoIterator<Item = i64>>(revisions: I) -> Self {
        Revisions(revisions.into_iter().map(|known| known.max(0)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advances_and_never_goes_back() {
        let mut revisions = Revisions::unknown(3);
        revisions.advance(1, 7);
        revisions.advance(1, 5);
        revisions.advance(9, 1);
        assert_eq!(revisions, [0, 7, 0].into_iter().collect());
        assert!(revisions.covers(&Revisions::unknown(3)));
        assert!(!Revisions::unknown(3).covers(&revisions));
        assert!(!revisions.covers(&Revisions::unknown(2)));
    }

    #[test]
    fn what_is_encoded_is_decoded_and_nothing_else_is() {
        let revisions: Revisions = [1, i64::MAX, 0].into_iter().collect();
        let bytes = revisions.encode();
        assert_eq!(Revisions::decode(&bytes), Ok(revisions));
        for cut in 0..bytes.len() {
            assert!(Revisions::decode(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        let below = [1, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255];
        assert!(Revisions::decode(&below).is_err());
        assert_eq!(Revisions::from_iter([-1, 7]), Revisions::from_iter([0, 7]));
    }
}
