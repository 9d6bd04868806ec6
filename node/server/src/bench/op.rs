//! One operation: what a client asks, how it is made up, and what came of it.
//!
//! Promises: the same seed makes the same operations; a key of the keyspace is a letter and its number,
//! filled with zeros to the key size, so that their order is the numbers'. Must never know: what it runs
//! against, time.

use std::time::Instant;

use super::args::{BenchArgs, Work};

/// Keys of one `range` operation.
pub const RANGE_KEYS: i64 = 100;
/// The first letter of every key, and what comes behind all of them.
const LETTER: u8 = b'k';
pub const KEYS_END: &[u8] = b"l";

/// One operation of one client.
#[derive(Clone, Debug)]
pub enum Op {
    /// Write.
    Put { key: Vec<u8>, value: Vec<u8> },
    /// Read one key.
    Get { key: Vec<u8> },
    /// Read from a key on, to the end of the keyspace.
    Range { key: Vec<u8> },
    /// Write if the key's revision is as it must be.
    Txn { key: Vec<u8>, value: Vec<u8> },
    /// Write, until the client's watcher has seen it.
    Seen { key: Vec<u8>, value: Vec<u8> },
    /// Open a watcher and cancel it.
    Open { key: Vec<u8> },
}

/// What came of an operation that did not fail.
#[derive(Clone, Copy, Debug, Default)]
pub struct Answer {
    /// How many keys a read found; none for what does not read.
    pub found: Option<u64>,
    /// Events that its watcher was shown.
    pub events: u64,
    /// When it was over, if that was before it returned.
    pub at: Option<Instant>,
}

impl Answer {
    /// A read's.
    pub fn found(keys: usize) -> Self {
        Answer {
            found: Some(keys as u64),
            ..Answer::default()
        }
    }
}

/// Makes one client's operations.
pub struct Maker {
    args: BenchArgs,
    client: u32,
    dice: Dice,
}

impl Maker {
    /// For the client of that number.
    pub fn new(args: &BenchArgs, client: u32) -> Self {
        Maker {
            args: args.clone(),
            client,
            dice: Dice(args.seed ^ (u64::from(client) << 32) ^ 0x9e37_79b9_7f4a_7c15),
        }
    }

    /// The operation that is the `number`th of all.
    pub fn make(&mut self, number: u64) -> Op {
        let pick = if self.args.sequential {
            number
        } else {
            self.dice.roll()
        };
        let key = key(&self.args, pick % self.args.keyspace);
        match self.args.work {
            Work::Get => Op::Get { key },
            Work::Range => Op::Range { key },
            Work::WatchOpen => Op::Open { key },
            Work::Watch => Op::Seen {
                key: own_key(&self.args, self.client),
                value: self.value(),
            },
            Work::Txn => Op::Txn {
                value: self.value(),
                key,
            },
            Work::Mixed if self.dice.roll().is_multiple_of(2) => Op::Get { key },
            Work::Put | Work::Mixed => Op::Put {
                value: self.value(),
                key,
            },
        }
    }

    /// A value of the asked size.
    pub fn value(&mut self) -> Vec<u8> {
        let mut value = vec![b'v'; self.args.val_size as usize];
        for chunk in value.chunks_mut(8) {
            let random = self.dice.roll().to_le_bytes();
            chunk.copy_from_slice(&random[..chunk.len()]);
        }
        value
    }
}

/// The key of a number.
pub fn key(args: &BenchArgs, number: u64) -> Vec<u8> {
    let width = args.key_size as usize - 1;
    format!("{}{number:0width$}", char::from(LETTER)).into_bytes()
}

/// The number of a key, if it is one of the keyspace.
pub fn number(args: &BenchArgs, key: &[u8]) -> Option<u64> {
    let (first, digits) = key.split_first()?;
    if *first != LETTER || key.len() != args.key_size as usize {
        return None;
    }
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = std::str::from_utf8(digits).ok()?.parse().ok()?;
    (number < args.keyspace).then_some(number)
}

/// The key that a client of `watch` writes and watches.
pub fn own_key(args: &BenchArgs, client: u32) -> Vec<u8> {
    key(args, u64::from(client) % args.keyspace)
}

/// xorshift64*: a repeatable key sequence, nothing more.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.max(1);
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

#[cfg(test)]
mod tests {
    use super::super::args::tests::args;
    use super::*;

    #[test]
    fn a_key_of_the_keyspace_is_known_by_its_number_and_others_are_not() {
        let args = args("get --key-size 9 --keyspace 1000");
        for of in [0, 1, 999] {
            assert_eq!(number(&args, &key(&args, of)), Some(of));
        }
        for other in [
            "k00001000",
            "k0000001",
            "k000000001",
            "x00000001",
            "k0000000x",
            "k",
            "",
        ] {
            assert_eq!(number(&args, other.as_bytes()), None, "{other}");
        }
        assert!(key(&args, 999).as_slice() < KEYS_END);
    }
}
