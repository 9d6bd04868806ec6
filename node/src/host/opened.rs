//! How a host says that its core runs, or why not, and when it has ended.
//!
//! Must never know: what a core is opened from, what drives it.

use std::io;
use std::sync::mpsc;

use henge_core::open::OpenCoreError;
use tokio::sync::watch;

use super::HostKind;

/// Why a host does not run its core.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The core could not be opened.
    #[error(transparent)]
    Core(#[from] OpenCoreError),
    /// A thread could not be started.
    #[error("cannot start a thread: {0}; check the process and thread limits")]
    Thread(io::Error),
    /// The host cannot run on this machine, or not on this thread.
    #[error("host {host}: {why}")]
    Refused {
        /// Which.
        host: HostKind,
        /// Why.
        why: String,
    },
    /// Its thread ended while it opened the core.
    #[error("the host thread ended while it opened its core; its panic message is on stderr")]
    Died,
}

/// Resolves, with an error, once the host has ended: by itself, when it was asked to, or by a panic.
pub type Ended = watch::Receiver<bool>;

/// Lives as long as the core is driven.
#[derive(Debug)]
pub struct Ending(
    #[expect(dead_code, reason = "dropped, it says that the host has ended")] watch::Sender<bool>,
);

impl Ending {
    /// And who waits for it.
    pub fn new() -> (Ending, Ended) {
        let (ending, ended) = watch::channel(false);
        (Ending(ending), ended)
    }
}

/// What a host's thread answers to whoever started it. Kept until the core has ended.
#[derive(Debug)]
pub struct Opened {
    told: mpsc::Sender<Result<(), HostError>>,
    #[expect(dead_code, reason = "dropped with the rest")]
    ending: Ending,
}

impl Opened {
    /// The answer, whoever waits for it, and whoever waits for the end.
    pub fn new() -> (Opened, mpsc::Receiver<Result<(), HostError>>, Ended) {
        let (told, answer) = mpsc::channel();
        let (ending, ended) = Ending::new();
        (Opened { told, ending }, answer, ended)
    }

    /// The core runs; false if nobody wants it any more.
    pub fn runs(&self) -> bool {
        self.told.send(Ok(())).is_ok()
    }

    /// It does not.
    pub fn failed(&self, error: HostError) {
        // Nobody waits any more: there is nobody to tell.
        let _ = self.told.send(Err(error));
    }
}
