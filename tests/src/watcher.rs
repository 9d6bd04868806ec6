//! Clients that watch: several watchers on a stream, resumed on another member when the stream breaks or
//! the dice say so, always after the last revision that a header named.
//!
//! Promises: a broken promise ends the client with its story; a server that is gone does not. Every watcher
//! is resumed until it knows of the revision it is sent home with.
//! Must never know: what the right events are (`watched` does), why a stream ended.
//! Tested by the crash test.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::dice::Dice;
use crate::etcd::{Client, Watch, WatchProgressRequest, WatchRequest, WatchResponse};
use crate::watched::Bookmark;

/// How far from the last known revision a watcher may begin, before or behind it.
const OFFSET_MAX: u64 = 100;
/// Most watchers on a stream.
const WATCHERS_MAX: u64 = 3;
/// Longest stay on one stream, in milliseconds.
const STAY_MS_MAX: u64 = 1_500;
/// Mean time between two questions how far the stream is, in milliseconds.
const ASK_MS: u64 = 150;
/// After a stream that could not be had.
const PAUSE: Duration = Duration::from_millis(20);
/// How long watchers may take to learn of the revision that they are sent home with.
const HOME_MAX: Duration = Duration::from_secs(15);

/// The clients of one round.
#[derive(Debug)]
pub struct Watchers {
    home: Arc<Home>,
    clients: Vec<JoinHandle<Result<Vec<Bookmark>, String>>>,
}

/// The revision that the clients have to learn of before they end; 0 while they go on.
#[derive(Debug, Default)]
struct Home(AtomicI64);

/// A client and its watchers.
#[derive(Debug)]
struct Watching {
    /// Client ports of the members.
    ports: Vec<u16>,
    bookmarks: Vec<Bookmark>,
    dice: Dice,
}

impl Watchers {
    /// Begins one watcher of everything after revision `last` for each member, and `streams` drawn streams;
    /// nothing if there are none. `keys` draws a key for a watcher to begin or end at.
    pub fn begin(
        ports: Vec<u16>,
        streams: u64,
        last: i64,
        dice: &mut Dice,
        keys: impl Fn(&mut Dice) -> Vec<u8>,
    ) -> Self {
        let home = Arc::new(Home::default());
        let mut clients = Vec::new();
        for _ in ports.iter().filter(|_| streams > 0) {
            let dice = Dice::new(dice.bits());
            clients.push(Watching {
                ports: ports.clone(),
                bookmarks: vec![Bookmark::of_all(last)],
                dice,
            });
        }
        for _ in 0..streams {
            let dice = Dice::new(dice.bits());
            clients.push(Watching::draw(ports.clone(), last, dice, &keys));
        }
        let clients = clients.into_iter().map(|client| {
            let home = Arc::clone(&home);
            tokio::spawn(async move { client.run(&home).await })
        });
        Watchers {
            clients: clients.collect(),
            home,
        }
    }

    /// Where they stand once all of them know of `revision`.
    pub async fn call_home(self, revision: i64) -> Result<Vec<Bookmark>, String> {
        self.home.0.store(revision, Ordering::Release);
        let mut bookmarks = Vec::new();
        for client in self.clients {
            let ended = client.await.map_err(|e| format!("a watcher failed: {e}"))?;
            bookmarks.extend(ended?);
        }
        Ok(bookmarks)
    }
}

impl Watching {
    /// Some watchers of some keys: from the past, from now, and from revisions yet to be made. `last` is
    /// the last known revision, and `keys` draws a first key.
    fn draw(
        ports: Vec<u16>,
        last: i64,
        mut dice: Dice,
        keys: impl Fn(&mut Dice) -> Vec<u8>,
    ) -> Self {
        let count = dice.range(1, WATCHERS_MAX + 1);
        let watcher = |dice: &mut Dice| {
            let (one, other) = (keys(dice), keys(dice));
            let (key, end) = match dice.range(0, 3) {
                1.. if one < other => (one, other),
                1.. if one > other => (other, one),
                _ => (one, vec![0]),
            };
            let offset = dice.range(0, OFFSET_MAX) as i64;
            let at = match dice.range(0, 8) {
                0 => None,
                1..=3 => Some((last - offset).max(1)),
                _ => Some(last + offset),
            };
            Bookmark::new(key, end, at)
        };
        let bookmarks = (0..count).map(|_| watcher(&mut dice)).collect();
        Watching {
            ports,
            bookmarks,
            dice,
        }
    }

    /// Watches until all its watchers know of the revision that `home` names in the end.
    async fn run(mut self, home: &Home) -> Result<Vec<Bookmark>, String> {
        let mut called = None;
        loop {
            let port = self.ports[self.dice.range(0, self.ports.len() as u64) as usize];
            self.stay(port, home).await.map_err(|why| {
                let told = self.bookmarks.iter().map(Bookmark::at);
                let told: Vec<_> = told.collect();
                format!("a watcher on port {port} {why}; its stream's watchers stand at {told:?}")
            })?;
            let revision = home.0.load(Ordering::Acquire);
            if revision == 0 {
                continue;
            }
            if self.knows(revision) {
                return Ok(self.bookmarks);
            }
            let called: &mut Instant = called.get_or_insert_with(Instant::now);
            if called.elapsed() > HOME_MAX {
                let at: Vec<_> = self.bookmarks.iter().map(Bookmark::at).collect();
                return Err(format!(
                    "after {HOME_MAX:?} without changes watchers stand at {at:?} of {revision}"
                ));
            }
        }
    }

    fn knows(&self, revision: i64) -> bool {
        revision > 0 && self.bookmarks.iter().all(|b| b.at() >= Some(revision))
    }

    /// One stream, until it breaks, the stay is over, or everything is known.
    async fn stay(&mut self, port: u16, home: &Home) -> Result<(), String> {
        let mut client = Client::new(port, Duration::from_secs(2));
        let (say, requests) = mpsc::channel(64);
        for (bookmark, id) in self.bookmarks.iter_mut().zip(1..) {
            let create = Watch::Create(bookmark.create(id));
            // There is room for all of them.
            let _ = say.try_send(WatchRequest {
                request: Some(create),
            });
        }
        let Ok(mut stream) = client.watch(requests).await else {
            sleep(PAUSE).await;
            return Ok(());
        };
        let leave = Instant::now() + Duration::from_millis(self.dice.range(50, STAY_MS_MAX));
        while Instant::now() < leave && !self.knows(home.0.load(Ordering::Acquire)) {
            let wait = Duration::from_millis(self.dice.range(1, 2 * ASK_MS));
            match timeout(wait, stream.message()).await {
                Ok(Ok(Some(response))) => self.take(response)?,
                Ok(Ok(None) | Err(_)) => {
                    sleep(PAUSE).await;
                    break;
                }
                Err(_) => {
                    let ask = Some(Watch::Progress(WatchProgressRequest {}));
                    // A server that does not read will be left in the end.
                    let _ = say.try_send(WatchRequest { request: ask });
                }
            }
        }
        Ok(())
    }

    fn take(&mut self, response: WatchResponse) -> Result<(), String> {
        if response.watch_id == -1 && !response.canceled {
            // It speaks for each watcher of the stream.
            let mut all = self.bookmarks.iter_mut();
            return all.try_for_each(|bookmark| bookmark.take(response.clone()));
        }
        let at = usize::try_from(response.watch_id - 1);
        match at.ok().and_then(|at| self.bookmarks.get_mut(at)) {
            Some(bookmark) => bookmark.take(response),
            None => Err(format!("was sent a response for nobody: {response:?}")),
        }
    }
}
