//! `/metrics` of a server over a real engine, against etcd's list of names and against what is done to it.
//!
//! The list is `etcd.txt`; what is missing on purpose, and all names of ours, are in docs/metrics.md.

mod values;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use henge::{Engine, HostKind};
use henge_edge::door::{LocalExecutor, Shutdown, serve};
use henge_edge::{Edge, EdgeConfig, GrpcCounters};
use tonic::transport::Channel;

use super::scratch::Scratch;
use super::{HANG, SHORT};

const QUOTA: u64 = 8 << 20;

/// A server over an engine of its own.
struct Real {
    address: SocketAddr,
    shutdown: Shutdown,
    thread: Option<JoinHandle<()>>,
    engine: Engine,
    _dir: Scratch,
}

impl Real {
    fn start(name: &str) -> Real {
        let dir = Scratch::new(name);
        let builder = Engine::builder(&dir.0)
            .shards(1)
            .host(HostKind::Thread)
            .auto_compaction(henge::AutoCompaction::Off)
            .quota_bytes(QUOTA);
        let engine = builder.open().expect("opens");
        let config = EdgeConfig {
            drain_limit: SHORT,
            ..EdgeConfig::default()
        };
        let shutdown = Shutdown::new();
        let keyspace = engine.keyspace(0).expect("one shard");
        let counters = Arc::new(GrpcCounters::new());
        let edge = Edge::new(keyspace, config, counters, shutdown.clone());
        let (tell, address) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            tokio::task::LocalSet::new().block_on(&runtime, async move {
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
                let listener = listener.expect("a port");
                tell.send(listener.local_addr().expect("bound"))
                    .expect("the test waits");
                serve(listener, edge, LocalExecutor)
                    .await
                    .expect("serves until told");
            });
        });
        Real {
            address: address.recv().expect("the server's address"),
            shutdown,
            thread: Some(thread),
            engine,
            _dir: dir,
        }
    }

    fn http(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.address).expect("a connection");
        stream.set_read_timeout(Some(HANG)).expect("a timeout");
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        let (_, body) = answer.split_once("\r\n\r\n").expect("a head");
        body.to_owned()
    }

    fn scrape(&self) -> Scrape {
        Scrape::of(&self.http("/metrics"))
    }

    async fn channel(&self) -> Channel {
        let url = format!("http://{}", self.address);
        let endpoint = Channel::from_shared(url).expect("a url");
        endpoint.connect().await.expect("a connection")
    }

    /// Waits until a series has a value, and fails with what it has instead.
    async fn until(&self, series: &str, wanted: f64) {
        let mut has = 0.0;
        for _ in 0..2_000 {
            has = self.scrape().get(series);
            if has == wanted {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        panic!("{series} is {has}, not {wanted}");
    }
}

impl Drop for Real {
    fn drop(&mut self) {
        self.shutdown.begin();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        self.engine.blocking().stop();
    }
}

/// A page, taken apart.
#[derive(Default)]
struct Scrape {
    types: BTreeMap<String, String>,
    series: BTreeMap<String, f64>,
}

impl Scrape {
    fn of(page: &str) -> Scrape {
        let mut scrape = Scrape::default();
        for line in page.lines() {
            if let Some(named) = line.strip_prefix("# TYPE ") {
                let (name, kind) = named.split_once(' ').expect("a type");
                let again = scrape.types.insert(name.to_owned(), kind.to_owned());
                assert_eq!(again, None, "{name} stands twice");
            } else if !line.starts_with('#') {
                let (series, value) = line.rsplit_once(' ').expect("a value");
                let value = value.parse().expect("a number");
                scrape.series.insert(series.to_owned(), value);
            }
        }
        scrape
    }

    /// A series that is not there yet counts nothing.
    fn get(&self, series: &str) -> f64 {
        self.series.get(series).copied().unwrap_or(0.0)
    }
}

fn document() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/metrics.md");
    std::fs::read_to_string(path).expect("the list")
}

/// The names in the first column of the table under a heading.
fn names_under(heading: &str) -> Vec<String> {
    let document = document();
    let (_, after) = document.split_once(heading).expect(heading);
    let section = after.split("\n## ").next().expect("a section");
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    let first = rows.filter_map(|row| row.trim_start_matches("| ").split(" |").next());
    let names = first.flat_map(|cell| cell.split(", ").map(|name| name.trim_matches('`')));
    names.map(str::to_owned).collect()
}

fn covers(listed: &str, name: &str) -> bool {
    match listed.strip_suffix('*') {
        Some(family) => name.starts_with(family),
        None => listed == name,
    }
}

/// Of etcd's 128 names 67 were absent, among them what its alerts ask for.
#[test]
fn regression_each_of_etcds_metrics_is_there_or_said_to_mean_nothing() {
    let server = Real::start("metrics-names");
    let scrape = server.scrape();
    let absent = names_under("## etcd's names that mean nothing here");
    let own = names_under("## etcd's names that mean something of their own here");
    assert!(absent.len() > 10 && own.len() > 10, "{absent:?} {own:?}");
    let etcds: Vec<(&str, &str)> = include_str!("etcd.txt")
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.split_once(' ').expect("a name and its type"))
        .collect();
    assert!(etcds.len() > 150, "{}", etcds.len());
    let mut wrong = Vec::new();
    for (name, kind) in &etcds {
        let is_listed = absent.iter().any(|listed| covers(listed, name));
        match (scrape.types.get(*name), is_listed) {
            (Some(found), false) if found == kind => {}
            (None, true) => {}
            (found, listed) => wrong.push(format!(
                "{name}: etcd has a {kind}, here is {found:?}, said to mean nothing: {listed}"
            )),
        }
    }
    // What is said of a name has to be about one.
    for listed in absent.iter().chain(&own) {
        if !etcds.iter().any(|(name, _)| covers(listed, name)) {
            wrong.push(format!("etcd has no {listed}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn each_metric_of_ours_is_in_the_document_and_none_that_is_not() {
    let server = Real::start("metrics-own");
    let scrape = server.scrape();
    let found = scrape.types.keys().map(String::as_str);
    let etcds = include_str!("etcd.txt");
    let is_etcds = |name: &str| {
        etcds
            .lines()
            .any(|line| line.split(' ').next() == Some(name))
    };
    let found: BTreeSet<&str> = found.filter(|name| !is_etcds(name)).collect();
    let listed = names_under("## Our own");
    let listed: BTreeSet<&str> = listed.iter().map(String::as_str).collect();
    let odd: Vec<_> = found.symmetric_difference(&listed).collect();
    assert!(odd.is_empty(), "in only one of both: {odd:?}");
}
