//! Flags and variables become the configuration that etcd would have, or are refused by name.

use super::*;
use clap::Parser;

#[derive(Parser, Debug)]
struct Line {
    #[command(flatten)]
    serve: ServeArgs,
}

fn parse(line: &str) -> Result<ServeConfig, String> {
    let words = std::iter::once("henge").chain(line.split_whitespace());
    let parsed = Line::try_parse_from(words).map_err(|e| {
        assert_eq!(e.exit_code(), 2, "{e}");
        e.to_string()
    })?;
    parsed.serve.validate().map_err(|e| e.to_string())
}

#[test]
fn without_flags_it_is_etcds_default_server_with_etcds_ids() {
    let c = parse("").expect("defaults");
    assert_eq!(
        (c.name.as_str(), c.data_dir.to_str()),
        ("default", Some("default.henge"))
    );
    assert_eq!(
        c.listen_client,
        [ListenOn::Tcp(([127, 0, 0, 1], 2379).into())]
    );
    assert_eq!(c.advertise_client_urls.to_string(), "http://localhost:2379");
    // What every default etcd in the world answers with.
    assert_eq!(c.member_id, 0x8e9e_05c5_2164_694d);
    assert_eq!(c.cluster_id, 0xcdf8_1819_4e3a_8c32);
    assert_eq!(c.quota_bytes, Some(2 << 30));
    assert_eq!(c.edge.max_request_bytes, 1_572_864);
    assert_eq!(c.edge.max_concurrent_streams, u32::MAX);
    assert_eq!(
        (c.heartbeat_ms, c.election_ms, c.auto_compaction),
        (100, 1_000, AutoCompaction::Off)
    );
    assert!(c.warnings.is_empty());
}

#[test]
fn a_cluster_finds_itself_and_every_member_computes_the_same_ids() {
    let cluster = "--initial-cluster a=http://h:1,b=http://h:2,c=http://h:3";
    let one = parse(&format!("--name a {cluster}")).expect("a");
    let two = parse(&format!("--name b {cluster}")).expect("b");
    assert_eq!(one.cluster_id, two.cluster_id);
    assert_eq!(one.members, two.members);
    assert_ne!(one.member_id, two.member_id);
    assert!(one.members.windows(2).all(|w| w[0].id < w[1].id));
    let other = parse(&format!("--name a --initial-cluster-token x {cluster}")).expect("a");
    assert_ne!(one.cluster_id, other.cluster_id);
}

#[test]
fn what_the_log_could_not_hold_or_a_sixth_member_is_refused_by_its_flag() {
    let named = |line: &str, flag: &str| {
        let told = parse(line).expect_err(line);
        assert!(told.contains(flag), "{line}: {told}");
    };
    named("--max-request-bytes 16777217", "max-request-bytes");
    assert!(parse("--max-request-bytes 16777216").is_ok());
    named("--max-txn-ops -1", "--max-txn-ops");
    for odd in ["0", "4096", "1000000", "2147483648", "-8"] {
        named(&format!("--wal-segment-bytes {odd}"), "--wal-segment-bytes");
    }
    // What the segments could not hold: the flag, what it would have to be, or the other flag.
    for part in [
        "--wal-segment-bytes",
        "at least 21",
        "--max-request-bytes at most 7",
    ] {
        named("--wal-segment-bytes 1048576", part);
    }
    let fits = parse("--wal-segment-bytes 1048576 --max-request-bytes 700000");
    assert_eq!(fits.expect("fits").wal_segment_bytes, Some(1 << 20));
    named("--busy-poll-us -3", "--busy-poll-us");
    let members = |count: u16| {
        let one = |at: u16| format!("m{at}=http://127.0.0.1:{}", 1_000 + at);
        let all: Vec<_> = (0..count).map(one).collect();
        let own = "--initial-advertise-peer-urls http://127.0.0.1:1000";
        format!("--name m0 {own} --initial-cluster {}", all.join(","))
    };
    assert!(parse(&members(5)).is_ok(), "{:?}", parse(&members(5)).err());
    named(&members(6), "initial-cluster");
}

#[test]
fn the_last_of_two_equal_flags_wins_and_numbers_may_be_negative() {
    let c = parse("--name a --name b --quota-backend-bytes -1").expect("parses");
    assert_eq!((c.name.as_str(), c.quota_bytes), ("b", None));
    assert_eq!(c.data_dir.to_str(), Some("b.henge"));
    let c = parse("--grpc-keepalive-interval=0 --auto-compaction-retention=1h").expect("parses");
    assert!(c.edge.keepalive_interval > Duration::from_secs(1_000_000_000));
    let hour = AutoCompaction::Periodic(Duration::from_secs(3_600));
    assert_eq!(c.auto_compaction, hour);
}

#[test]
fn what_is_empty_or_short_is_taken_as_etcd_takes_it() {
    let c = parse("--listen-metrics-urls= --auto-compaction-retention= --listen-client-http-urls=");
    let c = c.expect("starts");
    assert!(c.listen_metrics.is_empty() && c.listen_client_http.is_empty());
    let warnings = c.warnings.len();
    assert_eq!((c.auto_compaction, warnings), (AutoCompaction::Off, 0));
    for (given, is, warnings) in [("1ms", 100, 1), ("0", 600_000, 0), ("5s", 5_000, 0)] {
        let c = parse(&format!("--watch-progress-notify-interval {given}")).expect(given);
        assert_eq!(c.progress_interval, Duration::from_millis(is), "{given}");
        assert_eq!(c.warnings.len(), warnings, "{:?}", c.warnings);
    }
    let c = parse("--listen-client-urls unix:///run/h.sock").expect("a socket");
    assert_eq!(c.listen_client, [ListenOn::Unix("/run/h.sock".into())]);
    assert_eq!(c.advertise_client_urls.to_string(), "unix:///run/h.sock");
}

#[test]
fn the_least_time_between_pings_is_taken() {
    let least = |line: &str| {
        let config = parse(line).expect(line);
        assert_eq!(config.warnings, [""; 0]);
        config.edge.ping_least
    };
    assert_eq!(least(""), Duration::from_secs(5));
    assert_eq!(
        least("--grpc-keepalive-min-time 1s"),
        Duration::from_secs(1)
    );
}

#[test]
fn the_help_names_the_variable_of_every_flag() {
    use clap::CommandFactory;
    let mut command = super::super::args::with_variables(Line::command());
    let help = command.render_long_help().to_string();
    for flag in super::super::known::TAKEN {
        let variable = format!("[env: {}]", super::super::known::variable(flag));
        assert!(help.contains(&variable), "{variable} is not in {help}");
    }
}

#[test]
fn a_bad_value_names_its_flag() {
    let table = [
        ("--nope", "--nope"),
        ("--max-txn-ops x", "--max-txn-ops"),
        ("--max-txn-ops 0", "--max-txn-ops"),
        ("--max-request-bytes -5", "-5"),
        ("--max-request-bytes 0", "--max-request-bytes"),
        ("--heartbeat-interval 0", "--heartbeat-interval"),
        (
            "--heartbeat-interval 300",
            "--election-timeout[1000ms] should be at least as 5",
        ),
        ("--election-timeout 60000", "is too long"),
        (
            "--listen-client-urls https://localhost:2379",
            "TLS is not supported yet",
        ),
        (
            "--listen-client-urls localhost:2379",
            "--listen-client-urls",
        ),
        (
            "--listen-peer-urls http://example.com:1",
            "--listen-peer-urls: expected IP",
        ),
        (
            "--initial-cluster a=http://h:1",
            "couldn't find local name \"default\"",
        ),
        ("--initial-cluster default", "--initial-cluster"),
        (
            "--initial-cluster default=http://h:1 --initial-advertise-peer-urls http://h:2",
            "they must be equal",
        ),
        ("--initial-cluster-state old", "--initial-cluster-state"),
        ("--grpc-keepalive-timeout 5", "--grpc-keepalive-timeout"),
        (
            "--auto-compaction-retention x",
            "--auto-compaction-retention",
        ),
        ("--auto-compaction-mode daily", "--auto-compaction-mode"),
        (
            "--listen-client-urls unixs:///x",
            "TLS is not supported yet",
        ),
        ("--listen-peer-urls unix:///x", "members speak TCP"),
        ("--initial-cluster default=unix:///x", "members speak TCP"),
        ("--listen-client-urls=", "--listen-client-urls"),
        ("--log-level loud", "--log-level"),
        ("--host glommio", "--host"),
        ("--name a/b", "--name"),
        ("stray", "stray"),
    ];
    for (line, names) in table {
        let e = parse(line).expect_err(line);
        assert!(e.contains(names), "{line}: {e}");
    }
}

#[test]
fn every_flag_can_come_from_the_environment() {
    use clap::CommandFactory;
    let command = Line::command();
    let mut flags: Vec<&str> = command
        .get_arguments()
        .filter_map(|a| a.get_long())
        .collect();
    flags.retain(|f| *f != "help");
    let mut taken = super::super::known::TAKEN.to_vec();
    flags.sort_unstable();
    taken.sort_unstable();
    assert_eq!(flags, taken);
}
