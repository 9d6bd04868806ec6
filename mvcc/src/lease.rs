//! Leases: what keys are attached to, and when they run out.
//!
//! Two parts with different owners. The *replicated* part (id, time to live, attachments, the last
//! command that granted or renewed it) changes only by commands and is equal on all replicas. The
//! *local* part (deadlines) matters only on the primary: it is fed by keep-alives, is never in a
//! snapshot, and a new primary starts it afresh with [`Store::leases_extend`]: from that moment every lease
//! has its new deadline, whenever its turn comes in the slices ([`Store::leases_extend_next`]) that write it
//! down; none is reported as run out by an older one. Expiry deletes nothing
//! here: the primary proposes a [`Store::lease_expire`] for each id that [`Store::leases_expired`]
//! reports. Time comes in as milliseconds of any monotonic clock.
//!
//! Between the decision that a lease ran out and its command's turn in the log lie other commands; one
//! of them may renew the lease, and its caller is told so. So an expiry says how much of the log had
//! been applied when it was decided, and does nothing to a lease that was renewed behind that.
//! Tested by `tests/lease.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::ops::Bound;

use bytes::Bytes;

use crate::error::Error;
use crate::names::KeyId;
use crate::snapshot::leases::Readers;
use crate::store::Store;
use crate::types::{LEASE_TTL_S_MAX, LeaseStatus};

/// An expired lease is reported again after this, in case its revoke was lost with a proposal
/// (etcd's expiredLeaseRetryInterval).
const EXPIRED_RETRY_MS: u64 = 3_000;
/// Leases looked at for each that may be reported as expired.
const EXPIRED_LOOKS: usize = 4;
/// The deadline of a lease that was restored and not yet extended.
const NEVER: u64 = u64::MAX;

/// What a snapshot says of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LeaseEntry {
    pub id: i64,
    pub ttl_s: i64,
    /// See [`Store::lease_renew`].
    pub renewed: u64,
}

#[derive(Debug)]
pub(crate) struct Lease {
    ttl_s: i64,
    /// Position in the log of the command that granted it or renewed it last.
    renewed: u64,
    /// What was left at the last checkpoint since it was renewed.
    checkpoint_s: Option<i64>,
    deadline_ms: u64,
    /// When to report it as expired (next); its place in `Leases::due`.
    due_ms: u64,
    /// The extension that its deadline knows of: see `Leases::extension`.
    extension: u32,
    keys: BTreeSet<KeyId>,
}

impl Lease {
    fn entry(&self, id: i64) -> LeaseEntry {
        LeaseEntry {
            id,
            ttl_s: self.ttl_s,
            renewed: self.renewed,
        }
    }
}

/// All leases.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    by_id: BTreeMap<i64, Lease>,
    due: BTreeSet<(u64, i64)>,
    attached: usize,
    extension: Extension,
    /// Where the slices that write the extension down go on.
    extend_from: Option<Bound<i64>>,
    /// Snapshots that are being made.
    pub(crate) readers: Readers,
}

/// The last time that every lease was given its time again.
#[derive(Clone, Copy, Debug, Default)]
struct Extension {
    /// Which that was: a lease with another number has a deadline of before.
    number: u32,
    now_ms: u64,
    extra_ms: u64,
}

impl Extension {
    /// When a lease runs out, whether or not that is written down.
    fn deadline_ms(&self, lease: &Lease) -> u64 {
        if lease.extension == self.number {
            return lease.deadline_ms;
        }
        let left_s = lease.checkpoint_s.unwrap_or(lease.ttl_s);
        deadline(self.now_ms, left_s).saturating_add(self.extra_ms)
    }
}

impl Leases {
    pub fn contains(&self, id: i64) -> bool {
        self.by_id.contains_key(&id)
    }

    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// The replicated part but for the attachments, by id.
    pub fn iter_from(&self, from: Bound<i64>) -> impl Iterator<Item = LeaseEntry> {
        let leases = self.by_id.range((from, Bound::Unbounded));
        leases.map(|(&id, lease)| lease.entry(id))
    }

    /// When each of up to `max` leases runs out, by id.
    pub fn deadlines_from(&self, from: Bound<i64>, max: usize) -> Vec<(u64, i64)> {
        let leases = self.by_id.range((from, Bound::Unbounded)).take(max);
        leases
            .map(|(&id, lease)| (self.extension.deadline_ms(lease), id))
            .collect()
    }

    /// Says to snapshots that are under way what a lease was, before it is another.
    fn note(&mut self, id: i64) {
        let lease = self.by_id.get(&id);
        self.readers
            .changes(id, || lease.map(|lease| lease.entry(id)));
    }

    /// Adds a lease whose deadline does not run yet; false if the id is taken.
    pub fn restore(&mut self, entry: LeaseEntry) -> bool {
        self.insert(entry, NEVER)
    }

    /// Attaches a key; false if there is no such lease.
    pub fn attach(&mut self, id: i64, key: KeyId) -> bool {
        let Some(lease) = self.by_id.get_mut(&id) else {
            return false;
        };
        self.attached += usize::from(lease.keys.insert(key));
        true
    }

    pub fn detach(&mut self, id: i64, key: KeyId) {
        if let Some(lease) = self.by_id.get_mut(&id) {
            self.attached -= usize::from(lease.keys.remove(&key));
        }
    }

    /// Estimated bytes: B-tree nodes are about three quarters full.
    pub fn heap_bytes(&self) -> usize {
        let per_lease = mem::size_of::<(i64, Lease)>() + mem::size_of::<(u64, i64)>();
        (self.by_id.len() * per_lease + self.attached * mem::size_of::<KeyId>()) * 4 / 3
    }

    fn insert(&mut self, entry: LeaseEntry, deadline_ms: u64) -> bool {
        let LeaseEntry { id, ttl_s, renewed } = entry;
        if self.contains(id) {
            return false;
        }
        self.note(id);
        let lease = Lease {
            ttl_s,
            renewed,
            checkpoint_s: None,
            deadline_ms,
            due_ms: deadline_ms,
            extension: self.extension.number,
            keys: BTreeSet::new(),
        };
        self.by_id.insert(id, lease);
        self.due.insert((deadline_ms, id));
        true
    }

    /// Gives a lease its full time from now on; returns that time.
    fn renew(&mut self, id: i64, now_ms: u64) -> Option<i64> {
        let lease = self.by_id.get_mut(&id)?;
        let ttl_s = lease.ttl_s;
        lease.checkpoint_s = None;
        self.set_deadline(id, deadline(now_ms, ttl_s));
        Some(ttl_s)
    }

    fn set_deadline(&mut self, id: i64, deadline_ms: u64) {
        let Some(lease) = self.by_id.get_mut(&id) else {
            return;
        };
        lease.deadline_ms = deadline_ms;
        lease.extension = self.extension.number;
        let before = mem::replace(&mut lease.due_ms, deadline_ms);
        self.due.remove(&(before, id));
        self.due.insert((deadline_ms, id));
    }

    /// Writes a lease's extension down, if that was not done; returns whether it was not.
    fn extend(&mut self, id: i64) -> bool {
        let lease = self.by_id.get(&id);
        let extension = &self.extension;
        let Some(lease) = lease.filter(|lease| lease.extension != extension.number) else {
            return false;
        };
        self.set_deadline(id, extension.deadline_ms(lease));
        true
    }

    /// A lease's keys; none if there is no such lease.
    pub fn keys_of(&self, id: i64) -> &BTreeSet<KeyId> {
        static NONE: BTreeSet<KeyId> = BTreeSet::new();
        self.by_id.get(&id).map_or(&NONE, |lease| &lease.keys)
    }

    pub(crate) fn remove(&mut self, id: i64) -> Option<Lease> {
        if !self.contains(id) {
            return None;
        }
        self.note(id);
        let lease = self.by_id.remove(&id)?;
        self.due.remove(&(lease.due_ms, id));
        self.attached -= lease.keys.len();
        Some(lease)
    }
}

fn deadline(now_ms: u64, ttl_s: i64) -> u64 {
    now_ms.saturating_add((ttl_s.max(0) as u64).saturating_mul(1_000))
}

impl Store {
    /// Creates a lease; returns the time to live granted, which is raised to
    /// [`crate::Config::lease_ttl_s_min`]. Id 0 is refused: picking an id is the proposer's job,
    /// before the command is replicated. For a store without a log; see [`Store::lease_grant_at`].
    pub fn lease_grant(&mut self, id: i64, ttl_s: i64, now_ms: u64) -> Result<i64, Error> {
        self.lease_grant_at(id, ttl_s, 0, now_ms)
    }

    /// [`Store::lease_grant`] by the command at `position` of the log: an expiry decided before it
    /// meant an older lease of this id (see [`Store::lease_expire`]).
    pub fn lease_grant_at(
        &mut self,
        id: i64,
        ttl_s: i64,
        position: u64,
        now_ms: u64,
    ) -> Result<i64, Error> {
        self.meter.change(1);
        if id == 0 {
            return Err(Error::LeaseNotFound);
        }
        if ttl_s > LEASE_TTL_S_MAX {
            return Err(Error::LeaseTtlTooLarge);
        }
        let ttl_s = ttl_s.max(self.config.lease_ttl_s_min);
        let entry = LeaseEntry {
            id,
            ttl_s,
            renewed: position,
        };
        if self.leases.insert(entry, deadline(now_ms, ttl_s)) {
            self.counted.granted(ttl_s);
            Ok(ttl_s)
        } else {
            Err(Error::LeaseExists)
        }
    }

    /// Removes a lease and deletes its keys, in key order, in one revision; returns how many.
    /// Without keys the revision stays.
    pub fn lease_revoke(&mut self, id: i64) -> Result<i64, Error> {
        self.meter.change(1);
        let lease = self.leases.remove(id).ok_or(Error::LeaseNotFound)?;
        let keys = self.in_key_order(&lease.keys);
        self.write_begin();
        self.counted.revoked(keys.len());
        keys.iter().for_each(|&key| self.delete_live(key));
        self.write_end();
        Ok(keys.len() as i64)
    }

    /// Renews a lease on the primary alone; returns its time to live. `None`: unknown, or run out and
    /// about to be revoked (etcd answers TTL 0 to both): its expiry may be under way.
    pub fn lease_keep_alive(&mut self, id: i64, now_ms: u64) -> Option<i64> {
        self.lease_keep_alive_since(id, now_ms, now_ms)
    }

    /// [`Store::lease_keep_alive`] that was asked for at `asked_ms` and had to wait, while nothing expired: a
    /// lease that lived then lives on.
    pub fn lease_keep_alive_since(&mut self, id: i64, asked_ms: u64, now_ms: u64) -> Option<i64> {
        self.meter.change(1);
        let lease = self.leases.by_id.get(&id)?;
        if self.leases.extension.deadline_ms(lease) <= asked_ms {
            return None;
        }
        self.leases.renew(id, now_ms)
    }

    /// Renews a lease by the command at `position` of the log (above 0 and growing); returns its time to
    /// live, `None` if there is no such lease. A lease that is there is renewed, whatever a clock says:
    /// all replicas must agree, and whoever is told that it lives must find it alive, so expiries that
    /// were decided before are void (see [`Store::lease_expire`]).
    pub fn lease_renew(&mut self, id: i64, position: u64, now_ms: u64) -> Option<i64> {
        self.meter.change(1);
        if !self.leases.contains(id) {
            return None;
        }
        self.leases.note(id);
        let lease = self.leases.by_id.get_mut(&id)?;
        lease.renewed = position;
        self.counted.renewed();
        self.leases.renew(id, now_ms)
    }

    /// Revokes a lease that had run out when the primary had applied the log up to `seen`; returns how
    /// many keys went. Nothing happens to a lease that was renewed, or granted anew, behind that.
    pub fn lease_expire(&mut self, id: i64, seen: u64) -> Result<i64, Error> {
        self.meter.look(1);
        match self.lease_expires(id, seen) {
            false => Ok(0),
            true => self.lease_revoke(id),
        }
    }

    /// Whether [`Store::lease_expire`] would revoke a lease, or say that there is none.
    pub fn lease_expires(&self, id: i64, seen: u64) -> bool {
        let lease = self.leases.by_id.get(&id);
        lease.is_none_or(|lease| lease.renewed <= seen)
    }

    /// What is left of a lease, with its keys if asked for; `None` if unknown.
    pub fn lease_time_to_live(&self, id: i64, now_ms: u64, keys: bool) -> Option<LeaseStatus> {
        let lease = self.leases.by_id.get(&id)?;
        let remaining_ttl_s = match self.leases.extension.deadline_ms(lease) {
            NEVER => lease.ttl_s,
            deadline_ms => (deadline_ms.saturating_sub(now_ms) / 1_000) as i64,
        };
        let keys = match keys {
            // What is attached is on its way from one revision to the next.
            true if self.open => self.lease_keys_now(id),
            true => {
                let ids = self.in_key_order(&lease.keys);
                let keys = ids.iter().map(|&key| self.keys.key(key));
                keys.map(Bytes::copy_from_slice).collect()
            }
            false => Vec::new(),
        };
        Some(LeaseStatus {
            granted_ttl_s: lease.ttl_s,
            remaining_ttl_s,
            keys,
        })
    }

    /// How many keys are attached to a lease: what its end will cost.
    pub fn lease_key_count(&self, id: i64) -> usize {
        self.leases
            .by_id
            .get(&id)
            .map_or(0, |lease| lease.keys.len())
    }

    /// All lease ids, the one that runs out first before the others, as etcd lists them. In one go: who has
    /// no time for that asks [`Store::leases_are_many`] first.
    pub fn leases(&self) -> Vec<i64> {
        self.meter.look(self.leases.len() / 2);
        let mut by_expiry = self.leases.deadlines_from(Bound::Unbounded, usize::MAX);
        by_expiry.sort_unstable();
        by_expiry.into_iter().map(|(_, id)| id).collect()
    }

    /// Up to `max` leases that ran out, longest ago first. One that is not revoked is reported
    /// again 3 s later. For the primary only.
    pub fn leases_expired(&mut self, now_ms: u64, max: usize) -> Vec<i64> {
        let leases = &mut self.leases;
        let mut expired = Vec::new();
        // Leases whose slice is yet to come are looked at, too, and are given their time here.
        for _ in 0..max.saturating_mul(EXPIRED_LOOKS) {
            let first = leases.due.first().copied();
            let Some((due_ms, id)) = first.filter(|&(due_ms, _)| due_ms <= now_ms) else {
                break;
            };
            self.meter.change(1);
            if leases.extend(id) {
                continue;
            }
            leases.due.remove(&(due_ms, id));
            let again_ms = now_ms.saturating_add(EXPIRED_RETRY_MS);
            leases.due.insert((again_ms, id));
            if let Some(lease) = leases.by_id.get_mut(&id) {
                lease.due_ms = again_ms;
            }
            expired.push(id);
            if expired.len() == max {
                break;
            }
        }
        expired
    }

    /// When [`Store::leases_expired`] next has something to report, for a timer.
    pub fn leases_next_due_ms(&self) -> Option<u64> {
        self.leases
            .due
            .first()
            .map(|&(due_ms, _)| due_ms)
            .filter(|&due_ms| due_ms != NEVER)
    }

    /// What is left of up to `max` leases with an id above `after`, for the primary to replicate
    /// (etcd: every 5 minutes, 1,000 at a time) and every replica to take in with
    /// [`Store::lease_checkpoint`], so that a new primary does not begin at the full time. Leases that
    /// have all of their time, or none, are left out. Ids and seconds.
    pub fn leases_to_checkpoint(&self, after: i64, now_ms: u64, max: usize) -> Vec<(i64, i64)> {
        let above = (Bound::Excluded(after), Bound::Unbounded);
        let leases = self.leases.by_id.range(above);
        let left = leases.filter_map(|(&id, lease)| {
            let deadline_ms = self.leases.extension.deadline_ms(lease);
            let left_s = (deadline_ms.saturating_sub(now_ms) / 1_000) as i64;
            let is_worth_it = deadline_ms != NEVER && left_s > 0 && left_s < lease.ttl_s;
            is_worth_it.then_some((id, left_s))
        });
        left.take(max).collect()
    }

    /// Notes what is left of a lease, as its primary saw it; false if there is no such lease. A renewal
    /// clears it. A checkpoint above the time granted is that time; one below 0 is 0. Not in a
    /// snapshot, as in etcd unless told otherwise.
    pub fn lease_checkpoint(&mut self, id: i64, remaining_s: i64) -> bool {
        let Some(lease) = self.leases.by_id.get_mut(&id) else {
            return false;
        };
        lease.checkpoint_s = Some(remaining_s.clamp(0, lease.ttl_s.max(0)));
        true
    }

    /// Gives every lease its time again, that of its last checkpoint or else the full one, plus
    /// `extra_ms` (etcd: one election timeout). A new primary calls it, as it does not know when
    /// leases were last kept alive.
    ///
    /// That holds from now on, and costs nothing: it is written down in slices, which
    /// [`Store::leases_extend_next`] does.
    pub fn leases_extend(&mut self, now_ms: u64, extra_ms: u64) {
        let leases = &mut self.leases;
        leases.extension = Extension {
            number: leases.extension.number.wrapping_add(1),
            now_ms,
            extra_ms,
        };
        leases.extend_from = Some(Bound::Unbounded);
    }

    /// Goes on with an extension for up to `max` leases; returns whether more is left.
    pub fn leases_extend_next(&mut self, max: usize) -> bool {
        let leases = &mut self.leases;
        let Some(from) = leases.extend_from.take() else {
            return false;
        };
        let max = max.max(1);
        let next = leases.by_id.range((from, Bound::Unbounded)).take(max);
        let ids: Vec<_> = next.map(|(&id, _)| id).collect();
        for &id in &ids {
            leases.extend(id);
        }
        self.meter.change(ids.len());
        if ids.len() == max {
            leases.extend_from = ids.last().map(|&last| Bound::Excluded(last));
        }
        leases.extend_from.is_some()
    }

    /// Whether an extension is not yet written down for every lease: [`Store::leases_next_due_ms`] may be
    /// too late meanwhile.
    pub fn leases_are_extending(&self) -> bool {
        self.leases.extend_from.is_some()
    }

    /// In one go: who has no time for that asks [`Store::lease_keys_are_long`] first.
    fn lease_keys_now(&self, id: i64) -> Vec<Bytes> {
        let mut gathered = self.lease_keys_begin(id);
        loop {
            if let Some(keys) = self.lease_keys_next(&mut gathered, u64::MAX) {
                return keys;
            }
        }
    }

    fn in_key_order(&self, keys: &BTreeSet<KeyId>) -> Vec<KeyId> {
        self.meter.look(keys.len().saturating_mul(4));
        let mut keys: Vec<_> = keys.iter().copied().collect();
        keys.sort_unstable_by(|&a, &b| self.keys.key(a).cmp(self.keys.key(b)));
        keys
    }
}
