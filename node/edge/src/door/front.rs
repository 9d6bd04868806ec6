//! A client's socket, in front of HTTP: header blocks that the HTTP/2 layer would not take are made into ones
//! it takes ([`super::authority`]), whether a client has said anything sensible yet is known, so that silent
//! ones can be ended, and pings are counted ([`super::pings`]), which the HTTP/2 layer answers without a
//! word.
//!
//! Promises: all bytes of a client are passed on in order, at once but for a header block that is not
//! there whole; nothing is copied unless a block is cut in two by a read or has to be changed; what is
//! held back is bounded by the longest header list allowed; what HTTP/2 does not allow is passed on as
//! it came, for the layer above to refuse. Must never know: HPACK, requests.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::authority::Rewriter;
use super::frame::{
    ACK, CONTINUATION, END_HEADERS, FRAME_BYTES_MAX, HEAD_BYTES, HEADERS, Head, PING, answers,
    fragment,
};
use super::pings::{Pings, goaway};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A socket whose incoming header blocks are looked at.
#[derive(Debug)]
pub(crate) struct Front<S> {
    socket: S,
    walk: Walk,
    /// Read, but not yet to be passed on: a header block that is not whole.
    held: BytesMut,
    /// To be passed on before anything else.
    ready: BytesMut,
    spoke: Spoke,
    pings: Pings,
    /// What was written last ends within a frame.
    cut: bool,
}

/// Whether a client said something that begins a conversation: HTTP/2's preface with a frame, or
/// anything else, which HTTP/1 then has a deadline for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Spoke(Arc<AtomicBool>);

impl Spoke {
    /// Whether it did.
    pub(crate) fn is_so(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

#[derive(Debug)]
struct Walk {
    state: State,
    /// A frame began, or this is not HTTP/2.
    begun: bool,
    rewriter: Rewriter,
    /// Bytes a header block may have, frames and all.
    block_bytes_max: usize,
    /// Pings that were passed and are not judged yet.
    pinged: usize,
    /// Headers came since a ping was judged. The layer above sees their call only after what was read with
    /// them.
    called: bool,
    /// The newest stream.
    last_stream: [u8; 4],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// So many bytes of the preface were seen.
    Preface(usize),
    /// Next: a frame's head.
    Head,
    /// In a frame that is none of ours.
    Skip(usize),
    /// In a header block of several frames; so many bytes of what is held were walked.
    Gather(usize),
    /// Not HTTP/2, or not as it should be: nothing is looked at any more.
    Blind,
}

/// What a step through some bytes came to.
enum Step {
    /// The first so many bytes can be passed on; more may follow.
    Pass(usize),
    /// The first so many bytes are to be replaced.
    Replace(usize, BytesMut),
    /// More is needed to know.
    Wait,
}

impl<S> Front<S> {
    /// In front of `socket`; a header block may have `block_bytes_max` bytes.
    pub(crate) fn new(socket: S, block_bytes_max: usize, pings: Pings) -> Front<S> {
        Front {
            socket,
            walk: Walk {
                state: State::Preface(0),
                begun: false,
                rewriter: Rewriter::default(),
                block_bytes_max,
                pinged: 0,
                called: false,
                last_stream: [0; 4],
            },
            held: BytesMut::new(),
            ready: BytesMut::new(),
            spoke: Spoke::default(),
            pings,
            cut: false,
        }
    }

    /// Tells whether the client spoke, also once the socket was given away.
    pub(crate) fn spoke(&self) -> Spoke {
        self.spoke.clone()
    }

    /// Walks new bytes; how many of them can be passed on as they are. The rest is held.
    fn scan(&mut self, new: &[u8]) -> io::Result<usize> {
        let mut at = 0;
        while at < new.len() {
            match self.walk.step(&new[at..])? {
                Step::Pass(n) => at += n,
                Step::Wait => break,
                Step::Replace(n, instead) => {
                    self.ready = instead;
                    self.held.extend_from_slice(&new[at + n..]);
                    return Ok(at);
                }
            }
        }
        self.held.extend_from_slice(&new[at..]);
        Ok(at)
    }

    /// Moves from what is held to what is ready as far as that is known.
    fn digest(&mut self) -> io::Result<()> {
        while !self.held.is_empty() {
            match self.walk.step(&self.held)? {
                Step::Pass(n) => {
                    let passed = self.held.split_to(n);
                    self.ready.extend_from_slice(&passed);
                }
                Step::Replace(n, instead) => {
                    self.held.advance(n);
                    self.ready.extend_from_slice(&instead);
                }
                Step::Wait => break,
            }
        }
        Ok(())
    }
}

impl Walk {
    /// One step through `bytes`, which are not empty and begin where the last step ended (or, after
    /// [`Step::Wait`], where that one began).
    fn step(&mut self, bytes: &[u8]) -> io::Result<Step> {
        match self.state {
            State::Blind => Ok(Step::Pass(bytes.len())),
            State::Preface(seen) => {
                let rest = &PREFACE[seen..];
                let n = rest.len().min(bytes.len());
                if rest[..n] != bytes[..n] {
                    (self.state, self.begun) = (State::Blind, true);
                } else if n == rest.len() {
                    self.state = State::Head;
                } else {
                    self.state = State::Preface(seen + n);
                }
                Ok(Step::Pass(n))
            }
            State::Skip(left) => {
                let n = left.min(bytes.len());
                self.state = if n == left {
                    State::Head
                } else {
                    State::Skip(left - n)
                };
                Ok(Step::Pass(n))
            }
            State::Head => {
                let Some(head) = Head::read(bytes) else {
                    return Ok(Step::Wait);
                };
                self.begun = true;
                if head.kind != HEADERS {
                    let is_ping = head.kind == PING && head.flags & ACK == 0;
                    self.pinged += usize::from(is_ping);
                    self.state = State::Skip(HEAD_BYTES + head.len);
                    return Ok(Step::Pass(0));
                }
                self.state = State::Gather(0);
                self.called = true;
                self.last_stream = self.last_stream.max(head.stream);
                self.gather(bytes, 0)
            }
            State::Gather(walked) => self.gather(bytes, walked),
        }
    }

    /// Walks the frames of a header block; `bytes` begin with its first.
    fn gather(&mut self, bytes: &[u8], mut walked: usize) -> io::Result<Step> {
        loop {
            let Some(head) = bytes.get(walked..).and_then(Head::read) else {
                self.state = State::Gather(walked);
                return Ok(Step::Wait);
            };
            let kind = if walked == 0 { HEADERS } else { CONTINUATION };
            let whole = walked + HEAD_BYTES + head.len;
            if head.kind != kind || head.len > FRAME_BYTES_MAX || whole > self.block_bytes_max {
                return self.give_up();
            }
            if bytes.len() < whole {
                self.state = State::Gather(walked);
                return Ok(Step::Wait);
            }
            walked = whole;
            if head.flags & END_HEADERS != 0 {
                return self.judge(&bytes[..whole]);
            }
        }
    }

    /// Decides on a whole header block.
    fn judge(&mut self, frames: &[u8]) -> io::Result<Step> {
        self.state = State::Head;
        let Some(first) = Head::read(frames) else {
            return self.give_up();
        };
        let Some(fragment) = fragment(&first, &frames[HEAD_BYTES..HEAD_BYTES + first.len]) else {
            return self.give_up();
        };
        let after = &frames[HEAD_BYTES + first.len..];
        let rewritten = if after.is_empty() {
            self.rewriter.block(fragment)
        } else {
            let mut block = fragment.to_vec();
            let mut rest = after;
            while let Some(head) = Head::read(rest) {
                let (frame, next) = rest.split_at(HEAD_BYTES + head.len);
                block.extend_from_slice(&frame[HEAD_BYTES..]);
                rest = next;
            }
            self.rewriter.block(&block)
        };
        match rewritten {
            Ok(None) => Ok(Step::Pass(frames.len())),
            Ok(Some(block)) => Ok(Step::Replace(frames.len(), first.frames(&block))),
            Err(_) => self.give_up(),
        }
    }

    /// What comes is not HTTP/2 as it should be, and the layer above will end it. It would misread
    /// later blocks if it did not, once earlier ones were changed: then it gets nothing more.
    fn give_up(&mut self) -> io::Result<Step> {
        if self.rewriter.has_rewritten() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        self.state = State::Blind;
        Ok(Step::Pass(0))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Front<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if buf.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            if !this.ready.is_empty() {
                let n = this.ready.len().min(buf.remaining());
                buf.put_slice(&this.ready.split_to(n));
                return Poll::Ready(Ok(()));
            }
            let before = buf.filled().len();
            ready!(Pin::new(&mut this.socket).poll_read(cx, buf))?;
            let new = buf.filled().len() - before;
            if new == 0 {
                // The end. What was held is passed on, so that it is seen to be cut off.
                if this.held.is_empty() {
                    return Poll::Ready(Ok(()));
                }
                this.ready = std::mem::take(&mut this.held);
                continue;
            }
            if this.walk.state == State::Blind && this.held.is_empty() {
                return Poll::Ready(Ok(()));
            }
            if this.held.is_empty() {
                let whole = buf.filled();
                // Borrowed apart: what is filled is not the front's own.
                let passed = this.scan(&whole[before..])?;
                buf.set_filled(before + passed);
            } else {
                this.held.extend_from_slice(&buf.filled()[before..]);
                buf.set_filled(before);
            }
            this.digest()?;
            this.judge_pings(cx)?;
            if this.walk.begun && !this.spoke.is_so() {
                this.spoke.0.store(true, Ordering::Relaxed);
            }
            if buf.filled().len() > before {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> Front<S> {
    /// Ends the connection, and says why, if its client has pinged too often.
    fn judge_pings(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.walk.pinged == 0 {
            return Ok(());
        }
        let now = Instant::now();
        let pings = std::mem::take(&mut self.walk.pinged);
        let calls = std::mem::take(&mut self.walk.called);
        if !(0..pings).any(|_| self.pings.too_many(now, calls)) {
            return Ok(());
        }
        if !self.cut {
            // Best effort: a client that does not read either is none the wiser.
            let goaway = goaway(self.walk.last_stream);
            let _ = Pin::new(&mut self.socket).poll_write(cx, &goaway);
        }
        Err(io::Error::new(
            io::ErrorKind::ConnectionAborted,
            "too many pings",
        ))
    }

    /// Looks at what the HTTP/2 layer has just written: whole frames, unless the socket had no room.
    fn wrote(&mut self, first: &[u8], offered: usize, polled: &Poll<io::Result<usize>>) {
        if let Poll::Ready(Ok(written)) = polled {
            // The rest of a frame is one of data, or of headers: none of the others is long.
            if self.cut || answers(first) {
                self.pings.answered();
            }
            self.cut = *written < offered;
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Front<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.socket).poll_write(cx, buf);
        self.wrote(buf, buf.len(), &polled);
        polled
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.socket).poll_write_vectored(cx, bufs);
        let offered = bufs.iter().map(|buf| buf.len()).sum();
        let first = bufs.iter().find(|buf| !buf.is_empty());
        self.wrote(first.map_or(&[], |buf| buf), offered, &polled);
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::BufMut;

    use super::*;
    use crate::counters::Calls;
    use crate::door::frame::{PADDED, PRIORITY};

    const HARMLESS: &[u8] = &[1, 1, b'x'];

    /// Bytes that come in pieces of the given sizes.
    struct Pieces {
        bytes: Vec<u8>,
        at: usize,
        sizes: Vec<usize>,
    }

    impl AsyncRead for Pieces {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            let rest = self.bytes.len() - self.at;
            let size = self.sizes.pop().unwrap_or(usize::MAX);
            let n = size.min(rest).min(buf.remaining());
            buf.put_slice(&self.bytes[self.at..self.at + n]);
            self.at += n;
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for Pieces {
        fn poll_write(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buf: &[u8],
        ) -> Poll<io::Result<usize>> {
            Poll::Ready(Ok(buf.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

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

    /// What comes out if `bytes` come in pieces of `size`, read into buffers of `room`.
    fn through(bytes: &[u8], size: usize, room: usize) -> io::Result<(Vec<u8>, bool)> {
        let pieces = Pieces {
            bytes: bytes.to_vec(),
            at: 0,
            sizes: vec![size.max(1); bytes.len()],
        };
        let pings = Pings::new(Calls::default(), Duration::from_secs(5));
        let mut front = Front::new(pieces, 1 << 20, pings);
        let mut out = Vec::new();
        let mut cx = Context::from_waker(std::task::Waker::noop());
        loop {
            let mut space = vec![0; room];
            let mut buf = ReadBuf::new(&mut space);
            match Pin::new(&mut front).poll_read(&mut cx, &mut buf) {
                Poll::Ready(Ok(())) if buf.filled().is_empty() => {
                    return Ok((out, front.spoke.is_so()));
                }
                Poll::Ready(Ok(())) => out.extend_from_slice(buf.filled()),
                Poll::Ready(Err(e)) => return Err(e),
                Poll::Pending => panic!("pieces are always there"),
            }
        }
    }

    #[test]
    fn odd_header_blocks_are_replaced_however_they_are_cut() {
        let odd = [0x83, 0x41, 3, b'a', b' ', b'b', 0x86];
        let good = [0x83, 0xbe];
        let mut sent = PREFACE.to_vec();
        let mut wanted = PREFACE.to_vec();
        let mut both = |bytes: Vec<u8>| {
            sent.extend_from_slice(&bytes);
            wanted.extend_from_slice(&bytes);
        };
        both(frame(4, 0, &[0, 4, 0, 1, 0, 0]));
        both(frame(0, 0, &[7; 100]));
        // Padded, with a priority, and in three frames: one HEADERS frame comes out.
        let mut padded = vec![2, 0, 0, 0, 0, 9];
        padded.extend_from_slice(&odd[..2]);
        padded.extend_from_slice(&[0, 0]);
        sent.extend(frame(HEADERS, PADDED | PRIORITY | 1, &padded));
        sent.extend(frame(CONTINUATION, 0, &odd[2..4]));
        sent.extend(frame(CONTINUATION, END_HEADERS, &odd[4..]));
        let clean = [&[0x83][..], HARMLESS, &[0x86]].concat();
        wanted.extend(frame(HEADERS, END_HEADERS | 1, &clean));
        // Data goes on; the phantom is written out, what is younger stays.
        sent.extend(frame(0, 0, b"data"));
        wanted.extend(frame(0, 0, b"data"));
        sent.extend(frame(HEADERS, END_HEADERS, &good));
        wanted.extend(frame(
            HEADERS,
            END_HEADERS,
            &[&[0x83][..], HARMLESS].concat(),
        ));
        for size in [1, 2, 3, 7, 9, 10, 50, 10_000] {
            for room in [1, 5, 10_000] {
                let (got, spoke) = through(&sent, size, room).expect("well formed");
                assert_eq!(got, wanted, "pieces of {size}, buffers of {room}");
                assert!(spoke);
            }
        }
    }

    #[test]
    fn what_is_not_http2_or_cut_off_passes_as_it_came() {
        let mut cut = PREFACE.to_vec();
        cut.extend(frame(HEADERS, END_HEADERS, &[0x41, 3, b'a', b' ', b'b']));
        cut.truncate(cut.len() - 1);
        let mut mixed = PREFACE.to_vec();
        mixed.extend(frame(HEADERS, 0, &[0x83]));
        mixed.extend(frame(0, 0, &[0x83]));
        let mut bad = PREFACE.to_vec();
        bad.extend(frame(HEADERS, END_HEADERS, &[0x41, 30, b'a']));
        bad.extend(frame(HEADERS, END_HEADERS, &[0x41, 3, b'a', b' ', b'b']));
        for sent in [b"GET / HTTP/1.1\r\n\r\n".to_vec(), cut, mixed, bad] {
            for size in [1, 4, 10_000] {
                assert_eq!(
                    through(&sent, size, 64).expect("passes"),
                    (sent.clone(), true)
                );
            }
        }
    }

    #[test]
    fn only_a_frame_or_another_protocol_is_speech() {
        for said in [&b""[..], b"P", b"PRI * HTTP", PREFACE] {
            assert_eq!(
                through(said, 4, 64).expect("passes"),
                (said.to_vec(), false)
            );
        }
    }

    #[test]
    fn header_blocks_without_end_are_not_held_for_ever() {
        let mut sent = PREFACE.to_vec();
        sent.extend(frame(HEADERS, 0, &[0x83]));
        for _ in 0..200 {
            sent.extend(frame(CONTINUATION, 0, &vec![0x83; FRAME_BYTES_MAX]));
        }
        let (got, _) = through(&sent, 8_192, 8_192).expect("for the layer above to refuse");
        assert_eq!(got.len(), sent.len());
    }

    #[test]
    fn a_connection_that_was_rewritten_and_goes_astray_ends() {
        let mut sent = PREFACE.to_vec();
        sent.extend(frame(HEADERS, END_HEADERS, &[0x41, 3, b'a', b' ', b'b']));
        sent.extend(frame(HEADERS, END_HEADERS, &[0x41, 30, b'a']));
        assert!(through(&sent, 10_000, 10_000).is_err());
    }
}
