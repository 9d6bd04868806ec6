//! What a server says of itself before it serves: what it is, what it was told to do, whom it waits for.
//!
//! Must never know: how lines are written. Tested by `tests/log_lines`.

use std::time::Duration;

use tokio::time::Instant;

use super::options::ServeConfig;
use super::values::ListenOn;
use henge::AutoCompaction;
use henge::api::PeerView;

/// Between two words about a quorum that does not come.
const SAY_EVERY: Duration = Duration::from_secs(10);

/// What it is, and what it was told.
pub(super) fn start(config: &ServeConfig) {
    tracing::info!(
        version = henge::VERSION,
        build = henge::BUILD,
        etcd_version = henge_edge::API_VERSION,
        pid = std::process::id(),
        member_id = format!("{:x}", config.member_id),
        cluster_id = format!("{:x}", config.cluster_id),
        data_dir = %config.data_dir.display(),
        "starting"
    );
    let members: Vec<String> = config
        .members
        .iter()
        .map(|member| format!("{}={}", member.name, member.peer_urls))
        .collect();
    let compaction = match config.auto_compaction {
        AutoCompaction::Off => "off".to_owned(),
        AutoCompaction::Periodic(keep) => format!("{keep:?}"),
        AutoCompaction::Revisions(keep) | AutoCompaction::RevisionsEvery(keep, _) => {
            format!("{keep} revisions")
        }
    };
    tracing::info!(
        listen_client = list(&config.listen_client),
        listen_client_http = list(&config.listen_client_http),
        listen_metrics = list(&config.listen_metrics),
        listen_peer = join(config.listen_peer.iter()),
        advertise_client_urls = %config.advertise_client_urls,
        initial_cluster = members.join(","),
        heartbeat_ms = config.heartbeat_ms,
        election_ms = config.election_ms,
        quota_bytes = config.quota_bytes.unwrap_or(0),
        max_request_bytes = config.edge.max_request_bytes,
        max_txn_ops = config.edge.max_txn_ops,
        auto_compaction = compaction,
        progress_interval = format!("{:?}", config.progress_interval),
        host = %config.host,
        log_level = format!("{:?}", config.log_level).to_ascii_lowercase(),
        "effective settings"
    );
}

fn list(places: &[ListenOn]) -> String {
    join(places.iter())
}

fn join<T: ToString>(items: impl Iterator<Item = T>) -> String {
    items
        .map(|item| item.to_string())
        .collect::<Vec<_>>()
        .join(",")
}

/// Says, now and then, that nobody can lead yet, and who is missing.
pub(super) struct Quorum {
    next: Option<Instant>,
}

impl Quorum {
    pub(super) fn new() -> Self {
        Quorum { next: None }
    }

    /// To be asked often.
    pub(super) fn look(
        &mut self,
        config: &ServeConfig,
        has_leader: bool,
        peers: impl FnOnce() -> Vec<PeerView>,
    ) {
        let voters = config.members.len();
        if has_leader || voters == 1 {
            self.next = None;
            return;
        }
        let now = Instant::now();
        if self.next.is_some_and(|next| now < next) {
            return;
        }
        self.next = Some(now + SAY_EVERY);
        let peers = peers();
        let missing = peers.iter().filter(|peer| !peer.stats.connected);
        let missing = missing.map(|peer| format!("{}={}", peer.name, peer.url));
        let missing: Vec<String> = missing.collect();
        tracing::info!(
            voters,
            needed = voters / 2 + 1,
            connected = voters - missing.len(),
            missing = missing.join(","),
            "waiting for a quorum"
        );
    }
}
