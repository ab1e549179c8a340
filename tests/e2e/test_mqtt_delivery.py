"""MQTT: publishing and receiving at every level, windows, order, redelivery, aliases, expiry, properties."""

import time

import pytest

from support import mqtt
from support.waiting import unique

standard = pytest.mark.standard
LASTING = {"session_expiry": 100}


@standard
@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("granted", [0, 1, 2])
@pytest.mark.parametrize("published", [0, 1, 2])
def test_every_level_in_and_out(client, published, granted, version):
    both, topic = client(version), unique("levels")
    assert both.subscribe(topic, qos=granted).reasons == [granted]
    both.publish(topic, b"body", qos=published)
    message = both.message()
    assert (message.topic, message.payload, message.qos) == (topic, b"body", min(published, granted))
    assert not message.dup and not message.retain


@standard
def test_empty_payload_is_a_message(client):
    both, topic = client(), unique("empty")
    both.subscribe(topic)
    both.publish(topic, b"")
    assert both.message().payload == b""


@standard
def test_large_payload(client):
    both, topic = client(), unique("large")
    body = bytes(range(256)) * 2000
    both.subscribe(topic, qos=1)
    both.publish(topic, body, qos=1)
    assert both.message().payload == body


@standard
def test_exactly_once_inward_the_same_identifier_again_is_one_message(client):
    both, topic = client(), unique("once")
    both.subscribe(topic)
    both.send(mqtt.publish(topic, b"one", 2, 77))
    assert both.await_kind(mqtt.PUBREC).packet_id == 77
    both.send(mqtt.publish(topic, b"one", 2, 77, dup=True))
    assert both.await_kind(mqtt.PUBREC).packet_id == 77
    both.send(mqtt.acknowledge(mqtt.PUBREL, 77))
    assert both.await_kind(mqtt.PUBCOMP).packet_id == 77
    assert both.message().payload == b"one"
    both.nothing_before(topic)


@standard
def test_exactly_once_inward_over_a_lost_connection(client):
    topic, name = unique("once"), unique("sender")
    receiver = client()
    receiver.subscribe(topic)
    sender = client(client_id=name, props=LASTING)
    sender.send(mqtt.publish(topic, b"one", 2, 5))
    sender.await_kind(mqtt.PUBREC)
    sender.drop()
    again = client(client_id=name, clean=False, props=LASTING)
    assert again.connack.session_present
    again.send(mqtt.publish(topic, b"one", 2, 5, dup=True))
    again.await_kind(mqtt.PUBREC)
    again.send(mqtt.acknowledge(mqtt.PUBREL, 5))
    assert again.await_kind(mqtt.PUBCOMP).reason == 0
    assert receiver.message().payload == b"one"
    receiver.nothing_before(topic, again)


@standard
def test_pubrel_for_an_unknown_identifier(client):
    sender = client()
    sender.send(mqtt.acknowledge(mqtt.PUBREL, 4242))
    assert sender.await_kind(mqtt.PUBCOMP).packet_id == 4242


def test_pubrel_for_an_unknown_identifier_says_so(client):
    sender = client()
    sender.send(mqtt.acknowledge(mqtt.PUBREL, 4242))
    assert sender.await_kind(mqtt.PUBCOMP).reason == 0x92


@standard
def test_exactly_once_outward_a_pubrec_is_not_forgotten(client):
    topic, name = unique("once"), unique("receiver")
    receiver = client(client_id=name, props=LASTING)
    receiver.subscribe(topic, qos=2)
    client().publish(topic, b"one", qos=2)
    packet_id = receiver.await_kind(mqtt.PUBLISH).packet_id
    receiver.send(mqtt.acknowledge(mqtt.PUBREC, packet_id))
    receiver.await_kind(mqtt.PUBREL)
    receiver.drop()
    again = client(client_id=name, clean=False, props=LASTING)
    first = again.receive()
    assert (first.kind, first.packet_id) == (mqtt.PUBREL, packet_id), "not the message once more"
    again.send(mqtt.acknowledge(mqtt.PUBCOMP, packet_id))
    again.fence()
    assert again.kept == []


@standard
@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("qos", [1, 2])
def test_redelivery_after_reconnect_is_in_order_and_marked_dup(client, qos, version):
    topic, name = unique("again"), unique("receiver")
    lasting = {"client_id": name, "clean": False, "props": LASTING if version == 5 else None}
    receiver = client(version, **lasting)
    receiver.subscribe(topic, qos=qos)
    sender = client()
    for number in range(5):
        sender.publish(topic, str(number), qos=qos)
    before = [receiver.await_kind(mqtt.PUBLISH) for _ in range(5)]
    # In peace, so that the broker certainly knows that it is gone before more is published.
    receiver.disconnect()
    for number in range(5, 8):
        sender.publish(topic, str(number), qos=qos)
    again = client(version, **lasting)
    after = again.messages(8)
    assert [packet.payload for packet in after] == [b"%d" % number for number in range(8)]
    assert [packet.dup for packet in after] == [True] * 5 + [False] * 3
    assert [packet.packet_id for packet in after[:5]] == [packet.packet_id for packet in before]


@standard
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_order_of_a_topic_is_kept(client, qos):
    topic, count = unique("order"), 300
    receiver, sender = client(), client()
    receiver.subscribe(topic, qos=qos)
    for number in range(count):
        sender.publish(topic, str(number), qos=qos)
    assert [int(packet.payload) for packet in receiver.messages(count)] == list(range(count))


def test_more_than_the_window_open_at_qos_2_are_all_delivered(client):
    """Publishes are opened far past the receiver's window before the first is completed."""
    topic = unique("window")
    receiver = client(props={"receive_maximum": 5})
    receiver.subscribe(topic, qos=2)
    senders = [client() for _ in range(8)]
    # All of them together fit into the receiver's queue.
    window = min(senders[0].connack.properties.get("receive_maximum", 20), 100)
    for index, sender in enumerate(senders):
        sender.send(
            b"".join(mqtt.publish(topic, f"{index}-{number}", 2, number + 1) for number in range(window))
        )
    for sender in senders:
        for number in range(window):
            assert sender.await_kind(mqtt.PUBREC).packet_id == number + 1
    for sender in senders:
        sender.send(b"".join(mqtt.acknowledge(mqtt.PUBREL, number + 1) for number in range(window)))
        for number in range(window):
            assert sender.await_kind(mqtt.PUBCOMP).packet_id == number + 1
    got = [packet.payload.decode() for packet in receiver.messages(len(senders) * window)]
    assert sorted(got) == sorted(f"{index}-{number}" for index in range(len(senders)) for number in range(window))
    for index in range(len(senders)):
        own = [int(one.split("-")[1]) for one in got if one.startswith(f"{index}-")]
        assert own == list(range(window))


@standard
@pytest.mark.parametrize("qos", [1, 2])
def test_receive_maximum_of_the_client_bounds_what_is_open(client, qos):
    topic = unique("bounded")
    receiver = client(props={"receive_maximum": 3})
    receiver.subscribe(topic, qos=qos)
    sender = client()
    for number in range(10):
        sender.publish(topic, str(number), qos=qos)
    receiver.fence()
    assert [packet.payload for packet in receiver.kept] == [b"0", b"1", b"2"], "no more may be open"
    assert [packet.payload for packet in receiver.messages(10)] == [b"%d" % number for number in range(10)]


@standard
def test_qos_0_flows_while_the_window_is_full(client):
    topic, loose = unique("full"), unique("loose")
    receiver = client(props={"receive_maximum": 1})
    receiver.subscribe(topic, qos=1)
    receiver.subscribe(loose, qos=0)
    sender = client()
    sender.publish(topic, b"1", qos=1)
    sender.publish(topic, b"2", qos=1)
    assert receiver.expect(mqtt.PUBLISH).payload == b"1"
    sender.publish(loose, b"free")
    assert receiver.expect(mqtt.PUBLISH).payload == b"free"


@standard
def test_packet_identifiers_are_not_reused_while_open(client):
    topic = unique("ids")
    receiver = client(props={"receive_maximum": 10})
    receiver.subscribe(topic, qos=1)
    sender = client()
    for number in range(10):
        sender.publish(topic, str(number), qos=1)
    opened = [receiver.expect(mqtt.PUBLISH).packet_id for _ in range(10)]
    assert len(set(opened)) == 10 and 0 not in opened
    for packet_id in opened[1:]:
        receiver.send(mqtt.acknowledge(mqtt.PUBACK, packet_id))
    for number in range(9):
        sender.publish(topic, str(number), qos=1)
    more = [receiver.expect(mqtt.PUBLISH).packet_id for _ in range(9)]
    assert opened[0] not in more and len(set(more)) == 9


@standard
def test_topic_alias_inward(client):
    both, one, two = client(), unique("alias"), unique("alias")
    both.subscribe(one)
    both.subscribe(two)
    both.send(mqtt.publish(one, b"1", props={"topic_alias": 1}))
    both.send(mqtt.publish("", b"2", props={"topic_alias": 1}))
    both.send(mqtt.publish(two, b"3", props={"topic_alias": 1}))
    both.send(mqtt.publish("", b"4", props={"topic_alias": 1}))
    got = [(packet.topic, packet.payload) for packet in both.messages(4)]
    assert got == [(one, b"1"), (one, b"2"), (two, b"3"), (two, b"4")]


@standard
def test_topic_alias_does_not_cross_to_other_clients(client):
    topic = unique("alias")
    receiver = client()
    receiver.subscribe(topic)
    client().send(mqtt.publish(topic, b"1", props={"topic_alias": 3}))
    assert "topic_alias" not in receiver.message().properties


@pytest.mark.parametrize("alias", ["0", "maximum + 1"])
def test_topic_alias_out_of_range_is_answered_with_0x94(client, alias):
    sender = client()
    number = 0 if alias == "0" else sender.connack.properties["topic_alias_maximum"] + 1
    sender.send(mqtt.publish("t", b"", props={"topic_alias": number}))
    assert [packet.reason for packet in sender.expect_closed()] == [0x94]


def test_topic_alias_that_was_never_set_is_a_protocol_error(client):
    sender = client()
    sender.send(mqtt.publish("", b"", props={"topic_alias": 2}))
    assert [packet.reason for packet in sender.expect_closed()] in ([0x82], [0x94])


def test_topic_alias_outward_is_used(client):
    topic = unique("outward")
    receiver = client(props={"topic_alias_maximum": 2})
    receiver.subscribe(topic)
    sender = client()
    for number in range(5):
        sender.publish(topic, str(number))
    got = receiver.messages(5)
    alias = got[0].properties["topic_alias"]
    assert got[0].topic == topic and alias in (1, 2)
    assert {(packet.topic, packet.properties["topic_alias"]) for packet in got[1:]} == {("", alias)}


def test_topic_alias_outward_stays_within_the_clients_maximum(client):
    base = unique("many")
    receiver = client(props={"topic_alias_maximum": 2})
    receiver.subscribe(base + "/#")
    sender = client()
    aliases = {}
    for number in list(range(6)) * 3:
        sender.publish(f"{base}/{number}", str(number))
        packet = receiver.message()
        alias = packet.properties.get("topic_alias")
        assert alias in (None, 1, 2)
        if packet.topic and alias:
            aliases[alias] = packet.topic
        assert (packet.topic or aliases[alias]) == f"{base}/{number}"
    assert aliases, "aliases are used"


@standard
def test_topic_alias_outward_is_not_used_unless_allowed(client):
    topic = unique("outward")
    receiver = client()
    receiver.subscribe(topic)
    for number in range(3):
        client().publish(topic, str(number))
        packet = receiver.message()
        assert packet.topic == topic and "topic_alias" not in packet.properties


@standard
def test_maximum_packet_size_of_the_client_too_large_is_dropped_and_the_rest_goes_on(client):
    topic = unique("size")
    small = client(props={"maximum_packet_size": 200})
    small.subscribe(topic, qos=1)
    sender = client()
    sender.publish(topic, bytes(500), qos=1)
    sender.publish(topic, b"fits", qos=1)
    assert small.message().payload == b"fits"


def test_maximum_packet_size_of_the_client_drops_are_counted(broker, client):
    topic = unique("size")
    small = client(props={"maximum_packet_size": 200})
    small.subscribe(topic)
    before = broker.metric("polycast_messages_dropped_total", reason="too_large")
    sender = client()
    sender.publish(topic, bytes(500))
    sender.publish(topic, b"fits")
    assert small.message().payload == b"fits"
    assert broker.metric("polycast_messages_dropped_total", reason="too_large") > before


@standard
def test_message_expiry_is_counted_down(client):
    topic, name = unique("expiry"), unique("away")
    client(client_id=name, props=LASTING).subscribe(topic, qos=1)
    away = client(client_id=name, clean=False, props=LASTING)
    away.disconnect()
    client().publish(topic, b"soon", qos=1, props={"message_expiry": 60})
    client().publish(topic, b"never", qos=1)
    time.sleep(2.1)
    back = client(client_id=name, clean=False, props=LASTING)
    first, second = back.messages(2)
    assert first.payload == b"soon" and 50 <= first.properties["message_expiry"] <= 58
    assert "message_expiry" not in second.properties


@standard
def test_message_expiry_is_enforced_in_queues(client):
    topic, name = unique("expiry"), unique("away")
    client(client_id=name, props=LASTING).subscribe(topic, qos=1)
    client(client_id=name, clean=False, props=LASTING).disconnect()
    sender = client()
    sender.publish(topic, b"gone", qos=1, props={"message_expiry": 1})
    sender.publish(topic, b"stays", qos=1, props={"message_expiry": 100})
    time.sleep(2.1)
    assert client(client_id=name, clean=False, props=LASTING).message().payload == b"stays"


@standard
def test_message_expiry_is_enforced_in_retained(client):
    base, sender = unique("expiry"), client()
    sender.publish(base + "/a", b"gone", qos=1, retain=True, props={"message_expiry": 1})
    sender.publish(base + "/b", b"stays", qos=1, retain=True, props={"message_expiry": 100})
    time.sleep(2.1)
    late = client()
    late.subscribe(base + "/+")
    message = late.message()
    assert message.payload == b"stays" and message.properties["message_expiry"] <= 98
    late.nothing_before(base + "/c", sender)


PASSED_ON = {
    "payload_format": 1,
    "content_type": "text/plain; charset=utf-8",
    "response_topic": "answers/here",
    "correlation_data": b"\x00\xff binary",
    "user": [("one", "1"), ("two", "2"), ("one", "again"), ("", ""), ("ü", "雪")],
}


@standard
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_properties_are_passed_through_unchanged(client, qos):
    both, topic = client(), unique("props")
    both.subscribe(topic, qos=qos)
    both.publish(topic, "text", qos=qos, props=PASSED_ON)
    assert both.message().properties == PASSED_ON


@standard
def test_properties_are_kept_with_retained_messages(client):
    topic = unique("props")
    client().publish(topic, b"x", qos=1, retain=True, props=PASSED_ON)
    late = client()
    late.subscribe(topic)
    assert late.message().properties == PASSED_ON


@standard
def test_properties_do_not_reach_3_1_1_and_do_not_disturb_it(client):
    topic = unique("props")
    old = client(4)
    old.subscribe(topic, qos=1)
    client().publish(topic, "text", qos=1, props=PASSED_ON)
    assert old.message().payload == b"text"


def test_payload_format_that_is_not_true_is_refused(client):
    both, topic = client(), unique("format")
    both.subscribe(topic)
    answer = both.publish(topic, b"\xff\xfe", qos=1, props={"payload_format": 1})
    assert answer.reason in (0x99, 0x00)


def test_puback_says_when_nobody_listens(client):
    sender = client()
    assert sender.publish(unique("nobody"), b"", qos=1).reason == 0x10
    assert sender.publish(unique("nobody"), b"", qos=2).reason == 0x10


@standard
def test_fan_out_gives_each_subscriber_its_copy_at_its_level(client):
    topic = unique("fan")
    crowd = [client(4 if number % 2 else 5) for number in range(40)]
    for number, member in enumerate(crowd):
        member.subscribe(topic, qos=number % 3)
    client().publish(topic, b"all", qos=2)
    for number, member in enumerate(crowd):
        message = member.message()
        assert (message.payload, message.qos) == (b"all", number % 3)
