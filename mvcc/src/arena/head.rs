//! The numbers before a record's body. Knows nothing of what they say; tested with the records.

use crate::names::LOC_BYTES;
use crate::varint;

/// Numbers on their way into a record: put together here, they are copied in one piece, and nothing is
/// measured before it is written.
pub(super) struct Head {
    bytes: [u8; HEAD_BYTES_MAX],
    len: usize,
}

/// Room for flags, a place and four numbers.
pub(super) const HEAD_BYTES_MAX: usize = 48;
const _: () = assert!(1 + LOC_BYTES + 4 * varint::LEN_MAX <= HEAD_BYTES_MAX);

impl Default for Head {
    fn default() -> Self {
        Head {
            bytes: [0; HEAD_BYTES_MAX],
            len: 0,
        }
    }
}

impl Head {
    #[inline]
    pub fn push(&mut self, bytes: &[u8]) {
        if let Some(room) = self.bytes.get_mut(self.len..self.len + bytes.len()) {
            room.copy_from_slice(bytes);
            self.len += bytes.len();
        }
    }

    #[inline]
    pub fn put(&mut self, number: u64) {
        let rest = self.bytes.get_mut(self.len..).unwrap_or_default();
        if let Some(room) = rest.first_chunk_mut() {
            self.len += varint::put_in(room, number).len();
        }
    }

    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}
