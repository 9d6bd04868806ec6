//! HTTP/2 frames as far as the front of a client's socket has to know them (RFC 9113, section 4).
//!
//! Must never know: sockets, what header blocks say.

use bytes::{BufMut, BytesMut};

pub(super) const HEAD_BYTES: usize = 9;
pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const PING: u8 = 6;
pub(super) const ACK: u8 = 1;
pub(super) const CONTINUATION: u8 = 9;
pub(super) const END_HEADERS: u8 = 4;
pub(super) const PADDED: u8 = 8;
pub(super) const PRIORITY: u8 = 0x20;
/// Longest frame a client may send: HTTP/2's default, which is what we leave it at.
pub(super) const FRAME_BYTES_MAX: usize = 16_384;

/// A frame's head.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head {
    pub(super) len: usize,
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: [u8; 4],
}

impl Head {
    pub(super) fn read(bytes: &[u8]) -> Option<Head> {
        let [a, b, c, kind, flags, stream @ ..] = *bytes.first_chunk::<HEAD_BYTES>()?;
        Some(Head {
            len: usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c),
            kind,
            flags,
            stream,
        })
    }

    pub(super) fn write(&self, out: &mut BytesMut) {
        out.put_uint(self.len as u64, 3);
        out.put_u8(self.kind);
        out.put_u8(self.flags);
        out.put_slice(&self.stream);
    }

    /// `block` in a HEADERS frame like this one, and as many more as it takes. Padding and priority,
    /// which nobody reads, are left out.
    pub(super) fn frames(&self, block: &[u8]) -> BytesMut {
        let mut out = BytesMut::with_capacity(block.len() + HEAD_BYTES);
        let mut parts = block.chunks(FRAME_BYTES_MAX).peekable();
        let mut head = Head {
            flags: self.flags & !(PADDED | PRIORITY | END_HEADERS),
            ..*self
        };
        loop {
            let part = parts.next().unwrap_or_default();
            head.len = part.len();
            if parts.peek().is_none() {
                head.flags |= END_HEADERS;
            }
            head.write(&mut out);
            out.put_slice(part);
            if parts.peek().is_none() {
                return out;
            }
            (head.kind, head.flags) = (CONTINUATION, 0);
        }
    }
}

/// The header block fragment of a HEADERS frame.
pub(super) fn fragment<'b>(head: &Head, payload: &'b [u8]) -> Option<&'b [u8]> {
    let mut at = payload;
    let mut padding = 0;
    if head.flags & PADDED != 0 {
        let (n, rest) = at.split_first()?;
        (padding, at) = (usize::from(*n), rest);
    }
    if head.flags & PRIORITY != 0 {
        at = at.get(5..)?;
    }
    at.get(..at.len().checked_sub(padding)?)
}

/// Whether among frames that begin here is one of headers or data.
pub(super) fn answers(mut frames: &[u8]) -> bool {
    while let Some(head) = Head::read(frames) {
        if head.kind == HEADERS || head.kind == DATA {
            return true;
        }
        frames = frames.get(HEAD_BYTES + head.len..).unwrap_or_default();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut out = BytesMut::new();
        let head = Head {
            len: payload.len(),
            kind,
            flags,
            stream: [0, 0, 0, 1],
        };
        head.write(&mut out);
        out.put_slice(payload);
        out.to_vec()
    }

    #[test]
    fn headers_and_data_among_frames_are_answers() {
        let (ack, update) = (frame(PING, ACK, &[0; 8]), frame(8, 0, &[0; 4]));
        let data = frame(DATA, 0, b"x");
        assert!(!answers(&[&ack[..], &update].concat()));
        assert!(answers(&[&ack[..], &update, &data].concat()));
        // Only its head was in the first piece.
        assert!(answers(&frame(HEADERS, 0, &[7; 100])[..HEAD_BYTES]));
        assert!(!answers(&data[..HEAD_BYTES - 1]));
    }
}
