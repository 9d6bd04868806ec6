//! What the data would lie on: the file system, its room, and the device below.

use std::path::{Path, PathBuf};

use super::{Check, line, size};
use crate::host::place;

/// Room below which an engine refuses writes soon, in bytes: three log segments and a checkpoint.
const SPACE_SMALL: u64 = 512 << 20;
/// Room that is worth a word, in bytes.
const SPACE_LOW: u64 = 4 << 30;

/// The file system the directory is on.
pub(super) fn file_system(root: &Path, dir: &Path) -> Check {
    let dir = std::fs::canonicalize(dir).unwrap_or_else(|_| dir.to_path_buf());
    let mounts = std::fs::read_to_string(root.join("proc/self/mountinfo")).unwrap_or_default();
    match mount_of(&mounts, &dir) {
        Some(mount) => judge(&mount),
        None => Check::ok("file system", "unknown").note("/proc/self/mountinfo is not readable"),
    }
}

fn judge(mount: &Mount) -> Check {
    let found = format!("{} on {}, {}", mount.kind, mount.source, mount.options);
    let mut check = Check::ok("file system", found).figure("kind", mount.kind.as_str());
    let has = |option: &str| mount.options.split(',').any(|each| each == option);
    if has("nobarrier") || has("barrier=0") {
        check = check.problem(
            "mounted without barriers: a power cut loses writes that were acknowledged; mount \
             without that option",
        );
    }
    match mount.kind.as_str() {
        "ext4" | "xfs" => check,
        "tmpfs" | "ramfs" => {
            check.problem("this is memory: nothing survives a restart of the machine")
        }
        "overlay" => check.note(
            "a container's own layer: slower, and gone with the container; mount a volume there",
        ),
        "btrfs" | "zfs" | "bcachefs" => check.note(
            "copy-on-write: the log's preallocated segments gain nothing; ext4 or xfs commit faster",
        ),
        kind if kind.starts_with("nfs")
            || kind.starts_with("fuse")
            || ["cifs", "smb3", "9p", "ceph", "virtiofs"].contains(&kind) =>
        {
            check.note(
                "over a network or another process: locks and syncs are only as good as theirs; a \
                 local disk is what the engine is made for",
            )
        }
        _ => check.note("not measured with this engine; ext4 and xfs are"),
    }
}

/// The room left.
pub(super) fn space(dir: &Path) -> Check {
    let Ok(room) = rustix::fs::statvfs(dir) else {
        return Check::ok("space", "unknown").note("the file system does not say");
    };
    let free = room.f_bavail.saturating_mul(room.f_frsize);
    let total = room.f_blocks.saturating_mul(room.f_frsize);
    let check = Check::ok("space", format!("{} free of {}", size(free), size(total)))
        .figure("free_bytes", free);
    judge_space(check, free)
}

fn judge_space(check: Check, free: u64) -> Check {
    if free < SPACE_SMALL {
        check.problem("writes are refused when no log segment fits any more: make room")
    } else if free < SPACE_LOW {
        check.note("log and checkpoints together take a few times the data: plan for that")
    } else {
        check
    }
}

/// The block device below the file system.
pub(super) fn device(root: &Path, dir: &Path) -> Check {
    let number = place::device_number(dir);
    let found = number.and_then(|number| Device::read(root, &number));
    match found {
        Some(device) => device.judge(),
        None => Check::ok("device", "not a single block device")
            .note("nothing is known about its cache: see commit latency below"),
    }
}

/// What `/sys` says about a disk.
#[derive(Debug)]
struct Device {
    name: String,
    write_back: bool,
    fua: bool,
    rotational: bool,
    queues: usize,
    cpu: Option<usize>,
}

impl Device {
    fn read(root: &Path, number: &str) -> Option<Self> {
        let folder = place::disk_folder(root, number)?;
        let queue = |name: &str| line(&folder.join("queue").join(name));
        Some(Device {
            name: folder.file_name()?.to_string_lossy().into_owned(),
            write_back: queue("write_cache")? == "write back",
            fua: queue("fua").as_deref() == Some("1"),
            rotational: queue("rotational").as_deref() == Some("1"),
            queues: std::fs::read_dir(folder.join("mq")).map_or(0, Iterator::count),
            cpu: place::single_queue_cpu(root, number),
        })
    }

    fn judge(&self) -> Check {
        let cache = match (self.write_back, self.fua) {
            (false, _) => "no volatile cache (write through)",
            (true, true) => "write-back cache with FUA",
            (true, false) => "write-back cache without FUA",
        };
        let queues = match self.queues {
            0 => "unknown queues".to_owned(),
            1 => "1 queue".to_owned(),
            count => format!("{count} queues"),
        };
        let heard = self
            .cpu
            .map_or(String::new(), |cpu| format!(", heard on processor {cpu}"));
        let found = format!("{}: {cache}, {queues}{heard}", self.name);
        let mut check = Check::ok("device", found)
            .figure("write_back", self.write_back)
            .figure("fua", self.fua)
            .figure("queues", self.queues);
        if self.write_back && !self.fua {
            check = check.note(
                "every commit is a write and a flush of the whole cache; other writers on the same \
                 device are flushed with it: give the log a device of its own if you can",
            );
        }
        if self.rotational {
            check = check.note("it calls itself rotational: a commit then waits for the platter");
        }
        if let Some(cpu) = self.cpu {
            check = check.note(format!(
                "its interrupts all arrive at processor {cpu}: the first core is kept there, leave \
                 that one free of other work"
            ));
        }
        check
    }
}

/// One line of mountinfo.
#[derive(Debug, PartialEq)]
struct Mount {
    at: PathBuf,
    kind: String,
    source: String,
    options: String,
}

/// The mount that holds a path: the longest mount point above it, and of equal ones the last.
fn mount_of(mounts: &str, path: &Path) -> Option<Mount> {
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
    use super::super::Verdict;
    use super::super::tests::Root;
    use super::*;

    const MOUNTS: &str = "\
        1 0 254:0 / / rw,noatime shared:1 - ext4 /dev/root rw,errors=continue\n\
        2 1 0:5 / /dev/shm rw,nosuid - tmpfs tmpfs rw\n\
        3 1 8:1 / /my\\040disk rw master:2 shared:3 - xfs /dev/sda1 rw,nobarrier\n";

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
    fn what_loses_data_is_a_problem() {
        let verdict =
            |path: &str| judge(&mount_of(MOUNTS, Path::new(path)).expect("it is there")).verdict;
        assert_eq!(verdict("/data"), Verdict::Ok);
        assert_eq!(verdict("/dev/shm"), Verdict::Problem);
        assert_eq!(verdict("/my disk"), Verdict::Problem, "no barriers");
        let nfs = Mount {
            at: "/".into(),
            kind: "nfs4".into(),
            source: "server:/x".into(),
            options: "rw".into(),
        };
        assert_eq!(judge(&nfs).verdict, Verdict::Note);
    }

    #[test]
    fn room_is_judged() {
        let verdict = |free: u64| judge_space(Check::ok("space", ""), free).verdict;
        assert_eq!(verdict(100 << 30), Verdict::Ok);
        assert_eq!(verdict(1 << 30), Verdict::Note);
        assert_eq!(verdict(1 << 20), Verdict::Problem);
    }

    #[test]
    fn a_device_is_read_from_sys() {
        let root = Root::new("device");
        let disk = "sys/devices/pci/block/vda";
        root.file(&format!("{disk}/queue/write_cache"), "write back\n");
        root.file(&format!("{disk}/queue/fua"), "0\n");
        root.file(&format!("{disk}/queue/rotational"), "0\n");
        root.file(&format!("{disk}/mq/0/cpu_list"), "0\n");
        root.file(&format!("{disk}/mq/1/cpu_list"), "1\n");
        std::fs::create_dir_all(root.0.join("sys/dev/block")).expect("can be made");
        std::os::unix::fs::symlink(root.0.join(disk), root.0.join("sys/dev/block/254:0"))
            .expect("can be linked");
        let device = Device::read(&root.0, "254:0").expect("it is there");
        let check = device.judge();
        assert_eq!(check.found, "vda: write-back cache without FUA, 2 queues");
        assert_eq!(check.verdict, Verdict::Note);
        root.file(&format!("{disk}/queue/fua"), "1\n");
        let device = Device::read(&root.0, "254:0").expect("it is there");
        assert_eq!(device.judge().verdict, Verdict::Ok);
        assert!(Device::read(&root.0, "8:0").is_none());
    }
}
