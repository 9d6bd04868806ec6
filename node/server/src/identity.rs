//! A data directory that is another member's: which flag says so, what it says, and what it said before.
//!
//! Member and cluster ids follow from peer URLs and the token, as in etcd; so a URL that was changed makes
//! another member of another cluster, and the operator sees two numbers that nobody typed.

use std::fmt::Write as _;

use henge::OpenError;
use henge::api::Member;
use henge_wal::OpenError as LogError;

use super::options::ServeConfig;

/// What to say when the engine does not open.
pub(super) fn explain(config: &ServeConfig, error: &OpenError) -> String {
    match error {
        OpenError::OtherMembers { found, asked, .. } => {
            let mut text = differences(config, &found.members, &asked.members);
            let ids = [found.member_id, found.cluster_id].map(|id| format!("{id:x}"));
            finish(&mut text, config, &ids);
            text
        }
        OpenError::Wal(LogError::WrongIdentity {
            found_cluster,
            found_member,
            ..
        }) => {
            // Made before directories kept the names and URLs.
            let urls: Vec<String> = config
                .members
                .iter()
                .map(|member| format!("{}={}", member.name, member.peer_urls))
                .collect();
            let mut text = format!(
                "--{} (now {}) or --initial-cluster-token is not what it was when {} was made",
                config.members_flag,
                urls.join(","),
                config.data_dir.display()
            );
            let ids = [found_member, found_cluster].map(|id| format!("{id:x}"));
            finish(&mut text, config, &ids);
            text
        }
        error => error.to_string(),
    }
}

fn finish(text: &mut String, config: &ServeConfig, [member, cluster]: &[String; 2]) {
    // Writing to a string cannot fail.
    let _ = write!(
        text,
        "; ids follow from peer URLs and the token: the directory belongs to member {member} of cluster \
         {cluster}, and this would be member {:x} of cluster {:x}. Give what it was made with (addresses \
         cannot be changed yet), or another --data-dir",
        config.member_id, config.cluster_id
    );
}

/// Names what differs, member by member.
fn differences(config: &ServeConfig, found: &[Member], asked: &[Member]) -> String {
    let flag = config.members_flag;
    let made = format!("when {} was made", config.data_dir.display());
    let mut said = Vec::new();
    for was in found {
        match asked.iter().find(|member| member.name == was.name) {
            Some(is) if is.peer_urls == was.peer_urls => {}
            Some(is) => said.push(format!(
                "--{flag}: {} is {} now and was {} {made}",
                is.name,
                is.peer_urls.join(","),
                was.peer_urls.join(",")
            )),
            None => said.push(format!(
                "--{flag}: {}={} is missing, which was there {made}",
                was.name,
                was.peer_urls.join(",")
            )),
        }
    }
    let is_new = |is: &&Member| !found.iter().any(|was| was.name == is.name);
    said.extend(asked.iter().filter(is_new).map(|is| {
        format!(
            "--{flag}: {}={} was not there {made}",
            is.name,
            is.peer_urls.join(",")
        )
    }));
    if said.is_empty() {
        said.push(format!(
            "--initial-cluster-token is not what it was {made} (or --name says another of its members)"
        ));
    }
    said.join("; ")
}
