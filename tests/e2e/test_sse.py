"""Server-Sent Events, read with httpx as they come."""

import contextlib
import json
import signal
import socket
import threading

import httpx
import pytest

from support import mqtt
from support.waiting import unique, until


class Stream:
    """An open stream of events."""

    def __init__(self, broker, opened: contextlib.ExitStack, headers=None, **query):
        url = broker.http_url("/api/v1/subscribe")
        client = opened.enter_context(httpx.Client(timeout=20))
        self.answer = opened.enter_context(client.stream("GET", url, params=query, headers=headers))
        self.opened = opened
        self.lines = self.answer.iter_lines() if self.answer.status_code == 200 else None

    def event(self) -> dict:
        """The next event, by its fields; comments are left out."""
        fields = {}
        for line in self.lines:
            if not line:
                if fields:
                    return fields
            elif not line.startswith(":"):
                name, value = line.split(": ", 1)
                fields[name] = fields[name] + "\n" + value if name in fields else value
        raise EOFError

    def message(self) -> dict:
        event = self.event()
        assert "event" not in event, event
        return json.loads(event["data"]) | ({"id": event["id"]} if "id" in event else {})

    def close(self):
        self.opened.close()


@pytest.fixture
def stream():
    """Opens streams; they are closed afterwards."""
    with contextlib.ExitStack() as all_opened:

        def open_stream(broker, headers=None, **query) -> Stream:
            opened = all_opened.enter_context(contextlib.ExitStack())
            stream = Stream(broker, opened, headers, **query)
            if stream.answer.status_code == 200:
                assert stream.event()["event"] == "connected"
            return stream

        yield open_stream


def publish(broker, topic, data, **fields):
    answer = httpx.post(broker.http_url("/api/v1/publish"), json={"topic": topic, "data": data, **fields})
    assert answer.status_code in (200, 202), answer.text
    return answer.json()["receivers"]


def test_messages_of_every_protocol_come_as_events(broker, client, stream):
    topic, group = unique("sse"), unique("sse-group")
    events = stream(broker, topic=[f"{topic}/+", f"{topic}/x/#"], group=group)
    assert events.answer.headers["content-type"] == "text/event-stream"
    client().publish(f"{topic}/a", b"from a device", qos=1)
    message = events.message()
    assert (message["type"], message["topic"], message["data"]) == ("message", f"{topic}/a", "from a device")
    assert publish(broker, f"{topic}/x/y", {"n": [1, 2]}, headers={"h": "v"}) == 1
    message = events.message()
    assert (message["data"], message["headers"]) == ({"n": [1, 2]}, {"h": "v"})
    httpx.post(broker.http_url("/api/v1/publish"), json={"group": group, "data": "to the group"})
    assert events.message()["group"] == group
    pretty = '{"a":\n1,\r\n\n"b": 2}'
    url = broker.http_url("/api/v1/publish")
    httpx.post(url, params={"topic": f"{topic}/p"}, content=pretty, headers={"content-type": "application/json"})
    assert events.message()["data"] == {"a": 1, "b": 2}


def test_retained_messages_come_first(broker, stream):
    topic = unique("sse/retained")
    publish(broker, topic, "kept", retain=True)
    message = stream(broker, topic=topic).message()
    assert (message["data"], message["retained"]) == ("kept", True)
    events = stream(broker, topic=topic, retained="false")
    publish(broker, topic, "live")
    assert events.message()["data"] == "live"


def test_a_stream_is_a_client_and_can_be_ended(broker, stream):
    topic = unique("sse/kick")
    events = stream(broker, topic=topic)
    rows = httpx.get(broker.http_url("/api/v1/clients"), params={"protocol": "sse"}).json()["clients"]
    assert {row["transport"] for row in rows} == {"http"}
    for row in rows:
        assert httpx.delete(broker.http_url(f"/api/v1/connections/{row['connectionId']}")).status_code == 204
    last = events.event()
    assert last["event"] == "close" and json.loads(last["data"])["reason"] == "administrative"
    with pytest.raises(EOFError):
        events.event()


def test_a_stream_that_is_closed_leaves_nothing_behind(own_broker, stream):
    topic = unique("sse/gone")
    events = stream(own_broker, topic=topic)
    assert own_broker.metric("polycast_http_streams") == 1
    events.close()
    until(lambda: own_broker.metric("polycast_http_streams") == 0)
    assert own_broker.metric("polycast_subscriptions") == 0
    assert publish(own_broker, topic, 1) == 0


def test_a_named_session_keeps_what_its_client_missed(broker, stream):
    topic, name = unique("sse/kept"), unique("session")
    events = stream(broker, topic=topic, session=name)
    for n in range(5):
        publish(broker, topic, n)
    first = [events.message() for _ in range(5)]
    assert [message["data"] for message in first] == list(range(5))
    events.close()
    clients = broker.http_url("/api/v1/clients")
    until(lambda: not httpx.get(clients, params={"clientIdPrefix": f"sse//{name}"}).json()["clients"])
    assert publish(broker, topic, 5) == 1
    # It had read up to the third: what came behind that comes again, and what it missed.
    events = stream(broker, {"last-event-id": first[2]["id"]}, topic=topic, session=name)
    assert [events.message()["data"] for _ in range(3)] == [3, 4, 5]
    publish(broker, topic, 6)
    assert events.message()["data"] == 6


def test_kept_messages_survive_kill_9(start_broker, tmp_path, stream):
    broker = start_broker(data=tmp_path)
    events = stream(broker, topic="t", session="s")
    publish(broker, "t", 0)
    last = events.message()["id"]
    for n in range(1, 4):
        assert publish(broker, "t", n) == 1
    broker.process.send_signal(signal.SIGKILL)
    broker.process.wait()
    broker.stopped = True
    broker = start_broker(data=tmp_path)
    events = stream(broker, {"last-event-id": last}, topic="t", session="s")
    assert [events.message()["data"] for _ in range(3)] == [1, 2, 3]


def test_more_than_the_replay_flows(start_broker, stream):
    broker = start_broker(api__stream_replay=4)
    events = stream(broker, topic="t", session="s")
    for n in range(50):
        assert publish(broker, "t", n) == 1
    assert [events.message()["data"] for _ in range(50)] == list(range(50))
    row = httpx.get(broker.http_url("/api/v1/sessions")).json()["sessions"][0]
    assert row["queued"] <= 9


def test_silence_is_filled(start_broker):
    broker = start_broker(api__stream_heartbeat="1s")
    url = broker.http_url("/api/v1/subscribe")
    with httpx.stream("GET", url, params={"topic": "t"}, timeout=20) as answer:
        comments = (line for line in answer.iter_lines() if line.startswith(":"))
        assert [next(comments) for _ in range(2)] == [":", ":"]


@pytest.mark.parametrize(
    "query",
    [{}, {"topic": "a/#/b"}, {"topic": "a", "qos": "2"}, {"topic": "a", "session": ""}, {"topic": "a", "lastEventId": "x"}],
    ids=["nothing", "filter", "qos", "session", "event-id"],
)
def test_what_is_wrong_is_said_before_a_stream_begins(own_broker, query):
    answer = httpx.get(own_broker.http_url("/api/v1/subscribe"), params=query)
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"
    assert own_broker.metric("polycast_http_streams") == 0


def test_streams_are_bounded(start_broker, stream):
    broker = start_broker(api__streams=1)
    held = stream(broker, topic="t")
    answer = httpx.get(broker.http_url("/api/v1/subscribe"), params={"topic": "t"})
    assert (answer.status_code, answer.json()["code"]) == (503, "busy")
    held.close()
    until(lambda: broker.metric("polycast_http_streams") == 0)
    assert stream(broker, topic="t").answer.status_code == 200


def test_who_reads_nothing_is_given_up_and_slows_nobody(start_broker):
    broker = start_broker(limits__slow_consumer_timeout="1s", limits__outbox_soft_size="64KiB")
    with socket.create_connection(("127.0.0.1", broker.http)) as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.sendall(b"GET /api/v1/subscribe?topic=t HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert slow.recv(64).startswith(b"HTTP/1.1 200")
        device = mqtt.Client.open(broker.mqtt)
        payload = b"x" * 60_000

        def is_given_up():
            device.publish("t", payload, qos=1)
            return broker.metric("polycast_http_streams") == 0

        until(is_given_up, patience=30)
        assert broker.metric("polycast_messages_dropped_total", reason="slow_consumer") > 0
        device.close()


def test_the_broker_ends_streams_when_it_stops(own_broker, stream):
    events = stream(own_broker, topic="t")
    seen = []
    reader = threading.Thread(target=lambda: seen.append(events.event()))
    reader.start()
    own_broker.stop()
    reader.join(10)
    assert json.loads(seen[0]["data"])["reason"] == "shutdown"


def test_keys_of_browsers_are_in_the_query(start_broker, stream, tmp_path):
    secret = tmp_path / "key"
    secret.write_text("the-key")
    broker = start_broker(api__keys=f"web subscribe file:{secret}")
    assert stream(broker, topic="t").answer.status_code == 401
    assert stream(broker, topic="t", access_token="the-key").answer.status_code == 200
    assert stream(broker, {"authorization": "Bearer the-key"}, topic="t").answer.status_code == 200
