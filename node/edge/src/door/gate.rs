//! What of a call can be judged from its headers: whether it is gRPC at all, how it was called, how
//! long its caller will wait, how its messages are packed.
//!
//! Promises grpc-go's answers (`internal/transport/http2_server.go`, `operateHeaders`, as in the
//! release etcd 3.7 is built with; the one in 3.5 resets the stream instead) in its order: content
//! type, deadline, method. What is refused here was not executed. Must never know: services, bodies.

use http::header::CONTENT_TYPE;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use tonic::{Code, Status};

use super::body::EdgeBody;
use crate::counters::{self, METHODS};

const TIMEOUT: &str = "grpc-timeout";
const ENCODING: &str = "grpc-encoding";
/// Digits and unit of a deadline (gRPC over HTTP/2).
const TIMEOUT_BYTES_MAX: usize = 9;

/// How the messages of a call are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    Identity,
    Gzip,
}

/// A call that may go on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pass {
    /// Its place in [`METHODS`].
    pub(crate) method: usize,
    pub(crate) encoding: Encoding,
}

/// A call that may not: its answer, and which method counts it, if one was meant.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) answer: Response<EdgeBody>,
    pub(crate) counted: Option<(usize, Code)>,
}

/// Whether an HTTP/2 request is a call rather than plain HTTP: by its content, or because it is sent
/// to where only calls are.
pub(crate) fn is_call<B>(request: &Request<B>) -> bool {
    is_grpc(request.headers())
        || request.method() == Method::POST
        || counters::find(path(request)).is_some()
}

/// Judges a call.
pub(crate) fn check<B>(request: &Request<B>) -> Result<Pass, Box<Refused>> {
    let headers = request.headers();
    if !is_grpc(headers) {
        let kind = headers.get(CONTENT_TYPE).map_or(&b""[..], |v| v.as_bytes());
        let kind = String::from_utf8_lossy(kind);
        return early(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Status::invalid_argument(format!("invalid gRPC request content-type {kind:?}")),
        );
    }
    let over = match headers.get(TIMEOUT).map(|v| is_over(v.as_bytes())) {
        Some(Err(why)) => {
            let status = Status::internal(format!("malformed grpc-timeout: {why}"));
            return early(StatusCode::BAD_REQUEST, status);
        }
        Some(Ok(over)) => over,
        None => false,
    };
    if request.method() != Method::POST {
        let method = request.method().as_str();
        let why = format!("Received a HEADERS frame with :method {method:?} which should be POST");
        return early(StatusCode::METHOD_NOT_ALLOWED, Status::internal(why));
    }
    // With its query: it is part of the name, as for grpc-go.
    let method = counters::find(path(request));
    if over {
        let status = Status::deadline_exceeded("context deadline exceeded");
        return refused(status, method);
    }
    let Some(method) = method else {
        return early(StatusCode::OK, unknown_method(path(request)));
    };
    let encoding = match headers.get(ENCODING).map_or(&b""[..], |v| v.as_bytes()) {
        b"" | b"identity" => Encoding::Identity,
        b"gzip" => Encoding::Gzip,
        other => {
            let other = String::from_utf8_lossy(other);
            let why = format!("grpc: Decompressor is not installed for grpc-encoding {other:?}");
            return refused(Status::unimplemented(why), Some(method));
        }
    };
    Ok(Pass { method, encoding })
}

fn early<T>(http: StatusCode, status: Status) -> Result<T, Box<Refused>> {
    let mut answer = status.into_http();
    *answer.status_mut() = http;
    Err(Box::new(Refused {
        answer,
        counted: None,
    }))
}

fn refused<T>(status: Status, method: Option<usize>) -> Result<T, Box<Refused>> {
    Err(Box::new(Refused {
        counted: method.map(|method| (method, status.code())),
        answer: status.into_http(),
    }))
}

/// `:path` as it was sent.
fn path<B>(request: &Request<B>) -> &str {
    let uri = request.uri();
    uri.path_and_query().map_or(uri.path(), |p| p.as_str())
}

/// `application/grpc`, also with a suffix (`+proto`) or parameters.
fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).map_or(&b""[..], |v| v.as_bytes());
    match kind.strip_prefix(b"application/grpc") {
        Some(rest) => matches!(rest.first(), None | Some(b'+' | b';')),
        None => false,
    }
}

/// Whether a deadline is over before the call can be looked at: no time at all, or less than the
/// microsecond that takes. A longer one is its caller's to keep.
fn is_over(timeout: &[u8]) -> Result<bool, String> {
    let text = String::from_utf8_lossy(timeout);
    let Some((digits, unit)) = timeout
        .split_last_chunk::<1>()
        .filter(|(d, _)| !d.is_empty())
    else {
        return Err(format!("transport: timeout string is too short: {text:?}"));
    };
    if timeout.len() > TIMEOUT_BYTES_MAX {
        return Err(format!("transport: timeout string is too long: {text:?}"));
    }
    if !b"HMSmun".contains(&unit[0]) {
        return Err(format!(
            "transport: timeout unit is not recognized: {text:?}"
        ));
    }
    if !digits.iter().all(u8::is_ascii_digit) {
        let digits = String::from_utf8_lossy(digits);
        return Err(format!(
            "strconv.ParseUint: parsing {digits:?}: invalid syntax"
        ));
    }
    let is_zero = digits.iter().all(|d| *d == b'0');
    Ok(is_zero || unit == b"n" && digits.len() < 4)
}

/// grpc-go's texts for a path nobody serves.
fn unknown_method(path: &str) -> Status {
    let name = path.strip_prefix('/').unwrap_or(path);
    let Some((service, method)) = name.rsplit_once('/') else {
        return Status::unimplemented(format!("malformed method name: {path:?}"));
    };
    if METHODS.iter().any(|m| m.service() == service) {
        return Status::unimplemented(format!("unknown method {method} for service {service}"));
    }
    Status::unimplemented(format!("unknown service {service}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: &str, path: &str, fields: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(()).expect("a request")
    }

    /// HTTP status, gRPC code and text of a refusal.
    fn refusal(method: &str, path: &str, fields: &[(&str, &str)]) -> (u16, Code, String) {
        let refused = check(&request(method, path, fields)).expect_err("refused");
        let status = Status::from_header_map(refused.answer.headers()).expect("a status");
        let http = refused.answer.status().as_u16();
        (http, status.code(), status.message().to_owned())
    }

    type Fields<'f> = &'f [(&'f str, &'f str)];

    const PUT: &str = "/etcdserverpb.KV/Put";
    const GRPC: (&str, &str) = ("content-type", "application/grpc");

    #[test]
    fn what_is_no_call_is_refused_with_grpc_gos_answers() {
        use Code::*;
        let timeout = |t| [GRPC, ("grpc-timeout", t)];
        let (long, unit, number) = (timeout("999999999S"), timeout("1x"), timeout("1.5S"));
        let (over, zero) = (timeout("0S"), timeout("000n"));
        let table: &[(&str, &str, Fields<'_>, u16, Code, &str)] = &[
            (
                "GET",
                PUT,
                &[GRPC],
                405,
                Internal,
                "Received a HEADERS frame with :method \"GET\" which should be POST",
            ),
            (
                "PUT",
                PUT,
                &[GRPC],
                405,
                Internal,
                "Received a HEADERS frame with :method \"PUT\" which should be POST",
            ),
            (
                "POST",
                PUT,
                &[],
                415,
                InvalidArgument,
                "invalid gRPC request content-type \"\"",
            ),
            (
                "GET",
                PUT,
                &[],
                415,
                InvalidArgument,
                "invalid gRPC request content-type \"\"",
            ),
            (
                "POST",
                PUT,
                &[("content-type", "application/grpc-web")],
                415,
                InvalidArgument,
                "invalid gRPC request content-type \"application/grpc-web\"",
            ),
            (
                "POST",
                "/etcdserverpb.KV/Range?x=1",
                &[GRPC],
                200,
                Unimplemented,
                "unknown method Range?x=1 for service etcdserverpb.KV",
            ),
            (
                "POST",
                "/etcdserverpb.KV/Nope",
                &[GRPC],
                200,
                Unimplemented,
                "unknown method Nope for service etcdserverpb.KV",
            ),
            (
                "POST",
                "/v3lockpb.Lock/Lock",
                &[GRPC],
                200,
                Unimplemented,
                "unknown service v3lockpb.Lock",
            ),
            (
                "POST",
                "//etcdserverpb.KV/Put",
                &[GRPC],
                200,
                Unimplemented,
                "unknown service /etcdserverpb.KV",
            ),
            (
                "POST",
                "/foo",
                &[GRPC],
                200,
                Unimplemented,
                "malformed method name: \"/foo\"",
            ),
            (
                "POST",
                PUT,
                &long,
                400,
                Internal,
                "malformed grpc-timeout: transport: timeout string is too long: \"999999999S\"",
            ),
            (
                "POST",
                PUT,
                &unit,
                400,
                Internal,
                "malformed grpc-timeout: transport: timeout unit is not recognized: \"1x\"",
            ),
            (
                "POST",
                PUT,
                &number,
                400,
                Internal,
                "malformed grpc-timeout: strconv.ParseUint: parsing \"1.5\": invalid syntax",
            ),
            (
                "POST",
                PUT,
                &over,
                200,
                DeadlineExceeded,
                "context deadline exceeded",
            ),
            (
                "POST",
                PUT,
                &zero,
                200,
                DeadlineExceeded,
                "context deadline exceeded",
            ),
            (
                "POST",
                PUT,
                &[GRPC, ("grpc-encoding", "snappy")],
                200,
                Unimplemented,
                "grpc: Decompressor is not installed for grpc-encoding \"snappy\"",
            ),
        ];
        for (method, path, fields, http, code, text) in table {
            let got = refusal(method, path, fields);
            assert_eq!(
                got,
                (*http, *code, (*text).to_owned()),
                "{method} {path} {fields:?}"
            );
        }
    }

    #[test]
    fn what_is_a_call_passes() {
        for kind in [
            "application/grpc",
            "application/grpc+proto",
            "application/grpc;x=1",
        ] {
            for timeout in ["1H", "99999999H", "1000n", "1m", "30S"] {
                let fields = [("content-type", kind), ("grpc-timeout", timeout)];
                let pass = check(&request("POST", PUT, &fields)).expect("a call");
                assert_eq!(METHODS[pass.method].path, PUT);
                assert_eq!(pass.encoding, Encoding::Identity);
            }
        }
        let zipped = request("POST", PUT, &[GRPC, ("grpc-encoding", "gzip")]);
        assert_eq!(check(&zipped).expect("a call").encoding, Encoding::Gzip);
    }

    #[test]
    fn plain_http_is_not_a_call() {
        assert!(!is_call(&request("GET", "/health", &[])));
        assert!(!is_call(&request("GET", "/nope", &[])));
        assert!(is_call(&request("GET", PUT, &[])));
        assert!(is_call(&request("POST", "/nope", &[])));
    }
}
