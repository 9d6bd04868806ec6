//! Records, chains, and what is given back of them.

use super::*;

fn version(main: i64, value: &[u8]) -> Version<'_> {
    Version {
        main,
        create: main,
        version: 1,
        value,
        ..Version::default()
    }
}

#[test]
fn records_round_trip_and_chain() {
    let mut arena = Arena::default();
    let first = arena.append(7, None, &version(2, b"one"));
    let second = arena.append(7, Some(first), &version(900_000_000, b""));
    let record = arena.get(second).expect("there");
    assert_eq!(
        (record.id, record.main, record.before),
        (7, 900_000_000, Some(first))
    );
    assert_eq!(
        arena.get(first).and_then(|r| r.version()),
        Some(version(2, b"one"))
    );
    arena.set_before(second, None);
    assert_eq!(arena.get(second).and_then(|r| r.before), None);
    arena.set_before(second, Some(second));
    assert_eq!(arena.get(second).and_then(|r| r.before), Some(second));
    assert_eq!(Loc::from_bytes(second.to_bytes()), second);
}

#[test]
fn revisions_are_kept_as_distances() {
    let ends = [0, 1, -1, 63, -64, i64::MAX, i64::MIN];
    for (main, base) in ends.iter().flat_map(|a| ends.map(|b| (*a, b))) {
        assert_eq!(at_distance(distance(main, base), base), main);
    }
    assert_eq!([5, 4, 6].map(|main| distance(main, 5)), [0, 1, 2]);
    let mut arena = Arena::default();
    let late = arena.append(1, None, &version(1 << 40, b""));
    let early = arena.append(1, Some(late), &version(3, b""));
    let copy = arena.copy(early).expect("there");
    for (loc, main) in [(late, 1 << 40), (early, 3), (copy, 3)] {
        let record = arena.get(loc).expect("there");
        assert_eq!(
            (record.main, record.version()),
            (main, Some(version(main, b"")))
        );
    }
    let found = arena.get(copy).and_then(|record| record.before);
    assert_eq!(found, Some(late));
}

/// Keys overwritten at random, so many of the newest versions kept: what a store with bounded history does
/// all day. Segments that were emptied as soon as each was a third dead moved two records for one that died.
#[test]
fn regression_overwriting_at_random_moves_less_than_a_record_for_each_that_dies() {
    const RECORDS: usize = 20_000;
    let mut arena = Arena::default();
    let mut dice = crate::testing::Dice::from_env("arena moves");
    let mut live: Vec<Loc> = Vec::new();
    let (mut moved, mut died, mut most) = (0, 0, 0.0_f64);
    for n in 0..20 * RECORDS {
        let id = match n {
            0..RECORDS => n,
            _ => dice.below(RECORDS as u64) as usize,
        };
        let loc = arena.append(id as u32, None, &version(n as i64, &[1; 200]));
        match live.get_mut(id) {
            None => live.push(loc),
            Some(before) => {
                arena.kill(mem::replace(before, loc));
                died += 1;
            }
        }
        while arena.has_to_move() {
            if let Move::Live(loc) = arena.next_to_move() {
                let id = arena.get(loc).expect("there").id as usize;
                live[id] = arena.copy(loc).expect("there");
                arena.kill(loc);
                moved += 1;
            }
        }
        let used: usize = arena.segments.iter().map(|s| s.bytes.len()).sum();
        let spare = used.saturating_sub(2 * SEGMENT_BYTES);
        most = most.max(spare as f64 / arena.live_bytes() as f64);
    }
    println!("{moved} moved, {died} died, {most:.2} of what lives taken");
    assert!(most <= 1.5, "{most}");
    assert!(moved * 10 <= died * 9, "{moved} moved, {died} died");
    assert!(arena.get(live[7]).is_some_and(|record| record.id == 7));
}

/// Sizes around a segment's, and emptying what is left of each.
#[test]
fn what_dies_is_given_back() {
    let mut arena = Arena::default();
    let sizes = [
        10,
        SEGMENT_BYTES / 2,
        SEGMENT_BYTES,
        3 * SEGMENT_BYTES,
        0,
        1_000,
    ];
    let mut live: Vec<(Loc, usize)> = Vec::new();
    for n in 0..600 {
        let size = sizes[n % sizes.len()];
        live.push((
            arena.append(n as u32, None, &version(n as i64, &vec![1; size])),
            size,
        ));
    }
    let keep = |n: usize| n.is_multiple_of(7);
    for (n, (loc, _)) in live.iter().enumerate() {
        if !keep(n) {
            arena.kill(*loc);
        }
    }
    arena.close();
    loop {
        match arena.next_to_move() {
            Move::Idle => break,
            Move::Passed => {}
            Move::Live(loc) => {
                let id = arena.get(loc).expect("there").id as usize;
                live[id].0 = arena.copy(loc).expect("there");
                arena.kill(loc);
            }
        }
    }
    for (n, (loc, size)) in live.iter().enumerate().filter(|(n, _)| keep(*n)) {
        let version = arena
            .get(*loc)
            .and_then(|record| record.version())
            .expect("there");
        assert_eq!((version.main, version.value.len()), (n as i64, *size));
    }
    let idle = arena.idle_bytes();
    assert!(idle > 0);
    let used: usize = arena.segments.iter().map(|s| s.bytes.len()).sum();
    assert!(used <= arena.live_bytes() * 3 / 2 + SEGMENT_BYTES);
    // What is kept serves what comes next, once the last segment is full.
    arena.append(1, None, &version(1, &[1; SEGMENT_BYTES - 100]));
    let (before, idle) = (arena.heap_bytes(), arena.idle_bytes());
    arena.append(1, None, &version(1, &[1; SEGMENT_BYTES - 100]));
    assert_eq!(
        (arena.heap_bytes(), arena.idle_bytes()),
        (before, idle - SEGMENT_BYTES)
    );
    assert!(arena.trim(SEGMENT_BYTES), "the rest is still there");
    assert_eq!(arena.heap_bytes(), before - SEGMENT_BYTES);
    assert!(!arena.trim(usize::MAX));
    assert_eq!(arena.idle_bytes(), 0);
    let capacity: usize = arena.segments.iter().map(|s| s.bytes.capacity()).sum();
    assert_eq!(arena.capacity, capacity);
}
