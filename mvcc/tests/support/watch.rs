//! Watchers for tests: what to watch as text, and what comes as text.

use bytes::Bytes;
use henge_mvcc::{Event, EventKind, KeyRange, OwnedRange, Store, WatchBatch, WatchSpec, WatcherId};

use super::keys;

pub fn spec(range: &str) -> WatchSpec {
    spec_of(keys(range))
}

pub fn spec_of(range: KeyRange<'_>) -> WatchSpec {
    let owned = |bytes: &[u8]| Bytes::copy_from_slice(bytes);
    WatchSpec {
        range: OwnedRange {
            key: owned(range.key),
            end: owned(range.end),
        },
        ..WatchSpec::default()
    }
}

/// `+key=value@rev` for puts, `-key@rev` for deletes, `(was value)` behind; batches joined by `|`.
pub fn show_batch(batch: &WatchBatch) -> String {
    match batch {
        WatchBatch::Compacted { compact_revision } => format!("compacted {compact_revision}"),
        WatchBatch::Events { revision, events } => {
            assert_eq!(
                events.last().map(|event| event.kv.mod_revision),
                Some(*revision)
            );
            events.iter().map(show_event).collect::<Vec<_>>().join(" ")
        }
    }
}

pub fn show_event(event: &Event) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (key, main) = (text(&event.kv.key), event.kv.mod_revision);
    let was = event
        .prev_kv
        .as_ref()
        .map_or(String::new(), |kv| format!("(was {})", text(&kv.value)));
    match event.kind {
        EventKind::Put => format!("+{key}={}@{main}{was}", text(&event.kv.value)),
        EventKind::Delete => format!("-{key}@{main}{was}"),
    }
}

/// Everything that is ready, for one watcher.
pub fn drain(store: &mut Store, id: WatcherId) -> String {
    let mut shown = Vec::new();
    while let Some(ready) = store.watch_ready() {
        assert_eq!(ready, id);
        shown.extend(store.watch_next(id, usize::MAX).iter().map(show_batch));
    }
    shown.join("|")
}
