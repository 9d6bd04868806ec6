//! The end of a turn: work that nobody waits for, from a budget, and what the core tells of itself.
//!
//! Promises: a turn does at most [`SLICES_MAX`] slices of such work, whoever it is for, so that it stays
//! short with any number of shards; what is left gets its slices in the next turns, by turns. The more a
//! turn applies, the more slices it does, so that no load outruns the removal of what it overwrites. At most
//! [`CHECKPOINTS_MAX`] checkpoints are written at a time: they share the disk with the log, which paces their
//! pieces by the turns' time. Every [`SCRUB_EVERY_MICROS`], also when nothing else happens, a piece of sealed
//! log is read again and writes that do not come back are reported.
//! Must never know: what a shard does with its slice, who looks at what is published.

use std::sync::PoisonError;

use henge_api::Vitals;

use super::gauges::buckets_of;
use super::seats::{Seat, Slot};
use super::turn::{Core, Now, Phase};
use crate::shard::checkpoint::Progress;
use crate::shard::removal::COMPACT_SLICE;

/// Slices of compaction, of watchers' catching up and of long reads in one turn, as far as it has time (see
/// `work`), and only after a turn that applied thousands of entries.
const SLICES_MAX: usize = 32;
/// Applied entries for which a turn does another slice. A slice looks at so many versions, and what an entry
/// overwrites costs two to four looks; as much again makes up for the seconds in which a checkpoint, which
/// reads history, holds removal up. Measured with one and with two slices' worth: history that was given
/// up grew by more than a gigabyte in ten seconds of overload, and what took longer cost more.
const APPLIED_PER_SLICE: usize = COMPACT_SLICE / 8;
/// Applied entries for which a turn makes another slice of a checkpoint, which is a tenth of a millisecond:
/// a core with too much to do has a hundred long turns a second, and history that was overwritten since
/// the checkpoint began cannot all go before its end.
const APPLIED_PER_CHECKPOINT_SLICE: usize = 256;
/// Checkpoints being written at a time.
const CHECKPOINTS_MAX: usize = 2;
/// Bytes of old entries read back from the log for a slow follower at a time.
const READ_BACK_BYTES: usize = 4 << 20;

/// Sealed log is read again so much at a time, so often: 8 GiB within four days, a thousandth of what the
/// reference machine's disk reads.
const SCRUB_BYTES: usize = 256 << 10;
/// Time between two such reads.
pub(super) const SCRUB_EVERY_MICROS: u64 = 10_000_000;
/// A log write older than this is worth a warning.
const SLOW_MICROS: u64 = 5_000_000;
/// A log write older than this is not coming back soon: no disk that works takes so long, and most that
/// do not need longer (the kernel's own timeout for a device is 30 s).
const STUCK_MICROS: u64 = 10_000_000;

fn checkpoint_slices(applied: usize) -> usize {
    SLICES_MAX.min(1 + applied / APPLIED_PER_CHECKPOINT_SLICE)
}

impl Core {
    /// Work without a caller waiting: slices of compaction and checkpoints, watchers that are behind, old
    /// entries for slow followers. Returns whether more could be done at once.
    pub(super) fn background(&mut self, run: &[Slot], now: Now) -> bool {
        if self.phase != Phase::Running {
            return false;
        }
        for at in run {
            self.agenda.defer(*at);
            self.read_old_entries(*at);
        }
        let mut slices = SLICES_MAX.min(1 + self.applied / APPLIED_PER_SLICE);
        while slices > 0
            && self.work.has_time_behind()
            && let Some(at) = self.agenda.next_deferred()
        {
            let Some(seat) = self.shards.get_mut(at) else {
                continue;
            };
            let slice = seat.shard.slice(now.millis());
            self.chains.extend(slice.chain);
            if slice.asked {
                self.agenda.mark(at);
            }
            if slice.more {
                // Only whole slices count: to look at a shard that has nothing is cheap.
                slices -= 1;
                self.agenda.defer(at);
            }
        }
        let go_on = self.checkpoints(now);
        go_on || self.agenda.deferred() > 0
    }

    fn read_old_entries(&mut self, at: Slot) {
        let Some(seat) = self.shards.get_mut(at) else {
            return;
        };
        while let Some((low, high)) = seat.shard.wanted() {
            let group = seat.shard.group();
            let id = self.wal.read(group, low, high, READ_BACK_BYTES);
            self.reads.push((id, at, low));
        }
    }

    /// Begins checkpoints that are due and goes on with those that run.
    fn checkpoints(&mut self, now: Now) -> bool {
        self.wal.go_on_with_checkpoints();
        let written = self.wal.stats().bytes;
        // At least a byte: what is set due again must not be due at once.
        let every = self.config.checkpoint_bytes.max(1);
        self.bring_checkpoints_forward(now, written);
        while self.agenda.checkpointing.len() < CHECKPOINTS_MAX
            && let Some(at) = self.agenda.take_due(written)
        {
            let Some(seat) = self.shards.get_mut(at) else {
                continue;
            };
            let progress = seat.shard.begin_checkpoint(&mut self.wal);
            if progress == Progress::More {
                self.agenda.checkpointing.push(at);
            } else {
                self.checkpoint_ended(at, progress, now);
                self.agenda.set_due(at, written.saturating_add(every));
            }
        }
        let mut go_on = false;
        for at in std::mem::take(&mut self.agenda.checkpointing) {
            let Some(seat) = self.shards.get_mut(at) else {
                continue;
            };
            let mut slices = checkpoint_slices(self.applied);
            let mut progress = Progress::More;
            while progress == Progress::More && slices > 0 {
                progress = seat.shard.checkpoint_slice(&mut self.wal);
                seat.shard.charge();
                slices = match self.work.has_time_behind() {
                    true => slices - 1,
                    false => 0,
                };
            }
            if matches!(progress, Progress::More | Progress::Waits) {
                go_on |= progress == Progress::More;
                self.agenda.checkpointing.push(at);
            } else {
                // What it lets go of is said in the log's next batch.
                go_on = true;
                self.checkpoint_ended(at, progress, now);
                self.agenda.set_due(at, written.saturating_add(every));
            }
        }
        go_on
    }

    /// Where room lacks, time decides what is due: a full disk lets nothing be written that could. Only a
    /// checkpoint gives segments back, so whoever has entries in the oldest one is asked for it early.
    fn bring_checkpoints_forward(&mut self, now: Now, written: u64) {
        let log_lacks = self.wal.stats().space_low;
        if !self.retries.take_due(now.micros, log_lacks) || self.config.checkpoint_bytes == u64::MAX
        {
            return;
        }
        for at in self.retries.next() {
            self.agenda.bring_forward(at, written);
        }
        let low = self.wal.is_down_to_ballast(self.log_reserve);
        if low && self.wal.let_go() {
            return;
        }
        let pins = if log_lacks {
            self.wal.pinning(low)
        } else {
            Vec::new()
        };
        for pin in pins {
            if let Some(at) = self.shards.slot_of(pin.group)
                && let Some(seat) = self.shards.get_mut(at)
                && seat.shard.has_early_checkpoint()
            {
                self.agenda.bring_forward(at, written);
            }
        }
    }

    fn checkpoint_ended(&mut self, at: Slot, progress: Progress, now: Now) {
        let low = self.wal.is_down_to_ballast(self.log_reserve);
        let (written, every) = (self.wal.stats().bytes, self.config.checkpoint_bytes);
        let Some(seat) = self.shards.get_mut(at) else {
            return;
        };
        seat.shard.note_checkpoint_end(written, every, low);
        match progress {
            Progress::Failed { cheap } => {
                let lacks_room = seat.shard.had_no_room();
                self.retries.failed(at, now.micros, lacks_room, cheap);
            }
            _ => self.retries.done(at),
        }
        // What it takes in may have changed.
        self.agenda.mark(at);
    }

    /// Reads what is sealed again, a slice at a time, and says when a write does not come back.
    pub(super) fn scrub(&mut self, now: Now) {
        if now.micros < self.scrub_at_micros {
            return;
        }
        self.scrub_at_micros = now.micros + SCRUB_EVERY_MICROS;
        if self.phase != Phase::Running {
            return;
        }
        self.wal.scrub_slice(SCRUB_BYTES);
        // A log above its budget: those that hold its oldest segment write a checkpoint now.
        let written = self.wal.stats().bytes;
        for pin in self.wal.pins() {
            if let Some(at) = self.shards.slot_of(pin.group) {
                self.agenda.bring_forward(at, written);
            }
        }
        if let Some(write) = self.wal.oldest_in_flight()
            && now.micros.saturating_sub(write.since_micros) > SLOW_MICROS
        {
            let seconds = now.micros.saturating_sub(write.since_micros) / 1_000_000;
            tracing::warn!(
                file = write.file,
                offset = write.offset,
                seconds,
                "a log write does not complete"
            );
        }
    }

    /// Whether the disk still answers: while it does not, this core says nothing to its peers, and says
    /// of itself that it is not well.
    pub(super) fn watch_log(&mut self, now: Now) {
        let stuck = self.phase == Phase::Running && now.micros >= self.stuck_micros();
        if stuck == self.log_stuck {
            return;
        }
        self.log_stuck = stuck;
        // Its shards' metrics are read by `/health`, and it may be a while until they are looked at.
        self.shards
            .iter_mut()
            .for_each(|(at, _)| self.agenda.mark(at));
        let Some(write) = self.wal.oldest_in_flight().filter(|_| stuck) else {
            if self.phase != Phase::Running {
                return;
            }
            tracing::info!("the log can be written again: this member speaks to its peers again");
            return;
        };
        let seconds = now.micros.saturating_sub(write.since_micros) / 1_000_000;
        tracing::error!(
            file = write.file,
            offset = write.offset,
            seconds,
            "a log write does not complete: until it does, this member neither leads nor answers its peers"
        );
    }

    /// When the oldest write under way will be stuck.
    fn stuck_micros(&self) -> u64 {
        let since = self.wal.oldest_in_flight_micros();
        since.map_or(u64::MAX, |since| since.saturating_add(STUCK_MICROS))
    }

    /// The same in milliseconds, unless that is known already.
    pub(super) fn stuck_ms(&self) -> u64 {
        // Nobody looks at it but while the core runs: what is due for nobody would be due for ever.
        match self.log_stuck || self.phase != Phase::Running {
            true => u64::MAX,
            false => self.stuck_micros().div_ceil(1_000),
        }
    }

    /// Shows what happened in this turn to whoever asks.
    pub(super) fn publish(&mut self, run: &[Slot], now: Now) {
        let stats = self.wal.stats();
        self.tell_shortage(now);
        let poisoned = self.phase == Phase::Poisoned;
        for at in run {
            let Some(Seat { shard, door, .. }) = self.shards.get_mut(*at) else {
                continue;
            };
            let mut metrics = door.metrics.lock().unwrap_or_else(PoisonError::into_inner);
            shard.metrics(&mut metrics);
            metrics.poisoned = poisoned;
            metrics.log_stuck = self.log_stuck;
            door.vitals.publish(metrics.vitals());
        }
        self.config.vitals.publish(Vitals {
            poisoned,
            log_stuck: self.log_stuck,
            ..Vitals::default()
        });
        let metrics = &mut self.gauges.metrics;
        let batches = stats.batches - metrics.wal_batches;
        if let Some(entries) = (stats.entries - self.entries_counted).checked_div(batches) {
            self.entries_counted = stats.entries;
            (0..batches).for_each(|_| metrics.batch_entries.record(entries));
        }
        metrics.shards_active = run.len() as u64;
        metrics.waiting = self.waiting as u64;
        metrics.background = self.agenda.deferred() as u64;
        metrics.checkpoints = self.agenda.checkpointing.len() as u64;
        metrics.memory.log_staged = stats.staged_bytes as u64;
        metrics.memory.log_index = stats.index_bytes as u64;
        metrics.wal_healed = stats.healed;
        metrics.wal_batches = stats.batches;
        metrics.wal_bytes = stats.bytes;
        metrics.wal_payload_bytes = stats.payload_bytes;
        metrics.wal_in_flight = stats.in_flight as u64;
        metrics.wal_segments = stats.segments as u64;
        metrics.io_backend = stats.backend;
        metrics.direct_io = stats.direct_io;
        metrics.poisoned = poisoned;
        metrics.log_stuck = self.log_stuck;
        if batches > 0 {
            let log = self.wal.histograms();
            metrics.log_write_micros = buckets_of(&log.write_micros);
            metrics.log_batch_bytes = buckets_of(&log.batch_bytes);
            metrics.log_in_flight = buckets_of(&log.in_flight);
        }
        let published = &self.config.metrics;
        published
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone_from(metrics);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_makes_one_slice_of_a_checkpoint_at_rest_and_a_bounded_number_under_load() {
        assert_eq!(checkpoint_slices(0), 1);
        assert_eq!(checkpoint_slices(APPLIED_PER_CHECKPOINT_SLICE), 2);
        assert_eq!(checkpoint_slices(usize::MAX), SLICES_MAX);
    }
}
