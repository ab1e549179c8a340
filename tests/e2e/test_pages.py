"""Runs the quick start and the pages for those who come from elsewhere: every block, as it stands there but for the ports."""

import json
import re
import shlex
import subprocess

import pytest

from support import node, pages, process
from support.waiting import until

QUICK = "quick-start.md"
MOSQUITTO = "migrating-from-mosquitto.md"
RABBITMQ = "migrating-from-rabbitmq.md"
API_GATEWAY = "migrating-from-api-gateway.md"
PAGES = (QUICK, MOSQUITTO, RABBITMQ, API_GATEWAY)

KINDS = {
    QUICK: {"sh start", "sh run", "sh watch", "python watch", "text", "js console", "toml bridge"},
    MOSQUITTO: {"text", "toml polycast", "sh copy"},
    RABBITMQ: {"js stompjs", "sh watch", "sh run", "text"},
    API_GATEWAY: {"python run", "sh watch", "sh run", "text"},
}


def watched() -> list[tuple[str, str]]:
    return [(page, block.section) for page in PAGES for block in pages.blocks(page) if block.kind.endswith(" watch")]


def block(page: str, kind: str) -> pages.Block:
    return next(block for block in pages.blocks(page) if block.kind == kind)


def node_with_web_socket(text: str) -> subprocess.Popen:
    """Runs JavaScript as a browser would, whose WebSocket it is given."""
    text = f'import WebSocket from "ws"; globalThis.WebSocket = WebSocket;\n{text}'
    return subprocess.Popen(
        ["node", "--input-type=module", "-e", text], cwd=node.FOLDER, stdout=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("page", PAGES)
def test_every_kind_of_block_is_known(page):
    assert {block.kind for block in pages.blocks(page)} == KINDS[page]


def test_links_lead_somewhere():
    for page in (process.ROOT / "docs").glob("*.md"):
        for link in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
            assert link.startswith("http") or (page.parent / link).exists(), (page.name, link)
    index = (process.ROOT / "docs" / "README.md").read_text()
    for page in (process.ROOT / "docs").glob("*.md"):
        assert page.name == "README.md" or f"({page.name})" in index, page.name


@pytest.mark.parametrize("page,section", watched())
def test_what_is_published_is_shown(own_broker, page, section, tmp_path):
    pages.watch([block for block in pages.blocks(page) if block.section == section], own_broker, tmp_path)


def test_the_quick_start_starts_the_broker(own_broker, tmp_path):
    assert shlex.split(block(QUICK, "sh start").text) == ["cargo", "run", "--release"]
    assert json.loads(pages.run(block(QUICK, "sh run"), own_broker, tmp_path))["status"] == "ok"


def test_the_console_of_a_browser(own_broker):
    console = node_with_web_socket(pages.adapted(block(QUICK, "js console").text, own_broker))
    try:
        assert '"type":"connected"' in console.stdout.readline()
        assert '"type":"ack"' in console.stdout.readline()
        publish = next(b for b in pages.blocks(QUICK) if b.section == "JSON over WebSocket" and b.kind == "sh run")
        pages.run(publish, own_broker, process.ROOT)
        assert '"data":"22.5"' in console.stdout.readline()
    finally:
        console.kill()
        console.wait(10)


def test_the_page_with_stompjs_takes_its_job(own_broker):
    snippet = pages.adapted(block(RABBITMQ, "js stompjs").text, own_broker)
    page = node_with_web_socket(f'import * as StompJs from "@stomp/stompjs";\n{snippet}')
    try:
        assert page.stdout.readline() == "one job\n"
        until(lambda: own_broker.metric("polycast_messages_acknowledged_total") == 1, "the job is done")
    finally:
        page.kill()
        page.wait(10)


def test_a_function_posts_to_a_connection(own_broker, tmp_path):
    shown = next(b for b in pages.blocks(API_GATEWAY) if b.kind == "text")
    assert pages.run(block(API_GATEWAY, "python run"), own_broker, tmp_path) == shown.text


def test_the_rules_are_those_of_the_access_list(start_broker, tmp_path):
    users = tmp_path / "passwords"
    for user in ("sensor", "other"):
        subprocess.run(
            [process.polycast(), "passwd", str(users), user],
            input="a long password\n", text=True, check=True, timeout=60, env=process.plain_environment(),
        )
    config = tmp_path / "polycast.toml"
    config.write_text(block(MOSQUITTO, "toml polycast").text.replace('"passwords"', f'"{users}"'))
    broker = start_broker("--config", str(config))

    def allowed(user: str, topic: str) -> bool:
        done = subprocess.run(
            [process.polycast(), "publish", f"mqtt://127.0.0.1:{broker.mqtt}", "-u", user, "-P", "a long password",
             "-q", "1", "-t", topic, "-m", "x"],
            capture_output=True, text=True, timeout=30, env=process.plain_environment(),
        )
        return done.returncode == 0

    assert allowed("sensor", "sensors/1")
    assert not allowed("other", "sensors/1")
    assert not allowed("sensor", "secret/1")
    for line in block(MOSQUITTO, "text").text.splitlines():
        assert re.match(r"(user|topic|pattern) ", line), line


def test_retained_messages_are_copied(own_broker, tmp_path):
    old = process.start_mosquitto(tmp_path)
    try:
        for topic, payload in (("a", "1"), ("b/c", "zwei ½")):
            subprocess.run(
                ["mosquitto_pub", "-p", str(old.mqtt), "-r", "-q", "1", "-t", topic, "-m", payload], check=True, timeout=20
            )
        text = block(MOSQUITTO, "sh copy")
        # Mosquitto's client says by its exit code that it was the time that ended it.
        pages.run(pages.Block(text.section, text.kind, f"set +o pipefail\n{text.text}"), own_broker, tmp_path, **{"1884": old.mqtt})
        status, said = own_broker.fetch("/api/v1/retained/b%2Fc?raw=true")
        if status == 404:
            status, said = own_broker.fetch("/api/v1/retained/b/c?raw=true")
        assert (status, said) == (200, "zwei ½")
        assert own_broker.fetch("/api/v1/retained/a?raw=true") == (200, "1")
    finally:
        old.process.terminate()
        old.process.wait(10)


@pytest.mark.parametrize("page", PAGES[1:])
def test_keys_of_the_configuration_are_there(page):
    known = (process.ROOT / "docs" / "configuration.md").read_text()
    text = (process.ROOT / "docs" / page).read_text()
    for key in re.findall(r"`((?:mqtt|stomp|http|limits|store|auth|access|tls|security|websocket|telemetry|log|api|protection)\.\w+)", text):
        assert f"`{key}`" in known or key == "access.rules", key
