//! The transport as a whole: its listeners, its thread, and the way in and out.
//!
//! [`PeerNet`] owns one thread with a tokio current-thread runtime, so it works beside every host
//! (tokio-uring, glommio, plain thread) and never runs on a core's thread. Listeners are bound
//! before `start` returns: a taken port is an error then and there.
//!
//! Promises: `send` never blocks and may be called from any thread, also from
//! inside the handler; `shutdown` ends the thread in bounded time, after what is queued was
//! written if the peers take it.
//!
//! Must never know: what messages mean. Reads the clock through tokio. Tested by
//! `node/peer/tests/peer/`.

use std::{
    io,
    net::{SocketAddr, TcpListener as StdListener},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::{Builder, Runtime},
    sync::{Semaphore, mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use super::{
    backoff::Dice,
    config::{PeerConfig, PeerHandler, StartError, Timing},
    connection::{self, Connection},
    handshake::{FORMATS, Local, Purpose},
    link::{self, CALLS_MAX, Call, Peer},
    queue::{Lane, Queue, SendError},
    stats::{NetCounters, NetStats, PeerCounters, add},
};

/// Callers in their handshake at once; more are dropped on arrival (fault N9). A cluster has at
/// most 7 members, so this is for strangers and storms.
const HANDSHAKES_MAX: usize = 64;

/// Pause after the listener failed (out of file descriptors, usually): shed, do not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long `shutdown` lets queued messages and goodbyes go out.
const DRAIN_MAX: Duration = Duration::from_millis(250);

/// The running transport. Dropping it shuts it down.
#[derive(Debug)]
pub struct PeerNet {
    context: Arc<Context>,
    listening: Vec<SocketAddr>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl PeerNet {
    /// Binds the listeners, starts the thread, begins to connect.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left running.
    pub fn start(config: PeerConfig, handler: Arc<dyn PeerHandler>) -> Result<PeerNet, StartError> {
        config.check()?;
        let runtime = Builder::new_current_thread()
            .enable_io()
            .enable_time()
            // Only name resolution blocks; one lookup per peer at a time, and one to spare.
            .max_blocking_threads(config.peers.len() + 1)
            .build()
            .map_err(StartError::Thread)?;
        let (listening, listeners) = bind(&runtime, &config.listen)?;
        let mut dice = Dice(config.seed);
        let (peers, calls) = peers(&config);
        let context = Arc::new(Context {
            local: Local {
                cluster_id: config.cluster_id,
                node_id: config.node_id,
                boot: dice.roll(),
                formats: FORMATS,
            },
            client_urls: config.client_urls,
            timing: config.timing,
            handler,
            peers,
            counters: NetCounters::default(),
            stop: watch::Sender::new(false),
            started: Instant::now(),
        });
        let body = {
            let context = Arc::clone(&context);
            move || serve(runtime, &context, listeners, calls, dice)
        };
        let thread = thread::Builder::new()
            .name("henge-peers".to_owned())
            .spawn(body)
            .map_err(StartError::Thread)?;
        Ok(PeerNet {
            context,
            listening,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Queues a message for `to` and returns at once. An urgent one goes ahead of all others except the write
    /// under way; one of a snapshot goes when nothing else waits.
    ///
    /// # Errors
    /// [`SendError`]; the message is not queued.
    pub fn send(&self, to: u64, frame: Bytes, lane: Lane) -> Result<(), SendError> {
        self.queue(to, |queue| queue.push(frame, lane))
    }

    fn queue(
        &self,
        to: u64,
        push: impl FnOnce(&Queue) -> Result<(), SendError>,
    ) -> Result<(), SendError> {
        let peer = self.context.peer(to).ok_or(SendError::UnknownPeer)?;
        let result = push(&peer.queue);
        if let Err(SendError::Full { .. }) = result {
            add(&peer.counters.full, 1);
        }
        result
    }

    /// Whether a session with `peer` is up.
    pub fn connected(&self, peer: u64) -> bool {
        self.context
            .peer(peer)
            .is_some_and(|peer| peer.queue.connected())
    }

    /// The addresses listened on, with the ports that were taken for port 0.
    pub fn listening(&self) -> &[SocketAddr] {
        &self.listening
    }

    /// What was counted so far.
    pub fn stats(&self) -> NetStats {
        let peers = self.context.peers.iter().map(|peer| peer.stats()).collect();
        self.context.counters.read(peers)
    }

    /// Sends what is queued as far as the peers take it within 250 ms, says goodbye, and ends the
    /// thread. Further sends get [`SendError::NotConnected`]. Safe to call again.
    pub fn shutdown(&self) {
        self.context.stop.send_replace(true);
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some(thread) = thread else { return };
        // From inside a handler the thread cannot wait for itself; it ends after the call.
        if thread.thread().id() != thread::current().id() {
            // Its only panics would be our own bugs; the caller's shutdown goes on regardless.
            let _ = thread.join();
        }
    }
}

impl Drop for PeerNet {
    fn drop(&mut self) {
        self.shutdown();
    }
}

/// What all tasks of one transport share.
pub(super) struct Context {
    pub(super) local: Local,
    pub(super) client_urls: Vec<String>,
    pub(super) timing: Timing,
    handler: Arc<dyn PeerHandler>,
    /// Sorted by id.
    peers: Vec<Arc<Peer>>,
    counters: NetCounters,
    stop: watch::Sender<bool>,
    started: Instant,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context")
            .field("local", &self.local)
            .finish_non_exhaustive()
    }
}

impl Context {
    pub(super) fn peer(&self, id: u64) -> Option<&Arc<Peer>> {
        let at = self.peers.binary_search_by_key(&id, |peer| peer.id).ok()?;
        self.peers.get(at)
    }

    /// Calls into the handler; false when it panicked. Its panic ends a session, not the transport.
    pub(super) fn tell(&self, call: impl FnOnce(&dyn PeerHandler)) -> bool {
        catch_unwind(AssertUnwindSafe(|| call(&*self.handler))).is_ok()
    }

    /// Microseconds since the start; only differences mean something.
    pub(super) fn now_us(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    pub(super) fn stopping(&self) -> bool {
        *self.stop.borrow()
    }

    /// Ends when the transport is to stop.
    pub(super) async fn stopped(&self) {
        // The sender lives in this very struct: waiting cannot fail before it is true.
        let _ = self.stop.subscribe().wait_for(|stop| *stop).await;
    }
}

/// Binds every address, or none; the first list has the ports that were taken for port 0.
fn bind(
    runtime: &Runtime,
    addresses: &[SocketAddr],
) -> Result<(Vec<SocketAddr>, Vec<TcpListener>), StartError> {
    let _entered = runtime.enter();
    let mut listening = Vec::new();
    let mut listeners = Vec::new();
    for &address in addresses {
        let wrap = |source: io::Error| match source.kind() {
            io::ErrorKind::AddrInUse => StartError::PortTaken { address },
            _ => StartError::Listen { address, source },
        };
        let listener = StdListener::bind(address).map_err(wrap)?;
        listener.set_nonblocking(true).map_err(wrap)?;
        listening.push(listener.local_addr().map_err(wrap)?);
        listeners.push(TcpListener::from_std(listener).map_err(wrap)?);
    }
    Ok((listening, listeners))
}

/// The configured peers without ourselves, sorted, and where each takes its calls.
fn peers(config: &PeerConfig) -> (Vec<Arc<Peer>>, Vec<mpsc::Receiver<Call>>) {
    let mut others: Vec<_> = config
        .peers
        .iter()
        .filter(|(id, _)| *id != config.node_id)
        .collect();
    others.sort_by_key(|(id, _)| *id);
    let peer = |(id, addresses): &(u64, Vec<String>)| {
        let (calls, receiver) = mpsc::channel(CALLS_MAX);
        let peer = Peer {
            id: *id,
            addresses: addresses.clone(),
            queue: Queue::new(config.queue_bytes_max),
            counters: PeerCounters::default(),
            calls,
        };
        (Arc::new(peer), receiver)
    };
    others.into_iter().map(peer).unzip()
}

/// The thread: runs until the stop, then lets the links drain.
fn serve(
    runtime: Runtime,
    context: &Arc<Context>,
    listeners: Vec<TcpListener>,
    calls: Vec<mpsc::Receiver<Call>>,
    mut dice: Dice,
) {
    runtime.block_on(async {
        let mut listening = JoinSet::new();
        for listener in listeners {
            listening.spawn(listen(Arc::clone(context), listener));
        }
        let mut links = JoinSet::new();
        for (peer, calls) in context.peers.iter().zip(calls) {
            let (context, peer, seed) = (Arc::clone(context), Arc::clone(peer), dice.roll());
            links.spawn(async move { link::run(&context, &peer, calls, seed).await });
        }
        context.stopped().await;
        listening.shutdown().await;
        for peer in &context.peers {
            peer.queue.close();
        }
        // What is not done by then is dropped with the set; each session still says disconnected.
        let _ = timeout(DRAIN_MAX, async {
            while links.join_next().await.is_some() {}
        })
        .await;
        links.shutdown().await;
    });
    // A lookup may still hang in the resolver: its thread is left to end by itself.
    runtime.shutdown_background();
}

/// Takes callers in, until dropped.
async fn listen(context: Arc<Context>, listener: TcpListener) {
    let room = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    let mut callers = JoinSet::new();
    loop {
        while callers.try_join_next().is_some() {}
        let Ok((stream, from)) = listener.accept().await else {
            sleep(ACCEPT_PAUSE).await;
            continue;
        };
        add(&context.counters.accepted, 1);
        let Ok(permit) = Arc::clone(&room).try_acquire_owned() else {
            add(&context.counters.shed, 1);
            continue;
        };
        let context = Arc::clone(&context);
        callers.spawn(async move {
            answer(&context, stream, from).await;
            drop(permit);
        });
    }
}

/// Shakes hands with one caller and hands it to its peer's link.
async fn answer(context: &Context, stream: TcpStream, from: SocketAddr) {
    let connection = match connection::welcome(context, stream).await {
        Ok(connection) => connection,
        Err(end) => {
            add(&context.counters.refused, 1);
            context.tell(|handler| handler.refused(from, &end.to_string()));
            return;
        }
    };
    let Some(peer) = context.peer(connection.hello.from) else {
        return;
    };
    let call = match connection {
        Connection { hello, .. } if hello.purpose == Purpose::Knock => {
            Call::Knock { boot: hello.boot }
        }
        connection => Call::Session(connection),
    };
    // A full mailbox means the link is busy with this very peer: the caller tries again.
    if peer.calls.try_send(call).is_err() {
        add(&context.counters.shed, 1);
    }
}
