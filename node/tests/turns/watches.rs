//! Words on watch streams: however many come, on streams of however many watchers, no turn is long.

use henge::api::{WatchCommand, WatchCreate, WatchResponse, WatchSession as _};
use henge::machine::Command;
use henge::mvcc::PutRequest;
use henge::shard::request::RequestKind;
use henge::shard::session::WatchStream;

use super::World;
use super::core::BUSY;

const WATCHERS: usize = 20_000;

fn take(stream: &mut WatchStream) -> Vec<WatchResponse> {
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    let next = std::iter::from_fn(|| match stream.poll_next(&mut cx) {
        std::task::Poll::Ready(response) => response,
        std::task::Poll::Pending => None,
    });
    next.collect()
}

impl World {
    /// A stream with so many watchers of one key.
    fn many_watchers(&mut self) -> WatchStream {
        let mut stream = WatchStream::open(1, BUSY, self.bench.inbox.clone());
        for n in 0..WATCHERS {
            stream.command(WatchCommand::Create(WatchCreate {
                key: "watched".into(),
                progress_notify: true,
                ..WatchCreate::default()
            }));
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
fn regression_a_flood_of_questions_how_far_a_stream_is_is_one_answer() {
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
    assert_eq!(own.count(), 1);
}

/// The watchers of a stream that had gone went with it in one turn, each looking at all others of its key: with
/// 50,000 that took over a second.
#[test]
fn regression_very_many_watchers_that_leave_take_many_turns() {
    let mut world = World::new(1);
    let stream = world.many_watchers();
    drop(stream);
    let nanos = world.turns("leaving", 200);
    let least = WATCHERS as u64 * 1_000;
    assert!(nanos >= least, "of {least} ns {nanos} were counted");
    let put = PutRequest {
        key: b"watched",
        ..PutRequest::default()
    };
    assert!(world.ask(RequestKind::Write(Command::Put(put).encode())));
    let mut metrics = henge::api::Metrics::default();
    world.bench.core.shards()[0].metrics(&mut metrics);
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
