//! What every disk must do beside segments: folders and their names, files that are written loosely and
//! synced, room that is taken first.

use super::{Op, Output, Suite, check, pattern};
use crate::BLOCK_BYTES;

impl Suite {
    pub(super) async fn folders(&mut self) -> Result<(), String> {
        check(
            self.files("folder").await?.is_empty(),
            "no folder, no files",
        )?;
        for _ in 0..2 {
            let folder = "folder".into();
            self.op(Op::MakeFolder { folder }).await?;
        }
        for name in ["folder/b", "folder/a"] {
            let file = self.create(name, 0).await?;
            self.op(Op::Sync { file, bytes: 5 }).await?;
            self.op(Op::Close { file }).await?;
        }
        let both = [("a".to_owned(), 5), ("b".to_owned(), 5)];
        check(
            self.files("folder").await? == both,
            "sorted, with their sizes",
        )?;
        let (from, to) = ("folder/a".into(), "folder/b".into());
        self.op(Op::Rename { from, to }).await?;
        let folder = "folder".into();
        self.op(Op::SyncFolder { folder }).await?;
        check(
            self.files("folder").await? == both[1..],
            "a rename replaces",
        )?;
        let name = "folder/b".to_owned();
        self.op(Op::Remove { name: name.clone() }).await?;
        self.fails(Op::Remove { name }).await?;
        check(self.files("folder").await?.is_empty(), "it is gone")
    }

    /// The same without a way through the directory itself, and by the blocking way.
    pub(super) fn beside(&mut self) -> Result<(), String> {
        let folder = || "../beside".to_owned();
        let name = || "../beside/a".to_owned();
        let mut run = |op| self.disk.run(op).map_err(|e| e.to_string());
        run(Op::MakeFolder { folder: folder() })?;
        let Output::Opened { file, .. } = run(Op::Create {
            name: name(),
            room: BLOCK_BYTES as u64,
        })?
        else {
            return Err("create brought no file".into());
        };
        run(Op::Sync { file, bytes: 7 })?;
        run(Op::Close { file })?;
        run(Op::SyncFolder { folder: folder() })?;
        let Output::Files(files) = run(Op::List { folder: folder() })? else {
            return Err("a listing brought no files".into());
        };
        let found: Vec<_> = files.iter().map(|f| (&f.name[..], f.bytes)).collect();
        check(found == [("a", 7)], "it is there")?;
        run(Op::Remove { name: name() })?;
        let listed = self.disk.list().map_err(|e| e.to_string())?;
        let names = listed.unwrap_or_default().into_iter().map(|f| f.name);
        let strange = names.filter(|name| name.contains("beside")).count();
        check(strange == 0, "and not in the directory")
    }

    pub(super) async fn loose(&mut self) -> Result<(), String> {
        let blocks = BLOCK_BYTES as u64;
        let file = self.create("folder/loose", 2 * blocks).await?;
        // Within the room, and behind it.
        for n in [0usize, 2, 1, 3] {
            let (offset, buf) = (n as u64 * blocks, pattern(n, BLOCK_BYTES));
            self.op(Op::Write { file, offset, buf }).await?;
        }
        let bytes = 3 * blocks + 100;
        self.op(Op::Sync { file, bytes }).await?;
        self.op(Op::Close { file }).await?;
        let buf = pattern(9, BLOCK_BYTES);
        self.fails(Op::Write {
            file,
            offset: 0,
            buf,
        })
        .await?;
        self.fails(Op::Sync { file, bytes }).await?;
        // Opened again without room, it is as it was.
        let file = self.create("folder/loose", 0).await?;
        self.op(Op::Close { file }).await?;
        let (file, found) = self.open("folder/loose").await?;
        check(found == bytes, "the length it was given")?;
        let read = self.read(file, 0, 8 * BLOCK_BYTES).await?;
        check(read.len() as u64 == bytes, "and not a byte more")?;
        for n in 0..4usize {
            let there = &read[n * BLOCK_BYTES..read.len().min((n + 1) * BLOCK_BYTES)];
            check(
                there[..] == pattern(n, BLOCK_BYTES)[..there.len()],
                "its bytes",
            )?;
        }
        self.op(Op::Close { file }).await?;
        // And with room, it is emptied.
        let file = self.create("folder/loose", blocks).await?;
        self.op(Op::Sync { file, bytes: 0 }).await?;
        self.op(Op::Close { file }).await?;
        check(
            self.files("folder").await? == [("loose".to_owned(), 0)],
            "nothing is left in it",
        )
    }

    pub(super) async fn no_room(&mut self) -> Result<(), String> {
        let (name, room) = ("folder/large".to_owned(), 1 << 60);
        let error = self.fails(Op::Create { name, room }).await?;
        let full = matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EFBIG));
        check(full, "the system says that there is none")?;
        check(
            self.files("folder").await? == [("loose".to_owned(), 0)],
            "and nothing is left of it",
        )
    }
}
