//! Where the engine's suite runs: every host with the files of this machine, and simulated disks.

use std::path::Path;

use henge::{Engine, EngineBuilder, HostKind};

use super::common::{self, Scratch};
use super::simulated::SimulatedDisk;

#[derive(Clone, Copy, Debug)]
pub enum Host {
    /// On a host, with the files of this machine.
    Real(HostKind),
    /// With its logs on simulated disks, whose files are in the directory while no engine is open.
    Simulated,
}

impl Host {
    /// An engine on this host.
    pub fn engine(self, dir: &Path) -> EngineBuilder {
        let builder = Engine::builder(dir);
        match self {
            Host::Real(kind) => builder.host(kind),
            Host::Simulated => builder
                .host(HostKind::Thread)
                .disks(|core| Box::new(SimulatedDisk::new(core as u64))),
        }
    }
}

/// Runs a test on each host that this machine allows and on simulated disks, on a fresh directory.
pub fn on_every_host(name: &str, test: impl Fn(&Path, Host)) {
    common::on_every_host(name, |dir, kind| test(dir, Host::Real(kind)));
    let dir = Scratch::new(name);
    test(&dir.0, Host::Simulated);
}
