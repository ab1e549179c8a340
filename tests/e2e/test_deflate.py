"""permessage-deflate (RFC 7692) with clients that others wrote, for every subprotocol."""

import contextlib
import json

import pytest
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.sync.client import connect

from support import mqtt, node, process, stomp
from support.waiting import PATIENCE, unique, until

BODY = b"21.5 degrees in the kitchen, " * 400
SUBPROTOCOLS = ["mqtt", "v12.stomp", "polycast.json.v1"]


@pytest.fixture(scope="module")
def broker(request, tmp_path_factory):
    """A broker that compresses for those who offer it."""
    started = process.start(tmp_path_factory.mktemp("deflate"), websocket__permessage_deflate=True)
    yield started
    started.stop()


class Stream:
    """A WebSocket of the package `websockets` as a stream; what it reads is counted in messages."""

    def __init__(self, port: int, subprotocol: str, **options):
        self.opened = contextlib.ExitStack()
        url = f"ws://127.0.0.1:{port}/ws"
        self.ws = self.opened.enter_context(
            connect(url, subprotocols=[subprotocol], ping_interval=None, max_size=None, **options)
        )
        self.text = subprotocol != "mqtt"
        self.seconds = PATIENCE

    @property
    def extension(self) -> str:
        return self.ws.response.headers.get("Sec-WebSocket-Extensions", "")

    def settimeout(self, seconds: float) -> None:
        self.seconds = seconds

    def sendall(self, data: bytes) -> None:
        self.ws.send(data.decode() if self.text else data)

    def recv(self, _size: int = 0) -> bytes:
        message = self.ws.recv(timeout=self.seconds)
        return message.encode() if isinstance(message, str) else message

    def close(self) -> None:
        self.opened.close()


class JsonClient:
    """The little of the JSON subprotocol that is needed here."""

    def __init__(self, stream: Stream):
        self.stream = stream
        self.kept: list[dict] = []
        self.ask({"type": "connect"})

    def ask(self, frame: dict) -> dict:
        self.stream.sendall(json.dumps(frame | {"id": 1}).encode())
        return self.read(lambda answer: answer.get("id") == 1)

    def read(self, matches) -> dict:
        """The next frame for which `matches` holds; those before it stay to be read."""
        for index, frame in enumerate(self.kept):
            if matches(frame):
                return self.kept.pop(index)
        while not matches(frame := json.loads(self.stream.recv())):
            self.kept.append(frame)
        return frame


def subscribe(stream: Stream, subprotocol: str, topic: str):
    """Logs in, subscribes, and returns how to read and how to publish."""
    if subprotocol == "mqtt":
        client = mqtt.Client(stream)
        client.login()
        client.subscribe(topic)
        return lambda: client.message().payload, lambda body: client.publish(topic, body)
    if subprotocol.endswith("stomp"):
        frames = stomp.Client(stream)
        frames.login()
        frames.subscribe(f"/topic/{topic}")
        return lambda: frames.message().body, lambda body: frames.publish(f"/topic/{topic}", body)
    other = JsonClient(stream)
    other.ask({"type": "subscribe", "topic": topic})
    return (
        lambda: other.read(lambda frame: frame["type"] == "message")["data"].encode(),
        lambda body: other.ask({"type": "publish", "topic": topic, "data": body.decode()}),
    )


@pytest.mark.parametrize("publisher", SUBPROTOCOLS)
@pytest.mark.parametrize("receiver", SUBPROTOCOLS)
def test_python_websockets(broker, publisher, receiver):
    """Compressed both ways, from every subprotocol to every other, with a receiver without beside."""
    topic = unique("deflate")
    with contextlib.ExitStack() as stack:
        packed, sender = (
            stack.enter_context(contextlib.closing(Stream(broker.http, name))) for name in (receiver, publisher)
        )
        plain = stack.enter_context(contextlib.closing(Stream(broker.http, receiver, compression=None)))
        assert "permessage-deflate" in packed.extension and "permessage-deflate" in sender.extension
        assert plain.extension == ""
        reads = [subscribe(stream, receiver, topic)[0] for stream in (packed, plain)]
        _, publish = subscribe(sender, publisher, topic)
        for body in (BODY, b"short", BODY + b"!"):
            publish(body)
            assert [read() for read in reads] == [body, body]


@pytest.mark.parametrize("subprotocol", SUBPROTOCOLS)
def test_it_saves_bytes(broker, subprotocol):
    topic = unique("deflate")
    name = {"mqtt": "mqtt", "v12.stomp": "stomp", "polycast.json.v1": "json"}[subprotocol]
    sizes = []
    for compression in ("deflate", None):
        stream = Stream(broker.http, subprotocol, compression=compression)
        read, publish = subscribe(stream, subprotocol, topic)
        before = broker.metric("polycast_bytes_sent_total", protocol=name)
        publish(BODY)
        assert read() == BODY
        until(lambda: broker.metric("polycast_bytes_sent_total", protocol=name) > before)
        sizes.append(broker.metric("polycast_bytes_sent_total", protocol=name) - before)
        stream.close()
    packed, plain = sizes
    assert packed * 10 < plain and plain > len(BODY)


@pytest.mark.parametrize("subprotocol", SUBPROTOCOLS)
def test_receivers_with_other_parameters_share_a_message(broker, subprotocol):
    """Each window size has a compression of its own; each receiver can read its own."""
    topic = unique("deflate")
    offers = [
        ClientPerMessageDeflateFactory(),
        ClientPerMessageDeflateFactory(server_no_context_takeover=True, client_no_context_takeover=True),
        ClientPerMessageDeflateFactory(server_max_window_bits=9, client_max_window_bits=9),
        ClientPerMessageDeflateFactory(server_max_window_bits=12),
    ]
    streams = [Stream(broker.http, subprotocol, compression=None, extensions=[offer]) for offer in offers * 3]
    try:
        assert all("permessage-deflate" in stream.extension for stream in streams)
        clients = [subscribe(stream, subprotocol, topic) for stream in streams]
        for body in (BODY, BODY[::-1], b""):
            clients[0][1](body)
            assert [read() for read, _ in clients] == [body] * len(clients)
    finally:
        for stream in streams:
            stream.close()


def test_it_is_off_unless_it_is_configured(start_broker):
    stream = Stream(start_broker().http, "mqtt")
    assert stream.extension == ""
    read, publish = subscribe(stream, "mqtt", "t")
    publish(BODY)
    assert read() == BODY
    stream.close()


@pytest.mark.parametrize("case", node.cases("ws.mjs"))
def test_node_ws(broker, case):
    """Node's ws offers it by default; every case of the JSON subprotocol goes as without."""
    node.run("ws.mjs", case, broker.ws_url(), unique("ws"))
