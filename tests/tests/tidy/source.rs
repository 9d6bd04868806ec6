//! The sources as the rules read them: code without comments, and without what is compiled for tests alone.

use std::path::{Path, PathBuf};

/// A file of Rust.
#[derive(Clone, Debug)]
pub struct Source {
    /// From the project's root, with `/`.
    pub path: String,
    pub text: String,
    /// It is compiled for tests only.
    pub is_test: bool,
}

impl Source {
    pub fn new(path: &str, text: &str) -> Self {
        Source {
            path: path.to_owned(),
            text: text.to_owned(),
            is_test: false,
        }
    }

    /// Lines of code by number: without comments, and without the tests at a file's end.
    pub fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let end = tests_begin(&self.text).unwrap_or(usize::MAX);
        let numbered = (1..)
            .zip(self.text.lines())
            .take_while(move |(at, _)| *at < end);
        numbered
            .map(|(at, line)| (at, line.split_once("//").map_or(line, |(code, _)| code)))
            .filter(|(_, code)| !code.trim().is_empty())
    }

    /// The lines of the module's document, without their marks.
    pub fn document(&self) -> impl Iterator<Item = &str> {
        let lines = self.text.lines().map_while(|line| line.strip_prefix("//!"));
        lines.map(|line| line.strip_prefix(' ').unwrap_or(line))
    }
}

/// The line with which a module of tests begins, if the file ends with one.
fn tests_begin(text: &str) -> Option<usize> {
    let lines: Vec<_> = text.lines().collect();
    let starts = (0..lines.len().saturating_sub(1)).find(|at| {
        lines[*at] == "#[cfg(test)]"
            && lines[at + 1].starts_with("mod ")
            && lines[at + 1].ends_with('{')
    });
    starts.map(|at| at + 1)
}

/// The project's root.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent()
        .expect("a folder of the project")
        .to_path_buf()
}

/// Every `.rs` file of the project, by path.
pub fn sources() -> Vec<Source> {
    let mut paths = Vec::new();
    walk(&root(), &mut paths, &|path| {
        path.extension().is_some_and(|ext| ext == "rs")
    });
    let mut sources: Vec<_> = paths.iter().map(|path| read(path)).collect();
    let for_tests: Vec<_> = sources.iter().flat_map(modules_of_tests).collect();
    for source in &mut sources {
        let stem = source.path.strip_suffix(".rs").unwrap_or(&source.path);
        source.is_test = !source.path.contains("src/")
            || for_tests
                .iter()
                .any(|of| stem == of || stem.starts_with(&format!("{of}/")));
    }
    sources
}

/// Every `Cargo.toml` of a crate: its path and text.
pub fn manifests() -> Vec<(String, String)> {
    let mut paths = Vec::new();
    walk(&root(), &mut paths, &|path| {
        path.file_name().is_some_and(|name| name == "Cargo.toml")
    });
    let read = paths.iter().map(|path| read(path));
    read.filter(|file| file.text.contains("[package]"))
        .map(|file| (file.path, file.text))
        .collect()
}

/// `#[cfg(test)] mod name;`: where the file of such a module is, without its ending.
fn modules_of_tests(source: &Source) -> Vec<String> {
    let folder = match source.path.strip_suffix(".rs") {
        Some(path) if path.ends_with("/mod") || path.ends_with("/lib") => &path[..path.len() - 4],
        Some(path) => path,
        None => return Vec::new(),
    };
    let lines: Vec<_> = source.text.lines().map(str::trim).collect();
    let pairs = lines.windows(2).filter(|pair| pair[0] == "#[cfg(test)]");
    let names = pairs.filter_map(|pair| {
        let name = pair[1].strip_prefix("pub(crate) ").unwrap_or(pair[1]);
        let name = name.strip_prefix("pub(super) ").unwrap_or(name);
        name.strip_prefix("mod ")?.strip_suffix(';')
    });
    names.map(|name| format!("{folder}/{name}")).collect()
}

fn read(path: &Path) -> Source {
    let text = std::fs::read_to_string(path).expect("a source is text");
    let relative = path.strip_prefix(root()).expect("it was found there");
    Source::new(&relative.to_string_lossy(), &text)
}

fn walk(folder: &Path, into: &mut Vec<PathBuf>, wanted: &dyn Fn(&Path) -> bool) {
    let entries = std::fs::read_dir(folder).expect("the project can be read");
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            walk(&path, into, wanted);
        } else if path.is_file() && wanted(&path) {
            into.push(path);
        }
    }
}
