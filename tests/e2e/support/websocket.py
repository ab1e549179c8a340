"""WebSocket, frame by frame: a handshake that shows its answer, and messages as a stream."""

import base64
import os
import socket
import struct
from dataclasses import dataclass

from .waiting import PATIENCE

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10


@dataclass
class Handshake:
    """What the server said to an upgrade."""

    status: int
    headers: dict[str, str]
    body: bytes


class Ended(Exception):
    """The server ended the WebSocket; `code` is None if it did so without a close frame."""

    def __init__(self, code: int | None, reason: str = ""):
        super().__init__(code, reason)
        self.code = code
        self.reason = reason


def request(port: int, protocols: list[str] | None = None, path="/ws", extra: list[str] | None = None) -> bytes:
    """An upgrade request. Each of `protocols` is one Sec-WebSocket-Protocol line."""
    lines = [
        f"GET {path} HTTP/1.1",
        f"Host: 127.0.0.1:{port}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}",
        "Sec-WebSocket-Version: 13",
        *(f"Sec-WebSocket-Protocol: {protocol}" for protocol in protocols or []),
        *(extra or []),
    ]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"


def exchange(sock: socket.socket, raw: bytes) -> tuple[Handshake, bytes]:
    """Sends a request and reads the answer; what follows it is returned too."""
    sock.sendall(raw)
    data = b""
    while b"\r\n\r\n" not in data:
        more = sock.recv(65536)
        if not more:
            raise Ended(None)
        data += more
    head, rest = data.split(b"\r\n\r\n", 1)
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.strip().lower(): value.strip() for name, value in (line.split(":", 1) for line in lines)}
    status = int(first.split(" ")[1])
    if status != 101:
        while len(rest) < int(headers.get("content-length", 0)):
            rest += sock.recv(65536)
    return Handshake(status, headers, rest if status != 101 else b""), rest if status == 101 else b""


def handshake(port: int, protocols: list[str] | None = None, path="/ws", extra=None) -> Handshake:
    """Only the answer to an upgrade."""
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.settimeout(PATIENCE)
        return exchange(sock, request(port, protocols, path, extra))[0]


def frame(opcode: int, payload: bytes = b"", fin=True, masked=True, rsv=0, length: bytes | None = None) -> bytes:
    """A frame; `length` replaces the length bytes behind the first two, to lie about it."""
    head = bytes([(0x80 if fin else 0) | rsv << 4 | opcode])
    size = len(payload)
    mask_bit = 0x80 if masked else 0
    if length is not None:
        head += bytes([mask_bit | (127 if len(length) == 8 else 126)]) + length
    elif size < 126:
        head += bytes([mask_bit | size])
    elif size < 65536:
        head += bytes([mask_bit | 126]) + struct.pack(">H", size)
    else:
        head += bytes([mask_bit | 127]) + struct.pack(">Q", size)
    if not masked:
        return head + payload
    key = os.urandom(4)
    repeated = key * (size // 4 + 1)
    mixed = int.from_bytes(payload, "big") ^ int.from_bytes(repeated[:size], "big")
    return head + key + mixed.to_bytes(size, "big")


def close_body(code: int, reason: str = "") -> bytes:
    return struct.pack(">H", code) + reason.encode()


class WebSocket:
    """An open WebSocket. `sendall` and `recv` make it a stream in place of a socket."""

    def __init__(self, port: int, *protocols: str, path="/ws", opcode=BINARY, early: bytes = b""):
        """Opens it; `early` is sent in one piece with the request."""
        self.sock = socket.create_connection(("127.0.0.1", port))
        self.sock.settimeout(PATIENCE)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.handshake, self.input = exchange(self.sock, request(port, list(protocols), path) + early)
        assert self.handshake.status == 101, self.handshake
        self.opcode = opcode
        self.opcodes: list[int] = []

    def settimeout(self, seconds: float) -> None:
        self.sock.settimeout(seconds)

    def sendall(self, data: bytes) -> None:
        self.send(self.opcode, data)

    def send(self, opcode: int, payload: bytes | str = b"", **options) -> None:
        raw = payload.encode() if isinstance(payload, str) else payload
        self.sock.sendall(frame(opcode, raw, **options))

    def raw(self, data: bytes) -> None:
        self.sock.sendall(data)

    def _need(self, count: int) -> bytes:
        while len(self.input) < count:
            try:
                more = self.sock.recv(65536)
            except ConnectionError:
                raise Ended(None) from None
            if not more:
                raise Ended(None)
            self.input += more
        taken, self.input = self.input[:count], self.input[count:]
        return taken

    def read_frame(self) -> tuple[bool, int, bytes]:
        """FIN, opcode and payload of the next frame."""
        first, second = self._need(2)
        assert not second & 0x80, "a server must not mask"
        assert not first & 0x70, "reserved bits"
        size = second & 0x7F
        if size == 126:
            size = struct.unpack(">H", self._need(2))[0]
        elif size == 127:
            size = struct.unpack(">Q", self._need(8))[0]
        return bool(first & 0x80), first & 0x0F, self._need(size)

    def read_message(self) -> tuple[int, bytes]:
        """Opcode and payload of the next text, binary or pong; [`Ended`] at a close frame."""
        kind, whole = None, b""
        while True:
            fin, opcode, payload = self.read_frame()
            if opcode == CLOSE:
                code = struct.unpack(">H", payload[:2])[0] if payload else None
                raise Ended(code, payload[2:].decode())
            if opcode == PING:
                self.send(PONG, payload)
                continue
            if opcode == PONG:
                return PONG, payload
            kind = opcode if opcode != CONTINUATION else kind
            whole += payload
            if fin:
                return kind, whole

    def recv(self, _size: int = 0) -> bytes:
        """The next message's payload; empty at the end, as a socket's."""
        try:
            opcode, payload = self.read_message()
        except Ended as end:
            self.ended = end
            return b""
        self.opcodes.append(opcode)
        return payload if payload else self.recv()

    def expect_end(self) -> Ended:
        """Reads to the end and says how it came. The socket is closed behind a close frame."""
        try:
            while True:
                self.read_message()
        except Ended as end:
            if end.code is not None:
                self._expect_no_more()
            return end

    def _expect_no_more(self) -> None:
        try:
            self.send(CLOSE, close_body(1000))
            while self.sock.recv(65536):
                pass
        except ConnectionError:
            pass

    def close(self) -> None:
        self.sock.close()
