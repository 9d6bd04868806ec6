//! Faults by chance: what a bad device does over a long life (fault ids of `docs/faults.md`).
//!
//! Each chance is in 1,000 per operation it can hit; all are 0 until they are set and can be set back to
//! 0 at any time, after which the machine is sound again but for what was damaged meanwhile. Struck by
//! dice of their own: the same seed, calls and chances, the same faults. What a test aims at a place
//! (a torn sector, a lost name, a failing n-th operation) is set on the handle itself.

use std::io;

use super::SECTOR_BYTES;
use super::state::State;
use crate::BLOCK_BYTES;
use crate::disk::{AlignedBuf, FileId, Op, Output};

/// Chances in 1,000.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Chances {
    /// D2: a write is acknowledged and nothing of it is there.
    pub lost_write: u64,
    /// D3: a write lands in another place of its file.
    pub misdirected_write: u64,
    /// D3: a read brings another place of its file.
    pub misdirected_read: u64,
    /// D4: a byte that was just written changes.
    pub rot: u64,
    /// D5: a read ends early.
    pub short_read: u64,
    /// D6: a sector that was just written cannot be read any more, until it is written again.
    pub unreadable: u64,
    /// D7: a write fails with EIO, and some of its sectors are there.
    pub write_error: u64,
    /// D9: making a file fails with ENOSPC.
    pub no_space: u64,
    /// D10: making a file fails with EDQUOT.
    pub quota: u64,
    /// D11: an operation takes a hundred times as long.
    pub slow: u64,
    /// D12: an operation completes only when the machine is told to go on.
    pub stuck: u64,
    /// D13 (and D17, a page cache that was never flushed): a write is acknowledged, and a crash may undo
    /// it.
    pub lie: u64,
    /// D18: opening a file fails with EAGAIN, as a full ring would.
    pub again: u64,
}

/// How often each struck: a test that means to meet a fault can check that it did.
pub type Struck = Chances;

impl State {
    fn strikes(&mut self, of: fn(&mut Chances) -> &mut u64) -> bool {
        let chance = *of(&mut self.chances);
        let hit = chance > 0 && self.fault_dice.below(1_000) < chance;
        *of(&mut self.struck) += u64::from(hit);
        hit
    }

    /// Steps an operation takes beyond its usual time; `None`: it is stuck.
    pub(super) fn delay(&mut self) -> Option<u64> {
        if self.strikes(|c| &mut c.stuck) {
            return None;
        }
        let slow = self.strikes(|c| &mut c.slow);
        Some(if slow {
            100 * self.latency_max.max(1)
        } else {
            0
        })
    }

    /// An operation that fails before anything of it happens.
    pub(super) fn refuses(&mut self, op: &Op) -> Option<io::Error> {
        let code = match op {
            Op::Zero { .. } | Op::Create { .. } if self.strikes(|c| &mut c.no_space) => {
                libc::ENOSPC
            }
            Op::Zero { .. } | Op::Create { .. } if self.strikes(|c| &mut c.quota) => libc::EDQUOT,
            Op::Open { .. } if self.strikes(|c| &mut c.again) => libc::EAGAIN,
            _ => return None,
        };
        Some(io::Error::from_raw_os_error(code))
    }

    /// A write that completes, as far as the device is sound.
    pub(super) fn complete_write(
        &mut self,
        file: FileId,
        offset: u64,
        buf: AlignedBuf,
    ) -> io::Result<Output> {
        self.grow(file, offset + buf.len() as u64)?;
        self.note_unsynced(file, offset, &buf);
        if self.strikes(|c| &mut c.write_error) {
            let salt = self.fault_dice.roll();
            self.write(file, offset, &buf, |sector| salt >> (sector % 64) & 1 == 1)?;
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        let mut at = offset;
        if self.strikes(|c| &mut c.misdirected_write) {
            let blocks = (self.data(file)?.len().saturating_sub(buf.len())) / BLOCK_BYTES;
            at = self.fault_dice.below(blocks as u64 + 1) * BLOCK_BYTES as u64;
        }
        if self.strikes(|c| &mut c.lie) {
            self.remember(file, at, buf.len());
        }
        let lost = self.strikes(|c| &mut c.lost_write);
        self.write(file, at, &buf, |_| !lost)?;
        self.spoil(file, at, buf.len());
        Ok(Output::Buf(buf))
    }

    /// Keep what a write replaces, for a crash that undoes it.
    fn remember(&mut self, file: FileId, offset: u64, bytes: usize) {
        let Some(inode) = self.open.get(&file).copied() else {
            return;
        };
        let at = offset as usize;
        let old = self
            .inodes
            .get(&inode)
            .and_then(|data| data.get(at..at + bytes));
        if let Some(old) = old.map(<[u8]>::to_vec) {
            self.undo.push((inode, at, old));
        }
    }

    /// What may become of sectors after they were written.
    fn spoil(&mut self, file: FileId, offset: u64, bytes: usize) {
        let Some(inode) = self.open.get(&file).copied() else {
            return;
        };
        let sectors = offset as usize / SECTOR_BYTES..(offset as usize + bytes) / SECTOR_BYTES;
        for sector in sectors.clone() {
            self.unreadable.remove(&(inode, sector));
        }
        if self.strikes(|c| &mut c.rot) {
            let at = offset as usize + self.fault_dice.below(bytes as u64) as usize;
            if let Some(byte) = self
                .inodes
                .get_mut(&inode)
                .and_then(|data| data.get_mut(at))
            {
                *byte ^= 1 << self.fault_dice.below(8);
            }
        }
        if self.strikes(|c| &mut c.unreadable) {
            let sector = sectors.start + self.fault_dice.below(sectors.len() as u64) as usize;
            self.unreadable.insert((inode, sector));
        }
    }

    /// A read that completes, as far as the device is sound.
    pub(super) fn complete_read(
        &mut self,
        file: FileId,
        offset: u64,
        bytes: usize,
    ) -> io::Result<Output> {
        let len = self.data(file)?.len();
        let mut from = (offset as usize).min(len);
        if self.strikes(|c| &mut c.misdirected_read) {
            let blocks = len.saturating_sub(bytes) / BLOCK_BYTES;
            from = self.fault_dice.below(blocks as u64 + 1) as usize * BLOCK_BYTES;
        }
        let mut to = (from + bytes).min(len);
        if self.strikes(|c| &mut c.short_read) {
            let blocks = (to - from) / BLOCK_BYTES;
            to = from + self.fault_dice.below(blocks as u64 + 1) as usize * BLOCK_BYTES;
        }
        let inode = self.open.get(&file).copied().unwrap_or_default();
        let (first, last) = (
            (inode, from / SECTOR_BYTES),
            (inode, to.div_ceil(SECTOR_BYTES)),
        );
        if self.unreadable.range(first..last).next().is_some() {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        let mut buf = AlignedBuf::with_capacity(bytes);
        buf.extend(&self.data(file)?[from..to]);
        Ok(Output::Buf(buf))
    }

    /// What a crash undoes of writes that the disk had only said were done: the newest first, up to some
    /// point.
    pub(super) fn undo_lies(&mut self) {
        let mut undo = std::mem::take(&mut self.undo);
        let kept = self.fault_dice.below(undo.len() as u64 + 1) as usize;
        for (inode, at, old) in undo.drain(kept..).rev() {
            let data = self.inodes.get_mut(&inode);
            if let Some(place) = data.and_then(|data| data.get_mut(at..at + old.len())) {
                place.copy_from_slice(&old);
            }
        }
    }
}
