"""Topics to a function: a server that speaks the Invoke API, with signatures checked by botocore's own signer."""

import json
import re
import urllib.parse

import pytest
import servers
from answering import Answer, Answering
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from servers import until
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

    def invoke(call):
        url = f"http://{call.headers['host']}{call.path}"
        found, expected = signature_of(url, "POST", call.headers, call.body)
        event = json.loads(call.body)
        calls.append((urllib.parse.unquote(call.path), call.headers, event, found, expected))
        first = sum(1 for call in calls if call[2]["data"] == event["data"]) == 1
        wanted = 202 if call.headers["x-amz-invocation-type"] == "Event" else 200
        status, failed = {
            "bad": (413, False),
            "crash": (200, first),
            "busy": (429 if first else 200, False),
        }.get(str(event["data"]), (wanted, False))
        return Answer(status, headers={"X-Amz-Function-Error": "Unhandled"} if failed else {})

    with Answering(invoke) as server:
        server.calls = calls
        yield server


def settings(functions, function, *lines):
    return [f'endpoint = "{functions.url}"', f'function = "{function}"', 'region = "eu-west-1"', *lines]


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
