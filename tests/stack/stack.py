"""The set of docker-compose.yml as plain processes, with the very files that the containers are given.

Only names and ports differ: where a container finds `polycast:1883`, a process here finds a port of this machine.
"""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import urllib.parse
import urllib.request
from dataclasses import dataclass

import servers
import yaml
from support import leash, process
from support.waiting import until

DOCKER = process.ROOT / "docker"
COMPOSE = process.ROOT / "docker-compose.yml"
LOOPBACK = process.LOOPBACK


def compose() -> dict:
    """What docker-compose.yml says."""
    return yaml.safe_load(COMPOSE.read_text())


def program(name: str) -> str:
    found = shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin")
    assert found, f"{name} is missing"
    return found


@dataclass
class Stack:
    """Everything that runs."""

    broker: process.Broker
    sqs: servers.Server
    nats: servers.Server
    bridge: servers.Bridge
    prometheus: servers.Server
    demo: subprocess.Popen

    def stop(self) -> None:
        """In the order in which nothing is missed."""
        self.demo.terminate()
        self.demo.wait(10)
        self.prometheus.stop()
        self.bridge.stop()
        self.broker.stop()
        self.nats.stop()
        self.sqs.stop()

    def ask_prometheus(self, path: str, **query: str):
        url = f"{self.prometheus.url}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            answered = json.load(answer)
        assert answered["status"] == "success", answered
        return answered["data"]


def start(folder: pathlib.Path) -> Stack:
    """Starts all of it below a folder."""
    sqs = servers.moto(_inside(folder, "sqs"))
    nats = _nats(_inside(folder, "nats"))
    broker = process.start(_inside(folder, "polycast"), "--config", str(DOCKER / "polycast.toml"))
    names = {
        "polycast:1883": f"{LOOPBACK}:{broker.mqtt}",
        "polycast:8080": f"{LOOPBACK}:{broker.http}",
        "sqs:5000": f"{LOOPBACK}:{sqs.port}",
        "nats:4222": f"{LOOPBACK}:{nats.port}",
    }
    services = compose()["services"]
    subprocess.run(_demo(services["queues"], names), env=servers.environment(), check=True, timeout=60)
    bridge = _bridge(_inside(folder, "bridge"), names)
    names["bridge:9464"] = f"{LOOPBACK}:{bridge.admin}"
    prometheus = _prometheus(_inside(folder, "prometheus"), names)
    with (folder / "demo.log").open("wb") as out:
        demo = leash.hold(subprocess.Popen(_demo(services["demo"], names), env=servers.environment(), stdout=out, stderr=out))
    return Stack(broker, sqs, nats, bridge, prometheus, demo)


def _inside(folder: pathlib.Path, name: str) -> pathlib.Path:
    inside = folder / name
    inside.mkdir()
    return inside


def adapted(text: str, names: dict[str, str]) -> str:
    """The text with this machine's addresses for the names that containers have."""
    for name, address in names.items():
        text = text.replace(name, address)
    return text


def _nats(folder: pathlib.Path) -> servers.Server:
    port = process.free_port()
    config = folder / "nats.conf"
    text = (DOCKER / "nats.conf").read_text()
    config.write_text(adapted(text, {"0.0.0.0:4222": f"{LOOPBACK}:{port}", '"/data"': f'"{folder}/data"'}))
    return servers.Server([program("nats-server"), "--config", str(config)], port, folder / "nats.log").start()


def _bridge(folder: pathlib.Path, names: dict[str, str]) -> servers.Bridge:
    config = folder / "bridge.toml"
    here = {"0.0.0.0:9464": f"{LOOPBACK}:0", "/var/lib/polycast-bridge": str(folder)}
    config.write_text(adapted((DOCKER / "bridge.toml").read_text(), names | here))
    bridge = servers.Bridge(folder, config, folder / "bridge.log").start()
    until(lambda: bridge.fetch("/readyz")[0] == 200, "the bridge is connected to the broker", 30)
    return bridge


def _prometheus(folder: pathlib.Path, names: dict[str, str]) -> servers.Server:
    port = process.free_port()
    text = adapted((DOCKER / "prometheus" / "prometheus.yml").read_text(), names)
    # Seconds matter to those who wait for a test.
    text = re.sub(r"_interval: \w+", "_interval: 1s", text).replace("localhost:9090", f"{LOOPBACK}:{port}")
    config = folder / "prometheus.yml"
    config.write_text(text)
    shutil.copy(DOCKER / "prometheus" / "alerts.yml", folder)
    command = [word for word in compose()["services"]["prometheus"]["command"] if word.startswith("--storage.tsdb.ret")]
    command += [f"--config.file={config}", f"--storage.tsdb.path={folder}/data", f"--web.listen-address={LOOPBACK}:{port}"]
    return servers.Server([program("prometheus"), *command], port, folder / "prometheus.log").start()


def _demo(service: dict, names: dict[str, str]) -> list[str]:
    assert service["entrypoint"] == ["python", "/demo/publish.py"]
    words = [adapted(word, names) for word in service["command"]]
    return [sys.executable, str(DOCKER / "demo" / "publish.py"), *words]
