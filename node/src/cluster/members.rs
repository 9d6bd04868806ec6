//! The `MEMBERS` file of a data directory: whose directory it is, and who the other members are.
//!
//! The log knows two numbers, cluster and member. They do not say who votes: a directory reopened with
//! other voters under the same numbers could elect a leader that never saw what is in it. And where the
//! numbers differ, only this file can say which name or URL was another one. Written as a whole under
//! another name and renamed; ends with a checksum. Drawn in docs/format.md. A directory without one (made
//! before there was such a file) takes the members it is opened with.
//! Must never know: logs, flags.

use std::fmt;
use std::fs;
use std::io::{Read as _, Write as _};
use std::path::Path;

use henge_api::Member;

use crate::engine::ClusterConfig;

/// Its name in the data directory.
pub const NAME: &str = "MEMBERS";
const HEAD: &str = "henge members 1";
/// Longest file that is read: seven members with long lists of URLs are a few kilobytes.
const BYTES_MAX: u64 = 1 << 20;

/// A cluster as one of its members sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    /// The cluster.
    pub cluster_id: u64,
    /// The member whose view this is.
    pub member_id: u64,
    /// All members by id, without their client URLs, which may change at any time.
    pub members: Vec<Member>,
}

impl Membership {
    /// What an engine is opened with.
    pub(crate) fn of(cluster: &ClusterConfig) -> Self {
        let member = |member: &Member| Member {
            client_urls: Vec::new(),
            ..member.clone()
        };
        let mut members: Vec<_> = cluster.members.iter().map(member).collect();
        members.sort_by_key(|member| member.id);
        Membership {
            cluster_id: cluster.cluster_id,
            member_id: cluster.member_id,
            members,
        }
    }

    /// Whether both are the same member of the same cluster with the same voters; names and URLs may differ.
    pub fn is_same(&self, other: &Membership) -> bool {
        self.cluster_id == other.cluster_id
            && self.member_id == other.member_id
            && ids(&self.members).eq(ids(&other.members))
    }

    /// The membership of a directory; `None` if it has none.
    pub(crate) fn read(dir: &Path) -> std::io::Result<Option<Result<Membership, String>>> {
        let file = match fs::File::open(dir.join(NAME)) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut bytes = Vec::new();
        file.take(BYTES_MAX).read_to_end(&mut bytes)?;
        let read = decode(&bytes);
        Ok(Some(read.ok_or_else(|| {
            format!(
                "not a sound list of members of format 1; remove it if the directory is opened with the \
                 same members as before: it is made again ({} bytes)",
                bytes.len()
            )
        })))
    }

    /// Makes this the membership of the directory; durable when it returns.
    pub(crate) fn write(&self, dir: &Path) -> std::io::Result<()> {
        let temporary = dir.join(format!("{NAME}.tmp"));
        let mut file = fs::File::create(&temporary)?;
        file.write_all(self.encode().as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, dir.join(NAME))?;
        fs::File::open(dir)?.sync_all()
    }

    fn encode(&self) -> String {
        let member = |member: &Member| {
            serde_json::json!({
                "id": format!("{:x}", member.id), "name": member.name, "peer_urls": member.peer_urls,
                "learner": member.is_learner,
            })
        };
        let object = serde_json::json!({
            "cluster_id": format!("{:x}", self.cluster_id),
            "member_id": format!("{:x}", self.member_id),
            "members": self.members.iter().map(member).collect::<Vec<_>>(),
        });
        let text = format!("{HEAD}\n{object}\n");
        let check = crc32c::crc32c(text.as_bytes());
        format!("{text}check {check:08x}\n")
    }
}

fn ids(members: &[Member]) -> impl Iterator<Item = (u64, bool)> + '_ {
    members.iter().map(|member| (member.id, member.is_learner))
}

fn decode(bytes: &[u8]) -> Option<Membership> {
    let text = std::str::from_utf8(bytes).ok()?;
    let at = text.rfind("check ")?;
    let (body, check) = text.split_at(at);
    let check = check.strip_prefix("check ")?.strip_suffix('\n')?;
    let sound = format!("{:08x}", crc32c::crc32c(body.as_bytes())) == check;
    let body = body
        .strip_prefix(HEAD)?
        .strip_prefix('\n')
        .filter(|_| sound)?;
    let object: serde_json::Value = serde_json::from_str(body).ok()?;
    let id = |value: &serde_json::Value| u64::from_str_radix(value.as_str()?, 16).ok();
    let member = |value: &serde_json::Value| {
        let urls = value.get("peer_urls")?.as_array()?.iter();
        Some(Member {
            id: id(value.get("id")?)?,
            name: value.get("name")?.as_str()?.to_owned(),
            peer_urls: urls
                .map(|url| url.as_str().map(str::to_owned))
                .collect::<Option<_>>()?,
            client_urls: Vec::new(),
            is_learner: value.get("learner")?.as_bool()?,
        })
    };
    let members = object.get("members")?.as_array()?.iter().map(member);
    Some(Membership {
        cluster_id: id(object.get("cluster_id")?)?,
        member_id: id(object.get("member_id")?)?,
        members: members.collect::<Option<_>>()?,
    })
}

impl fmt::Display for Membership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (member, cluster) = (self.member_id, self.cluster_id);
        write!(
            f,
            "member {member:x} of cluster {cluster:x} with the members"
        )?;
        for (at, member) in self.members.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            write!(f, "{comma} {:x}", member.id)?;
            if !member.name.is_empty() {
                write!(f, " ({})", member.name)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_no_flip_or_cut_goes_unseen() {
        let member = |id: u64, name: &str| Member {
            id,
            name: name.to_owned(),
            peer_urls: vec![format!("http://{name}:1"), "http://b:2".to_owned()],
            client_urls: Vec::new(),
            is_learner: id == 3,
        };
        let membership = Membership {
            cluster_id: u64::MAX,
            member_id: 2,
            members: vec![member(2, "a check \"b\n"), member(3, "")],
        };
        let text = membership.encode();
        assert_eq!(decode(text.as_bytes()), Some(membership));
        for at in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1;
            assert_eq!(decode(&bytes), None, "byte {at} of {text}");
            assert_eq!(decode(&text.as_bytes()[..at]), None, "cut at {at}");
        }
    }
}
