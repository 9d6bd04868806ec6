//! Files that are durable when they are synced: what a crash leaves of them.
//!
//! A file of [`Op::Create`](crate::disk::Op::Create) has bytes as its readers see them, and those that are
//! durable; of the writes between, a crash keeps any sectors, and with them as much of the file's length.

use std::io;

use super::state::{Dice, Inode, State};
use super::{Keep, SECTOR_BYTES};
use crate::disk::{FileId, Output};

/// What is durable of a file, and what was written since.
#[derive(Debug, Default)]
pub(super) struct Loose {
    pub(super) durable: Vec<u8>,
    writes: Vec<(usize, Vec<u8>)>,
}

impl Loose {
    fn after_crash(self, mut keeps: impl FnMut() -> bool) -> Vec<u8> {
        let mut bytes = self.durable;
        for (at, written) in self.writes {
            for (n, sector) in written.chunks(SECTOR_BYTES).enumerate() {
                if keeps() {
                    let from = at + n * SECTOR_BYTES;
                    bytes.resize(bytes.len().max(from + sector.len()), 0);
                    bytes[from..from + sector.len()].copy_from_slice(sector);
                }
            }
        }
        bytes
    }
}

impl State {
    pub(super) fn create(&mut self, name: &str, room: u64) -> io::Result<Output> {
        let is_new = room > 0 || !self.names.contains_key(name);
        if is_new {
            if !self.has_room(name, room) {
                self.renaming(name);
                self.names.remove(name);
                return Err(io::Error::from_raw_os_error(libc::ENOSPC));
            }
            self.store(name, vec![0; room as usize]);
        }
        let output = self.opened(name)?;
        if let Output::Opened { file, .. } = output {
            self.loose_open.insert(file);
            let inode = self.open.get(&file).copied().unwrap_or_default();
            let durable = self.inodes.get(&inode).cloned().unwrap_or_default();
            let writes = Vec::new();
            self.loose.insert(inode, Loose { durable, writes });
        }
        Ok(output)
    }

    pub(super) fn sync(&mut self, file: FileId, bytes: u64) -> io::Result<()> {
        let inode = self.open.get(&file).copied();
        self.data(file)?.resize(bytes as usize, 0);
        inode.map(|inode| self.loose.remove(&inode));
        Ok(())
    }

    /// A write to a loose file makes it as long as it needs to be, if there is room.
    pub(super) fn grow(&mut self, file: FileId, end: u64) -> io::Result<()> {
        if !self.loose_open.contains(&file) {
            return Ok(());
        }
        let more = end.saturating_sub(self.data(file)?.len() as u64);
        if self
            .capacity
            .is_some_and(|max| more > 0 && self.used() + more > max)
        {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        let data = self.data(file)?;
        data.resize(data.len().max(end as usize), 0);
        Ok(())
    }

    pub(super) fn note_unsynced(&mut self, file: FileId, offset: u64, buf: &[u8]) {
        let inode: Option<Inode> = self.open.get(&file).copied();
        if let Some(inode) = inode.filter(|_| self.loose_open.contains(&file)) {
            // One that was synced: it is as it is on the device.
            let durable = || self.inodes.get(&inode).cloned().unwrap_or_default();
            let loose = self.loose.entry(inode).or_insert_with(|| Loose {
                durable: durable(),
                writes: Vec::new(),
            });
            loose.writes.push((offset as usize, buf.to_vec()));
        }
    }

    /// A crash: of what was not synced, any part is there.
    pub(super) fn forget_unsynced(&mut self, keep: &Keep<'_>, dice: &mut Dice) {
        for (inode, loose) in std::mem::take(&mut self.loose) {
            let kept = loose.after_crash(|| match keep {
                Keep::Nothing => false,
                Keep::Everything | Keep::Sectors(_) => true,
                Keep::Seeded(_) => dice.below(2) == 0,
            });
            self.inodes.insert(inode, kept);
        }
    }
}
