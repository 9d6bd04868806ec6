//! Several shards: merged, moved to other cores, damaged one by one.

use henge::mvcc::{KeyRange, PutRequest, RangeRequest, RequestOp, TxnRequest};
use henge::{PutError, RangeError, TxnError, TxnMistake};

use super::all;
use super::host::on_every_host;

#[test]
fn shards_are_merged_in_key_order_and_cross_shard_work_is_refused() {
    on_every_host("shards", |dir, host| {
        let builder = || host.engine(dir).cores(2).shards(5);
        let engine = builder().open().expect("opens").blocking();
        for number in 0..100 {
            engine.put(format!("k{number:03}"), "v").expect("put");
        }
        let found = engine.range(&all()).expect("range").body;
        assert_eq!(found.count, 100);
        assert!(found.kvs.is_sorted_by(|left, right| left.key < right.key));
        let put = |key| {
            RequestOp::Put(PutRequest {
                key,
                value: b"v",
                ..Default::default()
            })
        };
        let txn = TxnRequest {
            success: (0..9_u8)
                .map(|_| put(b"x"))
                .take(1)
                .chain([put(b"k001"), put(b"k002"), put(b"k003")])
                .collect(),
            ..Default::default()
        };
        assert!(matches!(
            engine.txn(&txn),
            Err(TxnError::Caller(TxnMistake::CrossShard { .. }))
        ));
        drop(engine);
        let other = host.engine(dir).shards(4).open();
        let other = other.expect_err("refused").to_string();
        assert!(other.contains("5 shards, not with 4 shards"), "{other}");
        let engine = builder().open().expect("opens").blocking();
        assert_eq!(engine.range(&all()).expect("range").body.count, 100);
    });
}

#[test]
fn shards_move_to_another_number_of_cores() {
    on_every_host("rehome", |dir, host| {
        let wal = henge::wal::Options {
            segment_bytes: 1 << 20,
            ..Default::default()
        };
        let builder = || host.engine(dir).wal(wal.clone());
        let mut written = 0;
        for cores in [2, 3, 1, 4, 2] {
            let engine = builder().shards(5).cores(cores);
            let engine = engine.open().expect("opens").blocking();
            let found = engine.range(&all()).expect("range").body;
            assert_eq!(found.count, written, "{cores} cores");
            for _ in 0..50 {
                engine
                    .put(format!("k{written:05}"), vec![b'v'; 1_000])
                    .expect("put");
                written += 1;
            }
            let logs = std::fs::read_dir(dir).expect("list").flatten();
            let logs = logs.filter(|e| e.file_name().to_string_lossy().contains("core-"));
            assert_eq!(logs.count(), cores);
        }
        // As it was opened last, and with shards where the caller wants them.
        let engine = builder().open().expect("opens");
        assert_eq!(
            engine.blocking().range(&all()).expect("range").body.count,
            written
        );
        drop(engine);
        let placed = builder().place([1, 1, 1, 0, 1]);
        let engine = placed.open().expect("opens").blocking();
        assert_eq!(engine.range(&all()).expect("range").body.count, written);
    });
}

#[test]
fn a_damaged_group_leaves_the_others_serving() {
    on_every_host("damaged-group", |dir, host| {
        let builder = || host.engine(dir).cores(1).shards(4);
        let engine = builder().open().expect("opens").blocking();
        for number in 0..40 {
            engine
                .put(format!("k{number}"), vec![b'a'; 300])
                .expect("put");
        }
        engine.put("victim", "the value that rots").expect("put");
        engine.put("after", "it").expect("put");
        engine.stop();
        drop(engine);

        let files = std::fs::read_dir(dir.join("core-0"))
            .expect("list")
            .flatten();
        let mut hit = 0;
        for path in files.map(|entry| entry.path()) {
            if path.extension().is_none_or(|end| end != "seg") {
                continue;
            }
            let mut bytes = std::fs::read(&path).expect("read");
            let needle = b"the value that rots";
            if let Some(at) = bytes.windows(needle.len()).position(|w| w == needle) {
                bytes[at + 4] ^= 0x20;
                std::fs::write(&path, bytes).expect("write");
                hit += 1;
            }
        }
        assert_eq!(hit, 1);

        let engine = builder().open().expect("the others serve").blocking();
        assert_eq!(engine.put("victim", "again"), Err(PutError::Corrupt));
        let (mut served, mut refused) = (0, 0);
        for number in 0..40 {
            let key = format!("k{number}");
            let range = RangeRequest {
                range: KeyRange {
                    key: key.as_bytes(),
                    end: b"",
                },
                ..Default::default()
            };
            match engine.range(&range) {
                Ok(found) => {
                    assert_eq!(found.body.count, 1);
                    engine.put(format!("k{number}"), "new").expect("put");
                    served += 1;
                }
                Err(RangeError::Corrupt) => refused += 1,
                Err(other) => panic!("{other}"),
            }
        }
        assert!(
            served >= 20 && refused > 0,
            "{served} served, {refused} refused"
        );
    });
}
