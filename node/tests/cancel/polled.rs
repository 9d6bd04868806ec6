//! Polling a future k times and dropping it, in each executor that an engine lives in.

use std::future::Future;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use henge::{Driver, Engine, EngineBuilder, HostKind};

/// Every k up to here is tried, then each twice the one before, until the future is done by then.
const EVERY: usize = 12;
/// Looks at something that must become true, with as little between them as possible.
const QUICK_LOOKS: usize = 2_000;
/// Looks after those, each a millisecond later, before the test fails: a disk may stall for seconds.
const PATIENCE: usize = 30_000;
/// Bytes that a shard's callers may hold: little, so that what is not given back is noticed.
pub const BUDGET: usize = 64 << 10;

/// When a future is polled again.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Polled {
    /// Once it woke its waker.
    WhenWoken,
    /// Always.
    Always,
}

/// Lets everything else on this thread run.
#[derive(Clone, Copy)]
pub enum Rest {
    Tokio,
    TokioUring,
    #[cfg(feature = "glommio")]
    Glommio,
}

impl Rest {
    pub async fn a_moment(self) {
        match self {
            Rest::Tokio => tokio::task::yield_now().await,
            // Not a yield: executors with a task that can always run do not look at their rings.
            Rest::TokioUring => tokio::time::sleep(Duration::from_micros(20)).await,
            #[cfg(feature = "glommio")]
            Rest::Glommio => glommio::timer::sleep(Duration::from_micros(20)).await,
        }
        std::thread::yield_now();
    }

    async fn a_while(self) {
        let millisecond = Duration::from_millis(1);
        match self {
            Rest::Tokio | Rest::TokioUring => tokio::time::sleep(millisecond).await,
            #[cfg(feature = "glommio")]
            Rest::Glommio => glommio::timer::sleep(millisecond).await,
        }
    }

    pub async fn until(self, what: &str, mut is_so: impl FnMut() -> bool) {
        for look in 0..QUICK_LOOKS + PATIENCE {
            if is_so() {
                return;
            }
            if look < QUICK_LOOKS {
                self.a_moment().await;
            } else {
                self.a_while().await;
            }
        }
        panic!("still not so: {what}");
    }
}

#[derive(Default)]
pub struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// A future polled at most `polls` times and then dropped.
pub struct Tried<T> {
    pub output: Option<T>,
    pub waker: Arc<Count>,
}

pub async fn dropped_at<T>(
    future: impl Future<Output = T>,
    polls: usize,
    when: Polled,
    rest: Rest,
) -> Tried<T> {
    let count = Arc::<Count>::default();
    let waker = Waker::from(count.clone());
    let mut output = None;
    {
        let mut future = pin!(future);
        for poll in 0..polls {
            let woken = count.0.load(Ordering::SeqCst);
            match future.as_mut().poll(&mut Context::from_waker(&waker)) {
                Poll::Ready(value) => {
                    output = Some(value);
                    break;
                }
                Poll::Pending if poll + 1 == polls => {}
                Poll::Pending if when == Polled::Always => rest.a_moment().await,
                Poll::Pending => {
                    rest.until("woken", || count.0.load(Ordering::SeqCst) > woken)
                        .await;
                }
            }
        }
    }
    drop(waker);
    Tried {
        output,
        waker: count,
    }
}

/// The k to try, in order.
pub fn polls() -> impl Iterator<Item = usize> {
    let doubled = std::iter::successors(Some(EVERY * 2), |k| Some(k * 2));
    (0..=EVERY).chain(doubled.take(20))
}

pub fn builder(dir: &Path, host: HostKind) -> EngineBuilder {
    let wal = henge::wal::Options {
        segment_bytes: 1 << 20,
        ..Default::default()
    };
    Engine::builder(dir)
        .host(host)
        .pending_bytes_max(BUDGET)
        // A snapshot that went is noticed at a tick, which is waited for.
        .timeouts(5, 50)
        .wal(wal)
}

pub fn on_tokio<T>(body: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    tokio::task::LocalSet::new().block_on(&runtime, body)
}

/// Runs `body` in the executor that a local engine of this host lives in.
pub fn where_it_lives<F: Future<Output = ()> + 'static>(
    host: HostKind,
    body: impl FnOnce(Rest) -> F + 'static,
) {
    match host {
        HostKind::TokioUring => tokio_uring::start(body(Rest::TokioUring)),
        #[cfg(feature = "glommio")]
        HostKind::Glommio => glommio::LocalExecutorBuilder::new(glommio::Placement::Unbound)
            .io_memory(2 << 20)
            .make()
            .expect("an executor")
            .run(body(Rest::Glommio)),
        _ => on_tokio(body(Rest::Tokio)),
    }
}

pub fn spawn(driver: Driver, rest: Rest) {
    match rest {
        Rest::Tokio | Rest::TokioUring => drop(tokio::task::spawn_local(driver)),
        #[cfg(feature = "glommio")]
        Rest::Glommio => drop(glommio::spawn_local(driver).detach()),
    }
}
