#!/usr/bin/env python3
"""Runs the same etcdctl commands against a real etcd and against Henge and compares.

    python3 tests/etcdctl/compare.py [--etcd 3.7|3.5|PATH] [--henge PATH] [--clients 3.7,3.5,3.4,wire] [--only TEXT]

Promises: each case starts on an empty key space at the same revision on both sides; exit codes,
JSON, error texts and gRPC codes are equal but for the list in mask.py. Prints each case as it
passes, both sides' outcomes where they differ, and ends with `N passed, N failed`; exits 1 on a
failure. Says which etcd ran: 3.7 where there is Go to build it with, else 3.5.1; what 3.5 does otherwise is
asked of newer ones only (`SINCE_3_7` in wire_cases.py). Without --henge it builds the release binary. Installs the
clients it lacks (tools.py).
Must never know: how either server works. Tested by comparing etcd with itself:
`compare.py --plain --henge ETCD` has to pass, and to fail when that etcd is given other limits
(`--max-txn-ops=64`).
"""

import argparse
import concurrent.futures
import json
import re
import shlex
import sys

import tools
from cases import CASES, Ctl, Grant, Watch
from client import Client, outcome, watch_outcome
from mask import Masker
from servers import Server


class Side:
    """One server with one client: runs a case's steps and remembers its own ids."""

    def __init__(self, server, etcdctl):
        self.server = server
        self.client = Client(etcdctl, server)
        header = self.client.json(["get", "probe"])["header"]
        self.masker = Masker(header, [server.client_port, server.peer_port])
        self.leases = {}
        self.base = 0

    def revision(self):
        return self.client.json(["get", "probe"])["header"]["revision"]

    def clear(self):
        """No keys and no leases: where every case begins."""
        for lease in self.client.json(["lease", "list"]).get("leases") or []:
            self.client.call(["lease", "revoke", f"{lease['id']:x}"])
        self.client.json(["del", "", "--prefix"])
        self.leases.clear()

    def fill(self, text):
        """`{r+2}` and `{L}` in a command, for this server."""

        def value(match):
            name, offset = match.group(1), int(match.group(2) or 0)
            return str(self.base + offset) if name == "r" else self.leases[name]

        return re.sub(r"\{([A-Za-z])([+-]\d+)?\}", value, text)

    def args(self, line):
        # Each word is filled in after splitting, so that quotes in a command stay what they were.
        return [self.fill(word) for word in shlex.split(line)]

    def step(self, step):
        """Runs one step; its comparable outcome."""
        if isinstance(step, Grant):
            code, out, err = self.client.call(["lease", "grant", str(step.ttl)])
            if code == 0:
                lease = json.loads(out)["ID"]
                self.leases[step.name] = f"{lease:x}"
                self.masker.learn(lease, f"<{step.name}>")
            return outcome(code, out, err, self.masker)
        if isinstance(step, Watch):
            meanwhile = [self.args(line) for line in step.meanwhile]
            result = self.client.watch(
                self.args(step.line),
                self.fill(step.stdin),
                step.events,
                meanwhile and (lambda: [self.client.call(args) for args in meanwhile]),
            )
            return watch_outcome(*result, self.masker, step.ordered)
        stdin = ""
        if isinstance(step, Ctl):
            step, stdin = step.line, self.fill(step.stdin)
        return outcome(*self.client.call(self.args(step), stdin), self.masker)

    def run(self, steps):
        """All steps in order; a step that cannot be run is an outcome too."""
        outcomes = []
        for step in steps:
            try:
                outcomes.append(self.step(step))
            except Exception as error:  # whatever it was: the other side's result will tell
                outcomes.append({"failed": f"{type(error).__name__}: {error}"})
        return outcomes


def level(sides, pool):
    """Empties both sides and brings them to one revision, so that one fault fails one case."""
    list(pool.map(Side.clear, sides))
    low, high = sorted(sides, key=Side.revision)
    gap = high.revision() - low.revision()
    if gap:
        # `high` goes up by two, `low` by the gap and two, and no key is left.
        for side, puts in [(high, 1), (low, gap + 1)]:
            for _ in range(puts):
                side.client.json(["put", "level", "v"])
            side.client.json(["del", "level"])
    for side in sides:
        side.base = side.revision()


def describe(steps, left, right):
    """The steps whose outcomes differ, with both."""
    lines = []
    for step, one, two in zip(steps, left, right):
        if one != two:
            lines.append(f"      step: {shorten(step)}")
            lines.append(f"      etcd : {shorten(json.dumps(one, ensure_ascii=False))}")
            lines.append(f"      henge: {shorten(json.dumps(two, ensure_ascii=False))}")
    return "\n".join(lines)


def shorten(value, length=1_500):
    text = str(value)
    return text if len(text) <= length else f"{text[:length]}… ({len(text)} characters)"


def cli_cases(options):
    """(name, how one side runs it) for each scripted command."""
    for name, steps in CASES.items():
        if options.only in name:
            yield name, steps, lambda side, steps=steps: side.run(steps)


def wire_cases(options, version):
    """The same for the raw gRPC cases."""
    tools.grpc()
    tools.module("hpack")
    import frame_cases
    import wire
    import wire_cases

    def run(side, case):
        try:
            result = case(wire.Wire(side.server.endpoint), side.base)
        except Exception as error:  # a reply that cannot be read is a difference, not our crash
            return [{"failed": f"{type(error).__name__}: {error}"}]
        return side.masker.value(result)

    # What odd frames get is the gRPC library's own; ours are 3.5.1's answers (3.7's refuses some authorities).
    only_here = frame_cases.CASES if version.startswith("3.5.") else wire_cases.SINCE_3_7
    for case in [*wire_cases.CASES, *only_here]:
        name = case.__name__.replace("_", " ")
        if options.only in name:
            yield name, [name] * 100, lambda side, case=case: run(side, case)


def compare(label, etcdctl, cases, commands, options, pool):
    """All cases on a fresh pair of servers; (passed, failed)."""
    passed = failed = 0
    servers = []
    try:
        for name, command in commands.items():
            servers.append(Server(name, command, options.keep))
        sides = [Side(server, etcdctl) for server in servers]
        for name, steps, run in cases:
            level(sides, pool)
            left, right = pool.map(run, sides)
            if left == right:
                passed += 1
                print(f"ok   {label} {name}", flush=True)
                if options.verbose:
                    for step, result in zip(steps, left):
                        print(f"      {shorten(step, 100)}\n        {shorten(result, 400)}")
            else:
                failed += 1
                print(f"FAIL {label} {name}\n{describe(steps, left, right)}", flush=True)
            for server in servers:
                if not server.alive():
                    raise RuntimeError(f"{server.name} died in `{name}`; its log:\n{server.tail()}")
    except Exception as error:
        # The servers are what is tested: one that dies or hangs fails the run, it does not end it.
        failed += 1
        print(f"FAIL {label} run: {type(error).__name__}: {error}", flush=True)
    finally:
        for server in servers:
            server.stop()
    return passed, failed


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--etcd", help="3.7, 3.5 or a path (default: 3.7 where Go is, else 3.5)")
    parser.add_argument("--henge", help="the binary under test (default: build it)")
    parser.add_argument("--plain", action="store_true", help="--henge takes no `serve` (an etcd)")
    parser.add_argument(
        "--clients", help="etcdctl versions, `wire` for raw gRPC (default: all that fit the etcd)"
    )
    parser.add_argument("--only", default="", help="only cases whose name holds this text")
    parser.add_argument("--keep", action="store_true", help="keep data directories and logs")
    parser.add_argument("--verbose", action="store_true", help="show what passing cases gave")
    options = parser.parse_args()

    passed = failed = 0
    try:
        henge = [options.henge or tools.henge(), *([] if options.plain else ["serve"])]
        etcd = tools.etcd(options.etcd)
        version = tools.version(etcd)
        commands = {"etcd": [etcd], "henge": henge}
    except tools.Missing as missing:
        print(f"cannot run: {missing}\n0 passed, 1 failed")
        return 1
    print(f"comparing with etcd {version} ({etcd})", flush=True)
    finders = {
        "3.7": tools.etcdctl_37,
        "3.5": tools.etcdctl_35,
        "3.4": tools.etcdctl_34,
        "wire": tools.etcdctl_35,
    }
    newest = "3.7,wire" if version.startswith("3.7.") else "3.5,3.4,wire"
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for label in (options.clients or newest).split(","):
            try:
                etcdctl = finders[label]()
            except (tools.Missing, KeyError) as missing:
                failed += 1
                print(f"FAIL {label} no such client: {missing}")
                continue
            cases = wire_cases(options, version) if label == "wire" else cli_cases(options)
            counts = compare(label, etcdctl, cases, commands, options, pool)
            passed, failed = passed + counts[0], failed + counts[1]
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
