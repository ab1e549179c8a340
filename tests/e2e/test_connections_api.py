"""API Gateway's @connections and AWS IoT's data calls, with the SDKs of AWS."""

import datetime
import json
import os
import queue
import signal
import socket
import time
import urllib.parse

import boto3
import httpx
import paho.mqtt.client as paho
import pytest
import websockets
from botocore import auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import ClientError
from websockets.sync.client import connect

from support import json_client, mqtt, node, stomp, tokens
from support.waiting import PATIENCE, unique

KEY, SECRET = "AKIAPOLYCASTTEST", "the/secret+of=the-test"
SIGNED = {"api__aws_keys": f"{KEY} publish+subscribe+manage env:HOME"}
CASES = node.cases("aws.mjs")


def aws(service: str, url: str, secret: str = "any", key: str = KEY):
    return boto3.client(
        service,
        endpoint_url=url,
        region_name="eu-west-1",
        aws_access_key_id=key,
        aws_secret_access_key=secret,
        config=Config(retries={"max_attempts": 0}),
    )


@pytest.fixture(scope="module")
def signed(tmp_path_factory):
    """A broker that wants signatures; the secret is the content of HOME."""
    from support import process

    broker = process.start(tmp_path_factory.mktemp("signed"), **SIGNED)
    yield broker
    broker.stop()


@pytest.fixture(params=["open", "signed"])
def gateway(request, broker, signed):
    """A broker with the secret that it wants."""
    if request.param == "open":
        return broker, "any"
    return signed, os.environ["HOME"]


@pytest.fixture
def page(gateway):
    client = json_client.Client.open(gateway[0].http)
    yield client
    client.close()


def refused(call, *arguments, **options) -> tuple[str, int, str]:
    with pytest.raises(ClientError) as error:
        call(*arguments, **options)
    answer = error.value.response
    return type(error.value).__name__, answer["ResponseMetadata"]["HTTPStatusCode"], answer["Error"]["Message"]


@pytest.mark.parametrize("stage", ["", "/prod"])
def test_boto3_posts_looks_and_deletes(gateway, page, stage):
    broker, secret = gateway
    client = aws("apigatewaymanagementapi", broker.http_url(stage), secret)
    connection = page.connected["connectionId"]
    client.post_to_connection(ConnectionId=connection, Data=b'{"message":"hi"}')
    frame = page.message()
    assert (frame["topic"], frame["data"]) == (f"$connection/{connection}", {"message": "hi"})
    client.post_to_connection(ConnectionId=connection, Data=b"plain")
    assert page.message()["data"] == "plain"
    found = client.get_connection(ConnectionId=connection)
    assert isinstance(found["ConnectedAt"], datetime.datetime)
    assert found["LastActiveAt"] >= found["ConnectedAt"]
    assert found["Identity"]["SourceIp"] == "127.0.0.1"
    client.delete_connection(ConnectionId=connection)
    page.expect_closed()
    for call in (client.get_connection, client.delete_connection):
        assert refused(call, ConnectionId=connection)[:2] == ("GoneException", 410)
    assert refused(client.post_to_connection, ConnectionId=connection, Data=b"x")[:2] == ("GoneException", 410)


def test_what_boto3_is_told(gateway, page):
    broker, secret = gateway
    client = aws("apigatewaymanagementapi", broker.http_url("/prod"), secret)
    connection = page.connected["connectionId"]
    large = refused(client.post_to_connection, ConnectionId=connection, Data=b"x" * 131_073)
    assert large[:2] == ("PayloadTooLargeException", 413)
    client.post_to_connection(ConnectionId=connection, Data=b"x" * 131_072)
    assert len(page.message()["data"]) == 131_072
    assert refused(client.get_connection, ConnectionId="L0SM9cOFvHcCIhw=")[:2] == ("GoneException", 410)
    name, status, message = refused(client.get_connection, ConnectionId="no such thing")
    assert (status, message.startswith("Invalid connectionId")) == (400, True)


def test_connections_of_other_protocols(gateway):
    """The functions do not know what a client speaks."""
    broker, secret = gateway
    client = aws("apigatewaymanagementapi", broker.http_url("/prod"), secret)
    device, page = mqtt.Client.plain(broker.mqtt), stomp.Client.open(broker.stomp)
    name = unique("device")
    device.login(name)
    ids = {"stomp": page.connected["session"]}
    if secret == "any":
        ids["mqtt"] = httpx.get(broker.http_url(f"/api/v1/clients/{name}")).json()["connectionId"]
    for kind, connection in ids.items():
        client.post_to_connection(ConnectionId=connection, Data=b"to you")
        assert client.get_connection(ConnectionId=connection)["Identity"]["SourceIp"] == "127.0.0.1"
        message = device.message() if kind == "mqtt" else page.message()
        assert b"to you" in (message.payload if kind == "mqtt" else message.body)
        client.delete_connection(ConnectionId=connection)
        ended = device.expect_closed() if kind == "mqtt" else page.expect_closed()
        assert kind == "stomp" or ended[-1].reason == 0x98
        assert refused(client.get_connection, ConnectionId=connection)[:2] == ("GoneException", 410)


def test_a_client_that_reads_nothing_is_limited(start_broker):
    """429 is what the SDK retries; the connection is not gone."""
    broker = start_broker(limits__outbox_soft_size="64KiB")
    client = aws("apigatewaymanagementapi", broker.http_url("/prod"))
    stuck = stomp.Client.plain(broker.stomp)
    stuck.stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    stuck.login()
    connection = stuck.connected["session"]
    post = lambda: client.post_to_connection(ConnectionId=connection, Data=b"x" * 100_000)
    with pytest.raises(ClientError) as limited:
        for _ in range(1000):
            post()
    answer = limited.value.response
    assert (type(limited.value).__name__, answer["ResponseMetadata"]["HTTPStatusCode"]) == ("LimitExceededException", 429)
    assert answer["ResponseMetadata"]["HTTPHeaders"]["retry-after"] == "1"
    client.get_connection(ConnectionId=connection)


def test_wrong_signatures_are_forbidden(signed):
    for key, secret in ((KEY, "wrong"), ("AKIAOTHER", os.environ["HOME"])):
        client = aws("apigatewaymanagementapi", signed.http_url("/prod"), secret, key)
        assert refused(client.get_connection, ConnectionId="x")[:2] == ("ForbiddenException", 403)
    answer = httpx.get(signed.http_url("/prod/@connections/x"))
    assert (answer.status_code, answer.headers["x-amzn-errortype"]) == (403, "ForbiddenException")
    assert httpx.get(signed.http_url("/api/v1/clients")).status_code == 401
    assert os.environ["HOME"] not in signed.log_text().replace(str(signed.log.parent), "")


@pytest.mark.parametrize("prefix", ["", "/iot"])
def test_boto3_publishes_as_to_iot(gateway, prefix):
    broker, secret = gateway
    client = aws("iot-data", broker.http_url(prefix), secret)
    topic = unique("iot/a b")
    device = mqtt.Client.open(broker.mqtt)
    device.subscribe(f"{topic}/#", qos=1)
    before = time.time()
    client.publish(
        topic=topic,
        qos=1,
        retain=True,
        payload=b'{"t":1}',
        contentType="application/json",
        responseTopic="answers",
        messageExpiry=60,
        correlationData="YzE=",
        userProperties=json.dumps([{"a": "1"}, {"b": "2"}]),
        payloadFormatIndicator="UTF8_DATA",
    )
    packet = device.message()
    assert (packet.topic, packet.payload, packet.qos) == (topic, b'{"t":1}', 1)
    assert packet.properties["content_type"] == "application/json"
    assert packet.properties["response_topic"] == "answers"
    assert packet.properties["correlation_data"] in (b"c1", b"YzE=")
    assert [tuple(pair) for pair in packet.properties["user"]] == [("a", "1"), ("b", "2")]
    assert 0 < packet.properties["message_expiry"] <= 60
    kept = client.get_retained_message(topic=topic)
    moment = kept["lastModifiedTime"]
    assert (before - 1) * 1000 <= moment <= (time.time() + 1) * 1000
    assert (kept["payload"], kept["qos"], kept["topic"]) == (b'{"t":1}', 1, topic)
    assert json.loads(kept["userProperties"]) == [{"a": "1"}, {"b": "2"}]
    for n in range(3):
        client.publish(topic=f"{topic}/{n}", retain=True, payload=b"x")
        assert device.message().qos == 0
    found, moments, token = [], {}, None
    while True:
        page = client.list_retained_messages(maxResults=2, **({"nextToken": token} if token else {}))
        assert len(page["retainedTopics"]) <= 2
        found += [row["topic"] for row in page["retainedTopics"]]
        moments |= {row["topic"]: row["lastModifiedTime"] for row in page["retainedTopics"]}
        token = page.get("nextToken")
        if not token:
            break
    assert {topic, *(f"{topic}/{n}" for n in range(3))} <= set(found)
    assert len(found) == len(set(found))
    assert moments[topic] == moment <= moments[f"{topic}/0"] <= moments[f"{topic}/2"]
    assert refused(client.get_retained_message, topic=unique("none"))[:2] == ("ResourceNotFoundException", 404)
    assert refused(client.publish, topic="a/#", payload=b"x")[:2] == ("InvalidRequestException", 400)
    device.close()


def test_the_time_of_a_retained_message_survives_a_crash(start_broker, tmp_path):
    broker = start_broker(data=tmp_path)
    client = aws("iot-data", broker.http_url(""))
    client.publish(topic="kept", qos=1, retain=True, payload=b"x")
    moment = client.get_retained_message(topic="kept")["lastModifiedTime"]
    broker.signal(signal.SIGKILL)
    broker.process.wait(10)
    broker.stopped = True
    broker = start_broker(data=tmp_path)
    client = aws("iot-data", broker.http_url(""))
    assert client.get_retained_message(topic="kept")["lastModifiedTime"] == moment
    assert [row["lastModifiedTime"] for row in client.list_retained_messages()["retainedTopics"]] == [moment]
    client.publish(topic="kept", qos=1, retain=True, payload=b"x")
    assert client.get_retained_message(topic="kept")["lastModifiedTime"] > moment


def presigned(method: str, url: str, service: str, secret: str, expires: int = 60, token=None, late: int = 0) -> str:
    """An address that botocore signs, `late` seconds ago."""
    request = AWSRequest(method, url)
    signer = auth.SigV4QueryAuth(Credentials(KEY, secret, token), service, "eu-west-1", expires=expires)
    now = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(seconds=late)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(auth, "get_current_datetime", lambda: now)
        signer.add_auth(request)
    return request.url


def test_presigned_addresses(signed):
    secret = os.environ["HOME"]
    topic = unique("presigned/a b")
    path = urllib.parse.quote(topic, safe="")
    post = lambda url, **more: httpx.post(url, **more)
    url = presigned("POST", signed.http_url(f"/topics/{path}?qos=1&retain=true"), "iotdata", secret)
    # The body is signed too, and this one was signed with none.
    assert post(url).status_code == 200
    assert post(url, content=b"x").status_code == 403
    assert post(url.replace("qos=1", "qos=0")).status_code == 403
    assert post(url.replace("Expires=60", "Expires=600")).status_code == 403
    assert post(url[:-1] + ("0" if url[-1] != "0" else "1")).status_code == 403
    token = presigned("GET", signed.http_url("/retainedMessage"), "iotdata", secret, token="a/session+token=")
    assert httpx.get(token).status_code == 200
    assert httpx.get(token.replace("session", "s")).status_code == 403
    wrong = presigned("GET", signed.http_url("/retainedMessage"), "iotdata", "wrong")
    answer = httpx.get(wrong)
    assert (answer.status_code, answer.headers["x-amzn-errortype"]) == (403, "ForbiddenException")
    for late, status in ((50, 200), (70, 403)):
        url = presigned("GET", signed.http_url("/retainedMessage"), "iotdata", secret, late=late)
        assert httpx.get(url).status_code == status, late
    # The other interfaces take keys only.
    rest = presigned("GET", signed.http_url("/api/v1/clients"), "execute-api", secret)
    assert httpx.get(rest).status_code == 401


def test_devices_come_in_by_a_presigned_address(start_broker):
    """As the device SDKs of AWS IoT open MQTT over WebSocket: the token of a session comes behind the signature."""
    secret = os.environ["HOME"]
    broker = start_broker(
        api__aws_keys=f"{KEY} publish+subscribe env:HOME", auth__methods="token", auth__token_secret=tokens.SECRET)
    url = presigned("GET", f"http://127.0.0.1:{broker.http}/mqtt", "iotdevicegateway", secret)
    target = url.split(str(broker.http), 1)[1] + "&X-Amz-Security-Token=a%2Ftoken"
    device = paho.Client(paho.CallbackAPIVersion.VERSION2, "device", transport="websockets", protocol=paho.MQTTv311)
    came, got = queue.Queue(), queue.Queue()
    device.ws_set_options(path=target)
    device.on_connect = lambda client, data, flags, reason, properties: came.put(reason)
    device.on_message = lambda client, data, message: got.put(message.payload)
    device.on_subscribe = lambda *_: device.publish("t", b"hello")
    device.connect("127.0.0.1", broker.http)
    device.loop_start()
    assert not came.get(timeout=PATIENCE).is_failure
    device.subscribe("t")
    assert got.get(timeout=PATIENCE) == b"hello"
    device.loop_stop()
    # Nobody comes in by another address.
    for path in (target.replace("Expires=60", "Expires=61"), target.replace(KEY, "AKIAOTHER")):
        with pytest.raises(websockets.InvalidStatus) as refused:
            connect(f"ws://127.0.0.1:{broker.http}{path}", subprotocols=["mqtt"])
        assert refused.value.response.status_code == 403


@pytest.mark.parametrize("case", CASES)
def test_aws_sdk_for_javascript(gateway, case):
    broker, secret = gateway
    node.run("aws.mjs", case, str(broker.http), KEY, secret, unique(case))
