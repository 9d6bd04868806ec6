"""A server under comparison: a real etcd or a Henge, with ports and a directory of its own.

Promises: ready when the constructor returns, gone (process and data) after `stop`.
Must never know: what is asked of the server. Both take etcd's flags and print etcd's ready line.
"""

import pathlib
import shutil
import socket
import subprocess
import tempfile
import time

READY = "ready to serve client requests"
START_MAX_S = 30


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """One running server."""

    def __init__(self, name, command, keep=False, preexec=None):
        self.name = name
        self.keep = keep
        self.home = pathlib.Path(tempfile.mkdtemp(prefix=f"compare-{name}-"))
        self.client_port, self.peer_port = free_port(), free_port()
        self.endpoint = f"127.0.0.1:{self.client_port}"
        client, peer = f"http://{self.endpoint}", f"http://127.0.0.1:{self.peer_port}"
        flags = {
            "--data-dir": self.home / "data",
            "--listen-client-urls": client,
            "--advertise-client-urls": client,
            "--listen-peer-urls": peer,
            "--initial-advertise-peer-urls": peer,
            "--initial-cluster": f"default={peer}",
        }
        self.log = self.home / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [str(part) for part in command] + [str(x) for pair in flags.items() for x in pair],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=preexec,
            )
        try:
            self._await_ready()
        except BaseException:
            self.stop()
            raise

    def _await_ready(self):
        deadline = time.monotonic() + START_MAX_S
        while READY not in self.log.read_text(errors="replace"):
            if self.process.poll() is not None:
                raise RuntimeError(f"{self.name} ended with {self.process.returncode}:\n{self.tail()}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.name} was not ready in {START_MAX_S} s:\n{self.tail()}")
            time.sleep(0.02)

    def tail(self):
        """The end of its log, for messages."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-20:])

    def alive(self):
        return self.process.poll() is None

    def stop(self):
        self.process.kill()
        self.process.wait()
        if self.keep:
            print(f"kept {self.home}")
        else:
            shutil.rmtree(self.home, ignore_errors=True)
