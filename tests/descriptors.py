#!/usr/bin/env python3
"""With 1,024 file descriptors, 1,100 silent connections must not cost the log its next segment.

    python3 tests/descriptors.py HENGE

Promises: starts HENGE under a limit of 1,024 descriptors, opens 1,100 connections that say nothing,
then writes more than one segment of the log over a connection that was there before: every put is
answered well. Connections beyond the limit were closed at once; once the silent ones leave, a new
client is served. Ends with `N passed, N failed`; exits 1 on a failure.
Must never know: how the server counts. The client speaks HTTP/1 and gRPC by hand (etcdctl/raw.py).
"""

import pathlib
import resource
import socket
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent / "etcdctl"))
import tools  # noqa: E402

DESCRIPTORS, SILENT, RESERVED = 1_024, 1_100, 150
# More than a segment of 64 MiB, so that the log needs a new one.
VALUE, PUTS = bytes(1_000_000), 150


def limited():
    resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))


class Puts:
    """Puts over one connection."""

    def __init__(self, endpoint):
        import raw
        import wire

        self.raw, self.wire = raw, wire
        self.connection = raw.Connection(endpoint)
        self.stream = -1

    def put(self, key, value):
        self.stream += 2
        request = self.wire.encode("PutRequest", {"key": key, "value": value})
        self.connection.headers(self.stream, self.fields())
        self.connection.data(self.stream, self.raw.message(request))
        return self.connection.answer(self.stream)

    def fields(self):
        pairs = [*self.raw.GRPC.items(), (":path", "/etcdserverpb.KV/Put")]
        return sorted(pairs, key=lambda pair: not pair[0].startswith(":"))


def closed(connection):
    """Whether the server has closed it, without waiting."""
    connection.setblocking(False)
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


def check(results, name, well, shown=""):
    results.append(well)
    print(f"{'ok  ' if well else 'FAIL'} {name} {shown}", flush=True)


def run(server, log):
    results = []
    puts = Puts(server)
    check(results, "a put before", puts.put("before", "v").get("grpc-status") == "0")
    host, port = server.rsplit(":", 1)
    silent = [socket.create_connection((host, int(port)), timeout=10) for _ in range(SILENT)]
    # The server accepts in its own time; those beyond the limit are closed.
    deadline = time.monotonic() + 20
    beyond = SILENT + 1 - (DESCRIPTORS - RESERVED)
    while (shut := sum(map(closed, silent))) < beyond and time.monotonic() < deadline:
        time.sleep(0.05)
    check(results, "connections beyond the limit are closed at once", shut == beyond, f"{shut} of {beyond}")
    bad = [answer for n in range(PUTS) if (answer := puts.put(f"k{n}", VALUE)).get("grpc-status") != "0"]
    check(results, "writes go on into new segments", not bad, f"{len(bad)} of {PUTS} refused: {bad[:1]}")
    said = "client connections are refused" in log.read_text(errors="replace")
    check(results, "the log blames descriptors", said)
    for connection in silent:
        connection.close()
    deadline, served = time.monotonic() + 20, False
    while not served and time.monotonic() < deadline:
        try:
            served = Puts(server).put("after", "v").get("grpc-status") == "0"
        except OSError:
            time.sleep(0.05)
    check(results, "a new client is served once they have left", served)
    return results


def main():
    if len(sys.argv) != 2:
        print(__doc__)
        return 2
    try:
        tools.grpc()  # wire.py imports it
        tools.module("hpack")
    except tools.Missing as missing:
        print(f"cannot run: {missing}\n0 passed, 1 failed")
        return 1
    # This side needs a descriptor for each connection too.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY and hard < SILENT + 200:
        print(f"cannot run: the limit of {hard} descriptors is too low here\n0 passed, 1 failed")
        return 1
    resource.setrlimit(resource.RLIMIT_NOFILE, (SILENT + 200, hard))
    import servers

    server = servers.Server("henge", [sys.argv[1], "serve"], preexec=limited)
    try:
        results = run(server.endpoint, server.log)
    finally:
        server.stop()
    print(f"{sum(results)} passed, {len(results) - sum(results)} failed")
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
