"""Topics to queues, buses, subjects and webhooks, from a durable session."""

import asyncio
import base64
import itertools
import json
import threading

import nats as client
import paho.mqtt.client as paho
import pytest
import servers
from answering import Answer, Answering
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from servers import until
from test_nats import run

numbers = itertools.count()


def publish(port, *messages):
    """Publishes (topic, payload, user properties) at QoS 1 and waits for each PUBACK."""
    sender = paho.Client(paho.CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
    sender.connect(servers.LOOPBACK, port)
    sender.loop_start()
    for topic, payload, user in messages:
        properties = Properties(PacketTypes.PUBLISH)
        properties.UserProperty = list(user.items())
        properties.ContentType = user.get("type", "application/json")
        sender.publish(topic, payload, qos=1, properties=properties).wait_for_publish(20)
    sender.disconnect()
    sender.loop_stop()


@pytest.fixture
def queue(moto):
    sqs = servers.aws(moto, "sqs")
    name = f"sink-{next(numbers)}"
    return sqs, sqs.create_queue(QueueName=name)["QueueUrl"]


def sink(name, kind, *lines):
    return "\n".join([f"[sinks.{name}]", f'kind = "{kind}"', 'filters = ["orders/#"]', *lines, ""])


def subscribed(running, name):
    until(lambda: f'subscribed sink="{name}"' in running.log_text(), "the sink is subscribed")


def receive(sqs, url, count):
    got = []

    def enough():
        answer = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10, MessageAttributeNames=["All"], AttributeNames=["All"])
        got.extend(answer.get("Messages", []))
        return len(got) >= count

    until(enough, f"{count} messages are there")
    return got


def test_topics_to_sqs(moto, queue, broker, bridge):
    sqs, url = queue
    running = bridge(sink("out", "sqs", f'queue_url = "{url}"', f'endpoint = "{moto.url}"'))
    subscribed(running, "out")
    publish(broker.mqtt, *[(f"orders/{n}", str(n), {"tenant": "acme"}) for n in range(25)])
    publish(broker.mqtt, ("orders/raw", b"\xff", {}), ("other", "x", {}))
    messages = receive(sqs, url, 26)
    bodies = {message["MessageAttributes"]["topic"]["StringValue"]: message for message in messages}
    assert {bodies[f"orders/{n}"]["Body"] for n in range(25)} == {str(n) for n in range(25)}
    assert bodies["orders/7"]["MessageAttributes"]["tenant"]["StringValue"] == "acme"
    assert base64.b64decode(bodies["orders/raw"]["Body"]) == b"\xff"
    until(lambda: running.metric("acknowledged_total") == 26, "all are acknowledged")


def test_topics_to_a_fifo_queue(moto, broker, bridge):
    sqs = servers.aws(moto, "sqs")
    url = sqs.create_queue(QueueName=f"sink-{next(numbers)}.fifo", Attributes={"FifoQueue": "true"})["QueueUrl"]
    settings = [f'queue_url = "{url}"', f'endpoint = "{moto.url}"', 'group = "${meta.topic}"', 'deduplication = "${body.n}"']
    running = bridge(sink("out", "sqs", *settings))
    subscribed(running, "out")
    publish(broker.mqtt, *[("orders/a", json.dumps({"n": n}), {}) for n in (1, 2, 2, 3)])
    until(lambda: running.metric("acknowledged_total") == 4, "all are acknowledged")
    messages = receive(sqs, url, 3)
    assert [json.loads(message["Body"])["n"] for message in messages] == [1, 2, 3]
    assert messages[0]["Attributes"]["MessageGroupId"] == "orders/a"


def test_topics_to_a_bus(moto, queue, broker, bridge, subscriber):
    sqs, url = queue
    arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    events = servers.aws(moto, "events")
    rule = f"sink-{next(numbers)}"
    events.put_rule(Name=rule, EventPattern='{"source":["acme"]}')
    events.put_targets(Rule=rule, Targets=[{"Id": "q", "Arn": arn}])
    reader = subscriber("dead-letters/#")
    settings = [f'endpoint = "{moto.url}"', 'region = "us-east-1"', 'source = "${attributes.tenant}"']
    running = bridge(sink("bus", "eventbridge", *settings))
    subscribed(running, "bus")
    publish(broker.mqtt, ("orders/7", '{"n": 1}', {"tenant": "acme"}), ("orders/8", "no object", {"tenant": "acme"}))
    event = json.loads(receive(sqs, url, 1)[0]["Body"])
    assert (event["source"], event["detail-type"], event["detail"]) == ("acme", "orders/7", {"n": 1})
    dead = reader.next()
    assert (dead.topic, dead.payload) == ("dead-letters/bus", b"no object")
    assert dead.user["dead-letter-topic"] == "orders/8"


def test_topics_to_jetstream_and_back_without_a_circle(nats, broker, bridge, subscriber):
    name = f"OUT{next(numbers)}"
    server = f'servers = ["nats://127.0.0.1:{nats.port}"]'

    async def collect():
        connection = await client.connect(f"nats://127.0.0.1:{nats.port}")
        jetstream = connection.jetstream()
        await jetstream.add_stream(name=name, subjects=["orders.>"])
        try:
            source = f'[sources.back]\nkind = "nats"\nstream = "{name}"\n{server}\n'
            settings = [server, "jetstream = true", 'message_id = "${attributes.key}"']
            running = await asyncio.to_thread(bridge, source + sink("js", "nats", *settings))
            await asyncio.to_thread(subscribed, running, "js")
            sent = [("orders/7/a.b", "1", {"key": "1", "tenant": "acme"}), ("orders/7", "1", {"key": "1"}), ("orders/8", "2", {"key": "2"})]
            await asyncio.to_thread(publish, broker.mqtt, *sent)
            subscription = await jetstream.pull_subscribe("orders.>", durable="reader")
            messages = []
            while len(messages) < 2:
                messages += await subscription.fetch(2 - len(messages), timeout=servers.PATIENCE)
            assert [message.subject for message in messages] == ["orders.7.a//b", "orders.8"], "the second was known"
            assert messages[0].headers["tenant"] == "acme"
            assert messages[0].headers["Content-Type"] == "application/json"
            await asyncio.to_thread(until, lambda: running.metric("skipped_total") == 2, "they do not come back")
        finally:
            await jetstream.delete_stream(name)
            await connection.close()

    asyncio.run(collect())


def test_topics_to_a_webhook_that_fails_at_first(broker, bridge, subscriber):
    calls = []

    def hook(call):
        calls.append(call)
        first = sum(1 for other in calls if other.body == call.body) == 1
        return Answer(400 if call.body == b"bad" else 503 if first else 200)

    with Answering(hook) as server:
        reader = subscriber("dead-letters/#")
        url = f'url = "{server.url}/hook/${{attributes.tenant}}"'
        running = bridge(sink("hook", "webhook", url, 'headers = { authorization = "Bearer x" }'))
        subscribed(running, "hook")
        messages = [("orders/1", "one", {"tenant": "acme"}), ("orders/2", "bad", {"tenant": "acme"}), ("orders/3", "two", {"tenant": "acme"})]
        publish(broker.mqtt, *messages)
        assert reader.next().payload == b"bad"
        until(lambda: running.metric("acknowledged_total") == 3, "all are acknowledged")
        assert [call.body for call in calls] == [b"one", b"one", b"bad", b"two", b"two"], "in order"
        headers = calls[0].headers
        assert calls[0].path == "/hook/acme"
        assert (headers["topic"], headers["authorization"], headers["x-user-tenant"]) == ("orders/1", "Bearer x", "acme")


def test_a_sink_goes_on_where_it_was(moto, queue, broker, bridge):
    sqs, url = queue
    running = bridge(sink("out", "sqs", f'queue_url = "{url}"', f'endpoint = "{moto.url}"'))
    subscribed(running, "out")
    running.stop()
    publish(broker.mqtt, *[(f"orders/{n}", str(n), {}) for n in range(5)])
    running.start()
    assert {message["Body"] for message in receive(sqs, url, 5)} == {str(n) for n in range(5)}


def test_the_broker_dies_in_the_middle_of_a_sink(nats, tmp_path, make_bridge):
    """What it had acknowledged to publishers reaches the stream, each message once by its `Nats-Msg-Id`."""
    count, stream, broker = 300, f"OUT{next(numbers)}", servers.LastingBroker(tmp_path)

    async def make(connection):
        await connection.jetstream().add_stream(name=stream, subjects=["orders.>"])

    async def stored(connection):
        return (await connection.jetstream().stream_info(stream)).state.messages

    async def read(connection):
        subscription = await connection.jetstream().pull_subscribe("orders.>", durable="reader")
        bodies = []
        while len(bodies) < count:
            bodies += [int(message.data) for message in await subscription.fetch(count - len(bodies), timeout=servers.PATIENCE)]
        return bodies

    async def remove(connection):
        await connection.jetstream().delete_stream(stream)

    run(nats, make)
    try:
        settings = [f'servers = ["nats://127.0.0.1:{nats.port}"]', "jetstream = true", 'message_id = "${attributes.key}"', "max_in_flight = 5"]
        running = make_bridge(broker.port, sink("js", "nats", *settings))
        subscribed(running, "js")
        messages = [("orders/7", str(number), {"key": str(number)}) for number in range(count)]
        sending = threading.Thread(target=publish, args=(broker.port, *messages))
        sending.start()
        until(lambda: run(nats, stored) >= count // 3, "a third has come")
        assert sending.is_alive(), "the fault is in the middle"
        broker.kill()
        broker.start()
        sending.join()
        assert sorted(run(nats, read)) == list(range(count))
        until(lambda: running.metric("in_flight") == 0, "all is settled")
        assert run(nats, stored) == count
        running.stop()
    finally:
        run(nats, remove)
        broker.stop()
