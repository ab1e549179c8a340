"""What the broker says about itself: $SYS topics, `polycast health`, and metrics that follow what happens."""

import re
import subprocess
import time

from support import mqtt, process
from support.waiting import until

OF_MOSQUITTO = {
    "version", "uptime", "clients/total", "clients/connected", "clients/active", "clients/disconnected",
    "clients/inactive", "clients/maximum", "clients/expired", "connections/socket/count", "messages/received",
    "messages/sent", "messages/stored", "publish/messages/received", "publish/messages/sent",
    "publish/messages/dropped", "bytes/received", "bytes/sent", "store/messages/count", "store/messages/bytes",
    "subscriptions/count", "shared_subscriptions/count", "retained messages/count", "heap/current", "heap/maximum",
} | {
    f"load/{what}/{span}"
    for span in ("1min", "5min", "15min")
    for what in (
        "messages/received", "messages/sent", "publish/received", "publish/sent", "publish/dropped", "bytes/received",
        "bytes/sent", "sockets", "connections",
    )
}


def watch(port: int, *topics: str, count: int) -> dict[str, str]:
    """What mosquitto_sub is told until it has so many messages."""
    words = [word for topic in topics for word in ("-t", topic)]
    done = subprocess.run(
        ["mosquitto_sub", "-p", str(port), "-F", "%t\t%p", "-C", str(count), "-W", "20", *words],
        capture_output=True, text=True, timeout=30,
    )
    assert done.returncode == 0, done.stderr
    return dict(line.split("\t") for line in done.stdout.splitlines())


def test_a_dashboard_for_mosquitto_finds_its_topics(own_broker):
    said = watch(own_broker.mqtt, "$SYS/#", count=len(OF_MOSQUITTO))
    assert {topic.removeprefix("$SYS/broker/") for topic in said} == OF_MOSQUITTO
    assert re.fullmatch(r"polycast version \S+", said["$SYS/broker/version"])
    assert re.fullmatch(r"\d+ seconds", said["$SYS/broker/uptime"])
    assert said["$SYS/broker/clients/connected"] == "1"
    assert int(said["$SYS/broker/heap/current"]) > 1_000_000


def test_it_is_said_again_and_to_subscribers_alone(start_broker):
    broker = start_broker(telemetry__sys_interval="200ms")
    reader = mqtt.Client.plain(broker.mqtt)
    reader.login("reader")
    reader.subscribe("#", "$SYS/broker/clients/connected")
    assert reader.message().payload == b"1"
    other = mqtt.Client.plain(broker.mqtt)
    other.login("other")
    until(lambda: reader.message().payload == b"2", "the second client is counted")
    reader.close()
    other.close()
    # Nobody listens any more, and nothing was dropped for it.
    assert 'polycast_messages_dropped_total{reason="no_subscribers"} 0' in broker.fetch("/metrics")[1]


def test_health_asks_the_broker(own_broker):
    def health(port):
        return subprocess.run(
            [process.polycast(), "health", "--http", f"127.0.0.1:{port}"],
            capture_output=True, text=True, timeout=20, env=process.plain_environment(),
        )

    assert health(own_broker.http).stdout == "healthy\n"
    nobody = health(process.free_port())
    assert nobody.returncode == 1 and "does not answer" in nobody.stderr


def test_figures_of_deliveries_and_of_the_process(own_broker):
    reader = mqtt.Client.plain(own_broker.mqtt)
    reader.login("reader")
    reader.subscribe("a", qos=1)
    reader.publish("a", b"x", qos=1)

    def figures():
        text = own_broker.fetch("/metrics")[1]
        return {name: float(value) for name, value in re.findall(r"^(\S+) (\S+)$", text, re.MULTILINE)}

    def counted():
        now = figures()
        return (
            now['polycast_publish_to_delivery_seconds_count{protocol="mqtt"}'] == 1
            and now['polycast_publish_to_delivery_seconds_bucket{protocol="mqtt",le="30"}'] == 1
        )

    until(counted, "the delivery is counted")
    now = figures()
    assert now['polycast_sessions{state="connected"}'] == 1
    assert now["process_resident_memory_bytes"] > 1_000_000
    assert now["process_open_fds"] > 3 and now["process_threads"] >= 2
    reader.close()


def test_a_broker_short_of_memory_slows_publishers_down(start_broker):
    broker = start_broker(limits__memory="1 MiB", limits__memory_high=70, limits__memory_max=100)
    until(lambda: broker.metric("polycast_memory_alarm") == 2, "the alarm is raised")
    refused = mqtt.Client.plain(broker.mqtt)
    refused.login("late", expect_reason=0x97)
    refused.close()
    assert "memory is scarce" in broker.log_text()


def test_scarce_memory_pauses_who_publishes_and_nobody_else(start_broker):
    broker = start_broker(limits__memory="1 GiB", limits__memory_high=1, limits__memory_max=100)
    until(lambda: broker.metric("polycast_memory_alarm") == 1, "the alarm is raised")
    client = mqtt.Client.plain(broker.mqtt)
    client.login("early")
    client.subscribe("a", qos=1)
    client.publish("a", b"x", qos=1)
    assert client.message().payload == b"x"
    begin = time.monotonic()
    client.publish("a", b"y", qos=1)
    assert client.message().payload == b"y"
    assert time.monotonic() - begin > 0.5, "its second batch is read a second after the first"
    client.close()
