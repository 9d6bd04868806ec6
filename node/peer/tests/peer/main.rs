//! The peer transport over real sockets on loopback: nodes that meet, part, restart and disagree
//! here; peers and paths that misbehave in `hostile`.
//!
//! Every wait has a deadline that only a hang reaches; no test measures time.

mod cluster;
mod hostile;
mod raw;

use std::{net::TcpListener, sync::Arc, thread, time::Duration};

use bytes::Bytes;
use henge_peer::{
    Lane, PeerConfig, PeerNet, PeerStats, SendError, StartError, frame::MESSAGE_BYTES_MAX,
};

use cluster::{CLUSTER, Cluster, Seen, free_address};

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
        .send(2, Bytes::from_static(b"urgent"), Lane::Urgent)
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
    assert!(stats.connected && stats.sessions == 1, "{stats:?}");
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
        cluster.nodes[0].net().send(9, Bytes::new(), Lane::Bulk),
        Err(SendError::UnknownPeer)
    );
    assert_eq!(
        cluster.nodes[0].net().send(1, Bytes::new(), Lane::Bulk),
        Err(SendError::UnknownPeer)
    );
}

/// Whichever side restarts, and however often, the pair finds together again.
#[test]
fn members_tell_each_other_where_their_clients_connect() {
    let mut trio = Cluster::new(3);
    let urls = |id: u64| {
        vec![
            format!("http://node{id}:2379"),
            format!("http://127.0.0.{id}:1"),
        ]
    };
    // Node 3 has none to tell, as one of a build that does not know of it.
    for node in &mut trio.nodes[..2] {
        node.config.client_urls = urls(node.id);
    }
    for node in &mut trio.nodes {
        node.start();
    }
    trio.meet();
    for node in &trio.nodes {
        for other in (1..=2).filter(|id| *id != node.id) {
            node.seen.wait("introduction", |seen| {
                seen.introduced.contains(&(other, urls(other)))
            });
        }
        let told = node.seen.lock().introduced.iter().any(|(id, _)| *id == 3);
        assert!(!told, "node 3 told nothing");
    }
    // One that comes back elsewhere says so.
    trio.nodes[0].stop();
    trio.nodes[0].config.client_urls = vec!["http://moved:1".to_owned()];
    trio.nodes[0].start();
    trio.nodes[1].seen.wait("the new one", |seen| {
        seen.introduced
            .contains(&(1, vec!["http://moved:1".to_owned()]))
    });
}

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
            pair.nodes[stayed]
                .net()
                .send(restarted_id, Bytes::new(), Lane::Bulk),
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
        change(|config| config.timing.handshake_max = Duration::ZERO),
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
        pair.nodes[0].net().send(2, Bytes::new(), Lane::Bulk),
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
fn regression_the_last_messages_arrive_though_their_receiver_talks() {
    // The socket was closed with unread pings or messages in it; the reset took along what was not read yet.
    let pair = Cluster::start(2);
    pair.meet();
    for _ in 0..1_000 {
        pair.nodes[0].send(2, &[1; 500]);
    }
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Until the session is over, or its queue full.
            while pair.nodes[1]
                .net()
                .send(1, Bytes::from(vec![2; 5_000]), Lane::Bulk)
                .is_ok()
            {}
        });
        pair.nodes[0].net().shutdown();
    });
    let seen = &pair.nodes[1].seen;
    seen.wait("all of it", |seen| {
        seen.messages.len() == 1_000 || seen.disconnected.len() == 1
    });
    assert_eq!(seen.lock().messages.len(), 1_000);
    seen.wait("the goodbye", |seen| seen.disconnected.len() == 1);
    assert_eq!(seen.lock().disconnected[0].1, "the peer is shutting down");
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

/// Senders on many threads share a queue: nothing is lost, and each keeps its own order.
#[test]
fn many_threads_send_at_once() {
    let pair = Cluster::start(2);
    pair.meet();
    let (threads, each) = (4_u8, 2_000_u32);
    let net = pair.nodes[0].net();
    thread::scope(|scope| {
        for name in 0..threads {
            let net = &net;
            scope.spawn(move || {
                for number in 0..each {
                    let message = [&[name][..], &number.to_le_bytes()].concat();
                    net.send(2, Bytes::from(message), Lane::Bulk).expect("room");
                }
            });
        }
    });
    let total = usize::from(threads) * 2_000;
    pair.nodes[1]
        .seen
        .wait("all of it", |seen| seen.messages.len() == total);
    let mut next = vec![0; usize::from(threads)];
    for (_, message) in &pair.nodes[1].seen.lock().messages {
        let (name, number) = message.split_first().expect("sent so");
        let next = &mut next[usize::from(*name)];
        assert_eq!(number, u32::to_le_bytes(*next));
        *next += 1;
    }
}
