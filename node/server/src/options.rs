//! What `henge serve` was asked for, checked, with member and cluster ids.
//!
//! The checks are etcd's (`server/embed/config.go`, `server/config/config.go`). The ids are etcd's
//! too, so that a cluster described by the same flags has the same ids on both.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use henge::{AutoCompaction, HostKind};
use henge_edge::EdgeConfig;
use sha1::{Digest, Sha1};

use super::args::{CompactionMode, LogFormat, LogLevel, ServeArgs};
use super::flags::UsageError;
use super::values::{self, ClientUrls, InitialCluster, ListenOn, Urls};

/// Longest election timeout in milliseconds (etcd's `maxElectionMs`).
const ELECTION_MS_MAX: u64 = 50_000;

/// Heartbeats that must fit into an election timeout.
const HEARTBEATS_MIN: u64 = 5;

/// etcd's default quota in bytes.
const QUOTA_DEFAULT_BYTES: i64 = 2 * 1024 * 1024 * 1024;

/// Quota above which etcd warns, in bytes.
const QUOTA_ADVICE_BYTES: i64 = 8 * 1024 * 1024 * 1024;

/// Members of a static cluster.
const MEMBERS_MAX: usize = 5;
/// Request size above which etcd warns, in bytes.
const REQUEST_ADVICE_BYTES: usize = 10 * 1024 * 1024;

/// Shortest progress interval (etcd's minWatchProgressInterval).
const PROGRESS_MIN: Duration = Duration::from_millis(100);
/// The interval if none is given.
const PROGRESS_DEFAULT: Duration = Duration::from_secs(600);

/// A member of the cluster as the flags describe it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberConfig {
    /// Follows from peer URLs and cluster token.
    pub id: u64,
    /// Its `--name`.
    pub name: String,
    /// Where its peers reach it.
    pub peer_urls: Urls,
}

/// Checked settings of a server.
#[derive(Clone, Debug)]
pub struct ServeConfig {
    /// This member's name.
    pub name: String,
    /// Where everything is kept.
    pub data_dir: PathBuf,
    /// Where to listen for clients.
    pub listen_client: Vec<ListenOn>,
    /// Where plain HTTP is served instead of there; empty: there.
    pub listen_client_http: Vec<ListenOn>,
    /// Addresses for peers.
    pub listen_peer: Vec<SocketAddr>,
    /// Where metrics and health are served besides.
    pub listen_metrics: Vec<ListenOn>,
    /// This member's client URLs as others see them.
    pub advertise_client_urls: ClientUrls,
    /// This member's id, one of `members`.
    pub member_id: u64,
    /// The cluster's id.
    pub cluster_id: u64,
    /// All members, by id.
    pub members: Vec<MemberConfig>,
    /// The flag that names them.
    pub members_flag: &'static str,
    /// Heartbeat interval in milliseconds.
    pub heartbeat_ms: u64,
    /// Election timeout in milliseconds.
    pub election_ms: u64,
    /// Committed entries between checkpoints.
    pub snapshot_count: u64,
    /// Store bytes above which writes are refused; None is no limit.
    pub quota_bytes: Option<u64>,
    /// History that is kept without being asked, if bounded.
    pub auto_compaction: AutoCompaction,
    /// Time between progress notes of idle watchers.
    pub progress_interval: Duration,
    /// Settings of the gRPC edge.
    pub edge: EdgeConfig,
    /// What drives the cores.
    pub host: HostKind,
    /// Longest time a core's thread looks for work before it sleeps, in microseconds.
    pub busy_poll_micros: u64,
    /// Largest segment of the log in bytes; None is by the room there is.
    pub wal_segment_bytes: Option<u64>,
    /// Least serious message that is logged.
    pub log_level: LogLevel,
    /// Form of the log.
    pub log_format: LogFormat,
    /// What an operator should know, to be logged once.
    pub warnings: Vec<String>,
}

/// An error about one flag.
fn wrong<T>(flag: &str, why: impl Into<String>) -> Result<T, UsageError> {
    Err(UsageError {
        flag: flag.to_owned(),
        why: why.into(),
    })
}

pub(super) fn validate(args: ServeArgs) -> Result<ServeConfig, UsageError> {
    check_name(&args.name)?;
    check_timeouts(&args)?;
    let mut warnings = Vec::new();
    let quota_bytes = quota(&args, &mut warnings);
    let cluster = cluster(&args)?;
    let (member_id, cluster_id, members) = identify(&args, cluster)?;
    let progress_interval = progress(&args, &mut warnings);
    let advertise = args.advertise_client_urls.clone();
    Ok(ServeConfig {
        data_dir: match &args.data_dir {
            Some(dir) => dir.clone(),
            None => PathBuf::from(format!("{}.henge", args.name)),
        },
        listen_client: places("listen-client-urls", &args.listen_client_urls)?,
        listen_client_http: places("listen-client-http-urls", &args.listen_client_http_urls)?,
        listen_peer: addresses("listen-peer-urls", &args.listen_peer_urls)?,
        listen_metrics: places("listen-metrics-urls", &args.listen_metrics_urls)?,
        advertise_client_urls: advertise.unwrap_or_else(|| args.listen_client_urls.clone()),
        member_id,
        cluster_id,
        members,
        members_flag: match args.initial_cluster {
            Some(_) => "initial-cluster",
            None => "initial-advertise-peer-urls",
        },
        heartbeat_ms: args.heartbeat_interval,
        election_ms: args.election_timeout,
        snapshot_count: args.snapshot_count,
        quota_bytes,
        auto_compaction: compaction(&args)?,
        progress_interval,
        edge: edge(&args, quota_bytes, &mut warnings)?,
        host: args.host,
        busy_poll_micros: args.busy_poll_us,
        wal_segment_bytes: segment_bytes(&args)?,
        log_level: args.log_level,
        log_format: args.log_format,
        name: args.name,
        warnings,
    })
}

fn check_name(name: &str) -> Result<(), UsageError> {
    let plain = !name.is_empty() && !name.contains(['/', '=', ',', '\0']);
    if plain {
        Ok(())
    } else {
        wrong("name", format!("{name:?} must be a name without / = ,"))
    }
}

/// etcd's texts.
fn check_timeouts(args: &ServeArgs) -> Result<(), UsageError> {
    let (heartbeat, election) = (args.heartbeat_interval, args.election_timeout);
    if heartbeat == 0 {
        return wrong("heartbeat-interval", "must be >0 (set to 0ms)");
    }
    if election == 0 {
        return wrong("election-timeout", "must be >0 (set to 0ms)");
    }
    if heartbeat.saturating_mul(HEARTBEATS_MIN) > election {
        let why = format!(
            "--election-timeout[{election}ms] should be at least as {HEARTBEATS_MIN} times as \
             --heartbeat-interval[{heartbeat}ms]"
        );
        return wrong("election-timeout", why);
    }
    if election > ELECTION_MS_MAX {
        let why = format!(
            "--election-timeout[{election}ms] is too long, and should be set less than \
             {ELECTION_MS_MAX}ms"
        );
        return wrong("election-timeout", why);
    }
    Ok(())
}

fn quota(args: &ServeArgs, warnings: &mut Vec<String>) -> Option<u64> {
    let asked = args.quota_backend_bytes;
    if asked > QUOTA_ADVICE_BYTES {
        warnings.push(format!(
            "--quota-backend-bytes {asked} is above etcd's advice of {QUOTA_ADVICE_BYTES}: \
             everything is held in memory"
        ));
    }
    match asked {
        0 => u64::try_from(QUOTA_DEFAULT_BYTES).ok(),
        asked => u64::try_from(asked).ok(),
    }
}

fn compaction(args: &ServeArgs) -> Result<AutoCompaction, UsageError> {
    let mode = match args.auto_compaction_mode {
        CompactionMode::Periodic => "periodic",
        CompactionMode::Revision => "revision",
    };
    let parsed = values::auto_compaction(mode, &args.auto_compaction_retention);
    parsed.or_else(|why| wrong("auto-compaction-retention", why))
}

/// As etcd: nothing is the default, and what is too short is lengthened.
fn progress(args: &ServeArgs, warnings: &mut Vec<String>) -> Duration {
    let interval = args.watch_progress_notify_interval;
    if interval.is_zero() {
        return PROGRESS_DEFAULT;
    }
    if interval < PROGRESS_MIN {
        warnings.push(format!(
            "--watch-progress-notify-interval {interval:?} is adjusted to the minimum period of \
             {PROGRESS_MIN:?}"
        ));
    }
    interval.max(PROGRESS_MIN)
}

fn edge(
    args: &ServeArgs,
    quota: Option<u64>,
    warnings: &mut Vec<String>,
) -> Result<EdgeConfig, UsageError> {
    if args.max_request_bytes == 0 {
        return wrong("max-request-bytes", "must be >0");
    }
    if args.max_request_bytes > henge_wal::ENTRY_BYTES_MAX {
        let why = format!(
            "must be at most {}, the log's largest entry",
            henge_wal::ENTRY_BYTES_MAX
        );
        return wrong("max-request-bytes", why);
    }
    if args.max_request_bytes > REQUEST_ADVICE_BYTES {
        warnings.push(format!(
            "--max-request-bytes {} exceeds the recommended {REQUEST_ADVICE_BYTES}",
            args.max_request_bytes
        ));
    }
    if args.max_txn_ops == 0 {
        return wrong("max-txn-ops", "must be >0");
    }
    if args.max_concurrent_streams == 0 {
        return wrong("max-concurrent-streams", "must be >0");
    }
    // 0 turns pings off, as in etcd; hyper has no off, so it becomes longer than any connection.
    let interval = match args.grpc_keepalive_interval {
        Duration::ZERO => Duration::from_secs(u64::from(u32::MAX)),
        interval => interval,
    };
    Ok(EdgeConfig {
        max_request_bytes: args.max_request_bytes,
        max_txn_ops: args.max_txn_ops,
        max_concurrent_streams: args.max_concurrent_streams,
        keepalive_interval: interval,
        keepalive_timeout: args.grpc_keepalive_timeout,
        ping_least: args.grpc_keepalive_min_time,
        election_timeout: Duration::from_millis(args.election_timeout),
        quota_bytes: quota.and_then(|q| i64::try_from(q).ok()).unwrap_or(0),
        ..EdgeConfig::default()
    })
}

/// The log's segments must hold the largest request.
fn segment_bytes(args: &ServeArgs) -> Result<Option<u64>, UsageError> {
    use henge_wal::Options;
    let Some(bytes) = args.wal_segment_bytes else {
        return Ok(None);
    };
    let options = Options {
        segment_bytes: bytes,
        log_bytes_max: u64::MAX,
        ..Options::default()
    };
    if options.check().is_err() {
        return wrong(
            "wal-segment-bytes",
            "must be a multiple of 4096 between 65536 (64 KiB) and 1073741824 (1 GiB)",
        );
    }
    let (request, held) = (args.max_request_bytes, Options::payload_bytes_in(bytes));
    if request > held {
        let needed = Options::segment_bytes_for(request);
        let why = format!(
            "segments of {bytes} bytes do not hold a request of --max-request-bytes {request}: must be at \
             least {needed}, or --max-request-bytes at most {held}"
        );
        return wrong("wal-segment-bytes", why);
    }
    Ok(Some(bytes))
}

fn addresses(flag: &str, urls: &Urls) -> Result<Vec<SocketAddr>, UsageError> {
    let parsed: Result<Vec<_>, String> = urls.0.iter().map(|u| u.listen_address()).collect();
    parsed.or_else(|why| wrong(flag, why))
}

fn places(flag: &str, urls: &ClientUrls) -> Result<Vec<ListenOn>, UsageError> {
    let parsed: Result<Vec<_>, String> = urls.0.iter().map(|u| u.listen_on()).collect();
    parsed.or_else(|why| wrong(flag, why))
}

/// The members, this one checked to be among them with the URLs it advertises.
fn cluster(args: &ServeArgs) -> Result<InitialCluster, UsageError> {
    let advertised = args.initial_advertise_peer_urls.as_ref();
    let Some(cluster) = &args.initial_cluster else {
        let urls = match advertised {
            Some(urls) => urls.clone(),
            None => values::urls("http://localhost:2380").or_else(|why| wrong("name", why))?,
        };
        return Ok(InitialCluster(vec![(args.name.clone(), urls)]));
    };
    if cluster.0.len() > MEMBERS_MAX {
        let why = format!("at most {MEMBERS_MAX} members, not {}", cluster.0.len());
        return wrong("initial-cluster", why);
    }
    let Some((_, urls)) = cluster.0.iter().find(|(name, _)| *name == args.name) else {
        let why = format!(
            "couldn't find local name {:?} in the initial cluster configuration",
            args.name
        );
        return wrong("initial-cluster", why);
    };
    match advertised {
        Some(advertised) if advertised != urls => wrong(
            "initial-cluster",
            format!(
                "has {}={urls} but --initial-advertise-peer-urls={advertised}; they must be equal",
                args.name
            ),
        ),
        _ => Ok(cluster.clone()),
    }
}

/// Member id, cluster id, members by id.
fn identify(
    args: &ServeArgs,
    cluster: InitialCluster,
) -> Result<(u64, u64, Vec<MemberConfig>), UsageError> {
    let token = &args.initial_cluster_token;
    let member = |(name, peer_urls): (String, Urls)| MemberConfig {
        id: member_id(&peer_urls, token),
        name,
        peer_urls,
    };
    let mut members: Vec<MemberConfig> = cluster.0.into_iter().map(member).collect();
    members.sort_by_key(|m| m.id);
    let ids: Vec<u64> = members.iter().map(|m| m.id).collect();
    let Some(own) = members.iter().find(|m| m.name == args.name) else {
        return wrong("initial-cluster", "this member is missing");
    };
    Ok((own.id, cluster_id(&ids), members))
}

/// etcd's member id: the first 8 bytes of SHA-1 over the sorted peer URLs and the cluster token
/// (`server/etcdserver/api/membership/member.go`).
pub fn member_id(peer_urls: &Urls, token: &str) -> u64 {
    let mut texts: Vec<String> = peer_urls.0.iter().map(ToString::to_string).collect();
    texts.sort();
    let mut hash = Sha1::new();
    for text in texts {
        hash.update(text.as_bytes());
    }
    hash.update(token.as_bytes());
    first_8_bytes(hash)
}

/// etcd's cluster id: the same over the sorted member ids, big-endian.
pub fn cluster_id(sorted_member_ids: &[u64]) -> u64 {
    let mut hash = Sha1::new();
    for id in sorted_member_ids {
        hash.update(id.to_be_bytes());
    }
    first_8_bytes(hash)
}

fn first_8_bytes(hash: Sha1) -> u64 {
    hash.finalize()
        .iter()
        .take(8)
        .fold(0, |id, byte| (id << 8) | u64::from(*byte))
}

#[cfg(test)]
mod tests;
