//! Processes of this build: a bench and what it printed, a server and what it counts. None outlives its
//! handle.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::common::Scratch;

/// Longest that a test waits for a process: far longer than any takes.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A process that does not outlive its handle.
pub struct Process(pub Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Process {
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.0);
        kill_process(pid, signal).expect("it lives");
    }

    /// Waits for its end, and returns how it ended.
    pub fn end(&mut self) -> i32 {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.0.try_wait().expect("it is ours") {
                return status.code().expect("it ended by itself");
            }
            assert!(Instant::now() < deadline, "it does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// What a process printed, and how it ended.
#[derive(Debug)]
pub struct Done {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Done {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// Lines of a stream as they come.
pub fn lines(stream: impl std::io::Read + Send + 'static) -> mpsc::Receiver<String> {
    let (tell, lines) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            // Nobody may listen any more; the pipe is emptied all the same.
            let _ = tell.send(line);
        }
    });
    lines
}

pub fn start(dir: &Path, line: &str) -> Process {
    let mut command = Command::new(env!("CARGO_BIN_EXE_henge"));
    command
        .args(line.split_whitespace())
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    Process(command.spawn().expect("it starts"))
}

/// A bench that runs to its end.
pub fn bench(dir: &Path, line: &str) -> Done {
    signalled(dir, line, None)
}

/// A bench that is sent a signal once it has said something on stderr.
pub fn signalled(dir: &Path, line: &str, when: Option<(&str, Signal)>) -> Done {
    let mut bench = start(dir, &format!("bench {line}"));
    let mut stdout = bench.0.stdout.take().expect("piped");
    let out = std::thread::spawn(move || {
        let mut text = String::new();
        stdout.read_to_string(&mut text).expect("text");
        text
    });
    let said = lines(bench.0.stderr.take().expect("piped"));
    let mut err = String::new();
    if let Some((needle, signal)) = when {
        loop {
            let line = said.recv_timeout(PATIENCE).expect("it says so");
            err += &format!("{line}\n");
            if line.contains(needle) {
                break;
            }
        }
        bench.signal(signal);
    }
    let code = bench.end();
    err.extend(said.iter().map(|line| line + "\n"));
    let out = out.join().expect("read");
    Done { code, out, err }
}

pub fn is_empty(dir: &Path) -> bool {
    std::fs::read_dir(dir)
        .expect("it is there")
        .next()
        .is_none()
}

pub fn made(name: &str) -> Scratch {
    let scratch = Scratch::new(name);
    std::fs::create_dir_all(&scratch.0).expect("made");
    scratch
}

/// A server of this build.
pub struct Server {
    process: Process,
    pub address: String,
    pub dir: Scratch,
}

impl Server {
    pub fn start(name: &str, flags: &str) -> Self {
        let dir = made(name);
        let free = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = free.local_addr().expect("bound").to_string();
        drop(free);
        let line = format!(
            "serve --data-dir data --listen-client-urls http://{address} \
             --advertise-client-urls http://{address} --listen-peer-urls http://127.0.0.1:0 {flags}"
        );
        let mut process = start(&dir.0, &line);
        let said = lines(process.0.stderr.take().expect("piped"));
        let out = lines(process.0.stdout.take().expect("piped"));
        let deadline = Instant::now() + PATIENCE;
        let mut log = Vec::new();
        loop {
            let both = said.try_iter().chain(out.try_iter());
            log.extend(both);
            if log
                .iter()
                .any(|line| line.contains("ready to serve client requests"))
            {
                break;
            }
            assert!(Instant::now() < deadline, "not ready: {log:#?}");
            std::thread::sleep(Duration::from_millis(5));
        }
        Server {
            process,
            address,
            dir,
        }
    }

    /// Ends it without a word.
    pub fn kill(&self) {
        self.process.signal(Signal::KILL);
    }

    pub fn bench(&self, line: &str) -> Done {
        bench(&self.dir.0, &format!("{line} --endpoints {}", self.address))
    }

    /// How many calls of a method were begun so far.
    pub fn started(&self, method: &str) -> u64 {
        let mut stream = TcpStream::connect(&self.address).expect("it listens");
        let request = "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).expect("sent");
        let mut page = String::new();
        stream.read_to_string(&mut page).expect("text");
        let label = format!("grpc_method=\"{method}\"");
        let line = page
            .lines()
            .find(|line| line.starts_with("grpc_server_started_total") && line.contains(&label));
        let count = line.and_then(|line| line.rsplit(' ').next());
        count.and_then(|count| count.parse().ok()).expect("a count")
    }
}
