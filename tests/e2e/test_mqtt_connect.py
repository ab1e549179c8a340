"""MQTT: logging in, sessions, keep alive, what CONNACK announces, and being told to leave."""

import time

import pytest

from support import mqtt
from support.waiting import unique

standard = pytest.mark.standard


@standard
@pytest.mark.parametrize("version", [4, 5])
def test_client_is_let_in(client, version):
    connack = client(version).connack
    assert (connack.reason, connack.session_present) == (0, False)


@standard
def test_assigned_client_identifier(client):
    first, second = client(client_id=""), client(client_id="")
    names = {one.connack.properties["assigned_client_id"] for one in (first, second)}
    assert len(names) == 2 and all(names)


@standard
def test_assigned_client_identifier_in_3_1_1_is_not_told(client):
    assert client(4, client_id="").connack.reason == 0


@standard
def test_no_client_identifier_for_a_lasting_3_1_1_session_is_refused(broker):
    raw = mqtt.Client.plain(broker.mqtt, 4)
    raw.login(client_id="", clean=False, expect_reason=2)
    assert raw.expect_closed() == []


def test_connack_announces_every_limit(start_broker):
    broker = start_broker(
        mqtt__receive_maximum=7,
        mqtt__topic_alias_maximum=3,
        limits__packet_size=70_000,
        mqtt__keep_alive_max="30s",
        mqtt__maximum_qos=1,
        limits__session_expiry_max="100s",
        mqtt__session_expiry_v3="100s",
        mqtt__retain_available=False,
    )
    client = mqtt.Client.open(broker.mqtt, keep_alive=60, props={"session_expiry": 1000})
    told = client.connack.properties
    assert told["receive_maximum"] == 7
    assert told["topic_alias_maximum"] == 3
    assert told["maximum_packet_size"] == 70_000
    assert told["server_keep_alive"] == 30
    assert told["maximum_qos"] == 1
    assert told["session_expiry"] == 100
    assert told["retain_available"] == 0
    client.close()


def test_server_keep_alive_bounds_a_client_that_wants_none(client):
    assert client(keep_alive=0).connack.properties["server_keep_alive"] == 1200


@pytest.mark.parametrize("keep_alive", [0, 5])
def test_server_keep_alive_is_not_sent_without_need(start_broker, keep_alive):
    broker = start_broker(mqtt__keep_alive_max="5s")
    told = mqtt.Client.open(broker.mqtt, keep_alive=keep_alive).connack.properties
    assert told.get("server_keep_alive") == (5 if keep_alive == 0 else None)


@pytest.mark.parametrize("version", [4, 5])
def test_keep_alive_is_one_and_a_half_times_long(broker, version):
    quiet = mqtt.Client.open(broker.mqtt, version, keep_alive=1)
    begin = time.monotonic()
    last = quiet.expect_closed()
    took = time.monotonic() - begin
    assert 1.4 <= took < 4
    assert [packet.reason for packet in last] == ([0x8D] if version == 5 else [])


@standard
def test_keep_alive_is_kept_by_pings(broker):
    client = mqtt.Client.open(broker.mqtt, keep_alive=1)
    end = time.monotonic() + 2.5
    while time.monotonic() < end:
        client.ping()
        time.sleep(0.5)
    client.disconnect()


@standard
@pytest.mark.parametrize("version", [4, 5])
def test_session_goes_on_and_says_so(broker, version):
    name, topic = unique("lasting"), unique("t")
    lasting = {"clean": False, "props": {"session_expiry": 100} if version == 5 else None}
    first = mqtt.Client.open(broker.mqtt, version, client_id=name, **lasting)
    assert not first.connack.session_present
    first.subscribe(topic, qos=1)
    first.disconnect()
    publisher = mqtt.Client.open(broker.mqtt)
    publisher.publish(topic, b"while away", qos=1)
    second = mqtt.Client.open(broker.mqtt, version, client_id=name, **lasting)
    assert second.connack.session_present
    assert second.message().payload == b"while away"
    second.disconnect()
    third = mqtt.Client.open(broker.mqtt, version, client_id=name)
    assert not third.connack.session_present, "a clean start forgets"
    third.disconnect()


@standard
def test_clean_start_forgets_subscriptions_and_queue(broker):
    name, topic, mark = unique("clean"), unique("t"), unique("t")
    first = mqtt.Client.open(broker.mqtt, client_id=name, props={"session_expiry": 100})
    first.subscribe(topic, qos=1)
    first.disconnect()
    publisher = mqtt.Client.open(broker.mqtt)
    publisher.publish(topic, b"lost on purpose", qos=1)
    second = mqtt.Client.open(broker.mqtt, client_id=name, clean=True)
    second.subscribe(mark)
    publisher.publish(topic, b"too", qos=1)
    second.nothing_before(mark)


@standard
def test_session_expiry_zero_ends_with_the_connection(broker):
    name = unique("short")
    first = mqtt.Client.open(broker.mqtt, client_id=name, clean=False)
    first.disconnect()
    assert not mqtt.Client.open(broker.mqtt, client_id=name, clean=False).connack.session_present


@standard
def test_session_expires_after_its_time(broker):
    name = unique("expiring")
    first = mqtt.Client.open(broker.mqtt, client_id=name, props={"session_expiry": 1})
    first.disconnect()
    again = mqtt.Client.open(broker.mqtt, client_id=name, clean=False, props={"session_expiry": 1})
    assert again.connack.session_present, "not before its time"
    again.disconnect()
    time.sleep(2.5)
    last = mqtt.Client.open(broker.mqtt, client_id=name, clean=False)
    assert not last.connack.session_present


@standard
def test_disconnect_can_change_the_session_expiry(broker):
    name = unique("changed")
    first = mqtt.Client.open(broker.mqtt, client_id=name, props={"session_expiry": 100})
    first.disconnect(0, {"session_expiry": 0})
    assert not mqtt.Client.open(broker.mqtt, client_id=name, clean=False).connack.session_present


@standard
def test_disconnect_must_not_raise_a_session_expiry_of_zero(client):
    short = client()
    short.send(mqtt.disconnect(0, {"session_expiry": 5}))
    assert [packet.reason for packet in short.expect_closed()] == [0x82]


def test_takeover_tells_the_old_connection_0x8e(client):
    name = unique("twice")
    old = client(client_id=name)
    client(client_id=name)
    assert [(packet.kind, packet.reason) for packet in old.expect_closed()] == [(mqtt.DISCONNECT, 0x8E)]


@standard
def test_takeover_of_a_3_1_1_connection_closes_it(client):
    name = unique("twice")
    old = client(4, client_id=name)
    client(4, client_id=name)
    assert old.expect_closed() == []


@standard
def test_takeover_keeps_the_session(client):
    name, topic = unique("twice"), unique("t")
    old = client(client_id=name, props={"session_expiry": 100})
    old.subscribe(topic, qos=1)
    new = client(client_id=name, clean=False, props={"session_expiry": 100})
    assert new.connack.session_present
    new.publish(topic, b"here", qos=1)
    assert new.message().payload == b"here"


def test_takeover_by_many_leaves_exactly_one(client):
    name = unique("crowd")
    crowd = [client(client_id=name) for _ in range(20)]
    for old in crowd[:-1]:
        assert [packet.reason for packet in old.expect_closed()] == [0x8E]
    crowd[-1].fence()


def test_enhanced_authentication_is_refused_with_0x8c(broker):
    raw = mqtt.Client.plain(broker.mqtt)
    raw.login(props={"authentication_method": "SCRAM-SHA-1", "authentication_data": b"x"}, expect_reason=0x8C)
    assert raw.expect_closed() == []


def test_auth_packet_without_a_method_is_a_protocol_error(client):
    late = client()
    late.send(mqtt.packet(mqtt.AUTH, 0, b"\x18\x00"))
    assert [packet.reason for packet in late.expect_closed()] in ([0x82], [0x8C])


def test_second_connect_is_a_protocol_error(client):
    twice = client()
    twice.send(mqtt.connect("again"))
    assert [packet.reason for packet in twice.expect_closed()] == [0x82]


@standard
@pytest.mark.parametrize("level", [3, 6, 255])
def test_unknown_protocol_version_is_refused(broker, level):
    raw = mqtt.Client.plain(broker.mqtt, 4)
    raw.send(mqtt.connect("x", 4).replace(b"MQTT\x04", b"MQTT" + bytes([level])))
    answer = b""
    while more := raw.stream.recv(100):
        answer += more
    # In the words of 3.1.1, or of 5 with as much explanation as it likes.
    assert answer == b"\x20\x02\x00\x01" or (answer[0], answer[2:4]) == (0x20, b"\x00\x84"), answer.hex()


def test_unknown_protocol_name_is_closed(broker):
    raw = mqtt.Client.plain(broker.mqtt)
    raw.send(mqtt.connect("x").replace(b"MQTT", b"QTTM"))
    assert all(packet.kind == mqtt.CONNACK and packet.reason for packet in raw.expect_closed())


@standard
@pytest.mark.parametrize("wanted", [0, 1])
def test_request_response_information(client, wanted):
    told = client(props={"request_response_information": wanted}).connack.properties
    assert wanted or "response_information" not in told


@standard
def test_reason_strings_are_left_out_if_the_client_asks(client):
    quiet = client(props={"request_problem_information": 0})
    for answer in (quiet.subscribe(unique("t")), quiet.publish(unique("t"), qos=1)):
        assert not {"reason_string", "user"} & set(answer.properties)


def test_receive_maximum_past_is_answered_with_0x93(client):
    greedy = client()
    announced = greedy.connack.properties.get("receive_maximum", 65535)
    topic = unique("t")
    greedy.send(b"".join(mqtt.publish(topic, b"", 2, number) for number in range(1, announced + 2)))
    last = greedy.expect_closed()[-1]
    assert (last.kind, last.reason) == (mqtt.DISCONNECT, 0x93)


@standard
def test_receive_maximum_may_be_used_up(client):
    full = client()
    announced = full.connack.properties.get("receive_maximum", 20)
    topic = unique("t")
    for _ in range(2):
        ids = range(1, announced + 1)
        full.send(b"".join(mqtt.publish(topic, b"", 2, number) for number in ids))
        assert [full.expect(mqtt.PUBREC).packet_id for _ in ids] == list(ids)
        full.send(b"".join(mqtt.acknowledge(mqtt.PUBREL, number) for number in ids))
        assert [full.expect(mqtt.PUBCOMP).packet_id for _ in ids] == list(ids)


@standard
def test_receive_maximum_of_zero_is_a_protocol_error(broker):
    raw = mqtt.Client.plain(broker.mqtt)
    raw.send(mqtt.connect("x", props={"receive_maximum": 0}))
    assert {packet.reason for packet in raw.expect_closed()} <= {0x82}


def test_maximum_packet_size_of_the_broker(start_broker):
    broker = start_broker(limits__packet_size=70_000)
    sender = mqtt.Client.open(broker.mqtt)
    sender.publish("t", bytes(69_900), qos=1)
    sender.send(mqtt.publish("t", bytes(70_100), 1, 9))
    assert [packet.reason for packet in sender.expect_closed()] == [0x95]


def test_login_must_come_in_time(start_broker):
    broker = start_broker(limits__login_timeout="300ms")
    silent = mqtt.Client.plain(broker.mqtt)
    slow = mqtt.Client.plain(broker.mqtt)
    slow.send(mqtt.connect("slow")[:-1])
    assert silent.expect_closed() == []
    assert slow.expect_closed() == []


@standard
def test_graceful_disconnect_is_closed_by_the_broker(client):
    leaving = client()
    leaving.send(mqtt.disconnect(0))
    assert leaving.expect_closed() == []
