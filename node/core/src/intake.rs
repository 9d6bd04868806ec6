//! What arrives: callers' requests, peers' frames, words on watch streams. The first stage of a turn.
//!
//! Promises: everything that was handed in is looked at once, in its order; what names a shard puts it on the
//! agenda of this turn. What a core that has failed or stops is asked, it refuses.
//! Must never know: what a request asks. Tested by `tests/engine` and the simulator.

use bytes::Bytes;
use henge_api::Error;
use henge_raft::MessageKind;

use super::inbox::Input;
use super::pack;
use super::turn::{Core, Now, Phase};
use super::work::SHARE_NANOS;
use crate::shard::turns::News;
use crate::shard::words::Word;
use crate::shard::{STOPPED_QUEUED, Shard};

impl Core {
    /// Takes everything that arrived since the last turn.
    pub(super) fn intake(&mut self, now: Now) {
        let mut inputs = std::mem::take(&mut self.inputs);
        let kept = self.kept();
        let taken = self.config.inbox.take(&mut inputs, kept);
        if taken.renewal_refused {
            for (_, shard) in self.shards.iter_mut() {
                shard.hear(News::RenewalRefused, now.millis());
            }
        }
        self.worked |= !inputs.is_empty();
        let metrics = &mut self.gauges.metrics;
        metrics.inbox_items = inputs.len() as u64;
        metrics.inbox_refused = taken.refused;
        metrics.memory.inbox = taken.bytes as u64;
        for input in inputs.drain(..) {
            self.take_input(input, now);
        }
        self.inputs = inputs;
    }

    fn take_input(&mut self, input: Input, now: Now) {
        let running = self.phase == Phase::Running;
        match input {
            Input::Request { group, request } => {
                let refusal = (!running).then(|| self.refusal());
                let Some(shard) = self.shard(group) else {
                    let held = request.kind.held_bytes();
                    self.config.inbox.budget().give_back(held);
                    return request.answer.send(Err(refusal.unwrap_or(STOPPED_QUEUED)));
                };
                match refusal {
                    None => shard.take_request(request, now.millis()),
                    Some(refusal) => shard.refuse(request, refusal),
                }
            }
            Input::Peer { from, frame } if running => self.step_frame(from, frame, now),
            Input::HandOver if running => self.tell_all(|| News::HandOver, now),
            Input::PeerLost { peer } if running => self.tell_all(|| News::PeerLost(peer), now),
            Input::WatchOpen { group, session } => {
                let refusal = self.refusal();
                match self.shard(group) {
                    Some(_) if running => self.word(group, Word::Open(session), now),
                    _ => session.end(&refusal),
                }
            }
            Input::Watch {
                group,
                session,
                command,
            } => self.word(group, Word::Said(session, command), now),
            Input::WatchTouch { group, session } => self.word(group, Word::Touch(session), now),
            Input::Stop => self.stop(),
            Input::Drain { within_ms } => {
                let until_ms = now.millis().saturating_add(within_ms);
                self.drain_until_ms = self.drain_until_ms.min(until_ms);
                self.draining = true;
            }
            Input::Peer { .. } | Input::PeerLost { .. } | Input::HandOver => {}
        }
    }

    /// Works off a word on a watch stream, or has it wait: words come by the ten thousand.
    fn word(&mut self, group: u64, word: Word, now: Now) {
        let has_time = self.phase != Phase::Running || self.work.is_before(SHARE_NANOS);
        let shard = self.shard(group);
        let waits = shard.is_some_and(|shard| shard.take_word(word, now.millis(), has_time));
        self.keeps_words |= waits;
    }

    /// How many words, with what came behind them, wait from earlier turns, and their bytes.
    fn kept(&mut self) -> (usize, usize) {
        if !self.keeps_words {
            return (0, 0);
        }
        let sizes = self.shards.shards().map(Shard::words_kept);
        let kept = sizes.fold((0, 0), |sum, (items, bytes)| (sum.0 + items, sum.1 + bytes));
        // A touch counts nothing, and keeps what comes behind it waiting all the same.
        self.keeps_words = self.shards.shards().any(Shard::keeps_words);
        kept
    }

    /// The shard of a group, which now has something to do.
    fn shard(&mut self, group: u64) -> Option<&mut Shard> {
        let at = self.shards.slot_of(group)?;
        self.agenda.mark(at);
        Some(&mut self.shards.get_mut(at)?.shard)
    }

    /// Tells every shard, which now has something to do.
    pub(super) fn tell_all(&mut self, news: impl Fn() -> News, now: Now) {
        for (at, shard) in self.shards.iter_mut() {
            shard.hear(news(), now.millis());
            self.agenda.mark(at);
        }
    }

    fn refusal(&self) -> Error {
        match self.phase {
            Phase::Poisoned => Error::Poisoned("an earlier write failed".to_owned()),
            _ => STOPPED_QUEUED,
        }
    }

    /// A frame that the transport did not take. Raft repeats what is its own; proposals in it were
    /// certainly not done, and go back to where they came from.
    pub(super) fn not_sent(&mut self, frame: Bytes, now: Now) {
        // We packed it: it can be unpacked.
        for (group, message) in pack::unpack(frame).unwrap_or_default() {
            if message.kind == MessageKind::Prop
                && !message.reject
                && let Some(shard) = self.shard(group)
            {
                shard.hear(News::NotSent(message.entries), now.millis());
            }
        }
    }

    fn step_frame(&mut self, from: u64, frame: Bytes, now: Now) {
        let messages = match pack::unpack(frame) {
            Ok(messages) => messages,
            Err(error) => {
                tracing::warn!(peer = %format_args!("{from:x}"), %error, "dropped a peer's frame");
                return;
            }
        };
        for (group, message) in messages {
            // A peer speaks for itself, except that it may pass on a forwarded proposal or read.
            let forwarded = matches!(message.kind, MessageKind::Prop | MessageKind::ReadIndex);
            if message.from != from && !forwarded {
                continue;
            }
            if let Some(shard) = self.shard(group) {
                shard.hear(News::Message(message), now.millis());
            }
        }
    }
}
