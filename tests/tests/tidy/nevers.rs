//! What a room must never know, as words that its code does not say.

use super::source::Source;

/// One rule: in which files, which words, and why.
struct Never {
    rooms: &'static [&'static str],
    but: &'static [&'static str],
    words: &'static [&'static str],
    why: &'static str,
}

const WORLD: &[&str] = &[
    "tokio::",
    "std::fs",
    "std::net",
    "std::thread",
    "Instant",
    "SystemTime",
    "glommio",
    "io_uring",
];

const NEVERS: &[Never] = &[
    Never {
        rooms: &["raft/src", "mvcc/src", "node/core/src"],
        but: &[],
        words: WORLD,
        why: "values in, values out: what reads a clock, a file or a socket cannot be replayed from a seed",
    },
    Never {
        rooms: &["wal/src/checkpoint"],
        but: &[],
        words: &[
            "std::fs",
            "std::thread::spawn",
            "std::thread::Builder",
            "Instant",
            "SystemTime",
        ],
        why: "checkpoints are operations of the disk seam: past it, no simulated power cut meets them",
    },
    Never {
        rooms: &["node/core/src", "node/src", "node/api/src", "node/peer/src"],
        but: &[],
        words: &["prost", "tonic", "protobuf", "etcdserverpb"],
        why: "no protobuf type is seen behind the edge",
    },
    Never {
        rooms: &[
            "node/core/src",
            "node/src",
            "node/api/src",
            "node/peer/src",
            "mvcc/src",
            "raft/src",
            "wal/src",
        ],
        but: &[],
        words: &["etcdserver: "],
        why: "etcd's texts are the edge's: below it errors have types",
    },
    Never {
        rooms: &["node/core/src"],
        but: &[],
        words: &["SocketAddr", "IpAddr"],
        why: "a core sends to ids; addresses are the cluster's, and text at the most",
    },
    Never {
        rooms: &["node/core/src/shard"],
        but: &[],
        words: &[
            "crate::turn",
            "crate::intake",
            "crate::inbox",
            "crate::agenda",
            "crate::timers",
            "crate::pressure",
            "crate::background",
            "crate::budget",
            "crate::recover",
            "crate::Core",
        ],
        why: "a shard is one group: what drives it, and beside whom, is its core's business",
    },
    Never {
        rooms: &["node/core/src/machine"],
        but: &[],
        words: &[
            "henge_raft",
            "henge_wal",
            "crate::shard",
            "crate::inbox",
            "Mutex",
            "Waker",
        ],
        why: "commands are applied alike everywhere: no messages, no handles of callers",
    },
    Never {
        rooms: &["node/edge/src"],
        but: &[],
        words: &[
            "henge_core",
            "henge_raft",
            "henge_wal",
            "henge_peer",
            "Engine",
            "henge::",
        ],
        why: "the edge sees `Backend` and nothing else",
    },
    Never {
        rooms: &["node/edge/src/door"],
        but: &[],
        words: &[
            "crate::etcd",
            "crate::plain",
            "crate::edge",
            "prost",
            "henge_mvcc",
            "Backend",
        ],
        why: "the door lets requests in and answers out, whoever answers them and whatever they say",
    },
    Never {
        rooms: &["node/edge/src/counters"],
        but: &[],
        words: &["crate::etcd", "crate::door", "crate::edge"],
        why: "whoever does something counts it; what counts knows nobody who does",
    },
    Never {
        rooms: &["node/peer/src"],
        but: &[],
        words: &["group:", "Message {", "Entry"],
        why: "the transport carries bytes from member to member: whose, and what for, others know",
    },
    Never {
        rooms: &["node/src/host"],
        but: &[],
        words: &["crate::engine", "crate::cluster"],
        why: "a host drives a core; why there is one, and what failed to open, is told by whoever opens",
    },
    Never {
        rooms: &["node/api/src"],
        but: &[],
        words: &["Engine", "Keyspace", "henge_core"],
        why: "who implements it is nobody's business here",
    },
    Never {
        rooms: &["mvcc/src"],
        but: &[],
        words: &["member_id", "user_id", "auth"],
        why: "the store has keys and revisions; members and users come before it",
    },
    Never {
        rooms: &["tests/src/sim", "node/src/engine"],
        // It moves groups between logs, before there is a core.
        but: &["node/src/engine/rehome.rs"],
        words: &[
            "Core::new(",
            "Shard::start(",
            "Wal::open(",
            "Recovery::new(",
        ],
        why: "there is one way to open a core, `henge_core::open`, or the simulator tests another product",
    },
];

pub fn broken(source: &Source) -> Vec<String> {
    if source.is_test {
        return Vec::new();
    }
    let mut found = Vec::new();
    for never in NEVERS.iter().filter(|never| never.is_about(&source.path)) {
        for (at, code) in source.code() {
            for word in never.words.iter().filter(|word| says(code, word)) {
                found.push(format!(
                    "{}:{at}: says `{word}`: {}",
                    source.path, never.why
                ));
            }
        }
    }
    found
}

impl Never {
    fn is_about(&self, path: &str) -> bool {
        let under =
            |room: &&str| path.starts_with(*room) && path[room.len()..].starts_with(['/', '.']);
        self.rooms.iter().any(under) && !self.but.contains(&path)
    }
}

/// Whether the word stands there as a whole, at its beginning at least.
fn says(code: &str, word: &str) -> bool {
    code.match_indices(word).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = code[at + word.len()..].chars().next();
        let begins = !before.is_some_and(|c| c.is_alphanumeric() || c == '_');
        let open = word.ends_with(|c: char| !c.is_alphanumeric());
        begins && (open || !after.is_some_and(|c| c.is_alphanumeric() || c == '_'))
    })
}

pub fn break_each() {
    for never in NEVERS {
        for room in never.rooms {
            for word in never.words {
                let path = format!("{room}/new.rs");
                let code = format!("//! New.\nuse {word};\n");
                assert!(
                    !broken(&Source::new(&path, &code)).is_empty(),
                    "{path}: {word}"
                );
                let said = format!(
                    "//! {word}\n// {word}\n#[cfg(test)]\nmod tests {{\n    use {word};\n}}\n"
                );
                assert_eq!(
                    broken(&Source::new(&path, &said)),
                    [""; 0],
                    "{path}: comments and tests"
                );
            }
        }
    }
}
