//! A replicated list of words on three nodes, in one file and one thread: an election, writes, a
//! linearizable read, a leader that dies, a new one, and the old one's return.
//!
//! `cargo run -p henge-raft --example three_nodes`
//!
//! What a real host does differently: its storage is durable (it syncs where `store` says so), its wire is a
//! network, and a clock calls `tick`. Who starts and stops nodes, and what the words mean, is up to it, too.

use std::collections::{BTreeMap, VecDeque};
use std::error::Error;

use bytes::Bytes;
use henge_raft::{
    Config, EntryKind, MemoryStorage, Message, NONE, RawNode, Ready, RoleKind, SnapshotStatus,
};

type Outcome<T> = Result<T, Box<dyn Error>>;

const IDS: [u64; 3] = [1, 2, 3];
/// Ticks that anything here may take; an election takes 10 to 20.
const TICKS_MAX: usize = 200;

/// One node with its state machine.
struct Host {
    node: RawNode<MemoryStorage>,
    /// The state machine: all words written so far.
    words: Vec<String>,
    /// The last index that is in `words`.
    applied: u64,
    /// Reads that may be served as soon as this index is applied: (index, the reader's own number).
    reads: Vec<(u64, u8)>,
}

impl Host {
    /// Starts from what `storage` has. The words are in memory only: all entries are applied again.
    fn start(id: u64, storage: MemoryStorage) -> Outcome<Host> {
        Ok(Host {
            node: RawNode::new(Config::new(id), storage)?,
            words: Vec::new(),
            applied: 0,
            reads: Vec::new(),
        })
    }

    /// Does all that the node wants done, in the order that `Ready` describes; returns what is to be sent.
    fn work(&mut self) -> Outcome<Vec<Message>> {
        let mut sent = Vec::new();
        while self.node.has_ready() {
            let mut ready = self.node.ready();
            self.store(&mut ready)?;
            sent.append(&mut ready.messages);
            let reads = ready.read_states.iter();
            self.reads
                .extend(reads.map(|read| (read.index, read.context[0])));
            for entry in &ready.committed_entries {
                self.applied = entry.index;
                // New leaders begin with an empty entry. Membership changes would go to
                // `apply_conf_change`; there are none here.
                if entry.kind == EntryKind::Normal && !entry.data.is_empty() {
                    self.words.push(String::from_utf8(entry.data.to_vec())?);
                }
            }
            self.node.advance();
        }
        Ok(sent)
    }

    /// A durable storage would sync here if `ready.must_sync`, before anything is sent.
    fn store(&mut self, ready: &mut Ready) -> Outcome<()> {
        let storage = self.node.storage_mut();
        if let Some(snapshot) = ready.snapshot.take() {
            storage.apply_snapshot(snapshot)?;
        }
        storage.append(&ready.entries)?;
        storage.set_hard_state(ready.hard_state);
        Ok(())
    }
}

/// The nodes that are up, and the messages between them.
#[derive(Default)]
struct Cluster {
    hosts: BTreeMap<u64, Host>,
    wire: VecDeque<Message>,
}

impl Cluster {
    /// Time passes until `is_done`.
    fn run_until(&mut self, is_done: impl Fn(&Cluster) -> bool) -> Outcome<()> {
        for _ in 0..TICKS_MAX {
            self.work()?;
            if is_done(self) {
                return Ok(());
            }
            self.hosts.values_mut().for_each(|host| host.node.tick());
        }
        Err("it takes too long".into())
    }

    /// Delivers messages until nobody has anything more to say.
    fn work(&mut self) -> Outcome<()> {
        loop {
            for host in self.hosts.values_mut() {
                self.wire.extend(host.work()?);
            }
            let Some(message) = self.wire.pop_front() else {
                return Ok(());
            };
            self.deliver(message);
        }
    }

    fn deliver(&mut self, message: Message) {
        let (from, to, is_snapshot) = (message.from, message.to, message.snapshot.is_some());
        let is_delivered = match self.hosts.get_mut(&to) {
            // What is refused was late, or someone is wrong: the group goes on.
            Some(host) => host.node.step(message).is_ok(),
            None => false,
        };
        // A transport tells the sender what it knows of the fate of its messages.
        let Some(sender) = self.hosts.get_mut(&from) else {
            return;
        };
        match (is_snapshot, is_delivered) {
            (true, true) => sender.node.report_snapshot(to, SnapshotStatus::Finish),
            (true, false) => sender.node.report_snapshot(to, SnapshotStatus::Failure),
            (false, true) => {}
            (false, false) => sender.node.report_unreachable(to),
        }
    }

    fn leader(&self) -> Option<u64> {
        let leads = |host: &&Host| host.node.role() == RoleKind::Leader;
        self.hosts.values().find(leads).map(|host| host.node.id())
    }

    fn host(&mut self, id: u64) -> Outcome<&mut Host> {
        self.hosts
            .get_mut(&id)
            .ok_or_else(|| format!("node {id} is down").into())
    }

    fn write(&mut self, id: u64, word: &str) -> Outcome<()> {
        let data = Bytes::copy_from_slice(word.as_bytes());
        // Any node takes it; a follower passes it on to the leader.
        self.host(id)?.node.propose(data)?;
        let last = |host: &Host| host.words.last().is_some_and(|last| last == word);
        self.run_until(|it| it.hosts.values().all(last))
    }

    /// All words written before now, as seen by node `id`, whatever it has applied so far.
    fn read(&mut self, id: u64, number: u8) -> Outcome<Vec<String>> {
        // A node that knows no leader has nobody to ask, and drops the question.
        self.run_until(|it| it.hosts[&id].node.leader() != NONE)?;
        let context = Bytes::copy_from_slice(&[number]);
        self.host(id)?.node.read_index(context);
        self.run_until(|it| {
            let host = &it.hosts[&id];
            let is_answer = |(index, of): &(u64, u8)| *of == number && *index <= host.applied;
            host.reads.iter().any(is_answer)
        })?;
        Ok(self.host(id)?.words.clone())
    }
}

fn main() -> Outcome<()> {
    let mut cluster = Cluster::default();
    for id in IDS {
        // Every first member starts from the same list of voters.
        let host = Host::start(id, MemoryStorage::with_voters(&IDS))?;
        cluster.hosts.insert(id, host);
    }
    cluster.run_until(|it| it.leader().is_some())?;
    let first = cluster.leader().ok_or("nobody leads")?;
    println!("{first} leads");

    let follower = 1 + first % 3;
    cluster.write(first, "standing")?;
    cluster.write(follower, "stones")?;
    let words = cluster.read(follower, 1)?;
    println!("{follower} reads {words:?}");
    assert_eq!(words, ["standing", "stones"]);

    let dead = cluster.hosts.remove(&first).ok_or("it was up")?;
    println!("{first} dies");
    cluster.run_until(|it| it.leader().is_some())?;
    let second = cluster.leader().ok_or("nobody leads")?;
    println!("{second} leads");
    cluster.write(second, "stay")?;

    // What it had stored is all it knows when it comes back.
    let host = Host::start(first, dead.node.storage().clone())?;
    cluster.hosts.insert(first, host);
    let words = cluster.read(first, 2)?;
    println!("{first} is back and reads {words:?}");
    assert_eq!(words, ["standing", "stones", "stay"]);
    Ok(())
}
