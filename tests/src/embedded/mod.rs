//! Kill -9 of processes that embed an engine with many shards on several cores, each restarted with
//! another number of cores than the one before.
//!
//! Promises: after every kill, also of a process that was still recovering or moving shards between logs,
//! the directory opens with yet another number of cores; every acknowledged operation is there with its
//! value and revisions, every unanswered one wholly or not at all; the revision of each shard accounts for
//! each change and never goes back; the range over all shards is in key order.
//! Must never know: the engine's inside; it is used as any program would use it.
//! Tested by planted bugs ([`Planted`]) that a run has to find.

pub mod child;
pub mod report;

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use henge::engine::route::shard_of;
use henge::mvcc::{KeyRange, RangeRequest};
use henge::{Engine, EngineBuilder};

use self::report::Report;
use crate::dice::Dice;
use crate::etcd::KeyValue;
use crate::history::History;

/// Cores of a run: one to so many.
const CORES_MAX: usize = 3;
/// A start replays the logs and moves shards: design goal under 10 s, with room for a busy machine.
const START_MAX: Duration = Duration::from_secs(30);
/// Longest life of a process once it has opened, in milliseconds.
const LIFE_MS_MAX: u64 = 1_000;
/// Longest life of one that shall die while it opens.
const OPENING_MS_MAX: u64 = 150;
/// Reads in the past, each round and shard.
const SAMPLES: usize = 4;
/// Small segments and checkpoints: rotation, recycling and purging happen between two kills.
const SEGMENT_BYTES: u64 = 1 << 20;
const CHECKPOINT_BYTES: u64 = 4 << 20;
/// How much of the end of a log [`Planted::LostTail`] takes.
const LOST_BLOCKS: usize = 16;
const BLOCK_BYTES: usize = 4_096;

/// A bug to plant: a run that has it must end with a violation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Planted {
    /// The last blocks of one core's log are gone after a kill: a disk that acknowledged and forgot.
    LostTail,
    /// What is announced as a transaction is done as single puts.
    SplitTxn,
}

impl std::str::FromStr for Planted {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "lost-tail" => Ok(Planted::LostTail),
            "split-txn" => Ok(Planted::SplitTxn),
            _ => Err("must be lost-tail or split-txn".to_owned()),
        }
    }
}

impl Planted {
    fn name(self) -> &'static str {
        match self {
            Planted::LostTail => "lost-tail",
            Planted::SplitTxn => "split-txn",
        }
    }
}

/// The engine as the process under test and the one that checks open it.
fn builder(dir: &Path, shards: usize, cores: usize) -> EngineBuilder {
    Engine::builder(dir)
        .shards(shards)
        .cores(cores)
        .checkpoint_bytes(CHECKPOINT_BYTES)
        .wal(henge::wal::Options {
            segment_bytes: SEGMENT_BYTES,
            ..henge::wal::Options::default()
        })
}

/// One run: the directory, and what is known about each shard in it.
pub struct Run {
    program: PathBuf,
    dir: PathBuf,
    dice: Dice,
    planted: Option<Planted>,
    histories: Vec<History>,
    /// Revision of each shard that some process has seen.
    seen: Vec<i64>,
    cores: usize,
    processes: u64,
    /// Processes killed before they had opened.
    pub killed_opening: u64,
    /// Opens with another number of cores than the open before.
    pub moves: u64,
    /// Longest time from a start to its first word.
    pub restart_max: Duration,
}

impl Run {
    /// `program` is the executable that understands what [`Run`] gives it: `crash` itself.
    pub fn new(
        program: PathBuf,
        dir: PathBuf,
        shards: usize,
        seed: u64,
        planted: Option<Planted>,
    ) -> Self {
        Run {
            program,
            dir,
            dice: Dice::new(seed),
            planted,
            histories: (0..shards).map(|_| History::new(1)).collect(),
            seen: vec![1; shards],
            cores: 0,
            processes: 0,
            killed_opening: 0,
            moves: 0,
            restart_max: Duration::ZERO,
        }
    }

    /// Operations acknowledged, unknown, and of these those that had happened.
    pub fn counts(&self) -> (u64, u64, u64) {
        self.histories.iter().fold((0, 0, 0), |sum, history| {
            let (unknown, applied) = history.unknown();
            (sum.0 + history.acked(), sum.1 + unknown, sum.2 + applied)
        })
    }

    /// Load, kill -9, starts that are killed as well, then a check with another number of cores.
    pub fn round(&mut self) -> Result<String, String> {
        let acked_before = self.counts().0;
        let lived = Duration::from_millis(self.dice.range(20, LIFE_MS_MAX));
        let first = self.process(Some(lived))?;
        let acked = self.counts().0 - acked_before;
        if acked == 0 && lived > Duration::from_millis(500) {
            return Err(format!("nothing was acknowledged in {lived:?}"));
        }
        if self.planted == Some(Planted::LostTail) {
            self.lose_tail()?;
        }
        let mut starts = String::new();
        while self.dice.one_in(2) {
            let cores = self.process(None)?;
            starts = format!("{starts}, {cores}");
        }
        let keys = self.check()?;
        Ok(format!(
            "{acked} acknowledged in {} ms on {first} cores{starts}, checked on {}: {keys} keys",
            lived.as_millis(),
            self.cores
        ))
    }

    /// A number of cores other than the last.
    fn next_cores(&mut self) -> usize {
        let most = CORES_MAX.min(self.histories.len());
        let mut cores = 1 + self.dice.range(0, most as u64) as usize;
        if cores == self.cores && most > 1 {
            cores = 1 + cores % most;
        }
        self.moves += u64::from(self.cores != 0 && cores != self.cores);
        self.cores = cores;
        cores
    }

    /// Starts a process, kills it so long after it opened, or at some moment while it opens, and takes in
    /// what it said. Returns its number of cores.
    fn process(&mut self, life: Option<Duration>) -> Result<usize, String> {
        let cores = self.next_cores();
        self.processes += 1;
        let begun = Instant::now();
        let mut process = Process::start(self.command(cores))?;
        match life {
            Some(life) => {
                process.await_opened(START_MAX)?;
                self.restart_max = self.restart_max.max(begun.elapsed());
                thread::sleep(life);
            }
            None => thread::sleep(Duration::from_millis(self.dice.range(0, OPENING_MS_MAX))),
        }
        let report = process.kill()?;
        match report.opened {
            Some(revisions) => self.take_revisions(&revisions, cores)?,
            None => self.killed_opening += 1,
        }
        for (id, session) in report.sessions {
            let shard = id as u32 as usize % self.histories.len();
            let last = session.acked.last().map_or(0, |(revision, _)| *revision);
            self.histories[shard]
                .record(session)
                .map_err(|why| format!("shard {shard}: {why}"))?;
            self.seen[shard] = self.seen[shard].max(last);
        }
        Ok(cores)
    }

    fn command(&mut self, cores: usize) -> Command {
        let mut command = Command::new(&self.program);
        let shards = self.histories.len();
        command.arg("--embedded-child").arg(&self.dir);
        for (flag, number) in [
            ("--embedded-shards", shards as u64),
            ("--cores", cores as u64),
            ("--number", self.processes),
            ("--seed", self.dice.bits()),
        ] {
            command.arg(flag).arg(number.to_string());
        }
        if let Some(planted) = self.planted {
            command.args(["--planted", planted.name()]);
        }
        command
    }

    /// No shard may be behind what any process has seen of it.
    fn take_revisions(&mut self, revisions: &[i64], cores: usize) -> Result<(), String> {
        for (shard, (now, seen)) in revisions.iter().zip(&mut self.seen).enumerate() {
            if now < seen {
                return Err(format!(
                    "shard {shard} opened on {cores} cores at revision {now}, but was at {seen}"
                ));
            }
            *seen = *now;
        }
        Ok(())
    }

    /// Opens the directory in this process and compares all of it with what was acknowledged.
    fn check(&mut self) -> Result<usize, String> {
        let cores = self.next_cores();
        let shards = self.histories.len();
        let begun = Instant::now();
        let engine = builder(&self.dir, shards, cores)
            .open()
            .map_err(|e| format!("cannot open with {cores} cores: {e}"))?;
        self.restart_max = self.restart_max.max(begun.elapsed());
        let db = engine.blocking();
        let everything = RangeRequest {
            range: KeyRange::all(),
            ..RangeRequest::default()
        };
        let found = db
            .wait(engine.range_at(&everything, None))
            .map_err(|e| format!("cannot be read: {e}"))?;
        let revisions: Vec<_> = (0..shards).map(|at| found.revisions.get(at)).collect();
        self.take_revisions(&revisions, cores)?;
        let kvs = found.body.kvs;
        let keys = kvs.len();
        if let Some(pair) = kvs.windows(2).find(|pair| pair[0].key >= pair[1].key) {
            return Err(format!("{:?} stands after {:?}", pair[1].key, pair[0].key));
        }
        let mut by_shard = vec![Vec::new(); shards];
        for kv in kvs {
            by_shard[shard_of(&kv.key, shards)].push(pair(kv));
        }
        for (shard, (history, kvs)) in self.histories.iter_mut().zip(&by_shard).enumerate() {
            history
                .check(revisions[shard], kvs, true)
                .map_err(|why| format!("shard {shard}, on {cores} cores: {why}"))?;
            for (revision, write) in history.samples(&mut self.dice, SAMPLES) {
                let request = RangeRequest {
                    range: KeyRange::one(write.key()),
                    revision,
                    ..RangeRequest::default()
                };
                let past = db.wait(engine.range(&request)).map_err(|e| {
                    format!("shard {shard}: {write:?} cannot be read at {revision}: {e}")
                })?;
                let past = past.body.kvs.into_iter().next().map(pair);
                write
                    .check(revision, past.as_ref())
                    .map_err(|why| format!("shard {shard}: {why}"))?;
            }
        }
        db.stop();
        Ok(keys)
    }

    /// Takes the last written blocks of the first core's newest segment away.
    fn lose_tail(&self) -> Result<(), String> {
        let failed = |e: std::io::Error| format!("cannot plant a lost tail: {e}");
        let mut segments: Vec<_> = fs::read_dir(self.dir.join("core-0"))
            .map_err(failed)?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|kind| kind == "seg"))
            .collect();
        segments.sort();
        for path in segments.iter().rev() {
            let bytes = fs::read(path).map_err(failed)?;
            let blocks = bytes.chunks(BLOCK_BYTES).enumerate();
            let written: Vec<_> = blocks
                .filter(|(at, block)| *at > 0 && block.iter().any(|byte| *byte != 0))
                .map(|(at, _)| at * BLOCK_BYTES)
                .collect();
            if written.len() > LOST_BLOCKS {
                let from = written[written.len() - LOST_BLOCKS];
                let file = fs::File::options().write(true).open(path).map_err(failed)?;
                let zeros = vec![0; bytes.len() - from];
                return file.write_all_at(&zeros, from as u64).map_err(failed);
            }
        }
        Ok(())
    }
}

fn pair(kv: henge::mvcc::KeyValue) -> KeyValue {
    KeyValue {
        key: kv.key.to_vec(),
        create_revision: kv.create_revision,
        mod_revision: kv.mod_revision,
        version: kv.version,
        value: kv.value.to_vec(),
        lease: kv.lease,
    }
}

/// A running process under test. Dropping it kills it.
struct Process {
    child: Child,
    lines: Option<JoinHandle<Vec<String>>>,
    opened: mpsc::Receiver<()>,
}

impl Process {
    fn start(mut command: Command) -> Result<Self, String> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| format!("cannot start {command:?}: {e}"))?;
        let (say, opened) = mpsc::channel();
        let lines = child.stdout.take().map(|out| {
            thread::spawn(move || {
                let mut lines = Vec::new();
                for line in BufReader::new(out).lines().map_while(Result::ok) {
                    if lines.is_empty() {
                        // Nobody waits for one that is to die while it opens.
                        let _ = say.send(());
                    }
                    lines.push(line);
                }
                lines
            })
        });
        Ok(Process {
            child,
            lines,
            opened,
        })
    }

    fn await_opened(&mut self, within: Duration) -> Result<(), String> {
        match self.opened.recv_timeout(within) {
            Ok(()) => Ok(()),
            Err(mpsc::RecvTimeoutError::Timeout) => Err(format!("did not open within {within:?}")),
            Err(mpsc::RecvTimeoutError::Disconnected) => Err(format!(
                "ended before it had opened: {:?}",
                self.child.wait().map_err(|e| e.to_string())
            )),
        }
    }

    /// kill -9; what it had said. A process that ended by itself is a violation.
    fn kill(mut self) -> Result<Report, String> {
        let ended = self.child.try_wait().ok().flatten();
        // Errors mean that it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let lines = self.lines.take().map(JoinHandle::join);
        let lines = lines.and_then(Result::ok).unwrap_or_default();
        let report = Report::read(&lines)?;
        match ended {
            Some(status) => Err(format!("the process ended by itself: {status}")),
            None => Ok(report),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
