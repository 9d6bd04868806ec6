//! The course that raft libraries run: the same work, driven the same way, whichever library it is.
//!
//! Promises: a library is driven through [`Member`] only; every member gets the same calls in the same
//! order; every payload proposed is counted when each of the three members has applied it. One thread,
//! no sockets, no disk: what is measured is the library and its storage in memory.
//! Must never know: any library.
//! Tested below with a library that is no library, and by `--bin raft`, which runs two.

use bytes::Bytes;

/// Members of a group.
pub const MEMBERS: u64 = 3;
/// Applied entries that stay in the log when it is compacted, and how many more make it worth it.
pub const LOG_KEPT: u64 = 1_024;
const COMPACT_EVERY: u64 = 4_096;
/// Turns within which a group must have elected a leader, or applied what was proposed.
const TURNS_MAX: usize = 1_000;

/// How the members of a group are set up.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Ticks between a leader's heartbeats.
    pub heartbeat_tick: u32,
    /// Ticks without a leader before a member campaigns.
    pub election_tick: u32,
    /// Append messages in flight to one follower.
    pub inflight: usize,
}

/// One member of one group, with its storage.
pub trait Member: Sized {
    /// What members say to each other.
    type Message;
    /// What a printed table calls the library.
    const NAME: &'static str;

    /// Member `id` of a new group of [`MEMBERS`].
    fn start(id: u64, settings: Settings) -> Self;
    /// Starts an election.
    fn campaign(&mut self);
    /// A tick of the clock. Returns whether there is work now.
    fn tick(&mut self) -> bool;
    /// Proposes all of these, in the cheapest way the library has.
    fn propose(&mut self, payloads: &[Bytes]);
    /// Takes a message.
    fn step(&mut self, message: Self::Message);
    /// Stores, applies, and puts what is to be sent into `out`, with its target.
    fn work(&mut self, out: &mut Vec<(u64, Self::Message)>);
    /// Whether it leads.
    fn leads(&self) -> bool;
    /// Payloads applied, and the log index of the last one.
    fn applied(&self) -> Applied;
    /// Drops the log up to `index`.
    fn compact(&mut self, index: u64);
}

/// What a member has applied.
#[derive(Clone, Copy, Debug, Default)]
pub struct Applied {
    /// Payloads that were not empty.
    pub count: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The last log index.
    pub index: u64,
}

impl Applied {
    /// One more entry.
    pub fn add(&mut self, index: u64, payload: &[u8]) {
        self.index = index;
        self.bytes += payload.len() as u64;
        self.count += u64::from(!payload.is_empty());
    }
}

/// One group: three members and what is on its way between them.
pub struct Group<M: Member> {
    members: Vec<M>,
    inboxes: Vec<Vec<M::Message>>,
    /// Reused from turn to turn.
    taken: Vec<M::Message>,
    out: Vec<(u64, M::Message)>,
    compacted: u64,
}

impl<M: Member> Group<M> {
    /// A group whose member `leader` leads.
    ///
    /// # Panics
    /// If nobody is elected: then there is nothing to measure.
    pub fn elected(settings: Settings, leader: u64) -> Group<M> {
        let mut group = Group {
            members: (1..=MEMBERS).map(|id| M::start(id, settings)).collect(),
            inboxes: (1..=MEMBERS).map(|_| Vec::new()).collect(),
            taken: Vec::new(),
            out: Vec::new(),
            compacted: 0,
        };
        group.members[(leader - 1) as usize].campaign();
        group.settle();
        assert!(group.members[(leader - 1) as usize].leads());
        group
    }

    /// Proposes `batches` times `payloads`, a batch a turn, and goes on until all three members have
    /// applied everything. Returns how many payloads that were.
    ///
    /// # Panics
    /// If something gets lost: the work would not be the same.
    pub fn replicate(&mut self, batches: usize, payloads: &[Bytes]) -> u64 {
        let before = self.applied_least().count;
        for _ in 0..batches {
            let leader = self.members.iter_mut().find(|member| member.leads());
            leader
                .expect("a leader that nobody disturbs")
                .propose(payloads);
            self.turn();
            self.compact();
        }
        let proposed = (batches * payloads.len()) as u64;
        let is_done = (0..TURNS_MAX).any(|_| {
            self.turn();
            self.applied_least().count == before + proposed
        });
        assert!(is_done, "{} lost proposals", M::NAME);
        proposed
    }

    /// Ticks the member at `position` only. Returns whether it has work.
    pub fn tick(&mut self, position: usize) -> bool {
        self.members[position].tick()
    }

    /// Works until nobody has anything to do.
    ///
    /// # Panics
    /// If that never happens.
    pub fn settle(&mut self) {
        let is_quiet = (0..TURNS_MAX).any(|_| self.turn() == 0);
        assert!(is_quiet, "{} does not come to rest", M::NAME);
    }

    /// Every member takes what came in, and does what there is to do. Returns how many messages were
    /// sent.
    fn turn(&mut self) -> usize {
        let mut sent = 0;
        for position in 0..self.members.len() {
            let member = &mut self.members[position];
            std::mem::swap(&mut self.taken, &mut self.inboxes[position]);
            for message in self.taken.drain(..) {
                member.step(message);
            }
            member.work(&mut self.out);
            sent += self.out.len();
            for (to, message) in self.out.drain(..) {
                self.inboxes[(to - 1) as usize].push(message);
            }
        }
        sent
    }

    /// What all three have applied.
    fn applied_least(&self) -> Applied {
        let all = self.members.iter().map(M::applied);
        all.min_by_key(|applied| applied.count).unwrap_or_default()
    }

    fn compact(&mut self) {
        let index = self.applied_least().index.saturating_sub(LOG_KEPT);
        if index > self.compacted + COMPACT_EVERY {
            self.members
                .iter_mut()
                .for_each(|member| member.compact(index));
            self.compacted = index;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Passes on what it gets and applies it at once.
    #[derive(Default)]
    struct Copier {
        id: u64,
        leads: bool,
        out: Vec<(u64, Bytes)>,
        applied: Applied,
        compacted: u64,
        forgets: bool,
    }

    impl Member for Copier {
        type Message = Bytes;
        const NAME: &'static str = "copier";

        fn start(id: u64, settings: Settings) -> Copier {
            let forgets = settings.inflight == 0 && id == 2;
            Copier {
                id,
                forgets,
                ..Copier::default()
            }
        }
        fn campaign(&mut self) {
            self.leads = true;
        }
        fn tick(&mut self) -> bool {
            false
        }
        fn propose(&mut self, payloads: &[Bytes]) {
            for payload in payloads {
                self.step(payload.clone());
                let others = (1..=MEMBERS).filter(|id| *id != self.id);
                self.out.extend(others.map(|to| (to, payload.clone())));
            }
        }
        fn step(&mut self, message: Bytes) {
            if !self.forgets {
                self.applied.add(self.applied.index + 1, &message);
            }
        }
        fn work(&mut self, out: &mut Vec<(u64, Bytes)>) {
            out.append(&mut self.out);
        }
        fn leads(&self) -> bool {
            self.leads
        }
        fn applied(&self) -> Applied {
            self.applied
        }
        fn compact(&mut self, index: u64) {
            self.compacted = index;
        }
    }

    const SETTINGS: Settings = Settings {
        heartbeat_tick: 1,
        election_tick: 10,
        inflight: 1,
    };

    #[test]
    fn everything_is_applied_by_everyone_and_the_log_stays_short() {
        let mut group: Group<Copier> = Group::elected(SETTINGS, 3);
        let payloads = vec![Bytes::from_static(b"one"), Bytes::from_static(b"two")];
        assert_eq!(group.replicate(5_000, &payloads), 10_000);
        assert!(group.members.iter().all(|it| it.applied.count == 10_000));
        assert!(group.members.iter().all(|it| it.compacted > 5_000));
    }

    #[test]
    #[should_panic(expected = "lost proposals")]
    fn a_library_that_loses_proposals_is_not_measured() {
        let settings = Settings {
            inflight: 0,
            ..SETTINGS
        };
        let mut group: Group<Copier> = Group::elected(settings, 1);
        group.replicate(1, &[Bytes::from_static(b"lost")]);
    }
}
