//! What only a client that writes its own HTTP/2 frames can do.

use std::io::{Read, Write};
use std::net::TcpStream;

use super::Server;

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const END_STREAM: u8 = 1;
pub(super) const ACK: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;

pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8], out: &mut Vec<u8>) {
    let len = u32::try_from(payload.len()).expect("short").to_be_bytes();
    out.extend_from_slice(&len[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

/// Header fields as HPACK literals without indexing or Huffman coding.
pub(super) fn literals(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        out.push(0);
        for text in [name, value] {
            out.push(u8::try_from(text.len()).expect("short"));
            out.extend_from_slice(text.as_bytes());
        }
    }
    out
}

/// Opens a connection with windows too large to matter.
pub(super) fn connect(server: &Server) -> TcpStream {
    let mut stream = TcpStream::connect(server.address).expect("a connection");
    stream
        .set_read_timeout(Some(super::HANG))
        .expect("a timeout");
    let mut out = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    // SETTINGS_INITIAL_WINDOW_SIZE (4), then as much for the connection.
    frame(SETTINGS, 0, 0, &[0, 4, 0x7f, 0, 0, 0], &mut out);
    frame(WINDOW_UPDATE, 0, 0, &[0x7e, 0, 0, 0], &mut out);
    stream.write_all(&out).expect("sent");
    // The server's windows hold once we acknowledged its settings.
    while !matches!(read_frame(&mut stream), (SETTINGS, 0, _)) {}
    let mut out = Vec::new();
    frame(SETTINGS, ACK, 0, &[], &mut out);
    stream.write_all(&out).expect("sent");
    stream
}

/// Opens a connection, and stream 1 as a call of `path`.
fn call(server: &Server, path: &str) -> TcpStream {
    let mut stream = connect(server);
    let mut out = Vec::new();
    let fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "x"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    frame(HEADERS, END_HEADERS, 1, &literals(&fields), &mut out);
    stream.write_all(&out).expect("sent");
    stream
}

/// Kind, flags and payload.
pub(super) fn read_frame(stream: &mut TcpStream) -> (u8, u8, Vec<u8>) {
    let mut head = [0; 9];
    stream.read_exact(&mut head).expect("a frame");
    let len = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
    let mut payload = vec![0; len];
    stream.read_exact(&mut payload).expect("a payload");
    (head[3], head[4], payload)
}

/// Payload bytes of all DATA frames until the stream ends; panics on GOAWAY.
fn data_until_end(mut stream: TcpStream) -> Vec<u8> {
    let mut data = Vec::new();
    loop {
        let (kind, flags, payload) = read_frame(&mut stream);
        assert_ne!(
            kind, GOAWAY,
            "the server gave up (last stream, code): {payload:?}"
        );
        if kind == DATA {
            data.extend_from_slice(&payload);
        }
        if matches!(kind, DATA | HEADERS) && flags & END_STREAM != 0 {
            return data;
        }
    }
}

/// Messages in a stream of framed ones.
pub(super) fn messages(mut data: &[u8]) -> usize {
    let mut n = 0;
    while let Some((head, rest)) = data.split_first_chunk::<5>() {
        let len = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        data = &rest[len..];
        n += 1;
    }
    n
}

#[test]
fn a_burst_of_keep_alives_in_frames_of_their_own_is_answered_whole() {
    const BURST: usize = 50_000;
    let server = Server::thin(true);
    let mut stream = call(&server, "/etcdserverpb.Lease/LeaseKeepAlive");
    let mut out = Vec::new();
    for i in 0..BURST {
        let flags = if i + 1 == BURST { END_STREAM } else { 0 };
        // One message: LeaseKeepAliveRequest { ID: 5 }.
        frame(DATA, flags, 1, &[0, 0, 0, 0, 2, 8, 5], &mut out);
    }
    let reader = stream.try_clone().expect("a second handle");
    let reader = std::thread::spawn(move || data_until_end(reader));
    stream.write_all(&out).expect("the server reads");
    assert_eq!(messages(&reader.join().expect("no GOAWAY")), BURST);
}

#[test]
fn a_message_in_many_frames_and_a_late_end_is_one_call() {
    for thin in [true, false] {
        let server = Server::thin(thin);
        let mut stream = call(&server, "/etcdserverpb.KV/Put");
        let mut out = Vec::new();
        // PutRequest { key: "k", value: "vv" }, a byte at a time.
        for byte in [0, 0, 0, 0, 7, 0x0a, 1, b'k', 0x12, 2, b'v', b'v'] {
            frame(DATA, 0, 1, &[byte], &mut out);
        }
        stream.write_all(&out).expect("sent");
        let mut end = Vec::new();
        frame(DATA, END_STREAM, 1, &[], &mut end);
        stream.write_all(&end).expect("sent");
        assert_eq!(messages(&data_until_end(stream)), 1);
        assert_eq!(server.double.state().revision, 2);
    }
}

/// `--grpc-keepalive-min-time` had no effect: a client could ping as often as it liked.
#[test]
fn regression_a_client_that_pings_too_often_is_told_to_go() {
    let server = Server::start(henge_edge::EdgeConfig {
        ping_least: super::HANG,
        drain_limit: super::SHORT,
        ..henge_edge::EdgeConfig::default()
    });
    let ping = |stream: &mut TcpStream| {
        let mut out = Vec::new();
        frame(PING, 0, 0, &[7; 8], &mut out);
        stream.write_all(&out).expect("sent");
    };
    let answered = |stream: &mut TcpStream| loop {
        match read_frame(stream) {
            (PING, ACK, _) => return true,
            (GOAWAY, _, payload) => {
                assert_eq!(payload[4..8], [0, 0, 0, 11], "ENHANCE_YOUR_CALM");
                assert_eq!(&payload[8..], b"too_many_pings");
                return false;
            }
            _ => {}
        }
    };
    // Without a call, and with one that goes on: the fourth ping is one too many.
    let watching = || {
        let mut stream = call(&server, "/etcdserverpb.Watch/Watch");
        // An answer, which forgives.
        while read_frame(&mut stream).0 != HEADERS {}
        stream
    };
    for mut stream in [connect(&server), watching()] {
        for _ in 0..3 {
            ping(&mut stream);
            assert!(answered(&mut stream));
        }
        ping(&mut stream);
        assert!(!answered(&mut stream));
        let mut rest = Vec::new();
        // It may also be reset, as it said more than was read.
        let _ = stream.read_to_end(&mut rest);
    }
    // Who is answered something in between may ask each time.
    let mut stream = connect(&server);
    for number in 0..10 {
        let mut out = Vec::new();
        let fields = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", "/etcdserverpb.KV/Put"),
            (":authority", "x"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
        ];
        let id = 2 * number + 1;
        frame(HEADERS, END_HEADERS, id, &literals(&fields), &mut out);
        let put = [0, 0, 0, 0, 3, 0x0a, 1, b'k'];
        frame(DATA, END_STREAM, id, &put, &mut out);
        stream.write_all(&out).expect("sent");
        loop {
            let (kind, flags, _) = read_frame(&mut stream);
            assert_ne!(kind, GOAWAY);
            if kind == HEADERS && flags & END_STREAM != 0 {
                break;
            }
        }
        ping(&mut stream);
        assert!(answered(&mut stream), "{number}");
    }
}

/// A client that ignored GOAWAY, and answered no ping, held the server up for ten seconds (etcd: 10 ms).
#[test]
fn regression_a_connection_that_ignores_goaway_is_cut_when_it_is_quiet() {
    let server = Server::start(henge_edge::EdgeConfig {
        drain_limit: 10 * super::HANG,
        ..henge_edge::EdgeConfig::default()
    });
    let mut stream = TcpStream::connect(server.address).expect("a connection");
    stream
        .set_read_timeout(Some(super::HANG))
        .expect("a timeout");
    let mut out = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    frame(SETTINGS, 0, 0, &[], &mut out);
    stream.write_all(&out).expect("sent");
    while !matches!(read_frame(&mut stream), (SETTINGS, 0, _)) {}
    server.shutdown.begin();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).expect("it ends by itself");
    let mut frames = &rest[..];
    let mut said_goaway = false;
    while let [a, b, c, kind, ..] = *frames {
        said_goaway |= kind == GOAWAY;
        let bytes = u32::from_be_bytes([0, a, b, c]) as usize;
        frames = frames.get(9 + bytes..).unwrap_or_default();
    }
    assert!(said_goaway, "{rest:?}");
}

/// Opens a connection with HTTP/2's own windows of 65,535 bytes, and calls Range of `key` and all after it.
fn slow_range(server: &Server, key: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(server.address).expect("a connection");
    stream
        .set_read_timeout(Some(super::HANG))
        .expect("a timeout");
    let mut out = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    frame(SETTINGS, 0, 0, &[], &mut out);
    frame(SETTINGS, ACK, 0, &[], &mut out);
    let fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/etcdserverpb.KV/Range"),
        (":authority", "x"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    frame(HEADERS, END_HEADERS, 1, &literals(&fields), &mut out);
    let mut range = vec![0, 0, 0, 0, 5 + key.len() as u8, 0x0a, key.len() as u8];
    range.extend_from_slice(key);
    range.extend_from_slice(&[0x12, 1, 0]);
    frame(DATA, END_STREAM, 1, &range, &mut out);
    stream.write_all(&out).expect("sent");
    stream
}

/// Reads DATA until the window is used up; its bytes.
fn fill_window(stream: &mut TcpStream) -> Vec<u8> {
    let mut data = Vec::new();
    while data.len() < 65_535 {
        let (kind, _, payload) = read_frame(stream);
        assert_ne!(kind, GOAWAY);
        if kind == DATA {
            data.extend_from_slice(&payload);
        }
    }
    data
}

/// Pairs that make a long answer, and one value that makes a short one of a megabyte and a half.
fn stock(server: &Server) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let mut kv = server.kv().await;
        let pairs = (0..1_200).map(|n| (format!("a{n:04}"), 1_000));
        for (key, bytes) in pairs.chain([("z".to_owned(), 1_500_000)]) {
            let put = henge_edge::etcd::proto::etcdserverpb::PutRequest {
                key: key.into(),
                value: vec![7; bytes].into(),
                ..Default::default()
            };
            kv.put(put).await.expect("put");
        }
    });
}

/// The call counted as ended before its answer had left: SIGTERM cut it off after 300 ms of a slow client.
#[test]
#[allow(clippy::disallowed_methods, reason = "a client on a thread of its own")]
fn regression_an_answer_to_a_slow_client_is_not_cut_off_by_the_end_of_service() {
    for (key, thin) in [(b"a", true), (b"z", true), (b"a", false)] {
        let server = Server::start(henge_edge::EdgeConfig {
            thin_unary: thin,
            drain_limit: 10 * super::HANG,
            ..henge_edge::EdgeConfig::default()
        });
        stock(&server);
        let mut stream = slow_range(&server, key);
        let mut data = fill_window(&mut stream);
        server.shutdown.begin();
        // Longer than a connection has to be quiet.
        std::thread::sleep(std::time::Duration::from_secs(1));
        let mut out = Vec::new();
        frame(WINDOW_UPDATE, 0, 0, &[0x10, 0, 0, 0], &mut out);
        frame(WINDOW_UPDATE, 0, 1, &[0x10, 0, 0, 0], &mut out);
        stream.write_all(&out).expect("it is still there");
        loop {
            let (kind, flags, payload) = read_frame(&mut stream);
            if kind == DATA {
                data.extend_from_slice(&payload);
            }
            if kind == HEADERS && flags & END_STREAM != 0 {
                break;
            }
        }
        assert_eq!(messages(&data), 1);
        let len = u32::from_be_bytes([data[1], data[2], data[3], data[4]]) as usize;
        assert_eq!(data.len(), 5 + len, "{key:?}, thin {thin}");
    }
}

/// While an answer waited for its client, that client's pings fell under the rule for who has no call.
#[test]
fn regression_a_client_may_ping_while_an_answer_waits_for_it() {
    for key in [b"a", b"z"] {
        let server = Server::start(henge_edge::EdgeConfig {
            ping_least: std::time::Duration::from_millis(1),
            drain_limit: super::SHORT,
            ..henge_edge::EdgeConfig::default()
        });
        stock(&server);
        let mut stream = slow_range(&server, key);
        fill_window(&mut stream);
        pinged_slowly(&mut stream, 8, |_| Vec::new());
    }
}

/// Pings so often, what `before` says in the same write before each, and ten milliseconds between two.
#[allow(clippy::disallowed_methods, reason = "a client on a thread of its own")]
fn pinged_slowly(stream: &mut TcpStream, times: u32, before: impl Fn(u32) -> Vec<u8>) {
    for number in 0..times {
        std::thread::sleep(std::time::Duration::from_millis(10));
        let mut out = before(number);
        frame(PING, 0, 0, &[7; 8], &mut out);
        stream.write_all(&out).expect("sent");
        loop {
            let (kind, flags, _) = read_frame(stream);
            assert_ne!(kind, GOAWAY, "ping {number}");
            if (kind, flags) == (PING, ACK) {
                break;
            }
        }
    }
}

/// A client that wakes up for a call pings in the same write: that ping was judged before its call counted.
#[test]
fn regression_a_ping_that_comes_with_a_call_is_one_of_a_client_with_a_call() {
    let server = Server::start(henge_edge::EdgeConfig {
        ping_least: std::time::Duration::from_millis(1),
        drain_limit: super::SHORT,
        ..henge_edge::EdgeConfig::default()
    });
    let mut stream = connect(&server);
    pinged_slowly(&mut stream, 8, |number| {
        let mut out = Vec::new();
        // The call before ends without an answer, which would forgive.
        if number > 0 {
            frame(RST_STREAM, 0, 2 * number - 1, &[0, 0, 0, 8], &mut out);
        }
        let fields = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", "/etcdserverpb.KV/Put"),
            (":authority", "x"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
        ];
        let id = 2 * number + 1;
        frame(HEADERS, END_HEADERS, id, &literals(&fields), &mut out);
        out
    });
}
