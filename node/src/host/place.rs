//! Where a core's thread should run: on the processor that hears from the disk, if there is one.
//!
//! A device with one queue (virtio-blk as most clouds have it) interrupts one processor. A commit is
//! a write, a flush and two completions; on another processor each of them crosses over and wakes a
//! sleeping processor. Measured on the reference machine: a durable 4 KiB write takes 106 us there
//! and 172 us elsewhere. Devices with a queue per processor have no such place.
//!
//! Only ever a preference: whatever cannot be read means none. Tested on a made-up `/sys` and `/proc`.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{major, minor};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// How deep devices may be stacked (encryption on a volume on a disk).
const DEPTH_MAX: usize = 8;

/// How many processors this process may keep busy: those its affinity allows, fewer if its control group
/// (either version) has a quota of processor time. At least one.
pub fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// The one processor that completions of the directory's disk arrive at.
pub fn disk_cpu(dir: &Path) -> Option<usize> {
    single_queue_cpu(Path::new("/"), &device_number(dir)?)
}

/// The `major:minor` of what the directory's file system is on.
pub fn device_number(dir: &Path) -> Option<String> {
    let device = fs::metadata(dir).ok()?.dev();
    Some(format!("{}:{}", major(device), minor(device)))
}

/// The folder of the disk under a block device, below partitions and single-device mappings.
/// `root` is `/`.
pub fn disk_folder(root: &Path, number: &str) -> Option<PathBuf> {
    bottom(root.join("sys/dev/block").join(number))
}

/// Keeps the current thread on a processor, if it may run there and has a choice.
pub fn pin(cpu: usize) {
    let Ok(allowed) = sched_getaffinity(None) else {
        return;
    };
    if cpu >= CpuSet::MAX_CPU || !allowed.is_set(cpu) || allowed.count() < 2 {
        return;
    }
    let mut only = CpuSet::new();
    only.set(cpu);
    if let Err(error) = sched_setaffinity(None, &only) {
        tracing::debug!(cpu, %error, "the core's thread stays unpinned");
    }
}

/// The one processor that hears from a disk. `root` is `/`.
pub fn single_queue_cpu(root: &Path, number: &str) -> Option<usize> {
    let disk = disk_folder(root, number)?;
    if fs::read_dir(disk.join("mq")).ok()?.count() != 1 {
        return None;
    }
    let irqs = disk.ancestors().map(|at| at.join("msi_irqs"));
    let irqs = irqs.into_iter().find(|at| at.is_dir())?;
    let busiest = fs::read_dir(irqs)
        .ok()?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .max_by_key(|irq| times(root, irq))?;
    if times(root, &busiest) == 0 {
        return None;
    }
    let list = root
        .join("proc/irq")
        .join(busiest)
        .join("effective_affinity_list");
    // One number, or a list of which the first is as good as any.
    let list = fs::read_to_string(list).ok()?;
    let first = list.trim().split([',', '-']).next()?;
    first.parse().ok()
}

fn bottom(mut at: PathBuf) -> Option<PathBuf> {
    for _ in 0..DEPTH_MAX {
        at = fs::canonicalize(&at).ok()?;
        if at.join("partition").exists() {
            at = at.parent()?.to_path_buf();
        }
        let mut below: Vec<PathBuf> = match fs::read_dir(at.join("slaves")) {
            Ok(slaves) => slaves.filter_map(|s| Some(s.ok()?.path())).collect(),
            Err(_) => Vec::new(),
        };
        match below.len() {
            0 => return Some(at),
            1 => at = below.remove(0),
            _ => return None,
        }
    }
    None
}

/// How often an interrupt came, over all processors.
fn times(root: &Path, irq: &str) -> u64 {
    let counts = root.join("sys/kernel/irq").join(irq).join("per_cpu_count");
    let counts = fs::read_to_string(counts).unwrap_or_default();
    counts
        .trim()
        .split(',')
        .filter_map(|count| count.parse::<u64>().ok())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Machine(PathBuf);

    impl Machine {
        /// A disk 254:0 with a partition 254:1, one queue, and two interrupts.
        fn new(name: &str) -> Self {
            let root =
                std::env::temp_dir().join(format!("henge-place-{}-{name}", std::process::id()));
            let machine = Machine(root);
            let disk = "sys/devices/pci/virtio1/block/vda";
            machine.file(&format!("{disk}/mq/0/cpu_list"), "0, 1");
            machine.file(&format!("{disk}/vda1/partition"), "1");
            machine.file("sys/devices/pci/msi_irqs/35", "msix");
            machine.file("sys/devices/pci/msi_irqs/36", "msix");
            machine.file("sys/kernel/irq/35/per_cpu_count", "0,0\n");
            machine.file("sys/kernel/irq/36/per_cpu_count", "12,4877707\n");
            machine.file("proc/irq/35/effective_affinity_list", "0\n");
            machine.file("proc/irq/36/effective_affinity_list", "1\n");
            machine.link("sys/dev/block/254:0", disk);
            machine.link("sys/dev/block/254:1", &format!("{disk}/vda1"));
            machine
        }

        fn file(&self, path: &str, text: &str) {
            let path = self.0.join(path);
            fs::create_dir_all(path.parent().expect("has one")).expect("can be made");
            fs::write(path, text).expect("can be written");
        }

        fn link(&self, from: &str, to: &str) {
            let from = self.0.join(from);
            fs::create_dir_all(from.parent().expect("has one")).expect("can be made");
            std::os::unix::fs::symlink(self.0.join(to), from).expect("can be linked");
        }

        fn cpu(&self, number: &str) -> Option<usize> {
            single_queue_cpu(&self.0, number)
        }
    }

    impl Drop for Machine {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_disk_with_one_queue_is_heard_on_one_processor() {
        let machine = Machine::new("one");
        assert_eq!(machine.cpu("254:0"), Some(1));
        assert_eq!(machine.cpu("254:1"), Some(1), "through its partition");
        // A mapping on the partition.
        machine.file("sys/devices/virtual/block/dm-0/dm/name", "crypt");
        machine.link(
            "sys/devices/virtual/block/dm-0/slaves/vda1",
            "sys/devices/pci/virtio1/block/vda/vda1",
        );
        machine.link("sys/dev/block/253:0", "sys/devices/virtual/block/dm-0");
        assert_eq!(machine.cpu("253:0"), Some(1));
    }

    #[test]
    fn no_preference_where_there_is_none_or_none_can_be_read() {
        let machine = Machine::new("none");
        assert_eq!(machine.cpu("0:42"), None, "not a disk");
        machine.file("sys/kernel/irq/36/per_cpu_count", "0,0\n");
        assert_eq!(machine.cpu("254:0"), None, "it never interrupted");
        machine.file("sys/kernel/irq/36/per_cpu_count", "1,0\n");
        assert_eq!(machine.cpu("254:0"), Some(1));
        machine.file("sys/devices/pci/virtio1/block/vda/mq/1/cpu_list", "1");
        assert_eq!(machine.cpu("254:0"), None, "two queues");
    }

    #[test]
    fn pinning_stays_within_what_is_allowed() {
        // On a thread of its own: affinity belongs to a thread.
        let pinned = std::thread::spawn(|| {
            pin(CpuSet::MAX_CPU);
            let before = sched_getaffinity(None).expect("readable");
            let last = (0..CpuSet::MAX_CPU).rfind(|cpu| before.is_set(*cpu));
            pin(last.expect("it runs somewhere"));
            let after = sched_getaffinity(None).expect("readable");
            (
                before.count(),
                after.count(),
                last.map(|cpu| after.is_set(cpu)),
            )
        });
        let (_, after, on_it) = pinned.join().expect("it ends");
        assert_eq!((after, on_it), (1, Some(true)));
    }
}
