//! A watch that is resumed where it ended: every change is seen once and in order, over restarts of
//! the watcher, and it says so when history is gone.
//! `cargo run --example watch_resume`
//!
//! The rule: remember the revision of the last response that was handled, go on at the next one. If
//! that was compacted meanwhile, read the state as it is now and watch from there.

use henge::api::{Error, WatchCreate};
use henge::mvcc::{KeyRange, RangeRequest};
use henge::{Blocking, Engine};

const PREFIX: (&[u8], &[u8]) = (b"config/", b"config0");

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let engine = Engine::builder("watch.henge").open()?;
    let db = engine.blocking();

    // The first life of the watcher: it starts from the state of now.
    let mut seen = load(&db)?;
    for number in 1..=3 {
        db.put("config/limit", number.to_string())?;
    }
    seen = follow(&engine, &db, seen, 2)?;
    println!("the watcher ends, having handled revision {seen}");

    // Meanwhile the world goes on.
    db.put("config/limit", "4")?;
    db.delete("config/limit")?;

    // The second life: nothing is missed, nothing comes twice.
    seen = follow(&engine, &db, seen, 2)?;

    // Away for so long that history was compacted: told so, it loads and goes on.
    for number in 5..=9 {
        db.put("config/limit", number.to_string())?;
    }
    let now = db.put("config/limit", "10")?.header.revision;
    db.wait(engine.compact(now, true))?;
    follow(&engine, &db, seen, 1)?;
    db.stop();
    Ok(())
}

/// The state as it is now, and its revision.
fn load(db: &Blocking) -> Result<i64, Error> {
    let reply = db.range(&RangeRequest {
        range: KeyRange {
            key: PREFIX.0,
            end: PREFIX.1,
        },
        ..RangeRequest::default()
    })?;
    for kv in &reply.body.kvs {
        println!("state: {:?} = {:?}", kv.key, kv.value);
    }
    Ok(reply.header.revision)
}

/// Handles `count` changes (or a reload) after `seen`; returns the revision that was handled last.
fn follow(engine: &Engine, db: &Blocking, mut seen: i64, count: usize) -> Result<i64, Error> {
    let mut watcher = engine.watch(WatchCreate {
        key: PREFIX.0.into(),
        range_end: PREFIX.1.into(),
        start_revision: seen + 1,
        ..WatchCreate::default()
    })?;
    let mut handled = 0;
    while handled < count {
        let Some(response) = db.wait_for(watcher.next())? else {
            println!("the watch has ended: {:?}", watcher.end());
            break;
        };
        if response.compact_revision > 0 {
            println!(
                "history before {} is gone: loading",
                response.compact_revision
            );
            return load(db);
        }
        // All changes of a revision come in one response, so this is a place to go on from.
        for event in &response.events {
            println!(
                "{}: {:?} {:?}",
                event.kv.mod_revision, event.kind, event.kv.value
            );
            seen = event.kv.mod_revision;
            handled += 1;
        }
    }
    Ok(seen)
}
