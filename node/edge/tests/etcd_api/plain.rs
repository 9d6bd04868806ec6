//! Plain HTTP on the same port.

use std::io::{Read, Write};
use std::net::TcpStream;

use henge::api::Error;
use henge_edge::etcd::proto::etcdserverpb as pb;

use super::{Server, until};

/// Status code and body of one HTTP/1.1 request on a connection of its own.
fn http(server: &Server, method: &str, target: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(server.address).expect("a connection");
    stream
        .set_read_timeout(Some(super::HANG))
        .expect("a timeout");
    let request = format!("{method} {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let code = head
        .split(' ')
        .nth(1)
        .and_then(|c| c.parse().ok())
        .expect("a status");
    (code, body.to_owned())
}

#[test]
fn health_answers_as_etcds_does() {
    let server = Server::thin(true);
    let well = (200, "{\"health\":\"true\",\"reason\":\"\"}".to_owned());
    assert_eq!(http(&server, "GET", "/health"), well);
    server.double.state().metrics.space_low = true;
    let (code, body) = http(&server, "GET", "/health");
    assert_eq!(
        (code, body.as_str()),
        (503, "{\"health\":\"false\",\"reason\":\"ALARM NOSPACE\"}\n")
    );
    assert_eq!(http(&server, "GET", "/health?exclude=NOSPACE"), well);
    server.double.state().metrics.space_low = false;
    server.double.state().metrics.has_leader = false;
    let (code, body) = http(&server, "GET", "/health");
    assert_eq!(
        (code, body.as_str()),
        (
            503,
            "{\"health\":\"false\",\"reason\":\"RAFT NO LEADER\"}\n"
        )
    );
    assert_eq!(http(&server, "GET", "/health?serializable=true"), well);
    server.double.state().metrics.has_leader = true;
    server
        .double
        .state()
        .failures
        .push_back(Error::TooManyRequests);
    let (code, body) = http(&server, "GET", "/health");
    let reason =
        "{\"health\":\"false\",\"reason\":\"RANGE ERROR:etcdserver: too many requests\"}\n";
    assert_eq!((code, body.as_str()), (503, reason));
}

#[test]
fn regression_health_is_plain_text_as_etcds() {
    let server = Server::thin(true);
    for ill in [false, true] {
        server.double.state().metrics.has_leader = !ill;
        let mut stream = TcpStream::connect(server.address).expect("a connection");
        let request = "GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        let kind = "content-type: text/plain; charset=utf-8\r\n";
        assert!(answer.contains(kind), "{answer}");
    }
}

#[test]
fn probes_say_ok_or_name_the_check_that_failed() {
    let server = Server::thin(true);
    assert_eq!(http(&server, "GET", "/livez"), (200, "ok\n".to_owned()));
    assert_eq!(http(&server, "GET", "/readyz"), (200, "ok\n".to_owned()));
    let (code, body) = http(&server, "GET", "/readyz?verbose");
    assert_eq!((code, body.lines().count()), (200, 5));
    assert!(body.contains("[+]linearizable_read ok\n"), "{body}");
    assert_eq!(body.lines().last(), Some("ok"));
    let live = http(&server, "GET", "/livez?verbose");
    assert_eq!(live, (200, "[+]serializable_read ok\nok\n".to_owned()));
    server.double.state().failures.push_back(Error::NoLeader);
    let (code, body) = http(&server, "GET", "/readyz/linearizable_read");
    let failed = "[-]linearizable_read failed: etcdserver: no leader\n\n";
    assert_eq!((code, body.as_str()), (503, failed));
    server.double.state().metrics.poisoned = true;
    assert_eq!(http(&server, "GET", "/readyz").0, 503);
    assert_eq!(
        http(&server, "GET", "/readyz?exclude=data_corruption").0,
        200
    );
    assert_eq!(http(&server, "GET", "/readyz/nope").0, 404);
}

#[test]
fn other_paths_and_methods_are_refused_politely() {
    let server = Server::thin(true);
    assert_eq!(http(&server, "GET", "/nope").0, 404);
    assert_eq!(http(&server, "POST", "/health").0, 405);
    let (code, body) = http(&server, "GET", "/version");
    assert_eq!(code, 200);
    assert!(body.starts_with("{\"etcdserver\":\"3."), "{body}");
}

#[tokio::test]
async fn calls_show_up_in_the_metrics_of_both_paths() {
    for thin in [true, false] {
        let server = Server::thin(thin);
        let mut kv = server.kv().await;
        let key = || pb::PutRequest {
            key: "k".into(),
            ..Default::default()
        };
        for _ in 0..3 {
            kv.put(key()).await.expect("put");
        }
        kv.put(pb::PutRequest::default()).await.expect_err("no key");
        let line = |code: &str, n: u64| {
            format!(
                "grpc_server_handled_total{{grpc_code=\"{code}\",grpc_method=\"Put\",\
                 grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"}} {n}\n"
            )
        };
        // tonic's path counts when the trailers leave, which may be just after the answer.
        until("the calls to be counted", || {
            let page = http(&server, "GET", "/metrics").1;
            page.contains(&line("OK", 3)) && page.contains(&line("InvalidArgument", 1))
        })
        .await;
    }
}
