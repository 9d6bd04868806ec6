//! Where a core's shards sit: a place each, by which lists and timers name them, and the way there from a
//! group.
//!
//! Promises: a place is its shard's as long as the core lives. Must never know: what shards do.

use crate::door::ShardDoor;
use crate::shard::Shard;

/// A shard's place on its core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Slot(u32);

impl Slot {
    /// The place of this number.
    pub fn new(at: usize) -> Self {
        Slot(u32::try_from(at).unwrap_or(u32::MAX))
    }

    /// Its number, for lists that have one element for each.
    pub fn at(self) -> usize {
        self.0 as usize
    }
}

/// A shard and what the core has beside it.
pub(super) struct Seat {
    pub shard: Shard,
    pub door: ShardDoor,
    /// Its callers that wait, as the core counted them last.
    pub waiting: usize,
}

/// The shards of a core.
#[derive(Default)]
pub(super) struct Seats {
    seats: Vec<Seat>,
    /// By their groups' ids.
    groups: Vec<(u64, Slot)>,
}

impl Seats {
    /// Gives a shard its place. Groups are distinct.
    pub fn take_in(&mut self, shard: Shard, door: ShardDoor) -> Slot {
        let slot = Slot::new(self.seats.len());
        let group = shard.group();
        let at = self.groups.partition_point(|(of, _)| *of <= group);
        self.groups.insert(at, (group, slot));
        self.seats.push(Seat {
            shard,
            door,
            waiting: 0,
        });
        slot
    }

    /// Where a group's shard sits.
    pub fn slot_of(&self, group: u64) -> Option<Slot> {
        let found = self.groups.binary_search_by_key(&group, |(of, _)| *of);
        found.ok().map(|at| self.groups[at].1)
    }

    /// Who sits there.
    pub fn get_mut(&mut self, slot: Slot) -> Option<&mut Seat> {
        self.seats.get_mut(slot.at())
    }

    /// All shards, in the order of their groups' ids.
    pub fn shards(&self) -> impl Iterator<Item = &Shard> {
        let slots = self.groups.iter().map(|(_, slot)| slot.at());
        slots.filter_map(|at| self.seats.get(at).map(|seat| &seat.shard))
    }

    /// All shards, in the order of their places.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (Slot, &mut Shard)> {
        let seats = self.seats.iter_mut().enumerate();
        seats.map(|(at, seat)| (Slot::new(at), &mut seat.shard))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.seats.len()
    }
}
