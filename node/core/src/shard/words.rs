//! Words on watch streams, and what has to wait behind them.
//!
//! A turn works off words as they come for as long as its account allows; what it has no time for waits here,
//! and goes on in slices. Requests to the shard wait behind them: whoever watches and then writes hears of
//! the write. Renewals of leases pass, as they do at the inbox, whose bounds hold for what waits here, too.
//! Must never know: what a word or a request says. Tested by `tests/turns`.

use std::collections::VecDeque;

use henge_api::{Error, WatchCommand};

use super::Shard;
use super::request::{Request, RequestKind};
use super::watch::{SessionHandle, SessionId};
use crate::work::SLICE_NANOS;

/// Work of a word, beside what it does to the store.
const WORD_NANOS: u64 = 250;

/// Something that has its place in the order of words.
#[derive(Debug)]
pub(crate) enum Word {
    /// A new stream.
    Open(SessionHandle),
    /// A client's word on its stream.
    Said(SessionId, WatchCommand),
    /// A stream has room again, or its client has gone.
    Touch(SessionId),
    /// A request that came after words.
    Request(Request),
}

/// What waits, in its order.
#[derive(Debug, Default)]
pub(crate) struct Words {
    queue: VecDeque<Word>,
    /// Those that take room in the inbox, and their bytes.
    items: usize,
    bytes: usize,
}

impl Words {
    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// How many wait of those that take room in the inbox, and their bytes.
    pub fn size(&self) -> (usize, usize) {
        (self.items, self.bytes)
    }

    /// Whether a request need not wait: nothing does, or it is a renewal.
    pub fn lets_pass(&self, request: &Request) -> bool {
        self.is_empty() || matches!(request.kind, RequestKind::LeaseKeepAlive(_))
    }

    pub fn push(&mut self, word: Word) {
        let (items, bytes) = word.size();
        self.items += items;
        self.bytes += bytes;
        self.queue.push_back(word);
    }

    fn pop(&mut self) -> Option<Word> {
        let word = self.queue.pop_front()?;
        let (items, bytes) = word.size();
        self.items -= items;
        self.bytes -= bytes;
        Some(word)
    }
}

impl Word {
    /// See [`Words::size`]. A stream is touched as often as it runs full, and once at its end.
    fn size(&self) -> (usize, usize) {
        match self {
            Word::Open(_) => (1, 0),
            Word::Said(_, command) => (1, command.bytes()),
            Word::Request(request) => (1, request.kind.bytes()),
            Word::Touch(_) => (0, 0),
        }
    }
}

impl Shard {
    /// Works a word off.
    pub(super) fn work_off(&mut self, word: Word, now_ms: u64) {
        self.turn.spend(WORD_NANOS);
        match word {
            Word::Open(session) => self.watches.open(session),
            Word::Touch(session) => self.watches.touch(session),
            Word::Said(session, command) => {
                let header = self.header();
                self.watches
                    .command(&mut self.machine.store, session, command, header);
            }
            Word::Request(request) => {
                self.held_bytes += request.kind.held_bytes();
                self.admit(request, now_ms);
            }
        }
        self.charge();
    }

    /// Goes on with what waits; returns whether more is left.
    pub(super) fn word_slice(&mut self, now_ms: u64) -> bool {
        if self.words.is_empty() {
            return false;
        }
        let until = self.turn.spent().saturating_add(SLICE_NANOS);
        while let Some(word) = self.words.pop() {
            self.work_off(word, now_ms);
            if !self.turn.is_before(until) {
                break;
            }
        }
        !self.words.is_empty()
    }

    /// Nothing is worked off any more. Streams that were to be opened are: they end with the others.
    pub(super) fn refuse_words(&mut self, queued: &Error) {
        while let Some(word) = self.words.pop() {
            match word {
                Word::Open(session) => self.watches.open(session),
                Word::Request(request) => {
                    self.held_bytes += request.kind.held_bytes();
                    request.answer.send(Err(queued.clone()));
                }
                Word::Said(..) | Word::Touch(_) => {}
            }
        }
    }
}
