//! The kernel, its io_uring, and the limit on locked memory.

use std::path::Path;

use henge_wal::disk::ring;

use super::{Check, line, size};

/// Locked memory that the glommio host asks for, in bytes; the other hosts need none.
const GLOMMIO_MEMLOCK: u64 = 512 << 10;

/// The kernel's version.
pub(super) fn kernel(root: &Path) -> Check {
    let Some(release) = line(&root.join("proc/sys/kernel/osrelease")) else {
        return Check::ok("kernel", "unknown").note("/proc is not readable: is it mounted?");
    };
    let check = Check::ok("kernel", format!("Linux {release}")).figure("release", release.as_str());
    match version(&release) {
        Some(version) if version < (5, 11) => check.note(
            "before 5.11 io_uring lacks operations: log writes use a thread; 6.1 or newer is best",
        ),
        Some(version) if version < (6, 1) => {
            check.note("6.1 or newer spares the core interruptions by finished writes")
        }
        _ => check,
    }
}

/// Whether rings can be made, in each of the ways the disk knows.
pub(super) fn io_uring(root: &Path) -> Check {
    let modes = ring::modes();
    let probed = ring::probe();
    let words = modes.iter().map(|mode| match &mode.result {
        Ok(()) => format!("{}: yes", mode.name),
        Err(error) => format!("{} (Linux {}): {error}", mode.name, mode.since),
    });
    let mut check = Check::ok("io_uring", words.collect::<Vec<_>>().join("; "));
    for mode in &modes {
        check = check.figure(mode.name, mode.result.is_ok());
    }
    match probed {
        Ok(()) if modes.first().is_some_and(|best| best.result.is_ok()) => check,
        Ok(()) => check.note("a newer kernel has a cheaper way; nothing to fix otherwise"),
        Err(reason) => {
            let switch = line(&root.join("proc/sys/kernel/io_uring_disabled"));
            let switched_off = matches!(switch.as_deref(), Some("1" | "2"));
            check.note(if switched_off {
                "log writes use a thread, which serves fewer requests per core; \
                 `sysctl kernel.io_uring_disabled=0` allows it"
                    .to_owned()
            } else {
                format!(
                    "{reason}; log writes use a thread, which serves fewer requests per core. In a \
                     container, a seccomp profile that allows io_uring_setup, io_uring_enter and \
                     io_uring_register gives it back"
                )
            })
        }
    }
}

/// The limit on locked memory.
pub(super) fn memlock(root: &Path) -> Check {
    let limits = std::fs::read_to_string(root.join("proc/self/limits")).unwrap_or_default();
    let soft = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max locked memory"))
        .and_then(|rest| rest.split_whitespace().next());
    match soft {
        Some("unlimited") => Check::ok("memlock", "unlimited"),
        Some(soft) => {
            let bytes: u64 = soft.parse().unwrap_or(0);
            let check = Check::ok("memlock", size(bytes)).figure("bytes", bytes);
            if bytes < GLOMMIO_MEMLOCK {
                check.note("the glommio host needs 512 KiB (`ulimit -l 512`); the others need none")
            } else {
                check
            }
        }
        None => Check::ok("memlock", "unknown").note("/proc/self/limits is not readable"),
    }
}

/// Major and minor of a release such as `6.18.44-cloud`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(['.', '-', '+']);
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::super::tests::Root;
    use super::*;

    #[test]
    fn old_kernels_are_noted() {
        let root = Root::new("kernel");
        let verdict = |release: &str| {
            root.file("proc/sys/kernel/osrelease", release);
            kernel(&root.0).verdict
        };
        assert_eq!(verdict("6.18.44-fc\n"), Verdict::Ok);
        assert_eq!(verdict("6.1.0-rc1\n"), Verdict::Ok);
        assert_eq!(verdict("5.15.0-91-generic\n"), Verdict::Note);
        assert_eq!(verdict("4.18.0\n"), Verdict::Note);
        assert_eq!(verdict("strange\n"), Verdict::Ok, "not ours to judge");
        assert_eq!(kernel(&root.0.join("no")).verdict, Verdict::Note);
    }

    #[test]
    fn locked_memory_is_read_from_the_limits() {
        let root = Root::new("memlock");
        let check = |soft: &str| {
            let text = format!(
                "Limit                     Soft Limit           Hard Limit           Units\n\
                 Max locked memory         {soft:<21}8388608              bytes\n"
            );
            root.file("proc/self/limits", &text);
            memlock(&root.0)
        };
        assert_eq!(check("8388608").found, "8.0 MiB");
        assert_eq!(check("unlimited").verdict, Verdict::Ok);
        let small = check("65536");
        assert_eq!(small.verdict, Verdict::Note);
        assert!(
            small
                .advice
                .is_some_and(|advice| advice.contains("glommio"))
        );
    }
}
