//! What only a client that writes its own HTTP/2 frames can do.

use std::io::{Read, Write};
use std::net::TcpStream;

use super::Server;

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
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
    let server = Server::start(henge::etcd::EdgeConfig {
        ping_least: super::HANG,
        drain_limit: super::SHORT,
        ..henge::etcd::EdgeConfig::default()
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
    let server = Server::start(henge::etcd::EdgeConfig {
        drain_limit: 10 * super::HANG,
        ..henge::etcd::EdgeConfig::default()
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
