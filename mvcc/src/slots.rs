//! Where keys lie: blocks of 16-byte grains.
//!
//! A slot is `length:varint head:13 key`, rounded up to grains, and is named by its first grain's
//! number; so a number leads to the key's memory without a table between, and a key costs no
//! allocation. A slot given up is used again for a key of as many grains. Nothing is ever moved. A
//! key larger than a block has a block to itself. Knows nothing of what is in a head but its size.
//! Tested here, and through [`crate::keys`].

use std::mem;

use crate::names::{KeyId, LOC_BYTES};
use crate::usual::Usual;
use crate::varint;

/// Bytes of a head: the newest version's place and a summary of it.
pub(crate) const HEAD_BYTES: usize = LOC_BYTES + mem::size_of::<u64>();

const GRAIN_BYTES: usize = 16;
/// Grains of a block: 256 KiB, so that the table of blocks, which is copied when it grows, stays small.
const BLOCK_GRAINS: usize = 16_384;
const BLOCK_BYTES: usize = BLOCK_GRAINS * GRAIN_BYTES;
/// Most blocks, so that numbers stay clear of the index's flag bit: 32 GiB of keys.
const BLOCKS_MAX: usize = (1 << 31) / BLOCK_GRAINS;
/// The share of them kept clear of the bound, for what was admitted below it: 1 GiB.
const SPARE_SHARE: usize = 32;
/// Bytes of a slot given up that name the next one.
const NEXT_BYTES: usize = mem::size_of::<KeyId>();

/// All slots.
#[derive(Debug)]
pub(crate) struct Slots {
    blocks: Vec<Vec<u8>>,
    /// [`BLOCKS_MAX`], but for tests.
    blocks_max: usize,
    /// The block that small slots are cut from.
    tail: usize,
    /// By their number of grains, the last slot given up, which names the one before, and so on. (A list
    /// of their own would be copied whole when it grows, in the middle of a delete.)
    free: Vec<Option<KeyId>>,
    /// Blocks given up by large keys.
    free_blocks: Vec<usize>,
    len: usize,
    /// Bytes of slots in use, not rounded.
    used_bytes: usize,
    capacity: usize,
    usual: Usual,
}

impl Default for Slots {
    fn default() -> Self {
        Slots {
            blocks: Vec::new(),
            blocks_max: BLOCKS_MAX,
            tail: 0,
            free: Vec::new(),
            free_blocks: Vec::new(),
            len: 0,
            used_bytes: 0,
            capacity: 0,
            usual: Usual::default(),
        }
    }
}

impl Slots {
    /// Puts a key into a slot, with a head of zeros. `None` when all numbers are taken.
    pub fn insert(&mut self, key: &[u8]) -> Option<KeyId> {
        let bytes = slot_bytes(key.len());
        let id = if bytes > BLOCK_BYTES {
            self.new_block(bytes)? * BLOCK_GRAINS
        } else {
            self.room(bytes.div_ceil(GRAIN_BYTES))?
        };
        let (block, at) = place(id as KeyId);
        let room = self.blocks.get_mut(block)?.get_mut(at..at + bytes)?;
        let mut length = [0; varint::LEN_MAX];
        let length = varint::put_in(&mut length, key.len() as u64);
        let (before, rest) = room.split_at_mut(length.len());
        before.copy_from_slice(length);
        rest[..HEAD_BYTES].fill(0);
        rest[HEAD_BYTES..].copy_from_slice(key);
        self.len += 1;
        self.used_bytes += bytes;
        self.usual.note(bytes.min(BLOCK_BYTES));
        Some(id as KeyId)
    }

    /// Gives a slot up.
    pub fn remove(&mut self, id: KeyId) {
        let bytes = slot_bytes(self.key(id).len());
        self.len -= 1;
        self.used_bytes -= bytes;
        if bytes > BLOCK_BYTES {
            let (block, _) = place(id);
            self.capacity -= mem::take(&mut self.blocks[block]).capacity();
            return self.free_blocks.push(block);
        }
        let grains = bytes.div_ceil(GRAIN_BYTES);
        self.give_up(id, grains);
    }

    /// The key's bytes.
    pub fn key(&self, id: KeyId) -> &[u8] {
        let (length, rest) = self.slot(id);
        rest.get(HEAD_BYTES..HEAD_BYTES + length)
            .unwrap_or_default()
    }

    /// What is kept beside the key.
    pub fn head(&self, id: KeyId) -> &[u8; HEAD_BYTES] {
        // Nobody names a slot that is not there.
        self.slot(id).1.first_chunk().unwrap_or(&[0; HEAD_BYTES])
    }

    /// Changes what is kept beside the key.
    pub fn set_head(&mut self, id: KeyId, head: [u8; HEAD_BYTES]) {
        let (length, _) = self.slot(id);
        let (block, at) = place(id);
        let at = at + varint::len(length as u64);
        if let Some(found) = self.blocks[block].get_mut(at..at + HEAD_BYTES) {
            found.copy_from_slice(&head);
        }
    }

    /// Loads a slot. The result only keeps the load.
    pub fn touch(&self, id: KeyId) -> u8 {
        let (block, at) = place(id);
        let slot = self.blocks.get(block).and_then(|block| block.get(at..));
        // Most slots lie in two cache lines; touching a third that is not needed costs as much as one.
        slot.and_then(|slot| Some(slot.first()? ^ slot.get(self.usual.last()).unwrap_or(&0)))
            .unwrap_or_default()
    }

    /// Slots in use.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Bytes of the keys in use, with their heads.
    pub fn key_bytes(&self) -> usize {
        self.used_bytes
    }

    /// Bytes on the heap.
    pub fn heap_bytes(&self) -> usize {
        let free = self.free.capacity() * mem::size_of::<Option<KeyId>>();
        self.capacity + free + self.blocks.capacity() * mem::size_of::<Vec<u8>>()
    }

    /// Makes it take less, for tests.
    #[cfg(test)]
    pub fn limit_blocks(&mut self, blocks_max: usize) {
        self.blocks_max = blocks_max;
    }

    /// Is there no room for another key?
    pub fn is_full(&self) -> bool {
        let spare = self.blocks_max / SPARE_SHARE;
        self.blocks.len() >= self.blocks_max - spare && self.free_blocks.is_empty()
    }

    /// The number of a slot of so many grains.
    fn room(&mut self, grains: usize) -> Option<usize> {
        if let Some(id) = self.take_given_up(grains) {
            return Some(id as usize);
        }
        let bytes = grains * GRAIN_BYTES;
        if self
            .blocks
            .get(self.tail)
            .is_none_or(|tail| tail.len() + bytes > BLOCK_BYTES)
        {
            // The first block grows as it is needed, as a store may hold little.
            let room = if self.blocks.is_empty() {
                bytes
            } else {
                BLOCK_BYTES
            };
            self.give_up_rest();
            self.tail = self.new_block_for(room)?;
        }
        let block = &mut self.blocks[self.tail];
        let (at, before) = (block.len(), block.capacity());
        block.resize(at + bytes, 0);
        self.capacity += block.capacity() - before;
        Some(self.tail * BLOCK_GRAINS + at / GRAIN_BYTES)
    }

    /// What is left of the last block serves keys that are as small.
    fn give_up_rest(&mut self) {
        let Some(block) = self.blocks.get_mut(self.tail) else {
            return;
        };
        let (at, before) = (block.len(), block.capacity());
        let grains = (BLOCK_BYTES - at.min(BLOCK_BYTES)) / GRAIN_BYTES;
        if grains == 0 {
            return;
        }
        block.resize(BLOCK_BYTES, 0);
        self.capacity += block.capacity() - before;
        self.give_up(
            (self.tail * BLOCK_GRAINS + at / GRAIN_BYTES) as KeyId,
            grains,
        );
    }

    /// Notes a slot of so many grains as free.
    fn give_up(&mut self, id: KeyId, grains: usize) {
        if self.free.len() <= grains {
            self.free.resize(grains + 1, None);
        }
        let before = self.free[grains].replace(id);
        if let Some(next) = self.next_given_up(id) {
            *next = before.unwrap_or(KeyId::MAX).to_le_bytes();
        }
    }

    /// The slot of so many grains given up last.
    fn take_given_up(&mut self, grains: usize) -> Option<KeyId> {
        let id = self.free.get(grains).copied().flatten()?;
        let before = KeyId::from_le_bytes(*self.next_given_up(id)?);
        self.free[grains] = (before != KeyId::MAX).then_some(before);
        Some(id)
    }

    /// Where a slot given up names the next.
    fn next_given_up(&mut self, id: KeyId) -> Option<&mut [u8; NEXT_BYTES]> {
        let (block, at) = place(id);
        self.blocks.get_mut(block)?.get_mut(at..)?.first_chunk_mut()
    }

    fn new_block(&mut self, bytes: usize) -> Option<usize> {
        let number = self.new_block_for(bytes)?;
        self.blocks[number].resize(bytes, 0);
        Some(number)
    }

    fn new_block_for(&mut self, bytes: usize) -> Option<usize> {
        let block = Vec::with_capacity(bytes);
        let capacity = block.capacity();
        let number = match self.free_blocks.pop() {
            Some(number) => {
                self.blocks[number] = block;
                number
            }
            None if self.blocks.len() >= self.blocks_max => return None,
            None => {
                self.blocks.push(block);
                self.blocks.len() - 1
            }
        };
        self.capacity += capacity;
        Some(number)
    }

    /// The key's length, and what follows it.
    fn slot(&self, id: KeyId) -> (usize, &[u8]) {
        let (block, at) = place(id);
        let mut rest = self
            .blocks
            .get(block)
            .and_then(|b| b.get(at..))
            .unwrap_or_default();
        if let Some((&length, rest)) = rest.split_first()
            && length < 0x80
        {
            return (length as usize, rest);
        }
        let length = varint::take(&mut rest).unwrap_or_default();
        (length as usize, rest)
    }
}

fn slot_bytes(key_len: usize) -> usize {
    varint::len(key_len as u64) + HEAD_BYTES + key_len
}

/// Block, and offset in it.
fn place(id: KeyId) -> (usize, usize) {
    (
        id as usize / BLOCK_GRAINS,
        id as usize % BLOCK_GRAINS * GRAIN_BYTES,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Dice;

    #[test]
    fn keys_of_all_sizes_come_and_go() {
        let mut dice = Dice::from_env("slots");
        let mut slots = Slots::default();
        let mut naive: Vec<(KeyId, Vec<u8>, u8)> = Vec::new();
        let sizes = [
            1,
            2,
            3,
            18,
            19,
            100,
            127,
            128,
            5_000,
            BLOCK_BYTES - 16,
            BLOCK_BYTES - 15,
            BLOCK_BYTES + 100_000,
        ];
        for step in 0..20_000u32 {
            let choices = if dice.below(100) == 0 { 12 } else { 8 };
            let size = sizes[dice.below(choices) as usize];
            let key = vec![step as u8; size];
            let id = slots.insert(&key).expect("room");
            slots.set_head(id, [step as u8; HEAD_BYTES]);
            naive.push((id, key, step as u8));
            while dice.below(3) > 0 && naive.len() > 500 {
                let (id, _, _) = naive.swap_remove(dice.below(naive.len() as u64) as usize);
                slots.remove(id);
            }
        }
        for (id, key, head) in &naive {
            assert_eq!(slots.key(*id), key);
            assert_eq!(slots.head(*id), &[*head; HEAD_BYTES]);
        }
        assert_eq!(slots.len(), naive.len());
        let bytes: usize = naive.iter().map(|(_, key, _)| slot_bytes(key.len())).sum();
        assert_eq!(slots.key_bytes(), bytes);
        let capacity: usize = slots.blocks.iter().map(Vec::capacity).sum();
        assert_eq!(slots.capacity, capacity);
    }
}
