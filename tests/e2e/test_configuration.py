"""The configuration as a user meets it: the printed default, mistakes, the log, and SIGHUP key by key."""

import json
import os
import pathlib
import pty
import re
import signal
import subprocess
import tomllib

import pytest

from support import mqtt, process, websocket
from support.waiting import unique, until

DOCS = pathlib.Path(__file__).parents[2] / "docs"


def polycast(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [process.polycast(), *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        env=process.plain_environment() | environment,
    )


def documented() -> list[str]:
    return re.findall(r"^### `([\w.]+)`$", (DOCS / "configuration.md").read_text(), re.MULTILINE)


def flat(table: dict, above: str = "") -> list[str]:
    found = []
    for key, value in table.items():
        found += flat(value, f"{above}{key}.") if isinstance(value, dict) else [f"{above}{key}"]
    return found


def test_default_config_holds_every_key_and_changes_nothing(tmp_path):
    printed = polycast("default-config").stdout
    assert set(flat(tomllib.loads(printed))) == set(documented())
    file = tmp_path / "polycast.toml"
    file.write_text(printed)
    broker = process.start(tmp_path, "--config", str(file))
    try:
        broker.signal(signal.SIGHUP)
        until(lambda: "nothing has changed" in broker.log_text(), "the file says what was running")
    finally:
        broker.stop()


def test_the_page_is_what_is_printed():
    assert polycast("default-config", "--format", "markdown").stdout == (DOCS / "configuration.md").read_text()


def test_unknown_variables_are_mistakes_with_a_suggestion():
    done = polycast("check-config", POLYCAST_MQTT__LISTEM="x", POLYCAST_LIMITS__TOPIC_LEVEL="3", POLYCAST_FOO="1")
    assert done.returncode == 1
    assert "did you mean POLYCAST_MQTT__LISTEN?" in done.stderr
    assert "did you mean POLYCAST_LIMITS__TOPIC_LEVELS?" in done.stderr
    assert "POLYCAST_FOO: no key has this variable" in done.stderr


def test_unknown_keys_and_sections_are_mistakes_with_a_suggestion(tmp_path):
    file = tmp_path / "polycast.toml"
    file.write_text("[limits]\ntopic_lenght = 3\n[logs]\nlevel = 'info'\n")
    done = polycast("check-config", "--config", str(file))
    assert done.returncode == 1
    assert re.search(r"polycast\.toml:2:1: .*topic_lenght.*\n.*did you mean topic_length\?", done.stderr)
    assert re.search(r"polycast\.toml:3:2: .*logs.*\n.*did you mean log\?", done.stderr)


def test_limits_that_contradict_each_other_are_a_mistake(tmp_path):
    file = tmp_path / "polycast.toml"
    file.write_text("[limits]\n\nsessions = 2\n")
    done = polycast("check-config", "--config", str(file))
    assert done.returncode == 1
    assert "polycast.toml:3:" in done.stderr and "limits.connections <= limits.sessions" in done.stderr


def test_a_file_that_is_missing_is_named(tmp_path):
    done = polycast("check-config", "--config", str(tmp_path / "none.toml"))
    assert done.returncode == 1 and "none.toml" in done.stderr


@pytest.mark.parametrize("command", ["serve", "publish", "subscribe", "check-config", "default-config"])
def test_every_command_has_help(command):
    done = polycast(command, "--help")
    assert done.returncode == 0 and f"Usage: polycast {command}" in done.stdout


def test_a_mistake_on_the_command_line_exits_with_2():
    assert polycast("serve", "--nonsense").returncode == 2
    assert polycast("nonsense").returncode == 2


# --- the log ------------------------------------------------------------------------------------


def test_log_is_json_without_a_terminal_and_text_on_one(own_broker, tmp_path):
    for line in own_broker.log_text().splitlines():
        assert {"timestamp", "level", "message"} <= json.loads(line).keys()
    ours, theirs = pty.openpty()
    listeners = ["--mqtt", "127.0.0.1:0", "--stomp", "off", "--http", "off"]
    running = subprocess.Popen(
        [process.polycast(), "serve", *listeners, "--data-dir", str(tmp_path)],
        env=process.plain_environment(),
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""
    try:
        while b"try it" not in shown:
            shown += os.read(ours, 65536)
    finally:
        running.terminate()
        assert running.wait(20) == 0
        os.close(ours)
    assert b"mqtt://127.0.0.1:" in shown and b'{"' not in shown


@pytest.mark.parametrize("format, is_json", [("text", False), ("json", True)])
def test_log_format(start_broker, format, is_json):
    log = start_broker(log__format=format).log_text()
    assert log.startswith("{") == is_json


def test_nothing_is_logged_for_a_message_above_debug(start_broker):
    broker = start_broker(log__level="info")
    client = mqtt.Client.open(broker.mqtt)
    client.subscribe("t", qos=1)
    client.publish("t", b"x", qos=1)
    client.message()
    before = broker.log_text()
    for _ in range(50):
        client.publish("t", b"x", qos=1)
        client.message()
    client.publish("$SYS/x", b"refused", qos=0)
    client.fence()
    assert broker.log_text() == before


# --- SIGHUP -------------------------------------------------------------------------------------


@pytest.fixture
def reloading(start_broker, tmp_path):
    """A broker with a file, and how to change the file under it."""
    file = tmp_path / "polycast.toml"
    file.write_text("")
    broker = start_broker("--config", str(file))

    def change(text: str, said: str) -> None:
        file.write_text(text)
        broker.signal(signal.SIGHUP)
        until(lambda: said in broker.log_text(), said)

    return broker, change


def test_origins_change_while_it_runs(reloading):
    broker, change = reloading
    origin = ["Origin: https://app.example.org"]
    assert websocket.handshake(broker.http, ["json"], extra=origin).status == 403
    change("[websocket]\nallowed_origins = ['https://app.example.org']\n", "reloaded: websocket.allowed_origins")
    assert websocket.handshake(broker.http, ["json"], extra=origin).status == 101


def test_compression_changes_while_it_runs(reloading):
    broker, change = reloading
    offer = ["Sec-WebSocket-Extensions: permessage-deflate"]
    assert "sec-websocket-extensions" not in websocket.handshake(broker.http, ["json"], extra=offer).headers
    change("[websocket]\npermessage_deflate = true\n", "reloaded: websocket.permessage_deflate")
    assert "sec-websocket-extensions" in websocket.handshake(broker.http, ["json"], extra=offer).headers


def test_log_level_changes_while_it_runs(reloading):
    broker, change = reloading
    # At `warn` only what needs a restart is still said.
    change("[log]\nlevel = 'warn'\n[limits]\nroute_cache_topics = 5\n", "not reloaded: limits.route_cache_topics")
    name = unique("quiet")
    mqtt.Client.open(broker.mqtt, client_id=name).disconnect()
    until(lambda: broker.metric("polycast_connections") == 0, "its end is not logged any more")
    change("[log]\nlevel = 'info'\n", "reloaded: log.level is now \\\"info\\\"")
    other = unique("loud")
    mqtt.Client.open(broker.mqtt, client_id=other).disconnect()
    until(lambda: other in broker.log_text())
    assert name not in broker.log_text()


def test_what_needs_a_restart_is_said(reloading):
    broker, change = reloading
    change("[limits]\nroute_cache_topics = 5\n", "not reloaded: limits.route_cache_topics stays 65536")


# --- metrics ------------------------------------------------------------------------------------


def test_every_metric_is_on_its_page(broker):
    families = set(re.findall(r"^# TYPE (\w+)", broker.fetch("/metrics")[1], re.MULTILINE))
    page = (DOCS / "metrics.md").read_text()
    assert families == set(re.findall(r"^\| `((?:polycast|process)_\w+)`", page, re.MULTILINE))


def test_every_limit_is_on_the_page_of_metrics():
    page = (DOCS / "metrics.md").read_text().split("## What happens at a limit")[1]
    named = set(re.findall(r"`((?:limits|mqtt)\.\w+)`", page))
    assert named == {key for key in documented() if key.startswith(("limits.", "mqtt."))} - {"mqtt.listen", "mqtt.tls_listen"}
