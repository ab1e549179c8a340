"""Commands of the documents, run as they stand there but for ports, in a folder of a test's own.

`cargo run` builds and then runs: the building comes before all tests, here the program that it built is run. What a
machine has by habit (a broker at the usual ports) is given by the environment or by an address in place of none.
"""

import contextlib
import os
import pathlib
import pty
import re
import select
import shlex
import signal
import subprocess
import termios
from contextlib import contextmanager

from . import leash, pages, process
from .waiting import until

BUILT = {"cargo run --release -p bench --": "bench", "cargo run --release --": "polycast", "cargo run --release": "polycast"}


def lines_of(text: str) -> list[str]:
    """The commands of a block without comments, prompts and what they print."""
    lines = text.replace("\\\n", " ").splitlines()
    if any(line.startswith("$ ") for line in lines):
        lines = [line[2:] for line in lines if line.startswith("$ ")]
    return [line for line in lines if shlex.split(line, comments=True)]


def program(name: str) -> pathlib.Path:
    """A program of ours that was built before the tests."""
    if name == "polycast":
        return pathlib.Path(process.polycast())
    found = process.target_directory() / "debug" / name
    assert found.exists(), f"{found} is missing: tests/run builds it"
    return found


def built(line: str) -> str:
    """The line with the program that cargo built in place of the building."""
    for command, name in BUILT.items():
        line = re.sub(rf"^{re.escape(command)}(?=\s|$)", str(program(name)) if name != "polycast" else name, line)
    return line


def addressed(line: str, broker: process.Broker) -> str:
    """The line with a broker's ports, also where the usual address is meant by saying none."""
    line = re.sub(r"^polycast (subscribe|publish|simulate fleet)(?! \w+://| --help)", rf"polycast \1 mqtt://127.0.0.1:{broker.mqtt}", line)
    line = re.sub(r"(mqtts://localhost)(?!:)", rf"\1:{broker.mqtts}", line)
    return pages.adapted(line, broker)


def environment(broker: process.Broker | None = None, **more: str) -> dict[str, str]:
    found = pages.environment() | more
    return found | {"POLYCAST_URL": broker.http_url("")} if broker else found


def run(line: str, folder: pathlib.Path, patience: float = 60, codes: tuple[int, ...] = (0,), **variables: str) -> str:
    """Runs a line to its end and returns what it printed."""
    done = subprocess.Popen(
        ["bash", "-euo", "pipefail", "-c", line], cwd=folder, env=environment() | variables,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )
    leash.hold(done)
    try:
        printed, said = done.communicate(timeout=patience)
        assert done.returncode in codes, (line, printed[-4000:] + said[-4000:])
        return printed
    finally:
        # With what it has started itself, where it did not come to its end.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(done.pid, signal.SIGKILL)


@contextmanager
def serving(line: str, folder: pathlib.Path, **variables: str):
    """Runs a line that starts a broker, with ports of the system's choice, until the end of the block.

    The broker has to end in good order, and to answer that it is well before.
    """
    line = re.sub(r"127\.0\.0\.1:\d+", f"{process.LOOPBACK}:0", line)
    wanted = [name for name in ("mqtt", "stomp", "http") if f"--{name} off" not in line]
    wanted += [name for name in process.TLS if f"--{name} " in line]
    listen = {f"POLYCAST_{name.upper()}__LISTEN": f"{process.LOOPBACK}:0" for name in ("mqtt", "stomp", "http")}
    quick = {"POLYCAST_LIMITS__DRAIN_GRACE": "1s", "POLYCAST_DATA_DIR": str(folder / "data")}
    log = folder / "broker.log"
    with log.open("wb") as out:
        started = subprocess.Popen(
            ["bash", "-euc", f"exec {line}"], cwd=folder, env=environment() | listen | quick | variables,
            stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
        )
    leash.hold(started)
    broker = process.Broker(started, log)
    try:
        until(lambda: process._read_ports(broker, wanted), "the broker says where it listens", 30)
        assert broker.fetch("/healthz")[0] == 200
        yield broker
        broker.stop()
    finally:
        if started.poll() is None:
            started.kill()
            started.wait(10)


@contextmanager
def watching(line: str, folder: pathlib.Path, **variables: str):
    """Runs a line that goes on until somebody ends it; gives what reads what it has printed so far."""
    shown = folder / "shown"
    with shown.open("wb") as out:
        watcher = subprocess.Popen(
            ["bash", "-euc", f"exec {line}"], cwd=folder, env=environment() | variables, stdout=out, stderr=subprocess.STDOUT
        )
    leash.hold(watcher)

    def read() -> str:
        assert watcher.poll() is None, shown.read_text()
        return shown.read_text()

    try:
        yield read
    finally:
        watcher.terminate()
        watcher.wait(10)


def at_a_terminal(line: str, folder: pathlib.Path, answers: list[str]) -> str:
    """Runs a line at a terminal and answers what it asks, each time that it has asked something."""
    ours, theirs = pty.openpty()
    done = subprocess.Popen(
        ["bash", "-euc", line], cwd=folder, env=environment(), stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    )
    os.close(theirs)
    said = ""
    try:
        for answer in answers:
            asked = len(said)
            while not said[asked:].rstrip().endswith(":"):
                assert select.select([ours], [], [], 30)[0], said
                said += os.read(ours, 1024).decode()
            # What is typed before the program has turned the echo off is thrown away.
            until(lambda: not termios.tcgetattr(ours)[3] & termios.ECHO, "what is typed is not shown", 30)
            os.write(ours, f"{answer}\n".encode())
            said += "\n"
        assert done.wait(60) == 0, said
    finally:
        done.kill()
        done.wait(10)
        os.close(ours)
    return said
