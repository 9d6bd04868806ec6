//! Which versions of etcd's API clients speak, as they say themselves (`client-api-version`).
//!
//! Promises: counting takes no lock; what clients say never costs more memory than there is room for here:
//! what is no version, or one too many, counts as `other`. Tested below.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use http::HeaderMap;

/// The metadata that etcd's clients send.
const HEADER: &str = "client-api-version";
/// Versions told apart.
const VERSIONS_MAX: usize = 16;

/// Calls by what their clients say.
#[derive(Debug, Default)]
pub(crate) struct Clients {
    /// Those that say nothing.
    unknown: Counts,
    /// Those that say something odd.
    other: Counts,
    versions: [Version; VERSIONS_MAX],
}

/// Unary calls, streams.
#[derive(Debug, Default)]
struct Counts([AtomicU64; 2]);

#[derive(Debug, Default)]
struct Version {
    /// Its text; 0 is free.
    text: AtomicU64,
    counts: Counts,
}

impl Clients {
    /// Counts a call.
    pub(crate) fn count(&self, headers: &HeaderMap, is_stream: bool) {
        let counts = match headers.get(HEADER).map(|v| pack(v.as_bytes())) {
            None => &self.unknown,
            Some(None) => &self.other,
            Some(Some(text)) => self.of(text),
        };
        counts.0[usize::from(is_stream)].fetch_add(1, Relaxed);
    }

    fn of(&self, text: u64) -> &Counts {
        for version in &self.versions {
            let taken = version.text.compare_exchange(0, text, Relaxed, Relaxed);
            if taken.is_ok() || taken == Err(text) {
                return &version.counts;
            }
        }
        &self.other
    }

    /// Version, kind of call, how many; those that were seen.
    pub(crate) fn counts(&self) -> Vec<(String, &'static str, u64)> {
        let versions = self.versions.iter().map(|version| {
            let text = version.text.load(Relaxed).to_le_bytes();
            let text = text.iter().take_while(|byte| **byte != 0);
            (
                text.map(|byte| char::from(*byte)).collect(),
                &version.counts,
            )
        });
        let named = [
            ("unknown".to_owned(), &self.unknown),
            ("other".to_owned(), &self.other),
        ];
        let all = named.into_iter().chain(versions);
        let all = all.flat_map(|(text, counts)| {
            let kinds = ["unary", "stream"].into_iter().zip(&counts.0);
            kinds.map(move |(kind, count)| (text.clone(), kind, count.load(Relaxed)))
        });
        all.filter(|(.., count)| *count > 0).collect()
    }
}

/// A version's text in a number; none if it is longer than eight bytes, or has more than digits and points.
fn pack(text: &[u8]) -> Option<u64> {
    let is_version = |byte: &u8| byte.is_ascii_digit() || *byte == b'.';
    if text.is_empty() || text.len() > 8 || !text.iter().all(is_version) {
        return None;
    }
    let mut bytes = [0; 8];
    bytes[..text.len()].copy_from_slice(text);
    Some(u64::from_le_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_told_apart_and_what_is_none_shares_one_count() {
        let clients = Clients::default();
        let say = |text: Option<&str>, is_stream| {
            let mut headers = HeaderMap::new();
            if let Some(text) = text {
                headers.insert(HEADER, text.parse().expect("a value"));
            }
            clients.count(&headers, is_stream);
        };
        for text in [Some("3.7"), Some("3.5"), Some("3.7"), None] {
            say(text, false);
        }
        say(Some("3.5"), true);
        for odd in ["", "latest", "123456789", "3.5\u{b2}"] {
            say(Some(odd), false);
        }
        for many in 0..100 {
            say(Some(&format!("9.{many}")), true);
        }
        let counts = clients.counts();
        let of = |text: &str, kind: &str| {
            let found = counts.iter().find(|(t, k, _)| t == text && *k == kind);
            found.map(|(.., count)| *count)
        };
        assert_eq!(of("3.7", "unary"), Some(2));
        assert_eq!(
            (of("3.5", "unary"), of("3.5", "stream")),
            (Some(1), Some(1))
        );
        assert_eq!(
            (of("unknown", "unary"), of("other", "unary")),
            (Some(1), Some(4))
        );
        assert_eq!(
            of("other", "stream"),
            Some(100 - 14),
            "there is room for 16"
        );
        assert_eq!(of("9.13", "stream"), Some(1));
        assert_eq!(of("9.14", "stream"), None);
    }
}
