"""The JSON subprotocol, spoken with the Python package websockets."""

import json
import time

import pytest

from support import json_client, mqtt
from support.json_client import Closed
from support.waiting import unique, until


@pytest.fixture
def client(broker):
    """Opens JSON clients on the shared broker; they are closed afterwards."""
    opened = []

    def open_client(subprotocol="polycast.json.v1", **fields):
        opened.append(json_client.Client.open(broker.http, subprotocol, **fields))
        return opened[-1]

    yield open_client
    for one in opened:
        one.close()


# --- connecting ---------------------------------------------------------------------------------


@pytest.mark.parametrize("subprotocol", ["polycast.json.v1", "json", None])
def test_connected_says_what_was_granted(client, subprotocol):
    connected = client(subprotocol).connected
    assert connected["connectionId"] and connected["clientId"]
    assert connected["sessionPresent"] is False


def test_own_client_identifier(client):
    name = unique("json")
    assert client(clientId=name).connected["clientId"] == name


def test_connecting_twice_is_an_error(client):
    answer = client().ask("connect")
    assert (answer["type"], answer["code"]) == ("error", "alreadyConnected")


def test_takeover(client):
    name = unique("json-twice")
    old = client(clientId=name)
    client(clientId=name)
    frames, code = old.expect_closed()
    assert frames[-1]["type"] == "disconnect" and frames[-1]["reason"] == "takenOver"
    assert frames[-1]["reconnect"] is False and code is not None


def test_disconnect_is_answered_by_a_close(client):
    leaving = client()
    leaving.send("disconnect")
    assert leaving.expect_closed()[1] == 1000


def test_session_goes_on(client):
    name, topic = unique("json-lasting"), unique("json")
    first = client(clientId=name, cleanStart=False, session={"expiry": 100})
    first.request("subscribe", topic=topic, qos=1)
    first.drop()
    sender = client()
    for number in range(3):
        sender.request("publish", topic=topic, data=number)
    second = client(clientId=name, cleanStart=False, session={"expiry": 100})
    assert second.connected["sessionPresent"] is True
    assert [frame["data"] for frame in second.messages(3)] == [0, 1, 2]


# --- publish and subscribe ----------------------------------------------------------------------


@pytest.mark.parametrize("data", [21.5, {"a": [1, None, True]}, "text ü", "", None, [], False])
def test_payload_comes_back_as_it_was_sent(client, data):
    both, topic = client(), unique("json")
    both.request("subscribe", topic=topic)
    both.request("publish", topic=topic, data=data, dataType="json" if not isinstance(data, str) else "text")
    frame = both.message()
    assert (frame["topic"], frame["data"]) == (topic, data)


def test_base64_payload(client):
    both, topic = client(), unique("json")
    both.request("subscribe", topic=topic)
    both.request("publish", topic=topic, data="AP8A", dataType="base64")
    frame = both.message()
    assert (frame["dataType"], frame["data"]) == ("base64", "AP8A")


def test_publish_is_acknowledged_with_the_number_of_receivers(client):
    sender, receiver, topic = client(), client(), unique("json")
    assert sender.request("publish", topic=topic, data=1)["receivers"] == 0
    receiver.request("subscribe", topic=topic)
    assert sender.request("publish", topic=topic, data=1)["receivers"] == 1


def test_an_id_may_be_a_number(client):
    both = client()
    both.send("ping", id=7)
    assert both.receive() == {"type": "pong", "id": 7}


def test_wildcards_and_several_topics(client):
    both, topic = client(), unique("json")
    both.request("subscribe", topics=[f"{topic}/+/x", f"{topic}/y/#"])
    for name in ("1/x", "1/z", "y", "y/2"):
        both.request("publish", topic=f"{topic}/{name}", data=name)
    assert [frame["data"] for frame in both.messages(3)] == ["1/x", "y", "y/2"]


def test_overlapping_subscriptions_give_one_copy(client):
    both, topic = client(), unique("json")
    both.request("subscribe", topics=[f"{topic}/#", f"{topic}/a"])
    both.request("publish", topic=f"{topic}/a", data=1)
    assert both.message()["data"] == 1
    both.nothing_before(f"{topic}/a")


def test_unsubscribe(client):
    both, topic, mark = client(), unique("json"), unique("mark")
    both.request("subscribe", topics=[topic, mark])
    both.request("unsubscribe", topic=topic)
    both.request("publish", topic=topic, data="no")
    both.nothing_before(mark)


def test_no_local(client):
    both, other, topic = client(), client(), unique("json")
    both.request("subscribe", topic=topic, noLocal=True)
    both.request("publish", topic=topic, data="own")
    other.request("publish", topic=topic, data="other")
    assert both.message()["data"] == "other"


@pytest.mark.parametrize("handling, expected", [(None, True), ("send", True), ("new", True), ("none", False)])
def test_retained(client, handling, expected):
    both, topic = client(), unique("json")
    both.request("publish", topic=topic, data="kept", retain=True)
    both.request("subscribe", topic=topic, **({"retained": handling} if handling else {}))
    if expected:
        frame = both.message()
        assert frame["data"] == "kept" and frame["retained"] is True
    both.nothing_before(topic)


def test_share_divides_the_messages(client):
    topic, members = unique("json"), [client(), client()]
    for member in members:
        member.request("subscribe", topic=topic, share="g")
    sender = client()
    for number in range(20):
        sender.request("publish", topic=topic, data=number)
    got = []
    for member in members:
        member.fence()
        share = [frame["data"] for frame in member.kept if frame["type"] == "message"]
        assert len(share) >= 5, "fair"
        got += share
    assert sorted(got) == list(range(20))


def test_order_is_kept(client):
    both, topic = client(), unique("json")
    both.request("subscribe", topic=topic, qos=1)
    for number in range(200):
        both.send("publish", topic=topic, data=number)
    numbers = []
    for _ in range(200):
        frame = both.message()
        numbers.append(frame["data"])
        if "ackId" in frame:
            both.send("ack", ackId=frame["ackId"])
    assert numbers == list(range(200))


def test_properties_come_back(client):
    both, topic = client(), unique("json")
    carried = {
        "contentType": "text/plain",
        "correlationId": "7",
        "replyTo": "answers",
        "headers": {"one": ["1", "again"], "two": "2"},
    }
    both.request("subscribe", topic=topic)
    both.request("publish", topic=topic, data="x", expiresIn=60, **carried)
    frame = both.message()
    assert {name: frame[name] for name in carried} == carried
    assert frame.get("expiresIn") or frame.get("expiresAt")


def test_idempotency_key_makes_a_repeat_one_message(client):
    both, topic = client(), unique("json")
    both.request("subscribe", topic=topic)
    for _ in range(2):
        both.request("publish", topic=topic, data="once", idempotencyKey=topic)
    assert both.message()["data"] == "once"
    both.nothing_before(topic)


# --- acknowledging ------------------------------------------------------------------------------


def test_unacknowledged_comes_again_after_a_reconnect(client):
    name, topic = unique("json-again"), unique("json")
    session = {"clientId": name, "cleanStart": False, "session": {"expiry": 100}}
    first = client(**session)
    first.request("subscribe", topic=topic, qos=1)
    sender = client()
    for number in range(3):
        sender.request("publish", topic=topic, data=number, qos=1)
    frames = first.messages(3)
    first.request("ack", ackId=frames[0]["ackId"])
    first.drop()
    again = client(**session).messages(2)
    assert [(frame["data"], frame["redelivered"]) for frame in again] == [(1, True), (2, True)]


def test_nack_makes_it_come_again(client):
    both, topic = client(), unique("json")
    both.request("subscribe", topic=topic, qos=1)
    both.request("publish", topic=topic, data="work", qos=1)
    both.request("nack", ackId=both.message()["ackId"])
    again = both.message()
    assert again["data"] == "work" and again["redelivered"] is True and again["deliveryCount"] >= 1
    both.request("ack", ackIds=[again["ackId"]])


def test_nack_without_requeue_drops_it(client):
    both, topic = client(), unique("json")
    both.request("subscribe", topic=topic, qos=1)
    both.request("publish", topic=topic, data="work", qos=1)
    both.request("nack", ackId=both.message()["ackId"], requeue=False)
    both.nothing_before(topic)


def test_in_flight_bounds_what_is_open(client):
    both, topic = client(inFlight=2), unique("json")
    both.request("subscribe", topic=topic, qos=1)
    sender = client()
    for number in range(5):
        sender.request("publish", topic=topic, data=number, qos=1)
    both.fence()
    assert [frame["data"] for frame in both.kept] == [0, 1], "no more than two may be open"
    for number in range(5):
        frame = both.message()
        assert frame["data"] == number
        both.request("ack", ackId=frame["ackId"])


def test_ack_of_what_is_not_open_is_an_error(client):
    answer = client().ask("ack", ackId=123456)
    assert (answer["type"], answer["code"]) == ("error", "unknownMessage")


# --- errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "type, fields, code",
    [
        ("nonsense", {}, "unknownType"),
        ("publish", {}, "invalidFrame"),
        ("publish", {"topic": "a/#", "data": 1}, "topicInvalid"),
        ("publish", {"topic": 7, "data": 1}, "invalidFrame"),
        ("publish", {"topic": "t", "data": "%", "dataType": "base64"}, None),
        ("publish", {"topic": "$SYS/x", "data": 1}, None),
        ("subscribe", {"topic": "a/#/b"}, "filterInvalid"),
        ("subscribe", {"topic": "t", "qos": 3}, "invalidFrame"),
        ("subscribe", {}, "invalidFrame"),
        ("join", {}, "invalidFrame"),
    ],
)
def test_errors_name_the_frame_and_the_connection_goes_on(client, type, fields, code):
    both = client()
    answer = both.ask(type, **fields)
    assert answer["type"] == "error" and answer["message"] and answer["code"] == (code or answer["code"])
    both.request("ping")


def test_an_unknown_type_is_named_with_those_that_are_known(client):
    answer = client().ask("nonsense")
    assert "nonsense" in answer["message"] and "subscribe" in answer["message"]


def test_unknown_fields_are_ignored(client):
    both = client()
    both.request("ping", futureField={"a": 1})


def test_text_that_is_no_json_is_answered(client):
    both = client()
    both.ws.send("hello")
    answer = both.receive()
    assert (answer["type"], answer["code"]) == ("error", "malformed")


# --- liveness and slowness ----------------------------------------------------------------------


def test_ping_and_pong(client):
    assert client().request("ping")["type"] == "pong"


def test_a_silent_client_is_pinged_and_then_closed(start_broker):
    broker = start_broker(limits__json_ping_interval="1s", limits__json_pong_timeout="300ms")
    silent = json_client.Client.open(broker.http)
    assert json.loads(silent.ws.recv(timeout=5))["type"] == "ping"
    with pytest.raises(Closed):
        while True:
            frame = silent._read()
            assert frame["type"] == "disconnect" and frame["reason"] == "pingTimeout"


def test_answered_pings_keep_it_open(start_broker):
    broker = start_broker(limits__json_ping_interval="1s", limits__json_pong_timeout="300ms")
    alive = json_client.Client.open(broker.http)
    end = time.monotonic() + 2.5
    while time.monotonic() < end:
        assert json.loads(alive.ws.recv(timeout=5))["type"] == "ping"
        alive.send("pong")
    alive.request("ping")


def test_slow_consumer_gets_a_gap_notice_with_the_count(start_broker):
    """It stops reading; what its buffers cannot take at QoS 0 is dropped and counted."""
    broker = start_broker(limits__publisher_pause="0s")
    slow = json_client.Client.open(broker.http)
    slow.request("subscribe", topic="flood")
    sender = mqtt.Client.open(broker.mqtt)
    # websockets reads ahead only a little; the rest stays in sockets and in the broker.
    count, body = 300, b"x" * 100_000
    for number in range(count):
        sender.publish("flood", str(number).encode() + b" " + body)
    sender.fence()
    assert until(lambda: broker.metric("polycast_messages_dropped_total", reason="slow_consumer") > 0)
    sender.publish("flood", b"end", qos=1)
    delivered = dropped = 0
    gaps = 0
    while delivered + dropped < count + 1:
        frame = slow.receive()
        if frame["type"] == "message":
            delivered += 1
        elif frame["type"] == "gap":
            gaps += 1
            dropped += frame["dropped"]
    assert gaps and delivered + dropped == count + 1
