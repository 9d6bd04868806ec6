//! Segments and the largest request, the room there is, and the limit on files: what does not go together is
//! refused by name, and what is admitted can be logged.

#[allow(dead_code, reason = "every test file uses its own part of this")]
#[path = "../../tests/common/mod.rs"]
mod common;

use std::path::Path;
use std::process::{Command, Output};

use common::Scratch;
use henge::wal::Options;
use henge::{Engine, HostKind, OpenError};

const MIB: u64 = 1 << 20;

fn small() -> Options {
    Options {
        segment_bytes: MIB,
        ..Options::default()
    }
}

#[test]
fn regression_a_request_that_no_segment_holds_is_refused_at_open_by_name() {
    let dir = Scratch::new("held");
    let builder = || Engine::builder(&dir.0).host(HostKind::Thread);
    for builder in [
        builder().wal(small()).request_bytes_max(1_500_000),
        builder()
            .wal_segment_bytes(MIB)
            .request_bytes_max(1_500_000),
    ] {
        let refused = builder.open().expect_err("it would be poisoned");
        let OpenError::Config { setting, why } = &refused else {
            panic!("{refused}");
        };
        assert_eq!(*setting, "wal.segment_bytes");
        for part in ["request_bytes_max", "1500000", "at least 20", "at most 7"] {
            assert!(why.contains(part), "{part} not in {why}");
        }
    }
    assert!(!dir.0.exists(), "nothing was made");
}

#[test]
fn regression_a_value_between_a_segments_limit_and_the_default_poisons_nothing() {
    let dir = Scratch::new("between");
    let builder = Engine::builder(&dir.0).host(HostKind::Thread).wal(small());
    let engine = builder.open().expect("opens").blocking();
    engine
        .put("k", vec![1; 1_000_000])
        .expect("a segment of its own");
    engine.put("k", vec![2; 700_000]).expect("fits");
    engine.put("k", "3").expect("it goes on");
    engine.stop();
    drop(engine);
    // The same log with other segments, and back again.
    for bytes in [32 * MIB, MIB] {
        let builder = Engine::builder(&dir.0).host(HostKind::Thread);
        let engine = builder
            .wal_segment_bytes(bytes)
            .open()
            .expect("opens")
            .blocking();
        let found = engine.get("k").expect("get").expect("is there");
        assert_eq!(&found.value[..], b"3");
        engine.put("other", vec![7; 600_000]).expect("put");
        engine.stop();
    }
}

fn bytes_below(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).expect("a directory").flatten();
    let sizes = entries.map(|entry| match entry.path().is_dir() {
        true => bytes_below(&entry.path()),
        // A segment that is being made has another name by now.
        false => entry.metadata().map_or(0, |of| of.len()),
    });
    sizes.sum()
}

#[test]
fn regression_twelve_keys_and_eight_restarts_stay_small() {
    let dir = Scratch::new("twelve");
    for most in [64, 96, 96, 96, 96, 96, 96, 96, 96] {
        let builder = Engine::builder(&dir.0).host(HostKind::Thread);
        let engine = builder.open().expect("opens").blocking();
        for number in 0..12 {
            engine.put(format!("key-{number}"), "a value").expect("put");
        }
        let bytes = bytes_below(&dir.0);
        assert!(bytes < most * MIB, "{bytes} bytes");
        engine.stop();
    }
}

/// `henge …` under a limit on the size of files, in blocks of 512 bytes.
fn limited(blocks: u64, args: &str) -> Output {
    let binary = env!("CARGO_BIN_EXE_henge");
    let line = format!("ulimit -f {blocks} && exec {binary} {args}");
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(line).output().expect("a shell")
}

#[test]
fn regression_a_limit_on_files_is_said_and_does_not_kill_without_a_word() {
    let dir = Scratch::new("limit");
    std::fs::create_dir_all(&dir.0).expect("made");
    let data = dir.0.join("data");
    let urls = "--listen-client-urls http://127.0.0.1:0 --listen-peer-urls http://127.0.0.1:0";
    let serve = format!("serve --data-dir {} {urls}", data.display());
    for (args, part) in [
        (serve.clone(), "RLIMIT_FSIZE"),
        (
            format!("{serve} --wal-segment-bytes 8388608"),
            "--wal-segment-bytes",
        ),
    ] {
        let done = limited(3_000, &args);
        let text = String::from_utf8_lossy(&done.stderr).into_owned();
        assert_eq!(done.status.code(), Some(1), "{:?}: {text}", done.status);
        assert!(text.contains(part) && text.contains("ulimit -f"), "{text}");
    }
    let done = limited(3_000, &format!("doctor {}", dir.0.display()));
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    assert_eq!(done.status.code(), Some(3), "{:?}: {text}", done.status);
    assert!(
        text.contains("file size") && text.contains("ulimit -f"),
        "{text}"
    );
}

#[test]
fn segments_that_cannot_hold_a_request_are_refused_by_their_flag() {
    let binary = env!("CARGO_BIN_EXE_henge");
    let dir = Scratch::new("flag");
    let mut command = Command::new(binary);
    command.args(["serve", "--data-dir"]).arg(&dir.0);
    command.env("HENGE_WAL_SEGMENT_BYTES", "1048576");
    let done = command.output().expect("it runs");
    let text = String::from_utf8_lossy(&done.stderr).into_owned();
    assert_eq!(done.status.code(), Some(2), "{text}");
    assert!(
        text.contains("--wal-segment-bytes") && text.contains("--max-request-bytes"),
        "{text}"
    );
    assert!(!dir.0.exists());
}
