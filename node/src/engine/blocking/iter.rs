//! A stream read by a thread that blocks.
//!
//! Promises: `None` is the stream's own end, or a wait that was refused, and which of the two can be asked.

use std::future::poll_fn;
use std::pin::Pin;
use std::thread::ThreadId;

use futures_core::Stream;
use henge_api::Error;

use super::wait_elsewhere;

/// A stream of the engine's as an iterator that blocks its thread: see
/// [`Blocking::iter`](super::Blocking::iter). It can be moved to another thread. Dropping it drops the
/// stream, which ends a watch.
///
/// ```
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
/// # fn main() -> Outcome { with_scratch(|engine| {
/// use henge::{WatchEnd, api::WatchCreate};
///
/// let db = engine.blocking();
/// let mut watch = db.watch(WatchCreate { key: "k".into(), ..WatchCreate::default() })?;
/// db.stop();
/// for response in watch.by_ref() {
///     assert!(response.events.is_empty());
/// }
/// assert_eq!(watch.stream().end(), Some(&WatchEnd::Stopped));
/// # Ok(()) }) }
/// ```
#[derive(Debug)]
pub struct BlockingIter<S> {
    stream: S,
    driver: Option<ThreadId>,
    failure: Option<Error>,
}

impl<S> BlockingIter<S> {
    pub(super) fn new(stream: S, driver: Option<ThreadId>) -> Self {
        BlockingIter {
            stream,
            driver,
            failure: None,
        }
    }

    /// The stream that is read: why a watcher has ended, how far it has been read.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { with_scratch(|engine| {
    /// use henge::api::WatchCreate;
    ///
    /// let db = engine.blocking();
    /// let create = WatchCreate { key: "k".into(), ..WatchCreate::default() };
    /// let mut watch = db.watch_after(&create, None)?;
    /// watch.next();
    /// let left_at = watch.stream().revisions().clone();
    /// # drop(left_at);
    /// # Ok(()) }) }
    /// ```
    pub fn stream(&self) -> &S {
        &self.stream
    }

    /// The stream, to be read on in another way.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { with_scratch(|engine| {
    /// use henge::api::WatchCreate;
    ///
    /// let db = engine.blocking();
    /// let watch = db.watch(WatchCreate { key: "k".into(), ..WatchCreate::default() })?;
    /// let mut watcher = watch.into_stream();
    /// assert!(db.wait_for(watcher.next())?.expect("the engine runs").created);
    /// # Ok(()) }) }
    /// ```
    pub fn into_stream(self) -> S {
        self.stream
    }

    /// Why `next` gave `None` though the stream has not ended: [`Error::OwnThread`], if it was called on the
    /// thread that drives the engine (where [`Blocking::iter`](super::Blocking::iter) would have failed) and
    /// would have had to wait. Nothing was taken from the stream.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { with_scratch(|engine| {
    /// let db = engine.blocking();
    /// let mut pieces = db.iter(db.snapshot()?)?;
    /// for piece in pieces.by_ref() {
    ///     piece?;
    /// }
    /// assert_eq!(pieces.failure(), None);
    /// # Ok(()) }) }
    /// ```
    pub fn failure(&self) -> Option<&Error> {
        self.failure.as_ref()
    }
}

impl<S: Stream + Unpin> Iterator for BlockingIter<S> {
    type Item = S::Item;

    fn next(&mut self) -> Option<S::Item> {
        let stream = &mut self.stream;
        let next = poll_fn(|cx| Pin::new(&mut *stream).poll_next(cx));
        match wait_elsewhere(self.driver, next) {
            Ok(next) => {
                self.failure = None;
                next
            }
            Err(error) => {
                self.failure = Some(error);
                None
            }
        }
    }
}
