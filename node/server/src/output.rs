//! What the tools print: results on stdout, everything else on stderr.
//!
//! Promises: output that cannot be written never ends a tool with a panic. A reader that went away
//! (`henge wal dump DIR | head`) has all it wanted: the rest is dropped without a word, and the exit code
//! stays the verdict. Output that is lost for another reason (a full disk) is said, and the tool fails.
//! Of the process, since stdout is.
//! Must never know: what is printed.

use std::fmt;
use std::io::{self, Write as _};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

/// The first failure to write to stdout; nothing more is written after it.
static FAILED: Mutex<Option<io::Error>> = Mutex::new(None);

/// As `println!`.
macro_rules! out {
    ($($arg:tt)*) => { $crate::output::line(format_args!($($arg)*)) };
}

/// As `eprintln!`.
macro_rules! tell {
    ($($arg:tt)*) => { $crate::output::say(format_args!($($arg)*)) };
}

pub(super) use {out, tell};

/// Prints a line.
pub(super) fn line(text: fmt::Arguments<'_>) {
    write(|out| writeln!(out, "{text}"));
}

/// Prints text as it is. Returns whether anybody still reads.
pub(super) fn text(text: &str) -> bool {
    write(|out| out.write_all(text.as_bytes()))
}

/// Writes to stdout through `write`, unless that failed before.
fn write(write: impl FnOnce(&mut io::StdoutLock<'_>) -> io::Result<()>) -> bool {
    let mut failed = FAILED.lock().unwrap_or_else(PoisonError::into_inner);
    if failed.is_none() {
        *failed = write(&mut io::stdout().lock()).err();
    }
    failed.is_none()
}

/// Says a line on stderr. If nobody can hear it, there is nobody to tell that either.
pub(super) fn say(text: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// The exit code of a tool that would end with `code`: a failure if its output was lost.
pub(super) fn end(code: ExitCode) -> ExitCode {
    write(|out| out.flush());
    let failed = FAILED.lock().unwrap_or_else(PoisonError::into_inner).take();
    match failed {
        Some(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            tell!("henge: the output could not be written: {error}");
            ExitCode::FAILURE
        }
        _ => code,
    }
}
