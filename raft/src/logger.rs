//! Where log lines go: a small trait for the host, and a handle that costs nothing when it is unset.
//!
//! Promises: a line is only formatted when somebody wants its level.
//! Must never know: what becomes of a line. Nothing in this crate reads the log.
//! Tests: the transcripts compare every line.

use std::fmt;
use std::sync::Arc;

/// How much a line matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Every rejected append.
    Debug,
    /// Elections, configurations, snapshots.
    Info,
    /// Something is odd; the group goes on.
    Warning,
    /// Something is wrong; the group goes on.
    Error,
}

/// Takes log lines. The wording is that of etcd's raft library, so that its readers feel at home.
pub trait Logger: Send + Sync {
    /// Whether lines of this level are wanted. Asked before a line is put together.
    fn enabled(&self, level: Level) -> bool;
    /// One line, without a newline.
    fn log(&self, level: Level, line: fmt::Arguments<'_>);
}

/// A logger or none; what the rest of the crate holds.
#[derive(Clone, Default)]
pub(crate) struct Log(pub(crate) Option<Arc<dyn Logger>>);

impl Log {
    /// The logger, if it wants this level.
    pub(crate) fn at(&self, level: Level) -> Option<&dyn Logger> {
        self.0.as_deref().filter(|logger| logger.enabled(level))
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() {
            "Log(on)"
        } else {
            "Log(off)"
        })
    }
}

macro_rules! line {
    ($log:expr, $level:ident, $($arg:tt)*) => {
        if let Some(logger) = $log.at($crate::logger::Level::$level) {
            logger.log($crate::logger::Level::$level, format_args!($($arg)*));
        }
    };
}
macro_rules! debug { ($log:expr, $($arg:tt)*) => { $crate::logger::line!($log, Debug, $($arg)*) } }
macro_rules! info { ($log:expr, $($arg:tt)*) => { $crate::logger::line!($log, Info, $($arg)*) } }
macro_rules! warning { ($log:expr, $($arg:tt)*) => { $crate::logger::line!($log, Warning, $($arg)*) } }
macro_rules! error { ($log:expr, $($arg:tt)*) => { $crate::logger::line!($log, Error, $($arg)*) } }
pub(crate) use {debug, error, info, line, warning};
