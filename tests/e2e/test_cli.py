"""The command line: its clients against Polycast and Mosquitto, and what it says about configurations."""

import pathlib
import subprocess

import pytest

from support import mqtt, process
from support.process import LOOPBACK
from support.waiting import unique, until


def polycast(*arguments: str, stdin: str | None = None, **environment: str) -> subprocess.CompletedProcess:
    """Runs the program to its end."""
    return subprocess.run(
        [process.polycast(), *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=30,
        env=process.plain_environment() | environment,
    )


def publish(url: str, topic: str, text: str, *options: str) -> None:
    done = polycast("publish", url, "-t", topic, "-m", text, *options)
    assert done.returncode == 0, done.stderr


class Watcher:
    """`polycast subscribe` in the background, its output line by line."""

    def __init__(self, folder: pathlib.Path, url: str, *options: str):
        self.output = folder / unique("shown")
        with self.output.open("wb") as out:
            self.process = subprocess.Popen(
                [process.polycast(), "subscribe", url, *options],
                stdout=out,
                stderr=subprocess.STDOUT,
                env=process.plain_environment(),
            )

    def lines(self) -> list[str]:
        return self.output.read_text().splitlines()

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(10)


def urls(broker: process.Broker) -> dict[str, str]:
    return {
        "mqtt": f"mqtt://{LOOPBACK}:{broker.mqtt}",
        "stomp": f"stomp://{LOOPBACK}:{broker.stomp}",
        "json over ws": f"ws://{LOOPBACK}:{broker.http}/ws",
        "mqtt over ws": f"ws://{LOOPBACK}:{broker.http}/mqtt",
        "stomp over ws": f"ws://{LOOPBACK}:{broker.http}/stomp",
    }


KINDS = list(urls(process.Broker(None, pathlib.Path())))


@pytest.fixture
def watch(tmp_path):
    started = []

    def start(url, *options):
        started.append(Watcher(tmp_path, url, *options))
        return started[-1]

    yield start
    for one in started:
        one.stop()


@pytest.mark.parametrize("kind", KINDS)
def test_publish_reaches_a_subscriber(broker, client, kind):
    topic, receiver = unique("cli"), client()
    receiver.subscribe(topic, qos=1)
    for qos in ("0", "1"):
        publish(urls(broker)[kind], topic, f"hello ü {qos}", "-q", qos)
        message = receiver.message()
        assert (message.payload.decode(), message.qos) == (f"hello ü {qos}", int(qos))


@pytest.mark.parametrize("kind", KINDS)
def test_subscribe_shows_what_is_published(broker, client, watch, kind):
    topic, sender = unique("cli"), client()
    # Retained, so that it does not matter when the subscription is made.
    sender.publish(f"{topic}/a", b"kept", qos=1, retain=True)
    watcher = watch(urls(broker)[kind], "-t", f"{topic}/#", "-v")
    until(lambda: watcher.lines() == [f"{topic}/a kept"], "the retained message is shown")
    sender.publish(f"{topic}/b", b"live", qos=1)
    until(lambda: watcher.lines() == [f"{topic}/a kept", f"{topic}/b live"], "the live message is shown")


@pytest.mark.parametrize("kind", KINDS)
def test_publish_retained(broker, client, kind):
    topic, late = unique("cli"), client()
    publish(urls(broker)[kind], topic, "kept", "-r", "-q", "1")
    late.subscribe(topic)
    assert late.message().retain


@pytest.mark.parametrize("kind", ["mqtt", "mqtt over ws"])
def test_clients_work_with_mosquitto(tmp_path, watch, kind):
    mosquitto = process.start_mosquitto(tmp_path)
    url = {
        "mqtt": f"mqtt://{LOOPBACK}:{mosquitto.mqtt}",
        "mqtt over ws": f"ws://{LOOPBACK}:{mosquitto.mqtt_over_ws}/mqtt",
    }[kind]
    try:
        publish(url, "t/a", "kept", "-r", "-q", "2")
        watcher = watch(url, "-t", "t/#", "-v")
        until(lambda: watcher.lines() == ["t/a kept"], "the retained message is shown")
        publish(url, "t/b", "live", "-q", "1")
        until(lambda: watcher.lines() == ["t/a kept", "t/b live"], "the live message is shown")
    finally:
        mosquitto.process.terminate()
        mosquitto.process.wait(10)


def test_publish_says_why_it_cannot(broker):
    refused = polycast("publish", f"mqtt://{LOOPBACK}:{process.free_port()}", "-t", "t", "-m", "x")
    assert refused.returncode != 0 and "cannot connect" in refused.stderr
    nonsense = polycast("publish", "amqp://localhost", "-t", "t", "-m", "x")
    assert nonsense.returncode != 0 and "mqtt://" in nonsense.stderr
    wildcard = polycast("publish", urls(broker)["mqtt"], "-t", "a/#", "-m", "x")
    assert wildcard.returncode != 0 and wildcard.stderr


# --- configuration ------------------------------------------------------------------------------


def check(tmp_path: pathlib.Path, text: str, **environment: str) -> subprocess.CompletedProcess:
    file = tmp_path / "polycast.toml"
    file.write_text(text)
    return polycast("check-config", "--config", str(file), **environment)


def test_default_config_is_complete_and_right(tmp_path):
    printed = polycast("default-config")
    assert printed.returncode == 0
    for key in ("receive_maximum", "packet_size", "login_timeout", "allowed_origins", "listen"):
        assert key in printed.stdout
    checked = check(tmp_path, printed.stdout)
    assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize(
    "text, line, words",
    [
        ("[mqtt]\nlistem = 'x'\n", 2, ["listem", "listen"]),
        ("[mqtt]\nreceive_maximum = 0\n", 2, ["receive_maximum", "1 to 65535"]),
        ("[limits]\n\npacket_size = 'huge'\n", 3, ["packet_size", "64 KiB"]),
        ("[limits]\nlogin_timeout = 10\n", 2, ["login_timeout", "unit"]),
        ("[http]\nlisten = 'nowhere'\n", 2, ["http.listen", "host:port"]),
        ("[mqttt]\n", 1, ["mqttt", "mqtt"]),
        ("[mqtt\n", 1, []),
    ],
)
def test_check_config_names_each_mistake_with_file_and_line(tmp_path, text, line, words):
    done = check(tmp_path, text)
    assert done.returncode == 1
    assert f"polycast.toml:{line}:" in done.stderr, done.stderr
    for word in words:
        assert word in done.stderr, done.stderr


def test_check_config_names_all_mistakes_at_once(tmp_path):
    done = check(tmp_path, "[mqtt]\na = 1\nb = 2\n", POLYCAST_LOG__LEVEL="loud")
    assert "polycast.toml:2:" in done.stderr and "polycast.toml:3:" in done.stderr
    assert "POLYCAST_LOG__LEVEL" in done.stderr


def test_serve_refuses_a_wrong_configuration(tmp_path):
    file = tmp_path / "polycast.toml"
    file.write_text("[mqtt]\nlistem = 'x'\n")
    done = polycast("serve", "--config", str(file), "--data-dir", str(tmp_path / "data"))
    assert done.returncode != 0 and "listem" in done.stderr


def test_flags_win_over_environment_and_file(tmp_path):
    file = tmp_path / "polycast.toml"
    file.write_text("[mqtt]\nlisten = '127.0.0.1:1'\n")
    broker = process.start(tmp_path, "--config", str(file), mqtt__listen="127.0.0.1:2")
    try:
        mqtt.Client.open(broker.mqtt).disconnect()
    finally:
        broker.stop()


def test_anonymous_listeners_beyond_this_machine_are_refused(tmp_path):
    done = polycast("serve", "--mqtt", "0.0.0.0:0", "--data-dir", str(tmp_path))
    assert done.returncode != 0 and "anonymous" in done.stdout + done.stderr


def test_help_names_the_commands():
    shown = polycast("--help").stdout
    for command in ("serve", "check-config", "default-config", "publish", "subscribe"):
        assert command in shown
