//! What clients do: each asks one thing at a time, of any node, on a few keys, so that operations meet.

use bytes::Bytes;

use super::check::history::History;
use super::op::{Guard, Op, value};
use super::rng::Rng;

/// Keys all clients share.
const KEYS: u64 = 8;
/// How far behind the newest revision a compaction stays, so that watchers are rarely cut off.
const COMPACT_BEHIND: i64 = 10;

/// Draws operations.
#[derive(Debug)]
pub struct Workload {
    rng: Rng,
    /// Most bytes of a value in this run: now and then large, so that segments fill.
    value_bytes: u64,
    writes_permille: u64,
}

impl Workload {
    /// A run's mix.
    pub fn draw(mut rng: Rng) -> Self {
        let value_bytes = if rng.permille(300) { 16_384 } else { 200 };
        let writes_permille = rng.between(300, 900);
        Workload {
            rng,
            value_bytes,
            writes_permille,
        }
    }

    /// The next operation of any client.
    pub fn next(&mut self, history: &History) -> Op {
        let writes = self.rng.permille(self.writes_permille);
        match self.rng.below(if writes { 20 } else { 8 }) {
            _ if !writes && self.rng.permille(50) => Op::Hash,
            kind if !writes => self.read(kind, history),
            0 => self.compact(history),
            1..=3 => self.delete(),
            4..=8 => self.txn(history),
            _ => self.put(history),
        }
    }

    /// A put, for a check that needs one.
    pub fn put(&mut self, history: &History) -> Op {
        let bytes = self.rng.below(self.value_bytes);
        let bytes = usize::try_from(bytes).unwrap_or(8);
        let prev_kv = self.rng.permille(500);
        Op::Put {
            key: self.key(),
            value: value(history.next_id(), bytes),
            prev_kv,
        }
    }

    /// A range of keys for a watcher.
    pub fn span(&mut self) -> (Bytes, Bytes) {
        match self.rng.below(3) {
            0 => (self.key(), Bytes::new()),
            1 => (self.key(), Bytes::from_static(b"\0")),
            _ => (Bytes::from_static(b"k"), self.key()),
        }
    }

    fn key(&mut self) -> Bytes {
        format!("k{}", self.rng.below(KEYS)).into()
    }

    fn delete(&mut self) -> Op {
        let key = self.key();
        let end = if self.rng.permille(700) {
            Bytes::new()
        } else {
            self.key()
        };
        Op::Delete {
            key,
            end,
            prev_kv: self.rng.permille(500),
        }
    }

    /// The branches write different keys: one transaction may not change a key twice.
    fn txn(&mut self, history: &History) -> Op {
        let id = history.next_id();
        let first = self.rng.below(KEYS);
        let key = |at: u64| -> Bytes { format!("k{}", at % KEYS).into() };
        let put = |at, bytes| Op::Put {
            key: key(at),
            value: value(id, bytes),
            prev_kv: true,
        };
        let compared = self.key();
        let guard = match self.rng.below(4) {
            0 => Guard::Missing,
            1 => Guard::Exists,
            2 => Guard::ModRevision(self.known(history, &compared).map_or(0, |(at, _)| at)),
            _ => Guard::Value(
                self.known(history, &compared)
                    .map_or(value(0, 8), |(_, value)| value),
            ),
        };
        let success = match self.rng.below(3) {
            0 => vec![put(first, 16), put(first + 1, 8), put(first + 2, 100)],
            1 => vec![put(first, 16), self.span_read()],
            _ => vec![
                Op::Delete {
                    key: key(first + 3),
                    end: Bytes::new(),
                    prev_kv: true,
                },
                put(first, 16),
                self.span_read(),
            ],
        };
        let failure = match self.rng.below(3) {
            0 => Vec::new(),
            1 => vec![self.span_read()],
            _ => vec![put(first + 4, 8)],
        };
        Op::Txn {
            key: compared,
            guard,
            success,
            failure,
        }
    }

    fn known(&self, history: &History, key: &Bytes) -> Option<(i64, Bytes)> {
        let pair = history.model.pair(key, history.model.revision())?;
        Some((pair.mod_revision, pair.value))
    }

    fn span_read(&mut self) -> Op {
        let (key, end) = self.span();
        Op::Range {
            key,
            end,
            revision: 0,
            limit: 0,
            keys_only: false,
            count_only: false,
            serializable: false,
        }
    }

    fn read(&mut self, kind: u64, history: &History) -> Op {
        let (from, to) = self.span();
        let old = kind == 0 && history.floor() > 2;
        let revision = if old {
            let back = self.rng.between(0, 15).cast_signed();
            (history.floor() - back).max(1)
        } else {
            0
        };
        Op::Range {
            key: from,
            end: to,
            revision,
            limit: if kind == 1 { 2 } else { 0 },
            keys_only: kind == 2,
            count_only: kind == 3,
            serializable: kind >= 6,
        }
    }

    fn compact(&mut self, history: &History) -> Op {
        Op::Compact {
            revision: (history.floor() - COMPACT_BEHIND).max(1),
        }
    }
}
