//! The embedding API as a whole, held against its own sources: every public method is documented with an
//! example, says what dropping its future does, and is there for every kind of caller.

#[allow(dead_code, reason = "shared with the tests of every future")]
#[path = "common/surface.rs"]
mod surface;

use surface::{Method, methods};

/// What services use; the other public types of these folders are the engine's own rooms.
const EMBEDDED: &[&str] = &[
    "Engine",
    "EngineBuilder",
    "Blocking",
    "Local",
    "Batch",
    "BatchReport",
    "Watcher",
    "ShardedWatcher",
    "Snapshot",
    "Revisions",
    "Stats",
    "Keyspace",
];

fn embedded() -> impl Iterator<Item = Method> {
    let of = |method: &Method| EMBEDDED.contains(&&method.of[..]);
    methods().into_iter().filter(of)
}

fn of(name: &str) -> Vec<Method> {
    embedded().filter(|method| method.of == name).collect()
}

#[test]
fn every_public_method_has_an_example() {
    let without: Vec<_> = embedded()
        .filter(|method| !method.docs.contains("```"))
        .map(|method| format!("{}::{}", method.of, method.name))
        .collect();
    assert!(without.is_empty(), "{without:?}");
}

#[test]
fn every_future_says_what_dropping_it_does() {
    let silent: Vec<_> = embedded()
        .filter(|method| method.is_awaited() && method.of != "Blocking")
        .filter(|method| !method.docs.to_lowercase().contains("cancel safety"))
        .map(|method| format!("{}::{}", method.of, method.name))
        .collect();
    assert!(silent.is_empty(), "{silent:?}");
}

/// A name in `all` that is neither in `there` nor in `not_there`, and the other way round.
fn compare(all: &[Method], there: &[Method], not_there: &[&str]) {
    for method in all {
        let name = &method.name[..];
        let is_there = there.iter().any(|there| there.name == name);
        let should = !not_there.contains(&name);
        assert_eq!(is_there, should, "{name}");
    }
    for name in not_there {
        assert!(all.iter().any(|method| method.name == *name), "{name}");
    }
}

#[test]
fn the_blocking_engine_has_every_operation() {
    // What does not wait is the engine's alone; `stats` is on both.
    let not_there = [
        "builder",
        "blocking",
        "keyspace",
        "shards",
        "host",
        "metrics",
        "cores",
        "core_of",
        "core_metrics",
        "spawn_beside",
        "has_ended",
        "hand_over",
    ];
    compare(&of("Engine"), &of("Blocking"), &not_there);
}

/// The quickstart is the README's first example, but for how rustfmt breaks lines.
#[test]
fn the_quickstart_is_the_readmes() {
    let readme = include_str!("../../README.md");
    let quickstart = include_str!("../examples/quickstart.rs");
    let (_, code) = quickstart.split_once("use henge").expect("code");
    let plain = |text: &str| {
        let text: String = text.split_whitespace().collect();
        text.replace(",)", ")").replace("//", "")
    };
    assert!(plain(readme).contains(&plain(code)), "they differ");
}

#[test]
fn the_local_engine_has_everything_that_makes_sense_on_one_thread() {
    let not_there = [
        "builder",
        "blocking",
        "keyspace",
        "core_of",
        "spawn_beside",
        "hand_over",
    ];
    compare(&of("Engine"), &of("Local"), &not_there);
}
