//! What this process may use: processors, and what its control group allows.

use std::path::{Path, PathBuf};

use rustix::thread::sched_getaffinity;

use super::{Check, line, size};

/// Memory below which an engine with its default sizes is in danger of being killed, in bytes: 64 MiB of
/// requests per shard, three log segments of page cache, and the store itself.
const MEMORY_SMALL: u64 = 512 << 20;
/// What version 1 of control groups says for "no limit", rounded down to whole pages.
const V1_UNLIMITED: u64 = 1 << 60;

/// Processors this process may run on.
pub(super) fn processors() -> Check {
    let online = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let online = online
        .lines()
        .filter(|l| l.starts_with("processor"))
        .count();
    let usable = henge::host::place::processors();
    let allowed = sched_getaffinity(None).map_or(usable, |set| set.count() as usize);
    let found = format!("{usable} usable ({allowed} by affinity, {online} in the machine)");
    let check = Check::ok("processors", found)
        .figure("usable", usable)
        .figure("affinity", allowed);
    if usable == 1 {
        check.note(
            "the core, its clients and the kernel's log writes share one processor; two are better",
        )
    } else {
        check
    }
}

/// Limits of the control group, over all its parents.
pub(super) fn cgroup(root: &Path) -> Check {
    let limits = Limits::read(root);
    let words = [
        limits.cpus.map(|cpus| format!("{cpus:.2} processors")),
        limits
            .memory
            .map(|bytes| format!("{} of memory", size(bytes))),
    ];
    let words: Vec<_> = words.into_iter().flatten().collect();
    let mut check = if words.is_empty() {
        Check::ok("cgroup", "no limits on processors or memory")
    } else {
        Check::ok("cgroup", words.join(", "))
    };
    if let Some(cpus) = limits.cpus {
        check = check.figure("cpus", cpus);
        if cpus < 1.0 {
            check = check.problem(
                "a core that runs out of its share stands still for the rest of a period \
                 (usually 100 ms), heartbeats included: allow at least one processor",
            );
        } else if cpus.fract() != 0.0 {
            check =
                check.note("whole processors (and --cpuset) avoid pauses at the end of a period");
        }
    }
    if let Some(bytes) = limits.memory {
        check = check.figure("memory_bytes", bytes);
        if bytes < MEMORY_SMALL {
            check = check.problem(
                "the kernel ends the process when it is reached: allow at least 512 MiB, and set \
                 --quota-backend-bytes to about half of the limit",
            );
        }
    }
    check
}

/// The tightest limit over a group and its parents.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Limits {
    cpus: Option<f64>,
    memory: Option<u64>,
}

impl Limits {
    fn read(root: &Path) -> Self {
        let own = std::fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
        let mount = root.join("sys/fs/cgroup");
        let mut limits = Limits::default();
        for entry in own.lines() {
            // `number:controllers:path`; version 2 has number 0 and no controllers.
            let mut fields = entry.splitn(3, ':');
            let (Some(_), Some(controllers), Some(path)) =
                (fields.next(), fields.next(), fields.next())
            else {
                continue;
            };
            if controllers.is_empty() {
                // Beside version 1 it is mounted in a folder of its own.
                for top in [mount.clone(), mount.join("unified")] {
                    climb(&top, path, |at| limits.version_2(at));
                }
            } else if controllers
                .split(',')
                .any(|name| name == "cpu" || name == "memory")
            {
                climb(&mount.join(controllers), path, |at| limits.version_1(at));
            }
        }
        limits
    }

    fn version_2(&mut self, at: &Path) {
        if let Some(text) = line(&at.join("cpu.max"))
            && let Some((quota, period)) = text.split_once(' ')
        {
            self.quota(quota, period);
        }
        for name in ["memory.max", "memory.high"] {
            self.memory_limit(&at.join(name));
        }
    }

    fn version_1(&mut self, at: &Path) {
        let quota = line(&at.join("cpu.cfs_quota_us"));
        let period = line(&at.join("cpu.cfs_period_us"));
        if let (Some(quota), Some(period)) = (quota, period) {
            self.quota(&quota, &period);
        }
        self.memory_limit(&at.join("memory.limit_in_bytes"));
    }

    fn quota(&mut self, quota: &str, period: &str) {
        // No limit is `max` in version 2 and -1 in version 1.
        if let (Ok(quota), Ok(period)) = (quota.parse::<f64>(), period.parse::<f64>())
            && quota > 0.0
            && period > 0.0
        {
            let cpus = quota / period;
            self.cpus = Some(self.cpus.map_or(cpus, |before| before.min(cpus)));
        }
    }

    fn memory_limit(&mut self, path: &Path) {
        let limit = line(path).and_then(|text| text.parse::<u64>().ok());
        if let Some(bytes) = limit.filter(|bytes| *bytes < V1_UNLIMITED) {
            self.memory = Some(self.memory.map_or(bytes, |before| before.min(bytes)));
        }
    }
}

/// Visits a group's folder and all above it. In a container the path may be the host's and not exist
/// here: then the top is what applies.
fn climb(top: &Path, path: &str, mut visit: impl FnMut(&Path)) {
    let mut at: PathBuf = top.join(path.trim_start_matches('/'));
    while at.starts_with(top) {
        visit(&at);
        if !at.pop() {
            break;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::super::tests::Root;
    use super::*;

    #[test]
    fn the_tightest_limit_above_counts_in_version_2() {
        let root = Root::new("cgroup2");
        root.file("proc/self/cgroup", "0::/pods/one\n");
        root.file("sys/fs/cgroup/pods/one/cpu.max", "max 100000\n");
        root.file("sys/fs/cgroup/pods/cpu.max", "150000 100000\n");
        root.file("sys/fs/cgroup/pods/one/memory.max", "4294967296\n");
        root.file("sys/fs/cgroup/pods/memory.max", "max\n");
        let found = Limits::read(&root.0);
        assert_eq!((found.cpus, found.memory), (Some(1.5), Some(4 << 30)));
        assert_eq!(cgroup(&root.0).verdict, Verdict::Note);
        root.file("sys/fs/cgroup/pods/one/cpu.max", "50000 100000\n");
        assert_eq!(cgroup(&root.0).verdict, Verdict::Problem);
    }

    #[test]
    fn version_1_and_a_mixed_machine_are_read() {
        let root = Root::new("cgroup1");
        root.file(
            "proc/self/cgroup",
            "4:memory:/a/b\n1:cpu:/\n9:name=systemd:/\n0::/\n",
        );
        root.file("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n");
        root.file("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n");
        root.file(
            "sys/fs/cgroup/memory/memory.limit_in_bytes",
            "9223372036854771712\n",
        );
        assert_eq!(Limits::read(&root.0), Limits::default());
        assert_eq!(cgroup(&root.0).verdict, Verdict::Ok);
        // The group's own folder is not visible in here: its top is what applies.
        root.file("sys/fs/cgroup/memory/memory.limit_in_bytes", "268435456\n");
        root.file("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "200000\n");
        let found = Limits::read(&root.0);
        assert_eq!((found.cpus, found.memory), (Some(2.0), Some(256 << 20)));
        assert_eq!(
            cgroup(&root.0).verdict,
            Verdict::Problem,
            "too little memory"
        );
    }

    #[test]
    fn nothing_readable_is_no_limit() {
        let root = Root::new("cgroup-none");
        assert_eq!(Limits::read(&root.0), Limits::default());
    }
}
