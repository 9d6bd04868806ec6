//! Payloads are never copied between propose and committed, and proposals cost few allocations.
//!
//! By pointer: what a state machine gets is the very memory that was proposed, on the leader and, as long
//! as messages stay in the process, on the followers; across the wire it is a slice of the received frame.

#[path = "common/allocations.rs"]
mod allocations;
mod common;

use bytes::{Bytes, BytesMut};
use common::Cluster;
use henge_raft::{Config, wire};

#[global_allocator]
static ALLOCATOR: allocations::Counting = allocations::Counting;

const BATCH: usize = 64;
const BATCHES: usize = 200;
/// In all three nodes and this test's host together, for each proposal of a batch of 64. (`--bin raft` of
/// henge-benches counts 0.17; this host keeps more.)
const ALLOCATIONS_PER_PROPOSAL_MAX: f64 = 1.0;

fn modes() -> [fn(&mut Config); 2] {
    [|_| {}, |config| config.async_storage_writes = true]
}

fn payloads() -> Vec<Bytes> {
    let numbers = 0..BATCH;
    numbers
        .map(|number| Bytes::from(vec![number as u8; 256]))
        .collect()
}

#[test]
fn what_is_applied_is_the_memory_that_was_proposed() {
    for mode in modes() {
        let mut cluster = Cluster::new(3, mode);
        cluster.elect(1);
        let batch = payloads();
        cluster
            .node(1)
            .propose_batch(batch.iter().cloned())
            .unwrap();
        // One at a time is another path through the tail of the log.
        cluster.node(1).propose(batch[0].clone()).unwrap();
        // A follower passes proposals on.
        cluster.node(2).propose(batch[1].clone()).unwrap();
        cluster.settle();
        cluster.tick(2);
        let proposed = batch.iter().chain([&batch[0], &batch[1]]);
        let proposed: Vec<*const u8> = proposed.map(|payload| payload.as_ptr()).collect();
        for (id, host) in &cluster.hosts {
            let payloads = host.applied.iter().map(|(_, data)| data);
            let applied = payloads.filter(|data| !data.is_empty());
            let applied: Vec<*const u8> = applied.map(|data| data.as_ptr()).collect();
            assert_eq!(applied, proposed, "node {id}");
        }
    }
}

#[test]
fn what_a_follower_stores_and_applies_is_a_slice_of_the_frame() {
    let mut cluster = Cluster::new(3, |_| {});
    cluster.elect(1);
    cluster.node(1).propose_batch(payloads()).unwrap();
    let sent = cluster.node(1).ready().messages;
    let sent = sent.into_iter().find(|message| message.to == 2).unwrap();
    let mut frame = BytesMut::new();
    wire::encode(&sent, &mut frame);
    let frame = frame.freeze();
    let received = wire::decode(&mut frame.clone()).unwrap();
    cluster.node(2).step(received).unwrap();
    let stored = cluster.node(2).ready().entries;
    assert_eq!(stored.len(), BATCH);
    let inside = frame.as_ptr_range();
    assert!(
        stored
            .iter()
            .all(|entry| inside.contains(&entry.data.as_ptr()))
    );
}

#[test]
fn allocations_per_proposal_are_few() {
    for mode in modes() {
        let mut cluster = Cluster::new(3, mode);
        cluster.elect(1);
        let batch = payloads();
        let (before, _) = allocations::so_far();
        for _ in 0..BATCHES {
            cluster
                .node(1)
                .propose_batch(batch.iter().cloned())
                .unwrap();
            cluster.settle();
        }
        let (after, _) = allocations::so_far();
        let each = (after - before) as f64 / (BATCH * BATCHES) as f64;
        println!("{each:.3} allocations for each proposal");
        assert!(each <= ALLOCATIONS_PER_PROPOSAL_MAX, "{each}");
    }
}
