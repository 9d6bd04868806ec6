//! The clients: each takes its turn, asks, and counts what came of it.
//!
//! Promises: clients begin together; nobody is waited for at the end: what is not over by then is dropped
//! and counted as unfinished. Latency counts from the start, with a rate from the start that was intended.
//! Must never know: what a load runs against.
#![allow(
    clippy::disallowed_methods,
    reason = "a load generator measures real time, on threads of its own"
)]

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::args::BenchArgs;
use super::op::{Answer, Maker, Op};
use super::tally::Tally;
use super::window::Window;

/// A refusing server must not be hammered by a spinning client.
const AFTER_FAILURE: Duration = Duration::from_millis(10);

/// What a load runs against. One per client thread; not shared.
pub trait Target: Clone + 'static {
    /// What a client keeps open.
    type Client: 'static;

    /// A client that stands ready.
    fn client(&self, number: u32) -> impl Future<Output = Result<Self::Client, String>>;

    /// Executes one operation. An error is what failures are counted by.
    fn execute(
        &self,
        client: &mut Self::Client,
        op: Op,
    ) -> impl Future<Output = Result<Answer, String>>;

    /// Opens again what a failure has closed.
    fn mend(
        &self,
        number: u32,
        client: &mut Self::Client,
    ) -> impl Future<Output = Result<(), String>>;

    /// The next keys from one on, to the end of the keyspace.
    fn keys(
        &self,
        from: Vec<u8>,
        limit: i64,
    ) -> impl Future<Output = Result<Vec<bytes::Bytes>, String>>;

    /// Writes pairs.
    fn write(&self, pairs: Vec<(Vec<u8>, Vec<u8>)>) -> impl Future<Output = Result<(), String>>;
}

/// What clients of one thread share.
struct Thread<T> {
    args: BenchArgs,
    window: Arc<Window>,
    target: T,
    tally: RefCell<Tally>,
    /// Since when each client has an operation under way.
    under_way: Vec<Cell<Option<Instant>>>,
    first: u32,
}

/// Runs one thread's share of the clients to the end of the load.
pub async fn run<T: Target>(
    args: &BenchArgs,
    window: Arc<Window>,
    target: T,
    clients: std::ops::Range<u32>,
) -> Result<Tally, String> {
    let thread = Rc::new(Thread {
        args: args.clone(),
        window: window.clone(),
        target,
        tally: RefCell::default(),
        under_way: clients.clone().map(|_| Cell::new(None)).collect(),
        first: clients.start,
    });
    let mut tasks = JoinSet::new();
    for number in clients {
        tasks.spawn_local(client(thread.clone(), number));
    }
    let all = async {
        while let Some(ended) = tasks.join_next().await {
            ended.map_err(|error| format!("a client died: {error}"))??;
        }
        Ok::<_, String>(())
    };
    tokio::select! {
        () = window.over() => {}
        ended = all => ended?,
    }
    tasks.shutdown().await;
    let mut tally = thread.tally.take();
    if let Some(end) = window.ended_at() {
        for since in thread.under_way.iter().filter_map(Cell::get) {
            tally.under_way(end.saturating_duration_since(since));
        }
    }
    window.closed().await;
    Ok(tally)
}

async fn client<T: Target>(thread: Rc<Thread<T>>, number: u32) -> Result<(), String> {
    let Thread {
        args,
        window,
        target,
        ..
    } = &*thread;
    let ready = tokio::time::timeout(args.dial_timeout, target.client(number)).await;
    let mut state = ready
        .map_err(|_| format!("no answer within {:?} (--dial-timeout)", args.dial_timeout))
        .flatten()
        .map_err(|error| format!("client {} of {}: {error}", number + 1, args.clients))?;
    window.one_ready();
    if window.begun().await.is_none() {
        return Ok(());
    }
    let under_way = &thread.under_way[(number - thread.first) as usize];
    let mut maker = Maker::new(args, number);
    while let Some(turn) = window.turn(args).await {
        let op = maker.make(turn.number);
        let start = turn.intended.unwrap_or_else(Instant::now);
        if !window.holds(start) {
            break;
        }
        under_way.set(Some(start));
        let outcome = target.execute(&mut state, op).await;
        let mut at = Instant::now();
        if let Ok(Answer { at: Some(seen), .. }) = outcome {
            at = seen;
        }
        if !window.holds(at) {
            break;
        }
        under_way.set(None);
        match outcome {
            Ok(answer) => {
                let took = at.saturating_duration_since(start);
                thread.tally.borrow_mut().answered(&answer, took);
                window.one_over(args, false);
            }
            Err(error) => {
                thread.tally.borrow_mut().failed(error);
                window.one_over(args, true);
                loop {
                    tokio::time::sleep(AFTER_FAILURE).await;
                    match target.mend(number, &mut state).await {
                        Ok(()) => break,
                        // As much a failure as the operation that needs it.
                        Err(error) if window.holds(Instant::now()) => {
                            thread.tally.borrow_mut().failed(error);
                            window.one_over(args, true);
                        }
                        Err(_) => return Ok(()),
                    }
                }
            }
        }
    }
    Ok(())
}
