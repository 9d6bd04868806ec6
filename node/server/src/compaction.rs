//! `--auto-compaction-*`: history that is given up without being asked, as etcd does it.

use std::collections::VecDeque;
use std::time::Duration;

use super::values::AutoCompaction;
use henge::api::Backend as _;
use henge::engine::Keyspace;

/// etcd looks at the revision every five minutes in revision mode.
const REVISION_INTERVAL: Duration = Duration::from_secs(300);
/// Periodic mode takes this many samples per retention period (of at most an hour between two).
const SAMPLES: u32 = 10;

/// Compacts for as long as it is polled. A refusal (already compacted by another member) is no error.
pub async fn run(keyspace: Keyspace, retention: AutoCompaction) {
    match retention {
        AutoCompaction::Revision(keep) => loop {
            tokio::time::sleep(REVISION_INTERVAL).await;
            compact(&keyspace, keyspace.metrics().revision - keep).await;
        },
        AutoCompaction::Periodic(period) => {
            let interval = (period / SAMPLES)
                .min(Duration::from_secs(360))
                .max(Duration::from_secs(1));
            let window = usize::try_from(period.as_secs() / interval.as_secs().max(1)).unwrap_or(1);
            let mut samples = VecDeque::new();
            loop {
                samples.push_back(keyspace.metrics().revision);
                tokio::time::sleep(interval).await;
                if samples.len() > window
                    && let Some(old) = samples.pop_front()
                {
                    compact(&keyspace, old).await;
                }
            }
        }
    }
}

async fn compact(keyspace: &Keyspace, revision: i64) {
    let metrics = keyspace.metrics();
    if !metrics.is_leader || revision <= metrics.compact_revision.max(1) {
        return;
    }
    match keyspace.compact(revision, false).await {
        Ok(_) => tracing::info!(revision, "compacted automatically"),
        Err(error) => tracing::warn!(revision, %error, "automatic compaction was refused"),
    }
}
