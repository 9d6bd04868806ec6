//! A client's stream of several watchers, on one node at a time, and what the client does with it: it asks
//! how far the stream is, and takes all of it elsewhere when its node is gone or it likes to.

use henge::api::{WatchCommand, WatchResponse, WatchSession as _};
use henge_core::stream::WatchStream;

use super::check::history::History;
use super::check::watch::{Step, Watcher};
use super::check::{Violation, violated};
use super::client::Workload;
use super::host::next_response;
use super::rng::Rng;

/// Most watchers on one stream.
const WATCHERS_MAX: u64 = 3;
/// How far from the newest revision a watcher may begin, before or behind it.
const OFFSET_MAX: u64 = 30;

/// A stream's watchers, over all streams that they were resumed on. Their numbers there are their places,
/// from 1.
pub struct Seat {
    watchers: Vec<Watcher>,
    stream: Option<WatchStream>,
    /// Progress requests of this stream without an answer.
    asked: u32,
}

impl Seat {
    /// The watcher of all keys from the first revision on, alone on its stream.
    pub fn of_all() -> Self {
        Seat::of(vec![Watcher::of_all()])
    }

    /// Some watchers of some keys: from the past, from now, and from revisions yet to be made.
    pub fn draw(rng: &mut Rng, workload: &mut Workload, history: &History) -> Self {
        let now = history.model.revision().cast_unsigned();
        let watcher = |rng: &mut Rng, workload: &mut Workload| {
            let (key, end) = workload.span();
            let cursor = match rng.below(8) {
                0 => None,
                1 => Some(1),
                2 | 3 => Some(now.saturating_sub(rng.below(OFFSET_MAX)).max(1)),
                _ => Some(now + rng.below(OFFSET_MAX)),
            };
            let cursor = cursor.map(u64::cast_signed);
            Watcher::of_range(key, end, cursor, rng.bits())
        };
        let count = 1 + rng.below(WATCHERS_MAX);
        Seat::of((0..count).map(|_| watcher(rng, workload)).collect())
    }

    fn of(watchers: Vec<Watcher>) -> Self {
        Seat {
            watchers,
            stream: None,
            asked: 0,
        }
    }

    /// Whether it has a stream.
    pub fn is_open(&self) -> bool {
        self.stream.is_some()
    }

    /// Resumes everything on a new stream.
    pub fn open(&mut self, mut stream: WatchStream) {
        for (watcher, id) in self.watchers.iter_mut().zip(1..) {
            stream.command(WatchCommand::Create(watcher.create(id)));
        }
        self.asked = 0;
        self.stream = Some(stream);
    }

    /// Leaves its stream.
    pub fn close(&mut self) {
        self.stream = None;
    }

    /// Asks how far the stream is.
    pub fn ask_progress(&mut self) {
        if let Some(stream) = &mut self.stream {
            stream.command(WatchCommand::Progress);
            self.asked += 1;
        }
    }

    /// What its stream has for it.
    pub fn receive(&mut self) -> Option<WatchResponse> {
        self.stream.as_mut().and_then(next_response)
    }

    /// Shows a response to the watchers it is meant for.
    pub fn take(
        &mut self,
        history: &mut History,
        node: usize,
        response: &WatchResponse,
    ) -> Result<Step, Violation> {
        if response.watch_id == -1 && !response.canceled {
            let Some(asked) = self.asked.checked_sub(1) else {
                return violated!("node {node}: progress that nobody asked for: {response:?}");
            };
            self.asked = asked;
            // It speaks for each of them.
            for watcher in &mut self.watchers {
                watcher.take(history, node, response)?;
            }
            return Ok(Step::On);
        }
        let at = usize::try_from(response.watch_id - 1);
        match at.ok().and_then(|at| self.watchers.get_mut(at)) {
            Some(watcher) => watcher.take(history, node, response),
            None => violated!("node {node}: a response for no watcher: {response:?}"),
        }
    }

    /// Everything up to here was delivered to all of them, or not asked for.
    pub fn cursor(&self) -> i64 {
        let cursors = self.watchers.iter().map(Watcher::cursor);
        cursors.min().unwrap_or(i64::MAX)
    }

    /// A note to its first watcher that names `revision`, if that watcher exists: what a planted bug says.
    pub fn forged_note(&self, revision: i64) -> Option<WatchResponse> {
        let first = self.watchers.first().filter(|first| first.is_created())?;
        let mut note = WatchResponse {
            watch_id: 1,
            ..WatchResponse::default()
        };
        note.header.revision = revision;
        // One that is behind has not been shown everything: not this bug.
        (revision < first.cursor()).then_some(note)
    }
}
