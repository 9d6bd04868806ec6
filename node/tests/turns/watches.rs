//! Words on watch streams: however many come, on streams of however many watchers, no turn is long.

use bytes::Bytes;
use henge::api::{WatchCommand, WatchCreate, WatchResponse, WatchSession as _};
use henge::mvcc::PutRequest;
use henge_core::machine::Command;
use henge_core::shard::request::RequestKind;
use henge_core::stream::WatchStream;

use super::World;
use super::core::BUSY;

const WATCHERS: usize = 20_000;

fn create(key: &'static str) -> WatchCommand {
    WatchCommand::Create(WatchCreate {
        key: key.into(),
        progress_notify: true,
        ..WatchCreate::default()
    })
}

fn put<'a>(key: &'a [u8], value: &'a [u8]) -> RequestKind {
    let put = PutRequest {
        key,
        value,
        ..PutRequest::default()
    };
    RequestKind::Write(Command::Put(put).encode())
}

pub fn take(stream: &mut WatchStream) -> Vec<WatchResponse> {
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    let next = std::iter::from_fn(|| match stream.poll_next(&mut cx) {
        std::task::Poll::Ready(response) => response,
        std::task::Poll::Pending => None,
    });
    next.collect()
}

impl World {
    /// A stream with very many watchers of one key.
    fn many_watchers(&mut self) -> WatchStream {
        self.crowd(1, "watched".into(), WATCHERS)
    }

    /// A stream with so many watchers of one key.
    pub fn crowd(&mut self, id: u64, key: Bytes, count: usize) -> WatchStream {
        let mut stream = WatchStream::open(id, BUSY, self.bench.inbox.clone());
        let create = WatchCreate {
            key,
            progress_notify: true,
            ..WatchCreate::default()
        };
        for n in 0..count {
            stream.command(WatchCommand::Create(create.clone()));
            if n % 500 == 499 {
                self.turn("watch");
                take(&mut stream);
            }
        }
        stream
    }

    /// So many turns, and the work that was counted in them.
    fn turns(&mut self, what: &str, count: usize) -> u64 {
        let before = self.bench.nanos;
        for _ in 0..count {
            self.turn(what);
        }
        self.bench.nanos - before
    }
}

/// Each of ten thousand questions went through all watchers of its stream in the turn that brought them, and
/// nobody counted that.
#[test]
fn regression_a_flood_of_questions_how_far_a_stream_is_is_few_answers() {
    let mut world = World::new(1);
    let mut stream = world.many_watchers();
    for _ in 0..10_000 {
        stream.command(WatchCommand::Progress);
    }
    let nanos = world.turns("progress", 20);
    let least = WATCHERS as u64 * 50;
    assert!(nanos >= least, "of {least} ns {nanos} were counted");
    let answers = take(&mut stream);
    let own = answers.iter().filter(|answer| answer.watch_id == -1);
    // One, or a few: those asked later are asked of a later look.
    assert!((1..10).contains(&own.count()));
}

/// The watchers of a stream that had gone went with it in one turn, each looking at all others of its key:
/// with 50,000 that took over a second.
#[test]
fn regression_very_many_watchers_that_leave_take_many_turns() {
    let mut world = World::new(1);
    let stream = world.many_watchers();
    drop(stream);
    let nanos = world.turns("leaving", 200);
    let least = WATCHERS as u64 * 1_000;
    assert!(nanos >= least, "of {least} ns {nanos} were counted");
    assert!(world.ask(put(b"watched", b"")));
    let mut metrics = henge::api::Metrics::default();
    world.bench.shard(BUSY).metrics(&mut metrics);
    assert_eq!(metrics.watchers, 0);
}

/// All watchers that want progress notes had theirs in one turn, uncounted.
#[test]
fn regression_progress_notes_of_very_many_watchers_take_many_turns() {
    let mut world = World::new(1);
    let mut stream = world.many_watchers();
    // Half a second, and some.
    let nanos = world.turns("notes", 3_000);
    let least = WATCHERS as u64 * 250;
    assert!(nanos >= least, "of {least} ns {nanos} were counted");
    let notes = take(&mut stream);
    let noted: std::collections::BTreeSet<_> = notes.iter().map(|note| note.watch_id).collect();
    assert_eq!(noted.len(), WATCHERS);
}

/// Words were worked off as they came: tens of thousands of watchers were opened in one turn, which nobody
/// counted. A write that comes behind them is one that they hear of, even so.
#[test]
fn regression_very_many_watchers_opened_at_once_take_many_turns_and_hear_of_the_next_write() {
    let mut world = World::new(1);
    let mut streams: Vec<_> = (0..20)
        .map(|id| WatchStream::open(id, BUSY, world.bench.inbox.clone()))
        .collect();
    let each = WATCHERS / streams.len();
    for stream in &mut streams {
        (0..each).for_each(|_| stream.command(create("watched")));
    }
    let written = world.bench.ask(BUSY, put(b"watched", b""));
    let nanos = world.turns("opening", 100);
    let least = WATCHERS as u64 * 1_000;
    assert!(nanos >= least, "of {least} ns {nanos} were counted");
    assert!(world.wait("opening", written));
    world.turns("events", 200);
    for stream in &mut streams {
        let responses = take(stream);
        let created = responses.iter().filter(|response| response.created).count();
        let events: usize = responses.iter().map(|response| response.events.len()).sum();
        assert_eq!((created, events), (each, each));
    }
}

/// The answer was given after one look at all watchers of the stream, in one turn; it is now put together in
/// several, and still says that all up to its revision was sent, and nothing past it.
#[test]
fn the_answer_how_far_a_large_stream_is_has_its_place_among_the_events() {
    let mut world = World::new(1);
    let mut stream = world.many_watchers();
    for key in ["first", "last"] {
        stream.command(create(key));
    }
    world.turn("watch");
    take(&mut stream);
    let base = world.revision();
    let (mut answers, mut events, mut writes) = (Vec::new(), 0, 0);
    for turn in 0..2_000 {
        if turn % 3 == 0 {
            let key = [&b"first"[..], b"last"][writes % 2];
            world.bench.ask(BUSY, put(key, b""));
            writes += 1;
        }
        if turn % 50 == 0 {
            stream.command(WatchCommand::Progress);
        }
        world.turn("progress");
        for response in take(&mut stream) {
            events += response.events.len() as i64;
            if response.watch_id == -1 {
                // Each write is one event.
                let revision = response.header.revision;
                assert_eq!(revision, base + events, "{answers:?}");
                answers.push(revision);
            }
        }
    }
    assert!(answers.is_sorted() && answers.len() >= 10, "{answers:?}");
}

/// A watcher that was cancelled while it waited for room in its stream kept the answer how far that is back.
#[test]
fn regression_a_cancelled_watcher_does_not_keep_an_answer_back() {
    let mut world = World::new(1);
    let mut stream = WatchStream::open(1, BUSY, world.bench.inbox.clone());
    for key in ["full", "waits"] {
        stream.command(create(key));
    }
    world.turn("watch");
    let value = vec![7; 1 << 20];
    for _ in 0..4 {
        assert!(world.ask(put(b"full", &value)));
    }
    assert!(world.ask(put(b"waits", b"")));
    world.turns("full", 5);
    stream.command(WatchCommand::Cancel { watch_id: 1 });
    stream.command(WatchCommand::Progress);
    world.turns("full", 5);
    let mut responses = take(&mut stream);
    world.turns("room", 5);
    responses.extend(take(&mut stream));
    let mut ids = responses.iter().map(|response| response.watch_id);
    assert!(ids.any(|id| id == -1), "{:?}", ids.collect::<Vec<_>>());
}

/// All watchers of a key were told of a change in one go, 25 ms for 100,000 of them. Meanwhile their
/// streams are told of nothing newer, and whoever asks how far they are is answered by what was sent.
#[test]
fn regression_a_change_with_very_many_watchers_takes_many_turns_and_none_is_long() {
    const CROWD: usize = 60_000;
    let mut world = World::new(1);
    let mut stream = world.crowd(1, "watched".into(), CROWD);
    stream.command(create("other"));
    world.turns("watch", 10);
    take(&mut stream);
    let base = world.revision();
    let writes = [&b"watched"[..], b"other", b"watched"];
    let before = world.bench.nanos;
    let open = writes.map(|key| world.bench.ask(BUSY, put(key, b"1")));
    let (mut events, mut answers) = (Vec::new(), Vec::new());
    let mut look = |world: &mut World| {
        stream.command(WatchCommand::Progress);
        world.turn("change");
        for response in take(&mut stream) {
            let revision = response.header.revision;
            if response.watch_id == -1 {
                answers.push((revision, events.len()));
            }
            events.extend(response.events.iter().map(|event| event.kv.mod_revision));
        }
    };
    for mut receiver in open {
        while receiver.try_recv().is_none() {
            look(&mut world);
        }
    }
    (0..2_000).for_each(|_| look(&mut world));
    let nanos = world.bench.nanos - before;
    let least = 2 * CROWD as u64 * 250;
    assert!(nanos >= least, "of {least} ns {nanos} were counted");
    let of = |revision| events.iter().filter(|at| **at == revision).count();
    let each = [1, 2, 3].map(|n| of(base + n));
    assert_eq!(each, [CROWD, 1, CROWD]);
    assert!(answers.is_sorted(), "{answers:?}");
    for (revision, given) in &answers {
        let (sent, later) = events.split_at(*given);
        assert!(sent.iter().all(|at| at <= revision), "{revision}");
        assert!(later.iter().all(|at| at > revision), "{revision}");
    }
    assert_eq!(answers.last().map(|last| last.0), Some(base + 3));
}
