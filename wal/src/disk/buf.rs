//! A growable byte buffer whose first byte lies on a 4 KiB boundary, as `O_DIRECT` asks.
//!
//! A `Vec` over-allocated by one boundary, and a start inside it: no `unsafe` needed. Growing moves
//! the bytes to a new allocation (a `Vec` that reallocates itself would lose the alignment).
//!
//! A buffer that outgrows [`HUGE_FROM_BYTES`] moves to huge pages: the kernel then pins and maps one page
//! per write instead of one per 4 KiB, and the device is given one range. Measured with fio, which gains
//! as much: a durable write of 256 KiB takes 15–20 % less, one of 64 KiB 5–10 %. Where the kernel gives no
//! huge page the memory is as any other.

use super::kernel;
use crate::BLOCK_BYTES;

/// A buffer that grows beyond this takes a multiple of [`HUGE_BYTES`]. Below, the pages are so few that a
/// huge one would only cost memory.
const HUGE_FROM_BYTES: usize = 32 * 1024;
/// A huge page of x86-64 and of arm64 with 4 KiB pages.
const HUGE_BYTES: usize = 2 * 1024 * 1024;

/// Bytes that start on a 4 KiB boundary.
#[derive(Debug, Default)]
pub struct AlignedBuf {
    /// `start` bytes of slack, then the contents. Never grown by `Vec` itself.
    vec: Vec<u8>,
    start: usize,
}

impl AlignedBuf {
    /// An empty buffer that holds `capacity` bytes without moving.
    pub fn with_capacity(capacity: usize) -> Self {
        let mut vec: Vec<u8> = Vec::with_capacity(capacity + BLOCK_BYTES);
        let start = vec.as_ptr().align_offset(BLOCK_BYTES).min(BLOCK_BYTES);
        vec.resize(start, 0);
        Self { vec, start }
    }

    /// An empty buffer of at least so many bytes in huge pages, if the kernel has some. Takes memory only
    /// where it is used.
    pub fn huge(capacity: usize) -> Self {
        let capacity = capacity.next_multiple_of(HUGE_BYTES);
        // Zeroed by the allocator, which for so many bytes means fresh pages that nobody touched: what
        // lies before the boundary takes no memory.
        let mut vec = vec![0; capacity + HUGE_BYTES];
        let start = vec.as_ptr().align_offset(HUGE_BYTES).min(HUGE_BYTES);
        kernel::want_huge_pages(&mut vec[start..start + capacity]);
        vec.truncate(start);
        Self { vec, start }
    }

    /// `bytes` zeros.
    pub fn zeroed(bytes: usize) -> Self {
        let mut buf = Self::with_capacity(bytes);
        buf.resize(bytes);
        buf
    }

    /// Number of bytes held.
    pub fn len(&self) -> usize {
        self.vec.len() - self.start
    }

    /// Holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes it can hold without moving.
    pub fn capacity(&self) -> usize {
        self.vec.capacity() - self.start
    }

    /// Forget the contents, keep the memory.
    pub fn clear(&mut self) {
        self.vec.truncate(self.start);
    }

    /// Cut or extend with zeros.
    pub fn resize(&mut self, bytes: usize) {
        self.reserve(bytes.saturating_sub(self.len()));
        self.vec.resize(self.start + bytes, 0);
    }

    /// Make room for `more` bytes.
    pub fn reserve(&mut self, more: usize) {
        if self.len() + more > self.capacity() {
            self.grow(more);
        }
    }

    /// Append bytes.
    pub fn extend(&mut self, bytes: &[u8]) {
        self.reserve(bytes.len());
        self.vec.extend_from_slice(bytes);
    }

    /// The memory itself and where the contents start in it, for a host that wants a `Vec`.
    pub fn into_parts(self) -> (Vec<u8>, usize) {
        (self.vec, self.start)
    }

    /// Back from [`AlignedBuf::into_parts`]: the vector must not have been reallocated.
    pub fn from_parts(vec: Vec<u8>, start: usize) -> Self {
        Self {
            start: start.min(vec.len()),
            vec,
        }
    }

    #[cold]
    fn grow(&mut self, more: usize) {
        let capacity = (self.len() + more)
            .max(self.capacity() * 2)
            .next_multiple_of(BLOCK_BYTES);
        let mut grown = if capacity > HUGE_FROM_BYTES {
            Self::huge(capacity)
        } else {
            Self::with_capacity(capacity)
        };
        grown.vec.extend_from_slice(self);
        *self = grown;
    }
}

impl std::ops::Deref for AlignedBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.vec[self.start..]
    }
}

impl std::ops::DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.vec[self.start..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grown_buffer_starts_at_a_huge_page() {
        let mut buf = AlignedBuf::with_capacity(HUGE_FROM_BYTES);
        // More than was asked for where the allocator's memory happens to be aligned.
        let room = buf.capacity();
        assert!((HUGE_FROM_BYTES..=HUGE_FROM_BYTES + BLOCK_BYTES).contains(&room));
        buf.extend(&vec![7; room]);
        assert_eq!(buf.capacity(), room);
        buf.extend(&[8]);
        assert_eq!(buf.as_ptr() as usize % HUGE_BYTES, 0);
        assert!(buf.len() == room + 1 && buf.capacity() >= HUGE_BYTES);
        assert!(buf[..room].iter().all(|byte| *byte == 7) && buf[room] == 8);
        buf.resize(HUGE_BYTES);
        assert!(buf[room + 1..].iter().all(|byte| *byte == 0));
        buf.extend(&[9]);
        assert_eq!(buf.as_ptr() as usize % HUGE_BYTES, 0);
    }

    #[test]
    fn stays_aligned_while_it_grows() {
        let mut buf = AlignedBuf::with_capacity(100);
        for i in 0..50_000u32 {
            buf.extend(&i.to_le_bytes());
            assert_eq!(buf.as_ptr() as usize % BLOCK_BYTES, 0);
        }
        assert_eq!(buf.len(), 200_000);
        assert_eq!(buf[4 * 777..4 * 778], 777u32.to_le_bytes());
        buf.clear();
        assert!(buf.is_empty());
        buf.resize(4096);
        assert_eq!(&buf[..], &[0; 4096]);
        let at = buf.as_ptr();
        let (vec, start) = buf.into_parts();
        assert_eq!(AlignedBuf::from_parts(vec, start).as_ptr(), at);
    }
}
