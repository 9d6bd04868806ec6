//! Bugs of the engine that were found, each with the test that would have found it.

use std::time::Duration;

use henge::api::WatchCreate;
use henge::{Engine, HostKind};

/// Streams were only fed when an entry was applied: a watch from an old revision on a quiet store saw
/// nothing until somebody wrote.
#[test]
fn a_watch_of_old_revisions_on_a_quiet_store_is_served_without_a_write() {
    let dir = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join(format!("henge-quiet-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    let engine = Engine::builder(&dir)
        .host(HostKind::Thread)
        .open()
        .expect("opens");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        for value in ["a", "b", "c"] {
            engine.put("key", value).await.expect("is written");
        }
        let create = WatchCreate {
            key: "key".into(),
            start_revision: 2,
            ..WatchCreate::default()
        };
        let mut watcher = engine.watch(create).expect("one key");
        let mut seen = 0;
        while seen < 3 {
            let next = tokio::time::timeout(Duration::from_secs(20), watcher.next());
            let response = next.await.expect("it comes without another write");
            seen += response.expect("the engine runs").events.len();
        }
        engine.stop().await;
    });
    drop(engine);
    let _ = std::fs::remove_dir_all(&dir);
}
