//! `henge bench` as its users run it: what it prints, how it ends, and what it leaves behind; against an
//! engine in its process, and against a server of this build.
//!
//! Nothing here depends on how fast the machine is: figures are compared with each other, or with counters
//! of the server.
#![allow(
    clippy::disallowed_methods,
    reason = "a test that waits for real processes"
)]

#[allow(dead_code, reason = "every test file uses its own part of this")]
#[path = "../../../tests/common/mod.rs"]
mod common;
mod process;

use std::io::Write as _;
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use process::{PATIENCE, Process, Server, bench, is_empty, lines, made, signalled, start};

#[test]
fn regression_reads_through_endpoints_find_what_they_read() {
    let server = Server::start("bench-prefill", "");
    for (work, there, written) in [("get", 0, 250), ("range", 250, 0), ("mixed", 250, 0)] {
        let line = format!("{work} --keyspace 250 --clients 4 --conns 2 --duration 0.3 --json");
        let done = server.bench(&line);
        assert_eq!(done.code, 0, "{done:?}");
        let json = done.json();
        assert_eq!(json["prefill"]["there"], there, "{json}");
        assert_eq!(json["prefill"]["written"], written, "{json}");
        assert!(json["hits"].as_u64() > Some(0), "{json}");
        assert_eq!(json["misses"], 0, "{json}");
        assert_eq!(json["hit_rate"], 1.0, "{json}");
        let said = format!("250 keys: {there} were there already, {written} written");
        assert!(done.err.contains(&said), "{}", done.err);
    }
    // With more keys, only those that are new are written.
    let done = server.bench("get --keyspace 300 --clients 4 --duration 0.1 --json");
    assert_eq!(done.json()["prefill"]["there"], 250, "{done:?}");
    assert_eq!(done.json()["prefill"]["written"], 50, "{done:?}");
}

#[test]
fn regression_reads_that_found_nothing_are_said_beside_the_throughput() {
    let server = Server::start("bench-misses", "");
    for against in [String::new(), format!("--endpoints {}", server.address)] {
        for work in ["get", "range"] {
            let line = format!("{work} --no-prefill --clients 4 --duration 0.3 {against}");
            let done = bench(&server.dir.0, &format!("{line} --json"));
            let json = done.json();
            assert_eq!(json["hits"], 0, "{json}");
            assert_eq!(json["misses"], json["ops"], "{json}");
            assert_eq!(json["hit_rate"], 0.0, "{json}");
            assert_eq!(json["prefill"], Value::Null, "{json}");
            assert!(done.err.contains("found nothing"), "{done:?}");
            let table = bench(&server.dir.0, &line).out;
            assert!(table.contains("of them found nothing"), "{table}");
            assert!(table.contains("0.0 % of reads found something"), "{table}");
        }
    }
}

#[test]
fn an_embedded_load_finds_what_it_reads_on_many_shards() {
    let dir = made("bench-embedded");
    for work in ["get", "range", "mixed"] {
        let shape = "--shards 3 --cores 2 --keyspace 500 --clients 8 --duration 0.2";
        let done = bench(&dir.0, &format!("{work} {shape} --json"));
        assert_eq!(done.code, 0, "{done:?}");
        let json = done.json();
        assert_eq!(json["prefill"]["written"], 500, "{json}");
        assert_eq!(
            (&json["misses"], &json["hit_rate"]),
            (&0.into(), &1.0.into())
        );
    }
    assert!(is_empty(&dir.0));
    // A directory of the caller's is kept, and its keys are found by the next.
    for there in [0, 500] {
        let done = bench(
            &dir.0,
            "get --keyspace 500 --duration 0.1 --data-dir kept --json",
        );
        assert_eq!(done.json()["prefill"]["there"], there, "{done:?}");
    }
}

#[test]
fn regression_an_interrupted_run_prints_its_results_and_leaves_no_directory() {
    for (signal, name, code) in [(Signal::INT, "SIGINT", 130), (Signal::TERM, "SIGTERM", 143)] {
        let dir = made("bench-interrupted");
        let load = "put --clients 16 --duration 3600";
        let done = signalled(
            &dir.0,
            &format!("{load} --json"),
            Some(("measuring", signal)),
        );
        assert_eq!(done.code, code, "{done:?}");
        let json = done.json();
        assert_eq!(
            (&json["interrupted"], &json["signal"]),
            (&true.into(), &name.into())
        );
        assert!(json["seconds"].as_f64() < Some(3600.0), "{json}");
        assert!(json["ops"].is_u64(), "{json}");
        assert!(
            done.err.contains("is removed") && is_empty(&dir.0),
            "{done:?}"
        );

        let done = signalled(&dir.0, load, Some(("measuring", signal)));
        assert_eq!(done.code, code, "{done:?}");
        assert!(done.out.contains(&format!("by {name}")), "{done:?}");
        assert!(done.out.contains("throughput"), "{done:?}");
        assert!(is_empty(&dir.0), "{done:?}");
    }
}

#[test]
fn regression_an_interrupted_prefill_says_so_and_leaves_no_directory() {
    let dir = made("bench-interrupted-prefill");
    let line = "get --keyspace 900000000000 --json";
    let done = signalled(&dir.0, line, Some(("prefill:", Signal::INT)));
    assert_eq!(done.code, 130, "{done:?}");
    assert!(
        done.err.contains("nothing was measured (prefill at"),
        "{done:?}"
    );
    assert!(
        done.err.contains("is removed") && is_empty(&dir.0),
        "{done:?}"
    );
    let json = done.json();
    assert_eq!(
        (&json["interrupted"], &json["ops"]),
        (&true.into(), &0.into())
    );

    let server = Server::start("bench-interrupted-remote", "");
    let line = format!("{line} --endpoints {}", server.address);
    let done = signalled(&dir.0, &line, Some(("prefill:", Signal::TERM)));
    assert_eq!(done.code, 143, "{done:?}");
    assert!(
        done.err.contains("nothing was measured (prefill at"),
        "{done:?}"
    );
}

/// Printing the results waits for a reader that stands still: the first signal cannot end that.
#[test]
fn a_second_signal_ends_it_at_once() {
    use rustix::fs::{OFlags, fcntl_setfl};
    let dir = made("bench-twice");
    let (_reader, mut full) = std::io::pipe().expect("a pipe");
    fcntl_setfl(&full, OFlags::NONBLOCK).expect("set");
    while full.write(&[b'x'; 4096]).is_ok() {}
    fcntl_setfl(&full, OFlags::empty()).expect("set");
    let mut command = Command::new(env!("CARGO_BIN_EXE_henge"));
    command
        .args(["bench", "put", "--clients", "4", "--duration", "3600"])
        .current_dir(&dir.0)
        .stdin(Stdio::null())
        .stdout(full)
        .stderr(Stdio::piped());
    let mut bench = Process(command.spawn().expect("it starts"));
    let said = lines(bench.0.stderr.take().expect("piped"));
    let wait = |needle: &str| loop {
        let line = said.recv_timeout(PATIENCE).expect("it says so");
        if line.contains(needle) {
            break;
        }
    };
    wait("measuring");
    bench.signal(Signal::INT);
    wait("is removed");
    bench.signal(Signal::INT);
    wait("SIGINT again");
    assert_eq!(bench.end(), 130);
    assert!(is_empty(&dir.0));
}

#[test]
fn an_interrupted_load_through_endpoints_prints_its_results() {
    let server = Server::start("bench-interrupted-load", "");
    for work in ["put", "watch"] {
        let line = format!(
            "{work} --duration 3600 --json --endpoints {}",
            server.address
        );
        let done = signalled(&server.dir.0, &line, Some(("measuring", Signal::INT)));
        assert_eq!(done.code, 130, "{done:?}");
        assert_eq!(done.json()["interrupted"], true, "{done:?}");
    }
}

#[test]
fn regression_a_missed_rate_is_flagged_and_a_kept_one_is_not() {
    let dir = made("bench-rate");
    let line = "put --rate 1000000000 --clients 1 --duration 1";
    let done = bench(&dir.0, &format!("{line} --json"));
    let json = done.json();
    assert_eq!(json["rate_missed"], true, "{json}");
    assert_eq!(
        (&json["rate"], &json["rate_wanted"]),
        (&1_000_000_000.into(), &1_000_000_000.into())
    );
    assert_eq!(json["rate_reached"], json["ops_per_sec"], "{json}");
    assert!(done.err.contains("RATE MISSED"), "{done:?}");
    let table = bench(&dir.0, line).out;
    assert!(table.contains("MISSED: 1000000000 ops/s wanted"), "{table}");
    // All were due at once: the last one waited for nearly as long as it was measured.
    let window = json["seconds"].as_f64().expect("a figure");
    assert!(json["max_us"].as_f64() > Some(window * 0.5e6), "{json}");

    // A machine that stands still for a moment misses it truly.
    let kept = (0..20).any(|_| {
        let json = bench(&dir.0, "put --rate 40 --clients 8 --duration 0.5 --json").json();
        json["rate_missed"] == false
    });
    assert!(kept);
    let json = bench(&dir.0, "put --clients 8 --duration 0.1 --json").json();
    assert_eq!(
        (&json["rate"], &json["rate_missed"]),
        (&Value::Null, &Value::Null)
    );
}

#[test]
fn regression_the_window_is_as_long_as_its_operations() {
    let dir = made("bench-window");
    // One operation: the window is its latency, and what its client needs to begin. It was 50 ms at least.
    let over = (0..20).map(|_| {
        let json = bench(&dir.0, "put --clients 1 --total 1 --json").json();
        assert_eq!(
            (&json["ops"], &json["unfinished"]),
            (&1.into(), &0.into()),
            "{json}"
        );
        let figure = |name: &str| json[name].as_f64().expect("a figure");
        let (window, longest) = (figure("seconds") * 1e6, figure("max_us"));
        assert!(window * 1.002 >= longest, "{json}");
        window - longest
    });
    assert!(over.into_iter().any(|over| over < 25_000.0));
    let json = bench(&dir.0, "put --clients 4 --duration 0.25 --json").json();
    assert_eq!(json["seconds"], 0.25, "to the nanosecond: {json}");
}

#[test]
fn regression_everything_that_was_asked_for_is_in_the_result() {
    let server = Server::start("bench-settings", "");
    let asked = "--clients 6 --conns 3 --key-size 20 --val-size 33 --keyspace 77 --duration 0.2 \
                 --total 1000000 --rate 50 --seed 9 --sequential";
    let line = format!("put {asked}");
    let shared = [
        ("work", Value::from("put")),
        ("clients", 6.into()),
        ("conns", 3.into()),
        ("key_size", 20.into()),
        ("val_size", 33.into()),
        ("keyspace", 77.into()),
        ("duration", 0.2.into()),
        ("total", 1_000_000.into()),
        ("rate", 50.into()),
        ("seed", 9.into()),
        ("sequential", true.into()),
        ("consistency", "linearizable".into()),
        ("version", henge::VERSION.into()),
        ("build", henge::BUILD.into()),
        ("interrupted", false.into()),
    ];
    let remote = server.bench(&format!("{line} --json")).json();
    let shape = "--shards 4 --cores 2 --host thread --data-dir here";
    let embedded = bench(&server.dir.0, &format!("{line} {shape} --json")).json();
    for json in [&remote, &embedded] {
        for (name, value) in &shared {
            assert_eq!(&json[name], value, "{name} of {json}");
        }
    }
    assert_eq!(remote["mode"], "endpoints");
    assert_eq!(remote["endpoints"], serde_json::json!([server.address]));
    assert_eq!(remote["servers"][0]["url"], server.address.as_str());
    assert!(remote["servers"][0]["version"].is_string(), "{remote}");
    assert_eq!(remote["shards"], Value::Null);
    for (name, value) in [
        ("mode", Value::from("embedded")),
        ("shards", 4.into()),
        ("cores", 2.into()),
        ("host", "thread".into()),
        ("data_dir", "here".into()),
        ("data_dir_temporary", false.into()),
        ("endpoints", Value::Null),
    ] {
        assert_eq!(embedded[name], value, "{name} of {embedded}");
    }
    let table = server.bench(&line).out;
    for part in [
        "put, linearizable, keys in order, seed 9",
        "6 on 3 connections",
        "77 keys of 20 B, values of 33 B",
        "50 ops/s",
        "0.2 s, or 1000000 operations",
        server.address.as_str(),
        henge::VERSION,
    ] {
        assert!(table.contains(part), "{part} not in {table}");
    }
}

#[test]
fn regression_watch_keeps_one_stream_per_client() {
    let server = Server::start("bench-watch", "");
    let before = server.started("Watch");
    let done = server.bench("watch --clients 5 --conns 2 --total 200 --duration 100 --json");
    assert_eq!(done.code, 0, "{done:?}");
    let json = done.json();
    assert_eq!(json["ops"], 200, "{json}");
    // Each put is one event, and no client sees another's.
    assert_eq!(json["events"], 200, "{json}");
    assert_eq!(server.started("Watch") - before, 5, "one for each client");
    // With fewer keys than clients, watchers see others' puts too.
    let json = server.bench("watch --clients 4 --keyspace 1 --total 100 --duration 100 --json");
    assert!(json.json()["events"].as_u64() > Some(100), "{json:?}");
    assert_eq!(server.started("Watch") - before, 9);

    let json = server
        .bench("watch-open --clients 4 --total 50 --duration 100 --json")
        .json();
    assert_eq!(
        (&json["ops"], &json["failures"]),
        (&50.into(), &0.into()),
        "{json}"
    );
    let opened = server.started("Watch") - before - 9;
    assert!(
        (50..=54).contains(&opened),
        "one for each operation: {opened}"
    );
}

#[test]
fn watching_works_on_an_engine_of_this_process() {
    let dir = made("bench-watch-embedded");
    for work in ["watch", "watch-open"] {
        let line = format!("{work} --shards 2 --clients 4 --total 100 --duration 100 --json");
        let done = bench(&dir.0, &line);
        assert_eq!(done.code, 0, "{done:?}");
        assert_eq!(done.json()["ops"], 100, "{done:?}");
        // Also of threads that have nothing left to do when it is read.
        assert!(
            done.json()["cpu_us_per_op"].as_f64() > Some(0.0),
            "{done:?}"
        );
    }
}

#[test]
fn regression_failures_are_counted_by_kind_and_a_run_of_them_fails() {
    let server = Server::start("bench-failures", "--max-request-bytes 10000");
    let done = server.bench("put --val-size 20000 --clients 3 --total 30 --json");
    assert_eq!(done.code, 1, "{done:?}");
    let json = done.json();
    assert_eq!(
        (&json["ops"], &json["failures"]),
        (&0.into(), &30.into()),
        "{json}"
    );
    let kinds = json["errors"].as_object().expect("kinds");
    let (kind, count) = kinds.iter().next().expect("one");
    assert!(
        kind.contains("request is too large") && count == 30,
        "{json}"
    );
    assert_eq!(json["p50_us"], Value::Null, "{json}");
    assert!(
        done.err.contains("all 30 operations failed: 30 × "),
        "{done:?}"
    );
    // A prefill that cannot succeed says why.
    let done = server.bench("get --val-size 20000 --keyspace 10");
    assert_eq!(done.code, 1, "{done:?}");
    assert!(
        done.err.contains("prefill:") && done.err.contains("too large"),
        "{done:?}"
    );
}

#[test]
fn a_server_that_goes_away_shows_as_failures_to_the_end() {
    let server = Server::start("bench-gone", "");
    // Each client fails once, and tries in vain to open its watcher again every 10 ms.
    let line = "bench watch --clients 3 --duration 3600 --json";
    let mut load = start(
        &server.dir.0,
        &format!("{line} --endpoints {}", server.address),
    );
    let said = lines(load.0.stderr.take().expect("piped"));
    let out = lines(load.0.stdout.take().expect("piped"));
    while !said
        .recv_timeout(PATIENCE)
        .expect("it says so")
        .contains("measuring")
    {}
    server.kill();
    std::thread::sleep(Duration::from_secs(1));
    load.signal(Signal::INT);
    assert_eq!(load.end(), 130);
    let json: Value = serde_json::from_str(&out.recv().expect("a result")).expect("JSON");
    let kinds = json["errors"].as_object().expect("kinds");
    assert!(kinds.keys().any(|kind| kind.contains("refused")), "{json}");
}

#[test]
fn regression_an_endpoint_that_does_not_answer_is_named_in_one_line() {
    let dir = made("bench-unreachable");
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let silent_at = silent.local_addr().expect("bound").to_string();
    let closed = TcpListener::bind("127.0.0.1:0").expect("a port");
    let closed_at = closed.local_addr().expect("bound").to_string();
    drop(closed);
    for (address, why) in [(silent_at, "--dial-timeout"), (closed_at, "refused")] {
        for work in ["put", "get", "watch"] {
            let line = format!("{work} --endpoints {address} --dial-timeout 0.3");
            let done = bench(&dir.0, &line);
            assert_eq!((done.code, done.out.as_str()), (1, ""), "{done:?}");
            assert_eq!(done.err.lines().count(), 1, "{done:?}");
            assert!(
                done.err.contains(&address) && done.err.contains(why),
                "{done:?}"
            );
        }
    }
    drop(silent);
}

#[test]
fn wrong_arguments_end_with_two_and_name_their_flag() {
    let dir = made("bench-arguments");
    for (line, part) in [
        ("put --rate 0", "--rate"),
        ("put --clients 0", "--clients"),
        ("put --duration 0", "--duration"),
        ("get --keyspace 0", "--keyspace"),
        ("get --keyspace 100000000 --key-size 8", "--keyspace"),
        ("put --endpoints nowhere", "--endpoints"),
        ("sit", "watch-open"),
    ] {
        let done = bench(&dir.0, line);
        assert_eq!((done.code, done.out.as_str()), (2, ""), "{done:?}");
        assert!(done.err.contains(part), "{done:?}");
    }
    assert!(is_empty(&dir.0));
}
