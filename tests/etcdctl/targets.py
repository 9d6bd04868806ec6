#!/usr/bin/env python3
"""Clients whose targets make unusual `:authority` values, against a server of its own.

    python3 tests/etcdctl/targets.py HENGE

grpcio (gRPC's C core, as C++, Ruby and PHP have it) with several addresses in one target, and etcd's
Go client 3.5.0 (tests/goclient), where Go is found; where not, says so. Promises: each puts and reads
back. Ends with `N passed, N failed`; exits 1 on a failure. Must never know: how the server works.
"""

import pathlib
import shutil
import subprocess
import sys

import tools

GO_CLIENT = tools.ROOT / "tests" / "goclient"


def python_targets(server, check):
    import grpc
    from wire import decode, encode

    from servers import free_port

    live, dead = server.client_port, [free_port(), free_port()]
    targets = {
        "three addresses": f"ipv4:127.0.0.1:{live},127.0.0.1:{live},127.0.0.1:{live}",
        "three addresses, two of them dead": f"ipv4:127.0.0.1:{dead[0]},127.0.0.1:{dead[1]},127.0.0.1:{live}",
        "one address": f"ipv4:127.0.0.1:{live}",
        "a name": f"dns:///localhost:{live}",
    }
    for name, target in targets.items():
        try:
            with grpc.insecure_channel(target, options=[("grpc.enable_retries", 0)]) as channel:
                def call(method, data):
                    unary = channel.unary_unary(f"/etcdserverpb.KV/{method}")
                    return unary(data, timeout=15, wait_for_ready=True)

                call("Put", encode("PutRequest", {"key": "t", "value": name}))
                got = decode("RangeResponse", call("Range", encode("RangeRequest", {"key": "t"})))
            check(f"grpcio with {name}", got["kvs"][0]["value"] == name)
        except grpc.RpcError as error:
            check(f"grpcio with {name}", False, f"{error.code().name}: {error.details()}")


def go_client(server, check):
    if not shutil.which("go"):
        print("note: etcd's Go client 3.5.0 was not tried: there is no `go` on the PATH")
        return
    program = tools.TARGET / "goclient"
    try:
        tools.run(["go", "build", "-o", program, "."], cwd=GO_CLIENT)
    except tools.Missing as missing:
        # Without its modules it cannot be built; that is not the server's fault.
        print(f"note: etcd's Go client 3.5.0 was not tried: {missing}")
        return
    for name, endpoints in [("one endpoint", 1), ("three endpoints", 3)]:
        done = subprocess.run([program, *[server.endpoint] * endpoints], capture_output=True, text=True, timeout=60)
        print(done.stdout, end="")
        check(f"Go client 3.5.0 with {name}", done.returncode == 0, done.stderr.strip()[-300:])


def main():
    if len(sys.argv) != 2:
        print(__doc__)
        return 2
    try:
        tools.grpc()
    except tools.Missing as missing:
        print(f"cannot run: {missing}\n0 passed, 1 failed")
        return 1
    from servers import Server

    results = []

    def check(name, well, shown=""):
        results.append(well)
        print(f"{'ok  ' if well else 'FAIL'} {name} {shown if not well else ''}".rstrip(), flush=True)

    server = Server("henge", [pathlib.Path(sys.argv[1]), "serve"])
    try:
        python_targets(server, check)
        go_client(server, check)
    finally:
        server.stop()
    print(f"{sum(results)} passed, {len(results) - sum(results)} failed")
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
