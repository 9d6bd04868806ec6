//! `/health`, `/livez`, `/readyz`: may traffic be sent here, should the process be restarted?
//!
//! The checks and answers of etcd's `etcdhttp/health.go`. A read check reads the key "health", as
//! etcd does; whether that key exists does not matter.

use henge_api::{Alarm, Backend, Vitals};
use henge_mvcc as mvcc;
use http::{Response, StatusCode};

use super::counters::PlainCounters;
use super::text;
use crate::door::body::EdgeBody;

/// Every check `/readyz` makes; `/livez` makes the first only.
pub(super) const CHECKS: [Check; 4] = [
    Check::SerializableRead,
    Check::DataCorruption,
    Check::LinearizableRead,
    Check::NonLearner,
];

/// Why a member with a disk that does not answer is not well.
const STUCK: &str = "a log write does not complete";
/// Why one without file descriptors is not.
const NO_DESCRIPTORS: &str = "NO FILE DESCRIPTORS: WRITES ARE REFUSED, RAISE THE LIMIT (ulimit -n)";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Check {
    SerializableRead,
    DataCorruption,
    LinearizableRead,
    NonLearner,
}

impl Check {
    pub(super) fn name(self) -> &'static str {
        match self {
            Check::SerializableRead => "serializable_read",
            Check::DataCorruption => "data_corruption",
            Check::LinearizableRead => "linearizable_read",
            Check::NonLearner => "non_learner",
        }
    }

    async fn run<B: Backend>(self, backend: &B) -> Result<(), String> {
        match self {
            Check::SerializableRead => read(backend, true).await,
            // It could wait for the answer until its deadline.
            Check::LinearizableRead if backend.vitals().log_stuck => Err(STUCK.to_owned()),
            Check::LinearizableRead => read(backend, false).await,
            Check::DataCorruption if backend.vitals().poisoned => Err("log is poisoned".to_owned()),
            Check::DataCorruption => Ok(()),
            Check::NonLearner => match backend.status().await {
                Ok(reply) if reply.body.is_learner => Err("server is a learner".to_owned()),
                Ok(_) => Ok(()),
                Err(e) => Err(e.to_string()),
            },
        }
    }
}

async fn read<B: Backend>(backend: &B, serializable: bool) -> Result<(), String> {
    let call = backend.range(
        &mvcc::RangeRequest {
            range: mvcc::KeyRange {
                key: b"health",
                end: b"",
            },
            limit: 1,
            ..Default::default()
        },
        serializable,
    );
    call.await
        .map(|_| ())
        .map_err(|e| format!("etcdserver: {e}"))
}

/// `/health`: alarms, leader, one read.
pub(crate) async fn health<B: Backend>(
    backend: &B,
    counters: &PlainCounters,
    query: &str,
) -> Response<EdgeBody> {
    let vitals = backend.vitals();
    let serializable = values(query, "serializable").any(|v| v == "true");
    let reason = match ill(vitals, query, serializable) {
        Some(reason) => Some(reason),
        None => read(backend, serializable)
            .await
            .err()
            .map(|e| format!("RANGE ERROR:{e}")),
    };
    counters.answered_health(reason.is_none());
    match reason {
        // As text, and with a line's end where it is ill: so does Go's net/http for etcd.
        None => text(StatusCode::OK, "{\"health\":\"true\",\"reason\":\"\"}"),
        Some(reason) => {
            let body = format!(
                "{{\"health\":\"false\",\"reason\":\"{}\"}}\n",
                escaped(&reason)
            );
            text(StatusCode::SERVICE_UNAVAILABLE, body)
        }
    }
}

/// What is wrong before anything is read.
fn ill(vitals: Vitals, query: &str, serializable: bool) -> Option<String> {
    // Room is there; it is descriptors that the log cannot have: no alarm of etcd's is about them.
    let of_descriptors = vitals.lacks_descriptors && !vitals.alarm_nospace;
    for alarm in [Alarm::NoSpace, Alarm::Corrupt] {
        let name = alarm.name();
        if vitals.raises(alarm) && !values(query, "exclude").any(|v| v == name) {
            return Some(match alarm {
                Alarm::NoSpace if of_descriptors => NO_DESCRIPTORS.to_owned(),
                _ => format!("ALARM {name}"),
            });
        }
    }
    if vitals.log_stuck && !serializable {
        return Some(STUCK.to_ascii_uppercase());
    }
    (!serializable && !vitals.has_leader).then(|| "RAFT NO LEADER".to_owned())
}

/// Whether `path` is `/livez`, `/readyz` or one of their checks.
pub(crate) fn is_probe(path: &str) -> bool {
    checks(path).is_some()
}

/// The checks behind a path.
fn checks(path: &str) -> Option<Vec<Check>> {
    let (all, rest) = if let Some(rest) = path.strip_prefix("/livez") {
        (CHECKS.get(..1)?, rest)
    } else {
        (&CHECKS[..], path.strip_prefix("/readyz")?)
    };
    match rest.strip_prefix('/') {
        None if rest.is_empty() => Some(all.to_vec()),
        None => None,
        // With a slash and nothing behind it there is no such path, as in etcd.
        Some(name) => all.iter().find(|c| c.name() == name).map(|c| vec![*c]),
    }
}

/// `/livez`, `/readyz` and `/readyz/<check>`: "ok", after a line per check if asked; those lines and an
/// empty one if a check failed.
pub(crate) async fn probe<B: Backend>(
    backend: &B,
    counters: &PlainCounters,
    path: &str,
    query: &str,
) -> Response<EdgeBody> {
    let ready = path.starts_with("/readyz");
    let mut lines = String::new();
    let mut failed = false;
    for check in checks(path).unwrap_or_default() {
        let name = check.name();
        if values(query, "exclude").any(|v| v == name) {
            continue;
        }
        let ended = check.run(backend).await;
        counters.checked(ready, check as usize, ended.is_ok());
        match ended {
            Ok(()) => lines.push_str(&format!("[+]{name} ok\n")),
            Err(why) => {
                failed = true;
                lines.push_str(&format!("[-]{name} failed: {why}\n"));
            }
        }
    }
    let verbose = values(query, "verbose").next().is_some();
    match (failed, verbose) {
        (true, _) => text(StatusCode::SERVICE_UNAVAILABLE, lines + "\n"),
        (false, true) => text(StatusCode::OK, lines + "ok\n"),
        (false, false) => text(StatusCode::OK, "ok\n"),
    }
}

/// The values of `name` in a query string. None of the names and values used here need decoding.
fn values<'q>(query: &'q str, name: &'q str) -> impl Iterator<Item = &'q str> {
    query.split('&').filter_map(move |pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key == name).then_some(value)
    })
}

/// `s` inside a JSON string.
fn escaped(s: &str) -> String {
    let mut out = String::with_capacity(s.len());
    for c in s.chars() {
        match c {
            '"' | '\\' => {
                out.push('\\');
                out.push(c);
            }
            c if c.is_control() => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_their_checks() {
        let names = |p: &str| checks(p).map(|c| c.iter().map(|c| c.name()).collect::<Vec<_>>());
        assert_eq!(names("/livez"), Some(vec!["serializable_read"]));
        assert_eq!(names("/readyz").map(|c| c.len()), Some(4));
        assert_eq!(names("/readyz/non_learner"), Some(vec!["non_learner"]));
        for unknown in [
            "/livez/non_learner",
            "/livezz",
            "/readyz/x",
            "/",
            // etcd 3.7.3 answers 404 to these.
            "/livez/",
            "/readyz/",
            "/readyz/non_learner/",
        ] {
            assert_eq!(names(unknown), None, "{unknown}");
        }
    }

    #[test]
    fn an_alarm_or_a_missing_leader_is_ill_unless_excluded() {
        let full = Vitals {
            space_low: true,
            has_leader: true,
            ..Vitals::default()
        };
        assert_eq!(ill(full, "", false).as_deref(), Some("ALARM NOSPACE"));
        assert_eq!(ill(full, "exclude=NOSPACE", false), None);
        let without = Vitals {
            lacks_descriptors: true,
            ..full
        };
        assert_eq!(ill(without, "", false).as_deref(), Some(NO_DESCRIPTORS));
        assert_eq!(ill(without, "exclude=NOSPACE", false), None);
        for (nospace, corrupt, why) in [
            (true, false, "ALARM NOSPACE"),
            (false, true, "ALARM CORRUPT"),
        ] {
            let raised = Vitals {
                alarm_nospace: nospace,
                alarm_corrupt: corrupt,
                has_leader: true,
                ..Vitals::default()
            };
            assert_eq!(ill(raised, "", false).as_deref(), Some(why));
        }
        let alone = Vitals::default();
        assert_eq!(ill(alone, "", false).as_deref(), Some("RAFT NO LEADER"));
        assert_eq!(ill(alone, "serializable=true", true), None);
    }

    #[test]
    fn reasons_are_valid_json_strings() {
        assert_eq!(escaped("a\"b\\c\n"), "a\\\"b\\\\c\\u000a");
    }
}
