//! What `--bin full` does to a log and to a server on a file system that fills up and is freed again.
//!
//! Promises: a text that says what was seen, or what was not as it must be. Must never know: how the file
//! system was made.

pub mod log;
pub mod server;
pub mod states;

use std::path::PathBuf;

/// A file of others that takes the room, until it is removed.
#[derive(Debug)]
pub struct Ballast(PathBuf);

impl Ballast {
    /// This file.
    pub fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// Makes room.
    pub fn drop_it(&mut self) -> Result<(), String> {
        std::fs::remove_file(&self.0).map_err(|e| format!("cannot remove the ballast: {e}"))
    }
}
