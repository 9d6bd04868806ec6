//! What the data would lie on: the file system, its room, and the device below.

use std::path::Path;

use henge::host::mounts::{Mount, mount_of, upper};
use henge::host::place;
use henge_wal::Options;
use henge_wal::disk::{Room, file_bytes_max};

use super::{Check, line, size};

/// Room that is worth a word, in bytes.
const SPACE_LOW: u64 = 4 << 30;

/// The file system the directory is on.
pub(super) fn file_system(root: &Path, dir: &Path) -> Check {
    let dir = std::fs::canonicalize(dir).unwrap_or_else(|_| dir.to_path_buf());
    let mounts = std::fs::read_to_string(root.join("proc/self/mountinfo")).unwrap_or_default();
    match mount_of(&mounts, &dir) {
        Some(mount) => judge(&mount, upper(&mounts, &mount).as_ref()),
        None => Check::ok("file system", "unknown").note("/proc/self/mountinfo is not readable"),
    }
}

/// `below` is where an overlay keeps what is written to it, if that can be seen from here.
fn judge(mount: &Mount, below: Option<&Mount>) -> Check {
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
        "overlay" if below.is_some_and(Mount::is_memory) => {
            check.problem("its upper layer is memory: nothing survives a restart of the machine")
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
    judge_space(check, free, file_bytes_max())
}

fn judge_space(check: Check, free_bytes: u64, file_bytes_max: u64) -> Check {
    let room = Room {
        free_bytes,
        file_bytes_max,
    };
    match Options::default().fitted(room) {
        None => check.problem(
            "too little for the segments that a log begins with, 4 MiB each: make room, or give smaller \
             ones (`--wal-segment-bytes`, with a smaller `--max-request-bytes`)",
        ),
        Some((first, max)) if free_bytes < SPACE_LOW => check.note(format!(
            "log and checkpoints together take a few times the data: plan for that (the log's segments \
             would be {} to {})",
            size(first),
            size(max)
        )),
        Some(_) => check,
    }
}

/// The limit on the size of files.
pub(super) fn file_size() -> Check {
    judge_file_size(file_bytes_max())
}

fn judge_file_size(bytes: u64) -> Check {
    if bytes == u64::MAX {
        return Check::ok("file size", "unlimited");
    }
    let check = Check::ok("file size", size(bytes)).figure("bytes", bytes);
    let room = Room {
        free_bytes: u64::MAX,
        file_bytes_max: bytes,
    };
    match Options::default().fitted(room) {
        None => check.problem(
            "below the size of the log's smallest segments: raise the limit (`ulimit -f`, LimitFSIZE=)",
        ),
        Some(_) => check.note(
            "a checkpoint of more data than that cannot be written, and the log is kept instead: raise the \
             limit (`ulimit -f`, LimitFSIZE=)",
        ),
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

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::super::tests::Root;
    use super::*;

    const MOUNTS: &str = "\
        1 0 254:0 / / rw,noatime shared:1 - ext4 /dev/root rw,errors=continue\n\
        2 1 0:5 / /dev/shm rw,nosuid - tmpfs tmpfs rw\n\
        3 1 8:1 / /my\\040disk rw master:2 shared:3 - xfs /dev/sda1 rw,nobarrier\n\
        4 1 0:7 / /live rw - overlay overlay rw,lowerdir=/rom,upperdir=/dev/shm/up,workdir=/dev/shm/w\n\
        5 1 0:8 / /layer rw - overlay overlay rw,lowerdir=/rom,upperdir=/var/up,workdir=/var/w\n";

    #[test]
    fn what_loses_data_is_a_problem() {
        let verdict = |path: &str| {
            let mount = mount_of(MOUNTS, Path::new(path)).expect("it is there");
            judge(&mount, upper(MOUNTS, &mount).as_ref()).verdict
        };
        assert_eq!(verdict("/data"), Verdict::Ok);
        assert_eq!(verdict("/dev/shm"), Verdict::Problem);
        assert_eq!(
            verdict("/live/data"),
            Verdict::Problem,
            "an overlay on memory"
        );
        assert_eq!(verdict("/layer"), Verdict::Note);
        assert_eq!(verdict("/my disk"), Verdict::Problem, "no barriers");
        let nfs = Mount {
            at: "/".into(),
            kind: "nfs4".into(),
            source: "server:/x".into(),
            options: "rw".into(),
        };
        assert_eq!(judge(&nfs, None).verdict, Verdict::Note);
    }

    #[test]
    fn room_is_judged() {
        let verdict = |free: u64| judge_space(Check::ok("space", ""), free, u64::MAX).verdict;
        assert_eq!(verdict(100 << 30), Verdict::Ok);
        assert_eq!(verdict(1 << 30), Verdict::Note);
        assert_eq!(verdict(1 << 20), Verdict::Problem);
    }

    #[test]
    fn a_limit_on_files_is_judged_by_what_a_log_needs() {
        let verdict = |bytes: u64| judge_file_size(bytes).verdict;
        assert_eq!(verdict(u64::MAX), Verdict::Ok);
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
