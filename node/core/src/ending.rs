//! How a core ends: its log failed, it was told to, or it was dropped.
//!
//! Promises: whoever waits is answered, exactly once, with what is known of their operation.
//! Must never know: why it was told to.

use std::panic::AssertUnwindSafe;

use henge_api::Error;

use super::inbox::Input;
use super::turn::{Core, Now, Phase};
use crate::shard::{STOPPED_PROPOSED, STOPPED_QUEUED, Shard};

impl Core {
    pub(super) fn poison(&mut self, why: &str) {
        if self.phase == Phase::Poisoned {
            return;
        }
        tracing::error!(
            why,
            "the log failed; nothing is acknowledged any more; look at the disk, then restart"
        );
        self.phase = Phase::Poisoned;
        self.parked.clear();
        let error = Error::Poisoned(why.to_owned());
        for (at, shard) in self.shards.iter_mut() {
            shard.end(&error, &error);
            // There is no work behind its turns any more.
            shard.let_all_go();
            self.agenda.mark(at);
        }
    }

    /// Requests come no more, and everyone is answered.
    pub(super) fn is_drained(&self) -> bool {
        self.draining && self.phase == Phase::Running && self.shards.shards().all(Shard::is_quiet)
    }

    /// Stops a core that has answered everyone, or whose time to do so is over.
    pub(super) fn end_drain(&mut self, now: Now) {
        let is_late = self.draining && now.millis() >= self.drain_until_ms;
        // A core whose log failed has answered everyone already.
        let is_over = self.draining && self.phase == Phase::Poisoned;
        if is_over || self.phase == Phase::Running && (is_late || self.is_drained()) {
            self.stop();
        }
    }

    pub(super) fn stop(&mut self) {
        for (_, shard) in self.shards.iter_mut() {
            shard.end(&STOPPED_PROPOSED, &STOPPED_QUEUED);
        }
        self.config.inbox.close();
        if self.phase == Phase::Poisoned {
            self.phase = Phase::Ended;
        } else {
            self.phase = Phase::Closing;
            self.wal.close();
        }
    }
}

/// A core that is dropped before it ended (the executor it ran on was shut down, or it panicked) leaves
/// nobody waiting.
impl Drop for Core {
    fn drop(&mut self) {
        self.config.inbox.close();
        if self.phase != Phase::Ended {
            for (_, shard) in self.shards.iter_mut() {
                let end = AssertUnwindSafe(|| shard.end(&STOPPED_PROPOSED, &STOPPED_QUEUED));
                // If a panic is on its way up already, another one would abort the caller's process.
                let _ = std::panic::catch_unwind(end);
            }
        }
        self.release_chains();
        let mut late = std::mem::take(&mut self.inputs);
        let mut unread = Vec::new();
        self.config.inbox.take(&mut unread, (0, 0));
        late.append(&mut unread);
        for input in late {
            match input {
                Input::Request { request, .. } => request.answer.send(Err(STOPPED_QUEUED)),
                Input::WatchOpen { session, .. } => session.end(&STOPPED_QUEUED),
                _ => {}
            }
        }
    }
}
