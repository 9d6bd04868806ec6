//! A process that writes to a real disk is killed at any moment, again and again: nothing that it was
//! told is durable is ever missing, and the log opens each time.
//!
//! The test runs itself as that process. `HENGE_KILLS=200 cargo test -p henge-wal --test kill` for more
//! rounds than `cargo test` does.

mod common;

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use common::{Dice, TempDir, block_on, event, open, seed};
use henge_wal::disk::Disk;
use henge_wal::disk::thread::ThreadDisk;
use henge_wal::disk::tokio_uring::{UringDisk, probe};
use henge_wal::{Event, Options};

const KILLS: u64 = 24;

fn options() -> Options {
    Options {
        segment_bytes: 256 * 1024,
        log_bytes_max: 1024 * 1024,
        ..Options::default()
    }
}

fn payload(group: u64, index: u64) -> Vec<u8> {
    (0..200 + index * 7 % 3_000)
        .map(|i| (group * 31 + index + i) as u8)
        .collect()
}

/// The process that is killed: writes for ever, and says what is durable.
async fn writer(dir: &Path, disk: Box<dyn Disk>) {
    let opened = open(dir, &options(), disk).expect("opens after a kill");
    let mut index = opened.found.groups.get(&1).map_or(0, |log| log.last());
    let mut wal = opened.wal;
    let mut out = std::io::stdout();
    let mut in_flight = std::collections::VecDeque::new();
    loop {
        while in_flight.len() < 4 {
            index += 1;
            for group in 1..=2 {
                wal.entry(group, 1, index, 0, &payload(group, index))
                    .expect("fits");
            }
            if index > 100 && index.is_multiple_of(10) {
                wal.compacted(1, index - 100, 1);
                wal.compacted(2, index - 100, 1);
            }
            let lsn = wal.staged_lsn();
            wal.submit().expect("healthy");
            in_flight.push_back((lsn, index));
        }
        if let Event::Durable(lsn) = event(&mut wal).await {
            while let Some((_, index)) = in_flight.pop_front_if(|(at, _)| *at <= lsn) {
                writeln!(out, "durable {index}").expect("the parent listens");
            }
            out.flush().expect("the parent listens");
        }
    }
}

fn rounds(backend: &str) {
    let seed = seed(1);
    let kills = std::env::var("HENGE_KILLS")
        .ok()
        .and_then(|n| n.parse().ok());
    let dir = TempDir::new(&format!("kill-{backend}"));
    let mut dice = Dice(seed);
    let mut acked = 0;
    for round in 0..kills.unwrap_or(KILLS) {
        let program = std::env::current_exe().expect("this program");
        let mut child = Command::new(program)
            .args(["the_process_that_is_killed", "--exact", "--nocapture"])
            .env("HENGE_WAL_KILL_DIR", dir.path())
            .env("HENGE_WAL_KILL_DISK", backend)
            .stdout(Stdio::piped())
            .spawn()
            .expect("starts");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let stop_after = 1 + dice.below(120);
        let mut seen = 0;
        let mut note = |line: std::io::Result<String>| {
            let line = line.unwrap_or_default();
            if let Some(index) = line
                .strip_prefix("durable ")
                .and_then(|n| n.parse::<u64>().ok())
            {
                acked = acked.max(index);
                seen += 1;
            }
            seen
        };
        while note(
            lines
                .next()
                .unwrap_or_else(|| panic!("round {round}: the writer ended")),
        ) < stop_after
        {}
        child.kill().expect("killed");
        // What it said before it died counts, too.
        lines.for_each(|line| {
            note(line);
        });
        let _ = child.wait();
        let opened = open(dir.path(), &options(), Box::new(ThreadDisk::new(1)));
        let opened = opened.unwrap_or_else(|e| panic!("round {round}: {e}"));
        assert_eq!(opened.report.damaged, [], "round {round}");
        for group in 1..=2 {
            let log = &opened.found.groups[&group];
            assert!(
                log.last() >= acked,
                "round {round}: {} of {acked}",
                log.last()
            );
            for entry in &log.entries {
                assert_eq!(entry.payload, payload(group, entry.index), "round {round}");
            }
        }
        block_on(common::close(opened.wal));
    }
    println!("{acked} turns were acknowledged");
}

#[test]
fn the_process_that_is_killed() {
    let Some(dir) = std::env::var_os("HENGE_WAL_KILL_DIR") else {
        return; // nobody asked: the parent's tests run it
    };
    match std::env::var("HENGE_WAL_KILL_DISK").as_deref() {
        Ok("uring") => tokio_uring::start(writer(dir.as_ref(), Box::new(UringDisk::new()))),
        _ => block_on(writer(dir.as_ref(), Box::new(ThreadDisk::new(4)))),
    }
}

#[test]
fn killed_on_threads() {
    rounds("thread");
}

#[test]
fn killed_on_io_uring() {
    match probe() {
        Ok(()) => rounds("uring"),
        Err(reason) => println!("skipped: {reason}"),
    }
}
