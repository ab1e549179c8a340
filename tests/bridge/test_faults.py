"""Something dies, stands still or becomes slow in the middle of many events: each event that the source accepted reaches
a durable subscriber once, and in order where the source orders.

POLYCAST_FAULT_EVENTS says how many events; `POLYCAST_FAULT_EVENTS=10000 pytest test_faults.py` is the full matrix.
"""

import asyncio
import collections
import json
import os
import signal
import threading
import time

import boto3
import botocore.config
import nats as client
import pytest
import servers
from kinesis import Kinesis
from proxy import Proxy
from queues import Sqs
from servers import until
from support import process

EVENTS = int(os.environ.get("POLYCAST_FAULT_EVENTS", "1000"))
LANES = 5
PATIENCE = 60 + EVENTS // 50
AWAY = 2
"""Seconds for which something is away."""

IN_FLIGHT = 100


class Nats:
    """JetStream: keeps what it accepted on its disk, and orders each subject."""

    visible_again = 'ack_wait = "2s"'

    def __init__(self, folder):
        self.server = servers.nats_server(folder)
        self.port = self.server.port

    def settings(self, port):
        return f'kind = "nats"\nservers = ["nats://127.0.0.1:{port}"]\nstream = "S"\nsubjects = ["s.>"]\ncreate_stream = true\n{self.visible_again}\n'

    def kill(self):
        self.server.kill()
        self.server.start()

    def fill(self, accepted):
        asyncio.run(self._fill(accepted))

    async def _fill(self, accepted):
        connection = await client.connect(f"nats://127.0.0.1:{self.port}", max_reconnect_attempts=-1, reconnect_time_wait=0.1)
        jetstream = connection.jetstream(timeout=2)

        async def lane(number):
            for event in range(number, EVENTS, LANES):
                while True:
                    try:
                        await jetstream.publish(f"s.{number}", str(event).encode(), headers={"Nats-Msg-Id": str(event)})
                        accepted.append(event)
                        break
                    except Exception:
                        await asyncio.sleep(0.1)

        await asyncio.gather(*map(lane, range(LANES)))
        await connection.close()

    def stop(self):
        self.server.stop()


class Aws:
    """Lanes of a sender each, that sends ten at a time until they are accepted."""

    def fill(self, accepted):
        lanes = [threading.Thread(target=self._lane, args=(number, accepted)) for number in range(LANES)]
        for lane in lanes:
            lane.start()
        for lane in lanes:
            lane.join()

    def kill(self):
        self.server.stop()
        time.sleep(AWAY)
        self.server.start()

    def stop(self):
        self.server.stop()

    def _lane(self, lane, accepted):
        config = botocore.config.Config(retries={"total_max_attempts": 1}, read_timeout=20)
        link = boto3.client(
            self.service, endpoint_url=self.url, region_name="us-east-1", aws_access_key_id="t", aws_secret_access_key="t", config=config
        )
        events = list(range(lane, EVENTS, LANES))
        for start in range(0, len(events), 10):
            batch = events[start : start + 10]
            while True:
                try:
                    self.send(link, lane, batch)
                    accepted.extend(batch)
                    break
                except Exception:
                    time.sleep(0.1)


class SqsFifo(Aws):
    """The small one, which keeps its messages while it is away, and orders each group."""

    service = "sqs"
    fifo = True

    def __init__(self, _folder):
        self.server = Sqs(self.fifo)
        self.port, self.url = self.server.port, self.server.url
        self.queue = f"{self.url}/1/{'s.fifo' if self.fifo else 's'}"

    def settings(self, port):
        lane = "${group}" if self.fifo else "${body.lane}"
        topic = f'topic = "s/{lane}"\n'
        return f'kind = "sqs"\nendpoint = "http://127.0.0.1:{port}"\nqueue_url = "{self.queue}"\nwait_time = "1s"\nvisibility_timeout = "5s"\n{topic}'

    def send(self, link, lane, batch):
        entries = [{"Id": str(event), "MessageBody": json.dumps({"lane": lane, "n": event})} for event in batch]
        if self.fifo:
            entries = [entry | {"MessageGroupId": str(lane), "MessageDeduplicationId": entry["Id"]} for entry in entries]
        assert not link.send_message_batch(QueueUrl=self.queue, Entries=entries).get("Failed")


class SqsStandard(SqsFifo):
    """Orders nothing."""

    fifo = False


class KinesisStream(Aws):
    """The small one, which keeps its records while it is away."""

    service = "kinesis"

    def __init__(self, _folder):
        self.server = Kinesis(shards=2)
        self.port, self.url = self.server.port, self.server.url

    def settings(self, port):
        more = 'topic = "s/${group}"\npoll_interval = "200ms"\nbatch = 100\n'
        return f'kind = "kinesis"\nendpoint = "http://127.0.0.1:{port}"\nregion = "us-east-1"\nstream = "s"\ncheckpoints = "c"\n{more}'

    def send(self, link, lane, batch):
        link.put_records(StreamName="s", Records=[{"PartitionKey": str(lane), "Data": str(event)} for event in batch])


class World:
    """A broker and a source that keep their ports and what they have, a bridge, and wires between them."""

    def __init__(self, folder, source, make_bridge):
        self.broker = servers.LastingBroker(folder)
        self.source = source(folder)
        self.to_source, self.to_broker = Proxy(self.source.port), Proxy(self.broker.port)
        text = f"[sources.s]\n{self.source.settings(self.to_source.port)}max_in_flight = {IN_FLIGHT}\nqos = 2\n"
        self.bridge = make_bridge(self.to_broker.port, text)

    def kill_broker(self):
        self.broker.kill()
        self.broker.start()

    def kill_source(self):
        self.source.kill()

    def kill_bridge(self):
        self.bridge.kill()
        self.bridge.start()

    def stop_bridge(self):
        """In good order, in the middle of it."""
        self.bridge.stop()
        self.bridge.start()

    def pause(self, program):
        program.send_signal(signal.SIGSTOP)
        time.sleep(AWAY)
        program.send_signal(signal.SIGCONT)

    def pause_broker(self):
        self.pause(self.broker.running.process)

    def pause_source(self):
        self.pause(self.source.server.process)

    def cut_source(self):
        self.to_source.cut(AWAY)

    def cut_broker(self):
        self.to_broker.cut(AWAY)

    def hold_source(self):
        self.to_source.hold(AWAY)

    def hold_broker(self):
        self.to_broker.hold(AWAY)

    def slow_broker(self):
        """The queue waits, not the bridge's memory."""
        self.to_broker.slow(4000, AWAY)
        assert self.bridge.metric("in_flight") <= IN_FLIGHT

    def stop(self):
        self.source.stop()
        self.broker.stop()
        self.to_source.close()
        self.to_broker.close()


FAULTS = [
    "kill_broker", "kill_bridge", "stop_bridge", "pause_broker", "slow_broker",
    "cut_source", "cut_broker", "hold_source", "hold_broker",
]  # fmt: skip
CASES = [(source, fault) for source in (Nats, SqsFifo, KinesisStream) for fault in FAULTS]
CASES += [(Nats, "pause_source"), *((source, "kill_source") for source in (Nats, SqsFifo, KinesisStream))]
CASES += [(SqsStandard, fault) for fault in ("kill_broker", "kill_bridge", "cut_source")]


@pytest.mark.timeout(120 + 4 * PATIENCE)
@pytest.mark.parametrize(("source", "fault"), CASES)
def test_nothing_is_lost(source, fault, tmp_path, make_bridge):
    world = World(tmp_path, source, make_bridge)
    try:
        reader = servers.Subscriber(world.broker.port, "s/#")
        accepted = []
        filling = threading.Thread(target=world.source.fill, args=(accepted,))
        filling.start()
        seen = collections.Counter()
        order = collections.defaultdict(list)

        def read():
            while not reader.messages.empty():
                message = reader.messages.get()
                body = json.loads(message.payload)
                number = body if isinstance(body, int) else body["n"]
                if not seen[number]:
                    order[message.topic].append(number)
                seen[number] += 1
            return len(seen)

        until(lambda: read() >= EVENTS // 4, "a quarter has come", PATIENCE)
        assert len(seen) < EVENTS, "the fault is in the middle"
        getattr(world, fault)()
        filling.join(PATIENCE)
        assert len(accepted) == EVENTS, "the source has accepted all"
        until(lambda: read() >= EVENTS, "all have come", PATIENCE)
        assert sorted(seen) == list(range(EVENTS))
        if source is not SqsStandard and (source, fault) != (Nats, "kill_bridge"):
            # A stream delivers what was in flight in a crash again only after its ack_wait, behind newer ones.
            for lane, numbers in order.items():
                assert numbers == sorted(numbers), lane
        until(lambda: world.bridge.metric("in_flight") == 0, "all is settled", PATIENCE)
        time.sleep(0.5)
        read()
        assert sum(seen.values()) == EVENTS, "each once"
        reader.close()
        world.bridge.stop()
    finally:
        world.stop()


def test_a_queue_that_comes_back_empty_is_read_again(tmp_path, bridge, subscriber):
    """Moto killed loses its queue, as nobody's SQS does: the bridge goes on with what comes into the new one."""
    server = servers.moto(tmp_path)
    try:
        sqs = servers.aws(server, "sqs")
        url = sqs.create_queue(QueueName="q")["QueueUrl"]
        reader = subscriber("q/#")
        settings = f'kind = "sqs"\nendpoint = "{server.url}"\nqueue_url = "{url}"\nwait_time = "1s"\ntopic = "q/${{body}}"\n'
        running = bridge(f"[sources.q]\n{settings}")
        sqs.send_message(QueueUrl=url, MessageBody="before")
        assert reader.next().topic == "q/before"
        server.kill()
        until(lambda: running.metric("errors_total") > 0, "it is counted")
        server.start()
        sqs.create_queue(QueueName="q")
        sqs.send_message(QueueUrl=url, MessageBody="after")
        assert reader.next().topic == "q/after"
    finally:
        server.stop()
