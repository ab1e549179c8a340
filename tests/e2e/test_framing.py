"""Bytes may come in any portions: frames split and joined at every byte, on every transport."""

import json
import socket

import pytest

from support import json_client, mqtt, stomp, websocket
from support.waiting import unique
from support.websocket import TEXT, WebSocket

standard = pytest.mark.standard


def _mqtt_script(topic: str) -> bytes:
    """A whole session in one piece; one message comes back at each of QoS 0, 1 and 2."""
    return b"".join(
        [
            mqtt.connect(unique("split")),
            mqtt.subscribe(1, [(topic, 0)]),
            mqtt.publish(topic, b"a"),
            mqtt.publish(topic, b"b", 1, 2),
            mqtt.publish(topic, b"c", 2, 3),
            mqtt.acknowledge(mqtt.PUBREL, 3),
            mqtt.packet(mqtt.PINGREQ, 0, b""),
        ]
    )


def _check_mqtt(client: mqtt.Client) -> None:
    """PINGRESP may overtake what waits for the broker; everything else comes in order."""
    packets = [client.receive() for _ in range(9)]
    bodies = [packet.payload for packet in packets if packet.kind == mqtt.PUBLISH]
    assert bodies == [b"a", b"b", b"c"]
    answers = [(packet.kind, packet.packet_id) for packet in packets if packet.kind != mqtt.PUBLISH]
    answers.remove((mqtt.PINGRESP, None))
    expected = [(mqtt.CONNACK, None), (mqtt.SUBACK, 1), (mqtt.PUBACK, 2), (mqtt.PUBREC, 3), (mqtt.PUBCOMP, 3)]
    assert answers == expected
    client.close()


def _mqtt_length() -> int:
    return len(_mqtt_script(unique("split")))


@standard
def test_mqtt_joined_in_one_write(broker):
    client = mqtt.Client.plain(broker.mqtt)
    client.send(_mqtt_script(unique("joined")))
    _check_mqtt(client)


@standard
def test_mqtt_byte_by_byte(broker):
    client = mqtt.Client.plain(broker.mqtt)
    _no_delay(client.stream)
    for byte in _mqtt_script(unique("bytes")):
        client.send(bytes([byte]))
    _check_mqtt(client)


@standard
def test_mqtt_split_at_every_byte(broker):
    for cut in range(1, _mqtt_length()):
        client = mqtt.Client.plain(broker.mqtt)
        _no_delay(client.stream)
        script = _mqtt_script(unique("cut"))
        client.send(script[:cut])
        client.send(script[cut:])
        _check_mqtt(client)


def test_mqtt_over_websocket_split_at_every_byte_between_messages(broker):
    for cut in range(1, _mqtt_length(), 3):
        client = mqtt.Client(WebSocket(broker.http, "mqtt"))
        script = _mqtt_script(unique("cut"))
        client.send(script[:cut])
        client.send(script[cut:])
        _check_mqtt(client)


def test_mqtt_over_websocket_in_fragments_with_pings_between(broker):
    ws = WebSocket(broker.http, "mqtt")
    client = mqtt.Client(ws)
    script = _mqtt_script(unique("fragments"))
    pieces = [script[at : at + 7] for at in range(0, len(script), 7)]
    for number, piece in enumerate(pieces):
        opcode = websocket.CONTINUATION if number else websocket.BINARY
        ws.send(opcode, piece, fin=number == len(pieces) - 1)
        if number % 5 == 0:
            ws.send(websocket.PONG, b"unasked")
    _check_mqtt(client)


def test_mqtt_over_websocket_handshake_and_first_packets_in_one_write(broker):
    early = websocket.frame(websocket.BINARY, _mqtt_script(unique("early")))
    _check_mqtt(mqtt.Client(WebSocket(broker.http, "mqtt", early=early)))


def _stomp_script(topic: str) -> bytes:
    return b"".join(
        [
            stomp.encode("CONNECT", {"accept-version": "1.2", "host": "x"}),
            b"\n\r\n",
            stomp.encode("SUBSCRIBE", {"id": "0", "destination": topic}),
            stomp.encode("SEND", {"destination": topic, "a:b": "c\\d"}, "text"),
            stomp.encode("SEND", {"destination": topic, "content-length": "3"}, b"\0x\0"),
            b"\n\n",
            stomp.encode("SEND", {"destination": topic, "receipt": "end"}),
        ]
    )


def _check_stomp(client: stomp.Client) -> None:
    client.expect("CONNECTED")
    client.await_command("RECEIPT")
    assert [client.message().body for _ in range(3)] == [b"text", b"\0x\0", b""]
    client.close()


def test_stomp_joined_in_one_write(broker):
    client = stomp.Client.plain(broker.stomp)
    client.stream.sendall(_stomp_script(f"/topic/{unique('joined')}"))
    _check_stomp(client)


def test_stomp_byte_by_byte(broker):
    client = stomp.Client.plain(broker.stomp)
    _no_delay(client.stream)
    for byte in _stomp_script(f"/topic/{unique('bytes')}"):
        client.stream.sendall(bytes([byte]))
    _check_stomp(client)


def test_stomp_split_at_every_byte(broker):
    for cut in range(1, len(_stomp_script(f"/topic/{unique('cut')}"))):
        client = stomp.Client.plain(broker.stomp)
        _no_delay(client.stream)
        script = _stomp_script(f"/topic/{unique('cut')}")
        client.stream.sendall(script[:cut])
        client.stream.sendall(script[cut:])
        _check_stomp(client)


@pytest.mark.parametrize("size", [1, 10, 100])
def test_stomp_over_websocket_in_messages_of_any_size(broker, size):
    client = stomp.Client(WebSocket(broker.http, "v12.stomp"))
    script = _stomp_script(f"/topic/{unique('pieces')}")
    for at in range(0, len(script), size):
        client.stream.sendall(script[at : at + size])
    _check_stomp(client)


def test_json_over_websocket_in_frames_split_at_every_byte(broker):
    text = json.dumps({"type": "ping", "id": "ü1"}, ensure_ascii=False).encode()
    ws = WebSocket(broker.http, "json")
    json_client.login(ws)
    for cut in range(len(text) + 1):
        ws.send(TEXT, text[:cut], fin=False)
        ws.send(websocket.CONTINUATION, text[cut:])
        assert json.loads(ws.read_message()[1])["type"] == "pong"
    ws.close()


def test_websocket_bytes_split_at_every_byte(broker):
    ws = WebSocket(broker.http, "json")
    json_client.login(ws)
    length = len(websocket.frame(TEXT, b'{"type":"ping"}'))
    for cut in range(1, length):
        raw = websocket.frame(TEXT, b'{"type":"ping"}')
        ws.raw(raw[:cut])
        ws.raw(raw[cut:])
        assert json.loads(ws.read_message()[1])["type"] == "pong"
    ws.close()


def _no_delay(sock) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
