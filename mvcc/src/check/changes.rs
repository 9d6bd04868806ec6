//! No path of a transaction changes a key twice: etcd's rule, in about as many steps as there are operations.
//!
//! What two lists change is compared from the shorter one's side and gathered in the longer one, so neither
//! how wide nor how deep transactions nest makes it longer: this runs where every connection of a core waits.
//! Tested by the table in `check`, and against the rule itself below.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::ops::Bound;

use crate::error::Error;
use crate::types::{KeyRange, RequestOp};

/// What a list of operations may change.
#[derive(Default)]
pub(super) struct Changes<'a> {
    puts: BTreeSet<&'a [u8]>,
    deletes: Deletes<'a>,
}

/// The duplicate rule, in etcd's order: deletes of this level, then nested transactions one by one
/// (each checked against the deletes and puts collected so far), then puts of this level. The two
/// branches of one nested transaction exclude each other, so they may put the same key. Two
/// deletes may overlap. Unlike etcd, whose interval tree misreads it, a delete with `end` =
/// `b"\0"` covers the puts above its key.
pub(super) fn changes<'a>(ops: &[RequestOp<'a>]) -> Result<Changes<'a>, Error> {
    let mut all = Changes::default();
    for op in ops {
        if let RequestOp::DeleteRange(delete) = op {
            all.deletes.add(delete.range);
        }
    }
    for op in ops {
        if let RequestOp::Txn(nested) = op {
            let mut either = changes(&nested.success)?;
            either.take(changes(&nested.failure)?);
            if meet(&all.puts, &either.puts) || all.deletes.meet(&either.puts) {
                return Err(Error::DuplicateKey);
            }
            all.take(either);
        }
    }
    for op in ops {
        if let RequestOp::Put(put) = op
            && (all.deletes.contains(put.key) || !all.puts.insert(put.key))
        {
            return Err(Error::DuplicateKey);
        }
    }
    Ok(all)
}

impl<'a> Changes<'a> {
    fn take(&mut self, mut other: Changes<'a>) {
        if other.puts.len() > self.puts.len() {
            mem::swap(&mut self.puts, &mut other.puts);
        }
        self.puts.extend(other.puts);
        if other.deletes.len() > self.deletes.len() {
            mem::swap(&mut self.deletes, &mut other.deletes);
        }
        self.deletes.ones.extend(other.deletes.ones);
        for (start, end) in other.deletes.ranges {
            self.deletes.add_range(start, end);
        }
    }
}

fn meet(a: &BTreeSet<&[u8]>, b: &BTreeSet<&[u8]>) -> bool {
    let (short, long) = if a.len() < b.len() { (a, b) } else { (b, a) };
    short.iter().any(|key| long.contains(key))
}

/// Keys that are deleted: single ones, and ranges that neither overlap nor touch.
#[derive(Default)]
struct Deletes<'a> {
    ones: BTreeSet<&'a [u8]>,
    /// By their beginning; without an end they have no bound.
    ranges: BTreeMap<&'a [u8], Option<&'a [u8]>>,
}

impl<'a> Deletes<'a> {
    fn len(&self) -> usize {
        self.ones.len() + self.ranges.len()
    }

    fn add(&mut self, range: KeyRange<'a>) {
        if range.is_one() {
            self.ones.insert(range.key);
        } else {
            self.add_range(range.key, range.end_bound());
        }
    }

    fn add_range(&mut self, mut start: &'a [u8], mut end: Option<&'a [u8]>) {
        if end.is_some_and(|end| end <= start) {
            return;
        }
        let before = self.ranges.range(..=start).next_back();
        if let Some((&begins, &ends)) = before
            && ends.is_none_or(|ends| ends >= start)
        {
            (start, end) = (begins, later(end, ends));
        }
        loop {
            let above = (Bound::Excluded(start), Bound::Unbounded);
            let next = self.ranges.range::<&[u8], _>(above).next();
            let Some((&begins, &ends)) = next else { break };
            if end.is_some_and(|end| end < begins) {
                break;
            }
            self.ranges.remove(begins);
            end = later(end, ends);
        }
        self.ranges.insert(start, end);
    }

    fn contains(&self, key: &[u8]) -> bool {
        let below = (Bound::Unbounded, Bound::Included(key));
        let range = self.ranges.range::<[u8], _>(below).next_back();
        self.ones.contains(key) || range.is_some_and(|(_, end)| end.is_none_or(|end| key < end))
    }

    /// Is one of these keys deleted?
    fn meet(&self, puts: &BTreeSet<&'a [u8]>) -> bool {
        if puts.len() <= self.len() {
            return puts.iter().any(|key| self.contains(key));
        }
        let has_one = |(start, end): (&&'a [u8], &Option<&'a [u8]>)| {
            let first = puts.range(*start..).next();
            first.is_some_and(|first| end.is_none_or(|end| *first < end))
        };
        self.ones.iter().any(|key| puts.contains(key)) || self.ranges.iter().any(has_one)
    }
}

/// The later of two ends, of which none is no bound.
fn later<'a>(a: Option<&'a [u8]>, b: Option<&'a [u8]>) -> Option<&'a [u8]> {
    a.zip(b).map(|(a, b)| a.max(b))
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::testing::Dice;
    use crate::types::{DeleteRangeRequest, PutRequest, TxnRequest};

    /// The rule itself: every put with every delete and every other put.
    fn naive<'a>(ops: &[RequestOp<'a>]) -> Result<(Vec<&'a [u8]>, Vec<KeyRange<'a>>), Error> {
        let (mut puts, mut deletes) = (Vec::new(), Vec::new());
        for op in ops {
            if let RequestOp::DeleteRange(delete) = op {
                deletes.push(delete.range);
            }
        }
        for op in ops {
            if let RequestOp::Txn(nested) = op {
                let mut either = naive(&nested.success)?;
                let failure = naive(&nested.failure)?;
                either.0.extend(failure.0);
                either.1.extend(failure.1);
                for key in &either.0 {
                    if puts.contains(key) || deletes.iter().any(|range| range.contains(key)) {
                        return Err(Error::DuplicateKey);
                    }
                }
                puts.extend(either.0);
                deletes.extend(either.1);
            }
        }
        for op in ops {
            if let RequestOp::Put(put) = op {
                if puts.contains(&put.key) || deletes.iter().any(|range| range.contains(put.key)) {
                    return Err(Error::DuplicateKey);
                }
                puts.push(put.key);
            }
        }
        Ok((puts, deletes))
    }

    fn put(key: &[u8]) -> RequestOp<'_> {
        RequestOp::Put(PutRequest {
            key,
            ..PutRequest::default()
        })
    }

    fn delete<'a>(key: &'a [u8], end: &'a [u8]) -> RequestOp<'a> {
        RequestOp::DeleteRange(DeleteRangeRequest {
            range: KeyRange { key, end },
            prev_kv: false,
        })
    }

    fn some_ops<'a>(dice: &mut Dice, keys: &'a [Vec<u8>], depth: u64) -> Vec<RequestOp<'a>> {
        let count = dice.below(4);
        let ops = (0..count).map(|_| {
            let key = |dice: &mut Dice| &keys[dice.below(keys.len() as u64) as usize][..];
            match dice.below(if depth < 4 { 5 } else { 3 }) {
                0 => put(key(dice)),
                1 => delete(key(dice), b""),
                2 => {
                    let end = match dice.below(4) {
                        0 => b"\0",
                        _ => key(dice),
                    };
                    delete(key(dice), end)
                }
                _ => RequestOp::Txn(Box::new(TxnRequest {
                    success: some_ops(dice, keys, depth + 1),
                    failure: some_ops(dice, keys, depth + 1),
                    ..TxnRequest::default()
                })),
            }
        });
        ops.collect()
    }

    #[test]
    fn the_rule_is_that_of_comparing_everything_with_everything() {
        let keys: Vec<Vec<u8>> = (0..60u8)
            .map(|n| vec![b'a' + n / 8, b'a' + n % 8])
            .collect();
        let mut dice = Dice::from_env("changes");
        let mut refused = 0;
        for _ in 0..20_000 {
            let ops = some_ops(&mut dice, &keys, 0);
            let expected = naive(&ops).map(|_| ());
            refused += usize::from(expected.is_err());
            assert_eq!(changes(&ops).map(|_| ()), expected, "{ops:?}");
        }
        assert!((1_000..19_000).contains(&refused), "{refused} refused");
    }

    /// Every put was compared with every delete so far: a transaction of some 40,000 of each, which fits into
    /// a request, kept its core for seconds. Of these it would be an hour: there is no clock here, the test
    /// would not end.
    #[test]
    fn regression_very_many_puts_and_deletes_are_told_apart_at_once() {
        const MANY: usize = 2_000;
        let key = |n: usize, kind: u8| [&n.to_be_bytes()[..], &[kind]].concat();
        let put_keys: Vec<_> = (0..MANY * 200).map(|n| key(n, 1)).collect();
        let delete_keys: Vec<_> = (0..MANY * 200).map(|n| key(n, 2)).collect();
        let both = put_keys.chunks(200).zip(delete_keys.chunks(200));
        let nested = both.map(|(puts, deletes)| {
            let puts = puts.iter().map(|key| put(key));
            let deletes = deletes.iter().map(|key| delete(key, b""));
            RequestOp::Txn(Box::new(TxnRequest {
                success: puts.chain(deletes).collect(),
                ..TxnRequest::default()
            }))
        });
        // Deep below others that change something, too.
        let mut ops: Vec<_> = nested.collect();
        for key in delete_keys.iter().take(100) {
            let txn = TxnRequest {
                success: ops,
                ..TxnRequest::default()
            };
            ops = vec![delete(key, b""), RequestOp::Txn(Box::new(txn))];
        }
        let all = changes(&ops).expect("no key twice");
        assert_eq!(all.puts.len(), put_keys.len());
    }
}
