//! Commits on Henge's log: the disks it runs on, and loads that keep so many batches in flight.
//!
//! Promises: a batch has exactly the size asked for; at most `depth` batches are in flight; a latency
//! is from staging a turn until its batch is said to be durable. Entries are compacted as they age, so
//! that segments are recycled as in a long life.
//! Must never know: what the others do.
#![allow(clippy::disallowed_methods, reason = "a benchmark lives in real time")]

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fs::File;
use std::future::{Future, poll_fn};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::pin::pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use henge_wal::disk::ring::{Bell, RingDisk};
use henge_wal::disk::sim::{SimDisk, SimHandle};
use henge_wal::disk::{Completion, Disk, Op, Output, Token, thread, tokio_uring as uring};
use henge_wal::{Event, Identity, OpenReport, Options, Replay, Wal};

/// Whose logs the benchmark makes.
pub const US: Identity = Identity {
    cluster_id: 1,
    member_id: 1,
};

/// A disk of the log, and the executor it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// A ring of its own: the default.
    Ring,
    /// tokio-uring, on its own runtime.
    TokioUring,
    /// Writer threads.
    Thread,
    /// glommio, on its own executor.
    #[cfg(feature = "glommio")]
    Glommio,
}

/// Those of this build.
pub const BACKENDS: &[Backend] = &[
    Backend::TokioUring,
    Backend::Ring,
    Backend::Thread,
    #[cfg(feature = "glommio")]
    Backend::Glommio,
];

impl Backend {
    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Backend::Ring => "ring",
            Backend::TokioUring => "tokio-uring",
            Backend::Thread => "thread",
            #[cfg(feature = "glommio")]
            Backend::Glommio => "glommio",
        }
    }

    /// Runs a future on this thread, on the executor that the disk wants.
    pub fn run<F: Future>(self, future: F) -> F::Output {
        match self {
            Backend::Ring => block_on_ring(future),
            Backend::TokioUring => tokio_uring::start(future),
            Backend::Thread => block_on(future),
            #[cfg(feature = "glommio")]
            Backend::Glommio => glommio::LocalExecutorBuilder::new(glommio::Placement::Unbound)
                .make()
                .expect("io_uring is allowed here")
                .run(future),
        }
    }

    /// A disk; inside [`Backend::run`].
    pub fn disk(self, depth: usize) -> Box<dyn Disk> {
        match self {
            Backend::Ring => Box::new(RingDisk::new(watch).expect("io_uring is allowed here")),
            Backend::TokioUring => Box::new(uring::UringDisk::new()),
            Backend::Thread => Box::new(thread::ThreadDisk::new(depth)),
            #[cfg(feature = "glommio")]
            Backend::Glommio => Box::new(henge_wal::disk::glommio::GlommioDisk::new()),
        }
    }

    /// Opens a log on it.
    pub fn open(
        self,
        dir: &Path,
        options: &Options,
        replay: &mut dyn Replay,
    ) -> Result<(Wal, OpenReport), String> {
        let disk = self.disk(options.depth);
        Wal::open(dir, options, &US, disk, replay).map_err(|e| e.to_string())
    }
}

struct Unpark(std::thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut cx = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut cx) {
            Poll::Ready(out) => return out,
            Poll::Pending => std::thread::park(),
        }
    }
}

thread_local! {
    /// The eventfd of the ring of this thread's executor.
    static EVENT: RefCell<Option<Arc<UnixStream>>> = const { RefCell::new(None) };
}

/// Rung when the executor has read the eventfd.
struct EventBell(Rc<Cell<bool>>);

thread_local! {
    static RUNG: Rc<Cell<bool>> = Rc::default();
}

impl Bell for EventBell {
    fn poll_rung(&mut self, _: &mut Context<'_>) -> Poll<()> {
        // The executor polls again after every ring: nobody has to be woken.
        if self.0.take() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }
}

fn watch(event: OwnedFd) -> io::Result<Box<dyn Bell>> {
    // A socket only by type: the way in std to make a descriptor block.
    let event = UnixStream::from(event);
    event.set_nonblocking(false)?;
    EVENT.set(Some(Arc::new(event)));
    Ok(Box::new(EventBell(RUNG.with(Rc::clone))))
}

/// Wakes an executor that waits for its eventfd, or for nothing yet.
struct Ring(std::thread::Thread, Mutex<Option<Arc<UnixStream>>>);

impl Wake for Ring {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
        let event = self.1.lock().map(|event| event.clone());
        if let Ok(Some(event)) = event {
            let _ = file_of(&event).and_then(|mut file| file.write(&1u64.to_ne_bytes()));
        }
    }
}

/// An eventfd is read and written, not received and sent.
fn file_of(event: &UnixStream) -> io::Result<File> {
    Ok(File::from(OwnedFd::from(event.try_clone()?)))
}

/// The executor of [`Backend::Ring`]: polls, and sleeps in a read of the eventfd that the kernel rings.
fn block_on_ring<F: Future>(future: F) -> F::Output {
    EVENT.set(None);
    let ring = Arc::new(Ring(std::thread::current(), Mutex::new(None)));
    let waker = Waker::from(ring.clone());
    let mut cx = Context::from_waker(&waker);
    let mut future = pin!(future);
    let mut file: Option<File> = None;
    loop {
        if let Poll::Ready(out) = future.as_mut().poll(&mut cx) {
            return out;
        }
        if file.is_none()
            && let Some(event) = EVENT.take()
        {
            file = file_of(&event).ok();
            if let Ok(mut shared) = ring.1.lock() {
                *shared = Some(event);
            }
            continue; // what was woken before it was known is looked at once more
        }
        match &mut file {
            None => std::thread::park(),
            Some(file) => {
                let mut count = [0; 8];
                let _ = file.read(&mut count);
                RUNG.with(|rung| rung.set(true));
            }
        }
    }
}

/// What a load came to.
#[derive(Clone, Debug, Default)]
pub struct Run {
    /// Seconds measured.
    pub seconds: f64,
    /// Commits in them.
    pub commits: u64,
    /// Latency of each, in microseconds, sorted.
    pub micros: Vec<f64>,
    /// Bytes written per byte of payload, in this load.
    pub amplification: f64,
}

impl Run {
    /// Commits per second.
    pub fn rate(&self) -> f64 {
        self.commits as f64 / self.seconds
    }

    /// A percentile of the latency, in microseconds.
    pub fn percentile(&self, percent: f64) -> f64 {
        percentile(&self.micros, percent)
    }
}

/// A percentile of sorted values.
pub fn percentile(sorted: &[f64], percent: f64) -> f64 {
    let at = (percent / 100.0 * sorted.len() as f64).ceil() as usize;
    sorted
        .get(at.saturating_sub(1).min(sorted.len().saturating_sub(1)))
        .copied()
        .unwrap_or(f64::NAN)
}

/// What a turn stages.
#[derive(Clone, Copy, Debug)]
pub struct Turn {
    /// Groups that get an entry each.
    pub groups: u64,
    /// Payload of each entry.
    pub payload_bytes: usize,
}

impl Turn {
    /// One entry that makes a batch of exactly `bytes` on disk.
    pub fn of_batch(bytes: usize) -> Self {
        // Header, trailer, one record's head, one group's mark, and what sectors round up to.
        Turn {
            groups: 1,
            payload_bytes: bytes - 1_024,
        }
    }
}

/// Turns between two compactions; what is older than that many turns goes.
const COMPACT_TURNS: u64 = 128;
/// Segments that were used again before a measurement begins: by then the pipeline has as many files as
/// the load needs, as in a long life (fio's file, too, is written in full before). At most so long.
const RECYCLED_BEFORE: u64 = 8;
const WARM_MAX: Duration = Duration::from_secs(4);

/// The next event of a log.
pub async fn event(wal: &mut Wal) -> Event {
    poll_fn(|cx| wal.poll(cx)).await
}

/// Commits turns for a while, `depth` at a time, and warms up for a third of it before.
pub async fn load(wal: &mut Wal, turn: Turn, depth: usize, time: Duration) -> Result<Run, String> {
    let before = (wal.stats().bytes, wal.stats().payload_bytes);
    let mut load = Load::new(turn, time);
    loop {
        while load.in_flight.len() < depth && Instant::now() < load.end {
            load.submit(wal)?;
        }
        if load.in_flight.is_empty() {
            break;
        }
        load.take(wal).await?;
    }
    let mut run = load.finish();
    let payload = wal.stats().payload_bytes - before.1;
    run.amplification = (wal.stats().bytes - before.0) as f64 / payload.max(1) as f64;
    Ok(run)
}

/// Fills segments quickly until they are recycled.
pub async fn warm(wal: &mut Wal) -> Result<(), String> {
    let turn = Turn {
        groups: 1,
        payload_bytes: 1 << 20,
    };
    let mut load = Load::new(turn, WARM_MAX);
    while wal.stats().recycled < RECYCLED_BEFORE && Instant::now() < load.end {
        while load.in_flight() < 2 {
            load.submit(wal)?;
        }
        load.take(wal).await?;
    }
    while load.in_flight() > 0 {
        load.take(wal).await?;
    }
    wal.remove(0);
    let lsn = wal.staged_lsn();
    wal.submit().map_err(|e| e.to_string())?;
    while event(wal).await != Event::Durable(lsn) {}
    Ok(())
}

/// A load in progress.
pub struct Load {
    turn: Turn,
    payload: Vec<u8>,
    index: u64,
    in_flight: VecDeque<(u64, Instant)>,
    begin: Instant,
    /// When to stop.
    pub end: Instant,
    run: Run,
}

impl Load {
    /// A load that measures for `time`, after a third of that.
    pub fn new(turn: Turn, time: Duration) -> Self {
        let begin = Instant::now() + time / 3;
        Load {
            turn,
            payload: (0..turn.payload_bytes).map(|i| (i * 31) as u8).collect(),
            index: 0,
            in_flight: VecDeque::new(),
            begin,
            end: begin + time,
            run: Run::default(),
        }
    }

    /// Turns that wait to be durable.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// The last index of every group.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// The groups have entries up to here already.
    pub fn go_on_after(&mut self, index: u64) {
        self.index = index;
    }

    /// Stage a turn and submit it.
    pub fn submit(&mut self, wal: &mut Wal) -> Result<(), String> {
        self.index += 1;
        let began = Instant::now();
        for group in 0..self.turn.groups {
            let staged = wal.entry(group, 1, self.index, 0, &self.payload);
            staged.map_err(|e| e.to_string())?;
        }
        // Batches of one group leave room for the record; with many it is the turn's own.
        if self.index.is_multiple_of(COMPACT_TURNS) {
            for group in 0..self.turn.groups {
                wal.compacted(group, self.index - COMPACT_TURNS / 2, 1);
            }
        }
        let lsn = wal.staged_lsn();
        wal.submit().map_err(|e| e.to_string())?;
        self.in_flight.push_back((lsn, began));
        Ok(())
    }

    /// Take one event.
    pub async fn take(&mut self, wal: &mut Wal) -> Result<(), String> {
        let durable = match event(wal).await {
            Event::Durable(lsn) => lsn,
            Event::Poisoned(error) => return Err(error.to_string()),
            _ => return Ok(()),
        };
        let now = Instant::now();
        while let Some((_, began)) = self.in_flight.pop_front_if(|(lsn, _)| *lsn <= durable) {
            if began >= self.begin && now <= self.end {
                self.run.commits += 1;
                self.run.micros.push((now - began).as_secs_f64() * 1e6);
            }
        }
        Ok(())
    }

    /// What it came to, but for the bytes.
    pub fn finish(mut self) -> Run {
        self.run.seconds = (self.end - self.begin).as_secs_f64();
        self.run.micros.sort_by(f64::total_cmp);
        self.run
    }
}

/// Close a log and wait for it.
pub async fn close(mut wal: Wal) {
    wal.close();
    while event(&mut wal).await != Event::Closed {}
}

/// A disk whose writes are done at once and go nowhere: what is left is the processor's work.
struct NoDisk {
    inner: SimDisk,
    done: VecDeque<Completion>,
}

impl Disk for NoDisk {
    henge_wal::forward_disk!(inner);

    fn submit(&mut self, token: Token, op: Op) {
        let result = match op {
            Op::Write { buf, .. } => Ok(Output::Buf(buf)),
            other => self.inner.run(other),
        };
        self.done.push_back(Completion { token, result });
    }
    fn poll(&mut self, _: &mut Context<'_>) -> Poll<Completion> {
        self.done.pop_front().map_or(Poll::Pending, Poll::Ready)
    }
}

/// Nanoseconds of processor time per 256 B entry in turns of `groups` entries, the device apart.
pub fn append_cpu_ns(groups: u64, time: Duration) -> Result<f64, String> {
    let machine = SimHandle::new(1, 1);
    let disk = Box::new(NoDisk {
        inner: machine.disk(),
        done: VecDeque::new(),
    });
    let opened = Wal::open(Path::new("memory"), &Options::default(), &US, disk, &mut ());
    let (mut wal, _) = opened.map_err(|e| e.to_string())?;
    let turn = Turn {
        groups,
        payload_bytes: 256,
    };
    block_on(async {
        let mut load = Load::new(turn, time);
        let (mut began, mut turns) = (None, 0u64);
        while Instant::now() < load.end {
            for _ in 0..32 {
                load.submit(&mut wal)?;
                while load.in_flight() > 0 {
                    load.take(&mut wal).await?;
                }
            }
            match began {
                None if Instant::now() > load.begin => began = Some(Instant::now()),
                None => {}
                Some(_) => turns += 32,
            }
        }
        let nanos = began.map_or(f64::NAN, |began| began.elapsed().as_secs_f64() * 1e9);
        Ok(nanos / (turns * groups) as f64)
    })
}
