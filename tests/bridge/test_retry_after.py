"""`Retry-After`: a sink's target that has too much to do says when it may be called again."""

import email.utils
import re
import time

import pytest
from answering import Answer, Answering
from servers import until
from test_sinks import publish, sink, subscribed

SECS = 2

# The bridge's clock counts whole milliseconds.
EARLY = 0.005


def in_seconds():
    return {"Retry-After": str(SECS)}


def as_date():
    # The answer's `Date` has whole seconds and may be of the next one already.
    return {"Retry-After": email.utils.formatdate(time.time() + SECS + 1, usegmt=True)}


def as_aws():
    return {"x-amz-retry-after": str(SECS * 1000)}


@pytest.fixture
def busy():
    """Starts a server that answers its first calls with a status and headers, all others well; it keeps when they came."""
    servers = []

    def start(status, headers, body=b"{}", first=1):
        def answer(call):
            server.times.append(time.monotonic())
            server.bodies.append(call.body)
            if len(server.times) <= first:
                return Answer(status, b"{}", headers())
            return Answer(200, body)

        server = Answering(answer)
        server.times, server.bodies = [], []
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.close()


KINDS = {
    "webhook": (["url = \"{url}/hook\""], b""),
    "lambda": (['endpoint = "{url}"', 'function = "f"', 'region = "eu-west-1"'], b"{}"),
    "eventbridge": (['endpoint = "{url}"', 'region = "eu-west-1"'], b'{"FailedEntryCount": 0, "Entries": [{"EventId": "1"}]}'),
    "sqs": (['endpoint = "{url}"', 'queue_url = "{url}/1/q"'], b'{"Successful": [{"Id": "0"}], "Failed": []}'),
}


def configured(kind, server, *more):
    lines, _ = KINDS[kind]
    return sink("out", kind, *[line.replace("{url}", server.url) for line in lines], 'linger = "0s"', *more)


CASES = [(kind, status, after) for kind in KINDS for status in (429, 503) for after in (in_seconds, as_date)]
CASES += [(kind, 400, as_aws) for kind in ("eventbridge", "sqs")]


@pytest.mark.parametrize(("kind", "status", "after"), CASES)
def test_the_sink_waits_until_then(kind, status, after, busy, broker, bridge):
    server = busy(status, after, KINDS[kind][1])
    running = bridge(configured(kind, server))
    subscribed(running, "out")
    publish(broker.mqtt, ("orders/1", '{"n": 1}', {}))
    until(lambda: running.metric("retry_after_total") == 1, "it is read")
    until(lambda: running.metric("acknowledged_total") == 1, "it is taken in the end")
    assert len(server.times) == 2
    assert server.times[1] - server.times[0] >= SECS - EARLY
    assert re.search(r'the target asks to be left alone sink="out" pause=[123]', running.log_text()), running.log_text()


def test_all_of_the_sink_waits_in_order_and_within_its_window(busy, broker, bridge):
    """Also with calls side by side, and with more messages than may be in flight."""
    server = busy(503, in_seconds)
    running = bridge(configured("webhook", server, "max_in_flight = 3"))
    subscribed(running, "out")
    bodies = [str(number).encode() for number in range(8)]
    publish(broker.mqtt, *[("orders/1", body, {}) for body in bodies])
    assert running.metric("in_flight") <= 3
    until(lambda: running.metric("acknowledged_total") == 8, "all are acknowledged")
    assert server.bodies == [bodies[0], *bodies], "in order"
    assert min(server.times[1:]) - server.times[0] >= SECS - EARLY


@pytest.mark.parametrize(("bound", "counted"), [("100ms", 1), ("0s", 0)])
def test_nobody_stops_a_sink_for_ever(bound, counted, busy, broker, bridge):
    server = busy(503, lambda: {"Retry-After": "9" * 30})
    running = bridge(configured("webhook", server, f'retry_after_max = "{bound}"'))
    subscribed(running, "out")
    publish(broker.mqtt, ("orders/1", "x", {}))
    until(lambda: running.metric("acknowledged_total") == 1, "it is taken")
    assert running.metric("retry_after_total") == counted


@pytest.mark.parametrize("after", ["soon", "-5", "Sun, 06 Nov 1994 08:49:37 GMT"])
def test_nonsense_and_the_past_count_for_nothing(after, busy, broker, bridge):
    server = busy(503, lambda: {"Retry-After": after})
    running = bridge(configured("webhook", server))
    subscribed(running, "out")
    publish(broker.mqtt, ("orders/1", "x", {}))
    until(lambda: running.metric("acknowledged_total") == 1, "it is taken")
    assert running.metric("retry_after_total") == 0


def test_a_stop_does_not_wait_and_loses_nothing(busy, broker, bridge):
    server = busy(429, lambda: {"Retry-After": "86400"})
    running = bridge(configured("webhook", server, 'retry_after_max = "1d"'))
    subscribed(running, "out")
    publish(broker.mqtt, ("orders/1", "x", {}))
    until(lambda: running.metric("retry_after_total") == 1, "it is read")
    running.stop()
    running.start()
    until(lambda: running.metric("acknowledged_total") == 1, "a bridge that starts anew asks anew")
    assert server.bodies == [b"x", b"x"]
