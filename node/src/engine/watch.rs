//! Watching keys of one shard.
//!
//! Promises: responses come in revision order, none twice, none left out; a watcher that is cancelled says
//! why and ends; dropping it ends it too. Every end has a typed reason, a [`WatchEnd`], however it came.
//! Both watchers are streams too. Over several shards: `sharded`. Tested by `tests/engine` and
//! `tests/cancel`.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use futures_core::Stream;
use henge_api::{Error, Refusal, WatchCreate, WatchResponse};
use henge_core::stream::WatchStream;
use henge_mvcc as mvcc;

use super::{Engine, ShardedWatcher};
use crate::failure::WatchError;

impl Engine {
    /// Watches a key or a range from a revision on, in one shard. For a range over several, use
    /// [`Engine::watch_after`].
    ///
    /// Fails at once if the request is wrong, if the core has as many requests in its inbox as it may, or if
    /// the engine has stopped. What the shard refuses it says in the watcher's first response, which is then
    /// `canceled`, with the reason.
    ///
    /// Cancel safety: dropping the watcher ends the watch.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { on_scratch(async |engine| {
    /// use henge::api::WatchCreate;
    ///
    /// let create = WatchCreate { key: "greeting".into(), ..WatchCreate::default() };
    /// let mut watcher = engine.watch(create)?;
    /// assert!(watcher.next().await.expect("it runs").created);
    /// engine.put("greeting", "hello").await?;
    /// let response = watcher.next().await.expect("it runs");
    /// assert_eq!(response.events[0].kv.value, "hello");
    /// # Ok(()) }) }
    /// ```
    pub fn watch(&self, create: WatchCreate) -> Result<Watcher, WatchError> {
        let range = mvcc::KeyRange {
            key: &create.key,
            end: &create.range_end,
        };
        let shard = self.route_range(&range, "watching a range")?;
        let stream = self.watch_on(shard, create)?;
        Ok(Watcher {
            stream: Some(stream),
            end: None,
        })
    }

    /// A stream of one shard's, with one watcher.
    pub(super) fn watch_on(
        &self,
        shard: usize,
        create: WatchCreate,
    ) -> Result<WatchStream, WatchError> {
        let inner = self.inner();
        let id = inner.next_session.fetch_add(1, Ordering::Relaxed);
        let shard = &inner.shards[shard];
        let inbox = inner.cores[shard.core].inbox.clone();
        Ok(WatchStream::begin(id, shard.group, inbox, create)?)
    }
}

/// Why a watcher has ended.
///
/// Not among these: dropping it, which is how a caller cancels one; a reader that is slow, which waits for
/// nothing but itself and reads on from history (until that is compacted: [`WatchEnd::Compacted`]); and a
/// cluster without a leader, in which watchers stay and hear of what happens once there is one.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum WatchEnd {
    /// History that it needed is compacted: read what there is, and watch from behind that. The first
    /// revision that can still be watched is this one.
    #[error("history that the watcher needs is compacted, up to revision {revision}")]
    Compacted {
        /// The compact revision.
        revision: i64,
    },
    /// It was not let in, for this reason: nothing was watched.
    #[error("{0}")]
    Refused(Refusal),
    /// The engine has stopped, or its core has failed.
    #[error("server stopped")]
    Stopped,
    /// The log of its core failed: restart after looking at the disk.
    #[error("the log is poisoned: {0}")]
    Poisoned(String),
    /// Its shard is damaged and serves nothing until it is repaired.
    #[error("corrupt cluster")]
    Corrupt,
}

impl WatchEnd {
    /// Of a stream that ended for `why`, after `last` if that was its watcher's end.
    pub(super) fn of(last: Option<&WatchResponse>, why: Option<Error>) -> Self {
        // A stream may end, for its own reason, behind a watcher that ended for another.
        let why = match last {
            Some(last) => why.filter(|why| last.refusal == Some(why.clone().into())),
            None => why,
        };
        match (last, why) {
            (_, Some(Error::Poisoned(why))) => WatchEnd::Poisoned(why),
            (_, Some(Error::Corrupt)) => WatchEnd::Corrupt,
            (_, Some(Error::Stopped { .. })) | (None, None) => WatchEnd::Stopped,
            (_, Some(why)) => WatchEnd::Refused(why.into()),
            (Some(last), None) if last.compact_revision > 0 => WatchEnd::Compacted {
                revision: last.compact_revision,
            },
            (Some(last), None) => match &last.refusal {
                Some(refusal) => WatchEnd::Refused(refusal.clone()),
                None => WatchEnd::Stopped,
            },
        }
    }
}

/// A stream of one watcher's responses.
///
/// ```
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
/// # fn main() -> Outcome { on_scratch(async |engine| {
/// use futures_lite::StreamExt as _;
/// use henge::api::WatchCreate;
///
/// let create = WatchCreate { key: "k".into(), ..WatchCreate::default() };
/// let watcher = engine.watch(create)?;
/// for value in ["1", "2", "3"] {
///     engine.put("k", value).await?;
/// }
/// let values: Vec<_> = watcher
///     .flat_map(|response| futures_lite::stream::iter(response.events))
///     .map(|event| event.kv.value)
///     .take(3)
///     .collect()
///     .await;
/// assert_eq!(values, ["1", "2", "3"]);
/// # Ok(()) }) }
/// ```
#[derive(Debug)]
pub struct Watcher {
    /// None once it has ended: nothing more will come.
    stream: Option<WatchStream>,
    end: Option<WatchEnd>,
}

impl Watcher {
    /// The next response: first `created`, then events in revision order. `None` when the engine has
    /// stopped or its log failed, or after the response that is `canceled`: [`Watcher::end`] says which.
    ///
    /// Cancel safety: a response is taken by the poll that returns it; a future that is dropped before
    /// takes none.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { on_scratch(async |engine| {
    /// use henge::api::WatchCreate;
    ///
    /// let create = WatchCreate { key: "k".into(), ..WatchCreate::default() };
    /// let mut watcher = engine.watch(create)?;
    /// engine.stop().await;
    /// while let Some(response) = watcher.next().await {
    ///     assert!(response.events.is_empty());
    /// }
    /// # Ok(()) }) }
    /// ```
    pub async fn next(&mut self) -> Option<WatchResponse> {
        poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }

    /// Why it has ended: known once [`Watcher::next`] gave the response that is `canceled`, or `None`.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { on_scratch(async |engine| {
    /// use henge::WatchEnd;
    /// use henge::api::WatchCreate;
    ///
    /// let create = WatchCreate { key: "k".into(), ..WatchCreate::default() };
    /// let mut watcher = engine.watch(create)?;
    /// engine.stop().await;
    /// while watcher.next().await.is_some() {}
    /// assert_eq!(watcher.end(), Some(&WatchEnd::Stopped));
    /// # Ok(()) }) }
    /// ```
    pub fn end(&self) -> Option<&WatchEnd> {
        self.end.as_ref()
    }
}

/// As [`Watcher::next`].
impl Stream for Watcher {
    type Item = WatchResponse;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<WatchResponse>> {
        let Some(stream) = &mut self.stream else {
            return Poll::Ready(None);
        };
        let next = stream.poll_next(cx);
        let last = match &next {
            Poll::Ready(None) => None,
            Poll::Ready(Some(response)) if response.canceled => Some(response),
            _ => return next,
        };
        self.end = Some(WatchEnd::of(last, stream.why()));
        self.stream = None;
        next
    }
}

/// As [`ShardedWatcher::next`].
impl Stream for ShardedWatcher {
    type Item = (usize, WatchResponse);

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        ShardedWatcher::poll_next(self.get_mut(), cx)
    }
}
