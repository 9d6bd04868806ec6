//! Bytes as decisions: every input, however random, is a complete script.

use bytes::Bytes;
use henge_raft::{
    ConfState, Entries, Entry, EntryKind, LOCAL_APPEND_THREAD, LOCAL_APPLY_THREAD, Message,
    MessageKind, Snapshot, SnapshotMeta,
};

/// The bytes that are left; zeros after the end.
pub struct Source<'a>(pub &'a [u8]);

impl Source<'_> {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        *first
    }

    pub fn flag(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    pub fn below(&mut self, limit: u8) -> u8 {
        self.byte() % limit
    }

    /// Mostly small, and close to what terms, indexes and ids are; sometimes at the edge of all numbers.
    pub fn number(&mut self) -> u64 {
        match self.byte() {
            small @ 0..=199 => u64::from(small % 16),
            middle @ 200..=239 => u64::from(middle) << 4,
            240..=243 => 1 << 62,
            244..=246 => u64::MAX >> 1,
            247..=249 => LOCAL_APPLY_THREAD,
            250..=252 => LOCAL_APPEND_THREAD,
            _ => {
                let bytes = std::array::from_fn(|_| self.byte());
                u64::from_le_bytes(bytes)
            }
        }
    }

    pub fn payload(&mut self) -> Bytes {
        let length = usize::from(self.below(20));
        (0..length).map(|_| self.byte()).collect()
    }

    /// Entries that follow each other, most of the time.
    pub fn entries(&mut self) -> Entries {
        let count = match self.below(4) {
            0 => 0,
            _ => self.below(5),
        };
        let (mut term, mut index) = (self.number(), self.number());
        let entries = (0..count).map(|_| {
            match self.below(16) {
                0 => index = self.number(),
                1 => term = self.number(),
                2 => term = term.saturating_add(1),
                _ => index = index.saturating_add(1),
            }
            let kind = match self.below(12) {
                0 => EntryKind::ConfChange,
                1 => EntryKind::ConfChangeV2,
                _ => EntryKind::Normal,
            };
            Entry {
                term,
                index,
                kind,
                data: self.payload(),
            }
        });
        entries.collect()
    }

    pub fn conf_state(&mut self) -> ConfState {
        let mut ids = || {
            let count = self.below(4);
            (0..count).map(|_| self.number()).collect()
        };
        ConfState {
            voters: ids(),
            learners: ids(),
            voters_outgoing: ids(),
            learners_next: ids(),
            auto_leave: self.flag(),
        }
    }

    pub fn snapshot(&mut self) -> Snapshot {
        let conf_state = match self.flag() {
            true => self.conf_state(),
            false => ConfState {
                voters: vec![1, 2, 3],
                ..ConfState::default()
            },
        };
        let meta = SnapshotMeta {
            conf_state,
            index: self.number(),
            term: self.number(),
        };
        Snapshot {
            meta,
            data: self.payload(),
        }
    }

    pub fn message(&mut self, depth: u8) -> Message {
        let kind = MessageKind::ALL[usize::from(self.below(MessageKind::ALL.len() as u8))];
        let context = match self.below(4) {
            0 => self.payload(),
            1 => Bytes::copy_from_slice(&self.number().to_le_bytes()),
            2 => [self.number(), self.number()]
                .iter()
                .flat_map(|number| number.to_le_bytes())
                .collect(),
            _ => Bytes::new(),
        };
        let with_snapshot = kind == MessageKind::Snap || self.below(8) == 0;
        let snapshot = with_snapshot.then(|| Box::new(self.snapshot()));
        let responses = match depth {
            0 => 0,
            _ => self.below(12).saturating_sub(9),
        };
        Message {
            kind,
            to: if self.below(8) == 0 { self.number() } else { 1 },
            from: match self.below(8) {
                0 => self.number(),
                other => 1 + u64::from(other % 3),
            },
            term: self.number(),
            log_term: self.number(),
            index: self.number(),
            entries: self.entries(),
            commit: self.number(),
            vote: self.number(),
            snapshot,
            reject: self.flag(),
            reject_hint: self.number(),
            context,
            responses: (0..responses).map(|_| self.message(depth - 1)).collect(),
        }
    }
}
