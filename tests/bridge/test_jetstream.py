"""What a stream is told when an event cannot be published: later, not at all, or that somebody else may have it."""

from proxy import Proxy
from refusing import Refusing
from servers import PATIENCE, until
from test_nats import pending, run, source, stream  # noqa: F401
from test_operation import labelled

PUBLISHED = 5


def fill(server, stream, *bodies):
    async def publish(connection):
        for subject, body in bodies:
            await connection.jetstream().publish(f"{stream}.{subject}", body)

    run(server, publish)


def test_what_is_refused_too_often_is_dead_and_can_be_replayed(nats, stream, broker, make_bridge, subscriber):  # noqa: F811
    """Two tries for each of three deliveries; the stream gives it again in between, and others are not held up."""
    reader, wire = subscriber(f"{stream}/#"), Refusing(broker.mqtt, f"{stream}/bad")
    try:
        limits = ["max_attempts = 2", "max_deliveries = 3", 'retry_min = "1ms"', 'retry_max = "50ms"']
        text = source(nats, f'stream = "{stream}"', *limits) + '\n[dead_letters]\nfolder = "dead"\n'
        running = make_bridge(wire.port, text)
        fill(nats, stream, ("bad", b"refused"), ("good", b"taken"))
        assert reader.next().payload == b"taken"
        until(lambda: labelled(running, "dead_lettered_total", "events") == 1, "it is dead")
        until(lambda: pending(nats, stream) == (0, 0), "the stream need not keep it")
        assert wire.refused == 2 * 3
        # The other one was received once.
        assert labelled(running, "received_total", "events") == 3 + 1
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


def test_a_stop_gives_back_at_once_what_was_not_published(nats, stream, broker, make_bridge):  # noqa: F811
    """Another consumer gets it long before the stream would have given up waiting for the bridge."""
    wire = Proxy(broker.mqtt)
    try:
        running = make_bridge(wire.port, source(nats, f'stream = "{stream}"', 'ack_wait = "50min"'))
        until(lambda: running.fetch("/readyz")[0] == 200, "connected")
        wire.freeze()
        fill(nats, stream, *[("a", str(number).encode()) for number in range(PUBLISHED)])
        until(lambda: labelled(running, "in_flight", "events") == PUBLISHED, "all are under way")
        assert pending(nats, stream) == (0, PUBLISHED)
        running.stop()

        async def fetch(connection):
            consumer = await connection.jetstream().pull_subscribe_bind("polycast-bridge", stream)
            messages = []
            while len(messages) < PUBLISHED:
                messages += await consumer.fetch(PUBLISHED - len(messages), timeout=PATIENCE)
            return [(message.data, message.metadata.num_delivered) for message in messages]

        assert run(nats, fetch) == [(str(number).encode(), 2) for number in range(PUBLISHED)]
    finally:
        wire.close()
