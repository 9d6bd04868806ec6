//! Keys against lists of versions.

use super::*;
use crate::testing::Dice;

fn version(main: i64, value: &[u8]) -> Version<'_> {
    Version {
        main,
        create: main,
        version: 1,
        value,
        ..Version::default()
    }
}

/// Drops what revision `at` hides, but for what is not newer than `floor`; returns how much.
fn drop_hidden(keys: &mut Keys, id: KeyId, floor: i64, at: i64) -> usize {
    keys.bury(usize::MAX);
    let before = keys.totals().versions;
    keys.cut(id, at, Reach { floor, at });
    while keys.has_to_bury() {
        keys.bury(3);
    }
    (before - keys.totals().versions) as usize
}

#[test]
fn slots_are_reused_and_totals_return_to_zero() {
    let mut keys = Keys::default();
    let ids: Vec<_> = (0..10_000)
        .map(|n: i64| {
            keys.insert(&n.to_le_bytes(), &version(n, b"x"))
                .expect("room")
        })
        .collect();
    for &id in &ids {
        keys.push(id, &version(20_000, b"longer value"));
    }
    assert_eq!((keys.len(), keys.totals().versions), (10_000, 20_000));
    for &id in &ids[..5_000] {
        assert_eq!(drop_hidden(&mut keys, id, FLOOR_NONE, 20_000), 1);
    }
    ids.iter().for_each(|&id| keys.remove(id));
    keys.compacted();
    while keys.give_back(100) == 0 {}
    let KeysTotals {
        versions,
        key_bytes,
        version_bytes,
        ..
    } = keys.totals();
    assert_eq!(
        (keys.len(), versions, key_bytes, version_bytes),
        (0, 0, 0, 0)
    );
    let again = keys.insert(b"again", &version(1, b"")).expect("room");
    assert!(ids.contains(&again));
    assert_eq!(keys.key(again), b"again");
}

#[test]
fn the_summary_says_what_the_version_says() {
    let big = Version {
        create: 1 << 40,
        version: 3,
        ..version(1 << 41, b"")
    };
    let table = [
        version(5, b"v"),
        Version {
            create: 3,
            version: 0x7fff,
            ..version(9, b"")
        },
        Version {
            create: 3,
            version: 0x8000,
            ..version(9, b"")
        },
        Version {
            lease: 7,
            ..version(9, b"")
        },
        Version {
            create: -5,
            ..version(9, b"")
        },
        big,
        Version::tombstone(9, 3),
    ];
    for wanted in table {
        let mut keys = Keys::default();
        let id = keys.insert(b"k", &wanted).expect("room");
        let Version {
            tombstone,
            create,
            version,
            lease,
            ..
        } = wanted;
        assert_eq!(
            keys.newest(id),
            Newest {
                tombstone,
                create,
                version,
                lease
            }
        );
        assert_eq!(keys.latest(id), wanted);
    }
}

#[test]
fn changes_are_found_with_what_is_between() {
    let mut keys = Keys::default();
    let id = keys.insert(b"k", &version(2, b"a")).expect("room");
    keys.push(
        id,
        &Version {
            sub: 1,
            ..version(5, b"b")
        },
    );
    keys.push(
        id,
        &Version {
            sub: 3,
            ..version(5, b"c")
        },
    );
    keys.push(id, &version(9, b"d"));
    let change = |main, sub| keys.change(id, main, sub).map(|v| v.value);
    assert_eq!(change(2, 0), Some(&b"a"[..]));
    assert_eq!(change(5, 1), Some(&b"b"[..]));
    assert_eq!(change(5, 3), Some(&b"c"[..]));
    assert_eq!(change(9, 0), Some(&b"d"[..]));
    assert_eq!((change(5, 2), change(3, 0)), (None, None));
    assert_eq!(keys.at(id, 8).map(|v| v.value), Some(&b"c"[..]));
    assert_eq!(keys.at(id, 1), None);
    assert_eq!(keys.since(id, 3).count(), 3);
}

/// Random pushes, compactions and moves, against a list per key.
#[test]
fn behaves_as_lists_of_versions() {
    let mut dice = Dice::from_env("keys");
    let mut keys = Keys::default();
    let mut naive: Vec<(KeyId, Vec<(i64, usize)>)> = Vec::new();
    let value = [7; 3_000];
    for main in 1..20_000i64 {
        let size = [0, 10, 100, 3_000][dice.below(4) as usize];
        let pushed = version(main, &value[..size]);
        if dice.below(50) == 0 || naive.is_empty() {
            let id = keys.insert(&main.to_le_bytes(), &pushed).expect("room");
            naive.push((id, vec![(main, size)]));
        } else {
            // Some keys change very often.
            let at = dice.below(naive.len() as u64).min(dice.below(40)) as usize;
            keys.push(naive[at].0, &pushed);
            naive[at].1.push((main, size));
        }
        if dice.below(20) == 0 {
            let at = dice.below(naive.len().min(40) as u64) as usize;
            let (id, list) = &mut naive[at];
            let last = main - dice.below(2_000) as i64;
            // Now and then a cursor reads what is older.
            let floor = match dice.below(2) {
                0 => FLOOR_NONE,
                _ => last - dice.below(500) as i64,
            };
            let base = list.iter().rposition(|v| v.0 <= last).unwrap_or(0);
            let first = list.partition_point(|v| v.0 <= floor).min(base);
            assert_eq!(drop_hidden(&mut keys, *id, floor, last), base - first);
            list.drain(first..base);
        }
        if dice.below(100) == 0 {
            keys.give_back(dice.below(300) as usize);
        }
        if dice.below(3_000) == 0 && naive.len() > 1 {
            keys.compacted();
            let (id, _) = naive.swap_remove(dice.below(naive.len() as u64) as usize);
            keys.remove(id);
        }
        if main % 10 == 0 {
            let (id, list) = &naive[dice.below(naive.len().min(60) as u64) as usize];
            let from = list[dice.below(list.len() as u64) as usize].0 + dice.below(3) as i64 - 1;
            let found: Vec<_> = keys
                .since(*id, from)
                .map(|v| (v.main, v.value.len()))
                .collect();
            let expected: Vec<_> = list.iter().filter(|v| v.0 >= from).copied().collect();
            assert_eq!(found, expected, "since {from} at {main}");
            let expected = list.iter().rev().find(|v| v.0 <= from).copied();
            assert_eq!(
                keys.at(*id, from).map(|v| (v.main, v.value.len())),
                expected
            );
            let expected = list.iter().find(|v| v.0 == from).copied();
            assert_eq!(
                keys.change(*id, from, 0).map(|v| (v.main, v.value.len())),
                expected
            );
        }
    }
    let versions: usize = naive.iter().map(|(_, list)| list.len()).sum();
    assert_eq!(keys.totals().versions, versions as u64);
}
