"""NATS to topics and back: a real nats-server with JetStream, filled by nats-py."""

import asyncio
import itertools

import nats as client
import pytest
import servers
from proxy import Proxy
from refusing import Refusing
from servers import until

numbers = itertools.count()


def run(server, work):
    """Runs a coroutine with a connection."""

    async def connected():
        connection = await client.connect(f"nats://{server.url.removeprefix('http://')}")
        try:
            return await work(connection)
        finally:
            await connection.close()

    return asyncio.run(connected())


def source(server, *lines, name="events"):
    settings = [f"[sources.{name}]", 'kind = "nats"', f'servers = ["nats://127.0.0.1:{server.port}"]']
    return "\n".join([*settings, *lines])


@pytest.fixture
def stream(nats):
    """A stream of a test's own, and a function that fills it."""
    name = f"S{next(numbers)}"

    async def make(connection):
        await connection.jetstream().add_stream(name=name, subjects=[f"{name}.>"])

    run(nats, make)
    return name


def pending(server, stream, consumer="polycast-bridge"):
    async def look(connection):
        info = await connection.jetstream().consumer_info(stream, consumer)
        return info.num_pending, info.num_ack_pending

    return run(server, look)


def test_core_subjects_become_topics(nats, bridge, subscriber):
    reader = subscriber("#")
    bridge(source(nats, 'subjects = ["core.>"]'))

    async def publish(connection):
        headers = {"tenant": "acme", "Content-Type": "text/plain", "qos": "2"}
        await connection.publish("core.orders.7", b"\x00hi", reply="answers.7", headers=headers)
        await connection.publish("core./.a//b", b"odd")
        await connection.flush()

    run(nats, publish)
    messages = {message.topic: message for message in reader.take(2)}
    first = messages["core/orders/7"]
    assert (first.payload, first.qos) == (b"\x00hi", 2)
    assert first.properties.ContentType == "text/plain"
    assert first.properties.ResponseTopic == "answers/7"
    assert first.user["tenant"] == "acme"
    assert messages["core//a.b"].payload == b"odd"


def test_a_stream_is_carried_in_order_and_acknowledged(nats, stream, bridge, subscriber):
    reader = subscriber(f"{stream}/#")

    async def publish(connection):
        for number in range(300):
            await connection.jetstream().publish(f"{stream}.{number % 3}", str(number).encode())

    run(nats, publish)
    bridge(source(nats, f'stream = "{stream}"', "max_in_flight = 20"))
    seen = {}
    for message in reader.take(300):
        seen.setdefault(message.topic, []).append(int(message.payload))
    assert seen == {f"{stream}/{lane}": list(range(lane, 300, 3)) for lane in range(3)}
    until(lambda: pending(nats, stream) == (0, 0), "all is acknowledged")


def test_the_same_message_identifier_is_published_once(nats, stream, bridge, subscriber):
    reader = subscriber(f"{stream}/#")
    running = bridge(source(nats, f'stream = "{stream}"', "remembered_keys = 0"))

    async def publish(connection):
        jetstream = connection.jetstream()
        for number in range(3):
            # The stream's own memory of identifiers is for the same subject of the same stream.
            headers = {"idempotency-key": "same", "number": str(number)}
            await jetstream.publish(f"{stream}.a", b"x", headers=headers)
        await jetstream.publish(f"{stream}.a", b"last")

    run(nats, publish)
    assert [message.payload for message in reader.take(2)] == [b"x", b"last"]
    until(lambda: pending(nats, stream) == (0, 0), "all is acknowledged")
    assert running.metric("published_total") == 4, "the broker, not the bridge, knew the key"


def test_poison_is_dead_lettered_and_holds_up_nothing(nats, stream, bridge, subscriber):
    reader = subscriber("#")
    bridge(source(nats, f'stream = "{stream}"', 'topic = "t/${body.n}"', 'dead_letter = "topic"', 'order = "stream"'))

    async def publish(connection):
        for body in (b'{"n":1}', b"poison", b'{"n":2}'):
            await connection.jetstream().publish(f"{stream}.a", body)

    run(nats, publish)
    topics = [message.topic for message in reader.take(3)]
    assert topics == ["t/1", "dead-letters/events", "t/2"]
    until(lambda: pending(nats, stream) == (0, 0), "all is acknowledged")


def test_a_durable_consumer_goes_on_where_it_was(nats, stream, bridge, subscriber):
    reader = subscriber(f"{stream}/#")
    running = bridge(source(nats, f'stream = "{stream}"'))

    def publish(text):
        async def work(connection):
            await connection.jetstream().publish(f"{stream}.a", text)

        run(nats, work)

    publish(b"1")
    assert reader.next().payload == b"1"
    until(lambda: pending(nats, stream) == (0, 0), "it is acknowledged")
    running.stop()
    publish(b"2")
    running.start()
    assert reader.next().payload == b"2"
    reader.nothing()


def test_the_server_may_go_and_come_back(bridge, subscriber, tmp_path):
    server = servers.nats_server(tmp_path)
    try:
        reader = subscriber("S/#")
        bridge(source(server, 'stream = "S"', 'subjects = ["S.>"]', "create_stream = true"))

        def publish(text):
            async def work(connection):
                await connection.jetstream().publish("S.a", text)

            run(server, work)

        publish(b"1")
        assert reader.next().payload == b"1"
        server.kill()
        server.start()
        publish(b"2")
        while (message := reader.next()).payload != b"2":
            assert message.payload == b"1", "what was not acknowledged in time comes again at most"
    finally:
        server.stop()


def fill(server, stream, *bodies):
    async def publish(connection):
        for subject, body in bodies:
            await connection.jetstream().publish(f"{stream}.{subject}", body)

    run(server, publish)


def test_what_is_refused_too_often_is_dead_and_can_be_replayed(nats, stream, broker, make_bridge, subscriber):
    """Two tries for each of three deliveries; the stream gives it again in between, and others are not held up."""
    reader, wire = subscriber(f"{stream}/#"), Refusing(broker.mqtt, f"{stream}/bad")
    try:
        limits = ["max_attempts = 2", "max_deliveries = 3", 'retry_min = "1ms"', 'retry_max = "50ms"']
        text = source(nats, f'stream = "{stream}"', *limits) + '\n[dead_letters]\nfolder = "dead"\n'
        running = make_bridge(wire.port, text)
        fill(nats, stream, ("bad", b"refused"), ("good", b"taken"))
        assert reader.next().payload == b"taken"
        until(lambda: running.metric("dead_lettered_total") == 1, "it is dead")
        until(lambda: pending(nats, stream) == (0, 0), "the stream need not keep it")
        assert wire.refused == 2 * 3
        # The other one was received once.
        assert running.metric("received_total") == 3 + 1
        (listed,) = running.command("dead-letters", "list").stdout.splitlines()
        name = listed.split("\t")[0]
        shown = running.command("dead-letters", "show", name).stdout
        assert "UnspecifiedError" in shown and "refused" in shown
        still = running.command("dead-letters", "replay", name)
        assert still.returncode != 0 and "UnspecifiedError" in still.stdout + still.stderr
        wire.refuses = False
        replayed = running.command("dead-letters", "replay", name)
        assert (replayed.returncode, replayed.stdout.strip()) == (0, f"{name}: published to {stream}/bad")
        assert reader.next().payload == b"refused"
        assert running.command("dead-letters", "list").stdout == ""
    finally:
        wire.close()


def test_a_stop_gives_back_at_once_what_was_not_published(nats, stream, broker, make_bridge):
    """Another consumer gets it long before the stream would have given up waiting for the bridge."""
    count, wire = 5, Proxy(broker.mqtt)
    try:
        running = make_bridge(wire.port, source(nats, f'stream = "{stream}"', 'ack_wait = "50min"'))
        until(lambda: running.fetch("/readyz")[0] == 200, "connected")
        wire.freeze()
        fill(nats, stream, *[("a", str(number).encode()) for number in range(count)])
        until(lambda: running.metric("in_flight") == count, "all are under way")
        assert pending(nats, stream) == (0, count)
        running.stop()

        async def fetch(connection):
            consumer = await connection.jetstream().pull_subscribe_bind("polycast-bridge", stream)
            messages = []
            while len(messages) < count:
                messages += await consumer.fetch(count - len(messages), timeout=servers.PATIENCE)
            return [(message.data, message.metadata.num_delivered) for message in messages]

        assert run(nats, fetch) == [(str(number).encode(), 2) for number in range(count)]
    finally:
        wire.close()
