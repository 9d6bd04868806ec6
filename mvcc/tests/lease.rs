//! Leases: grants, attachment, expiry, revocation. Time is whatever the test says.

mod support;

use henge_mvcc::{Error, LEASE_TTL_S_MAX, PutRequest, RequestOp, Restorer, Store, TxnRequest};
use support::*;

fn put_leased(store: &mut Store, key: &str, lease: i64) {
    store
        .put(&PutRequest {
            lease,
            ..put_request(key, "v")
        })
        .expect("valid");
}

fn attached(store: &Store, id: i64) -> Vec<String> {
    let status = store.lease_time_to_live(id, 0, true).expect("known");
    status
        .keys
        .iter()
        .map(|key| String::from_utf8_lossy(key).into_owned())
        .collect()
}

#[test]
fn grants_are_bounded_and_unique() {
    let mut store = Store::new();
    assert_eq!(store.lease_grant(1, 60, 0), Ok(60));
    assert_eq!(store.lease_grant(1, 60, 0), Err(Error::LeaseExists));
    assert_eq!(store.lease_grant(2, 1, 0), Ok(2), "raised to the least");
    assert_eq!(store.lease_grant(3, -5, 0), Ok(2));
    assert_eq!(
        store.lease_grant(4, LEASE_TTL_S_MAX, 0),
        Ok(LEASE_TTL_S_MAX)
    );
    assert_eq!(
        store.lease_grant(5, LEASE_TTL_S_MAX + 1, 0),
        Err(Error::LeaseTtlTooLarge)
    );
    assert_eq!(store.lease_grant(0, 60, 0), Err(Error::LeaseNotFound));
    assert_eq!(store.leases(), [2, 3, 1, 4], "by expiry");
    assert_eq!(store.revision(), 1, "leases make no revisions");
}

#[test]
fn a_put_attaches_and_the_next_put_detaches() {
    let mut store = Store::new();
    store.lease_grant(1, 60, 0).expect("new");
    store.lease_grant(2, 60, 0).expect("new");
    put_leased(&mut store, "b", 1);
    put_leased(&mut store, "a", 1);
    put_leased(&mut store, "a", 1);
    assert_eq!(attached(&store, 1), ["a", "b"]);
    put_leased(&mut store, "a", 2);
    assert_eq!(
        (attached(&store, 1), attached(&store, 2)),
        (vec!["b".into()], vec!["a".into()])
    );
    put(&mut store, "a", "without");
    assert!(attached(&store, 2).is_empty());
    delete(&mut store, "b");
    assert!(attached(&store, 1).is_empty());
    assert_eq!(store.lease_revoke(1), Ok(0));
    assert_eq!(store.revision(), 7, "nothing deleted, no revision");
}

#[test]
fn revoke_deletes_the_keys_in_one_revision() {
    let mut store = Store::new();
    store.lease_grant(1, 60, 0).expect("new");
    for key in ["c", "a", "b"] {
        put_leased(&mut store, key, 1);
    }
    put(&mut store, "d", "stays");
    assert_eq!(store.lease_revoke(1), Ok(3));
    assert_eq!(
        (store.revision(), get(&store, "a..").as_str()),
        (6, "d=stays@5")
    );
    assert_eq!(get_at(&store, "a..", 5), "a=v@3 b=v@4 c=v@2 d=stays@5");
    assert_eq!(store.lease_revoke(1), Err(Error::LeaseNotFound));
    assert_eq!(store.lease_time_to_live(1, 0, true), None);
}

#[test]
fn keep_alive_starts_the_time_again_unless_it_ran_out() {
    let mut store = Store::new();
    store.lease_grant(1, 10, 1_000).expect("new");
    assert_eq!(store.leases_next_due_ms(), Some(11_000));
    let left = |store: &Store, now_ms| {
        store
            .lease_time_to_live(1, now_ms, false)
            .expect("known")
            .remaining_ttl_s
    };
    assert_eq!(left(&store, 1_000), 10);
    assert_eq!(left(&store, 1_001), 9, "rounded down");
    assert_eq!(store.lease_keep_alive(1, 10_999), Some(10));
    assert_eq!(left(&store, 11_000), 9);
    assert_eq!(store.leases_expired(11_000, 100), []);
    assert_eq!(store.lease_keep_alive(1, 20_999), None, "ran out");
    assert_eq!(left(&store, 30_000), 0);
    assert_eq!(store.lease_keep_alive(9, 0), None);
}

/// Whoever bounds a thread's work by what is counted did leases for nothing.
#[test]
fn regression_what_is_done_to_leases_is_counted() {
    let mut store = Store::new();
    let mut nanos = 0;
    let mut counted = |store: &Store| {
        let now = store.work().nanos();
        now - std::mem::replace(&mut nanos, now)
    };
    for id in 1..=100 {
        store.lease_grant(id, 10, 0).expect("new");
    }
    assert_eq!(counted(&store), 100_000, "grants");
    for id in 1..=200 {
        store.lease_renew(id, 1, 0);
    }
    assert_eq!(counted(&store), 200_000, "renewals, also of what is not");
    for id in 1..=200 {
        store.lease_keep_alive(id, 0);
    }
    assert_eq!(counted(&store), 200_000, "renewals by the primary alone");
    for id in 1..=50 {
        store.lease_revoke(id).expect("known");
    }
    assert_eq!(counted(&store), 50_000, "revocations");
    for id in 51..=100 {
        assert_eq!(store.lease_expire(id, 0), Ok(0), "renewed since");
        assert_eq!(store.lease_expire(id, 1), Ok(0), "without keys");
    }
    assert_eq!(counted(&store), 50 * 1_500, "expiries");
    assert!(store.leases().is_empty());
}

/// Who had to wait until the primary had time for him is not told that his lease ran out meanwhile.
#[test]
fn a_renewal_that_waited_is_of_the_time_when_it_was_asked_for() {
    let mut store = Store::new();
    store.lease_grant(1, 10, 0).expect("new");
    assert_eq!(store.lease_keep_alive_since(1, 9_999, 12_000), Some(10));
    assert_eq!(store.lease_keep_alive(1, 21_999), Some(10), "from then on");
    assert_eq!(store.lease_keep_alive_since(1, 31_999, 32_000), None);
}

#[test]
fn expired_leases_are_reported_in_order_and_again_only_later() {
    let mut store = Store::new();
    for (id, ttl_s) in [(1, 30), (2, 10), (3, 20), (4, 90)] {
        store.lease_grant(id, ttl_s, 0).expect("new");
    }
    assert_eq!(store.leases_expired(9_999, 100), []);
    assert_eq!(store.leases_expired(30_000, 2), [2, 3]);
    assert_eq!(store.leases_expired(30_000, 2), [1]);
    assert_eq!(store.leases_expired(30_001, 2), []);
    store.lease_revoke(2).expect("known");
    assert_eq!(store.leases_next_due_ms(), Some(33_000));
    assert_eq!(
        store.leases_expired(33_000, 100),
        [1, 3],
        "their revokes were lost"
    );
    assert_eq!(
        store.leases(),
        [3, 1, 4],
        "that they were reported changes nothing"
    );
}

/// They were listed by id; etcd lists the one first that runs out first.
#[test]
fn regression_leases_are_listed_in_the_order_of_expiry() {
    let mut store = Store::new();
    for (id, ttl_s) in [(1, 500), (2, 100), (3, 300), (4, 200), (5, 400)] {
        store.lease_grant(id, ttl_s, 0).expect("new");
    }
    assert_eq!(store.leases(), [2, 4, 3, 5, 1]);
    store.lease_keep_alive(2, 99_000).expect("lives");
    store.lease_keep_alive(4, 150_000).expect("lives");
    assert_eq!(store.leases(), [2, 3, 4, 5, 1]);
}

#[test]
fn a_new_primary_gives_every_lease_its_time_again() {
    let mut store = Store::new();
    store.lease_grant(1, 10, 0).expect("new");
    store.lease_grant(2, 20, 0).expect("new");
    assert_eq!(store.leases_expired(15_000, 100), [1]);
    store.leases_extend(15_000, 1_000);
    assert_eq!(store.leases_expired(25_999, 100), []);
    assert_eq!(store.leases_expired(26_000, 100), [1]);
    assert_eq!(store.leases_next_due_ms(), Some(29_000));
    assert_eq!(
        store
            .lease_time_to_live(2, 15_000, false)
            .expect("known")
            .remaining_ttl_s,
        21
    );
}

#[test]
fn far_deadlines_do_not_overflow() {
    let mut store = Store::new();
    store
        .lease_grant(1, LEASE_TTL_S_MAX, u64::MAX - 5)
        .expect("new");
    store.leases_extend(u64::MAX - 5, u64::MAX);
    assert_eq!(
        store.lease_keep_alive(1, u64::MAX - 1),
        Some(LEASE_TTL_S_MAX)
    );
}

#[test]
fn a_txn_attaches_and_detaches_too() {
    let mut store = Store::new();
    store.lease_grant(1, 60, 0).expect("new");
    put_leased(&mut store, "a", 1);
    let ops = vec![
        RequestOp::Put(put_request("a", "free")),
        RequestOp::Put(PutRequest {
            lease: 1,
            ..put_request("b", "bound")
        }),
    ];
    store
        .txn(&TxnRequest {
            success: ops,
            ..TxnRequest::default()
        })
        .expect("valid");
    assert_eq!(attached(&store, 1), ["b"]);
}

/// etcd's LeaseCheckpoint: without it a lease whose primary changes often never runs out.
#[test]
fn a_new_primary_begins_where_the_last_checkpoint_was() {
    let mut store = Store::new();
    for id in [1, 2, 3] {
        store.lease_grant(id, 100, 0).expect("new");
    }
    store.lease_keep_alive(2, 60_000).expect("known");
    let left = store.leases_to_checkpoint(i64::MIN, 60_500, 10);
    assert_eq!(left, [(1, 39), (2, 99), (3, 39)]);
    assert_eq!(
        store.leases_to_checkpoint(1, 60_500, 1),
        [(2, 99)],
        "in parts"
    );
    assert!(
        left.iter()
            .all(|&(id, left_s)| store.lease_checkpoint(id, left_s))
    );
    assert!(!store.lease_checkpoint(9, 5));
    // A renewal after the checkpoint counts for more.
    store.lease_keep_alive(3, 61_000).expect("known");
    store.leases_extend(70_000, 1_000);
    let left = |store: &Store, id| {
        let status = store.lease_time_to_live(id, 70_000, false).expect("known");
        status.remaining_ttl_s
    };
    assert_eq!(
        (left(&store, 1), left(&store, 2), left(&store, 3)),
        (40, 100, 101)
    );
    while store.leases_extend_next(2) {}
    assert_eq!(store.leases_expired(112_000, 10), [1]);
}

/// A new primary wrote a new deadline for every lease before it did anything else: with a million of them,
/// for most of a second, and nobody counted it.
#[test]
fn regression_many_leases_are_extended_at_once_and_written_down_in_slices() {
    let mut store = Store::new();
    const COUNT: i64 = 10_000;
    for id in 1..=COUNT {
        store.lease_grant(id, 10 + id % 7, 0).expect("new");
    }
    let before = store.work();
    store.leases_extend(100_000, 1_000);
    assert_eq!(store.work(), before, "nothing is done yet");
    // It holds for all of them, whichever slices are done.
    let mut slices = 0;
    loop {
        for id in [1, COUNT / 2, COUNT] {
            let left = store.lease_time_to_live(id, 100_000, false);
            assert_eq!(left.expect("known").remaining_ttl_s, 11 + id % 7);
            assert_eq!(store.lease_keep_alive(id, 100_000), Some(10 + id % 7));
            store.leases_extend(100_000, 1_000);
        }
        for _ in 0..=slices {
            if !store.leases_extend_next(500) {
                break;
            }
        }
        assert_eq!(store.leases_expired(110_999, 100), [], "after {slices}");
        slices += 1;
        if !store.leases_are_extending() {
            break;
        }
    }
    assert!(slices > 15, "{slices}");
    store.leases_extend(100_000, 1_000);
    let mut counted = 0;
    loop {
        let before = store.work().nanos();
        let more = store.leases_extend_next(500);
        let nanos = store.work().nanos() - before;
        assert!(nanos <= 500_000, "{nanos}");
        counted += nanos;
        if !more {
            break;
        }
    }
    assert!(counted >= COUNT as u64 * 1_000, "{counted}");
    let first = store.leases_expired(111_000, usize::MAX);
    assert_eq!(first.len() as i64, COUNT / 7);
    assert!(first.iter().all(|id| id % 7 == 0));
}

/// The same as if every lease were extended at once, whatever happens between the slices.
/// `HENGE_SEED=n` runs one seed.
#[test]
fn extensions_in_slices_are_those_of_one_go() {
    let given = std::env::var("HENGE_SEED").ok();
    let given = given.map(|seed| seed.parse().expect("HENGE_SEED is a number"));
    for seed in given.map_or(0..200, |seed: u64| seed..seed + 1) {
        println!("HENGE_SEED={seed}");
        let mut dice = Dice::new(seed);
        let (mut store, mut now_ms) = (Store::new(), 0);
        // Time to live, and when it is over.
        let mut model = std::collections::BTreeMap::<i64, (i64, u64)>::new();
        for _ in 0..400 {
            let id = 1 + dice.below(40) as i64;
            match dice.below(12) {
                0..=2 => {
                    let ttl_s = 2 + dice.below(20) as i64;
                    let is_new = store.lease_grant(id, ttl_s, now_ms).is_ok();
                    assert_eq!(is_new, !model.contains_key(&id));
                    if is_new {
                        model.insert(id, (ttl_s, now_ms + ttl_s as u64 * 1_000));
                    }
                }
                3..=4 => {
                    let lives = model.get(&id).filter(|lease| lease.1 > now_ms);
                    let lives = lives.map(|lease| lease.0);
                    assert_eq!(store.lease_keep_alive(id, now_ms), lives);
                    if let Some(ttl_s) = lives {
                        model.insert(id, (ttl_s, now_ms + ttl_s as u64 * 1_000));
                    }
                }
                5 => {
                    assert_eq!(store.lease_revoke(id).is_ok(), model.remove(&id).is_some());
                }
                6 => {
                    let extra_ms = dice.below(2_000);
                    store.leases_extend(now_ms, extra_ms);
                    for (ttl_s, over_ms) in model.values_mut() {
                        *over_ms = now_ms + *ttl_s as u64 * 1_000 + extra_ms;
                    }
                }
                7..=8 => drop(store.leases_extend_next(1 + dice.below(10) as usize)),
                9 => {
                    for id in store.leases_expired(now_ms, 1 + dice.below(20) as usize) {
                        let over_ms = model.get(&id).expect("there").1;
                        assert!(over_ms <= now_ms, "{id} has until {over_ms}, not {now_ms}");
                    }
                }
                _ => now_ms += dice.below(3_000),
            }
            for (&id, &(_, over_ms)) in &model {
                let left = store.lease_time_to_live(id, now_ms, false);
                let left_s = (over_ms.saturating_sub(now_ms) / 1_000) as i64;
                assert_eq!(left.expect("known").remaining_ttl_s, left_s);
            }
            let mut order: Vec<_> = model.iter().map(|(&id, lease)| (lease.1, id)).collect();
            order.sort_unstable();
            let order: Vec<_> = order.into_iter().map(|(_, id)| id).collect();
            assert_eq!(store.leases(), order);
        }
        // Each runs out, and is told of.
        while store.leases_extend_next(3) {}
        now_ms += 100_000;
        let mut expired = store.leases_expired(now_ms, 1_000);
        expired.sort_unstable();
        assert!(expired.into_iter().eq(model.into_keys()));
        assert_eq!(
            store.leases_next_due_ms().is_some(),
            !store.leases().is_empty()
        );
    }
}

/// The primary finds a lease run out and proposes its expiry; before that is applied, a renewal is, and its
/// caller hears that the lease lives. The expiry then has nothing to say, here and on a replica that was
/// restored from a snapshot in between.
#[test]
fn a_renewal_that_overtakes_an_expiry_saves_the_lease() {
    let mut store = Store::new();
    store.lease_grant_at(1, 10, 5, 0).expect("new");
    put_leased(&mut store, "a", 1);
    assert_eq!(store.leases_expired(10_000, 10), [1], "decided, as of 6");
    assert_eq!(
        store.lease_renew(1, 7, 10_001),
        Some(10),
        "whatever the clock says"
    );
    let mut restored = copy_of(&store);
    for store in [&mut store, &mut restored] {
        assert_eq!(store.lease_expire(1, 6), Ok(0));
        assert_eq!((attached(store, 1).len(), store.revision()), (1, 2));
    }
    assert_eq!(store.leases_expired(20_000, 10), [], "its time runs again");
    assert_eq!(store.leases_expired(20_001, 10), [1]);
    for store in [&mut store, &mut restored] {
        assert_eq!(store.lease_expire(1, 8), Ok(1));
        assert_eq!(store.lease_expire(1, 8), Err(Error::LeaseNotFound));
        assert_eq!(store.lease_renew(1, 9, 20_002), None);
        assert_eq!(get(store, "a"), "");
    }
}

/// As above, with a revoke and a grant of the same id in between.
#[test]
fn an_expiry_of_an_earlier_lease_spares_a_later_one_of_its_id() {
    let mut store = Store::new();
    store.lease_grant_at(1, 10, 5, 0).expect("new");
    assert_eq!(store.leases_expired(10_000, 10), [1], "decided, as of 5");
    store.lease_revoke(1).expect("known");
    store.lease_grant_at(1, 60, 7, 10_000).expect("new again");
    assert_eq!(store.lease_expire(1, 5), Ok(0));
    assert_eq!(store.leases(), [1]);
}

fn copy_of(store: &Store) -> Store {
    let (mut cursor, mut stream) = (store.snapshot_begin(), Vec::new());
    while store.snapshot_next(&mut cursor, usize::MAX, &mut stream) {}
    let mut restorer = Restorer::new();
    restorer.push(&stream).expect("sound");
    restorer.finish().expect("whole")
}

/// Listing a million leases was one turn of most of a second.
#[test]
fn regression_many_leases_are_listed_in_slices_in_their_order() {
    let mut store = Store::new();
    let mut dice = Dice::new(1);
    assert!(!store.leases_are_many());
    for id in 1..=10_000 {
        store
            .lease_grant(id, 2 + dice.below(3_000) as i64, 0)
            .expect("new");
    }
    assert!(store.leases_are_many());
    for nanos in [0, 50_000, 500_000, u64::MAX] {
        let mut list = store.leases_begin();
        let begun = store.work().nanos();
        let mut slices = 0;
        let found = loop {
            let before = store.work().nanos();
            let found = store.leases_next(&mut list, nanos);
            let done = store.work().nanos() - before;
            assert!(done <= nanos.saturating_add(250_000), "{done} of {nanos}");
            slices += 1;
            if let Some(found) = found {
                break found;
            }
        };
        assert_eq!(found, store.leases());
        assert!(store.work().nanos() - begun >= 10_000 * 250);
        assert_eq!(slices >= 5, nanos <= 500_000, "{slices} of {nanos}");
    }
    // Renewals, grants and ends between the slices: what stays is there, once.
    let mut list = store.leases_begin();
    let (mut ended, mut number) = (0, 10_000);
    let found = loop {
        if let Some(found) = store.leases_next(&mut list, 100_000) {
            break found;
        }
        for _ in 0..200 {
            number += 1;
            store.lease_grant(number, 60, 0).expect("new");
            store.lease_keep_alive(1 + dice.below(10_000) as i64, 1);
            ended += 1;
            store.lease_revoke(ended).expect("there");
        }
    };
    let mut sorted = found.clone();
    sorted.sort_unstable();
    sorted.dedup();
    assert_eq!(sorted.len(), found.len(), "none twice");
    let stayed = sorted.iter().filter(|id| (ended + 1..=10_000).contains(id));
    assert_eq!(stayed.count() as i64, 10_000 - ended);
}
