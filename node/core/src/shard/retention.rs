//! Automatic compaction: history that is given up without being asked.
//!
//! As etcd's `--auto-compaction-*`, but the leader itself proposes it through the log, so that every replica
//! gives up the same. etcd looks at revisions every five minutes, in which an embedded engine makes a
//! hundred million of them; here that is a rule of its own, for who is used to etcd's, and by the other
//! revisions are counted as they are applied.
//! Promises: what is younger than asked for stays; a shard at rest comes to its bound as well, and then
//! costs nothing. Members that follow remember what was when, so that a new leader goes on where the last
//! one was.
//! Must never know: a clock. Tested below and by `node/tests/engine`.

use std::collections::VecDeque;
use std::time::Duration;

use super::Shard;
use super::request::Answer;
use crate::machine::Command;

/// Samples of the revision that a period is divided by: history lives up to a tenth longer than asked
/// (etcd's figure).
const SAMPLES: u64 = 10;
/// They lie no further apart than this, however long the period (etcd looks at an hour's tenth).
const SAMPLE_MS_MAX: u64 = 360_000;
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
    /// All but the last so many revisions at moments that lie so far apart; in between nothing goes, whatever
    /// is written: with five minutes, etcd's `--auto-compaction-mode=revision`.
    RevisionsEvery(u64, Duration),
    /// What is older than this, and what is older by up to a tenth of it, or six minutes, may stay.
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
    /// When the revision was looked at last, where that has its times.
    looked_ms: Option<u64>,
    /// Asked for already.
    asked: i64,
}

impl Retention {
    /// The revision to compact at now, if one is due and this member is the one that asks for it.
    fn due(
        &mut self,
        rule: AutoCompaction,
        now_ms: u64,
        revision: i64,
        leads: bool,
    ) -> Option<i64> {
        let at = match rule {
            AutoCompaction::Off => return None,
            AutoCompaction::Revisions(keep) => {
                let keep = i64::try_from(keep).unwrap_or(i64::MAX);
                let at = revision.saturating_sub(keep);
                (at - self.asked > keep / STEP_SHARE).then_some(at)?
            }
            AutoCompaction::RevisionsEvery(keep, every) => {
                let last_ms = *self.looked_ms.get_or_insert(now_ms);
                if now_ms < last_ms.saturating_add(millis(every)) {
                    return None;
                }
                self.looked_ms = Some(now_ms);
                revision.saturating_sub(i64::try_from(keep).unwrap_or(i64::MAX))
            }
            AutoCompaction::Periodic(period) => self.sample(millis(period), now_ms, revision)?,
        };
        if at <= self.asked.max(1) || !leads {
            return None;
        }
        self.asked = at;
        Some(at)
    }

    fn sample(&mut self, period_ms: u64, now_ms: u64, revision: i64) -> Option<i64> {
        let last = self.samples.back();
        if last.is_none_or(|(at, seen)| *seen < revision && now_ms - at >= sample_ms(period_ms)) {
            self.samples.push_back((now_ms, revision));
        }
        // The newest of those that are old enough stays, for whoever leads next.
        let is_old = |(at, _): &(u64, i64)| at.saturating_add(period_ms) <= now_ms;
        while self.samples.get(1).is_some_and(is_old) {
            self.samples.pop_front();
        }
        let old = self.samples.front().filter(|sample| is_old(sample));
        old.map(|(_, revision)| *revision)
    }

    /// When a shard at this revision has to be looked at again, if nothing else happens.
    fn due_ms(&self, rule: AutoCompaction, revision: i64) -> u64 {
        let period_ms = match rule {
            AutoCompaction::Off | AutoCompaction::Revisions(_) => return u64::MAX,
            AutoCompaction::RevisionsEvery(keep, every) => {
                let at = revision.saturating_sub(i64::try_from(keep).unwrap_or(i64::MAX));
                let next = self
                    .looked_ms
                    .map_or(0, |at| at.saturating_add(millis(every)));
                return match at > self.asked.max(1) {
                    true => next,
                    false => u64::MAX,
                };
            }
            AutoCompaction::Periodic(period) => millis(period),
        };
        let last = self.samples.back();
        let to_sample = last.is_none_or(|(_, seen)| *seen < revision) && self.asked < revision;
        let next = match to_sample {
            true => last.map_or(0, |(at, _)| at.saturating_add(sample_ms(period_ms))),
            false => u64::MAX,
        };
        let first = self.samples.iter().find(|(_, seen)| *seen > self.asked);
        next.min(first.map_or(u64::MAX, |(at, _)| at.saturating_add(period_ms)))
    }
}

fn sample_ms(period_ms: u64) -> u64 {
    (period_ms / SAMPLES).min(SAMPLE_MS_MAX)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl Shard {
    /// The leader asks for a compaction where one is due.
    pub(super) fn give_up_history(&mut self, now_ms: u64) {
        let rule = self.config.auto_compaction;
        if rule == AutoCompaction::Off || self.corrupt {
            return;
        }
        let leads = self.is_leader();
        let store = &self.machine.store;
        self.retention.asked = self.retention.asked.max(store.compacted_revision());
        if let Some(revision) = self.retention.due(rule, now_ms, store.revision(), leads) {
            // The others are few, whatever is written.
            if !matches!(rule, AutoCompaction::Revisions(_)) {
                tracing::info!(revision, "compacted automatically");
            }
            let physical = false;
            let encoded = Command::Compact { revision, physical }.encode();
            // Nobody waits for it; if it is lost, the next one covers it.
            let (answer, _) = Answer::channel();
            self.queue_first(encoded, answer, now_ms);
        }
    }

    /// The same where revisions are counted: what is due is asked for at once. A tick would find sixty
    /// thousand due in a busy shard, which are in no cache any more.
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
            if let Some(at) = retention.due(rule, 0, revision, true) {
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
            assert_eq!(
                retention.due(rule, now_ms, revision, true),
                expected,
                "{now_ms}"
            );
        }
        // Then nothing: the rest follows, at the times that are named, and then no more.
        let mut last = 0;
        loop {
            let now_ms = retention.due_ms(rule, 201);
            if now_ms == u64::MAX {
                break;
            }
            last = retention.due(rule, now_ms, 201, true).unwrap_or(last);
        }
        assert_eq!(last, 201);
    }

    /// A member that came to lead began to count when it did: history lived up to a period longer each time.
    #[test]
    fn regression_a_new_leader_goes_on_where_the_last_one_was() {
        let mut retention = Retention::default();
        let rule = AutoCompaction::Periodic(Duration::from_secs(1));
        for tick in 0..=15_u64 {
            let revision = 1 + 10 * tick as i64;
            assert_eq!(retention.due(rule, tick * 100, revision, false), None);
        }
        assert_eq!(retention.due(rule, 1_600, 161, true), Some(61));
        // What fell due at rest, while nobody led, too.
        let mut retention = Retention::default();
        retention.due(rule, 0, 51, false);
        retention.due(rule, 5_000, 51, false);
        assert_eq!(retention.due_ms(rule, 51), 1_000);
        assert_eq!(retention.due(rule, 5_100, 51, true), Some(51));
        assert_eq!(retention.due_ms(rule, 51), u64::MAX, "and no more");
    }

    #[test]
    fn revisions_that_are_looked_at_every_so_often_stay_at_least_as_long() {
        let mut retention = Retention::default();
        let rule = AutoCompaction::RevisionsEvery(1_000, Duration::from_secs(300));
        assert_eq!(retention.due_ms(rule, 1_001), u64::MAX, "all are kept");
        let due: Vec<_> = (0..=900_u64)
            .filter_map(|second| {
                let revision = 1 + 100 * second as i64;
                let at = retention.due(rule, second * 1_000, revision, true)?;
                Some((second, at))
            })
            .collect();
        assert_eq!(due, [(300, 29_001), (600, 59_001), (900, 89_001)]);
        // A shard at rest is looked at once more, and then no more.
        assert_eq!(retention.due_ms(rule, 95_000), 1_200_000);
        assert_eq!(retention.due(rule, 1_200_000, 95_000, true), Some(94_000));
        assert_eq!(retention.due_ms(rule, 95_000), u64::MAX);
    }

    /// Three days lived seven hours longer.
    #[test]
    fn regression_a_long_period_is_sampled_every_six_minutes() {
        let mut retention = Retention::default();
        let hour = 3_600_000;
        let rule = AutoCompaction::Periodic(Duration::from_secs(72 * 3_600));
        let mut asked = None;
        for minute in 0..(73 * 60) {
            let now_ms = minute * 60_000;
            let revision = 1 + minute as i64;
            let at = retention.due(rule, now_ms, revision, true);
            asked = at.or(asked);
            let kept_ms = now_ms - 60_000 * asked.map_or(0, |at| at as u64 - 1);
            let most = 72 * hour + SAMPLE_MS_MAX + 60_000;
            assert!(kept_ms <= most, "{kept_ms} ms at minute {minute}");
        }
        assert!(asked.is_some());
    }

    #[test]
    fn off_is_off() {
        let mut retention = Retention::default();
        assert_eq!(retention.due(AutoCompaction::Off, 0, 1_000_000, true), None);
        assert_eq!(retention.due_ms(AutoCompaction::Off, 1_000_000), u64::MAX);
    }
}
