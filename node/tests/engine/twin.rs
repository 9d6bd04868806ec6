//! An engine with several shards beside one with a single shard, which is its naive twin: the same writes,
//! then random ranges, at several moments of the past. What does not name a revision must be equal.
//!
//! Prints its seed; `HENGE_SEED` repeats it.

use std::path::Path;

use henge::mvcc::{DeleteRangeRequest, KeyRange, RangeRequest, SortOrder};
use henge::{Engine, Revisions, Router};

use super::host::{Host, on_every_host};
use super::small;

const SHARDS: usize = 5;
const KEYS: u64 = 60;
const MOMENTS: usize = 4;

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % bound
    }
}

fn seed() -> u64 {
    let given = std::env::var("HENGE_SEED").ok();
    let seed = given.and_then(|text| text.parse().ok()).unwrap_or(1);
    println!("HENGE_SEED={seed}");
    seed
}

fn name(number: u64) -> Vec<u8> {
    format!("k{number:03}").into_bytes()
}

/// A random range over names, and names around them; `None` for an end means "from here on".
fn random_range(dice: &mut Dice) -> (Vec<u8>, Vec<u8>) {
    let key = match dice.below(4) {
        0 => b"\0".to_vec(),
        _ => name(dice.below(KEYS)),
    };
    let end = match dice.below(6) {
        0 => Vec::new(),
        1 => b"\0".to_vec(),
        _ => name(dice.below(KEYS + 10)),
    };
    (key, end)
}

fn random_request<'a>(dice: &mut Dice, key: &'a [u8], end: &'a [u8]) -> RangeRequest<'a> {
    RangeRequest {
        range: KeyRange { key, end },
        limit: [0, 0, 1, 7, 30][dice.below(5) as usize],
        sort_order: [SortOrder::None, SortOrder::Ascend, SortOrder::Descend]
            [dice.below(3) as usize],
        keys_only: dice.below(4) == 0,
        count_only: dice.below(6) == 0,
        ..RangeRequest::default()
    }
}

/// A moment of both: the revision of each shard, and the twin's one.
struct Moment {
    sharded: Revisions,
    single: i64,
}

fn compare(dice: &mut Dice, sharded: &Engine, single: &Engine, moment: Option<&Moment>) {
    let (key, end) = random_range(dice);
    let request = random_request(dice, &key, &end);
    let ours = sharded
        .blocking()
        .wait(sharded.range_at(&request, moment.map(|moment| &moment.sharded)))
        .expect("range over shards")
        .body;
    let twin = RangeRequest {
        revision: moment.map_or(0, |moment| moment.single),
        ..request.clone()
    };
    let theirs = single.blocking().range(&twin).expect("range").body;
    let pairs = |kvs: &[henge::mvcc::KeyValue]| -> Vec<_> {
        kvs.iter()
            .map(|kv| (kv.key.clone(), kv.value.clone(), kv.version))
            .collect()
    };
    assert_eq!(pairs(&ours.kvs), pairs(&theirs.kvs), "{request:?}");
    assert_eq!(
        (ours.count, ours.more),
        (theirs.count, theirs.more),
        "{request:?}"
    );
}

fn run(dir: &Path, host: Host, router: Option<Router>, dice: &mut Dice) {
    std::fs::create_dir_all(dir).expect("mkdir");
    let (many, one) = (dir.join("many"), dir.join("one"));
    let mut describe = small(&many, host).shards(SHARDS).cores(2);
    if let Some(router) = router {
        describe = describe.router(router);
    }
    let mut sharded = describe.open().expect("opens");
    let single = small(&one, host).open().expect("opens");
    let mut moments = Vec::new();
    for at in 0..MOMENTS {
        for _ in 0..40 {
            let key = name(dice.below(KEYS));
            for engine in [&sharded, &single] {
                let wait = engine.blocking();
                if dice.0.is_multiple_of(5) {
                    let range = KeyRange::one(&key);
                    let delete = DeleteRangeRequest {
                        range,
                        prev_kv: false,
                    };
                    wait.wait(engine.delete_range(&delete)).expect("delete");
                } else {
                    wait.put(&key, dice.0.to_string()).expect("put");
                }
            }
        }
        moments.push(Moment {
            sharded: sharded.blocking().wait(sharded.revisions()).expect("now"),
            single: single
                .blocking()
                .wait(single.revisions())
                .expect("now")
                .get(0),
        });
        for _ in 0..40 {
            compare(dice, &sharded, &single, None);
            let past = dice.below(moments.len() as u64) as usize;
            compare(dice, &sharded, &single, Some(&moments[past]));
        }
        // History and its revisions belong to the shards, not to the cores that hold them.
        let hashes = |engine: &Engine| {
            let at = Some(&moments[at].sharded);
            engine.blocking().wait(engine.hashes(at)).expect("hashes")
        };
        let before = hashes(&sharded);
        drop(sharded);
        sharded = small(&many, host)
            .cores(1 + at % 3)
            .open()
            .expect("opens again");
        assert_eq!(hashes(&sharded), before);
    }
}

#[test]
fn ranges_over_hashed_shards_are_those_of_one_shard() {
    on_every_host("twin-hash", |dir, host| {
        run(dir, host, None, &mut Dice(seed()))
    });
}

#[test]
fn ranges_over_ordered_shards_are_those_of_one_shard() {
    let splits = [10, 20, 30, 55].map(|number| name(number).into());
    on_every_host("twin-ranges", |dir, host| {
        let router = Router::Ranges(splits.to_vec());
        run(dir, host, Some(router), &mut Dice(seed() + 1));
    });
}
