"""Starting, stopping, re-reading the configuration, and what is told to clients meanwhile."""

import json
import signal
import socket
import subprocess

import pytest

from support import mqtt, process, stomp
from support.waiting import until
from support.websocket import TEXT, WebSocket


def test_start_lines_say_where_it_listens(own_broker):
    log = own_broker.log_text()
    for name, port in (("mqtt", own_broker.mqtt), ("stomp", own_broker.stomp), ("http", own_broker.http)):
        assert f"{name}://127.0.0.1:{port}" in log


def test_a_listener_can_be_off(start_broker):
    broker = start_broker("--stomp", "off")
    assert broker.stomp is None
    mqtt.Client.open(broker.mqtt).disconnect()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_graceful_stop_tells_every_client(own_broker, number):
    new, old = mqtt.Client.open(own_broker.mqtt), mqtt.Client.open(own_broker.mqtt, 4)
    frames = stomp.Client.open(own_broker.stomp)
    over_ws = WebSocket(own_broker.http, "mqtt")
    mqtt_ws = mqtt.Client(over_ws)
    mqtt_ws.login()
    ws = WebSocket(own_broker.http, "json")
    ws.send(TEXT, json.dumps({"type": "ping"}))
    until(lambda: own_broker.metric("polycast_sessions", state="connected") == 5, "everyone is let in")
    own_broker.signal(number)
    assert [(packet.kind, packet.reason) for packet in new.expect_closed()] == [(mqtt.DISCONNECT, 0x8B)]
    assert old.expect_closed() == []
    assert frames.expect_error()["message"]
    assert [packet.reason for packet in mqtt_ws.expect_closed()] == [0x8B]
    assert over_ws.ended.code == 1001
    assert ws.expect_end().code == 1001
    assert own_broker.process.wait(20) == 0
    own_broker.stopped = True
    assert "panic: " not in own_broker.log_text()


def test_graceful_stop_closes_the_listeners(own_broker):
    own_broker.stop()
    for port in (own_broker.mqtt, own_broker.stomp, own_broker.http):
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0


def test_graceful_stop_does_not_wait_for_a_client_that_does_not_read(own_broker):
    stuck = mqtt.Client.open(own_broker.mqtt)
    stuck.stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    stuck.subscribe("flood")
    sender = mqtt.Client.open(own_broker.mqtt)
    for _ in range(40):
        sender.publish("flood", bytes(100_000))
    sender.fence()
    own_broker.stop()


def test_graceful_stop_delivers_what_was_acknowledged(own_broker):
    receiver, sender = mqtt.Client.open(own_broker.mqtt), mqtt.Client.open(own_broker.mqtt)
    receiver.subscribe("t")
    for number in range(100):
        sender.publish("t", str(number), qos=1)
    own_broker.signal(signal.SIGTERM)
    packets = receiver.expect_closed()
    bodies = [packet.payload for packet in packets if packet.kind == mqtt.PUBLISH]
    assert bodies == [b"%d" % number for number in range(100)]


def test_two_brokers_do_not_share_a_port(own_broker, tmp_path):
    done = subprocess.run(
        [process.polycast(), "serve", "--mqtt", f"127.0.0.1:{own_broker.mqtt}", "--stomp", "off", "--http", "off"]
        + ["--data-dir", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=30,
        env=process.plain_environment(),
    )
    assert done.returncode != 0
    assert str(own_broker.mqtt) in done.stdout + done.stderr


def test_sighup_rereads_the_configuration(start_broker, tmp_path):
    config = tmp_path / "polycast.toml"
    config.write_text("[mqtt]\nreceive_maximum = 5\n")
    broker = start_broker("--config", str(config))
    held = mqtt.Client.open(broker.mqtt)
    assert held.connack.properties["receive_maximum"] == 5
    config.write_text("[mqtt]\nreceive_maximum = 9\n")
    broker.signal(signal.SIGHUP)
    until(lambda: mqtt.Client.open(broker.mqtt).connack.properties["receive_maximum"] == 9, "the new limit")
    held.fence()


def test_sighup_with_a_mistake_keeps_the_old_configuration(start_broker, tmp_path):
    config = tmp_path / "polycast.toml"
    config.write_text("[mqtt]\nreceive_maximum = 5\n")
    broker = start_broker("--config", str(config))
    config.write_text("[mqtt]\nreceive_maximun = 9\n")
    broker.signal(signal.SIGHUP)
    until(lambda: "receive_maximun" in broker.log_text(), "the mistake is named in the log")
    assert mqtt.Client.open(broker.mqtt).connack.properties["receive_maximum"] == 5


def test_log_has_one_line_for_each_connection_opened_and_closed(own_broker):
    client = mqtt.Client.open(own_broker.mqtt, client_id="seen-in-the-log")
    for _ in range(50):
        client.publish("t", b"not logged")
    client.disconnect()
    lines = until(
        lambda: [line for line in own_broker.log_text().splitlines() if "seen-in-the-log" in line][1:]
        and [line for line in own_broker.log_text().splitlines() if "seen-in-the-log" in line]
    )
    assert len(lines) == 2
    for line in lines:
        json.loads(line)
    assert "not logged" not in own_broker.log_text()


def test_passwords_are_not_logged(own_broker):
    raw = mqtt.Client.plain(own_broker.mqtt)
    raw.send(mqtt.connect("x", username="someone", password="do-not-log-me"))
    raw.receive()
    raw.close()
    own_broker.stop()
    assert "do-not-log-me" not in own_broker.log_text()
