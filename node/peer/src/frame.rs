//! Frames: how bytes between two nodes are cut, checked and bounded.
//!
//! A frame is a 16-byte header and a payload; `docs/format.md` ("Peer frames") draws both. The
//! header has a checksum of its own, so a damaged length is found before anyone waits or allocates
//! for it; the header's checksum covers the payload's checksum, so it covers everything.
//!
//! Promises: pure functions of bytes; never panics on any input; never asks for more memory than
//! the caller's limit. A frame that fails a check is an error, never a shorter or another frame.
//!
//! Must never know: sockets, clocks, node ids, what a message means.
//!
//! Tested below: round trips cut at every place, every single flipped bit, and garbage (proptest).

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Bytes of a frame's header.
pub const HEADER_BYTES: usize = 16;

/// Longest payload of a message frame, in bytes: 16 MiB of entries and room for their envelope.
///
/// The largest request is 1.5 MiB by default and raft cuts appends by size, so nothing honest
/// comes near; it bounds what one peer can make us allocate.
pub const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024 + 64 * 1024;

/// Longest payload of every other frame, and of any frame before the handshake, in bytes.
pub const CONTROL_BYTES_MAX: usize = 1024;

/// Version of the envelope and of the session's frames that this build writes.
pub const FRAME_VERSION: u8 = 1;

/// "HP" as little-endian; an HTTP or TLS client on the wrong port differs in the first two bytes.
const MAGIC: u16 = u16::from_le_bytes(*b"HP");

/// A payload up to this long is copied out of the read buffer. A longer one keeps its slice: the
/// copy would cost more than the little that the slice pins beside itself.
const COPY_BYTES_MAX: usize = 64 * 1024;

/// What a frame is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// First frame both ways: who is here, and whom it wants. See `handshake`.
    Hello = 1,
    /// Why a [`Kind::Hello`] was not accepted; the last frame of its connection.
    Refuse = 2,
    /// Opaque to the transport; given to the handler.
    Message = 3,
    /// A number that the other side sends back in a [`Kind::Pong`].
    Ping = 4,
    /// The number of the last [`Kind::Ping`].
    Pong = 5,
    /// Why the sender closes this connection; the last frame of its connection.
    Goodbye = 6,
}

impl Kind {
    fn parse(byte: u8) -> Option<Kind> {
        Some(match byte {
            1 => Kind::Hello,
            2 => Kind::Refuse,
            3 => Kind::Message,
            4 => Kind::Ping,
            5 => Kind::Pong,
            6 => Kind::Goodbye,
            _ => return None,
        })
    }

    /// Longest payload that a frame of this kind may have, in bytes.
    pub fn payload_bytes_max(self) -> usize {
        match self {
            Kind::Message => MESSAGE_BYTES_MAX,
            _ => CONTROL_BYTES_MAX,
        }
    }
}

/// One checked frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What it is for.
    pub kind: Kind,
    /// Its content, checked against the checksum.
    pub payload: Bytes,
}

/// Bytes that are not a frame. The peer, or the path to it, is at fault; the connection they came
/// from cannot be trusted to be in step any more and is closed.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Not a henge node, or the stream lost its place.
    #[error("not a peer frame: starts with {found:#06x}; is the peer URL a client URL?")]
    Magic {
        /// The first two bytes, little-endian.
        found: u16,
    },
    /// The header was damaged on the way.
    #[error("peer frame header checksum: computed {computed:#010x}, found {found:#010x}")]
    HeaderChecksum {
        /// CRC32C of the header as received.
        computed: u32,
        /// CRC32C that the sender wrote.
        found: u32,
    },
    /// The payload was damaged on the way.
    #[error("peer frame payload checksum: computed {computed:#010x}, found {found:#010x}")]
    PayloadChecksum {
        /// CRC32C of the payload as received.
        computed: u32,
        /// CRC32C that the sender wrote.
        found: u32,
    },
    /// A sound frame of a version that was not agreed on in the handshake.
    #[error("peer frame version {found}, this build reads {FRAME_VERSION}")]
    Version {
        /// The version it carries.
        found: u8,
    },
    /// A sound frame of a kind this version does not have.
    #[error("peer frame of unknown kind {found}")]
    Kind {
        /// The kind it carries.
        found: u8,
    },
    /// Longer than its kind may be, or than the connection's stage allows.
    #[error("peer frame of {bytes} bytes, at most {max} allowed here")]
    TooLong {
        /// Length of the payload.
        bytes: usize,
        /// The bound it exceeds.
        max: usize,
    },
}

/// What [`take`] found at the front of a buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Taken {
    /// A whole frame; its bytes are gone from the buffer.
    Frame(Frame),
    /// Not there yet: at least this many more bytes are needed (never 0, never more than a header
    /// plus the limit). The buffer is unchanged.
    Need(usize),
}

/// The header of a frame with this payload.
///
/// # Errors
/// [`FrameError::TooLong`] when the payload exceeds its kind's bound: the caller's mistake.
pub fn header(kind: Kind, payload: &[u8]) -> Result<[u8; HEADER_BYTES], FrameError> {
    let max = kind.payload_bytes_max();
    let length = match u32::try_from(payload.len()) {
        Ok(length) if payload.len() <= max => length,
        _ => {
            return Err(FrameError::TooLong {
                bytes: payload.len(),
                max,
            });
        }
    };
    let mut header = [0; HEADER_BYTES];
    let mut at = &mut header[..];
    at.put_u16_le(MAGIC);
    at.put_u8(FRAME_VERSION);
    at.put_u8(kind as u8);
    at.put_u32_le(length);
    at.put_u32_le(crc32c::crc32c(payload));
    let crc = crc32c::crc32c(&header[..12]);
    header[12..].copy_from_slice(&crc.to_le_bytes());
    Ok(header)
}

/// A whole frame in one piece.
///
/// # Errors
/// As [`header`].
pub fn encode(kind: Kind, payload: &[u8]) -> Result<Bytes, FrameError> {
    let header = header(kind, payload)?;
    let mut frame = BytesMut::with_capacity(HEADER_BYTES + payload.len());
    frame.put_slice(&header);
    frame.put_slice(payload);
    Ok(frame.freeze())
}

/// Takes one frame from the front of `buffer`, whose payload may have at most `limit` bytes.
///
/// # Errors
/// [`FrameError`] when the bytes cannot become a frame, however many follow. The buffer is then
/// of no further use.
pub fn take(buffer: &mut BytesMut, limit: usize) -> Result<Taken, FrameError> {
    let Some(raw) = buffer.first_chunk::<HEADER_BYTES>() else {
        return Ok(Taken::Need(HEADER_BYTES - buffer.len()));
    };
    let parsed = Header::parse(raw, limit)?;
    let whole = HEADER_BYTES + parsed.length;
    if buffer.len() < whole {
        return Ok(Taken::Need(whole - buffer.len()));
    }
    let computed = crc32c::crc32c(&buffer[HEADER_BYTES..whole]);
    if computed != parsed.payload_crc {
        return Err(FrameError::PayloadChecksum {
            computed,
            found: parsed.payload_crc,
        });
    }
    buffer.advance(HEADER_BYTES);
    let payload = if parsed.length <= COPY_BYTES_MAX {
        // Small messages live on in raft's log tail; a slice would pin the whole read buffer.
        let copy = Bytes::copy_from_slice(&buffer[..parsed.length]);
        buffer.advance(parsed.length);
        copy
    } else {
        buffer.split_to(parsed.length).freeze()
    };
    Ok(Taken::Frame(Frame {
        kind: parsed.kind,
        payload,
    }))
}

struct Header {
    kind: Kind,
    length: usize,
    payload_crc: u32,
}

impl Header {
    /// Checks in this order: magic (a stranger gets a clear answer), checksum (nothing after it is
    /// believed before it holds), then what the fields say.
    fn parse(raw: &[u8; HEADER_BYTES], limit: usize) -> Result<Header, FrameError> {
        let mut at = &raw[..];
        let magic = at.get_u16_le();
        let version = at.get_u8();
        let kind = at.get_u8();
        let length = at.get_u32_le();
        let payload_crc = at.get_u32_le();
        let found = at.get_u32_le();
        if magic != MAGIC {
            return Err(FrameError::Magic { found: magic });
        }
        let computed = crc32c::crc32c(&raw[..12]);
        if computed != found {
            return Err(FrameError::HeaderChecksum { computed, found });
        }
        if version != FRAME_VERSION {
            return Err(FrameError::Version { found: version });
        }
        let kind = Kind::parse(kind).ok_or(FrameError::Kind { found: kind })?;
        let max = limit.min(kind.payload_bytes_max());
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length > max {
            return Err(FrameError::TooLong { bytes: length, max });
        }
        Ok(Header {
            kind,
            length,
            payload_crc,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KINDS: [Kind; 6] = [
        Kind::Hello,
        Kind::Refuse,
        Kind::Message,
        Kind::Ping,
        Kind::Pong,
        Kind::Goodbye,
    ];

    fn whole(bytes: &[u8]) -> Result<Taken, FrameError> {
        take(&mut BytesMut::from(bytes), MESSAGE_BYTES_MAX)
    }

    #[test]
    fn the_bytes_of_a_ping_are_those_of_the_drawing() {
        let frame = encode(Kind::Ping, &7_u64.to_le_bytes()).expect("short");
        assert_eq!(&frame[..8], b"HP\x01\x04\x08\x00\x00\x00");
        assert_eq!(frame[8..12], crc32c::crc32c(&frame[16..]).to_le_bytes());
        assert_eq!(frame[12..16], crc32c::crc32c(&frame[..12]).to_le_bytes());
        assert_eq!(&frame[16..], b"\x07\0\0\0\0\0\0\0");
    }

    #[test]
    fn every_kind_survives_the_trip_and_leaves_the_rest() {
        for kind in KINDS {
            let mut buffer = BytesMut::from(&encode(kind, b"abc").expect("short")[..]);
            buffer.extend_from_slice(b"HP");
            let payload = Bytes::from_static(b"abc");
            assert_eq!(
                take(&mut buffer, CONTROL_BYTES_MAX),
                Ok(Taken::Frame(Frame { kind, payload }))
            );
            assert_eq!(take(&mut buffer, CONTROL_BYTES_MAX), Ok(Taken::Need(14)));
        }
    }

    #[test]
    fn a_cut_frame_asks_for_what_is_missing() {
        let frame = encode(Kind::Message, &[9; 100]).expect("short");
        for cut in 0..frame.len() {
            let missing = if cut < HEADER_BYTES {
                HEADER_BYTES
            } else {
                frame.len()
            } - cut;
            assert_eq!(
                whole(&frame[..cut]),
                Ok(Taken::Need(missing)),
                "cut at {cut}"
            );
        }
    }

    /// N6: no flipped bit passes, in the header, the checksums or the payload.
    #[test]
    fn every_flipped_bit_is_an_error_at_once() {
        let frame = encode(Kind::Message, b"replicate me").expect("short");
        for bit in 0..frame.len() * 8 {
            let mut bad = frame.to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(whole(&bad).is_err(), "bit {bit} passed");
        }
    }

    #[test]
    fn length_is_bounded_by_kind_and_by_stage() {
        let long = vec![0; CONTROL_BYTES_MAX + 1];
        let error = FrameError::TooLong {
            bytes: long.len(),
            max: CONTROL_BYTES_MAX,
        };
        assert_eq!(encode(Kind::Hello, &long), Err(error.clone()));
        let message = encode(Kind::Message, &long).expect("a message may be longer");
        assert_eq!(
            take(&mut BytesMut::from(&message[..]), CONTROL_BYTES_MAX),
            Err(error)
        );
        let huge = vec![0; MESSAGE_BYTES_MAX + 1];
        assert!(header(Kind::Message, &huge).is_err());
        assert!(header(Kind::Message, &huge[1..]).is_ok());
    }

    #[test]
    fn a_sound_frame_of_another_version_or_kind_is_named() {
        for (at, value, error) in [
            (2, 2, FrameError::Version { found: 2 }),
            (3, 0, FrameError::Kind { found: 0 }),
            (3, 77, FrameError::Kind { found: 77 }),
        ] {
            let mut frame = encode(Kind::Ping, b"").expect("short").to_vec();
            frame[at] = value;
            let crc = crc32c::crc32c(&frame[..12]);
            frame[12..].copy_from_slice(&crc.to_le_bytes());
            assert_eq!(whole(&frame), Err(error));
        }
    }

    #[test]
    fn a_web_client_is_recognised() {
        let found = u16::from_le_bytes(*b"GE");
        assert_eq!(
            whole(b"GET / HTTP/1.1\r\n\r\n"),
            Err(FrameError::Magic { found })
        );
    }

    #[test]
    fn a_small_payload_does_not_pin_the_read_buffer() {
        let mut buffer = BytesMut::with_capacity(64 * 1024);
        buffer.extend_from_slice(&encode(Kind::Message, b"small").expect("short"));
        let before = buffer.capacity();
        let Ok(Taken::Frame(frame)) = take(&mut buffer, MESSAGE_BYTES_MAX) else {
            panic!("a whole frame");
        };
        assert!(
            buffer.try_reclaim(before),
            "the payload still holds the buffer"
        );
        assert_eq!(&frame.payload[..], b"small");
    }

    proptest! {
        #[test]
        fn any_stream_comes_out_as_it_went_in_however_it_is_cut(
            payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..12),
            piece in 1_usize..97,
        ) {
            let mut wire = Vec::new();
            for payload in &payloads {
                wire.extend_from_slice(&encode(Kind::Message, payload).expect("short"));
            }
            let mut buffer = BytesMut::new();
            let mut seen = Vec::new();
            for bytes in wire.chunks(piece) {
                buffer.extend_from_slice(bytes);
                while let Taken::Frame(frame) = take(&mut buffer, MESSAGE_BYTES_MAX)? {
                    seen.push(frame.payload.to_vec());
                }
            }
            prop_assert_eq!(seen, payloads);
            prop_assert!(buffer.is_empty());
        }

        #[test]
        fn garbage_never_panics_nor_asks_for_more_than_the_limit(
            mut bytes in prop::collection::vec(any::<u8>(), 0..200),
            limit in 0_usize..2_000,
            looks_right in any::<bool>(),
        ) {
            if looks_right && bytes.len() >= HEADER_BYTES {
                bytes[..3].copy_from_slice(b"HP\x01");
                let crc = crc32c::crc32c(&bytes[..12]);
                bytes[12..16].copy_from_slice(&crc.to_le_bytes());
            }
            if let Ok(Taken::Need(more)) = take(&mut BytesMut::from(&bytes[..]), limit) {
                prop_assert!(more > 0);
                prop_assert!(bytes.len() + more <= HEADER_BYTES + limit);
            }
        }
    }
}
