//! How long a durable write takes in the directory: a few hundred of 4 KiB, one at a time, as a lone
//! client's commits are, through the log's own disks.

use std::path::{Path, PathBuf};
use std::task::{Context, Poll, Waker};

use henge::host::clock::Clock;
use henge_wal::disk::ring::{self, Bell, RingDisk};
use henge_wal::disk::thread::ThreadDisk;
use henge_wal::disk::{AlignedBuf, Disk, FileId, Op, Output};

use super::Check;

/// Measured writes.
const WRITES: u64 = 400;
/// Writes before those, not measured.
const WARM_UP: u64 = 20;
/// Longest time for the measured ones, in microseconds: a slow disk shows in fewer writes too.
const MICROS_MAX: u64 = 5_000_000;
/// Bytes of one write.
const BLOCK: usize = 4_096;
/// Blocks of the file; they are overwritten by turns, as a log's segments are.
const BLOCKS: u64 = 256;

/// etcd's advice: 99 of 100 durable writes within 10 ms.
const P99_GOAL_MICROS: u64 = 10_000;
/// A median above this makes every lone write slow.
const P50_SLOW_MICROS: u64 = 2_000;
/// No flash answers faster than this without a cache that is safe from power cuts.
const P50_FAST_MICROS: u64 = 15;

/// A folder of our own in the directory; it goes away with this value.
pub(super) struct Scratch(PathBuf);

impl Scratch {
    /// Makes it, or says what is wrong with the directory.
    pub(super) fn new(dir: &Path) -> Result<Self, String> {
        match std::fs::metadata(dir) {
            Ok(meta) if meta.is_dir() => {}
            Ok(_) => return Err(format!("{} is not a directory", dir.display())),
            Err(error) => {
                return Err(format!(
                    "{}: {error}; make it first (`mkdir -p`), or name the directory that the data \
                     directory will be made in",
                    dir.display()
                ));
            }
        }
        let path = dir.join(format!(".henge-doctor-{}", std::process::id()));
        std::fs::create_dir_all(&path).map_err(|error| {
            format!(
                "{} is not writable for this user: {error}; run as the user that will serve",
                dir.display()
            )
        })?;
        Ok(Scratch(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Whether direct I/O works there, and how long commits take.
pub(super) fn checks(scratch: &Scratch) -> Result<[Check; 2], String> {
    let mut plain = Bench::new(Box::new(ThreadDisk::new(1)), &scratch.0)?;
    let direct = plain.disk.info().direct_io;
    let pwrite = plain.measure(|disk, op| disk.run(op))?;
    drop(plain);
    let ring = if ring::probe().is_ok() {
        let deaf = |event| Ok(Box::new(Deaf(event)) as Box<dyn Bell>);
        let disk = RingDisk::new(deaf).map_err(|error| format!("a ring: {error}"))?;
        Some(Bench::new(Box::new(disk), &scratch.0)?.measure(submit_and_look)?)
    } else {
        None
    };
    Ok([direct_io(direct), commit_latency(&pwrite, ring.as_ref())])
}

fn direct_io(works: bool) -> Check {
    if works {
        Check::ok("direct I/O", "works: one synchronous write per commit")
    } else {
        Check::ok("direct I/O", "refused by this file system").note(
            "each commit is a write and an fdatasync through the page cache: slower; ext4 and xfs \
             on a local disk allow it",
        )
    }
    .figure("direct", works)
}

fn commit_latency(pwrite: &Latency, ring: Option<&Latency>) -> Check {
    let mut found = format!("pwrite {pwrite}");
    if let Some(ring) = ring {
        found += &format!("; io_uring {ring}");
    }
    let mut check = Check::ok("commit latency", found);
    for (name, latency) in [("pwrite", Some(pwrite)), ("ring", ring)] {
        if let Some(latency) = latency {
            check = check
                .figure(&format!("{name}_p50_us"), latency.p50)
                .figure(&format!("{name}_p99_us"), latency.p99)
                .figure(&format!("{name}_writes"), latency.writes);
        }
    }
    // What the default host would do here.
    let own = ring.unwrap_or(pwrite);
    if own.p99 > P99_GOAL_MICROS {
        check.problem(
            "slower than the 10 ms (p99) that heartbeats and leases are made for: another process \
             on the disk, a throttled volume, or a disk that is not made for this",
        )
    } else if own.p50 > P50_SLOW_MICROS {
        check.note("a lone client waits that long for every write; many at once share the wait")
    } else if own.p50 < P50_FAST_MICROS {
        check.note(
            "faster than flash can be: a cache that must be safe from power cuts, or memory; make \
             sure of it",
        )
    } else {
        check
    }
}

/// Microseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Latency {
    p50: u64,
    p99: u64,
    writes: u64,
}

impl Latency {
    fn of(mut micros: Vec<u64>) -> Self {
        micros.sort_unstable();
        let at = |percent: usize| {
            let index = (micros.len() * percent / 100).min(micros.len().saturating_sub(1));
            micros.get(index).copied().unwrap_or(0)
        };
        Latency {
            p50: at(50),
            p99: at(99),
            writes: micros.len() as u64,
        }
    }
}

impl std::fmt::Display for Latency {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Latency { p50, p99, writes } = self;
        write!(
            f,
            "p50 {p50} µs, p99 {p99} µs ({writes} durable 4 KiB writes)"
        )
    }
}

/// A disk with a file to write into.
struct Bench {
    disk: Box<dyn Disk>,
    file: FileId,
}

impl Bench {
    fn new(mut disk: Box<dyn Disk>, dir: &Path) -> Result<Self, String> {
        let failed = |doing: &str, error: std::io::Error| {
            format!("cannot {doing} a file in {}: {error}", dir.display())
        };
        disk.attach(dir);
        let name = "latency".to_owned();
        let zero = Op::Zero {
            name: name.clone(),
            bytes: BLOCKS * BLOCK as u64,
            pause_ms: 0,
            spread_ms: 0,
        };
        disk.run(zero).map_err(|error| failed("write", error))?;
        match disk.run(Op::Open { name }) {
            Ok(Output::Opened { file, .. }) => Ok(Bench { disk, file }),
            Ok(_) => Err("an opened file is not one".to_owned()),
            Err(error) => Err(failed("open", error)),
        }
    }

    fn measure(
        &mut self,
        mut run: impl FnMut(&mut dyn Disk, Op) -> std::io::Result<Output>,
    ) -> Result<Latency, String> {
        let clock = Clock::start();
        let mut micros = Vec::new();
        let mut buf = AlignedBuf::zeroed(BLOCK);
        let mut measured_since = 0;
        for number in 0..WARM_UP + WRITES {
            let before = clock.now().micros;
            if number == WARM_UP {
                measured_since = before;
            }
            let write = Op::Write {
                file: self.file,
                offset: number % BLOCKS * BLOCK as u64,
                buf,
            };
            buf = match run(self.disk.as_mut(), write) {
                Ok(Output::Buf(buf)) => buf,
                Ok(_) => return Err("a write brought no buffer back".to_owned()),
                Err(error) => return Err(format!("a durable write failed: {error}")),
            };
            let after = clock.now().micros;
            if number >= WARM_UP {
                micros.push(after - before);
                if after - measured_since > MICROS_MAX {
                    break;
                }
            }
        }
        Ok(Latency::of(micros))
    }
}

/// As the default host does while it has nothing else to do: submit, then look at the ring.
fn submit_and_look(disk: &mut dyn Disk, op: Op) -> std::io::Result<Output> {
    disk.submit(0, op);
    let mut cx = Context::from_waker(Waker::noop());
    loop {
        match disk.poll(&mut cx) {
            Poll::Ready(done) => return done.result,
            Poll::Pending => std::thread::yield_now(),
        }
    }
}

/// Nobody listens: the ring is looked at.
struct Deaf(#[expect(dead_code, reason = "keeps the descriptor open")] std::os::fd::OwnedFd);

impl Bell for Deaf {
    fn poll_rung(&mut self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::super::tests::Root;
    use super::*;

    #[test]
    fn percentiles_are_of_the_sorted_values() {
        let latency = Latency::of((1..=200).rev().collect());
        assert_eq!((latency.p50, latency.p99, latency.writes), (101, 199, 200));
        assert_eq!(Latency::of(Vec::new()).p99, 0);
        assert_eq!(Latency::of(vec![7]).p99, 7);
    }

    #[test]
    fn slow_and_too_fast_disks_are_judged() {
        let verdict = |p50, p99| {
            let latency = Latency {
                p50,
                p99,
                writes: 400,
            };
            commit_latency(&latency, None).verdict
        };
        assert_eq!(verdict(120, 400), Verdict::Ok);
        assert_eq!(verdict(5_000, 9_000), Verdict::Note);
        assert_eq!(verdict(9_000, 30_000), Verdict::Problem);
        assert_eq!(verdict(3, 8), Verdict::Note);
    }

    #[test]
    fn the_folder_goes_away_even_if_the_file_is_there() {
        let root = Root::new("scratch");
        let scratch = Scratch::new(&root.0).expect("writable");
        let [direct, latency] = checks(&scratch).expect("it can be measured");
        assert_eq!(direct.name, "direct I/O");
        assert!(
            latency.found.contains("durable 4 KiB writes"),
            "{}",
            latency.found
        );
        drop(scratch);
        assert_eq!(std::fs::read_dir(&root.0).expect("readable").count(), 0);
    }
}
