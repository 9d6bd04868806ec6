//! Processor time and memory of this process, read from /proc.
//!
//! Promises: as fine as the kernel keeps it (nanoseconds where it has schedstat, else ticks of 10 ms).
//! Must never know: what used it.

use std::path::Path;
use std::time::Duration;

/// What was used so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// The whole process, in ticks.
    ticks: Duration,
    /// Threads that live.
    threads: Duration,
    /// Those of them that run cores.
    cores: Duration,
    /// Peak resident memory in bytes.
    pub resident_max: u64,
}

impl Usage {
    /// As of now.
    pub fn now() -> Self {
        let mut usage = Usage::default();
        let threads = std::fs::read_dir("/proc/self/task")
            .into_iter()
            .flatten()
            .flatten();
        for thread in threads {
            let used = of_thread(&thread.path());
            usage.threads += used;
            let name = std::fs::read_to_string(thread.path().join("comm")).unwrap_or_default();
            if name.starts_with("henge-core") {
                usage.cores += used;
            }
        }
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
        usage.ticks = ticks_of(&stat);
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        usage.resident_max = peak
            .and_then(|rest| rest.split_whitespace().next())
            .and_then(|kib| kib.parse::<u64>().ok())
            .map_or(0, |kib| kib << 10);
        usage
    }

    /// Processor time of the whole process after `start`. The threads' own times are finer, but leave out
    /// threads that have ended since.
    pub fn process_since(&self, start: &Usage) -> Duration {
        let fine = self.threads.saturating_sub(start.threads);
        let coarse = self.ticks.saturating_sub(start.ticks);
        // They are as far apart as one tick at each end, or as what has ended used.
        if coarse > fine + Duration::from_millis(20) {
            coarse
        } else {
            fine
        }
    }

    /// Processor time of the cores' threads after `start`.
    pub fn cores_since(&self, start: &Usage) -> Duration {
        self.cores.saturating_sub(start.cores)
    }
}

fn of_thread(dir: &Path) -> Duration {
    let read = |name| std::fs::read_to_string(dir.join(name)).unwrap_or_default();
    let nanos = read("schedstat")
        .split_whitespace()
        .next()
        .and_then(|nanos| nanos.parse().ok());
    match nanos {
        Some(nanos) => Duration::from_nanos(nanos),
        None => ticks_of(&read("stat")),
    }
}

/// User and system time of a `stat` line (proc(5): fields 14 and 15, in ticks of 10 ms).
fn ticks_of(stat: &str) -> Duration {
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks: u64 = after_name
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<u64>().ok())
        .sum();
    Duration::from_millis(ticks * 10)
}
