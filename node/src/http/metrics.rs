//! `/metrics`: Prometheus text exposition with etcd's names, and ours under `henge_`.
//!
//! Written by hand because etcd's names break the rules that exposition libraries enforce (gauges
//! that end in `_total`). Every line comes from a snapshot of counters; rendering takes no lock.

use std::fmt::{Display, Write};

use tonic::Code;

use crate::api::Metrics;
use crate::etcd::GrpcCounters;
use crate::etcd::connections::Connections;
use crate::etcd::counters::METHODS;
use crate::host::log_lines::{self, Lost};

/// What the operating system knows about this process (`/proc/self`).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Process {
    /// User and system time, in seconds.
    pub cpu_seconds: f64,
    /// Resident memory, in bytes.
    pub resident_bytes: u64,
    /// Virtual memory, in bytes.
    pub virtual_bytes: u64,
    /// Open file descriptors.
    pub open_fds: u64,
    /// Log lines that nobody will read.
    pub log_lines_lost: Lost,
}

/// Clock ticks per second in `/proc/self/stat` (USER_HZ: 100 on every Linux architecture we run on).
const USER_HZ: f64 = 100.0;

/// Page size in `/proc/self/statm`, in bytes.
const PAGE_BYTES: u64 = 4_096;

impl Process {
    /// A sample; zeros where `/proc` cannot be read.
    pub fn read() -> Process {
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
        let fds = std::fs::read_dir("/proc/self/fd").map_or(0, |d| d.count() as u64);
        Process {
            open_fds: fds,
            log_lines_lost: log_lines::lost(),
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

/// Who answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// Shown in hex, as etcd does.
    pub member_id: u64,
    /// The etcd version served.
    pub version: String,
}

/// The whole exposition.
pub fn render(m: &Metrics, counters: &GrpcCounters, process: &Process, who: &Identity) -> String {
    let mut page = Page(String::with_capacity(16 * 1024));
    server(&mut page, m, who);
    storage(&mut page, m);
    wal(&mut page, m);
    grpc(&mut page, counters);
    own(&mut page, m);
    process_lines(&mut page, process);
    page.0
}

/// The lines about connected clients.
pub(crate) fn clients(connections: &Connections) -> String {
    let mut page = Page::default();
    page.gauge(
        "henge_client_connections",
        "Client connections now.",
        connections.open() as u64,
    );
    page.counter(
        "henge_client_connections_refused_total",
        "Client connections closed at once, as file descriptors are kept back for the log and peers.",
        connections.refused(),
    );
    page.0
}

fn server(p: &mut Page, m: &Metrics, who: &Identity) {
    p.gauge(
        "etcd_server_has_leader",
        "Whether or not a leader exists. 1 is existence, 0 is not.",
        u8::from(m.has_leader),
    );
    p.gauge(
        "etcd_server_is_leader",
        "Whether or not this member is a leader. 1 if is, 0 otherwise.",
        u8::from(m.is_leader),
    );
    p.counter(
        "etcd_server_leader_changes_seen_total",
        "The number of leader changes seen.",
        m.leader_changes,
    );
    // etcd registers these three as gauges whatever their names say.
    p.gauge(
        "etcd_server_proposals_committed_total",
        "The total number of consensus proposals committed.",
        m.committed,
    );
    p.gauge(
        "etcd_server_proposals_applied_total",
        "The total number of consensus proposals applied.",
        m.applied,
    );
    p.gauge(
        "etcd_server_proposals_pending",
        "The current number of pending proposals to commit.",
        m.pending,
    );
    p.counter(
        "etcd_server_proposals_failed_total",
        "The total number of failed proposals seen.",
        m.failed,
    );
    p.head(
        "etcd_server_id",
        "Server or member ID in hexadecimal format. 1 for 'server_id' label with current ID.",
        "gauge",
    );
    p.line(
        "etcd_server_id",
        &[("server_id", &format!("{:x}", who.member_id))],
        1,
    );
    p.head(
        "etcd_server_version",
        "Which version is running. 1 for 'server_version' label with current version.",
        "gauge",
    );
    p.line(
        "etcd_server_version",
        &[("server_version", &who.version)],
        1,
    );
}

fn storage(p: &mut Page, m: &Metrics) {
    p.gauge(
        "etcd_mvcc_db_total_size_in_bytes",
        "Total size of the underlying database in bytes.",
        m.db_bytes,
    );
    p.gauge(
        "etcd_mvcc_db_total_size_in_use_in_bytes",
        "Total size of the underlying database logically in use in bytes.",
        m.db_bytes,
    );
    p.gauge(
        "etcd_debugging_mvcc_keys_total",
        "Total number of keys.",
        m.keys,
    );
    p.gauge(
        "etcd_debugging_mvcc_current_revision",
        "The current revision of store.",
        m.revision,
    );
    p.gauge(
        "etcd_debugging_mvcc_compact_revision",
        "The revision of the last compaction in store.",
        m.compact_revision,
    );
    p.gauge(
        "etcd_debugging_mvcc_watcher_total",
        "Total number of watchers.",
        m.watchers,
    );
}

fn wal(p: &mut Page, m: &Metrics) {
    // Our log is synchronous by its open flags: the durable write is what etcd's fsync is.
    const NAME: &str = "etcd_disk_wal_fsync_duration_seconds";
    p.head(
        NAME,
        "The latency distributions of durable log writes.",
        "histogram",
    );
    let bucket = format!("{NAME}_bucket");
    let mut seen = 0_u64;
    let (last, bounded) = m.wal_write_seconds.split_last().unwrap_or((&0, &[]));
    let mut bound = 0.001_f64;
    for count in bounded {
        seen = seen.saturating_add(*count);
        p.line(&bucket, &[("le", &bound.to_string())], seen);
        bound *= 2.0;
    }
    seen = seen.saturating_add(*last);
    p.line(&bucket, &[("le", "+Inf")], seen);
    p.line(&format!("{NAME}_sum"), &[], m.wal_write_seconds_sum);
    p.line(&format!("{NAME}_count"), &[], seen);
    p.gauge(
        "etcd_disk_wal_write_bytes_total",
        "Total number of bytes written in WAL.",
        m.wal_bytes,
    );
}

fn grpc(p: &mut Page, counters: &GrpcCounters) {
    const STARTED: &str = "grpc_server_started_total";
    const HANDLED: &str = "grpc_server_handled_total";
    p.head(
        STARTED,
        "Total number of RPCs started on the server.",
        "counter",
    );
    for (i, m) in METHODS.iter().enumerate() {
        let labels = [
            ("grpc_method", m.name()),
            ("grpc_service", m.service()),
            ("grpc_type", m.kind),
        ];
        p.line(STARTED, &labels, counters.started(i));
    }
    p.head(
        HANDLED,
        "Total number of RPCs completed on the server, regardless of success or failure.",
        "counter",
    );
    for (i, m) in METHODS.iter().enumerate() {
        for (code, name) in CODES {
            let n = counters.handled(i, code);
            // OK is shown from the start so that ratios have a denominator; the rest when seen.
            if n == 0 && code != Code::Ok {
                continue;
            }
            let labels = [
                ("grpc_code", name),
                ("grpc_method", m.name()),
                ("grpc_service", m.service()),
                ("grpc_type", m.kind),
            ];
            p.line(HANDLED, &labels, n);
        }
    }
}

fn own(p: &mut Page, m: &Metrics) {
    p.head(
        "henge_build_info",
        "Which Henge is running, and how it was built. Always 1.",
        "gauge",
    );
    let build = [("version", crate::VERSION), ("build", crate::BUILD)];
    p.line("henge_build_info", &build, 1);
    let mean = |total: u64| {
        if m.wal_batches == 0 {
            0.0
        } else {
            total as f64 / m.wal_batches as f64
        }
    };
    p.head(
        "henge_io_backend",
        "What carries the log's writes. 1 for the one in use.",
        "gauge",
    );
    let direct = if m.direct_io { "true" } else { "false" };
    p.line(
        "henge_io_backend",
        &[("backend", m.io_backend), ("direct_io", direct)],
        1,
    );
    p.counter(
        "henge_wal_batches_total",
        "Group commits: durable writes of the log.",
        m.wal_batches,
    );
    p.counter(
        "henge_wal_payload_bytes_total",
        "Record bytes in those writes, without padding.",
        m.wal_payload_bytes,
    );
    p.gauge(
        "henge_wal_batch_payload_bytes_mean",
        "Record bytes per group commit since start.",
        mean(m.wal_payload_bytes),
    );
    p.gauge(
        "henge_wal_batch_proposals_mean",
        "Committed proposals per group commit since start.",
        mean(m.committed),
    );
    p.gauge(
        "henge_wal_poisoned",
        "1 after a log write failed: nothing is acknowledged any more.",
        u8::from(m.poisoned),
    );
    p.gauge(
        "henge_space_low",
        "1 while writes are refused because the disk has no room.",
        u8::from(m.space_low),
    );
    p.gauge(
        "henge_alarm_nospace",
        "1 while an alarm for space is raised.",
        u8::from(m.alarm_nospace),
    );
    p.gauge(
        "henge_alarm_corrupt",
        "1 while an alarm for corruption is raised.",
        u8::from(m.alarm_corrupt),
    );
    p.gauge(
        "etcd_server_quota_backend_bytes",
        "Current backend storage quota size in bytes.",
        m.quota_bytes,
    );
    p.gauge(
        "henge_mvcc_versions",
        "Versions kept, over all keys.",
        m.versions,
    );
    p.gauge(
        "henge_data_in_memory",
        "1 if the data directory is in memory (tmpfs, ramfs): nothing is durable.",
        u8::from(m.in_memory),
    );
    p.gauge("henge_leases", "Leases granted and not ended.", m.leases);
}

fn process_lines(p: &mut Page, s: &Process) {
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

/// The codes as grpc-go writes them.
const CODES: [(Code, &str); 17] = [
    (Code::Ok, "OK"),
    (Code::Cancelled, "Canceled"),
    (Code::Unknown, "Unknown"),
    (Code::InvalidArgument, "InvalidArgument"),
    (Code::DeadlineExceeded, "DeadlineExceeded"),
    (Code::NotFound, "NotFound"),
    (Code::AlreadyExists, "AlreadyExists"),
    (Code::PermissionDenied, "PermissionDenied"),
    (Code::ResourceExhausted, "ResourceExhausted"),
    (Code::FailedPrecondition, "FailedPrecondition"),
    (Code::Aborted, "Aborted"),
    (Code::OutOfRange, "OutOfRange"),
    (Code::Unimplemented, "Unimplemented"),
    (Code::Internal, "Internal"),
    (Code::Unavailable, "Unavailable"),
    (Code::DataLoss, "DataLoss"),
    (Code::Unauthenticated, "Unauthenticated"),
];

/// The text under construction. Writing to a String cannot fail.
#[derive(Default)]
pub(super) struct Page(String);

impl Page {
    pub(super) fn into_text(self) -> String {
        self.0
    }

    pub(super) fn head(&mut self, name: &str, help: &str, kind: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.head(name, help, "gauge");
        self.line(name, &[], value);
    }

    fn counter(&mut self, name: &str, help: &str, value: impl Display) {
        self.head(name, help, "counter");
        self.line(name, &[], value);
    }

    pub(super) fn line(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.0.push_str(name);
        for (i, (label, text)) in labels.iter().enumerate() {
            let open = if i == 0 { '{' } else { ',' };
            let text = text
                .replace('\\', "\\\\")
                .replace('"', "\\\"")
                .replace('\n', "\\n");
            let _ = write!(self.0, "{open}{label}=\"{text}\"");
        }
        if !labels.is_empty() {
            self.0.push('}');
        }
        let _ = writeln!(self.0, " {value}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, BTreeSet};

    /// A strict reading of the exposition format: every sample has a TYPE before it, once.
    fn parse(page: &str) -> BTreeMap<String, f64> {
        let (mut samples, mut types) = (BTreeMap::new(), BTreeSet::new());
        for line in page.lines() {
            if let Some(rest) = line.strip_prefix("# ") {
                let word: Vec<&str> = rest.splitn(3, ' ').collect();
                assert!(word.len() == 3 && !word[2].is_empty(), "{line}");
                assert!(
                    word[0] != "TYPE" || types.insert(word[1].to_owned()),
                    "{line}"
                );
                continue;
            }
            let (series, value) = line.rsplit_once(' ').expect("a sample has a value");
            let name = series.split('{').next().expect("name");
            let family = ["_bucket", "_sum", "_count"]
                .iter()
                .filter_map(|s| name.strip_suffix(s))
                .find(|f| types.contains(*f))
                .unwrap_or(name);
            assert!(types.contains(family), "{name} has no TYPE before it");
            let value: f64 = value.parse().expect("a number");
            assert!(
                samples.insert(series.to_owned(), value).is_none(),
                "twice: {series}"
            );
        }
        samples
    }

    #[test]
    fn the_page_parses_and_holds_the_numbers() {
        let mut m = Metrics {
            has_leader: true,
            committed: 7,
            revision: 42,
            ..Metrics::default()
        };
        m.wal_write_seconds[0] = 3;
        m.wal_write_seconds[13] = 2;
        m.wal_write_seconds[14] = 1;
        m.wal_write_seconds_sum = 1.5;
        m.io_backend = "tokio-uring";
        let who = Identity {
            member_id: 0xabc,
            version: "3.5.13".to_owned(),
        };
        let page = render(&m, &GrpcCounters::new(), &Process::read(), &who);
        let s = parse(&page);
        let fsync = "etcd_disk_wal_fsync_duration_seconds";
        let table = [
            ("etcd_server_has_leader".to_owned(), 1.0),
            ("etcd_server_proposals_committed_total".to_owned(), 7.0),
            ("etcd_debugging_mvcc_current_revision".to_owned(), 42.0),
            ("etcd_server_id{server_id=\"abc\"}".to_owned(), 1.0),
            (format!("{fsync}_bucket{{le=\"0.001\"}}"), 3.0),
            (format!("{fsync}_bucket{{le=\"8.192\"}}"), 5.0),
            (format!("{fsync}_bucket{{le=\"+Inf\"}}"), 6.0),
            (format!("{fsync}_count"), 6.0),
            (format!("{fsync}_sum"), 1.5),
        ];
        for (series, value) in table {
            assert_eq!(s.get(&series), Some(&value), "{series}");
        }
        let put = "grpc_server_handled_total{grpc_code=\"OK\",grpc_method=\"Put\",\
                   grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"}";
        assert_eq!(s.get(put), Some(&0.0));
        assert!(s["process_resident_memory_bytes"] > 0.0);
    }

    #[test]
    fn proc_stat_is_read_behind_a_name_with_spaces_and_parentheses() {
        let stat = "1 (a ) b) S 0 1 2 3 4 5 6 7 8 9 250 150 0 0";
        let p = Process::parse(stat, "100 25 3 4");
        assert_eq!(p.cpu_seconds, 4.0);
        assert_eq!((p.virtual_bytes, p.resident_bytes), (409_600, 102_400));
        assert_eq!(Process::parse("", ""), Process::default());
    }
}
