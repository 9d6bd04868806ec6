//! From which core a group is to be had: frames of other members are handed on by the groups in their heads.
//!
//! Promises: no message is decoded on the way; what names no group of ours, or is unsound, goes to the first
//! core, which says so. Must never know: what messages say, how frames come in.

use std::sync::Arc;

use bytes::Bytes;
use henge_core::inbox::{Inbox, Input};
use henge_core::pack;

use crate::engine::layout::Placement;

/// The doors of a member's cores.
#[derive(Debug)]
pub(crate) struct Demux {
    inboxes: Vec<Arc<Inbox>>,
    placement: Placement,
}

impl Demux {
    pub(crate) fn new(inboxes: Vec<Arc<Inbox>>, placement: Placement) -> Self {
        Demux { inboxes, placement }
    }

    /// A frame came from another member.
    pub(crate) fn frame(&self, from: u64, frame: Bytes) {
        let push = |core: usize, frame| {
            if let Some(inbox) = self.inboxes.get(core) {
                inbox.push(Input::Peer { from, frame });
            }
        };
        match self.inboxes.len() {
            1 => push(0, frame),
            _ => pack::divide(&frame, |group| self.core_of(group), push),
        }
    }

    /// Every core is told.
    pub(crate) fn all(&self, input: impl Fn() -> Input) {
        for inbox in &self.inboxes {
            inbox.push(input());
        }
    }

    /// Groups are numbered from 1, in the order of their shards.
    fn core_of(&self, group: u64) -> usize {
        let shard = usize::try_from(group.saturating_sub(1)).unwrap_or(0);
        let home = self.placement.home(shard);
        if home < self.inboxes.len() { home } else { 0 }
    }
}
