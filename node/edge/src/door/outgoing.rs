//! Counts the messages of an answer as they go out, before they are packed.
//!
//! Promises: a message counts once its head has passed, its bytes as they pass, however it is cut. Must never
//! know: what a message says.

use super::inbound::PREFIX_BYTES;
use crate::counters::Messages;

/// The framed messages of one answer.
#[derive(Debug)]
pub(crate) struct Outgoing {
    messages: Messages,
    head: [u8; PREFIX_BYTES],
    /// So much of a head has passed.
    got: usize,
    /// So much of a message has not.
    left: usize,
}

impl Outgoing {
    pub(crate) fn new(messages: Messages) -> Outgoing {
        Outgoing {
            messages,
            head: [0; PREFIX_BYTES],
            got: 0,
            left: 0,
        }
    }

    /// The next bytes pass.
    pub(crate) fn pass(&mut self, mut data: &[u8]) {
        let (mut messages, mut bytes) = (0, 0);
        while !data.is_empty() {
            if self.left > 0 {
                let now = self.left.min(data.len());
                self.left -= now;
                bytes += now;
                data = &data[now..];
                continue;
            }
            let now = (PREFIX_BYTES - self.got).min(data.len());
            self.head[self.got..self.got + now].copy_from_slice(&data[..now]);
            self.got += now;
            data = &data[now..];
            if self.got == PREFIX_BYTES {
                let [_, len @ ..] = self.head;
                (self.got, self.left) = (0, u32::from_be_bytes(len) as usize);
                messages += 1;
            }
        }
        self.messages.sent(messages, bytes);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::counters::{GrpcCounters, Meter};

    #[test]
    fn messages_and_their_bytes_are_counted_however_they_are_cut() {
        let sent = b"\0\0\0\0\x03abc\0\0\0\0\0\0\0\0\0\x02de";
        for size in 1..=sent.len() {
            let counters = Arc::new(GrpcCounters::new());
            let meter = Meter::start(counters.clone(), 0);
            let mut outgoing = Outgoing::new(meter.messages().clone());
            sent.chunks(size).for_each(|chunk| outgoing.pass(chunk));
            assert_eq!(counters.messages(0, true), 3, "chunks of {size}");
            assert_eq!(counters.bytes(), (0, 5), "chunks of {size}");
        }
    }
}
