//! The etcd edge over a real TCP socket, against a stand-in for the engine.
//!
//! What a client of etcd relies on and what the edge decides by itself: codes and texts, limits,
//! validation before proposing, stream semantics, plain HTTP, counters, drain. Each KV test runs
//! over both gRPC paths, the thin one and tonic's.

mod callers;
mod double;
mod frames;
mod kv;
mod many;
mod metrics;
mod odd;
mod plain;
#[allow(dead_code, reason = "shared with the engine's tests")]
#[path = "../../../tests/common/scratch.rs"]
mod scratch;
mod services;
mod watch;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use henge_edge::door::{LocalExecutor, Shutdown, serve};
use henge_edge::etcd::proto::etcdserverpb as pb;
use henge_edge::{Edge, EdgeConfig, GrpcCounters};
use tonic::transport::Channel;

use double::Double;

/// Longest any wait of a test may take before it counts as a hang.
const HANG: Duration = Duration::from_secs(20);

/// Time to drain where nobody drains on purpose: the client's runtime stands still while the server
/// is dropped, so its connections never say goodbye.
const SHORT: Duration = Duration::from_millis(50);

/// An edge on a thread of its own, with a current-thread runtime as a core has it.
struct Server {
    address: SocketAddr,
    double: Double,
    counters: Arc<GrpcCounters>,
    shutdown: Shutdown,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Server {
    fn start(config: EdgeConfig) -> Server {
        let (double, shutdown) = (Double::default(), Shutdown::new());
        let counters = Arc::new(GrpcCounters::new());
        let edge = Edge::new(double.clone(), config, counters.clone(), shutdown.clone());
        let (tell, address) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            tokio::task::LocalSet::new().block_on(&runtime, async move {
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
                    .await
                    .expect("a port");
                tell.send(listener.local_addr().expect("bound"))
                    .expect("the test waits");
                serve(listener, edge, LocalExecutor)
                    .await
                    .expect("serves until told");
            });
        });
        let address = address.recv().expect("the server's address");
        Server {
            address,
            double,
            counters,
            shutdown,
            thread: Some(thread),
        }
    }

    fn thin(thin_unary: bool) -> Server {
        Server::start(EdgeConfig {
            thin_unary,
            drain_limit: SHORT,
            ..EdgeConfig::default()
        })
    }

    async fn channel(&self) -> Channel {
        let url = format!("http://{}", self.address);
        Channel::from_shared(url)
            .expect("a url")
            .connect()
            .await
            .expect("a connection")
    }

    async fn kv(&self) -> pb::kv_client::KvClient<Channel> {
        pb::kv_client::KvClient::new(self.channel().await)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shutdown.begin();
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(
                ended.is_ok() || std::thread::panicking(),
                "the server's thread panicked"
            );
        }
    }
}

/// Fails instead of hanging.
async fn soon<F: Future>(what: &str, f: F) -> F::Output {
    tokio::time::timeout(HANG, f)
        .await
        .unwrap_or_else(|_| panic!("no {what} within {HANG:?}"))
}

/// Waits until `condition` holds.
async fn until(what: &str, condition: impl Fn() -> bool) {
    soon(what, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}
