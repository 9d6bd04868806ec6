//! The flags of etcd, 3.4 to 3.7, and what `henge serve` does with each.
//!
//! A script written for etcd must start: a flag that changes nothing here is taken and reported once. But
//! a flag whose effect an operator relies on (certificates, discovery, a log on another disk, a cluster
//! made anew from one member) is refused with the next step, because running without it would be worse
//! than not running.
//! Must never know: values. Those are parsed in `values` and checked in `options`.

use super::values::NO_TLS;

/// Flags that `serve` really has, for the environment (see `ServeArgs`).
pub(crate) const TAKEN: &[&str] = &[
    "name",
    "data-dir",
    "listen-client-urls",
    "listen-client-http-urls",
    "listen-peer-urls",
    "listen-metrics-urls",
    "advertise-client-urls",
    "initial-advertise-peer-urls",
    "initial-cluster",
    "initial-cluster-state",
    "initial-cluster-token",
    "heartbeat-interval",
    "election-timeout",
    "snapshot-count",
    "quota-backend-bytes",
    "max-txn-ops",
    "max-request-bytes",
    "max-concurrent-streams",
    "grpc-keepalive-min-time",
    "grpc-keepalive-interval",
    "grpc-keepalive-timeout",
    "auto-compaction-mode",
    "auto-compaction-retention",
    "watch-progress-notify-interval",
    "log-level",
    "log-format",
    "busy-poll-us",
    "host",
    "wal-segment-bytes",
];

/// Of these, the ones that etcd does not have: their variables begin with `HENGE_`.
const OWN: &[&str] = &["busy-poll-us", "host", "wal-segment-bytes"];

/// Flags of etcd with a value that change nothing here.
const IGNORED: &[&str] = &[
    "max-snapshots",
    "max-wals",
    "snapshot-catchup-entries",
    "backend-batch-interval",
    "backend-batch-limit",
    "backend-bbolt-freelist-type",
    "bbolt-freelist-type",
    "bootstrap-defrag-threshold-megabytes",
    "raft-read-timeout",
    "raft-write-timeout",
    "cors",
    "host-whitelist",
    "feature-gates",
    "auth-token",
    "auth-token-ttl",
    "bcrypt-cost",
    "metrics",
    "logger",
    "log-outputs",
    "log-package-levels",
    "log-rotation-config-json",
    "corrupt-check-time",
    "compact-hash-check-time",
    "compaction-batch-limit",
    "compaction-sleep-interval",
    "warning-apply-duration",
    "warning-unary-request-duration",
    "max-learners",
    "downgrade-check-time",
    "memory-mlock-size",
    "distributed-tracing-address",
    "distributed-tracing-service-name",
    "distributed-tracing-instance-id",
    "distributed-tracing-sampling-rate",
    "discovery-fallback",
    "discovery-dial-timeout",
    "discovery-request-timeout",
    "discovery-keepalive-time",
    "discovery-keepalive-timeout",
    "discovery-cert",
    "discovery-key",
    "discovery-cacert",
    "discovery-user",
    "discovery-password",
    "v2-deprecation",
    "proxy-failure-wait",
    "proxy-refresh-interval",
    "proxy-dial-timeout",
    "proxy-write-timeout",
    "proxy-read-timeout",
    "tls-min-version",
    "tls-max-version",
    "cipher-suites",
];

/// Flags of etcd that are on or off and change nothing here.
const IGNORED_SWITCHES: &[&str] = &[
    "pre-vote",
    "strict-reconfig-check",
    "initial-election-tick-advance",
    "socket-reuse-port",
    "socket-reuse-address",
    "enable-grpc-gateway",
    "enable-pprof",
    "enable-log-rotation",
    "disable-log-sampling",
    "debug",
    "enable-distributed-tracing",
    "memory-mlock",
    "unsafe-no-fsync",
    "initial-corrupt-check",
    "enable-lease-checkpoint",
    "enable-lease-checkpoint-persist",
    "txn-mode-write-with-shared-buffer",
    "peer-skip-client-san-verification",
    "stop-grpc-service-on-defrag",
    "compact-hash-check-enabled",
    "discovery-insecure-transport",
    "discovery-insecure-skip-tls-verify",
];

/// Flags that must not be ignored, why, and whether they take a value. Given with nothing or as
/// off, they are harmless.
const REFUSED: &[(&str, &str, bool)] = &[
    ("cert-file", NO_TLS, true),
    ("key-file", NO_TLS, true),
    ("client-cert-file", NO_TLS, true),
    ("client-key-file", NO_TLS, true),
    ("client-cert-auth", NO_TLS, false),
    ("client-crl-file", NO_TLS, true),
    ("client-cert-allowed-hostname", NO_TLS, true),
    ("trusted-ca-file", NO_TLS, true),
    ("ca-file", NO_TLS, true),
    ("auto-tls", NO_TLS, false),
    ("peer-cert-file", NO_TLS, true),
    ("peer-key-file", NO_TLS, true),
    ("peer-client-cert-file", NO_TLS, true),
    ("peer-client-key-file", NO_TLS, true),
    ("peer-client-cert-auth", NO_TLS, false),
    ("peer-trusted-ca-file", NO_TLS, true),
    ("peer-ca-file", NO_TLS, true),
    ("peer-cert-allowed-cn", NO_TLS, true),
    ("peer-cert-allowed-hostname", NO_TLS, true),
    ("peer-crl-file", NO_TLS, true),
    ("peer-auto-tls", NO_TLS, false),
    ("self-signed-cert-validity", NO_TLS, true),
    (
        "config-file",
        "a settings file is not read; give its settings as flags or ETCD_* variables",
        true,
    ),
    (
        "wal-dir",
        "the log is part of the data directory and cannot be named apart; to have it on a disk of its own, \
         start once, stop, move DATA-DIR/core-0 to that disk and leave a symbolic link to it (or mount the \
         disk there)",
        true,
    ),
    (
        "force-new-cluster",
        "a member cannot become a cluster of its own yet; a cluster serves again once most of its members \
         run: start those, with their data directories put back from copies where need be. Until then \
         `etcdctl get --consistency=s` reads what this member has, and another cluster can be filled with it",
        false,
    ),
    ("enable-v2", NO_V2, false),
    ("enable-v2v3", NO_V2, true),
    (
        "proxy",
        "there is no v2 proxy; clients take several endpoints, and any TCP proxy works",
        true,
    ),
    ("discovery", NO_DISCOVERY, true),
    ("discovery-srv", NO_DISCOVERY, true),
    ("discovery-srv-name", NO_DISCOVERY, true),
    ("discovery-proxy", NO_DISCOVERY, true),
    ("discovery-token", NO_DISCOVERY, true),
    ("discovery-endpoints", NO_DISCOVERY, true),
];

const NO_DISCOVERY: &str = "discovery is not supported; list the members in --initial-cluster";
const NO_V2: &str = "the v2 API is not served; leave it off, and use v3 clients";

/// How the command line treats one flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// `serve` has it.
    Taken,
    /// Changes nothing here.
    Ignored {
        /// It takes a value.
        value: bool,
    },
    /// Running without its effect would be worse than not running.
    Refused {
        /// It takes a value.
        value: bool,
        /// The next step.
        why: &'static str,
    },
    /// An experimental flag that is not listed: etcd had dozens over the years. Only the form with `=` is
    /// unambiguous, and the only one etcd's documents use.
    Experimental,
    /// Nobody knows it.
    Unknown,
}

/// The flag under the name it has since 3.6, when etcd's experimental flags got plain names.
pub(super) fn plain(flag: &str) -> &str {
    match flag.strip_prefix("experimental-") {
        Some(plain) if kind(plain) != Kind::Unknown => plain,
        _ => flag,
    }
}

/// How a flag is treated.
pub(super) fn kind(flag: &str) -> Kind {
    if TAKEN.contains(&flag) {
        return Kind::Taken;
    }
    if let Some((_, why, value)) = REFUSED.iter().find(|(name, ..)| *name == flag) {
        return Kind::Refused { value: *value, why };
    }
    if IGNORED_SWITCHES.contains(&flag) {
        return Kind::Ignored { value: false };
    }
    if IGNORED.contains(&flag) {
        return Kind::Ignored { value: true };
    }
    match flag.strip_prefix("experimental-") {
        Some(plain) if kind(plain) != Kind::Unknown => kind(plain),
        Some(_) => Kind::Experimental,
        None => Kind::Unknown,
    }
}

/// Whether a flag is given as off, or as nothing: what must not be ignored is harmless then.
pub(super) fn is_off(flag: &str, value: Option<&str>) -> bool {
    // The words of Go's `ParseBool`.
    const OFF: [&str; 7] = ["", "false", "0", "f", "F", "FALSE", "False"];
    value.is_some_and(|value| OFF.contains(&value) || (flag == "proxy" && value == "off"))
}

/// `ETCD_DATA_DIR` for `data-dir`; our own flags have our own prefix.
pub(crate) fn variable(flag: &str) -> String {
    let prefix = if OWN.contains(&flag) {
        "HENGE_"
    } else {
        "ETCD_"
    };
    format!("{prefix}{}", flag.replace('-', "_").to_ascii_uppercase())
}

/// The flag that a variable sets, also by its experimental name, if it is one that somebody knows.
pub(super) fn flag_of(variable_name: &str) -> Option<String> {
    let (_, name) = variable_name.split_once('_')?;
    let flag = name.to_ascii_lowercase().replace('_', "-");
    let known = !matches!(kind(&flag), Kind::Unknown | Kind::Experimental);
    // Under its own prefix only: ETCD_HOST and HENGE_NAME set nothing.
    let ours = variable(&flag) == variable_name;
    (known && ours).then(|| plain(&flag).to_owned())
}

/// The known variable that a mistyped one was probably meant to be.
pub(super) fn nearest_variable(name: &str) -> Option<String> {
    let known = |flag: &&str| variable(flag);
    nearest(&name.to_ascii_uppercase(), all().map(|flag| known(&flag)))
}

/// The known flag that a mistyped one was probably meant to be.
pub(super) fn nearest_flag(name: &str) -> Option<String> {
    nearest(name, all().map(str::to_owned))
}

fn all() -> impl Iterator<Item = &'static str> {
    let refused = REFUSED.iter().map(|(name, ..)| *name);
    let ignored = IGNORED.iter().chain(IGNORED_SWITCHES).copied();
    TAKEN.iter().copied().chain(refused).chain(ignored)
}

/// The name that takes the fewest edits, if those are few for its length. Underscores, dashes, prefixes and
/// "experimental" are what people get wrong most: they count as nothing.
fn nearest(asked: &str, names: impl Iterator<Item = String>) -> Option<String> {
    let core = |name: &str| {
        let name = name.to_ascii_lowercase().replace(['_', '-'], "");
        let name = name.trim_start_matches("etcd").trim_start_matches("henge");
        name.trim_start_matches("experimental").to_owned()
    };
    let wanted = core(asked);
    names
        .map(|name| (edits(&wanted, &core(&name)), name))
        .filter(|(edits, name)| *edits <= 2 && *edits * 3 <= core(name).len())
        .min_by(|a, b| a.0.cmp(&b.0))
        .map(|(_, name)| name)
}

/// Levenshtein's distance: letters added, left out or changed; letters in another order are one. Names are
/// short, and few.
fn edits(left: &str, right: &str) -> usize {
    let letters = |name: &str| {
        let mut letters: Vec<char> = name.chars().collect();
        letters.sort_unstable();
        letters
    };
    if left != right && letters(left) == letters(right) {
        return 1;
    }
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (at, one) in left.chars().enumerate() {
        let mut diagonal = at;
        row[0] = at + 1;
        for (column, other) in right.iter().enumerate() {
            let changed = diagonal + usize::from(one != *other);
            diagonal = row[column + 1];
            row[column + 1] = changed.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_flag_is_treated_in_two_ways() {
        let mut names: Vec<_> = all().collect();
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
        assert!(OWN.iter().all(|own| TAKEN.contains(own)));
    }

    #[test]
    fn variables_and_flags_name_each_other() {
        for flag in all() {
            assert_eq!(flag_of(&variable(flag)).as_deref(), Some(flag));
        }
        for name in ["ETCD_HOST", "HENGE_NAME", "ETCD_NOPE", "ETCD_", "ETCD"] {
            assert_eq!(flag_of(name), None, "{name}");
        }
    }

    #[test]
    fn what_was_meant_is_found_and_not_made_up() {
        for (asked, meant) in [
            ("ETCD_DATADIR", Some("ETCD_DATA_DIR")),
            ("ETCD_DATA_DRI", Some("ETCD_DATA_DIR")),
            ("ETCD_LISTEN_CLIENT_URL", Some("ETCD_LISTEN_CLIENT_URLS")),
            ("etcd_name", Some("ETCD_NAME")),
            ("ETCD_HOST", Some("HENGE_HOST")),
            ("HENGE_NAME", Some("ETCD_NAME")),
            (
                "ETCD_EXPERIMENTAL_WATCH_PROGRES_NOTIFY_INTERVAL",
                Some("ETCD_WATCH_PROGRESS_NOTIFY_INTERVAL"),
            ),
            ("ETCD_SERVICE_PORT", None),
            ("HENGE_SEED", None),
        ] {
            assert_eq!(nearest_variable(asked).as_deref(), meant, "{asked}");
        }
        assert_eq!(nearest_flag("pre-votes").as_deref(), Some("pre-vote"));
    }
}
