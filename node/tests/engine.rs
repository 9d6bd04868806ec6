//! The engine as a service embeds it: on a real directory, on every host this machine allows.

mod common;

use std::time::Duration;

use henge::api::{Outcome, WatchCreate};
use henge::mvcc::{
    Compare, CompareResult, CompareTarget, DeleteRangeRequest, KeyRange, PutRequest, RangeRequest,
    RequestOp, TxnRequest,
};
use henge::{
    Engine, HostKind, PutError, PutMistake, RangeError, TxnError, TxnMistake, Unavailable,
};

use common::{HOSTS, Scratch, on_every_host, usable};

fn open(dir: &std::path::Path, host: HostKind) -> Engine {
    let wal = henge::wal::Options {
        segment_bytes: 1 << 20,
        ..Default::default()
    };
    Engine::builder(dir)
        .host(host)
        .wal(wal)
        .open()
        .expect("opens")
}

fn all() -> RangeRequest<'static> {
    RangeRequest {
        range: KeyRange {
            key: b"\0",
            end: b"\0",
        },
        ..Default::default()
    }
}

#[test]
fn what_was_written_is_there_after_a_stop_and_after_a_drop() {
    on_every_host("reopen", |dir, host| {
        let engine = open(dir, host).blocking();
        let first = engine.put("a", "1").expect("put");
        assert_eq!(first.header.revision, 2);
        let second = engine.put("a", "2").expect("put");
        assert_eq!(second.header.revision, 3);
        engine.stop();
        assert!(matches!(
            engine.put("a", "3"),
            Err(PutError::Unavailable(Unavailable::Stopped))
        ));
        drop(engine);

        let engine = open(dir, host).blocking();
        let found = engine.get("a").expect("get").expect("is there");
        assert_eq!(
            (&found.value[..], found.mod_revision, found.version),
            (&b"2"[..], 3, 2)
        );
        for number in 0..500 {
            engine
                .put(format!("k{number}"), vec![b'x'; 4_000])
                .expect("put");
        }
        drop(engine);

        let engine = open(dir, host).blocking();
        let found = engine.range(&all()).expect("range");
        assert_eq!((found.body.count, found.header.revision), (501, 503));
    });
}

#[test]
fn a_dropped_future_does_not_drop_the_operation() {
    on_every_host("dropped", |dir, host| {
        let engine = open(dir, host);
        drop(engine.put("abandoned", "value"));
        // Nobody was told that the put is done, so a read may still overtake it; a later write cannot.
        engine.blocking().put("later", "value").expect("put");
        let found = engine.blocking().get("abandoned").expect("get");
        assert_eq!(found.map(|kv| kv.value), Some("value".into()));
    });
}

#[test]
fn a_transaction_takes_one_branch_at_one_revision() {
    on_every_host("txn", |dir, host| {
        let engine = open(dir, host).blocking();
        let put = |key, value| {
            RequestOp::Put(PutRequest {
                key,
                value,
                ..Default::default()
            })
        };
        let create = TxnRequest {
            compare: vec![Compare {
                range: KeyRange::one(b"lock"),
                result: CompareResult::Equal,
                target: CompareTarget::CreateRevision(0),
            }],
            success: vec![put(b"lock", b"me"), put(b"count", b"1")],
            failure: vec![RequestOp::Range(RangeRequest {
                range: KeyRange::one(b"lock"),
                ..Default::default()
            })],
        };
        let won = engine.txn(&create).expect("txn");
        assert!(won.body.succeeded);
        let lost = engine.txn(&create).expect("txn");
        assert!(!lost.body.succeeded);
        assert_eq!(lost.header.revision, won.header.revision);
        let both = engine.range(&all()).expect("range").body.kvs;
        assert!(both.iter().all(|kv| kv.mod_revision == won.header.revision));
    });
}

#[test]
fn a_watcher_sees_history_then_what_comes() {
    on_every_host("watch", |dir, host| {
        let engine = open(dir, host);
        let blocking = engine.blocking();
        blocking.put("w", "1").expect("put");
        blocking.put("w", "2").expect("put");
        let create = WatchCreate {
            key: "w".into(),
            start_revision: 2,
            ..Default::default()
        };
        let mut watcher = engine.watch(create).expect("watch");
        assert!(blocking.wait(watcher.next()).expect("created").created);
        blocking.put("w", "3").expect("put");
        blocking.delete("w").expect("delete");
        let mut seen = Vec::new();
        while seen.len() < 4 {
            let response = blocking.wait(watcher.next()).expect("events");
            seen.extend(
                response
                    .events
                    .into_iter()
                    .map(|event| event.kv.mod_revision),
            );
        }
        assert_eq!(seen, [2, 3, 4, 5]);
        blocking.stop();
        assert_eq!(blocking.wait(watcher.next()), None);
    });
}

#[test]
fn a_lease_takes_its_keys_along_when_it_expires() {
    on_every_host("lease", |dir, host| {
        let engine = open(dir, host);
        let blocking = engine.blocking();
        let lease = blocking.wait(engine.lease_grant(0, 1)).expect("grant").body;
        assert!(lease.id > 0);
        let put = PutRequest {
            key: b"short",
            value: b"life",
            lease: lease.id,
            ..Default::default()
        };
        blocking.wait(engine.put_with(&put)).expect("put");
        let create = WatchCreate {
            key: "short".into(),
            ..Default::default()
        };
        let mut watcher = engine.watch(create).expect("watch");
        assert!(blocking.wait(watcher.next()).expect("created").created);
        let gone = blocking.wait(watcher.next()).expect("the delete");
        assert_eq!(gone.events[0].kind, henge::mvcc::EventKind::Delete);
        assert_eq!(
            blocking
                .wait(engine.lease_keep_alive(lease.id))
                .expect("answer")
                .body,
            0
        );
    });
}

#[test]
fn refusals_are_typed_and_have_no_effect() {
    on_every_host("refusals", |dir, host| {
        let engine = Engine::builder(dir)
            .host(host)
            .request_bytes_max(1_000)
            .open()
            .expect("opens")
            .blocking();
        let too_large = engine.put("k", vec![0; 2_000]).expect_err("too large");
        assert!(
            matches!(
                too_large,
                PutError::Caller(PutMistake::TooLarge { max: 1_000, .. })
            ),
            "{too_large}"
        );
        assert_eq!(
            engine.put("", "v").expect_err("no key").to_string(),
            "key is not provided"
        );
        let future = RangeRequest {
            revision: 99,
            ..all()
        };
        let refused = engine.range(&future).expect_err("future");
        assert_eq!(
            refused.to_string(),
            "mvcc: required revision is a future revision"
        );
        assert_eq!(refused.outcome(), Outcome::NotDone);
        assert_eq!(engine.range(&all()).expect("range").header.revision, 1);
    });
}

#[test]
fn compaction_forgets_and_says_so() {
    on_every_host("compact", |dir, host| {
        let engine = open(dir, host);
        let blocking = engine.blocking();
        for number in 0..3_000 {
            blocking
                .wait(engine.put("k", number.to_string()))
                .expect("put");
        }
        blocking.wait(engine.compact(3_000, true)).expect("compact");
        let old = RangeRequest {
            revision: 2_999,
            ..all()
        };
        let refused = blocking.range(&old).expect_err("compacted");
        assert_eq!(
            refused.to_string(),
            "mvcc: required revision has been compacted"
        );
        let kept = RangeRequest {
            revision: 3_000,
            ..all()
        };
        assert_eq!(
            blocking.range(&kept).expect("kept").body.kvs[0].value,
            "2998"
        );
    });
}

#[test]
fn shards_are_merged_in_key_order_and_cross_shard_work_is_refused() {
    on_every_host("shards", |dir, host| {
        let builder = || Engine::builder(dir).host(host).cores(2).shards(5);
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
        let other = Engine::builder(dir).host(host).shards(4).open();
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
        let builder = || Engine::builder(dir).host(host).wal(wal.clone());
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
fn a_log_that_is_gone_is_not_taken_for_an_empty_one() {
    let dir = Scratch::new("gone");
    let builder = || Engine::builder(&dir.0).cores(2).shards(2);
    drop(builder().open().expect("opens"));
    std::fs::rename(dir.0.join("core-1"), dir.0.join("elsewhere")).expect("rename");
    let refused = builder().open().expect_err("refused").to_string();
    assert!(refused.contains("core-1"), "{refused}");
    std::fs::rename(dir.0.join("elsewhere"), dir.0.join("core-1")).expect("rename");
    drop(builder().open().expect("opens"));
}

#[test]
fn a_second_engine_on_the_same_directory_is_refused() {
    on_every_host("second", |dir, host| {
        let engine = open(dir, host);
        let second = Engine::builder(dir).host(host).open().expect_err("refused");
        let holder = std::process::id().to_string();
        assert!(
            second.to_string().contains(&holder),
            "{second} does not name process {holder}"
        );
        engine.blocking().put("still", "works").expect("put");
    });
}

#[test]
fn somebody_elses_directory_is_not_touched() {
    let dir = Scratch::new("stranger");
    std::fs::create_dir_all(&dir.0).expect("mkdir");
    std::fs::write(dir.0.join("thesis.tex"), "important").expect("write");
    let refused = Engine::builder(&dir.0).open().expect_err("refused");
    assert!(refused.to_string().contains("thesis.tex"), "{refused}");
    assert_eq!(std::fs::read_dir(&dir.0).expect("list").count(), 1);
}

#[test]
fn many_callers_at_once_all_get_their_own_answer() {
    on_every_host("many", |dir, host| {
        let engine = open(dir, host);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("rt");
        runtime.block_on(async {
            let puts: Vec<_> = (0..5_000)
                .map(|n| engine.put(format!("m{n}"), n.to_string()))
                .collect();
            let mut revisions = Vec::new();
            for put in puts {
                revisions.push(put.await.expect("put").header.revision);
            }
            assert!(revisions.is_sorted_by(|left, right| left < right));
            let watchdog = Duration::from_secs(60);
            let found = tokio::time::timeout(watchdog, engine.range(&all()))
                .await
                .expect("in time");
            assert_eq!(found.expect("range").body.count, 5_000);
        });
    });
}

#[test]
fn a_checkpoint_lets_the_log_go_and_is_what_a_restart_starts_from() {
    on_every_host("checkpoint", |dir, host| {
        let builder = || {
            let wal = henge::wal::Options {
                segment_bytes: 1 << 20,
                ..Default::default()
            };
            Engine::builder(dir)
                .host(host)
                .wal(wal)
                .checkpoint_bytes(4 << 20)
        };
        let engine = builder().open().expect("opens");
        let blocking = engine.blocking();
        let lease = blocking
            .wait(engine.lease_grant(0, 1_000))
            .expect("grant")
            .body
            .id;
        let leased = PutRequest {
            key: b"leased",
            value: b"v",
            lease,
            ..Default::default()
        };
        blocking.wait(engine.put_with(&leased)).expect("put");
        for round in 0..12 {
            for number in 0..60 {
                blocking
                    .put(format!("k{number}"), vec![round; 40_000])
                    .expect("put");
            }
        }
        let revision = blocking.range(&all()).expect("range").header.revision;
        let checkpoints = dir.join("checkpoints");
        let mut waited = 0;
        while std::fs::read_dir(&checkpoints).map_or(0, Iterator::count) == 0 {
            blocking.put("more", vec![0; 40_000]).expect("put");
            waited += 1;
            assert!(waited < 2_000, "no checkpoint was written");
        }
        let segments = || {
            let names = std::fs::read_dir(dir.join("core-0"))
                .expect("list")
                .flatten();
            names
                .filter(|entry| entry.path().extension().is_some_and(|end| end == "seg"))
                .count()
        };
        // The log lets go once the checkpoint's record is durable, some turns later: small writes pass
        // the time, and would add the one or other MiB if it never did.
        let mut waited = 0;
        while segments() >= 25 {
            blocking.put("more", "").expect("put");
            waited += 1;
            assert!(
                waited < 2_000,
                "{} MiB of log for 4 MiB between checkpoints",
                segments()
            );
        }
        blocking.put("after", "the checkpoint").expect("put");
        let before = blocking.range(&all()).expect("range");
        drop((engine, blocking));
        let engine = builder().open().expect("opens");
        let blocking = engine.blocking();
        let found = blocking.range(&all()).expect("range");
        assert_eq!(
            (&found.body, found.header.revision),
            (&before.body, before.header.revision)
        );
        assert!(found.header.revision > revision);
        let ttl = blocking
            .wait(engine.lease_time_to_live(lease, true))
            .expect("ttl")
            .body;
        assert_eq!(
            (ttl.granted_ttl_s, &ttl.keys[..]),
            (1_000, &["leased".into()][..])
        );
        drop((engine, blocking));

        std::fs::remove_dir_all(&checkpoints).expect("remove");
        let refused = builder().open().expect_err("refused").to_string();
        assert!(refused.contains("checkpoint"), "{refused}");
    });
}

#[test]
fn a_damaged_group_leaves_the_others_serving() {
    on_every_host("damaged-group", |dir, host| {
        let builder = || Engine::builder(dir).host(host).cores(1).shards(4);
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

#[test]
fn a_directory_is_any_hosts() {
    let dir = Scratch::new("hosts");
    let hosts = HOSTS.iter().filter(|host| usable(**host).is_ok());
    for (round, host) in (0_u64..).zip(hosts.clone().chain(hosts.clone())) {
        let engine = open(&dir.0, *host);
        assert_eq!(engine.host(), *host);
        let blocking = engine.blocking();
        let found = blocking.range(&all()).expect("range").body;
        assert_eq!(
            found.count as u64, round,
            "what the host before wrote, seen by {host}"
        );
        blocking
            .put(format!("round-{round}"), host.to_string())
            .expect("put");
    }
}

#[test]
fn every_operation_in_flight_is_answered_when_the_engine_stops() {
    on_every_host("stopping", |dir, host| {
        let engine = open(dir, host);
        let blocking = engine.blocking();
        let mut puts = Vec::new();
        for number in 0..2_000 {
            puts.push(engine.put(format!("s{number}"), vec![b'v'; 500]));
        }
        let read = engine.range(&all());
        blocking.stop();
        let (mut done, mut unknown, mut refused) = (0, 0, 0);
        for put in puts {
            match blocking.wait(put) {
                Ok(_) => done += 1,
                Err(error) => match error.outcome() {
                    Outcome::Unknown => unknown += 1,
                    Outcome::NotDone => refused += 1,
                },
            }
        }
        // Answered at all is what counts here; a read has either.
        let _ = blocking.wait(read);
        assert!(engine.has_ended());
        drop((engine, blocking));
        let kept = open(dir, host)
            .blocking()
            .range(&all())
            .expect("range")
            .body;
        let kept = usize::try_from(kept.count).expect("counts");
        assert_eq!(done + unknown + refused, 2_000);
        assert!(
            (done..=done + unknown).contains(&kept),
            "{done} done, {unknown} unknown, {kept} kept"
        );
    });
}

#[test]
fn a_range_can_be_limited_counted_and_deleted() {
    on_every_host("ranges", |dir, host| {
        let engine = open(dir, host);
        let blocking = engine.blocking();
        for number in 0..50 {
            blocking.put(format!("r{number:02}"), "v").expect("put");
        }
        let range = KeyRange {
            key: b"r10",
            end: b"r30",
        };
        let some = RangeRequest {
            range,
            limit: 5,
            ..Default::default()
        };
        let found = blocking.range(&some).expect("range").body;
        assert_eq!((found.kvs.len(), found.count, found.more), (5, 20, true));
        let count = RangeRequest {
            range,
            count_only: true,
            ..Default::default()
        };
        assert_eq!(blocking.range(&count).expect("count").body.kvs.len(), 0);
        let delete = DeleteRangeRequest {
            range,
            prev_kv: true,
        };
        let gone = blocking
            .wait(engine.delete_range(&delete))
            .expect("delete")
            .body;
        assert_eq!((gone.deleted, gone.prev_kvs.len()), (20, 20));
        assert_eq!(blocking.range(&all()).expect("range").body.count, 30);
    });
}

#[test]
fn a_watcher_whose_history_is_gone_is_told_from_where_to_go_on() {
    on_every_host("watch-compacted", |dir, host| {
        let engine = open(dir, host);
        let blocking = engine.blocking();
        for number in 0..10 {
            blocking.put("w", number.to_string()).expect("put");
        }
        blocking.wait(engine.compact(8, true)).expect("compact");
        let create = |start_revision| WatchCreate {
            key: "w".into(),
            start_revision,
            ..Default::default()
        };
        let mut late = engine.watch(create(3)).expect("watch");
        let mut last = blocking.wait(late.next()).expect("created");
        while !last.canceled {
            last = blocking.wait(late.next()).expect("cancelled");
        }
        assert_eq!(last.compact_revision, 8);
        let mut again = engine.watch(create(last.compact_revision)).expect("watch");
        assert!(blocking.wait(again.next()).expect("created").created);
        let mut seen = Vec::new();
        while seen.len() < 4 {
            let events = blocking.wait(again.next()).expect("events").events;
            seen.extend(events.iter().map(|event| event.kv.mod_revision));
        }
        assert_eq!(seen, [8, 9, 10, 11]);
    });
}

#[test]
fn threads_that_share_an_engine_lose_no_increment() {
    on_every_host("threads", |dir, host| {
        let engine = open(dir, host).blocking();
        engine.put("n", "0").expect("put");
        std::thread::scope(|scope| {
            for _ in 0..4 {
                let engine = engine.clone();
                scope.spawn(move || {
                    for _ in 0..25 {
                        increment(&engine);
                    }
                });
            }
        });
        let found = engine.get("n").expect("get").expect("is there");
        assert_eq!((found.value, found.version), ("100".into(), 101));
    });
}

/// Reads, adds one, writes if nobody else did meanwhile.
fn increment(engine: &henge::Blocking) {
    loop {
        let found = engine.get("n").expect("get").expect("is there");
        let number: u64 = String::from_utf8_lossy(&found.value).parse().expect("ours");
        let next = (number + 1).to_string();
        let txn = TxnRequest {
            compare: vec![Compare {
                range: KeyRange::one(b"n"),
                result: CompareResult::Equal,
                target: CompareTarget::ModRevision(found.mod_revision),
            }],
            success: vec![RequestOp::Put(PutRequest {
                key: b"n",
                value: next.as_bytes(),
                ..Default::default()
            })],
            failure: Vec::new(),
        };
        if engine.txn(&txn).expect("txn").body.succeeded {
            return;
        }
    }
}

#[test]
fn values_up_to_the_limit_come_back_whole() {
    let builder = |dir: &std::path::Path, host| {
        let wal = henge::wal::Options {
            segment_bytes: 8 << 20,
            ..Default::default()
        };
        Engine::builder(dir).host(host).wal(wal)
    };
    on_every_host("large", |dir, host| {
        let engine = builder(dir, host).open().expect("opens").blocking();
        let value: Vec<u8> = (0..1_400_000_u32).map(|at| (at * 7 % 251) as u8).collect();
        for name in ["a", "b", "c"] {
            engine.put(name, &value).expect("put");
        }
        drop(engine);
        let engine = builder(dir, host).open().expect("opens").blocking();
        for name in ["a", "b", "c"] {
            let found = engine.get(name).expect("get").expect("is there");
            assert!(found.value == value[..], "{name} differs");
        }
    });
}
