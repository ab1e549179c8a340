"""docs/operations.md: its commands work, and it has every alert with its severity."""

import os
import re
import subprocess

import pytest
import yaml
from stack import DOCKER
from support import process

PAGE = (process.ROOT / "docs" / "operations.md").read_text()


def commands(kind: str) -> list[str]:
    blocks = re.findall(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


def run(line: str, folder, **variables: str) -> subprocess.CompletedProcess:
    program = os.path.dirname(process.polycast())
    environment = process.plain_environment() | variables
    environment["PATH"] = f"{program}:{environment['PATH']}"
    return subprocess.run(
        ["bash", "-euc", line], cwd=folder, env=environment, capture_output=True, text=True, timeout=60
    )


def test_every_alert_is_in_the_runbook():
    groups = yaml.safe_load((DOCKER / "prometheus" / "alerts.yml").read_text())["groups"]
    rules = {rule["alert"]: rule["labels"]["severity"] for group in groups for rule in group["rules"]}
    assert rules == dict(re.findall(r"^### (\w+)\n\n\*(page|ticket)\.\*", PAGE, re.MULTILINE))


def test_what_the_runbook_names_is_there(stack):
    known = stack.broker.fetch("/metrics")[1] + stack.bridge.fetch("/metrics")[1]
    for name in set(re.findall(r"`(polycast_\w+)", PAGE)):
        assert f"# TYPE {name} " in known, name
    configuration = (process.ROOT / "docs" / "configuration.md").read_text()
    for section, key in re.findall(r"`(limits|store|log|tls|protection|http|mqtt|auth)\.(\w+)", PAGE):
        assert f"{section}.{key}" in configuration, (section, key)
    for path in re.findall(r"^\| `([\w./-]+)`", PAGE, re.MULTILINE):
        if "/" in path or path == "Dockerfile":
            assert (process.ROOT / path).exists(), path


@pytest.mark.parametrize("line", [line for line in commands("sh") if not line.startswith("polycast serve")])
def test_each_command_works(stack, tmp_path, line):
    (tmp_path / "polycast.toml").write_text(f'[http]\nlisten = "127.0.0.1:{stack.broker.http}"\n')
    line = line.replace("localhost:8080", f"localhost:{stack.broker.http}").replace("-p 1883", f"-p {stack.broker.mqtt}")
    done = run(line, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout


def test_each_command_on_a_stopped_store_works(tmp_path):
    broker = process.start(tmp_path, data=tmp_path / "polycast-data")
    broker.stop()
    lines = commands("sh stopped")
    assert len(lines) == 3
    for line in lines:
        done = run(line, tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
