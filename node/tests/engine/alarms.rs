//! Alarms: raised for the quota, kept, lowered by hand.

use henge::api::{Alarm, AlarmAction, AlarmMember, Backend as _};
use henge::mvcc::{DeleteRangeRequest, KeyRange};
use henge::{Engine, PutError};

use super::host::on_every_host;
use super::small;

const QUOTA: u64 = 1 << 20;

fn raised(engine: &Engine) -> Vec<AlarmMember> {
    let keyspace = engine.keyspace(0).expect("one shard");
    let listed = engine.blocking().wait(keyspace.alarms());
    listed.expect("answered").body
}

fn disarm(engine: &Engine, alarm: AlarmMember) -> Vec<AlarmMember> {
    let keyspace = engine.keyspace(0).expect("one shard");
    let lowered = keyspace.alarm(AlarmAction::Deactivate, alarm);
    engine.blocking().wait(lowered).expect("answered").body
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
        assert_eq!(status.errors, ["memberID:1 alarm:NOSPACE"]);
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
