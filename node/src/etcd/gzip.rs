//! Compressed messages: unpacked within a bound, packed a slice at a time.
//!
//! Promises: what is unpacked never takes more memory than the largest message plus a byte, however
//! much a few bytes claim to be; packing a long answer gives the core's thread back after every slice.
//! Must never know: what a message says.

use std::io::{Read, Write};

use bytes::{BufMut, Bytes, BytesMut};
use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use tonic::Status;

use super::inbound::PREFIX_BYTES;

/// Bytes packed at a time: a fraction of a millisecond's work.
const SLICE_BYTES: usize = 64 * 1024;

/// The message that `packed` holds, if it has at most `max_bytes`.
pub(crate) fn unpack(packed: &[u8], max_bytes: usize) -> Result<Bytes, Status> {
    let mut message = Vec::with_capacity(max_bytes.min(packed.len().saturating_mul(2)));
    // Several members in a row are one message, as for Go's reader.
    let limit = u64::try_from(max_bytes).unwrap_or(u64::MAX);
    MultiGzDecoder::new(packed)
        .take(limit.saturating_add(1))
        .read_to_end(&mut message)
        .map_err(|e| {
            Status::internal(format!(
                "grpc: failed to decompress the received message: {e}"
            ))
        })?;
    if message.len() > max_bytes {
        return Err(Status::resource_exhausted(format!(
            "grpc: received message after decompression larger than max {max_bytes}"
        )));
    }
    Ok(message.into())
}

/// Packs framed messages, a slice per call. A message is packed as it comes: of a long one only what it
/// becomes is held.
#[derive(Debug, Default)]
pub(crate) struct Packer {
    /// What came and was not packed.
    waiting: BytesMut,
    /// The message that is being packed, and its bytes that are yet to be.
    current: Option<(GzEncoder<Vec<u8>>, usize)>,
    packed: BytesMut,
}

impl Packer {
    /// Takes one or more framed messages, or a part.
    pub(crate) fn push(&mut self, framed: &[u8]) {
        self.waiting.extend_from_slice(framed);
    }

    /// Whether there is something to pack.
    pub(crate) fn is_busy(&self) -> bool {
        match &self.current {
            Some((_, left)) => *left == 0 || !self.waiting.is_empty(),
            None => self.waiting.len() >= PREFIX_BYTES,
        }
    }

    /// Does a slice of the work. Once none is left, takes what was packed with [`Packer::take`].
    pub(crate) fn work(&mut self) {
        let Some((mut encoder, left)) = self.current.take().or_else(|| self.begin()) else {
            return;
        };
        let slice = self
            .waiting
            .split_to(left.min(SLICE_BYTES).min(self.waiting.len()));
        // A vector takes everything.
        let _ = encoder.write_all(&slice);
        let left = left - slice.len();
        if left > 0 {
            self.current = Some((encoder, left));
            return;
        }
        let packed = encoder.finish().unwrap_or_default();
        self.packed.put_u8(1);
        // No message is longer than 4 GiB.
        self.packed
            .put_u32(u32::try_from(packed.len()).unwrap_or(u32::MAX));
        self.packed.extend_from_slice(&packed);
    }

    /// Begins with the next message, once its frame is there.
    fn begin(&mut self) -> Option<(GzEncoder<Vec<u8>>, usize)> {
        let [_, len @ ..] = *self.waiting.first_chunk::<PREFIX_BYTES>()?;
        let _ = self.waiting.split_to(PREFIX_BYTES);
        let len = u32::from_be_bytes(len) as usize;
        let room = Vec::with_capacity(len.min(SLICE_BYTES) / 2 + 64);
        Some((GzEncoder::new(room, Compression::fast()), len))
    }

    /// What was packed so far.
    pub(crate) fn take(&mut self) -> Option<Bytes> {
        (!self.packed.is_empty()).then(|| self.packed.split().freeze())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(message: &[u8]) -> Vec<u8> {
        let mut out = vec![0];
        out.extend_from_slice(&u32::try_from(message.len()).expect("short").to_be_bytes());
        out.extend_from_slice(message);
        out
    }

    #[test]
    fn what_was_packed_is_unpacked() {
        let long: Vec<u8> = (0..300_000_u32)
            .map(|n| (n.wrapping_mul(n) >> 7) as u8)
            .collect();
        let messages = [&b""[..], b"short", &long];
        let mut packer = Packer::default();
        // In pieces that cut through messages.
        let all: Vec<u8> = messages.iter().flat_map(|m| framed(m)).collect();
        let (mut out, mut slices) = (Vec::new(), 0);
        for piece in all.chunks(100_000) {
            packer.push(piece);
            while packer.is_busy() {
                packer.work();
                slices += 1;
            }
            out.extend_from_slice(&packer.take().unwrap_or_default());
        }
        assert!(
            slices > messages.len(),
            "a long message is packed in slices"
        );
        let mut rest = &out[..];
        for message in messages {
            let len = u32::from_be_bytes([rest[1], rest[2], rest[3], rest[4]]) as usize;
            assert_eq!(rest[0], 1);
            let packed = &rest[PREFIX_BYTES..PREFIX_BYTES + len];
            assert_eq!(unpack(packed, 300_000).expect("unpacks"), message);
            rest = &rest[PREFIX_BYTES + len..];
        }
        assert!(rest.is_empty());
    }

    #[test]
    fn a_bomb_is_refused_at_the_bound_and_garbage_by_name() {
        let mut bomb = GzEncoder::new(Vec::new(), Compression::best());
        for _ in 0..64 {
            bomb.write_all(&[0; 1 << 20]).expect("a vector");
        }
        let bomb = bomb.finish().expect("a vector");
        assert!(bomb.len() < 100_000);
        let e = unpack(&bomb, 1_000).expect_err("too long");
        assert_eq!(e.code(), tonic::Code::ResourceExhausted);
        for garbage in [&b""[..], b"garbage", &bomb[..40]] {
            let e = unpack(garbage, 1 << 20).expect_err("garbage");
            // Nothing, and a cut-off one, end too early.
            assert_eq!(e.code(), tonic::Code::Internal, "{garbage:?}: {e:?}");
        }
    }
}
