"""A client of the JSON subprotocol on the Python package websockets, frame by frame."""

import contextlib
import json

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from .waiting import PATIENCE, unique
from .websocket import TEXT


class Closed(Exception):
    """The broker closed the WebSocket; `code` says how."""

    def __init__(self, code: int | None):
        super().__init__(code)
        self.code = code


def login(ws, **fields):
    """Logs a raw WebSocket in and returns it."""
    ws.send(TEXT, json.dumps({"type": "connect", "id": "login", **fields}))
    frame = json.loads(ws.read_message()[1])
    assert frame["type"] == "connected", frame
    return ws


class Client:
    """A connection that shows every frame; pings of the broker are answered on the way."""

    def __init__(self, port: int, subprotocol: str | None = "polycast.json.v1", path: str = "/ws"):
        self.opened = contextlib.ExitStack()
        self.ws = self.opened.enter_context(
            connect(
                f"ws://127.0.0.1:{port}{path}",
                subprotocols=[subprotocol] if subprotocol else None,
                ping_interval=None,
                compression=None,
                max_size=None,
            )
        )
        self.kept: list[dict] = []
        self.connected: dict | None = None

    @classmethod
    def open(cls, port: int, subprotocol: str | None = "polycast.json.v1", **fields) -> "Client":
        """Opens a WebSocket and logs in."""
        client = cls(port, subprotocol)
        client.connected = client.request("connect", **fields)
        assert client.connected["type"] == "connected", client.connected
        return client

    def send(self, type: str, **fields) -> None:
        self.ws.send(json.dumps({"type": type, **fields}))

    def receive(self) -> dict:
        return self.kept.pop(0) if self.kept else self._read()

    def _read(self) -> dict:
        while True:
            try:
                frame = json.loads(self.ws.recv(timeout=PATIENCE))
            except ConnectionClosed as end:
                raise Closed(end.rcvd.code if end.rcvd else None) from None
            if frame["type"] != "ping":
                return frame
            self.send("pong")

    def await_frame(self, matches) -> dict:
        """The next frame for which `matches` holds; those before it stay to be received."""
        for index, frame in enumerate(self.kept):
            if matches(frame):
                return self.kept.pop(index)
        while not matches(frame := self._read()):
            self.kept.append(frame)
        return frame

    def ask(self, type: str, **fields) -> dict:
        """Sends a frame with an id and returns the answer, whatever it is."""
        id = unique("id")
        self.send(type, id=id, **fields)
        return self.await_frame(lambda frame: frame.get("id") == id and frame["type"] != "message")

    def request(self, type: str, **fields) -> dict:
        """The same for what must succeed."""
        answer = self.ask(type, **fields)
        assert answer["type"] != "error", answer
        return answer

    def message(self) -> dict:
        return self.await_frame(lambda frame: frame["type"] == "message")

    def messages(self, count: int) -> list[dict]:
        return [self.message() for _ in range(count)]

    def fence(self) -> None:
        """A round trip in order: what was sent before has been dealt with, what it caused has come."""
        self.request("publish", topic=unique("fence"), data=None, qos=1)

    def nothing_before(self, topic: str) -> None:
        """Asserts that nothing waits before a mark that is now sent to a subscribed topic."""
        mark = unique("mark")
        self.request("publish", topic=topic, data=mark)
        frame = self.message()
        assert frame["data"] == mark, f"unexpected: {frame}"

    def expect_closed(self) -> tuple[list[dict], int | None]:
        """Reads to the end: the frames that still came, and the close code."""
        frames = []
        try:
            while True:
                frames.append(self.receive())
        except Closed as end:
            return frames, end.code

    def drop(self) -> None:
        """Ends the connection without a word."""
        self.ws.socket.close()

    def close(self) -> None:
        self.opened.close()

