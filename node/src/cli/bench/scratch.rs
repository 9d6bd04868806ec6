//! The data directory of the embedded engine: the caller's, or one of our own that goes away.

use std::path::{Path, PathBuf};

use super::args::BenchArgs;
use super::signals::Signals;

/// A directory; one of our own is removed when this is dropped, or at a second signal.
pub struct Scratch {
    /// Where.
    pub dir: PathBuf,
    /// Whether it is our own.
    pub temporary: bool,
    signals: Signals,
}

impl Scratch {
    /// For a run.
    pub fn new(args: &BenchArgs, signals: &Signals) -> Self {
        let temporary = args.data_dir.is_none();
        // On the current directory's file system: a temporary directory is often in memory, where
        // durability costs nothing and means nothing.
        let ours = || Path::new(".").join(format!("bench-{}.henge", std::process::id()));
        let dir = args.data_dir.clone().unwrap_or_else(ours);
        signals.remove_at_once(temporary.then(|| dir.clone()));
        Scratch {
            dir,
            temporary,
            signals: signals.clone(),
        }
    }

    /// Removes it if it is ours, and says what became of it.
    pub fn leave(self) -> String {
        let dir = self.dir.display().to_string();
        if !self.temporary {
            return format!("the data stays in {dir}");
        }
        let path = self.dir.clone();
        drop(self);
        match path.try_exists() {
            Ok(false) => format!("the temporary directory {dir} is removed"),
            _ => format!("the temporary directory {dir} could not be removed"),
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if self.temporary {
            let _ = std::fs::remove_dir_all(&self.dir);
        }
        self.signals.remove_at_once(None);
    }
}
