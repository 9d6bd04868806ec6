//! Ending damaged groups before their first lost entry.
//!
//! What is before it stays, what is behind it cannot be used without it. That is written by the log's own
//! means, as a new batch: an entry that repeats its index replaces everything after it. Nothing old is
//! changed, and what is interrupted has either happened or not. It gives up acknowledged entries: right
//! only where no peer has them.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Wake, Waker};

use bytes::Bytes;

use super::{RepairError, Step};
use crate::disk::thread::ThreadDisk;
use crate::inspect::Found;
use crate::{Event, GroupId, Options, ReadEntry, Record, Replay, Wal, inspect};

/// What is needed of a damaged group.
#[derive(Default)]
struct Kept {
    first_lost: u64,
    last: u64,
    hard: (u64, u64, u64),
    compacted: (u64, u64),
    /// The entry before the first lost one.
    entry: Option<ReadEntry>,
}

struct Keeping(BTreeMap<GroupId, Kept>);

impl Replay for Keeping {
    fn record(&mut self, record: Record<'_>) {
        match record {
            Record::Entry {
                group,
                term,
                index,
                kind,
                payload,
            } => {
                let Some(kept) = self.0.get_mut(&group) else {
                    return;
                };
                kept.last = index;
                if index.checked_add(1) == Some(kept.first_lost) && index > kept.compacted.0 {
                    let payload = Bytes::copy_from_slice(payload);
                    kept.entry = Some(ReadEntry {
                        term,
                        index,
                        kind,
                        payload,
                    });
                }
            }
            Record::HardState {
                group,
                term,
                vote,
                commit,
            } => {
                if let Some(kept) = self.0.get_mut(&group) {
                    kept.hard = (term, vote, commit);
                }
            }
            Record::Compacted { group, index, term } | Record::Restored { group, index, term } => {
                if let Some(kept) = self.0.get_mut(&group) {
                    kept.compacted = (index, term);
                }
            }
            Record::Removed { .. } => {}
        }
    }

    fn lost(&mut self, group: GroupId, _: u64, last: u64) {
        if let Some(kept) = self.0.get_mut(&group) {
            kept.last = last;
        }
    }
}

/// The groups that are damaged, each with its first lost entry.
fn damaged(found: &Found) -> Keeping {
    let mut groups: BTreeMap<GroupId, Kept> = BTreeMap::new();
    for damage in &found.report.damaged {
        let kept = groups.entry(damage.group).or_default();
        let earlier = kept.first_lost != 0 && kept.first_lost < damage.first;
        kept.first_lost = if earlier {
            kept.first_lost
        } else {
            damage.first
        };
    }
    Keeping(groups)
}

fn steps(keeping: &Keeping) -> Vec<Step> {
    let step = |(group, kept): (&GroupId, &Kept)| Step {
        group: *group,
        keep: kept.first_lost - 1,
        last: kept.last.max(kept.first_lost),
    };
    keeping.0.iter().map(step).collect()
}

/// What it would give up. Nothing is changed.
pub(super) fn plan(dir: &Path) -> Result<Vec<Step>, RepairError> {
    let mut keeping = damaged(&inspect::read(dir, &mut ())?);
    inspect::read(dir, &mut keeping)?;
    Ok(steps(&keeping))
}

/// End them.
pub(super) fn apply(dir: &Path) -> Result<Vec<Step>, RepairError> {
    let found = inspect::read(dir, &mut ())?;
    let mut keeping = damaged(&found);
    if keeping.0.is_empty() {
        return Ok(Vec::new());
    }
    let options = Options {
        segment_bytes: segment_bytes(dir),
        ..Options::default()
    };
    let disk = Box::new(ThreadDisk::new(1));
    let (mut wal, _) = Wal::open(dir, &options, &found.identity, disk, &mut keeping)?;
    for (group, kept) in &keeping.0 {
        match &kept.entry {
            Some(e) if e.index > kept.compacted.0 => {
                wal.entry(*group, e.term, e.index, e.kind, &e.payload)?;
            }
            _ => {
                wal.restored(*group, kept.compacted.0, kept.compacted.1);
            }
        }
        let (term, vote, commit) = kept.hard;
        wal.hard_state(*group, term, vote, commit.min(kept.first_lost - 1));
    }
    wal.submit()?;
    wal.close();
    let mut poison = None;
    block_on(async {
        loop {
            match poll_fn(|cx| wal.poll(cx)).await {
                Event::Closed => break,
                Event::Poisoned(error) => poison = Some(error),
                _ => {}
            }
        }
    });
    match poison {
        Some(error) => Err(error.into()),
        None => Ok(steps(&keeping)),
    }
}

/// The size of the segments that are there.
fn segment_bytes(dir: &Path) -> u64 {
    let files = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let segments = files.filter(|f| f.path().extension().is_some_and(|end| end == "seg"));
    let sizes = segments.filter_map(|f| f.metadata().ok()).map(|m| m.len());
    sizes.max().unwrap_or(Options::default().segment_bytes)
}

struct Unpark(std::thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn block_on(future: impl Future<Output = ()>) {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut cx = Context::from_waker(&waker);
    let mut future = pin!(future);
    while future.as_mut().poll(&mut cx).is_pending() {
        std::thread::park();
    }
}
