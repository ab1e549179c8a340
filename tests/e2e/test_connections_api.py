"""API Gateway's @connections and AWS IoT's data calls, with the SDKs of AWS."""

import datetime
import json
import os

import boto3
import httpx
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from support import json_client, mqtt, node
from support.waiting import unique

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
    assert (kept["payload"], kept["qos"], kept["topic"]) == (b'{"t":1}', 1, topic)
    assert json.loads(kept["userProperties"]) == [{"a": "1"}, {"b": "2"}]
    for n in range(3):
        client.publish(topic=f"{topic}/{n}", retain=True, payload=b"x")
        assert device.message().qos == 0
    found, token = [], None
    while True:
        page = client.list_retained_messages(maxResults=2, **({"nextToken": token} if token else {}))
        assert len(page["retainedTopics"]) <= 2
        found += [row["topic"] for row in page["retainedTopics"]]
        token = page.get("nextToken")
        if not token:
            break
    assert {topic, *(f"{topic}/{n}" for n in range(3))} <= set(found)
    assert len(found) == len(set(found))
    assert refused(client.get_retained_message, topic=unique("none"))[:2] == ("ResourceNotFoundException", 404)
    assert refused(client.publish, topic="a/#", payload=b"x")[:2] == ("InvalidRequestException", 400)
    device.close()


@pytest.mark.parametrize("case", CASES)
def test_aws_sdk_for_javascript(gateway, case):
    broker, secret = gateway
    node.run("aws.mjs", case, str(broker.http), KEY, secret, unique(case))
