//! A load against an engine inside this process.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use henge_mvcc as mvcc;

use super::args::{BenchArgs, Work};
use super::load::{self, Op, RANGE_KEYS, Shared, Target};
use super::report::{RunResult, Usage};
use crate::api::{Error, WatchCommand, WatchCreate, WatchSession};
use crate::engine::Engine;

/// Runs the load to its end.
pub fn run(args: &BenchArgs) -> Result<RunResult, String> {
    let scratch = Scratch::new(args)?;
    let engine = Engine::builder(&scratch.dir)
        .cores(usize::from(args.cores))
        .shards(usize::from(args.shards))
        .host(args.host)
        .open()
        .map_err(|error| error.to_string())?;
    if matches!(args.work, Work::Get | Work::Range | Work::Mixed) {
        prefill(args, &engine)?;
    }
    let before = totals(&engine);
    let usage = Usage::now();
    let shared = Shared::new();
    let threads = args
        .conns
        .unwrap_or_else(|| client_threads(args))
        .min(args.clients);
    let running = AtomicUsize::new(threads as usize);
    let parts = std::thread::scope(|scope| {
        let clients = (0..threads).map(|thread| {
            let (shared, engine, running) = (shared.clone(), engine.clone(), &running);
            let share = share(args.clients, threads, thread);
            scope.spawn(move || {
                let part = client_thread(args, shared, engine, share);
                running.fetch_sub(1, Ordering::Relaxed);
                part
            })
        });
        let clients: Vec<_> = clients.collect();
        load::supervise(args, &shared, &|| running.load(Ordering::Relaxed) == 0);
        clients
            .into_iter()
            .map(|client| {
                client
                    .join()
                    .unwrap_or_else(|_| Err("a client thread died".to_owned()))
            })
            .collect::<Vec<_>>()
    });
    let usage = Usage::now().since(&usage);
    let parts = parts.into_iter().collect::<Result<Vec<_>, _>>()?;
    let measured = load::collect(&shared, parts.into_iter());
    let after = totals(&engine);
    let host = engine.host().to_string();
    engine.blocking().stop();
    Ok(RunResult::embedded(measured, usage, before, after, host))
}

/// Log batches and entries so far, over all shards (shards of a core share its batches).
fn totals(engine: &Engine) -> (u64, u64) {
    let cores = engine.inner().cores.len();
    (0..engine.shards().min(cores))
        .filter_map(|shard| engine.metrics(shard))
        .fold((0, 0), |(batches, bytes), metrics| {
            (batches + metrics.wal_batches, bytes + metrics.wal_bytes)
        })
}

/// One thread for what the cores leave of the machine.
fn client_threads(args: &BenchArgs) -> u32 {
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    u32::try_from(cpus.saturating_sub(usize::from(args.cores)).max(1)).unwrap_or(1)
}

fn share(clients: u32, threads: u32, thread: u32) -> std::ops::Range<u32> {
    let cut = |at: u32| {
        u32::try_from(u64::from(clients) * u64::from(at) / u64::from(threads)).unwrap_or(clients)
    };
    cut(thread)..cut(thread + 1)
}

type Part = (hdrhistogram::Histogram<u64>, Option<String>);

fn client_thread(
    args: &BenchArgs,
    shared: std::sync::Arc<Shared>,
    engine: Engine,
    share: std::ops::Range<u32>,
) -> Result<Part, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .map_err(|error| format!("cannot start a client runtime: {error}"))?;
    let local = tokio::task::LocalSet::new();
    let target = EmbeddedTarget {
        engine,
        watch: args.work == Work::Watch,
    };
    Ok(local.block_on(&runtime, load::run_clients(args, shared, target, share)))
}

#[derive(Clone)]
struct EmbeddedTarget {
    engine: Engine,
    watch: bool,
}

impl Target for EmbeddedTarget {
    async fn execute(&self, _client: u32, op: Op) -> Result<(), String> {
        let done = self.run(op).await;
        done.map_err(|error| error.to_string())
    }
}

impl EmbeddedTarget {
    async fn run(&self, op: Op) -> Result<(), Error> {
        match op {
            Op::Put { key, value } if self.watch => self.put_and_see(&key, &value).await?,
            Op::Put { key, value } => drop(self.engine.put(key, value).await?),
            Op::Get { key } => drop(self.engine.get(key).await?),
            Op::Range { key } => {
                let range = mvcc::KeyRange {
                    key: &key,
                    end: b"\0",
                };
                let request = mvcc::RangeRequest {
                    range,
                    limit: RANGE_KEYS,
                    ..Default::default()
                };
                drop(self.engine.range(&request).await?);
            }
            Op::Txn { key, value } => {
                let put = mvcc::PutRequest {
                    key: &key,
                    value: &value,
                    ..Default::default()
                };
                let txn = mvcc::TxnRequest {
                    compare: vec![mvcc::Compare {
                        range: mvcc::KeyRange::one(&key),
                        result: mvcc::CompareResult::Greater,
                        target: mvcc::CompareTarget::ModRevision(-1),
                    }],
                    success: vec![mvcc::RequestOp::Put(put)],
                    failure: Vec::new(),
                };
                drop(self.engine.txn(&txn).await?);
            }
        }
        Ok(())
    }

    /// Opens a watcher on the key, writes it, and waits for the event.
    async fn put_and_see(&self, key: &[u8], value: &[u8]) -> Result<(), Error> {
        let mut stream = self.engine.session(self.engine.route(key));
        let create = WatchCreate {
            key: bytes::Bytes::copy_from_slice(key),
            ..WatchCreate::default()
        };
        stream.command(WatchCommand::Create(create));
        stream.next().await;
        let written = self.engine.put(key, value).await?;
        while let Some(response) = stream.next().await {
            if response.header.revision >= written.header.revision {
                break;
            }
        }
        Ok(())
    }
}

/// Fills the keyspace so that reads find something.
fn prefill(args: &BenchArgs, engine: &Engine) -> Result<(), String> {
    let mut fill = args.clone();
    fill.work = Work::Put;
    fill.sequential = true;
    fill.rate = 0;
    fill.total = Some(args.keyspace);
    let shared = Shared::new();
    let part = client_thread(&fill, shared, engine.clone(), 0..args.clients.max(64))?;
    part.1
        .map_or(Ok(()), |error| Err(format!("prefill: {error}")))
}

/// The data directory: the caller's, or one of our own that goes away.
struct Scratch {
    dir: PathBuf,
    remove: bool,
}

impl Scratch {
    fn new(args: &BenchArgs) -> Result<Self, String> {
        if let Some(dir) = &args.data_dir {
            return Ok(Scratch {
                dir: dir.clone(),
                remove: false,
            });
        }
        // On the current directory's file system: a temporary directory is often in memory, where
        // durability costs nothing and means nothing.
        let dir = Path::new(".").join(format!("bench-{}.henge", std::process::id()));
        Ok(Scratch { dir, remove: true })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if self.remove {
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}
