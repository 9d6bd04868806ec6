//! Little-endian fields at fixed offsets. Reading outside the bytes yields 0 and never panics: every
//! caller has checked a length or a checksum first, and a wrong field is then just a wrong field.

/// The 2 bytes at `at`.
pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes
        .get(at..)
        .and_then(|b| b.first_chunk())
        .map_or(0, |b| u16::from_le_bytes(*b))
}

/// The 4 bytes at `at`.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes
        .get(at..)
        .and_then(|b| b.first_chunk())
        .map_or(0, |b| u32::from_le_bytes(*b))
}

/// The 8 bytes at `at`.
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes
        .get(at..)
        .and_then(|b| b.first_chunk())
        .map_or(0, |b| u64::from_le_bytes(*b))
}

/// The 16 bytes at `at`.
pub(crate) fn u128_at(bytes: &[u8], at: usize) -> u128 {
    bytes
        .get(at..)
        .and_then(|b| b.first_chunk())
        .map_or(0, |b| u128::from_le_bytes(*b))
}

/// Fills a fixed-size block front to back; what does not fit is a bug that the size asserts of the
/// formats catch at compile time, and is dropped here.
pub(crate) struct Fields<'a> {
    bytes: &'a mut [u8],
    at: usize,
}

impl<'a> Fields<'a> {
    pub(crate) fn new(bytes: &'a mut [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub(crate) fn put<const N: usize>(mut self, field: [u8; N]) -> Self {
        if let Some(place) = self.bytes.get_mut(self.at..self.at + N) {
            place.copy_from_slice(&field);
        }
        self.at += N;
        self
    }

    pub(crate) fn u16(self, v: u16) -> Self {
        self.put(v.to_le_bytes())
    }

    pub(crate) fn u32(self, v: u32) -> Self {
        self.put(v.to_le_bytes())
    }

    pub(crate) fn u64(self, v: u64) -> Self {
        self.put(v.to_le_bytes())
    }

    pub(crate) fn u128(self, v: u128) -> Self {
        self.put(v.to_le_bytes())
    }
}
