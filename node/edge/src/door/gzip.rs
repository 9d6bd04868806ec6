//! Compressed messages: unpacked within a bound, packed a slice at a time.
//!
//! Promises: what is unpacked never takes more memory than the largest message plus a byte, however
//! much a few bytes claim to be; packing a long answer gives the core's thread back after every slice.
//! Must never know: what a message says.

use std::collections::VecDeque;
use std::io::{Read, Write};

use bytes::{BufMut, Bytes, BytesMut};
use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use tonic::Status;

use super::inbound::PREFIX_BYTES;

/// Bytes packed at a time: a fraction of a millisecond's work.
const SLICE_BYTES: usize = 64 * 1024;
/// What a message costs beside its bytes, in bytes that are packed meanwhile: beginning anew takes a while.
const MESSAGE_BYTES: usize = 4 * 1024;
/// Bytes of a packed message that is put behind its head, and the one before, rather than sent by itself.
const TOGETHER_BYTES: usize = 16 * 1024;

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
    /// What is packed and to be taken, in order; the small ones after that.
    packed: VecDeque<Bytes>,
    small: BytesMut,
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

    /// Whether nothing is left of what came: it is packed, and taken.
    pub(crate) fn is_through(&self) -> bool {
        !self.is_busy() && self.packed.is_empty() && self.small.is_empty()
    }

    /// Does a slice of the work: a part of a message, or some small ones.
    pub(crate) fn work(&mut self) {
        let mut room = SLICE_BYTES;
        while room > 0 && self.is_busy() {
            let Some((mut encoder, left)) = self.current.take().or_else(|| self.begin()) else {
                return;
            };
            let slice = self
                .waiting
                .split_to(left.min(room).min(self.waiting.len()));
            // A vector takes everything.
            let _ = encoder.write_all(&slice);
            let left = left - slice.len();
            room = room.saturating_sub(slice.len());
            if left > 0 {
                self.current = Some((encoder, left));
                continue;
            }
            room = room.saturating_sub(MESSAGE_BYTES);
            self.end(encoder.finish().unwrap_or_default());
        }
    }

    /// A message is packed.
    fn end(&mut self, packed: Vec<u8>) {
        self.small.put_u8(1);
        // No message is longer than 4 GiB.
        self.small
            .put_u32(u32::try_from(packed.len()).unwrap_or(u32::MAX));
        if packed.len() <= TOGETHER_BYTES {
            return self.small.extend_from_slice(&packed);
        }
        // Not copied: it may be long.
        self.packed.push_back(self.small.split().freeze());
        self.packed.push_back(packed.into());
    }

    /// Begins with the next message, once its frame is there.
    fn begin(&mut self) -> Option<(GzEncoder<Vec<u8>>, usize)> {
        let [_, len @ ..] = *self.waiting.first_chunk::<PREFIX_BYTES>()?;
        let _ = self.waiting.split_to(PREFIX_BYTES);
        let len = u32::from_be_bytes(len) as usize;
        let room = Vec::with_capacity(len.min(SLICE_BYTES) / 2 + 64);
        Some((GzEncoder::new(room, Compression::fast()), len))
    }

    /// The next of what is packed.
    pub(crate) fn take(&mut self) -> Option<Bytes> {
        if let Some(packed) = self.packed.pop_front() {
            return Some(packed);
        }
        (!self.small.is_empty()).then(|| self.small.split().freeze())
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
            while let Some(packed) = packer.take() {
                out.extend_from_slice(&packed);
            }
        }
        assert!(packer.is_through());
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

    /// The end of a message copied all of it behind its head, in one go.
    #[test]
    fn regression_a_long_packed_message_is_not_copied_behind_its_head() {
        let mut seed = 1_u64;
        let mut noise = || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed as u8
        };
        let long: Vec<u8> = (0..300_000).map(|_| noise()).collect();
        let mut packer = Packer::default();
        packer.push(&framed(b"short"));
        packer.push(&framed(&long));
        while packer.is_busy() {
            packer.work();
        }
        let head = packer.take().expect("a short message, and a head");
        assert!(head.len() < 100, "{}", head.len());
        let [.., a, b, c, d] = head[..] else {
            panic!("a head")
        };
        let packed = packer.take().expect("the long one");
        assert_eq!(u32::from_be_bytes([a, b, c, d]) as usize, packed.len());
        assert_eq!(unpack(&packed, 300_000).expect("unpacks"), long);
        assert!(packer.take().is_none() && packer.is_through());
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
