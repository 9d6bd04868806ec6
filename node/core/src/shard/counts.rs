//! What a shard counts for people alone: nothing here changes what it does.
//!
//! Promises: counting is a few additions per entry; what is shown is true at the end of a turn. What the log
//! is replayed for at a start was counted by an earlier process and is left out, as etcd does not count it
//! either.
//! Must never know: names and formats of metrics (the edge's `plain`).

use std::sync::Arc;

use henge_api::{Alarm, AppliedTimes, COMPACTION_SCALE, Error, Histogram, Metrics};
use henge_mvcc::{Store, Tally};
use henge_wal::Shortage;

use super::Shard;
use crate::machine::{Machine, Response, command};

const KINDS: usize = AppliedTimes::KINDS.len();

/// The counters.
#[derive(Debug)]
pub(crate) struct Counts {
    /// Entries up to here are of an earlier process.
    replayed_index: u64,
    /// What they came to.
    before: Tally,
    expired_before: u64,
    /// Versions that were there before the store changed anything.
    versions_before: u64,
    versions_compacted: u64,
    /// Renewals in all as of the last look, and those while this member led.
    renewed_seen: u64,
    renewed_led: u64,
    /// The last tick, if this member led.
    led_tick_ms: Option<u64>,
    late_heartbeats: u64,
    compaction: Compaction,
    /// Entries applied since the last look at the clock, by kind and success.
    applied: [[u64; 2]; KINDS],
    /// Microseconds that were spent on an entry that is not applied yet.
    unfinished_micros: u64,
    times: Arc<AppliedTimes>,
}

/// Compactions, from the command to the end of what it removes.
#[derive(Debug, Default)]
struct Compaction {
    seen: i64,
    since_ms: Option<u64>,
    ended_ms: Option<u64>,
    millis: Arc<Histogram>,
}

impl Counts {
    /// Nothing was counted. Entries up to `replayed_index` come again.
    pub fn new(replayed_index: u64, machine: &Machine) -> Self {
        let store = &machine.store;
        let compaction = Compaction {
            seen: store.compacted_revision(),
            ..Compaction::default()
        };
        Counts {
            replayed_index,
            before: store.tally(),
            expired_before: machine.leases_expired,
            versions_before: versions_before(store),
            versions_compacted: 0,
            renewed_seen: 0,
            renewed_led: 0,
            led_tick_ms: None,
            late_heartbeats: 0,
            compaction,
            applied: [[0; 2]; KINDS],
            unfinished_micros: 0,
            times: Arc::default(),
        }
    }

    /// Whether an entry was applied by an earlier process.
    pub fn replays(&self, index: u64) -> bool {
        index <= self.replayed_index
    }

    /// What was counted until now was for an earlier process.
    pub fn forget(&mut self, machine: &Machine) {
        self.before = machine.store.tally();
        self.expired_before = machine.leases_expired;
        self.compaction.seen = machine.store.compacted_revision();
        self.versions_before = versions_before(&machine.store);
    }

    /// An entry was applied.
    pub fn applied(&mut self, payload: &[u8], response: &Result<Response, Error>) {
        // As in etcd, who asks for what is compacted has asked well.
        let compacted = matches!(
            response,
            Err(Error::Invalid(henge_mvcc::Error::Compacted { .. }))
        );
        if let Some(kind) = command::kind(payload).filter(|kind| *kind < KINDS) {
            self.applied[kind][usize::from(response.is_ok() || compacted)] += 1;
        }
    }

    /// What was applied since the last time took so long, together.
    pub fn took(&mut self, micros: u64) {
        let micros = self.unfinished_micros + micros;
        let entries: u64 = self.applied.iter().flatten().sum();
        let Some(mean) = micros.checked_div(entries) else {
            self.unfinished_micros = micros;
            return;
        };
        self.unfinished_micros = 0;
        let mut rest = micros - mean * entries;
        for (kind, both) in self.applied.iter_mut().enumerate() {
            for (success, count) in [false, true].into_iter().zip(both) {
                let count = std::mem::take(count);
                if let Some(times) = self.times.of(kind, success).filter(|_| count > 0) {
                    times.record(AppliedTimes::SCALE, mean, count);
                    times.add_to_sum(std::mem::take(&mut rest));
                }
            }
        }
    }

    /// How many versions there are: what was written and is not there was removed.
    pub fn note_versions(&mut self, store: &Store, versions: u64) {
        let written = self.versions_before + store.tally().versions;
        self.versions_compacted = written.saturating_sub(versions);
    }

    /// Fills in what was counted here.
    pub fn show(&self, machine: &Machine, into: &mut Metrics) {
        into.asked = machine.store.tally().since(&self.before);
        into.leases_expired = machine.leases_expired - self.expired_before;
        into.leases_renewed = self.renewed_led;
        into.versions_compacted = self.versions_compacted;
        into.compacted_ms = self.compaction.ended_ms;
        into.late_heartbeats = self.late_heartbeats;
        // The same all the time, but for the first.
        if !Arc::ptr_eq(&into.applied_times, &self.times) {
            into.applied_times = self.times.clone();
            into.compaction_millis = self.compaction.millis.clone();
        }
    }
}

/// Versions of which the store's own count knows nothing, as it was restored with them.
fn versions_before(store: &Store) -> u64 {
    (store.stats().versions).saturating_sub(store.tally().versions)
}

impl Shard {
    /// At the end of a turn: what this one changed.
    pub(super) fn note_turn(&mut self, now_ms: u64) {
        let leads = self.is_leader();
        let store = &self.machine.store;
        let renewed = store.tally().leases_renewed - self.counts.before.leases_renewed;
        let before = std::mem::replace(&mut self.counts.renewed_seen, renewed);
        if leads {
            self.counts.renewed_led += renewed.saturating_sub(before);
        }
        let compaction = &mut self.counts.compaction;
        let newest = store.compacted_revision();
        if std::mem::replace(&mut compaction.seen, newest) != newest {
            compaction.since_ms.get_or_insert(now_ms);
        }
        if store.compacted_physically() >= newest
            && let Some(since_ms) = compaction.since_ms.take()
        {
            let millis = now_ms.saturating_sub(since_ms);
            compaction.millis.record(COMPACTION_SCALE, millis, 1);
            compaction.ended_ms = Some(now_ms);
        }
    }

    /// A tick, which for a leader is a heartbeat to each of the others: late, as in etcd, if it comes later
    /// than after two intervals.
    pub(super) fn note_heartbeat(&mut self, now_ms: u64) {
        let leads = !self.is_alone() && self.is_leader();
        let before = std::mem::replace(&mut self.counts.led_tick_ms, leads.then_some(now_ms));
        let is_late = before.is_some_and(|at| now_ms > at + 2 * self.config.tick_ms);
        if leads && is_late {
            self.counts.late_heartbeats += self.config.voters.len() as u64 - 1;
        }
    }

    /// Fills in the shard's share of the metrics.
    pub fn metrics(&self, into: &mut Metrics) {
        let stats = &self.stats;
        into.has_leader = self.leader() != henge_raft::NONE;
        into.is_leader = self.is_leader();
        into.leader_changes = self.leader_changes;
        into.committed = self.raft.commit_index();
        into.applied = self.machine.applied_index;
        into.pending = (self.waiting() + self.renewals.waiting()) as u64;
        into.failed = self.failed;
        into.keys = stats.keys;
        into.versions = stats.versions;
        into.db_bytes = stats.bytes.total();
        into.tail_bytes = self.raft.storage().bytes() as u64;
        into.pending_bytes = self.pending_bytes as u64;
        into.revision = self.machine.store.revision();
        into.compact_revision = self.machine.store.compacted_revision();
        into.watchers = self.watches.count() as u64;
        into.leases = stats.leases;
        into.follower_lag = self.follower_lag;
        into.reads_alone = self.is_alone() && !self.corrupt && self.lacks().is_some();
        into.space_low = self.lacks().is_some();
        into.alarm_nospace = self.machine.alarms.is_raised(Alarm::NoSpace);
        into.alarm_corrupt = self.machine.alarms.is_raised(Alarm::Corrupt);
        into.quota_bytes = self.config.quota_bytes;
        into.lacks_descriptors = self.shortage == Some(Shortage::Descriptors);
        into.db_bytes_in_use = stats.bytes.in_use();
        into.open_reads = self.machine.store.cursors() as u64;
        into.watch_streams = self.watches.streams() as u64;
        into.watchers_behind = self.machine.store.watchers_behind() as u64;
        (into.slow_read_indexes, into.failed_read_indexes) = self.reads.counts();
        self.counts.show(&self.machine, into);
        // The same all the time, but for the first.
        if !Arc::ptr_eq(&into.watched, self.watches.watched()) {
            into.watched = self.watches.watched().clone();
        }
    }
}

#[cfg(test)]
mod tests {
    use henge_mvcc::PutRequest;
    use henge_raft::{Message, MessageKind};

    use super::*;
    use crate::machine::Command;
    use crate::shard::reads::Read;
    use crate::shard::request::Answer;
    use crate::shard::tests::start;
    use henge_api::Outcome;

    #[test]
    fn what_is_applied_in_one_go_has_its_mean_and_the_sum_is_exact() {
        let mut counts = Counts::new(0, &Machine::new());
        let put = PutRequest {
            key: b"k",
            ..PutRequest::default()
        };
        let put = Command::Put(put).encode();
        let compact = Command::Compact {
            revision: 1,
            physical: false,
        };
        let compact = compact.encode();
        let done = || Ok(Response::Done);
        (0..3).for_each(|_| counts.applied(&put, &done()));
        counts.applied(&put, &Err(Error::NoSpace));
        let compacted = henge_mvcc::Error::Compacted {
            requested: 1,
            compacted: 2,
        };
        counts.applied(&compact, &Err(compacted.into()));
        counts.took(1_003);
        // One that took three slices.
        counts.took(500);
        counts.took(700);
        counts.applied(&put, &done());
        counts.took(1);
        let of = |kind: usize, success| {
            let times = counts.times.of(kind, success).expect("a kind");
            (times.total(), times.sum())
        };
        assert_eq!(of(0, true), (4, 3 * 200 + 1_201));
        // What rounding left out goes to one of them.
        assert_eq!(of(0, false), (1, 203));
        assert_eq!(of(3, true), (1, 200), "asked for what is gone");
        assert_eq!(of(3, false), (0, 0));
    }

    #[test]
    fn rounds_of_reads_that_fail_and_that_are_slow_are_counted() {
        let mut shard = start(&[1, 2, 3], 1);
        let read = |shard: &mut Shard, now_ms| {
            let (answer, receiver) = Answer::channel();
            shard.read_later(Read::Barrier, answer, now_ms);
            receiver
        };
        // Nobody leads: at its deadline it is given up.
        let mut lost = read(&mut shard, 0);
        shard.ask_read_index(0);
        shard.reads.expire(7_000);
        let outcome = Outcome::NotDone;
        assert_eq!(lost.try_recv(), Some(Err(Error::Timeout { outcome })));
        assert_eq!(shard.reads.counts(), (1, 0));
        let heartbeat = Message {
            kind: MessageKind::Heartbeat,
            from: 2,
            to: 1,
            term: 1,
            ..Message::default()
        };
        shard.step_peer(heartbeat, 7_000);
        let mut again = read(&mut shard, 7_000);
        shard.ask_read_index(7_000);
        let context = shard.reads.last_context();
        // The leader is lost, which is heard of twice, and another one is asked.
        shard.reads.ask_again();
        shard.reads.ask_again();
        assert_eq!(shard.reads.counts(), (1, 1));
        shard.ask_read_index(7_100);
        shard.reads.expire(14_000);
        assert!(again.try_recv().is_some());
        assert_eq!(shard.reads.counts(), (2, 1));
        // And its word comes when nobody waits any more.
        shard.confirm_read(&context.to_le_bytes(), 0);
        assert_eq!(shard.reads.counts(), (3, 1));
    }
}
