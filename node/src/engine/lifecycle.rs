//! The end of an engine, and what runs beside its cores until then.
//!
//! Promises: stopping answers every caller and leaves the directory free; dropping the last handle does
//! the same and waits for it. Tested by `tests/engine`.

use std::sync::PoisonError;
use std::thread::ThreadId;
use std::time::Duration;

use henge_core::inbox::Input;

use super::{Cores, Engine, Inner};
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

    /// Takes no more requests, lets those that were taken end as they will, then stops as [`Engine::stop`]
    /// does. What is not answered after `deadline` is told *stopped*, as there; what comes meanwhile is
    /// refused as *stopped*, not done. Watchers are shown what is written until the end.
    ///
    /// Cancel safety: it begins at the first poll and goes on when the future is dropped; calling it
    /// again, or [`Engine::stop`], waits for the same end, and the shorter deadline counts.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { on_scratch(async |engine| {
    /// let under_way: Vec<_> = (0..100).map(|key| engine.put(format!("{key}"), "x")).collect();
    /// engine.stop_after_drain(std::time::Duration::from_secs(10)).await;
    /// for put in under_way {
    ///     put.await?; // none is unknown
    /// }
    /// # Ok(()) }) }
    /// ```
    pub async fn stop_after_drain(&self, deadline: Duration) {
        self.begin_drain(deadline);
        for core in self.inner.cores.iter() {
            let mut ended = core.ended.clone();
            // An error means that the thread is gone: ended too.
            let _ = ended.wait_for(|ended| *ended).await;
        }
        self.inner.ask_to_stop();
    }

    /// Has other members lead the groups that this one leads, before it stops: callers then need not wait
    /// until the others miss it. It takes a few milliseconds; [`Engine::metrics`] says when it is over.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { on_scratch(async |engine| {
    /// engine.hand_over();
    /// // Nobody else is there to lead: it goes on.
    /// engine.put("greeting", "hello").await?;
    /// # Ok(()) }) }
    /// ```
    pub fn hand_over(&self) {
        for core in self.inner.cores.iter() {
            core.inbox.push(Input::HandOver);
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

impl Engine {
    /// Asks for the end and does not wait for it.
    pub(super) fn begin_stop(&self) {
        self.inner.ask_to_stop();
    }

    /// Asks for the end after a drain and does not wait for it.
    pub(super) fn begin_drain(&self, deadline: Duration) {
        let within_ms = u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX);
        for core in self.inner.cores.iter() {
            core.inbox.drain(within_ms);
        }
    }

    /// From here on the calling thread is known to drive the engine.
    pub(crate) fn note_driver(&self) {
        // Once, by whoever opens it.
        let _ = self.inner.own_thread.set(std::thread::current().id());
    }

    /// The thread that drives the engine, if that is its caller's own.
    pub(super) fn driver_thread(&self) -> Option<ThreadId> {
        self.inner.own_thread.get().copied()
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
