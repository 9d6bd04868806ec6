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
//! resolved at every attempt. Must never know: frames, messages. Tested by `node/peer/tests/peer/`.

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
        told: None,
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
    /// Why attempts fail, as last told to the handler since the last session.
    told: Option<String>,
}

impl Link<'_> {
    async fn dial_forever(&mut self) {
        while !self.context.stopping() {
            match self
                .until_stop(attempt(self.context, self.peer, Purpose::Session))
                .await
            {
                Some(Ok(connection)) => self.dialed_session(connection).await,
                Some(Err(end)) => self.failed_attempt(&end),
                None => return,
            }
            let delay = self.backoff.delay();
            self.pause(delay).await;
        }
    }

    async fn dialed_session(&mut self, connection: Connection) {
        let started = Instant::now();
        let dead = restarted(&mut self.calls, connection.hello.boot);
        let end = connection::run(self.context, self.peer, connection, dead).await;
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
            let newer = async {
                next = Some(session_call(&mut self.calls).await);
                End::Replaced
            };
            let end = connection::run(self.context, self.peer, connection, newer).await;
            self.ended(&end, started);
        }
    }

    /// Waits for the peer to dial, knocking meanwhile. None when the transport stops.
    async fn called(&mut self) -> Option<Connection> {
        loop {
            let knock = tokio::select! {
                biased;
                () = self.context.stopped() => return None,
                connection = session_call(&mut self.calls) => return Some(connection),
                knock = attempt(self.context, self.peer, Purpose::Knock) => knock,
            };
            if let Err(end) = knock {
                self.failed_attempt(&end);
            }
            let delay = self.backoff.delay();
            tokio::select! {
                biased;
                () = self.context.stopped() => return None,
                connection = session_call(&mut self.calls) => return Some(connection),
                () = sleep(delay) => {}
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

    /// The handler heard of it as `disconnected`.
    fn ended(&mut self, end: &End, started: Instant) {
        // A session that ends at once is no proof: without this, two nodes that dislike each
        // other's frames would reconnect at the floor for ever.
        if started.elapsed() >= self.context.timing.backoff_max {
            self.backoff.reset();
        }
        self.told = None;
        if !matches!(end, End::Stopped | End::Goodbye) {
            self.count(end, &end.to_string());
        }
    }

    /// The handler hears of it when the reason is news: a log of every attempt would bury it.
    fn failed_attempt(&mut self, end: &End) {
        let why = end.to_string();
        self.count(end, &why);
        if self.told.as_ref() != Some(&why) {
            self.context
                .tell(|handler| handler.unreachable(self.peer.id, &why));
            self.told = Some(why);
        }
    }

    fn count(&self, end: &End, why: &str) {
        let bad_frame = matches!(end, End::Frame(_) | End::OutOfPlace(_));
        self.peer.counters.fail(why, bad_frame);
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

/// Ends when the peer knocks with another boot than the session's. A knock of the same boot
/// crossed our dial and means nothing.
async fn restarted(calls: &mut mpsc::Receiver<Call>, boot: u64) -> End {
    loop {
        match calls.recv().await {
            Some(Call::Knock { boot: now }) if now != boot => return End::Replaced,
            Some(_) => {}
            None => std::future::pending().await,
        }
    }
}
