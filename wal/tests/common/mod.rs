//! What the test files share: a naive executor, a way to open logs, and temporary directories.
#![allow(dead_code, reason = "every test file uses its own part of this")]

pub mod honest;
pub mod layout;
pub mod model;
pub mod oracle;
pub mod sealed;

use std::future::{Future, poll_fn};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use henge_wal::disk::Disk;
use henge_wal::{Collect, Event, Identity, OpenError, OpenReport, Options, Wal};

/// Whose logs the tests make.
pub const US: Identity = Identity {
    cluster_id: 0xc1,
    member_id: 0x3e,
};

/// Small segments, so that rotation and recycling happen within a few batches.
pub fn small() -> Options {
    Options {
        segment_bytes: 64 * 1024,
        batch_bytes_max: 8 * 1024,
        ..Options::default()
    }
}

/// An open log, and what was replayed.
pub struct Opened {
    pub wal: Wal,
    pub report: OpenReport,
    pub found: Collect,
}

impl std::fmt::Debug for Opened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.report)
    }
}

/// Open a log and collect what it replays.
pub fn open(dir: &Path, options: &Options, disk: Box<dyn Disk>) -> Result<Opened, OpenError> {
    let mut found = Collect::default();
    let (wal, report) = Wal::open(dir, options, &US, disk, &mut found)?;
    Ok(Opened { wal, report, found })
}

/// What was found is what was written, but for the entries named as lost; groups that are not named are
/// whole.
pub fn holes_are_all_that_differs(opened: &Opened, due: &Collect) {
    let damaged = &opened.report.damaged;
    for (group, log) in &due.groups {
        let found = opened.found.groups.get(group);
        let holes: Vec<_> = damaged.iter().filter(|d| d.group == *group).collect();
        if holes.is_empty() {
            assert!(found == Some(log), "group {group} is not named and differs");
            continue;
        }
        let found = found.expect("a damaged group is still known");
        assert_eq!(
            (found.term, found.vote),
            (log.term, log.vote),
            "group {group}: votes"
        );
        for hole in holes {
            assert!(hole.first <= hole.last, "{hole}");
        }
    }
    nothing_is_invented(&opened.found, due);
}

/// Every entry found is one that was written.
pub fn nothing_is_invented(found: &Collect, due: &Collect) {
    for (group, log) in &found.groups {
        let written = &due.groups[group];
        for entry in &log.entries {
            let at = written
                .entries
                .binary_search_by_key(&entry.index, |e| e.index);
            assert!(
                at.is_ok_and(|at| written.entries[at] == *entry),
                "group {group} entry {} was never written so",
                entry.index
            );
        }
    }
}

/// The next event.
pub async fn event(wal: &mut Wal) -> Event {
    poll_fn(|cx| wal.poll(cx)).await
}

/// Poll until this batch is durable; other events are dropped.
pub async fn durable(wal: &mut Wal, lsn: u64) {
    loop {
        match event(wal).await {
            Event::Durable(at) if at >= lsn => return,
            Event::Poisoned(e) => panic!("poisoned: {e}"),
            _ => {}
        }
    }
}

/// Submit what is staged and wait until it is durable.
pub async fn commit(wal: &mut Wal) -> u64 {
    let lsn = wal.staged_lsn();
    wal.submit().expect("a healthy log");
    durable(wal, lsn).await;
    lsn
}

/// Finish a log.
pub async fn close(mut wal: Wal) {
    wal.close();
    while event(&mut wal).await != Event::Closed {}
}

struct Unpark(std::thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Run a future on this thread.
pub fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut cx = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut cx) {
            Poll::Ready(out) => return out,
            Poll::Pending => std::thread::park(),
        }
    }
}

/// A directory that is removed with its contents.
pub struct TempDir(PathBuf);

impl TempDir {
    pub fn new(name: &str) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = format!("henge-wal-{name}-{}-{n}", std::process::id());
        // Beside the build, not in /tmp: that may be a tmpfs, which is not what is to be tested.
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(dir);
        let _ = std::fs::remove_dir_all(&path);
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The seed of a randomized test: `HENGE_SEED`, or the given one; printed.
pub fn seed(default: u64) -> u64 {
    let seed = std::env::var("HENGE_SEED")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or(default);
    println!("seed {seed} (set HENGE_SEED to repeat)");
    seed
}

/// splitmix64.
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        if n == 0 { 0 } else { self.roll() % n }
    }
}
