//! The revision log: which keys each revision changed, in order.
//!
//! 4 bytes per change. It feeds watchers that catch up, and makes compaction cost what was
//! compacted: both walk it instead of the keys. It says only *which* key; the version itself is in
//! the key's slot. Invariant: revisions in the log are dense (each has at least one change), so a
//! revision's number follows from counting. Never knows keys' bytes or values. Tested at the end.

use std::collections::VecDeque;
use std::mem;

use crate::names::KeyId;

/// A chunk takes no further revision once it has this many changes. (One revision is never split:
/// a delete of a million keys makes one long chunk.) The table of chunks is copied when it grows: with
/// chunks of this size that is a megabyte at a hundred million changes.
const CHUNK_OPS: usize = 4096;
/// Set on the first change of each revision.
const FIRST: u32 = 1 << 31;

/// One change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LogOp {
    /// Main revision.
    pub main: i64,
    /// Position within the revision.
    pub sub: u32,
    /// The key changed.
    pub id: KeyId,
}

/// All changes that may still be asked for.
#[derive(Debug, Default)]
pub(crate) struct RevLog {
    chunks: VecDeque<Chunk>,
    /// Bytes of the chunks' changes.
    ops_bytes: usize,
}

#[derive(Debug)]
struct Chunk {
    /// Main and sub of the change at `start`.
    main: i64,
    sub: u32,
    /// Changes before this were popped.
    start: usize,
    ops: Vec<u32>,
}

impl Chunk {
    fn iter(&self) -> impl Iterator<Item = LogOp> {
        let (mut main, mut sub) = (self.main, self.sub);
        self.ops[self.start..]
            .iter()
            .enumerate()
            .map(move |(n, &op)| {
                if n > 0 {
                    (main, sub) = if op & FIRST != 0 {
                        (main + 1, 0)
                    } else {
                        (main, sub + 1)
                    };
                }
                LogOp {
                    main,
                    sub,
                    id: op & !FIRST,
                }
            })
    }
}

impl RevLog {
    /// Appends a change. `sub` 0 begins revision `main`, which must follow the one before.
    pub fn push(&mut self, op: LogOp) {
        let LogOp { main, sub, id } = op;
        let flag = if sub == 0 { FIRST } else { 0 };
        if let Some(chunk) = self.chunks.back_mut()
            && (sub != 0 || chunk.ops.len() < CHUNK_OPS)
        {
            let before = chunk.ops.capacity();
            chunk.ops.push(id | flag);
            self.ops_bytes += (chunk.ops.capacity() - before) * mem::size_of::<u32>();
            return;
        }
        let mut ops = Vec::with_capacity(if self.chunks.is_empty() { 0 } else { CHUNK_OPS });
        ops.push(id | flag);
        self.ops_bytes += ops.capacity() * mem::size_of::<u32>();
        self.chunks.push_back(Chunk {
            main,
            sub,
            start: 0,
            ops,
        });
    }

    /// The keys of the last `count` changes, oldest first; all of one revision.
    pub fn last(&self, count: usize) -> impl ExactSizeIterator<Item = KeyId> {
        let ops = self
            .chunks
            .back()
            .map_or(&[][..], |chunk| &chunk.ops[chunk.start..]);
        ops[ops.len().saturating_sub(count)..]
            .iter()
            .map(|op| op & !FIRST)
    }

    /// The oldest change.
    pub fn front(&self) -> Option<LogOp> {
        self.chunks.front()?.iter().next()
    }

    /// All changes, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = LogOp> {
        self.chunks.iter().flat_map(Chunk::iter)
    }

    /// Drops the oldest change.
    pub fn pop_front(&mut self) {
        let Some(chunk) = self.chunks.front_mut() else {
            return;
        };
        let next = chunk.iter().nth(1);
        match next {
            Some(next) => {
                (chunk.main, chunk.sub) = (next.main, next.sub);
                chunk.start += 1;
            }
            None => {
                self.ops_bytes -= chunk.ops.capacity() * mem::size_of::<u32>();
                self.chunks.pop_front();
            }
        }
    }

    /// Changes of revision `main` and later.
    pub fn since(&self, main: i64) -> impl Iterator<Item = LogOp> {
        // A chunk begins with a revision's first change (unless popped into), so the last chunk
        // that begins at or before `main` has all of it.
        let skip = self
            .chunks
            .partition_point(|chunk| chunk.main <= main)
            .saturating_sub(1);
        self.chunks
            .range(skip..)
            .flat_map(Chunk::iter)
            .skip_while(move |op| op.main < main)
    }

    /// The keys of revision `main`'s changes but for the first `seen`. Finding them costs no more
    /// when many are seen: a revision lies in one chunk, and ends it if it is long.
    pub fn of_revision(&self, main: i64, seen: usize) -> impl Iterator<Item = KeyId> {
        let at = self.chunks.partition_point(|chunk| chunk.main <= main);
        let chunk = at.checked_sub(1).and_then(|at| self.chunks.get(at));
        let first =
            chunk.and_then(|chunk| Some((chunk, chunk.iter().position(|op| op.main == main)?)));
        let (all, skipped) = match first {
            // The chunk may have been popped into: `sub` tells what is gone.
            Some((chunk, at)) => (&chunk.ops[chunk.start + at..], seen),
            None => (&[][..], 0),
        };
        let rest = &all[skipped.min(all.len())..];
        // Its own first change carries the flag, too.
        let own = usize::from(skipped == 0);
        let rest = rest.iter().enumerate();
        rest.take_while(move |&(at, op)| at < own || op & FIRST == 0)
            .map(|(_, op)| op & !FIRST)
    }

    /// How many changes [`RevLog::since`] would give.
    pub fn len_since(&self, main: i64) -> usize {
        let mut len = 0;
        for chunk in self.chunks.iter().rev() {
            if chunk.main < main {
                let mut changes = chunk.iter();
                let all = chunk.ops.len() - chunk.start;
                // Found within a chunk's usual length: a long revision is its last.
                return len
                    + changes
                        .position(|op| op.main >= main)
                        .map_or(0, |at| all - at);
            }
            len += chunk.ops.len() - chunk.start;
        }
        len
    }

    /// Bytes on the heap.
    pub fn heap_bytes(&self) -> usize {
        self.chunks.capacity() * mem::size_of::<Chunk>() + self.ops_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Dice;

    #[test]
    fn behaves_as_a_deque_of_changes() {
        let mut dice = Dice::from_env("revlog");
        let mut log = RevLog::default();
        let mut naive = VecDeque::new();
        for main in 2..3_000 {
            let changes = if main == 1_500 {
                5_000
            } else {
                1 + dice.below(4) as u32
            };
            for sub in 0..changes {
                let op = LogOp {
                    main,
                    sub,
                    id: dice.below(1 << 31) as u32,
                };
                log.push(op);
                naive.push_back(op);
            }
            let last: Vec<_> = naive
                .iter()
                .skip(naive.len() - changes as usize)
                .map(|op| op.id)
                .collect();
            assert!(log.last(changes as usize).eq(last));
            let seen = dice.below(u64::from(changes) + 2) as usize;
            let ids = naive.iter().filter(|op| op.main == main).map(|op| op.id);
            assert!(log.of_revision(main, seen).eq(ids.skip(seen)));
            assert_eq!(log.of_revision(main + 1, seen).count(), 0);
            for _ in 0..dice.below(4) {
                assert_eq!(log.front(), naive.front().copied());
                log.pop_front();
                naive.pop_front();
            }
            if main % 97 == 0 {
                let from = dice.below(main as u64 + 2) as i64;
                let expected = naive.iter().filter(|op| op.main >= from).copied();
                assert_eq!(log.len_since(from), expected.clone().count());
                assert!(log.since(from).eq(expected));
            }
        }
        while !naive.is_empty() {
            assert_eq!(log.front(), naive.pop_front());
            log.pop_front();
        }
        assert_eq!((log.front(), log.ops_bytes), (None, 0));
        assert_eq!(log.since(0).count(), 0);
    }
}
