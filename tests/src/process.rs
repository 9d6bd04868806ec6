//! Server processes: start, kill, signal, log; gone when dropped.
//!
//! Promises: free ports, kept over restarts; a process never outlives its handle; what the server
//! wrote to its log can be read at any time.
//! Must never know: what the server does. Tested by `tests/serve.rs` and the crash test.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// The line etcd and Henge log once they take requests.
pub const READY: &str = "ready to serve client requests";
/// Lines of a server's log that are kept.
const LOG_LINES_MAX: usize = 2_000;
/// How often a waiting loop looks.
const POLL: Duration = Duration::from_millis(5);

/// An executable and what comes before its flags.
#[derive(Clone, Debug)]
pub struct Program {
    path: PathBuf,
    subcommand: Option<&'static str>,
}

impl Program {
    /// A Henge at `path`.
    pub fn henge(path: PathBuf) -> Self {
        Self {
            path,
            subcommand: Some("serve"),
        }
    }

    /// A server that takes etcd's flags without a subcommand: etcd itself.
    pub fn plain(path: PathBuf) -> Self {
        Self {
            path,
            subcommand: None,
        }
    }

    /// Whether it is a Henge, as far as its caller said.
    pub fn is_henge(&self) -> bool {
        self.subcommand.is_some()
    }

    /// The `henge` of this workspace and build profile, brought up to date by cargo: a package's
    /// tests do not build another package's binary.
    pub fn built() -> Result<Self, String> {
        let own = std::env::current_exe().map_err(|e| format!("cannot find my own path: {e}"))?;
        // target/PROFILE/crash, or target/PROFILE/deps/serve-HASH
        let profile = own
            .ancestors()
            .skip(1)
            .find(|dir| !dir.ends_with("deps"))
            .ok_or_else(|| format!("{} is in no build directory", own.display()))?;
        let target = profile.parent().unwrap_or(profile);
        // The whole workspace's features, as `cargo test --workspace` has them: else the server's
        // dependencies would be built a second time.
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut build = Command::new(cargo);
        build
            .args([
                "build",
                "--quiet",
                "--workspace",
                "--bin",
                "henge",
                "--target-dir",
            ])
            .arg(target)
            .current_dir(env!("CARGO_MANIFEST_DIR"));
        if profile.ends_with("release") {
            build.arg("--release");
        }
        let status = build
            .status()
            .map_err(|e| format!("cannot run cargo to build henge: {e}"))?;
        if !status.success() {
            return Err(format!("building henge failed: {status}"));
        }
        Ok(Self::henge(profile.join("henge")))
    }

    /// The executable.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The command with its subcommand and `flags`, its output piped.
    pub fn command<I, S>(&self, flags: I) -> Command
    where
        I: IntoIterator<Item = S>,
        S: Into<OsString>,
    {
        let mut command = Command::new(&self.path);
        command
            .args(self.subcommand)
            .args(flags.into_iter().map(Into::into));
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }
}

/// A directory of its own, removed when dropped unless kept.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    keep: bool,
}

impl Scratch {
    /// A new directory in cargo's target directory: on a real disk, where the system's temporary
    /// directory may be memory, which takes no direct I/O and holds few servers.
    pub fn new(name: &str) -> Result<Self, String> {
        let base = std::env::current_exe()
            .ok()
            // Cargo marks its target directory with this file.
            .and_then(|own| {
                own.ancestors()
                    .find(|dir| dir.join("CACHEDIR.TAG").exists())
                    .map(PathBuf::from)
            })
            .map_or_else(std::env::temp_dir, |target| target.join("tmp"));
        // The port is only a number that no other running test has at this moment.
        let path = base.join(format!(
            "henge-{name}-{}-{}",
            std::process::id(),
            free_port()?
        ));
        std::fs::create_dir_all(&path)
            .map_err(|e| format!("cannot create {}: {e}", path.display()))?;
        Ok(Self { path, keep: false })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves it behind, for someone to look at.
    pub fn keep(&mut self) {
        self.keep = true;
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !self.keep {
            // What cannot be removed stays in the temporary directory, which is where it may stay.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

/// A port nobody listens on now.
pub fn free_port() -> Result<u16, String> {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(|e| format!("no free port on 127.0.0.1: {e}"))
}

/// One member of a cluster of one or more: its place on disk and its ports.
#[derive(Clone, Debug)]
pub struct Member {
    /// Name, as in `--name`.
    pub name: String,
    /// Data directory.
    pub data: PathBuf,
    /// Port for clients.
    pub client_port: u16,
    /// Port for the other members.
    pub peer_port: u16,
}

impl Member {
    /// `count` members with data under `dir`.
    pub fn cluster(dir: &Path, count: usize) -> Result<Vec<Self>, String> {
        (0..count)
            .map(|i| {
                let name = format!("n{i}");
                let data = dir.join(&name);
                Ok(Self {
                    name,
                    data,
                    client_port: free_port()?,
                    peer_port: free_port()?,
                })
            })
            .collect()
    }

    /// etcd's flags for this member of `all`.
    pub fn flags(&self, all: &[Self]) -> Vec<OsString> {
        let peer = |member: &Self| format!("http://127.0.0.1:{}", member.peer_port);
        let client = format!("http://127.0.0.1:{}", self.client_port);
        let cluster: Vec<String> = all
            .iter()
            .map(|member| format!("{}={}", member.name, peer(member)))
            .collect();
        let mut flags: Vec<OsString> = vec!["--data-dir".into(), self.data.clone().into()];
        for (flag, value) in [
            ("--name", self.name.clone()),
            ("--listen-client-urls", client.clone()),
            ("--advertise-client-urls", client),
            ("--listen-peer-urls", peer(self)),
            ("--initial-advertise-peer-urls", peer(self)),
            ("--initial-cluster", cluster.join(",")),
            ("--initial-cluster-token", "henge-tests".to_owned()),
        ] {
            flags.extend([flag.into(), value.into()]);
        }
        flags
    }
}

/// A running server. Dropping it kills it.
#[derive(Debug)]
pub struct Server {
    child: Child,
    log: Arc<Mutex<VecDeque<String>>>,
    readers: Vec<JoinHandle<()>>,
}

impl Server {
    /// Starts `program` with `flags`; it may not be ready yet.
    pub fn spawn<I, S>(program: &Program, flags: I) -> Result<Self, String>
    where
        I: IntoIterator<Item = S>,
        S: Into<OsString>,
    {
        Self::run(&mut program.command(flags))
    }

    /// Starts a command of [`Program::command`], perhaps with an environment of its own.
    pub fn run(command: &mut Command) -> Result<Self, String> {
        let mut child = command
            .spawn()
            .map_err(|e| format!("cannot start {}: {e}", command.get_program().display()))?;
        let log = Arc::new(Mutex::new(VecDeque::new()));
        let mut readers = Vec::new();
        // Both streams are drained to their end: a full pipe would stop the server.
        if let Some(stream) = child.stderr.take() {
            readers.push(drain(stream, Arc::clone(&log)));
        }
        if let Some(stream) = child.stdout.take() {
            readers.push(drain(stream, Arc::clone(&log)));
        }
        Ok(Self {
            child,
            log,
            readers,
        })
    }

    /// Starts `program` and waits until it says it is ready.
    pub fn start<I, S>(program: &Program, flags: I, within: Duration) -> Result<Self, String>
    where
        I: IntoIterator<Item = S>,
        S: Into<OsString>,
    {
        let mut server = Self::spawn(program, flags)?;
        server.await_ready(within)?;
        Ok(server)
    }

    /// Waits for the ready line.
    pub fn await_ready(&mut self, within: Duration) -> Result<(), String> {
        let deadline = Instant::now() + within;
        while !self.says(READY) {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(format!(
                    "ended ({status}) before it was ready:\n{}",
                    self.log()
                ));
            }
            if Instant::now() > deadline {
                return Err(format!("was not ready within {within:?}:\n{}", self.log()));
            }
            thread::sleep(POLL);
        }
        Ok(())
    }

    /// Waits for its end; the status, or the log when it does not end.
    pub fn await_exit(&mut self, within: Duration) -> Result<ExitStatus, String> {
        let deadline = Instant::now() + within;
        loop {
            if let Ok(Some(status)) = self.child.try_wait() {
                // The log is complete only after its readers are.
                for reader in self.readers.drain(..) {
                    let _ = reader.join();
                }
                return Ok(status);
            }
            if Instant::now() > deadline {
                return Err(format!("did not end within {within:?}:\n{}", self.log()));
            }
            thread::sleep(POLL);
        }
    }

    /// kill -9, and waits until the process is gone.
    pub fn kill(&mut self) {
        // Errors mean that it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Asks it to end, as a service manager does.
    pub fn terminate(&self) -> Result<(), String> {
        // The shell's own kill: a machine without procps has it too.
        let status = Command::new("sh")
            .args(["-c", &format!("kill -TERM {}", self.child.id())])
            .status()
            .map_err(|e| format!("cannot run sh: {e}"))?;
        if status.success() {
            Ok(())
        } else {
            Err(format!("kill -TERM: {status}"))
        }
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Does the log so far hold `text`?
    pub fn says(&self, text: &str) -> bool {
        self.lines().iter().any(|line| line.contains(text))
    }

    /// The log so far.
    pub fn log(&self) -> String {
        Vec::from(self.lines().clone()).join("\n")
    }

    fn lines(&self) -> std::sync::MutexGuard<'_, VecDeque<String>> {
        // A reader that panicked leaves whole lines behind.
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The answer of a server on this machine to a plain GET, head included.
pub fn http_get(port: u16, path: &str) -> Result<String, String> {
    let failed = |e: std::io::Error| format!("GET {path} on port {port}: {e}");
    let mut stream = TcpStream::connect(("127.0.0.1", port)).map_err(failed)?;
    let limit = Some(Duration::from_secs(10));
    stream.set_read_timeout(limit).map_err(failed)?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(failed)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(failed)?;
    Ok(answer)
}

fn drain<R: std::io::Read + Send + 'static>(
    stream: R,
    log: Arc<Mutex<VecDeque<String>>>,
) -> JoinHandle<()> {
    thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
            if log.len() == LOG_LINES_MAX {
                log.pop_front();
            }
            log.push_back(line);
        }
    })
}
