//! A simulated disk that begins with what a directory holds and leaves its files there: so that a test
//! that stops an engine, looks at its files, damages them and opens it again need not know which disk it
//! runs on. While it is open, the directory has its files' names.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::task::{Context, Poll};

use henge::wal::disk::sim::{SimDisk, SimHandle};
use henge::wal::disk::{
    Completion, Disk, DiskInfo, FileId, FileInfo, LockError, Op, Output, ReadAt, Token,
};

/// Steps that an operation takes at most; a step is a look at the disk.
const LATENCY_STEPS_MAX: u64 = 5;

pub struct SimulatedDisk {
    machine: SimHandle,
    inner: SimDisk,
    dir: PathBuf,
    is_loaded: bool,
    /// Names in the directory, and beside it.
    shown: Vec<String>,
    /// What was found beside it: others may have it, too, and remove it.
    shared: BTreeMap<String, Vec<u8>>,
}

/// A folder beside the directory that several disks may have files in.
const BESIDE: &str = "../checkpoints";

impl SimulatedDisk {
    pub fn new(seed: u64) -> Self {
        let machine = SimHandle::new(seed, LATENCY_STEPS_MAX);
        SimulatedDisk {
            inner: machine.disk(),
            machine,
            dir: PathBuf::new(),
            is_loaded: false,
            shown: Vec::new(),
            shared: BTreeMap::new(),
        }
    }

    fn load(&mut self) -> io::Result<()> {
        if std::mem::replace(&mut self.is_loaded, true) || !self.dir.exists() {
            return Ok(());
        }
        for (name, path) in files(&self.dir, "")? {
            self.machine.set_file(&name, Some(std::fs::read(path)?));
            self.shown.push(name);
        }
        let beside = self.dir.join(BESIDE);
        if beside.exists() {
            for (name, path) in files(&beside, &format!("{BESIDE}/"))? {
                let bytes = std::fs::read(path)?;
                self.machine.set_file(&name, Some(bytes.clone()));
                self.shared.insert(name.clone(), bytes);
                self.shown.push(name);
            }
        }
        self.shown.sort();
        Ok(())
    }

    /// New names appear in the directory, without their contents, and old ones go.
    fn show(&mut self) -> io::Result<()> {
        let names = self.machine.names();
        if !self.is_loaded || names == self.shown {
            return Ok(());
        }
        std::fs::create_dir_all(&self.dir)?;
        for gone in self.shown.iter().filter(|name| !names.contains(name)) {
            match std::fs::remove_file(self.dir.join(gone)) {
                Err(_) if self.shared.contains_key(gone) => {}
                removed => removed?,
            }
        }
        for new in names.iter().filter(|name| !self.shown.contains(name)) {
            let path = self.dir.join(new);
            path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
            std::fs::write(path, "")?;
        }
        self.shown = names;
        Ok(())
    }

    fn save(&mut self) -> io::Result<()> {
        self.show()?;
        for name in &self.shown {
            let bytes = self.machine.file(name).unwrap_or_default();
            if self.shared.get(name) == Some(&bytes) {
                continue;
            }
            std::fs::write(self.dir.join(name), bytes)?;
        }
        Ok(())
    }
}

/// The files in a directory and in its folders, by the names that the log has for them.
fn files(dir: &Path, folder: &str) -> io::Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let name = format!("{folder}{}", entry.file_name().to_string_lossy());
        if entry.file_type()?.is_dir() {
            found.append(&mut files(&entry.path(), &format!("{name}/"))?);
        } else {
            found.push((name, entry.path()));
        }
    }
    Ok(found)
}

impl Drop for SimulatedDisk {
    fn drop(&mut self) {
        // As a process that ends: what is in flight arrives.
        drop(std::mem::replace(&mut self.inner, self.machine.disk()));
        // Dropped without having been the log's: the directory is as it was.
        if self.is_loaded {
            self.save().expect("the test's directory can be written");
        }
    }
}

impl Disk for SimulatedDisk {
    fn info(&self) -> DiskInfo {
        self.inner.info()
    }
    fn attach(&mut self, dir: &Path) {
        self.dir = dir.to_path_buf();
        self.inner.attach(dir);
    }
    fn path(&self) -> &Path {
        &self.dir
    }
    fn list(&mut self) -> io::Result<Option<Vec<FileInfo>>> {
        self.load()?;
        self.inner.list()
    }
    fn make(&mut self) -> io::Result<()> {
        self.load()?;
        self.inner.make()?;
        std::fs::create_dir_all(&self.dir)
    }
    fn lock(&mut self) -> Result<(), LockError> {
        self.load().map_err(LockError::Io)?;
        self.inner.lock()
    }
    fn entropy(&mut self) -> io::Result<[u8; 32]> {
        self.inner.entropy()
    }
    fn run(&mut self, op: Op) -> io::Result<Output> {
        // Checkpoints are read before the directory is taken.
        if self.dir.exists() {
            self.load()?;
        }
        let output = self.inner.run(op)?;
        self.show().map(|()| output)
    }
    fn reader(&self, file: FileId) -> Option<Arc<dyn ReadAt>> {
        self.inner.reader(file)
    }
    fn submit(&mut self, token: Token, op: Op) {
        self.inner.submit(token, op);
    }
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Completion> {
        let polled = self.inner.poll(cx);
        if polled.is_ready() {
            self.show().expect("the test's directory can be written");
        }
        polled
    }
}
