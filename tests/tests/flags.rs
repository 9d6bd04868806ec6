//! The flags and variables of `henge serve` as an operator meets them: what is taken has its effect, what
//! has none is said, what must not be ignored is refused with the next step.
//!
//! Must never know: the server's types. `HENGE_BINARY=PATH` tests another build.
#![allow(
    clippy::disallowed_methods,
    reason = "whole-system tests live in real time and wait for real processes"
)]

use std::ffi::OsString;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use henge_tests::etcd::Client;
use henge_tests::process::{Member, Program, Scratch, Server, free_port, http_get};

const START_MAX: Duration = Duration::from_secs(60);
const EXIT_MAX: Duration = Duration::from_secs(30);
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Exit codes, as the README gives them.
const FAILED: i32 = 1;
const USAGE: i32 = 2;

fn program() -> &'static Program {
    static PROGRAM: OnceLock<Program> = OnceLock::new();
    PROGRAM.get_or_init(|| match std::env::var_os("HENGE_BINARY") {
        Some(path) => Program::henge(path.into()),
        None => Program::built().expect("the binary under test builds"),
    })
}

fn member(scratch: &Scratch) -> Member {
    Member::cluster(scratch.path(), 1)
        .expect("free ports")
        .remove(0)
}

/// The flags of a lone member, and more: of two of a kind the last one counts.
fn flags(member: &Member, more: &[&str]) -> Vec<OsString> {
    let mut flags = member.flags(std::slice::from_ref(member));
    flags.extend(more.iter().map(OsString::from));
    flags
}

fn start(flags: Vec<OsString>) -> Server {
    Server::start(program(), flags, START_MAX).expect("the server starts")
}

fn stop(server: &mut Server) {
    server.terminate().expect("a signal can be sent");
    let status = server.await_exit(EXIT_MAX).expect("it ends");
    assert_eq!(status.code(), Some(0), "{}", server.log());
}

/// Runs the server until it ends by itself: exit code and all it said.
fn refused(flags: Vec<OsString>) -> (i32, String) {
    let mut server = Server::spawn(program(), flags).expect("the binary runs");
    let status = server.await_exit(EXIT_MAX).expect("it ends by itself");
    (status.code().expect("no signal"), server.log())
}

fn says(log: &str, parts: &[&str]) {
    for part in parts {
        assert!(log.contains(part), "`{part}` is not in:\n{log}");
    }
}

/// A client needs its runtime from the beginning.
fn put(client: impl FnOnce() -> Client) -> Result<i64, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.expect("a runtime").block_on(async move {
        let put = client().put(b"k".to_vec(), b"v".to_vec()).await;
        put.map_err(|status| format!("{:?}: {status}", status.code()))
    })
}

#[test]
fn a_mistyped_variable_is_said_with_the_one_that_was_meant() {
    let scratch = Scratch::new("flags-env").expect("a temporary directory");
    let member = member(&scratch);
    let mut command = program().command(flags(&member, &[]));
    command.env("ETCD_LISTEN_CLIENT_URL", "http://127.0.0.1:1");
    command.env("HENGE_BUSY_POLL", "1");
    command.env("ETCD_EXPERIMENTAL_WATCH_PROGRESS_NOTIFY_INTERVAL", "5s");
    command.env("ETCD_NAME", "other");
    let mut server = Server::run(&mut command).expect("the binary runs");
    server.await_ready(START_MAX).expect("it starts");
    let log = server.log();
    says(
        &log,
        &[
            "unrecognized environment variable ETCD_LISTEN_CLIENT_URL; the nearest known is \
             ETCD_LISTEN_CLIENT_URLS",
            "unrecognized environment variable HENGE_BUSY_POLL",
            "ETCD_NAME is shadowed by --name",
        ],
    );
    assert!(!log.contains("variable ETCD_EXPERIMENTAL_WATCH"), "{log}");
    stop(&mut server);

    let mut command = program().command(flags(&member, &[]));
    command.env("ETCD_MAX_TXN_OPS", "many");
    let mut server = Server::run(&mut command).expect("the binary runs");
    let status = server.await_exit(EXIT_MAX).expect("it ends by itself");
    assert_eq!(status.code(), Some(USAGE));
    says(&server.log(), &["--max-txn-ops", "ETCD_MAX_TXN_OPS"]);
}

#[test]
fn what_an_operator_relies_on_is_refused_with_the_next_step() {
    for (more, parts) in [
        (
            &["--force-new-cluster"][..],
            &["force-new-cluster", "start those"][..],
        ),
        (
            &["--wal-dir", "/fast"],
            &["wal-dir", "core-0", "symbolic link"],
        ),
        (&["-enable-v2"], &["enable-v2", "v3 clients"]),
        (&["--proxy=on"], &["proxy"]),
    ] {
        let scratch = Scratch::new("flags-refused").expect("a temporary directory");
        let member = member(&scratch);
        let (code, log) = refused(flags(&member, more));
        assert_eq!(code, USAGE, "{log}");
        says(&log, parts);
        assert!(!member.data.exists(), "{more:?}: a directory was made");
    }
}

#[test]
fn the_log_on_another_disk_works_as_the_refusal_of_wal_dir_says() {
    let scratch = Scratch::new("flags-wal").expect("a temporary directory");
    let member = member(&scratch);
    let mut server = start(flags(&member, &[]));
    let revision = put(|| Client::new(member.client_port, ANSWER_MAX)).expect("a put");
    stop(&mut server);
    let fast = scratch.path().join("fast");
    std::fs::rename(member.data.join("core-0"), &fast).expect("it moves");
    std::os::unix::fs::symlink(&fast, member.data.join("core-0")).expect("a link");
    let mut server = start(flags(&member, &[]));
    let next = put(|| Client::new(member.client_port, ANSWER_MAX)).expect("a put");
    assert_eq!(next, revision + 1, "what was written is there");
    stop(&mut server);
}

#[test]
fn what_etcd_takes_starts() {
    let scratch = Scratch::new("flags-taken").expect("a temporary directory");
    let member = member(&scratch);
    let more = [
        "-snapshot-count=7",
        "--enable-v2=false",
        "--proxy=off",
        "--wal-dir=",
        "--listen-metrics-urls=",
        "--auto-compaction-retention=",
        "--watch-progress-notify-interval=1ms",
        "--bootstrap-defrag-threshold-megabytes",
        "100",
    ];
    let mut server = start(flags(&member, &more));
    says(
        &server.log(),
        &[
            "adjusted to the minimum period of 100ms",
            "--bootstrap-defrag-threshold-megabytes has no effect here",
        ],
    );
    stop(&mut server);
}

/// The answer to a plain GET through a unix socket, head included.
fn unix_get(path: &Path, what: &str) -> String {
    let mut stream = UnixStream::connect(path).expect("it listens");
    stream.set_read_timeout(Some(ANSWER_MAX)).expect("a limit");
    let request = format!("GET {what} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    answer
}

#[test]
fn clients_come_through_a_unix_socket_also_after_a_kill() {
    let scratch = Scratch::new("flags-unix").expect("a temporary directory");
    let member = member(&scratch);
    // A socket's path is at most 107 bytes long; the scratch directory's may be longer.
    let path = std::env::temp_dir().join(format!("henge-{}.sock", member.client_port));
    let url = format!("unix://{}", path.display());
    let more = [
        "--listen-client-urls",
        &url,
        "--advertise-client-urls",
        &url,
    ];
    for life in 0..2 {
        let mut server = start(flags(&member, &more));
        says(&unix_get(&path, "/health"), &["\"health\":\"true\""]);
        put(|| Client::unix(&path, ANSWER_MAX)).expect("a put through the socket");
        if life == 0 {
            server.kill();
            assert!(path.exists(), "a killed process leaves its socket behind");
        } else {
            stop(&mut server);
            assert!(!path.exists(), "it goes with the server");
        }
    }
}

#[test]
fn plain_http_moves_to_listen_client_http_urls() {
    let scratch = Scratch::new("flags-http").expect("a temporary directory");
    let member = member(&scratch);
    let http = free_port().expect("a port");
    let url = format!("http://127.0.0.1:{http}");
    let mut server = start(flags(&member, &["--listen-client-http-urls", &url]));
    says(
        &http_get(http, "/health").expect("answers"),
        &["200", "\"health\":\"true\""],
    );
    says(&http_get(http, "/metrics").expect("answers"), &["etcd_"]);
    let elsewhere = http_get(member.client_port, "/health").expect("answers");
    says(&elsewhere, &["404", "only gRPC is served here"]);
    put(|| Client::new(member.client_port, ANSWER_MAX)).expect("gRPC stays");
    let there = put(|| Client::new(http, ANSWER_MAX)).expect_err("no gRPC there");
    assert!(there.contains("Unimplemented"), "{there}");
    stop(&mut server);
}

#[test]
fn regression_a_changed_peer_url_names_the_flag_both_urls_and_both_ids() {
    let scratch = Scratch::new("flags-url").expect("a temporary directory");
    let before = member(&scratch);
    let mut server = start(flags(&before, &[]));
    stop(&mut server);
    let after = Member {
        peer_port: free_port().expect("a port"),
        ..before.clone()
    };
    let (code, log) = refused(flags(&after, &[]));
    assert_eq!(code, FAILED, "{log}");
    let url = |member: &Member| format!("http://127.0.0.1:{}", member.peer_port);
    let change = format!(
        "--initial-cluster: n0 is {} now and was {}",
        url(&after),
        url(&before)
    );
    says(
        &log,
        &[
            &change,
            "belongs to member ",
            "and this would be member ",
            " of cluster ",
        ],
    );
    // Once: a fatal error is not said twice.
    assert_eq!(log.matches(&change).count(), 1, "{log}");

    let (code, log) = refused(flags(&before, &["--initial-cluster-token", "other"]));
    assert_eq!(code, FAILED, "{log}");
    says(&log, &["--initial-cluster-token is not what it was"]);
    let mut server = start(flags(&before, &[]));
    stop(&mut server);
}

#[test]
fn the_help_and_the_version_are_there() {
    let of = |args: &[&str]| {
        let output = std::process::Command::new(program().path())
            .args(args)
            .output();
        let output = output.expect("the binary runs");
        assert!(output.status.success(), "{args:?}");
        String::from_utf8(output.stdout).expect("text")
    };
    says(&of(&["serve", "--help"]), &["ETCD_DATA_DIR", "HENGE_HOST"]);
    says(&of(&["serve", "--version"]), &["0.1"]);
}
