//! SIGINT and SIGTERM: the first asks the run to end with what it has, the second ends the process.
//!
//! Promises: heard from the moment it is installed to the end of the process, on a thread of its own, so
//! that nothing that hangs keeps a second Ctrl-C from working. Must never know: what is measured.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::output::tell;

/// A signal that asks to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGINT: Ctrl-C.
    Interrupt,
    /// SIGTERM.
    Terminate,
}

impl Signal {
    /// As the shell has it: 128 and the signal's number.
    pub fn exit_code(self) -> u8 {
        match self {
            Signal::Interrupt => 130,
            Signal::Terminate => 143,
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Signal::Interrupt => "SIGINT",
            Signal::Terminate => "SIGTERM",
        }
    }
}

/// Hears signals for whoever asks.
#[derive(Clone)]
pub struct Signals {
    caught: watch::Receiver<Option<Signal>>,
    scratch: Arc<Mutex<Option<PathBuf>>>,
}

impl Signals {
    /// Begins to listen.
    pub fn install() -> Result<Self, String> {
        let cannot = |error: std::io::Error| format!("cannot listen for signals: {error}");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .map_err(cannot)?;
        let (mut interrupt, mut terminate) = {
            let _inside = runtime.enter();
            let interrupt = signal(SignalKind::interrupt()).map_err(cannot)?;
            (interrupt, signal(SignalKind::terminate()).map_err(cannot)?)
        };
        let (tell, caught) = watch::channel(None);
        let scratch = Arc::<Mutex<Option<PathBuf>>>::default();
        let to_remove = scratch.clone();
        let listen = async move {
            loop {
                let signal = tokio::select! {
                    _ = interrupt.recv() => Signal::Interrupt,
                    _ = terminate.recv() => Signal::Terminate,
                };
                if tell.borrow().is_some() {
                    at_once(signal, &to_remove);
                }
                tell.send_replace(Some(signal));
            }
        };
        std::thread::Builder::new()
            .name("bench-signals".to_owned())
            .spawn(move || runtime.block_on(listen))
            .map_err(cannot)?;
        Ok(Signals { caught, scratch })
    }

    /// The directory to remove if everything has to end at once.
    pub fn remove_at_once(&self, dir: Option<PathBuf>) {
        *self.scratch.lock().unwrap_or_else(PoisonError::into_inner) = dir;
    }

    /// Whether one came.
    pub fn look(&self) -> Option<Signal> {
        *self.caught.borrow()
    }

    /// Waits for the first.
    pub async fn caught(&self) -> Signal {
        let mut receiver = self.caught.clone();
        match receiver
            .wait_for(Option::is_some)
            .await
            .map(|caught| *caught)
        {
            Ok(Some(caught)) => caught,
            // The listener lives as long as the process.
            _ => std::future::pending().await,
        }
    }
}

/// A second signal: nobody is waited for. The cores may still write, so what they make meanwhile can stay.
fn at_once(signal: Signal, scratch: &Mutex<Option<PathBuf>>) -> ! {
    if let Some(dir) = &*scratch.lock().unwrap_or_else(PoisonError::into_inner) {
        let _ = std::fs::remove_dir_all(dir);
    }
    tell!("henge bench: {} again: ended at once", signal.name());
    std::process::exit(i32::from(signal.exit_code()));
}
