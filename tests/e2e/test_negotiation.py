"""Which protocol a WebSocket speaks: the client's list decides."""

import json
import socket

import pytest

from support import mqtt, stomp, websocket
from support.websocket import TEXT, WebSocket

NAMES = ["mqtt", "v12.stomp", "v11.stomp", "v10.stomp", "stomp", "polycast.json.v1", "json"]


@pytest.mark.parametrize("name", NAMES)
def test_every_supported_token_is_echoed(broker, name):
    answer = websocket.handshake(broker.http, [name])
    assert (answer.status, answer.headers["sec-websocket-protocol"]) == (101, name)


@pytest.mark.parametrize(
    "offered, chosen",
    [
        (["v12.stomp, mqtt"], "v12.stomp"),
        (["mqtt, v12.stomp"], "mqtt"),
        (["json, mqtt, v12.stomp"], "json"),
        (["unknown, v11.stomp, mqtt"], "v11.stomp"),
        (["graphql-ws, wamp.2.json, mqtt"], "mqtt"),
        (["mqttv3.1, mqtt"], "mqtt"),
        (["  v12.stomp  ,\tmqtt "], "v12.stomp"),
        (["v12.stomp,mqtt"], "v12.stomp"),
        ([",, mqtt ,"], "mqtt"),
        (["unknown", "mqtt"], "mqtt"),
        (["v12.stomp", "mqtt"], "v12.stomp"),
        (["unknown, other", "nothing", "json, mqtt"], "json"),
        (["mqtt, mqtt"], "mqtt"),
    ],
)
def test_first_supported_of_the_clients_list_wins(broker, offered, chosen):
    answer = websocket.handshake(broker.http, offered)
    assert (answer.status, answer.headers["sec-websocket-protocol"]) == (101, chosen)


@pytest.mark.parametrize("offered", [["unknown"], ["a, b", "c"], ["MQTT"], ["mqtt5"], ["v13.stomp"]])
def test_nothing_supported_is_400_with_the_list(broker, offered):
    answer = websocket.handshake(broker.http, offered)
    assert answer.status == 400
    text = answer.body.decode()
    assert all(name in text for name in ("mqtt", "v12.stomp", "polycast.json.v1")), text
    assert "sec-websocket-protocol" not in answer.headers


def test_mqttv3_1_is_refused_with_a_clear_body(broker):
    answer = websocket.handshake(broker.http, ["mqttv3.1"])
    assert answer.status == 400 and b"mqttv3.1" in answer.body


def test_none_offered_is_json(broker):
    ws = WebSocket(broker.http)
    assert "sec-websocket-protocol" not in ws.handshake.headers
    ws.send(TEXT, json.dumps({"type": "nonsense"}))
    opcode, payload = ws.read_message()
    assert opcode == TEXT and json.loads(payload)["type"]
    ws.close()


def test_none_offered_but_named_by_the_path(broker):
    """What clients that know no subprotocols do, such as stomp.py."""
    over_ws = mqtt.Client(WebSocket(broker.http, path="/mqtt"))
    assert over_ws.login().reason == 0
    over_ws.close()
    frames = stomp.Client(WebSocket(broker.http, path="/stomp", opcode=TEXT))
    assert frames.login()["version"] == "1.2"
    frames.close()


@pytest.mark.parametrize("path", ["/", "/mqtt", "/stomp", "/ws", "/any/path?with=query"])
def test_any_path_will_do(broker, path):
    assert websocket.handshake(broker.http, ["mqtt"], path).status == 101


def test_the_path_does_not_choose(broker):
    answer = websocket.handshake(broker.http, ["v12.stomp"], "/mqtt")
    assert answer.headers["sec-websocket-protocol"] == "v12.stomp"


def test_the_chosen_protocol_is_spoken(broker):
    over_ws = mqtt.Client(WebSocket(broker.http, "mqtt"))
    assert over_ws.login().reason == 0
    over_ws.close()
    for version, token in (("1.0", "v10.stomp"), ("1.1", "v11.stomp"), ("1.2", "v12.stomp")):
        frames = stomp.Client(WebSocket(broker.http, token, opcode=TEXT), version)
        assert frames.login().headers.get("version", "1.0") == version
        frames.close()


@pytest.mark.parametrize(
    "change, status",
    [
        ((b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Version: 12"), 426),
        ((b"Upgrade: websocket\r\n", b""), 426),
        ((b"GET ", b"POST "), None),
    ],
)
def test_what_is_no_websocket_handshake_is_refused(broker, change, status):
    raw = websocket.request(broker.http, ["mqtt"]).replace(*change)
    with socket.create_connection(("127.0.0.1", broker.http)) as sock:
        sock.settimeout(10)
        answer, _ = websocket.exchange(sock, raw)
    assert answer.status in ((status,) if status else (400, 404, 405, 426))


def test_mqtt_in_text_frames_is_refused(broker):
    ws = WebSocket(broker.http, "mqtt")
    ws.send(TEXT, mqtt.connect("x", 4))
    assert ws.expect_end().code == 1003


def test_mqtt_in_text_frames_is_refused_after_login(broker):
    ws = WebSocket(broker.http, "mqtt")
    client = mqtt.Client(ws)
    client.login()
    ws.send(TEXT, mqtt.packet(mqtt.PINGREQ, 0, b""))
    assert ws.expect_end().code == 1003


def test_json_in_binary_frames_is_refused(broker):
    ws = WebSocket(broker.http, "json")
    ws.send(websocket.BINARY, b'{"type":"ping"}')
    assert ws.expect_end().code == 1003


@pytest.mark.parametrize("opcode", [TEXT, websocket.BINARY])
def test_stomp_is_taken_in_text_and_binary_frames(broker, opcode):
    client = stomp.Client(WebSocket(broker.http, "v12.stomp", opcode=opcode))
    assert client.login()["version"] == "1.2"
    client.close()


def test_stomp_bodies_that_are_not_text_come_in_binary_frames(broker):
    ws = WebSocket(broker.http, "v12.stomp", opcode=websocket.BINARY)
    client = stomp.Client(ws)
    client.login()
    topic = "/topic/negotiation/binary"
    client.subscribe(topic)
    for body, opcode in ((b"\xff\x00\xfe", websocket.BINARY), ("text ü".encode(), TEXT)):
        client.publish(topic, body, content_length=len(body))
        assert client.message().body == body
        # The last messages are the RECEIPT and the MESSAGE, in either order.
        assert (websocket.BINARY in ws.opcodes[-2:]) == (opcode == websocket.BINARY)
    client.close()


def test_ping_is_answered_at_any_time(broker):
    ws = WebSocket(broker.http, "mqtt")
    ws.send(websocket.PING, b"before login")
    assert ws.read_message() == (websocket.PONG, b"before login")
    ws.close()


@pytest.mark.parametrize("name", ["mqtt", "v12.stomp", "json"])
def test_close_is_answered_with_the_same_code(broker, name):
    ws = WebSocket(broker.http, name)
    ws.send(websocket.CLOSE, websocket.close_body(1001, "going"))
    assert ws.expect_end().code in (1000, 1001)


def test_cross_origin_browsers_are_refused(broker):
    evil = websocket.handshake(broker.http, ["mqtt"], extra=["Origin: https://evil.example"])
    assert evil.status == 403
    same = websocket.handshake(broker.http, ["mqtt"], extra=[f"Origin: http://127.0.0.1:{broker.http}"])
    assert same.status == 101
