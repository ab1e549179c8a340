"""`Retry-After`: a target that has too much to do says when it may be asked again."""

import email.utils
import time

import pytest

from support import mqtt
from support.functions import Raw, lambda_target, settings, webhook
from support.waiting import until
from test_functions import ask, ok, open_client, serve  # noqa: F401
from test_functions_topics import messages, rule

SECS = 2

# The broker's clock counts whole milliseconds.
EARLY = 0.005


def in_seconds():
    return str(SECS)


def as_date():
    # The answer's `Date` has whole seconds and may be of the next one already.
    return email.utils.formatdate(time.time() + SECS + 1, usegmt=True)


class Busy:
    """Answers its first calls with a status and a `Retry-After`, all others well; keeps when they came."""

    def __init__(self, after, status=503, first=1):
        self.after, self.status, self.first = after, status, first
        self.times = []

    def __call__(self, event):
        self.times.append(time.monotonic())
        if len(self.times) > self.first:
            return {"statusCode": 200}
        return Raw(self.status, b"{}", {"Retry-After": self.after() if callable(self.after) else self.after})


def obeyed(broker):
    return broker.metric("polycast_function_retry_after_total", target="f")


def publisher(broker):
    client = mqtt.Client.plain(broker.mqtt)
    client.login()
    return client


@pytest.mark.parametrize("after", [in_seconds, as_date])
@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("target", [lambda_target, webhook])
def test_what_waits_is_held_back(serve, start_broker, target, status, after):
    """The event that met it, and those that come meanwhile for the same target by another rule."""
    busy = Busy(after, status)
    server = serve(f=busy)
    topics = [rule(), rule("other", "other/#")]
    broker = start_broker(**settings([target(server, "f")], topics=topics))
    client = publisher(broker)
    client.publish("sensors/1", b"1", qos=1)
    until(lambda: obeyed(broker) == 1, "it is read")
    client.publish("other/1", b"2", qos=1)
    server.until_called(3, "TOPIC")
    assert sorted(messages(server)) == [1, 1, 2]
    assert min(busy.times[1:]) - busy.times[0] >= SECS - EARLY
    assert obeyed(broker) == 1


def test_who_comes_and_goes_is_held_back(serve, start_broker):
    busy = Busy(in_seconds)
    server = serve(f=busy)
    broker = start_broker(**settings([webhook(server, "f")], lifecycle="f"))
    publisher(broker).drop()
    server.until_called(1, "disconnected")
    assert [call.event["eventType"] for call in server.calls] == ["connected", "connected", "disconnected"]
    assert busy.times[1] - busy.times[0] >= SECS - EARLY


@pytest.mark.parametrize("bound, counted", [("100ms", 1), ("0s", 0)])
def test_nobody_stops_what_waits_for_ever(serve, start_broker, bound, counted):
    server = serve(f=Busy("9" * 30))
    broker = start_broker(**settings([webhook(server, "f")], topics=[rule()], retry_after_max=bound))
    publisher(broker).publish("sensors/1", b"1", qos=1)
    server.until_called(2, "TOPIC")
    assert obeyed(broker) == counted


def test_a_target_that_asks_again_and_again_meets_the_end_of_patience(serve, start_broker):
    server = serve(f=Busy("1", first=10**9))
    configured = settings([webhook(server, "f")], topics=[rule()], retry_after_max="50ms", retry_for="300ms")
    broker = start_broker(**configured)
    publisher(broker).publish("sensors/1", b"1", qos=1)
    until(lambda: broker.metric("polycast_function_dead_letters_total", target="f") == 1, "it is given up")
    assert obeyed(broker) == len(server.calls) >= 2


@pytest.mark.parametrize("after", ["soon", "-5", "Sun, 06 Nov 1994 08:49:37 GMT"])
def test_nonsense_and_the_past_count_for_nothing(serve, start_broker, after):
    server = serve(f=Busy(after))
    broker = start_broker(**settings([webhook(server, "f")], topics=[rule()]))
    publisher(broker).publish("sensors/1", b"1", qos=1)
    server.until_called(2, "TOPIC")
    assert obeyed(broker) == 0


def test_at_most_once_is_not_offered_meanwhile(serve, start_broker):
    server = serve(f=Busy("60"))
    broker = start_broker(**settings([webhook(server, "f")], topics=[rule(qos=0)]))
    client = publisher(broker)
    client.publish("sensors/1", b"1", qos=1)
    until(lambda: obeyed(broker) == 1, "it is read")
    client.publish("sensors/1", b"2", qos=1)
    refused = lambda: broker.metric("polycast_function_calls_total", target="f", result="refused")  # noqa: E731
    until(lambda: refused() == 1, "the second is not offered")
    assert messages(server) == [1]
    assert broker.metric("polycast_function_dead_letters_total", target="f") == 2


def test_the_broker_stops_in_the_middle_of_it_and_loses_nothing(serve, start_broker, tmp_path):
    server = serve(f=Busy("3600"))
    configured = settings([webhook(server, "f")], topics=[rule()], retry_after_max="1h")
    broker = start_broker(data=tmp_path, **configured)
    publisher(broker).publish("sensors/1", b"1", qos=1)
    until(lambda: obeyed(broker) == 1, "it is read")
    broker.stop()
    start_broker(data=tmp_path, **configured)
    server.until_called(2, "TOPIC")
    assert messages(server) == [1, 1], "a broker that starts anew asks anew"


def test_clients_that_wait_for_an_answer_are_not_put_off(serve, start_broker):
    busy = Busy("60")
    server = serve(f=busy)
    routes = {"$default": {"target": "f", "response": True}}
    broker = start_broker(**settings([webhook(server, "f")], routes))
    client = open_client(broker)
    assert "Internal server error" in ask(client, "1")
    client.send(1, "2")
    server.until_called(2, "MESSAGE")
    assert obeyed(broker) == 0
