"""Ways in by HTTP: boto3's events client, API destinations, CloudEvents, SNS."""

import base64
import contextlib
import datetime
import json
import threading
import urllib.error
import urllib.request

import boto3
import botocore.config
import botocore.exceptions
import pytest
import servers
from answering import Answer, Answering
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509.oid import NameOID
from proxy import Proxy
from support import process

HTTP = '[http]\nlisten = "127.0.0.1:0"\n'
EVENTS = HTTP + '[sources.events]\nkind = "eventbridge"\ntopic = "events/${attributes.source}"\n'


def call(url, body=b"", method="POST", **headers):
    """Status, headers and body of a call."""
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(url, body if method != "OPTIONS" else None, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=servers.PATIENCE) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as refusal:
        return refusal.code, refusal.headers, refusal.read()


def events_client(bridge, secret="hush", **config):
    return boto3.client(
        "events",
        endpoint_url=bridge.url("/"),
        region_name="eu-west-1",
        aws_access_key_id="AKPOLY",
        aws_secret_access_key=secret,
        config=botocore.config.Config(retries={"max_attempts": 1, "mode": "standard"}, **config),
    )


KEYS = 'access_keys = { AKPOLY = "hush" }\n'


def test_put_events_with_results_for_each_entry(bridge, subscriber):
    reader = subscriber("#")
    client = events_client(bridge(EVENTS + KEYS))
    good = {"Source": "shop", "DetailType": "Paid", "Detail": '{"total": 12.50}', "Resources": ["arn:1"], "EventBusName": "b"}
    answer = client.put_events(
        Entries=[
            {**good, "Time": datetime.datetime(2024, 1, 1, tzinfo=datetime.timezone.utc)},
            {"Source": "shop", "Detail": "{}"},
            {**good, "Detail": "no JSON"},
            {**good, "Source": "a/b"},
            {**good, "Source": "other"},
        ]
    )
    assert answer["FailedEntryCount"] == 3
    codes = [entry.get("ErrorCode") for entry in answer["Entries"]]
    assert codes == [None, "InvalidArgument", "MalformedDetail", "InvalidArgument", None]
    messages = {message.topic: message for message in reader.take(2)}
    paid = messages["events/shop"]
    assert paid.payload == b'{"total": 12.50}'
    assert paid.properties.ContentType == "application/json"
    assert paid.user["detail-type"] == "Paid"
    assert paid.user["time"] == "2024-01-01T00:00:00Z"
    assert paid.user["id"] == answer["Entries"][0]["EventId"]
    assert paid.user["resource"] == "arn:1"
    assert "events/other" in messages
    reader.nothing()


def test_put_events_only_with_a_known_key(bridge, subscriber):
    running = bridge(EVENTS + KEYS)
    entry = {"Source": "s", "DetailType": "t", "Detail": "{}"}
    with pytest.raises(botocore.exceptions.ClientError) as refusal:
        events_client(running, secret="wrong").put_events(Entries=[entry])
    assert refusal.value.response["Error"]["Code"] == "AccessDeniedException"
    with pytest.raises(botocore.exceptions.ClientError) as refusal:
        events_client(running).put_events(Entries=[entry] * 11)
    assert refusal.value.response["Error"]["Code"] == "ValidationException"


def test_test_event_pattern(bridge):
    client = events_client(bridge(EVENTS + KEYS))
    event = json.dumps({"source": "shop", "detail": {"n": 5}})
    for pattern, expected in (('{"detail":{"n":[{"numeric":[">",4]}]}}', True), ('{"source":["x"]}', False)):
        assert client.test_event_pattern(EventPattern=pattern, Event=event)["Result"] is expected
    with pytest.raises(client.exceptions.InvalidEventPatternException):
        client.test_event_pattern(EventPattern='{"source":"x"}', Event=event)


def test_a_broker_that_is_away_is_said(make_bridge):
    running = make_bridge(process.free_port(), EVENTS + KEYS + 'auth.anonymous = true\n')
    status, headers, _ = call(running.url("/"), b'{"id":"1"}')
    assert status == 503 and int(headers["Retry-After"]) >= 1
    with pytest.raises(botocore.exceptions.ClientError) as refusal:
        events_client(running).put_events(Entries=[{"Source": "s", "DetailType": "t", "Detail": "{}"}])
    assert refusal.value.response["ResponseMetadata"]["HTTPStatusCode"] == 503
    assert running.fetch("/readyz")[0] == 503
    assert running.fetch("/healthz")[0] == 200


def test_an_api_destination(bridge, subscriber):
    reader = subscriber("#")
    auth = 'path = "/ingest"\n[sources.events.auth]\napi_key = "k"\nusername = "ann"\npassword = "p"\nclient_id = "c"\nclient_secret = "s"\n'
    running = bridge(EVENTS + auth)
    url = running.url("/ingest")

    def envelope(number):
        event = {"version": "0", "id": f"e-{number}", "detail-type": "Paid", "source": "shop", "detail": {"n": number}}
        return json.dumps(event).encode()

    assert call(url, envelope(0))[0] == 401
    assert call(url, envelope(0), x_api_key="wrong")[0] == 401
    assert call(url, envelope(1), x_api_key="k")[0] == 200
    basic = base64.b64encode(b"ann:p").decode()
    assert call(url, envelope(2), Authorization=f"Basic {basic}")[0] == 200
    status, _, token = call(url + "/token", b"grant_type=client_credentials&client_id=c&client_secret=s")
    assert status == 200
    token = json.loads(token)
    assert token["token_type"] == "Bearer"
    assert call(url, envelope(3), Authorization=f"Bearer {token['access_token']}")[0] == 200
    assert call(url, envelope(3), x_api_key="k")[0] == 200, "again: answered alike"
    assert [json.loads(message.payload)["n"] for message in reader.take(3)] == [1, 2, 3]
    reader.nothing()
    assert call(url, b"no envelope", x_api_key="k")[0] == 400
    assert call(url, b"", "GET", x_api_key="k")[0] == 405
    assert call(running.url("/elsewhere"))[0] == 404


def test_cloudevents(bridge, subscriber):
    reader = subscriber("#")
    settings = '[sources.hook]\nkind = "webhook"\npath = "/hook"\ntopic = "ce/${attributes.type}"\nallowed_origins = ["eventgrid"]\n'
    running = bridge(HTTP + settings + "answer_timeout = '15s'\nauth.api_key = 'k'\n")
    url = running.url("/hook")
    event = {"specversion": "1.0", "id": "1", "source": "/s", "type": "made", "data": {"a": 1}}
    headers = {"ce_specversion": "1.0", "ce_id": "0", "ce_source": "/s", "ce_type": "made", "Content_Type": "text/plain"}
    assert call(url, b"hi", x_api_key="k", **headers)[0] == 200
    assert call(url, json.dumps(event).encode(), x_api_key="k", Content_Type="application/cloudevents+json")[0] == 200
    batch = [{**event, "id": "2"}, {**event, "id": "3"}]
    assert call(url, json.dumps(batch).encode(), x_api_key="k", Content_Type="application/cloudevents-batch+json")[0] == 200
    messages = {message.user["id"]: message for message in reader.take(4)}
    assert sorted(messages) == ["0", "1", "2", "3"]
    assert messages["0"].payload == b"hi" and messages["0"].properties.ContentType == "text/plain"
    assert messages["1"].topic == "ce/made" and json.loads(messages["1"].payload) == {"a": 1}
    assert call(url, b"{}", x_api_key="k", Content_Type="application/cloudevents+json")[0] == 400
    status, answered, _ = call(url, method="OPTIONS", WebHook_Request_Origin="eventgrid")
    assert (status, answered["WebHook-Allowed-Origin"]) == (200, "eventgrid")
    assert call(url, method="OPTIONS", WebHook_Request_Origin="evil")[0] == 403
    assert call(url, b"x" * (2 << 20), x_api_key="k")[0] == 413


def test_a_batch_of_more_than_there_is_room_for(bridge, subscriber):
    reader = subscriber("#")
    settings = '[sources.hook]\nkind = "webhook"\npath = "/hook"\ntopic = "ce"\nmax_in_flight = 10\nanswer_timeout = "60s"\nauth.anonymous = true\n'
    url = bridge(HTTP + settings).url("/hook")
    batch = [{"specversion": "1.0", "id": str(number), "source": "/s", "type": "made", "data": number} for number in range(500)]
    status, _, said = call(url, json.dumps(batch).encode(), Content_Type="application/cloudevents-batch+json")
    assert status == 200, said
    assert sorted(int(message.payload) for message in reader.take(500)) == list(range(500))
    reader.nothing()


def test_under_pressure_callers_are_told_when_to_come_again(broker, make_bridge, subscriber):
    """Too many requests at a time: 429; slower than the time that a caller has: 503. What they send again is published once."""
    reader, wire = subscriber("#"), Proxy(broker.mqtt)
    try:
        text = HTTP + "max_requests = 1\n" + EVENTS.removeprefix(HTTP) + 'auth.anonymous = true\nanswer_timeout = "2s"\n'
        running = make_bridge(wire.port, text)
        servers.until(lambda: running.fetch("/readyz")[0] == 200, "connected")
        wire.freeze()
        event = {"version": "0", "id": "e-1", "detail-type": "Paid", "source": "shop", "detail": {}}
        first = []
        calling = threading.Thread(target=lambda: first.append(call(running.url("/"), json.dumps(event).encode())))
        calling.start()
        servers.until(lambda: running.metric("in_flight") == 1, "it waits for the broker")
        status, headers, _ = call(running.url("/"), json.dumps({**event, "id": "e-2"}).encode())
        assert status == 429 and int(headers["Retry-After"]) >= 1
        calling.join()
        status, headers, _ = first[0]
        assert status == 503 and int(headers["Retry-After"]) >= 1
        wire.thaw()
        for number in ("e-1", "e-2"):
            assert call(running.url("/"), json.dumps({**event, "id": number}).encode())[0] == 200
        assert sorted(message.user["id"] for message in reader.take(2)) == ["e-1", "e-2"]
        reader.nothing()
    finally:
        wire.close()


class FakeSns:
    """Signs as SNS does, and says where its certificate is and whether it was called back."""

    def __init__(self):
        self.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "sns.test")])
        now = datetime.datetime.now(datetime.timezone.utc)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(self.key.public_key())
            .serial_number(1 << 100)
            .not_valid_before(now)
            .not_valid_after(now + datetime.timedelta(days=1))
            .sign(self.key, hashes.SHA256())
        )
        pem = certificate.public_bytes(serialization.Encoding.PEM)
        self.called = called = []

        def answer(call):
            called.append(call.path)
            return Answer(body=pem)

        self.server = Answering(answer)
        self.url = self.server.url

    def message(self, kind, version="2", **fields):
        message = {"Type": kind, "MessageId": "m-1", "TopicArn": "arn:t", "Timestamp": "now", **fields}
        names = {"Notification": ["Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type"]}
        signed = names.get(kind, ["Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type"])
        text = "".join(f"{name}\n{message[name]}\n" for name in signed if name in message)
        digest = hashes.SHA256() if version == "2" else hashes.SHA1()
        signature = self.key.sign(text.encode(), padding.PKCS1v15(), digest)
        message |= {"SignatureVersion": version, "Signature": base64.b64encode(signature).decode()}
        return message | {"SigningCertURL": f"{self.url}/cert.pem"}


@contextlib.contextmanager
def fake_sns():
    sns = FakeSns()
    yield sns
    sns.server.close()


def test_an_sns_subscription(bridge, subscriber):
    reader = subscriber("#")
    with fake_sns() as sns:
        settings = f'[sources.sns]\nkind = "sns"\ntopic = "sns/${{meta.sns-subject:-none}}"\ntopic_arns = ["arn:t"]\nendpoint = "{sns.url}"\n'
        url = bridge(HTTP + settings).url("/sns")

        def post(message):
            return call(url, json.dumps(message).encode(), Content_Type="text/plain; charset=UTF-8")[0]

        confirmation = sns.message("SubscriptionConfirmation", Message="confirm", Token="x", SubscribeURL=f"{sns.url}/confirm")
        assert post(confirmation) == 200
        assert "/confirm" in sns.called
        evil = sns.message("SubscriptionConfirmation", Message="c", Token="x", SubscribeURL="http://127.0.0.1:1/")
        assert post(evil) == 403
        attributes = {"who": {"Type": "String", "Value": "ann"}}
        for version in ("1", "2"):
            message = sns.message("Notification", version, Message=f"v{version}", Subject="news", MessageId=f"n-{version}")
            assert post({**message, "MessageAttributes": attributes}) == 200
            received = reader.next()
            assert (received.topic, received.payload, received.user["who"]) == ("sns/news", f"v{version}".encode(), "ann")
        assert post({**message, "Message": "changed"}) == 403
        assert post({**message, "TopicArn": "arn:other"}) == 403
        assert post({**message, "SigningCertURL": "http://127.0.0.1:1/cert.pem"}) == 403
        assert call(url, b"no JSON")[0] == 400
        assert sns.called.count("/cert.pem") == 1, "it is remembered"
        reader.nothing()
