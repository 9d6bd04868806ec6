//! Whatever is asked is asked in the name of whoever the call's metadata names, on both ways to a service.

use henge::api::Caller;
use henge_edge::EdgeConfig;
use henge_edge::etcd::proto::etcdserverpb as pb;
use tonic::Request;
use tonic::metadata::{MetadataMap, MetadataValue};

use super::{SHORT, Server, soon};

/// A token that is a number is that user's; nobody's otherwise.
fn by_number(of: &MetadataMap) -> Caller {
    let number = |name| of.get(name)?.to_str().ok()?.parse().ok();
    match (number("token"), number("authorization")) {
        (Some(user), Some(revision)) => Caller::user(user, std::num::NonZeroU64::get(revision)),
        _ => Caller::nobody(),
    }
}

fn with_token<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let headers = request.metadata_mut();
    headers.insert("token", MetadataValue::from_static("7"));
    headers.insert("authorization", MetadataValue::from_static("9"));
    request
}

/// The thin way dropped a call's headers: nobody could have told who calls.
#[tokio::test]
async fn regression_both_ways_carry_a_calls_metadata_to_whoever_says_who_calls() {
    for thin_unary in [true, false] {
        let server = Server::start(EdgeConfig {
            thin_unary,
            drain_limit: SHORT,
            who: by_number,
            ..EdgeConfig::default()
        });
        let mut kv = server.kv().await;
        let mut lease = pb::lease_client::LeaseClient::new(server.channel().await);
        let mut cluster = pb::cluster_client::ClusterClient::new(server.channel().await);
        let mut member = pb::maintenance_client::MaintenanceClient::new(server.channel().await);
        let put = || pb::PutRequest {
            key: "k".into(),
            ..Default::default()
        };
        let range = || pb::RangeRequest {
            key: "k".into(),
            ..Default::default()
        };
        let delete = pb::DeleteRangeRequest {
            key: "k".into(),
            ..Default::default()
        };
        let all = async {
            kv.put(with_token(put())).await.expect("put");
            kv.range(with_token(range())).await.expect("range");
            kv.txn(with_token(pb::TxnRequest::default()))
                .await
                .expect("txn");
            kv.delete_range(with_token(delete)).await.expect("deletion");
            kv.compact(with_token(pb::CompactionRequest::default()))
                .await
                .expect("compaction");
            kv.range_stream(with_token(range())).await.expect("stream");
            let grant = pb::LeaseGrantRequest { id: 5, ttl: 60 };
            lease.lease_grant(with_token(grant)).await.expect("grant");
            let ttl = pb::LeaseTimeToLiveRequest { id: 5, keys: true };
            lease
                .lease_time_to_live(with_token(ttl))
                .await
                .expect("lease");
            lease
                .lease_leases(with_token(pb::LeaseLeasesRequest {}))
                .await
                .expect("leases");
            lease
                .lease_revoke(with_token(pb::LeaseRevokeRequest { id: 5 }))
                .await
                .expect("end");
            cluster
                .member_list(with_token(pb::MemberListRequest::default()))
                .await
                .expect("members");
            member
                .status(with_token(pb::StatusRequest::default()))
                .await
                .expect("status");
            member
                .alarm(with_token(pb::AlarmRequest::default()))
                .await
                .expect("alarms");
            member
                .hash_kv(with_token(pb::HashKvRequest::default()))
                .await
                .expect("hash");
        };
        soon("answers", all).await;
        let user = Caller::user(7.try_into().expect("not 0"), 9);
        assert_eq!(
            server.double.state().callers,
            [user; 14],
            "thin: {thin_unary}"
        );
        server.double.state().callers.clear();
        soon("an answer", kv.put(put())).await.expect("put");
        assert_eq!(
            server.double.state().callers,
            [Caller::nobody()],
            "thin: {thin_unary}"
        );
    }
}
