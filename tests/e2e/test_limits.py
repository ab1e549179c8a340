"""Every limit of the configuration: what a client sees when it meets it, and what counts it.

Each test sets one limit low and goes just beyond it. Limits that other files test in passing
(receive maximum, aliases, keep alive, ...) are here again only where the counter was missing.
"""

import hashlib
import json
import pathlib
import re
import select
import signal
import socket
import subprocess
import time

import httpx
import pytest

from support import addresses, json_client, mqtt, process, stomp, websocket
from support.waiting import unique, until
from support.websocket import BINARY, CONTINUATION, PING, TEXT, WebSocket

DOCS = pathlib.Path(__file__).parents[2] / "docs" / "configuration.md"


KEY = hashlib.sha256(b"key").hexdigest()

SMALL = {"limits__packet_size_before_login": "1KiB", "limits__user_property_size": "1KiB"}
"""What must be below a small packet size."""


def counted(broker, name: str, at_least: float = 1, **labels) -> None:
    """Waits until a counter has come to a value."""
    until(lambda: broker.metric(name, **labels) >= at_least, f"{name} {labels} is at least {at_least}")


def closed(broker, protocol: str, reason: str) -> None:
    counted(broker, "polycast_connections_closed_total", protocol=protocol, reason=reason)


def refused(broker, protocol: str, reason: str, at_least: float = 1) -> None:
    counted(broker, "polycast_requests_refused_total", at_least, protocol=protocol, reason=reason)


def json_error(client: json_client.Client, code: str, type: str, **fields) -> None:
    """The frame is answered by this error, and the connection goes on."""
    answer = client.ask(type, **fields)
    assert (answer["type"], answer.get("code")) == ("error", code), answer
    assert client.ask("ping")["type"] == "pong"


def stomp_error(client: stomp.Client, command: str, headers=None, body=b"") -> stomp.Frame:
    """The frame is answered by an ERROR that names its receipt, and the end."""
    client.send(command, dict(headers or {}) | {"receipt": "r-1"}, body)
    error = client.expect_error()
    assert error["receipt-id"] == "r-1", error
    return error


def mqtt_end(client: mqtt.Client, raw: bytes) -> list[int]:
    """What is left to read after these bytes: the reasons of the packets before the end."""
    try:
        client.send(raw)
    except ConnectionError:
        pass
    return [packet.reason for packet in client.expect_closed()]


def gone_or(sock: socket.socket, seconds: float = 10) -> bytes:
    """Reads to the end; nothing if the connection was reset."""
    sock.settimeout(seconds)
    data = b""
    try:
        while more := sock.recv(65536):
            data += more
    except ConnectionError:
        pass
    return data


# --- sizes --------------------------------------------------------------------------------------


def test_packet_size_before_login(start_broker):
    broker = start_broker(limits__packet_size_before_login="512B")
    client = mqtt.Client.plain(broker.mqtt)
    client.send(mqtt.connect("x", username="u" * 600))
    assert [(packet.kind, packet.reason) for packet in client.expect_closed()] in ([(mqtt.CONNACK, 0x95)], [])
    closed(broker, "mqtt", "too_large")
    frames = stomp.Client.plain(broker.stomp)
    frames.send("CONNECT", {"accept-version": "1.2", "host": "h", "login": "u" * 600})
    frames.expect_error()
    closed(broker, "stomp", "too_large")
    ws = WebSocket(broker.http, "json")
    ws.send(TEXT, json.dumps({"type": "connect", "x": "u" * 600}))
    assert ws.expect_end().code == 1009
    closed(broker, "json", "too_large")
    assert broker.metric("polycast_protocol_errors_total", cause="too_large") == 3


def test_packet_size(start_broker):
    broker = start_broker(limits__packet_size="2KiB", **SMALL)
    client = mqtt.Client.open(broker.mqtt)
    assert client.connack.properties["maximum_packet_size"] == 2048
    assert client.publish("t", bytes(1900), qos=1).reason == 0x10
    assert mqtt_end(client, mqtt.publish("t", bytes(2100), 1, 9)) == [0x95]
    assert mqtt_end(mqtt.Client.open(broker.mqtt, 4), mqtt.publish("t", bytes(2100), 1, 9, version=4)) == []
    closed(broker, "mqtt", "too_large")
    stomp_error(stomp.Client.open(broker.stomp), "SEND", {"destination": "/topic/t"}, b"x" * 2100)
    closed(broker, "stomp", "too_large")
    ws = json_client.login(WebSocket(broker.http, "json"))
    ws.send(TEXT, json.dumps({"type": "publish", "topic": "t", "data": "x" * 2100}))
    assert ws.expect_end().code == 1009
    closed(broker, "json", "too_large")


def test_topic_length(start_broker):
    broker = start_broker(limits__topic_length=16)
    good, bad = "t" * 16, "t" * 17
    client = mqtt.Client.open(broker.mqtt)
    assert client.publish(good, b"", qos=1).reason == 0x10
    assert client.publish(bad, b"", qos=1).reason == 0x90
    assert client.subscribe(good, bad).reasons == [0, 0x8F]
    old = mqtt.Client.open(broker.mqtt, 4)
    assert old.subscribe(bad).reasons == [0x80]
    assert mqtt_end(old, mqtt.publish(bad, version=4)) == []
    refused(broker, "mqtt", "topic_invalid")
    refused(broker, "mqtt", "filter_invalid", 2)
    stomp_error(stomp.Client.open(broker.stomp), "SEND", {"destination": f"/topic/{bad}"})
    stomp_error(stomp.Client.open(broker.stomp), "SUBSCRIBE", {"destination": f"/topic/{bad}", "id": "0"})
    other = json_client.Client.open(broker.http)
    assert other.connected["limits"]["topicBytes"] == 16
    json_error(other, "topicInvalid", "publish", topic=bad, data=1)
    json_error(other, "filterInvalid", "subscribe", topic=bad)
    refused(broker, "json", "topic_invalid")
    refused(broker, "json", "filter_invalid")
    other.close()


def test_topic_levels(start_broker):
    broker = start_broker(limits__topic_levels=3)
    client = mqtt.Client.open(broker.mqtt)
    assert client.publish("a/b/c", b"", qos=1).reason == 0x10
    assert client.publish("a/b/c/d", b"", qos=1).reason == 0x90
    assert client.subscribe("a/+/#", "a/b/c/#").reasons == [0, 0x8F]
    refused(broker, "mqtt", "topic_invalid")
    other = json_client.Client.open(broker.http)
    json_error(other, "topicInvalid", "publish", topic="a/b/c/d", data=1)
    other.close()


def test_client_id_length(start_broker):
    broker = start_broker(limits__client_id_length=23)
    mqtt.Client.open(broker.mqtt, client_id="x" * 23).disconnect()
    for version, reason in ((5, 0x85), (4, 2)):
        client = mqtt.Client.plain(broker.mqtt, version)
        client.login("x" * 24, expect_reason=reason)
        assert client.expect_closed() == []
    closed(broker, "mqtt", "refused")
    frames = stomp.Client.plain(broker.stomp)
    frames.send("CONNECT", {"accept-version": "1.2", "host": "h", "client-id": "x" * 24})
    frames.expect_error()
    closed(broker, "stomp", "refused")
    other = json_client.Client(broker.http)
    assert other.ask("connect", clientId="x" * 24)["code"] == "clientIdInvalid"
    refused(broker, "json", "client_id")
    other.close()


def test_filters_per_subscribe(start_broker):
    broker = start_broker(limits__filters_per_subscribe=2)
    client = mqtt.Client.open(broker.mqtt)
    assert client.subscribe("a", "b").reasons == [0, 0]
    assert client.subscribe("a", "b", "c").reasons == [0x97] * 3
    assert client.unsubscribe("a", "b", "c").reasons == [0x83] * 3
    assert mqtt.Client.open(broker.mqtt, 4).subscribe("a", "b", "c").reasons == [0x80] * 3
    refused(broker, "mqtt", "quota", 3)
    other = json_client.Client.open(broker.http)
    json_error(other, "tooLarge", "subscribe", topics=["a", "b", "c"])
    refused(broker, "json", "too_large")
    other.close()


def test_subscriptions_per_session(start_broker):
    broker = start_broker(limits__subscriptions_per_session=2)
    client = mqtt.Client.open(broker.mqtt)
    assert client.subscribe("a", "b", "c").reasons == [0, 0, 0x97]
    assert client.subscribe("a").reasons == [0], "one that is there may be renewed"
    refused(broker, "mqtt", "quota")
    frames = stomp.Client.open(broker.stomp)
    frames.subscribe("/topic/a", "1")
    frames.subscribe("/topic/b", "2")
    stomp_error(frames, "SUBSCRIBE", {"destination": "/topic/c", "id": "3"})
    closed(broker, "stomp", "quota")


def test_user_properties(start_broker):
    broker = start_broker(limits__user_properties=2)
    client = mqtt.Client.open(broker.mqtt)
    pairs = [("a", "1"), ("b", "2"), ("c", "3")]
    assert client.publish("t", b"", qos=1, props={"user": pairs[:2]}).reason == 0x10
    assert client.publish("t", b"", qos=1, props={"user": pairs}).reason == 0x97
    refused(broker, "mqtt", "quota")
    assert mqtt_end(client, mqtt.publish("t", props={"user": pairs})) == [0x97], "QoS 0 has no answer"
    stomp_error(stomp.Client.open(broker.stomp), "SEND", {"destination": "/topic/t"} | dict(pairs))
    other = json_client.Client.open(broker.http)
    assert other.connected["limits"]["headers"] == 2
    json_error(other, "tooLarge", "publish", topic="t", data=1, headers=dict(pairs))
    refused(broker, "json", "too_large")
    other.close()


def test_user_property_size(start_broker):
    broker = start_broker(limits__user_property_size="100B")
    client = mqtt.Client.open(broker.mqtt)
    assert client.publish("t", b"", qos=1, props={"user": [("a", "x" * 99)]}).reason == 0x10
    assert client.publish("t", b"", qos=1, props={"user": [("a", "x" * 100)]}).reason == 0x97
    refused(broker, "mqtt", "quota")
    stomp_error(stomp.Client.open(broker.stomp), "SEND", {"destination": "/topic/t", "a": "x" * 100})
    other = json_client.Client.open(broker.http)
    json_error(other, "tooLarge", "publish", topic="t", data=1, headers={"a": "x" * 100})
    refused(broker, "json", "too_large")
    other.close()


# --- MQTT ---------------------------------------------------------------------------------------


def test_receive_maximum_v3(start_broker):
    broker = start_broker(mqtt__receive_maximum_v3=2)
    client = mqtt.Client.open(broker.mqtt, 4)
    for number in (1, 2):
        client.send(mqtt.publish("t", b"", 2, number, version=4))
        client.expect(mqtt.PUBREC)
    assert mqtt_end(client, mqtt.publish("t", b"", 2, 3, version=4)) == []
    counted(broker, "polycast_protocol_errors_total", protocol="mqtt", cause="receive_maximum")


def test_topic_alias_maximum_of_zero_turns_aliases_off(start_broker):
    broker = start_broker(mqtt__topic_alias_maximum=0, mqtt__topic_alias_maximum_out=0)
    client = mqtt.Client.open(broker.mqtt, props={"topic_alias_maximum": 10})
    assert "topic_alias_maximum" not in client.connack.properties
    client.subscribe("t")
    for _ in range(3):
        client.publish("t", b"x")
        assert "topic_alias" not in client.message().properties
    assert mqtt_end(client, mqtt.publish("t", props={"topic_alias": 1})) == [0x94]
    counted(broker, "polycast_protocol_errors_total", protocol="mqtt")


def test_topic_alias_maximum_out(start_broker):
    broker = start_broker(mqtt__topic_alias_maximum_out=1)
    client = mqtt.Client.open(broker.mqtt, props={"topic_alias_maximum": 10})
    client.subscribe("#")
    aliases = set()
    for number in range(12):
        client.publish(f"t/{number % 3}", b"x")
        aliases.add(client.message().properties.get("topic_alias"))
    assert aliases <= {None, 1}


def test_keep_alive_max_holds_a_3_1_1_client_that_is_not_told(start_broker):
    broker = start_broker(mqtt__keep_alive_max="5s")
    client = mqtt.Client.open(broker.mqtt, 4, keep_alive=0)
    begin = time.monotonic()
    assert client.expect_closed() == []
    assert 7 < time.monotonic() - begin < 10
    closed(broker, "mqtt", "keep_alive_timeout")


def test_session_expiry_max(start_broker):
    broker = start_broker(limits__session_expiry_max="30s", mqtt__session_expiry_v3="30s")
    client = mqtt.Client.open(broker.mqtt, props={"session_expiry": 1000})
    assert client.connack.properties["session_expiry"] == 30
    other = json_client.Client.open(broker.http, session={"expiry": 1000})
    assert other.connected["session"]["expiry"] == 30
    other.close()


def test_session_expiry_v3(start_broker):
    broker = start_broker(mqtt__session_expiry_v3="0s")
    mqtt.Client.open(broker.mqtt, 4, client_id="old", clean=False).disconnect()
    again = mqtt.Client.open(broker.mqtt, 4, client_id="old", clean=False)
    assert not again.connack.session_present


def test_in_flight_of_a_client_that_names_no_bound(start_broker):
    broker = start_broker(limits__in_flight=3, mqtt__in_flight=2, limits__in_flight_max=3)
    for props, window in ((None, 2), ({"receive_maximum": 100}, 3), ({"receive_maximum": 1}, 1)):
        client = mqtt.Client.open(broker.mqtt, props=props)
        client.subscribe("t", qos=1)
        for number in range(5):
            client.publish("t", str(number), qos=1)
        client.fence()
        assert len([packet for packet in client.kept if packet.kind == mqtt.PUBLISH]) == window
        client.disconnect()
    other = json_client.Client.open(broker.http)
    assert other.connected["inFlight"] == 3
    other.close()


# --- STOMP --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "key, value, headers",
    [
        ("stomp_headers", "8", {f"h{number}": "x" for number in range(9)}),
        ("stomp_line_size", "128B", {"h": "x" * 128}),
        ("stomp_header_size", "256B", {f"h{number}": "x" * 60 for number in range(5)}),
    ],
)
def test_stomp_heads(start_broker, key, value, headers):
    settings = {f"limits__{key}": value}
    if key == "stomp_header_size":
        settings["limits__stomp_line_size"] = "128B"
    broker = start_broker(**settings)
    client = stomp.Client.open(broker.stomp)
    client.publish("/topic/t", b"small")
    client.send("SEND", {"destination": "/topic/t"} | headers)
    client.expect_error()
    counted(broker, "polycast_protocol_errors_total", protocol="stomp", cause="too_large")


def test_stomp_transactions(start_broker):
    broker = start_broker(limits__stomp_transactions=1)
    client = stomp.Client.open(broker.stomp)
    client.request("BEGIN", {"transaction": "1"})
    stomp_error(client, "BEGIN", {"transaction": "2"})
    closed(broker, "stomp", "quota")


def test_stomp_transaction_size(start_broker):
    broker = start_broker(limits__stomp_transaction_size="4KiB")
    client = stomp.Client.open(broker.stomp)
    client.request("BEGIN", {"transaction": "1"})
    client.publish("/topic/t", b"x" * 1000, transaction="1")
    stomp_error(client, "SEND", {"destination": "/topic/t", "transaction": "1"}, b"x" * 4000)
    closed(broker, "stomp", "quota")


def test_stomp_heart_beats(start_broker):
    broker = start_broker(limits__stomp_heart_beat_min="200ms", limits__stomp_heart_beat="300ms")
    client = stomp.Client.open(broker.stomp, heart_beat="10,10")
    assert client.connected["heart-beat"] == "200,300"
    frames = client.expect_closed()
    assert client.beats > 0
    assert [frame.command for frame in frames] == ["ERROR"]
    closed(broker, "stomp", "keep_alive_timeout")


# --- JSON and WebSocket -------------------------------------------------------------------------


def test_json_depth(start_broker):
    broker = start_broker(limits__json_depth=4)
    client = json_client.Client.open(broker.http)
    client.request("publish", topic="t", data=[[[1]]])
    client.send("publish", topic="t", data=[[[[1]]]])
    assert client.receive()["code"] == "tooDeep"
    refused(broker, "json", "too_deep")
    client.close()


def test_json_pings(start_broker):
    broker = start_broker(limits__json_ping_interval="1s", limits__json_pong_timeout="100ms")
    ws = json_client.login(WebSocket(broker.http, "json"))
    ws.expect_end()
    closed(broker, "json", "keep_alive_timeout")


@pytest.mark.parametrize("protocol, opcode", [("mqtt", BINARY), ("v12.stomp", TEXT), ("json", TEXT)])
def test_websocket_fragments(start_broker, protocol, opcode):
    broker = start_broker(limits__websocket_fragments=3)
    ws = WebSocket(broker.http, protocol)
    ws.raw(websocket.frame(opcode, b"", fin=False) + websocket.frame(CONTINUATION, b"", fin=False) * 3)
    assert ws.expect_end().code in (1008, 1009)
    name = protocol.split(".")[-1]
    until(lambda: broker.metric("polycast_connections_closed_total", protocol=name) == 1)
    assert broker.metric("polycast_connections_closed_total", protocol=name, reason="normal") == 0


def test_websocket_controls_per_sec(start_broker):
    broker = start_broker(limits__websocket_controls_per_sec=5)
    ws = WebSocket(broker.http, "json")
    ws.raw(websocket.frame(PING, b"x") * 20)
    assert ws.expect_end().code == 1008
    closed(broker, "json", "rate")


@pytest.mark.parametrize(
    "key, value, head",
    [
        ("http_head_size", "8KiB", "X: " + "x" * 10_000),
        ("http_headers", "8", "\r\n".join(f"H{number}: x" for number in range(10))),
    ],
)
def test_http_heads(start_broker, key, value, head):
    broker = start_broker(**{f"limits__{key}": value})
    with socket.create_connection(("127.0.0.1", broker.http)) as sock:
        sock.sendall(f"GET /healthz HTTP/1.1\r\nHost: x\r\n{head}\r\n\r\n".encode())
        assert gone_or(sock).startswith(b"HTTP/1.1 431 ")
    counted(broker, "polycast_connections_refused_total", reason="http")


# --- time ---------------------------------------------------------------------------------------


def test_login_timeout(start_broker):
    broker = start_broker(limits__login_timeout="300ms")
    begin = time.monotonic()
    silent = [mqtt.Client.plain(broker.mqtt), stomp.Client.plain(broker.stomp)]
    slow = socket.create_connection(("127.0.0.1", broker.http))
    slow.sendall(b"GET / HTTP/1.1\r\n")
    upgraded = [WebSocket(broker.http, name) for name in ("mqtt", "v12.stomp", "json")]
    assert silent[0].expect_closed() == []
    assert [frame.command for frame in silent[1].expect_closed()] in (["ERROR"], [])
    for ws in upgraded:
        assert ws.expect_end().code in (1008, 4408)
    gone_or(slow)
    assert time.monotonic() - begin < 3
    for protocol, count in (("mqtt", 2), ("stomp", 2), ("json", 1)):
        counted(broker, "polycast_connections_closed_total", count, protocol=protocol, reason="login_timeout")
    counted(broker, "polycast_connections_refused_total", reason="http")


# --- connections --------------------------------------------------------------------------------


def test_connections(start_broker):
    broker = start_broker(limits__connections=20, limits__connections_per_ip=20)
    held = [mqtt.Client.open(broker.mqtt) for _ in range(18)]
    more = [socket.create_connection(("127.0.0.1", broker.mqtt)) for _ in range(4)]
    until(lambda: len(select.select(more, [], [], 1)[0]) == 2, "two are let in and two are closed at once")
    held[0].fence()
    for sock in more:
        sock.close()

    def refusals() -> float:
        # While the places of those that left are not given back, this is refused too.
        try:
            return broker.metric("polycast_connections_refused_total", reason="connections")
        except ConnectionError:
            return 0

    assert until(refusals) >= 2


def test_connections_per_ip(start_broker):
    address = addresses.outside()
    broker = start_broker("--mqtt", "0.0.0.0:0", security__anonymous="everywhere", limits__connections_per_ip=2)
    port = broker.mqtt
    held = [socket.create_connection((address, port)) for _ in range(2)]
    for sock in held:
        sock.sendall(mqtt.connect(unique("c")))
        sock.settimeout(10)
        assert sock.recv(1)[0] >> 4 == mqtt.CONNACK
    third = socket.create_connection((address, port))
    assert gone_or(third) == b""
    counted(broker, "polycast_connections_refused_total", reason="connections_per_ip")
    for _ in range(3):
        mqtt.Client.open(port).disconnect()
    for sock in held:
        sock.close()


def test_connection_rate(start_broker):
    broker = start_broker(limits__connections_per_sec=5, limits__connection_burst=5)
    begin = time.monotonic()
    for _ in range(8):
        mqtt.Client.open(broker.mqtt).disconnect()
    assert time.monotonic() - begin > 0.4, "beyond the burst they wait, and none is lost"
    counted(broker, "polycast_connections_delayed_total")


@pytest.fixture
def address():
    """An address of this machine that counts: loopback addresses do not."""
    return addresses.outside()


OPEN = {"security__anonymous": "everywhere"}


def lets_in(address: str, port: int, client_id: str | None = None) -> bool:
    """Whether a login from an address succeeds; not if the connection ends before the answer."""
    with socket.create_connection((address, port), timeout=10) as sock:
        try:
            sock.sendall(mqtt.connect(client_id or unique("c")))
            head = sock.recv(4)
        except ConnectionError:
            return False
    return bool(head) and head[0] >> 4 == mqtt.CONNACK and head[3] == 0


def test_connection_rate_of_an_address(start_broker, address):
    broker = start_broker(
        "--mqtt", "0.0.0.0:0", **OPEN, limits__connections_per_ip_per_sec=1, limits__connection_burst_per_ip=3
    )
    assert [lets_in(address, broker.mqtt) for _ in range(3)] == [True] * 3
    assert not lets_in(address, broker.mqtt)
    counted(broker, "polycast_connections_refused_total", reason="connections_per_ip_per_sec")
    mqtt.Client.open(broker.mqtt).disconnect()
    until(lambda: lets_in(address, broker.mqtt), "a second later one more may come")


def test_connections_per_user(start_broker):
    broker = start_broker(limits__connections_per_user=2)
    first = mqtt.Client.open(broker.mqtt, client_id="a", username="u")
    frames = stomp.Client.open(broker.stomp, login="u")
    for version, reason in ((5, 0x97), (4, 3)):
        client = mqtt.Client.plain(broker.mqtt, version)
        client.login(username="u", expect_reason=reason)
        assert client.expect_closed() == []
    third = stomp.Client.plain(broker.stomp)
    third.send("CONNECT", {"accept-version": "1.2", "host": "h", "login": "u"})
    third.expect_error()
    third.close()
    counted(broker, "polycast_login_refused_total", 3, reason="quota")
    mqtt.Client.open(broker.mqtt, username="other").disconnect()
    again = mqtt.Client.open(broker.mqtt, client_id="a", username="u")
    assert [packet.reason for packet in first.expect_closed()] == [0x8E], "who takes over needs no second place"
    frames.close()
    until(lambda: _enters(broker, "u"), "a place that is free may be taken")
    again.fence()


def _enters(broker, user: str) -> bool:
    client = mqtt.Client.plain(broker.mqtt)
    client.send(mqtt.connect(unique("c"), username=user))
    return client.receive().reason == 0


def test_will_size(start_broker):
    broker = start_broker(limits__will_size="1KiB")
    mqtt.Client.open(broker.mqtt, will=mqtt.Will("t", b"x" * 900)).disconnect()
    client = mqtt.Client.plain(broker.mqtt)
    client.login(will=mqtt.Will("t", b"x" * 1100), expect_reason=0x95)
    assert client.expect_closed() == []
    old = mqtt.Client.plain(broker.mqtt, 4)
    old.send(mqtt.connect("x", 4, will=mqtt.Will("t", b"x" * 1100)))
    assert old.expect_closed() == [], "3.1.1 has no word for it"
    counted(broker, "polycast_login_refused_total", 2, reason="too_large")


# --- rates --------------------------------------------------------------------------------------


def test_a_client_that_publishes_too_fast_is_slowed_down(start_broker):
    broker = start_broker(limits__messages_per_sec=50, limits__message_burst=10, limits__rate_patience="0s")
    other, fast = mqtt.Client.open(broker.mqtt), mqtt.Client.open(broker.mqtt)
    other.subscribe("t")
    begin = time.monotonic()
    for number in range(100):
        fast.publish("t", str(number))
        if number % 10 == 9:
            fast.fence()
    other.messages(100)
    assert time.monotonic() - begin > 1.5, "90 of them at 50 a second"
    counted(broker, "polycast_rate_limited_total", limit="messages")
    other.fence()


def test_a_client_that_sends_too_much_is_slowed_down(start_broker):
    broker = start_broker(limits__receive_rate="100KiB", limits__receive_burst="10KiB", limits__rate_patience="0s")
    fast = mqtt.Client.open(broker.mqtt)
    begin = time.monotonic()
    for _ in range(20):
        fast.publish("t", bytes(10_000), qos=1)
    assert time.monotonic() - begin > 1.5, "190 kB at 100 KiB a second"
    counted(broker, "polycast_rate_limited_total", limit="bytes")


def test_a_client_that_goes_on_too_fast_is_closed(start_broker):
    broker = start_broker(limits__messages_per_sec=5, limits__message_burst=5, limits__rate_patience="500ms")
    client = mqtt.Client.open(broker.mqtt)
    assert mqtt_end(client, mqtt.publish("t") * 100) == [0x96]
    assert mqtt_end(mqtt.Client.open(broker.mqtt, 4), mqtt.publish("t", version=4) * 100) == []
    closed(broker, "mqtt", "rate")
    frames = stomp.Client.open(broker.stomp)
    for _ in range(100):
        frames.send("SEND", {"destination": "/topic/t"})
    frames.expect_error()
    closed(broker, "stomp", "rate")
    other = json_client.Client.open(broker.http)
    for _ in range(100):
        other.send("publish", topic="t", data=1)
    rest, code = other.expect_closed()
    assert code == 1008 and rest[-1]["reason"] == "rateExceeded", rest
    closed(broker, "json", "rate")


# --- bans and flapping --------------------------------------------------------------------------


def test_banned_clients_and_users(start_broker):
    broker = start_broker(protection__banned_clients="bad,worse", protection__banned_users="mallory")
    for version, reason in ((5, 0x8A), (4, 5)):
        for options in ({"client_id": "bad"}, {"client_id": "worse"}, {"username": "mallory"}):
            client = mqtt.Client.plain(broker.mqtt, version)
            client.login(expect_reason=reason, **options)
            assert client.expect_closed() == []
    frames = stomp.Client.plain(broker.stomp)
    frames.send("CONNECT", {"accept-version": "1.2", "host": "h", "login": "mallory"})
    frames.expect_error()
    other = json_client.Client(broker.http)
    assert other.ask("connect", clientId="bad")["type"] == "error"
    other.close()
    counted(broker, "polycast_login_refused_total", 8, reason="banned")
    mqtt.Client.open(broker.mqtt, client_id="good").disconnect()
    until(lambda: broker.metric("polycast_bans") == 3)


def test_a_ban_closes_who_is_there(start_broker, tmp_path):
    config = tmp_path / "polycast.toml"
    config.write_text("")
    broker = start_broker("--config", str(config))
    witness = mqtt.Client.open(broker.mqtt)
    witness.subscribe("gone")
    bad = mqtt.Client.open(broker.mqtt, client_id="bad", will=mqtt.Will("gone", b"bad"))
    frames = stomp.Client.open(broker.stomp, login="mallory")
    config.write_text("[protection]\nbanned_clients = ['bad']\nbanned_users = ['mallory']\n")
    broker.signal(signal.SIGHUP)
    assert [packet.reason for packet in bad.expect_closed()] == [0x98]
    frames.expect_error()
    assert witness.message().payload == b"bad"
    closed(broker, "mqtt", "administrative")
    closed(broker, "stomp", "administrative")


def test_banned_addresses_change_with_sighup(start_broker, address, tmp_path):
    config = tmp_path / "polycast.toml"
    config.write_text("")
    broker = start_broker("--config", str(config), "--mqtt", "0.0.0.0:0", **OPEN)
    assert lets_in(address, broker.mqtt)
    network = address.rsplit(".", 1)[0] + ".0/24"
    config.write_text(f"[protection]\nbanned_addresses = ['{network}']\n")
    broker.signal(signal.SIGHUP)
    until(lambda: not lets_in(address, broker.mqtt), "the network is banned")
    counted(broker, "polycast_connections_refused_total", reason="banned")
    mqtt.Client.open(broker.mqtt).disconnect()
    config.write_text("")
    broker.signal(signal.SIGHUP)
    until(lambda: lets_in(address, broker.mqtt), "and is not")


def test_a_client_that_flaps_is_banned_for_a_time(start_broker):
    broker = start_broker(
        protection__flapping_connects=3, protection__flapping_window="60s", protection__flapping_ban="1s"
    )
    for _ in range(2):
        mqtt.Client.open(broker.mqtt, client_id="flap").disconnect()
    client = mqtt.Client.plain(broker.mqtt)
    client.login("flap", expect_reason=0x8A)
    mqtt.Client.open(broker.mqtt, client_id="calm").disconnect()
    until(lambda: broker.metric("polycast_banned_total", reason="flapping") == 1)
    assert "banned: connects too often" in broker.log_text()
    until(lambda: lets_in("127.0.0.1", broker.mqtt, "flap"), "the ban ends")


def test_an_address_that_flaps_is_banned_for_a_time(start_broker, address):
    broker = start_broker(
        "--mqtt", "0.0.0.0:0", **OPEN, protection__flapping_connects=3, protection__flapping_ban="2s"
    )
    assert [lets_in(address, broker.mqtt) for _ in range(4)] == [True, True, False, False]
    counted(broker, "polycast_connections_refused_total", 2, reason="banned")
    until(lambda: lets_in(address, broker.mqtt), "the ban ends")


def test_half_open_percent(start_broker):
    broker = start_broker(limits__connections=100, limits__connections_per_ip=100, limits__half_open_percent=16)
    silent = [mqtt.Client.plain(broker.mqtt) for _ in range(17)]
    ended, _, _ = select.select([client.stream for client in silent], [], [], 5)
    assert len(ended) == 1, "the oldest goes, long before its time"
    rest = [client for client in silent if client.stream not in ended]
    rest[0].login()
    closed(broker, "mqtt", "login_timeout")


# --- queues and outboxes ------------------------------------------------------------------------


def away(broker, topic: str) -> str:
    """A client with a subscription at QoS 1 that is not there."""
    client = mqtt.Client.open(broker.mqtt, client_id=unique("away"), props={"session_expiry": 60})
    client.subscribe(topic, qos=1)
    client.disconnect()
    return client.client_id


def back(broker, client_id: str, topic: str, count: int | None = None) -> list[bytes]:
    """What it gets when it comes back: so many messages and no more, or whatever there is."""
    client = mqtt.Client.open(broker.mqtt, client_id=client_id, clean=False)
    bodies = [message.payload for message in client.messages(count or 0)]
    client.publish(topic, b"end", qos=1 if count is None else 0)
    while (body := client.message().payload) != b"end":
        bodies.append(body)
    return bodies


def test_session_queue_messages(start_broker):
    broker = start_broker(limits__session_queue_messages=3, store__persistence="none")
    client_id, sender = away(broker, "t"), mqtt.Client.open(broker.mqtt)
    for number in range(5):
        sender.publish("t", str(number), qos=1)
    assert back(broker, client_id, "t", 3) == [b"0", b"1", b"2"]
    assert broker.metric("polycast_messages_dropped_total", reason="queue_full") == 2


def test_session_queue_size(start_broker):
    broker = start_broker(
        limits__session_queue_size="4KiB", limits__packet_size="4KiB", store__persistence="none", **SMALL
    )
    client_id, sender = away(broker, "t"), mqtt.Client.open(broker.mqtt)
    for _ in range(5):
        sender.publish("t", bytes(1000), qos=1)
    assert len(back(broker, client_id, "t", 3)) == 3
    assert broker.metric("polycast_messages_dropped_total", reason="queue_full") >= 1


def test_stored_queue_messages(start_broker):
    broker = start_broker(limits__stored_queue_messages=3)
    client_id, sender = away(broker, "t"), mqtt.Client.open(broker.mqtt)
    for number in range(5):
        sender.publish("t", str(number), qos=1)
    assert back(broker, client_id, "t", 3) == [b"0", b"1", b"2"]
    assert broker.metric("polycast_messages_dropped_total", reason="queue_full") == 2
    for number in range(3):
        sender.publish("$queue/q", str(number), qos=1)
    assert sender.publish("$queue/q", b"3", qos=1).reason == 0x97
    refused(broker, "mqtt", "quota")


def test_full_queue_drops(start_broker):
    broker = start_broker(limits__stored_queue_messages=3, limits__full_queue_drops="oldest")
    client_id, sender = away(broker, "t"), mqtt.Client.open(broker.mqtt)
    for number in range(5):
        sender.publish("t", str(number), qos=1)
    assert back(broker, client_id, "t", 3) == [b"2", b"3", b"4"]
    assert broker.metric("polycast_messages_dropped_total", reason="queue_full") == 2


def test_stored_queue_size(start_broker):
    broker = start_broker(
        limits__stored_queue_size="4KiB", limits__packet_size="4KiB", limits__group_queue_size="4KiB", **SMALL
    )
    client_id, sender = away(broker, "t"), mqtt.Client.open(broker.mqtt)
    for _ in range(5):
        sender.publish("t", bytes(1000), qos=1)
    assert len(back(broker, client_id, "t", 3)) == 3
    assert broker.metric("polycast_messages_dropped_total", reason="queue_full") >= 1


def test_stored_queue_memory(start_broker):
    """Whatever is in memory, all of it comes, in order."""
    broker = start_broker(limits__stored_queue_memory="1KiB")
    client_id, sender = away(broker, "t"), mqtt.Client.open(broker.mqtt)
    for number in range(100):
        sender.publish("t", number.to_bytes(2) + bytes(500), qos=1)
    assert [int.from_bytes(body[:2]) for body in back(broker, client_id, "t", 100)] == list(range(100))


@pytest.mark.parametrize(("most", "borrowed"), [("128KiB", 64 * 1024), ("0", 0)])
def test_stored_queues_memory(start_broker, most, borrowed):
    """A client that is there and slow borrows half of what there is to borrow, and gives it back."""
    broker = start_broker(limits__stored_queue_memory="1KiB", limits__stored_queues_memory=most)
    props = {"session_expiry": 60, "receive_maximum": 1}
    reader, sender = mqtt.Client.open(broker.mqtt, props=props), mqtt.Client.open(broker.mqtt)
    reader.subscribe("t", qos=1)
    for number in range(200):
        sender.publish("t", number.to_bytes(2) + bytes(500), qos=1)
    assert broker.metric("polycast_stored_queues_memory_bytes") == borrowed
    bodies = [message.payload for message in reader.messages(200)]
    assert [int.from_bytes(body[:2]) for body in bodies] == list(range(200))
    until(lambda: broker.metric("polycast_stored_queues_memory_bytes") == 0, "all is given back")


def test_store_size(start_broker):
    broker = start_broker(limits__store_size="4MiB", store__segment_size="256KiB")
    client_id, sender = away(broker, "t"), mqtt.Client.open(broker.mqtt)
    taken = 0
    while (reason := sender.publish("t", bytes(50_000), qos=1).reason) == 0:
        taken += 1
        assert taken < 200, "the bound does not hold"
    assert reason == 0x97 and taken > 20
    refused(broker, "mqtt", "quota")
    assert len(back(broker, client_id, "t", taken)) == taken
    until(lambda: sender.publish("t", b"x", qos=1).reason < 0x80, "there is room again")


def test_store_free_min(start_broker):
    broker = start_broker(limits__store_free_min="1000GiB")
    client_id, sender = away(broker, "t"), mqtt.Client.open(broker.mqtt)
    assert sender.publish("t", b"x", qos=1).reason == 0x97
    assert sender.publish("elsewhere", b"x", qos=1).reason == 0x10
    assert back(broker, client_id, "t", 0) == []


def fill(broker, topic: str, size: int = 100_000, count: int = 200) -> None:
    sender = mqtt.Client.open(broker.mqtt)
    for _ in range(count):
        sender.publish(topic, bytes(size))
    sender.fence()
    sender.disconnect()


def stuck(broker, topic: str, qos: int = 0, **options) -> mqtt.Client:
    """A subscriber that reads nothing from here on."""
    client = mqtt.Client.plain(broker.mqtt)
    client.stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.login(**options)
    client.subscribe(topic, qos=qos)
    return client


def test_outbox_soft_size(start_broker):
    broker = start_broker(limits__outbox_soft_size="200KiB", limits__publisher_pause="0s")
    slow = stuck(broker, "t")
    fill(broker, "t")
    counted(broker, "polycast_messages_dropped_total", reason="slow_consumer")
    assert broker.metric("polycast_connections", protocol="mqtt") >= 1
    slow.close()


def test_slow_consumer_timeout(start_broker):
    broker = start_broker(limits__slow_consumer_timeout="300ms", limits__publisher_pause="0s")
    slow = stuck(broker, "t")
    fill(broker, "t")
    closed(broker, "mqtt", "slow_consumer")
    slow.close()


def test_publisher_pause(start_broker):
    broker = start_broker(limits__publisher_pause="100ms", limits__outbox_soft_size="200KiB")
    slow = stuck(broker, "t")
    fill(broker, "t")
    counted(broker, "polycast_publisher_pauses_total")
    slow.close()
    off = start_broker(limits__publisher_pause="0s", limits__outbox_soft_size="200KiB")
    slow = stuck(off, "t")
    fill(off, "t")
    assert off.metric("polycast_publisher_pauses_total") == 0
    slow.close()


# --- what is shared -----------------------------------------------------------------------------


def test_retained_messages(start_broker):
    broker = start_broker(limits__retained_messages=2)
    client = mqtt.Client.open(broker.mqtt)
    assert client.publish("a", b"1", qos=1, retain=True).reason == 0x10
    assert client.publish("b", b"1", qos=1, retain=True).reason == 0x10
    assert client.publish("c", b"1", qos=1, retain=True).reason == 0x97
    assert client.publish("a", b"2", qos=1, retain=True).reason == 0x10, "one that is there may be replaced"
    refused(broker, "mqtt", "quota")
    client.publish("c", b"1", qos=0, retain=True)
    refused(broker, "mqtt", "quota", 2)
    assert broker.metric("polycast_retained_messages") == 2
    stomp_error(stomp.Client.open(broker.stomp), "SEND", {"destination": "/topic/c", "retain": "true"}, b"x")
    other = json_client.Client.open(broker.http)
    json_error(other, "quotaExceeded", "publish", topic="c", data=1, retain=True)
    refused(broker, "json", "quota")
    other.close()


def test_retained_size(start_broker):
    broker = start_broker(limits__retained_size="2KiB")
    client = mqtt.Client.open(broker.mqtt)
    assert client.publish("a", bytes(1000), qos=1, retain=True).reason == 0x10
    assert client.publish("b", bytes(2000), qos=1, retain=True).reason == 0x97
    refused(broker, "mqtt", "quota")
    assert 1000 < broker.metric("polycast_retained_bytes") <= 2048


PASSWORDS = {"auth__methods": "password", "access__unmatched": "allow"}


@pytest.fixture
def start_again(tmp_path):
    """Starts a broker whose users prove who they are; each further one has the data of the one before."""
    started = []

    def start(**settings):
        if started:
            started[-1].stop()
        started.append(with_users(tmp_path, "ann", "bob", **settings))
        return started[-1]

    yield start
    for broker in started:
        broker.stop()


def with_users(tmp_path, *users: str, **settings):
    file = tmp_path / "passwords"
    if not file.exists():
        for user in users:
            command = [process.polycast(), "passwd", str(file), user]
            subprocess.run(command, input="secret\n", text=True, check=True, capture_output=True)
    return process.start(tmp_path, auth__password_file=str(file), **PASSWORDS, **settings)


def lasting(client_id: str, version: int = 5, **more) -> bytes:
    """A CONNECT that asks for a session which outlives the connection."""
    if version == 5:
        more.setdefault("props", {"session_expiry": 600})
    return mqtt.connect(client_id, version, clean=False, password="secret", **more)


def answered(broker, packet: bytes, version: int = 5) -> int:
    """The reason of the CONNACK; whoever is let in leaves without ending its session."""
    client = mqtt.Client.plain(broker.mqtt, version)
    client.send(packet)
    reason = client.expect(mqtt.CONNACK).reason
    if reason == 0:
        client.disconnect()
    else:
        assert client.expect_closed() == []
    return reason


def test_sessions_per_user(start_again):
    """In each protocol, and again after a restart: what waits on the disk counts for its user."""

    def start():
        return start_again(limits__sessions_per_user=2)

    def is_full(broker, counted_before):
        assert answered(broker, lasting("c3", username="ann")) == 0x97
        assert answered(broker, lasting("c3", 4, username="ann"), 4) == 3
        third = json_client.Client(broker.http)
        error = third.ask("connect", clientId="c3", username="ann", password="secret", session={"expiry": 60})
        assert (error["type"], error["code"]) == ("error", "quotaExceeded"), error
        third.close()
        frames = stomp.Client.plain(broker.stomp)
        headers = {"accept-version": "1.2", "host": "h", "login": "ann", "passcode": "secret", "client-id": "c3"}
        frames.send("CONNECT", headers)
        assert "quota" in frames.expect_error()["message"].lower()
        frames.close()
        counted(broker, "polycast_quota_refused_total", counted_before + 4, limit="sessions_per_user")
        counted(broker, "polycast_login_refused_total", counted_before + 4, reason="quota")

    broker = start()
    assert answered(broker, lasting("c1", username="ann")) == 0
    assert answered(broker, lasting("c2", 4, username="ann"), 4) == 0
    is_full(broker, 0)
    # Sessions that end with their connection, those of others, and who comes back.
    mqtt.Client.open(broker.mqtt, username="ann", password="secret").disconnect()
    assert answered(broker, lasting("c4", username="bob")) == 0
    assert answered(broker, lasting("c1", username="ann")) == 0
    broker = start()
    is_full(broker, 0)
    assert answered(broker, lasting("c5", username="bob")) == 0
    # A session that is given up makes place.
    ended = mqtt.connect("c1", clean=True, username="ann", password="secret")
    assert answered(broker, ended) == 0
    until(lambda: answered(broker, lasting("c3", username="ann")) == 0, "a place is free")


def test_retained_messages_per_user(start_again):
    def start():
        return start_again(limits__retained_messages_per_user=2, api__keys=f"ops publish sha256:{KEY}")

    broker = start()
    ann = mqtt.Client.open(broker.mqtt, username="ann", password="secret")
    assert [ann.publish(topic, b"1", qos=1, retain=True).reason for topic in "abc"] == [0x10, 0x10, 0x97]
    assert ann.publish("a", b"2", qos=1, retain=True).reason == 0x10, "one that is there may be replaced"
    counted(broker, "polycast_quota_refused_total", limit="retained_messages_per_user")
    refused(broker, "mqtt", "quota")
    # All connections of a user, whatever they speak.
    frames = stomp.Client.open(broker.stomp, login="ann", passcode="secret")
    stomp_error(frames, "SEND", {"destination": "/topic/c", "retain": "true"}, b"x")
    web = json_client.Client.open(broker.http, username="ann", password="secret")
    json_error(web, "quotaExceeded", "publish", topic="c", data=1, retain=True)
    web.close()
    url, kept = broker.http_url("/api/v1/publish"), {"topic": "c", "data": 1, "retain": True}
    basic = httpx.post(url, auth=("ann", "secret"), json=kept)
    assert (basic.status_code, basic.json()["code"]) == (507, "quotaExceeded"), basic.text
    old = mqtt.Client.open(broker.mqtt, version=4, username="ann", password="secret")
    old.send(mqtt.publish("c", b"x", 1, 1, retain=True, version=4))
    assert old.expect_closed() == [], "3.1.1 has no word for it"
    counted(broker, "polycast_quota_refused_total", 5, limit="retained_messages_per_user")
    # Neither other users nor keys are concerned.
    bob = mqtt.Client.open(broker.mqtt, username="bob", password="secret")
    assert bob.publish("c", b"1", qos=1, retain=True).reason == 0x10
    key = httpx.post(url, headers={"x-api-key": "key"}, json=kept | {"topic": "d"})
    assert key.status_code in (200, 202), key.text
    broker = start()
    ann = mqtt.Client.open(broker.mqtt, username="ann", password="secret")
    bob = mqtt.Client.open(broker.mqtt, username="bob", password="secret")
    assert ann.publish("e", b"1", qos=1, retain=True).reason == 0x97
    assert [bob.publish(topic, b"1", qos=1, retain=True).reason for topic in "ef"] == [0x10, 0x97]
    # What anybody removes makes place for whose it was.
    assert bob.publish("a", b"", qos=1, retain=True).reason in (0, 0x10)
    assert ann.publish("g", b"1", qos=1, retain=True).reason == 0x10


def test_retained_size_per_user(start_again):
    def start():
        return start_again(limits__retained_size_per_user="4KiB")

    broker = start()
    ann = mqtt.Client.open(broker.mqtt, username="ann", password="secret")
    assert ann.publish("a", bytes(3000), qos=1, retain=True).reason == 0x10
    assert ann.publish("b", bytes(2000), qos=1, retain=True).reason == 0x97
    counted(broker, "polycast_quota_refused_total", limit="retained_size_per_user")
    broker = start()
    ann = mqtt.Client.open(broker.mqtt, username="ann", password="secret")
    bob = mqtt.Client.open(broker.mqtt, username="bob", password="secret")
    assert ann.publish("b", bytes(2000), qos=1, retain=True).reason == 0x97
    assert bob.publish("b", bytes(2000), qos=1, retain=True).reason == 0x10
    assert ann.publish("a", b"1", qos=1, retain=True).reason == 0x10
    assert ann.publish("c", bytes(2000), qos=1, retain=True).reason == 0x10


def test_group_queue_messages(start_broker):
    broker = start_broker(limits__group_queue_messages=2, store__persistence="none")
    client = stomp.Client.open(broker.stomp)
    client.publish("/queue/q", b"1")
    client.publish("/queue/q", b"2")
    stomp_error(client, "SEND", {"destination": "/queue/q"}, b"3")
    assert broker.metric("polycast_messages_dropped_total", reason="queue_full") == 1
    assert mqtt.Client.open(broker.mqtt).publish("$queue/q", b"3", qos=1).reason == 0x97
    refused(broker, "mqtt", "quota")
    other = json_client.Client.open(broker.http)
    json_error(other, "quotaExceeded", "publish", topic="$queue/q", data=3, qos=1)
    refused(broker, "json", "quota")
    other.close()


def test_group_queue_size(start_broker):
    broker = start_broker(
        limits__group_queue_size="4KiB", limits__packet_size="4KiB", store__persistence="none", **SMALL
    )
    client = mqtt.Client.open(broker.mqtt)
    reasons = [client.publish("$queue/q", bytes(1000), qos=1).reason for _ in range(5)]
    assert reasons[0] == 0 and reasons[-1] == 0x97
    refused(broker, "mqtt", "quota")


def test_group_queues_size(start_broker):
    """Each queue is within its own bound, together they are not."""
    broker = start_broker(
        limits__group_queue_size="4KiB", limits__group_queues_size="4KiB", limits__packet_size="4KiB", **SMALL
    )
    client = mqtt.Client.open(broker.mqtt)
    reasons = [client.publish(f"$queue/{number}", bytes(1000), qos=1).reason for number in range(5)]
    assert reasons[0] == 0 and reasons[-1] == 0x97
    refused(broker, "mqtt", "quota")


def test_groups(start_broker):
    broker = start_broker(limits__groups=2)
    client = mqtt.Client.open(broker.mqtt)
    assert client.subscribe("$share/a/t", "$share/b/t", "$share/c/t").reasons == [0, 0, 0x97]
    assert client.publish("$queue/q", b"", qos=1).reason == 0x97
    refused(broker, "mqtt", "quota", 2)
    assert broker.metric("polycast_groups") == 2
    client.unsubscribe("$share/a/t")
    assert client.publish("$queue/q", b"x", qos=1).reason == 0


def test_sessions(start_broker):
    broker = start_broker(limits__sessions=4, limits__connections=4, limits__connections_per_ip=4)
    kept = [away(broker, "t") for _ in range(4)]
    for version, reason in ((5, 0x97), (4, 3)):
        client = mqtt.Client.plain(broker.mqtt, version)
        client.login(expect_reason=reason)
        assert client.expect_closed() == []
        client.close()
    mqtt.Client.open(broker.mqtt, client_id=kept[0], clean=False, props={"session_expiry": 60}).disconnect()
    frames = stomp.Client.plain(broker.stomp)
    frames.send("CONNECT", {"accept-version": "1.2", "host": "h"})
    frames.expect_error()
    frames.close()
    other = json_client.Client(broker.http)
    assert other.ask("connect")["code"] == "quotaExceeded"
    other.close()
    counted(broker, "polycast_login_refused_total", 4, reason="quota")
    assert broker.metric("polycast_sessions") == 4


def test_idempotency_keys(start_broker):
    broker = start_broker(limits__idempotency_keys=2)
    client = json_client.Client.open(broker.http)
    client.request("subscribe", topic="t")
    for key in ("a", "a", "b", "c", "a"):
        client.request("publish", topic="t", data=key, idempotencyKey=key)
    assert [frame["data"] for frame in client.messages(4)] == ["a", "b", "c", "a"], "the oldest was forgotten"
    assert broker.metric("polycast_idempotency_keys") == 2
    client.close()


def test_idempotency_window(start_broker):
    broker = start_broker(limits__idempotency_window="200ms")
    client = json_client.Client.open(broker.http)
    client.request("subscribe", topic="t")
    client.request("publish", topic="t", data=0, idempotencyKey="k")

    def forgotten():
        client.request("publish", topic="t", data=1, idempotencyKey="k")
        client.request("publish", topic="t", data="fence")
        seen = [client.message()["data"]]
        while seen[-1] != "fence":
            seen.append(client.message()["data"])
        return 1 in seen

    until(forgotten)
    client.close()


def test_route_cache_topics(start_broker):
    broker = start_broker(limits__route_cache_topics=10)
    client = mqtt.Client.open(broker.mqtt)
    client.subscribe("t/#")
    for number in range(300):
        client.publish(f"t/{number}", str(number))
    assert [packet.payload for packet in client.messages(300)] == [b"%d" % number for number in range(300)]
    assert broker.metric("polycast_route_cache_topics") <= 64


# --- all of them --------------------------------------------------------------------------------

ELSEWHERE = {
    "memory": "test_system.py",
    "memory_high": "test_system.py",
    "memory_max": "test_system.py",
    "receive_maximum": "test_mqtt_connect.py",
    "maximum_qos": "test_mqtt_subscribe.py",
    "retain_available": "test_mqtt_subscribe.py",
    "drain_grace": "test_lifecycle.py",
    "outbox_hard_size": "the connection's own tests",
    "listen_backlog": "a number for the kernel",
    "listen": "test_lifecycle.py",
    "tls_listen": "test_tls.py",
    "unauthenticated_size": "test_slow_senders.py",
    "bans": "the guard's own tests",
    "tracked": "the guard's own tests",
    "memory": "test_system.py",
    "memory_high": "test_system.py",
    "memory_max": "test_system.py",
    "banned_addresses": "test_banned_addresses_change_with_sighup",
    "failed_logins": "the guard's own tests",
    "failed_login_window": "the guard's own tests",
    "failed_login_ban": "the guard's own tests",
}


def keys(section: str) -> list[str]:
    return re.findall(rf"^### `{section}\.(\w+)`$", DOCS.read_text(), re.MULTILINE)


@pytest.mark.parametrize("section", ["mqtt", "limits", "protection"])
def test_every_limit_has_a_test(section):
    text = pathlib.Path(__file__).read_text()
    for key in keys(section):
        used = f"{section}__{key}=" in text or f'("{key}", ' in text
        assert used != (key in ELSEWHERE), f"{section}.{key} has no test here, or two places"


# --- changed while it runs ----------------------------------------------------------------------


def test_live_limits_change_with_sighup(start_broker, tmp_path):
    config = tmp_path / "polycast.toml"
    config.write_text("")
    broker = start_broker("--config", str(config))
    before = mqtt.Client.open(broker.mqtt)
    config.write_text(
        "[mqtt]\nmaximum_qos = 1\nkeep_alive_max = '30s'\n"
        "[limits]\ntopic_levels = 2\nsubscriptions_per_session = 1\ngroups = 1\nretained_messages = 1\n"
    )
    broker.signal(signal.SIGHUP)
    until(lambda: "not reloaded: limits.retained_messages" in broker.log_text(), "the log says so")
    after = mqtt.Client.open(broker.mqtt)
    assert after.connack.properties["maximum_qos"] == 1
    assert after.connack.properties["server_keep_alive"] == 30
    assert after.subscribe("a/b/c").reasons == [0x8F]
    assert after.subscribe("$share/g/t", "b").reasons == [0, 0x97]
    assert before.publish("a/b/c", b"", qos=2).reason == 0x10, "what is there goes on as it was"
    assert after.publish("$queue/q", b"", qos=1).reason == 0x97, "there is one group already"
