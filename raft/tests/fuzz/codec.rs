//! Any bytes, decoded: a message or an error, no more memory than the input is worth; and what was decoded
//! can be encoded and decoded again. And any message, encoded, comes back, also from damaged bytes or not.

use bytes::{Bytes, BytesMut};
use henge_raft::wire::{self, WireError};

use crate::common::allocations;
use crate::source::Source;

/// What decoding may allocate for each byte of input, in bytes, and once: an entry of 21 bytes becomes a
/// value of 56, a response of 56 one of 4 times that, and vectors may come within vectors.
const BYTES_PER_BYTE_MAX: u64 = 32;
const BYTES_ONCE_MAX: u64 = 4_096;

/// Returns what the input showed: see `main`.
pub fn codec(input: &[u8]) -> Vec<u64> {
    let mut shown = vec![decode_all(Bytes::copy_from_slice(input))];
    let mut source = Source(input);
    let message = source.message(2);
    let mut out = BytesMut::new();
    wire::encode(&message, &mut out);
    assert_eq!(out.len(), wire::encoded_len(&message));
    let encoded = out.clone().freeze();
    assert_eq!(wire::decode(&mut encoded.clone()), Ok(message));
    // Damage: bits here and there, and the end cut off.
    for _ in 0..=source.below(4) {
        let at = (source.number() as usize) % out.len();
        out[at] = out[at].wrapping_add(1 << source.below(8));
    }
    if source.flag() {
        out.truncate((source.number() as usize) % (out.len() + 1));
    }
    shown.push(16 + decode_all(out.freeze()));
    shown
}

fn decode_all(mut input: Bytes) -> u64 {
    loop {
        let length = input.len() as u64;
        let (_, before) = allocations::so_far();
        let decoded = wire::decode(&mut input);
        let (_, after) = allocations::so_far();
        let allocated = after - before;
        assert!(
            allocated <= BYTES_PER_BYTE_MAX * length + BYTES_ONCE_MAX,
            "{allocated} bytes for {length}"
        );
        match decoded {
            Ok(message) => {
                let mut out = BytesMut::new();
                wire::encode(&message, &mut out);
                assert_eq!(wire::decode(&mut out.freeze()), Ok(message));
                if input.is_empty() {
                    return 0;
                }
            }
            Err(WireError::Short) => return 1,
            Err(WireError::Trailing(_)) => return 2,
            Err(WireError::Version(_)) => return 3,
            Err(WireError::Kind(_)) => return 4,
            Err(WireError::EntryKind(_)) => return 5,
            Err(WireError::Flags(_)) => return 6,
            Err(WireError::Depth) => return 7,
            Err(_) => return 8,
        }
    }
}
