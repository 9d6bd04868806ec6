//! All that whoever turns a shard asks of it, in the order of a turn: to hear what arrived, to begin, to
//! process, to answer, to do a slice of what can wait, and to end. (Checkpoints, which come between turns,
//! are asked for in `checkpoint`; `metrics` shows it, `end` ends it.)
//!
//! Promises: what a shard is made of is seen by nobody outside this folder. Must never know: who turns it,
//! and which other shards are turned.

use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::vec::Drain;

use henge_api::Error;
use henge_raft::{Entries, Entry, Message};
use henge_wal::{ReadError, Shortage};

use super::Shard;
use super::answer::{Chain, Outcomes};
use super::persist::Outputs;
use super::request::{Answer, REQUEST_BYTES, Request};
use super::words::Word;
use crate::seats::Slot;
use crate::work::TurnWork;

/// What a shard hears beside what its callers ask.
#[derive(Debug)]
pub(crate) enum News {
    /// A member says this.
    Message(Message),
    /// What was on its way to this member may be lost.
    PeerLost(u64),
    /// Proposals, its own or passed on, that never left.
    NotSent(Entries),
    /// Another member is to lead.
    HandOver,
    /// There was no room for a renewal on its way here.
    RenewalRefused,
    /// How the log is.
    Log {
        /// It cannot get another segment, for lack of this.
        lacks: Option<Shortage>,
        /// Nor is there more left of it than votes and checkpoints need.
        is_full: bool,
    },
    /// Entries that [`Shard::wanted`] named, from the first on.
    OldEntries {
        /// The first one's index.
        low: u64,
        /// As many as came, or why none did.
        found: Result<Vec<Entry>, ReadError>,
    },
}

/// What a slice came to.
pub(crate) struct Slice {
    /// More is left.
    pub more: bool,
    /// Something was asked in it, which begins with the next turn.
    pub asked: bool,
    /// Callers that wait to be woken.
    pub chain: Option<Arc<Chain>>,
}

impl Shard {
    /// Its group's id.
    pub fn group(&self) -> u64 {
        self.config.group
    }

    /// From here on its work is put to this account, and its store's revision is shown there. Returns at
    /// which size of the log its first checkpoint is due.
    pub(crate) fn join(&mut self, turn: TurnWork, shown: Arc<AtomicI64>) -> u64 {
        self.turn = turn;
        self.shown_revision = shown;
        self.show_revision();
        self.checkpoint_due_bytes
    }

    /// A caller asks; behind words on watch streams, what is asked waits.
    pub(crate) fn take_request(&mut self, request: Request, now_ms: u64) {
        if self.words.lets_pass(&request) {
            self.held_bytes += request.kind.held_bytes();
            self.admit(request, now_ms);
        } else {
            self.words.push(Word::Request(request));
        }
    }

    /// A caller asks what nobody does any more. What it took of the budgets, [`Shard::settle`] gives back.
    pub(crate) fn refuse(&mut self, request: Request, error: Error) {
        self.held_bytes += request.kind.held_bytes();
        request.answer.send(Err(error));
    }

    /// A word on a watch stream. Returns whether it waits: because others do, or as there is no time for it.
    pub(crate) fn take_word(&mut self, word: Word, now_ms: u64, has_time: bool) -> bool {
        let waits = !has_time || !self.words.is_empty();
        match waits {
            true => self.words.push(word),
            false => self.work_off(word, now_ms),
        }
        waits
    }

    /// Whether words wait, so that requests wait behind them.
    pub(crate) fn keeps_words(&self) -> bool {
        !self.words.is_empty()
    }

    /// How many words wait, with what came behind them, and their bytes.
    pub(crate) fn words_kept(&self) -> (usize, usize) {
        self.words.size()
    }

    /// Hears what no caller asks.
    pub(crate) fn hear(&mut self, news: News, now_ms: u64) {
        match news {
            News::Message(message) => self.step_peer(message, now_ms),
            News::PeerLost(peer) => self.peer_lost(peer),
            News::NotSent(entries) => self.send_back(&entries, now_ms),
            News::HandOver => self.hand_over(),
            News::RenewalRefused => self.renewal_refused(),
            News::Log { lacks, is_full } => (self.shortage, self.log_full) = (lacks, is_full),
            News::OldEntries { low, found } => self.old_entries(low, found),
        }
    }

    /// A turn begins.
    pub(crate) fn begin_turn(&mut self, now_ms: u64, is_running: bool) {
        self.advance_time(now_ms);
        if is_running {
            self.ask_read_index(now_ms);
        }
    }

    /// A share of the turn: see [`Shard::process_ready`]. Returns whether work is left.
    pub(crate) fn process(&mut self, at: Slot, out: &mut Outputs<'_>) -> bool {
        let more = self.process_ready(at, out);
        self.answer_reads(out.now_ms);
        more
    }

    /// Whether callers wait for what the turn had no time for.
    pub(crate) fn has_left(&self) -> bool {
        self.is_behind() || self.asks_more()
    }

    /// What can be given back to the budgets after a turn: what was taken for writes that are answered.
    pub(crate) fn settle(&mut self) -> usize {
        let holds = self.pending_bytes + self.waiting() * REQUEST_BYTES;
        // Writes of the shard's own (leases that end) were not taken for: while they wait, less is given
        // back.
        let freed = self.held_bytes.saturating_sub(holds);
        self.held_bytes -= freed;
        freed
    }

    /// The turn's answers.
    pub(crate) fn take_answers(&mut self) -> Drain<'_, (Answer, Outcomes)> {
        self.answers.drain(..)
    }

    /// Old entries that raft wants to send: from the first to the last.
    pub(crate) fn wanted(&mut self) -> Option<(u64, u64)> {
        let wanted = self.raft.storage_mut().take_wanted()?;
        Some((wanted.low, wanted.high - 1))
    }

    /// A slice of each kind of work that can wait.
    pub(crate) fn slice(&mut self, now_ms: u64) -> Slice {
        let asked = !self.words.is_empty();
        let more = self.word_slice(now_ms)
            | self.compact_slice()
            | self.lease_slice()
            | self.watch_slice()
            | self.read_slice()
            | self.hash_slice();
        self.charge();
        let chain = self.flush_answers();
        Slice { more, asked, chain }
    }

    /// The turn ends. Returns how many callers wait, and when the shard has to be looked at again.
    pub(crate) fn end_turn(&mut self, now_ms: u64) -> (usize, u64) {
        self.charge();
        self.note_turn(now_ms);
        (self.waiting(), self.next_look_ms())
    }

    /// Whether a checkpoint before its time could give the log room.
    pub(crate) fn has_early_checkpoint(&self) -> bool {
        self.has_checkpoint_to_write() && !self.checkpoint_fails
    }

    /// Whether the last checkpoint had no room.
    pub(crate) fn had_no_room(&self) -> bool {
        self.checkpoint_lacks.is_some()
    }

    /// Nobody waits for an answer of any kind.
    pub(crate) fn is_quiet(&self) -> bool {
        self.waiting() == 0
            && self.words.is_empty()
            && self.renewals.waiting() == 0
            && self.reads.is_empty()
            && self.long_reads.is_empty()
            && self.removals.is_empty()
            && self.hashes.is_empty()
            && self.answers.is_empty()
    }

    fn old_entries(&mut self, low: u64, found: Result<Vec<Entry>, ReadError>) {
        let log = self.raft.storage_mut();
        match found {
            Ok(entries) => {
                log.fetched(low, entries);
                // Not at the next heartbeat: a laggard would get one span per heartbeat.
                self.raft.entries_available();
            }
            Err(error) => {
                log.fetched(low, Vec::new());
                tracing::warn!(group = self.config.group, %error, "old entries cannot be read back");
            }
        }
    }
}
