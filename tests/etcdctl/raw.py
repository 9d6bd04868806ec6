"""HTTP/2 frames by hand, for what no gRPC library will send: other methods and content types, bad
deadlines, odd flags, two messages in a unary call, a stream that stays open, any `:authority`.

Promises: nothing is added to what a case says; an answer is a dict of what came back (HTTP status,
gRPC status and text, messages, a reset or a goodbye), so that two servers can be compared.
Must never know: what a case means. Tested by running wire_cases.py on a real etcd.
"""

import gzip
import socket
import time

import hpack

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RESET, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, END_HEADERS, ACK = 1, 4, 1
FRAME_MAX = 16_384
ANSWER_MAX_S = 10

GRPC = {":method": "POST", ":scheme": "http", ":authority": "localhost",
        "content-type": "application/grpc", "te": "trailers"}


def frame(kind, flags, stream, payload=b""):
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def message(data, flag=0):
    """One gRPC message; flag 1 says that it is compressed."""
    return bytes([flag]) + len(data).to_bytes(4, "big") + data


def zipped(data):
    return message(gzip.compress(data), 1)


class Connection:
    """One HTTP/2 connection with windows too large to matter."""

    def __init__(self, endpoint, silent=False):
        host, port = endpoint.rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)), timeout=ANSWER_MAX_S)
        self.encoder, self.decoder = hpack.Encoder(), hpack.Decoder()
        self.decoder.max_header_list_size = 1 << 20
        self.rest = b""
        if not silent:
            self.socket.sendall(PREFACE + frame(SETTINGS, 0, 0, b"\0\x04\x7f\0\0\0")
                                + frame(WINDOW_UPDATE, 0, 0, b"\x7e\0\0\0"))

    def headers(self, stream, fields, end=False):
        """A header block, in as many frames as it takes; `fields` is a dict or a list of pairs."""
        pairs = list(fields.items()) if isinstance(fields, dict) else fields
        block = self.encoder.encode(pairs, huffman=False)
        parts = [block[i:i + FRAME_MAX] for i in range(0, len(block), FRAME_MAX)] or [b""]
        for i, part in enumerate(parts):
            flags = (END_HEADERS if i + 1 == len(parts) else 0) | (END_STREAM if end and i == 0 else 0)
            self.socket.sendall(frame(CONTINUATION if i else HEADERS, flags, stream, part))

    def data(self, stream, data, end=True):
        parts = [data[i:i + FRAME_MAX] for i in range(0, len(data), FRAME_MAX)] or [b""]
        for i, part in enumerate(parts):
            last = end and i + 1 == len(parts)
            self.socket.sendall(frame(DATA, END_STREAM if last else 0, stream, part))

    def next_frame(self):
        """(kind, flags, stream, payload), or None when the server closed."""
        head = self._read(9)
        if head is None:
            return None
        payload = self._read(int.from_bytes(head[:3], "big"))
        return head[3], head[4], int.from_bytes(head[5:9], "big") & 0x7FFFFFFF, payload

    def _read(self, length):
        while len(self.rest) < length:
            try:
                more = self.socket.recv(65_536)
            except ConnectionError:
                return None
            if not more:
                return None
            self.rest += more
        out, self.rest = self.rest[:length], self.rest[length:]
        return out

    def answer(self, stream=1, messages=None):
        """What `stream` was answered, to its end or to its `messages`-th message."""
        out, data, block = {}, b"", b""
        deadline = time.monotonic() + ANSWER_MAX_S
        while time.monotonic() < deadline:
            try:
                got = self.next_frame()
            except TimeoutError:
                break
            if got is None:
                return {**out, "closed": True}
            kind, flags, on, payload = got
            if kind == SETTINGS and not flags & ACK:
                self.socket.sendall(frame(SETTINGS, ACK, 0))
            elif kind == PING and not flags & ACK:
                self.socket.sendall(frame(PING, ACK, 0, payload))
            elif kind == GOAWAY and int.from_bytes(payload[4:8], "big"):
                return {**out, "goaway": int.from_bytes(payload[4:8], "big")}
            if on != stream:
                continue
            if kind == RESET:
                # Once all is said, "no error" only tells the client to stop sending.
                code = int.from_bytes(payload, "big")
                return out if "grpc-status" in out and code == 0 else {**out, "reset": code}
            if kind in (HEADERS, CONTINUATION):
                block += payload
                if flags & END_HEADERS:
                    for name, value in self.decoder.decode(block):
                        if name in (":status", "grpc-status", "grpc-message", "content-type", "grpc-encoding"):
                            out[name] = value
                    block = b""
            if kind == DATA:
                data += payload
                while len(data) >= 5 and len(data) >= 5 + int.from_bytes(data[1:5], "big"):
                    end = 5 + int.from_bytes(data[1:5], "big")
                    out.setdefault("messages", []).append((data[0], data[5:end]))
                    data = data[end:]
                if messages and len(out.get("messages", [])) >= messages:
                    return out
            if flags & END_STREAM and kind in (DATA, HEADERS):
                if data:
                    out["body"] = data.decode("latin-1")
                return out
        return {**out, "no end": True}

    def close(self):
        self.socket.close()


def call(endpoint, method, body, more=None, end=True, **options):
    """One call on a connection of its own. `more` adds or replaces header fields; None removes one."""
    fields = {**GRPC, ":path": f"/etcdserverpb.{method}", **(more or {})}
    # Pseudo fields come first, whatever was replaced.
    pairs = [(k, v) for k, v in fields.items() if v is not None]
    pairs.sort(key=lambda pair: not pair[0].startswith(":"))
    connection = Connection(endpoint)
    try:
        connection.headers(1, pairs, end=body is None)
        if body is not None:
            connection.data(1, body, end)
        return connection.answer(**options)
    except OSError as error:
        return {"failed": type(error).__name__}
    finally:
        connection.close()
