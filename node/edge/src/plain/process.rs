//! What the operating system knows about this process, as Prometheus' own library shows it.
//!
//! Promises: what cannot be read is 0. Must never know: what the process is for.

use std::sync::OnceLock;

use rustix::process::{Resource, getrlimit};

use super::page::Page;
use crate::LogLinesLost;

/// What the operating system knows about this process (`/proc/self`).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Process {
    /// User and system time, in seconds.
    pub cpu_seconds: f64,
    /// Resident memory, in bytes.
    pub resident_bytes: u64,
    /// Virtual memory, in bytes.
    pub virtual_bytes: u64,
    /// Most virtual memory it may have; the largest number is no limit.
    pub virtual_bytes_max: u64,
    /// Open file descriptors.
    pub open_fds: u64,
    /// Most it may have.
    pub open_fds_max: u64,
    /// When it began, in seconds since 1970.
    pub start_seconds: f64,
    /// Bytes in and out over the network of its namespace.
    pub network_bytes: (u64, u64),
    /// Log lines that nobody will read.
    pub log_lines_lost: LogLinesLost,
}

/// Clock ticks per second in `/proc/self/stat` (USER_HZ: 100 on every Linux architecture we run on).
const USER_HZ: f64 = 100.0;

/// Page size in `/proc/self/statm`, in bytes.
const PAGE_BYTES: u64 = 4_096;

impl Process {
    /// A sample; zeros where `/proc` cannot be read.
    pub fn read(log_lines_lost: LogLinesLost) -> Process {
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        // That of the listing itself is closed again.
        let fds = std::fs::read_dir("/proc/self/fd").map_or(0, |d| d.count() as u64);
        let limit = |of| getrlimit(of).current.unwrap_or(u64::MAX);
        Process {
            open_fds: fds.saturating_sub(1),
            open_fds_max: limit(Resource::Nofile),
            virtual_bytes_max: limit(Resource::As),
            start_seconds: began(&stat),
            network_bytes: network_bytes(&read("/proc/self/net/netstat")),
            log_lines_lost,
            ..Process::parse(&stat, &statm)
        }
    }

    fn parse(stat: &str, statm: &str) -> Process {
        // The second field is the name in parentheses and may hold spaces; utime and stime are
        // fields 14 and 15 (proc(5)), that is 11 and 12 after it.
        let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let ticks: f64 = after_name
            .split_ascii_whitespace()
            .skip(11)
            .take(2)
            .filter_map(|t| t.parse::<f64>().ok())
            .sum();
        let mut pages = statm
            .split_ascii_whitespace()
            .map(|p| p.parse::<u64>().unwrap_or(0));
        Process {
            cpu_seconds: ticks / USER_HZ,
            virtual_bytes: pages.next().unwrap_or(0).saturating_mul(PAGE_BYTES),
            resident_bytes: pages.next().unwrap_or(0).saturating_mul(PAGE_BYTES),
            ..Process::default()
        }
    }
}

/// When the process began. It is looked up once: `/proc/stat` takes long to read where there are many
/// processors and interrupts, and a scrape is answered by a core's thread.
fn began(stat: &str) -> f64 {
    static BEGAN: OnceLock<f64> = OnceLock::new();
    *BEGAN.get_or_init(|| {
        let machine = std::fs::read_to_string("/proc/stat").unwrap_or_default();
        start_seconds(stat, &machine)
    })
}

/// The field of `/proc/self/stat` that says when the process began, in ticks since the machine did (proc(5):
/// 22), and the line of `/proc/stat` that says when that was.
fn start_seconds(stat: &str, machine: &str) -> f64 {
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks = after_name.split_ascii_whitespace().nth(19);
    let ticks = ticks.and_then(|ticks| ticks.parse::<f64>().ok());
    let boot = machine.lines().find_map(|l| l.strip_prefix("btime "));
    let boot = boot.and_then(|boot| boot.trim().parse::<f64>().ok());
    match (boot, ticks) {
        (Some(boot), Some(ticks)) => boot + ticks / USER_HZ,
        _ => 0.0,
    }
}

/// `InOctets` and `OutOctets` of the second line that begins with `IpExt:`; their places are in the first.
fn network_bytes(netstat: &str) -> (u64, u64) {
    let mut lines = netstat.lines().filter(|l| l.starts_with("IpExt:"));
    let (Some(names), Some(values)) = (lines.next(), lines.next()) else {
        return (0, 0);
    };
    let of = |wanted: &str| {
        let mut both = names
            .split_ascii_whitespace()
            .zip(values.split_ascii_whitespace());
        let found = both.find(|(name, _)| *name == wanted);
        found.and_then(|(_, value)| value.parse().ok()).unwrap_or(0)
    };
    (of("InOctets"), of("OutOctets"))
}

/// The lines about the process: those of Prometheus' own library, and etcd's two of descriptors.
pub(super) fn render(p: &mut Page, s: &Process) {
    p.gauge(
        "os_fd_used",
        "The number of used file descriptors.",
        s.open_fds,
    );
    p.gauge("os_fd_limit", "The file descriptor limit.", s.open_fds_max);
    p.gauge(
        "process_max_fds",
        "Maximum number of open file descriptors.",
        s.open_fds_max,
    );
    p.gauge(
        "process_virtual_memory_max_bytes",
        "Maximum amount of virtual memory available in bytes.",
        s.virtual_bytes_max,
    );
    p.gauge(
        "process_start_time_seconds",
        "Start time of the process since unix epoch in seconds.",
        s.start_seconds,
    );
    let (received, sent) = s.network_bytes;
    p.counter(
        "process_network_receive_bytes_total",
        "Number of bytes received by the process over the network.",
        received,
    );
    p.counter(
        "process_network_transmit_bytes_total",
        "Number of bytes sent by the process over the network.",
        sent,
    );
    p.counter(
        "process_cpu_seconds_total",
        "Total user and system CPU time spent in seconds.",
        s.cpu_seconds,
    );
    p.gauge(
        "process_resident_memory_bytes",
        "Resident memory size in bytes.",
        s.resident_bytes,
    );
    p.gauge(
        "process_virtual_memory_bytes",
        "Virtual memory size in bytes.",
        s.virtual_bytes,
    );
    p.gauge(
        "process_open_fds",
        "Number of open file descriptors.",
        s.open_fds,
    );
    const LOST: &str = "henge_log_lines_lost_total";
    p.head(
        LOST,
        "Log lines that nobody will read: refused by the operating system, or not taken because the \
         log's reader is behind.",
        "counter",
    );
    let lost = &s.log_lines_lost;
    p.line(LOST, &[("why", "unwritten")], lost.unwritten);
    p.line(LOST, &[("why", "unread")], lost.unread);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every scrape read `/proc/stat` for it.
    #[test]
    fn regression_when_the_process_began_is_looked_up_once() {
        let first = Process::read(LogLinesLost::default()).start_seconds;
        assert!(first > 0.0);
        // Another process's line changes nothing any more.
        let other = "1 (a) S 0 1 2 3 4 5 6 7 8 9 250 150 0 0 0 0 1 0 1500";
        assert_eq!(began(other), first);
    }

    #[test]
    fn proc_stat_is_read_behind_a_name_with_spaces_and_parentheses() {
        let stat = "1 (a ) b) S 0 1 2 3 4 5 6 7 8 9 250 150 0 0";
        let p = Process::parse(stat, "100 25 3 4");
        assert_eq!(p.cpu_seconds, 4.0);
        assert_eq!((p.virtual_bytes, p.resident_bytes), (409_600, 102_400));
        assert_eq!(Process::parse("", ""), Process::default());
        let stat = format!("{stat} 0 0 1 0 1500");
        assert_eq!(start_seconds(&stat, "cpu 1\nbtime 1000\n"), 1_015.0);
        assert_eq!(start_seconds(&stat, ""), 0.0);
        let net = "TcpExt: A B\nTcpExt: 1 2\nIpExt: X InOctets OutOctets\nIpExt: 9 70 80\n";
        assert_eq!(network_bytes(net), (70, 80));
        assert_eq!(network_bytes("IpExt: InOctets\n"), (0, 0));
    }
}
