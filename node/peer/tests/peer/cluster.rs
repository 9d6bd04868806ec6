//! The nodes under test, and a handler that remembers.
//!
//! Each node gets an address of its own in 127.77.0.0/16, so that no outgoing connection, which
//! starts from 127.0.0.1, can take its port between two starts.

use std::{
    net::{SocketAddr, TcpListener},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, OnceLock,
        atomic::{AtomicU8, Ordering},
    },
    thread,
    time::Duration,
};

use bytes::Bytes;
use henge_peer::{Lane, NetStats, PeerConfig, PeerHandler, PeerNet, PeerStats, Timing};

/// The cluster id of every node here.
pub const CLUSTER: u64 = 0xc1;

/// Only a hang lasts this long, also on a busy machine.
pub const HANG: Duration = Duration::from_secs(60);

pub struct Cluster {
    pub nodes: Vec<Node>,
}

impl Cluster {
    /// Nodes 1..=count that know each other, not started.
    pub fn new(count: u64) -> Cluster {
        let addresses: Vec<_> = (0..count).map(|_| free_address()).collect();
        let peers: Vec<_> = (1..)
            .zip(&addresses)
            .map(|(id, address)| (id, vec![address.to_string()]))
            .collect();
        let node = |(id, address): (u64, &SocketAddr)| {
            let mut config = PeerConfig::new(CLUSTER, id, id);
            config.listen = vec![*address];
            config.peers = peers.clone();
            config.timing = Timing {
                ping_every: Duration::from_millis(50),
                silence_max: Duration::from_secs(10),
                backoff_min: Duration::from_millis(5),
                backoff_max: Duration::from_millis(100),
                ..Timing::default()
            };
            Node {
                id,
                config,
                seen: Arc::default(),
            }
        };
        Cluster {
            nodes: (1..).zip(&addresses).map(node).collect(),
        }
    }

    pub fn start(count: u64) -> Cluster {
        let mut cluster = Cluster::new(count);
        for node in &mut cluster.nodes {
            node.start();
        }
        cluster
    }

    /// Waits until every pair is connected, seen from both sides.
    pub fn meet(&self) {
        for node in &self.nodes {
            for other in self.nodes.iter().filter(|other| other.id != node.id) {
                node.wait_stats(other.id, "to connect", |stats| stats.connected);
            }
        }
    }
}

pub struct Node {
    pub id: u64,
    pub config: PeerConfig,
    pub seen: Arc<Seen>,
}

impl Node {
    pub fn start(&mut self) {
        self.config.seed += 100;
        let handler: Arc<dyn PeerHandler> = Arc::<Seen>::clone(&self.seen);
        let net = Arc::new(PeerNet::start(self.config.clone(), handler).expect("starts"));
        *self.seen.net.lock().expect("whole") = Some(net);
    }

    pub fn stop(&mut self) {
        self.net().shutdown();
        *self.seen.net.lock().expect("whole") = None;
    }

    pub fn net(&self) -> Arc<PeerNet> {
        self.seen
            .net
            .lock()
            .expect("whole")
            .clone()
            .expect("started")
    }

    pub fn address(&self) -> SocketAddr {
        self.net().listening()[0]
    }

    pub fn send(&self, to: u64, message: &[u8]) {
        self.net()
            .send(to, Bytes::copy_from_slice(message), Lane::Bulk)
            .expect("room");
    }

    pub fn net_stats(&self) -> NetStats {
        self.net().stats()
    }

    pub fn stats(&self, peer: u64) -> PeerStats {
        let find = |stats: &PeerStats| stats.peer == peer;
        self.net_stats()
            .peers
            .into_iter()
            .find(find)
            .expect("configured")
    }

    pub fn wait_stats(&self, peer: u64, what: &str, good: impl Fn(&PeerStats) -> bool) {
        until(what, || good(&self.stats(peer)).then_some(()));
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // The handler holds the transport that holds the handler.
        let net = self.seen.net.lock().map(|mut net| net.take());
        if let Ok(Some(net)) = net {
            net.shutdown();
        }
    }
}

/// A handler that remembers, and does what some messages ask.
#[derive(Default)]
pub struct Seen {
    pub log: Mutex<Log>,
    pub news: Condvar,
    pub net: Mutex<Option<Arc<PeerNet>>>,
}

#[derive(Debug, Default)]
pub struct Log {
    pub messages: Vec<(u64, Bytes)>,
    pub introduced: Vec<(u64, Vec<String>)>,
    pub connected: Vec<u64>,
    pub disconnected: Vec<(u64, String)>,
    pub unreachable: Vec<(u64, String)>,
    pub refused: Vec<String>,
}

impl Seen {
    pub fn lock(&self) -> MutexGuard<'_, Log> {
        self.log.lock().expect("whole")
    }

    pub fn note(&self, change: impl FnOnce(&mut Log)) {
        change(&mut self.lock());
        self.news.notify_all();
    }

    pub fn wait(&self, what: &str, good: impl Fn(&Log) -> bool) {
        let (log, late) = self
            .news
            .wait_timeout_while(self.lock(), HANG, |log| !good(log))
            .expect("whole");
        assert!(!late.timed_out(), "no {what}: {log:?}");
    }
}

impl PeerHandler for Seen {
    fn message(&self, from: u64, frame: Bytes) {
        let net = || self.net.lock().expect("whole").clone();
        match &frame[..] {
            b"panic" => panic!("asked to"),
            b"echo" => {
                let net = net().expect("started");
                net.send(from, Bytes::from_static(b"echoed"), Lane::Bulk)
                    .expect("room");
            }
            b"shutdown" => net().expect("started").shutdown(),
            _ => self.note(|log| log.messages.push((from, frame))),
        }
    }

    fn introduced(&self, peer: u64, client_urls: &[String]) {
        self.note(|log| log.introduced.push((peer, client_urls.to_vec())));
    }

    fn connected(&self, peer: u64) {
        self.note(|log| log.connected.push(peer));
    }

    fn disconnected(&self, peer: u64, why: &str) {
        self.note(|log| log.disconnected.push((peer, why.to_owned())));
    }

    fn unreachable(&self, peer: u64, why: &str) {
        self.note(|log| log.unreachable.push((peer, why.to_owned())));
    }

    fn refused(&self, _from: SocketAddr, why: &str) {
        self.note(|log| log.refused.push(why.to_owned()));
    }
}

/// A port that was free, on an address that no other test has.
pub fn free_address() -> SocketAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    static PROCESS: OnceLock<u8> = OnceLock::new();
    let process = *PROCESS.get_or_init(|| (std::process::id() % 250) as u8 + 1);
    let address = format!(
        "127.77.{process}.{}:0",
        NEXT.fetch_add(1, Ordering::Relaxed)
    );
    TcpListener::bind(address)
        .and_then(|listener| listener.local_addr())
        .expect("loopback")
}

/// Asks again until there is an answer; only a hang makes it fail.
pub fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    for _ in 0..HANG.as_millis() {
        if let Some(answer) = ask() {
            return answer;
        }
        wait_a_little();
    }
    panic!("waited in vain: {what}");
}

pub fn wait_a_little() {
    thread::park_timeout(Duration::from_millis(1));
}
