//! Lease, Cluster, Maintenance, Auth, Health, and what nobody serves.

use henge_edge::etcd::proto::etcdserverpb as pb;
use henge_edge::etcd::proto::health as health_pb;
use tonic::{Code, Request, Status};

use super::double::MEMBER;
use super::{Server, soon, until};

fn is(got: &Status, code: Code, message: &str) {
    assert_eq!((got.code(), got.message()), (code, message));
}

/// A request stream of what is in the list, then the end.
struct Listed<T>(std::vec::IntoIter<T>);

impl<T: Unpin> futures_core::Stream for Listed<T> {
    type Item = T;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<T>> {
        std::task::Poll::Ready(self.0.next())
    }
}

#[tokio::test]
async fn leases_live_as_etcds_do() {
    let server = Server::thin(true);
    let mut lease = pb::lease_client::LeaseClient::new(server.channel().await);
    let granted = lease
        .lease_grant(pb::LeaseGrantRequest { ttl: 10, id: 5 })
        .await;
    let granted = granted.expect("grant").into_inner();
    assert_eq!(
        (granted.id, granted.ttl, granted.error.as_str()),
        (5, 10, "")
    );
    let e = lease
        .lease_grant(pb::LeaseGrantRequest { ttl: 10, id: 5 })
        .await
        .expect_err("twice");
    is(
        &e,
        Code::FailedPrecondition,
        "etcdserver: lease already exists",
    );
    let picked = lease
        .lease_grant(pb::LeaseGrantRequest { ttl: 10, id: 0 })
        .await;
    assert!(picked.expect("grant").into_inner().id > 0);

    // An unknown lease is answered with TTL 0 in its place, and the stream goes on.
    let ids = vec![5, 404, 5]
        .into_iter()
        .map(|id| pb::LeaseKeepAliveRequest { id });
    let alive = lease
        .lease_keep_alive(Listed(ids.collect::<Vec<_>>().into_iter()))
        .await;
    let mut alive = alive.expect("a stream").into_inner();
    let mut got = Vec::new();
    while let Some(r) = soon("keep-alive", alive.message()).await.expect("no error") {
        got.push((r.id, r.ttl));
    }
    assert_eq!(got, [(5, 10), (404, 0), (5, 10)]);

    let ttl = |id| pb::LeaseTimeToLiveRequest { id, keys: true };
    let known = lease
        .lease_time_to_live(ttl(5))
        .await
        .expect("ttl")
        .into_inner();
    assert_eq!(
        (known.ttl, known.granted_ttl, known.keys.len()),
        (10, 10, 1)
    );
    assert_eq!(
        lease
            .lease_time_to_live(ttl(404))
            .await
            .expect("ttl")
            .into_inner()
            .ttl,
        -1
    );
    let listed = lease
        .lease_leases(pb::LeaseLeasesRequest {})
        .await
        .expect("list")
        .into_inner();
    assert_eq!(listed.leases.len(), 2);
    lease
        .lease_revoke(pb::LeaseRevokeRequest { id: 5 })
        .await
        .expect("revoke");
    let e = lease
        .lease_revoke(pb::LeaseRevokeRequest { id: 5 })
        .await
        .expect_err("gone");
    is(&e, Code::NotFound, "etcdserver: requested lease not found");
}

/// A stream renewed one lease at a time: in a cluster, one commit each.
#[tokio::test]
async fn regression_renewals_of_one_stream_need_not_wait_for_each_other() {
    let server = Server::thin(true);
    let mut lease = pb::lease_client::LeaseClient::new(server.channel().await);
    let granted = lease.lease_grant(pb::LeaseGrantRequest { ttl: 10, id: 5 });
    granted.await.expect("grant");
    let (open, gate) = tokio::sync::watch::channel(false);
    server.double.state().gate = Some(gate);
    let before = server.double.state().calls;
    let ids = vec![5, 404, 5, 5]
        .into_iter()
        .map(|id| pb::LeaseKeepAliveRequest { id });
    let alive = lease.lease_keep_alive(Listed(ids.collect::<Vec<_>>().into_iter()));
    let mut alive = alive.await.expect("a stream").into_inner();
    until("all of them inside", || {
        server.double.state().calls == before + 4
    })
    .await;
    open.send(true).expect("the double listens");
    let mut got = Vec::new();
    while let Some(r) = soon("keep-alive", alive.message()).await.expect("no error") {
        got.push((r.id, r.ttl));
    }
    assert_eq!(got, [(5, 10), (404, 0), (5, 10), (5, 10)]);
}

#[tokio::test]
async fn cluster_and_maintenance_tell_what_they_know() {
    let server = Server::thin(true);
    let mut cluster = pb::cluster_client::ClusterClient::new(server.channel().await);
    let list = cluster
        .member_list(pb::MemberListRequest { linearizable: true })
        .await;
    let list = list.expect("members").into_inner();
    assert_eq!(
        list.header.expect("header").revision,
        0,
        "Cluster headers have no revision"
    );
    assert_eq!(
        (list.members[0].id, list.members[0].name.as_str()),
        (MEMBER, "default")
    );
    assert_eq!(list.members[0].peer_ur_ls, ["http://localhost:2380"]);
    let e = cluster
        .member_add(pb::MemberAddRequest::default())
        .await
        .expect_err("fixed");
    assert_eq!(e.code(), Code::Unimplemented);

    let channel = server.channel().await;
    let mut maintenance = pb::maintenance_client::MaintenanceClient::new(channel);
    let status = maintenance
        .status(pb::StatusRequest {})
        .await
        .expect("status")
        .into_inner();
    assert_eq!((status.leader, status.raft_index), (MEMBER, 9));
    assert!(
        status.version.starts_with("3."),
        "clients parse it: {}",
        status.version
    );
    let hash = maintenance.hash_kv(pb::HashKvRequest { revision: 0 }).await;
    let hash = hash.expect("hash").into_inner();
    assert_eq!(
        (hash.hash, hash.compact_revision, hash.hash_revision),
        (77, -1, 1)
    );
    maintenance.hash(pb::HashRequest {}).await.expect("hash");
    let done = maintenance
        .defragment(pb::DefragmentRequest {})
        .await
        .expect("OK")
        .into_inner();
    assert_eq!(done.header, None, "etcd sends none");

    let get = pb::AlarmRequest::default();
    let none = maintenance.alarm(get).await.expect("alarms").into_inner();
    assert!(none.alarms.is_empty());
    // As etcd: raised by hand, listed, lowered once.
    let nospace = pb::AlarmMember {
        member_id: MEMBER,
        alarm: 1,
    };
    let (get_of, activate, deactivate) = (0, 1, 2);
    for (action, alarm, answered) in [
        (activate, 1, vec![nospace]),
        (activate, 1, vec![nospace]),
        (activate, 0, vec![]),
        (get_of, 0, vec![nospace]),
        (get_of, 1, vec![nospace]),
        (get_of, 2, vec![]),
        (deactivate, 2, vec![]),
        (deactivate, 0, vec![]),
        (deactivate, 1, vec![nospace]),
        (deactivate, 1, vec![]),
        (get_of, 0, vec![]),
    ] {
        let request = pb::AlarmRequest {
            action,
            member_id: MEMBER,
            alarm,
        };
        let reply = maintenance.alarm(request).await.expect("answered");
        assert_eq!(reply.into_inner().alarms, answered, "{request:?}");
    }
    for (action, alarm) in [(3, 1), (1, 9)] {
        let request = pb::AlarmRequest {
            action,
            member_id: MEMBER,
            alarm,
        };
        let refused = maintenance.alarm(request).await.expect_err("unknown");
        assert_eq!(refused.code(), tonic::Code::InvalidArgument);
    }

    for e in [
        maintenance
            .snapshot(pb::SnapshotRequest {})
            .await
            .map(|_| ())
            .expect_err("snapshot"),
        maintenance
            .move_leader(pb::MoveLeaderRequest::default())
            .await
            .map(|_| ())
            .expect_err("ml"),
        maintenance
            .downgrade(pb::DowngradeRequest::default())
            .await
            .map(|_| ())
            .expect_err("dg"),
    ] {
        assert_eq!(e.code(), Code::Unimplemented);
        assert!(
            e.message().ends_with("is not supported by this server yet"),
            "{e:?}"
        );
    }
}

#[tokio::test]
async fn authentication_is_off_and_says_so_in_etcds_words() {
    let server = Server::thin(true);
    let mut auth = pb::auth_client::AuthClient::new(server.channel().await);
    let status = auth
        .auth_status(pb::AuthStatusRequest {})
        .await
        .expect("status")
        .into_inner();
    assert_eq!((status.enabled, status.auth_revision), (false, 1));
    let e = auth
        .authenticate(pb::AuthenticateRequest::default())
        .await
        .expect_err("off");
    is(
        &e,
        Code::FailedPrecondition,
        "etcdserver: authentication is not enabled",
    );
    let e = auth
        .user_add(pb::AuthUserAddRequest::default())
        .await
        .expect_err("not yet");
    assert_eq!(e.code(), Code::Unimplemented);
}

#[tokio::test]
async fn the_health_service_knows_the_empty_name_only() {
    let server = Server::thin(true);
    let mut health = health_pb::health_client::HealthClient::new(server.channel().await);
    let ask = |service: &str| health_pb::HealthCheckRequest {
        service: service.to_owned(),
    };
    assert_eq!(
        health
            .check(ask(""))
            .await
            .expect("check")
            .into_inner()
            .status,
        1
    );
    assert_eq!(
        health.check(ask("x")).await.expect_err("unknown").code(),
        Code::NotFound
    );
    let mut watch = health.watch(ask("")).await.expect("watch").into_inner();
    let first = soon("status", watch.message())
        .await
        .expect("no error")
        .expect("one");
    assert_eq!(first.status, 1);
}

#[tokio::test]
async fn a_path_nobody_serves_is_unimplemented_with_grpc_gos_text() {
    let server = Server::thin(true);
    let table = [
        ("/v3lockpb.Lock/Lock", "unknown service v3lockpb.Lock"),
        (
            "/etcdserverpb.KV/Nope",
            "unknown method Nope for service etcdserverpb.KV",
        ),
    ];
    for (path, text) in table {
        let mut raw = tonic::client::Grpc::new(server.channel().await);
        raw.ready().await.expect("ready");
        let codec = tonic_prost::ProstCodec::<pb::PutRequest, pb::PutResponse>::default();
        let request = Request::new(pb::PutRequest::default());
        let e = raw
            .unary(request, path.parse().expect("a path"), codec)
            .await
            .expect_err("no");
        is(&e, Code::Unimplemented, text);
    }
}

#[tokio::test]
async fn any_call_that_requires_a_leader_is_refused_without_one() {
    for thin in [true, false] {
        let server = Server::thin(thin);
        server.double.state().metrics.has_leader = false;
        let mut kv = server.kv().await;
        let key = || pb::RangeRequest {
            key: "k".into(),
            serializable: true,
            ..Default::default()
        };
        kv.range(key()).await.expect("nobody asked for a leader");
        let mut request = Request::new(key());
        request
            .metadata_mut()
            .insert("hasleader", "true".parse().expect("ascii"));
        let e = kv.range(request).await.expect_err("no leader");
        is(&e, Code::Unavailable, "etcdserver: no leader");
    }
}

#[tokio::test]
async fn a_compressed_request_is_refused_on_both_paths() {
    for thin in [true, false] {
        let server = Server::thin(thin);
        let mut kv = server.kv().await;
        let mut request = Request::new(pb::PutRequest {
            key: "k".into(),
            ..Default::default()
        });
        request
            .metadata_mut()
            .insert("grpc-encoding", "gzip".parse().expect("ascii"));
        let e = kv.put(request).await.expect_err("no compression");
        assert_eq!(e.code(), Code::Unimplemented, "{e:?}");
    }
}
