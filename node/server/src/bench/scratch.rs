//! The data directory of the embedded engine: the caller's, or one of our own that goes away.
//!
//! Promises: nothing goes away that was there before. Must never know: what is in it.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::args::BenchArgs;
use super::signals::Signals;

/// Names that are tried for one of our own.
const NAMES_MAX: u32 = 1_000;

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
    ///
    /// # Errors
    /// No directory can be made.
    pub fn new(args: &BenchArgs, signals: &Signals) -> Result<Self, String> {
        let (dir, temporary) = match &args.data_dir {
            Some(dir) => (dir.clone(), false),
            // On the current directory's file system: a temporary directory is often in memory, where
            // durability costs nothing and means nothing.
            None => (fresh(Path::new("."), std::process::id())?, true),
        };
        signals.remove_at_once(temporary.then(|| dir.clone()));
        Ok(Scratch {
            dir,
            temporary,
            signals: signals.clone(),
        })
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

/// Makes a directory that was not there. In two containers there may be the same process number, and one
/// working directory.
fn fresh(parent: &Path, process: u32) -> Result<PathBuf, String> {
    let mut names = (0..NAMES_MAX).map(|n| match n {
        0 => format!("bench-{process}.henge"),
        n => format!("bench-{process}-{n}.henge"),
    });
    loop {
        let Some(name) = names.next() else {
            return Err("every name for a temporary directory is taken here".to_owned());
        };
        let dir = parent.join(name);
        match std::fs::create_dir(&dir) {
            Ok(()) => return Ok(dir),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(format!("cannot make {}: {error}", dir.display())),
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory of that name was used, and removed at the end, whoever had made it.
    #[test]
    fn regression_a_directory_that_was_there_is_not_taken() {
        let parent = std::env::temp_dir().join(format!("henge-scratch-{}", std::process::id()));
        std::fs::create_dir_all(&parent).expect("writable");
        let first = fresh(&parent, 1).expect("a directory");
        let second = fresh(&parent, 1).expect("another");
        assert_eq!(first, parent.join("bench-1.henge"));
        assert_eq!(second, parent.join("bench-1-1.henge"));
        assert!(first.is_dir() && second.is_dir());
        assert!(fresh(&parent.join("nowhere"), 1).is_err());
        let _ = std::fs::remove_dir_all(&parent);
    }
}
