"""The whole way through the local stack, and what Prometheus and Grafana see of it."""

import asyncio
import contextlib
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import uuid

import nats
import pytest
import servers
import yaml
from stack import DOCKER, compose
from support import json_client, leash, mqtt, process, stomp
from support.waiting import until

ORDER = json.dumps({"customer": "hedy", "total": 7}, separators=(",", ":"))


def alerts() -> list[str]:
    groups = yaml.safe_load((DOCKER / "prometheus" / "alerts.yml").read_text())["groups"]
    return [rule["alert"] for group in groups for rule in group["rules"]]


def expressions() -> list[str]:
    dashboard = json.loads((DOCKER / "grafana" / "dashboards" / "polycast.json").read_text())
    targets = [target for panel in dashboard["panels"] for target in panel.get("targets", [])]
    return [target["expr"].replace("$instance", ".*") for target in targets]


def test_an_order_in_sqs_reaches_mqtt_stomp_and_json(stack):
    device = mqtt.Client.plain(stack.broker.mqtt)
    device.login("device")
    device.subscribe("orders/hedy/+", qos=1)
    page = stomp.Client.open(stack.broker.stomp)
    page.subscribe("/topic/orders/hedy/+")
    app = json_client.Client.open(stack.broker.http)
    app.ask("subscribe", topic="orders/hedy/+")
    sqs = servers.aws(stack.sqs, "sqs")
    url = sqs.get_queue_url(QueueName="orders")["QueueUrl"]
    sqs.send_message(
        QueueUrl=url,
        MessageBody=ORDER,
        MessageAttributes={"traceparent": {"DataType": "String", "StringValue": TRACE}},
    )
    over_mqtt = device.message()
    assert (over_mqtt.topic, over_mqtt.payload) == ("orders/hedy/new", ORDER.encode())
    over_stomp = page.message()
    assert (over_stomp["destination"], over_stomp.body) == ("/topic/orders/hedy/new", ORDER.encode())
    over_json = app.message()
    assert over_json["topic"] == "orders/hedy/new"
    # What ties the steps of one request together is carried all the way.
    assert ("traceparent", TRACE) in over_mqtt.properties["user"]
    assert over_stomp["traceparent"] == TRACE
    assert over_json["headers"]["traceparent"] == TRACE
    until(lambda: stack.bridge.metric("acknowledged_total") >= 1, "the queue is told")
    for client in (device, page, app):
        client.close()


TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def test_jetstream_comes_in_and_alerts_go_out(stack):
    device = mqtt.Client.plain(stack.broker.mqtt)
    device.login("listener")
    device.subscribe("events/#", qos=1)

    async def through():
        client = await nats.connect(f"nats://127.0.0.1:{stack.nats.port}")
        alerts = await client.subscribe("alerts.>")
        await client.flush()
        await client.jetstream().publish("events.door.open", b"hall")
        message = await asyncio.to_thread(device.message)
        assert (message.topic, message.payload) == ("events/door/open", b"hall")
        device.publish("alerts/door", b"open", qos=1)
        assert (await alerts.next_msg(timeout=20)).data == b"open"
        await client.close()

    asyncio.run(through())
    device.close()


def test_the_demo_sends_orders(stack):
    reader = mqtt.Client.plain(stack.broker.mqtt)
    reader.login("watcher")
    reader.subscribe("orders/+/new")
    order = json.loads(reader.message().payload)
    assert set(order) == {"customer", "number", "total"}
    reader.close()


def test_prometheus_has_no_target_down(stack):
    jobs = {"polycast", "polycast-bridge", "prometheus"}

    def healthy():
        targets = stack.ask_prometheus("targets")["activeTargets"]
        states = {target["labels"]["job"]: target["health"] for target in targets}
        assert "down" not in states.values(), targets
        return set(states) == jobs and set(states.values()) == {"up"}

    until(healthy, "all targets are scraped", 30)


def test_the_rules_are_loaded_and_none_fires(stack):
    def evaluated():
        groups = stack.ask_prometheus("rules")["groups"]
        rules = {rule["name"]: rule for group in groups for rule in group["rules"]}
        assert list(rules) == alerts()
        return rules if all(rule["health"] == "ok" for rule in rules.values()) else None

    rules = until(evaluated, "all rules are evaluated", 30)
    assert [name for name, rule in rules.items() if rule["state"] == "firing"] == []


@pytest.mark.parametrize("expression", expressions())
def test_the_dashboard_asks_what_there_is(stack, expression):
    stack.ask_prometheus("query", query=expression)
    known = stack.broker.fetch("/metrics")[1] + stack.bridge.fetch("/metrics")[1]
    for name in re.findall(r"\b((?:polycast|process)_\w+)", expression):
        family = re.sub(r"_(?:bucket|sum|count)$", "", name)
        assert f"# TYPE {name} " in known or f"# TYPE {family} histogram" in known, name


def test_alerts_ask_what_there_is(stack):
    known = stack.broker.fetch("/metrics")[1] + stack.bridge.fetch("/metrics")[1]
    text = (DOCKER / "prometheus" / "alerts.yml").read_text()
    names = set(re.findall(r"\b((?:polycast|process)_[a-z_]+)", text))
    assert len(names) > 10
    for name in names:
        family = re.sub(r"_bucket$", "", name)
        assert f"# TYPE {name} " in known or f"# TYPE {family} histogram" in known, name


@pytest.fixture
def kept():
    """`tests/run-stack --keep` when it has said where everything is, and the mark that all of its processes carry."""
    folders = ":".join(str(process.ROOT / "tests" / name) for name in ("stack", "bridge", "e2e"))
    mark = f"KEPT_FOR={uuid.uuid4()}"
    variables = dict([mark.split("=")]) | {"PYTHONPATH": folders}
    started = leash.hold(subprocess.Popen(
        [sys.executable, str(process.ROOT / "tests" / "stack" / "keep.py")],
        stdout=subprocess.PIPE, text=True, env=servers.environment() | variables,
    ))
    said = [started.stdout.readline() for _ in range(6)]
    assert said[0].startswith("MQTT ") and said[5].startswith("Prometheus ")
    return started, mark.encode()


def marked(mark: bytes) -> dict[int, str]:
    """The processes with this in their environment, and what they are."""
    found = {}
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark in (folder / "environ").read_bytes():
                found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    return found


def test_it_can_be_kept_running(kept):
    started, mark = kept
    running = " ".join(marked(mark).values())
    assert all(name in running for name in ("polycast serve", "polycast-bridge", "moto_server", "nats-server", "prometheus"))
    started.send_signal(signal.SIGINT)
    assert started.wait(60) == 0
    until(lambda: not marked(mark), "nothing is left", 30)


@pytest.mark.parametrize("which", ["the one who was started", "the one inside"])
def test_nothing_is_left_of_what_was_killed(kept, which):
    started, mark = kept
    if which == "the one who was started":
        started.kill()
    else:
        inside = next(pid for pid, line in marked(mark).items() if "--inside" in line)
        os.kill(inside, signal.SIGKILL)
    started.wait(30)
    until(lambda: not marked(mark), "nothing is left", 30)


def test_nothing_is_left_of_a_start_that_fails(tmp_path):
    """Somebody has made a folder that Prometheus, the last but one, would make."""
    mark = f"KEPT_FOR={uuid.uuid4()}"
    (tmp_path / "prometheus").mkdir()
    folders = ":".join(str(process.ROOT / "tests" / name) for name in ("stack", "bridge", "e2e"))
    code = f"import pathlib, stack; stack.start(pathlib.Path({str(tmp_path)!r}))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=100,
        env=servers.environment() | dict([mark.split("=")]) | {"PYTHONPATH": folders},
    )
    assert "FileExistsError" in done.stderr and (tmp_path / "bridge" / "bridge.log").exists(), done.stderr
    until(lambda: not marked(mark.encode()), "nothing is left", 30)


def test_dashboards_are_where_grafana_looks(stack):
    service = compose()["services"]["grafana"]
    mounts = dict(mount.removesuffix(":ro").split(":") for mount in service["volumes"])
    provider = yaml.safe_load((DOCKER / "grafana/provisioning/dashboards/polycast.yml").read_text())["providers"][0]
    inside = {inside: outside for outside, inside in mounts.items()}
    folder = process.ROOT / inside[provider["options"]["path"]]
    assert (folder / "polycast.json").exists()
    home = service["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == provider["options"]["path"] + "/polycast.json"
    source = yaml.safe_load((DOCKER / "grafana/provisioning/datasources/prometheus.yml").read_text())["datasources"][0]
    assert source["url"] == "http://prometheus:9090"
    assert f'"uid": "{source["uid"]}"' in (folder / "polycast.json").read_text()
