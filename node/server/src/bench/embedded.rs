//! A load against an engine inside this process.

use bytes::Bytes;
use henge::mvcc;

use super::args::{BenchArgs, Work};
use super::clients::{self, Target};
use super::op::{self, Answer, KEYS_END, Op, RANGE_KEYS};
use super::prefill::Prefill;
use super::report::{Against, RunResult};
use super::scratch::Scratch;
use super::seen::seen;
use super::signals::Signals;
use super::supervise::supervise;
use super::tally::Tally;
use super::usage::Usage;
use super::window::Window;
use crate::output::tell;
use henge::api::{Backend as _, WatchCommand, WatchCreate, WatchResponse, WatchSession};
use henge::engine::route::shard_of;
use henge::engine::{Engine, Watcher};

/// Runs the load to its end.
pub fn run(args: &BenchArgs, signals: &Signals) -> Result<RunResult, String> {
    let scratch = Scratch::new(args, signals)?;
    let engine = Engine::builder(&scratch.dir)
        .cores(usize::from(args.cores))
        .shards(usize::from(args.shards))
        .host(args.host)
        .open()
        .map_err(|error| error.to_string())?;
    let outcome = load(args, signals, &scratch, &engine);
    engine.blocking().stop();
    drop(engine);
    let left = scratch.leave();
    if signals.look().is_some() {
        tell!("henge bench: interrupted; {left}");
    }
    outcome
}

fn load(
    args: &BenchArgs,
    signals: &Signals,
    scratch: &Scratch,
    engine: &Engine,
) -> Result<RunResult, String> {
    let threads = args.conns.unwrap_or_else(|| client_threads(args));
    let threads = threads.min(args.clients);
    let target = EmbeddedTarget {
        engine: engine.clone(),
        args: args.clone(),
    };
    let prefill = std::sync::Arc::new(Prefill::default());
    on_thread(prefill.run(args, signals, &target))?;
    let window = Window::new();
    let (parts, seen) = std::thread::scope(|scope| {
        let clients = (0..threads).map(|thread| {
            let (window, target) = (window.clone(), target.clone());
            let share = share(args.clients, threads, thread);
            scope.spawn(move || {
                let shared = window.clone();
                let _ended = shared.thread();
                on_thread(clients::run(args, window, target, share))
            })
        });
        let clients: Vec<_> = clients.collect();
        let meter = || (Usage::now(), log_totals(engine));
        let seen = supervise(args, &window, signals, threads, meter);
        // Also if there was nothing to supervise with.
        window.close();
        let parts: Vec<_> = clients
            .into_iter()
            .map(|client| {
                let dead = |_| Err("a client thread died".to_owned());
                client.join().unwrap_or_else(dead)
            })
            .collect();
        (parts, seen)
    });
    let mut tally = Tally::default();
    for part in parts {
        tally.add(part?);
    }
    let seen = seen?;
    let (usage, log) = match &seen.meters {
        None => (None, Some((0, 0))),
        Some(((usage, log), (usage_then, log_then))) => (
            Some((*usage, *usage_then)),
            Some((log_then.0 - log.0, log_then.1 - log.1)),
        ),
    };
    Ok(RunResult {
        tally,
        window: window.length(),
        left_due: window.left_due(),
        caught: seen.caught.or_else(|| signals.look()),
        usage,
        log,
        conns: threads,
        prefill,
        against: Against::Embedded {
            host: engine.host().to_string(),
            dir: scratch.dir.display().to_string(),
            temporary: scratch.temporary,
            in_memory: engine.stats().in_memory,
        },
    })
}

/// Log batches and bytes so far, over all cores.
fn log_totals(engine: &Engine) -> (u64, u64) {
    (0..engine.cores())
        .filter_map(|core| engine.core_metrics(core))
        .fold((0, 0), |(batches, bytes), core| {
            (batches + core.wal_batches, bytes + core.wal_bytes)
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

/// Runs what clients do on this thread.
fn on_thread<T>(work: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .map_err(|error| format!("cannot start a client runtime: {error}"))?;
    tokio::task::LocalSet::new().block_on(&runtime, work)
}

#[derive(Clone)]
struct EmbeddedTarget {
    engine: Engine,
    args: BenchArgs,
}

impl EmbeddedTarget {
    async fn watcher(&self, client: u32) -> Result<Watcher, String> {
        let create = create(&op::own_key(&self.args, client));
        let mut watcher = self.engine.watch(create).map_err(text)?;
        match watcher.next().await {
            Some(first) if first.created && !first.canceled => Ok(watcher),
            Some(first) => Err(format!("the watch was refused: {}", why(&first))),
            None => Err(WATCH_ENDED.to_owned()),
        }
    }

    /// Opens a watcher on a stream of its own, and cancels it.
    async fn open(&self, key: &[u8]) -> Result<Answer, String> {
        let keyspace = self.engine.keyspace(shard_of(key, self.engine.shards()));
        let mut stream = keyspace.ok_or("an engine without shards")?.watch_session();
        stream.command(WatchCommand::Create(create(key)));
        let first = stream.next().await.ok_or(WATCH_ENDED)?;
        if first.canceled {
            return Err(format!("the watch was refused: {}", why(&first)));
        }
        let watch_id = first.watch_id;
        stream.command(WatchCommand::Cancel { watch_id });
        while !stream.next().await.ok_or(WATCH_ENDED)?.canceled {}
        Ok(Answer::default())
    }
}

fn why(response: &WatchResponse) -> String {
    (response.refusal.as_ref()).map_or_else(|| "as asked".to_owned(), ToString::to_string)
}

const WATCH_ENDED: &str = "the watch ended";

impl Target for EmbeddedTarget {
    /// A watcher, for `watch`.
    type Client = Option<Watcher>;

    async fn client(&self, number: u32) -> Result<Option<Watcher>, String> {
        match self.args.work {
            Work::Watch => Ok(Some(self.watcher(number).await?)),
            _ => Ok(None),
        }
    }

    async fn execute(&self, client: &mut Option<Watcher>, op: Op) -> Result<Answer, String> {
        let done = Answer::default();
        match op {
            Op::Put { key, value } => {
                self.engine.put(key, value).await.map_err(text)?;
                Ok(done)
            }
            Op::Get { key } => {
                let found = self.engine.get(key).await.map_err(text)?;
                Ok(Answer::found(usize::from(found.is_some())))
            }
            Op::Range { key } => {
                let request = range(&key, RANGE_KEYS);
                let found = self.engine.range(&request).await.map_err(text)?;
                Ok(Answer::found(found.body.kvs.len()))
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
                self.engine.txn(&txn).await.map_err(text)?;
                Ok(done)
            }
            Op::Seen { key, value } => {
                let put = self.engine.put(key, value);
                let put = async { Ok(put.await.map_err(text)?.header.revision) };
                let watcher = client.as_mut().ok_or(WATCH_ENDED)?;
                let outcome = seen(put, async || match watcher.next().await {
                    Some(response) if response.canceled => {
                        Err(format!("the watch ended: {}", why(&response)))
                    }
                    Some(response) => {
                        let events = response.events.iter();
                        Ok(events.map(|event| event.kv.mod_revision).collect())
                    }
                    None => Err(WATCH_ENDED.to_owned()),
                });
                let outcome = outcome.await;
                if outcome
                    .as_ref()
                    .is_err_and(|error| error.starts_with(WATCH_ENDED))
                {
                    *client = None;
                }
                outcome
            }
            Op::Open { key } => self.open(&key).await,
        }
    }

    async fn mend(&self, number: u32, client: &mut Option<Watcher>) -> Result<(), String> {
        if self.args.work == Work::Watch && client.is_none() {
            *client = Some(self.watcher(number).await?);
        }
        Ok(())
    }

    async fn keys(&self, from: Vec<u8>, limit: i64) -> Result<Vec<Bytes>, String> {
        let request = mvcc::RangeRequest {
            keys_only: true,
            ..range(&from, limit)
        };
        let found = self.engine.range(&request).await.map_err(text)?;
        Ok(found.body.kvs.into_iter().map(|kv| kv.key).collect())
    }

    async fn write(&self, pairs: Vec<(Vec<u8>, Vec<u8>)>) -> Result<(), String> {
        let puts: Vec<_> = pairs
            .iter()
            .map(|(key, value)| self.engine.put(key, value))
            .collect();
        for put in puts {
            put.await.map_err(text)?;
        }
        Ok(())
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn create(key: &[u8]) -> WatchCreate {
    WatchCreate {
        key: Bytes::copy_from_slice(key),
        ..WatchCreate::default()
    }
}

/// From a key on, to the end of the keyspace.
fn range(key: &[u8], limit: i64) -> mvcc::RangeRequest<'_> {
    mvcc::RangeRequest {
        range: mvcc::KeyRange { key, end: KEYS_END },
        limit,
        ..Default::default()
    }
}
