//! Automatic compaction: history that is given up without being asked.
//!
//! As etcd's `--auto-compaction-*`, but the leader itself proposes it through the log, so that every replica
//! gives up the same. etcd looks at revisions every five minutes, in which an embedded engine makes a
//! hundred million of them; here every tick does, and revisions are counted as they are applied.
//! Promises: what is younger than asked for stays; a shard at rest comes to its bound as well, and then
//! costs nothing.
//! Must never know: a clock. Tested below and by `node/tests/engine`.

use std::collections::VecDeque;
use std::time::Duration;

use super::Shard;
use super::request::Answer;
use crate::machine::Command;

/// Samples of the revision that a period is divided by: history lives up to a tenth longer than asked
/// (etcd's figure).
const SAMPLES: u64 = 10;
/// A compaction of revisions waits for so many of them, as a share of what is kept: the fewer, the more
/// often the log gets an entry for it.
const STEP_SHARE: i64 = 8;

/// Which history a shard gives up by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AutoCompaction {
    /// None: whoever embeds the engine compacts it. Overwritten values stay until then.
    #[default]
    Off,
    /// All but the last so many revisions of each shard, and up to an eighth more.
    Revisions(u64),
    /// What is older than this, and up to a tenth younger.
    Periodic(Duration),
}

impl AutoCompaction {
    /// What an engine does that was not told: a second of a shard's fastest writes can be read and watched
    /// from, and one key that is overwritten for ever takes no more than that.
    pub const DEFAULT: AutoCompaction = AutoCompaction::Revisions(100_000);
}

/// What a shard remembers for it.
#[derive(Debug, Default)]
pub struct Retention {
    /// Times in milliseconds and the revision then, oldest first.
    samples: VecDeque<(u64, i64)>,
    /// Asked for already.
    asked: i64,
}

impl Retention {
    /// The revision to compact at now, if one is due.
    fn due(&mut self, rule: AutoCompaction, now_ms: u64, revision: i64) -> Option<i64> {
        let at = match rule {
            AutoCompaction::Off => return None,
            AutoCompaction::Revisions(keep) => {
                let keep = i64::try_from(keep).unwrap_or(i64::MAX);
                let at = revision.saturating_sub(keep);
                (at - self.asked > keep / STEP_SHARE).then_some(at)?
            }
            AutoCompaction::Periodic(period) => self.sample(period, now_ms, revision)?,
        };
        if at <= self.asked.max(1) {
            return None;
        }
        self.asked = at;
        Some(at)
    }

    fn sample(&mut self, period: Duration, now_ms: u64, revision: i64) -> Option<i64> {
        let period_ms = u64::try_from(period.as_millis()).unwrap_or(u64::MAX);
        let last = self.samples.back();
        if last.is_none_or(|(at, seen)| *seen < revision && now_ms - at >= period_ms / SAMPLES) {
            self.samples.push_back((now_ms, revision));
        }
        let mut old = None;
        while let Some((_, revision)) = self
            .samples
            .pop_front_if(|(at, _)| at.saturating_add(period_ms) <= now_ms)
        {
            old = Some(revision);
        }
        old
    }

    /// When a shard at this revision has to be looked at again, if nothing else happens.
    fn due_ms(&self, rule: AutoCompaction, revision: i64) -> u64 {
        let AutoCompaction::Periodic(period) = rule else {
            return u64::MAX;
        };
        let period_ms = u64::try_from(period.as_millis()).unwrap_or(u64::MAX);
        let last = self.samples.back();
        let to_sample = last.is_none_or(|(_, seen)| *seen < revision) && self.asked < revision;
        let next = match to_sample {
            true => last.map_or(0, |(at, _)| at.saturating_add(period_ms / SAMPLES)),
            false => u64::MAX,
        };
        let first = self.samples.front();
        next.min(first.map_or(u64::MAX, |(at, _)| at.saturating_add(period_ms)))
    }
}

impl Shard {
    /// The leader asks for a compaction where one is due.
    pub(super) fn give_up_history(&mut self, now_ms: u64) {
        let rule = self.config.auto_compaction;
        if rule == AutoCompaction::Off || self.corrupt || !self.is_leader() {
            return;
        }
        let store = &self.machine.store;
        self.retention.asked = self.retention.asked.max(store.compacted_revision());
        if let Some(revision) = self.retention.due(rule, now_ms, store.revision()) {
            let physical = false;
            let encoded = Command::Compact { revision, physical }.encode();
            // Nobody waits for it; if it is lost, the next one covers it.
            let (answer, _) = Answer::channel();
            self.queue_first(encoded, answer, now_ms);
        }
    }

    /// The same where revisions are counted: what is due is asked for at once. A tick would find sixty thousand
    /// due in a busy shard, which are in no cache any more.
    pub(super) fn give_up_revisions(&mut self, now_ms: u64) {
        if matches!(self.config.auto_compaction, AutoCompaction::Revisions(_)) {
            self.give_up_history(now_ms);
        }
    }

    /// When history is due in a shard to which nothing happens.
    pub(super) fn history_due_ms(&self) -> u64 {
        let rule = self.config.auto_compaction;
        self.retention.due_ms(rule, self.machine.store.revision())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn revisions_beyond_those_kept_are_given_up_in_steps() {
        let mut retention = Retention::default();
        let rule = AutoCompaction::Revisions(800);
        let mut last = 0;
        for revision in (1..=2_000).step_by(50) {
            if let Some(at) = retention.due(rule, 0, revision) {
                assert_eq!(at, revision - 800, "what is younger stays");
                assert!(at - last > 100, "in steps");
                last = at;
            }
            assert!(revision - last <= 900, "and no more stays");
        }
        assert_eq!(last, 1_151);
    }

    #[test]
    fn periods_give_up_what_is_older() {
        let mut retention = Retention::default();
        let rule = AutoCompaction::Periodic(Duration::from_secs(1));
        // Ten revisions every 100 ms.
        for tick in 0..=20_u64 {
            let now_ms = tick * 100;
            let revision = 1 + 10 * tick as i64;
            let expected = (tick > 10).then(|| 1 + 10 * (tick as i64 - 10));
            assert_eq!(retention.due(rule, now_ms, revision), expected, "{now_ms}");
        }
        // Then nothing: the rest follows, at the times that are named, and then no more.
        let mut last = 0;
        loop {
            let now_ms = retention.due_ms(rule, 201);
            if now_ms == u64::MAX {
                break;
            }
            last = retention.due(rule, now_ms, 201).unwrap_or(last);
        }
        assert_eq!(last, 201);
    }

    #[test]
    fn off_is_off() {
        let mut retention = Retention::default();
        assert_eq!(retention.due(AutoCompaction::Off, 0, 1_000_000), None);
        assert_eq!(retention.due_ms(AutoCompaction::Off, 1_000_000), u64::MAX);
    }
}
