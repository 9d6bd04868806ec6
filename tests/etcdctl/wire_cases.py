"""Raw gRPC cases: exact codes and texts, and everything etcdctl has no flag for.

A case is a function of a `Wire` and the revision `r` at its start; what it returns (lists and
dicts) is masked and compared between the two servers. Each starts on an empty key space.
Must never know: which of the two servers it talks to.
Not here: an unknown sort order or target, which ends the process of etcd 3.5.1.
"""

MIB = 1 << 20
# Explicit lease and watch ids keep the answers comparable.
LEASE = 7_001


def put(key, value="v", **more):
    return {"put": {"key": key, "value": value, **more}}


def get(key, **more):
    return {"range": {"key": key, **more}}


def delete(key, **more):
    return {"delete": {"key": key, **more}}


def nested(compare=(), success=(), failure=()):
    return {"txn": {"compare": list(compare), "success": list(success), "failure": list(failure)}}


def txn(wire, compare=(), success=(), failure=()):
    return wire.call("KV/Txn", nested(compare, success, failure)["txn"])


def fill(wire, *pairs):
    for key, value in pairs or [("k1", "d"), ("k2", "a"), ("k3", "c"), ("k4", "b"), ("k2", "e")]:
        wire.call("KV/Put", {"key": key, "value": value})


def ranges(wire, *requests):
    return [wire.call("KV/Range", {"key": "k", "range_end": "l", **request}) for request in requests]


EQUAL, GREATER, LESS, NOT_EQUAL = range(4)
VERSION, CREATE, MOD, VALUE, LEASE_TARGET = range(5)


def range_filters(wire, r):
    fill(wire)
    return ranges(
        wire, {"min_mod_revision": r + 3}, {"max_mod_revision": r + 3}, {"min_create_revision": r + 2},
        {"max_create_revision": r + 2}, {"min_mod_revision": r + 2, "max_mod_revision": r + 4},
        {"min_mod_revision": r + 3, "limit": 1}, {"max_create_revision": r + 3, "limit": 2, "sort_order": 2},
        {"min_mod_revision": r + 100}, {"min_mod_revision": r + 3, "count_only": 1})


def range_sorts(wire, r):
    fill(wire)
    return ranges(wire, *({"sort_order": order, "sort_target": target, "limit": limit}
                          for order in range(3) for target in range(5) for limit in (0, 2)))


def range_edges(wire, r):
    fill(wire)
    return [wire.call("KV/Range", request) for request in [
        {}, {"range_end": "z"}, {"key": "\0", "range_end": "\0"}, {"key": "k3", "range_end": "\0"},
        {"key": "k3", "range_end": "k1"}, {"key": "k1", "limit": -1}, {"key": "k1", "revision": -1},
        {"key": "k1", "revision": r + 6}, {"key": "k", "range_end": "l", "count_only": 1, "limit": 1},
        {"key": "k", "range_end": "l", "keys_only": 1, "limit": 2}, {"key": "k", "range_end": "l", "serializable": 1},
        {"key": "k", "range_end": "l", "count_only": 1, "keys_only": 1, "revision": r + 2}]]


def put_flags(wire, r):
    wire.call("Lease/LeaseGrant", {"TTL": 300, "ID": LEASE})
    return [wire.call("KV/Put", request) for request in [
        {}, {"key": "a", "ignore_value": 1}, {"key": "a", "value": "v", "ignore_value": 1},
        {"key": "a", "lease": LEASE, "ignore_lease": 1}, {"key": "a", "value": "v", "ignore_lease": 1},
        {"key": "a", "value": "v", "lease": 99}, {"key": "a", "value": "v", "lease": LEASE},
        {"key": "a", "ignore_value": 1, "ignore_lease": 1, "prev_kv": 1}, {"key": "a", "prev_kv": 1}]]


def delete_edges(wire, r):
    fill(wire)
    return [wire.call("KV/DeleteRange", request) for request in [
        {}, {"key": "k3", "range_end": "k1", "prev_kv": 1}, {"key": "k1", "range_end": "k2", "prev_kv": 1},
        {"key": "k3", "range_end": "\0"}, {"key": "\0", "range_end": "\0", "prev_kv": 1}, {"key": "k1"}]]


def txn_nested(wire, r):
    exists = {"result": GREATER, "target": VERSION, "key": "a", "version": 0}
    absent = {"result": EQUAL, "target": VERSION, "key": "a", "version": 0}
    return [
        txn(wire, [absent], [put("a", "1"), nested([absent], [put("b", "yes")], [put("b", "no")]), get("a")]),
        txn(wire, [exists], [nested([exists], [nested([absent], [put("c", "no")], [put("c", "deep"), get("c")])])]),
        txn(wire, [absent], [put("x")], [nested([], [], []), get("a"), nested([], [delete("a", prev_kv=1)])]),
        wire.call("KV/Range", {"key": "\0", "range_end": "\0"})]


def txn_nested_duplicates(wire, r):
    return [
        txn(wire, [], [put("a"), nested([], [put("a")])]),
        txn(wire, [], [nested([], [put("a")]), nested([], [put("a")])]),
        txn(wire, [], [nested([], [put("a")], [put("a")])]),
        txn(wire, [], [put("a"), nested([], [], [put("a")])]),
        txn(wire, [], [delete("a", range_end="c"), nested([], [put("b")])]),
        txn(wire, [], [put("b"), nested([], [delete("a", range_end="c")])]),
        txn(wire, [], [put("b"), delete("b")]),
        txn(wire, [], [put("d"), delete("a", range_end="c")]),
        txn(wire, [], [delete("a"), delete("a"), nested([], [delete("a")])]),
        txn(wire, [], [put("a"), put("a")]),
        wire.call("KV/Range", {"key": "\0", "range_end": "\0"})]


def txn_limits(wire, r):
    compare = {"result": EQUAL, "target": VERSION, "key": "a", "version": 0}
    many = [get(f"k{i}") for i in range(128)]
    return [
        brief(txn(wire, [compare] * 128, many, many)), txn(wire, [compare] * 129), txn(wire, [], [*many, get("a")]),
        txn(wire, [], [], [*many, get("a")]), brief(txn(wire, [], [*many[:64], nested([], many[:64])])),
        txn(wire, [], [*many[:64], nested([], many[:65])])]


def brief(result):
    """A long reply by its length: 128 empty ranges say nothing one by one."""
    reply = result.get("reply")
    return result if reply is None else [reply.get("succeeded"), len(reply.get("responses", []))]


def txn_invalid(wire, r):
    return [
        txn(wire, [{"result": EQUAL, "target": VERSION, "version": 0}]), txn(wire, [], [{}]), txn(wire, [], [{"put": {}}]),
        txn(wire, [], [{"range": {}}]), txn(wire, [], [{"delete": {}}]), txn(wire, [], [nested([], [{"put": {}}])]),
        txn(wire, [], [put("a", "v", ignore_value=1)]), txn(wire, [], [put("a", "", ignore_value=1)]),
        txn(wire, [], [put("a", lease=99)]), txn(wire, [], [put("b"), get("a", revision=r + 50)]),
        txn(wire, [], [put("b"), nested([], [get("a", revision=r + 50)])]),
        wire.call("KV/Range", {"key": "\0", "range_end": "\0"})]


def txn_compare_ranges(wire, r):
    fill(wire)
    over = {"key": "k", "range_end": "l"}
    answers = [get("k1", count_only=1)]
    return [txn(wire, [{"result": result, "target": target, **over, **value}], answers) for result, target, value in [
        (GREATER, VERSION, {"version": 0}), (EQUAL, VERSION, {"version": 1}), (LESS, VERSION, {"version": 3}),
        (GREATER, CREATE, {"create_revision": r}), (NOT_EQUAL, VALUE, {"value": "zz"}), (LESS, VALUE, {"value": "d"})]
    ] + [txn(wire, [{"result": EQUAL, "target": VERSION, "key": "x", "range_end": "y", "version": version}], answers)
         for version in (0, 1)] + [
        txn(wire, [{"result": NOT_EQUAL, "target": VALUE, "key": "x", "range_end": "y", "value": "v"}], answers),
        txn(wire, [{"result": EQUAL, "target": VERSION, "key": "x", "range_end": "\0", "version": 0}], answers)]


def txn_compare_lease(wire, r):
    wire.call("Lease/LeaseGrant", {"TTL": 300, "ID": LEASE})
    wire.call("KV/Put", {"key": "a", "value": "v", "lease": LEASE})
    return [txn(wire, [{"result": result, "target": LEASE_TARGET, "key": key, "lease": lease}], [get("a")])
            for result, key, lease in [(EQUAL, "a", LEASE), (EQUAL, "a", 0), (EQUAL, "b", 0), (LESS, "b", 1),
                                       (GREATER, "a", LEASE - 1), (NOT_EQUAL, "a", LEASE)]]


def compact_codes(wire, r):
    fill(wire)
    return [
        wire.call("KV/Compact", {"revision": r + 100}), wire.call("KV/Compact", {"revision": r + 3, "physical": 1}),
        wire.call("KV/Compact", {"revision": r + 3}), wire.call("KV/Compact", {"revision": 0}),
        wire.call("KV/Range", {"key": "k1", "revision": r + 2}), wire.call("KV/Range", {"key": "k1", "revision": r + 3}),
        txn(wire, [], [put("z"), get("k1", revision=r + 1)]), wire.call("KV/Range", {"key": "z"}),
        wire.call("Maintenance/HashKV", {"revision": r + 1}), wire.call("Maintenance/HashKV", {"revision": r + 100})]


def lease_codes(wire, r):
    grant = [wire.call("Lease/LeaseGrant", request) for request in [
        {"TTL": 300, "ID": LEASE}, {"TTL": 300, "ID": LEASE}, {"TTL": 9_000_000_001, "ID": LEASE + 1},
        {"TTL": 1, "ID": LEASE + 2}, {"TTL": 0, "ID": LEASE + 3}, {"TTL": 10, "ID": -5}]]
    wire.call("KV/Put", {"key": "a", "value": "v", "lease": LEASE})
    return grant + [
        wire.call("Lease/LeaseTimeToLive", {"ID": LEASE, "keys": 1}), wire.call("Lease/LeaseTimeToLive", {"ID": 99}),
        wire.call("Lease/LeaseRevoke", {"ID": 99}), wire.call("Lease/LeaseRevoke", {}),
        wire.call("Lease/LeaseRevoke", {"ID": -5}), wire.call("Lease/LeaseLeases"),
        wire.call("Lease/LeaseRevoke", {"ID": LEASE}), wire.call("KV/Range", {"key": "a"}),
        wire.call("Lease/LeaseLeases")]


def lease_keep_alive(wire, r):
    wire.call("Lease/LeaseGrant", {"TTL": 300, "ID": LEASE})
    with wire.stream("Lease/LeaseKeepAlive") as stream:
        answers = []
        for lease in (LEASE, 99, LEASE):
            stream.send({"ID": lease})
            answers.append(stream.receive())
    return answers


def watching(wire, requests, replies):
    """Sends all requests at once and collects so many replies."""
    with wire.stream("Watch/Watch") as stream:
        for request in requests:
            stream.send(request)
        return [stream.receive() for _ in range(replies)]


def watch_ids(wire, r):
    """Explicit, automatic, taken and skipped ids: one at a time, so that the order is given."""
    with wire.stream("Watch/Watch") as stream:
        answers = []
        for create in [{"key": "a", "watch_id": 1}, {"key": "a"}, {"key": "a"}, {"key": "a", "watch_id": 1},
                       {"key": "a", "watch_id": -7}, {"key": "b", "range_end": "a"}, {"key": "b", "range_end": "b"},
                       {}, {"key": "a", "range_end": "\0"}]:
            stream.send({"create": create})
            answers.append(stream.receive())
        return answers


def watch_cancel(wire, r):
    with wire.stream("Watch/Watch") as stream:
        answers = []
        for requests in [[{"create": {"key": "a", "watch_id": 3}}], [{"cancel": {"watch_id": 3}}],
                         [{"cancel": {"watch_id": 3}}, {"create": {"key": "a", "watch_id": 3}}],
                         [{"cancel": {"watch_id": 55}}, {"create": {"key": "b", "watch_id": 4}}]]:
            for request in requests:
                stream.send(request)
            answers.append(stream.receive())
        wire.call("KV/Put", {"key": "a", "value": "v"})
        return answers + [stream.receive()]


def watch_filters(wire, r):
    fill(wire, ("a", "1"), ("a", "2"))
    wire.call("KV/DeleteRange", {"key": "a"})
    fill(wire, ("a", "3"))
    return [watching(wire, [{"create": {"key": "a", "start_revision": r + 1, "watch_id": 1, **more}}], 2) for more in [
        {"filters": [0]}, {"filters": [1]}, {"prev_kv": 1}, {"prev_kv": 1, "filters": [1]}]]


def watch_compacted(wire, r):
    fill(wire, ("a", "1"), ("a", "2"), ("a", "3"))
    wire.call("KV/Compact", {"revision": r + 3})
    return watching(wire, [{"create": {"key": "a", "start_revision": r + 1, "watch_id": 1}}], 2)


def watch_progress(wire, r):
    """The stream is in sync once it delivered the put; only then etcd answers."""
    with wire.stream("Watch/Watch") as stream:
        stream.send({"create": {"key": "a", "watch_id": 1}})
        answers = [stream.receive()]
        wire.call("KV/Put", {"key": "a", "value": "v"})
        answers.append(stream.receive())
        wire.call("KV/Put", {"key": "b", "value": "v"})
        stream.send({"progress": {}})
        return answers + [stream.receive()]


def watch_fragments(wire, r):
    """4 MiB of history asked for in fragments: what comes in pieces has to come whole.

    Whether it comes in pieces is not compared: etcd puts up to 1,000 revisions into one response and then
    has to split it, we end a response at 1 MiB of whole revisions.
    """
    for i in range(4):
        wire.call("KV/Put", {"key": f"k{i}", "value": bytes([65 + i]) * MIB})
    with wire.stream("Watch/Watch") as stream:
        stream.send({"create": {"key": "k", "range_end": "l", "start_revision": r + 1, "fragment": 1}})
        answers, events = [stream.receive()], []
        while len(events) < 4:
            reply = stream.receive()
            if "code" in reply:
                return [*answers, reply]
            events += [[e["kv"]["key"], len(e["kv"]["value"]), e["kv"]["mod_revision"]] for e in reply.get("events", [])]
        return [*answers, events]


def maintenance(wire, r):
    """HashKV's hash_revision came with 3.6: 3.5.1 does not send it, so it is not compared."""
    fill(wire)
    def call(method, request):
        answer = wire.call(method, request)
        answer.get("reply", {}).pop("hash_revision", None)
        return answer
    return [call(method, request) for method, request in [
        ("Maintenance/Status", {}), ("Maintenance/HashKV", {}), ("Maintenance/Alarm", {}),
        ("Maintenance/Defragment", {}), ("Cluster/MemberList", {}), ("Cluster/MemberList", {"linearizable": 1}),
        ("Auth/AuthStatus", {}), ("Auth/Authenticate", {"name": "root", "password": "x"})]]


def malformed(wire, r):
    """Codes only: the texts are those of the gRPC library."""
    return [wire.call_raw(method, data).get("code") for method, data in [
        ("KV/Put", b"\x0a\xff\xff\xff\xff\x0f"), ("KV/Put", b"\xff"), ("KV/Txn", b"\x12\x02\x12\x7f"),
        ("KV/Nonsense", b""), ("Nonsense/Put", b""), ("KV/Put", b"\x0a\x01a\x12" + b"\x80\x80\x80\x01" + bytes(2 * MIB)),
        ("KV/Range", b"\x0a\x01a\xfa\x7f\x00")]]


def sizes(wire, r):
    """etcd's own limit is 1.5 MiB for a request; the gRPC library's is 512 KiB above it."""
    return [wire.call("KV/Put", {"key": "a", "value": bytes(size)}) for size in (1_572_000, 1_572_864, 2_000_000)] + [
        wire.call("KV/Put", {"key": "a", "value": bytes(2_200_000)}).get("code"),
        txn(wire, [], [put(f"k{i}", bytes(400_000)) for i in range(4)])]


def watch_from_a_negative_revision(wire, r):
    """3.5 takes it for "now"; 3.7 refuses it, and so do we."""
    fill(wire, ("a", "1"))
    return watching(wire, [{"create": {"key": "a", "start_revision": -5, "watch_id": 1}}], 2)


def hash_kv_revisions(wire, r):
    """The revision that was hashed, which 3.5 does not send: of now, of then, of the future, below a compaction."""
    fill(wire, ("a", "1"), ("a", "2"), ("a", "3"))
    wire.call("KV/Compact", {"revision": r + 2, "physical": 1})
    return [wire.call("Maintenance/HashKV", {"revision": at}) for at in (0, r + 3, r + 2, r + 1, r + 100)]


# What 3.5 does not have, or does otherwise: compared with newer ones only.
SINCE_3_7 = [watch_from_a_negative_revision, hash_kv_revisions]

CASES = [range_filters, range_sorts, range_edges, put_flags, delete_edges, txn_nested,
         txn_nested_duplicates, txn_limits, txn_invalid, txn_compare_ranges, txn_compare_lease, compact_codes,
         lease_codes, lease_keep_alive, watch_ids, watch_cancel, watch_filters, watch_compacted, watch_progress,
         watch_fragments, maintenance, malformed, sizes]
