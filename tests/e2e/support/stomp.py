"""STOMP frames, written and read byte by byte, and a client that shows each of them."""

import socket
from dataclasses import dataclass, field

from .waiting import PATIENCE, unique

ESCAPES = {"\\": "\\\\", "\r": "\\r", "\n": "\\n", ":": "\\c"}
UNESCAPES = {"\\\\": "\\", "\\r": "\r", "\\n": "\n", "\\c": ":"}


class Closed(Exception):
    """The broker closed the connection."""


def escape(text: str) -> str:
    return "".join(ESCAPES.get(letter, letter) for letter in text)


def unescape(text: str) -> str:
    out, at = "", 0
    while at < len(text):
        if text[at] == "\\":
            out += UNESCAPES[text[at : at + 2]]
            at += 2
        else:
            out += text[at]
            at += 1
    return out


def encode(command: str, headers=(), body: bytes | str = b"", escaped=True, end=b"\n") -> bytes:
    """A frame. `headers` is a mapping or a list of pairs; names may repeat in a list."""
    body = body.encode() if isinstance(body, str) else body
    pairs = headers.items() if isinstance(headers, dict) else headers
    change = escape if escaped and command not in ("CONNECT", "CONNECTED") else str
    lines = [command, *(f"{change(str(name))}:{change(str(value))}" for name, value in pairs)]
    return end.join(line.encode() for line in lines) + end + end + body + b"\0"


@dataclass
class Frame:
    """A frame from the broker; of repeated headers the first counts."""

    command: str
    pairs: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""

    def __getitem__(self, name: str) -> str:
        return self.headers[name]

    @property
    def headers(self) -> dict[str, str]:
        return dict(reversed(self.pairs))

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.pairs if key == name]


class Client:
    """A connection that shows every frame. `stream` is a socket or a WebSocket."""

    def __init__(self, stream, version: str = "1.2"):
        self.stream = stream
        self.version = version
        self.input = b""
        self.kept: list[Frame] = []
        self.connected: Frame | None = None
        self.beats = 0
        stream.settimeout(PATIENCE)

    @classmethod
    def plain(cls, port: int, version: str = "1.2") -> "Client":
        """Opens a socket and says nothing."""
        return cls(socket.create_connection(("127.0.0.1", port)), version)

    @classmethod
    def open(cls, port: int, version: str = "1.2", **headers) -> "Client":
        client = cls.plain(port, version)
        client.login(**headers)
        return client

    def login(self, command: str = "CONNECT", **headers) -> Frame:
        given = {} if self.version == "1.0" else {"accept-version": self.version, "host": "localhost"}
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        self.send(command, given)
        self.connected = self.expect("CONNECTED")
        return self.connected

    def send(self, command: str, headers=(), body: bytes | str = b"", escaped: bool | None = None) -> None:
        self.stream.sendall(encode(command, headers, body, self.version != "1.0" if escaped is None else escaped))

    def receive(self) -> Frame:
        """The next frame; heart-beats are counted and passed over."""
        return self.kept.pop(0) if self.kept else self._read()

    def _read(self) -> Frame:
        while True:
            while self.input[:1] in (b"\n", b"\r"):
                self.input = self.input[1:]
                self.beats += 1
            frame = self._complete()
            if frame:
                return frame
            self._more()

    def _more(self) -> None:
        try:
            more = self.stream.recv(65536)
        except ConnectionError as error:
            raise Closed(str(error)) from None
        if not more:
            raise Closed(f"with {self.input!r} left over" if self.input else "")
        self.input += more

    def _complete(self) -> Frame | None:
        head, gap, rest = self.input.partition(b"\n\n")
        if not gap:
            return None
        lines = head.decode().split("\n")
        plain = self.version == "1.0" or lines[0] == "CONNECTED"
        change = str if plain else unescape
        pairs = [tuple(map(change, line.split(":", 1))) for line in lines[1:]]
        frame = Frame(lines[0], pairs)
        if "content-length" in frame.headers:
            length = int(frame["content-length"])
            if len(rest) <= length:
                return None
            assert rest[length : length + 1] == b"\0", f"no NUL behind the body: {self.input!r}"
        else:
            length = rest.find(b"\0")
            if length < 0:
                return None
        frame.body = rest[:length]
        self.input = rest[length + 1 :]
        return frame

    def expect(self, command: str) -> Frame:
        """The next frame, which has this command."""
        frame = self.receive()
        assert frame.command == command, f"expected {command}, got {frame}"
        return frame

    def await_command(self, command: str) -> Frame:
        """The next frame with this command; those before it stay to be received."""
        for index, frame in enumerate(self.kept):
            if frame.command == command:
                return self.kept.pop(index)
        while (frame := self._read()).command != command:
            self.kept.append(frame)
        return frame

    def expect_closed(self) -> list[Frame]:
        """Reads to the end and returns what still came."""
        frames = []
        try:
            while True:
                frames.append(self.receive())
        except Closed:
            return frames

    def expect_error(self) -> Frame:
        """ERROR, then the end."""
        frames = self.expect_closed()
        assert frames and frames[-1].command == "ERROR", frames
        assert frames[-1].headers.get("message"), frames[-1]
        return frames[-1]

    def request(self, command: str, headers=None, body: bytes | str = b"") -> None:
        """Sends a frame with a receipt header and waits for the RECEIPT."""
        receipt = unique("receipt")
        self.send(command, dict(headers or {}) | {"receipt": receipt}, body)
        answer = self.await_command("RECEIPT")
        assert answer["receipt-id"] == receipt, answer

    def subscribe(self, destination: str, id: str = "0", **headers) -> None:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.request("SUBSCRIBE", {"destination": destination, "id": id} | named)

    def publish(self, destination: str, body: bytes | str = b"", **headers) -> None:
        """SEND, and back when it has been dealt with."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.request("SEND", {"destination": destination} | named, body)

    def message(self) -> Frame:
        return self.await_command("MESSAGE")

    def settle(self, command: str, message: Frame, **headers) -> None:
        """ACK or NACK by the header of the version, with a receipt."""
        if self.version == "1.2":
            named = {"id": message["ack"]}
        else:
            named = {"message-id": message["message-id"], "subscription": message["subscription"]}
        self.request(command, named | headers)

    def fence(self) -> None:
        """A round trip in order: what was sent before has been dealt with, what it caused has come."""
        self.publish(f"/topic/{unique('fence')}")

    def nothing_before(self, destination: str) -> None:
        """Asserts that nothing waits before a mark that is now sent to a subscribed destination."""
        mark = unique("mark").encode()
        self.publish(destination, mark)
        frame = self.message()
        assert frame.body == mark, f"unexpected: {frame}"

    def close(self) -> None:
        self.stream.close()
