"""A schema-driven gRPC client for what etcdctl cannot ask: nested transactions, filters, watch ids.

Promises: requests and replies are dicts named as etcd's protos name them; the numbers below are the
interface, written out here on their own so that a slip in the server's protos cannot hide in ours.
A field number that is not in the schema shows up as `field_N` instead of vanishing.
Must never know: what a case means. Tested by running wire_cases.py on a real etcd.
"""

import queue
import re

import grpc

SCHEMA_TEXT = """
Header: cluster_id=1 int; member_id=2 uint; revision=3 int; raft_term=4 uint
KeyValue: key=1 bytes; create_revision=2 int; mod_revision=3 int; version=4 int; value=5 bytes; lease=6 int
Event: type=1 int; kv=2 KeyValue; prev_kv=3 KeyValue
RangeRequest: key=1 bytes; range_end=2 bytes; limit=3 int; revision=4 int; sort_order=5 int; sort_target=6 int; serializable=7 int; keys_only=8 int; count_only=9 int; min_mod_revision=10 int; max_mod_revision=11 int; min_create_revision=12 int; max_create_revision=13 int
RangeResponse: header=1 Header; kvs=2 *KeyValue; more=3 int; count=4 int
PutRequest: key=1 bytes; value=2 bytes; lease=3 int; prev_kv=4 int; ignore_value=5 int; ignore_lease=6 int
PutResponse: header=1 Header; prev_kv=2 KeyValue
DeleteRangeRequest: key=1 bytes; range_end=2 bytes; prev_kv=3 int
DeleteRangeResponse: header=1 Header; deleted=2 int; prev_kvs=3 *KeyValue
RequestOp: range=1 RangeRequest; put=2 PutRequest; delete=3 DeleteRangeRequest; txn=4 TxnRequest
ResponseOp: range=1 RangeResponse; put=2 PutResponse; delete=3 DeleteRangeResponse; txn=4 TxnResponse
Compare: result=1 int; target=2 int; key=3 bytes; version=4 int; create_revision=5 int; mod_revision=6 int; value=7 bytes; lease=8 int; range_end=64 bytes
TxnRequest: compare=1 *Compare; success=2 *RequestOp; failure=3 *RequestOp
TxnResponse: header=1 Header; succeeded=2 int; responses=3 *ResponseOp
CompactionRequest: revision=1 int; physical=2 int
CompactionResponse: header=1 Header
HashKVRequest: revision=1 int
HashKVResponse: header=1 Header; hash=2 uint; compact_revision=3 int; hash_revision=4 int
WatchRequest: create=1 WatchCreate; cancel=2 WatchCancel; progress=3 Empty
WatchCreate: key=1 bytes; range_end=2 bytes; start_revision=3 int; progress_notify=4 int; filters=5 *int; prev_kv=6 int; watch_id=7 int; fragment=8 int
WatchCancel: watch_id=1 int
WatchResponse: header=1 Header; watch_id=2 int; created=3 int; canceled=4 int; compact_revision=5 int; cancel_reason=6 bytes; fragment=7 int; events=11 *Event
LeaseGrantRequest: TTL=1 int; ID=2 int
LeaseGrantResponse: header=1 Header; ID=2 int; TTL=3 int; error=4 bytes
LeaseRevokeRequest: ID=1 int
LeaseRevokeResponse: header=1 Header
LeaseKeepAliveRequest: ID=1 int
LeaseKeepAliveResponse: header=1 Header; ID=2 int; TTL=3 int
LeaseTimeToLiveRequest: ID=1 int; keys=2 int
LeaseTimeToLiveResponse: header=1 Header; ID=2 int; ttl=3 int; grantedTTL=4 int; keys=5 *bytes
LeaseLeasesResponse: header=1 Header; leases=2 *LeaseStatus
LeaseStatus: ID=1 int
Member: ID=1 uint; name=2 bytes; peerURLs=3 *bytes; clientURLs=4 *bytes; isLearner=5 int
MemberListRequest: linearizable=1 int
MemberListResponse: header=1 Header; members=2 *Member
AlarmRequest: action=1 int; memberID=2 uint; alarm=3 int
AlarmResponse: header=1 Header; alarms=2 *AlarmMember
AlarmMember: memberID=1 uint; alarm=2 int
DefragmentResponse: header=1 Header
StatusResponse: header=1 Header; version=2 bytes; dbSize=3 int; leader=4 uint; raftIndex=5 uint; raftTerm=6 uint; raftAppliedIndex=7 uint; errors=8 *bytes; dbSizeInUse=9 int; isLearner=10 int; storageVersion=11 bytes; dbSizeQuota=12 int; downgradeInfo=13 bytes
AuthStatusResponse: header=1 Header; enabled=2 int; authRevision=3 uint
AuthenticateRequest: name=1 bytes; password=2 bytes
AuthenticateResponse: header=1 Header; token=2 bytes
Empty:
"""

# Cluster ids are unsigned; everything else called int is an int64.
SCHEMA = {}
for line in SCHEMA_TEXT.strip().splitlines():
    message, _, fields = line.partition(":")
    SCHEMA[message] = {
        name: (int(number), star == "*", kind)
        for name, number, star, kind in re.findall(r"(\w+)=(\d+) (\*?)(\w+)", fields)
    }
SCHEMA["Header"]["cluster_id"] = (1, False, "uint")

METHODS = {
    **{f"KV/{name}": name for name in ("Range", "Put", "DeleteRange", "Txn")},
    **{f"Lease/Lease{name}": f"Lease{name}" for name in ("Grant", "Revoke", "TimeToLive", "Leases")},
    "KV/Compact": "Compaction",
    "Maintenance/HashKV": "HashKV",
    "Maintenance/Alarm": "Alarm",
    "Maintenance/Status": "Status",
    "Maintenance/Defragment": "Defragment",
    "Cluster/MemberList": "MemberList",
    "Auth/AuthStatus": "AuthStatus",
    "Auth/Authenticate": "Authenticate",
}
STREAMS = {"Watch/Watch": "Watch", "Lease/LeaseKeepAlive": "LeaseKeepAlive"}
CALL_MAX_S = 15


def varint(value):
    value &= (1 << 64) - 1
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def encode(kind, value):
    """`value` (a dict, an int, bytes or text) as protobuf."""
    out = bytearray()
    for name, item in value.items():
        number, repeated, inner = SCHEMA[kind][name]
        for one in item if repeated else [item]:
            if inner in ("int", "uint"):
                out += varint(number << 3) + varint(int(one))
            else:
                data = raw(one) if inner == "bytes" else encode(inner, one)
                out += varint(number << 3 | 2) + varint(len(data)) + data
    return bytes(out)


def raw(value):
    return value if isinstance(value, bytes) else value.encode()


def read_varint(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def decode(kind, data):
    """Protobuf as a dict; bytes become text (latin-1, so that nothing is lost)."""
    by_number = {number: (name, many, inner) for name, (number, many, inner) in SCHEMA[kind].items()}
    out, at = {}, 0
    while at < len(data):
        tag, at = read_varint(data, at)
        name, many, inner = by_number.get(tag >> 3, (f"field_{tag >> 3}", True, "bytes"))
        if tag & 7 == 0:
            value, at = read_varint(data, at)
            if inner == "int" and value >= 1 << 63:
                value -= 1 << 64
        elif tag & 7 == 2:
            length, at = read_varint(data, at)
            value, at = data[at : at + length], at + length
            value = decode(inner, value) if inner in SCHEMA else value.decode("latin-1")
        else:
            raise ValueError(f"{kind} field {tag >> 3} has wire type {tag & 7}")
        if many:
            out.setdefault(name, []).append(value)
        else:
            out[name] = value
    return out


class Wire:
    """One channel to one server."""

    def __init__(self, endpoint):
        self.endpoint = endpoint
        self.channel = grpc.insecure_channel(
            endpoint,
            options=[("grpc.max_receive_message_length", -1), ("grpc.enable_retries", 0)],
        )

    def call(self, method, request=None):
        """A unary call: `{"reply": …}` or `{"code": …, "text": …}`."""
        kind = METHODS[method]
        request_kind = f"{kind}Request"
        data = encode(request_kind if request_kind in SCHEMA else "Empty", request or {})
        return self.call_raw(method, data, lambda reply: decode(f"{kind}Response", reply))

    def call_raw(self, method, data, read=lambda reply: reply.decode("latin-1")):
        """A unary call with bytes nobody checked."""
        try:
            reply = self.channel.unary_unary(f"/etcdserverpb.{method}")(data, timeout=CALL_MAX_S)
        except grpc.RpcError as error:
            return {"code": error.code().name, "text": error.details()}
        return {"reply": read(reply)}

    def stream(self, method):
        """A bidirectional stream."""
        return Stream(self.channel, method)


class Stream:
    """Requests in with `send`, replies out with `receive`; closed when left."""

    def __init__(self, channel, method):
        self.kind = STREAMS[method]
        self.requests = queue.Queue()
        self.replies = channel.stream_stream(f"/etcdserverpb.{method}")(
            iter(self.requests.get, None), timeout=CALL_MAX_S
        )

    def send(self, request):
        self.requests.put(encode(f"{self.kind}Request", request))

    def receive(self):
        """The next reply, or `{"code": …}` when the stream ended with an error."""
        try:
            return decode(f"{self.kind}Response", next(self.replies))
        except grpc.RpcError as error:
            return {"code": error.code().name, "text": error.details()}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.requests.put(None)
        self.replies.cancel()
