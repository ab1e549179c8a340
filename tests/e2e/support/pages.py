"""Documents whose blocks are run: what stands in them, and how it is run beside a broker of a test's own."""

import os
import pathlib
import re
import subprocess
import sys
from dataclasses import dataclass

from . import leash, process
from .waiting import until


@dataclass
class Block:
    """A fenced block: the heading that it stands under, the words behind its fence, and its lines."""

    section: str
    kind: str
    text: str


def blocks(name: str) -> list[Block]:
    """All blocks of a page in `docs/`, in their order."""
    found, section, kind, lines = [], "", None, []
    for line in (process.ROOT / "docs" / name).read_text().splitlines():
        if kind is None and line.startswith("#"):
            section = line.lstrip("# ")
        elif kind is None and line.startswith("```"):
            kind, lines = line[3:], []
        elif kind is not None and line == "```":
            found.append(Block(section, kind, "\n".join(lines) + "\n"))
            kind = None
        elif kind is not None:
            lines.append(line)
    return found


def adapted(text: str, broker: process.Broker, **others: int) -> str:
    """The text with the ports that there are in place of the usual ones."""
    ports = {"1883": broker.mqtt, "61613": broker.stomp, "8080": broker.http} | others

    def replaced(found: re.Match) -> str:
        return str(ports.get(found[0], found[0]))

    return re.sub(r"(?<=[:\s])\d{4,5}\b", replaced, text)


def environment() -> dict[str, str]:
    """With `polycast` and this Python first on the path."""
    folders = [str(pathlib.Path(process.polycast()).parent), str(pathlib.Path(sys.executable).parent)]
    return process.plain_environment() | {"PATH": os.pathsep.join([*folders, os.environ["PATH"]])}


def command(block: Block, text: str) -> list[str]:
    """How a block is run."""
    if block.kind.startswith("python"):
        return [sys.executable, "-c", text]
    return ["bash", "-euo", "pipefail", "-c", text]


def run(block: Block, broker: process.Broker, folder: pathlib.Path, **others: int) -> str:
    """Runs a block to its end and returns what it printed."""
    done = subprocess.run(
        command(block, adapted(block.text, broker, **others)),
        cwd=folder, env=environment(), capture_output=True, text=True, timeout=30,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def watch(section: list[Block], broker: process.Broker, folder: pathlib.Path) -> None:
    """Starts the section's watcher, runs its commands until the watcher has shown what the page says."""
    of_kind = {block.kind.split()[-1]: block for block in section}
    expected = of_kind["text"].text.splitlines()
    shown = folder / "shown"
    with shown.open("wb") as out:
        watcher = subprocess.Popen(
            command(of_kind["watch"], adapted(of_kind["watch"].text, broker)),
            cwd=folder, env=environment(), stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
        )
    leash.hold(watcher)

    def publish_and_look() -> bool:
        # Again until the watcher has subscribed, of which its output tells nothing.
        assert watcher.poll() is None, shown.read_text()
        run(of_kind["run"], broker, folder)
        lines = shown.read_text().splitlines()
        return any(lines[at : at + len(expected)] == expected for at in range(len(lines)))

    try:
        until(publish_and_look, f"{expected} is shown")
    finally:
        os.killpg(watcher.pid, 15)
        watcher.wait(10)
