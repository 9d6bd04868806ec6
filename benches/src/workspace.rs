//! This workspace's own build: where it is, a server from it, and the opponent.
//!
//! Promises: the server is brought up to date first, as comparing a stale one would be worse than comparing
//! none; which etcd was found is said by whoever runs it. Must never know: what is measured. Tested by every
//! run of `peers` and `hosts`.

use std::path::{Path, PathBuf};
use std::process::Command;

/// What `benches/etcd/build.sh` ends with where there is no Go.
const NO_GO: i32 = 3;

/// Cargo's target directory, which the running program is in (`target/release/NAME`).
pub fn target_dir() -> Result<PathBuf, String> {
    let own = std::env::current_exe().map_err(|e| format!("cannot find my own path: {e}"))?;
    own.ancestors()
        .nth(2)
        .map(Path::to_path_buf)
        .ok_or_else(|| format!("{} is in no target directory; give --dir", own.display()))
}

/// The release build of `henge` with these features, in a target directory of the caller's choice: builds
/// with other features overwrite each other.
pub fn built_henge(target: &Path, features: &[&str]) -> Result<PathBuf, String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(&cargo);
    build
        .args(["build", "--release", "--quiet", "-p", "henge-server"])
        .args(["--bin", "henge", "--target-dir"])
        .arg(target)
        .current_dir(env!("CARGO_MANIFEST_DIR"));
    if !features.is_empty() {
        build.arg("--features").arg(features.join(","));
    }
    let status = build
        .status()
        .map_err(|e| format!("cannot run cargo to build henge: {e}; give --binary PATH"))?;
    if !status.success() {
        return Err(format!(
            "building henge failed ({status}); or give --binary PATH"
        ));
    }
    Ok(target.join("release").join("henge"))
}

/// The etcd to compare with, unless the caller names one: 3.7.3 from our own Go module (`benches/etcd`),
/// built into this target directory, or where there is no Go the one on the PATH.
pub fn opponent(target: &Path) -> Result<PathBuf, String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("etcd/build.sh");
    let built = Command::new(&script)
        .arg(target.join("etcd-3.7"))
        .stderr(std::process::Stdio::inherit())
        .output()
        .map_err(|e| format!("cannot run {}: {e}", script.display()))?;
    match built.status.code() {
        Some(0) => {
            let dir = String::from_utf8_lossy(&built.stdout);
            Ok(PathBuf::from(dir.trim()).join("etcd"))
        }
        Some(NO_GO) => {
            eprintln!("note: comparing with the etcd on the PATH instead");
            Ok("etcd".into())
        }
        _ => Err("etcd 3.7 could not be built (see above); or give --etcd PATH".to_owned()),
    }
}
