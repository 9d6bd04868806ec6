//! A command that was decoded once, with the bytes that it borrows from.
//!
//! What takes many slices is kept like this between them: a transaction of a hundred thousand empty
//! operations takes some milliseconds to decode. It takes up to a dozen times its bytes, so whoever keeps
//! many counts them. Must never know: what commands do.

use bytes::Bytes;
use henge_api::Error;
use henge_mvcc as mvcc;

use super::command::{self, Command, CommandError, Stamp};

/// Whose command, and what it asks.
type Stamped<'a> = (Stamp, Command<'a>);

self_cell::self_cell!(
    struct Cell {
        owner: Bytes,
        #[covariant]
        dependent: Stamped,
    }

    impl {Debug}
);

/// A command, decoded.
#[derive(Debug)]
pub struct Decoded(Cell);

impl Decoded {
    /// Decodes a command.
    pub fn new(encoded: Bytes) -> Result<Self, CommandError> {
        let cell = Cell::try_new(encoded, |encoded| command::decode(encoded))?;
        Ok(Decoded(cell))
    }

    /// Whose it is, and what it asks.
    pub fn get(&self) -> &(Stamp, Command<'_>) {
        self.0.borrow_dependent()
    }
}

/// A transaction that is being read.
#[derive(Debug)]
pub struct LongTxn {
    encoded: Bytes,
    /// Not kept if there are many.
    request: Option<Decoded>,
    pub(super) read: Box<mvcc::LongTxnRead>,
}

impl LongTxn {
    pub(super) fn new(encoded: Bytes, request: Decoded, read: mvcc::LongTxnRead) -> Self {
        LongTxn {
            encoded,
            request: Some(request),
            read: Box::new(read),
        }
    }

    /// What is read, decoded again if it was not kept; and where that is.
    pub(super) fn parts(&mut self) -> Result<(&Command<'_>, &mut mvcc::LongTxnRead), Error> {
        let request = match self.request.take() {
            Some(request) => request,
            None => {
                self.read.request_again();
                Decoded::new(self.encoded.clone()).map_err(|_| Error::Corrupt)?
            }
        };
        let (_, command) = self.request.insert(request).get();
        Ok((command, &mut self.read))
    }

    /// Keeps the bytes of its request only, until it goes on.
    pub fn forget_request(&mut self) {
        self.request = None;
    }

    /// Bytes that it holds.
    pub fn held_bytes(&self) -> usize {
        let request = self.request.as_ref();
        let parts = request.map_or(0, |_| self.read.parts());
        let request = parts * size_of::<mvcc::RequestOp<'_>>();
        self.encoded.len() + request + self.read.held_bytes()
    }

    /// Lets up to `max` pairs of a read that nobody wants any more go; returns how many, or 0 at the end. Its
    /// request goes first, and counts as so many.
    pub fn let_go(&mut self, max: usize) -> usize {
        match self.request.take() {
            Some(_) => max,
            None => self.read.let_go(max),
        }
    }
}
