//! Linearizable reads: ReadIndex (raft thesis §6.4).
//!
//! All reads that arrive in a turn share one ReadIndex round. When the leader has confirmed its
//! leadership the round learns an index; once that index is applied here the reads are answered from
//! the local store. A round that gets no answer is asked again every [`RETRY_MS`], as etcd does, and when the
//! leader changes.
//! Must never know: what is read, callers' threads.

use std::collections::{BTreeMap, VecDeque};

use henge_api::{Error, Outcome};

use super::cursor::Cursor;
use super::request::Answer;
use super::{Shard, times};
use crate::machine::{Response, command};
use crate::work::{ENTRY_NANOS, SHARE_NANOS, TURN_NANOS};

/// Milliseconds until a ReadIndex round without an answer is asked again (etcd: 500).
pub const RETRY_MS: u64 = 500;

/// Linearizable reads that a shard lets wait; more are refused, as without a leader they would pile up.
pub const WAITING_MAX: usize = 65_536;

/// Rounds that are opened in one turn: each is a message and, if it asks about leases, eight bytes for each.
const ROUNDS_OPENED_MAX: usize = 8;

/// Reads whose keys are announced to the store together.
const TOUCH_READS: usize = 16;

/// What a linearizable read wants from the store.
#[derive(Debug)]
pub enum Read {
    /// An encoded range or read-only transaction.
    Encoded(Vec<u8>),
    /// An encoded range that is to be read in slices from here.
    Cursor {
        /// The range.
        encoded: Vec<u8>,
        /// Where to keep it.
        cursor: Cursor,
    },
    /// A lease's remaining time.
    TimeToLive {
        /// Which lease.
        id: i64,
        /// With its keys.
        keys: bool,
        /// What the leader said of it: seconds, below 0 if there is none.
        left: Option<i64>,
    },
    /// The alarms that are raised.
    Alarms,
    /// The next slice of a range.
    CursorNext(Cursor),
    /// All leases.
    Leases,
    /// Nothing but the moment.
    Barrier,
}

/// Reads of one shard that are not answered yet.
pub struct Reads {
    /// Arrived, not part of a round yet.
    arrived: VecDeque<Waiting>,
    /// Rounds in the order they were asked.
    rounds: VecDeque<Round>,
    /// May be answered, as soon as a turn has time for them.
    due: VecDeque<Waiting>,
    next_context: u64,
    /// Rounds that were given up, or were confirmed when nobody waited any more.
    slow: u64,
    /// Rounds whose leader was lost before it confirmed.
    failed: u64,
}

struct Waiting {
    read: Read,
    answer: Answer,
    expires_ms: u64,
}

struct Round {
    context: u64,
    /// 0: not of the present leader.
    asked_ms: u64,
    /// Known once the leader has confirmed.
    index: Option<u64>,
    /// Leases that it asks about.
    leases: Vec<i64>,
    reads: Vec<Waiting>,
    /// Some of its reads were given up.
    is_late: bool,
}

impl Round {
    /// What the leader said of the leases, for those who wait for it.
    fn told(&mut self, said: &[u8]) {
        let Some(said) = times::told(&self.leases, said) else {
            return;
        };
        let said: BTreeMap<_, _> = self.leases.iter().copied().zip(said).collect();
        for waiting in &mut self.reads {
            if let Read::TimeToLive { id, left, .. } = &mut waiting.read {
                *left = said.get(id).copied();
            }
        }
    }
}

impl Reads {
    /// Rounds are named from `first_context` on, which must be larger than any name of an earlier run:
    /// a leader may still answer a round that this member asked before it restarted, and that answer
    /// must not pass for one to a round of now.
    pub fn new(first_context: u64) -> Self {
        Reads {
            arrived: VecDeque::new(),
            rounds: VecDeque::new(),
            due: VecDeque::new(),
            next_context: first_context,
            slow: 0,
            failed: 0,
        }
    }

    /// The name of the newest round.
    #[cfg(test)]
    pub(crate) fn last_context(&self) -> u64 {
        self.next_context - 1
    }

    /// Rounds so far that were slow, and that failed: see `Metrics`.
    pub fn counts(&self) -> (u64, u64) {
        (self.slow, self.failed)
    }

    /// Whether no read waits.
    pub fn is_empty(&self) -> bool {
        self.arrived.is_empty() && self.rounds.is_empty() && self.due.is_empty()
    }

    /// Whether some may be answered.
    pub fn has_due(&self) -> bool {
        !self.due.is_empty()
    }

    /// Answers *not done* to reads whose time is over.
    pub fn expire(&mut self, now_ms: u64) {
        let late = Error::Timeout {
            outcome: Outcome::NotDone,
        };
        let expire = |reads: &mut Vec<Waiting>| {
            let is_late = reads
                .first()
                .is_some_and(|first| first.expires_ms <= now_ms);
            if is_late {
                for waiting in reads.extract_if(.., |waiting| waiting.expires_ms <= now_ms) {
                    waiting.answer.send(Err(late.clone()));
                }
            }
            is_late
        };
        // Nobody could be asked.
        let is_late = |waiting: &mut Waiting| waiting.expires_ms <= now_ms;
        let before = self.arrived.len();
        while let Some(waiting) = self.arrived.pop_front_if(is_late) {
            waiting.answer.send(Err(late.clone()));
        }
        self.slow += u64::from(self.arrived.len() < before);
        while self
            .due
            .front()
            .is_some_and(|first| first.expires_ms <= now_ms)
            && let Some(waiting) = self.due.pop_front()
        {
            waiting.answer.send(Err(late.clone()));
        }
        for round in &mut self.rounds {
            let is_late = expire(&mut round.reads) && round.index.is_none();
            if is_late && !std::mem::replace(&mut round.is_late, true) {
                self.slow += 1;
            }
        }
        self.rounds.retain(|round| !round.reads.is_empty());
    }

    /// Rounds without an answer are asked again at once: whoever was asked leads no more.
    pub fn ask_again(&mut self) {
        for round in &mut self.rounds {
            let was_asked = std::mem::take(&mut round.asked_ms) != 0;
            self.failed += u64::from(was_asked && round.index.is_none());
        }
    }

    /// Those that arrived, up to so many questions about leases, and the leases.
    fn next_round(&mut self) -> (Vec<Waiting>, Vec<i64>) {
        let mut leases = Vec::new();
        let mut count = 0;
        for waiting in &self.arrived {
            if let Read::TimeToLive { id, .. } = waiting.read {
                if leases.len() == times::ASKED_MAX {
                    break;
                }
                leases.push(id);
            }
            count += 1;
        }
        (self.arrived.drain(..count).collect(), leases)
    }

    /// Answers everyone with the same error.
    pub fn fail_all(&mut self, error: &Error) {
        let rounds = std::mem::take(&mut self.rounds)
            .into_iter()
            .flat_map(|round| round.reads);
        let due = std::mem::take(&mut self.due);
        let arrived = std::mem::take(&mut self.arrived).into_iter();
        for waiting in arrived.chain(rounds).chain(due) {
            waiting.answer.send(Err(error.clone()));
        }
    }
}

impl Shard {
    pub(super) fn read_later(&mut self, read: Read, answer: Answer, now_ms: u64) {
        let rounds = self.reads.rounds.iter().map(|round| round.reads.len());
        if self.reads.arrived.len() + rounds.sum::<usize>() >= WAITING_MAX {
            return self.answer(answer, Err(Error::TooManyRequests));
        }
        let expires_ms = now_ms + self.config.request_timeout_ms;
        self.reads.arrived.push_back(Waiting {
            read,
            answer,
            expires_ms,
        });
    }

    /// Opens a round for the reads that arrived, and asks again for rounds that got no answer.
    pub(super) fn ask_read_index(&mut self, now_ms: u64) {
        if self.is_alone() {
            return self.read_alone(now_ms);
        }
        if self.raft.leader() == henge_raft::NONE {
            return;
        }
        for round in &mut self.reads.rounds {
            if round.index.is_none() && (round.asked_ms == 0 || now_ms >= round.asked_ms + RETRY_MS)
            {
                round.asked_ms = now_ms.max(1);
                self.raft
                    .read_index(times::question(round.context, &round.leases));
            }
        }
        for _ in 0..ROUNDS_OPENED_MAX {
            if self.reads.arrived.is_empty() {
                return;
            }
            let (reads, leases) = self.reads.next_round();
            let context = self.reads.next_context;
            self.reads.next_context += 1;
            self.raft.read_index(times::question(context, &leases));
            self.reads.rounds.push_back(Round {
                context,
                asked_ms: now_ms.max(1),
                index: None,
                leases,
                reads,
                is_late: false,
            });
        }
    }

    /// Whether there is somebody to ask for reads that there was no room for in the rounds of this turn.
    pub(super) fn asks_more(&self) -> bool {
        !self.is_over() && !self.reads.arrived.is_empty() && self.raft.leader() != henge_raft::NONE
    }

    /// Nobody else can have taken a write, so nobody needs to be asked, nor need this member lead: on a full
    /// disk it may be a while until it does.
    fn read_alone(&mut self, asked_ms: u64) {
        if self.reads.arrived.is_empty() {
            return;
        }
        let reads = std::mem::take(&mut self.reads.arrived).into();
        let context = self.reads.next_context;
        self.reads.next_context += 1;
        let index = Some(self.raft.commit_index());
        self.reads.rounds.push_back(Round {
            context,
            asked_ms,
            index,
            leases: Vec::new(),
            reads,
            is_late: false,
        });
    }

    /// The leader confirmed a round: its reads may be answered once `index` is applied.
    pub(super) fn confirm_read(&mut self, context: &[u8], index: u64) {
        let Some((context, said)) = context.split_first_chunk() else {
            return;
        };
        let context = u64::from_le_bytes(*context);
        let at = self
            .reads
            .rounds
            .partition_point(|round| round.context < context);
        if let Some(round) = self.reads.rounds.get_mut(at)
            && round.context == context
            && round.index.is_none()
        {
            round.index = Some(index);
            round.told(said);
        } else {
            self.reads.slow += 1;
        }
    }

    /// Takes a read that may be answered from the store as it is at any time from now on.
    pub(super) fn read_at_once(&mut self, read: Read, answer: Answer, now_ms: u64) {
        if self.reads.due.len() >= WAITING_MAX {
            return self.answer(answer, Err(Error::TooManyRequests));
        }
        let expires_ms = now_ms + self.config.request_timeout_ms;
        self.reads.due.push_back(Waiting {
            read,
            answer,
            expires_ms,
        });
        // Before anything is applied, for which half of the turn has to be left.
        let until = self.turn.until(SHARE_NANOS).min(TURN_NANOS / 2);
        self.answer_due(until, now_ms);
    }

    /// Answers the rounds whose index is applied, as far as the turn has time.
    pub(super) fn answer_reads(&mut self, now_ms: u64) {
        let applied = self.machine.applied_index;
        while let Some(at) = self
            .reads
            .rounds
            .iter()
            .position(|round| round.index.is_some_and(|index| index <= applied))
        {
            let Some(round) = self.reads.rounds.remove(at) else {
                break;
            };
            self.reads.due.extend(round.reads);
        }
        self.answer_due(self.turn.until(SHARE_NANOS), now_ms);
    }

    /// Answers reads that may be answered, until the turn's account is at `until`.
    pub(super) fn answer_due(&mut self, until: u64, now_ms: u64) {
        for at in 0.. {
            if !self.turn.is_before(until) {
                return;
            }
            if at % TOUCH_READS == 0 {
                self.touch_reads(self.reads.due.as_slices().0);
            }
            let Some(waiting) = self.reads.due.pop_front() else {
                return;
            };
            self.answer_read(waiting, now_ms);
            self.turn.spend(ENTRY_NANOS);
            self.charge();
        }
    }

    fn answer_read(&mut self, waiting: Waiting, now_ms: u64) {
        let Waiting { read, answer, .. } = waiting;
        let response = match read {
            Read::Encoded(encoded) => return self.read_now(encoded, answer),
            Read::TimeToLive {
                id,
                keys: true,
                left,
            } if self.machine.store.lease_keys_are_long(id) => {
                return self.read_lease_keys(id, left, answer, now_ms);
            }
            Read::Cursor { encoded, cursor } => self.cursor_begin(&encoded, &cursor),
            Read::CursorNext(cursor) => self.cursor_next(&cursor),
            Read::TimeToLive { id, keys, left } => {
                Ok(Response::Ttl(self.time_to_live(id, keys, left, now_ms)))
            }
            Read::Leases => return self.read_leases(answer),
            Read::Alarms => Ok(Response::Alarms(self.alarms())),
            Read::Barrier => Ok(Response::Done),
        };
        self.answer(answer, response);
    }

    /// Lets the store load what the next few reads of one key will look at: one by one each of them would
    /// wait for memory five times, longer than for all the rest of it.
    fn touch_reads(&self, next: &[Waiting]) {
        let mut keys = [&[][..]; TOUCH_READS];
        let encoded = next.iter().take(TOUCH_READS).filter_map(|waiting| {
            let Read::Encoded(encoded) = &waiting.read else {
                return None;
            };
            command::get_key(encoded)
        });
        let count = keys
            .iter_mut()
            .zip(encoded)
            .map(|(slot, key)| *slot = key)
            .count();
        // One read gains nothing from looking its key up twice.
        if count > 1 {
            self.machine.store.touch_reads(&keys[..count]);
        }
    }
}
