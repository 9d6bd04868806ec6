//! `henge serve` as a process: bad input, locks, signals, damaged data directories.
//!
//! Promises: what goes wrong is said plainly (which flag, file, process), with the documented exit
//! code, and what was refused is left as it was.
//! Must never know: the server's types. Data files are damaged by looking for bytes that the test
//! itself wrote, and in the one documented field of IDENTITY (docs/format.md).
//! `HENGE_BINARY=PATH` tests another build; without it cargo brings this workspace's up to date.
#![allow(
    clippy::disallowed_methods,
    reason = "whole-system tests live in real time and wait for real processes"
)]

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use henge_tests::dice::Dice;
use henge_tests::etcd::{Client, KeyValue, RangeRequest};
use henge_tests::history::History;
use henge_tests::load::{Board, Worker};
use henge_tests::process::{Member, Program, Scratch, Server};

/// A first start writes and syncs whole segments, on a machine that also runs other tests.
const START_MAX: Duration = Duration::from_secs(60);
const EXIT_MAX: Duration = Duration::from_secs(30);
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Exit codes, as `henge --help` and the README give them.
const FAILED: i32 = 1;
const USAGE: i32 = 2;

fn program() -> &'static Program {
    static PROGRAM: OnceLock<Program> = OnceLock::new();
    PROGRAM.get_or_init(|| match std::env::var_os("HENGE_BINARY") {
        Some(path) => Program::henge(path.into()),
        None => Program::built().expect("the binary under test builds"),
    })
}

/// A data directory and ports for one server.
struct Place {
    scratch: Scratch,
    member: Member,
}

impl Place {
    fn new(name: &str) -> Self {
        let scratch = Scratch::new(name).expect("a temporary directory");
        let member = Member::cluster(scratch.path(), 1)
            .expect("free ports")
            .remove(0);
        Self { scratch, member }
    }

    fn flags(&self) -> Vec<OsString> {
        self.member.flags(std::slice::from_ref(&self.member))
    }

    fn start(&self) -> Server {
        Server::start(program(), self.flags(), START_MAX).expect("the server starts")
    }

    /// Starts where it has to refuse: its exit code and all it said.
    fn refused(&self) -> (i32, String) {
        ends(self.flags())
    }

    fn client(&self) -> Client {
        Client::new(self.member.client_port, ANSWER_MAX)
    }
}

/// Runs the server until it ends by itself: exit code and log.
fn ends(flags: Vec<OsString>) -> (i32, String) {
    let mut server = Server::spawn(program(), flags).expect("the binary runs");
    let status = server.await_exit(EXIT_MAX).expect("it ends by itself");
    (
        status.code().expect("it ends without a signal"),
        server.log(),
    )
}

/// A few puts with markers as values; the markers.
async fn put_markers(client: &mut Client, count: usize) -> Vec<String> {
    let mut markers = Vec::new();
    for i in 0..count {
        let marker = format!("<<marker {i:06} of the serve test>>");
        client
            .put(key(i), marker.clone().into_bytes())
            .await
            .expect("a put is acknowledged");
        markers.push(marker);
    }
    markers
}

fn key(i: usize) -> Vec<u8> {
    format!("marked/{i:06}").into_bytes()
}

async fn get(client: &mut Client, i: usize) -> Option<KeyValue> {
    let request = RangeRequest {
        key: key(i),
        ..RangeRequest::default()
    };
    client
        .range(request)
        .await
        .expect("a read is answered")
        .kvs
        .pop()
}

/// Every file below `dir`.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)
        .expect("a directory")
        .map(|e| e.expect("an entry").path())
    {
        if entry.is_dir() {
            found.extend(files(&entry));
        } else {
            found.push(entry);
        }
    }
    found.sort();
    found
}

/// What must not change while a server refuses. The lock file may: taking it writes the holder.
fn picture(dir: &Path) -> BTreeMap<PathBuf, (u64, SystemTime)> {
    files(dir)
        .into_iter()
        .filter(|path| path.file_name().is_some_and(|name| name != "LOCK"))
        .map(|path| {
            let data = fs::metadata(&path).expect("a file");
            (
                path,
                (data.len(), data.modified().expect("a modification time")),
            )
        })
        .collect()
}

/// The file below `dir` that holds `text`, and where in it; the last place if there are several.
fn find(dir: &Path, text: &str) -> (PathBuf, usize) {
    let needle = text.as_bytes();
    files(dir)
        .into_iter()
        .filter_map(|path| {
            let bytes = fs::read(&path).expect("a readable file");
            let at = bytes
                .windows(needle.len())
                .rposition(|window| window == needle)?;
            Some((path, at))
        })
        .next_back()
        .expect("what was written is in some file")
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).expect("a readable file");
    bytes[at] ^= 0x10;
    fs::write(path, bytes).expect("a writable file");
}

fn assert_says(log: &str, parts: &[&str]) {
    for part in parts {
        assert!(
            log.contains(part),
            "`{part}` is not in what it said:\n{log}"
        );
    }
}

#[test]
fn unknown_flag_is_named() {
    let (code, log) = ends(vec!["--no-such-flag".into()]);
    assert_eq!(code, USAGE, "{log}");
    assert_says(&log, &["--no-such-flag"]);
}

#[test]
fn bad_values_name_their_flag() {
    for (flag, value) in [
        ("--listen-client-urls", "nonsense"),
        ("--listen-client-urls", "http://127.0.0.1:99999"),
        ("--heartbeat-interval", "soon"),
        ("--initial-cluster", "no-equals-sign"),
        ("--initial-cluster-state", "perhaps"),
        ("--max-request-bytes", "lots"),
    ] {
        // The directory only matters if the value is wrongly taken.
        let place = Place::new("values");
        let data = place.member.data.clone();
        let (code, log) = ends(vec![
            flag.into(),
            value.into(),
            "--data-dir".into(),
            data.into(),
        ]);
        assert_eq!(code, USAGE, "{flag} {value}: {log}");
        assert_says(&log, &[flag.trim_start_matches('-')]);
        assert!(
            !place.member.data.exists(),
            "{flag} {value}: a data directory was made"
        );
    }
}

#[test]
fn a_taken_port_is_named() {
    let place = Place::new("port");
    let _holder = TcpListener::bind(("127.0.0.1", place.member.client_port)).expect("free port");
    let (code, log) = place.refused();
    assert_eq!(code, FAILED, "{log}");
    assert_says(&log, &[&place.member.client_port.to_string(), "in use"]);
}

#[tokio::test]
async fn a_locked_directory_names_its_holder() {
    let place = Place::new("lock");
    let holder = place.start();
    let second = Member {
        data: place.member.data.clone(),
        ..Place::new("lock").member
    };
    let (code, log) = ends(second.flags(std::slice::from_ref(&second)));
    assert_eq!(code, FAILED, "{log}");
    assert_says(&log, &[&holder.pid().to_string()]);
    put_markers(&mut place.client(), 1).await;
}

#[test]
fn a_directory_that_cannot_be_made_is_named() {
    let mut place = Place::new("file");
    let file = place.scratch.path().join("file");
    fs::write(&file, "not a directory").expect("a writable directory");
    place.member.data = file.join("data");
    let (code, log) = place.refused();
    assert_eq!(code, FAILED, "{log}");
    assert_says(&log, &[&place.member.data.display().to_string()]);
}

#[test]
fn a_directory_of_others_is_left_alone() {
    let place = Place::new("others");
    fs::create_dir_all(&place.member.data).expect("a writable directory");
    fs::write(place.member.data.join("diary.txt"), "private").expect("a writable directory");
    let before = files(&place.member.data);
    let (code, log) = place.refused();
    assert_eq!(code, FAILED, "{log}");
    assert_says(
        &log,
        &[&place.member.data.display().to_string(), "diary.txt"],
    );
    assert_eq!(files(&place.member.data), before);
}

#[tokio::test]
async fn a_newer_format_is_refused_untouched() {
    let place = Place::new("newer");
    let mut server = place.start();
    put_markers(&mut place.client(), 3).await;
    server.kill();
    let identity = files(&place.member.data)
        .into_iter()
        .find(|path| path.ends_with("IDENTITY"))
        .expect("an IDENTITY file");
    let mut bytes = fs::read(&identity).expect("a readable file");
    // The format version: two bytes, little-endian, at offset 8.
    bytes[8..10].copy_from_slice(&999_u16.to_le_bytes());
    fs::write(&identity, bytes).expect("a writable file");
    let before = picture(&place.member.data);
    let (code, log) = place.refused();
    assert_eq!(code, FAILED, "{log}");
    assert_says(&log, &["IDENTITY", "999"]);
    assert_eq!(picture(&place.member.data), before);
}

#[tokio::test]
async fn sigterm_drains_and_loses_nothing() {
    let place = Place::new("sigterm");
    let mut server = place.start();
    let board = Arc::new(Board::default());
    let workers: Vec<_> = (0..6)
        .map(|number| {
            let worker = Worker {
                round: 1,
                number,
                ports: vec![place.member.client_port],
                deadline: ANSWER_MAX,
                carry_on: false,
            };
            let board = Arc::clone(&board);
            tokio::spawn(async move { worker.run(Dice::new(number), &board).await })
        })
        .collect();
    while board.acked.load(Ordering::Relaxed) < 500 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    server.terminate().expect("a signal can be sent");
    let status = server.await_exit(EXIT_MAX).expect("it ends when asked to");
    assert_eq!(status.code(), Some(0), "{}", server.log());

    board.stop.store(true, Ordering::Relaxed);
    let mut history = History::new(1);
    for worker in workers {
        for session in worker.await.expect("a load worker ends") {
            history.record(session).expect("revisions rise");
        }
    }
    let _server = place.start();
    let (revision, kvs) = place
        .client()
        .everything(false)
        .await
        .expect("it can be read");
    history
        .check(revision, &kvs, true)
        .expect("all that was acknowledged is there");
}

#[tokio::test]
async fn a_flipped_byte_in_the_middle_is_refused() {
    let place = Place::new("flip");
    let mut server = place.start();
    let markers = put_markers(&mut place.client(), 30).await;
    server.kill();
    let (file, at) = find(&place.member.data, &markers[10]);
    flip(&file, at + 5);
    let before = picture(&place.member.data);
    let (code, log) = place.refused();
    assert_eq!(code, FAILED, "{log}");
    let name = file
        .file_name()
        .expect("a file name")
        .to_string_lossy()
        .into_owned();
    assert_says(&log, &[&name, "offset", "group", "index"]);
    assert_eq!(
        picture(&place.member.data),
        before,
        "a refusal changes nothing"
    );
}

#[tokio::test]
async fn a_torn_tail_is_cut_and_reported() {
    let place = Place::new("torn");
    let mut server = place.start();
    let markers = put_markers(&mut place.client(), 30).await;
    server.kill();
    // Nothing later in the log proves the last write durable: to recovery, damage in it is what a
    // power loss in the middle of the write leaves.
    let last = markers.len() - 1;
    let (file, at) = find(&place.member.data, &markers[last]);
    flip(&file, at + 5);
    let server = place.start();
    let name = file
        .file_name()
        .expect("a file name")
        .to_string_lossy()
        .into_owned();
    assert_says(&server.log(), &["cut", &name]);
    let mut client = place.client();
    for (i, marker) in markers[..last].iter().enumerate() {
        let kv = get(&mut client, i)
            .await
            .unwrap_or_else(|| panic!("put {i} is lost"));
        assert_eq!(kv.value, marker.as_bytes());
        assert_eq!(kv.mod_revision, 2 + i as i64);
    }
    assert_eq!(
        get(&mut client, last).await,
        None,
        "a torn write is absent as a whole"
    );
    put_markers(&mut client, 1).await;
}

#[tokio::test]
async fn a_restart_keeps_everything() {
    let place = Place::new("restart");
    let mut before = None;
    for round in 0..3 {
        let mut server = place.start();
        let mut client = place.client();
        let (revision, kvs) = client.everything(false).await.expect("it can be read");
        if let Some(before) = before {
            assert_eq!((revision, kvs), before, "restart {round}");
        }
        put_markers(&mut client, 5).await;
        before = Some(client.everything(false).await.expect("it can be read"));
        server.kill();
    }
}
