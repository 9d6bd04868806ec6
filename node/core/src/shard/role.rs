//! Elections and leaders, said when they change: what an operator reads at three in the morning.
//!
//! Raft itself logs nothing; its role, term and leader as of each turn are enough to tell the story. Only a
//! group with several voters has one: the lead of a group that is alone says nothing, and an engine has
//! thousands of those.
//! Must never know: how lines are written. Tested by `tests/log_lines` with a real cluster.

use henge_api::Member;
use henge_raft::{NONE, RoleKind};

use super::Shard;

/// What was said last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Said {
    role: RoleKind,
    term: u64,
    leader: u64,
}

/// A member's name and first peer URL, or nothing for one that nobody named.
pub fn who(members: &[Member], id: u64) -> (&str, &str) {
    members
        .iter()
        .find(|member| member.id == id)
        .map_or(("", ""), |member| {
            let url = member.peer_urls.first().map_or("", String::as_str);
            (&member.name, url)
        })
}

/// What happened between two looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    LostLeader,
    LeadsNoLonger,
    Begins,
    Won,
    Lost,
    FoundLeader,
}

/// In the order in which it makes sense to a reader.
fn changes(before: Said, now: Said, member_id: u64) -> Vec<Change> {
    let asks = |said: Said| matches!(said.role, RoleKind::PreCandidate | RoleKind::Candidate);
    let leads = |said: Said| said.role == RoleKind::Leader;
    let found = now.leader != NONE && now.leader != before.leader && now.leader != member_id;
    let table = [
        (
            Change::LostLeader,
            before.leader != NONE && before.leader != member_id && now.leader == NONE,
        ),
        (Change::LeadsNoLonger, leads(before) && !leads(now)),
        (Change::Begins, asks(now) && !asks(before)),
        (Change::Won, leads(now) && !leads(before)),
        (Change::Lost, asks(before) && now.role == RoleKind::Follower),
        (Change::FoundLeader, found),
    ];
    let happened = table.into_iter().filter(|(_, happened)| *happened);
    happened.map(|(change, _)| change).collect()
}

impl Shard {
    /// Once per tick: what it costs is a copy of what the leader knows of each member.
    pub(super) fn note_lag(&mut self) {
        self.follower_lag = Default::default();
        if self.is_alone() || !self.is_leader() {
            return;
        }
        let status = self.raft.status();
        let others = status.progress.iter();
        let others = others.filter(|(id, _)| *id != self.config.member_id);
        for (slot, (id, progress)) in self.follower_lag.iter_mut().zip(others) {
            *slot = (id, status.last_index.saturating_sub(progress.matched));
        }
    }

    /// Notes who leads, as soon as that is somebody else.
    pub(super) fn note_leader(&mut self, now_ms: u64) {
        let leader = self.raft.leader();
        if leader == self.leader_seen {
            return;
        }
        self.leader_seen = leader;
        // Another one to ask: what came back is proposed again, what got no answer is asked again.
        self.hold_until_ms = 0;
        self.reads.ask_again();
        if leader == henge_raft::NONE {
            return;
        }
        self.leader_changes += 1;
        if leader == self.config.member_id {
            // A new leader does not know what was renewed last: it gives every lease its full time
            // again and one election timeout more (etcd's Promote). That is said here, and done in slices.
            let extra = self.config.election_ticks * self.config.tick_ms;
            self.machine.store.leases_extend(now_ms, extra);
        }
    }

    /// Says what has changed since it was asked last.
    pub(super) fn say_role(&mut self) {
        if self.is_alone() {
            return;
        }
        let now = Said {
            role: self.raft.role(),
            term: self.raft.term(),
            leader: self.raft.leader(),
        };
        let before = std::mem::replace(&mut self.said, now);
        if now != before {
            for change in changes(before, now, self.config.member_id) {
                self.say(change, before, now);
            }
        }
    }

    fn say(&self, change: Change, before: Said, now: Said) {
        let (group, term) = (self.config.group, now.term);
        let id = match change {
            Change::LostLeader => before.leader,
            _ => now.leader,
        };
        let (leader_name, leader_url) = who(&self.config.members, id);
        let leader = format!("{id:x}");
        match change {
            Change::LostLeader => {
                tracing::warn!(
                    group,
                    term,
                    leader,
                    leader_name,
                    leader_url,
                    "lost the leader"
                );
            }
            Change::LeadsNoLonger => {
                let was_term = before.term;
                tracing::warn!(group, term, was_term, "this member leads no longer");
            }
            Change::Begins => {
                let voters = self.config.voters.len();
                tracing::info!(
                    group,
                    term,
                    voters,
                    "an election begins: this member asks for votes"
                );
            }
            Change::Won => {
                let last_index = self.raft.last_index();
                tracing::info!(
                    group,
                    term,
                    last_index,
                    "won the election: this member leads"
                );
            }
            Change::Lost => {
                tracing::info!(group, term, "lost the election: this member follows");
            }
            Change::FoundLeader => {
                tracing::info!(
                    group,
                    term,
                    leader,
                    leader_name,
                    leader_url,
                    "found the leader"
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_step_of_an_election_is_one_change() {
        let said = |role, term, leader| Said { role, term, leader };
        let follower = |term, leader| said(RoleKind::Follower, term, leader);
        let asking = said(RoleKind::PreCandidate, 4, NONE);
        let candidate = said(RoleKind::Candidate, 5, NONE);
        let leader = said(RoleKind::Leader, 5, 1);
        let table: [(Said, Said, &[Change]); 9] = [
            (follower(4, NONE), asking, &[Change::Begins]),
            (
                follower(4, 2),
                asking,
                &[Change::LostLeader, Change::Begins],
            ),
            (asking, candidate, &[]),
            (candidate, leader, &[Change::Won]),
            (
                candidate,
                follower(5, 3),
                &[Change::Lost, Change::FoundLeader],
            ),
            (asking, follower(4, NONE), &[Change::Lost]),
            (
                leader,
                follower(6, 2),
                &[Change::LeadsNoLonger, Change::FoundLeader],
            ),
            (follower(5, 2), follower(6, 3), &[Change::FoundLeader]),
            (follower(5, 2), follower(6, 2), &[]),
        ];
        for (before, now, due) in table {
            assert_eq!(changes(before, now, 1), due, "{before:?} -> {now:?}");
        }
    }

    #[test]
    fn a_member_is_called_by_its_name_and_url() {
        let member = Member {
            id: 7,
            name: "b".to_owned(),
            peer_urls: vec!["http://b:1".to_owned(), "http://b:2".to_owned()],
            ..Member::default()
        };
        assert_eq!(who(std::slice::from_ref(&member), 7), ("b", "http://b:1"));
        assert_eq!(who(&[member], 8), ("", ""));
    }
}
