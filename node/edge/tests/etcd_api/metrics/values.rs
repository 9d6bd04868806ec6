//! What is done to a server moves its metrics by as much, and no others.

use std::collections::BTreeMap;

use henge_edge::etcd::proto::etcdserverpb as pb;

use super::super::{soon, until};
use super::{QUOTA, Real};

/// Sums what a step should have changed, and says which series are not what they should be.
struct Ledger<'s> {
    server: &'s Real,
    wanted: BTreeMap<&'static str, f64>,
}

impl Ledger<'_> {
    async fn step(&mut self, what: &str, adds: &[(&'static str, f64)]) {
        for (series, by) in adds {
            let now = self.wanted.get(series).copied();
            let now = now.unwrap_or_else(|| panic!("{series} is not watched"));
            self.wanted.insert(series, now + by);
        }
        let mut wrong = Vec::new();
        for _ in 0..400 {
            let scrape = self.server.scrape();
            let differs = |(series, wanted): (&&'static str, &f64)| {
                let has = scrape.get(series);
                (has != *wanted).then(|| format!("{series} is {has}, not {wanted}"))
            };
            wrong = self.wanted.iter().filter_map(differs).collect();
            if wrong.is_empty() {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        panic!("after {what}: {}", wrong.join("\n"));
    }
}

const PUTS: &str = "etcd_mvcc_put_total";
const RANGES: &str = "etcd_mvcc_range_total";
const DELETES: &str = "etcd_mvcc_delete_total";
const TXNS: &str = "etcd_mvcc_txn_total";
const PUT_BYTES: &str = "etcd_debugging_mvcc_total_put_size_in_bytes";
const KEYS: &str = "etcd_debugging_mvcc_keys_total";
const REVISION: &str = "etcd_debugging_mvcc_current_revision";
const COMPACTED: &str = "etcd_debugging_mvcc_compact_revision";
const REMOVED: &str = "etcd_debugging_mvcc_db_compaction_keys_total";
const COMPACTIONS: &str = "etcd_debugging_mvcc_db_compaction_total_duration_milliseconds_count";
const GRANTED: &str = "etcd_debugging_lease_granted_total";
const REVOKED: &str = "etcd_debugging_lease_revoked_total";
const RENEWED: &str = "etcd_debugging_lease_renewed_total";
const EXPIRED: &str = "etcd_debugging_server_lease_expired_total";
const TTL_SUM: &str = "etcd_debugging_lease_ttl_total_sum";
const STREAMS: &str = "etcd_debugging_mvcc_watch_stream_total";
const WATCHERS: &str = "etcd_debugging_mvcc_watcher_total";
const EVENTS: &str = "etcd_debugging_mvcc_events_total";
const PENDING: &str = "etcd_debugging_mvcc_pending_events_total";
const WELL: &str = "etcd_server_health_success";
const READY: &str =
    "etcd_server_healthchecks_total{name=\"linearizable_read\",status=\"success\",type=\"readyz\"}";
const IN: &str = "etcd_network_client_grpc_received_bytes_total";
const OUT: &str = "etcd_network_client_grpc_sent_bytes_total";
const UNARY: &str = "etcd_server_client_requests_total{client_api_version=\"3.7\",type=\"unary\"}";
const UNKNOWN: &str =
    "etcd_server_client_requests_total{client_api_version=\"unknown\",type=\"unary\"}";
const PUT_TIMES: &str = "etcd_server_request_duration_seconds_count{success=\"true\",type=\"Put\"}";
const READ_TXN_TIMES: &str =
    "etcd_server_request_duration_seconds_count{success=\"true\",type=\"ReadonlyTxn\"}";
const TXN_TIMES: &str = "etcd_server_request_duration_seconds_count{success=\"true\",type=\"Txn\"}";
const PUT_APPLIED: &str =
    "etcd_server_apply_duration_seconds_count{op=\"Put\",success=\"true\",version=\"v3\"}";
const PUT_REFUSED: &str =
    "etcd_server_apply_duration_seconds_count{op=\"Put\",success=\"false\",version=\"v3\"}";
const PUTS_IN: &str = "grpc_server_msg_received_total{\
    grpc_method=\"Put\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"}";
const WATCH_OUT: &str = "grpc_server_msg_sent_total{\
    grpc_method=\"Watch\",grpc_service=\"etcdserverpb.Watch\",grpc_type=\"bidi_stream\"}";
const HASHES: &str = "etcd_mvcc_hash_rev_duration_seconds_count";
const ALARM: &str = "henge_alarm_nospace";
const ALARMS: &str = "etcd_debugging_server_alarms{alarm_type=\"NOSPACE\",server_id=\"1\"}";

const WATCHED: [&str; 36] = [
    PUTS,
    RANGES,
    DELETES,
    TXNS,
    PUT_BYTES,
    KEYS,
    REVISION,
    COMPACTED,
    REMOVED,
    COMPACTIONS,
    GRANTED,
    REVOKED,
    RENEWED,
    EXPIRED,
    TTL_SUM,
    STREAMS,
    WATCHERS,
    EVENTS,
    PENDING,
    WELL,
    READY,
    IN,
    OUT,
    UNARY,
    UNKNOWN,
    PUT_TIMES,
    READ_TXN_TIMES,
    TXN_TIMES,
    PUT_APPLIED,
    PUT_REFUSED,
    PUTS_IN,
    WATCH_OUT,
    HASHES,
    ALARM,
    ALARMS,
    "etcd_server_health_failures",
];

fn put(key: &str) -> pb::PutRequest {
    pb::PutRequest {
        key: key.as_bytes().to_vec().into(),
        value: "value".into(),
        ..Default::default()
    }
}

fn op(request: pb::request_op::Request) -> pb::RequestOp {
    pb::RequestOp {
        request: Some(request),
    }
}

fn bytes(message: &impl prost::Message) -> f64 {
    message.encoded_len() as f64
}

/// Each value says what was done, no more and no less: the steps of one client, and after each all that is
/// watched, also what must not move.
#[tokio::test]
async fn requests_move_each_value_by_what_they_are() {
    let server = Real::start("metrics-values");
    let channel = server.channel().await;
    let mut kv = pb::kv_client::KvClient::new(channel.clone());
    // The first entry of a leader, and its own reads, are over.
    kv.range(pb::RangeRequest {
        key: "none".into(),
        ..Default::default()
    })
    .await
    .expect("a leader");
    let scrape = server.scrape();
    let start = WATCHED.map(|series| (series, scrape.get(series)));
    let mut ledger = Ledger {
        server: &server,
        wanted: start.into(),
    };
    ledger.step("nothing", &[]).await;

    let request = put("k");
    let answer = kv.put(request.clone()).await.expect("put").into_inner();
    let (sent, got) = (bytes(&request), bytes(&answer));
    ledger
        .step(
            "a put",
            &[
                (PUTS, 1.0),
                (PUT_BYTES, 6.0),
                (KEYS, 1.0),
                (REVISION, 1.0),
                (IN, sent),
                (OUT, got),
                (UNKNOWN, 1.0),
                (PUT_TIMES, 1.0),
                (PUT_APPLIED, 1.0),
                (PUTS_IN, 1.0),
            ],
        )
        .await;

    let mut named = tonic::Request::new(pb::PutRequest {
        prev_kv: true,
        ..put("k")
    });
    let version = "3.7".parse().expect("a value");
    named.metadata_mut().insert("client-api-version", version);
    let sent = bytes(named.get_ref());
    let got = bytes(&kv.put(named).await.expect("put").into_inner());
    ledger
        .step(
            "a put with the pair before, of a client with a version",
            &[
                (PUTS, 1.0),
                (PUT_BYTES, 6.0),
                (RANGES, 1.0),
                (TXNS, 1.0),
                (REVISION, 1.0),
                (IN, sent),
                (OUT, got),
                (UNARY, 1.0),
                (PUT_TIMES, 1.0),
                (PUT_APPLIED, 1.0),
                (PUTS_IN, 1.0),
            ],
        )
        .await;

    let range = pb::RangeRequest {
        key: "k".into(),
        ..Default::default()
    };
    let got = bytes(&kv.range(range.clone()).await.expect("range").into_inner());
    ledger
        .step(
            "a range",
            &[
                (RANGES, 1.0),
                (IN, bytes(&range)),
                (OUT, got),
                (UNKNOWN, 1.0),
            ],
        )
        .await;

    let get = || op(pb::request_op::Request::RequestRange(range.clone()));
    let reads = pb::TxnRequest {
        success: vec![get(), get()],
        ..Default::default()
    };
    let sent = bytes(&reads);
    let got = bytes(&kv.txn(reads).await.expect("txn").into_inner());
    ledger
        .step(
            "a transaction of two ranges",
            &[
                (RANGES, 2.0),
                (TXNS, 1.0),
                (IN, sent),
                (OUT, got),
                (UNKNOWN, 1.0),
                (READ_TXN_TIMES, 1.0),
            ],
        )
        .await;

    let writes = pb::TxnRequest {
        success: vec![
            op(pb::request_op::Request::RequestPut(put("a"))),
            op(pb::request_op::Request::RequestPut(put("b"))),
            op(pb::request_op::Request::RequestDeleteRange(
                pb::DeleteRangeRequest {
                    key: "k".into(),
                    ..Default::default()
                },
            )),
        ],
        ..Default::default()
    };
    let sent = bytes(&writes);
    let got = bytes(&kv.txn(writes).await.expect("txn").into_inner());
    ledger
        .step(
            "a transaction of two puts and a delete",
            &[
                (PUTS, 2.0),
                (PUT_BYTES, 12.0),
                (DELETES, 1.0),
                (TXNS, 1.0),
                (KEYS, 1.0),
                (REVISION, 1.0),
                (IN, sent),
                (OUT, got),
                (UNKNOWN, 1.0),
                (TXN_TIMES, 1.0),
            ],
        )
        .await;

    // Leases: one with two keys ends by hand, one runs out.
    let mut lease = pb::lease_client::LeaseClient::new(channel.clone());
    let mut traffic = [0.0, 0.0];
    for (id, ttl) in [(7, 100), (8, 2)] {
        let request = pb::LeaseGrantRequest { id, ttl };
        traffic[0] += bytes(&request);
        let granted = lease.lease_grant(request).await.expect("granted");
        traffic[1] += bytes(&granted.into_inner());
    }
    for key in ["l1", "l2"] {
        let request = pb::PutRequest {
            lease: 7,
            ..put(key)
        };
        traffic[0] += bytes(&request);
        traffic[1] += bytes(&kv.put(request).await.expect("put").into_inner());
    }
    let request = pb::LeaseRevokeRequest { id: 7 };
    traffic[0] += bytes(&request);
    let revoked = lease.lease_revoke(request).await.expect("revoked");
    traffic[1] += bytes(&revoked.into_inner());
    server.until(EXPIRED, 1.0).await;
    ledger
        .step(
            "two leases, one revoked with two keys, one run out",
            &[
                (GRANTED, 2.0),
                (TTL_SUM, 102.0),
                (REVOKED, 2.0),
                (EXPIRED, 1.0),
                (PUTS, 2.0),
                (PUT_BYTES, 14.0),
                (DELETES, 2.0),
                (TXNS, 1.0),
                (REVISION, 3.0),
                (IN, traffic[0]),
                (OUT, traffic[1]),
                (UNKNOWN, 5.0),
                (PUT_TIMES, 2.0),
                (PUT_APPLIED, 2.0),
                (PUTS_IN, 2.0),
            ],
        )
        .await;

    // A watcher is told of one of two puts.
    let (commands, queue) = tokio::sync::mpsc::channel(4);
    let create = pb::WatchRequest {
        request_union: Some(pb::watch_request::RequestUnion::CreateRequest(
            pb::WatchCreateRequest {
                key: "a".into(),
                ..Default::default()
            },
        )),
    };
    let sent = bytes(&create);
    commands.send(create).await.expect("taken");
    let mut watch = pb::watch_client::WatchClient::new(channel.clone());
    let words = tokio_stream::wrappers::ReceiverStream::new(queue);
    let mut answers = watch.watch(words).await.expect("a stream").into_inner();
    let created = soon("created", answers.message()).await;
    let mut got = bytes(&created.expect("answered").expect("created"));
    let mut traffic = [sent, 0.0];
    for key in ["a", "b"] {
        traffic[0] += bytes(&put(key));
        traffic[1] += bytes(&kv.put(put(key)).await.expect("put").into_inner());
    }
    let told = soon("an event", answers.message()).await;
    let told = told.expect("answered").expect("events");
    assert_eq!(told.events.len(), 1);
    got += bytes(&told);
    ledger
        .step(
            "a watcher and two puts",
            &[
                (STREAMS, 1.0),
                (WATCHERS, 1.0),
                (EVENTS, 1.0),
                (WATCH_OUT, 2.0),
                (PUTS, 2.0),
                (PUT_BYTES, 12.0),
                (REVISION, 2.0),
                (IN, traffic[0]),
                (OUT, traffic[1] + got),
                (UNKNOWN, 2.0),
                (PUT_TIMES, 2.0),
                (PUT_APPLIED, 2.0),
                (PUTS_IN, 2.0),
            ],
        )
        .await;
    drop((commands, answers));
    ledger
        .step("its end", &[(STREAMS, -1.0), (WATCHERS, -1.0)])
        .await;

    // Everything but what is live: of k three changes, of a, b, l1, l2 one or two each.
    let revision = server.scrape().get(REVISION);
    let request = pb::CompactionRequest {
        revision: revision as i64,
        physical: true,
    };
    let sent = bytes(&request);
    let got = bytes(&kv.compact(request).await.expect("compacted").into_inner());
    ledger
        .step(
            "a compaction",
            &[
                (COMPACTED, revision + 1.0),
                (COMPACTIONS, 1.0),
                (REMOVED, 3.0 + 1.0 + 1.0 + 2.0 + 2.0),
                (IN, sent),
                (OUT, got),
                (UNKNOWN, 1.0),
            ],
        )
        .await;
    let last = server
        .scrape()
        .get("etcd_debugging_mvcc_db_compaction_last");
    #[allow(
        clippy::disallowed_methods,
        reason = "a test compares with the wall clock"
    )]
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let now = now.expect("after 1970").as_secs_f64();
    assert!((now - last).abs() < 3_600.0, "{last} is not about {now}");

    let mut maintenance = pb::maintenance_client::MaintenanceClient::new(channel.clone());
    let request = pb::HashKvRequest::default();
    let sent = bytes(&request);
    let got = bytes(
        &maintenance
            .hash_kv(request)
            .await
            .expect("hash")
            .into_inner(),
    );
    server.http("/health");
    server.http("/readyz");
    ledger
        .step(
            "a hash, and health and readiness",
            &[
                (HASHES, 1.0),
                (WELL, 1.0),
                (READY, 1.0),
                (RANGES, 1.0 + 2.0),
                (IN, sent),
                (OUT, got),
                (UNKNOWN, 1.0),
            ],
        )
        .await;

    // The quota: nothing of the put is applied, the alarm is.
    let huge = pb::PutRequest {
        value: vec![7; 1_000_000].into(),
        ..put("huge")
    };
    let mut taken = 0.0;
    let mut traffic = [0.0, 0.0];
    loop {
        traffic[0] += bytes(&huge);
        match kv.put(huge.clone()).await {
            Ok(answer) => {
                taken += 1.0;
                traffic[1] += bytes(&answer.into_inner());
            }
            Err(status) => {
                assert!(status.message().contains("space exceeded"), "{status:?}");
                break;
            }
        }
        assert!(taken < 20.0, "two quotas' worth");
    }
    server.until(ALARM, 1.0).await;
    server.http("/health");
    ledger
        .step(
            "a spent quota",
            &[
                (PUTS, taken),
                (PUT_BYTES, taken * 1_000_004.0),
                (KEYS, 1.0),
                (REVISION, taken),
                (IN, traffic[0]),
                (OUT, traffic[1]),
                (UNKNOWN, taken + 1.0),
                (PUT_TIMES, taken),
                (PUT_APPLIED, taken),
                (PUTS_IN, taken + 1.0),
                (ALARM, 1.0),
                (ALARMS, 1.0),
                ("etcd_server_health_failures", 1.0),
            ],
        )
        .await;
    // Sizes are published with a tick, a little after the last put.
    let in_use = "etcd_mvcc_db_total_size_in_use_in_bytes";
    let is_seen = || server.scrape().get(in_use) > 1e6 * (taken - 1.0);
    until("the size of what was put", is_seen).await;
    let scrape = server.scrape();
    assert_eq!(scrape.get("etcd_server_quota_backend_bytes"), QUOTA as f64);
    let total = scrape.get("etcd_mvcc_db_total_size_in_bytes");
    let in_use = scrape.get(in_use);
    assert!(in_use <= total, "{in_use} of {total}");
    let limit = scrape.get("process_max_fds");
    assert_eq!(scrape.get("os_fd_limit"), limit);
    let open = scrape.get("os_fd_used");
    assert!(open > 5.0 && open < limit, "{open} of {limit}");
    let began = scrape.get("process_start_time_seconds");
    assert!(began <= now && now - began < 86_400.0, "{began} and {now}");
    assert!(scrape.get("etcd_disk_wal_fsync_duration_seconds_count") >= taken);
    assert!(scrape.get("process_network_receive_bytes_total") > 0.0);
}
