"""The programs around the bridge: moto's SQS, a NATS server, the bridge itself, and a subscriber."""

import os
import pathlib
import queue
import re
import shutil
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from dataclasses import dataclass, field

import boto3
import paho.mqtt.client as paho
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions
from support import leash, process, waiting

LOOPBACK = process.LOOPBACK
PATIENCE = 90.0
"""Seconds that anything may take: the machine may have two cores and much else to do."""

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_REGION": "us-east-1",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


def until(condition, what: str = "", patience: float = PATIENCE):
    """Waits for a condition, and returns what it returned."""
    return waiting.until(condition, what, patience)


def bridge_program() -> str:
    program = os.environ.get("POLYCAST_BRIDGE_BIN") or str(process.target_directory() / "debug" / "polycast-bridge")
    assert pathlib.Path(program).exists(), f"{program} is missing: cargo build -p bridge"
    return program


def environment() -> dict[str, str]:
    """No setting of the machine's reaches the bridge."""
    plain = {name: value for name, value in process.plain_environment().items() if not name.startswith("AWS_")}
    return plain | CREDENTIALS


@dataclass
class Server:
    """A server program that can be stopped, killed, and started again at the same port."""

    command: list[str]
    port: int
    log: pathlib.Path
    process: subprocess.Popen | None = None

    def start(self) -> "Server":
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                self.command, stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=environment()
            )
        leash.hold(self.process)
        until(lambda: process._accepts(self.port), f"{self.command[0]} listens")
        return self

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(PATIENCE)

    def stop(self) -> None:
        if self.process and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.kill()

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"


def moto(folder: pathlib.Path) -> Server:
    """Moto's server: SQS, EventBridge and SNS over the real HTTP wire."""
    port = process.free_port()
    program = pathlib.Path(sys.executable).with_name("moto_server")
    return Server([str(program), "-H", LOOPBACK, "-p", str(port)], port, folder / "moto.log").start()


def nats_server(folder: pathlib.Path, *arguments: str) -> Server:
    """Debian's NATS server with JetStream."""
    program = shutil.which("nats-server", path=os.environ["PATH"] + ":/usr/sbin")
    assert program, "nats-server is missing"
    port = process.free_port()
    store = folder / "jetstream"
    command = [program, "-a", LOOPBACK, "-p", str(port), "-js", "-sd", str(store), *arguments]
    return Server(command, port, folder / "nats.log").start()


class LastingBroker:
    """Polycast that keeps its port and what it has when it is killed and started again."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        self.port = process.free_port()
        self.starts = 0
        self.start()

    def start(self) -> None:
        self.starts += 1
        folder = self.folder / f"broker-{self.starts}"
        folder.mkdir()
        self.running = process.start(folder, "--mqtt", f"{LOOPBACK}:{self.port}", "--stomp", "off", data=self.folder / "data")

    def kill(self) -> None:
        """As a crash would."""
        self.running.process.kill()
        self.running.process.wait(PATIENCE)

    def stop(self) -> None:
        self.running.stop()


def aws(server: Server, service: str):
    return boto3.client(
        service,
        endpoint_url=server.url,
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )


@dataclass
class Bridge:
    """A running bridge."""

    folder: pathlib.Path
    config: pathlib.Path
    log: pathlib.Path
    process: subprocess.Popen | None = None
    admin: int = 0
    http: int = 0
    expected: bool = field(default=False)
    environment: dict[str, str] = field(default_factory=environment)

    def start(self, patience: float = PATIENCE) -> "Bridge":
        known = len(self.log_text())
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                [bridge_program(), "--config", str(self.config), "run"],
                cwd=self.folder,
                env=self.environment,
                stdout=out,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
            )
        leash.hold(self.process)
        self.expected = False
        self.admin = self.http = 0
        until(lambda: self._read_ports(known), "the bridge says where it listens", patience)
        return self

    def _read_ports(self, known: int) -> bool:
        text = self.log_text()[known:]
        assert self.process.poll() is None, f"did not start:\n{text}"
        for name, words in (("admin", "metrics and health"), ("http", "events by HTTP")):
            found = re.search(rf"{words} address=\S+?:(\d+)", text)
            if found:
                setattr(self, name, int(found[1]))
        sources = len(re.findall(r"^\[sources\.\w+\]", self.config.read_text(), re.MULTILINE))
        if len(re.findall(r"bridge::run: open source=", text)) < sources:
            return False
        return bool(self.admin) and ("[http]" not in self.config.read_text() or bool(self.http))

    def log_text(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def url(self, path: str) -> str:
        return f"http://{LOOPBACK}:{self.http}{path}"

    def fetch(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://{LOOPBACK}:{self.admin}{path}", timeout=PATIENCE) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as refusal:
            return refusal.code, refusal.read().decode()

    def metric(self, name: str) -> float:
        """The sum of a metric over all sources and sinks."""
        _, text = self.fetch("/metrics")
        found = re.findall(rf"^polycast_bridge_{name}(?:\{{[^}}]*\}})? (\S+)$", text, re.MULTILINE)
        assert found, f"no metric {name} in\n{text}"
        return sum(map(float, found))

    def kill(self) -> None:
        """As a crash would."""
        self.expected = True
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(PATIENCE)

    def stop(self) -> None:
        """Stops it as an operator would, and looks whether it went in good order."""
        if self.process is None or self.expected:
            return
        self.expected = True
        early = self.process.poll()
        if early is None:
            self.process.terminate()
        try:
            code = self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"still running after SIGTERM:\n{self.log_text()[-4000:]}") from None
        assert early is None, f"ended by itself with {early}:\n{self.log_text()[-4000:]}"
        assert code == 0, f"exit code {code}:\n{self.log_text()[-4000:]}"
        assert "panicked" not in self.log_text(), self.log_text()[-4000:]

    def command(self, *arguments: str) -> subprocess.CompletedProcess:
        """Runs another command with the same configuration."""
        return subprocess.run(
            [bridge_program(), "--config", str(self.config), *arguments],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )


@dataclass
class Message:
    topic: str
    payload: bytes
    qos: int
    retain: bool
    properties: Properties

    @property
    def user(self) -> dict[str, str]:
        return dict(getattr(self.properties, "UserProperty", []))


class Subscriber:
    """Reads topics with paho in a session that outlives connections; comes back by itself."""

    def __init__(self, port: int, *filters: str, client_id: str = "reader", session_secs: int = 3600):
        self.messages: queue.Queue[Message] = queue.Queue()
        self.filters = filters
        self.ready = threading.Event()
        self.client = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id, protocol=paho.MQTTv5)
        self.client.on_connect = self._connected
        self.client.on_subscribe = lambda *_: self.ready.set()
        self.client.on_message = self._received
        self.client.reconnect_delay_set(1, 1)
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = session_secs
        self.client.connect(LOOPBACK, port, clean_start=False, properties=properties)
        self.client.loop_start()
        assert self.ready.wait(PATIENCE), "subscribed"

    def _connected(self, client, _userdata, _flags, _code, _properties):
        client.subscribe([(filter, SubscribeOptions(qos=2)) for filter in self.filters])

    def _received(self, _client, _userdata, message):
        self.messages.put(Message(message.topic, message.payload, message.qos, message.retain, message.properties))

    def next(self, seconds: float = PATIENCE) -> Message:
        return self.messages.get(timeout=seconds)

    def take(self, count: int, seconds: float = PATIENCE) -> list[Message]:
        return [self.next(seconds) for _ in range(count)]

    def nothing(self, seconds: float = 0.3) -> None:
        try:
            message = self.messages.get(timeout=seconds)
        except queue.Empty:
            return
        raise AssertionError(f"unexpected: {message}")

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()
