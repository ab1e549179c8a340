"""MQTT: the last will, when it is published and what it carries."""

import time

import pytest

from support import mqtt
from support.mqtt import Will
from support.waiting import unique

standard = pytest.mark.standard


@pytest.fixture
def watch(client):
    """A topic for a will, and a client that watches it."""
    topic = unique("will")
    watcher = client()
    watcher.subscribe(topic, qos=2)
    return topic, watcher


@standard
@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_will_is_published_when_the_connection_is_lost(client, watch, version, qos):
    topic, watcher = watch
    client(version, will=Will(topic, b"gone", qos)).drop()
    message = watcher.message()
    assert (message.payload, message.qos, message.retain) == (b"gone", qos, False)


@standard
@pytest.mark.parametrize("version", [4, 5])
def test_will_is_not_published_after_a_disconnect(client, watch, version):
    topic, watcher = watch
    client(version, will=Will(topic, b"gone")).disconnect()
    watcher.nothing_before(topic)


@standard
def test_will_is_published_after_disconnect_0x04(client, watch):
    topic, watcher = watch
    client(will=Will(topic, b"gone")).disconnect(0x04)
    assert watcher.message().payload == b"gone"


@standard
def test_will_is_published_after_a_protocol_error(client, watch):
    topic, watcher = watch
    bad = client(will=Will(topic, b"gone"))
    bad.send(b"\xf0\xff\xff\xff\xff\xff")
    assert watcher.message().payload == b"gone"


@standard
def test_will_is_published_when_the_keep_alive_runs_out(client, watch):
    topic, watcher = watch
    client(will=Will(topic, b"gone"), keep_alive=1)
    assert watcher.message().payload == b"gone"


@standard
def test_will_can_be_retained(client):
    topic = unique("will")
    client(will=Will(topic, b"gone", 1, retain=True)).drop()
    late = client()
    late.subscribe(topic)
    assert late.message().payload == b"gone"


@standard
def test_will_carries_its_properties(client, watch):
    topic, watcher = watch
    carried = {
        "payload_format": 1,
        "content_type": "text/plain",
        "response_topic": "r",
        "correlation_data": b"\x00",
        "user": [("a", "1"), ("a", "2")],
    }
    client(will=Will(topic, b"gone", 1, properties=carried | {"message_expiry": 60})).drop()
    got = watcher.message().properties
    assert got.pop("message_expiry") in (59, 60)
    assert got == carried


@standard
def test_will_delay_waits(client, watch):
    topic, watcher = watch
    lost = client(will=Will(topic, b"late", properties={"will_delay": 2}), props={"session_expiry": 100})
    begin = time.monotonic()
    lost.drop()
    assert watcher.message().payload == b"late"
    assert 1.5 <= time.monotonic() - begin < 6


@standard
def test_will_delay_is_cancelled_by_coming_back(client, watch):
    topic, watcher = watch
    name = unique("back")
    session = {"session_expiry": 100}
    client(client_id=name, will=Will(topic, b"late", properties={"will_delay": 1}), props=session).drop()
    client(client_id=name, clean=False, props=session)
    time.sleep(2)
    watcher.nothing_before(topic)


@pytest.mark.parametrize("expiry", [0, 1])
def test_will_is_published_at_the_end_of_the_session_even_if_the_delay_is_longer(client, watch, expiry):
    topic, watcher = watch
    begin = time.monotonic()
    client(will=Will(topic, b"now", properties={"will_delay": 1000}), props={"session_expiry": expiry}).drop()
    assert watcher.message().payload == b"now"
    assert expiry - 0.5 <= time.monotonic() - begin < expiry + 3


@standard
def test_will_is_published_on_takeover(client, watch):
    topic, watcher = watch
    name = unique("taken")
    client(client_id=name, will=Will(topic, b"taken", 1))
    client(client_id=name, clean=False)
    assert watcher.message().payload == b"taken"


def test_will_is_published_when_a_clean_start_ends_the_session(client, watch):
    topic, watcher = watch
    name = unique("taken")
    client(
        client_id=name, will=Will(topic, b"ended", properties={"will_delay": 1000}), props={"session_expiry": 1000}
    )
    client(client_id=name, clean=True)
    assert watcher.message().payload == b"ended"


def test_will_with_a_delay_is_not_published_on_takeover_that_goes_on(client, watch):
    topic, watcher = watch
    name = unique("taken")
    session = {"session_expiry": 100}
    old = client(client_id=name, will=Will(topic, b"no", properties={"will_delay": 1}), props=session)
    client(client_id=name, clean=False, props=session)
    old.expect_closed()
    time.sleep(2)
    watcher.nothing_before(topic)


@standard
@pytest.mark.parametrize("topic", ["", "a/+", "#"])
def test_will_with_a_bad_topic_is_refused(broker, topic):
    raw = mqtt.Client.plain(broker.mqtt)
    raw.send(mqtt.connect("x", will=Will(topic, b"x")))
    assert all(packet.kind == mqtt.CONNACK and packet.reason >= 0x80 for packet in raw.expect_closed())


@standard
def test_will_flags_without_a_will_are_malformed(broker):
    raw = mqtt.Client.plain(broker.mqtt)
    raw.send(mqtt.connect("x").replace(b"MQTT\x05\x02", b"MQTT\x05\x0a"))
    assert all(packet.kind == mqtt.CONNACK and packet.reason >= 0x80 for packet in raw.expect_closed())
