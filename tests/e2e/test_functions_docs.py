"""What docs/functions.md shows is true: its settings are taken, its events come so, its code runs."""

import json
import os
import re
import tomllib

from support import mqtt, process, websocket
from support.functions import Failure, lambda_target, settings, webhook
from support.waiting import until
from test_functions import ok, open_client, post, serve  # noqa: F401

PAGE = (process.ROOT / "docs" / "functions.md").read_text()
SECRETS = {name: "x" for name in ("CLIMATE_KEY", "BILLING_SECRET", "AUDIT_TOKEN", "AWS_ACCESS_KEY_ID",
                                  "AWS_SECRET_ACCESS_KEY")}


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL)


def shape(value, but=()):
    """The names in an event, without those of maps that differ from client to client."""
    if isinstance(value, dict):
        return {name: shape(inner) if name not in ("headers", "multiValueHeaders", "data") else None
                for name, inner in value.items() if name not in but}
    return None


def test_each_configuration_starts_a_broker(start_broker, tmp_path, monkeypatch):
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    found = blocks("toml")
    assert len(found) == 5
    for number, text in enumerate(found):
        tomllib.loads(text)
        file = tmp_path / f"{number}.toml"
        file.write_text(text)
        start_broker("--config", str(file)).stop()


def test_events_look_so(serve, start_broker):
    server = serve(f=ok)
    topics = [{"name": "measurements", "filter": "sensors/+/temperature", "target": "f"}]
    broker = start_broker(**settings([lambda_target(server, "f")], {"$connect": "f"}, topics, lifecycle="f"))
    open_client(broker, path="/prod?room=1").close()
    connect = json.loads(blocks("json connect")[0])
    event = server.next("CONNECT").event
    assert shape(event) == shape(connect)
    assert set(connect["headers"]) - {"Upgrade"} <= set(event["headers"])
    client = mqtt.Client.plain(broker.mqtt)
    client.login("sensor-7")
    props = {"content_type": "application/json", "user": [("unit", "C")]}
    client.publish("sensors/7/temperature", b'{"celsius":20.5}', qos=1, props=props)
    shown, event = json.loads(blocks("json topic")[0]), server.next("TOPIC").event
    assert shape(event) == shape(shown)
    assert all(event[name] == shown[name] for name in shown if name != "requestContext")
    client.disconnect()
    until(lambda: any(call.event["clientId"] == "sensor-7" for call in server.of("disconnected")), "it went")
    gone = [call.event for call in server.of("disconnected") if call.event["clientId"] == "sensor-7"][0]
    shown = json.loads(blocks("json disconnected")[0])
    assert shape(gone) == shape(shown)
    varying = ("versionNumber", "timestamp", "connectionId")
    assert all(gone[name] == shown[name] for name in shown if name not in varying)
    came = [call.event for call in server.of("connected") if call.event["clientId"] == "sensor-7"][0]
    assert shape(came) == shape(shown, but=("disconnectReason", "clientInitiatedDisconnect"))


def test_the_handler_runs(serve, start_broker):
    space = {}
    exec(blocks("python handler")[0], space)
    server = serve(f=space["handler"])
    routes = {"$connect": "f", "$disconnect": "f", "$default": {"target": "f", "response": True}}
    broker = start_broker(**settings([webhook(server, "f")], routes))
    client = open_client(broker)
    for number in (1, 2):
        client.send(websocket.TEXT, "x")
        assert client.read_message()[1] == f"message {number}".encode()
    post(broker, "/api/v1/publish", '{"group":"kitchen","data":"ready"}')
    assert client.read_message()[1] == b"ready"


def test_signatures_are_checked_so(serve, start_broker):
    space = {}
    exec(blocks("python verify")[0], space)
    server = serve(f=ok)
    broker = start_broker(**settings([webhook(server, "f", hmac="env:HOME")], {"$connect": "f"}))
    open_client(broker)
    call = server.next()
    key, header = os.environ["HOME"].encode(), call.headers["x-polycast-signature"]
    assert space["is_ours"](key, header, call.body)
    assert not space["is_ours"](key, header, call.body + b" ")
    assert not space["is_ours"](b"other", header, call.body)


def test_letters_look_so(serve, start_broker, tmp_path):
    def fail(_):
        raise Failure("no")

    server = serve(f=fail)
    topics = [{"name": "r", "filter": "a", "target": "f"}]
    broker = start_broker(data=tmp_path, **settings([lambda_target(server, "f", attempts=1)], topics=topics))
    post(broker, "/api/v1/publish?topic=a&qos=1", "x", {"content-type": "text/plain"})
    file = tmp_path / "functions" / "dead-letters.jsonl"
    until(lambda: file.exists() and file.read_text().endswith("\n"), "a letter")
    assert set(json.loads(file.read_text())) == set(json.loads(blocks("json letter")[0]))


def test_the_metrics_are_those_of_the_page(serve, start_broker):
    server = serve(f=ok)
    broker = start_broker(**settings([webhook(server, "f")], {"$disconnect": "f"}))
    text = broker.fetch("/metrics")[1]
    assert set(re.findall(r"# TYPE (polycast_function_\w+)", text)) == set(re.findall(r"^\| `(polycast_function_\w+)`", PAGE, re.M))


