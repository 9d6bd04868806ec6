//! Random histories against the naive twin: every answer and every error is compared. Puts, deletes,
//! nested transactions, leases, compactions (logical and physical apart), ranges with all options
//! at all revisions. `HENGE_SEED=n` runs one history.

mod support;

use henge_mvcc::Store;
use support::commands::Pair;
use support::for_seeds;

#[test]
fn random_histories_answer_as_the_model() {
    for_seeds("model", 150, |seed| {
        let mut pair = Pair::new(Store::new(), seed);
        for step in 0..400 {
            pair.write();
            for _ in 0..4 {
                pair.read();
            }
            if pair.dice.one_in(25) {
                pair.compact();
            }
            if step % 20 == 0 {
                pair.compare_rest();
            }
        }
    });
}

/// However far physical compaction is, the logical content hashes the same.
#[test]
fn replicas_hash_alike_whatever_is_physically_compacted() {
    for_seeds("hash", 30, |seed| {
        let mut eager = Pair::new(Store::new(), seed);
        let mut lazy = Pair::new(Store::new(), seed);
        let mut hashes = std::collections::BTreeSet::new();
        for _ in 0..200 {
            eager.write();
            lazy.write();
            if eager.dice.one_in(20) {
                eager.compact();
            }
            if lazy.dice.one_in(20) {
                lazy.compact();
            }
            while eager.store.compact_step(100) {}
            let hash = eager.store.hash_kv(0).expect("current");
            assert_eq!(lazy.store.hash_kv(0).expect("current"), hash);
            hashes.insert(hash);
            let old = eager.store.compacted_revision().max(1);
            assert_eq!(eager.store.hash_kv(old), lazy.store.hash_kv(old));
        }
        assert!(hashes.len() > 50, "the hash follows the content");
    });
}
