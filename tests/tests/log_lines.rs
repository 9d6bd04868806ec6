//! The golden list of log lines (docs/log-lines.md): that the source has them, that a cluster says them when
//! it should, and that they have the fields that are promised.
//!
//! Must never know: the server's types. `HENGE_BINARY=PATH` tests another build.
#![allow(
    clippy::disallowed_methods,
    reason = "whole-system tests live in real time and wait for real processes"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use henge_tests::etcd::Client;
use henge_tests::process::{Member, Program, Scratch, Server, http_get};

/// Where the list of lines that are not promised begins.
const OTHERS: &str = "## Lines that are not promised";
const EXIT_MAX: Duration = Duration::from_secs(30);
/// Until a line that is due is said, on a machine that also does other things.
const LINE_MAX: Duration = Duration::from_secs(60);

fn program() -> Program {
    match std::env::var_os("HENGE_BINARY") {
        Some(path) => Program::henge(path.into()),
        None => Program::built().expect("the binary under test builds"),
    }
}

fn repository() -> &'static Path {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("it is in the repository")
}

/// What is promised of a line.
#[derive(Clone, Debug)]
struct Golden {
    level: String,
    fields: BTreeSet<String>,
    by_cluster: bool,
}

/// The table of docs/log-lines.md, by text.
fn golden() -> BTreeMap<String, Golden> {
    let doc = repository().join("docs/log-lines.md");
    let doc = std::fs::read_to_string(doc).expect("the list");
    let (doc, _) = doc.split_once(OTHERS).expect("the second table");
    let rows = doc.lines().filter(|line| line.starts_with("| `"));
    let row = |row: &str| {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        assert_eq!(cells.len(), 5, "{row}");
        let text = cells[0].strip_prefix('`').and_then(|t| t.strip_suffix('`'));
        let golden = Golden {
            level: cells[1].to_owned(),
            fields: cells[2].split_whitespace().map(str::to_owned).collect(),
            by_cluster: cells[4] == "cluster",
        };
        (text.expect(row).to_owned(), golden)
    };
    rows.map(row).collect()
}

/// The texts in the first column of the table of lines that are not promised.
fn others() -> BTreeSet<String> {
    let doc = repository().join("docs/log-lines.md");
    let doc = std::fs::read_to_string(doc).expect("the list");
    let (_, rest) = doc.split_once(OTHERS).expect("the second table");
    let rows = rest.lines().filter(|line| line.starts_with("| `"));
    let row = |row: &str| {
        let (text, why) = row[2..].split_once(" | ").expect("two cells");
        assert!(why.trim_matches(['|', ' ']).len() > 5, "no reason: {row}");
        let text = text.strip_prefix('`').and_then(|t| t.strip_suffix('`'));
        text.expect(row).to_owned()
    };
    rows.map(row).collect()
}

/// Every text that the node's sources say at level info, warn or error, as they write it.
fn said_in_the_source() -> BTreeSet<String> {
    let source = source();
    let mut said = BTreeSet::new();
    for level in ["info!(", "warn!(", "error!("] {
        for (at, _) in source.match_indices(&format!("tracing::{level}")) {
            said.insert(text_of(&source[at..]));
        }
        // Under another name it would be passed over.
        assert_eq!(
            source.matches(level).count(),
            source.matches(&format!("tracing::{level}")).count(),
            "{level} without tracing::"
        );
    }
    said
}

/// The last string literal of the call that begins here: what it says.
fn text_of(call: &str) -> String {
    let (mut depth, mut literal, mut last) = (0, None::<String>, String::new());
    let mut chars = call.chars();
    while let Some(c) = chars.next() {
        match (&mut literal, c) {
            (Some(text), '\\') => {
                text.extend(chars.next());
            }
            (Some(_), '"') => last = literal.take().unwrap_or_default(),
            (Some(text), c) => text.push(c),
            (None, '"') => literal = Some(String::new()),
            (None, '(') => depth += 1,
            (None, ')') if depth == 1 => return last,
            (None, ')') => depth -= 1,
            (None, _) => {}
        }
    }
    panic!("a call without an end: {}", &call[..call.len().min(200)]);
}

/// All of the node's sources in one text, without their tests, string literals joined as the compiler does.
fn source() -> String {
    fn gather(dir: &Path, text: &mut String) {
        for entry in std::fs::read_dir(dir).expect("sources") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                gather(&path, text);
            } else if path.extension().is_some_and(|ext| ext == "rs") {
                let file = std::fs::read_to_string(&path).expect("text");
                let code = file.split("#[cfg(test)]\nmod tests {").next();
                text.push_str(code.unwrap_or_default());
            }
        }
    }
    let mut text = String::new();
    for room in [
        "src",
        "api/src",
        "core/src",
        "peer/src",
        "edge/src",
        "server/src",
    ] {
        gather(&repository().join("node").join(room), &mut text);
    }
    let parts: Vec<&str> = text.split("\\\n").collect();
    let joined = parts.iter().skip(1).map(|part| part.trim_start());
    parts.iter().take(1).copied().chain(joined).collect()
}

#[test]
fn the_source_has_every_line_of_the_list() {
    let (golden, source) = (golden(), source());
    assert!(golden.len() >= 30, "{} lines", golden.len());
    for text in golden.keys() {
        assert!(
            source.contains(&format!("\"{text}\"")),
            "nobody says {text:?}"
        );
    }
}

/// Who writes a line writes it into the list, or says why it is not promised.
#[test]
fn the_list_has_every_line_of_the_source() {
    let (golden, others, said) = (golden(), others(), said_in_the_source());
    assert!(said.len() > 50, "{} texts", said.len());
    let unknown: Vec<&String> = said
        .iter()
        .filter(|text| !golden.contains_key(*text) && !others.contains(*text))
        .collect();
    assert!(unknown.is_empty(), "not in docs/log-lines.md: {unknown:#?}");
    let gone: Vec<&String> = others.difference(&said).collect();
    assert!(gone.is_empty(), "nobody says {gone:#?}");
    let both: Vec<&String> = others.iter().filter(|t| golden.contains_key(*t)).collect();
    assert!(both.is_empty(), "promised and not promised: {both:#?}");
}

/// Three members, their servers, and every line they have said so far.
struct Cluster {
    members: Vec<Member>,
    servers: Vec<Option<Server>>,
    /// Logs of servers that are gone.
    past: Vec<(String, String)>,
}

impl Cluster {
    fn start(&mut self, at: usize) {
        let flags = self.members[at].flags(&self.members);
        self.servers[at] = Some(Server::spawn(&program(), flags).expect("the binary runs"));
    }

    fn log(&self, at: usize) -> String {
        self.servers[at].as_ref().map_or(String::new(), Server::log)
    }

    /// Ends a server as `end` does, and keeps what it said.
    fn end(&mut self, at: usize, end: impl FnOnce(&mut Server)) {
        let mut server = self.servers[at].take().expect("it runs");
        end(&mut server);
        let name = self.members[at].name.clone();
        self.past.push((name, server.log()));
    }

    /// Waits until `found` answers.
    fn until<T>(&self, what: &str, found: impl Fn(&Self) -> Option<T>) -> T {
        let deadline = Instant::now() + LINE_MAX;
        loop {
            if let Some(found) = found(self) {
                return found;
            }
            let logs = || {
                (0..3)
                    .map(|at| self.log(at))
                    .collect::<Vec<_>>()
                    .join("\n\n")
            };
            assert!(
                Instant::now() < deadline,
                "{what} does not come:\n{}",
                logs()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn says(&self, at: usize, text: &str) -> bool {
        let message = format!("\"msg\":\"{text}\"");
        self.log(at).lines().any(|line| line.contains(&message))
    }

    fn await_line(&self, at: usize, text: &str) {
        self.until(text, |cluster| cluster.says(at, text).then_some(()));
    }

    /// Who leads, as each of those that run says in its metrics.
    fn leader(&self, among: &[usize]) -> usize {
        self.until("a leader", |cluster| {
            among.iter().copied().find(|at| {
                let metrics = http_get(cluster.members[*at].client_port, "/metrics");
                metrics.is_ok_and(|metrics| metrics.contains("\netcd_server_is_leader 1\n"))
            })
        })
    }

    fn signal(&self, at: usize, signal: &str) {
        let pid = self.servers[at].as_ref().expect("it runs").pid();
        let kill = format!("kill -{signal} {pid}");
        let sent = Command::new("sh").args(["-c", &kill]).status();
        assert!(sent.expect("a shell").success());
    }
}

#[test]
fn a_cluster_says_what_happens_with_the_fields_that_are_promised() {
    let scratch = Scratch::new("log-lines").expect("a temporary directory");
    let members = Member::cluster(scratch.path(), 3).expect("free ports");
    let mut cluster = Cluster {
        members,
        servers: vec![None, None, None],
        past: Vec::new(),
    };
    // One alone waits, asks and is refused nothing: nobody is there.
    cluster.start(0);
    for line in [
        "waiting for a quorum",
        "peer cannot be reached",
        "an election begins: this member asks for votes",
    ] {
        cluster.await_line(0, line);
    }
    // A stranger.
    let mut stranger =
        TcpStream::connect(("127.0.0.1", cluster.members[0].peer_port)).expect("it listens");
    let _ = stranger.write_all(b"GET / HTTP/1.1\r\nHost: somebody\r\n\r\n");
    let _ = stranger.read(&mut [0; 64]);
    cluster.await_line(0, "refused a peer connection");
    // The others.
    cluster.start(1);
    cluster.start(2);
    for at in 0..3 {
        cluster.await_line(at, "ready to serve client requests");
        cluster.await_line(at, "peer is up");
    }
    // The leader is killed: the others notice, and agree.
    let leader = cluster.leader(&[0, 1, 2]);
    let others: Vec<usize> = (0..3).filter(|at| *at != leader).collect();
    cluster.end(leader, Server::kill);
    for at in &others {
        cluster.await_line(*at, "peer is down");
        cluster.await_line(*at, "lost the leader");
    }
    let second = cluster.leader(&others);
    cluster.start(leader);
    cluster.await_line(leader, "ready to serve client requests");
    cluster.await_line(leader, "found the leader");
    // The next leader stands still until somebody else leads, and hears of that when it goes on.
    let others: Vec<usize> = (0..3).filter(|at| *at != second).collect();
    cluster.signal(second, "STOP");
    cluster.leader(&others);
    cluster.signal(second, "CONT");
    cluster.await_line(second, "this member leads no longer");
    // What the dashboards get of the others.
    let metrics = http_get(cluster.members[second].client_port, "/metrics").expect("metrics");
    for name in [
        "henge_build_info{version=",
        "henge_peer_round_trip_seconds{To=",
        "etcd_network_peer_sent_bytes_total{To=",
    ] {
        assert!(metrics.contains(name), "{name} is not in {metrics}");
    }
    let lines = |name: &str| metrics.lines().filter(|l| l.starts_with(name)).count();
    assert_eq!(lines("etcd_network_known_peers{"), 3, "itself as well");
    assert_eq!(lines("etcd_network_active_peers{"), 2);
    let trips = "etcd_network_peer_round_trip_time_seconds_count{";
    let trips = metrics.lines().filter(|line| line.starts_with(trips));
    let counts: Vec<u64> = trips
        .filter_map(|line| line.rsplit(' ').next()?.parse().ok())
        .collect();
    assert!(
        counts.len() == 2 && counts.iter().all(|n| *n > 0),
        "{counts:?}"
    );
    assert_eq!(lines("etcd_network_disconnected_peers_total{"), 2);
    // An alarm is raised by hand, and lowered.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    for (raise, line) in [(true, "alarm raised"), (false, "alarm lowered")] {
        let port = cluster.members[0].client_port;
        runtime.block_on(async {
            let mut client = Client::new(port, EXIT_MAX);
            let id = client.status().await.expect("a member").header;
            let id = id.expect("a header").member_id;
            client.alarm_nospace(raise, id).await.expect("it is done");
        });
        (0..3).for_each(|at| cluster.await_line(at, line));
    }
    // Who leads goes first, and hands that over.
    let leader = cluster.leader(&[0, 1, 2]);
    let others = (0..3).filter(|at| *at != leader);
    for at in std::iter::once(leader).chain(others) {
        cluster.end(at, |server| {
            server.terminate().expect("a signal can be sent");
            let status = server.await_exit(EXIT_MAX).expect("it ends");
            assert_eq!(status.code(), Some(0), "{}", server.log());
        });
    }
    check(&golden(), &cluster.past);
}

/// Every line has its form, those of the list have their fields, and those that were due were said.
fn check(golden: &BTreeMap<String, Golden>, logs: &[(String, String)]) {
    let mut said = BTreeSet::new();
    for (name, line) in logs
        .iter()
        .flat_map(|(name, log)| log.lines().map(move |line| (name, line)))
    {
        assert!(!line.contains('\u{1b}'), "colours in a pipe: {line}");
        let object: serde_json::Map<String, serde_json::Value> =
            serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"));
        let text = |field: &str| object.get(field).and_then(|v| v.as_str()).unwrap_or("");
        assert_eq!(text("member"), name, "{line}");
        let caller = text("caller");
        let (file, number) = caller.rsplit_once(':').unwrap_or((caller, ""));
        let is_place = file.ends_with(".rs") && file.contains('/') && number.parse::<u32>().is_ok();
        assert!(is_place, "{line}");
        let Some(golden) = golden.get(text("msg")) else {
            continue;
        };
        assert_eq!(text("level"), golden.level, "{line}");
        let common = ["level", "ts", "caller", "msg", "member"];
        let fields = object.keys().filter(|field| !common.contains(&&field[..]));
        let fields: BTreeSet<String> = fields.cloned().collect();
        assert_eq!(fields, golden.fields, "{line}");
        said.insert(text("msg").to_owned());
    }
    let due = golden.iter().filter(|(_, line)| line.by_cluster);
    let silent: Vec<&String> = due
        .map(|(text, _)| text)
        .filter(|text| !said.contains(*text))
        .collect();
    assert!(silent.is_empty(), "nobody said {silent:?}");
}
