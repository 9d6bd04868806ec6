//! Shards replicated by engines of one process, over loopback: members whose cores differ in number.

use std::net::{SocketAddr, TcpListener};

use henge::api::Member;
use henge::mvcc::{KeyRange, RangeRequest};
use henge::{ClusterConfig, Engine, HostKind};

#[path = "common/scratch.rs"]
mod scratch;
use scratch::Scratch;

const SHARDS: usize = 4;
/// Tries after which there will be no leader.
const TRIES: usize = 20;

/// Three addresses that nobody listened on a moment ago.
fn addresses() -> [SocketAddr; 3] {
    let held = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").expect("loopback"));
    held.map(|listener| listener.local_addr().expect("bound"))
}

fn open(dir: &Scratch, at: usize, cores: usize, addresses: &[SocketAddr; 3]) -> Engine {
    let id = |at: usize| at as u64 + 0x11;
    let member = |at: usize| Member {
        id: id(at),
        name: format!("m{at}"),
        peer_urls: vec![format!("http://{}", addresses[at])],
        ..Member::default()
    };
    let others = (0..3).filter(|other| *other != at);
    Engine::builder(dir.0.join(format!("m{at}")))
        .host(HostKind::Thread)
        .shards(SHARDS)
        .cores(cores)
        .timeouts(50, 500)
        .cluster(ClusterConfig {
            cluster_id: 7,
            member_id: id(at),
            members: (0..3).map(member).collect(),
            listen: vec![addresses[at]],
            peers: others
                .map(|at| (id(at), vec![addresses[at].to_string()]))
                .collect(),
        })
        .open()
        .expect("opens")
}

/// Puts until it is done, as leaders come to be: each try waits for one.
fn put(engine: &Engine, key: &str) {
    let mut last = None;
    let done = (0..TRIES).any(|_| match engine.blocking().put(key, key) {
        Ok(_) => true,
        Err(error) => {
            last = Some(error);
            false
        }
    });
    assert!(done, "{key}: {last:?}");
}

/// Every frame went to the first core: the groups of the others never heard of a leader.
#[test]
fn regression_members_with_other_numbers_of_cores_replicate_every_shard() {
    let dir = Scratch::new("replicated");
    let addresses = addresses();
    let mut engines: Vec<_> = (0..3)
        .map(|at| open(&dir, at, at + 1, &addresses))
        .collect();
    let key = |at: usize, round: usize| format!("round {round} key {at}");
    for round in 0..2 {
        // Any member takes any key, whoever leads its shard.
        (0..24).for_each(|at| put(&engines[at % 3], &key(at, round)));
        for engine in &engines {
            for at in 0..24 {
                let found = engine.blocking().get(key(at, round)).expect("a leader");
                assert!(found.is_some(), "{}", key(at, round));
            }
        }
        // And with one more core, or one again: its groups move between its logs.
        let cores = [2, 3, 1][round];
        drop(engines.remove(0));
        engines.insert(0, open(&dir, 0, cores, &addresses));
    }
    let all = |engine: &Engine| {
        let everything = RangeRequest {
            range: KeyRange::all(),
            ..RangeRequest::default()
        };
        let found = engine.blocking().range(&everything).expect("a leader");
        found.body.kvs.len()
    };
    engines
        .iter()
        .for_each(|engine| assert_eq!(all(engine), 48));
}
