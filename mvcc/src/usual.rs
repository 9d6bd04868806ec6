//! About how long things are that lie one behind the other: where the last byte of one is to be expected
//! before its length has been read. A guess, for loads ahead of need. Knows nothing of the things. Tested
//! at the end.

/// So many lengths count about as much as all before them.
const WEIGHT: usize = 16;

/// A running mean of lengths.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usual {
    /// The mean times [`WEIGHT`]: a mean in whole bytes would stop up to 15 bytes short.
    weighted: usize,
}

impl Usual {
    /// Takes in a length.
    pub fn note(&mut self, len: usize) {
        self.weighted -= self.weighted / WEIGHT;
        self.weighted += len;
    }

    /// Offset of the last byte of one of the usual length.
    pub fn last(self) -> usize {
        (self.weighted / WEIGHT).saturating_sub(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_lengths_are_met_exactly() {
        let mut usual = Usual::default();
        assert_eq!(usual.last(), 0);
        for len in [46, 1_000, 73, 1, 73] {
            (0..300).for_each(|_| usual.note(len));
            assert_eq!(usual.last(), len - 1);
        }
    }
}
