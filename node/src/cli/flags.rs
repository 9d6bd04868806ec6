//! The flags of etcd that `henge serve` knows of without having them, and the environment.
//!
//! A script written for etcd must start: a flag that changes nothing here is taken and reported
//! once. But a flag whose effect an operator relies on (certificates, discovery, a file of further
//! settings) is refused, because running without it would be worse than not running.

use std::ffi::OsString;

use super::values::NO_TLS;

/// A command line that could not be used; exit code 2.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("--{flag}: {why}")]
pub struct UsageError {
    /// The flag at fault, without dashes.
    pub flag: String,
    /// What is wrong with it, and what to do.
    pub why: String,
}

/// A command line after etcd's habits were taken care of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prepared {
    /// Arguments for the parser.
    pub args: Vec<OsString>,
    /// What to log once logging is up, each once.
    pub warnings: Vec<String>,
}

/// Flags that `serve` really has, for the environment (see `ServeArgs`).
pub(crate) const TAKEN: &[&str] = &[
    "name",
    "data-dir",
    "listen-client-urls",
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
];

/// Flags of etcd with a value that change nothing here.
const IGNORED: &[&str] = &[
    "wal-dir",
    "max-snapshots",
    "max-wals",
    "snapshot-catchup-entries",
    "backend-batch-interval",
    "backend-batch-limit",
    "backend-bbolt-freelist-type",
    "bbolt-freelist-type",
    "listen-client-http-urls",
    "cors",
    "host-whitelist",
    "feature-gates",
    "auth-token",
    "auth-token-ttl",
    "bcrypt-cost",
    "metrics",
    "logger",
    "log-outputs",
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
    "v2-deprecation",
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
    "enable-distributed-tracing",
    "memory-mlock",
    "unsafe-no-fsync",
    "force-new-cluster",
    "stop-grpc-service-on-defrag",
    "compact-hash-check-enabled",
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
    ("auto-tls", NO_TLS, false),
    ("peer-cert-file", NO_TLS, true),
    ("peer-key-file", NO_TLS, true),
    ("peer-client-cert-file", NO_TLS, true),
    ("peer-client-key-file", NO_TLS, true),
    ("peer-client-cert-auth", NO_TLS, false),
    ("peer-trusted-ca-file", NO_TLS, true),
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
    ("discovery", NO_DISCOVERY, true),
    ("discovery-srv", NO_DISCOVERY, true),
    ("discovery-srv-name", NO_DISCOVERY, true),
    ("discovery-proxy", NO_DISCOVERY, true),
    ("discovery-token", NO_DISCOVERY, true),
    ("discovery-endpoints", NO_DISCOVERY, true),
];

const NO_DISCOVERY: &str = "discovery is not supported; list the members in --initial-cluster";

/// How the command line treats one flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Taken,
    Ignored { value: bool },
    Refused { value: bool, why: &'static str },
    Unknown,
}

fn kind(flag: &str) -> Kind {
    if TAKEN.contains(&flag) {
        return Kind::Taken;
    }
    if let Some((_, why, value)) = REFUSED.iter().find(|(name, ..)| *name == flag) {
        return Kind::Refused { value: *value, why };
    }
    // Since 3.6 etcd's experimental flags also exist without the prefix.
    let plain = flag.strip_prefix("experimental-").unwrap_or(flag);
    if IGNORED_SWITCHES.contains(&plain) {
        return Kind::Ignored { value: false };
    }
    if IGNORED.contains(&plain) {
        return Kind::Ignored { value: true };
    }
    // An experimental switch or value we have not listed: etcd had dozens over the years. Only
    // the form with "=" is unambiguous, and the only one etcd's documents use.
    if plain != flag {
        Kind::Ignored { value: false }
    } else {
        Kind::Unknown
    }
}

/// Takes out of a `henge serve …` command line what etcd knows and we do not need, and puts in
/// what the environment says and the line does not. Other commands pass unchanged.
///
/// # Errors
/// A flag that must not be ignored.
pub fn prepare(
    args: impl IntoIterator<Item = OsString>,
    env: impl Fn(&str) -> Option<String>,
) -> Result<Prepared, UsageError> {
    let mut args = args.into_iter();
    let mut kept: Vec<OsString> = args.by_ref().take(2).collect();
    let mut warnings = Vec::new();
    if kept.get(1).is_none_or(|command| command != "serve") {
        kept.extend(args);
        return Ok(Prepared {
            args: kept,
            warnings,
        });
    }
    let mut given: Vec<String> = Vec::new();
    let mut rest = Vec::new();
    while let Some(arg) = args.next() {
        let Some((flag, value)) = arg.to_str().and_then(split) else {
            rest.push(arg);
            continue;
        };
        let (flag, value) = (flag.to_owned(), value.map(str::to_owned));
        // The one experimental flag that matters (kubeadm sets it) got its plain name in 3.6.
        let (flag, arg) = match flag.strip_prefix("experimental-") {
            Some(plain) if TAKEN.contains(&plain) => {
                let tail = value.as_ref().map_or(String::new(), |v| format!("={v}"));
                (plain.to_owned(), OsString::from(format!("--{plain}{tail}")))
            }
            _ => (flag, arg),
        };
        given.push(flag.clone());
        let takes_value = match kind(&flag) {
            Kind::Taken | Kind::Unknown => {
                rest.push(arg);
                continue;
            }
            Kind::Ignored { value } | Kind::Refused { value, .. } => value,
        };
        let value = match (value, takes_value) {
            (None, true) => args.next().and_then(|v| v.into_string().ok()),
            (value, _) => value,
        };
        warnings.extend(set_aside(&flag, value.as_deref())?);
    }
    kept.extend(from_environment(&given, env, &mut warnings)?);
    kept.extend(rest);
    warnings.dedup();
    Ok(Prepared {
        args: kept,
        warnings,
    })
}

/// `--flag` or `--flag=value`.
fn split(arg: &str) -> Option<(&str, Option<&str>)> {
    let body = arg.strip_prefix("--").filter(|b| !b.is_empty())?;
    Some(match body.split_once('=') {
        Some((flag, value)) => (flag, Some(value)),
        None => (body, None),
    })
}

/// Refuses or reports a flag that is not passed on.
fn set_aside(flag: &str, value: Option<&str>) -> Result<Option<String>, UsageError> {
    let off = matches!(
        value,
        Some("" | "false" | "0" | "f" | "F" | "FALSE" | "False")
    );
    match kind(flag) {
        Kind::Refused { why, .. } if !off => Err(UsageError {
            flag: flag.to_owned(),
            why: why.to_owned(),
        }),
        Kind::Refused { .. } => Ok(None),
        _ => Ok(Some(format!("--{flag} has no effect here and is ignored"))),
    }
}

/// `ETCD_DATA_DIR` for `data-dir`; our own flags have our own prefix.
pub(crate) fn variable(flag: &str) -> String {
    let prefix = if matches!(flag, "host" | "busy-poll-us") {
        "HENGE_"
    } else {
        "ETCD_"
    };
    let name: String = flag
        .chars()
        .map(|c| {
            if c == '-' {
                '_'
            } else {
                c.to_ascii_uppercase()
            }
        })
        .collect();
    format!("{prefix}{name}")
}

/// The flags that only the environment gives. A variable that is empty is not set, as in etcd.
fn from_environment(
    given: &[String],
    env: impl Fn(&str) -> Option<String>,
    warnings: &mut Vec<String>,
) -> Result<Vec<OsString>, UsageError> {
    let mut args = Vec::new();
    let refused = REFUSED.iter().map(|(name, ..)| name);
    for flag in TAKEN
        .iter()
        .chain(refused)
        .chain(IGNORED)
        .chain(IGNORED_SWITCHES)
    {
        let name = variable(flag);
        let Some(value) = env(&name).filter(|v| !v.is_empty()) else {
            continue;
        };
        if given.iter().any(|g| g == flag) {
            warnings.push(format!("{name} is shadowed by --{flag}"));
        } else if kind(flag) == Kind::Taken {
            args.push(OsString::from(format!("--{flag}={value}")));
        } else {
            warnings.extend(set_aside(flag, Some(&value))?);
        }
    }
    Ok(args)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(line: &str, env: &[(&str, &str)]) -> Result<Prepared, UsageError> {
        let args = line.split(' ').map(OsString::from);
        let value = |name: &str| {
            env.iter()
                .find(|(n, _)| *n == name)
                .map(|(_, v)| (*v).to_owned())
        };
        prepare(args, value)
    }

    fn line(p: &Prepared) -> String {
        let words: Vec<&str> = p.args.iter().filter_map(|a| a.to_str()).collect();
        words.join(" ")
    }

    #[test]
    fn etcd_flags_without_effect_are_taken_out_and_reported_once() {
        let p = run(
            "henge serve --name a --max-wals 5 --pre-vote --logger=zap --logger=zap \
             --experimental-initial-corrupt-check=true --cert-file= --client-cert-auth=false \
             --max-txn-ops=9",
            &[],
        );
        let p = p.expect("starts");
        assert_eq!(line(&p), "henge serve --name a --max-txn-ops=9");
        assert_eq!(p.warnings.len(), 4, "{:?}", p.warnings);
        assert!(p.warnings[0].contains("--max-wals"));
    }

    #[test]
    fn the_experimental_name_of_a_flag_we_have_is_that_flag() {
        let p = run(
            "henge serve --experimental-watch-progress-notify-interval=5s",
            &[],
        );
        let p = p.expect("starts");
        assert_eq!(line(&p), "henge serve --watch-progress-notify-interval=5s");
        assert!(p.warnings.is_empty());
    }

    #[test]
    fn what_must_not_be_ignored_is_refused_by_name() {
        for (l, flag) in [
            ("henge serve --cert-file x", "cert-file"),
            ("henge serve --peer-auto-tls", "peer-auto-tls"),
            ("henge serve --discovery=http://x", "discovery"),
            ("henge serve --config-file /x.yml", "config-file"),
        ] {
            let e = run(l, &[]).expect_err(l);
            assert_eq!(e.flag, flag);
            assert!(e.to_string().starts_with(&format!("--{flag}: ")), "{e}");
        }
        assert_eq!(
            run("henge serve", &[("ETCD_CERT_FILE", "x")])
                .expect_err("env")
                .flag,
            "cert-file"
        );
    }

    #[test]
    fn the_environment_fills_in_what_the_line_does_not_say() {
        let env = [
            ("ETCD_NAME", "env"),
            ("ETCD_DATA_DIR", "/d"),
            ("ETCD_MAX_TXN_OPS", ""),
        ];
        let p = run("henge serve --name line", &env).expect("starts");
        assert_eq!(line(&p), "henge serve --data-dir=/d --name line");
        assert_eq!(p.warnings, ["ETCD_NAME is shadowed by --name"]);
        let p = run("henge serve", &[("HENGE_HOST", "thread")]).expect("starts");
        assert_eq!(line(&p), "henge serve --host=thread");
    }

    #[test]
    fn unknown_flags_and_other_commands_are_left_to_the_parser() {
        assert_eq!(
            line(&run("henge serve --nope 1", &[]).expect("passes")),
            "henge serve --nope 1"
        );
        let bench = "henge bench --name x --cert-file y";
        assert_eq!(
            line(&run(bench, &[("ETCD_NAME", "n")]).expect("passes")),
            bench
        );
    }
}
