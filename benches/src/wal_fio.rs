//! The yardstick: fio's io_uring engine with the log's own flags and sizes, on the same file system.
//!
//! Promises: the file was written in full before it is measured, as the log's segments are; a run that
//! fails is an error and never a figure.

use std::path::Path;
use std::process::Command;

/// What fio says of a run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Fio {
    /// Writes per second.
    pub rate: f64,
    /// Median of the time from submission to completion, in microseconds.
    pub p50: f64,
    /// Its 99th percentile.
    pub p99: f64,
    /// Its 99.9th percentile.
    pub p999: f64,
}

/// fio: `O_DIRECT | O_DSYNC`, `bytes` each, `depth` in flight.
pub fn writes(dir: &Path, bytes: usize, depth: usize, seconds: f64) -> Result<Fio, String> {
    let file = dir.join("fio.dat");
    let milliseconds = (seconds * 1e3) as u64;
    let output = Command::new("fio")
        .args([
            "--name=log",
            "--ioengine=io_uring",
            "--rw=write",
            "--direct=1",
        ])
        .args([
            "--sync=dsync",
            "--size=256m",
            "--overwrite=1",
            "--output-format=json",
        ])
        .args([
            "--time_based",
            "--thread",
            "--fallocate=none",
            "--end_fsync=0",
            "--lat_percentiles=1",
        ])
        .arg(format!("--filename={}", file.display()))
        .arg(format!("--bs={bytes}"))
        .arg(format!("--iodepth={depth}"))
        .arg(format!("--ramp_time={}ms", milliseconds / 3))
        .arg(format!("--runtime={milliseconds}ms"))
        .output()
        .map_err(|e| format!("fio: {e} (install it: it is the yardstick)"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let json = text.find('{').map_or("", |at| &text[at..]);
    let parsed: serde_json::Value =
        serde_json::from_str(json).map_err(|e| format!("fio's answer: {e}: {text}"))?;
    let write = &parsed["jobs"][0]["write"];
    let rate = write["iops"].as_f64().unwrap_or(0.0);
    let percentile = |name: &str| {
        let nanos = write["lat_ns"]["percentile"][name].as_f64();
        nanos.map_or(f64::NAN, |nanos| nanos / 1e3)
    };
    let failed = parsed["jobs"][0]["error"].as_i64() != Some(0);
    if !output.status.success() || failed || rate <= 0.0 {
        return Err(format!(
            "fio failed: {}",
            String::from_utf8_lossy(&output.stderr)
        ));
    }
    Ok(Fio {
        rate,
        p50: percentile("50.000000"),
        p99: percentile("99.000000"),
        p999: percentile("99.900000"),
    })
}
