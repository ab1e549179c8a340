"""Kinesis to topics: moto's for the plain way, one that keeps the real rules for shards that split and merge."""

import collections
import itertools
import os
import threading

import boto3
import pytest
import servers
from kinesis import Kinesis
from servers import until

EVENTS = int(os.environ.get("POLYCAST_FAULT_EVENTS", "2000"))
numbers = itertools.count()


def source(url, stream, *lines):
    settings = ["[sources.clicks]", 'kind = "kinesis"', f'stream = "{stream}"', f'endpoint = "{url}"', 'region = "us-east-1"']
    return "\n".join([*settings, 'checkpoints = "checkpoints"', 'topic = "clicks/${group}"', 'discover_interval = "1s"', *lines])


def client(url):
    return boto3.client("kinesis", endpoint_url=url, region_name="us-east-1", aws_access_key_id="test", aws_secret_access_key="test")


def test_records_become_messages_and_a_restart_goes_on(moto, bridge, subscriber):
    stream = f"clicks-{next(numbers)}"
    kinesis = client(moto.url)
    kinesis.create_stream(StreamName=stream, ShardCount=2)
    reader = subscriber("clicks/#", "dead-letters/#")
    running = bridge(source(moto.url, stream, 'user_properties = { at = "${meta.shard}" }', 'poll_interval = "200ms"'))
    kinesis.put_records(StreamName=stream, Records=[{"PartitionKey": f"k{n % 3}", "Data": str(n)} for n in range(30)])
    seen = collections.defaultdict(list)
    for message in reader.take(30):
        seen[message.topic].append(int(message.payload))
        assert message.user["at"].startswith("shardId-")
    assert seen == {f"clicks/k{key}": list(range(key, 30, 3)) for key in range(3)}
    kinesis.put_record(StreamName=stream, PartitionKey="a/b", Data=b"no level")
    dead = reader.next()
    assert (dead.topic, dead.payload) == ("dead-letters/clicks", b"no level")
    until(lambda: running.metric("in_flight") == 0, "all is settled")
    assert running.metric("oldest_age_seconds") == 0
    running.stop()
    kinesis.put_record(StreamName=stream, PartitionKey="k0", Data=b"later")
    running.start()
    assert reader.next().payload == b"later"
    reader.nothing()


def test_from_now_on(moto, bridge, subscriber):
    stream = f"clicks-{next(numbers)}"
    kinesis = client(moto.url)
    kinesis.create_stream(StreamName=stream, ShardCount=1)
    kinesis.put_record(StreamName=stream, PartitionKey="k", Data=b"old")
    reader = subscriber("clicks/#")
    running = bridge(source(moto.url, stream, 'start = "now"', 'poll_interval = "200ms"'))
    until(lambda: "reading a shard" in running.log_text(), "it reads")
    running.stop()
    kinesis.put_record(StreamName=stream, PartitionKey="k", Data=b"new")
    running.start()
    assert reader.next().payload == b"new", "although the bridge was away and had seen nothing before"
    reader.nothing()


def test_dead_letters_have_somewhere_to_go(bridge, moto):
    running = bridge(source(moto.url, "x"), start=False)
    assert running.command("check-config").returncode == 0
    running.config.write_text(running.config.read_text().replace("[admin]", 'dead_letter = "source"\n[admin]'))
    bad = running.command("check-config")
    assert bad.returncode == 2 and "sources.clicks.dead_letter" in bad.stderr


@pytest.mark.timeout(480)
def test_shards_split_and_merge_while_the_bridge_is_killed(bridge, subscriber):
    """Each record once and in the order of its key, whatever happens to its shard and to the bridge."""
    keys = 25
    server = Kinesis(shards=2, iterator_secs=0.9, calls_per_second=4)
    kinesis = client(server.url)
    sent = threading.Semaphore(0)

    def fill():
        for start in range(0, EVENTS, 50):
            records = [{"PartitionKey": f"k{n % keys}", "Data": str(n)} for n in range(start, start + 50)]
            kinesis.put_records(StreamName="s", Records=records)
            sent.release()

    def split(number, part):
        first, last = server.shards[number]["range"]
        middle = str(first + (last - first) // part)
        kinesis.split_shard(StreamName="s", ShardToSplit=server.shards[number]["id"], NewStartingHashKey=middle)

    try:
        reader = subscriber("clicks/#")
        running = bridge(source(server.url, "s", "batch = 40", 'poll_interval = "1s"'))
        filling = threading.Thread(target=fill)
        filling.start()
        for _ in range(EVENTS // 50 // 4):
            sent.acquire()
        split(0, 2)
        split(1, 3)
        seen = collections.defaultdict(list)

        def take(count):
            for message in reader.take(count):
                seen[message.topic].append(int(message.payload))

        take(EVENTS // 4)
        running.kill()
        ids = [shard["id"] for shard in server.shards]
        kinesis.merge_shards(StreamName="s", ShardToMerge=ids[3], AdjacentShardToMerge=ids[4])
        running.start()
        take(EVENTS // 4)
        running.kill()
        running.start()
        filling.join(servers.PATIENCE)
        take(EVENTS - 2 * (EVENTS // 4))
        assert seen == {f"clicks/k{key}": list(range(key, EVENTS, keys)) for key in range(keys)}
        reader.nothing()
        assert server.counts["expired"] > 0, server.counts
        assert server.counts["throttled"] > 0, server.counts
    finally:
        server.stop()
