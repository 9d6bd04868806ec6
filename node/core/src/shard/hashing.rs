//! Hashes of the content, computed in slices between turns, at the revision where they began.
//!
//! Promises: a turn pays for a slice; a hash whose caller has gone ends; no more than [`RUNNING_MAX`] hold
//! history back at a time, the others wait their turn. What a hash at a compact revision is, see
//! `henge_mvcc`: the one of before the compaction.
//! Must never know: who compares them.

use std::collections::VecDeque;

use henge_api::{Error, HashKv, Header};
use henge_mvcc::HashCursor;

use super::Shard;
use super::answer::Answer;
use crate::machine::Response;

/// Versions looked at in a slice: 0.1 to 0.3 ms.
const HASH_SLICE: usize = 1_000;
/// Hashes under way at a time. Each keeps all history from the compact revision to its own.
const RUNNING_MAX: usize = 4;
/// Hashes that wait; more are refused.
const WAITING_MAX: usize = 256;

/// Hashes of one shard that are not answered yet.
#[derive(Debug, Default)]
pub struct Hashes {
    running: VecDeque<Running>,
    waiting: VecDeque<(i64, Answer)>,
}

#[derive(Debug)]
struct Running {
    cursor: HashCursor,
    /// Of the moment it began.
    header: Header,
    answer: Answer,
}

impl Hashes {
    /// Whether nobody asks for one.
    pub fn is_empty(&self) -> bool {
        self.running.is_empty() && self.waiting.is_empty()
    }

    /// Ends those whose callers have gone.
    pub fn drop_abandoned(&mut self) {
        self.running.retain(|hash| !hash.answer.is_abandoned());
        self.waiting.retain(|(_, answer)| !answer.is_abandoned());
    }

    /// Answers everyone with the same error.
    pub fn fail_all(&mut self, error: &Error) {
        let running = self.running.drain(..).map(|hash| hash.answer);
        let waiting = self.waiting.drain(..).map(|(_, answer)| answer);
        running
            .chain(waiting)
            .for_each(|answer| answer.send(Err(error.clone())));
    }
}

impl Shard {
    /// Takes a question for the hash at a revision; 0 means now.
    pub(super) fn hash_later(&mut self, revision: i64, answer: Answer) {
        if self.hashes.running.len() < RUNNING_MAX {
            self.hash_begin(revision, answer);
        } else if self.hashes.waiting.len() < WAITING_MAX {
            self.hashes.waiting.push_back((revision, answer));
        } else {
            self.answer(answer, Err(Error::TooManyRequests));
        }
    }

    /// Goes on with one hash for a slice; returns whether more is left.
    pub(super) fn hash_slice(&mut self) -> bool {
        if self.hashes.is_empty() {
            return false;
        }
        self.hashes.drop_abandoned();
        if let Some(mut hash) = self.hashes.running.pop_front() {
            let store = &self.machine.store;
            match store.hash_step(&mut hash.cursor, HASH_SLICE) {
                None => self.hashes.running.push_back(hash),
                Some((found, compact_revision)) => {
                    let response = Response::Hash(HashKv {
                        hash: found,
                        compact_revision,
                        hash_revision: hash.cursor.revision(),
                    });
                    self.answer_as_of(hash.header, hash.answer, Ok(response));
                }
            }
        }
        while self.hashes.running.len() < RUNNING_MAX
            && let Some((revision, answer)) = self.hashes.waiting.pop_front()
        {
            self.hash_begin(revision, answer);
        }
        !self.hashes.is_empty()
    }

    fn hash_begin(&mut self, revision: i64, answer: Answer) {
        match self.machine.store.hash_begin(revision) {
            Ok(cursor) => {
                let header = self.header();
                self.hashes.running.push_back(Running {
                    cursor,
                    header,
                    answer,
                });
            }
            Err(error) => self.answer(answer, Err(error.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::tests::start;
    use henge_mvcc::PutRequest;

    fn put(shard: &mut Shard, n: u32) {
        let request = PutRequest {
            key: &n.to_be_bytes(),
            value: b"v",
            ..PutRequest::default()
        };
        shard.machine.store.put(&request).expect("valid");
    }

    /// Everything was hashed in one turn: 0.7 s at 2.6 million versions.
    #[test]
    fn regression_a_hash_takes_slices_and_ends_with_its_caller() {
        let mut shard = start(&[1], 1);
        (0..5_000).for_each(|n| put(&mut shard, n));
        let wanted = shard.machine.store.hash_kv(0).expect("current");
        let asked: Vec<_> = (0..6)
            .map(|_| {
                let (answer, receiver) = Answer::channel();
                shard.hash_later(0, answer);
                receiver
            })
            .collect();
        assert_eq!(shard.hashes.running.len(), RUNNING_MAX);
        let mut asked: Vec<_> = asked.into_iter().take(1).collect();
        let mut slices = 1;
        while shard.hash_slice() {
            put(&mut shard, 10_000 + slices);
            slices += 1;
        }
        assert_eq!(slices, 6, "the others' callers had gone");
        if let Some(chain) = shard.flush_answers() {
            chain.release();
        }
        let reply = asked[0].try_recv().expect("answered").expect("valid");
        let Response::Hash(found) = reply.body else {
            panic!("{:?}", reply.body);
        };
        let revision = reply.header.revision;
        assert_eq!((found.hash, found.compact_revision), wanted);
        assert_eq!((found.hash_revision, revision), (5_001, 5_001));
    }
}
