//! The engine's public methods, read from its sources: so that a new one cannot be forgotten by the tests
//! that go through all of them.

use std::path::Path;

/// A public method.
#[derive(Clone, Debug)]
pub struct Method {
    /// Of which type.
    pub of: String,
    pub name: String,
    pub docs: String,
    /// From `pub` to the body.
    pub signature: String,
}

impl Method {
    /// Whether it gives a future to be awaited.
    pub fn is_awaited(&self) -> bool {
        self.signature.starts_with("pub async")
            || self.returns("Operation<")
            || self.returns("impl Future<")
    }

    fn returns(&self, what: &str) -> bool {
        let (_, returned) = self.signature.split_once("->").unwrap_or_default();
        returned.trim_start().starts_with(what)
    }
}

/// The public methods of the types that an embedding service meets.
pub fn methods() -> Vec<Method> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    for place in [
        "engine",
        "local",
        "local.rs",
        "../core/src/shard/retention.rs",
    ] {
        read(&root.join(place), &mut found);
    }
    let of = |name: &str| found.iter().filter(|method| method.of == name).count();
    for (name, least) in [("Engine", 25), ("Blocking", 20), ("Local", 25)] {
        assert!(of(name) >= least, "{} methods of {name}", of(name));
    }
    found
}

fn read(path: &Path, found: &mut Vec<Method>) {
    if path.is_dir() {
        let entries = std::fs::read_dir(path).expect("the sources are here");
        let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
        paths.sort();
        return paths.iter().for_each(|path| read(path, found));
    }
    let text = std::fs::read_to_string(path).expect("the sources are here");
    let (mut of, mut docs) = (None, String::new());
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(rest) = line.strip_prefix("impl ") {
            // Inherent ones only: what a trait asks for is described there.
            let name = rest.split([' ', '<']).next().unwrap_or_default();
            of = (!rest.contains(" for ")).then(|| name.to_owned());
        } else if line == "}" {
            of = None;
        }
        let line = line.trim_start();
        if let Some(doc) = line.strip_prefix("///") {
            docs.push_str(doc);
            docs.push('\n');
        } else if line.starts_with("pub fn ") || line.starts_with("pub async fn ") {
            let mut signature = line.to_owned();
            while !signature.ends_with('{') {
                signature.push_str(lines.next().expect("it has a body").trim_start());
            }
            let (_, name) = signature.split_once("fn ").expect("it is one");
            let name = name.split(['(', '<']).next().unwrap_or_default().to_owned();
            if let Some(of) = &of {
                let docs = std::mem::take(&mut docs);
                let of = of.clone();
                found.push(Method {
                    of,
                    name,
                    docs,
                    signature,
                });
            }
        } else if !line.starts_with("#[") {
            docs.clear();
        }
    }
}

/// What the etcd edge awaits, as if they were methods of its seam's traits.
pub fn seam() -> Vec<Method> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("api/src/lib.rs");
    let text = std::fs::read_to_string(path).expect("the sources are here");
    let (mut of, mut found) = (None, Vec::new());
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(rest) = line.strip_prefix("pub trait ") {
            of = rest.split([':', ' ']).next().map(str::to_owned);
        } else if line == "}" {
            of = None;
        }
        let Some(of) = &of else { continue };
        let Some(rest) = line.strip_prefix("    fn ") else {
            continue;
        };
        let mut signature = line.to_owned();
        while !signature.ends_with([';', '{']) {
            signature.push_str(lines.next().expect("it ends").trim_start());
        }
        found.push(Method {
            of: of.clone(),
            name: rest.split(['(', '<']).next().unwrap_or_default().to_owned(),
            docs: String::new(),
            signature,
        });
    }
    assert!(found.len() >= 15, "{found:?}");
    found
}
