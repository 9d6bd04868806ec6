//! Calls that no client library makes, or that only some make: odd authorities, compressed messages,
//! wrong methods and content types, streams that stay open, connections that say nothing.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use henge_edge::EdgeConfig;

use super::frames::{
    DATA, END_HEADERS, END_STREAM, HEADERS, connect, frame, literals, messages, read_frame,
};
use super::{SHORT, Server};

const RESET: u8 = 3;
const PUT: &str = "/etcdserverpb.KV/Put";
/// PutRequest { key: "k", value: "vv" }, and RangeRequest { key: "k" }, framed.
const PUT_MESSAGE: &[u8] = &[0, 0, 0, 0, 7, 0x0a, 1, b'k', 0x12, 2, b'v', b'v'];
const RANGE_MESSAGE: &[u8] = &[0, 0, 0, 0, 3, 0x0a, 1, b'k'];

type Fields<'f> = &'f [(&'f str, &'f str)];

/// What a stream was answered.
#[derive(Debug, Default, PartialEq)]
struct Answer {
    status: String,
    code: String,
    text: String,
    encoding: String,
    data: Vec<u8>,
    reset: bool,
}

/// Fields of a call; `more` replaces those of the same name, and an empty value leaves one out.
fn fields<'f>(path: &'f str, more: &[(&'f str, &'f str)]) -> Vec<(&'f str, &'f str)> {
    let mut all = vec![
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "x"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    for (name, value) in more {
        match all.iter_mut().find(|(n, _)| n == name) {
            Some(field) => field.1 = value,
            None => all.push((name, value)),
        }
    }
    all.retain(|(name, value)| *name == ":authority" || !value.is_empty());
    all
}

/// Sends one call on stream 1 of a connection of its own.
fn send(server: &Server, fields: &[(&str, &str)], body: &[u8], end: bool) -> TcpStream {
    let mut stream = connect(server);
    let mut out = Vec::new();
    frame(HEADERS, END_HEADERS, 1, &literals(fields), &mut out);
    for part in body.chunks(16_384) {
        frame(DATA, 0, 1, part, &mut out);
    }
    if end {
        frame(DATA, END_STREAM, 1, &[], &mut out);
    }
    stream.write_all(&out).expect("sent");
    stream
}

/// Reads until the stream is over.
fn answer(stream: &mut TcpStream, hpack: &mut loona_hpack::Decoder<'_>) -> Answer {
    let mut got = Answer::default();
    loop {
        let (kind, flags, payload) = read_frame(stream);
        match kind {
            HEADERS => {
                for (name, value) in hpack.decode(&payload).expect("a header block") {
                    let value = String::from_utf8(value).expect("text");
                    match &name[..] {
                        b":status" => got.status = value,
                        b"grpc-status" => got.code = value,
                        b"grpc-message" => {
                            got.text = value.replace("%20", " ").replace("%22", "\"")
                        }
                        b"grpc-encoding" => got.encoding = value,
                        _ => {}
                    }
                }
            }
            DATA => got.data.extend_from_slice(&payload),
            RESET => got.reset = true,
            _ => continue,
        }
        if got.reset || matches!(kind, DATA | HEADERS) && flags & END_STREAM != 0 {
            return got;
        }
    }
}

fn ask(server: &Server, fields: &[(&str, &str)], body: &[u8], end: bool) -> Answer {
    let mut stream = send(server, fields, body, end);
    answer(&mut stream, &mut loona_hpack::Decoder::new())
}

fn zipped(message: &[u8]) -> Vec<u8> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::default());
    packed.write_all(message).expect("a vector");
    let packed = packed.finish().expect("a vector");
    let mut out = vec![1];
    out.extend_from_slice(&u32::try_from(packed.len()).expect("short").to_be_bytes());
    out.extend_from_slice(&packed);
    out
}

#[test]
fn regression_an_unusual_authority_is_served() {
    let server = Server::thin(true);
    let long = "h".repeat(120);
    let odd = [
        "127.0.0.1:1,127.0.0.1:2",
        "a%2Fb",
        "#initially=[http://127.0.0.1:2379]",
        "",
        "a b",
        "localhost:2379",
        "[::1]:2379",
        &long,
    ];
    for authority in odd {
        let got = ask(
            &server,
            &fields(PUT, &[(":authority", authority)]),
            PUT_MESSAGE,
            true,
        );
        assert_eq!(
            (got.status.as_str(), got.code.as_str()),
            ("200", "0"),
            "{authority:?}: {got:?}"
        );
    }
    assert_eq!(server.double.state().revision, 1 + odd.len() as i64);
}

#[test]
fn regression_one_connection_may_change_its_authority_and_refer_to_it_later() {
    let server = Server::thin(true);
    let mut stream = connect(&server);
    let mut hpack = loona_hpack::Decoder::new();
    // `:authority: a b` and `content-type: application/grpc`, both into the table (0x40).
    let mut first = vec![0x83, 0x86, 0x41, 3, b'a', b' ', b'b', 0x5f, 16];
    first.extend_from_slice(b"application/grpc");
    // Later: by reference to the older entry (63), and a good one between.
    let (second, third) = (
        vec![0x83, 0x86, 0xbf, 0xbe],
        vec![0x83, 0x86, 0x01, 1, b'h', 0xbe],
    );
    for (n, mut block) in [first, second.clone(), third, second]
        .into_iter()
        .enumerate()
    {
        block.extend_from_slice(&[0x04, u8::try_from(PUT.len()).expect("short")]);
        // A pseudo field may not come after others, so the path goes in front of the type.
        let path = block.split_off(block.len() - 2);
        let at = if n == 0 { 7 } else { block.len() - 1 };
        let rest = block.split_off(at);
        block.extend_from_slice(&path);
        block.extend_from_slice(PUT.as_bytes());
        block.extend_from_slice(&rest);
        let id = u32::try_from(2 * n + 1).expect("small");
        let mut out = Vec::new();
        frame(HEADERS, END_HEADERS, id, &block, &mut out);
        frame(DATA, END_STREAM, id, PUT_MESSAGE, &mut out);
        stream.write_all(&out).expect("sent");
        let got = answer(&mut stream, &mut hpack);
        assert_eq!(
            (got.status.as_str(), got.code.as_str()),
            ("200", "0"),
            "{n}: {got:?}"
        );
    }
}

#[test]
fn regression_compressed_calls_are_answered_in_kind() {
    for thin in [true, false] {
        let server = Server::thin(thin);
        let gzip = fields(PUT, &[("grpc-encoding", "gzip")]);
        // Also a message that is plain in a call that may pack (flag 0).
        for body in [zipped(&PUT_MESSAGE[5..]), PUT_MESSAGE.to_vec()] {
            let got = ask(&server, &gzip, &body, true);
            assert_eq!(
                (got.code.as_str(), got.encoding.as_str()),
                ("0", "gzip"),
                "{got:?}"
            );
            assert_eq!((messages(&got.data), got.data[0]), (1, 1));
            let mut plain = Vec::new();
            GzDecoder::new(&got.data[5..])
                .read_to_end(&mut plain)
                .expect("gzip");
            assert_eq!(
                plain.first(),
                Some(&0x0a),
                "a header comes first: {plain:?}"
            );
        }
        assert_eq!(server.double.state().revision, 3);
        // Accepting alone changes nothing.
        let got = ask(
            &server,
            &fields(PUT, &[("grpc-accept-encoding", "gzip")]),
            PUT_MESSAGE,
            true,
        );
        assert_eq!(
            (got.code.as_str(), got.encoding.as_str(), got.data[0]),
            ("0", "", 0)
        );
        let lease = zipped(&[8, 100, 16, 5]);
        let grant = "/etcdserverpb.Lease/LeaseGrant";
        let got = ask(
            &server,
            &fields(grant, &[("grpc-encoding", "gzip")]),
            &lease,
            true,
        );
        assert_eq!((got.code.as_str(), got.data[0]), ("0", 1), "{got:?}");
        let alive = [zipped(&[8, 5]), vec![0, 0, 0, 0, 2, 8, 5]].concat();
        let keep = "/etcdserverpb.Lease/LeaseKeepAlive";
        let got = ask(
            &server,
            &fields(keep, &[("grpc-encoding", "gzip")]),
            &alive,
            true,
        );
        assert_eq!(
            (got.code.as_str(), messages(&got.data)),
            ("0", 2),
            "{got:?}"
        );
    }
}

#[test]
fn a_bomb_costs_what_a_message_may_and_garbage_is_named() {
    for thin in [true, false] {
        let server = Server::thin(thin);
        let gzip = fields(PUT, &[("grpc-encoding", "gzip")]);
        let bomb = zipped(&vec![0; 64 << 20]);
        let got = ask(&server, &gzip, &bomb, true);
        let text = "grpc: received message after decompression larger than max 2097152";
        assert_eq!(
            (got.code.as_str(), got.text.as_str()),
            ("8", text),
            "{thin}"
        );
        let got = ask(&server, &gzip, b"\x01\0\0\0\x03abc", true);
        assert_eq!(got.code, "13", "{got:?}");
        assert!(
            got.text.starts_with("grpc: failed to decompress"),
            "{got:?}"
        );
        let got = ask(&server, &fields(PUT, &[]), b"\x01\0\0\0\x03abc", true);
        let text = "grpc: compressed flag set with identity or empty encoding";
        assert_eq!(
            (got.code.as_str(), got.text.as_str()),
            ("13", text),
            "{thin}"
        );
        assert_eq!(server.double.state().revision, 1, "nothing was executed");
    }
}

#[test]
fn regression_what_is_no_call_is_not_executed() {
    let server = Server::thin(true);
    let table: &[(&str, Fields<'_>, &str, &str)] = &[
        (PUT, &[(":method", "GET")], "405", "13"),
        (PUT, &[(":method", "PUT")], "405", "13"),
        (PUT, &[(":method", "OPTIONS")], "405", "13"),
        (PUT, &[("content-type", "")], "415", "3"),
        (PUT, &[("content-type", "application/json")], "415", "3"),
        (PUT, &[("grpc-timeout", "0S")], "200", "4"),
        (PUT, &[("grpc-timeout", "1x")], "400", "13"),
        (PUT, &[("grpc-encoding", "snappy")], "200", "12"),
        ("/etcdserverpb.KV/Put?x=1", &[], "200", "12"),
    ];
    for (path, more, status, code) in table {
        let got = ask(&server, &fields(path, more), PUT_MESSAGE, true);
        assert_eq!(
            (got.status.as_str(), got.code.as_str()),
            (*status, *code),
            "{path} {more:?}"
        );
    }
    assert_eq!(server.double.state().revision, 1);
}

#[test]
fn regression_a_unary_call_is_its_first_message() {
    for thin in [true, false] {
        let server = Server::thin(thin);
        for path in [
            PUT,
            "/etcdserverpb.Lease/LeaseGrant",
            "/etcdserverpb.KV/RangeStream",
        ] {
            let message = match path {
                PUT => PUT_MESSAGE.to_vec(),
                "/etcdserverpb.KV/RangeStream" => RANGE_MESSAGE.to_vec(),
                _ => vec![0, 0, 0, 0, 2, 8, 100],
            };
            // Two of them, and one whose stream stays open.
            let two = [&message[..], &message].concat();
            for (body, end) in [(two, true), (message, false)] {
                let got = ask(&server, &fields(path, &[]), &body, end);
                assert_eq!(
                    (got.code.as_str(), messages(&got.data)),
                    ("0", 1),
                    "{path}: {got:?}"
                );
            }
            for (body, text) in [(&b""[..], "EOF"), (b"\0\0", "unexpected EOF")] {
                let got = ask(&server, &fields(path, &[]), body, true);
                assert_eq!(
                    (got.code.as_str(), got.text.as_str()),
                    ("2", text),
                    "{path}: {got:?}"
                );
            }
        }
        assert_eq!(
            server.double.state().revision,
            3,
            "the second message is not read"
        );
    }
}

#[test]
fn many_streams_that_stay_open_do_not_end_their_connection() {
    let server = Server::thin(true);
    let mut stream = connect(&server);
    let mut hpack = loona_hpack::Decoder::new();
    // More than h2 allows of errors of its own: an answered call that was not closed is none.
    for n in 0..6_000_u32 {
        let mut out = Vec::new();
        let block = literals(&fields("/etcdserverpb.KV/Range", &[]));
        frame(HEADERS, END_HEADERS, 2 * n + 1, &block, &mut out);
        frame(DATA, 0, 2 * n + 1, RANGE_MESSAGE, &mut out);
        stream.write_all(&out).expect("sent");
        let mut got = answer(&mut stream, &mut hpack);
        while got.reset {
            // The one before was told to stop sending.
            got = answer(&mut stream, &mut hpack);
        }
        assert_eq!(got.code, "0", "{n}: {got:?}");
    }
}

#[test]
fn regression_a_hundred_kibibytes_of_metadata_are_taken() {
    let server = Server::thin(true);
    let mut stream = connect(&server);
    let mut block = literals(&fields(PUT, &[]));
    for n in 0..100 {
        // Lengths above 126 take two bytes more.
        block.extend_from_slice(&[0, 4, b'x', b'-', b'0' + n / 10, b'0' + n % 10]);
        block.extend_from_slice(&[0x7f, 0x81, 0x07]); // 127 + 1 + 7 * 128 = 1,024
        block.extend_from_slice(&[b'v'; 1_024]);
    }
    let mut parts = block.chunks(16_384).peekable();
    let (mut out, mut kind) = (Vec::new(), HEADERS);
    while let Some(part) = parts.next() {
        let flags = if parts.peek().is_none() {
            END_HEADERS
        } else {
            0
        };
        frame(kind, flags, 1, part, &mut out);
        kind = 9;
    }
    frame(DATA, END_STREAM, 1, PUT_MESSAGE, &mut out);
    stream.write_all(&out).expect("sent");
    let got = answer(&mut stream, &mut loona_hpack::Decoder::new());
    assert_eq!(
        (got.status.as_str(), got.code.as_str()),
        ("200", "0"),
        "{got:?}"
    );
}

/// Whether the server closed the connection, waiting as long as any test.
fn is_closed(stream: &mut TcpStream) -> bool {
    stream
        .set_read_timeout(Some(super::HANG))
        .expect("a timeout");
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Ok(_) => true,
        Err(e) => e.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

#[test]
fn regression_silent_connections_and_half_prefaces_end() {
    let server = Server::start(EdgeConfig {
        silence_limit: Duration::from_millis(50),
        drain_limit: SHORT,
        ..EdgeConfig::default()
    });
    for said in [
        &b""[..],
        b"P",
        b"PRI * HTTP/2.0\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        let mut stream = TcpStream::connect(server.address).expect("a connection");
        stream.write_all(said).expect("sent");
        assert!(is_closed(&mut stream), "{said:?}");
    }
    // One that began stays, however long it says nothing more.
    let mut idle = connect(&server);
    #[expect(
        clippy::disallowed_methods,
        reason = "four times the limit has to pass"
    )]
    std::thread::sleep(Duration::from_millis(200));
    let mut out = Vec::new();
    frame(
        HEADERS,
        END_HEADERS,
        1,
        &literals(&fields(PUT, &[])),
        &mut out,
    );
    frame(DATA, END_STREAM, 1, PUT_MESSAGE, &mut out);
    idle.write_all(&out).expect("sent");
    assert_eq!(
        answer(&mut idle, &mut loona_hpack::Decoder::new()).code,
        "0"
    );
}

#[test]
fn regression_clients_beyond_the_limit_are_closed_at_once_and_others_served() {
    let server = Server::start(EdgeConfig {
        max_connections: 2,
        drain_limit: SHORT,
        ..EdgeConfig::default()
    });
    let (first, mut second) = (connect(&server), connect(&server));
    let mut third = TcpStream::connect(server.address).expect("accepted by the kernel");
    assert!(is_closed(&mut third));
    let mut out = Vec::new();
    frame(
        HEADERS,
        END_HEADERS,
        1,
        &literals(&fields(PUT, &[])),
        &mut out,
    );
    frame(DATA, END_STREAM, 1, PUT_MESSAGE, &mut out);
    second.write_all(&out).expect("sent");
    assert_eq!(
        answer(&mut second, &mut loona_hpack::Decoder::new()).code,
        "0"
    );
    // Room comes back with whoever leaves: the server notices in its own time.
    drop(first);
    let mut tries = 0..200;
    loop {
        assert!(tries.next().is_some(), "no room came back");
        let mut again = TcpStream::connect(server.address).expect("accepted by the kernel");
        again
            .set_read_timeout(Some(Duration::from_millis(100)))
            .expect("a timeout");
        if !matches!(again.read(&mut [0]), Ok(0)) {
            break;
        }
    }
}
