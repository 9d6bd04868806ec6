//! A core and its log: batches go out and come back durable, old entries come back, room runs short.
//!
//! Promises: nothing that waits for a batch goes before that batch is durable.
//! Must never know: what the entries say.

use henge_raft::{Entry, EntryKind};
use henge_wal::{Lsn, ReadEntry, ReadError, ReadId};

use super::turn::{Core, Now, Phase};
use crate::shard::turns::News;

impl Core {
    pub(super) fn durable(&mut self, lsn: Lsn, now: Now) {
        self.durable_lsn = lsn;
        self.gauges.durable(lsn, now.micros);
        self.let_propose();
        while let Some(parked) = self.parked.pop_front_if(|parked| parked.lsn <= lsn) {
            if let Some(seat) = self.shards.get_mut(parked.shard) {
                seat.shard.deliver(parked.responses, &mut self.messages);
                self.agenda.mark(parked.shard);
            }
        }
    }

    pub(super) fn submit(&mut self, now: Now) {
        if self.phase != Phase::Running {
            return;
        }
        match self.wal.submit() {
            Ok(_) => {
                let submitted = self.wal.stats().submitted_lsn;
                self.gauges
                    .submitted(submitted, self.durable_lsn, now.micros);
                // Several batches may be in flight: what waited only for this one to go need not wait longer.
                if self.wal.staged_bytes() == 0 {
                    self.let_propose();
                }
            }
            Err(error) => self.poison(&error.to_string()),
        }
    }

    pub(super) fn read_back(
        &mut self,
        id: ReadId,
        result: Result<Vec<ReadEntry>, ReadError>,
        now: Now,
    ) {
        let Some(found) = self.reads.iter().position(|(read, ..)| *read == id) else {
            return;
        };
        let (_, at, low) = self.reads.swap_remove(found);
        self.agenda.mark(at);
        let Some(seat) = self.shards.get_mut(at) else {
            return;
        };
        let entry = |entry: ReadEntry| Entry {
            term: entry.term,
            index: entry.index,
            kind: EntryKind::from_u8(entry.kind).unwrap_or_default(),
            data: entry.payload,
        };
        let found = result.map(|entries| entries.into_iter().map(entry).collect());
        let news = News::OldEntries { low, found };
        seat.shard.hear(news, now.millis());
    }

    /// Tells the shards what the log lacks, as soon as what it has is down to its ballast: until then writes
    /// go on as always.
    pub(super) fn tell_shortage(&mut self, now: Now) {
        let low = self.wal.is_down_to_ballast(self.log_reserve);
        let shortage = self.wal.stats().shortage.filter(|_| low);
        let log_full = self.wal.is_short_of(self.log_reserve);
        if (shortage, log_full) == (self.shortage, self.log_full) {
            return;
        }
        match (self.shortage, shortage) {
            (None, Some(why)) => tracing::warn!(
                %why,
                "no room for another log segment: writes that add data are refused"
            ),
            (Some(_), None) => tracing::info!("there is room for log segments again"),
            _ => {}
        }
        (self.shortage, self.log_full) = (shortage, log_full);
        let (lacks, is_full) = (shortage, log_full);
        self.tell_all(|| News::Log { lacks, is_full }, now);
    }
}
