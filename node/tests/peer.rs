//! The peer transport over real sockets on loopback: nodes that meet, part, restart, disagree, and
//! peers that misbehave, played by raw sockets and by a proxy that damages what passes.
//!
//! Every wait has a deadline that only a hang reaches; no test measures time. Each node gets an
//! address of its own in 127.77.0.0/16, so that no outgoing connection can take its port.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, OnceLock,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
    thread,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use henge::peer::{
    NetStats, PeerConfig, PeerHandler, PeerNet, PeerStats, SendError, StartError, Timing,
    frame::{self, Frame, Kind, MESSAGE_BYTES_MAX, Taken},
    handshake::{Dial, FORMATS, Formats, Local, Purpose},
};

const CLUSTER: u64 = 0xc1;

/// Only a hang lasts this long, also on a busy machine.
const HANG: Duration = Duration::from_secs(60);

#[test]
fn two_nodes_exchange_messages_of_every_size_in_both_lanes() {
    let pair = Cluster::start(2);
    let (one, two) = (&pair.nodes[0], &pair.nodes[1]);
    pair.meet();
    let kib = 1024;
    let lengths = [
        0,
        1,
        16 * kib,
        16 * kib + 1,
        64 * kib,
        64 * kib + 1,
        1024 * kib,
        MESSAGE_BYTES_MAX,
        2,
    ];
    for (mark, length) in (1..).zip(lengths) {
        one.send(2, &vec![mark; length]);
        two.send(1, &vec![mark + 100; length]);
    }
    one.net()
        .send_urgent(2, Bytes::from_static(b"urgent"))
        .expect("room");
    two.seen.wait("all of node 1's", |seen| {
        seen.messages.len() == lengths.len() + 1
    });
    one.seen.wait("all of node 2's", |seen| {
        seen.messages.len() == lengths.len()
    });
    for (node, base) in [(two, 0), (one, 100)] {
        let seen = node.seen.lock();
        let bulk: Vec<_> = seen
            .messages
            .iter()
            .filter(|(_, m)| &m[..] != b"urgent")
            .collect();
        for ((mark, length), (_, message)) in (1..).zip(lengths).zip(bulk) {
            assert_eq!(message.len(), length, "bulk messages keep their order");
            assert!(message.iter().all(|byte| *byte == base + mark));
        }
    }
    let settled = |stats: &PeerStats| stats.rtt_us.is_some() && stats.queue_bytes == 0;
    one.wait_stats(2, "a round trip", settled);
    let stats = one.stats(2);
    assert!(
        stats.connected && stats.failures == 0 && stats.sessions == 1,
        "{stats:?}"
    );
    let total: usize = lengths.iter().sum();
    assert!(stats.sent_bytes > total as u64 && stats.received_bytes > total as u64);
}

#[test]
fn three_nodes_each_hear_from_each() {
    let cluster = Cluster::start(3);
    cluster.meet();
    for from in &cluster.nodes {
        for to in cluster.nodes.iter().filter(|to| to.id != from.id) {
            from.send(to.id, &[u8::try_from(from.id).expect("small")]);
        }
    }
    for node in &cluster.nodes {
        node.seen
            .wait("one from each", |seen| seen.messages.len() == 2);
        for (from, message) in &node.seen.lock().messages {
            assert_eq!(u64::from(message[0]), *from);
        }
    }
    assert_eq!(
        cluster.nodes[0].net().send(9, Bytes::new()),
        Err(SendError::UnknownPeer)
    );
    assert_eq!(
        cluster.nodes[0].net().send(1, Bytes::new()),
        Err(SendError::UnknownPeer)
    );
}

/// Whichever side restarts, and however often, the pair finds together again.
#[test]
fn either_side_may_restart() {
    let mut pair = Cluster::start(2);
    pair.meet();
    for round in 1..=6 {
        let restarted = round % 2;
        let (restarted_id, stayed) = (pair.nodes[restarted].id, 1 - restarted);
        let before = pair.nodes[stayed].seen.lock().disconnected.len();
        pair.nodes[restarted].stop();
        pair.nodes[stayed]
            .seen
            .wait("the loss", |seen| seen.disconnected.len() > before);
        assert_eq!(
            pair.nodes[stayed].net().send(restarted_id, Bytes::new()),
            Err(SendError::NotConnected)
        );
        pair.nodes[restarted].start();
        pair.meet();
        pair.nodes[0].send(2, b"again");
        pair.nodes[1].send(1, b"again");
        for node in &pair.nodes {
            node.seen
                .wait("the new message", |seen| !seen.messages.is_empty());
            node.seen.lock().messages.clear();
        }
        assert_eq!(
            pair.nodes[stayed].seen.lock().disconnected[before].1,
            "the peer is shutting down"
        );
    }
    for node in &pair.nodes {
        let seen = node.seen.lock();
        assert_eq!(
            seen.connected.len(),
            seen.disconnected.len() + 1,
            "strict pairs"
        );
    }
}

#[test]
fn a_node_that_comes_late_is_found_and_a_dead_address_is_passed_over() {
    let mut pair = Cluster::new(2);
    let dead = free_address();
    pair.nodes[0].config.peers[1].1.insert(0, dead.to_string());
    pair.nodes[0].config.peers[1]
        .1
        .insert(1, "no-such-host.invalid:1".to_owned());
    pair.nodes[0].start();
    pair.nodes[0]
        .seen
        .wait("why not", |seen| !seen.unreachable.is_empty());
    pair.nodes[1].start();
    pair.meet();
}

#[test]
fn host_names_are_resolved() {
    let mut pair = Cluster::new(2);
    // The resolver's own loopback address, not one of ours: the name must lead there.
    let address = TcpListener::bind("127.0.0.1:0")
        .and_then(|l| l.local_addr())
        .expect("free");
    pair.nodes[1].config.listen = vec![address];
    pair.nodes[0].config.peers[1].1 = vec![format!("localhost:{}", address.port())];
    for node in &mut pair.nodes {
        node.start();
    }
    pair.meet();
}

/// O3: both sides refuse, both say why, and nothing is delivered.
#[test]
fn another_cluster_is_refused_and_both_sides_hear_why() {
    let mut pair = Cluster::new(2);
    pair.nodes[1].config.cluster_id = 0xbad;
    for node in &mut pair.nodes {
        node.start();
    }
    for node in &pair.nodes {
        let named = |why: &String| why.contains("it refused us: cluster id mismatch");
        node.seen.wait("its refusal", |seen| {
            seen.unreachable.iter().any(|(_, why)| named(why))
        });
        let named = |why: &String| why.contains("we refused it: cluster id mismatch");
        node.seen
            .wait("our refusal", |seen| seen.refused.iter().any(named));
        assert!(node.seen.lock().connected.is_empty());
        assert!(node.net_stats().refused > 0);
    }
}

#[test]
fn an_address_that_leads_to_another_node_is_refused() {
    let mut cluster = Cluster::new(3);
    // Node 1 believes that node 2 lives where node 3 does.
    let third = cluster.nodes[2].config.listen[0].to_string();
    cluster.nodes[0].config.peers[1].1 = vec![third];
    cluster.nodes[0].start();
    cluster.nodes[2].start();
    let named = |why: &String| {
        why.contains("wrong addressee: the node at this address is 0000000000000003")
    };
    cluster.nodes[0].seen.wait("who answered", |seen| {
        seen.unreachable
            .iter()
            .any(|(peer, why)| *peer == 2 && named(why))
    });
    cluster.nodes[0].wait_stats(3, "the right one", |stats| stats.connected);
    assert!(!cluster.nodes[0].stats(2).connected);
}

#[test]
fn strangers_are_refused_and_counted() {
    let mut pair = Cluster::new(2);
    pair.nodes[1].start();
    let two = &pair.nodes[1];
    let newer = Formats { min: 2, max: 9 };
    for (local, to, why) in [
        (local(7), 2, "unknown node"),
        (
            Local {
                cluster_id: 5,
                ..local(1)
            },
            2,
            "cluster id mismatch",
        ),
        (
            Local {
                formats: newer,
                ..local(1)
            },
            2,
            "no common peer format",
        ),
        (local(1), 3, "wrong addressee"),
    ] {
        let mut raw = Raw::dial(two.address());
        raw.send_frame(&Dial::start(local, to, Purpose::Session).1);
        assert_eq!(raw.frame().expect("an answer").kind, Kind::Refuse);
        assert_eq!(raw.frame(), None, "and then it hangs up");
        two.seen.wait(why, |seen| {
            seen.refused.iter().any(|text| text.contains(why))
        });
    }
    for garbage in [&b"GET /metrics HTTP/1.1\r\n\r\n"[..], &[0xff; 64], b"HP"] {
        let mut raw = Raw::dial(two.address());
        raw.send(garbage);
        raw.stream.shutdown(Shutdown::Write).expect("open");
        assert_eq!(raw.frame(), None, "no answer to what is no peer");
    }
    two.seen
        .wait("all refusals", |seen| seen.refused.len() == 7);
    assert!(two.seen.lock().connected.is_empty());
    assert_eq!((two.net_stats().accepted, two.net_stats().refused), (7, 7));
}

#[test]
fn nothing_is_delivered_before_the_handshake() {
    let mut pair = Cluster::new(2);
    pair.nodes[1].start();
    let two = &pair.nodes[1];
    let mut raw = Raw::dial(two.address());
    raw.message(b"let me in");
    raw.send_frame(&Dial::start(local(1), 2, Purpose::Session).1);
    assert_eq!(raw.frame(), None);
    two.seen.wait("the refusal", |seen| seen.refused.len() == 1);
    let seen = two.seen.lock();
    assert!(seen.messages.is_empty() && seen.connected.is_empty());
}

/// N6: a damaged frame ends the session, is counted, and the pair connects again.
#[test]
fn damaged_bytes_end_the_session_and_are_counted() {
    let mut pair = Cluster::new(2);
    pair.nodes[1].start();
    let two = &pair.nodes[1];
    let whole = frame::encode(Kind::Message, b"half of this is damaged").expect("short");
    for (round, at) in (1..).zip([0, 2, 5, 9, 13, 20]) {
        let mut raw = Raw::session(two.address(), local(1), 2);
        raw.message(b"good");
        let mut bad = whole.to_vec();
        bad[at] ^= 0x40;
        raw.send(&bad);
        two.seen
            .wait("the end", |seen| seen.disconnected.len() == round);
        let seen = two.seen.lock();
        assert!(
            seen.disconnected[round - 1].1.starts_with("bad frame"),
            "{:?}",
            seen.disconnected
        );
        assert_eq!(seen.messages.len(), round, "the good one only");
        drop(seen);
        two.wait_stats(1, "the count", |stats| stats.bad_frames == round as u64);
    }
    pair.nodes[0].start();
    pair.meet();
}

/// N7: a peer that stays silent, its socket open, is given up.
#[test]
fn a_silent_peer_is_given_up() {
    let mut pair = Cluster::new(2);
    pair.nodes[1].config.timing.silence_max = Duration::from_millis(200);
    pair.nodes[1].start();
    let two = &pair.nodes[1];
    let _raw = Raw::session(two.address(), local(1), 2);
    two.seen
        .wait("the end", |seen| seen.disconnected.len() == 1);
    assert_eq!(two.seen.lock().disconnected[0].1, "silent for 200 ms");
}

/// N8: a peer that lives but does not read costs its bound, hears of nothing, and is given up.
#[test]
fn a_peer_that_does_not_read_costs_at_most_the_bound() {
    let mut pair = Cluster::new(2);
    let two = &mut pair.nodes[1];
    two.config.queue_bytes_max = 1_000_000;
    two.config.timing.silence_max = Duration::from_millis(1_500);
    two.start();
    let mut raw = Raw::session(two.address(), local(1), 2);
    let alive = Arc::new(AtomicBool::new(true));
    let pings = {
        let alive = Arc::clone(&alive);
        let mut stream = raw.stream.try_clone().expect("a clone");
        let ping = frame::encode(Kind::Ping, &1_u64.to_le_bytes()).expect("short");
        thread::spawn(move || {
            while alive.load(Ordering::Relaxed) && stream.write_all(&ping).is_ok() {
                wait_a_little();
            }
        })
    };
    two.seen
        .wait("the session", |seen| seen.connected.len() == 1);
    let message = Bytes::from(vec![7; 100_000]);
    let full = until("the queue is full", || {
        two.net().send(1, message.clone()).err()
    });
    assert!(
        matches!(full, SendError::Full { max: 1_000_000, .. }),
        "{full:?}"
    );
    assert!(two.stats(1).queue_bytes <= 1_000_000 && two.stats(1).full == 1);
    two.net()
        .send_urgent(1, Bytes::from_static(b"still"))
        .expect("a lane of its own");
    two.seen
        .wait("the end", |seen| seen.disconnected.len() == 1);
    assert_eq!(
        two.seen.lock().disconnected[0].1,
        "took no bytes for 1500 ms"
    );
    two.wait_stats(1, "an empty queue", |stats| {
        stats.queue_bytes == 0 && stats.dropped_frames > 0
    });
    alive.store(false, Ordering::Relaxed);
    pings.join().expect("the pinger ends");
    assert!(raw.frame().is_some(), "what was written before is whole");
}

/// The lower node has a session that is dead and does not know; the higher restarts and knocks.
#[test]
fn a_knock_of_a_new_boot_ends_a_dead_session() {
    let mut pair = Cluster::new(2);
    let listener = TcpListener::bind(pair.nodes[1].config.listen[0]).expect("reserved");
    pair.nodes[0].config.timing.silence_max = HANG; // silence shall not be what ends it
    pair.nodes[0].start();
    let one = &pair.nodes[0];
    let _dead = Raw::accept(&listener, local(2), 1);
    one.seen
        .wait("the session", |seen| seen.connected.len() == 1);
    let knock = |boot| {
        let mut raw = Raw::dial(one.address());
        raw.send_frame(&Dial::start(Local { boot, ..local(2) }, 1, Purpose::Knock).1);
        assert_eq!(raw.frame().expect("an answer").kind, Kind::Hello);
        assert_eq!(raw.frame(), None, "a knock is closed after its answer");
    };
    knock(local(2).boot);
    assert!(
        one.seen.lock().disconnected.is_empty(),
        "a knock that crossed the dial is nothing"
    );
    knock(4_711);
    one.seen
        .wait("the end", |seen| seen.disconnected.len() == 1);
    assert!(one.seen.lock().disconnected[0].1.starts_with("replaced"));
    let _alive = Raw::accept(
        &listener,
        Local {
            boot: 4_711,
            ..local(2)
        },
        1,
    );
    one.seen
        .wait("the next session", |seen| seen.connected.len() == 2);
}

#[test]
fn the_newest_session_of_a_dialer_wins() {
    let mut pair = Cluster::new(2);
    pair.nodes[1].start();
    let two = &pair.nodes[1];
    let mut old = Raw::session(two.address(), local(1), 2);
    two.seen
        .wait("the session", |seen| seen.connected.len() == 1);
    let mut new = Raw::session(two.address(), local(1), 2);
    two.seen.wait("the next", |seen| seen.connected.len() == 2);
    assert!(two.seen.lock().disconnected[0].1.starts_with("replaced"));
    while old.frame().is_some() {}
    new.message(b"here");
    two.seen
        .wait("its message", |seen| seen.messages.len() == 1);
}

#[test]
fn a_ping_is_answered_with_its_number() {
    let mut pair = Cluster::new(2);
    pair.nodes[1].start();
    let mut raw = Raw::session(pair.nodes[1].address(), local(1), 2);
    raw.send(&frame::encode(Kind::Ping, &77_u64.to_le_bytes()).expect("short"));
    let pong = loop {
        let frame = raw.frame().expect("the session is up");
        if frame.kind == Kind::Pong {
            break frame;
        }
    };
    assert_eq!(&pong.payload[..], 77_u64.to_le_bytes());
}

#[test]
fn a_taken_port_is_named() {
    let taken = TcpListener::bind(free_address()).expect("free");
    let mut config = PeerConfig::new(CLUSTER, 1, 1);
    let address = taken.local_addr().expect("bound");
    config.listen = vec![free_address(), address];
    let error = PeerNet::start(config, Arc::new(Seen::default())).expect_err("taken");
    assert!(matches!(error, StartError::PortTaken { address: named } if named == address));
    assert!(error.to_string().contains(&address.to_string()));
}

#[test]
fn a_configuration_that_contradicts_itself_is_refused() {
    let good = PeerConfig::new(CLUSTER, 1, 1);
    let change = |edit: fn(&mut PeerConfig)| {
        let mut config = good.clone();
        edit(&mut config);
        config
    };
    for bad in [
        change(|config| config.node_id = 0),
        change(|config| config.peers = vec![(0, Vec::new())]),
        change(|config| config.peers = vec![(2, Vec::new()), (2, Vec::new())]),
        change(|config| config.timing.silence_max = config.timing.ping_every),
        change(|config| config.timing.backoff_max = Duration::ZERO),
    ] {
        let error = PeerNet::start(bad, Arc::new(Seen::default())).expect_err("refused");
        assert!(matches!(error, StartError::Config(_)), "{error}");
    }
    PeerNet::start(good, Arc::new(Seen::default())).expect("a lone node needs nothing");
}

#[test]
fn shutdown_writes_what_is_queued_and_may_be_called_again() {
    let pair = Cluster::start(2);
    pair.meet();
    for _ in 0..1_000 {
        pair.nodes[0].send(2, &[1; 500]);
    }
    pair.nodes[0].net().shutdown();
    pair.nodes[0].net().shutdown();
    assert_eq!(
        pair.nodes[0].net().send(2, Bytes::new()),
        Err(SendError::NotConnected)
    );
    assert_eq!(
        pair.nodes[0].seen.lock().disconnected[0].1,
        "this node is shutting down"
    );
    pair.nodes[1]
        .seen
        .wait("all of it", |seen| seen.messages.len() == 1_000);
    pair.nodes[1]
        .seen
        .wait("the goodbye", |seen| seen.disconnected.len() == 1);
}

#[test]
fn a_handler_may_send_and_its_panic_ends_a_session_not_the_transport() {
    let pair = Cluster::start(2);
    pair.meet();
    let one = &pair.nodes[0];
    one.send(2, b"echo");
    one.seen.wait("the echo", |seen| {
        seen.messages.iter().any(|(_, m)| &m[..] == b"echoed")
    });
    one.send(2, b"panic");
    let two = &pair.nodes[1];
    two.seen
        .wait("the end", |seen| seen.disconnected.len() == 1);
    assert_eq!(
        two.seen.lock().disconnected[0].1,
        "the message handler panicked"
    );
    two.seen
        .wait("the next session", |seen| seen.connected.len() == 2);
    pair.meet();
    one.send(2, b"fine again");
    two.seen.wait("it", |seen| {
        seen.messages.iter().any(|(_, m)| &m[..] == b"fine again")
    });
}

#[test]
fn a_handler_may_shut_down_its_own_transport() {
    let pair = Cluster::start(2);
    pair.meet();
    pair.nodes[0].send(2, b"shutdown");
    let two = &pair.nodes[1];
    two.seen
        .wait("its end", |seen| seen.disconnected.len() == 1);
    two.net().shutdown();
}

/// N9: idle callers beyond the bound are dropped on arrival; a member still gets in afterwards.
#[test]
fn a_storm_of_callers_is_shed() {
    let mut pair = Cluster::new(2);
    pair.nodes[1].config.timing.handshake_max = Duration::from_millis(300);
    pair.nodes[1].start();
    let two = &pair.nodes[1];
    let _storm: Vec<_> = (0..100).map(|_| Raw::dial(two.address())).collect();
    until("some are shed", || (two.net_stats().shed > 0).then_some(()));
    pair.nodes[0].start();
    pair.meet();
}

/// N6, N10: a path that flips bits and cuts connections. What arrives is what was sent.
#[test]
fn through_a_path_that_damages_and_cuts_only_whole_messages_arrive() {
    let seed = std::env::var("HENGE_SEED")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or(20_261);
    println!("HENGE_SEED={seed}");
    let mut pair = Cluster::new(2);
    let proxy = Proxy::start(pair.nodes[1].config.listen[0], seed);
    pair.nodes[0].config.peers[1].1 = vec![proxy.address.to_string()];
    for node in &mut pair.nodes {
        node.start();
    }
    let two = &pair.nodes[1];
    let mut dice = Dice(seed);
    let mut sent = 0_u64;
    until("enough arrived", || {
        for _ in 0..20 {
            let length = usize::try_from(dice.roll() % 30_000).expect("small");
            // Lost while disconnected, as raft expects; never altered.
            if pair.nodes[0].net().send(2, sealed(sent, length)).is_ok() {
                sent += 1;
            }
        }
        wait_a_little();
        let damaged = two.stats(1).bad_frames + pair.nodes[0].stats(2).bad_frames;
        (damaged >= 5 && two.seen.lock().messages.len() > 500).then_some(())
    });
    let mut last = None;
    for (_, message) in &two.seen.lock().messages {
        let (crc, rest) = message.split_first_chunk::<4>().expect("sealed");
        assert_eq!(
            u32::from_le_bytes(*crc),
            crc32c::crc32c(rest),
            "altered on the way"
        );
        let number = u64::from_le_bytes(*rest.first_chunk().expect("sealed"));
        assert!(
            last < Some(number),
            "out of order or twice: {number} after {last:?}"
        );
        last = Some(number);
    }
    proxy.calm.store(true, Ordering::Relaxed);
    pair.meet();
}

// ---- the cluster under test ----

struct Cluster {
    nodes: Vec<Node>,
}

impl Cluster {
    /// Nodes 1..=count that know each other, not started.
    fn new(count: u64) -> Cluster {
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

    fn start(count: u64) -> Cluster {
        let mut cluster = Cluster::new(count);
        for node in &mut cluster.nodes {
            node.start();
        }
        cluster
    }

    /// Waits until every pair is connected, seen from both sides.
    fn meet(&self) {
        for node in &self.nodes {
            for other in self.nodes.iter().filter(|other| other.id != node.id) {
                node.wait_stats(other.id, "to connect", |stats| stats.connected);
            }
        }
    }
}

struct Node {
    id: u64,
    config: PeerConfig,
    seen: Arc<Seen>,
}

impl Node {
    fn start(&mut self) {
        self.config.seed += 100;
        let handler: Arc<dyn PeerHandler> = Arc::<Seen>::clone(&self.seen);
        let net = Arc::new(PeerNet::start(self.config.clone(), handler).expect("starts"));
        *self.seen.net.lock().expect("whole") = Some(net);
    }

    fn stop(&mut self) {
        self.net().shutdown();
        *self.seen.net.lock().expect("whole") = None;
    }

    fn net(&self) -> Arc<PeerNet> {
        self.seen
            .net
            .lock()
            .expect("whole")
            .clone()
            .expect("started")
    }

    fn address(&self) -> SocketAddr {
        self.net().listening()[0]
    }

    fn send(&self, to: u64, message: &[u8]) {
        self.net()
            .send(to, Bytes::copy_from_slice(message))
            .expect("room");
    }

    fn net_stats(&self) -> NetStats {
        self.net().stats()
    }

    fn stats(&self, peer: u64) -> PeerStats {
        let find = |stats: &PeerStats| stats.peer == peer;
        self.net_stats()
            .peers
            .into_iter()
            .find(find)
            .expect("configured")
    }

    fn wait_stats(&self, peer: u64, what: &str, good: impl Fn(&PeerStats) -> bool) {
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
struct Seen {
    log: Mutex<Log>,
    news: Condvar,
    net: Mutex<Option<Arc<PeerNet>>>,
}

#[derive(Debug, Default)]
struct Log {
    messages: Vec<(u64, Bytes)>,
    connected: Vec<u64>,
    disconnected: Vec<(u64, String)>,
    unreachable: Vec<(u64, String)>,
    refused: Vec<String>,
}

impl Seen {
    fn lock(&self) -> MutexGuard<'_, Log> {
        self.log.lock().expect("whole")
    }

    fn note(&self, change: impl FnOnce(&mut Log)) {
        change(&mut self.lock());
        self.news.notify_all();
    }

    fn wait(&self, what: &str, good: impl Fn(&Log) -> bool) {
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
                net.send(from, Bytes::from_static(b"echoed")).expect("room");
            }
            b"shutdown" => net().expect("started").shutdown(),
            _ => self.note(|log| log.messages.push((from, frame))),
        }
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

// ---- peers that misbehave ----

fn local(node_id: u64) -> Local {
    Local {
        cluster_id: CLUSTER,
        node_id,
        boot: 9_000 + node_id,
        formats: FORMATS,
    }
}

/// A peer played by hand.
struct Raw {
    stream: TcpStream,
    buffer: BytesMut,
}

impl Raw {
    fn new(stream: TcpStream) -> Raw {
        stream.set_read_timeout(Some(HANG)).expect("not zero");
        Raw {
            stream,
            buffer: BytesMut::new(),
        }
    }

    fn dial(address: SocketAddr) -> Raw {
        Raw::new(TcpStream::connect(address).expect("listening"))
    }

    /// Dials and shakes hands.
    fn session(address: SocketAddr, local: Local, to: u64) -> Raw {
        let mut raw = Raw::dial(address);
        let (dial, first) = Dial::start(local, to, Purpose::Session);
        raw.send_frame(&first);
        dial.answer(&raw.frame().expect("an answer"))
            .expect("agreed");
        raw
    }

    /// Accepts and answers.
    fn accept(listener: &TcpListener, local: Local, from: u64) -> Raw {
        let mut raw = Raw::new(listener.accept().expect("a caller").0);
        assert_eq!(raw.frame().expect("a hello").kind, Kind::Hello);
        raw.send_frame(&Dial::start(local, from, Purpose::Session).1);
        raw
    }

    fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("open");
    }

    fn send_frame(&mut self, frame: &Frame) {
        self.send(&frame::encode(frame.kind, &frame.payload).expect("short"));
    }

    fn message(&mut self, payload: &[u8]) {
        self.send(&frame::encode(Kind::Message, payload).expect("short"));
    }

    /// The next frame; None when the other side hung up.
    fn frame(&mut self) -> Option<Frame> {
        loop {
            match frame::take(&mut self.buffer, MESSAGE_BYTES_MAX).expect("whole frames") {
                Taken::Frame(frame) => return Some(frame),
                Taken::Need(_) => {}
            }
            let mut piece = [0; 4_096];
            match self.stream.read(&mut piece) {
                Ok(0) => return None,
                Ok(read) => self.buffer.extend_from_slice(&piece[..read]),
                // Hung up with bytes of ours unread: TCP calls that a reset.
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("the other side neither answers nor hangs up: {error}"),
            }
        }
    }
}

/// Passes bytes on, and now and then flips one bit or cuts the connection.
struct Proxy {
    address: SocketAddr,
    calm: Arc<AtomicBool>,
}

impl Proxy {
    fn start(target: SocketAddr, seed: u64) -> Proxy {
        let listener = TcpListener::bind(free_address()).expect("free");
        let address = listener.local_addr().expect("bound");
        let calm = Arc::new(AtomicBool::new(false));
        let calm_inside = Arc::clone(&calm);
        // Ends with the process, as its connections do when both nodes are gone.
        thread::spawn(move || {
            let mut dice = Dice(seed);
            for caller in listener.incoming() {
                let (Ok(caller), Ok(callee)) = (caller, TcpStream::connect(target)) else {
                    continue;
                };
                for (from, to) in [(&caller, &callee), (&callee, &caller)] {
                    let (from, to) = (from.try_clone().expect("fd"), to.try_clone().expect("fd"));
                    let (dice, calm) = (Dice(dice.roll()), Arc::clone(&calm_inside));
                    thread::spawn(move || pass(from, to, dice, &calm));
                }
            }
        });
        Proxy { address, calm }
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, mut dice: Dice, calm: &AtomicBool) {
    let mut piece = [0; 16 * 1024];
    while let Ok(read @ 1..) = from.read(&mut piece) {
        let trouble = if calm.load(Ordering::Relaxed) {
            u64::MAX
        } else {
            dice.roll() % 60
        };
        if trouble == 0 {
            break;
        }
        if trouble < 3 {
            let at = usize::try_from(dice.roll()).unwrap_or(0) % read;
            piece[at] ^= 1 << (dice.roll() % 8);
        }
        if to.write_all(&piece[..read]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

// ---- small things ----

/// A message that tells whether it was altered, and its number.
fn sealed(number: u64, length: usize) -> Bytes {
    let mut rest = number.to_le_bytes().to_vec();
    rest.resize(8 + length, number.to_le_bytes()[0]);
    let mut message = crc32c::crc32c(&rest).to_le_bytes().to_vec();
    message.extend_from_slice(&rest);
    Bytes::from(message)
}

/// A port that was free, on an address that no other test has.
fn free_address() -> SocketAddr {
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
fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    for _ in 0..HANG.as_millis() {
        if let Some(answer) = ask() {
            return answer;
        }
        wait_a_little();
    }
    panic!("waited in vain: {what}");
}

fn wait_a_little() {
    thread::park_timeout(Duration::from_millis(1));
}

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
