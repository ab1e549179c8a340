"""Eclipse Paho for Python, 3.1.1 and 5, over TCP and over WebSocket."""

import queue

import paho.mqtt.client as paho
import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from support.waiting import PATIENCE, unique, until

standard = pytest.mark.standard
WAYS = [("tcp", 4), ("tcp", 5), ("websockets", 4), ("websockets", 5)]


class PahoClient:
    """Paho's client with its call-backs turned into queues."""

    def __init__(self, port, transport, version, client_id=None, will=None, clean=True):
        self.messages = queue.Queue()
        self.version = version
        options = {} if version == 5 else {"clean_session": clean}
        self.client = paho.Client(
            paho.CallbackAPIVersion.VERSION2,
            client_id or unique("paho"),
            protocol=paho.MQTTv5 if version == 5 else paho.MQTTv311,
            transport=transport,
            **options,
        )
        self.client.on_message = lambda _client, _data, message: self.messages.put(message)
        self.connected = queue.Queue()
        self.client.on_connect = lambda _c, _d, flags, reason, props: self.connected.put((flags, reason, props))
        self.disconnected = queue.Queue()
        self.client.on_disconnect = lambda _c, _d, _f, reason, _p: self.disconnected.put(reason)
        self.subscribed = queue.Queue()
        self.client.on_subscribe = lambda _c, _d, _m, reasons, _p: self.subscribed.put(reasons)
        if will:
            self.client.will_set(*will)
        more = {}
        if version == 5:
            props = Properties(PacketTypes.CONNECT)
            props.SessionExpiryInterval = 100 if not clean else 0
            more = {"clean_start": clean, "properties": props}
        self.client.connect("127.0.0.1", port, **more)
        self.client.loop_start()
        self.flags, self.reason, self.properties = self.connected.get(timeout=PATIENCE)
        assert not self.reason.is_failure, self.reason

    def subscribe(self, *arguments, **options):
        self.client.subscribe(*arguments, **options)
        return self.subscribed.get(timeout=PATIENCE)

    def publish(self, topic, payload, qos=0, retain=False, properties=None):
        done = self.client.publish(topic, payload, qos, retain, properties)
        done.wait_for_publish(PATIENCE)
        assert done.is_published()

    def message(self):
        return self.messages.get(timeout=PATIENCE)

    def end(self):
        self.client.disconnect()
        self.client.loop_stop()


@pytest.fixture
def connect(broker):
    opened = []

    def open_client(transport="tcp", version=5, **options):
        port = broker.mqtt if transport == "tcp" else broker.mqtt_over_ws
        opened.append(PahoClient(port, transport, version, **options))
        return opened[-1]

    yield open_client
    for one in opened:
        one.end()


@standard
@pytest.mark.parametrize("transport, version", WAYS)
def test_every_qos(connect, transport, version):
    both, topic = connect(transport, version), unique("paho")
    both.subscribe(topic, 2)
    for qos in (0, 1, 2):
        both.publish(topic, f"qos {qos}", qos)
        message = both.message()
        assert (message.payload.decode(), message.qos, message.topic) == (f"qos {qos}", qos, topic)


@standard
@pytest.mark.parametrize("transport, version", WAYS)
def test_hundreds_open_at_qos_2_are_all_delivered(connect, transport, version):
    both, topic, count = connect(transport, version), unique("paho"), 300
    both.subscribe(topic, 2)
    waits = [both.client.publish(topic, str(number), 2) for number in range(count)]
    assert [int(both.message().payload) for _ in range(count)] == list(range(count))
    for wait in waits:
        wait.wait_for_publish(PATIENCE)


@standard
@pytest.mark.parametrize("transport, version", WAYS)
def test_retained(connect, transport, version):
    both, topic = connect(transport, version), unique("paho")
    both.publish(topic, "kept", 1, retain=True)
    both.subscribe(topic)
    message = both.message()
    assert message.retain and message.payload == b"kept"
    both.publish(topic, "", 1, retain=True)


@standard
@pytest.mark.parametrize("transport, version", WAYS)
def test_will(connect, transport, version):
    watcher, topic = connect(transport, version), unique("paho")
    watcher.subscribe(topic)
    lost = connect(transport, version, will=(topic, "gone", 1, False))
    lost.client.loop_stop()
    lost.client.socket().close()
    assert watcher.message().payload == b"gone"


@standard
@pytest.mark.parametrize("transport, version", WAYS)
def test_session_keeps_messages_while_away(connect, transport, version):
    name, topic = unique("paho-lasting"), unique("paho")
    first = connect(transport, version, client_id=name, clean=False)
    assert not first.flags.session_present
    first.subscribe(topic, 2)
    first.end()
    sender = connect(transport, version)
    for number in range(5):
        sender.publish(topic, str(number), 2)
    second = connect(transport, version, client_id=name, clean=False)
    assert second.flags.session_present
    assert [int(second.message().payload) for _ in range(5)] == list(range(5))


@standard
def test_properties(connect):
    both, topic = connect(), unique("paho")
    both.subscribe(topic)
    sent = Properties(PacketTypes.PUBLISH)
    sent.ContentType = "text/plain"
    sent.ResponseTopic = "answers"
    sent.CorrelationData = b"\0\xff"
    sent.UserProperty = [("a", "1"), ("a", "2")]
    sent.MessageExpiryInterval = 60
    both.publish(topic, "x", 1, properties=sent)
    got = both.message().properties
    for name in ("ContentType", "ResponseTopic", "CorrelationData", "UserProperty", "MessageExpiryInterval"):
        assert getattr(got, name) == getattr(sent, name)


@standard
def test_subscribe_options(connect):
    both, topic = connect(), unique("paho")
    both.publish(topic, "kept", 1, retain=True)
    both.subscribe(topic, options=SubscribeOptions(1, noLocal=True, retainHandling=2))
    both.publish(topic, "own", 1)
    connect().publish(topic, "other", 1)
    assert both.message().payload == b"other"


def test_takeover_is_understood(connect):
    name = unique("paho-twice")
    old = connect(client_id=name)
    connect(client_id=name)
    until(lambda: not old.disconnected.empty())
    assert old.disconnected.get().value == 0x8E
    old.client.loop_stop()
