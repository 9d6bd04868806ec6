//! A file system of its own that fills up and is freed again, under the log and under a server.
//!
//!     cargo run --release -p henge-tests --bin full -- [--binary PATH]
//!     cargo run --release -p henge-tests --bin full -- --check      # can this machine do it?
//!
//! An ext4 in a file, mounted by the kernel's loop device in a mount namespace of this process alone:
//! nothing else of the machine sees it, and it is gone with the process. It needs root, `mkfs.ext4`,
//! `mount` and `unshare`; where that is not allowed, the command says so, runs nothing and ends with 2.
//!
//! Promises: on a full file system nothing acknowledged is lost, writes are refused or wait (they do not
//! fail), reads go on, a restart works, and when there is room again all goes on by itself. Faults D9, D10.
//! Must never know: the server's inside.
#![allow(
    clippy::disallowed_methods,
    reason = "whole-system tests live in real time and wait for real processes"
)]

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use clap::Parser;

use henge_tests::full;
use henge_tests::process::{Program, Scratch};

/// What the machine would have to allow is not allowed: not a failure, and not a pass.
const NOT_RUN: u8 = 2;
/// Of the file system under the log alone, and of what others have written there at first.
const LOG_FS_BYTES: u64 = 64 << 20;
const LOG_BALLAST_BYTES: u64 = 32 << 20;
/// Of the file system under the server (segments of 64 MiB), and of what others have written there.
/// The ballast is larger than what goes in beside it: a full disk takes writes again once a checkpoint of
/// what is there has room (decision 20).
const SERVER_FS_BYTES: u64 = 1100 << 20;
const SERVER_BALLAST_BYTES: u64 = 620 << 20;

/// Of those that are filled with large values and emptied.
const EMPTIED_FS_MIB: [u64; 3] = [210, 300, 500];
/// Of those that are full in each state.
const STATES_FS_BYTES: u64 = 400 << 20;

/// Fills a file system of its own under the log and under a server.
#[derive(Parser, Debug)]
struct Options {
    /// The server; without it this workspace's, built if need be.
    #[arg(long)]
    binary: Option<PathBuf>,
    /// Only say whether this machine allows it: ends with 0 or 2.
    #[arg(long)]
    check: bool,
    /// Only those whose names hold this.
    #[arg(long, default_value = "")]
    only: String,
    /// Where the images are, in the mount namespace: given by this program to itself.
    #[arg(long, hide = true)]
    inside: Option<PathBuf>,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let outcome = match (&options.inside, options.check) {
        (Some(dir), _) => inside(dir, &options),
        (None, check) => outside(&options, check),
    };
    match outcome {
        Ok(code) => code,
        Err(why) => {
            eprintln!("error: {why}");
            ExitCode::FAILURE
        }
    }
}

/// Makes the images and runs this program again where they can be mounted.
fn outside(options: &Options, check: bool) -> Result<ExitCode, String> {
    let scratch = Scratch::new("full")?;
    if let Err(why) = mountable(scratch.path()) {
        println!("not run: {why}");
        return Ok(ExitCode::from(NOT_RUN));
    }
    if check {
        return Ok(ExitCode::SUCCESS);
    }
    let program = match &options.binary {
        Some(path) => path.clone(),
        None => Program::built()?.path().to_owned(),
    };
    let own = std::env::current_exe().map_err(|e| format!("cannot find my own path: {e}"))?;
    let status = in_namespace(&own)
        .arg("--inside")
        .arg(scratch.path())
        .arg("--only")
        .arg(&options.only)
        .arg("--binary")
        .arg(program)
        .status();
    let status = status.map_err(|e| format!("cannot run unshare: {e}"))?;
    Ok(match status.success() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

fn in_namespace(program: &Path) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "--"]);
    command.arg(program);
    command
}

/// Can a file be mounted here? The reason if not.
fn mountable(dir: &Path) -> Result<(), String> {
    let (image, at) = image(dir, "check", 8 << 20)?;
    run(in_namespace(Path::new("mount"))
        .args(["-o", "loop"])
        .arg(image)
        .arg(at))
}

/// A file that holds an empty ext4, and a directory to mount it at.
fn image(dir: &Path, name: &str, bytes: u64) -> Result<(PathBuf, PathBuf), String> {
    let (image, at) = (dir.join(format!("{name}.img")), dir.join(name));
    let file = File::create(&image).and_then(|file| file.set_len(bytes));
    file.map_err(|e| format!("cannot create {}: {e}", image.display()))?;
    fs::create_dir_all(&at).map_err(|e| format!("cannot create {}: {e}", at.display()))?;
    // Without blocks kept for root, full is full for everybody.
    run(Command::new("mkfs.ext4")
        .args(["-q", "-F", "-m", "0"])
        .arg(&image))?;
    Ok((image, at))
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command
        .output()
        .map_err(|e| format!("{:?}: {e}", command.get_program()))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!(
            "{command:?}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        )),
    }
}

/// In the mount namespace: the log on each disk, then the server in each state.
fn inside(dir: &Path, options: &Options) -> Result<ExitCode, String> {
    let binary = options.binary.clone().ok_or("--binary is missing")?;
    let program = Program::henge(binary);
    let mut tally = Tally {
        dir,
        only: &options.only,
        passed: 0,
        failed: 0,
    };
    for disk in full::log::DISKS {
        tally.run(disk, LOG_FS_BYTES, |mounted| {
            let mut ballast = mounted.ballast(LOG_BALLAST_BYTES)?;
            full::log::fills_and_is_freed(disk, &mounted.at, &mut ballast)
        })?;
    }
    tally.run("server", SERVER_FS_BYTES, |mounted| {
        let mut ballast = mounted.ballast(SERVER_BALLAST_BYTES)?;
        full::server::fills_and_is_freed(&program, &mounted.at, &mut ballast)
    })?;
    for mib in EMPTIED_FS_MIB {
        tally.run(&format!("emptied-{mib}"), mib << 20, |mounted| {
            full::states::emptied(&program, &mounted.at)
        })?;
    }
    tally.run("restarted", STATES_FS_BYTES, |mounted| {
        full::states::restarted(&program, &mounted.at)
    })?;
    for moment in full::states::Moment::ALL {
        for killed in [false, true] {
            let end = if killed { "-killed" } else { "" };
            tally.run(&format!("{moment:?}{end}"), STATES_FS_BYTES, |mounted| {
                full::states::at(&program, &mounted.at, moment, killed)
            })?;
        }
    }
    let (passed, failed) = (tally.passed, tally.failed);
    println!("{passed} passed, {failed} failed");
    Ok(match failed {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}

/// What was run, each on a file system of its own.
struct Tally<'a> {
    dir: &'a Path,
    only: &'a str,
    passed: usize,
    failed: usize,
}

impl Tally<'_> {
    fn run(
        &mut self,
        name: &str,
        bytes: u64,
        scenario: impl FnOnce(&Mounted) -> Result<String, String>,
    ) -> Result<(), String> {
        if !name.contains(self.only) {
            return Ok(());
        }
        let mounted = Mounted::new(self.dir, name, bytes)?;
        match scenario(&mounted) {
            Ok(line) => {
                println!("{name}: {line}");
                self.passed += 1;
            }
            Err(why) => {
                println!("{name}: FAILED: {why}");
                self.failed += 1;
            }
        }
        Ok(())
    }
}

/// A mounted file system; unmounted when dropped (or when the namespace ends).
struct Mounted {
    at: PathBuf,
}

impl Mounted {
    fn new(dir: &Path, name: &str, bytes: u64) -> Result<Self, String> {
        let (image, at) = image(dir, name, bytes)?;
        run(Command::new("mount")
            .args(["-o", "loop"])
            .arg(image)
            .arg(&at))?;
        Ok(Self { at })
    }

    /// What others have on it.
    fn ballast(&self, bytes: u64) -> Result<full::Ballast, String> {
        let path = self.at.join("ballast");
        let written = File::create(&path).and_then(|mut file| {
            let chunk = vec![0x5a; 1 << 20];
            for _ in 0..bytes >> 20 {
                file.write_all(&chunk)?;
            }
            file.sync_all()
        });
        written.map_err(|e| format!("cannot write {}: {e}", path.display()))?;
        Ok(full::Ballast::new(path))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // What is still busy goes with the namespace.
        let _ = Command::new("umount").arg(&self.at).output();
    }
}
