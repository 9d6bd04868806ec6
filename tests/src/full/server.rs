//! A server on a file system that fills up: what an etcd client sees.
//!
//! Promises: writes end in etcd's error for no space, never in another; reads answer meanwhile; after a
//! kill -9 the server starts on the full file system and reads; when there is room, writes go on in the
//! same process; every acknowledged write is there at every look.

use std::ffi::OsString;
use std::path::Path;
use std::time::{Duration, Instant};

use tokio::time::sleep;
use tonic::Code;

use super::Ballast;
use crate::etcd::{Client, RangeRequest};
use crate::process::{Member, Program, Server};

const START_MAX: Duration = Duration::from_secs(60);
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// A refused write is tried so often: it must not be the luck of one moment.
const REFUSALS: usize = 5;
/// Writes must be taken so soon after there is room: the log looks once a second.
const RESUME_MAX: Duration = Duration::from_secs(10);
const VALUE_BYTES: usize = 100_000;
/// More than fits; the run fails if nothing is refused by then.
const PUTS_MAX: usize = 20_000;
/// Written after there is room again.
const MORE: usize = 300;

/// Fills, reads, kills, restarts, frees and goes on; what was seen.
pub fn fills_and_is_freed(
    program: &Program,
    dir: &Path,
    ballast: &mut Ballast,
) -> Result<String, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.map_err(|e| format!("no runtime: {e}"))?;
    let mut member = Member::cluster(dir, 1)?.remove(0);
    member.data = dir.join("data");
    let flags = member.flags(std::slice::from_ref(&member));
    let mut server = Server::start(program, flags.clone(), START_MAX)?;
    let said = runtime.block_on(scenario(program, &flags, &member, &mut server, ballast));
    said.map_err(|why| format!("{why}\n{}", server.log()))
}

async fn scenario(
    program: &Program,
    flags: &[OsString],
    member: &Member,
    server: &mut Server,
    ballast: &mut Ballast,
) -> Result<String, String> {
    let mut client = Client::new(member.client_port, ANSWER_MAX);
    let mut written = 0;
    fill(&mut client, &mut written).await?;
    let full_at = written;
    all_are_there(&mut client, written).await?;

    server.kill();
    *server = Server::start(program, flags.to_vec(), START_MAX)?;
    let mut client = Client::new(member.client_port, ANSWER_MAX);
    all_are_there(&mut client, written).await?;
    // A restart may have found a little room; it ends.
    fill(&mut client, &mut written).await?;
    let still = written;
    all_are_there(&mut client, written).await?;

    ballast.drop_it()?;
    let pid = server.pid();
    let waited = resumes(&mut client, &mut written).await?;
    for _ in 0..MORE {
        put(&mut client, written)
            .await
            .map_err(|e| format!("after there was room: {e:?}"))?;
        written += 1;
    }
    all_are_there(&mut client, written).await?;
    if pid != server.pid() {
        return Err("it was restarted".to_owned());
    }
    server.kill();
    *server = Server::start(program, flags.to_vec(), START_MAX)?;
    all_are_there(&mut Client::new(member.client_port, ANSWER_MAX), written).await?;
    Ok(format!(
        "full after {full_at} puts of {VALUE_BYTES} bytes (at {still} after kill -9 and restart), \
         went on {} ms after there was room, {written} puts all there",
        waited.as_millis()
    ))
}

fn key(i: usize) -> Vec<u8> {
    format!("full/{i:08}").into_bytes()
}

fn value(i: usize) -> Vec<u8> {
    (0..VALUE_BYTES)
        .map(|at| (i * 131 + at * 7 + at / 251) as u8)
        .collect()
}

async fn put(client: &mut Client, i: usize) -> Result<i64, tonic::Status> {
    client.put(key(i), value(i)).await
}

/// Puts until nothing more is taken.
async fn fill(client: &mut Client, written: &mut usize) -> Result<(), String> {
    let mut refused = 0;
    while refused < REFUSALS {
        if *written >= PUTS_MAX {
            return Err(format!("{PUTS_MAX} puts and none was refused"));
        }
        match put(client, *written).await {
            Ok(_) => {
                *written += 1;
                refused = 0;
            }
            Err(e) if no_space(&e) => refused += 1,
            Err(e) => return Err(format!("put {written} ends in {e:?}")),
        }
    }
    Ok(())
}

pub(super) fn no_space(e: &tonic::Status) -> bool {
    let text = "etcdserver: mvcc: database space exceeded";
    e.code() == Code::ResourceExhausted && e.message() == text
}

/// Waits until a put is taken; how long that took.
async fn resumes(client: &mut Client, written: &mut usize) -> Result<Duration, String> {
    let begun = Instant::now();
    loop {
        match put(client, *written).await {
            Ok(_) => {
                *written += 1;
                return Ok(begun.elapsed());
            }
            Err(e) if no_space(&e) && begun.elapsed() < RESUME_MAX => {
                sleep(Duration::from_millis(20)).await;
            }
            Err(e) => return Err(format!("there is room, and put {written} ends in {e:?}")),
        }
    }
}

/// Every acknowledged put is read with its value.
async fn all_are_there(client: &mut Client, written: usize) -> Result<(), String> {
    for i in 0..written {
        let request = RangeRequest {
            key: key(i),
            ..RangeRequest::default()
        };
        let reply = client.range(request).await;
        let found = reply.map_err(|e| format!("read {i} ends in {e:?}"))?.kvs;
        if found.first().is_none_or(|kv| kv.value != value(i)) {
            return Err(format!("put {i} of {written} was acknowledged and is gone"));
        }
    }
    Ok(())
}
