//! A disk that hangs (fault D12): the member it belongs to stops claiming to be alive, so that the others
//! go on without it; when the disk answers again, it is a member like any other.
//!
//! Three simulated nodes on a network without faults, in virtual time.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use henge::api::Reply;
use henge_core::machine::Response;
use henge_core::shard::request::{AnswerReceiver, RequestKind};
use henge_tests::sim::drive::Drive;
use henge_tests::sim::host::Host;
use henge_tests::sim::op::Op;
use henge_tests::sim::rng::Rng;

const NODES: usize = 3;
const START_US: u64 = 1_000_000;
/// A frame's way.
const HOP_US: u64 = 200;
const SECOND_US: u64 = 1_000_000;
/// A write is stuck after so long, as `henge` documents it.
const STUCK_US: u64 = 10 * SECOND_US;

struct Cluster {
    now_us: u64,
    hosts: Vec<Host>,
    due: Vec<u64>,
    frames: BTreeMap<(u64, u64), (usize, usize, Bytes)>,
    sent: u64,
}

impl Cluster {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let host = |at| {
            let drive = Drive::new(rng.fork(), 100, None, false);
            drive.set_now(START_US);
            let mut host = Host::new(at, NODES, drive, (1 << 20, u64::MAX), 500, None);
            host.start(START_US, rng.bits()).expect("a new disk");
            host
        };
        Self {
            now_us: START_US,
            hosts: (0..NODES).map(host).collect(),
            due: vec![START_US; NODES],
            frames: BTreeMap::new(),
            sent: 0,
        }
    }

    /// Everything that happens until then, unless `done` says that it has come to pass.
    fn run(&mut self, until_us: u64, done: impl Fn(&Self) -> bool) -> bool {
        while self.now_us < until_us {
            if done(self) {
                return true;
            }
            self.step(until_us);
        }
        done(self)
    }

    fn step(&mut self, until_us: u64) {
        let frame_us = self.frames.keys().next().map_or(u64::MAX, |at| at.0);
        let host_us = (0..NODES).map(|at| self.due_us(at)).min();
        let next_us = frame_us.min(host_us.unwrap_or(u64::MAX));
        self.now_us = self.now_us.max(next_us).min(until_us);
        while let Some((from, to, frame)) = self.pop_frame() {
            let process = self.hosts[to].process.as_ref().expect("it runs");
            process.deliver(from, frame);
        }
        for at in 0..NODES {
            if self.due_us(at) <= self.now_us {
                self.turn(at);
            }
        }
    }

    fn pop_frame(&mut self) -> Option<(usize, usize, Bytes)> {
        let first = self.frames.first_entry()?;
        (first.key().0 <= self.now_us).then(|| first.remove())
    }

    fn due_us(&self, at: usize) -> u64 {
        let host = &self.hosts[at];
        let woken = host.process.as_ref().is_some_and(|p| p.is_woken());
        let turn_us = if woken { 0 } else { self.due[at] };
        turn_us.min(host.drive.next_due_us().unwrap_or(u64::MAX))
    }

    fn turn(&mut self, at: usize) {
        let host = &mut self.hosts[at];
        host.drive.set_now(self.now_us);
        let turned = host.process.as_mut().expect("it runs").turn(self.now_us);
        // Time must pass between two turns.
        let next_us = turned.next_us.unwrap_or(u64::MAX);
        self.due[at] = next_us.max(self.now_us + 1);
        for (to, frame) in turned.frames {
            self.sent += 1;
            let when = (self.now_us + HOP_US, self.sent);
            self.frames.insert(when, (at, to, frame));
        }
    }

    fn leader(&self) -> Option<usize> {
        let leads = |at: &usize| self.hosts[*at].process.as_ref().and_then(|p| p.leads());
        (0..NODES)
            .filter(|at| leads(at).is_some())
            .max_by_key(leads)
    }

    fn put(&mut self, at: usize, key: &'static str) -> AnswerReceiver {
        let put = Op::Put {
            key: Bytes::from_static(key.as_bytes()),
            value: Bytes::from_static(b"x"),
            prev_kv: false,
        };
        let process = self.hosts[at].process.as_ref().expect("it runs");
        let answer = process.ask(RequestKind::Write(put.encode()));
        answer.expect("the inbox has room")
    }

    fn is_stuck(&self, at: usize) -> bool {
        let process = self.hosts[at].process.as_ref().expect("it runs");
        process.metrics().log_stuck
    }

    fn revision(&self, at: usize) -> i64 {
        self.hosts[at].process.as_ref().map_or(0, |p| p.revision())
    }
}

fn is_done(answer: &mut AnswerReceiver) -> bool {
    let mut cx = Context::from_waker(Waker::noop());
    let done = Pin::new(answer).poll(&mut cx);
    matches!(
        done,
        Poll::Ready(Ok(Reply {
            body: Response::Put(_),
            ..
        }))
    )
}

#[test]
fn a_leader_whose_disk_hangs_stops_leading() {
    for seed in 1..=10 {
        println!("seed {seed}");
        let mut cluster = Cluster::new(seed);
        assert!(cluster.run(START_US + 5 * SECOND_US, |c| c.leader().is_some()));
        let old = cluster.leader().expect("just seen");
        let mut first = cluster.put(old, "before");
        cluster.run(cluster.now_us + SECOND_US, |_| false);
        assert!(is_done(&mut first));

        cluster.hosts[old].drive.hang(true);
        let hung_us = cluster.now_us;
        drop(cluster.put(old, "while it hangs"));
        let elected = |c: &Cluster| c.leader().is_some_and(|now| now != old);
        assert!(
            !cluster.run(hung_us + STUCK_US - SECOND_US, elected),
            "it is slow, not stuck"
        );
        assert!(!cluster.is_stuck(old));
        let within_us = hung_us + STUCK_US + 3 * SECOND_US;
        assert!(cluster.run(within_us, elected), "the others have no leader");
        assert!(cluster.is_stuck(old));
        let new = cluster.leader().expect("just seen");
        let mut second = cluster.put(new, "after");
        cluster.run(cluster.now_us + SECOND_US, |_| false);
        assert!(is_done(&mut second), "the others go on");
        let old_leads = cluster.hosts[old].process.as_ref().and_then(|p| p.leads());
        assert_eq!(old_leads, None, "it has stepped down");

        cluster.hosts[old].drive.hang(false);
        let caught_up = |c: &Cluster| !c.is_stuck(old) && c.revision(old) == c.revision(new);
        assert!(
            cluster.run(cluster.now_us + 3 * SECOND_US, caught_up),
            "it does not come back"
        );
    }
}
