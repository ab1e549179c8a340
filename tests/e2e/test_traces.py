"""The trace that a request belongs to crosses protocols: HTTP header, MQTT user property, STOMP header, JSON header."""

import http.server
import json
import queue
import threading
import urllib.request

import pytest

from support import mqtt, pages, process
from support.speakers import SPEAKERS, Message
from support.waiting import unique

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
STATE = "vendor=1"


def post(broker, path: str, body: dict, **headers: str) -> None:
    request = urllib.request.Request(
        broker.http_url(path), json.dumps(body).encode(), {"Content-Type": "application/json"} | headers
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.status == 200


@pytest.mark.parametrize("receiver", SPEAKERS)
def test_from_http(broker, receiver):
    topic = unique("traced")
    reader = SPEAKERS[receiver](broker)
    reader.subscribe(topic)
    post(broker, "/api/v1/publish", {"topic": topic, "data": "x"}, traceparent=TRACE, tracestate=STATE)
    assert reader.receive().user == [("traceparent", TRACE), ("tracestate", STATE)]
    batch = {"messages": [{"topic": topic, "data": "y"}, {"topic": topic, "data": "z", "headers": {"traceparent": "own"}}]}
    post(broker, "/api/v1/publish/batch", batch, traceparent=TRACE)
    assert reader.receive().user == [("traceparent", TRACE)]
    assert reader.receive().user == [("traceparent", "own")], "the message's own comes first"
    post(broker, "/api/v1/publish", {"topic": topic, "data": "x"}, traceparent="nonsense")
    assert reader.receive().user == []


def test_the_command_of_the_page(own_broker, tmp_path):
    block = next(block for block in pages.blocks("traces.md") if block.kind == "sh")
    reader = SPEAKERS["json"](own_broker)
    reader.subscribe("a")
    pages.run(block, own_broker, tmp_path)
    assert reader.receive().user == [("traceparent", TRACE)]


@pytest.mark.parametrize("sender", SPEAKERS)
@pytest.mark.parametrize("receiver", SPEAKERS)
def test_from_client_to_client(broker, sender, receiver):
    topic = unique("traced")
    reader = SPEAKERS[receiver](broker)
    reader.subscribe(topic)
    user = [("traceparent", TRACE), ("tracestate", STATE)]
    SPEAKERS[sender](broker).publish(Message(payload=b"x", user=user).on(topic))
    assert reader.receive().user == user


@pytest.fixture
def collector():
    """What a collector was sent, and where it listens."""
    sent = queue.Queue()

    class Collector(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            sent.put((self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer((process.LOOPBACK, 0), Collector)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield sent, f"http://{process.LOOPBACK}:{server.server_port}/v1/traces"
    server.shutdown()


def test_sampled_publishes_are_exported(start_broker, collector):
    sent, url = collector
    broker = start_broker(telemetry__otlp_traces=url)
    client = mqtt.Client.plain(broker.mqtt)
    client.login("traced")
    client.subscribe("a/b")
    client.publish("a/b", b"silent", qos=1, props={"user": [("traceparent", TRACE[:-1] + "0")]})
    client.publish("a/b", b"told", qos=1, props={"user": [("traceparent", TRACE)]})
    path, request = sent.get(timeout=20)
    assert path == "/v1/traces"
    (resource,) = request["resourceSpans"]
    assert {"key": "service.name", "value": {"stringValue": "polycast"}} in resource["resource"]["attributes"]
    (span,) = resource["scopeSpans"][0]["spans"]
    assert (span["traceId"], span["parentSpanId"]) == tuple(TRACE.split("-")[1:3])
    assert span["name"] == "publish a/b"
    assert int(span["endTimeUnixNano"]) >= int(span["startTimeUnixNano"]) > 0
    client.close()
