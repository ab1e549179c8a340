"""Hostile bytes: the protocol's own error, the connection closed, everyone else undisturbed.

The numbers S1 to S19 are the project's catalogue of attacks on parsers and protocol state; S20, about
HTTP, is in test_http.py.
"""

import json
import socket
import struct
import time
import zlib

import pytest

from support import json_client, mqtt, stomp, websocket
from support.waiting import unique, until
from support.websocket import BINARY, TEXT, WebSocket

standard = pytest.mark.standard
HUGE = b"\xff\xff\xff\x7f"


@pytest.fixture(autouse=True)
def others_are_undisturbed(broker):
    """A client that was there before is served at the usual speed afterwards."""
    witness, topic = mqtt.Client.open(broker.mqtt), unique("witness")
    witness.subscribe(topic, qos=1)
    yield
    begin = time.monotonic()
    witness.publish(topic, b"still here", qos=1)
    assert witness.message().payload == b"still here"
    assert time.monotonic() - begin < 1
    witness.disconnect()


def before_login(broker, raw: bytes) -> list[mqtt.Packet]:
    client = mqtt.Client.plain(broker.mqtt)
    try:
        client.send(raw)
    except ConnectionError:
        return []
    return client.expect_closed()


def after_login(broker, raw: bytes, version=5) -> list[int]:
    """The reason codes of what comes back before the end."""
    client = mqtt.Client.open(broker.mqtt, version)
    try:
        client.send(raw)
    except ConnectionError:
        return []
    return [packet.reason for packet in client.expect_closed()]


# --- MQTT ---------------------------------------------------------------------------------------


@standard
@pytest.mark.parametrize(
    "raw",
    [
        b"\xc0\x00",
        b"\x30\x03\x00\x01t",
        mqtt.subscribe(1, [("#", 0)]),
        b"\xe0\x00",
        b"\x62\x02\x00\x01",
        b"\xf0\x00",
        b"\x00\x00",
    ],
    ids=["ping", "publish", "subscribe", "disconnect", "pubrel", "auth", "zero"],
)
def test_s1_mqtt_packets_before_connect_are_closed_without_an_answer(broker, raw):
    assert before_login(broker, raw) == []


@standard
@pytest.mark.parametrize("first", [0x30, 0x82, 0xC0, 0x20, 0x00])
def test_s2_a_first_packet_that_is_no_connect_is_closed_on_its_header(broker, first):
    assert before_login(broker, bytes([first]) + HUGE) == []


def test_s2_a_connect_over_64_kib_is_closed_on_its_header(broker):
    packets = before_login(broker, b"\x10" + HUGE)
    assert all(packet.kind == mqtt.CONNACK and packet.reason == 0x95 for packet in packets)


@standard
def test_s3_remaining_length_of_five_bytes_before_connect(broker):
    assert before_login(broker, b"\x10\xff\xff\xff\xff\x7f") == []


@standard
def test_s3_remaining_length_of_five_bytes_after_connect(broker):
    assert after_login(broker, b"\x30\xff\xff\xff\xff\x7f") in ([0x81], [])


def test_s3_remaining_length_of_five_bytes_is_malformed(broker):
    assert after_login(broker, b"\x30\xff\xff\xff\xff\x7f") == [0x81]


def test_s3_property_length_of_five_bytes_is_malformed(broker):
    assert after_login(broker, mqtt.packet(3, 0, b"\x00\x01t\xff\xff\xff\xff\x7f")) == [0x81]


@pytest.mark.parametrize(
    "raw",
    [
        mqtt.packet(3, 0, b"\xff\xfft"),
        mqtt.packet(3, 0, b"\x00\x01t\x7f"),
        mqtt.packet(8, 2, b"\x00\x01\x00\xff\xfft\x00"),
        mqtt.packet(10, 2, b"\x00\x01\x00\xff\xfft"),
        mqtt.packet(3, 0, b"\x00\x01t\x04\x26\xff\xffx"),
        mqtt.packet(14, 0, b"\x00\x05\x11"),
    ],
    ids=["topic", "properties", "filter", "unsubscribe", "user-property", "disconnect"],
)
def test_s4_lengths_beyond_the_packet_are_malformed(broker, raw):
    assert after_login(broker, raw) == [0x81]


@standard
def test_s4_client_identifier_beyond_the_packet(broker):
    raw = mqtt.packet(1, 0, b"\x00\x04MQTT\x04\x02\x00\x3c\xff\xffx")
    assert all(packet.kind == mqtt.CONNACK and packet.reason for packet in before_login(broker, raw))


CUT = {
    "publish-without-identifier": mqtt.packet(3, 2, b"\x00\x01t"),
    "publish-identifier-of-one-byte": mqtt.packet(3, 2, b"\x00\x01t\x00"),
    "publish-without-properties": mqtt.packet(3, 2, b"\x00\x01t\x00\x01"),
    "subscribe-without-option": mqtt.packet(8, 2, b"\x00\x01\x00\x00\x01t"),
    "subscribe-without-filter": mqtt.packet(8, 2, b"\x00\x01\x00"),
    "subscribe-empty": mqtt.packet(8, 2, b""),
    "unsubscribe-without-filter": mqtt.packet(10, 2, b"\x00\x01\x00"),
    "puback-of-one-byte": mqtt.packet(4, 0, b"\x00"),
    "pubrel-empty": mqtt.packet(6, 2, b""),
    "publish-empty": mqtt.packet(3, 0, b""),
}


@pytest.mark.parametrize("raw", CUT.values(), ids=CUT)
def test_s5_packets_that_end_early_are_malformed(broker, raw):
    assert after_login(broker, raw) in ([0x81], [0x82])


OLD_CUT = {
    "publish-without-identifier": mqtt.packet(3, 2, b"\x00\x01t"),
    "publish-identifier-of-one-byte": mqtt.packet(3, 2, b"\x00\x01t\x00"),
    "subscribe-without-option": mqtt.packet(8, 2, b"\x00\x01\x00\x01t"),
    "subscribe-without-filter": mqtt.packet(8, 2, b"\x00\x01"),
    "unsubscribe-without-filter": mqtt.packet(10, 2, b"\x00\x01"),
    "puback-of-one-byte": mqtt.packet(4, 0, b"\x00"),
    "pubrel-empty": mqtt.packet(6, 2, b""),
    "publish-empty": mqtt.packet(3, 0, b""),
}


@standard
@pytest.mark.parametrize("raw", OLD_CUT.values(), ids=OLD_CUT)
def test_s5_packets_that_end_early_close_a_3_1_1_connection(broker, raw):
    assert after_login(broker, raw, 4) == []


def test_s5_connect_truncated_at_every_byte(broker):
    whole = mqtt.connect("truncated", will=mqtt.Will("t", b"x"), username="u", password="p")
    for end in range(2, len(whole)):
        short = bytes([whole[0], end - 2]) + whole[2:end]
        packets = before_login(broker, short)
        assert all(packet.kind == mqtt.CONNACK and packet.reason >= 0x80 for packet in packets), short.hex()


@standard
def test_s6_empty_topic_in_3_1_1(broker):
    assert after_login(broker, b"\x30\x02\x00\x00", 4) == []


def test_s6_empty_topic_without_an_alias(broker):
    assert after_login(broker, b"\x30\x03\x00\x00\x00") in ([0x82], [0x90])


@pytest.mark.parametrize("raw", [b"\x20\x02\x00\x00", b"\x90\x04\x00\x01\x00\x00", b"\xb0\x04\x00\x01\x00\x00", b"\xd0\x00"])
def test_s7_packets_of_a_server_are_a_protocol_error(broker, raw):
    assert after_login(broker, raw) == [0x82]
    assert after_login(broker, raw, 4) == []


@pytest.mark.parametrize("levels", [33, 65_535])
def test_s8_filters_with_very_many_levels_are_refused(broker, levels):
    client = mqtt.Client.open(broker.mqtt)
    client.send(mqtt.subscribe(1, [("/" * (levels - 1), 0)]))
    assert client.receive().reason in (0x80, 0x8F, 0x97)
    client.close()


def test_s8_topics_with_very_many_levels_are_refused(broker):
    client = mqtt.Client.open(broker.mqtt)
    client.send(mqtt.publish("/" * 65_535, b"", 1, 1))
    assert client.receive().reason in (0x90, 0x97, 0x95, 0x83)
    client.close()


def test_s9_ten_thousand_user_properties_in_connect_are_refused(broker):
    raw = mqtt.connect("x", props={"user": [("a", "b")] * 9_000})
    packets = before_login(broker, raw)
    assert all(packet.reason in (0x95, 0x97) for packet in packets) and len(packets) <= 1


def test_s9_ten_thousand_user_properties_in_publish_are_refused(broker):
    client = mqtt.Client.open(broker.mqtt)
    client.send(mqtt.publish("t", b"", 1, 1, props={"user": [("a", "b")] * 10_000}))
    assert client.receive().reason in (0x95, 0x97)
    client.close()


def test_s9_a_property_twice_is_a_protocol_error(broker):
    assert after_login(broker, mqtt.packet(3, 0, b"\x00\x01t\x04\x01\x00\x01\x00")) == [0x82]


def test_s9_an_unknown_property_is_malformed(broker):
    assert after_login(broker, mqtt.packet(3, 0, b"\x00\x01t\x02\x7f\x00")) == [0x81]


def test_s9_a_property_of_another_packet_is_refused(broker):
    assert after_login(broker, mqtt.packet(3, 0, b"\x00\x01t\x03\x21\x00\x05")) in ([0x81], [0x82])


def test_s10_a_will_with_bad_properties_is_refused_again_and_again(broker):
    will = mqtt.Will("t", b"x" * 10_000, properties={"topic_alias": 1})
    for _ in range(200):
        packets = before_login(broker, mqtt.connect("x", will=will))
        assert all(packet.kind == mqtt.CONNACK and packet.reason >= 0x80 for packet in packets)


def test_s11_the_same_qos_2_publish_very_often_is_one_message(broker):
    client, topic = mqtt.Client.open(broker.mqtt), unique("s11")
    client.subscribe(topic)
    for _ in range(20):
        client.send(mqtt.publish(topic, b"one", 2, 7, dup=True) * 100)
        for _ in range(100):
            assert client.await_kind(mqtt.PUBREC).packet_id == 7
    assert [packet.payload for packet in client.kept] == [b"one"]
    client.disconnect()


def test_s11_every_identifier_open_at_once_is_answered_with_0x93(broker):
    raw = b"".join(mqtt.publish("t", b"", 2, number) for number in range(1, 65_536))
    assert after_login(broker, raw)[-1] == 0x93


def test_s12_sys_and_control_topics_are_refused(broker):
    client = mqtt.Client.open(broker.mqtt)
    for topic in ("$SYS/broker/uptime", "$SYS/x", "$SYS"):
        assert client.publish(topic, b"", qos=1).reason in (0x87, 0x90)
    client.disconnect()


def test_s12_a_will_to_sys_does_no_harm(broker):
    client = mqtt.Client.plain(broker.mqtt)
    client.send(mqtt.connect("x", will=mqtt.Will("$SYS/x", b"x")))
    answer = client.receive()
    assert answer.kind == mqtt.CONNACK
    client.close()


@standard
@pytest.mark.parametrize(
    "topic", [b"a\x00b", b"\xed\xa0\x80", b"\xff", b"\xc0\xaf", b"a/+/b", b"#"], ids=lambda raw: raw.hex()
)
def test_topic_names_that_are_not_good_text_are_refused(broker, topic):
    raw = mqtt.packet(3, 0, mqtt.data(topic) + b"\x00")
    assert set(after_login(broker, raw)) <= {0x81, 0x82, 0x90}


@pytest.mark.parametrize("first", [0x32 | 0x06, 0x80, 0x60, 0x81, 0xC1, 0xE1, 0xA0])
def test_reserved_bits_are_malformed(broker, first):
    body = {8: b"\x00\x01\x00\x00\x01t\x00", 6: b"\x00\x01", 10: b"\x00\x01\x00\x00\x01t"}.get(first >> 4, b"")
    assert set(after_login(broker, bytes([first, len(body)]) + body)) <= {0x81}


def test_hostile_bytes_are_counted(broker):
    def count():
        return broker.metric("polycast_connections_closed_total", protocol="mqtt", reason="malformed")

    before = count()
    after_login(broker, b"\x30\xff\xff\xff\xff\x7f")
    until(lambda: count() > before)


# --- WebSocket ----------------------------------------------------------------------------------

WS_FAULTS = {
    "length-top-bit": (websocket.frame(BINARY, b"", length=b"\xff" * 8), (1002, 1009)),
    "length-2^62": (websocket.frame(BINARY, b"", length=struct.pack(">Q", 2**62)), (1009,)),
    "unmasked": (websocket.frame(BINARY, b"x", masked=False), (1002,)),
    "rsv1": (websocket.frame(BINARY, b"x", rsv=4), (1002,)),
    "rsv2": (websocket.frame(BINARY, b"x", rsv=2), (1002,)),
    "opcode-3": (websocket.frame(3, b"x"), (1002,)),
    "opcode-11": (websocket.frame(11, b"x"), (1002,)),
    "fragmented-ping": (websocket.frame(websocket.PING, b"x", fin=False), (1002,)),
    "ping-of-126": (websocket.frame(websocket.PING, b"x" * 126), (1002,)),
    "continuation-of-nothing": (websocket.frame(websocket.CONTINUATION, b"x"), (1002,)),
    "close-of-one-byte": (websocket.frame(websocket.CLOSE, b"x"), (1002,)),
    "close-code-999": (websocket.frame(websocket.CLOSE, websocket.close_body(999)), (1002,)),
    "close-code-1005": (websocket.frame(websocket.CLOSE, websocket.close_body(1005)), (1002,)),
    "close-reason-not-utf8": (websocket.frame(websocket.CLOSE, b"\x03\xe8\xff"), (1002, 1007)),
}


@pytest.mark.parametrize("raw, codes", WS_FAULTS.values(), ids=WS_FAULTS)
@pytest.mark.parametrize("protocol", ["mqtt", "v12.stomp", "json"])
def test_s13_websocket_faults_are_closed_with_their_code_within_a_second(broker, protocol, raw, codes):
    ws = WebSocket(broker.http, protocol)
    ws.raw(raw)
    begin = time.monotonic()
    assert ws.expect_end().code in codes
    assert time.monotonic() - begin < 1


@pytest.mark.parametrize("protocol, opcode, start", [("mqtt", BINARY, b"\x10"), ("v12.stomp", TEXT, b"C"), ("json", TEXT, b"{")])
def test_s13_a_new_message_within_another_is_closed_with_1002(broker, protocol, opcode, start):
    ws = WebSocket(broker.http, protocol)
    ws.raw(websocket.frame(opcode, start, fin=False) + websocket.frame(opcode, start))
    assert ws.expect_end().code == 1002


@pytest.mark.parametrize(
    "protocol, opcode, raw",
    [("mqtt", BINARY, b"\xc0\x00"), ("v12.stomp", TEXT, b"SEND\ndestination:/topic/t\n\n\0")],
)
def test_faults_of_the_protocol_within_a_websocket_end_with_a_close_frame(broker, protocol, opcode, raw):
    ws = WebSocket(broker.http, protocol)
    ws.send(opcode, raw)
    assert ws.expect_end().code in (1002, 1008)


def test_s13_very_many_fragments_are_closed(broker):
    ws = WebSocket(broker.http, "json")
    ws.raw(websocket.frame(TEXT, b"{", fin=False) + websocket.frame(websocket.CONTINUATION, b"", fin=False) * 5000)
    assert ws.expect_end().code in (1008, 1009)


def test_s13_text_that_is_not_utf8_is_closed_with_1007(broker):
    ws = WebSocket(broker.http, "json")
    ws.send(TEXT, b'{"type":"\xff"}')
    assert ws.expect_end().code == 1007


@pytest.mark.parametrize(
    "extra, statuses",
    [
        (["Big: " + "a" * 10_000_000], (431,)),
        ([f"H{number}: x" for number in range(2000)], (431,)),
        (["Sec-WebSocket-Protocol: \xff\xfe"], (400,)),
        (["Sec-WebSocket-Extensions: b" + " " * 8000 + "x"], (101, 400, 431)),
    ],
    ids=["10MB-header", "2000-headers", "not-ascii-protocol", "8000-spaces"],
)
def test_s14_hostile_upgrades_are_refused(broker, extra, statuses):
    begin = time.monotonic()
    try:
        answer = websocket.handshake(broker.http, extra=extra)
        assert answer.status in statuses
    except (websocket.Ended, ConnectionError):
        assert len("".join(extra)) > 10_000, "an answer may only be lost if much was left unread"
    assert time.monotonic() - begin < 5


def test_s15_a_deflate_bomb_before_login_is_not_inflated(broker):
    offer = ["Sec-WebSocket-Extensions: permessage-deflate"]
    answer = websocket.handshake(broker.http, ["mqtt"], extra=offer)
    assert answer.status == 101 and "sec-websocket-extensions" not in answer.headers, "off by default"
    ws = WebSocket(broker.http, "mqtt")
    packer = zlib.compressobj(wbits=-15)
    bomb = packer.compress(bytes(50_000_000)) + packer.flush(zlib.Z_SYNC_FLUSH)
    ws.raw(websocket.frame(BINARY, bomb[:-4], rsv=4))
    assert ws.expect_end().code == 1002


def test_s15_a_deflate_bomb_where_it_is_allowed_is_bounded(start_broker):
    broker = start_broker(websocket__permessage_deflate=True)
    ws = WebSocket.__new__(WebSocket)
    ws.sock = socket.create_connection(("127.0.0.1", broker.http))
    ws.sock.settimeout(10)
    offer = ["Sec-WebSocket-Extensions: permessage-deflate"]
    ws.handshake, ws.input = websocket.exchange(ws.sock, websocket.request(broker.http, ["mqtt"], extra=offer))
    assert "permessage-deflate" in ws.handshake.headers["sec-websocket-extensions"]
    packer = zlib.compressobj(wbits=-15)
    bomb = packer.compress(bytes(50_000_000)) + packer.flush(zlib.Z_SYNC_FLUSH)
    ws.raw(websocket.frame(BINARY, bomb[:-4], rsv=4))
    assert ws.expect_end().code == 1009


# --- STOMP --------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["SEND", "SUBSCRIBE", "ACK", "BEGIN", "NONSENSE", "DISCONNECT"])
def test_s1_stomp_frames_before_connect_are_an_error(broker, command):
    raw = stomp.Client.plain(broker.stomp)
    raw.send(command, {"destination": "/topic/t", "id": "0", "transaction": "t"})
    raw.expect_error()


def stomp_before_login(broker, raw: bytes) -> list[stomp.Frame]:
    client = stomp.Client.plain(broker.stomp)
    try:
        client.stream.sendall(raw)
    except ConnectionError:
        pass
    return client.expect_closed()


@pytest.mark.parametrize(
    "raw",
    [
        b"CONNECT\naccept-version:1.2\nhost:x\nbig:" + b"a" * 1_000_000,
        b"A" * 1_000_000,
        b"CONNECT\n" + b"a:b\n" * 10_000,
        b"CONNECT\naccept-version:1.2\nhost:x\ncontent-length:10000000000\n\n",
        b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00" + b"\n" * 10,
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
    ids=["endless-header", "endless-command", "10k-headers", "content-length-10GB", "mqtt", "http"],
)
def test_s16_stomp_bounds_before_login(broker, raw):
    frames = stomp_before_login(broker, raw)
    assert [frame.command for frame in frames] in (["ERROR"], []) and (frames or len(raw) > 65_536)


@pytest.mark.parametrize("length", ["-1", "abc", str(2**64 + 1), "10000000000", "1.5"])
def test_s16_stomp_content_lengths_that_cannot_be(broker, length):
    client = stomp.Client.open(broker.stomp)
    client.send("SEND", {"destination": "/topic/t", "content-length": length}, "hello")
    client.expect_error()


def test_s16_stomp_content_length_shorter_than_the_body(broker):
    client = stomp.Client.open(broker.stomp)
    client.send("SEND", {"destination": "/topic/t", "content-length": "3"}, "hello")
    client.expect_error()


def test_s16_stomp_body_without_an_end(broker):
    client = stomp.Client.open(broker.stomp)
    try:
        client.stream.sendall(b"SEND\ndestination:/topic/t\n\n" + b"x" * 4_000_000)
    except ConnectionError:
        pass
    frames = client.expect_closed()
    assert all(frame.command == "ERROR" for frame in frames)


def test_s17_header_injection_comes_out_escaped(broker):
    client, topic = stomp.Client.open(broker.stomp), f"/topic/{unique('s17')}"
    client.subscribe(topic)
    client.stream.sendall(f"SEND\ndestination:{topic}\nx:a\\nevil\\c1\n\n\0".encode())
    message = client.message()
    assert message["x"] == "a\nevil:1" and "evil" not in message.headers
    client.close()


@pytest.mark.parametrize("escape", ["\\t", "\\x", "\\"])
def test_s17_undefined_escapes_are_an_error(broker, escape):
    client = stomp.Client.open(broker.stomp)
    client.stream.sendall(f"SEND\ndestination:/topic/t\nx:{escape}\n\n\0".encode())
    client.expect_error()


def test_s17_carriage_return_escape_is_undefined_in_1_1(broker):
    client = stomp.Client.open(broker.stomp, "1.1")
    client.stream.sendall(b"SEND\ndestination:/topic/t\nx:\\r\n\n\0")
    client.expect_error()


# --- across protocols ---------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["1.0", "1.1", "1.2"])
def test_s17_s18_mqtt_topics_and_properties_cannot_forge_stomp_headers(broker, version):
    name = unique("s18")
    receiver = stomp.Client.open(broker.stomp, version)
    receiver.subscribe(f"/topic/{name}/#")
    sender = mqtt.Client.open(broker.mqtt)
    evil = "x\nevil:1\n\nbody"
    sender.publish(f"{name}/{evil}", b"payload", qos=1, props={"user": [("k\nevil", evil), ("k", evil)]})
    message = receiver.message()
    assert "evil" not in message.headers and message.body == b"payload"
    if version != "1.0":
        assert message["destination"] == f"/topic/{name}/{evil}" and message["k"] == evil


def test_s18_controls_in_names_do_not_break_logs_and_metrics(broker):
    name = "evil\n{\"level\":\"forged\"}\x1b[31m" + unique("s18")
    client = mqtt.Client.open(broker.mqtt, client_id=name)
    client.publish("s18/\x1b[31m\"} 1", b"", qos=1)
    client.disconnect()
    assert broker.fetch("/metrics")[0] == 200
    assert "\x1b[31m" not in broker.log_text()
    for line in broker.log_text().splitlines():
        assert not line.startswith('{"level":"forged"}')


# --- JSON ---------------------------------------------------------------------------------------

JSON_FAULTS = {
    "depth": "[" * 100_000,
    "depth-object": '{"type":"publish","topic":"t","data":' + "[" * 5000 + "]" * 5000 + "}",
    "no-object": "[]",
    "no-json": "hello",
    "empty": "",
    "half": '{"type":"ping"',
    "two": '{"type":"ping"}{"type":"ping"}',
    "no-type": "{}",
    "type-no-text": '{"type":7}',
    "unknown-type": '{"type":"nonsense"}',
    "lone-surrogate": '{"type":"publish","topic":"\\ud800","data":1}',
    "huge-number": '{"type":"publish","topic":"t","qos":1e400}',
    "nul-topic": '{"type":"publish","topic":"\\u0000","data":1}',
}


@pytest.mark.parametrize("text", JSON_FAULTS.values(), ids=JSON_FAULTS)
def test_s19_json_faults_are_answered_or_closed(broker, text):
    """An error frame, or 1007 for what is no JSON; never silence."""
    ws = json_client.login(WebSocket(broker.http, "json"))
    ws.send(TEXT, text)
    try:
        frame = json.loads(ws.read_message()[1])
        assert frame["type"] == "error" and frame["message"] and frame["code"]
    except websocket.Ended as end:
        assert end.code in (1002, 1007, 1008, 1009)


def test_s19_a_json_text_of_ten_megabytes_is_closed_with_1009(broker):
    ws = json_client.login(WebSocket(broker.http, "json"))
    try:
        ws.send(TEXT, '{"type":"publish","topic":"t","data":"' + "x" * 10_000_000 + '"}')
    except ConnectionError:
        return
    assert ws.expect_end().code in (1009, None)


def test_s19_an_unknown_type_is_named(broker):
    ws = json_client.login(WebSocket(broker.http, "json"))
    ws.send(TEXT, '{"type":"nonsense","id":"5"}')
    frame = json.loads(ws.read_message()[1])
    assert frame["type"] == "error" and "nonsense" in json.dumps(frame)


# --- all of them ----------------------------------------------------------------------------------


@pytest.mark.parametrize("line", [b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n", b"PROXY TCP4 " + b"1" * 10_000,
                                  b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + bytes(12)])
def test_s24_a_proxy_header_from_a_stranger_is_nothing_but_wrong_bytes(broker, line):
    login = {"mqtt": mqtt.connect("x"), "stomp": stomp.encode("CONNECT", {"accept-version": "1.2", "host": "h"}),
             "http": b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"}
    for name, sends in login.items():
        with socket.create_connection(("127.0.0.1", getattr(broker, name)), timeout=10) as sock:
            answer = b""
            try:
                sock.sendall(line + sends)
                while more := sock.recv(65536):
                    answer += more
            except ConnectionError:
                pass
        assert not answer.startswith((b"\x20", b"CONNECTED", b"HTTP/1.1 200")), (name, answer)
    assert "192.0.2.1" not in broker.log_text()
