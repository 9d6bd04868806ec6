//! A server on a full file system, in each state that it can be full in: what is left to a client, and how
//! soon room is found.
//!
//! Promises: reads, deletes and compaction go on in every state, also after kill -9 and any number of
//! restarts; room that they make, or that others make, is found within [`FOUND_MAX`] and without a restart;
//! every acknowledged write is there at every look.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use prost::Message;
use tokio::time::sleep;
use tonic::Status;

use super::server::no_space;
use crate::etcd::{Client, Headed, RangeRequest};
use crate::process::{Member, Program, Server};

const START_MAX: Duration = Duration::from_secs(60);
const ANSWER_MAX: Duration = Duration::from_secs(20);
/// Room must be found so soon.
const FOUND_MAX: Duration = Duration::from_secs(5);
/// A refused write is tried so often: it must not be the luck of one moment.
const REFUSALS: usize = 5;
/// More than fits; the run fails if nothing is refused by then.
const PUTS_MAX: usize = 20_000;
/// Restarts on the full file system.
const RESTARTS: usize = 4;

/// When the room runs out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// The log has never let anything go.
    BeforeTheFirstCheckpoint,
    /// A checkpoint is half written.
    WhileOneIsWritten,
    /// A restart has taken the log's last segment.
    LastSegmentInUse,
}

impl Moment {
    /// All of them.
    pub const ALL: [Self; 3] = [
        Self::BeforeTheFirstCheckpoint,
        Self::WhileOneIsWritten,
        Self::LastSegmentInUse,
    ];
}

/// Large values until nothing more is taken; then everything is deleted and compacted, and small values go in
/// again.
pub fn emptied(program: &Program, dir: &Path) -> Result<String, String> {
    run(program, dir, async |it: &mut Scenario<'_>| {
        it.value_bytes = 900_000;
        it.fill().await?;
        let full_at = it.written;
        it.all_are_there().await?;
        it.empty().await?;
        it.value_bytes = 100;
        let found = it.finds_room("everything was deleted").await?;
        it.value_bytes = 900_000;
        let before = it.written;
        it.fill().await?;
        let again = it.written - before;
        if again < full_at / 4 {
            return Err(format!("{full_at} fitted at first, and then only {again}"));
        }
        it.restart().await?;
        it.all_are_there().await?;
        Ok(format!(
            "full after {full_at} values, room found {} ms after it was emptied, {again} more",
            found.as_millis()
        ))
    })
}

/// Many clients until nothing more is taken, kill -9, and restarts one after the other.
pub fn restarted(program: &Program, dir: &Path) -> Result<String, String> {
    run(program, dir, async |it: &mut Scenario<'_>| {
        it.value_bytes = 20_000;
        it.fill().await?;
        let full_at = it.written;
        for restart in 0..RESTARTS {
            it.restart()
                .await
                .map_err(|e| format!("restart {restart}: {e}"))?;
            it.all_are_there().await?;
            it.delete_one().await?;
        }
        it.empty().await?;
        let found = it.finds_room("everything was deleted").await?;
        Ok(format!(
            "full after {full_at} puts, reads and deletes after each of {RESTARTS} restarts, room found {} \
            ms \
             after it was emptied",
            found.as_millis()
        ))
    })
}

/// Others take all the room at this moment; the server is killed then, or not. First its clients make room,
/// then the others.
pub fn at(program: &Program, dir: &Path, moment: Moment, killed: bool) -> Result<String, String> {
    run(program, dir, async |it: &mut Scenario<'_>| {
        it.value_bytes = 100_000;
        it.put_some(300).await?;
        match moment {
            Moment::BeforeTheFirstCheckpoint => {}
            Moment::WhileOneIsWritten => it.until_one_is_written().await?,
            Moment::LastSegmentInUse => {
                it.others_take_all()?;
                it.fill().await?;
                it.restart().await?;
            }
        }
        it.others_take_all()?;
        if killed {
            it.restart().await?;
        }
        it.fill().await?;
        it.all_are_there().await?;
        it.delete_one().await?;
        it.empty().await?;
        let own = it.finds_room("everything was deleted").await?;
        it.others_take_all()?;
        it.fill().await?;
        if killed {
            it.restart().await?;
        }
        it.all_are_there().await?;
        it.others_leave()?;
        let others = it.finds_room("others left").await?;
        it.put_some(100).await?;
        it.restart().await?;
        it.all_are_there().await?;
        Ok(format!(
            "room found {} ms after it was emptied, {} ms after others left",
            own.as_millis(),
            others.as_millis()
        ))
    })
}

/// `etcdserverpb.DeleteRangeRequest` of a range.
#[derive(Clone, PartialEq, Message)]
struct DeleteAll {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    range_end: Vec<u8>,
}

/// `etcdserverpb.CompactionRequest`.
#[derive(Clone, PartialEq, Message)]
struct Compaction {
    #[prost(int64, tag = "1")]
    revision: i64,
    #[prost(bool, tag = "2")]
    physical: bool,
}

struct Scenario<'a> {
    program: &'a Program,
    flags: Vec<OsString>,
    member: Member,
    server: &'a mut Server,
    client: Client,
    value_bytes: usize,
    written: usize,
    /// Acknowledged and not deleted since: number and length of its value.
    live: Vec<(usize, usize)>,
    others: PathBuf,
}

fn run<F>(program: &Program, dir: &Path, scenario: F) -> Result<String, String>
where
    F: AsyncFnOnce(&mut Scenario<'_>) -> Result<String, String>,
{
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.map_err(|e| format!("no runtime: {e}"))?;
    let mut member = Member::cluster(dir, 1)?.remove(0);
    member.data = dir.join("data");
    let flags = member.flags(std::slice::from_ref(&member));
    let mut server = Server::start(program, flags.clone(), START_MAX)?;
    let said = runtime.block_on(async {
        let mut it = Scenario {
            program,
            flags,
            client: Client::new(member.client_port, ANSWER_MAX),
            member,
            server: &mut server,
            value_bytes: 100,
            written: 0,
            live: Vec::new(),
            others: dir.join("others"),
        };
        scenario(&mut it).await
    });
    said.map_err(|why| format!("{why}\n{}", server.log()))
}

impl Scenario<'_> {
    async fn put(&mut self) -> Result<(), Status> {
        let (i, bytes) = (self.written, self.value_bytes);
        self.client.put(key(i), value(i, bytes)).await?;
        self.live.push((i, bytes));
        self.written += 1;
        Ok(())
    }

    async fn put_some(&mut self, count: usize) -> Result<(), String> {
        for _ in 0..count {
            let put = self.put().await;
            put.map_err(|e| format!("there is room, and put {} ends in {e:?}", self.written))?;
        }
        Ok(())
    }

    /// Puts until nothing more is taken.
    async fn fill(&mut self) -> Result<(), String> {
        let mut refused = 0;
        while refused < REFUSALS {
            if self.written >= PUTS_MAX {
                return Err(format!("{PUTS_MAX} puts and none was refused"));
            }
            match self.put().await {
                Ok(()) => refused = 0,
                Err(e) if no_space(&e) => {
                    refused += 1;
                    sleep(Duration::from_millis(20)).await;
                }
                Err(e) => return Err(format!("put {} ends in {e:?}", self.written)),
            }
        }
        Ok(())
    }

    /// Every acknowledged put that was not deleted is read with its value.
    async fn all_are_there(&mut self) -> Result<(), String> {
        for (i, bytes) in self.live.clone() {
            let request = RangeRequest {
                key: key(i),
                ..RangeRequest::default()
            };
            let reply = self.client.range(request).await;
            let found = reply.map_err(|e| format!("read {i} ends in {e:?}"))?.kvs;
            if found.first().is_none_or(|kv| kv.value != value(i, bytes)) {
                return Err(format!("put {i} was acknowledged and is gone"));
            }
        }
        Ok(())
    }

    async fn delete_one(&mut self) -> Result<(), String> {
        let Some((i, _)) = self.live.pop() else {
            return Err("nothing to delete".to_owned());
        };
        let deleted = self.client.delete(key(i)).await;
        deleted.map_err(|e| format!("a delete on the full file system ends in {e:?}"))?;
        Ok(())
    }

    /// Deletes everything and compacts it away.
    async fn empty(&mut self) -> Result<(), String> {
        let all = DeleteAll {
            key: vec![0],
            range_end: vec![0],
        };
        let path = "/etcdserverpb.KV/DeleteRange";
        let reply: Result<Headed, _> = self.client.call(path, all).await;
        let reply = reply.map_err(|e| format!("deleting everything ends in {e:?}"))?;
        self.live.clear();
        let compaction = Compaction {
            revision: reply.header.map_or(0, |header| header.revision),
            physical: true,
        };
        let path = "/etcdserverpb.KV/Compact";
        let reply: Result<Headed, _> = self.client.call(path, compaction).await;
        reply.map_err(|e| format!("a compaction on the full file system ends in {e:?}"))?;
        Ok(())
    }

    /// Waits until a put is taken, by the same process; how long that took.
    async fn finds_room(&mut self, since: &str) -> Result<Duration, String> {
        let (begun, pid) = (Instant::now(), self.server.pid());
        loop {
            match self.put().await {
                Ok(()) if pid == self.server.pid() => return Ok(begun.elapsed()),
                Err(e) if no_space(&e) && begun.elapsed() < FOUND_MAX => {
                    sleep(Duration::from_millis(20)).await;
                }
                end => {
                    let waited = begun.elapsed();
                    return Err(format!(
                        "{since}, and after {waited:?} a put ends in {end:?}"
                    ));
                }
            }
        }
    }

    /// kill -9 and a start; the server says that it is ready.
    async fn restart(&mut self) -> Result<(), String> {
        self.server.kill();
        *self.server = Server::start(self.program, self.flags.clone(), START_MAX)?;
        self.client = Client::new(self.member.client_port, ANSWER_MAX);
        Ok(())
    }

    /// Puts until a checkpoint is being written.
    async fn until_one_is_written(&mut self) -> Result<(), String> {
        let dir = self.member.data.join("checkpoints");
        for _ in 0..PUTS_MAX {
            let names = fs::read_dir(&dir).map_err(|e| format!("no checkpoints: {e}"))?;
            let mut names = names.filter_map(|entry| Some(entry.ok()?.path()));
            if names.any(|path| path.extension().is_some_and(|e| e == "tmp")) {
                return Ok(());
            }
            self.put_some(1).await?;
        }
        Err("no checkpoint was begun".to_owned())
    }

    /// Others write until the file system takes nothing more.
    fn others_take_all(&self) -> Result<(), String> {
        let failed = |e: std::io::Error| format!("cannot write {}: {e}", self.others.display());
        let file = File::options().append(true).create(true).open(&self.others);
        let mut file = file.map_err(failed)?;
        for bytes in [1 << 20, 4 << 10] {
            let chunk = vec![0x5a; bytes];
            while file.write_all(&chunk).is_ok() {}
        }
        file.sync_all().map_err(failed)
    }

    fn others_leave(&self) -> Result<(), String> {
        fs::remove_file(&self.others).map_err(|e| format!("others cannot leave: {e}"))
    }
}

fn key(i: usize) -> Vec<u8> {
    format!("full/{i:08}").into_bytes()
}

fn value(i: usize, bytes: usize) -> Vec<u8> {
    (0..bytes)
        .map(|at| (i * 131 + at * 7 + at / 251) as u8)
        .collect()
}
