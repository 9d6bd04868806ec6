//! The forms in which etcd's flags take URLs, clusters, durations and truths.
//!
//! Every parser here is pure and returns a text that says what is wrong; the command-line parser
//! adds which flag it was. Texts follow etcd's (`client/pkg/types/urls.go`).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use henge::AutoCompaction;

/// `http://host:port`, the only form of URL between members.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Url {
    /// Name or address; an IPv6 address without its brackets.
    pub host: String,
    /// Port, 0 included (any free one).
    pub port: u16,
}

impl Url {
    /// The address to listen on. etcd binds `localhost` to the IPv4 loopback, and refuses other
    /// names, since a name may mean another machine tomorrow.
    ///
    /// # Errors
    /// Says that an IP is wanted.
    pub fn listen_address(&self) -> Result<SocketAddr, String> {
        let ip = if self.host == "localhost" {
            IpAddr::V4(Ipv4Addr::LOCALHOST)
        } else {
            self.host
                .parse()
                .map_err(|_| format!("expected IP in URL for binding ({self})"))?
        };
        Ok(SocketAddr::new(ip, self.port))
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "http://[{}]:{}", self.host, self.port)
        } else {
            write!(f, "http://{}:{}", self.host, self.port)
        }
    }
}

/// Why `https` URLs and certificate flags are refused.
pub(crate) const NO_TLS: &str = "TLS is not supported yet; use http:// on a trusted network";

/// A list of URLs, comma-separated; sorted, as etcd keeps them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Urls(pub Vec<Url>);

impl fmt::Display for Urls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, url) in self.0.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            write!(f, "{comma}{url}")?;
        }
        Ok(())
    }
}

/// Parses one URL.
pub(crate) fn url(text: &str) -> Result<Url, String> {
    let text = text.trim();
    let (scheme, rest) = text
        .split_once("://")
        .ok_or_else(|| format!("URL has no scheme: {text}"))?;
    match scheme {
        "http" => {}
        "https" => return Err(format!("{NO_TLS} ({text})")),
        "unix" | "unixs" => {
            return Err(format!(
                "members speak TCP to each other; give http://host:port ({text})"
            ));
        }
        _ => return Err(format!("URL scheme must be http: {text}")),
    }
    if rest.contains(['/', '?', '#']) {
        return Err(format!("URL must not contain a path: {text}"));
    }
    let no_port = || format!("URL address does not have the form \"host:port\": {text}");
    let (host, port) = rest.rsplit_once(':').ok_or_else(no_port)?;
    let host = match host.strip_prefix('[') {
        Some(inner) => inner.strip_suffix(']').ok_or_else(no_port)?,
        None if host.contains(':') => return Err(no_port()),
        None => host,
    };
    let port = port.parse().map_err(|_| no_port())?;
    // etcd takes an empty host for all addresses.
    let host = if host.is_empty() { "0.0.0.0" } else { host };
    Ok(Url {
        host: host.to_owned(),
        port,
    })
}

/// Where clients reach a member: over TCP, or through a unix socket on the same machine.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ClientUrl {
    /// `http://host:port`.
    Http(Url),
    /// `unix://path`; as in etcd what stands for a host is the path's beginning.
    Unix(String),
}

impl fmt::Display for ClientUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClientUrl::Http(url) => url.fmt(f),
            ClientUrl::Unix(path) => write!(f, "unix://{path}"),
        }
    }
}

/// Where to wait for clients.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ListenOn {
    /// An address.
    Tcp(SocketAddr),
    /// A socket in the file system.
    Unix(PathBuf),
}

impl fmt::Display for ListenOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ListenOn::Tcp(address) => address.fmt(f),
            ListenOn::Unix(path) => write!(f, "unix://{}", path.display()),
        }
    }
}

impl ClientUrl {
    /// What to listen on for it.
    ///
    /// # Errors
    /// As [`Url::listen_address`].
    pub fn listen_on(&self) -> Result<ListenOn, String> {
        match self {
            ClientUrl::Http(url) => url.listen_address().map(ListenOn::Tcp),
            ClientUrl::Unix(path) => Ok(ListenOn::Unix(path.into())),
        }
    }
}

/// A list of client URLs, comma-separated; sorted, as etcd keeps them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientUrls(pub Vec<ClientUrl>);

impl fmt::Display for ClientUrls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, url) in self.0.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            write!(f, "{comma}{url}")?;
        }
        Ok(())
    }
}

fn client_url(text: &str) -> Result<ClientUrl, String> {
    let text = text.trim();
    if text.starts_with("unixs://") {
        return Err(format!("{NO_TLS} ({text})"));
    }
    match text.strip_prefix("unix://") {
        None => url(text).map(ClientUrl::Http),
        Some("") => Err(format!("URL names no socket: {text}")),
        Some(path) if path.contains(['?', '#', '\0']) => {
            Err(format!("URL must be unix:// and a path: {text}"))
        }
        Some(path) => Ok(ClientUrl::Unix(path.to_owned())),
    }
}

/// Parses a comma-separated list of at least one client URL.
pub(crate) fn client_urls(text: &str) -> Result<ClientUrls, String> {
    let mut list = text
        .split(',')
        .map(client_url)
        .collect::<Result<Vec<_>, String>>()?;
    list.sort();
    list.dedup();
    Ok(ClientUrls(list))
}

/// As [`client_urls`], but nothing is a list of none, as etcd takes it where no URL is the default.
pub(crate) fn client_urls_or_none(text: &str) -> Result<ClientUrls, String> {
    if text.trim().is_empty() {
        return Ok(ClientUrls::default());
    }
    client_urls(text)
}

/// Parses a comma-separated list of at least one URL.
pub(crate) fn urls(text: &str) -> Result<Urls, String> {
    let mut list = text
        .split(',')
        .map(url)
        .collect::<Result<Vec<Url>, String>>()?;
    list.sort();
    list.dedup();
    Ok(Urls(list))
}

/// The members of `--initial-cluster`: names and peer URLs, sorted by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InitialCluster(pub Vec<(String, Urls)>);

/// Parses `name=url,name=url,…`; a name may come several times, with one URL each.
pub(crate) fn initial_cluster(text: &str) -> Result<InitialCluster, String> {
    let mut members: Vec<(String, Urls)> = Vec::new();
    for part in text.split(',').map(str::trim) {
        let (name, value) = part
            .split_once('=')
            .filter(|(name, _)| !name.is_empty())
            .ok_or_else(|| format!("{part:?} does not have the form name=http://host:port"))?;
        let value = url(value)?;
        match members.iter_mut().find(|(known, _)| known == name) {
            Some((_, urls)) => urls.0.push(value),
            None => members.push((name.to_owned(), Urls(vec![value]))),
        }
    }
    for (_, urls) in &mut members {
        urls.0.sort();
    }
    members.sort_by(|a, b| a.0.cmp(&b.0));
    let mut all: Vec<&Url> = members.iter().flat_map(|(_, urls)| &urls.0).collect();
    all.sort();
    if let Some(pair) = all.windows(2).find(|pair| pair.first() == pair.last()) {
        let twice = pair.first().map_or(String::new(), |u| u.to_string());
        return Err(format!(
            "{twice} is given twice; every peer URL belongs to one member"
        ));
    }
    Ok(InitialCluster(members))
}

/// Parses a duration as Go writes it: `10m`, `1h30m`, `1.5s`, `100ms`, `0`. Not negative.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a duration like 500ms, 20s, 10m or 1h30m");
    let mut rest = text.trim();
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(wrong());
    }
    let mut seconds = 0.0_f64;
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .ok_or_else(wrong)?;
        let (number, tail) = rest.split_at(digits);
        let number: f64 = number.parse().map_err(|_| wrong())?;
        let unit_end = tail
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let unit = match unit {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3_600.0,
            _ => return Err(wrong()),
        };
        seconds += number * unit;
        rest = tail;
    }
    Duration::try_from_secs_f64(seconds).map_err(|_| wrong())
}

/// etcd looks at the revision every five minutes in revision mode.
const REVISIONS_EVERY: Duration = Duration::from_secs(300);

/// Puts `--auto-compaction-mode` and `-retention` together; a retention of 0 is off. In periodic
/// mode a plain number means hours.
pub(crate) fn auto_compaction(mode: &str, retention: &str) -> Result<AutoCompaction, String> {
    // Nothing is off, as in etcd.
    let retention = match retention.trim() {
        "" => "0",
        retention => retention,
    };
    let plain = retention.parse::<i64>().ok();
    match (mode, plain) {
        (_, Some(n)) if n < 0 => Err(format!("{retention:?} must not be negative")),
        (_, Some(0)) => Ok(AutoCompaction::Off),
        ("revision", Some(n)) => {
            let keep = n.unsigned_abs();
            Ok(AutoCompaction::RevisionsEvery(keep, REVISIONS_EVERY))
        }
        ("revision", None) => Err(format!("{retention:?} is not a number of revisions")),
        (_, Some(hours)) => {
            let seconds = u64::try_from(hours).unwrap_or(0).saturating_mul(3_600);
            Ok(AutoCompaction::Periodic(Duration::from_secs(seconds)))
        }
        (_, None) => {
            let keep = duration(retention)?;
            Ok(match keep.is_zero() {
                true => AutoCompaction::Off,
                false => AutoCompaction::Periodic(keep),
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_have_etcds_form() {
        let ok = [
            ("http://localhost:2379", "localhost", 2379),
            (" http://10.0.0.1:1 ", "10.0.0.1", 1),
            ("http://[::1]:80", "::1", 80),
            ("http://:2379", "0.0.0.0", 2379),
        ];
        for (text, host, port) in ok {
            assert_eq!(
                url(text),
                Ok(Url {
                    host: host.to_owned(),
                    port
                }),
                "{text}"
            );
        }
        let bad = [
            ("localhost:2379", "no scheme"),
            ("ftp://a:1", "scheme must be http"),
            ("https://a:1", "TLS is not supported yet"),
            ("unix:///x", "members speak TCP"),
            ("http://a:1/", "must not contain a path"),
            ("http://a", "host:port"),
            ("http://a:x", "host:port"),
            ("http://a:70000", "host:port"),
            ("http://::1:80", "host:port"),
            ("", "no scheme"),
        ];
        for (text, why) in bad {
            let e = url(text).expect_err(text);
            assert!(e.contains(why), "{text}: {e}");
        }
        assert_eq!(
            urls("http://b:1,http://a:2").expect("two").to_string(),
            "http://a:2,http://b:1"
        );
        assert!(urls("http://a:1,").is_err());
        let six = url("http://[::1]:80").expect("v6");
        assert_eq!(six.to_string(), "http://[::1]:80");
        assert_eq!(six.listen_address().expect("ip").to_string(), "[::1]:80");
        assert!(
            url("http://example.com:1")
                .expect("a name")
                .listen_address()
                .is_err()
        );
    }

    #[test]
    fn clients_may_come_through_a_unix_socket() {
        let two = client_urls("unix:///run/h.sock,http://localhost:1").expect("two");
        assert_eq!(two.to_string(), "http://localhost:1,unix:///run/h.sock");
        let on: Vec<_> = two.0.iter().map(|u| u.listen_on().expect("on")).collect();
        assert_eq!(on[0], ListenOn::Tcp(([127, 0, 0, 1], 1).into()));
        assert_eq!(on[1], ListenOn::Unix("/run/h.sock".into()));
        // etcd joins host and path.
        let odd = client_urls("unix://localhost:2379").expect("a file of that name");
        let on = odd.0[0].listen_on();
        assert_eq!(on, Ok(ListenOn::Unix("localhost:2379".into())));
        for bad in ["unix://", "unixs:///x", "unix:///x?y", "", "unix:///x,"] {
            assert!(client_urls(bad).is_err(), "{bad}");
        }
        assert_eq!(client_urls_or_none(""), Ok(ClientUrls::default()));
    }

    #[test]
    fn clusters_gather_the_urls_of_each_name() {
        let c = initial_cluster("b=http://h:2,a=http://h:1,b=http://h:3").expect("a cluster");
        let shown: Vec<String> = c.0.iter().map(|(n, u)| format!("{n}={u}")).collect();
        assert_eq!(shown, ["a=http://h:1", "b=http://h:2,http://h:3"]);
        for bad in [
            "a",
            "=http://h:1",
            "a=https://h:1",
            "a=http://h:1,b=http://h:1",
            "",
        ] {
            assert!(initial_cluster(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_are_gos() {
        let ok = [
            ("10m", 600_000),
            ("1h30m", 5_400_000),
            ("1.5s", 1_500),
            ("100ms", 100),
            ("0", 0),
            ("2h0m0s", 7_200_000),
        ];
        for (text, ms) in ok {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for bad in ["", "5", "-1s", "s", "1d", "1.2.3s", "1s2"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn compaction_modes_read_the_retention_their_way() {
        let hours = |h: u64| AutoCompaction::Periodic(Duration::from_secs(h * 3_600));
        assert_eq!(auto_compaction("periodic", "0"), Ok(AutoCompaction::Off));
        assert_eq!(auto_compaction("periodic", "0s"), Ok(AutoCompaction::Off));
        assert_eq!(auto_compaction("periodic", ""), Ok(AutoCompaction::Off));
        assert_eq!(auto_compaction("revision", " "), Ok(AutoCompaction::Off));
        assert_eq!(auto_compaction("periodic", "2"), Ok(hours(2)));
        assert_eq!(auto_compaction("periodic", "1h"), Ok(hours(1)));
        assert_eq!(
            auto_compaction("revision", "7"),
            Ok(AutoCompaction::RevisionsEvery(7, REVISIONS_EVERY))
        );
        assert!(auto_compaction("revision", "1h").is_err());
        assert!(auto_compaction("periodic", "-1").is_err());
    }
}
