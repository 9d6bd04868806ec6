//! An open log on a thread of its own, warmed up once and then given one load after the other: what is
//! compared is measured within seconds, and no time goes into making files.
//!
//! Promises: one load at a time; the log is closed and its files are removed when the bed is dropped.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use henge_wal::{Event, Options, Wal};

use crate::wal_commit::{Backend, Run, Turn, close, event, load, warm};

struct Order {
    turn: Turn,
    depth: usize,
    time: Duration,
}

/// A log that waits for loads.
pub struct Bed {
    /// What the log runs on.
    pub backend: Backend,
    orders: Option<Sender<Order>>,
    runs: Receiver<Result<Run, String>>,
    thread: Option<JoinHandle<()>>,
    dir: PathBuf,
}

impl Bed {
    /// Opens a fresh log in `dir` and fills its segments.
    pub fn new(backend: Backend, dir: PathBuf) -> Result<Self, String> {
        let _ = std::fs::remove_dir_all(&dir);
        let (orders, taken) = channel();
        let (give, runs) = channel();
        let path = dir.clone();
        let thread = std::thread::Builder::new()
            .name(format!("bed-{}", backend.name()))
            .spawn(move || {
                let done = backend.run(async {
                    let (mut wal, _) = backend.open(&path, &Options::default(), &mut ())?;
                    warm(&mut wal).await?;
                    let _ = give.send(Ok(Run::default()));
                    serve(&mut wal, &taken, &give).await?;
                    close(wal).await;
                    Ok::<(), String>(())
                });
                if let Err(error) = done {
                    let _ = give.send(Err(error));
                }
            })
            .map_err(|e| e.to_string())?;
        let bed = Bed {
            backend,
            orders: Some(orders),
            runs,
            thread: Some(thread),
            dir,
        };
        bed.answer()?;
        Ok(bed)
    }

    /// Commits turns for `time`, `depth` at a time.
    pub fn run(&self, turn: Turn, depth: usize, time: Duration) -> Result<Run, String> {
        if let Some(orders) = &self.orders {
            let _ = orders.send(Order { turn, depth, time });
        }
        self.answer()
    }

    fn answer(&self) -> Result<Run, String> {
        let gone = || format!("{}: the log's thread ended", self.backend.name());
        self.runs.recv().map_err(|_| gone())?
    }
}

/// Loads until no more are ordered. The executor has nothing else to do meanwhile.
async fn serve(
    wal: &mut Wal,
    orders: &Receiver<Order>,
    runs: &Sender<Result<Run, String>>,
) -> Result<(), String> {
    while let Ok(order) = orders.recv() {
        let run = load(wal, order.turn, order.depth, order.time).await?;
        // The next load begins with other groups.
        for group in 0..order.turn.groups {
            wal.remove(group);
        }
        let lsn = wal.staged_lsn();
        wal.submit().map_err(|e| e.to_string())?;
        while event(wal).await != Event::Durable(lsn) {}
        let _ = runs.send(Ok(run));
    }
    Ok(())
}

impl Drop for Bed {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}
