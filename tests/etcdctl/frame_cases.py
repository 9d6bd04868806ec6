"""Cases in frames of their own (raw.py): what no gRPC library sends, and what only some send.

A case is as in wire_cases.py. Where etcd 3.5 resets a stream that newer grpc-go answers with an HTTP
status, both count as *refused*; codes without texts are compared where the texts differ between
etcd's releases. Must never know: which of the two servers it talks to.
"""

import gzip
import urllib.parse

import raw
from wire import decode, encode

GZIP = {"grpc-encoding": "gzip"}
PUT = encode("PutRequest", {"key": "a", "value": "v" * 10})
RANGE = encode("RangeRequest", {"key": "a", "range_end": "\0"})


def said(answer, kind=None, text=True):
    """What was answered, without what may differ between two releases."""
    if "reset" in answer or answer.get(":status", "200") != "200":
        return "refused"
    out = {"code": answer.get("grpc-status"), "encoding": answer.get("grpc-encoding")}
    if text:
        out["text"] = urllib.parse.unquote(answer.get("grpc-message", ""))
    for flag, data in answer.get("messages", []):
        plain = gzip.decompress(data) if flag else data
        out.setdefault("messages", []).append([flag, decode(kind, plain) if kind else len(plain) > 0])
    for odd in ("closed", "goaway", "no end", "body"):
        if odd in answer:
            out[odd] = True
    return out


def put(wire, body, more=None, kind="PutResponse", text=True, **options):
    return said(raw.call(wire.endpoint, "KV/Put", body, more, **options), kind, text)


def gzip_calls(wire, r):
    def call(method, kind, request, more=None, **options):
        body = raw.zipped(encode(f"{kind}Request", request))
        answer = raw.call(wire.endpoint, method, body, {**GZIP, **(more or {})}, **options)
        return said(answer, f"{kind}Response")

    alive = encode("LeaseKeepAliveRequest", {"ID": 77})
    both = raw.zipped(alive) + raw.message(alive)
    watch = {"create": {"key": "a", "start_revision": r + 1}}
    return [put(wire, raw.zipped(PUT), GZIP), put(wire, raw.message(PUT), GZIP),
            put(wire, raw.zipped(PUT), {**GZIP, "grpc-accept-encoding": "gzip"}),
            put(wire, raw.message(PUT), {"grpc-accept-encoding": "gzip"}),
            call("KV/Range", "Range", {"key": "a"}, {"grpc-accept-encoding": "identity,deflate,gzip"}),
            call("Lease/LeaseGrant", "LeaseGrant", {"TTL": 500, "ID": 77}),
            said(raw.call(wire.endpoint, "Lease/LeaseKeepAlive", both, GZIP), "LeaseKeepAliveResponse"),
            call("Cluster/MemberList", "MemberList", {}),
            call("Watch/Watch", "Watch", watch, end=False, messages=2)]


def gzip_faults(wire, r):
    two = gzip.compress(PUT[:4]) + gzip.compress(PUT[4:])
    return [put(wire, raw.message(b"garbage", 1), GZIP, text=False), put(wire, raw.message(b"", 1), GZIP, text=False),
            put(wire, raw.zipped(bytes(50 << 20)), GZIP, text=False), put(wire, raw.message(two, 1), GZIP),
            put(wire, raw.message(PUT, 1)), put(wire, raw.message(PUT, 1), {"grpc-encoding": "identity"}),
            put(wire, raw.message(PUT), {"grpc-encoding": "identity"}), put(wire, raw.message(PUT, 2)),
            *(said(raw.call(wire.endpoint, method, raw.message(PUT, flag), {"grpc-encoding": "snappy"}))
              for method in ("KV/Put", "Watch/Watch") for flag in (0, 1))]


def not_calls(wire, r):
    def refused(more, body=None):
        # Reading back tells whether it was executed all the same.
        answer = put(wire, raw.message(PUT) if body is None else body, more, text=False)
        return answer if answer == "refused" else "served" if answer["code"] == "0" else "failed"

    paths = ["KV/Range?x=1", "KV/Nonsense", "KV/"]
    return [*(refused({":method": method}) for method in ("GET", "PUT", "OPTIONS", "HEAD", "DELETE")),
            *(refused({"content-type": kind}) for kind in (
                "text/plain", "application/json", "application/grpc-web", None, "",
                "application/grpc+proto", "application/grpc;x=1")),
            *(refused({"grpc-timeout": timeout}) for timeout in (
                "1H", "99999999H", "999999999S", "S", "1", "1x", "1.5S", "0", " 1S")),
            *(said(raw.call(wire.endpoint, path, raw.message(RANGE))) for path in paths),
            said(raw.call(wire.endpoint, "", raw.message(RANGE), {":path": "/foo.Bar/Baz"})),
            said(raw.call(wire.endpoint, "", raw.message(RANGE), {":path": "//etcdserverpb.KV/Range"})),
            said(raw.call(wire.endpoint, "KV/Range", raw.message(RANGE)), "RangeResponse"),
            # Last, as etcd may answer that it was too late for what it then did.
            *(refused({"grpc-timeout": timeout}) for timeout in ("0n", "0S", "1n"))]


def unary_messages(wire, r):
    def every(method, request, **options):
        return [said(raw.call(wire.endpoint, method, body, end=end), **options) for body, end in [
            (raw.message(request) * 2, True), (raw.message(request) + b"\0\0\0\0\xff", True),
            (raw.message(request), False), (b"", True), (b"\0\0", True), (raw.message(request + b" ")[:-1], True)]]

    return [*every("KV/Put", PUT, kind="PutResponse"), *every("KV/Range", RANGE, kind="RangeResponse"),
            *every("Lease/LeaseTimeToLive", encode("LeaseTimeToLiveRequest", {"ID": 5}), kind="LeaseTimeToLiveResponse"),
            *every("Cluster/MemberList", b"", kind="MemberListResponse")]


def metadata(wire, r):
    return [put(wire, raw.message(PUT), {f"x-m{n}": "y" * 1_024 for n in range(kib)}) for kib in (1, 15, 63, 100, 500)]


def authorities(wire, r):
    odd = ["localhost:2379", "127.0.0.1:1,127.0.0.1:2", "a%2Fb", "#initially=[http://127.0.0.1:2379]", "", None,
           "user@host", "a b", "[::1]:2379", "unix:/x", "ä".encode(), "h" * 300]
    alone = [put(wire, raw.message(PUT), {":authority": authority}) for authority in odd]
    # All on one connection, by an encoder that keeps a table: later calls refer to earlier fields.
    connection, together = raw.Connection(wire.endpoint), []
    try:
        for n, authority in enumerate(odd * 3):
            fields = [(k, authority if k == ":authority" else v) for k, v in {**raw.GRPC, ":path": "/etcdserverpb.KV/Put"}.items()]
            pairs = sorted(((k, v) for k, v in fields if v is not None), key=lambda pair: not pair[0].startswith(":"))
            connection.headers(2 * n + 1, pairs)
            connection.data(2 * n + 1, raw.message(PUT))
            together.append(said(connection.answer(2 * n + 1), "PutResponse"))
    finally:
        connection.close()
    return [*alone, *together]


CASES = [gzip_calls, gzip_faults, not_calls, unary_messages, metadata, authorities]
