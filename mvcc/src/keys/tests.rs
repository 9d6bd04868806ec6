//! Keys against lists of versions.

use super::*;
use crate::pins::Span;
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

/// Drops what nobody needs; returns how much.
fn drop_hidden(keys: &mut Keys, id: KeyId, needs: Needs<'_>) -> usize {
    keys.bury(usize::MAX);
    let before = keys.totals().versions;
    loop {
        let cut = keys.cut(id, None, needs);
        while keys.has_to_bury() {
            keys.bury(3);
        }
        if !cut.more {
            return (before - keys.totals().versions) as usize;
        }
    }
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
    let needs = Needs {
        from: 20_000,
        spans: &[],
    };
    for &id in &ids[..5_000] {
        assert_eq!(drop_hidden(&mut keys, id, needs), 1);
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

/// A version of the naive list: revision, bytes of its value, tombstone.
type Naive = (i64, usize, bool);

/// What is left of a list, by the definition: a version is needed if it is the newest at some revision that
/// is read; and a tombstone at the end of all only if its own revision is.
fn left_of(list: &[Naive], needs: Needs<'_>) -> Vec<Naive> {
    let last = list.len() - 1;
    let newer = |at: usize| list.get(at + 1).map_or(i64::MAX, |newer| newer.0);
    let is_read = |first: i64, upto: i64| {
        let mut spans = needs.spans.iter();
        upto > needs.from || spans.any(|span| span.first < upto && span.last >= first)
    };
    let kept = (0..list.len()).filter(|&at| at == last || is_read(list[at].0, newer(at)));
    let kept: Vec<_> = kept.map(|at| list[at]).collect();
    let is_blank = |v: &Naive| v.2 && !is_read(v.0, v.0 + 1) && v.0 < needs.from;
    let blank = kept.iter().take_while(|v| is_blank(v)).count();
    kept[blank.min(kept.len() - 1)..].to_vec()
}

/// Random pushes, compactions with cursors open, and moves, against a list per key.
#[test]
fn behaves_as_lists_of_versions() {
    let mut dice = Dice::from_env("keys");
    let mut keys = Keys::default();
    let mut naive: Vec<(KeyId, Vec<Naive>)> = Vec::new();
    let value = [7; 3_000];
    let mut held = 0;
    for main in 1..20_000i64 {
        let size = [0, 10, 100, 3_000][dice.below(4) as usize];
        if dice.below(50) == 0 || naive.is_empty() {
            let pushed = version(main, &value[..size]);
            let id = keys.insert(&main.to_le_bytes(), &pushed).expect("room");
            naive.push((id, vec![(main, size, false)]));
        } else {
            // Some keys change very often.
            let at = dice.below(naive.len() as u64).min(dice.below(40)) as usize;
            let (id, list) = &mut naive[at];
            let is_live = list.last().is_some_and(|v| !v.2);
            if is_live && dice.below(5) == 0 {
                keys.push(*id, &Version::tombstone(main, 0));
                list.push((main, 0, true));
            } else {
                keys.push(*id, &version(main, &value[..size]));
                list.push((main, size, false));
            }
        }
        if dice.below(20) == 0 {
            let at = dice.below(naive.len().min(40) as u64) as usize;
            let (id, list) = &mut naive[at];
            let from = main - dice.below(2_000) as i64;
            // Now and then cursors read what is older.
            let mut spans = Vec::new();
            let mut first = from - 1_000;
            for _ in 0..dice.below(5) {
                first += dice.below(300) as i64;
                let last = first + (dice.below(2) * dice.below(200)) as i64;
                spans.extend((first < from).then_some(Span { first, last }));
                first = last + 1;
            }
            let needs = Needs {
                from,
                spans: &spans,
            };
            let left = left_of(list, needs);
            let gone = drop_hidden(&mut keys, *id, needs);
            assert_eq!(gone, list.len() - left.len(), "{list:?} {needs:?}");
            let base = left.iter().rposition(|v| v.0 <= from);
            let is_held = base.is_some_and(|at| at > 0 || left[0].2 && left[0].0 < from);
            let cut = keys.cut(*id, None, needs);
            let is_dead = left.len() == 1 && left[0].2 && left_of(&left, needs) == left;
            assert!(!cut.more);
            // A delete that is all there is: held if somebody reads it, else dead.
            assert_eq!(cut.held || cut.dead, is_held, "{left:?} {needs:?}");
            assert!(!cut.dead || is_dead, "{left:?} {needs:?}");
            held += usize::from(cut.held);
            *list = left;
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
            let shown = |v: Version<'_>| (v.main, v.value.len(), v.tombstone);
            let found: Vec<_> = keys.since(*id, from).map(shown).collect();
            let expected: Vec<_> = list.iter().filter(|v| v.0 >= from).copied().collect();
            assert_eq!(found, expected, "since {from} at {main}");
            let expected = list.iter().rev().find(|v| v.0 <= from).copied();
            assert_eq!(keys.at(*id, from).map(shown), expected);
            let expected = list.iter().find(|v| v.0 == from).copied();
            assert_eq!(keys.change(*id, from, 0).map(shown), expected);
        }
    }
    assert!(held > 20, "{held}");
    let versions: usize = naive.iter().map(|(_, list)| list.len()).sum();
    assert_eq!(keys.totals().versions, versions as u64);
}
