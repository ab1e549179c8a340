"""SQS to topics: moto's queue over the real wire, filled by boto3 as a function would."""

import base64
import itertools
import json

import pytest
import servers
from servers import until

numbers = itertools.count()


@pytest.fixture
def sqs(moto):
    return servers.aws(moto, "sqs")


@pytest.fixture
def queue(sqs):
    """Makes queues."""

    def make(**attributes):
        fifo = attributes.get("FifoQueue") == "true"
        name = f"queue-{next(numbers)}{'.fifo' if fifo else ''}"
        return sqs.create_queue(QueueName=name, Attributes=attributes)["QueueUrl"]

    return make


def source(moto, url, *lines, name="orders"):
    settings = [f"[sources.{name}]", 'kind = "sqs"', f'queue_url = "{url}"', f'endpoint = "{moto.url}"', 'wait_time = "1s"']
    return "\n".join([*settings, *lines])


def counts(sqs, url):
    names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    found = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
    return tuple(int(found[name]) for name in names)


def is_empty(sqs, url):
    return lambda: counts(sqs, url) == (0, 0)


def text(value):
    return {"DataType": "String", "StringValue": value}


def test_attributes_choose_the_topic_and_travel_along(moto, sqs, queue, bridge, subscriber):
    url = queue()
    reader = subscriber("#")
    bridge(source(moto, url))
    attributes = {
        "topic": text("orders/7/new"),
        "content-type": text("application/json"),
        "response-topic": text("answers/7"),
        "correlation-data": text("c-1"),
        "tenant": text("acme"),
        "count": {"DataType": "Number", "StringValue": "3"},
        "raw": {"DataType": "Binary", "BinaryValue": b"\x00\xff"},
    }
    sent = sqs.send_message(QueueUrl=url, MessageBody='{"total": 12.50}', MessageAttributes=attributes)
    message = reader.next()
    assert (message.topic, message.payload, message.qos) == ("orders/7/new", b'{"total": 12.50}', 1)
    assert message.properties.ContentType == "application/json"
    assert message.properties.ResponseTopic == "answers/7"
    assert message.properties.CorrelationData == b"c-1"
    assert message.user["tenant"] == "acme"
    assert message.user["count"] == "3"
    assert message.user["raw"] == base64.b64encode(b"\x00\xff").decode()
    assert sent["MessageId"]
    until(is_empty(sqs, url), "the queue is empty")


def test_a_template_over_the_body(moto, sqs, queue, bridge, subscriber):
    url = queue()
    reader = subscriber("orders/#")
    bridge(source(moto, url, 'topic = "orders/${body.customerId}/new"', "qos = 2"))
    sqs.send_message(QueueUrl=url, MessageBody='{"customerId": 42}')
    message = reader.next()
    assert (message.topic, message.qos) == ("orders/42/new", 2)


def test_envelopes_are_opened(moto, sqs, queue, bridge, subscriber):
    """An event on a bus and a notification of a topic reach the queue by moto's own services."""
    url = queue()
    arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    events, sns = servers.aws(moto, "events"), servers.aws(moto, "sns")
    rule = f"rule-{next(numbers)}"
    events.put_rule(Name=rule, EventPattern='{"source":["shop"]}')
    events.put_targets(Rule=rule, Targets=[{"Id": "q", "Arn": arn}])
    topic = sns.create_topic(Name=f"topic-{next(numbers)}")["TopicArn"]
    sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn)
    reader = subscriber("events/#")
    bridge(source(moto, url, 'topic = "events/${attributes.detail-type:-sns}"'))
    events.put_events(Entries=[{"Source": "shop", "DetailType": "Paid", "Detail": '{"order": 7}'}])
    message = reader.next()
    assert message.topic == "events/Paid"
    assert json.loads(message.payload) == {"order": 7}
    assert message.user["source"] == "shop"
    assert message.user["id"] and message.user["time"]
    sns.publish(TopicArn=topic, Message="hello", MessageAttributes={"who": text("ann")})
    message = reader.next()
    assert (message.topic, message.payload, message.user["who"]) == ("events/sns", b"hello", "ann")


def test_fifo_keeps_the_order_of_each_group(moto, sqs, queue, bridge, subscriber):
    url = queue(FifoQueue="true", ContentBasedDeduplication="true")
    reader = subscriber("fifo/#")
    for number in range(60):
        group = f"g{number % 3}"
        body = json.dumps({"group": group, "number": number})
        sqs.send_message(QueueUrl=url, MessageBody=body, MessageGroupId=group)
    bridge(source(moto, url, 'topic = "fifo/${group}"'))
    seen = {}
    for message in reader.take(60):
        seen.setdefault(message.topic, []).append(json.loads(message.payload)["number"])
    assert seen == {f"fifo/g{group}": list(range(group, 60, 3)) for group in range(3)}
    until(is_empty(sqs, url), "the queue is empty")


def test_many_messages_from_several_queues_in_batches(moto, sqs, queue, bridge, subscriber):
    urls = [queue(), queue()]
    reader = subscriber("many/#")
    for number in range(40):
        for url in urls:
            entries = [{"Id": str(n), "MessageBody": str(number * 10 + n)} for n in range(10)]
            sqs.send_message_batch(QueueUrl=url, Entries=entries)
    text = source(moto, urls[0], 'topic = "many/${meta.queue}"', "max_in_flight = 50", "pollers = 1")
    running = bridge(text.replace(f'queue_url = "{urls[0]}"', f"queue_urls = {json.dumps(urls)}"))
    messages = reader.take(800)
    for url in urls:
        name = url.rsplit("/", 1)[1]
        numbers = sorted(int(message.payload) for message in messages if message.topic == f"many/{name}")
        assert numbers == list(range(400))
        until(is_empty(sqs, url), "the queue is empty")

    until(lambda: running.metric("acknowledged_total") >= 800, "all are counted")
    assert running.metric("received_total") >= 800
    assert running.metric("in_flight") == 0
    assert running.fetch("/readyz")[0] == 200


def test_a_bridge_that_is_killed_loses_nothing(moto, sqs, queue, bridge, subscriber):
    url = queue(FifoQueue="true", ContentBasedDeduplication="true")
    reader = subscriber("killed/#")
    for start in range(0, 200, 10):
        entries = [{"Id": str(n), "MessageBody": str(start + n), "MessageGroupId": f"g{n % 4}"} for n in range(10)]
        sqs.send_message_batch(QueueUrl=url, Entries=entries)
    running = bridge(source(moto, url, 'topic = "killed/${group}"', 'visibility_timeout = "10s"', "qos = 2"))
    messages = reader.take(50)
    running.kill()
    running.start()
    messages += reader.take(150, 40)
    seen = {}
    for message in messages:
        seen.setdefault(message.topic, []).append(int(message.payload))
    assert seen == {f"killed/g{group}": [n for n in range(200) if n % 10 % 4 == group] for group in range(4)}
    until(is_empty(sqs, url), "the queue is empty")
    reader.nothing()


def test_poison_is_left_to_the_redrive_policy(moto, sqs, queue, bridge, subscriber):
    dead = queue()
    arn = sqs.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    url = queue(RedrivePolicy=json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": 2}))
    reader = subscriber("#")
    bridge(source(moto, url, 'topic = "orders/${body.customerId}"', 'visibility_timeout = "1s"'))
    sqs.send_message(QueueUrl=url, MessageBody="no JSON")
    sqs.send_message(QueueUrl=url, MessageBody='{"customerId": 1}')
    assert reader.next().topic == "orders/1"
    until(lambda: counts(sqs, dead) == (1, 0), "it is in the dead-letter queue")
    reader.nothing()


def test_dead_letters_are_kept_listed_and_replayed(moto, sqs, queue, bridge, subscriber, broker):
    url = queue()
    reader = subscriber("#")
    running = bridge("[dead_letters]\nfolder = \"dead\"\n" + source(moto, url, 'topic = "orders/${body.customerId}"'))
    sqs.send_message(QueueUrl=url, MessageBody='{"client": 7}', MessageAttributes={"a": text("1")})
    until(is_empty(sqs, url), "the queue is empty")
    until(lambda: running.metric("dead_lettered_total") == 1, "it is counted")
    reader.nothing()
    listed = running.command("dead-letters", "list").stdout
    name = listed.split("\t")[0]
    assert "orders" in listed and "body.customerId" in listed
    assert json.loads(running.command("dead-letters", "show", name).stdout)["text"] == '{"client": 7}'
    failed = running.command("dead-letters", "replay", "--all")
    assert failed.returncode == 1 and "body.customerId" in failed.stdout
    running.config.write_text(running.config.read_text().replace("body.customerId", "body.client"))
    replayed = running.command("dead-letters", "replay", name)
    assert (replayed.returncode, replayed.stdout.strip()) == (0, f"{name}: published to orders/7")
    message = reader.next()
    assert (message.topic, message.payload, message.user["a"]) == ("orders/7", b'{"client": 7}', "1")
    assert running.command("dead-letters", "list").stdout == ""


def test_a_filter_holds_back(moto, sqs, queue, bridge, subscriber):
    url = queue()
    reader = subscriber("#")
    pattern = '{"body":{"total":[{"numeric":[">",100]}]}}'
    bridge(source(moto, url, 'topic = "big"', f"filter = '{pattern}'"))
    for total in (50, 150, 99, 101):
        sqs.send_message(QueueUrl=url, MessageBody=json.dumps({"total": total}))
    totals = sorted(json.loads(message.payload)["total"] for message in reader.take(2))
    assert totals == [101, 150]
    until(is_empty(sqs, url), "the queue is empty")
    reader.nothing()


def test_objects_in_a_bucket_become_messages(moto, sqs, queue, bridge, subscriber):
    """S3's notifications, sent by moto's own S3; its test message at the beginning is nobody's."""
    url = queue()
    arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    s3, bucket = servers.aws(moto, "s3"), f"bucket-{next(numbers)}"
    s3.create_bucket(Bucket=bucket)
    reader = subscriber("uploads/#")
    running = bridge(source(moto, url, 'envelope = "s3"', 'topic = "uploads/${attributes.bucket}"'))
    wanted = {"QueueArn": arn, "Events": ["s3:ObjectCreated:*"]}
    s3.put_bucket_notification_configuration(Bucket=bucket, NotificationConfiguration={"QueueConfigurations": [wanted]})
    until(lambda: running.metric("skipped_total") == 1, "the test message is skipped")
    s3.put_object(Bucket=bucket, Key="a b/\u00e9.txt", Body=b"x")
    message = reader.next()
    assert message.topic == f"uploads/{bucket}"
    assert (message.user["bucket"], message.user["key"]) == (bucket, "a b/\u00e9.txt")
    assert message.user["event-name"].startswith("ObjectCreated:")
    assert json.loads(message.payload)["Records"][0]["s3"]["object"]["size"] == 1
    until(is_empty(sqs, url), "both are deleted")


def test_explain_says_what_would_be_published(moto, queue, bridge, tmp_path):
    running = bridge(source(moto, queue(), 'topic = "orders/${body.customerId}"'))
    message = {"MessageId": "m-1", "Body": '{"customerId":7}', "MessageAttributes": {"a": {"DataType": "String", "StringValue": "1"}}}
    file = tmp_path / "message.json"
    file.write_text(json.dumps(message))
    said = json.loads(running.command("explain", "--source", "orders", "--message", str(file)).stdout)
    assert said["topic"] == "orders/7"
    assert ["a", "1"] in said["userProperties"]
    assert ["idempotency-key", "orders/m-1"] in said["userProperties"]
    file.write_text("no JSON")
    said = json.loads(running.command("explain", "--source", "orders", "--message", str(file)).stdout)
    assert "body.customerId" in said["deadLetter"]
    name = running.config.read_text().split('"')[1]
    message["MessageAttributes"]["polycast-via"] = {"DataType": "String", "StringValue": f"other,{name}"}
    file.write_text(json.dumps(message))
    said = json.loads(running.command("explain", "--source", "orders", "--message", str(file)).stdout)
    assert said == {"skipped": "it has been through this bridge"}
    good = running.command("check-config")
    assert good.returncode == 0 and "1 sources" in good.stdout
    running.config.write_text(running.config.read_text() + "[sources.x]\nkind = 'sqs'\nqos = 9\nwhat = 1\n")
    bad = running.command("check-config")
    assert bad.returncode == 2
    for problem in ("sources.x.qos", "sources.x.what", "sources.x.queue_url"):
        assert problem in bad.stderr, bad.stderr
