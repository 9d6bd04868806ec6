//! The command line of `henge serve` and its environment, brought into the one form the parser knows.
//!
//! Promises: what etcd takes is taken (`-name x`, `--experimental-…`, variables), what has no effect here is
//! said once, what must not be ignored is refused (`known` says which is which), and a variable that looks
//! like a setting and is none is said, with the name that was probably meant.
//! Must never know: what a flag's value means.

use std::ffi::{OsStr, OsString};

use super::known::{self, Kind, kind};

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
    /// Flags that came from variables, and which.
    pub from_variables: Vec<(String, String)>,
}

impl Prepared {
    /// Names the variables behind the flags that an error message is about.
    pub fn sources(&self, error: &str) -> String {
        let told = |flag: &str| {
            let name = format!("--{flag}");
            let mut found = error.match_indices(&name);
            let end = |(at, text): (usize, &str)| error[at + text.len()..].chars().next();
            found.any(|found| end(found).is_none_or(|c| !c.is_ascii_alphanumeric() && c != '-'))
        };
        let of_error = self.from_variables.iter().filter(|(flag, _)| told(flag));
        of_error
            .map(|(flag, variable)| format!("--{flag} is set by the variable {variable}\n"))
            .collect()
    }
}

/// Takes out of a `henge serve …` command line what etcd knows and we do not need, and puts in
/// what the environment says and the line does not. Other commands pass unchanged.
///
/// # Errors
/// A flag that must not be ignored.
pub fn prepare(
    args: impl IntoIterator<Item = OsString>,
    env: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Prepared, UsageError> {
    let mut args = args.into_iter();
    let mut prepared = Prepared {
        args: args.by_ref().take(2).collect(),
        warnings: Vec::new(),
        from_variables: Vec::new(),
    };
    if prepared
        .args
        .get(1)
        .is_none_or(|command| command != "serve")
    {
        prepared.args.extend(args);
        return Ok(prepared);
    }
    let mut given: Vec<String> = Vec::new();
    let mut rest = Vec::new();
    while let Some(arg) = args.next() {
        let Some((flag, value)) = arg.to_str().and_then(split) else {
            rest.push(arg);
            continue;
        };
        let (flag, value) = (known::plain(flag).to_owned(), value.map(str::to_owned));
        given.push(flag.clone());
        let takes_value = match kind(&flag) {
            Kind::Taken | Kind::Unknown => {
                let tail = value.map_or(String::new(), |value| format!("={value}"));
                rest.push(OsString::from(format!("--{flag}{tail}")));
                continue;
            }
            Kind::Ignored { value } | Kind::Refused { value, .. } => value,
            Kind::Experimental => false,
        };
        let value = match (value, takes_value) {
            (None, true) => args.next().and_then(|v| v.into_string().ok()),
            (value, _) => value,
        };
        prepared
            .warnings
            .extend(set_aside(&flag, value.as_deref())?);
    }
    prepared.environment(&given, env)?;
    prepared.args.extend(rest);
    let mut told: Vec<String> = Vec::new();
    for warning in std::mem::take(&mut prepared.warnings) {
        if !told.contains(&warning) {
            told.push(warning);
        }
    }
    prepared.warnings = told;
    Ok(prepared)
}

/// `--flag` or `--flag=value`; also with one dash, as Go's programs take it. `-h`, `-V` and numbers are
/// left alone.
fn split(arg: &str) -> Option<(&str, Option<&str>)> {
    let body = match arg.strip_prefix("--") {
        Some(body) => body,
        None => arg
            .strip_prefix('-')
            .filter(|body| body.len() > 1 && body.starts_with(|c: char| c.is_ascii_alphabetic()))?,
    };
    let (flag, value) = match body.split_once('=') {
        Some((flag, value)) => (flag, Some(value)),
        None => (body, None),
    };
    (!flag.is_empty()).then_some((flag, value))
}

/// Refuses or reports a flag that is not passed on.
fn set_aside(flag: &str, value: Option<&str>) -> Result<Option<String>, UsageError> {
    match kind(flag) {
        Kind::Refused { why, .. } if !known::is_off(flag, value) => Err(UsageError {
            flag: flag.to_owned(),
            why: why.to_owned(),
        }),
        Kind::Refused { .. } => Ok(None),
        Kind::Experimental => Ok(Some(format!(
            "--{flag} is not known and is ignored{}",
            meant(known::nearest_flag(flag).map(|flag| format!("--{flag}")))
        ))),
        _ => Ok(Some(format!("--{flag} has no effect here and is ignored"))),
    }
}

fn meant(nearest: Option<String>) -> String {
    nearest.map_or_else(String::new, |name| format!("; the nearest known is {name}"))
}

impl Prepared {
    /// Adds the flags that only the environment gives. A variable that is empty is not set, as in etcd.
    fn environment(
        &mut self,
        given: &[String],
        env: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<(), UsageError> {
        let settings = env.into_iter().filter_map(|(name, value)| {
            let name = name.into_string().ok()?;
            let upper = name.to_ascii_uppercase();
            let ours = upper.starts_with("ETCD_") || upper.starts_with("HENGE_");
            (ours && !value.is_empty()).then_some((name, value))
        });
        let mut settings: Vec<_> = settings.collect();
        // In order, so that the plain name of a flag wins over its experimental one.
        settings.sort();
        for (name, value) in settings {
            match known::flag_of(&name) {
                Some(flag) => self.variable(given, &flag, &name, &value)?,
                None => {
                    let nearest = meant(known::nearest_variable(&name));
                    let warning = format!("unrecognized environment variable {name}{nearest}");
                    self.warnings.push(warning);
                }
            }
        }
        Ok(())
    }

    fn variable(
        &mut self,
        given: &[String],
        flag: &str,
        name: &str,
        value: &OsStr,
    ) -> Result<(), UsageError> {
        if given.iter().any(|given| given == flag) {
            self.warnings
                .push(format!("{name} is shadowed by --{flag}"));
        } else if kind(flag) == Kind::Taken {
            let mut arg = OsString::from(format!("--{flag}="));
            arg.push(value);
            self.args.push(arg);
            self.from_variables.push((flag.to_owned(), name.to_owned()));
        } else {
            let aside = set_aside(flag, value.to_str());
            self.warnings.extend(aside.map_err(|error| UsageError {
                why: format!("{} (set by the variable {name})", error.why),
                ..error
            })?);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(line: &str, env: &[(&str, &str)]) -> Result<Prepared, UsageError> {
        let args = line.split(' ').map(OsString::from);
        let env = env
            .iter()
            .map(|(n, v)| (OsString::from(n), OsString::from(v)));
        prepare(args, env.collect::<Vec<_>>())
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
            ("henge serve --wal-dir /fast", "wal-dir"),
            ("henge serve -wal-dir=/fast", "wal-dir"),
            ("henge serve --force-new-cluster", "force-new-cluster"),
            ("henge serve --force-new-cluster=true", "force-new-cluster"),
            ("henge serve --enable-v2", "enable-v2"),
            ("henge serve --proxy=on", "proxy"),
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
        let wrong = "error: invalid value 'x' for '--data-dir <DATA_DIR>'";
        assert!(p.sources(wrong).contains("ETCD_DATA_DIR"));
        assert_eq!(p.sources("--data-directory and --name"), "");
        assert_eq!(p.warnings, ["ETCD_NAME is shadowed by --name"]);
        let p = run("henge serve", &[("HENGE_HOST", "thread")]).expect("starts");
        assert_eq!(line(&p), "henge serve --host=thread");
    }

    #[test]
    fn what_etcd_takes_is_taken() {
        let p = run(
            "henge serve -name x -data-dir=/d --enable-v2=false --proxy=off --force-new-cluster=false \
             --wal-dir= --bootstrap-defrag-threshold-megabytes 9 --raft-read-timeout=5s -pre-vote=false \
             -h -V",
            &[],
        );
        let p = p.expect("starts");
        assert_eq!(line(&p), "henge serve --name x --data-dir=/d -h -V");
        assert_eq!(p.warnings.len(), 3, "{:?}", p.warnings);
        let both = [
            ("ETCD_EXPERIMENTAL_WATCH_PROGRESS_NOTIFY_INTERVAL", "5s"),
            ("ETCD_WATCH_PROGRESS_NOTIFY_INTERVAL", "7s"),
        ];
        let progress = "--watch-progress-notify-interval";
        let p = run("henge serve", &both[..1]).expect("starts");
        assert_eq!(line(&p), format!("henge serve {progress}=5s"));
        // The parser takes the last.
        let p = run("henge serve", &both).expect("starts");
        assert_eq!(line(&p), format!("henge serve {progress}=5s {progress}=7s"));
    }

    #[test]
    fn a_variable_that_sets_nothing_is_said_with_the_one_that_was_meant() {
        let env = [
            ("ETCD_DATADIR", "/d"),
            ("ETCD_SERVICE_PORT", "2379"),
            ("ETCD_EXPERIMENTAL_WATCH_PROGRES_NOTIFY_INTERVAL", "5s"),
            ("HENGE_HOTS", "thread"),
            ("etcd_name", "x"),
            ("ETCD_EMPTY", ""),
            ("ETCDCTL_API", "3"),
            ("PATH", "/bin"),
        ];
        let p = run("henge serve", &env).expect("starts");
        assert_eq!(line(&p), "henge serve");
        let near = |name: &str, meant: &str| {
            format!("unrecognized environment variable {name}; the nearest known is {meant}")
        };
        let mut due = vec![
            near("ETCD_DATADIR", "ETCD_DATA_DIR"),
            near(
                "ETCD_EXPERIMENTAL_WATCH_PROGRES_NOTIFY_INTERVAL",
                "ETCD_WATCH_PROGRESS_NOTIFY_INTERVAL",
            ),
            "unrecognized environment variable ETCD_SERVICE_PORT".to_owned(),
            near("HENGE_HOTS", "HENGE_HOST"),
            near("etcd_name", "ETCD_NAME"),
        ];
        due.sort();
        assert_eq!(p.warnings, due);
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
