//! Every public future is dropped at its k-th poll, for every k until it is done, on every host: no
//! operation is lost, torn or done twice, and nothing is left behind. Which futures there are is read from
//! the sources, so that none is forgotten. `case` says how it is seen; one file for each family.

mod case;
#[path = "../common/mod.rs"]
mod common;
mod endings;
mod keys;
mod keyspace;
mod leases;
mod polled;
mod sharded;
mod streams;
#[allow(dead_code, reason = "shared with the tests of the whole surface")]
#[path = "../common/surface.rs"]
mod surface;

use std::collections::BTreeSet;

use henge::{Engine, EngineBuilder};

use case::{Case, try_operations};
use common::on_every_host;
use polled::{Rest, builder, on_tokio, spawn, where_it_lives};

const ONE_SHARD: [&[Case]; 3] = [keys::CASES, leases::CASES, keyspace::CASES];

async fn try_one_shard(db: Engine, rest: Rest) {
    for cases in ONE_SHARD {
        try_operations(db.clone(), cases, rest).await;
    }
    streams::try_watch(db.clone(), rest).await;
    streams::try_session(db.clone(), rest).await;
    streams::try_snapshot(db, rest).await;
}

async fn try_shards(db: Engine, rest: Rest) {
    try_operations(db.clone(), sharded::CASES, rest).await;
    streams::try_watch_over_shards(db.clone(), rest).await;
    streams::try_snapshot(db, rest).await;
}

fn shards(builder: EngineBuilder) -> EngineBuilder {
    builder.shards(usize::try_from(sharded::SHARDS).expect("few"))
}

#[test]
fn every_public_future_is_tried() {
    let mut tried: BTreeSet<(String, String)> = BTreeSet::new();
    let cases = ONE_SHARD.into_iter().chain([sharded::CASES]).flatten();
    let named = cases.map(|case| (case.of, case.name));
    let named = named.chain(streams::TRIED.iter().chain(endings::TRIED).copied());
    for (of, name) in named {
        tried.insert((of.to_owned(), name.to_owned()));
        if of == "Engine" && name != "stop" {
            // A local handle gives the same futures, as its signatures say.
            tried.insert(("Local".to_owned(), name.to_owned()));
        }
    }
    let methods = surface::methods().into_iter().chain(surface::seam());
    let of_blocking = |method: &surface::Method| method.of == "Blocking";
    let awaited = methods.filter(|method| method.is_awaited() && !of_blocking(method));
    let there: BTreeSet<_> = awaited.map(|method| (method.of, method.name)).collect();
    let forgotten: Vec<_> = there.difference(&tried).collect();
    assert!(forgotten.is_empty(), "{forgotten:?}");
}

#[test]
fn operations_of_an_engine_are_done_exactly_once() {
    on_every_host("cancel", |dir, host| {
        let engine = builder(dir, host).open().expect("opens");
        on_tokio(try_one_shard(engine, Rest::Tokio));
    });
}

#[test]
fn operations_over_shards_and_cores_are_done_exactly_once() {
    on_every_host("cancel-shards", |dir, host| {
        let engine = shards(builder(dir, host)).cores(2).open().expect("opens");
        on_tokio(try_shards(engine, Rest::Tokio));
    });
}

#[test]
fn operations_of_a_local_engine_are_done_exactly_once() {
    on_every_host("cancel-local", |dir, host| {
        let dir = dir.to_path_buf();
        where_it_lives(host, move |rest| async move {
            let (local, driver) = builder(&dir, host).open_local().expect("opens");
            assert_eq!(local.host(), host);
            spawn(driver, rest);
            try_one_shard(local.remote(), rest).await;
            local.stop().await;
        });
    });
}

#[test]
fn operations_over_a_local_engines_shards_are_done_exactly_once() {
    on_every_host("cancel-local-shards", |dir, host| {
        let dir = dir.to_path_buf();
        where_it_lives(host, move |rest| async move {
            let builder = shards(builder(&dir, host));
            let (local, driver) = builder.open_local().expect("opens");
            spawn(driver, rest);
            try_shards(local.remote(), rest).await;
            local.stop().await;
        });
    });
}
