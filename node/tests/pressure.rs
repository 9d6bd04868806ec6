//! A core that is asked for more than it can do keeps its queue short, and only then.

#[allow(dead_code, reason = "shared with the tests that run on every host")]
mod common;

use std::pin::Pin;
use std::task::{Context, Waker};
use std::time::Duration;

use common::Scratch;
use henge::{Engine, HostKind};

/// On one thread, so that nothing happens between a burst's puts.
#[test]
#[allow(clippy::disallowed_methods, reason = "a test waits, not a core")]
fn a_queue_that_refuses_gets_short_and_has_its_whole_length_again_after_a_rest() {
    const WHOLE: usize = 12 << 20;
    let dir = Scratch::new("pressure");
    let engine = Engine::builder(&dir.0)
        .host(HostKind::Thread)
        .pending_bytes_max(WHOLE);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let (db, driver) = engine.open_local().expect("opens");
        let driver = tokio::task::spawn_local(driver);
        // How many of as many as do not fit are taken in; all of them are done afterwards.
        let burst = async || {
            let mut cx = Context::from_waker(Waker::noop());
            let mut waiting = Vec::new();
            for _ in 0..12_000 {
                let mut put = db.put("key", [7; 1_000]);
                if Pin::new(&mut put).poll(&mut cx).is_pending() {
                    waiting.push(put);
                }
            }
            let taken = waiting.len();
            for put in waiting {
                put.await.expect("what was taken in is done");
            }
            taken
        };
        let whole = burst().await;
        assert!((8_000..12_000).contains(&whole), "{whole}");
        // The refusals are looked at every tenth of a second; before that another burst may find all.
        let mut short = whole;
        for _ in 0..100 {
            tokio::time::sleep(Duration::from_millis(20)).await;
            short = burst().await;
            if short < whole {
                break;
            }
        }
        assert!(short * 3 <= whole + 1_000, "{short} of {whole}");
        // By a timer of the core's own: nothing else happens meanwhile.
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(burst().await, whole);
        db.stop().await;
        driver.await.expect("the driver ends");
    });
}
