"""Runs etcdctl and turns what it says into something comparable.

Promises: an outcome holds the exit code, the output (JSON where it is JSON, masked), the error
lines and the gRPC codes. Watches are collected until the expected events came and then a little
longer, so that one event too many shows as well.
Must never know: what a case means.
"""

import json
import os
import re
import subprocess
import threading
import time

STEP_MAX_S = 30
WATCH_MAX_S = 10
# Events too many would come with the ones expected; this long we wait for them.
WATCH_LINGER_S = 0.15


class Client:
    """One etcdctl against one server."""

    def __init__(self, etcdctl, server):
        self.command = [str(etcdctl), "--endpoints", server.endpoint, "-w", "json"]
        self.environment = dict(os.environ, ETCDCTL_API="3")

    def call(self, args, stdin=""):
        """One command run to its end: (exit code, stdout, stderr)."""
        done = subprocess.run(
            self.command + args,
            input=stdin.encode(),
            capture_output=True,
            env=self.environment,
            timeout=STEP_MAX_S,
        )
        return done.returncode, done.stdout.decode(), done.stderr.decode()

    def json(self, args):
        """One command that has to succeed: its JSON."""
        code, out, err = self.call(args)
        if code != 0:
            raise RuntimeError(f"etcdctl {' '.join(args)} ended with {code}: {err.strip()}")
        return json.loads(out)

    def watch(self, args, stdin, events, meanwhile):
        """Watches until `events` events came, running `meanwhile` once the watch is up.

        The exit code counts only when the client ended by itself; else we killed it.
        """
        process = subprocess.Popen(
            self.command + args,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.environment,
        )
        lines, errors = [], []
        readers = [
            threading.Thread(target=drain, args=(pipe, into), daemon=True)
            for pipe, into in [(process.stdout, lines), (process.stderr, errors)]
        ]
        for reader in readers:
            reader.start()
        # Standard input stays open: an interactive watch ends with it.
        process.stdin.write(stdin.encode())
        process.stdin.flush()
        if meanwhile:
            # etcdctl does not say when a watch is up; cases give --rev when an event must not slip.
            time.sleep(0.3)
            meanwhile()
        deadline = time.monotonic() + WATCH_MAX_S
        while process.poll() is None and time.monotonic() < deadline:
            if events and count_events(lines) >= events:
                time.sleep(WATCH_LINGER_S)
                break
            time.sleep(0.01)
        code = process.poll()
        process.kill()
        process.wait()
        for reader in readers:
            reader.join()
        for pipe in (process.stdin, process.stdout, process.stderr):
            pipe.close()
        return code, "".join(lines), "".join(errors)


def drain(pipe, into):
    for line in pipe:
        into.append(line.decode())


def parse(line):
    try:
        return json.loads(line)
    except ValueError:
        return None


def count_events(lines):
    parsed = [parse(line) for line in list(lines)]
    return sum(len(p.get("Events") or []) for p in parsed if isinstance(p, dict))


def outcome(code, out, err, masker):
    """The comparable form of one command."""
    text = [masker.value(parsed) if (parsed := parse(line)) is not None else masker.text(line)
            for line in out.splitlines()]
    return {"exit": code, "out": text, **errors(err, masker)}


def watch_outcome(code, out, err, masker, ordered):
    """As `outcome`, with the events of all responses in one list.

    How events are split over responses, and so their headers, is up to the server's timing.
    """
    events, rest = [], []
    for line in out.splitlines():
        parsed = parse(line)
        if isinstance(parsed, dict) and parsed.get("Events") and not parsed.get("Canceled"):
            events.extend(masker.value(parsed["Events"]))
        else:
            rest.append(masker.text(line) if parsed is None else masker.value(parsed))
    if not ordered:
        events.sort(key=lambda event: (event["kv"]["key"], event["kv"]["mod_revision"]))
    return {"exit": code, "events": events, "out": rest, **errors(err, masker)}


def errors(err, masker):
    """`Error:` lines and (code, text) of the gRPC errors in the client's log lines."""
    plain = [masker.text(line) for line in err.splitlines() if line.startswith("Error:")]
    codes = re.findall(r"rpc error: code = (\w+) desc = ([^\"]*)", err)
    return {"errors": plain, "codes": [[code, masker.text(text)] for code, text in codes]}
