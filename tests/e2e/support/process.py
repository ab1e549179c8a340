"""A broker process of a test's own: started, asked for its ports, stopped, and looked over afterwards."""

import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import urllib.error
import urllib.request
from dataclasses import dataclass, field

from . import disk, leash
from .waiting import until

ROOT = pathlib.Path(__file__).resolve().parents[3]
LOOPBACK = "127.0.0.1"
TLS = ("mqtts", "stomps", "https")
"""Listeners that are only there when a test asks for them."""
QUICK_STOP = {"limits__drain_grace": "1s"}
"""Settings of every broker here: most tests leave connections open when they end."""


def target_directory() -> pathlib.Path:
    """Where cargo puts what it builds."""
    return pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))


def polycast() -> str:
    """The program under test."""
    program = os.environ.get("POLYCAST_BIN") or str(target_directory() / "debug" / "polycast")
    assert pathlib.Path(program).exists(), f"{program} is missing: cargo build -p broker"
    return program


@dataclass
class Broker:
    """A running broker; its ports are None where it does not listen."""

    process: subprocess.Popen
    log: pathlib.Path
    mqtt: int | None = None
    stomp: int | None = None
    http: int | None = None
    mqtts: int | None = None
    stomps: int | None = None
    https: int | None = None
    is_polycast: bool = True
    mqtt_over_ws: int | None = None
    stopped: bool = field(default=False)

    def ws_url(self, path: str = "/ws") -> str:
        return f"ws://{LOOPBACK}:{self.mqtt_over_ws}{path}"

    def http_url(self, path: str) -> str:
        return f"http://{LOOPBACK}:{self.http}{path}"

    def fetch(self, path: str) -> tuple[int, str]:
        """GET, as status and body."""
        try:
            with urllib.request.urlopen(self.http_url(path), timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as refusal:
            return refusal.code, refusal.read().decode()

    def metric(self, name: str, **labels: str) -> float:
        """The sum of all series of a metric that have these labels; 0 if there are none."""
        status, text = self.fetch("/metrics")
        assert status == 200
        total = 0.0
        for line in text.splitlines():
            match = re.fullmatch(rf"{name}(?:\{{(.*)\}})? (\S+)", line)
            if not match:
                continue
            found = dict(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', match[1] or ""))
            if all(found.get(key) == value for key, value in labels.items()):
                total += float(match[2])
        return total

    def log_text(self) -> str:
        return self.log.read_text(errors="replace")

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def stop(self) -> None:
        """Stops it as an operator would, and looks whether it went in good order."""
        if self.stopped:
            return
        self.stopped = True
        early = self.process.poll()
        if early is None:
            self.process.terminate()
        try:
            code = self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"still running 30 s after SIGTERM:\n{self.log_text()[-4000:]}") from None
        log = self.log_text()
        assert early is None, f"ended by itself with {early}:\n{log[-4000:]}"
        assert code == 0, f"exit code {code} after SIGTERM:\n{log[-4000:]}"
        assert "panic: " not in log, f"a panic:\n{log[-4000:]}"


def start(folder: pathlib.Path, *arguments: str, data: pathlib.Path | None = None, **settings) -> Broker:
    """Starts Polycast with every listener on a port of the system's choice.

    `settings` are configuration keys with `__` between levels, given through the environment.
    """
    log = folder / "broker.log"
    log.touch()
    environment = plain_environment()
    for key, value in (QUICK_STOP | settings).items():
        text = str(value).lower() if isinstance(value, bool) else str(value)
        environment[f"POLYCAST_{key.upper()}"] = text
    data = data or folder / "data"
    listeners = []
    for name in ("mqtt", "stomp", "http"):
        if f"--{name}" not in arguments:
            listeners += [f"--{name}", f"{LOOPBACK}:0"]
    with log.open("wb") as out:
        process = subprocess.Popen(
            [polycast(), "serve", *listeners, *arguments, "--data-dir", str(data)],
            cwd=folder,
            env=environment,
            stdout=out,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
        )
    leash.hold(process)
    disk.note(process, data)
    broker = Broker(process, log)
    wanted = [name for name in ("mqtt", "stomp", "http") if _is_on(arguments, name)]
    wanted += [name for name in TLS if f"--{name}" in arguments]
    until(lambda: _read_ports(broker, wanted), "the broker says where it listens", 30)
    broker.mqtt_over_ws = broker.http
    return broker


def plain_environment() -> dict[str, str]:
    """The environment without variables that would be settings."""
    return {name: value for name, value in os.environ.items() if not name.startswith("POLYCAST_")}


def _is_on(arguments: tuple[str, ...], name: str) -> bool:
    flag = f"--{name}"
    return flag not in arguments or arguments[arguments.index(flag) + 1] != "off"


def _read_ports(broker: Broker, wanted: list[str]) -> bool:
    text = broker.log_text()
    assert broker.process.poll() is None, f"did not start:\n{text}"
    for name in wanted:
        match = re.search(rf"\b{name}://(?:127\.0\.0\.1|0\.0\.0\.0):(\d+)", text)
        if match:
            setattr(broker, name, int(match[1]))
    return all(getattr(broker, name) for name in wanted)


def start_mosquitto(folder: pathlib.Path) -> Broker:
    """Starts Debian's mosquitto in Polycast's place, to see that a test asks what the standard says."""
    program = shutil.which("mosquitto")
    assert program, "mosquitto is missing"
    mqtt, ws = free_port(), free_port()
    config = folder / "mosquitto.conf"
    config.write_text(
        f"listener {mqtt} {LOOPBACK}\nlistener {ws} {LOOPBACK}\nprotocol websockets\n"
        "allow_anonymous true\nmax_topic_alias 16\n"
    )
    log = folder / "broker.log"
    with log.open("wb") as out:
        process = leash.hold(subprocess.Popen([program, "-c", str(config)], stdout=out, stderr=subprocess.STDOUT))
    broker = Broker(process, log, mqtt=mqtt, is_polycast=False, mqtt_over_ws=ws)
    until(lambda: _accepts(mqtt) and _accepts(ws), "mosquitto listens")
    return broker


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return probe.getsockname()[1]


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((LOOPBACK, port)) == 0
