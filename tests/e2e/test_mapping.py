"""What one protocol says, another hears: every pair of the nine, over real sockets. The whole
table, `docs/mapping.md`, is checked in `broker/tests/mapping`.
"""

from dataclasses import dataclass, field

import pytest

from support.speakers import SPEAKERS, Message
from support.waiting import unique

PAIRS = [(sender, receiver) for sender in SPEAKERS for receiver in SPEAKERS]


@dataclass
class Row:
    """One thing that a message can say: how each protocol says it, and messages that do."""

    meaning: str
    mqtt: str
    stomp: str
    json: str
    examples: dict[str, Message] = field(default_factory=dict)


TABLE = [
    Row(
        "topic `a/b`",
        "topic `a/b`",
        "destination `/topic/a/b`",
        '`"topic":"a/b"`',
        {
            "plain": Message(),
            "several levels": Message("/b/c"),
            "empty levels": Message("//b/"),
            "spaces and signs": Message("/a b:c\\d"),
            "other scripts": Message("/ü/雪/🌡"),
            "a dollar below the first level": Message("/$b"),
        },
    ),
    Row(
        "payload",
        "payload",
        "body; the frame is binary on WebSocket if it is not UTF-8",
        "`data`: a JSON value if the content type says JSON, text, or base64 (`dataType`)",
        {
            "text": Message(payload="21.5 °C".encode()),
            "empty": Message(payload=b""),
            "bytes": Message(payload=bytes(range(256)), content_type="application/octet-stream"),
            "a JSON object": Message(payload=b'{"celsius":21.5,"ok":true}', content_type="application/json"),
            "a hundred thousand bytes": Message(payload=b"x" * 100_000),
        },
    ),
    Row(
        "at most once",
        "QoS 0",
        "`qos:0`, or neither `persistent` nor `receipt`; `ack:auto`",
        "no `qos`",
        {"at most once": Message(qos=0)},
    ),
    Row(
        "at least once",
        "QoS 1, PUBACK",
        "`persistent:true`, `qos:1` or a `receipt`; `ack:client` or `client-individual`, ACK",
        '`"qos":1`, `ack`',
        {"at least once": Message(qos=1)},
    ),
    Row(
        "content type",
        "content type",
        "`content-type`",
        "`contentType`",
        {"content type": Message(content_type="text/plain;charset=utf-8")},
    ),
    Row(
        "correlation",
        "correlation data",
        "`correlation-id`; bytes that are not text as `base64:…`",
        "`correlationId`; bytes that are not text in `correlationIdBase64`",
        {
            "text": Message(correlation=b"request-7"),
            "bytes": Message(correlation=b"\x00\xff\x80"),
        },
    ),
    Row(
        "topic for the answer",
        "response topic",
        "`reply-to`, a destination",
        "`replyTo`, a topic",
        {"reply to": Message(reply_to="answers/7")},
    ),
    Row(
        "user properties",
        "user properties, repeats kept",
        "headers of the same name, repeats kept; a name that STOMP uses itself gets `user-` before it",
        "`headers`, repeats as an array",
        {
            "one": Message(user=[("unit", "°C")]),
            "repeats": Message(user=[("tag", "b"), ("tag", "a"), ("other", "x"), ("tag", "")]),
            "signs that STOMP escapes": Message(user=[("na:me", "a:b\nc\\d\re")]),
            "names that STOMP uses": Message(user=[("destination", "x"), ("content-type", "y"), ("ack", "z")]),
            "other scripts": Message(user=[("ü雪", "🌡")]),
        },
    ),
    Row(
        "expiry",
        "message expiry interval: seconds left",
        "`expires`: the moment, in milliseconds since 1970",
        "`expiresIn`: seconds left; or `expiresAt` when publishing",
        {"expiry": Message(expires_in=60)},
    ),
    Row(
        "retained",
        "retain flag",
        "`retain:true` on SEND, `retained:true` on MESSAGE",
        '`"retain":true` on publish, `"retained":true` on message',
    ),
    Row(
        "redelivered",
        "DUP",
        "`redelivered:true` and `delivery-count`",
        '`"redelivered":true` and `deliveryCount`',
    ),
    Row("competing consumers", "`$share/g/a/b`", "`share:g` on SUBSCRIBE, or `/queue/a/b`", '`"share":"g"`'),
    Row("a queue", "topic `$queue/a/b`", "`/queue/a/b`", "topic `$queue/a/b`"),
    Row("members of a group", "topic `$group/g`", "`/group/g`", '`join`, `leave`, `"group":"g"`'),
    Row("one user's connections", "topics `$user/id/…`", "`/user/id/…`", '`"user":"id"`'),
    Row("everyone", "topic `$broadcast`", "`/broadcast`", "`broadcast`; always subscribed"),
    Row("exactly once inward", "QoS 2", "`receipt` and `idempotency-key`", "`id` and `idempotencyKey`"),
    Row("payload format indicator", "payload format indicator", "not carried", "not carried"),
]

EXAMPLES = [
    pytest.param(example, id=f"{row.meaning}: {name}".replace("`", ""))
    for row in TABLE
    for name, example in row.examples.items()
]

EVERYTHING = Message(
    "/everything",
    "all at once ü".encode(),
    1,
    False,
    "text/plain",
    b"\xff\x00",
    "answers/here",
    [("a", "1"), ("a", "2"), ("reply-to", "x")],
    300,
)


@pytest.fixture
def speakers(broker):
    """Opens one speaker for each name."""
    opened = []

    def open_speakers(*names):
        new = [SPEAKERS[name](broker) for name in names]
        opened.extend(new)
        return new

    yield open_speakers
    for one in opened:
        one.client.close()


def assert_same(got: Message, sent: Message) -> None:
    got_values, sent_values = got.comparable(), sent.comparable()
    left, asked = got_values.pop("expires_in"), sent_values.pop("expires_in")
    assert got_values == sent_values
    assert (left is None) == (asked is None)
    # A moment in milliseconds and the seconds that are left of it are both rounded.
    assert left is None or asked - 5 <= left <= asked + 1


@pytest.mark.parametrize("sender, receiver", PAIRS)
@pytest.mark.parametrize("example", EXAMPLES)
def test_arrives_as_it_was_sent(speakers, sender, receiver, example):
    speaking, listening = speakers(sender, receiver)
    message = example.on(unique("map"))
    listening.subscribe(message.topic)
    speaking.publish(message)
    assert_same(listening.receive(), message)


@pytest.mark.parametrize("sender, receiver", PAIRS)
def test_everything_at_once(speakers, sender, receiver):
    speaking, listening = speakers(sender, receiver)
    message = EVERYTHING.on(unique("map"))
    listening.subscribe(message.topic)
    speaking.publish(message)
    assert_same(listening.receive(), message)


@pytest.mark.parametrize("sender, receiver", PAIRS)
def test_retained_arrives_later_with_everything(speakers, sender, receiver):
    speaking, listening = speakers(sender, receiver)
    message = EVERYTHING.on(unique("map"))
    message.retained = True
    speaking.publish(message)
    listening.subscribe(message.topic)
    assert_same(listening.receive(), message)


@pytest.mark.parametrize("sender, receiver", PAIRS)
def test_a_leading_slash_is_part_of_the_topic(speakers, sender, receiver):
    speaking, listening = speakers(sender, receiver)
    message = Message("/" + unique("map") + "/x")
    listening.subscribe(message.topic)
    speaking.publish(message)
    assert_same(listening.receive(), message)


@pytest.mark.parametrize("sender, receiver", PAIRS)
def test_wildcards_mean_the_same(speakers, sender, receiver):
    speaking, listening = speakers(sender, receiver)
    name = unique("map")
    listening.subscribe(f"{name}/+/x/#")
    for end in ("a/y", "a/x", "b/x/c/d"):
        speaking.publish(Message(f"{name}/{end}"))
    assert [listening.receive().topic for _ in range(2)] == [f"{name}/a/x", f"{name}/b/x/c/d"]


@pytest.mark.parametrize("first", SPEAKERS)
@pytest.mark.parametrize("second", SPEAKERS)
def test_what_was_relayed_twice_is_still_the_same(speakers, first, second):
    """From MQTT through two others and back: nothing is lost on the way."""
    start, one, two, end = speakers("mqtt", first, second, "mqtt")
    message = EVERYTHING.on(unique("map"))
    for relay, topic in ((one, message.topic), (two, message.topic + "/2"), (end, message.topic + "/3")):
        relay.subscribe(topic)
    start.publish(message)
    for relay, topic in ((one, message.topic + "/2"), (two, message.topic + "/3")):
        heard = relay.receive()
        heard.topic = topic
        relay.publish(heard)
    message.topic += "/3"
    assert_same(end.receive(), message)
