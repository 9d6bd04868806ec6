//! Members of a cluster know where the others' clients connect, so that a client which asks for the
//! members can go on when the one it asked is gone.

use std::time::Duration;

use henge_edge::etcd::proto::etcdserverpb as pb;
use henge_tests::process::{Member, Program, Scratch, Server};
use pb::cluster_client::ClusterClient;
use pb::kv_client::KvClient;
use tonic::transport::Channel;

/// Longest any wait may take before it counts as a hang.
const HANG: Duration = Duration::from_secs(60);

async fn channel(url: &str) -> Result<Channel, Box<dyn std::error::Error>> {
    Ok(Channel::from_shared(url.to_owned())?.connect().await?)
}

/// The client URLs of all members, as the server at `url` tells them.
async fn synced(url: &str) -> Result<Vec<String>, Box<dyn std::error::Error>> {
    let mut cluster = ClusterClient::new(channel(url).await?);
    let request = pb::MemberListRequest { linearizable: true };
    let members = cluster.member_list(request).await?.into_inner().members;
    Ok(members.into_iter().flat_map(|m| m.client_ur_ls).collect())
}

async fn put(url: &str) -> Result<(), Box<dyn std::error::Error>> {
    let mut kv = KvClient::new(channel(url).await?);
    let request = pb::PutRequest {
        key: "k".into(),
        ..Default::default()
    };
    kv.put(request).await?;
    Ok(())
}

#[tokio::test]
async fn regression_a_client_that_synced_its_endpoints_outlives_the_member_it_asked() {
    let program = Program::built().expect("the binary");
    let scratch = Scratch::new("members").expect("a directory");
    let members = Member::cluster(scratch.path(), 3).expect("three members");
    let start = |m: &Member| Server::spawn(&program, m.flags(&members)).expect("starts");
    let mut servers: Vec<Server> = members.iter().map(start).collect();
    for server in &mut servers {
        server.await_ready(HANG).expect("ready");
    }
    let url = |m: &Member| format!("http://127.0.0.1:{}", m.client_port);
    let mut wanted: Vec<String> = members.iter().map(url).collect();
    wanted.sort();
    // Each tells all three, once all have met.
    let mut urls = Vec::new();
    for member in &members {
        let all = async {
            loop {
                urls = synced(&url(member)).await.unwrap_or_default();
                urls.sort();
                if urls == wanted {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let met = tokio::time::timeout(HANG, all).await;
        assert!(met.is_ok(), "the member at {} tells {urls:?}", url(member));
    }
    servers[0].kill();
    let gone = url(&members[0]);
    let left: Vec<&String> = urls.iter().filter(|u| **u != gone).collect();
    assert_eq!(left.len(), 2);
    for url in left {
        let again = async {
            while put(url).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        assert!(
            tokio::time::timeout(HANG, again).await.is_ok(),
            "no put through {url}"
        );
    }
}
