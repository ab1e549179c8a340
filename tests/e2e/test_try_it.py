"""Runs docs/try-it.md: every block, as it stands there but for the ports."""

import functools
import http.server
import os
import pathlib
import re
import subprocess
import threading
from dataclasses import dataclass

import pytest

from support import node, process
from support.waiting import until

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "try-it.md"


@dataclass
class Block:
    section: str
    kind: str
    text: str


def blocks() -> list[Block]:
    """All fenced blocks with the heading they stand under."""
    found, section, kind, lines = [], "", None, []
    for line in PAGE.read_text().splitlines():
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


def of_kind(kind: str) -> list[Block]:
    return [block for block in blocks() if block.kind == kind]


WATCHED = [block.section for block in of_kind("sh watch")]
HTML = [block.kind.removeprefix("html ") for block in blocks() if block.kind.startswith("html ")]


@dataclass
class Started:
    """What runs for a reader of the page: a broker, and a web server for the folder with the pages."""

    broker: process.Broker
    folder: pathlib.Path
    pages: http.server.HTTPServer

    def adapted(self, text: str) -> str:
        """The text with the ports that there are in place of the usual ones."""
        ports = {
            "1883": self.broker.mqtt,
            "61613": self.broker.stomp,
            "8080": self.broker.http,
            "8000": self.pages.server_port,
        }
        return re.sub(r":\d+|(?<=-p )\d+", lambda found: _replaced(found[0], ports), text)


def _replaced(port: str, ports: dict) -> str:
    digits = port.lstrip(":")
    return port.removesuffix(digits) + str(ports.get(digits, digits))


class QuietPages(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    """A broker started with the settings that the page's first command gives."""
    folder = tmp_path_factory.mktemp("pages")
    handler = functools.partial(QuietPages, directory=str(folder))
    pages = http.server.ThreadingHTTPServer((process.LOOPBACK, 0), handler)
    threading.Thread(target=pages.serve_forever, daemon=True).start()
    command = of_kind("sh start")[0].text.replace(":8000", f":{pages.server_port}").split()
    settings = dict(word.split("=", 1) for word in command if "=" in word)
    assert command[len(settings) :] == ["cargo", "run", "--release"]
    keys = {name.removeprefix("POLYCAST_").lower(): value for name, value in settings.items()}
    broker = process.start(tmp_path_factory.mktemp("try-it"), **keys)
    yield Started(broker, folder, pages)
    broker.stop()
    pages.shutdown()


def environment() -> dict:
    folder = str(pathlib.Path(process.polycast()).parent)
    return process.plain_environment() | {"PATH": folder + os.pathsep + os.environ["PATH"]}


def run(text: str) -> str:
    done = subprocess.run(
        ["bash", "-euc", text], env=environment(), capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_kind_of_block_is_known():
    known = {"sh start", "sh run", "sh watch", "text", "html stomp.html", "html json.html"}
    assert {block.kind for block in blocks()} == known
    assert WATCHED and HTML == ["stomp.html", "json.html"]


def test_is_it_there(started):
    block = next(block for block in of_kind("sh run") if block.section == "Is it there?")
    assert "polycast_" in run(started.adapted(block.text))


@pytest.mark.parametrize("section", WATCHED)
def test_what_is_published_is_shown(started, section, tmp_path):
    by_kind = {block.kind: block.text for block in blocks() if block.section == section}
    expected = by_kind["text"].splitlines()
    shown = tmp_path / "shown"
    with shown.open("wb") as out:
        watcher = subprocess.Popen(
            ["bash", "-euc", "exec " + started.adapted(by_kind["sh watch"])],
            env=environment(),
            stdout=out,
            stderr=subprocess.STDOUT,
        )

    def publish_and_look() -> bool:
        # Again until the watcher has subscribed, of which its output tells nothing.
        run(started.adapted(by_kind["sh run"]))
        return _ends_with(shown.read_text().splitlines(), expected)

    try:
        until(publish_and_look, f"{expected} is shown")
    finally:
        watcher.terminate()
        watcher.wait(10)


def _ends_with(lines: list[str], expected: list[str]) -> bool:
    return any(lines[at : at + len(expected)] == expected for at in range(len(lines)))


@pytest.mark.parametrize("name", HTML)
def test_page_in_a_browser(started, name):
    html = next(block.text for block in blocks() if block.kind == f"html {name}")
    (started.folder / name).write_text(started.adapted(html))
    wanted = re.search(r"`([^`]*sensors/kitchen: [^`]*)`", PAGE.read_text().split(f"```html {name}")[1])[1]
    publish = next(block.text for block in of_kind("sh run") if block.section == "MQTT")
    browser = subprocess.Popen(
        ["node", "browser.mjs", started.adapted(f"http://localhost:8000/{name}"), wanted],
        cwd=node.FOLDER,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )

    def publish_and_look() -> bool:
        run(started.adapted(publish))
        return browser.poll() is not None

    try:
        until(publish_and_look, "the browser is done", 40)
        output = browser.communicate(timeout=10)[0]
        assert browser.returncode == 0, output
    finally:
        browser.kill()
