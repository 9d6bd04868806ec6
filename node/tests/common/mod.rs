//! What the engine's test files share: the hosts of this machine, and scratch directories.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use henge::HostKind;

/// The hosts this build has, whether or not this machine allows them.
pub const HOSTS: &[HostKind] = &[
    HostKind::Thread,
    HostKind::TokioUring,
    HostKind::Ring,
    #[cfg(feature = "glommio")]
    HostKind::Glommio,
];

/// Runs a test on each host that this machine allows, on a fresh directory.
pub fn on_every_host(name: &str, test: impl Fn(&Path, HostKind)) {
    for host in HOSTS {
        if let Err(reason) = usable(*host) {
            println!("skipped {name} on {host}: {reason}");
            continue;
        }
        let dir = Scratch::new(name);
        test(&dir.0, *host);
    }
}

/// Whether this machine allows it.
pub fn usable(host: HostKind) -> Result<(), String> {
    match host {
        HostKind::TokioUring => henge::wal::disk::tokio_uring::probe(),
        HostKind::Thread => Ok(()),
        _ => henge::wal::disk::ring::probe(),
    }
}

/// A directory that goes away with this value.
pub struct Scratch(pub PathBuf);

impl Scratch {
    pub fn new(name: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let unique = format!("henge-{name}-{}-{number}", std::process::id());
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(unique);
        let _ = std::fs::remove_dir_all(&path);
        Scratch(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
