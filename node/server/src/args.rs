//! The command line of `henge serve`: etcd's flag names, defaults and forms.
//!
//! [`super::flags::prepare`] runs first (environment, flags without effect); what is left is parsed
//! here (with its variables in the help) and checked as a whole by [`ServeArgs::validate`]. Nothing is
//! started, no name is resolved.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::flags::UsageError;
use super::known;
use super::options::{self, ServeConfig};
use super::values::{self, ClientUrls, InitialCluster, Urls};
use henge::HostKind;

/// Form of the log on stderr.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One JSON object per line.
    Json,
    /// For people.
    Console,
}

/// Least serious message that is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogLevel {
    /// Everything.
    Debug,
    /// What an operator may want to know.
    Info,
    /// What an operator should look at.
    Warn,
    /// What went wrong.
    Error,
    /// As `error` (etcd's finer steps).
    Dpanic,
    /// As `error`.
    Panic,
    /// As `error`.
    Fatal,
}

/// Whether `--initial-cluster` describes a cluster to be made or one that exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ClusterState {
    /// To be made.
    New,
    /// Exists.
    Existing,
}

/// What `--auto-compaction-retention` counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CompactionMode {
    /// Time.
    Periodic,
    /// Revisions.
    Revision,
}

/// Flags of `henge serve`. Each can also be given as an `ETCD_*` variable (`ETCD_DATA_DIR`); the
/// flag wins. Given twice, the last one wins.
#[derive(Args, Clone, Debug)]
// A negative number is a bad value of its flag, not an unknown flag.
#[command(args_override_self = true, allow_negative_numbers = true)]
pub struct ServeArgs {
    /// Human-readable name of this member
    #[arg(long, default_value = "default")]
    pub name: String,

    /// Path to the data directory [default: ${name}.henge]
    #[arg(long)]
    pub data_dir: Option<PathBuf>,

    /// URLs to listen on for client traffic: http://host:port or unix://path
    #[arg(long, value_parser = values::client_urls, default_value = "http://localhost:2379")]
    pub listen_client_urls: ClientUrls,

    /// URLs to serve /health, /version and /metrics on instead of the client URLs, which then serve
    /// gRPC only [default: none]
    #[arg(long, value_parser = values::client_urls_or_none, default_value = "", hide_default_value = true)]
    pub listen_client_http_urls: ClientUrls,

    /// URLs to listen on for peer traffic
    #[arg(long, value_parser = values::urls, default_value = "http://localhost:2380")]
    pub listen_peer_urls: Urls,

    /// URLs to serve /metrics and /health on besides the client URLs [default: none]
    #[arg(long, value_parser = values::client_urls_or_none, default_value = "", hide_default_value = true)]
    pub listen_metrics_urls: ClientUrls,

    /// This member's client URLs to advertise [default: the URLs it listens on]
    #[arg(long, value_parser = values::client_urls)]
    pub advertise_client_urls: Option<ClientUrls>,

    /// This member's peer URLs to advertise [default: its URLs in --initial-cluster, or
    /// http://localhost:2380]
    #[arg(long, value_parser = values::urls)]
    pub initial_advertise_peer_urls: Option<Urls>,

    /// All members, name=peer-URL,… [default: this member alone]
    #[arg(long, value_parser = values::initial_cluster)]
    pub initial_cluster: Option<InitialCluster>,

    /// Whether --initial-cluster is to be made or exists
    #[arg(long, value_enum, default_value = "new")]
    pub initial_cluster_state: ClusterState,

    /// Tells clusters with the same URLs apart
    #[arg(long, default_value = "etcd-cluster")]
    pub initial_cluster_token: String,

    /// Milliseconds between heartbeats
    #[arg(long, default_value = "100")]
    pub heartbeat_interval: u64,

    /// Milliseconds without a leader until an election
    #[arg(long, default_value = "1000")]
    pub election_timeout: u64,

    /// Accepted for etcd's sake and not used: checkpoints follow bytes of log, not entries
    #[arg(long, default_value = "10000")]
    pub snapshot_count: u64,

    /// Bytes the store may hold before writes are refused; 0 means 2 GiB, negative means no limit
    #[arg(long, default_value = "0", allow_negative_numbers = true)]
    pub quota_backend_bytes: i64,

    /// Most operations in a transaction
    #[arg(long, default_value = "128")]
    pub max_txn_ops: usize,

    /// Largest client request in bytes
    #[arg(long, default_value = "1572864")]
    pub max_request_bytes: usize,

    /// Most concurrent streams of one client connection
    #[arg(long, default_value = "4294967295")]
    pub max_concurrent_streams: u32,

    /// Least time between two pings of a client that waits for an answer; one that goes on pinging more often
    /// is disconnected (too_many_pings)
    #[arg(long, value_parser = values::duration, default_value = "5s")]
    pub grpc_keepalive_min_time: Duration,

    /// Silence after which a client is pinged; 0 never pings
    #[arg(long, value_parser = values::duration, default_value = "2h")]
    pub grpc_keepalive_interval: Duration,

    /// Time a client has to answer that ping
    #[arg(long, value_parser = values::duration, default_value = "20s")]
    pub grpc_keepalive_timeout: Duration,

    /// What the retention below counts
    #[arg(long, value_enum, default_value = "periodic")]
    pub auto_compaction_mode: CompactionMode,

    /// History to keep: a duration (a plain number is hours) or revisions; 0 keeps everything
    #[arg(long, default_value = "0", allow_hyphen_values = true)]
    pub auto_compaction_retention: String,

    /// Time between progress notes of idle watchers that want them; at least 100ms
    #[arg(long, value_parser = values::duration, default_value = "10m")]
    pub watch_progress_notify_interval: Duration,

    /// Least serious message that is logged
    #[arg(long, value_enum, default_value = "info")]
    pub log_level: LogLevel,

    /// Form of the log
    #[arg(long, value_enum, default_value = "json")]
    pub log_format: LogFormat,

    /// What drives the cores: auto (ring, or thread where io_uring is refused), ring, tokio-uring,
    /// thread, or glommio in a build with that feature (HENGE_HOST)
    #[arg(long, value_parser = HostKind::from_str, default_value = "auto")]
    pub host: HostKind,

    /// Longest time a core's thread looks for new work before it sleeps, in microseconds; 0 is never
    #[arg(long, default_value_t = 200)]
    pub busy_poll_us: u64,

    /// Largest segment file of the log in bytes: a multiple of 4096 that holds --max-request-bytes; a new
    /// log begins with smaller ones [default: 64 MiB, or a sixteenth of the room there is, if that is less]
    /// (HENGE_WAL_SEGMENT_BYTES)
    #[arg(long)]
    pub wal_segment_bytes: Option<u64>,
}

/// The help names the variable of each flag: `flags` puts those in, not the parser.
pub fn with_variables(serve: clap::Command) -> clap::Command {
    serve.mut_args(|arg| {
        let taken = arg.get_long().filter(|flag| known::TAKEN.contains(flag));
        let Some(variable) = taken.map(known::variable) else {
            return arg;
        };
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        arg.help(format!("{help} [env: {variable}]"))
    })
}

impl ServeArgs {
    /// Checks the flags against each other and computes what follows from them.
    ///
    /// # Errors
    /// Names the flag and says what would be right.
    pub fn validate(self) -> Result<ServeConfig, UsageError> {
        options::validate(self)
    }
}
