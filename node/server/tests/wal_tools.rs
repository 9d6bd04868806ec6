//! `henge wal verify|stat|repair` on a log with damage of each kind: what they say, how they end, and that
//! only `--yes` changes anything.

use std::future::poll_fn;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use henge::wal::disk::thread::ThreadDisk;
use henge::wal::{BatchInfo, Event, Identity, Options, Record, Replay, Wal, inspect};

struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let unique = format!("henge-{name}-{}", std::process::id());
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(unique);
        let _ = std::fs::remove_dir_all(&path);
        Dir(path)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Three groups, each with a batch of its own per entry; stopped cleanly.
async fn write(dir: &Path) {
    let options = Options {
        segment_bytes: 64 * 1024,
        batch_bytes_max: 8 * 1024,
        ..Options::default()
    };
    let us = Identity {
        cluster_id: 0xc1,
        member_id: 0x3e,
    };
    let disk = Box::new(ThreadDisk::new(2));
    let (mut wal, _) = Wal::open(dir, &options, &us, disk, &mut ()).expect("a new log");
    for index in 1..=6 {
        for group in 1..=3 {
            wal.entry(group, 1, index, 0, &[group as u8; 2_000])
                .expect("fits");
            wal.hard_state(group, 1, 2, index - 1);
            let lsn = wal.staged_lsn();
            wal.submit().expect("healthy");
            while poll_fn(|cx| wal.poll(cx)).await != Event::Durable(lsn) {}
        }
    }
    wal.close();
    while poll_fn(|cx| wal.poll(cx)).await != Event::Closed {}
}

#[derive(Default)]
struct Batches(Vec<BatchInfo>);

impl Replay for Batches {
    fn record(&mut self, _: Record<'_>) {}

    fn batch(&mut self, batch: &BatchInfo) {
        self.0.push(*batch);
    }
}

fn henge(args: &[&str], dir: &Path) -> (i32, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = Command::new(env!("CARGO_BIN_EXE_henge"))
        .arg("wal")
        .args(args)
        .arg(dir)
        .output()
        .expect("it runs");
    let text = [stdout, stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    (status.code().expect("it ended by itself"), text)
}

/// Runs it; it must end so and say all of this.
fn says(args: &[&str], dir: &Path, code: i32, parts: &[&str]) -> String {
    let (ended, text) = henge(args, dir);
    assert_eq!(ended, code, "{args:?}: {text}");
    for part in parts {
        assert!(
            text.contains(part),
            "{args:?} does not say {part:?}: {text}"
        );
    }
    text
}

fn change(file: &Path, f: impl FnOnce(&mut [u8])) {
    let mut bytes = std::fs::read(file).expect("a segment");
    f(&mut bytes);
    std::fs::write(file, bytes).expect("written");
}

#[tokio::test]
async fn the_tools_say_what_is_damaged_what_it_costs_and_repair_it() {
    let dir = Dir::new("wal-tools");
    let dir = &dir.0;
    write(dir).await;
    let mut batches = Batches::default();
    inspect::read(dir, &mut batches).expect("a good log");
    let last_seq = batches.0.last().expect("batches").seq;
    let here: Vec<&BatchInfo> = batches.0.iter().filter(|b| b.seq == last_seq).collect();
    let file = dir.join(format!("{last_seq:016x}.seg"));
    let good = std::fs::read(&file).expect("a segment");
    says(&["verify"], dir, 0, &["whole: "]);

    // One of two copies: whole, and named; `repair` puts the very bytes back.
    let (at, end) = (
        here[1].offset as usize,
        (here[1].offset + u64::from(here[1].bytes)) as usize,
    );
    change(&file, |bytes| bytes[end - 50] ^= 1);
    let place = format!("offset {at}: trailer of batch {}", here[1].lsn);
    says(
        &["verify"],
        dir,
        0,
        &["whole: ", &place, "makes it good again"],
    );
    says(&["stat"], dir, 0, &[&place]);
    let json = says(&["verify", "--json"], dir, 0, &[]);
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json["healed"][0]["offset"], at);
    says(&["repair"], dir, 0, &["would be made good again"]);
    assert!(
        std::fs::read(&file).expect("it") != good,
        "without --yes nothing changes"
    );
    says(&["repair", "--yes"], dir, 0, &["is good again"]);
    assert!(std::fs::read(&file).expect("it") == good);
    says(&["repair", "--yes"], dir, 0, &["no group is damaged"]);

    // A batch that nothing tells of, in the segment being written: refused, then bridged, then ended.
    change(&file, |bytes| bytes[at..end].fill(0));
    says(
        &["verify"],
        dir,
        4,
        &["corruption: ", &format!("offset {at}")],
    );
    let plan = says(
        &["repair"],
        dir,
        4,
        &["would be bridged", "may have lost", "would be damaged"],
    );
    assert!(!plan.contains("given up"), "that is another repair: {plan}");
    says(&["verify"], dir, 4, &["corruption: "]);
    says(
        &["repair", "--yes"],
        dir,
        5,
        &["are bridged", "is damaged now"],
    );
    assert!(dir.join(format!("cut/{last_seq:016x}-{at}.lost")).exists());
    says(&["verify"], dir, 5, &["damaged groups: "]);
    says(&["repair", "--json"], dir, 5, &["\"steps\":[{"]);
    says(
        &["repair", "--yes"],
        dir,
        0,
        &["ends now at entry", "are given up"],
    );
    let found = inspect::read(dir, &mut ()).expect("it opens");
    assert_eq!(found.report.damaged, []);
}
