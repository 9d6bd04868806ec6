//! Alarms: raised for the quota, kept, lowered by hand.

use henge::api::{Alarm, AlarmAction, AlarmMember, Backend as _};
use henge::mvcc::{DeleteRangeRequest, KeyRange};
use henge::{Engine, PutError, RangeError};

use super::common::Scratch;
use super::host::on_every_host;
use super::small;

const QUOTA: u64 = 1 << 20;

fn raised(engine: &Engine) -> Vec<AlarmMember> {
    let listed = engine.blocking().alarms().expect("answered");
    listed.into_iter().map(|(_, alarm)| alarm).collect()
}

fn disarm(engine: &Engine, alarm: AlarmMember) -> Vec<AlarmMember> {
    let lowered = engine.blocking().alarm_disarm(alarm).expect("answered");
    lowered.into_iter().map(|(_, alarm)| alarm).collect()
}

/// The quota was reached and everything was green: no alarm, no word in the status, and a request was held
/// against nothing but what was there before it.
#[test]
fn regression_a_spent_quota_raises_an_alarm_until_it_is_lowered() {
    on_every_host("alarm", |dir, host| {
        let open = || {
            let builder = small(dir, host)
                .quota_bytes(QUOTA)
                .checkpoint_bytes(1 << 20);
            builder.open().expect("opens")
        };
        let engine = open();
        let db = engine.blocking();
        // More than the quota by itself.
        let large = vec![7; 1_200_000];
        assert_eq!(db.put("large", large), Err(PutError::NoSpace));
        // What comes behind it comes behind the alarm.
        assert_eq!(db.put("small", "value"), Err(PutError::NoSpace));
        let own = AlarmMember {
            alarm: Alarm::NoSpace,
            member_id: 1,
        };
        assert_eq!(raised(&engine), [own]);
        let keyspace = engine.keyspace(0).expect("one shard");
        let status = db.wait(keyspace.status()).expect("answered").body;
        assert_eq!(status.alarms, [own]);
        assert_eq!(disarm(&engine, own), [own]);
        assert_eq!(disarm(&engine, own), [], "it is lowered");
        // Below the quota there is room, and then there is none.
        let value = vec![7; 10_000];
        let mut taken = 0;
        while db.put(format!("key-{taken}"), value.clone()).is_ok() {
            taken += 1;
            assert!(taken < 200, "two quotas' worth was taken");
        }
        assert!(taken > 20, "{taken} were taken");
        // A read of a lone member does not wait for what its log is about to take.
        for _ in 0..1_000 {
            if !raised(&engine).is_empty() {
                break;
            }
            std::thread::park_timeout(std::time::Duration::from_millis(5));
        }
        assert_eq!(raised(&engine), [own]);
        // What makes room is done, and room is no reason to take more before somebody says so.
        let all = DeleteRangeRequest {
            range: KeyRange {
                key: b"\0",
                end: b"\0",
            },
            ..DeleteRangeRequest::default()
        };
        let deleted = db.wait(keyspace.delete_range(&all)).expect("it makes room");
        let revision = deleted.header.revision;
        db.wait(keyspace.compact(revision, true))
            .expect("it makes room");
        assert_eq!(db.put("small", "value"), Err(PutError::NoSpace));
        drop(keyspace);
        drop(db);
        drop(engine);
        let engine = open();
        assert_eq!(raised(&engine), [own], "a restart keeps it");
        assert_eq!(
            engine.blocking().put("small", "value"),
            Err(PutError::NoSpace)
        );
        assert_eq!(disarm(&engine, own), [own]);
        let written = engine.blocking().put("small", "value");
        assert!(written.is_ok(), "at once: {written:?}");
    });
}

fn raise(engine: &Engine, shard: usize, alarm: AlarmMember) {
    let keyspace = engine.keyspace(shard).expect("there");
    let raised = keyspace.alarm(AlarmAction::Activate, alarm);
    engine.blocking().wait(raised).expect("raised");
}

/// An embedded engine could not be asked for its alarms, nor told that their cause was mended: a spent quota
/// was final.
#[test]
fn regression_alarms_of_every_shard_are_listed_and_lowered() {
    on_every_host("alarm-shards", |dir, host| {
        let engine = small(dir, host).shards(3).open().expect("opens");
        let db = engine.blocking();
        assert_eq!(db.alarms(), Ok(Vec::new()));
        let of = |member_id, alarm| AlarmMember { alarm, member_id };
        let (full, others) = (of(1, Alarm::NoSpace), of(7, Alarm::NoSpace));
        let corrupt = of(1, Alarm::Corrupt);
        raise(&engine, 0, full);
        raise(&engine, 2, full);
        raise(&engine, 2, others);
        raise(&engine, 1, corrupt);
        let all = [(0, full), (1, corrupt), (2, full), (2, others)];
        assert_eq!(db.alarms().as_deref(), Ok(&all[..]));
        // Each has what it refuses, in its shard.
        let keys = (0..).map(|number| format!("key-{number}"));
        let key_of = |shard| {
            let home = |key: &String| henge::engine::route::shard_of(key.as_bytes(), 3) == shard;
            keys.clone().find(home).expect("there are many")
        };
        let (first, second, third) = (key_of(0), key_of(1), key_of(2));
        assert_eq!(db.put(&first, "v"), Err(PutError::NoSpace));
        assert_eq!(db.get(&second), Err(RangeError::Corrupt));
        assert_eq!(db.get(&third), Ok(None));
        // One is lowered wherever it is, and nothing else is.
        assert_eq!(db.alarm_disarm(full), Ok(vec![(0, full), (2, full)]));
        assert_eq!(db.alarm_disarm(full), Ok(Vec::new()), "it is lowered");
        assert!(db.put(&first, "v").is_ok());
        assert_eq!(db.put(&third, "v"), Err(PutError::NoSpace), "the other's");
        // The engine's own futures, begun together.
        let futures = (engine.alarm_disarm(corrupt), engine.alarm_disarm(others));
        assert_eq!(db.wait(futures.0), Ok(vec![(1, corrupt)]));
        assert_eq!(db.wait(futures.1), Ok(vec![(2, others)]));
        assert_eq!(db.wait(engine.alarms()), Ok(Vec::new()));
        assert!(db.put(&second, "v").is_ok() && db.put(&third, "v").is_ok());
        // It is lowered whether or not anybody waits: what comes behind that finds none.
        raise(&engine, 1, full);
        drop(engine.alarm_disarm(full));
        assert_eq!(db.alarm_disarm(full), Ok(Vec::new()));
        db.stop();
        assert!(db.alarms().is_err() && db.alarm_disarm(full).is_err());
    });
}

#[test]
fn alarms_are_listed_and_lowered_on_the_engines_own_thread() {
    let dir = Scratch::new("alarm-local");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let builder = Engine::builder(&dir.0).quota_bytes(QUOTA);
        let (local, driver) = builder.open_local().expect("opens");
        let driver = tokio::task::spawn_local(driver);
        let own = AlarmMember {
            alarm: Alarm::NoSpace,
            member_id: 1,
        };
        let refused = local.put("large", vec![7; 1_200_000]).await;
        assert_eq!(refused, Err(PutError::NoSpace));
        // What comes behind it comes behind the alarm.
        assert_eq!(local.put("small", "v").await, Err(PutError::NoSpace));
        assert_eq!(local.alarms().await, Ok(vec![(0, own)]));
        assert_eq!(local.alarm_disarm(own).await, Ok(vec![(0, own)]));
        assert!(local.put("small", "v").await.is_ok());
        local.stop().await;
        driver.await.expect("ends");
    });
}
