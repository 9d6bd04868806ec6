//! A machine that refuses io_uring: a real seccomp filter on a child process (fault D18).
//!
//! Promises: the disks' probes name the reason, the log and the server go on with threads, say so once
//! in the log and in a metric, and are as durable as anywhere.
//! Must never know: the server's types. `HENGE_BINARY=PATH` tests another build.
#![allow(
    clippy::disallowed_methods,
    reason = "whole-system tests live in real time and wait for real processes"
)]

use std::ffi::OsString;
use std::future::poll_fn;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use henge_tests::etcd::Client;
use henge_tests::process::{Member, Program, Scratch, Server};
use henge_tests::seccomp::{ENOSYS, EPERM, without_io_uring};
use henge_wal::disk::thread::ThreadDisk;
use henge_wal::disk::{ring, tokio_uring};
use henge_wal::{Collect, Event, Identity, Options, Wal};

const START_MAX: Duration = Duration::from_secs(60);
const EXIT_MAX: Duration = Duration::from_secs(30);
const ANSWER_MAX: Duration = Duration::from_secs(10);
const KEYS: usize = 40;
/// The log line.
const FALLS_BACK: &str = "io_uring is not available: log writes use a thread";
/// How both refusals are worded.
const REFUSALS: [(u32, &str); 2] = [
    (EPERM, "Operation not permitted"),
    (ENOSYS, "Function not implemented"),
];

const CHILD_DIR: &str = "HENGE_REFUSED_DIR";
const CHILD_REASON: &str = "HENGE_REFUSED_REASON";

fn program() -> Program {
    match std::env::var_os("HENGE_BINARY") {
        Some(path) => Program::henge(path.into()),
        None => Program::built().expect("the binary under test builds"),
    }
}

/// This test runs itself under the filter: [`the_child_without_io_uring`].
#[test]
fn the_probes_say_why_and_threads_carry_the_log() {
    for (errno, reason) in REFUSALS {
        let scratch = Scratch::new("refused-log").expect("a temporary directory");
        let own = std::env::current_exe().expect("this program");
        let output = without_io_uring(errno, || {
            Command::new(own)
                .args(["the_child_without_io_uring", "--exact", "--nocapture"])
                .env(CHILD_DIR, scratch.path())
                .env(CHILD_REASON, reason)
                .output()
        });
        let output = output
            .expect("this machine takes a filter")
            .expect("this program runs");
        let said = String::from_utf8_lossy(&output.stdout);
        let failed = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}\n{failed}");
        assert!(said.contains("the log was written by threads"), "{said}");
    }
}

/// Does nothing unless it was started by the test above.
#[test]
fn the_child_without_io_uring() {
    let (Ok(dir), Ok(reason)) = (std::env::var(CHILD_DIR), std::env::var(CHILD_REASON)) else {
        return;
    };
    for refused in [ring::probe(), tokio_uring::probe()] {
        let why = refused.expect_err("the filter is on");
        assert!(why.contains(&reason), "{why}");
    }
    assert!(ring::modes().iter().all(|mode| mode.result.is_err()));
    let dir = Path::new(&dir).join("log");
    for life in 1..=3 {
        assert_eq!(a_life(&dir, life), life * 10);
    }
    println!("the log was written by threads");
}

/// Opens the log, checks what former lives wrote, and writes ten entries more; its last index then.
fn a_life(dir: &Path, life: u64) -> u64 {
    let us = Identity {
        cluster_id: 1,
        member_id: 2,
    };
    let options = Options {
        segment_bytes: 256 * 1024,
        log_bytes_max: 1024 * 1024,
        ..Options::default()
    };
    let mut found = Collect::default();
    let disk = Box::new(ThreadDisk::new(1));
    let (mut wal, report) = Wal::open(dir, &options, &us, disk, &mut found).expect("it opens");
    assert_eq!(report.backend, "thread");
    let before = found.groups.get(&1).map_or(0, |log| log.last());
    assert_eq!(before, (life - 1) * 10, "what was acknowledged is there");
    let runtime = ::tokio::runtime::Builder::new_current_thread().build();
    runtime.expect("a runtime").block_on(async {
        for index in before + 1..=before + 10 {
            wal.entry(1, life, index, 0, &index.to_le_bytes())
                .expect("small");
            wal.submit().expect("healthy");
            while wal.stats().durable_lsn < wal.staged_lsn() - 1 {
                poll_fn(|cx| wal.poll(cx)).await;
            }
        }
        wal.close();
        while poll_fn(|cx| wal.poll(cx)).await != Event::Closed {}
    });
    before + 10
}

#[test]
fn serve_without_io_uring_falls_back_and_is_durable() {
    let program = program();
    for (errno, reason) in REFUSALS {
        let scratch = Scratch::new("refused-serve").expect("a temporary directory");
        let member = Member::cluster(scratch.path(), 1)
            .expect("free ports")
            .remove(0);
        let flags = member.flags(std::slice::from_ref(&member));
        let start = || Server::start(&program, flags.clone(), START_MAX);
        // Killed after each life; the last one is on a machine that allows io_uring again.
        for life in 0..3 {
            let server = match life {
                0 | 1 => without_io_uring(errno, start).expect("this machine takes a filter"),
                _ => start(),
            };
            let mut server = server.expect("the server starts");
            let log = server.log();
            let said: Vec<_> = log.lines().filter(|l| l.contains(FALLS_BACK)).collect();
            assert_eq!(said.len(), usize::from(life < 2), "{log}");
            assert!(said.iter().all(|line| line.contains(reason)), "{log}");
            let metrics = metrics(member.client_port);
            let threads = metrics.contains("henge_io_backend{backend=\"thread\"");
            assert_eq!(threads, life < 2, "{metrics}");
            keys_are_there_and_more(member.client_port, life);
            server.kill();
        }
    }
}

fn keys_are_there_and_more(port: u16, life: usize) {
    let runtime = ::tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.expect("a runtime").block_on(async {
        let mut client = Client::new(port, ANSWER_MAX);
        let (_, found) = client.everything(false).await.expect("it reads");
        let due: Vec<_> = (0..life * KEYS).map(key).collect();
        let found: Vec<_> = found.into_iter().map(|kv| kv.key).collect();
        assert_eq!(found, due, "what was acknowledged is there");
        for i in life * KEYS..(life + 1) * KEYS {
            client.put(key(i), b"x".to_vec()).await.expect("it writes");
        }
    });
}

fn key(i: usize) -> Vec<u8> {
    format!("refused/{i:06}").into_bytes()
}

/// The server's `/metrics`.
fn metrics(port: u16) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
    let request = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).expect("it reads");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("it answers");
    text
}

#[test]
fn a_host_that_was_asked_for_and_is_refused_is_an_error() {
    let scratch = Scratch::new("refused-host").expect("a temporary directory");
    let member = Member::cluster(scratch.path(), 1)
        .expect("free ports")
        .remove(0);
    for host in ["ring", "tokio-uring"] {
        let mut flags = member.flags(std::slice::from_ref(&member));
        flags.extend(["--host", host].map(OsString::from));
        let server = without_io_uring(EPERM, || Server::spawn(&program(), flags));
        let mut server = server
            .expect("this machine takes a filter")
            .expect("the binary runs");
        let status = server.await_exit(EXIT_MAX).expect("it ends by itself");
        assert_eq!(status.code(), Some(1), "{}", server.log());
        assert!(
            server.says("Operation not permitted"),
            "--host {host}: {}",
            server.log()
        );
    }
}
