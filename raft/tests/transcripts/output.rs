//! What a transcript's commands print, and the log lines the nodes print in between.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};

use henge_raft::{Level, Logger};

/// The names of the levels, from talkative to silent. At the last one nothing is printed but errors.
const LEVELS: [&str; 6] = ["DEBUG", "INFO", "WARN", "ERROR", "FATAL", "NONE"];

/// Shared by the environment and all its nodes.
#[derive(Clone, Default)]
pub struct Output(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    text: String,
    level: usize,
}

impl Output {
    /// Prints, unless silenced.
    pub fn print(&self, text: &str) {
        let mut state = self.state();
        if state.level + 1 < LEVELS.len() {
            state.text += text;
        }
    }

    pub fn is_quiet(&self) -> bool {
        self.state().level + 1 == LEVELS.len()
    }

    /// All that was printed since the last time.
    pub fn take(&self) -> String {
        std::mem::take(&mut self.state().text)
    }

    pub fn level(&self) -> usize {
        self.state().level
    }

    pub fn set_level(&self, level: usize) {
        self.state().level = level;
    }

    pub fn set_level_named(&self, name: &str) -> Result<(), String> {
        let level = LEVELS
            .iter()
            .position(|level| level.eq_ignore_ascii_case(name));
        let unknown = || format!("log levels must be either of [{}]", LEVELS.join(" "));
        self.set_level(level.ok_or_else(unknown)?);
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }
}

/// Runs `work` and indents what it prints.
pub fn indented<T>(output: &Output, work: impl FnOnce() -> T) -> T {
    let before = output.take();
    let result = work();
    let inside = output.take();
    let mut state = output.state();
    state.text = before;
    for line in inside.lines() {
        state.text += &format!("  {line}\n");
    }
    result
}

impl Logger for Output {
    fn enabled(&self, level: Level) -> bool {
        self.level() <= level as usize
    }

    fn log(&self, level: Level, line: fmt::Arguments<'_>) {
        self.print(&format!("{} {line}\n", LEVELS[level as usize]));
    }
}
