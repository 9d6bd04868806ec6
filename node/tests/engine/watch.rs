//! Watchers: history, then what comes; and history that is gone.

use henge::api::WatchCreate;

use super::host::on_every_host;
use super::open;

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
        assert!(
            blocking
                .wait_for(watcher.next())
                .expect("elsewhere")
                .expect("created")
                .created
        );
        blocking.put("w", "3").expect("put");
        blocking.delete("w").expect("delete");
        let mut seen = Vec::new();
        while seen.len() < 4 {
            let response = blocking
                .wait_for(watcher.next())
                .expect("elsewhere")
                .expect("events");
            seen.extend(
                response
                    .events
                    .into_iter()
                    .map(|event| event.kv.mod_revision),
            );
        }
        assert_eq!(seen, [2, 3, 4, 5]);
        blocking.stop();
        assert_eq!(blocking.wait_for(watcher.next()).expect("elsewhere"), None);
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
        let mut last = blocking
            .wait_for(late.next())
            .expect("elsewhere")
            .expect("created");
        while !last.canceled {
            last = blocking
                .wait_for(late.next())
                .expect("elsewhere")
                .expect("cancelled");
        }
        assert_eq!(last.compact_revision, 8);
        let mut again = engine.watch(create(last.compact_revision)).expect("watch");
        assert!(
            blocking
                .wait_for(again.next())
                .expect("elsewhere")
                .expect("created")
                .created
        );
        let mut seen = Vec::new();
        while seen.len() < 4 {
            let events = blocking
                .wait_for(again.next())
                .expect("elsewhere")
                .expect("events")
                .events;
            seen.extend(events.iter().map(|event| event.kv.mod_revision));
        }
        assert_eq!(seen, [8, 9, 10, 11]);
    });
}
