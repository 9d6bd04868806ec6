//! Moves groups from one core's log to another's, when a directory is opened with another number of
//! cores or another placement.
//!
//! What moves is the log itself: every record of a group since its checkpoint, as it is, so that what a
//! lagging member or a later restart could read before, it can read after. Checkpoints are shared by
//! all cores and stay where they are.
//!
//! Safe at every step, because a group always has one log that counts:
//!
//! | step | on disk                                              | the log that counts |
//! |------|------------------------------------------------------|---------------------|
//! | 1    | all logs are locked; `LAYOUT` names from and to      | the old home        |
//! | 2    | the new home forgets what an earlier attempt left    | the old home        |
//! | 3    | the new home holds a copy, durable                   | the old home        |
//! | 4    | the old home says that the group left it, durable    | the new home        |
//! | 5    | `LAYOUT` names only the new placement                | the new home        |
//!
//! While `LAYOUT` names a move, the old home counts if the group is still in it, else the new one. A
//! move that was cut short is finished by whichever open comes next; only then a further one is begun.
//! Nothing is served meanwhile, so the two copies between 3 and 4 cannot differ.
//!
//! A log that lost acknowledged entries is not moved: a copy would hide that it did. It is refused as
//! it was found, with the place; opened as it stands, its healthy groups serve.
//! Must never know: what entries mean. Tested by stopping the machine at every operation of a move.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::task::{Context, Poll};

use henge_wal::disk::Disk;
use henge_wal::{Damage, Event, Identity, Lsn, Options, Record, Replay, Wal, WalError};

use super::OpenError;
use super::layout::{Layout, Placement};
use super::opening::group_id;

/// Bytes that are copied before they are waited for.
const FLUSH_BYTES: usize = 8 << 20;

/// The machine a move happens on: the data directory, or a simulated one.
pub trait Ground {
    /// The directory of a core's log, for its disk and for messages.
    fn log_dir(&self, core: usize) -> PathBuf;
    /// The disk of a core's log.
    fn disk(&mut self, core: usize) -> Box<dyn Disk>;
    /// Makes this the layout, durably.
    fn write_layout(&mut self, layout: &Layout) -> Result<(), OpenError>;
    /// Waits until a disk may have something to say; woken through the current thread's unpark token.
    fn wait(&mut self) -> Result<(), OpenError>;
}

/// Finishes the move that `layout` names, if any, then moves to `wanted`, if that is elsewhere.
/// Afterwards `layout` is as it stands on disk.
pub fn rehome(
    ground: &mut dyn Ground,
    layout: &mut Layout,
    wanted: &Placement,
    options: &Options,
    identity: &Identity,
) -> Result<(), OpenError> {
    if let Some(to) = layout.moving.clone() {
        carry_out(ground, layout, &to, options, identity)?;
    }
    if same(&layout.placement, wanted, layout.shards) {
        return Ok(());
    }
    carry_out(ground, layout, wanted, options, identity)
}

/// Whether two placements mean the same.
fn same(left: &Placement, right: &Placement, shards: usize) -> bool {
    left.cores == right.cores && (0..shards).all(|shard| left.home(shard) == right.home(shard))
}

/// Where a group is and where it goes.
struct Move {
    group: u64,
    from: usize,
    to: usize,
}

fn carry_out(
    ground: &mut dyn Ground,
    layout: &mut Layout,
    to: &Placement,
    options: &Options,
    identity: &Identity,
) -> Result<(), OpenError> {
    let from = layout.placement.clone();
    let moves: Vec<Move> = (0..layout.shards)
        .map(|shard| Move {
            group: group_id(shard),
            from: from.home(shard),
            to: to.home(shard),
        })
        .filter(|one| one.from != one.to)
        .collect();
    let mut logs = Logs {
        ground,
        options,
        identity,
        open: BTreeMap::new(),
    };
    // Every log that takes part is ours before anything is changed: a running engine keeps its own.
    let mut live = BTreeMap::new();
    let cores: BTreeSet<usize> = moves.iter().flat_map(|one| [one.from, one.to]).collect();
    for core in cores {
        let mut found = Live::default();
        logs.open(core, &mut found)?;
        live.insert(core, found.groups);
    }
    tracing::info!(
        from = from.cores,
        to = to.cores,
        shards = moves.len(),
        "moving shards to other cores' logs"
    );
    layout.moving = Some(to.clone());
    logs.ground.write_layout(layout)?;
    let sources: BTreeSet<usize> = moves.iter().map(|one| one.from).collect();
    for source in sources {
        let here = live.get(&source);
        let leaving: BTreeMap<u64, usize> = moves
            .iter()
            .filter(|one| one.from == source && here.is_some_and(|live| live.contains(&one.group)))
            .map(|one| (one.group, one.to))
            .collect();
        logs.move_out(source, &leaving)?;
    }
    logs.close_all()?;
    layout.placement = to.clone();
    layout.moving = None;
    ground.write_layout(layout)
}

/// The groups that a log holds at its end.
#[derive(Default)]
struct Live {
    groups: BTreeSet<u64>,
    /// The group seen last: most records follow one of the same group.
    last: u64,
}

impl Replay for Live {
    fn record(&mut self, record: Record<'_>) {
        if let Record::Removed { group } = record {
            self.groups.remove(&group);
            self.last = 0;
        } else if record.group() != self.last {
            self.last = record.group();
            self.groups.insert(self.last);
        }
    }

    fn refuses(&mut self, damaged: &[Damage]) -> bool {
        !damaged.is_empty()
    }
}

/// The logs of the cores that take part.
struct Logs<'a> {
    ground: &'a mut dyn Ground,
    options: &'a Options,
    identity: &'a Identity,
    open: BTreeMap<usize, Log>,
}

struct Log {
    wal: Wal,
    dir: PathBuf,
    durable: Lsn,
}

impl Logs<'_> {
    fn open(&mut self, core: usize, replay: &mut dyn Replay) -> Result<(), OpenError> {
        let disk = self.ground.disk(core);
        let dir = self.ground.log_dir(core);
        let (wal, _) = Wal::open(&dir, self.options, self.identity, disk, replay)?;
        let durable = wal.stats().durable_lsn;
        self.open.insert(core, Log { wal, dir, durable });
        Ok(())
    }

    /// Copies groups to their new homes' logs, then lets them leave the old one.
    fn move_out(&mut self, source: usize, leaving: &BTreeMap<u64, usize>) -> Result<(), OpenError> {
        if leaving.is_empty() {
            return Ok(());
        }
        if let Some(log) = self.open.remove(&source) {
            log.close(self.ground)?;
        }
        for (group, to) in leaving {
            if let Some(log) = self.open.get_mut(to) {
                log.wal.remove(*group);
            }
        }
        let disk = self.ground.disk(source);
        let dir = self.ground.log_dir(source);
        let mut copier = Copier {
            ground: &mut *self.ground,
            open: &mut self.open,
            leaving,
            fault: None,
        };
        let (wal, _) = Wal::open(&dir, self.options, self.identity, disk, &mut copier)?;
        if let Some(fault) = copier.fault {
            return Err(fault);
        }
        for log in self.open.values_mut() {
            log.flush(self.ground)?;
        }
        let durable = wal.stats().durable_lsn;
        let mut log = Log { wal, dir, durable };
        for group in leaving.keys() {
            log.wal.remove(*group);
        }
        log.flush(self.ground)?;
        self.open.insert(source, log);
        Ok(())
    }

    fn close_all(&mut self) -> Result<(), OpenError> {
        for (_, log) in std::mem::take(&mut self.open) {
            log.close(self.ground)?;
        }
        Ok(())
    }
}

/// Stages the records of leaving groups into the logs they go to.
struct Copier<'a> {
    ground: &'a mut dyn Ground,
    open: &'a mut BTreeMap<usize, Log>,
    leaving: &'a BTreeMap<u64, usize>,
    fault: Option<OpenError>,
}

impl Replay for Copier<'_> {
    fn record(&mut self, record: Record<'_>) {
        let to = self.leaving.get(&record.group());
        let Some(log) = to.and_then(|to| self.open.get_mut(to)) else {
            return;
        };
        if self.fault.is_some() {
            return;
        }
        let mut copied = log.copy(&record);
        if copied.is_ok() && log.wal.staged_bytes() >= FLUSH_BYTES {
            copied = log.flush(self.ground);
        }
        self.fault = copied.err();
    }

    fn refuses(&mut self, damaged: &[Damage]) -> bool {
        !damaged.is_empty()
    }
}

impl Log {
    fn copy(&mut self, record: &Record<'_>) -> Result<(), OpenError> {
        match *record {
            Record::Entry {
                group,
                term,
                index,
                kind,
                payload,
            } => {
                let staged = self.wal.entry(group, term, index, kind, payload);
                staged.map_err(|error| self.failed(&error))?;
            }
            Record::HardState {
                group,
                term,
                vote,
                commit,
            } => {
                self.wal.hard_state(group, term, vote, commit);
            }
            Record::Compacted { group, index, term } => {
                self.wal.compacted(group, index, term);
            }
            Record::Restored { group, index, term } => {
                self.wal.restored(group, index, term);
            }
            Record::Removed { group } => {
                self.wal.remove(group);
            }
            // A kind of record that is not known here must not be lost silently.
            _ => return Err(self.stuck("it holds a record of an unknown kind")),
        }
        Ok(())
    }

    /// Waits until everything staged is durable.
    fn flush(&mut self, ground: &mut dyn Ground) -> Result<(), OpenError> {
        if self.wal.staged_bytes() == 0 {
            return Ok(());
        }
        let wanted = self.wal.staged_lsn();
        self.wal.submit().map_err(|error| self.failed(&error))?;
        while self.durable < wanted {
            match self.next(ground)? {
                Event::Durable(lsn) => self.durable = lsn,
                Event::Poisoned(error) => return Err(self.failed(&error)),
                Event::SpaceLow(lacks) => {
                    let why = format!("{lacks}; give room and open again: the move goes on");
                    return Err(self.stuck(&why));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn close(mut self, ground: &mut dyn Ground) -> Result<(), OpenError> {
        // The log may have staged something by itself (it rewrites groups that pin old segments), for which
        // a closing log begins no segment.
        self.flush(ground)?;
        self.wal.close();
        loop {
            match self.next(ground)? {
                Event::Closed => return Ok(()),
                Event::Poisoned(error) => return Err(self.failed(&error)),
                _ => {}
            }
        }
    }

    fn next(&mut self, ground: &mut dyn Ground) -> Result<Event, OpenError> {
        let waker = crate::unpark::waker();
        let mut cx = Context::from_waker(&waker);
        loop {
            match self.wal.poll(&mut cx) {
                Poll::Ready(event) => return Ok(event),
                Poll::Pending => ground.wait()?,
            }
        }
    }

    fn failed(&self, error: &WalError) -> OpenError {
        self.stuck(&error.to_string())
    }

    fn stuck(&self, why: &str) -> OpenError {
        OpenError::Move {
            path: self.dir.clone(),
            why: why.to_owned(),
        }
    }
}
