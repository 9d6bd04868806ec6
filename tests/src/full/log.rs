//! The log on a file system that fills up, on every disk.
//!
//! Promises: whatever the log acknowledged is read back while the file system is full, after a restart on
//! it, and after room was made; the log then goes on without being opened again.

use std::future::poll_fn;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::task::{Context, Poll};
use std::time::Duration;

use henge_wal::disk::Disk;
use henge_wal::disk::ring::{Bell, RingDisk};
use henge_wal::disk::thread::ThreadDisk;
use henge_wal::disk::tokio_uring::UringDisk;
use henge_wal::{Collect, Event, Identity, Options, Wal};
use tokio::time::Interval;

use super::Ballast;

/// The disks that write real files.
pub const DISKS: [&str; 3] = ["ring", "tokio-uring", "thread"];

/// An event that has not come by then never will.
const EVENT_MAX: Duration = Duration::from_secs(30);
/// Written after there is room again.
const MORE: u64 = 200;

const US: Identity = Identity {
    cluster_id: 1,
    member_id: 2,
};

fn options() -> Options {
    Options {
        segment_bytes: 1 << 20,
        batch_bytes_max: 64 << 10,
        log_bytes_max: 1 << 30,
        ..Options::default()
    }
}

/// Fills, reads, restarts, frees and goes on; what was seen.
pub fn fills_and_is_freed(disk: &str, dir: &Path, ballast: &mut Ballast) -> Result<String, String> {
    let dir = dir.join("log");
    if disk == "tokio-uring" {
        return tokio_uring::start(scenario(disk, &dir, ballast));
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.map_err(|e| format!("no runtime: {e}"))?;
    runtime.block_on(scenario(disk, &dir, ballast))
}

async fn scenario(disk: &str, dir: &Path, ballast: &mut Ballast) -> Result<String, String> {
    let mut log = Log::open(disk, dir, 0)?;
    let full_at = log.fill().await?;
    log.reads_back().await?;
    log.close().await?;

    // What waited was never acknowledged; closing did not wait for it.
    let mut log = Log::open(disk, dir, full_at)?;
    log.reads_back().await?;
    let still = log.fill().await?;
    log.reads_back().await?;

    ballast.drop_it()?;
    log.goes_on().await?;
    let end = log.acknowledged;
    log.reads_back().await?;
    log.close().await?;
    Log::open(disk, dir, end)?.close().await?;
    Ok(format!(
        "full after {full_at} batches (and at {still} after a restart), {end} after there was room, \
         all read back"
    ))
}

/// A log, what was staged in it, and what it acknowledged. Batch, entry index of each group: the same
/// number, counted from 1.
struct Log {
    wal: Wal,
    staged: u64,
    acknowledged: u64,
    /// `entry index - batch number` of this life.
    shift: i64,
    space_low: bool,
}

fn payload(group: u64, index: u64) -> Vec<u8> {
    (0..16_000)
        .map(|i| (group * 31 + index * 7 + i) as u8)
        .collect()
}

impl Log {
    /// Opens the log: everything up to `acknowledged` must be there.
    fn open(disk: &str, dir: &Path, acknowledged: u64) -> Result<Self, String> {
        let disk: Box<dyn Disk> = match disk {
            "ring" => Box::new(RingDisk::new(ticking).map_err(|e| format!("no ring: {e}"))?),
            "tokio-uring" => Box::new(UringDisk::new()),
            _ => Box::new(ThreadDisk::new(1)),
        };
        let mut found = Collect::default();
        let opened = Wal::open(dir, &options(), &US, disk, &mut found);
        let (wal, report) = opened.map_err(|e| format!("does not open: {e}"))?;
        let last = found.groups.get(&1).map_or(0, |log| log.last());
        for (group, log) in &found.groups {
            if log.last() != last || log.entries.len() as u64 != last {
                return Err(format!(
                    "group {group} has {} of {last} entries",
                    log.entries.len()
                ));
            }
            for entry in &log.entries {
                if entry.payload != payload(*group, entry.index) {
                    return Err(format!("group {group} entry {} is another", entry.index));
                }
            }
        }
        if last < acknowledged {
            return Err(format!(
                "{acknowledged} were acknowledged, {last} are there"
            ));
        }
        Ok(Self {
            wal,
            staged: last,
            acknowledged: last,
            shift: last as i64 - report.last_lsn as i64,
            space_low: false,
        })
    }

    fn write(&mut self) -> Result<(), String> {
        self.staged += 1;
        for group in 1..=2 {
            let staged = self
                .wal
                .entry(group, 1, self.staged, 0, &payload(group, self.staged));
            staged.map_err(|e| format!("entry {}: {e}", self.staged))?;
        }
        let submitted = self.wal.submit();
        submitted.map(|_| ()).map_err(|e| format!("submit: {e}"))
    }

    async fn event(&mut self) -> Result<Event, String> {
        let event = tokio::time::timeout(EVENT_MAX, poll_fn(|cx| self.wal.poll(cx)));
        let event = event
            .await
            .map_err(|_| format!("hangs: {:?}", self.wal.stats()))?;
        match &event {
            Event::Durable(lsn) => self.acknowledged = (*lsn as i64 + self.shift) as u64,
            Event::SpaceLow(_) => self.space_low = true,
            Event::SpaceOk => self.space_low = false,
            Event::Poisoned(error) => return Err(format!("poisoned: {error}")),
            _ => {}
        }
        Ok(event)
    }

    /// Writes, one batch at a time, until the log has no more room; the last acknowledged index.
    async fn fill(&mut self) -> Result<u64, String> {
        loop {
            self.write()?;
            while self.acknowledged < self.staged {
                let stats = self.wal.stats();
                if self.space_low && stats.in_flight == 0 && stats.ready_segments == 0 {
                    return Ok(self.acknowledged);
                }
                self.event().await?;
            }
        }
    }

    /// There is room again: what waited is written, and more.
    async fn goes_on(&mut self) -> Result<(), String> {
        for _ in 0..MORE {
            while self.acknowledged < self.staged {
                self.event().await?;
            }
            self.write()?;
        }
        while self.acknowledged < self.staged {
            self.event().await?;
        }
        match self.space_low {
            true => Err("it never said that there is space again".to_owned()),
            false => Ok(()),
        }
    }

    /// Everything acknowledged is read through the open log.
    async fn reads_back(&mut self) -> Result<(), String> {
        for group in 1..=2 {
            let mut next = 1;
            while next <= self.acknowledged {
                let wanted = self.wal.read(group, next, self.acknowledged, 1 << 20);
                let entries = loop {
                    match self.event().await? {
                        Event::Read { id, result } if id == wanted => break result,
                        _ => {}
                    }
                };
                for entry in entries.map_err(|e| format!("read: {e}"))? {
                    if entry.index != next || entry.payload != payload(group, next) {
                        return Err(format!("group {group} entry {next} is another"));
                    }
                    next += 1;
                }
            }
        }
        Ok(())
    }

    async fn close(mut self) -> Result<(), String> {
        self.wal.close();
        while self.event().await? != Event::Closed {}
        Ok(())
    }
}

/// Looks at the ring every so often. A host waits for the ring's eventfd, which takes `unsafe`; a bell may
/// ring more often than it must.
struct Ticking(Interval);

/// Short beside a write of this test, long beside a look.
const TICK: Duration = Duration::from_micros(500);

impl Bell for Ticking {
    fn poll_rung(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.0.poll_tick(cx).map(|_| ())
    }
}

fn ticking(_: OwnedFd) -> io::Result<Box<dyn Bell>> {
    Ok(Box::new(Ticking(tokio::time::interval(TICK))))
}
