//! What a directory is mounted on, as `/proc/self/mountinfo` tells it.
//!
//! Promises: a word on the file system below a path, or none; nothing here is needed to run. Must never
//! know: who asks.

use std::path::{Path, PathBuf};

/// Whether what is written below a directory is in memory only, and the name of the file system there.
pub fn memory_below(dir: &Path) -> Option<String> {
    let dir = std::fs::canonicalize(dir).ok()?;
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    let mount = mount_of(&mounts, &dir)?;
    let above_memory = upper(&mounts, &mount).is_some_and(|upper| upper.is_memory());
    (mount.is_memory() || above_memory).then_some(mount.kind)
}

impl Mount {
    /// Nothing in it survives a restart of the machine.
    pub fn is_memory(&self) -> bool {
        matches!(self.kind.as_str(), "tmpfs" | "ramfs")
    }
}

/// The mount that an overlay's writes go to. Nothing for another file system, or where that is not visible.
pub fn upper(mounts: &str, mount: &Mount) -> Option<Mount> {
    let mut options = mount.options.split(',');
    let dir = options.find_map(|option| option.strip_prefix("upperdir="))?;
    mount_of(mounts, Path::new(&unescape(dir))).filter(|_| mount.kind == "overlay")
}

/// One line of mountinfo.
#[derive(Debug, PartialEq)]
pub struct Mount {
    /// Where it is mounted.
    pub at: PathBuf,
    /// The file system's name.
    pub kind: String,
    /// The device, or whatever stands for one.
    pub source: String,
    /// Its options and its file system's, once each.
    pub options: String,
}

/// The mount that holds a path: the longest mount point above it, and of equal ones the last.
pub fn mount_of(mounts: &str, path: &Path) -> Option<Mount> {
    let above = mounts.lines().filter_map(parse_mount);
    above
        .filter(|mount| path.starts_with(&mount.at))
        .max_by_key(|mount| mount.at.components().count())
}

/// `36 35 98:0 /root /mount/point options optional… - type source super-options` (proc(5)).
fn parse_mount(line: &str) -> Option<Mount> {
    let (left, right) = line.split_once(" - ")?;
    let mut left = left.split(' ').skip(4);
    let (at, options) = (left.next()?, left.next()?);
    let mut right = right.split(' ');
    let (kind, source) = (right.next()?, right.next()?);
    let super_options = right.next().unwrap_or_default();
    let mut all: Vec<&str> = Vec::new();
    for option in options.split(',').chain(super_options.split(',')) {
        if !option.is_empty() && !all.contains(&option) {
            all.push(option);
        }
    }
    Some(Mount {
        at: PathBuf::from(unescape(at)),
        kind: kind.to_owned(),
        source: unescape(source),
        options: all.join(","),
    })
}

/// Space, tab, newline and backslash are written as three octal digits.
fn unescape(text: &str) -> String {
    let codes = [
        ("\\040", " "),
        ("\\011", "\t"),
        ("\\012", "\n"),
        ("\\134", "\\"),
    ];
    codes.iter().fold(text.to_owned(), |text, (code, plain)| {
        text.replace(code, plain)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
        1 0 254:0 / / rw,noatime shared:1 - ext4 /dev/root rw,errors=continue\n\
        2 1 0:5 / /dev/shm rw,nosuid - tmpfs tmpfs rw\n\
        3 1 8:1 / /my\\040disk rw master:2 shared:3 - xfs /dev/sda1 rw,nobarrier\n\
        4 1 0:7 / /live rw - overlay overlay rw,lowerdir=/rom,upperdir=/dev/shm/up,workdir=/dev/shm/w\n";

    #[test]
    fn the_longest_mount_point_holds_the_path() {
        let kind = |path: &str| mount_of(MOUNTS, Path::new(path)).map(|mount| mount.kind);
        assert_eq!(kind("/var/lib/henge").as_deref(), Some("ext4"));
        assert_eq!(kind("/dev/shm/x").as_deref(), Some("tmpfs"));
        assert_eq!(
            kind("/dev/shmoo").as_deref(),
            Some("ext4"),
            "whole names only"
        );
        let xfs = mount_of(MOUNTS, Path::new("/my disk/data")).expect("it is there");
        assert_eq!(
            (xfs.source.as_str(), xfs.options.as_str()),
            ("/dev/sda1", "rw,nobarrier")
        );
        assert_eq!(mount_of("", Path::new("/")), None);
    }

    #[test]
    fn an_overlay_is_as_durable_as_what_is_written_to() {
        let of = |path: &str| mount_of(MOUNTS, Path::new(path)).expect("it is there");
        assert!(!of("/data").is_memory() && of("/dev/shm/data").is_memory());
        let live = of("/live/data");
        assert!(!live.is_memory());
        assert!(upper(MOUNTS, &live).is_some_and(|upper| upper.is_memory()));
        assert_eq!(upper(MOUNTS, &of("/data")), None);
    }
}
