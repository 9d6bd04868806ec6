//! The link to one peer: keeps at most one session up, for as long as the transport runs.
//!
//! Who dials: the lower node id. One rule, so two nodes never end up with two connections and no
//! tie has to be broken. The cost is that a higher node which restarts would wait for the lower
//! one's backoff; so while it has no session, the higher node *knocks*: a short connection that
//! says "I am up" and makes the lower one dial at once. A knock from another boot than the
//! session's also tells the lower node that its session is dead, before silence would.
//!
//! On the accepting side the newest session of the peer wins: a dialer has one at a time, so an
//! older one is a corpse (the peer restarted, or a cut that only it noticed).
//!
//! Promises: attempts are spaced by a jittered backoff, whatever the peer does; host names are
//! resolved at every attempt. Must never know: frames, messages. Tested by `node/tests/peer.rs`.

use std::time::Duration;

use tokio::{
    net::lookup_host,
    sync::mpsc,
    time::{Instant, sleep},
};

use super::{
    backoff::Backoff,
    connection::{self, Connection, End},
    handshake::Purpose,
    net::Context,
    queue::Queue,
    stats::{PeerCounters, PeerStats},
};

/// Calls waiting for the link to take them. A caller has one connection at a time; more are shed.
pub(super) const CALLS_MAX: usize = 4;

/// A peer as senders and the link see it.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) id: u64,
    pub(super) addresses: Vec<String>,
    pub(super) queue: Queue,
    pub(super) counters: PeerCounters,
    /// Where the listener hands over the peer's calls.
    pub(super) calls: mpsc::Sender<Call>,
}

/// The peer called and the handshake agreed.
#[derive(Debug)]
pub(super) enum Call {
    /// A session; this node accepts.
    Session(Connection),
    /// A request to dial; this node dials.
    Knock {
        /// The caller's boot.
        boot: u64,
    },
}

impl Peer {
    pub(super) fn stats(&self) -> PeerStats {
        self.counters
            .read(self.id, self.queue.connected(), self.queue.bytes())
    }
}

/// Keeps the link up until the transport stops.
pub(super) async fn run(context: &Context, peer: &Peer, calls: mpsc::Receiver<Call>, seed: u64) {
    let timing = &context.timing;
    let backoff = Backoff::new(timing.backoff_min, timing.backoff_max, seed);
    let mut link = Link {
        context,
        peer,
        calls,
        backoff,
    };
    if context.local.node_id < peer.id {
        link.dial_forever().await;
    } else {
        link.accept_forever().await;
    }
}

struct Link<'a> {
    context: &'a Context,
    peer: &'a Peer,
    calls: mpsc::Receiver<Call>,
    backoff: Backoff,
}

impl Link<'_> {
    async fn dial_forever(&mut self) {
        while !self.context.stopping() {
            match self
                .until_stop(attempt(self.context, self.peer, Purpose::Session))
                .await
            {
                Some(Ok(connection)) => self.dialed_session(connection).await,
                Some(Err(end)) => self.note(&end),
                None => return,
            }
            let delay = self.backoff.delay();
            self.pause(delay).await;
        }
    }

    async fn dialed_session(&mut self, connection: Connection) {
        let started = Instant::now();
        let boot = connection.hello.boot;
        let session = connection::run(self.context, self.peer, connection);
        tokio::pin!(session);
        let end = loop {
            tokio::select! {
                biased;
                end = &mut session => break end,
                call = self.calls.recv() => match call {
                    Some(Call::Knock { boot: now }) if now != boot => break End::Replaced,
                    _ => {} // a knock that crossed our dial
                },
            }
        };
        self.ended(&end, started);
    }

    async fn accept_forever(&mut self) {
        let mut next = None;
        while !self.context.stopping() {
            let connection = match next.take() {
                Some(connection) => connection,
                None => match self.called().await {
                    Some(connection) => connection,
                    None => return,
                },
            };
            let started = Instant::now();
            let end = tokio::select! {
                biased;
                end = connection::run(self.context, self.peer, connection) => end,
                newer = session_call(&mut self.calls) => {
                    next = Some(newer);
                    End::Replaced
                }
            };
            self.ended(&end, started);
        }
    }

    /// Waits for the peer to dial, knocking meanwhile. None when the transport stops.
    async fn called(&mut self) -> Option<Connection> {
        loop {
            let knock = async {
                let end = attempt(self.context, self.peer, Purpose::Knock).await.err();
                if let Some(end) = &end {
                    note(self.context, self.peer, end);
                }
                sleep(self.backoff.delay()).await;
            };
            tokio::select! {
                biased;
                () = self.context.stopped() => return None,
                connection = session_call(&mut self.calls) => return Some(connection),
                () = knock => {}
            }
        }
    }

    /// Sleeps, but wakes for a knock (then only for the shortest delay more) and for the stop.
    async fn pause(&mut self, delay: Duration) {
        tokio::select! {
            biased;
            () = self.context.stopped() => return,
            () = sleep(delay) => return,
            _ = self.calls.recv() => {}
        }
        let shortest = self.backoff.shortest();
        self.until_stop(sleep(shortest)).await;
    }

    async fn until_stop<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            () = self.context.stopped() => None,
            done = work => Some(done),
        }
    }

    fn ended(&mut self, end: &End, started: Instant) {
        // A session that ends at once is no proof: without this, two nodes that dislike each
        // other's frames would reconnect at the floor for ever.
        if started.elapsed() >= self.context.timing.backoff_max {
            self.backoff.reset();
        }
        self.note(end);
    }

    fn note(&self, end: &End) {
        note(self.context, self.peer, end);
    }
}

/// Counts a failure and tells the handler when the reason is news.
fn note(context: &Context, peer: &Peer, end: &End) {
    if matches!(end, End::Stopped) {
        return;
    }
    let why = end.to_string();
    if peer.counters.fail(&why) {
        context.tell(|handler| handler.unreachable(peer.id, &why));
    }
}

/// Tries every address once, in the order given; the last error is the answer.
async fn attempt(context: &Context, peer: &Peer, purpose: Purpose) -> Result<Connection, End> {
    let mut last = End::NoAddress;
    for host in &peer.addresses {
        // Not cut short: a resolver bounds itself, and an abandoned lookup would keep its thread.
        let addresses = match lookup_host(host.as_str()).await {
            Ok(addresses) => addresses,
            Err(source) => {
                last = End::Resolve {
                    host: host.clone(),
                    source,
                };
                continue;
            }
        };
        for address in addresses {
            match connection::dial(context, address, peer.id, purpose).await {
                Ok(connection) => return Ok(connection),
                Err(end) => last = end,
            }
        }
    }
    Err(last)
}

/// The next session among the calls. Never ends when the listener side is gone.
async fn session_call(calls: &mut mpsc::Receiver<Call>) -> Connection {
    loop {
        match calls.recv().await {
            Some(Call::Session(connection)) => return connection,
            Some(Call::Knock { .. }) => {} // the handshake lets only the higher id knock
            None => std::future::pending().await,
        }
    }
}
