//! The end of an engine, and what runs beside its cores until then.
//!
//! Promises: stopping answers every caller and leaves the directory free; dropping the last handle does
//! the same and waits for it. Tested by `tests/engine`.

use std::sync::PoisonError;

use super::{Cores, Engine, Inner};
use crate::core::inbox::Input;
use crate::host::LocalTask;

impl Engine {
    /// Runs a task beside a core: on its thread where the host has a runtime there.
    ///
    /// False if that core has ended, if there is none of that number, if 1,024 others wait there to be
    /// started, or if the engine is a local one.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { with_scratch(|engine| {
    /// let (say, heard) = std::sync::mpsc::channel();
    /// let task = move || Box::pin(async move { drop(say.send("from beside the core")) }) as _;
    /// assert!(engine.spawn_beside(0, Box::new(task)));
    /// assert_eq!(heard.recv()?, "from beside the core");
    /// # Ok(()) }) }
    /// ```
    pub fn spawn_beside(&self, core: usize, task: LocalTask) -> bool {
        self.inner
            .cores
            .get(core)
            .is_some_and(|core| core.tasks.try_send(task).is_ok())
    }

    /// Answers every waiting caller with *stopped*, makes durable what was accepted, ends the cores.
    ///
    /// Cancel safety: it begins at the first poll and goes on when the future is dropped; calling it
    /// again waits for the same end.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { on_scratch(async |engine| {
    /// engine.put("greeting", "hello").await?;
    /// engine.stop().await;
    /// assert!(engine.put("greeting", "too late").await.is_err());
    /// # Ok(()) }) }
    /// ```
    pub async fn stop(&self) {
        self.inner.ask_to_stop();
        for core in self.inner.cores.iter() {
            let mut ended = core.ended.clone();
            // An error means that the thread is gone: ended too.
            let _ = ended.wait_for(|ended| *ended).await;
        }
    }

    /// Whether a core has ended, by [`Engine::stop`] or by a panic.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { on_scratch(async |engine| {
    /// assert!(!engine.has_ended());
    /// engine.stop().await;
    /// assert!(engine.has_ended());
    /// # Ok(()) }) }
    /// ```
    pub fn has_ended(&self) -> bool {
        self.inner
            .cores
            .iter()
            .any(|core| core.ended.has_changed().is_err())
    }
}

impl Inner {
    fn ask_to_stop(&self) {
        self.cores.ask_to_stop();
        if let Some(peers) = &self.peers {
            peers.shutdown();
        }
    }
}

/// The last handle stops the engine and waits for its threads (see [`Cores`]), so that a program that drops
/// it and opens the directory again finds it free.
impl Drop for Inner {
    fn drop(&mut self) {
        self.ask_to_stop();
    }
}

impl Cores {
    fn ask_to_stop(&self) {
        for core in self.iter() {
            core.inbox.push(Input::Stop);
        }
    }
}

/// Also when only some of an engine's cores could be started.
impl Drop for Cores {
    fn drop(&mut self) {
        self.ask_to_stop();
        for core in self.iter() {
            let thread = core
                .thread
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take();
            if let Some(thread) = thread
                && thread.thread().id() != std::thread::current().id()
            {
                let _ = thread.join();
            }
        }
    }
}
