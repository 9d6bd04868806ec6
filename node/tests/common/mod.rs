//! What the engine's test files share: the hosts of this machine, and scratch directories.

use std::path::Path;

use henge::HostKind;

mod scratch;

pub use scratch::Scratch;

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
