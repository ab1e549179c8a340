"""What the HTTP port answers besides WebSocket upgrades."""

import json
import re
import socket

import pytest

from support import mqtt
from support.waiting import until


@pytest.mark.parametrize("path", ["/demo", "/nothing/here", "/mqtt"])
def test_unknown_path_is_404_json(broker, path):
    status, body = broker.fetch(path)
    assert status == 404
    assert json.loads(body)["status"] == 404


def test_healthz(broker):
    status, _ = broker.fetch("/healthz")
    assert status == 200


def test_metrics_are_in_prometheus_form(broker, client):
    client()
    status, text = broker.fetch("/metrics")
    assert status == 200
    samples = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert samples
    for line in samples:
        assert re.fullmatch(r'(polycast|process)_[a-z0-9_]+(\{.*\})? [-+0-9.eE]+|polycast_\S+ NaN', line), line


def test_metrics_follow_what_happens(own_broker):
    client = mqtt.Client.open(own_broker.mqtt)
    client.subscribe("t", qos=1)
    client.publish("t", b"x", qos=1)
    client.message()
    assert until(lambda: own_broker.metric("polycast_messages_received_total", protocol="mqtt")) == 1
    assert until(lambda: own_broker.metric("polycast_messages_delivered_total", protocol="mqtt")) == 1
    assert own_broker.metric("polycast_connections", protocol="mqtt") == 1
    client.disconnect()
    until(lambda: own_broker.metric("polycast_connections", protocol="mqtt") == 0)


def talk(port: int, raw: bytes) -> bytes:
    """Sends bytes and reads until the server closes or falls silent."""
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.settimeout(10)
        try:
            sock.sendall(raw)
        except (ConnectionResetError, BrokenPipeError):
            pass
        answer = b""
        try:
            while more := sock.recv(65536):
                answer += more
        except ConnectionResetError:
            pass
        return answer


@pytest.mark.parametrize(
    "raw, statuses",
    [
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", (400,)),
        (b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", (400,)),
        (b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: +1\r\n\r\na", (400,)),
        (b"GET /healthz HTTP/1.1\r\nHost : x\r\n\r\n", (400,)),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\nA: b\rc: d\r\n\r\n", (400,)),
        (b"POST /x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n", (400, 404)),
        (b"GET / HTTP/1.1\r\nHost: x\r\nBig: " + bytes([65]) * 1_000_000 + b"\r\n\r\n", (431,)),
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"a: b\r\n" * 10_000 + b"\r\n", (431,)),
        (b"GET /" + b"a" * 1_000_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", (414, 431)),
        (b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00", (400,)),
        (b"NONSENSE\r\n\r\n", (400,)),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", (400,)),
    ],
    ids=["cl+te", "two-cl", "cl-plus", "space-before-colon", "bare-cr", "chunk-overflow", "1MB-header", "10k-headers"]
    + ["1MB-path", "mqtt", "nonsense", "tls"],
)
def test_s20_bad_requests_are_refused(broker, raw, statuses):
    """S20. Where the server closes before it has read all, the answer may be lost on the way."""
    answer = talk(broker.http, raw)
    status = int(answer.split(b" ")[1]) if answer else None
    assert status in (*statuses, *((None,) if len(raw) > 65536 else ())), answer[:200]
    assert broker.fetch("/healthz")[0] == 200, "others are undisturbed"


def test_s20_slow_headers_are_given_up(start_broker):
    broker = start_broker(limits__login_timeout="500ms")
    with socket.create_connection(("127.0.0.1", broker.http)) as sock:
        sock.settimeout(10)
        sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n")
        answer = sock.recv(1000)
        assert answer == b"" or b" 408 " in answer
