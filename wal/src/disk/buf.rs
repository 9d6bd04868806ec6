//! A growable byte buffer whose first byte lies on a 4 KiB boundary, as `O_DIRECT` asks.
//!
//! A `Vec` over-allocated by one block, and a start inside it: no `unsafe` needed. Growing moves
//! the bytes to a new allocation (a `Vec` that reallocates itself would lose the alignment).

use crate::BLOCK_BYTES;

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
        let mut grown = Self::with_capacity(capacity);
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
