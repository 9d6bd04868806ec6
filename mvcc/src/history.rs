//! The older versions of one key, oldest first, packed.
//!
//! Versions that were superseded are rarely read, so they are kept small: bodies lie one after the
//! other in packs of up to 8 KiB or 32 versions (`main-first:varint length:varint body`), which
//! costs about 5 bytes per version beside its body, and no allocation per version. Reading is a
//! binary search over packs and a scan within one. Compaction only ever removes from the old end.
//! Knows nothing of keys, revisions of the store, or compaction rules. Tested against a `Vec`.

use std::collections::VecDeque;
use std::mem;

use crate::varint;
use crate::version::Version;

/// A pack takes no further version when its bytes would pass this.
const PACK_BYTES_MAX: usize = 8192;
/// A pack takes no more versions than this, so that a scan within one is short.
const PACK_VERSIONS_MAX: u32 = 32;

/// Versions of one key in the order they were made.
#[derive(Debug, Default)]
pub(crate) struct History {
    /// The newest pack, in place so that a short history is two allocations.
    last: Pack,
    /// The packs before it. None of all packs is empty, but for `last` when there are no versions.
    full: VecDeque<Pack>,
}

#[derive(Debug, Default)]
struct Pack {
    first_main: i64,
    /// Bytes of versions that compaction removed.
    start: u32,
    count: u32,
    bytes: Vec<u8>,
}

impl History {
    /// Are there no versions?
    pub fn is_empty(&self) -> bool {
        self.last.count == 0
    }

    /// Bytes on the heap, this struct included.
    pub fn heap_bytes(&self) -> usize {
        let packs = self
            .full
            .iter()
            .map(|pack| pack.bytes.capacity())
            .sum::<usize>();
        mem::size_of::<Self>()
            + self.full.capacity() * mem::size_of::<Pack>()
            + packs
            + self.last.bytes.capacity()
    }

    /// Appends a version; returns the heap bytes it took (beyond this struct).
    pub fn push(&mut self, main: i64, body: &[u8]) -> usize {
        let mut grown = 0;
        if !self.last.fits(body.len()) {
            let before = self.full.capacity();
            if self.full.len() == before {
                self.full.reserve_exact(1 + before / 4);
            }
            self.full.push_back(mem::take(&mut self.last));
            grown += (self.full.capacity() - before) * mem::size_of::<Pack>();
        }
        grown + self.last.push(main, body)
    }

    /// The oldest version's main revision.
    pub fn front_main(&self) -> Option<i64> {
        Some(self.packs().next()?.iter().next()?.0)
    }

    /// Removes the oldest version; returns (value and header) bytes of its body and heap bytes freed.
    pub fn pop_front(&mut self) -> Option<PoppedFront> {
        let pack = self.full.front_mut().unwrap_or(&mut self.last);
        let mut popped = pack.pop_front()?;
        if pack.count == 0 {
            popped.freed += pack.bytes.capacity();
            // The deque keeps its capacity: a key with many packs is likely to have many again.
            if self.full.pop_front().is_none() {
                self.last = Pack::default();
            }
        }
        Some(popped)
    }

    /// The newest version whose main revision is at most `main`.
    pub fn at(&self, main: i64) -> Option<Version<'_>> {
        let pack = if self.last.count > 0 && self.last.first_main <= main {
            &self.last
        } else {
            let after = self.full.partition_point(|pack| pack.first_main <= main);
            self.full.get(after.checked_sub(1)?)?
        };
        let (found, body) = pack.iter().take_while(|&(found, _)| found <= main).last()?;
        Version::decode_body(found, body)
    }

    /// Versions with a main revision of at least `from`, oldest first.
    pub fn since(&self, from: i64) -> impl Iterator<Item = Version<'_>> {
        // The pack before the first that starts at or after `from` may reach into it.
        let skip = self
            .full
            .partition_point(|pack| pack.first_main < from)
            .saturating_sub(1);
        let last = (self.last.count > 0).then_some(&self.last);
        self.full
            .range(skip..)
            .chain(last)
            .flat_map(Pack::iter)
            .skip_while(move |&(main, _)| main < from)
            .filter_map(|(main, body)| Version::decode_body(main, body))
    }

    fn packs(&self) -> impl Iterator<Item = &Pack> {
        self.full
            .iter()
            .chain((self.last.count > 0).then_some(&self.last))
    }
}

/// What [`History::pop_front`] removed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct PoppedFront {
    /// The version's main revision.
    pub main: i64,
    /// Heap bytes given back.
    pub freed: usize,
}

impl Pack {
    fn fits(&self, body_len: usize) -> bool {
        self.count == 0
            || self.count < PACK_VERSIONS_MAX
                && self.bytes.len() + body_len + 2 * varint::LEN_MAX <= PACK_BYTES_MAX
    }

    fn push(&mut self, main: i64, body: &[u8]) -> usize {
        if self.count == 0 {
            self.first_main = main;
        }
        let delta = main.wrapping_sub(self.first_main) as u64;
        let length = body.len() as u64;
        let needed = varint::len(delta) + varint::len(length) + body.len();
        let before = self.bytes.capacity();
        if before - self.bytes.len() < needed {
            // Exactly: growing ahead costs more memory than all else here (measured: 20 bytes per
            // version at 256-byte values), and moving at most 8 KiB is cheap. The allocator's size
            // classes leave it room to grow in place.
            self.bytes.reserve_exact(needed);
        }
        varint::put(&mut self.bytes, delta);
        varint::put(&mut self.bytes, length);
        self.bytes.extend_from_slice(body);
        self.count += 1;
        self.bytes.capacity() - before
    }

    fn pop_front(&mut self) -> Option<PoppedFront> {
        let mut rest = self.bytes.get(self.start as usize..)?;
        let (main, _) = self.take_one(&mut rest)?;
        self.start = (self.bytes.len() - rest.len()) as u32;
        self.count -= 1;
        Some(PoppedFront { main, freed: 0 })
    }

    fn take_one<'a>(&self, rest: &mut &'a [u8]) -> Option<(i64, &'a [u8])> {
        let main = self.first_main.wrapping_add(varint::take(rest)? as i64);
        let length = varint::take(rest)?;
        Some((main, varint::take_bytes(rest, length)?))
    }

    fn iter(&self) -> impl Iterator<Item = (i64, &[u8])> {
        let mut rest = self.bytes.get(self.start as usize..).unwrap_or_default();
        std::iter::from_fn(move || self.take_one(&mut rest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(value: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        Version {
            main: 1,
            create: 1,
            version: 1,
            value,
            ..Version::default()
        }
        .encode_body(&mut out);
        out
    }

    /// Versions of many sizes, so that packs close by count and by bytes.
    #[test]
    fn behaves_as_a_vec_of_versions() {
        let mut history = History::default();
        let mut naive: VecDeque<(i64, usize)> = VecDeque::new();
        let mut main = 0;
        let mut heap = mem::size_of::<History>();
        for step in 0..2_000u64 {
            main += 1 + (step % 3) as i64;
            let size = match step % 7 {
                0 => 5_000,
                1 => 0,
                n => (n * 90) as usize,
            };
            heap += history.push(main, &body(&vec![7; size]));
            naive.push_back((main, size));
            if step % 5 == 0 && step > 500 {
                let popped = history.pop_front().expect("not empty");
                heap -= popped.freed;
                assert_eq!(Some(popped.main), naive.pop_front().map(|v| v.0));
            }
            assert_eq!(history.front_main(), naive.front().map(|v| v.0));
            assert_eq!(history.heap_bytes(), heap, "accounting at step {step}");
        }
        for probe in -1..=main + 1 {
            let expected = naive.iter().rev().find(|v| v.0 <= probe).copied();
            assert_eq!(history.at(probe).map(|v| (v.main, v.value.len())), expected);
        }
        for from in [
            0,
            1,
            naive[0].0,
            naive[700].0,
            naive[701].0 + 1,
            main,
            main + 1,
        ] {
            let found: Vec<_> = history
                .since(from)
                .map(|v| (v.main, v.value.len()))
                .collect();
            let expected: Vec<_> = naive.iter().filter(|v| v.0 >= from).copied().collect();
            assert_eq!(found, expected, "since {from}");
        }
        while history.pop_front().is_some() {}
        assert!(history.is_empty());
        assert_eq!(history.front_main(), None);
        assert_eq!(history.at(main), None);
    }

    /// The budget of the design, less the 4 bytes of the revision log and those of the header in
    /// the body.
    #[test]
    fn overhead_per_version_is_within_budget() {
        for (size, count) in [(16, 10), (16, 1_000), (256, 10), (256, 100), (1_024, 100)] {
            let mut history = History::default();
            let body = body(&vec![7; size]);
            for main in 0..count {
                history.push(1_000_000 + main * 100_000, &body);
            }
            let bytes = count as usize * body.len();
            let over = (history.heap_bytes() - bytes) as f64 / count as f64;
            assert!(over <= 18.0, "{size} B x {count}: {over} B per version");
        }
    }

    #[test]
    fn two_versions_of_one_revision_read_as_the_later() {
        let mut history = History::default();
        history.push(5, &body(b"first"));
        history.push(5, &body(b"second"));
        assert_eq!(history.at(5).map(|v| v.value), Some(&b"second"[..]));
        assert_eq!(history.since(5).count(), 2);
    }
}
