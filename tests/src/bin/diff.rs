//! Replays random histories on a real etcd (3.7.3, or 3.5.1), on the store, and on the store's naive twin.
//!
//!     cargo run --release -p henge-tests --bin diff -- [--operations 20000] [--seed N] [--etcd PATH]
//!
//! Promises: says which etcd ran; every answer, every error and every revision is compared, operation by
//! operation, over puts with all options, deletes, nested transactions, ranges with all options at all
//! revisions, compactions and leases; prints the seed first and `key=value` pairs last; exits 1 at the first
//! difference and shows it. etcd runs without fsync: what is compared is what it answers.
//!
//! Where etcd differs from what it documents, histories keep clear:
//!
//! - 3.5.1 forgets a tombstone at the compact revision, newer ones keep it (a watcher sees it, no read does);
//! - a delete with `range_end` "\0" inside a transaction: the check for duplicate keys of all versions so far
//!   reads it as an empty interval, so it lets a put of the same key pass. Here it is refused. Transactions
//!   here end such deletes at "\xff\xff\xff" instead;
//! - 3.7 loses the lease in answers without values, which every version before fills in, and we do, too: from
//!   3.7 on it is not compared there;
//! - of several mistakes in one transaction each version before 3.7 names another: it checks all puts before
//!   all ranges, and keys before leases. Here it is as in 3.7; against older ones only is compared that it
//!   failed.
//!
//! Pairs that are equal in what they are sorted by come from etcd in the order of an unstable sort:
//! they are compared as sets, and where the limit cuts through them only their number is.
//!
//! Must never know: how either side works. Tested by running it with a fault planted in the store.
#![allow(
    clippy::disallowed_methods,
    reason = "whole-system tests live in real time and wait for real processes"
)]

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use clap::Parser;
use henge_mvcc::{
    Error, KeyValue, RangeRequest, RangeResponse, RequestOp, ResponseOp, SortTarget, Store,
    TxnRequest, TxnResponse, check,
};
use prost::Message;
use tonic::Status;

use henge_tests::diff_wire as wire;
use henge_tests::etcd::{Client, Header};
use henge_tests::process::{Member, Program, Scratch, Server};

#[path = "../../../mvcc/tests/support/mod.rs"]
mod support;

use support::commands::{self, Pair};

const START_MAX: Duration = Duration::from_secs(30);
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Seconds that a lease is granted: none may run out while a history runs.
const TTL_S: i64 = 86_400;

/// Compares the store with a real etcd, operation by operation.
#[derive(Parser, Debug)]
struct Options {
    /// How many operations.
    #[arg(long, default_value_t = 20_000)]
    operations: u64,
    /// Repeats the histories of a run that printed this.
    #[arg(long, env = "HENGE_SEED")]
    seed: Option<u64>,
    /// etcd; looked up in PATH. `benches/etcd/build.sh` builds 3.7.3 and says where.
    #[arg(long, env = "ETCD", default_value = "etcd")]
    etcd: PathBuf,
    /// Where etcd keeps its data; memory is best.
    #[arg(long)]
    dir: Option<PathBuf>,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let seed = options
        .seed
        .unwrap_or_else(henge_tests::dice::Dice::fresh_seed);
    println!("seed={seed}");
    match run(&options, seed) {
        Ok(counts) => {
            let kinds = counts.iter().map(|(kind, n)| format!("{kind}={n}"));
            println!(
                "operations={} {}",
                options.operations,
                kinds.collect::<Vec<_>>().join(" ")
            );
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("error: seed {seed}: {why}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options, seed: u64) -> Result<BTreeMap<&'static str, u64>, String> {
    let version = version(&options.etcd)?;
    println!("against {version} ({})", options.etcd.display());
    let scratch = Scratch::new("diff")?;
    let base = options
        .dir
        .clone()
        .unwrap_or_else(|| scratch.path().to_path_buf());
    let data = base.join(format!("henge-diff-{}", std::process::id()));
    let members = Member::cluster(&data, 1)?;
    let mut flags = members[0].flags(&members);
    flags.push("--unsafe-no-fsync".into());
    let server = Server::start(&Program::plain(options.etcd.clone()), flags, START_MAX)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| format!("cannot start a runtime: {e}"))?;
    // A client belongs to the runtime it was made in.
    let inside = runtime.enter();
    let client = Client::new(members[0].client_port, ANSWER_MAX);
    drop(inside);
    let mut diff = Diff {
        client,
        pair: Pair::new(Store::new(), seed),
        counts: BTreeMap::new(),
        is_new: is_new(&version),
    };
    let begun = Instant::now();
    let result = runtime.block_on(async {
        for step in 0..options.operations {
            let done = diff.step().await;
            done.map_err(|why| format!("operation {step}: {why}"))?;
            if step % 20_000 == 19_999 {
                println!(
                    "{} operations after {} s",
                    step + 1,
                    begun.elapsed().as_secs()
                );
            }
        }
        Ok(())
    });
    drop(server);
    // What cannot be removed lies in a directory for temporary files.
    let _ = std::fs::remove_dir_all(&data);
    result.map(|()| diff.counts)
}

/// What an etcd says it is: `etcd Version: 3.7.3`.
fn version(etcd: &Path) -> Result<String, String> {
    let said = Command::new(etcd)
        .arg("--version")
        .output()
        .map_err(|e| format!("cannot run {}: {e}", etcd.display()))?;
    let text = String::from_utf8_lossy(&said.stdout);
    let first = text.lines().next().unwrap_or_default();
    if first.starts_with("etcd Version:") {
        Ok(first.to_owned())
    } else {
        Err(format!("{} is no etcd: it says `{first}`", etcd.display()))
    }
}

/// Whether it is 3.7 or newer, as far as that can be read.
fn is_new(version: &str) -> bool {
    let number = version.rsplit(' ').next().unwrap_or_default();
    let mut parts = number.split('.').map(|part| part.parse::<u32>().ok());
    match (parts.next().flatten(), parts.next().flatten()) {
        (Some(major), Some(minor)) => (major, minor) >= (3, 7),
        _ => false,
    }
}

struct Diff {
    client: Client,
    pair: Pair,
    counts: BTreeMap<&'static str, u64>,
    /// See the top. It is 3.7 or newer.
    is_new: bool,
}

/// etcd's answer, or its error's text.
type Answer<T> = Result<T, String>;

impl Diff {
    async fn step(&mut self) -> Result<(), String> {
        match self.pair.dice.below(100) {
            0..=29 => self.put().await,
            30..=36 => self.delete().await,
            37..=59 => self.txn().await,
            60..=91 => self.range().await,
            92 => self.compact().await,
            93..=94 => self.grant().await,
            95 => self.revoke().await,
            _ => self.time_to_live().await,
        }
    }

    async fn put(&mut self) -> Result<(), String> {
        let mut request = commands::some_put(&mut self.pair.dice);
        match self.pair.dice.below(40) {
            0 => request.key = b"",
            1 => (request.ignore_value, request.value) = (true, b"v"),
            2 => (request.ignore_lease, request.lease) = (true, 1),
            _ => {}
        }
        let ours = check::put(&request, &check::Limits::default()).and_then(|()| {
            let ours = self.pair.store.put(&request);
            assert_eq!(ours, self.pair.model.put(&request), "{request:?}");
            ours
        });
        let theirs: Answer<wire::PutResponse> = self
            .call("/etcdserverpb.KV/Put", wire::PutRequest::from(&request))
            .await?;
        let header = theirs.as_ref().ok().and_then(|answer| answer.header);
        self.compare("put", &request, ours, theirs.map(Into::into), header)
    }

    async fn delete(&mut self) -> Result<(), String> {
        let mut request = commands::some_delete(&mut self.pair.dice);
        if self.pair.dice.one_in(40) {
            request.range.key = b"";
        }
        let ours = check::delete_range(&request, &check::Limits::default()).and_then(|()| {
            let ours = self.pair.store.delete_range(&request);
            assert_eq!(
                ours,
                Ok(self.pair.model.delete_range(&request)),
                "{request:?}"
            );
            ours
        });
        let theirs: Answer<wire::DeleteRangeResponse> = self
            .call(
                "/etcdserverpb.KV/DeleteRange",
                wire::DeleteRangeRequest::from(&request),
            )
            .await?;
        let header = theirs.as_ref().ok().and_then(|answer| answer.header);
        self.compare("delete", &request, ours, theirs.map(Into::into), header)
    }

    async fn txn(&mut self) -> Result<(), String> {
        let revision = self.pair.model.revision();
        let mut request = commands::some_txn(&mut self.pair.dice, revision, 0);
        bound_deletes(&mut request);
        let ours = check::txn(&request, &check::Limits::default()).and_then(|()| {
            let expected = self.pair.model.txn(&request);
            let ours = if request.is_read_only() {
                self.pair.store.txn_read(&request)
            } else {
                self.pair.store.txn(&request)
            };
            assert_eq!(ours, expected, "{request:?}");
            ours
        });
        let theirs: Answer<wire::TxnResponse> = self
            .call("/etcdserverpb.KV/Txn", wire::TxnRequest::from(&request))
            .await?;
        let header = theirs.as_ref().ok().and_then(|answer| answer.header);
        let loses_leases = self.is_new;
        let settled = |mut answer: TxnResponse| {
            settle_txn(&request, &mut answer, loses_leases);
            answer
        };
        let mut theirs = theirs.map(TxnResponse::from).map(settled);
        if let (false, Err(ours), Err(theirs)) = (self.is_new, &ours, &mut theirs) {
            *theirs = format!("etcdserver: {ours}");
        }
        self.compare("txn", &request, ours.map(settled), theirs, header)
    }

    async fn range(&mut self) -> Result<(), String> {
        let revision = self.pair.model.revision();
        let mut request = commands::some_range(&mut self.pair.dice, revision);
        match self.pair.dice.below(100) {
            0 => request.range.key = b"",
            1 => request.revision = -5,
            2 => request.limit = -1,
            _ => {}
        }
        let ours = check::range(&request, &check::Limits::default()).and_then(|()| {
            let ours = self.pair.store.range(&request);
            assert_eq!(ours, self.pair.model.range(&request), "{request:?}");
            ours
        });
        let theirs: Answer<wire::RangeResponse> = self
            .call("/etcdserverpb.KV/Range", wire::RangeRequest::from(&request))
            .await?;
        let header = theirs.as_ref().ok().and_then(|answer| answer.header);
        let loses_leases = self.is_new;
        let settled = |mut answer: RangeResponse| {
            settle_range(&request, &mut answer, loses_leases);
            answer
        };
        let theirs = theirs.map(RangeResponse::from).map(settled);
        self.compare("range", &request, ours.map(settled), theirs, header)
    }

    async fn compact(&mut self) -> Result<(), String> {
        let back = self.pair.dice.below(100) as i64;
        let revision = self.pair.model.revision() + 3 - back;
        let ours = self.pair.store.compact(revision);
        assert_eq!(ours, self.pair.model.compact(revision), "{revision}");
        self.pair
            .store
            .compact_step(self.pair.dice.below(200) as usize);
        // The twin keeps a whole state per revision.
        let readable = self.pair.model.compacted.max(0) as usize;
        let old = self.pair.model.states[..readable].iter_mut().rev();
        old.take_while(|state| !state.is_empty())
            .for_each(BTreeMap::clear);
        let request = wire::CompactionRequest {
            revision,
            physical: false,
        };
        let theirs: Answer<wire::PutResponse> = self
            .call("/etcdserverpb.KV/Compact", request.clone())
            .await?;
        let header = theirs.as_ref().ok().and_then(|answer| answer.header);
        self.compare("compact", &request, ours, theirs.map(|_| ()), header)
    }

    async fn grant(&mut self) -> Result<(), String> {
        let id = 1 + self.pair.dice.below(3) as i64;
        let ttl = if self.pair.dice.one_in(10) {
            9_000_000_001
        } else {
            TTL_S
        };
        let ours = self.pair.store.lease_grant(id, ttl, 0).map(|ttl| (id, ttl));
        if ttl == TTL_S {
            let expected = self.pair.model.lease_grant(id, ttl).map(|ttl| (id, ttl));
            assert_eq!(ours, expected);
        }
        let request = wire::LeaseGrantRequest { ttl, id };
        let theirs: Answer<wire::LeaseGrantResponse> = self
            .call("/etcdserverpb.Lease/LeaseGrant", request.clone())
            .await?;
        let header = theirs.as_ref().ok().and_then(|answer| answer.header);
        self.compare(
            "grant",
            &request,
            ours,
            theirs.map(|answer| (answer.id, answer.ttl)),
            header,
        )
    }

    async fn revoke(&mut self) -> Result<(), String> {
        let id = 1 + self.pair.dice.below(3) as i64;
        let ours = self.pair.store.lease_revoke(id);
        assert_eq!(ours, self.pair.model.lease_revoke(id));
        let request = wire::LeaseRevokeRequest { id };
        let theirs: Answer<wire::PutResponse> = self
            .call("/etcdserverpb.Lease/LeaseRevoke", request.clone())
            .await?;
        let header = theirs.as_ref().ok().and_then(|answer| answer.header);
        self.compare(
            "revoke",
            &request,
            ours.map(|_| ()),
            theirs.map(|_| ()),
            header,
        )
    }

    /// The time that is left is the clock's; all else is compared.
    async fn time_to_live(&mut self) -> Result<(), String> {
        let request = wire::LeaseTimeToLiveRequest {
            id: 1 + self.pair.dice.below(3) as i64,
            keys: self.pair.dice.one_in(2),
        };
        let found = self
            .pair
            .store
            .lease_time_to_live(request.id, 0, request.keys);
        let ours = found.map_or((-1, vec![]), |found| {
            (
                found.granted_ttl_s,
                found.keys.iter().map(|key| key.to_vec()).collect(),
            )
        });
        let theirs: Answer<wire::LeaseTimeToLiveResponse> = self
            .call("/etcdserverpb.Lease/LeaseTimeToLive", request.clone())
            .await?;
        let header = theirs.as_ref().ok().and_then(|answer| answer.header);
        let theirs = theirs.map(|mut answer| {
            answer.keys.sort();
            if answer.ttl < 0 {
                (-1, answer.keys)
            } else {
                (answer.granted_ttl, answer.keys)
            }
        });
        self.compare("time_to_live", &request, Ok(ours), theirs, header)
    }

    /// A request etcd has no answer to at all ends the run; an error it answers is an answer.
    async fn call<T, U>(&mut self, path: &'static str, request: T) -> Result<Answer<U>, String>
    where
        T: Message + 'static,
        U: Message + Default + 'static,
    {
        match self.client.call(path, request).await {
            Ok(answer) => Ok(Ok(answer)),
            Err(status) if is_answer(&status) => Ok(Err(status.message().to_owned())),
            Err(status) => Err(format!("{path}: {status}")),
        }
    }

    fn compare<T: PartialEq + Debug>(
        &mut self,
        kind: &'static str,
        request: &impl Debug,
        ours: Result<T, Error>,
        theirs: Answer<T>,
        header: Option<Header>,
    ) -> Result<(), String> {
        let ours = ours.map_err(|error| format!("etcdserver: {error}"));
        *self.counts.entry(kind).or_default() += 1;
        if ours.is_err() {
            *self.counts.entry("errors").or_default() += 1;
        }
        if ours != theirs {
            return Err(format!(
                "{request:?}\n  etcd:  {theirs:?}\n  store: {ours:?}"
            ));
        }
        let revision = self.pair.store.revision();
        match header {
            Some(header) if header.revision != revision => Err(format!(
                "{request:?}\n  etcd is at revision {}, the store at {revision}",
                header.revision
            )),
            _ => Ok(()),
        }
    }
}

fn is_answer(status: &Status) -> bool {
    status.message().starts_with("etcdserver: ")
}

/// See the top: what is compared of a range.
fn settle_range(request: &RangeRequest<'_>, answer: &mut RangeResponse, loses_leases: bool) {
    if loses_leases && request.keys_only {
        answer.kvs.iter_mut().for_each(|kv| kv.lease = 0);
    }
    settle_ties(request, answer);
}

/// See the top: pairs that are equal in what they are sorted by.
fn settle_ties(request: &RangeRequest<'_>, answer: &mut RangeResponse) {
    let by: fn(&KeyValue) -> Vec<u8> = match request.sort_target {
        SortTarget::Key => return,
        SortTarget::Version => |kv| kv.version.to_be_bytes().to_vec(),
        SortTarget::Create => |kv| kv.create_revision.to_be_bytes().to_vec(),
        SortTarget::Mod => |kv| kv.mod_revision.to_be_bytes().to_vec(),
        // The answer may hold no values.
        SortTarget::Value if request.keys_only => |_| Vec::new(),
        SortTarget::Value => |kv| kv.value.to_vec(),
    };
    for ties in answer.kvs.chunk_by_mut(|a, b| by(a) == by(b)) {
        ties.sort_by(|a, b| a.key.cmp(&b.key));
    }
    if answer.more
        && let Some(last) = answer.kvs.last().map(by)
    {
        let cut = answer.kvs.iter_mut().filter(|kv| by(kv) == last);
        cut.for_each(|kv| *kv = KeyValue::default());
    }
}

fn settle_txn(request: &TxnRequest<'_>, answer: &mut TxnResponse, loses_leases: bool) {
    let branch = if answer.succeeded {
        &request.success
    } else {
        &request.failure
    };
    for pair in branch.iter().zip(&mut answer.responses) {
        match pair {
            (RequestOp::Range(request), ResponseOp::Range(answer)) => {
                settle_range(request, answer, loses_leases)
            }
            (RequestOp::Txn(request), ResponseOp::Txn(answer)) => {
                settle_txn(request, answer, loses_leases)
            }
            _ => {}
        }
    }
}

/// See the top: deletes from a key on.
fn bound_deletes(request: &mut TxnRequest<'static>) {
    for op in request.success.iter_mut().chain(&mut request.failure) {
        match op {
            RequestOp::DeleteRange(delete) if delete.range.end == b"\0" => {
                delete.range.end = b"\xff\xff\xff";
            }
            RequestOp::Txn(inner) => bound_deletes(inner),
            _ => {}
        }
    }
}
