"""What may differ between two correct servers, as one explicit list; all else must be equal.

Promises: a value is masked only together with a check of its own, so that a missing or senseless
one still shows: ids must be the ones this server always gives, terms must be its term, counters
must be positive, versions must look like versions.
Must never know: which of the two servers it looks at.
"""

import re

# JSON members whose value is this server's own business, by the check that replaces the value.
POSITIVE = {"dbSize", "dbSizeInUse", "raftIndex", "raftAppliedIndex", "hash", "ttl"}
VERSION = {"version", "storageVersion"}
TERM = {"raft_term", "raftTerm"}
CLUSTER = {"cluster_id"}
MEMBER = {"member_id", "leader"}
# Present since 3.6 only, or only in some builds: not compared at all.
IGNORED = {"took", "dbSizeQuota", "downgradeInfo", "storageVersion"}
# Sets that travel as lists.
UNORDERED = {"keys"}


class Masker:
    """Learns one server's ids and masks them wherever they turn up."""

    def __init__(self, header, ports):
        self.cluster = header["cluster_id"]
        self.member = header["member_id"]
        self.term = header["raft_term"]
        self.ports = {str(port): f"<port{i}>" for i, port in enumerate(ports)}
        self.names = {}

    def learn(self, number, name):
        """From now on `number` (a lease id the server made up) is called `name`."""
        self.names[number] = name

    def value(self, value, key=None):
        """The JSON value with everything of the list masked."""
        if isinstance(value, dict):
            kept = {k: v for k, v in value.items() if k not in IGNORED}
            # "version" is a counter inside a key-value and a release inside a status.
            release = "raftIndex" in value
            return {
                k: self.release(v) if release and k in VERSION else self.value(v, k)
                for k, v in kept.items()
            }
        if isinstance(value, list):
            items = [self.value(item, key) for item in value]
            # etcd keeps a lease's keys in a hash map: their order is chance.
            return sorted(items, key=str) if key in UNORDERED else items
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, int) and not isinstance(value, bool):
            return self.number(value, key)
        return value

    def number(self, value, key):
        if key in CLUSTER and value == self.cluster:
            return "<cluster>"
        if (key in MEMBER or key == "ID") and value == self.member:
            return "<member>"
        if key in TERM and value == self.term:
            return "<term>"
        if key in POSITIVE and value > 0:
            return "<positive>"
        return self.names.get(value, value)

    @staticmethod
    def release(value):
        return "<release>" if re.match(r"\d+\.\d+\.\d+", str(value)) else value

    def text(self, text):
        """Plain text, with ids in decimal and in hex."""
        for number, name in {self.cluster: "<cluster>", self.member: "<member>", **self.names}.items():
            text = re.sub(rf"\b(?:{number}|0*{number:x})\b", name, text)
        for port, name in self.ports.items():
            text = re.sub(rf":{port}\b", f":{name}", text)
        text = re.sub(r'^("RaftTerm" : )\d+$', rf"\1<term>", text, flags=re.MULTILINE)
        text = re.sub(r"\btook [0-9.]+(?:ns|µs|ms|s)\b", "took <positive>", text)
        return re.sub(r"remaining\(\d+s?\)", "remaining(<positive>)", text)
