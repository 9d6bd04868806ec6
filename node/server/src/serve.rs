//! `henge serve`: an engine, its edge on the client ports, and an orderly end.
//!
//! Exit codes: 0 after SIGTERM or SIGINT, 1 when it cannot start or a core died, 2 for wrong usage (in
//! `args`), 74 (EX_IOERR) when the log failed and nothing can be acknowledged any more.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use henge::api::{Backend as _, Member};
use henge::engine::{ClusterConfig, Engine, Keyspace};
use henge_edge::door::listen::Serves;
use henge_edge::door::{Shutdown, connections};
use henge_edge::{Edge, GrpcCounters};
use tokio::signal::unix::{SignalKind, signal};

use super::listeners::Listener;
use super::options::ServeConfig;
use super::values::ListenOn;
use super::{announce, listeners};

/// The log failed (sysexits: input/output error).
const EXIT_IO: u8 = 74;
/// How often the server looks whether its log still lives.
const HEALTH_INTERVAL: Duration = Duration::from_millis(100);
/// Longest wait at the end for the last log lines to be written.
const FLUSH_MAX: Duration = Duration::from_secs(1);
/// Longest time that is spent on handing leadership over, and on passing on what others forward after it.
const HAND_OVER_MAX: Duration = Duration::from_secs(5);
const PASS_ON_MAX: Duration = Duration::from_secs(1);
/// From the last accepted connection to the word that it is to go.
const LAST_WORD: Duration = Duration::from_millis(20);

/// Serves until a signal or a failure; returns the exit code.
pub fn run(config: ServeConfig) -> ExitCode {
    let lines = super::logging::start(&config.name, config.log_format, config.log_level);
    announce::start(&config);
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    let file_bytes_max = henge_wal::disk::file_bytes_max();
    if file_bytes_max < u64::MAX {
        tracing::warn!(
            file_bytes_max,
            "this process may not write larger files (RLIMIT_FSIZE, `ulimit -f`): a checkpoint of more data \
             than that cannot be written, and the log is kept instead"
        );
    }
    let code = match start(&config) {
        Ok(server) => server.run(&config),
        Err(why) => {
            tracing::error!("{why}");
            ExitCode::FAILURE
        }
    };
    lines.flush(FLUSH_MAX);
    code
}

struct Server {
    engine: Engine,
    keyspace: Keyspace,
    edge: Edge<Keyspace>,
    shutdown: Shutdown,
    /// Ports that are taken and not listened on yet.
    doors: Vec<Listener>,
    /// Listeners that still serve.
    serving: Arc<AtomicUsize>,
}

fn start(config: &ServeConfig) -> Result<Server, String> {
    // The ports come first: if one is taken, nothing has been touched.
    let doors = listeners::bind(&places(config))?;
    let mut edge_config = config.edge.clone();
    edge_config.max_connections = client_connections()?;
    edge_config.log_lines_lost = crate::log_lines::lost;
    let engine = open(config)?;
    let keyspace = engine.keyspace(0).ok_or("an engine without shards")?;
    let shutdown = Shutdown::new();
    let edge = Edge::new(
        keyspace.clone(),
        edge_config,
        Arc::new(GrpcCounters::new()),
        shutdown.clone(),
    );
    Ok(Server {
        engine,
        keyspace,
        edge,
        shutdown,
        doors,
        serving: Arc::default(),
    })
}

/// Bytes that a request of `max` bytes of protobuf may take in our own encoding, which has more of fixed
/// width: the edge refuses what is over the limit that the operator set, so this one only has to be wide
/// enough. A transaction of nothing but tiny operations is refused by it.
fn command_bytes_max(max: usize) -> usize {
    let wide = max.saturating_add(max / 4).saturating_add(64 * 1024);
    wide.min(henge_wal::ENTRY_BYTES_MAX.max(max))
}

/// Most client connections that leave the log and the peers their descriptors.
fn client_connections() -> Result<usize, String> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let limit = limit.unwrap_or(u64::MAX);
    connections::connections_max(limit).ok_or_else(|| {
        format!(
            "the limit on file descriptors is {limit}, and {} are kept for the log and peers: \
             raise it (ulimit -n, LimitNOFILE)",
            connections::RESERVED_DESCRIPTORS
        )
    })
}

/// Where clients are waited for, each place once, and what they find there.
fn places(config: &ServeConfig) -> Vec<(ListenOn, Serves)> {
    let http = &config.listen_client_http;
    let clients = match http.is_empty() {
        true => Serves::Both,
        false => Serves::Grpc,
    };
    let plain = http.iter().chain(&config.listen_metrics);
    let mut places: Vec<(ListenOn, Serves)> = Vec::new();
    for (place, serves) in (config.listen_client.iter().map(|place| (place, clients)))
        .chain(plain.map(|place| (place, Serves::Plain)))
    {
        match places.iter_mut().find(|(known, _)| known == place) {
            Some((_, known)) if *known != serves => *known = Serves::Both,
            Some(_) => {}
            None => places.push((place.clone(), serves)),
        }
    }
    places
}

fn open(config: &ServeConfig) -> Result<Engine, String> {
    let members = config.members.iter().map(|member| Member {
        id: member.id,
        name: member.name.clone(),
        peer_urls: member.peer_urls.0.iter().map(ToString::to_string).collect(),
        client_urls: if member.id == config.member_id {
            config
                .advertise_client_urls
                .0
                .iter()
                .map(ToString::to_string)
                .collect()
        } else {
            Vec::new()
        },
        is_learner: false,
    });
    let peers = config
        .members
        .iter()
        .filter(|member| member.id != config.member_id);
    let peers = peers.map(|member| {
        let urls = member.peer_urls.0.iter();
        (
            member.id,
            urls.map(|url| format!("{}:{}", url.host, url.port))
                .collect(),
        )
    });
    let cluster = ClusterConfig {
        cluster_id: config.cluster_id,
        member_id: config.member_id,
        members: members.collect(),
        listen: config.listen_peer.clone(),
        peers: peers.collect(),
    };
    // One shard: clients of etcd assume one revision order.
    let mut builder = Engine::builder(&config.data_dir);
    if let Some(bytes) = config.wal_segment_bytes {
        builder = builder.wal_segment_bytes(bytes);
    }
    builder
        .shards(1)
        .host(config.host)
        .busy_poll_micros(config.busy_poll_micros)
        .cluster(cluster)
        .timeouts(config.heartbeat_ms, config.election_ms)
        .request_bytes_max(command_bytes_max(config.edge.max_request_bytes))
        .txn_ops_max(config.edge.max_txn_ops)
        .quota_bytes(config.quota_bytes.unwrap_or(0))
        .auto_compaction(config.auto_compaction)
        .progress_notify_ms(u64::try_from(config.progress_interval.as_millis()).unwrap_or(u64::MAX))
        .open()
        .map_err(|error| super::identity::explain(config, &error))
}

impl Server {
    fn run(self, config: &ServeConfig) -> ExitCode {
        let runtime = match tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
        {
            Ok(runtime) => runtime,
            Err(error) => {
                tracing::error!(%error, "cannot start a runtime for signals");
                return ExitCode::FAILURE;
            }
        };
        runtime.block_on(self.until_the_end(config))
    }

    async fn until_the_end(mut self, config: &ServeConfig) -> ExitCode {
        let signals = (
            signal(SignalKind::terminate()),
            signal(SignalKind::interrupt()),
        );
        let (Ok(mut terminate), Ok(mut interrupt)) = signals else {
            tracing::error!("cannot listen for signals");
            return ExitCode::FAILURE;
        };
        let doors = std::mem::take(&mut self.doors);
        tokio::select! {
            code = self.serve(doors, config) => code,
            _ = terminate.recv() => self.end(config, "SIGTERM").await,
            _ = interrupt.recv() => self.end(config, "SIGINT").await,
        }
    }

    /// Lets clients in, and sees to it that they are served; returns only if it cannot go on.
    async fn serve(&self, doors: Vec<Listener>, config: &ServeConfig) -> ExitCode {
        // A member that comes back first catches up, if there is a leader: until then its clients are served
        // sooner by the others. Without one its health should be seen.
        let caught_up = self.keyspace.members(true);
        let _ = tokio::time::timeout(Duration::from_millis(config.election_ms), caught_up).await;
        for door in doors {
            if let Err(why) = self.let_in(door) {
                tracing::error!("{why}");
                return ExitCode::FAILURE;
            }
        }
        self.watch_over(config).await
    }

    fn let_in(&self, door: Listener) -> Result<(), String> {
        door.open()?;
        let (edge, serving) = (self.edge.clone(), self.serving.clone());
        serving.fetch_add(1, Ordering::Relaxed);
        let started = self.engine.spawn_beside(
            0,
            Box::new(move || {
                Box::pin(async move {
                    door.serve(edge).await;
                    serving.fetch_sub(1, Ordering::Relaxed);
                })
            }),
        );
        match started {
            true => Ok(()),
            false => Err("the core ended before its listeners were handed over".to_owned()),
        }
    }

    /// Says when the server is ready; returns only if it cannot go on.
    async fn watch_over(&self, config: &ServeConfig) -> ExitCode {
        let mut ready = false;
        let mut quorum = announce::Quorum::new();
        loop {
            let metrics = self.keyspace.metrics();
            quorum.look(config, metrics.has_leader, || self.keyspace.peers());
            if (metrics.has_leader || metrics.reads_alone) && !ready {
                ready = true;
                for address in &config.listen_client {
                    tracing::info!(
                        address = %address,
                        "serving client traffic insecurely; this is strongly discouraged!"
                    );
                }
                tracing::info!(
                    name = config.name,
                    member_id = format!("{:x}", config.member_id),
                    cluster_id = format!("{:x}", config.cluster_id),
                    host = %self.engine.host(),
                    "ready to serve client requests"
                );
            }
            if metrics.poisoned {
                tracing::error!("the log failed; ending so that a supervisor can see it");
                self.shutdown.begin();
                return ExitCode::from(EXIT_IO);
            }
            if self.engine.has_ended() {
                tracing::error!("a core ended by itself; its message is above");
                return ExitCode::FAILURE;
            }
            tokio::time::sleep(if ready {
                HEALTH_INTERVAL
            } else {
                Duration::from_millis(5)
            })
            .await;
        }
    }

    /// Lets nobody new in, hands leadership over, finishes what is in flight, then makes the log durable and
    /// ends. Until the last client has gone, what it asks is forwarded.
    async fn end(&self, config: &ServeConfig, why: &str) -> ExitCode {
        tracing::info!(signal = why, "draining");
        self.shutdown.close();
        self.hand_over(config).await;
        // The others know it by now, or will before they hear the goodbye: what they still forward to this
        // member is on its way, and is passed on.
        let passing_on = tokio::time::sleep(match config.members.len() {
            1 => Duration::ZERO,
            _ => Duration::from_millis(2 * config.heartbeat_ms).min(PASS_ON_MAX),
        });
        // Who was let in last has said what he wants by the time he is told to go.
        tokio::time::sleep(LAST_WORD).await;
        self.shutdown.begin();
        let drained = async {
            while self.serving.load(Ordering::Relaxed) > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        if tokio::time::timeout(config.edge.drain_limit + Duration::from_secs(1), drained)
            .await
            .is_err()
        {
            tracing::warn!("some connections did not finish in time and are cut");
        }
        passing_on.await;
        self.engine.stop().await;
        tracing::info!("stopped");
        ExitCode::SUCCESS
    }

    /// Until another member leads, or it is clear that none can.
    async fn hand_over(&self, config: &ServeConfig) {
        let unsettled = || {
            let metrics = self.keyspace.metrics();
            metrics.is_leader || !metrics.has_leader
        };
        if config.members.len() == 1 || !self.keyspace.metrics().is_leader {
            return;
        }
        let begun = tokio::time::Instant::now();
        // Each try has an election timeout; the second goes to another member.
        let limit = Duration::from_millis(2 * config.election_ms).min(HAND_OVER_MAX);
        while unsettled() && begun.elapsed() < limit {
            self.engine.hand_over();
            for _ in 0..25 {
                if unsettled() {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            }
        }
        let millis = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        match unsettled() {
            false => tracing::info!(millis, "another member leads"),
            true => tracing::warn!(millis, "no other member took over the lead"),
        }
    }
}
