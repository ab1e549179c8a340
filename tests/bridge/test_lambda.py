"""Topics to a function: a server that speaks the Invoke API, with signatures checked by botocore's own signer."""

import http.server
import json
import re
import threading
import urllib.parse

import pytest
import servers
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from servers import until
from support import process
from test_sinks import publish, sink, subscribed

SECRET = servers.CREDENTIALS["AWS_SECRET_ACCESS_KEY"]


def signature_of(url, method, headers, body):
    """What botocore would sign for this request."""
    said = re.fullmatch(
        r"AWS4-HMAC-SHA256 Credential=test/(\d+)/([\w-]+)/(\w+)/aws4_request, SignedHeaders=([\w;-]+), Signature=(\w+)",
        headers["authorization"],
    )
    assert said, headers["authorization"]
    _, region, service, signed, signature = said.groups()
    names = signed.split(";")
    assert {"host", "x-amz-date", "x-amz-invocation-type", "content-type"} <= set(names), names
    request = AWSRequest(method, url, {name: headers[name] for name in names}, body)
    request.context["timestamp"] = headers["x-amz-date"]
    auth = SigV4Auth(Credentials("test", SECRET), service, region)
    text = auth.string_to_sign(request, auth.canonical_request(request))
    return (region, service, signature), auth.signature(text, request)


@pytest.fixture
def functions():
    """Answers by the data: `bad` is refused, `crash` fails once, `busy` is throttled once."""
    calls = []

    class Invoke(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            url = f"http://{headers['host']}{self.path}"
            found, expected = signature_of(url, "POST", headers, body)
            event = json.loads(body)
            calls.append((urllib.parse.unquote(self.path), headers, event, found, expected))
            first = sum(1 for call in calls if call[2]["data"] == event["data"]) == 1
            wanted = 202 if headers["x-amz-invocation-type"] == "Event" else 200
            status, failed = {
                "bad": (413, False),
                "crash": (200, first),
                "busy": (429 if first else 200, False),
            }.get(str(event["data"]), (wanted, False))
            self.send_response(status)
            if failed:
                self.send_header("X-Amz-Function-Error", "Unhandled")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer((process.LOOPBACK, 0), Invoke)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    server.calls = calls
    yield server
    server.shutdown()


def settings(functions, function, *lines):
    return [f'endpoint = "http://127.0.0.1:{functions.server_port}"', f'function = "{function}"', 'region = "eu-west-1"', *lines]


def test_topics_to_a_function(functions, broker, bridge, subscriber):
    reader = subscriber("dead-letters/#")
    running = bridge(sink("fn", "lambda", *settings(functions, "orders")))
    subscribed(running, "fn")
    text = {"type": "text/plain", "tenant": "acme"}
    sent = [("orders/1", json.dumps({"n": 1}), {"tenant": "acme"})]
    sent += [(f"orders/{word}", word, text) for word in ("crash", "bad", "busy")]
    publish(broker.mqtt, *sent, ("orders/raw", b"\xff", {}))
    dead = reader.next()
    assert (dead.topic, dead.payload) == ("dead-letters/fn", b"bad")
    until(lambda: running.metric("acknowledged_total") == 5, "all are acknowledged")
    assert [call[2]["data"] for call in functions.calls] == [{"n": 1}, "crash", "crash", "bad", "busy", "busy", "/w=="]
    for path, headers, _, (region, service, signature), expected in functions.calls:
        assert path == "/2015-03-31/functions/orders/invocations"
        assert headers["x-amz-invocation-type"] == "RequestResponse"
        assert (region, service, signature) == ("eu-west-1", "lambda", expected)
    first = functions.calls[0][2]
    assert (first["topic"], first["dataType"], first["contentType"]) == ("orders/1", "json", "application/json")
    assert ["tenant", "acme"] in first["userProperties"]


def test_a_function_by_its_arn_without_waiting(functions, broker, bridge):
    arn = "arn:aws:lambda:eu-west-1:123456789012:function:orders:live"
    running = bridge(sink("fn", "lambda", *settings(functions, arn, "wait = false")))
    subscribed(running, "fn")
    publish(broker.mqtt, ("orders/1", "{}", {}))
    until(lambda: running.metric("acknowledged_total") == 1, "it is acknowledged")
    path, headers, _, (_, _, signature), expected = functions.calls[0]
    assert path == f"/2015-03-31/functions/{arn}/invocations"
    assert headers["x-amz-invocation-type"] == "Event"
    assert signature == expected
