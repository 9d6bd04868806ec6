"""The scripted etcdctl commands: one entry a case, each on an empty key space.

A step is a command line, or one of the classes below. `{r}` is the revision when the case began
(`{r+2}`, `{r-1}` count from it), `{L}` the id of the lease granted under that name.
Must never know: how outcomes are compared.
"""

from dataclasses import dataclass, field


@dataclass
class Ctl:
    """A command with standard input."""

    line: str
    stdin: str = ""


@dataclass
class Grant:
    """Grants a lease and remembers its id under `name`."""

    name: str
    ttl: int


@dataclass
class Watch:
    """A watch that ends after `events` events (0: when the client ends by itself)."""

    line: str
    events: int = 0
    stdin: str = ""
    meanwhile: list = field(default_factory=list)
    # False: several watchers share the stream, and only each one's own order is promised.
    ordered: bool = True


def txn(compares, success, failure=""):
    """etcdctl's input: three paragraphs of lines."""
    return Ctl("txn", "".join(part + "\n\n" if part else "\n" for part in (compares, success, failure)))


FIVE = ["put k1 delta", "put k2 alpha", "put k3 charlie", "put k4 bravo", "put k2 echo", "put other x"]
LARGE = 1_572_864

CASES = {
    # -- put
    "put: a new key": ["put a 1", "get a"],
    "put: again raises version and keeps create_revision": ["put a 1", "put a 2", "get a"],
    "put: the same value is a new revision too": ["put a 1", "put a 1", "get a"],
    "put: an empty value": [Ctl("put a", ""), "get a"],
    "put: value from standard input": [Ctl("put a", "from stdin"), "get a"],
    "put: keys with spaces and beyond ASCII": ["put 'a key' 'a value'", "put ключ значение", "get ключ"],
    "put: --prev-kv of a new key": ["put a 1 --prev-kv"],
    "put: --prev-kv": ["put a 1", "put a 2 --prev-kv", "put a 3 --prev-kv"],
    "put: --ignore-value keeps the value": [
        Grant("L", 300), "put a 1", "put a --ignore-value --lease={L}", "get a"],
    "put: --ignore-value of a missing key": ["put a --ignore-value"],
    "put: --ignore-value with --prev-kv": ["put a 1", "put a --ignore-value --prev-kv"],
    "put: --ignore-lease keeps the lease": [
        Grant("L", 300), "put a 1 --lease={L}", "put a 2 --ignore-lease", "get a"],
    "put: --ignore-lease of a missing key": ["put a 1 --ignore-lease"],
    "put: --ignore-lease with a lease": [Grant("L", 300), "put a 1", "put a 2 --ignore-lease --lease={L}"],
    "put: both ignored": [Grant("L", 300), "put a 1 --lease={L}", "put a --ignore-value --ignore-lease", "get a"],
    "put: without a lease detaches the old one": [
        Grant("L", 300), "put a 1 --lease={L}", "put a 2", "get a", "lease timetolive {L} --keys"],
    "put: moving to another lease": [
        Grant("L", 300), Grant("M", 300), "put a 1 --lease={L}", "put a 2 --lease={M}",
        "lease timetolive {L} --keys", "lease timetolive {M} --keys", "lease revoke {L}", "get a"],
    "put: an unknown lease": ["put a 1 --lease=4d2", "get a"],
    "put: an empty key": ["put '' 1"],
    "put: a value just below the limit": [Ctl("put a", "v" * (LARGE - 1_000)), "get a --keys-only"],
    "put: a value over the limit": [Ctl("put a", "v" * (LARGE + 1)), "get a --count-only -w fields", "put a 1"],
    "put: simple output": ["put a 1 -w simple", "put a 2 --prev-kv -w simple"],
    # -- get
    "get: a missing key": ["get a"],
    "get: one key is not a prefix": ["put ab 1", "get a"],
    "get: --prefix": [*FIVE, "get k --prefix"],
    "get: --prefix of everything": [*FIVE, "get '' --prefix"],
    "get: a prefix that ends in 0xff": [*FIVE, "get \u00ff --prefix"],
    "get: a range excludes its end": [*FIVE, "get k1 k3"],
    "get: a range the wrong way round": [*FIVE, "get k3 k1"],
    "get: an empty range": [*FIVE, "get k2 k2"],
    "get: --from-key": [*FIVE, "get k3 --from-key"],
    "get: --from-key with an empty key": [*FIVE, "get '' --from-key"],
    "get: an empty key": ["put a 1", "get ''"],
    "get: --rev": [*FIVE, "get k --prefix --rev={r+2}", "get k2 --rev={r+4}", "get k2 --rev={r+5}"],
    "get: --rev=0 and the current revision": [*FIVE, "get k1 --rev=0", "get k1 --rev={r+6}"],
    "get: --rev before the key": [*FIVE, "get k4 --rev={r+1}"],
    "get: --rev around a delete": [
        "put a 1", "del a", "put a 2", "get a --rev={r+1}", "get a --rev={r+2}", "get a --rev={r+3}"],
    "get: a future revision": ["put a 1", "get a --rev={r+2}", "get k --prefix --rev={r+1000}"],
    "get: --limit leaves more": [*FIVE, "get k --prefix --limit=2"],
    "get: --limit equal to the count": [*FIVE, "get k --prefix --limit=4"],
    "get: --limit above the count": [*FIVE, "get k --prefix --limit=100"],
    "get: --limit with --rev": [*FIVE, "get k --prefix --limit=2 --rev={r+3}"],
    "get: --count-only": [*FIVE, "get k --prefix --count-only -w fields", "get none --prefix --count-only -w fields"],
    "get: --count-only with --rev": [*FIVE, "get k --prefix --count-only --rev={r+2} -w fields"],
    "get: --count-only with --limit": [*FIVE, "get k --prefix --count-only --limit=2 -w fields"],
    "get: --keys-only": [*FIVE, "get k --prefix --keys-only", "get k --prefix --keys-only --limit=1"],
    **{f"get: --sort-by={target} --order={order}": [
        *FIVE, f"get k --prefix --sort-by={target} --order={order}"]
       for target in ("KEY", "VERSION", "CREATE", "MODIFY", "VALUE") for order in ("ASCEND", "DESCEND")},
    "get: --sort-by without an order": [*FIVE, "get k --prefix --sort-by=VALUE", "get k --prefix --sort-by=MODIFY"],
    "get: --order without a target": [*FIVE, "get k --prefix --order=DESCEND"],
    "get: sorted and limited": [
        *FIVE, "get k --prefix --sort-by=VALUE --order=DESCEND --limit=2",
        "get k --prefix --sort-by=MODIFY --order=ASCEND --limit=3",
        "get k --prefix --sort-by=VALUE --limit=2"],
    "get: sorted at a revision": [*FIVE, "get k --prefix --sort-by=VALUE --order=ASCEND --rev={r+4}"],
    "get: sorted by value, keys only": [*FIVE, "get k --prefix --sort-by=VALUE --order=ASCEND --keys-only"],
    "get: a bad sort target": ["get a --sort-by=COLOUR"],
    "get: serializable": [*FIVE, "get k --prefix --consistency=s", "get k2 --consistency=s --rev={r+2}"],
    "get: simple and fields output": [*FIVE, "get k --prefix -w simple", "get k1 -w fields",
                                      "get k --prefix --print-value-only -w simple"],
    # -- del
    "del: one key": ["put a 1", "del a", "get a"],
    "del: a missing key is no new revision": ["put a 1", "del b", "get a"],
    "del: --prefix": [*FIVE, "del k --prefix", "get '' --prefix"],
    "del: a range": [*FIVE, "del k1 k3", "get '' --prefix"],
    "del: --from-key": [*FIVE, "del k3 --from-key", "get '' --prefix"],
    "del: --prev-kv": [*FIVE, "del k --prefix --prev-kv"],
    "del: --prev-kv of a missing key": ["del a --prev-kv"],
    "del: an empty key": ["put a 1", "del ''"],
    "del: everything": [*FIVE, "del '' --prefix", "get '' --prefix --count-only -w fields"],
    "del: twice": ["put a 1", "del a", "del a", "put a 2", "get a"],
    "del: a key put again starts over": ["put a 1", "put a 2", "del a", "put a 3", "get a"],
    "del: detaches from the lease": [Grant("L", 300), "put a 1 --lease={L}", "del a", "lease timetolive {L} --keys"],
    # -- txn
    "txn: success": ["put a 1", txn('value("a") = "1"', "put a 2\nget a\nget b", "put a 3"), "get a"],
    "txn: failure": ["put a 1", txn('value("a") = "2"', "put a 2", "put a 3\nget a"), "get a"],
    "txn: an empty one": [txn("", "")],
    "txn: no compares": [txn("", "put a 1\nput b 2"), "get a", "get b"],
    "txn: one revision for all writes": ["put c 1", txn("", "put a 1\nput b 2\ndel c"), "get '' --prefix", "put c 3"],
    "txn: version compares": [
        "put a 1", "put a 2", txn('ver("a") = "2"', "put yes 1", "put no 1"),
        txn('ver("a") > "2"', "put yes 2", "put no 2"), txn('ver("a") < "3"', "put yes 3", "put no 3"),
        txn('ver("a") != "2"', "put yes 4", "put no 4"), "get '' --prefix"],
    "txn: create_revision compares": [
        txn('create("a") = "0"', "put a 1", "get a"), txn('create("a") = "0"', "put a 2", "get a"),
        txn('create("a") = "{r+1}"', "get a", "put a 3"), txn('create("a") > "0"', "get a", "put a 3")],
    "txn: mod_revision compares": [
        "put a 1", txn('mod("a") = "{r+1}"', "put a 2", "get a"), txn('mod("a") = "{r+1}"', "put a 3", "get a"),
        txn('mod("a") > "{r+1}"', "get a"), txn('mod("a") < "{r+3}"', "get a")],
    "txn: value compares": [
        "put a m", txn('val("a") > "l"', "get a", "put no 1"), txn('val("a") < "n"', "get a", "put no 1"),
        txn('val("a") != "m"', "get a", "put yes 1"), txn('val("a") > "ma"', "get a", "put yes 2")],
    "txn: a missing key compares as zero": [
        txn('ver("a") = "0"\ncreate("a") = "0"\nmod("a") = "0"', "put yes 1", "put no 1"),
        txn('ver("a") < "1"', "put yes 2", "put no 2")],
    "txn: a missing key's value equals nothing": [
        txn('val("a") = ""', "put yes 1", "put no 1"), txn('val("a") != "x"', "put yes 2", "put no 2"),
        txn('val("a") < "x"', "put yes 3", "put no 3")],
    "txn: all compares have to hold": [
        "put a 1", "put b 2", txn('val("a") = "1"\nval("b") = "3"', "put yes 1", "put no 1"),
        txn('val("a") = "1"\nval("b") = "2"', "put yes 2", "put no 2")],
    "txn: compares see the state before": [
        "put a 1", txn('val("a") = "1"', "put a 2\nget a"), txn('val("a") = "1"', "get a", "put b 2\nget b")],
    "txn: deletes": [
        *FIVE, txn("", "del k1\ndel k2 k4\ndel none"), "get '' --prefix", txn("", "del k --prefix --prev-kv")],
    "txn: reads between writes": ["put a 1", txn("", "get a\nput a 2\nget a\ndel a\nget a"), "get a"],
    "txn: a put and a delete of one key": ["put a 1", txn("", "put a 2\ndel a")],
    "txn: one key put twice": [txn("", "put a 1\nput a 2"), "get a"],
    "txn: a key put inside a deleted range": [txn("", "put k5 1\ndel k --prefix"), "get k5"],
    "txn: one key put in both branches": [txn('ver("a") = "0"', "put a 1", "put a 2"), "get a"],
    "txn: two overlapping deletes": [*FIVE, txn("", "del k1\ndel k --prefix")],
    "txn: read only": [*FIVE, txn("", "get k --prefix --limit=2\nget k2 --rev={r+2}\nget k --prefix --keys-only")],
    "txn: prev-kv": ["put a 1", txn("", "put a 2 --prev-kv\nput b 2 --prev-kv")],
    "txn: with a lease": [Grant("L", 300), txn("", "put a 1 --lease={L}"), "get a", "lease timetolive {L} --keys"],
    "txn: with an unknown lease": [txn("", "put a 1 --lease=4d2\nput b 1"), "get '' --prefix"],
    "txn: a future revision inside": ["put a 1", txn("", "put a 2\nget a --rev={r+100}"), "get a"],
    "txn: a compacted revision inside": [
        "put a 1", "put a 2", "compaction {r+2}", txn("", "put a 3\nget a --rev={r+1}"), "get a"],
    "txn: an empty key": [txn("", 'put "" 1'), txn('ver("") = "0"', "put a 1"), "get a"],
    "txn: 128 operations": [txn("", "\n".join(f"put k{i} v" for i in range(128))), "get k --prefix --count-only -w fields"],
    "txn: too many operations": [txn("", "\n".join(f"put k{i} v" for i in range(129))), "get k --prefix"],
    # -- watch
    "watch: --rev replays": ["put a 1", "put a 2", "del a", Watch("watch a --rev={r+1}", 3)],
    "watch: --rev in the middle": ["put a 1", "put a 2", "put a 3", Watch("watch a --rev={r+2}", 2)],
    "watch: live": [Watch("watch a", 2, meanwhile=["put a 1", "put b 1", "del a"])],
    "watch: from the past into the present": [
        "put a 1", Watch("watch a --rev={r+1}", 3, meanwhile=["put a 2", "put a 3"])],
    "watch: --rev in the future withholds": [
        Watch("watch a --rev={r+3}", 1, meanwhile=["put a 1", "put a 2", "put a 3"])],
    "watch: --prev-kv": ["put a 1", "put a 2", "del a", "put a 3", Watch("watch a --rev={r+1} --prev-kv", 4)],
    "watch: --prev-kv of a compacted value": [
        "put a 1", "put a 2", "put a 3", "compaction {r+2}", Watch("watch a --rev={r+2} --prev-kv", 2)],
    "watch: --prefix": [*FIVE, "del k1", Watch("watch k --prefix --rev={r+1}", 6)],
    "watch: a range": [*FIVE, Watch("watch k2 k4 --rev={r+1}", 3)],
    "watch: an empty range": [Watch("watch k4 k2")],
    "watch: everything": [*FIVE, Watch("watch '' --prefix --rev={r+1}", 6)],
    "watch: a transaction's events": [
        "put c 1", txn("", "put a 1\nput b 2\ndel c"), Watch("watch '' --prefix --rev={r+1}", 4)],
    "watch: a deleted range": [*FIVE, "del k --prefix", Watch("watch k --prefix --rev={r+7} --prev-kv", 4)],
    "watch: a compacted revision": ["put a 1", "put a 2", "put a 3", "compaction {r+3}", Watch("watch a --rev={r+1}")],
    "watch: the compacted revision itself": [
        "put a 1", "put a 2", "put a 3", "compaction {r+2}", Watch("watch a --rev={r+2}", 2)],
    "watch: a revoked lease": [
        Grant("L", 300), "put b 1 --lease={L}", "put a 1 --lease={L}", "lease revoke {L}",
        Watch("watch '' --prefix --rev={r+1} --prev-kv", 4)],
    "watch: an expired lease": [
        Grant("L", 1), "put a 1 --lease={L}", Watch("watch a --rev={r+1}", 2), "lease timetolive {L}"],
    "watch: two in one stream": [
        *FIVE,
        Watch("watch -i", 4, stdin="watch k2 --rev={r+1}\nwatch k3 k5 --rev={r+1}\n", ordered=False)],
    "watch: progress": [Watch("watch -i", 1, stdin="watch a\nprogress\n", meanwhile=["put a 1"])],
    # -- lease
    "lease: grant and list": ["lease list", Grant("L", 300), "lease list"],
    "lease: the list is in the order of expiry": [
        Grant("L", 500), Grant("M", 100), Grant("N", 300), Grant("O", 200), Grant("P", 400), "lease list",
        "lease list -w simple"],
    "lease: a short ttl is raised": [Grant("L", 1), Grant("M", 0)],
    "lease: a ttl too large": ["lease grant 9000000001", Grant("L", 9_000_000_000)],
    "lease: revoke deletes its keys at one revision": [
        Grant("L", 300), "put b 1 --lease={L}", "put a 1 --lease={L}", "lease revoke {L}", "get '' --prefix",
        "lease timetolive {L}"],
    "lease: revoke of one without keys": [Grant("L", 300), "lease revoke {L}", "put a 1"],
    "lease: revoke of an unknown one": ["lease revoke 4d2"],
    "lease: keep-alive once": [Grant("L", 300), "lease keep-alive --once {L}"],
    "lease: keep-alive of an unknown one": ["lease keep-alive --once 4d2"],
    "lease: timetolive": [Grant("L", 300), "lease timetolive {L}"],
    "lease: timetolive with keys": [
        Grant("L", 300), "put b 1 --lease={L}", "put a 1 --lease={L}", "lease timetolive {L} --keys"],
    "lease: timetolive of an unknown one": ["lease timetolive 4d2", "lease timetolive 4d2 --keys -w simple"],
    "lease: simple output": [Grant("L", 300), "lease list -w simple", "lease timetolive {L} -w simple",
                             "lease keep-alive --once {L} -w simple", "lease revoke {L} -w simple"],
    "lease: a client's lock": ["lock m echo held", "get m --prefix --count-only -w fields"],
    # -- compaction
    "compaction: reads at and above it": [
        "put a 1", "put a 2", "put a 3", "compaction {r+2}", "get a --rev={r+2}", "get a --rev={r+3}", "get a"],
    "compaction: reads below it": ["put a 1", "put a 2", "put a 3", "compaction {r+2}", "get a --rev={r+1}"],
    "compaction: twice": ["put a 1", "put a 2", "compaction {r+1}", "compaction {r+1}", "compaction {r+2}"],
    "compaction: going back": ["put a 1", "put a 2", "compaction {r+2}", "compaction {r+1}"],
    "compaction: the future": ["put a 1", "compaction {r+2}", "get a"],
    "compaction: --physical": ["put a 1", "put a 2", "compaction {r+2} --physical", "get a", "get a --rev={r+1}"],
    "compaction: over a delete": [
        "put a 1", "del a", "put b 1", "compaction {r+2}", "get a", "get a --rev={r+2}", "get '' --prefix --rev={r+3}"],
    "compaction: a bad revision": ["compaction one"],
    # -- cluster and maintenance
    "endpoint: status": ["endpoint status"],
    "endpoint: health": ["endpoint health"],
    "endpoint: hashkv": ["put a 1", "endpoint hashkv"],
    "member: list": ["member list"],
    "alarm: list": ["alarm list"],
    "defrag": ["defrag"],
}
