//! Which crate may depend on which of ours: the drawing in ARCHITECTURE.md, read from the manifests.

/// A crate, and those of ours that it may know. `henge-tests` and `henge-benches` may know all.
const ARROWS: &[(&str, &[&str])] = &[
    ("henge-wal", &[]),
    ("henge-raft", &[]),
    ("henge-mvcc", &[]),
    ("henge-peer", &[]),
    ("henge-api", &["henge-mvcc"]),
    (
        "henge-core",
        &["henge-api", "henge-raft", "henge-mvcc", "henge-wal"],
    ),
    (
        "henge",
        &[
            "henge-core",
            "henge-peer",
            "henge-api",
            "henge-wal",
            "henge-mvcc",
        ],
    ),
    ("henge-edge", &["henge-api", "henge-mvcc"]),
    ("henge-server", &["henge-edge", "henge", "henge-wal"]),
];
/// Nothing of ours may know these.
const ABOVE_ALL: &[&str] = &["henge-tests", "henge-benches"];
/// What an embedder must not have to compile.
const SERVERS_ALONE: &[&str] = &[
    "clap",
    "indicatif",
    "mimalloc",
    "tonic",
    "prost",
    "hyper",
    "hdrhistogram",
    "tracing-subscriber",
];

pub fn broken(manifests: &[(String, String)]) -> Vec<String> {
    let mut found = Vec::new();
    let mut seen = Vec::new();
    for (path, text) in manifests {
        let name = text.lines().find_map(|line| line.strip_prefix("name = \""));
        let name = name.and_then(|rest| rest.strip_suffix('"')).unwrap_or(path);
        if ABOVE_ALL.contains(&name) {
            continue;
        }
        seen.push(name);
        let Some((_, may)) = ARROWS.iter().find(|(of, _)| *of == name) else {
            found.push(format!("{path}: nobody said whom {name} may know"));
            continue;
        };
        let is_embedded = !matches!(name, "henge-edge" | "henge-server");
        for dependency in dependencies(text) {
            let is_ours = dependency == "henge" || dependency.starts_with("henge-");
            if is_ours && !may.contains(&dependency) {
                found.push(format!("{path}: {name} must not know {dependency}"));
            }
            if is_embedded && SERVERS_ALONE.contains(&dependency) {
                found.push(format!(
                    "{path}: whoever embeds the engine would compile {dependency}"
                ));
            }
        }
    }
    let missing = ARROWS.iter().filter(|(name, _)| !seen.contains(name));
    found.extend(missing.map(|(name, _)| format!("{name} is drawn, and not there")));
    found
}

/// Names under `[dependencies]`; what tests alone need is free.
fn dependencies(manifest: &str) -> impl Iterator<Item = &str> {
    let section = manifest
        .split("\n[dependencies]\n")
        .nth(1)
        .unwrap_or_default();
    let lines = section.lines().take_while(|line| !line.starts_with('['));
    lines.filter_map(|line| {
        line.split(['.', ' ', '='])
            .next()
            .filter(|name| !name.is_empty())
    })
}

pub fn break_each() {
    let manifest = |name: &str, dependency: &str| {
        let text = format!(
            "[package]\nname = \"{name}\"\n\n[dependencies]\n{dependency}.workspace = true\n"
        );
        (format!("{name}/Cargo.toml"), text)
    };
    let breaks = |name: &str, dependency: &str| {
        let found = broken(&[manifest(name, dependency)]);
        let here = |line: &&String| line.contains("Cargo.toml") && line.contains(dependency);
        found.iter().any(|line| here(&line))
    };
    assert!(!breaks("henge-core", "henge-raft"), "drawn");
    for (name, may) in ARROWS {
        for other in ARROWS.iter().map(|(other, _)| other).chain(ABOVE_ALL) {
            let allowed = may.contains(other) || other == name;
            assert!(allowed || breaks(name, other), "{name} -> {other}");
        }
    }
    for dependency in SERVERS_ALONE {
        assert!(breaks("henge", dependency), "{dependency}");
        assert!(!breaks("henge-server", dependency), "{dependency}");
    }
    assert!(
        !broken(&[manifest("henge-new", "bytes")]).is_empty(),
        "one that nobody drew"
    );
}
