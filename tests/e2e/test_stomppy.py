"""stomp.py, 1.0 to 1.2, over TCP and over WebSocket."""

import queue

import pytest
import stomp

from support.waiting import PATIENCE, unique

VERSIONS = ["1.0", "1.1", "1.2"]
CONNECTIONS = {
    ("tcp", "1.0"): stomp.Connection10,
    ("tcp", "1.1"): stomp.Connection11,
    ("tcp", "1.2"): stomp.Connection12,
    ("ws", "1.2"): stomp.WSConnection,
}


class Listener(stomp.ConnectionListener):
    """Puts everything that comes into queues."""

    def __init__(self):
        self.frames = {name: queue.Queue() for name in ("connected", "message", "receipt", "error", "disconnected")}

    def on_connected(self, frame):
        self.frames["connected"].put(frame)

    def on_message(self, frame):
        self.frames["message"].put(frame)

    def on_receipt(self, frame):
        self.frames["receipt"].put(frame)

    def on_error(self, frame):
        self.frames["error"].put(frame)

    def on_disconnected(self):
        self.frames["disconnected"].put(None)

    def next(self, name):
        return self.frames[name].get(timeout=PATIENCE)


@pytest.fixture
def connect(broker):
    opened = []

    def open_client(transport="tcp", version="1.2", **options):
        kind = CONNECTIONS[transport, version]
        port = broker.stomp if transport == "tcp" else broker.http
        # It offers no subprotocol; the path says what it speaks.
        more = {"ws_path": "/stomp"} if transport == "ws" else {}
        connection = kind([("127.0.0.1", port)], reconnect_attempts_max=1, **more, **options)
        listener = Listener()
        connection.set_listener("", listener)
        connection.connect(wait=True)
        opened.append(connection)
        return connection, listener

    yield open_client
    for one in opened:
        if one.is_connected():
            one.disconnect()


@pytest.mark.parametrize("transport, version", CONNECTIONS)
def test_send_and_subscribe(connect, transport, version):
    connection, listener = connect(transport, version)
    topic = f"/topic/{unique('stomppy')}"
    connection.subscribe(topic, id="1", ack="auto", headers={"receipt": "ready"})
    assert listener.next("receipt").headers["receipt-id"] == "ready"
    connection.send(topic, "hello ü", content_type="text/plain", headers={"custom": "x"})
    message = listener.next("message")
    assert message.body == "hello ü"
    assert (message.headers["destination"], message.headers["custom"]) == (topic, "x")


@pytest.mark.parametrize("version", VERSIONS)
def test_unacknowledged_comes_again(connect, version):
    name = f"/queue/{unique('stomppy')}"
    first, listener = connect(version=version)
    first.subscribe(name, id="1", ack="client")
    first.send(name, "work")
    listener.next("message")
    first.disconnect()
    second, listener = connect(version=version)
    second.subscribe(name, id="1", ack="client")
    message = listener.next("message")
    assert message.body == "work" and message.headers["redelivered"] == "true"
    if version == "1.2":
        second.ack(message.headers["ack"])
    elif version == "1.1":
        second.ack(message.headers["message-id"], "1")
    else:
        second.ack(message.headers["message-id"])


@pytest.mark.parametrize("version", ["1.1", "1.2"])
def test_nack(connect, version):
    name = f"/queue/{unique('stomppy')}"
    connection, listener = connect(version=version)
    connection.subscribe(name, id="1", ack="client-individual")
    connection.send(name, "work")
    headers = listener.next("message").headers
    connection.nack(*([headers["ack"]] if version == "1.2" else [headers["message-id"], "1"]))
    assert listener.next("message").headers["redelivered"] == "true"


@pytest.mark.parametrize("version", VERSIONS)
def test_transaction(connect, version):
    connection, listener = connect(version=version)
    topic = f"/topic/{unique('stomppy')}"
    connection.subscribe(topic, id="1", headers={"receipt": "ready"})
    listener.next("receipt")
    for name, end in (("a", connection.abort), ("b", connection.commit)):
        connection.begin(name)
        connection.send(topic, name, transaction=name)
        end(name)
    assert listener.next("message").body == "b"


def test_heart_beats_keep_it_alive(connect):
    connection, listener = connect(heartbeats=(1000, 1000))
    topic = f"/topic/{unique('stomppy')}"
    with pytest.raises(queue.Empty):
        listener.frames["disconnected"].get(timeout=4)
    connection.subscribe(topic, id="1")
    connection.send(topic, "alive")
    assert listener.next("message").body == "alive"


def test_error_then_disconnected(connect):
    connection, listener = connect()
    connection.send("/topic/with/#", "x", headers={"receipt": "r"})
    error = listener.next("error")
    assert error.headers["receipt-id"] == "r" and error.headers["message"]
    listener.next("disconnected")
