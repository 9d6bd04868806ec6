//! What every disk must do, as one suite that runs on any of them: the seam's contract, executable.
//!
//! [`run`] takes a way to make disks for one empty directory and an async context in which they complete
//! (a tokio-uring runtime for the one that needs it; any executor for the others). It gives the names of
//! the cases it ran, or the first one that failed and how. A disk that passes can carry the log.
//! Must never know: which disk it is; what cannot be brought about on all of them (EIO, ENOSPC) is brought
//! about by the caller, in `inject`.

mod aside;

use std::future::poll_fn;
use std::io;
use std::path::Path;
use std::task::Poll;

use super::{AlignedBuf, Disk, FileId, LockError, Op, Output, Token};
use crate::BLOCK_BYTES;

/// Makes a disk; the suite attaches it.
pub type Make<'m> = &'m mut dyn FnMut() -> Box<dyn Disk>;
/// Lets the next operation fail with this `errno`, where the disk can be made to.
pub type Inject<'i> = Option<&'i mut dyn FnMut(i32)>;

const FILE_BYTES: u64 = 64 * 4096;

/// Run all cases in `dir`, which does not exist yet.
pub async fn run(
    dir: &Path,
    make: Make<'_>,
    inject: Inject<'_>,
) -> Result<Vec<&'static str>, String> {
    let mut ran = Vec::new();
    let mut suite = Suite {
        disk: fresh(dir, make),
        next_token: 0,
        done: Vec::new(),
    };
    let case = |name: &'static str, result: Result<(), String>, ran: &mut Vec<&'static str>| {
        ran.push(name);
        result.map_err(|why| format!("{name}: {why}"))
    };
    case("directory and lock", suite.directory(dir, make), &mut ran)?;
    case("names", suite.names().await, &mut ran)?;
    case("a new file is zeros", suite.zeros().await, &mut ran)?;
    case("what is written is read", suite.writes().await, &mut ran)?;
    case("many in flight", suite.many().await, &mut ran)?;
    case("order", suite.order().await, &mut ran)?;
    case("short reads", suite.short_reads().await, &mut ran)?;
    case("unaligned operations", suite.unaligned().await, &mut ran)?;
    case(
        "errors end in one completion",
        suite.errors().await,
        &mut ran,
    )?;
    case(
        "close with writes in flight",
        suite.close_early().await,
        &mut ran,
    )?;
    case("folders", suite.folders().await, &mut ran)?;
    case("folders beside", suite.beside(), &mut ran)?;
    case("loose files", suite.loose().await, &mut ran)?;
    case("room is taken first", suite.no_room().await, &mut ran)?;
    if let Some(inject) = inject {
        case("injected errors", suite.injected(inject).await, &mut ran)?;
    }
    case(
        "drop of the owner",
        drop_of_owner(suite, dir, make).await,
        &mut ran,
    )?;
    Ok(ran)
}

fn fresh(dir: &Path, make: Make<'_>) -> Box<dyn Disk> {
    let mut disk = make();
    disk.attach(dir);
    disk
}

struct Suite {
    disk: Box<dyn Disk>,
    next_token: Token,
    /// Completions that nobody has asked for yet.
    done: Vec<(Token, io::Result<Output>)>,
}

fn check(holds: bool, what: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what.into()) }
}

fn pattern(seed: usize, bytes: usize) -> AlignedBuf {
    let mut buf = AlignedBuf::zeroed(bytes);
    for (n, byte) in buf.iter_mut().enumerate() {
        *byte = (n / 7 + seed * 131) as u8;
    }
    buf
}

impl Suite {
    fn submit(&mut self, op: Op) -> Token {
        self.next_token += 1;
        self.disk.submit(self.next_token, op);
        self.next_token
    }

    /// Wait for one completion.
    async fn wait(&mut self, token: Token) -> Result<io::Result<Output>, String> {
        loop {
            if let Some(at) = self.done.iter().position(|(t, _)| *t == token) {
                return Ok(self.done.swap_remove(at).1);
            }
            let disk = &mut self.disk;
            let completion = poll_fn(|cx| disk.poll(cx)).await;
            if completion.token == 0 || completion.token > self.next_token {
                return Err(format!(
                    "a completion of {}, never submitted",
                    completion.token
                ));
            }
            if self.done.iter().any(|(t, _)| *t == completion.token) {
                return Err(format!("{} completed twice", completion.token));
            }
            self.done.push((completion.token, completion.result));
        }
    }

    async fn op(&mut self, op: Op) -> Result<Output, String> {
        let text = format!("{op:?}").chars().take(60).collect::<String>();
        let token = self.submit(op);
        self.wait(token).await?.map_err(|e| format!("{text}: {e}"))
    }

    async fn fails(&mut self, op: Op) -> Result<io::Error, String> {
        let text = format!("{op:?}").chars().take(60).collect::<String>();
        let token = self.submit(op);
        match self.wait(token).await? {
            Ok(_) => Err(format!("{text}: did not fail")),
            Err(e) => Ok(e),
        }
    }

    async fn open(&mut self, name: &str) -> Result<(FileId, u64), String> {
        match self.op(Op::Open { name: name.into() }).await? {
            Output::Opened { file, bytes } => Ok((file, bytes)),
            other => Err(format!("open brought {other:?}")),
        }
    }

    async fn file(&mut self, name: &str) -> Result<FileId, String> {
        self.op(Op::Zero {
            name: name.into(),
            bytes: FILE_BYTES,
            pause_ms: 0,
            spread_ms: 0,
        })
        .await?;
        self.op(Op::SyncDir).await?;
        Ok(self.open(name).await?.0)
    }

    async fn read(
        &mut self,
        file: FileId,
        offset: u64,
        bytes: usize,
    ) -> Result<AlignedBuf, String> {
        match self
            .op(Op::Read {
                file,
                offset,
                bytes,
            })
            .await?
        {
            Output::Buf(buf) => Ok(buf),
            other => Err(format!("a read brought {other:?}")),
        }
    }

    fn directory(&mut self, dir: &Path, make: Make<'_>) -> Result<(), String> {
        let text = |e: io::Error| e.to_string();
        check(self.disk.path() == dir, "the path it was attached to")?;
        check(
            self.disk.list().map_err(text)?.is_none(),
            "nothing is there yet",
        )?;
        self.disk.make().map_err(text)?;
        self.disk.make().map_err(text)?;
        self.disk.lock().map_err(|e| format!("{e:?}"))?;
        check(self.disk.list().map_err(text)?.is_some(), "it is there now")?;
        let mut second = fresh(dir, make);
        let held = matches!(second.lock(), Err(LockError::Held { .. }));
        check(held, "a second one is refused")?;
        drop(second);
        let (one, two) = (self.disk.entropy(), self.disk.entropy());
        check(
            one.map_err(text)? != two.map_err(text)?,
            "random bytes differ",
        )
    }

    async fn names(&mut self) -> Result<(), String> {
        let store = |name: &str, bytes: &[u8]| Op::Store {
            name: name.into(),
            bytes: bytes.into(),
        };
        self.op(store("a", b"first")).await?;
        self.op(store("a", b"second")).await?;
        self.op(store("b", b"other")).await?;
        self.op(Op::Rename {
            from: "a".into(),
            to: "b".into(),
        })
        .await?;
        self.op(Op::SyncDir).await?;
        match self.op(Op::Load { name: "b".into() }).await? {
            Output::Bytes(bytes) => check(bytes == b"second", "a rename replaces")?,
            other => return Err(format!("load brought {other:?}")),
        }
        let listed = self
            .disk
            .list()
            .map_err(|e| e.to_string())?
            .unwrap_or_default();
        let found = |name: &str| listed.iter().find(|f| f.name == name);
        check(found("a").is_none(), "the old name is gone")?;
        check(
            found("b").is_some_and(|f| f.bytes == 6 && !f.is_dir),
            "the new one is listed",
        )?;
        self.op(Op::Remove { name: "b".into() }).await?;
        self.fails(Op::Load { name: "b".into() }).await.map(drop)
    }

    async fn zeros(&mut self) -> Result<(), String> {
        let file = self.file("zeros").await?;
        let all = self.read(file, 0, FILE_BYTES as usize).await?;
        check(all.len() as u64 == FILE_BYTES, "the size asked for")?;
        check(all.iter().all(|b| *b == 0), "zeros")?;
        check(
            (all.as_ptr() as usize).is_multiple_of(BLOCK_BYTES),
            "an aligned buffer",
        )?;
        let (second, bytes) = self.open("zeros").await.or_else(|why| {
            // Alone means alone: refusing a second opening is right, too.
            check(why.contains("writing"), &why).map(|()| (file, FILE_BYTES))
        })?;
        check(bytes == FILE_BYTES, "its size")?;
        if second != file {
            self.op(Op::Close { file: second }).await?;
        }
        self.op(Op::Close { file }).await.map(drop)
    }

    async fn writes(&mut self) -> Result<(), String> {
        let file = self.file("writes").await?;
        for (n, blocks) in [1usize, 2, 7, 20].into_iter().enumerate() {
            let (offset, bytes) = (
                (n * 24 * BLOCK_BYTES) as u64 % FILE_BYTES,
                blocks * BLOCK_BYTES,
            );
            let offset = offset.min(FILE_BYTES - bytes as u64);
            let buf = pattern(n, bytes);
            let back = match self.op(Op::Write { file, offset, buf }).await? {
                Output::Buf(buf) => buf,
                other => return Err(format!("a write brought {other:?}")),
            };
            check(
                back[..] == pattern(n, bytes)[..],
                "the buffer comes back as it was",
            )?;
            let read = self.read(file, offset, bytes).await?;
            check(read[..] == back[..], "the bytes are there")?;
        }
        self.op(Op::Close { file }).await?;
        // And by the blocking way, in a new opening.
        let opened = self.disk.run(Op::Open {
            name: "writes".into(),
        });
        let Output::Opened { file, .. } = opened.map_err(|e| e.to_string())? else {
            return Err("open brought no file".into());
        };
        let bytes = BLOCK_BYTES;
        let read = self.disk.run(Op::Read {
            file,
            offset: 0,
            bytes,
        });
        let Output::Buf(read) = read.map_err(|e| e.to_string())? else {
            return Err("a read brought no bytes".into());
        };
        check(
            read[..] == pattern(0, bytes)[..],
            "still there after closing",
        )?;
        if let Some(reader) = self.disk.reader(file) {
            let mut buf = AlignedBuf::zeroed(bytes);
            let n = reader.read_at(0, &mut buf).map_err(|e| e.to_string())?;
            check(
                n == bytes && buf[..] == read[..],
                "other threads read the same",
            )?;
        }
        self.op(Op::Close { file }).await.map(drop)
    }

    async fn many(&mut self) -> Result<(), String> {
        let file = self.file("many").await?;
        let mut tokens = Vec::new();
        for n in 0..32usize {
            let (offset, buf) = ((n * 2 * BLOCK_BYTES) as u64, pattern(n, BLOCK_BYTES));
            tokens.push(self.submit(Op::Write { file, offset, buf }));
        }
        // Waited for in another order than they were submitted.
        for token in tokens.into_iter().rev() {
            let done = self.wait(token).await?;
            check(done.is_ok(), "each completes")?;
        }
        for n in 0..32usize {
            let read = self
                .read(file, (n * 2 * BLOCK_BYTES) as u64, 2 * BLOCK_BYTES)
                .await?;
            check(
                read[..BLOCK_BYTES] == pattern(n, BLOCK_BYTES)[..],
                "its own bytes",
            )?;
            check(read[BLOCK_BYTES..].iter().all(|b| *b == 0), "and no others")?;
        }
        self.op(Op::Close { file }).await.map(drop)
    }

    async fn order(&mut self) -> Result<(), String> {
        let file = self.file("order").await?;
        for n in 0..20 {
            let buf = pattern(n, 3 * BLOCK_BYTES);
            self.op(Op::Write {
                file,
                offset: 0,
                buf,
            })
            .await?;
        }
        let read = self.read(file, 0, 3 * BLOCK_BYTES).await?;
        check(
            read[..] == pattern(19, 3 * BLOCK_BYTES)[..],
            "the later write lies on top",
        )?;
        self.op(Op::Close { file }).await.map(drop)
    }

    async fn short_reads(&mut self) -> Result<(), String> {
        let file = self.file("short").await?;
        let last = FILE_BYTES - BLOCK_BYTES as u64;
        let read = self.read(file, last, 5 * BLOCK_BYTES).await?;
        check(read.len() == BLOCK_BYTES, "up to the end of the file")?;
        let read = self.read(file, FILE_BYTES, BLOCK_BYTES).await?;
        check(read.is_empty(), "nothing behind it")?;
        self.op(Op::Close { file }).await.map(drop)
    }

    async fn unaligned(&mut self) -> Result<(), String> {
        let file = self.file("unaligned").await?;
        if self.disk.info().direct_io {
            let buf = pattern(1, BLOCK_BYTES);
            let offset = 512 + 1;
            self.fails(Op::Write { file, offset, buf }).await?;
            let mut buf = pattern(1, BLOCK_BYTES);
            buf.resize(100);
            self.fails(Op::Write {
                file,
                offset: 0,
                buf,
            })
            .await?;
        }
        let read = self.read(file, 0, BLOCK_BYTES).await?;
        check(read.iter().all(|b| *b == 0), "nothing was written")?;
        self.op(Op::Close { file }).await.map(drop)
    }

    async fn errors(&mut self) -> Result<(), String> {
        let missing = self
            .fails(Op::Open {
                name: "no such file".into(),
            })
            .await?;
        check(
            missing.kind() == io::ErrorKind::NotFound,
            "not found is called so",
        )?;
        self.fails(Op::Remove {
            name: "no such file".into(),
        })
        .await?;
        let file = self.file("closed").await?;
        self.op(Op::Close { file }).await?;
        let buf = pattern(1, BLOCK_BYTES);
        self.fails(Op::Write {
            file,
            offset: 0,
            buf,
        })
        .await?;
        self.fails(Op::Read {
            file,
            offset: 0,
            bytes: BLOCK_BYTES,
        })
        .await
        .map(drop)
    }

    async fn close_early(&mut self) -> Result<(), String> {
        let file = self.file("early").await?;
        let mut tokens = Vec::new();
        for n in 0..4usize {
            let (offset, buf) = ((n * 16 * BLOCK_BYTES) as u64, pattern(n, 16 * BLOCK_BYTES));
            tokens.push(self.submit(Op::Write { file, offset, buf }));
        }
        tokens.push(self.submit(Op::Close { file }));
        for token in tokens {
            let done = self.wait(token).await?;
            check(
                done.is_ok(),
                "what was submitted before the close completes",
            )?;
        }
        let (file, _) = self.open("early").await?;
        for n in 0..4usize {
            let read = self
                .read(file, (n * 16 * BLOCK_BYTES) as u64, 16 * BLOCK_BYTES)
                .await?;
            check(read[..] == pattern(n, 16 * BLOCK_BYTES)[..], "and is there")?;
        }
        self.op(Op::Close { file }).await.map(drop)
    }

    async fn files(&mut self, folder: &str) -> Result<Vec<(String, u64)>, String> {
        let folder = folder.into();
        match self.op(Op::List { folder }).await? {
            Output::Files(files) => Ok(files.into_iter().map(|f| (f.name, f.bytes)).collect()),
            other => Err(format!("a listing brought {other:?}")),
        }
    }

    async fn create(&mut self, name: &str, room: u64) -> Result<FileId, String> {
        let name = name.into();
        match self.op(Op::Create { name, room }).await? {
            Output::Opened { file, .. } => Ok(file),
            other => Err(format!("create brought {other:?}")),
        }
    }

    async fn injected(&mut self, inject: &mut dyn FnMut(i32)) -> Result<(), String> {
        let file = self.file("injected").await?;
        for code in [libc::EIO, libc::ENOSPC] {
            inject(code);
            let buf = pattern(3, BLOCK_BYTES);
            let error = self
                .fails(Op::Write {
                    file,
                    offset: 0,
                    buf,
                })
                .await?;
            check(
                error.raw_os_error() == Some(code),
                "the error keeps its number",
            )?;
            let read = self.read(file, 0, BLOCK_BYTES).await?;
            check(read.iter().all(|b| *b == 0), "nothing of it happened")?;
            inject(code);
            let op = Op::Read {
                file,
                offset: 0,
                bytes: BLOCK_BYTES,
            };
            self.fails(op).await?;
        }
        self.op(Op::Close { file }).await.map(drop)
    }
}

/// The owner goes away with writes in flight: they end, wholly or not at all, before the next owner sees
/// the file.
async fn drop_of_owner(mut suite: Suite, dir: &Path, make: Make<'_>) -> Result<(), String> {
    let file = suite.file("dropped").await?;
    for n in 0..8usize {
        let (offset, buf) = ((n * BLOCK_BYTES) as u64, pattern(n + 1, BLOCK_BYTES));
        suite.submit(Op::Write { file, offset, buf });
    }
    drop(suite);
    let mut disk = fresh(dir, make);
    for _ in 0..200 {
        // The executor, where there is one, gets to finish what was orphaned.
        yield_once().await;
        if disk.lock().is_ok() {
            break;
        }
    }
    let mut suite = Suite {
        disk,
        next_token: 0,
        done: Vec::new(),
    };
    let mut opened = suite.open("dropped").await;
    for _ in 0..20 {
        if opened.is_ok() {
            break;
        }
        yield_once().await;
        opened = suite.open("dropped").await;
    }
    let (file, _) = opened?;
    let first = suite.read(file, 0, 8 * BLOCK_BYTES).await?;
    for n in 0..8usize {
        let block = &first[n * BLOCK_BYTES..(n + 1) * BLOCK_BYTES];
        let whole = block[..] == pattern(n + 1, BLOCK_BYTES)[..];
        check(
            whole || block.iter().all(|b| *b == 0),
            "a write is whole or absent",
        )?;
    }
    for _ in 0..50 {
        yield_once().await;
    }
    let again = suite.read(file, 0, 8 * BLOCK_BYTES).await?;
    check(
        again[..] == first[..],
        "nothing lands after the next owner has opened the file",
    )?;
    suite.op(Op::Close { file }).await.map(drop)
}

async fn yield_once() {
    let mut yielded = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
