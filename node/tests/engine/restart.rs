//! Directories: what is there after a stop, a drop, a checkpoint; whose they are, and whose not.

use std::time::Duration;

use henge::mvcc::PutRequest;
use henge::{Engine, OpenError, PutError, Unavailable};

use super::common::{HOSTS, Scratch, usable};
use super::host::{Host, on_every_host};
use super::{all, open};

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

/// Metrics say what this process was asked for; what its log is replayed for was asked of another.
#[test]
fn what_the_log_is_replayed_for_is_not_counted() {
    on_every_host("counted", |dir, host| {
        for run in 1..=3 {
            let engine = open(dir, host);
            let db = engine.blocking();
            for number in 0..run {
                db.put(format!("{run}-{number}"), "value").expect("put");
            }
            let counted = || {
                let metrics = engine.metrics(0).expect("one shard");
                (metrics.asked.puts, metrics.keys)
            };
            let wanted = (run, run * (run + 1) / 2);
            for _ in 0..1_000 {
                if counted() == wanted {
                    break;
                }
                #[allow(clippy::disallowed_methods, reason = "a test waits, not a core")]
                std::thread::sleep(Duration::from_millis(5));
            }
            assert_eq!(counted(), wanted, "run {run}: puts counted, keys there");
        }
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
        let second = host.engine(dir).open().expect_err("refused");
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
fn a_directory_is_any_hosts() {
    let dir = Scratch::new("hosts");
    let hosts = HOSTS.iter().filter(|host| usable(**host).is_ok());
    for (round, host) in (0_u64..).zip(hosts.clone().chain(hosts.clone())) {
        let engine = open(&dir.0, Host::Real(*host));
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

/// Small writes that pass the time until a checkpoint is written: many seconds' worth on the fastest disk.
const WAITED_MAX: u32 = 200_000;

#[test]
fn a_checkpoint_lets_the_log_go_and_is_what_a_restart_starts_from() {
    on_every_host("checkpoint", |dir, host| {
        let builder = || {
            let wal = henge::wal::Options {
                segment_bytes: 1 << 20,
                ..Default::default()
            };
            host.engine(dir).wal(wal).checkpoint_bytes(4 << 20)
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
        // It is written at the pace of a share of the disk: small writes pass the time, however fast they
        // are.
        let mut waited = 0;
        let written = || {
            let files = std::fs::read_dir(&checkpoints).ok()?;
            let mut names = files.flatten().map(|file| file.path());
            names.find(|name| name.extension().is_some_and(|end| end == "ckpt"))
        };
        while written().is_none() {
            blocking.put("more", "").expect("put");
            waited += 1;
            assert!(waited < WAITED_MAX, "no checkpoint was written");
        }
        let segments = || {
            let names = std::fs::read_dir(dir.join("core-0"))
                .expect("list")
                .flatten();
            names
                .filter(|entry| entry.path().extension().is_some_and(|end| end == "seg"))
                .count()
        };
        // The log lets go once the checkpoint's record is durable, which takes the checkpoint's time and
        // some turns.
        let mut waited = 0;
        while segments() >= 25 {
            std::thread::park_timeout(Duration::from_millis(5));
            blocking.put("more", "").expect("put");
            waited += 1;
            assert!(
                waited < WAITED_MAX,
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
fn regression_other_members_under_the_same_ids_are_refused() {
    let dir = Scratch::new("members");
    let member = |id: u64| henge::api::Member {
        id,
        name: format!("m{id}"),
        peer_urls: vec![format!("http://127.0.0.1:{id}")],
        ..Default::default()
    };
    let cluster = |ids: &[u64]| henge::ClusterConfig {
        cluster_id: 7,
        member_id: 1,
        members: ids.iter().map(|id| member(*id)).collect(),
        ..Default::default()
    };
    let builder = |ids: &[u64]| Engine::builder(&dir.0).cluster(cluster(ids));
    let engine = builder(&[1]).open().expect("opens").blocking();
    engine.put("a", "1").expect("put");
    engine.stop();
    drop(engine);

    // Two members that have nothing could elect each other, and what is here would be gone.
    let refused = builder(&[1, 2, 3]).open().expect_err("refused");
    let OpenError::OtherMembers { found, asked, .. } = &refused else {
        panic!("{refused}");
    };
    assert_eq!((found.members.len(), asked.members.len()), (1, 3));
    let text = refused.to_string();
    assert!(text.contains("MEMBERS") && text.contains("m3"), "{text}");

    // Another member altogether is refused as before, now with names.
    let mut other = cluster(&[1]);
    other.cluster_id = 8;
    let refused = Engine::builder(&dir.0).cluster(other).open();
    assert!(matches!(refused, Err(OpenError::OtherMembers { .. })));

    // A name or an address may change: the ids are what counts here.
    let mut moved = cluster(&[1]);
    moved.members[0].name = "elsewhere".to_owned();
    let engine = Engine::builder(&dir.0).cluster(moved).open();
    let engine = engine.expect("opens").blocking();
    assert!(engine.get("a").expect("get").is_some());
    engine.stop();
    drop(engine);

    // A damaged list is said; without one the directory is as it was before there were any.
    let path = dir.0.join("MEMBERS");
    let mut bytes = std::fs::read(&path).expect("a file");
    bytes[30] ^= 1;
    std::fs::write(&path, bytes).expect("a file");
    let text = builder(&[1]).open().expect_err("refused").to_string();
    assert!(
        text.contains("MEMBERS") && text.contains("remove it"),
        "{text}"
    );
    std::fs::remove_file(&path).expect("it goes");
    drop(builder(&[1]).open().expect("opens"));
    assert!(path.exists(), "it is made again");
}
