"""What an operator sees and does: the broker away for a while, loops, partial failures, stops, samples."""

import json
import threading
import time

import pytest
import servers
import test_nats
from answering import Answer, Answering
from proxy import Proxy
from queues import Sqs
from servers import until
from support import process
from test_sinks import publish, sink, subscribed
from wire import Refusal, Service

COUNT = 400
"""Messages through a sink."""

LEASE = 1
"""Seconds after which a source would give an event to somebody else."""


def labelled(running, name, source):
    """A metric of one source."""
    _, text = running.fetch("/metrics")
    return float(next(line.split()[-1] for line in text.splitlines() if line.startswith(f'polycast_bridge_{name}{{source="{source}"}}')))


class Queue:
    """An SQS queue; it says how often its messages were hidden for longer."""

    def __init__(self, _nats):
        self.server = Sqs(fifo=False)
        url = f"{self.server.url}/1/q"
        self.settings = f'kind = "sqs"\nendpoint = "{self.server.url}"\nqueue_url = "{url}"\nwait_time = "1s"\nvisibility_timeout = "2s"\n'

    def send(self):
        entry = {"Id": "0", "MessageBody": "x"}
        with self.server.lock:
            self.server.SendMessageBatch({"Entries": [entry]})

    def until_extended(self):
        until(lambda: self.server.extended >= 6, "it was hidden for longer again and again")

    def until_forgotten(self):
        until(lambda: not self.server.groups, "it is deleted")

    def stop(self):
        self.server.stop()


class Stream:
    """A stream whose messages are delivered again unless somebody says that they are in progress."""

    def __init__(self, nats):
        self.nats = nats
        self.name = f"AWAY{next(test_nats.numbers)}"
        self.settings = (
            f'kind = "nats"\nservers = ["nats://127.0.0.1:{nats.port}"]\nstream = "{self.name}"\nsubjects = ["{self.name}.>"]\n'
            f'create_stream = true\nack_wait = "{LEASE}s"\n'
        )

    def send(self):
        async def work(connection):
            await connection.jetstream().publish(f"{self.name}.a", b"x")

        test_nats.run(self.nats, work)

    def until_extended(self):
        end = time.monotonic() + 4 * LEASE
        until(lambda: time.monotonic() > end, "it would have been delivered again")

    def until_forgotten(self):
        until(lambda: test_nats.pending(self.nats, self.name) == (0, 0), "it is acknowledged")

    def stop(self):
        async def work(connection):
            await connection.jetstream().delete_stream(self.name)

        test_nats.run(self.nats, work)


@pytest.mark.parametrize("kind", [Queue, Stream])
def test_an_event_is_kept_while_the_broker_is_away(kind, nats, broker, make_bridge, subscriber):
    """It is received once, however long the broker is away; the numbers of the source say what goes on."""
    source, wire = kind(nats), Proxy(broker.mqtt)
    try:
        reader = subscriber("t")
        running = make_bridge(wire.port, f'[sources.s]\n{source.settings}topic = "t"\n')
        until(lambda: running.fetch("/readyz")[0] == 200, "connected")
        wire.sever()
        until(lambda: running.fetch("/readyz")[0] == 503, "the broker is away")
        assert running.fetch("/healthz")[0] == 200, "which is no reason to start it anew"
        source.send()
        until(lambda: labelled(running, "in_flight", "s") == 1, "it is under way")
        source.until_extended()
        assert labelled(running, "oldest_age_seconds", "s") > 0
        assert labelled(running, "published_total", "s") == labelled(running, "acknowledged_total", "s") == 0
        wire.mend()
        assert reader.next().payload == b"x"
        source.until_forgotten()
        until(lambda: labelled(running, "in_flight", "s") == 0, "it is settled")
        counts = {name: labelled(running, f"{name}_total", "s") for name in ("received", "published", "acknowledged", "retried", "dead_lettered")}
        assert counts == {"received": 1, "published": 1, "acknowledged": 1, "retried": 0, "dead_lettered": 0}
        assert labelled(running, "time_to_publish_seconds_count", "s") == 1
        assert labelled(running, "time_to_publish_seconds_sum", "s") > LEASE
        assert labelled(running, "oldest_age_seconds", "s") == 0
        assert labelled(running, "lag_seconds", "s") < 60
    finally:
        wire.close()
        source.stop()


def test_what_cannot_be_kept_now_comes_again_later(nats, bridge, subscriber):
    """A full folder of dead letters: the stream keeps the event and gives it again, not before `retry_max`."""
    stream = f"LATER{next(test_nats.numbers)}"
    settings = (
        f'[sources.s]\nkind = "nats"\nservers = ["nats://127.0.0.1:{nats.port}"]\nstream = "{stream}"\nsubjects = ["{stream}.>"]\n'
        'create_stream = true\ntopic = "t/${body.n}"\nretry_max = "500ms"\n'
    )
    running = bridge(f'{settings}[dead_letters]\nfolder = "dead"\nmax = 1\n')

    async def work(connection):
        for body in (b"first", b"second"):
            await connection.jetstream().publish(f"{stream}.a", body)

    test_nats.run(nats, work)
    # The first is dead; the second is received over and over.
    until(lambda: labelled(running, "received_total", "s") >= 4, "it comes again")
    assert labelled(running, "dead_lettered_total", "s") == 1
    assert labelled(running, "retried_total", "s") >= 2

    def listed():
        return [line.split("\t")[0] for line in running.command("dead-letters", "list").stdout.splitlines()]

    (first,) = listed()
    next((running.folder / "dead").glob(f"{first}*")).unlink()
    until(lambda: listed() not in ([], [first]), "there is room for the second")
    until(lambda: test_nats.pending(nats, stream) == (0, 0), "both are settled")


def test_two_brokers_in_both_directions_without_a_circle(nats, broker, make_bridge, subscriber, tmp_path):
    """Each broker has a bridge that carries `t/#` to the same subjects and from them: each message reaches each broker once."""
    other = process.start(tmp_path)
    server = f'servers = ["nats://127.0.0.1:{nats.port}"]'
    try:
        brokers = [broker, other]
        readers = [subscriber("loop/#", port=one.mqtt, client_id=f"loop-{number}") for number, one in enumerate(brokers)]
        source = f'[sources.in]\nkind = "nats"\n{server}\nsubjects = ["loop.>"]\n'
        out = sink("out", "nats", server).replace("orders/#", "loop/#")
        bridges = [make_bridge(one.mqtt, source + out) for one in brokers]
        for running in bridges:
            subscribed(running, "out")
            until(lambda running=running: running.fetch("/readyz")[0] == 200, "connected")
        for number, one in enumerate(brokers):
            publish(one.mqtt, (f"loop/{number}", str(number), {}))
        for reader in readers:
            messages = {message.topic: message for message in reader.take(2)}
            assert sorted(messages) == ["loop/0", "loop/1"]
        # Each bridge hears its own message again from NATS, and the other's from its own broker.
        for running in bridges:
            until(lambda running=running: running.metric("skipped_total") == 2, "they go no further")
        for reader in readers:
            reader.nothing()
        assert [running.metric("published_total") for running in bridges] == [2, 2], "one out, one in"
    finally:
        for running in bridges:
            running.stop()
        other.stop()


def test_a_webhook_that_leads_back_is_no_circle(broker, bridge, subscriber):
    reader, port = subscriber("orders/#"), process.free_port()
    source = f'[http]\nlisten = "127.0.0.1:{port}"\n[sources.in]\nkind = "webhook"\npath = "/hook"\nauth.anonymous = true\n'
    running = bridge(source + sink("out", "webhook", f'url = "http://127.0.0.1:{port}/hook"'))
    subscribed(running, "out")
    publish(broker.mqtt, ("orders/1", "x", {}))
    until(lambda: running.metric("acknowledged_total") == 2, "it has been there and back")
    assert labelled(running, "skipped_total", "in") == 1
    assert reader.next().payload == b"x"
    reader.nothing()


class Bus(Service):
    """An event bus that has no room for some entries at first."""

    name = "events"

    def __init__(self):
        self.calls = []
        super().__init__()

    def PutEvents(self, body):
        numbers = [json.loads(entry["Detail"])["n"] for entry in body["Entries"]]
        self.calls.append(numbers)
        known = [number for call in self.calls[:-1] for number in call]
        slow = {"ErrorCode": "ThrottlingException", "ErrorMessage": "slow down"}
        entries = [slow if number % 3 == 0 and number not in known else {"EventId": str(number)} for number in numbers]
        return {"FailedEntryCount": entries.count(slow), "Entries": entries}


def test_only_the_entries_that_failed_are_sent_again(broker, bridge):
    bus = Bus()
    try:
        running = bridge(sink("bus", "eventbridge", f'endpoint = "{bus.url}"', 'region = "eu-west-1"', 'linger = "5s"'))
        subscribed(running, "bus")
        publish(broker.mqtt, *[("orders/1", json.dumps({"n": number}), {}) for number in range(10)])
        until(lambda: running.metric("acknowledged_total") == 10, "all are acknowledged")
        assert bus.calls == [list(range(10)), [0, 3, 6, 9]]
        assert running.metric("retried_total") == 4
        assert running.metric("published_total") == 10
    finally:
        bus.stop()


class Moody(Sqs):
    """A queue that has no room for two of a batch at first, and never takes a third."""

    def __init__(self):
        self.calls = []
        super().__init__(fifo=False)

    def SendMessageBatch(self, body):
        known = [number for call in self.calls for number in call]
        self.calls.append([entry["MessageBody"] for entry in body["Entries"]])
        refused = []
        for entry in body["Entries"]:
            if entry["MessageBody"] == "5":
                refused.append({"Id": entry["Id"], "SenderFault": True, "Code": "InvalidMessageContents", "Message": "no"})
            elif entry["MessageBody"] in ("3", "7") and entry["MessageBody"] not in known:
                refused.append({"Id": entry["Id"], "SenderFault": False, "Code": "InternalError", "Message": "later"})
        names = {entry["Id"] for entry in refused}
        taken = [entry for entry in body["Entries"] if entry["Id"] not in names]
        return {**super().SendMessageBatch({"Entries": taken}), "Failed": refused}


def test_what_a_queue_refuses_of_a_batch_is_sent_again_alone(broker, bridge, subscriber):
    """What it refuses for good is dead; what it took is not sent to it again."""
    queue = Moody()
    try:
        reader = subscriber("dead-letters/#")
        lines = [f'queue_url = "{queue.url}/1/q"', f'endpoint = "{queue.url}"', 'linger = "5s"', 'retry_max = "100ms"']
        running = bridge(sink("out", "sqs", *lines))
        subscribed(running, "out")
        publish(broker.mqtt, *[("orders/1", str(number), {}) for number in range(10)])
        dead = reader.next()
        assert (dead.payload, dead.user["dead-letter-topic"]) == (b"5", "orders/1")
        assert "InvalidMessageContents" in dead.user["dead-letter-reason"]
        until(lambda: running.metric("acknowledged_total") == 10, "all are acknowledged")
        first, *others = queue.calls
        assert first == [str(number) for number in range(10)]
        assert sorted(number for call in others for number in call) == ["3", "7"]
        messages = [message["body"] for group in queue.groups.values() for message in group]
        assert sorted(messages) == [number for number in first if number != "5"]
    finally:
        queue.stop()


class SmallBatches(Sqs):
    """A queue that takes no more than so many bytes with a call."""

    def SendMessageBatch(self, body):
        if sum(len(entry["MessageBody"]) for entry in body["Entries"]) > 1000:
            raise Refusal("com.amazonaws.sqs#BatchRequestTooLong")
        return super().SendMessageBatch(body)


def test_what_is_too_large_together_goes_in_smaller_batches(broker, bridge, subscriber):
    """And what is too large alone is dead instead of holding up the others."""
    queue = SmallBatches(fifo=False)
    try:
        reader = subscriber("dead-letters/#")
        lines = [f'queue_url = "{queue.url}/1/q"', f'endpoint = "{queue.url}"', 'linger = "5s"', 'retry_max = "100ms"']
        running = bridge(sink("out", "sqs", *lines))
        subscribed(running, "out")
        bodies = [str(number) * (2000 if number == 5 else 300) for number in range(10)]
        publish(broker.mqtt, *[("orders/1", body, {}) for body in bodies])
        assert reader.next().payload.decode() == bodies[5]
        until(lambda: running.metric("acknowledged_total") == 10, "all are acknowledged")
        messages = [message["body"] for group in queue.groups.values() for message in group]
        assert sorted(messages) == sorted(body for body in bodies if len(body) < 1000)
    finally:
        queue.stop()


def test_a_stop_finishes_the_call_that_is_under_way(broker, bridge):
    """What the target has taken in the meantime is not sent to it again, and what was not sent is sent later."""
    bodies, called, answer = [], threading.Event(), threading.Event()

    def hook(call):
        bodies.append(call.body)
        called.set()
        assert answer.wait(servers.PATIENCE)
        return Answer()

    server = Answering(hook)
    try:
        url = f'url = "{server.url}/"'
        running = bridge(sink("hook", "webhook", url, 'timeout = "60s"'))
        subscribed(running, "hook")
        publish(broker.mqtt, *[("orders/1", body, {}) for body in (b"1", b"2")])
        assert called.wait(servers.PATIENCE)
        until(lambda: running.metric("in_flight") == 2, "the second waits")
        stopping = threading.Thread(target=running.stop)
        stopping.start()
        until(lambda: "stopping" in running.log_text(), "it stops")
        answer.set()
        stopping.join()
        assert bodies == [b"1"]
        running.start()
        until(lambda: running.metric("acknowledged_total") == 1, "the rest")
        assert bodies == [b"1", b"2"]
    finally:
        answer.set()
        server.close()


def kill_bridge(running, _wire):
    running.kill()
    running.start()


def cut_wire(_running, wire):
    wire.sever()
    wire.mend()


@pytest.mark.parametrize("fault", [kill_bridge, cut_wire])
def test_a_sink_loses_nothing(fault, broker, make_bridge):
    """The bridge dies, or its connection, in the middle of it: the target gets each message at least once, the first times in order."""
    bodies, wire = [], Proxy(broker.mqtt)
    half = threading.Event()

    def hook(call):
        bodies.append(int(call.body))
        if len(bodies) == COUNT // 2:
            half.set()
        return Answer()

    server = Answering(hook)
    try:
        running = make_bridge(wire.port, sink("hook", "webhook", f'url = "{server.url}/"'))
        subscribed(running, "hook")
        sending = threading.Thread(target=publish, args=(broker.mqtt, *[("orders/1", str(number), {}) for number in range(COUNT)]))
        sending.start()
        assert half.wait(servers.PATIENCE)
        fault(running, wire)
        sending.join()
        until(lambda: len(set(bodies)) == COUNT, "all have come")
        assert list(dict.fromkeys(bodies)) == list(range(COUNT))
        assert len(bodies) <= COUNT + 100, "only what was in flight comes again"
    finally:
        server.close()
        wire.close()


SAMPLES = {
    "sqs": ('queue_url = "http://127.0.0.1:1/1/q"', {"MessageId": "m", "Body": '{"n": 7}'}, '{"n": 7}'),
    "nats": ('subjects = ["a"]', {"subject": "a", "data": '{"n": 7}'}, '{"n": 7}'),
    "kinesis": (
        'stream = "s"\ncheckpoints = "c"\nregion = "eu-west-1"',
        {"Records": [{"SequenceNumber": "1", "PartitionKey": "k", "Data": "eyJuIjogN30="}]},
        '{"n": 7}',
    ),
    "eventbridge": ("auth.anonymous = true", {"id": "e", "source": "s", "detail-type": "t", "detail": {"n": 7}}, '{"n": 7}'),
    "webhook": ("auth.anonymous = true", {"n": 7}, '{"n": 7}'),
    "sns": (
        'topic_arns = ["arn:t"]',
        {"Type": "Notification", "MessageId": "m", "TopicArn": "arn:t", "Message": '{"n": 7}', "Timestamp": "2026-01-01T00:00:00Z"},
        '{"n": 7}',
    ),
}


@pytest.mark.parametrize("kind", SAMPLES)
def test_each_kind_of_source_explains_and_is_checked(kind, bridge, subscriber, tmp_path):
    lines, sample, payload = SAMPLES[kind]
    reader = subscriber("#")
    running = bridge(f'[http]\nlisten = "127.0.0.1:0"\n[sources.s]\nkind = "{kind}"\ntopic = "t/${{body.n}}"\n{lines}\n', start=False)
    checked = running.command("check-config")
    assert checked.returncode == 0, checked.stderr
    file = tmp_path / "sample.json"
    file.write_text(json.dumps(sample))
    done = running.command("explain", "--source", "s", "--message", str(file))
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert (said["topic"], said["payload"]) == ("t/7", payload)
    reader.nothing()
    unknown = running.command("explain", "--source", "other", "--message", str(file))
    assert unknown.returncode != 0 and "other" in unknown.stderr
