//! This workspace's own build: where it is, and a server from it.
//!
//! Promises: the server is brought up to date first, as comparing a stale one would be worse than comparing
//! none. Must never know: what is measured. Tested by every run of `peers` and `hosts`.

use std::path::{Path, PathBuf};
use std::process::Command;

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
        .args(["build", "--release", "--quiet", "-p", "henge"])
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
