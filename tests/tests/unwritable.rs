//! Logs and results that nobody can write or read: a full disk, a closed pipe, a pipe nobody empties.
//!
//! Promises: a log line that cannot be written costs that line and a count in `/metrics`, never the server,
//! a call or a core's time; the tools end quietly when their reader leaves, and fail when their output is
//! lost.
//! Must never know: the server's types. `HENGE_BINARY=PATH` tests another build.
#![allow(
    clippy::disallowed_methods,
    reason = "whole-system tests live in real time and wait for real processes"
)]

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use henge_tests::etcd::Client;
use henge_tests::process::{Member, Program, Scratch, Server, http_get};

const START_MAX: Duration = Duration::from_secs(60);
const EXIT_MAX: Duration = Duration::from_secs(30);
const ANSWER_MAX: Duration = Duration::from_secs(10);

fn program() -> Program {
    match std::env::var_os("HENGE_BINARY") {
        Some(path) => Program::henge(path.into()),
        None => Program::built().expect("the binary under test builds"),
    }
}

/// A server whose log goes where the test says. Killed when dropped.
struct Muted {
    child: Child,
    port: u16,
}

impl Muted {
    fn start(member: &Member, stderr: Stdio) -> Muted {
        let mut flags = member.flags(std::slice::from_ref(member));
        // Every turn and call may say something.
        flags.extend(["--log-level".into(), "debug".into()]);
        let mut command = program().command(flags);
        let child = command.stdout(Stdio::null()).stderr(stderr).spawn();
        Muted {
            child: child.expect("the binary runs"),
            port: member.client_port,
        }
    }

    /// Waits until it answers, as its log cannot be asked.
    fn await_health(&mut self) {
        let deadline = Instant::now() + START_MAX;
        loop {
            let health = http_get(self.port, "/health").unwrap_or_default();
            if health.contains("\"health\":\"true\"") {
                return;
            }
            let ended = self.child.try_wait().expect("it can be asked");
            assert!(ended.is_none(), "it ended: {ended:?}");
            assert!(Instant::now() < deadline, "it is not ready: {health}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Lines lost for that reason, as `/metrics` has them.
    fn lost(&self, why: &str) -> u64 {
        let metrics = http_get(self.port, "/metrics").expect("metrics");
        let line = format!("henge_log_lines_lost_total{{why=\"{why}\"}} ");
        let count = metrics.lines().find_map(|l| l.strip_prefix(&line));
        count
            .unwrap_or_else(|| panic!("no {line} in {metrics}"))
            .parse()
            .expect("a count")
    }

    fn ends_when_asked(&mut self) {
        let kill = format!("kill -TERM {}", self.child.id());
        let sent = Command::new("sh").args(["-c", &kill]).status();
        assert!(sent.expect("a shell").success());
        let deadline = Instant::now() + EXIT_MAX;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().expect("it can be asked") {
                assert_eq!(status.code(), Some(0), "it ends in order");
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("it does not end");
    }
}

impl Drop for Muted {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn puts(port: u16, count: usize) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.expect("a runtime").block_on(async {
        let mut client = Client::new(port, ANSWER_MAX);
        for i in 0..count {
            let put = client.put(format!("k{i}").into_bytes(), b"v".to_vec());
            put.await.expect("a put is acknowledged");
        }
    });
}

fn member(scratch: &Scratch) -> Member {
    Member::cluster(scratch.path(), 1)
        .expect("free ports")
        .remove(0)
}

#[test]
fn a_full_disk_for_the_log_costs_lines_and_nothing_else() {
    let scratch = Scratch::new("log-full").expect("a temporary directory");
    let full = File::options().write(true).open("/dev/full");
    let mut server = Muted::start(&member(&scratch), full.expect("/dev/full").into());
    server.await_health();
    puts(server.port, 20);
    assert!(server.lost("unwritten") > 0);
    server.ends_when_asked();
}

#[test]
fn a_closed_pipe_for_the_log_costs_lines_and_nothing_else() {
    let scratch = Scratch::new("log-closed").expect("a temporary directory");
    let mut server = Muted::start(&member(&scratch), Stdio::piped());
    server.await_health();
    drop(server.child.stderr.take());
    puts(server.port, 3_000);
    assert!(server.lost("unwritten") > 0);
    server.ends_when_asked();
}

#[test]
fn a_pipe_that_nobody_empties_costs_lines_and_nothing_else() {
    let scratch = Scratch::new("log-stuck").expect("a temporary directory");
    let mut server = Muted::start(&member(&scratch), Stdio::piped());
    server.await_health();
    // Held open, never read: 64 KiB fit, then a writer waits for ever.
    let pipe = server.child.stderr.take().expect("a pipe");
    puts(server.port, 3_000);
    server.ends_when_asked();
    drop(pipe);
}

/// A log to look at, of a server that has ended.
fn a_log(scratch: &Scratch) -> Member {
    let member = member(scratch);
    let flags = member.flags(std::slice::from_ref(&member));
    let mut server = Server::start(&program(), flags, START_MAX).expect("the server starts");
    puts(member.client_port, 2_000);
    server.terminate().expect("a signal can be sent");
    server.await_exit(EXIT_MAX).expect("it ends");
    member
}

/// Runs a tool with that stdout; its exit code and what it said on stderr.
fn tool(args: &[&str], dir: &Path, stdout: Stdio) -> (Option<i32>, String) {
    let mut child = Command::new(program().path())
        .args(args)
        .arg(dir)
        .stdin(Stdio::null())
        .stdout(stdout)
        .stderr(Stdio::piped())
        .spawn()
        .expect("the tool runs");
    // A reader that leaves at once, if it is a pipe.
    drop(child.stdout.take());
    let mut said = String::new();
    let mut stderr = child.stderr.take().expect("a pipe");
    stderr.read_to_string(&mut said).expect("text");
    let status = child.wait().expect("it ends");
    (status.code(), said)
}

#[test]
fn tools_end_quietly_when_their_reader_leaves_and_fail_when_their_output_is_lost() {
    let scratch = Scratch::new("tools-closed").expect("a temporary directory");
    let log = a_log(&scratch).data;
    let doctor_dir = scratch.path();
    for (args, dir) in [
        (&["wal", "dump"][..], log.as_path()),
        (&["wal", "dump", "--json"], &log),
        (&["wal", "stat"], &log),
        (&["wal", "verify"], &log),
        (&["doctor"], doctor_dir),
    ] {
        let (code, said) = tool(args, dir, Stdio::piped());
        assert!(matches!(code, Some(0 | 3)), "{args:?}: {code:?} {said}");
        assert!(said.is_empty(), "{args:?}: {said}");
        let full = File::options().write(true).open("/dev/full");
        let (code, said) = tool(args, dir, full.expect("/dev/full").into());
        assert_eq!(code, Some(1), "{args:?}: {said}");
        assert!(
            said.contains("could not be written: No space left"),
            "{said}"
        );
    }
}
