//! The naive twin of the log: a list of batches, applied one by one. And a driver for the simulated
//! machine that compares the two after every crash.
#![allow(dead_code, reason = "every test file uses its own part of this")]

use std::collections::BTreeMap;
use std::path::Path;
use std::task::{Context, Poll, Waker};

use henge_wal::disk::sim::{Keep, SimHandle};
use henge_wal::{Collect, Event, Identity, OpenError, Options, Record, Replay, Wal};

use super::{Dice, US};

/// A record that owns its bytes.
#[derive(Clone, Debug, PartialEq)]
pub enum Rec {
    Entry(u64, u64, u64, Vec<u8>),
    Hard(u64, u64, u64, u64),
    Compacted(u64, u64, u64),
    Restored(u64, u64, u64),
    Removed(u64),
}

impl Rec {
    pub fn record(&self) -> Record<'_> {
        match *self {
            Rec::Entry(group, term, index, ref payload) => Record::Entry {
                group,
                term,
                index,
                kind: 0,
                payload,
            },
            Rec::Hard(group, term, vote, commit) => Record::HardState {
                group,
                term,
                vote,
                commit,
            },
            Rec::Compacted(group, index, term) => Record::Compacted { group, index, term },
            Rec::Restored(group, index, term) => Record::Restored { group, index, term },
            Rec::Removed(group) => Record::Removed { group },
        }
    }
}

/// How two states differ, in few words.
fn differ(found: &Collect, due: &Collect) -> String {
    let brief = |c: &Collect, group: &u64| {
        c.groups.get(group).map(|log| {
            let ends = log
                .entries
                .front()
                .map(|e| e.index)
                .zip(log.entries.back().map(|e| e.index));
            let hard = (log.term, log.vote, log.commit);
            format!("hard {hard:?} after {} entries {ends:?}", log.compacted)
        })
    };
    let groups = found.groups.keys().chain(due.groups.keys());
    let odd = groups.filter(|g| found.groups.get(g) != due.groups.get(g));
    odd.map(|g| {
        format!(
            "group {g}: {:?}, not {:?}; ",
            brief(found, g),
            brief(due, g)
        )
    })
    .collect()
}

/// A log on a simulated machine, and what must be in it.
pub struct Twin {
    pub machine: SimHandle,
    pub options: Options,
    pub wal: Option<Wal>,
    /// What was recovered when the log was opened.
    pub base: Collect,
    /// Records staged since then, by batch.
    pub batches: BTreeMap<u64, Vec<Rec>>,
    /// Highest batch acknowledged; highest batch submitted.
    pub acked: u64,
    pub submitted: u64,
    pub events: Vec<Event>,
}

impl Twin {
    pub fn new(machine: SimHandle, options: Options) -> Self {
        Self {
            machine,
            options,
            wal: None,
            base: Collect::default(),
            batches: BTreeMap::new(),
            acked: 0,
            submitted: 0,
            events: Vec::new(),
        }
    }

    /// What the log holds if `lsn` is its last batch.
    pub fn state(&self, lsn: u64) -> Collect {
        let mut state = self.base.clone();
        for rec in self.batches.range(..=lsn).flat_map(|(_, recs)| recs) {
            state.record(rec.record());
        }
        state
    }

    /// What is staged and what was before, all applied.
    pub fn newest(&self) -> Collect {
        self.state(u64::MAX)
    }

    /// Open the log and compare: a prefix, and at least what was acknowledged.
    pub fn open(&mut self) -> Result<(), OpenError> {
        self.open_as(&US)
    }

    pub fn open_as(&mut self, identity: &Identity) -> Result<(), OpenError> {
        let mut found = Collect::default();
        let disk = Box::new(self.machine.disk());
        let (wal, report) = Wal::open(Path::new("sim"), &self.options, identity, disk, &mut found)?;
        let lsn = report.last_lsn;
        assert!(
            lsn >= self.acked,
            "batch {lsn} is the last, {} was acknowledged",
            self.acked
        );
        assert!(
            lsn <= self.submitted,
            "batch {lsn} was never submitted ({})",
            self.submitted
        );
        let mut due = self.state(lsn);
        self.keep_votes(lsn, &found, &mut due);
        assert!(
            found == due,
            "the log is not a prefix, last batch {lsn}: {}",
            differ(&found, &due)
        );
        (self.acked, self.submitted) = (lsn, lsn);
        self.base = found;
        self.batches.clear();
        self.wal = Some(wal);
        Ok(())
    }

    /// Of what was cut, terms and votes may have been kept, and nothing else.
    fn keep_votes(&self, lsn: u64, found: &Collect, due: &mut Collect) {
        for rec in self.batches.range(lsn + 1..).flat_map(|(_, recs)| recs) {
            let Rec::Hard(group, term, vote, _) = *rec else {
                continue;
            };
            let log = found.groups.get(&group);
            if log.is_some_and(|log| (log.term, log.vote) == (term, vote)) {
                let kept = due.groups.entry(group).or_default();
                let newer = term > kept.term || (term == kept.term && kept.vote == 0);
                if newer {
                    (kept.term, kept.vote) = (term, vote);
                }
            }
        }
    }

    pub fn stage(&mut self, rec: Rec) {
        let Some(wal) = &mut self.wal else { return };
        let lsn = match rec {
            Rec::Entry(group, term, index, ref payload) => {
                wal.entry(group, term, index, 0, payload).expect("fits")
            }
            Rec::Hard(group, term, vote, commit) => wal.hard_state(group, term, vote, commit),
            Rec::Compacted(group, index, term) => wal.compacted(group, index, term),
            Rec::Restored(group, index, term) => wal.restored(group, index, term),
            Rec::Removed(group) => wal.remove(group),
        };
        self.batches.entry(lsn).or_default().push(rec);
    }

    pub fn submit(&mut self) {
        if let Some(wal) = &mut self.wal {
            let _ = wal.submit();
            // What could not go at once goes by itself later.
            self.submitted = self.submitted.max(wal.staged_lsn());
        }
    }

    /// Poll up to `steps` times, or until everything submitted is durable.
    pub fn run(&mut self, steps: usize) {
        let Some(wal) = &mut self.wal else { return };
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..steps {
            match wal.poll(&mut cx) {
                Poll::Ready(Event::Durable(lsn)) => {
                    assert_eq!(lsn, self.acked + 1, "acknowledged out of order");
                    self.acked = lsn;
                }
                Poll::Ready(event) => self.events.push(event),
                Poll::Pending => {}
            }
        }
        if self.submitted != u64::MAX {
            // What the log rewrites by itself takes numbers, too.
            self.submitted = self.submitted.max(wal.stats().submitted_lsn);
        }
    }

    /// Run until the log has nothing more to do, or the machine has stopped.
    pub fn settle(&mut self) {
        for _ in 0..2_000 {
            self.run(1);
            if self.machine.pending() == 0 || self.machine.is_crashed() {
                break;
            }
        }
        self.run(3);
    }

    pub fn crash(&mut self, keep: &Keep<'_>) {
        self.machine.crash(keep);
        self.wal = None;
    }

    /// Stop cleanly.
    pub fn close(&mut self) {
        let Some(wal) = &mut self.wal else { return };
        wal.close();
        self.submitted = u64::MAX;
        for _ in 0..5_000 {
            self.run(1);
            if self.events.last() == Some(&Event::Closed) {
                break;
            }
        }
        assert_eq!(self.events.last(), Some(&Event::Closed));
        self.wal = None;
    }

    /// Stage one turn of a plausible raft node.
    pub fn random_turn(&mut self, dice: &mut Dice) {
        for _ in 0..1 + dice.below(3) {
            let group = 1 + dice.below(3);
            let log = self
                .newest()
                .groups
                .get(&group)
                .cloned()
                .unwrap_or_default();
            let staged = log.last();
            let term = log.term.max(1);
            match dice.below(12) {
                0..=5 => {
                    for n in 0..1 + dice.below(4) {
                        let bytes = match dice.below(10) {
                            0 => dice.below(20_000),
                            1..=3 => dice.below(3_000),
                            _ => dice.below(300),
                        };
                        let payload = vec![dice.roll() as u8; bytes as usize];
                        self.stage(Rec::Entry(group, term, staged + 1 + n, payload));
                    }
                }
                6 if staged > log.compacted => {
                    // A new leader overwrites a suffix.
                    let back = dice.below((staged - log.compacted).min(5));
                    let index = (staged - back).max(log.compacted + 1);
                    self.stage(Rec::Hard(group, term + 1, 1 + dice.below(3), log.commit));
                    self.stage(Rec::Entry(group, term + 1, index, b"rewritten".to_vec()));
                }
                7 | 8 if staged > log.compacted => {
                    let index = log.compacted + 1 + dice.below(staged - log.compacted);
                    self.stage(Rec::Compacted(group, index, term));
                }
                9 if dice.below(4) == 0 => {
                    self.stage(Rec::Restored(group, staged + dice.below(50), term));
                }
                10 if dice.below(8) == 0 => self.stage(Rec::Removed(group)),
                _ => self.stage(Rec::Hard(
                    group,
                    term + dice.below(2),
                    1 + dice.below(3),
                    staged,
                )),
            }
        }
    }
}
