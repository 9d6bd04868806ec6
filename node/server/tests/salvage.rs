//! `henge wal salvage`: whatever is damaged, what it brings out is as it was written, or is named as
//! doubtful; and one bad byte costs next to nothing.
//!
//! What is due is what the engine answered before it stopped. `HENGE_SEED=n` repeats a run.

#[allow(dead_code, reason = "every test file uses its own part of this")]
#[path = "../../tests/common/mod.rs"]
mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use common::Scratch;
use henge::mvcc::{
    Compare, CompareResult, CompareTarget, DeleteRangeRequest, KeyRange, PutRequest, RangeRequest,
    RequestOp, TxnRequest,
};
use henge::wal::Options;
use henge::{Blocking, Engine, HostKind};
use henge_server::salvage;

struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.roll() % n.max(1)
    }
}

fn seed(default: u64) -> u64 {
    let asked = std::env::var("HENGE_SEED").ok();
    let seed = asked.and_then(|s| s.parse().ok()).unwrap_or(default);
    println!("seed {seed} (set HENGE_SEED to repeat)");
    seed
}

type Pairs = BTreeMap<Vec<u8>, Vec<u8>>;

fn all() -> RangeRequest<'static> {
    RangeRequest {
        range: KeyRange::all(),
        ..RangeRequest::default()
    }
}

fn open(dir: &Path) -> Blocking {
    let wal = Options {
        segment_bytes: 64 << 10,
        ..Options::default()
    };
    let builder = Engine::builder(dir).host(HostKind::Thread).wal(wal);
    builder.open().expect("opens").blocking()
}

/// Anything a client may do, over few keys.
fn write(engine: &Blocking, dice: &mut Dice) {
    let key = |dice: &mut Dice| format!("key-{:02}", dice.below(40));
    let value = |dice: &mut Dice| {
        let bytes = dice.below(700) as usize;
        vec![dice.roll() as u8; bytes]
    };
    match dice.below(12) {
        0..=6 => {
            engine.put(key(dice), value(dice)).expect("put");
        }
        7 => {
            engine.delete(key(dice)).expect("delete");
        }
        8 => {
            let (one, two) = (key(dice), key(dice));
            let range = KeyRange {
                key: one.as_bytes(),
                end: two.as_bytes(),
            };
            let delete = DeleteRangeRequest {
                range,
                prev_kv: false,
            };
            engine.delete_range(&delete).expect("delete");
        }
        9 => {
            let id = 1 + dice.below(4) as i64;
            // It may be there already, or not: either is an answer.
            let _ = engine.lease_grant(id, 3_600);
            let (key, value) = (key(dice), value(dice));
            let put = PutRequest {
                key: key.as_bytes(),
                value: &value,
                lease: id,
                ..PutRequest::default()
            };
            let _ = engine.put_with(&put);
            if dice.below(2) == 0 {
                let _ = engine.lease_revoke(id);
            }
        }
        _ => {
            let (asked, one, two) = (key(dice), key(dice), key(dice));
            let value = value(dice);
            let put = |key| {
                RequestOp::Put(PutRequest {
                    key,
                    value: &value,
                    ..PutRequest::default()
                })
            };
            let txn = TxnRequest {
                compare: vec![Compare {
                    range: KeyRange::one(asked.as_bytes()),
                    result: CompareResult::Greater,
                    target: CompareTarget::Version(1),
                }],
                success: vec![put(one.as_bytes())],
                failure: vec![RequestOp::DeleteRange(DeleteRangeRequest {
                    range: KeyRange::one(two.as_bytes()),
                    prev_kv: false,
                })],
            };
            engine.txn(&txn).expect("txn");
        }
    }
}

/// A directory with some hundred writes, stopped in between; what it holds.
fn written(dir: &Path, dice: &mut Dice) -> Pairs {
    let mut pairs = Pairs::new();
    for life in 0..3 {
        let engine = open(dir);
        for _ in 0..60 + 40 * life {
            write(&engine, dice);
        }
        let found = engine.range(&all()).expect("range").body.kvs;
        pairs = found
            .into_iter()
            .map(|kv| (kv.key.to_vec(), kv.value.to_vec()))
            .collect();
        match life {
            1 => drop(engine),
            _ => engine.stop(),
        }
    }
    pairs
}

/// The files of a directory, those below it, too.
fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(dir).expect("a directory").flatten() {
        let path = entry.path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => {
                let bytes = std::fs::read(&path).expect("a file");
                found.insert(path, bytes);
            }
        }
    }
    found
}

/// Every key that is not as it was is named; how many are doubtful, and how many as they were.
fn is_honest(log: &Path, due: &Pairs, what: &str) -> (usize, usize, bool) {
    let found = salvage::read(log).unwrap_or_else(|e| panic!("{what}: {e}"));
    let group = found.groups.get(&1);
    let (mut there, mut named, mut may_miss) = (Pairs::new(), BTreeSet::new(), true);
    if let Some(group) = group {
        let kvs = group.machine.store.range(&all()).expect("range").kvs;
        there = kvs
            .into_iter()
            .map(|kv| (kv.key.to_vec(), kv.value.to_vec()))
            .collect();
        named = group.doubtful.keys().cloned().collect();
        may_miss = group.may_miss_keys;
    }
    let mut right = 0;
    for key in due.keys().chain(there.keys()).collect::<BTreeSet<_>>() {
        let same = due.get(key) == there.get(key);
        right += usize::from(same);
        let unnamed = may_miss && !there.contains_key(key);
        assert!(
            same || named.contains(key) || unnamed,
            "{what}: {} is not as it was, and not named",
            key.escape_ascii()
        );
    }
    assert!(
        found.is_whole() == (named.is_empty() && !may_miss && found.damage.is_empty()),
        "{what}"
    );
    (named.len(), right, may_miss)
}

/// Any byte of anything: no wrong key is missing among the doubtful ones.
#[test]
fn whichever_byte_is_wrong_no_wrong_key_is_unnamed() {
    let seed = seed(1);
    let (mut cases, mut doubtful, mut right, mut keys, mut missing) = (0, 0, 0, 0, 0);
    for life in 0..3 {
        let mut dice = Dice(seed.wrapping_mul(1_000).wrapping_add(life));
        let scratch = Scratch::new("salvage");
        let due = written(&scratch.0, &mut dice);
        let log = scratch.0.join("core-0");
        assert_eq!(is_honest(&log, &due, "undamaged").1, due.len());
        let good = files(&log);
        let names: Vec<&PathBuf> = good
            .keys()
            .filter(|path| {
                path.ends_with("IDENTITY") || path.extension().is_some_and(|end| end == "seg")
            })
            .collect();
        for case in 0..60 {
            let path = names[dice.below(names.len() as u64) as usize];
            let bytes = &good[path];
            // Where something is written, more often than not.
            let used = bytes.iter().rposition(|b| *b != 0).map_or(1, |at| at + 1);
            let within = if dice.below(8) == 0 {
                bytes.len()
            } else {
                used
            };
            let at = dice.below(within as u64) as usize;
            let mut bad = bytes.clone();
            bad[at] ^= 1 + dice.below(255) as u8;
            std::fs::write(path, bad).expect("written");
            let what = format!("seed {seed} life {life} case {case}: {path:?} byte {at}");
            let before = files(&scratch.0);
            let (named, as_they_were, may_miss) = is_honest(&log, &due, &what);
            assert!(files(&scratch.0) == before, "{what}: it wrote");
            std::fs::write(path, bytes).expect("written");
            cases += 1;
            doubtful += named;
            right += as_they_were;
            keys += due.len();
            missing += usize::from(may_miss);
        }
    }
    println!("{cases} cases: {right} of {keys} keys right, {doubtful} doubtful, {missing} blind");
    // One byte costs a handful of keys, and nearly nothing of what is brought out.
    assert!(right * 100 >= keys * 99, "{right} of {keys}");
    assert!(
        doubtful < 4 * cases && missing * 20 <= cases,
        "{doubtful} {missing}"
    );
}

/// Whole blocks and more, several at a time: honest, though less of it is sure.
#[test]
fn whatever_is_damaged_no_wrong_key_is_unnamed() {
    let seed = seed(7);
    let mut brought = 0;
    for life in 0..3 {
        let mut dice = Dice(seed.wrapping_mul(1_000).wrapping_add(life));
        let scratch = Scratch::new("salvage-more");
        let due = written(&scratch.0, &mut dice);
        let log = scratch.0.join("core-0");
        let good = files(&log);
        let segments = good
            .keys()
            .filter(|path| path.extension().is_some_and(|e| e == "seg"));
        let segments: Vec<&PathBuf> = segments.collect();
        for case in 0..40 {
            let mut what = format!("seed {seed} life {life} case {case}:");
            for _ in 0..1 + dice.below(2) {
                let path = segments[dice.below(segments.len() as u64) as usize];
                let mut bad = std::fs::read(path).expect("a segment");
                // Not the last block that was written: a tail that is wholly gone, with nothing that speaks
                // of it, cannot be seen by anybody (fault D2).
                let used = bad.iter().rposition(|b| *b != 0).unwrap_or(0) / 4096 * 4096;
                let from = dice.below(used as u64) as usize / 512 * 512;
                let to = (from + 512 * (1 + dice.below(12) as usize)).min(used);
                match dice.below(3) {
                    0 => bad[from..to].fill(0),
                    1 => bad[from..to].iter_mut().for_each(|b| *b ^= 0x5a),
                    _ => (from..to).step_by(512).for_each(|at| bad[at] ^= 1),
                }
                what += &format!(" {path:?} {from}..{to};");
                std::fs::write(path, bad).expect("written");
            }
            // Some logs cannot be read even so (a successor that denies its predecessor): they say so.
            if salvage::read(&log).is_ok() {
                brought += is_honest(&log, &due, &what).1;
            }
            for (path, bytes) in &good {
                std::fs::write(path, bytes).expect("written");
            }
        }
    }
    assert!(brought > 1_000, "{brought}");
}

fn henge(args: &[&str], dir: &Path) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_henge"));
    let done = command.arg("wal").args(args).arg(dir).output();
    let done = done.expect("it runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let code = done.status.code().expect("it ended by itself");
    (code, text(&done.stdout), text(&done.stderr))
}

/// The lone member of the report: one bit, 51 entries that cannot be read, and everything behind them.
#[test]
fn regression_one_flipped_bit_costs_the_keys_of_its_batch_and_not_all_that_follow() {
    let scratch = Scratch::new("salvage-bit");
    let engine = Engine::builder(&scratch.0)
        .host(HostKind::Thread)
        .open()
        .expect("opens");
    let blocking = engine.blocking();
    for number in 0..30 {
        blocking.put(format!("before-{number}"), "1").expect("put");
    }
    let together: Vec<_> = (0..51)
        .map(|number| engine.put(format!("hit-{number}"), "a value to be found in the file"))
        .collect();
    for put in together {
        blocking.wait(put).expect("put");
    }
    for number in 0..300 {
        blocking.put(format!("behind-{number}"), "3").expect("put");
    }
    blocking.stop();
    let log = scratch.0.join("core-0");
    let (path, mut bytes) = files(&log)
        .into_iter()
        .find(|(_, bytes)| bytes.windows(5).any(|w| w == b"hit-7"))
        .expect("it is in the log");
    let at = bytes.windows(5).position(|w| w == b"hit-7").expect("there");
    bytes[at + 12] ^= 0x10;
    std::fs::write(&path, bytes).expect("written");

    let (code, _, said) = henge(&["repair"], &scratch.0);
    assert_eq!(code, 5, "a repair gives up all that follows: {said}");
    let (code, lines, said) = henge(&["salvage"], &scratch.0);
    assert_eq!(code, 5, "{said}");
    assert!(
        said.contains("not whole") && said.contains("put right"),
        "{said}"
    );
    let lines: Vec<serde_json::Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(lines[0]["whole"], false);
    let keys = lines.iter().filter(|line| line["key"].is_string());
    let (doubtful, sure): (Vec<_>, Vec<_>) = keys.partition(|line| line["doubt"].is_string());
    assert_eq!(doubtful.len() + sure.len(), 30 + 51 + 300);
    assert!((1..=51).contains(&doubtful.len()), "{}", doubtful.len());
    // base64 of "hit-"
    assert!(
        doubtful
            .iter()
            .all(|line| line["key"].as_str().is_some_and(|k| k.starts_with("aGl0L")))
    );
}

#[test]
fn wrong_usage_of_salvage_is_named_and_writes_nothing() {
    let scratch = Scratch::new("salvage-usage");
    std::fs::create_dir_all(&scratch.0).expect("made");
    let (code, _, said) = henge(&["salvage"], &scratch.0);
    assert!(code == 1 && said.contains("no log here"), "{code} {said}");
    let (code, _, said) = henge(&["salvage"], &scratch.0.join("nowhere"));
    assert!(code == 1 && said.contains("nowhere"), "{code} {said}");
    assert_eq!(henge(&["salvage", "--nope"], &scratch.0).0, 2);
    let engine = open(&scratch.0);
    engine.put("a", "1").expect("put");
    engine.stop();
    let inside = scratch.0.join("lines");
    let inside = inside.to_str().expect("text");
    let (code, _, said) = henge(&["salvage", "--out", inside], &scratch.0);
    assert!(code == 1 && said.contains("--out"), "{code} {said}");
    let outside = Scratch::new("salvage-lines");
    let path = outside.0.to_str().expect("text");
    assert_eq!(henge(&["salvage", "--out", path], &scratch.0).0, 0, "whole");
    let (code, _, said) = henge(&["salvage", "--out", path], &scratch.0);
    assert!(code == 1 && said.contains("exists"), "{code} {said}");
    let lines = std::fs::read_to_string(&outside.0).expect("lines");
    assert!(lines.contains("\"whole\":true"), "{lines}");
    std::fs::remove_file(&outside.0).expect("there");
}
